//! A receiver that does not work as a whole, or says that it is none any more: nothing is lost, nobody else notices, and
//! it is asked rarely.

use std::time::Duration;

use fullscript_events::domain::DeliveryState;
use fullscript_events::ledger::Mode;

use crate::receiver::{Answer, Receiver};
use crate::stepped::{DAY, HOUR, MINUTE, Stepped, polling};
use crate::world::Setup;

fn begin(sink: String) -> impl Future<Output = Stepped> {
    Stepped::begin(Setup {
        more: sink,
        ..polling(&["patients"], "first_run = \"30d\"")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_week_without_a_receiver_loses_nothing_and_asks_it_rarely() {
    let hook = Receiver::start(Answer::Status(503)).await;
    let world = begin(hook.sink("concurrency = 1")).await;
    let mut made = Vec::new();
    for _ in 0..7 * 12 {
        made.push(world.make("oak", "patient.created"));
        made.push(world.make("oak", "patient.updated"));
        world.pass_after(2 * HOUR).await;
        assert_eq!(world.shown().len(), made.len(), "no other sink waits");
    }
    let asked = hook.got().len();
    assert!((7 * 12..7 * 12 + 10).contains(&asked), "{asked} attempts");
    let sink = world.sink("hook").await;
    assert_eq!(sink.count(DeliveryState::Queued), made.len() as u64);
    assert!(sink.outage.unwrap().since < world.now() - 6 * DAY);

    hook.answers(Answer::Status(200));
    world.pass_after(15 * MINUTE).await;
    world.pass().await;
    let got: Vec<String> = hook.got()[asked..]
        .iter()
        .map(|got| got.event.clone())
        .collect();
    assert_eq!(got.len(), made.len());
    // The first is the probe; the others come in the order of happening.
    let happened = |id: &String| made.iter().position(|each| each == id).unwrap() / 2;
    assert!(got[1..].is_sorted_by_key(happened), "{got:?}");
    let sink = world.sink("hook").await;
    assert_eq!(sink.count(DeliveryState::Done), made.len() as u64);
    assert_eq!(sink.outage, None);
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_is_refused_for_ever_is_given_up_and_the_others_arrive() {
    let hook = Receiver::start(Answer::Status(200)).await;
    let world = begin(hook.sink("max_attempts = 7")).await;
    let poison = world.make("oak", "patient.created");
    hook.refuses(&poison);
    world.pass().await;
    for _ in 0..7 {
        world.make("oak", "patient.updated");
        world.pass_after(HOUR).await;
    }
    let sink = world.sink("hook").await;
    assert_eq!(sink.outage, None);
    assert_eq!(
        (
            sink.count(DeliveryState::Done),
            sink.count(DeliveryState::Dead)
        ),
        (7, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_left_alone_until_a_person_resumes_it() {
    let hook = Receiver::start(Answer::Status(410)).await;
    let world = begin(hook.sink("concurrency = 1")).await;
    for _ in 0..3 {
        world.make("oak", "patient.created");
        world.pass_after(DAY).await;
    }
    assert_eq!(hook.got().len(), 1);
    let sink = world.sink("hook").await;
    assert_eq!(
        (sink.mode, sink.mode_why.as_deref()),
        (Mode::Paused, Some("410 Gone"))
    );
    assert_eq!(sink.count(DeliveryState::Queued), 3);
    world.assert_all_shown_once();

    hook.answers(Answer::Status(200));
    let resumed = world
        .ask(async |query| {
            let name = "hook".to_owned();
            query
                .set_sink_mode(name, Mode::Open, None, world.now())
                .await
                .unwrap()
        })
        .await;
    assert!(resumed);
    world.pass().await;
    assert_eq!(world.sink("hook").await.count(DeliveryState::Done), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_sink_gets_nothing_new_and_a_backfill_brings_it_later() {
    let hook = Receiver::start(Answer::Status(500)).await;
    let world = begin(hook.sink("")).await;
    let before = world.make("oak", "patient.created");
    world.pass().await;
    let set = async |mode| {
        world
            .ask(async |query| {
                let name = "hook".to_owned();
                query
                    .set_sink_mode(name, mode, None, world.now())
                    .await
                    .unwrap()
            })
            .await;
    };
    set(Mode::Draining).await;
    world.make("oak", "patient.updated");
    hook.answers(Answer::Status(200));
    world.pass_after(HOUR).await;
    let got: Vec<String> = hook.got().into_iter().map(|got| got.event).collect();
    assert_eq!(got, [before.clone(), before]);
    world.assert_all_shown_once();
    set(Mode::Open).await;
    let after = world.make("oak", "patient.updated");
    world.pass_after(Duration::from_mins(2)).await;
    assert_eq!(hook.got().last().unwrap().event, after);
    assert_eq!(hook.got().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_exact_sink_refuses_says_nothing_of_the_sink() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clinic.sqlite3");
    let c = rusqlite::Connection::open(&path).unwrap();
    let table = "CREATE TABLE event (id TEXT PRIMARY KEY CHECK (id = 'another'))";
    c.execute_batch(table).unwrap();
    let sink = format!(
        "[[sinks]]\nname = \"book\"\nkind = \"sqlite\"\npath = {path:?}\nmax_attempts = 1\n\
         statement = \"INSERT INTO event (id) VALUES (:id)\"\n"
    );
    let world = begin(sink).await;
    let oak = world.id_of("oak");
    world.vendor.make_events(9, oak, "patient.created");
    world.pass().await;
    let sink = world.sink("book").await;
    assert_eq!(sink.outage, None);
    assert_eq!(sink.count(DeliveryState::Dead), 9);
}
