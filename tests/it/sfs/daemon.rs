//! The real binary, from the vendor to the EMR.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use chrono::Utc;
use fullscript_events::app;
use fullscript_events::clock::SystemClock;
use fullscript_events::domain::{DeliveryId, DeliveryState, Parked};
use fullscript_events::http;
use fullscript_events::ledger::{Ledger, SinkRow};
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;
use fullscript_events::simulator::Options;
use serde_json::Value;
use tokio::task::JoinSet;

use super::emr::{Answer, Emr};
use crate::binary::{LIMIT, Running};
use crate::world::{Setup, World, assert_same_ids, check_invariants, own, write_secret};

const KEYS: [(&str, &str); 2] = [("oak", "canary-key-of-oak"), ("elm", "canary-key-of-elm")];

/// A world with a sink `sfs` that posts to this EMR: further keys of the sink, and of its `sfs`.
async fn world(emr: &Emr, clinics: &[&str], sink: &str, sfs: &str) -> World {
    let world = world_before_login(emr, clinics, sink, sfs).await;
    world.log_in().await;
    world
}

async fn world_before_login(emr: &Emr, clinics: &[&str], sink: &str, sfs: &str) -> World {
    let setup = Setup {
        clinics: clinics.iter().map(|&name| name.to_owned()).collect(),
        file_sink: false,
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup.clone()).await;
    let at = world.directory.path();
    let keys = KEYS.iter().filter(|(clinic, _)| clinics.contains(clinic));
    let keys = keys.map(|(clinic, key)| {
        write_secret(&at.join(clinic), key);
        format!("{clinic} = {{ file = {:?} }}", at.join(clinic))
    });
    let keys = keys.collect::<Vec<_>>().join(", ");
    let url = &emr.url;
    let more = format!(
        "[[sinks]]\nname = \"sfs\"\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = {url:?}\nsignature = \"none\"\n\
         format = \"sfs\"\n{sink}\n[sinks.sfs]\nclinic_keys = {{ {keys} }}\n{sfs}\n"
    );
    world.write_config(&Setup { more, ..setup });
    world
}

/// Puts the EMR's own id into each plan on its way from the vendor.
async fn log_in_with_visits(world: &World, server: &mut JoinSet<()>) {
    let client = http::builder(&fullscript_events::config::Http::default(), LIMIT);
    let base = world.vendor.base_url();
    let (root, _) = base.split_once("/api").unwrap();
    let state = (client.unwrap().build().unwrap(), root.to_owned());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tap = format!("http://{}/api", listener.local_addr().unwrap());
    let app = Router::new().fallback(forward).with_state(state);
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let config = std::fs::read_to_string(world.config_path()).unwrap();
    std::fs::write(world.config_path(), config.replace(&base, &tap)).unwrap();
    world.log_in().await;
}

async fn forward(
    State((client, root)): State<(reqwest::Client, String)>,
    request: Request,
) -> impl IntoResponse {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut headers = parts.headers;
    headers.remove("host");
    let sent = client.request(parts.method, format!("{root}{}", parts.uri));
    let answer = sent.headers(headers).body(body).send().await.unwrap();
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
    let text = answer.text().await.unwrap();
    let plan = "\"treatment_plan\":{";
    let text = text.replace(plan, &format!("{plan}\"metadata\":{{\"id\":\"visit-1\"}},"));
    (status, text)
}

async fn sink(world: &World) -> SinkRow {
    let (_owner, query) = world.query();
    query.sinks().await.unwrap().remove(0)
}

