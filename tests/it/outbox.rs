//! The outbox: every sink on its own, by its own rules, whatever the others do.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fullscript_events::domain::DeliveryState;
use fullscript_events::ledger::{Choice, DeliveryRow, Resend};

use crate::receiver::{Answer, Receiver};
use crate::stepped::{DAY, HOUR, MINUTE, Stepped, polling, two_clinics};
use crate::world::{Setup, id_of, lines_of};

const EVERYTHING: &str = "first_run = \"30d\"";

fn with_sinks(more: String) -> Setup {
    Setup {
        more,
        ..polling(&["patients"], EVERYTHING)
    }
}

async fn only_delivery(world: &Stepped, id: &str, sink: &str) -> DeliveryRow {
    let event = world.event(id).await.unwrap();
    let mut to_sink = event.deliveries.into_iter().filter(|d| d.sink == sink);
    let delivery = to_sink.next().unwrap();
    assert!(to_sink.next().is_none());
    delivery
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_delays_no_other_sink() {
    let hook = Receiver::start(Answer::Hang).await;
    let world = Stepped::begin(with_sinks(hook.sink("concurrency = 2"))).await;
    let oak = world.id_of("oak");
    world.vendor.make_events(20, oak, "patient.created");
    world
        .pass_until("the file shows all of them", async |query| {
            if world.shown().len() < 20 || hook.got().len() < 2 {
                return false;
            }
            let sinks = query.sinks().await.unwrap();
            let hanging = sinks.iter().find(|sink| sink.name == "hook").unwrap();
            assert_eq!(hanging.count(DeliveryState::Claimed), 2);
            assert_eq!(hanging.count(DeliveryState::Queued), 18);
            hook.answers(Answer::Status(200));
            true
        })
        .await;
    world.pass().await;
    let mut got: Vec<String> = hook.got().into_iter().map(|got| got.event).collect();
    got.sort();
    assert_eq!(got, world.made_ids());
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_delays_no_other_sink_and_its_schedule_survives_a_restart() {
    let hook = Receiver::start(Answer::Status(500)).await;
    let world = Stepped::begin(with_sinks(hook.sink(""))).await;
    let id = world.make("oak", "patient.created");
    world.pass().await;
    world.assert_all_shown_once();
    let waiting = only_delivery(&world, &id, "hook").await;
    assert_eq!(
        (waiting.state, waiting.attempts),
        (DeliveryState::Queued, 1)
    );
    assert!(waiting.due_at > world.now());
    assert!(waiting.due_at <= world.now() + Duration::from_secs(10));
    let words = world.sink("hook").await.trouble.unwrap();
    assert_eq!(words, "500 Internal Server Error");

    // Every pass is a restart: not yet due is not yet due.
    world.pass().await;
    let to_just_before = waiting.due_at - world.now() - chrono::TimeDelta::milliseconds(1);
    world.pass_after(to_just_before.to_std().unwrap()).await;
    assert_eq!(hook.got().len(), 1);
    hook.answers(Answer::Status(202));
    world.pass_after(Duration::from_millis(1)).await;
    let attempts: Vec<String> = hook.got().into_iter().map(|got| got.attempt).collect();
    assert_eq!(attempts, ["1", "2"]);
    let settled = only_delivery(&world, &id, "hook").await;
    assert_eq!(settled.state, DeliveryState::Done);
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_has_retried_is_the_same_delivery_with_a_new_patience() {
    let hook = Receiver::start(Answer::Status(500)).await;
    let sink = hook.sink("max_attempts = 2\ngive_up_after = \"2d\"");
    let world = Stepped::begin(with_sinks(sink)).await;
    let id = world.make("oak", "patient.created");
    world.pass().await;
    world.pass_after(HOUR).await;
    let dead = only_delivery(&world, &id, "hook").await;
    assert_eq!((dead.state, dead.attempts), (DeliveryState::Dead, 2));

    world.clock.advance(3 * DAY);
    let choose = async |choice| {
        let (dead, now) = (vec![dead.delivery], world.now());
        world
            .ask(async |query| query.choose(choice, dead, now).await.unwrap())
            .await
    };
    assert_eq!(choose(Choice::Retry).await, 1);
    assert_eq!(choose(Choice::Drop).await, 0, "queued: it needs nobody now");
    world.pass().await;
    let again = only_delivery(&world, &id, "hook").await;
    assert_eq!((again.state, again.attempts), (DeliveryState::Queued, 3));
    hook.answers(Answer::Status(200));
    world.pass_after(HOUR).await;
    let done = only_delivery(&world, &id, "hook").await;
    assert_eq!(done.state, DeliveryState::Done);
    assert_eq!(done.delivery, dead.delivery);
    let bodies: Vec<Bytes> = hook.got().into_iter().map(|got| got.body).collect();
    assert!(
        bodies.iter().all(|body| *body == bodies[0]),
        "the same bytes"
    );
    assert_eq!(choose(Choice::Retry).await, 0, "done is final");
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_delivery_is_sent_again_as_a_new_one_when_a_person_says_so() {
    let hook = Receiver::start(Answer::Status(500)).await;
    let world = Stepped::begin(with_sinks(hook.sink("max_attempts = 2"))).await;
    let id = world.make("oak", "patient.created");
    world.pass().await;
    for _ in 0..3 {
        world.pass_after(HOUR).await;
    }
    let dead = only_delivery(&world, &id, "hook").await;
    assert_eq!((dead.state, dead.attempts), (DeliveryState::Dead, 2));
    assert_eq!(
        dead.reason.unwrap(),
        "500 Internal Server Error; refused 2 times"
    );
    assert_eq!(hook.got().len(), 2);

    hook.answers(Answer::Status(200));
    let resend = async |sink: &str| {
        let (id, sink, now) = (id.clone(), sink.to_owned(), world.now());
        world
            .ask(async |query| query.resend(id, sink, now).await.unwrap())
            .await
    };
    assert!(matches!(resend("hook").await, Resend::Issued(_)));
    assert!(
        matches!(resend("hook").await, Resend::Open(_)),
        "it is on its way already"
    );
    assert_eq!(resend("nobody").await, Resend::NoSuchSink);
    world.pass().await;
    let deliveries = world.event(&id).await.unwrap().deliveries;
    let to_hook = deliveries.iter().filter(|d| d.sink == "hook");
    let states: Vec<_> = to_hook.map(|d| (d.ordinal, d.state, d.attempts)).collect();
    assert_eq!(
        states,
        [(1, DeliveryState::Skipped, 2), (2, DeliveryState::Done, 1)]
    );
    let got = hook.got();
    assert_eq!(got[2].attempt, "1");
    assert_eq!(got[2].body, got[0].body);
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn doubt_is_held_for_a_program_and_sent_again_byte_for_byte_to_a_webhook() {
    let hook = Receiver::start(Answer::Status(504)).await;
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("runs");
    let script = format!("echo run >> {}; kill -9 $$", runs.display());
    let sinks = hook.sink("timeout = \"1s\"")
        + &format!(
            "[[sinks]]\nname = \"program\"\nkind = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n"
        );
    let world = Stepped::begin(with_sinks(sinks)).await;
    let id = world.make("oak", "patient.created");
    world.pass().await;
    // No answer in time is a doubt too.
    hook.answers(Answer::Hang);
    world.pass_after(MINUTE).await;
    hook.answers(Answer::Status(200));
    world.pass_after(HOUR).await;
    world.pass_after(DAY).await;
    let got = hook.got();
    let attempts: Vec<&str> = got.iter().map(|got| got.attempt.as_str()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert!(
        got.iter()
            .all(|each| each.body == got[0].body && each.event == id)
    );
    let reply = world.vendor.reply_for(&id).unwrap();
    assert_eq!(got[0].body, reply.as_bytes());

    let held = only_delivery(&world, &id, "program").await;
    assert_eq!((held.state, held.attempts), (DeliveryState::Held, 1));
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_is_delivered_in_the_order_of_happening() {
    let setup = two_clinics(polling(&["patients", "orders"], EVERYTHING));
    let world = Stepped::begin(setup).await;
    for _ in 0..3 {
        for clinic in &world.clinics {
            let id = &clinic.clinic_id;
            world.vendor.make_events(70, id, "patient.created");
            world.vendor.make_events(5, id, "order.placed");
        }
        world.clock.advance(Duration::from_secs(1));
    }
    // All of them wait: a directory is in the way of the sink.
    std::fs::create_dir(world.log_path()).unwrap();
    world.pass().await;
    assert_eq!(world.sink("log").await.count(DeliveryState::Queued), 450);
    std::fs::remove_dir(world.log_path()).unwrap();
    world.pass().await;
    let shown: Vec<(String, String)> = world
        .shown()
        .iter()
        .map(|line| (line["created_at"].as_str().unwrap().to_owned(), id_of(line)))
        .collect();
    assert_eq!(shown.len(), 450);
    assert!(shown.is_sorted());
}

fn shrink(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(0).unwrap();
}

fn replace(path: &Path) {
    let beside = path.with_extension("old");
    std::fs::rename(path, beside).unwrap();
    std::fs::write(path, "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_changed_stops_its_sink_only_until_it_is_accepted() {
    for (change, words) in [
        (shrink as fn(&Path), "is 0 bytes long, expected at least"),
        (replace, "was replaced by another file"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy.jsonl");
        let sink = format!("[[sinks]]\nname = \"copy\"\nkind = \"file\"\npath = {copy:?}\n");
        let world = Stepped::begin(with_sinks(sink)).await;
        world.make("oak", "patient.created");
        world.pass().await;
        change(&world.log_path());
        world.clock.advance(MINUTE);
        let next = world.make("oak", "patient.updated");
        world.pass().await;
        assert_eq!(lines_of(&copy).len(), 2);
        assert!(world.shown().is_empty());
        let stopped = world.sink("log").await.stopped.unwrap();
        assert!(stopped.contains(words), "{stopped}");
        assert!(stopped.contains("sinks accept log"), "{stopped}");
        assert_eq!(world.sink("copy").await.stopped, None);

        // Looking at it again and again changes nothing.
        world.pass_after(DAY).await;
        assert!(world.shown().is_empty());
        let accepted = world
            .ask(async |query| query.accept_sink("log".to_owned()).await.unwrap())
            .await;
        assert!(accepted);
        world.pass().await;
        assert_eq!(world.shown_ids(), [next]);
        assert_eq!(world.sink("log").await.stopped, None);
        assert_eq!(lines_of(&copy).len(), 2);
    }
}
