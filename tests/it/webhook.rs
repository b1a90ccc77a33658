//! What a webhook's receiver is asked beside the events, from outside and through a crash.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use fullscript_events::domain::DeliveryState;
use fullscript_events::simulator::Options;
use tokio::task::JoinSet;

use crate::binary::was_killed;
use crate::world::{Setup, World};

/// How often each event was posted, and how often it was asked for.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<BTreeMap<String, (usize, usize)>>>);

async fn take(State(receiver): State<Receiver>, headers: HeaderMap) {
    let id = headers["x-event-id"].to_str().unwrap().to_owned();
    receiver.0.lock().unwrap().entry(id).or_default().0 += 1;
}

async fn seen(State(receiver): State<Receiver>, Path(id): Path<String>) -> StatusCode {
    let mut events = receiver.0.lock().unwrap();
    let (posted, asked) = events.entry(id).or_default();
    *asked += 1;
    if *posted > 0 {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_in_flight_is_settled_by_the_receivers_word_and_posted_once() {
    // Before the request and after it.
    for point in ["deliver.after_claim", "deliver.before_settle"] {
        let receiver = Receiver::default();
        let app = Router::new()
            .route("/hook", post(take))
            .route("/seen/{id}", get(seen))
            .with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        let setup = Setup {
            file_sink: false,
            more: format!(
                "[[sinks]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{url}/hook\"\nsignature = \"none\"\n\
                 on_doubt = \"hold\"\nprobe_url = \"{url}/seen/{{id}}\"\n"
            ),
            ..Setup::default()
        };
        let world = World::begin(Options::default(), setup).await;
        world.log_in().await;
        let oak = &world.clinic("oak").clinic_id;
        world.vendor.make_events(3, oak, "patient.created");
        let died = world.run_dying_at(point, &["run", "--once"]);
        assert!(was_killed(died.status), "{point}");

        let again = world.run(&["run", "--once"]);
        let said = String::from_utf8_lossy(&again.stderr);
        assert!(again.status.success(), "{said}");
        assert!(said.contains("in_doubt=0"), "{said}");
        let events = receiver.0.lock().unwrap().clone();
        let ids: Vec<String> = events.keys().cloned().collect();
        assert_eq!(ids, world.made_ids(), "{point}");
        assert!(
            events.values().all(|(posted, _)| *posted == 1),
            "{events:?}"
        );
        assert!(events.values().any(|(_, asked)| *asked > 0), "{events:?}");
        let (_owner, query) = world.query();
        let sinks = query.sinks().await.unwrap();
        assert_eq!(sinks[0].count(DeliveryState::Done), 3, "{point}");
    }
}