fn said(world: &World, args: &[&str]) -> String {
    let output = world.run(args);
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

/// One cycle at the most talkative level; what it said.
fn cycle(world: &World) -> String {
    said(world, &["--log-level", "trace", "run", "--once"])
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

fn assert_no_canary(text: &str) {
    for canary in ["canary-key", "Ada Canary", "Inventory item"] {
        assert!(!text.contains(canary), "{canary}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_the_one_that_is_refused_is_dead_with_the_emrs_words_and_the_rest_is_there() {
    let emr = Emr::start().await;
    let world = world(&emr, &["oak"], "max_attempts = 1", "batch = 50").await;
    // So that there is a sink to be paused.
    cycle(&world);
    let oak = &world.clinic("oak").clinic_id;
    let mut ids = world.vendor.make_events(50, oak, "patient.created");
    // They tie on the second: the id says which was first.
    ids.sort();
    said(&world, &["sinks", "pause", "sfs"]);
    let waiting = world.run(&["--log-level", "trace", "run", "--once"]);
    assert_eq!(waiting.status.code(), Some(3), "they wait");
    let mut log = String::from_utf8(waiting.stderr).unwrap();
    assert_eq!(emr.posts().len(), 0);
    said(&world, &["sinks", "resume", "sfs"]);
    let bad = ids.remove(17);
    emr.inside.lock().unwrap().unknown.insert(bad.clone());
    log += &cycle(&world);

    assert_eq!(emr.posts()[0].items().len(), 50);
    assert_eq!(emr.filed(), ids, "each once and in order");
    let sink = sink(&world).await;
    let counts = [DeliveryState::Done, DeliveryState::Dead].map(|state| sink.count(state));
    assert_eq!(counts, [49, 1]);
    let listed = world.run(&["deliveries", "list", "--state", "dead", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let number = listed["deliveries"][0]["delivery"].to_string();
    let shown = said(&world, &["deliveries", "show", &number]);
    let words = format!("Inventory item not found: {bad} of Ada Canary");
    assert!(shown.contains(&words), "{shown}");
    assert!(shown.contains("400 Bad Request"), "{shown}");
    assert_no_canary(&log);
    // Nor on disk.
    for file in std::fs::read_dir(world.state_path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
        assert_no_canary(&String::from_utf8_lossy(&bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_post_and_its_record_the_next_start_says_changed() {
    let emr = Emr::start().await;
    let sink_keys = "timeout = \"10m\"\nmatch = [\"treatment_plan.*\"]";
    let world = world_before_login(
        &emr,
        &["oak"],
        sink_keys,
        "mode = \"treatments\"\nbatch = 9",
    )
    .await;
    let mut server = JoinSet::new();
    log_in_with_visits(&world, &mut server).await;
    let oak = &world.clinic("oak").clinic_id;
    let event = world
        .vendor
        .make_event(oak, "treatment_plan.created")
        .unwrap();
    emr.answers([Answer::WorksAndHangs]);
    let daemon = world.daemon();
    tokio::time::timeout(LIMIT, emr.worked.notified())
        .await
        .unwrap();
    daemon.kill();
    let first = emr.orders();
    assert!(!first.is_empty());

    let mut daemon: Running = world.daemon();
    daemon.wait_for("delivered");
    assert_no_canary(&daemon.stop_and_listen());
    assert_eq!(emr.orders(), first, "of {event} nothing was entered twice");
    let said = emr
        .posts()
        .iter()
        .map(|post| {
            let said = post
                .items()
                .iter()
                .map(|item| item["status"].clone())
                .collect::<Vec<_>>();
            assert!(said.windows(2).all(|pair| pair[0] == pair[1]));
            said[0].as_str().unwrap().to_owned()
        })
        .collect::<Vec<_>>();
    assert_eq!(said, ["added", "changed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clinic_whose_key_is_refused_waits_alone() {
    let emr = Emr::start().await;
    let world = world(&emr, &["oak", "elm"], "", "batch = 5").await;
    let [oak, elm] = ["oak", "elm"].map(|name| world.clinic(name).clinic_id.clone());
    emr.inside
        .lock()
        .unwrap()
        .strangers
        .insert(KEYS[0].1.to_owned());
    let of_oak = world.vendor.make_events(12, &oak, "patient.created");
    let of_elm = world.vendor.make_events(12, &elm, "patient.created");
    let log = cycle(&world);
    assert_no_canary(&log);
    assert_same_ids(&sorted(emr.filed()), &sorted(of_elm.clone()));
    let row = sink(&world).await;
    assert_eq!(row.count(DeliveryState::Done), 12);
    assert_eq!(row.parked(Parked::ClinicPaused), 12);
    let paused: Vec<_> = row
        .paused_clinics
        .iter()
        .map(|of| (of.clinic.as_str(), of.why.as_str()))
        .collect();
    assert_eq!(paused, [("oak", "401 Unauthorized")]);
    let refused = emr
        .posts()
        .iter()
        .filter(|post| post.key == KEYS[0].1)
        .count();
    assert_eq!(refused, 1, "not asked again and again");

    emr.inside.lock().unwrap().strangers.clear();
    {
        let (_owner, query) = world.query();
        let resumed = query.resume_clinic("sfs".to_owned(), Some("oak".to_owned()));
        assert_eq!(resumed.await.unwrap(), Some(12));
    }
    cycle(&world);
    assert_same_ids(&sorted(emr.filed()), &sorted([of_elm, of_oak].concat()));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_deliver_each_event_once_however_bodies_are_kept_and_lines_are_formed() {
    for (sink_keys, never) in [("", false), ("", true), ("order_by = \"patient\"", false)] {
        let emr = Emr::start().await;
        let world = world(&emr, &["oak", "elm"], sink_keys, "batch = 7").await;
        if never {
            let config = std::fs::read_to_string(world.config_path()).unwrap();
            let config = config.replace("[state]\n", "[state]\nbodies = \"never\"\n");
            std::fs::write(world.config_path(), config).unwrap();
        }
        for _ in 0..40 {
            world.vendor.make_any_event().unwrap();
        }
        // One answer of no for a whole post, and one that asks to come later, in between.
        emr.answers([Answer::Works, Answer::Says(429, &[("retry-after", "1")])]);
        let mut daemon = world.daemon();
        let made = world.made_ids();
        let all = || emr.filed().len() >= made.len();
        daemon.let_run_until(LIMIT, all);
        assert_no_canary(&daemon.stop_and_listen());
        assert_same_ids(&sorted(emr.filed()), &made);
        for post in emr.posts() {
            let ids: Vec<_> = post
                .items()
                .iter()
                .map(|item| {
                    let time = item["time"].as_str().unwrap().to_owned();
                    (time, item["eventId"].as_str().unwrap().to_owned())
                })
                .collect();
            assert!(ids.is_sorted() && ids.len() <= 7, "{ids:?}");
        }
    }
}

/// Three plans and a patient, in a cycle of this process; the EMR may call back before it answers.
async fn awaiting(emr: &Emr, is_early: bool) -> World {
    let sfs = "mode = \"treatments\"\nbatch = 9\nlate_results = \"7d\"";
    let sink_keys = "match = [\"treatment_plan.*\", \"patient.*\"]";
    let world = world_before_login(emr, &["oak"], sink_keys, sfs).await;
    let mut server = JoinSet::new();
    log_in_with_visits(&world, &mut server).await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(3, oak, "treatment_plan.created");
    world.vendor.make_event(oak, "patient.created").unwrap();
    // So that the treatments of one event are in several posts.
    emr.inside.lock().unwrap().most = Some(1);
    let config = world.config();
    let owner = own(&config);
    let clock = Arc::new(SystemClock::start());
    let pipeline = app::open(&config, &owner, clock).await.unwrap();
    let lanes = pipeline.lanes.iter().copied().collect();
    pipeline.ledger.make_due(lanes).await.unwrap();
    if is_early {
        emr.inside.lock().unwrap().results = Some(pipeline.ledger.clone());
    }
    let life = Lifecycle::begin();
    let running = Arc::clone(&pipeline).run_until_drained(&life, Scope::Everything);
    running.await;
    pipeline.tokens.drain().await;
    emr.inside.lock().unwrap().results = None;
    world
}

/// What each delivery's last posts carried: guid and batch.
async fn carried(ledger: &Ledger, emr: &Emr) -> BTreeMap<DeliveryId, Vec<(String, String)>> {
    let mut carried: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for post in emr.posts() {
        let id = post.object["id"].as_str().unwrap().to_owned();
        // The whole, which was refused, is forgotten.
        let Some(batch) = ledger.batch(id.clone()).await.unwrap() else {
            continue;
        };
        assert_eq!(batch.clinic.as_str(), "oak");
        for item in batch.items {
            let of = carried.entry(item.delivery).or_default();
            of.push((id.clone(), item.guid));
        }
    }
    carried
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_ends_the_delivery_that_it_is_about_and_no_other() {
    let emr = Emr::start().await;
    let world = awaiting(&emr, false).await;
    let row = sink(&world).await;
    let counts = (
        row.parked(Parked::AwaitsResult),
        row.count(DeliveryState::Skipped),
    );
    assert_eq!(counts, (3, 1));
    let refused = {
        let owner = own(&world.config());
        let ledger = Ledger::new(owner.store().clone(), owner.epoch());
        let carried = carried(&ledger, &emr).await;
        assert_eq!(carried.len(), 3);
        let split = |of: &Vec<(String, String)>| of.iter().any(|(batch, _)| *batch != of[0].0);
        assert!(carried.values().any(split), "{carried:?}");
        let refused = *carried.keys().next().unwrap();
        let now = Utc::now();
        for (delivery, things) in carried {
            let last = things.len() - 1;
            for (at, (batch, guid)) in things.into_iter().enumerate() {
                // One of the others is enough to be refused, and none of them to be done.
                let ended = if delivery == refused && at == last {
                    let words = "Inventory item not found, of Ada Canary".to_owned();
                    ledger.reject(batch, guid, words, now).await.unwrap()
                } else {
                    ledger.confirm(batch, vec![guid], now).await.unwrap()
                };
                assert_eq!(ended, usize::from(at == last));
            }
        }
        refused
    };
    let row = sink(&world).await;
    let states = [
        DeliveryState::Done,
        DeliveryState::Dead,
        DeliveryState::Parked,
    ];
    assert_eq!(states.map(|state| row.count(state)), [2, 1, 0]);
    let shown = said(&world, &["deliveries", "show", &refused.to_string()]);
    assert!(
        shown.contains("Inventory item not found, of Ada Canary"),
        "{shown}"
    );
    check_invariants(&world.ledger_path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_here_before_the_record_of_its_post_is_heard() {
    let emr = Emr::start().await;
    let world = awaiting(&emr, true).await;
    let row = sink(&world).await;
    assert_eq!(
        row.count(DeliveryState::Parked),
        0,
        "nothing is waited for in vain"
    );
    let states = [DeliveryState::Done, DeliveryState::Dead];
    assert_eq!(
        states.map(|state| row.count(state)),
        [2, 1],
        "{:?}",
        row.counts
    );
    check_invariants(&world.ledger_path());
}
