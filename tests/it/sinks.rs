//! What a person can do with a sink, by the real binary.

use std::process::Output;

use fullscript_events::simulator::Options;
use serde_json::Value;

use crate::receiver::{Answer, Receiver};
use crate::world::{Setup, World};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn setup(sinks: String) -> Setup {
    Setup {
        more: sinks,
        ..Setup::default()
    }
}

async fn world(hook: &Receiver) -> World {
    let world = World::begin(Options::default(), setup(hook.sink(""))).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(3, oak, "patient.created");
    world
}

fn queued(world: &World, sink: &str) -> Value {
    let list = world.run(&["sinks", "list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let sinks = list["sinks"].as_array().unwrap().clone();
    let found = sinks.into_iter().find(|row| row["name"] == sink).unwrap();
    found["deliveries"]["queued"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_paused_and_resumed_and_by_a_new_name_takes_its_backlog_along() {
    let hook = Receiver::start(Answer::Status(200)).await;
    let world = world(&hook).await;
    world.run(&["run", "--once"]);
    assert_eq!(hook.got().len(), 3);
    let pause = world.run(&["sinks", "pause", "hook"]);
    assert_eq!(
        out(&pause).lines().next().unwrap(),
        "hook is paused; what is in flight ends, 0 deliveries and all that come wait."
    );
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(2, oak, "patient.created");
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(3));
    assert_eq!(hook.got().len(), 3);
    let status = out(&world.run(&["status"]));
    assert!(
        status.contains("Paused (by a person): its events wait."),
        "{status}"
    );
    assert!(status.contains("sinks resume hook"), "{status}");

    let renamed = hook.sink("").replace("\"hook\"", "\"chart\"");
    world.write_config(&setup(renamed));
    let refused = world.run(&["run", "--once"]);
    assert_eq!(refused.status.code(), Some(78));
    let words = err(&refused);
    assert!(
        words.contains("2 deliveries wait for a sink \"hook\""),
        "{words}"
    );
    assert!(words.contains("sinks reassign hook NEW-NAME"), "{words}");
    assert!(words.contains("sinks forget hook --yes"), "{words}");
    assert_eq!(hook.got().len(), 3, "nothing was done");

    let nobody = world.run(&["sinks", "reassign", "hook", "nobody"]);
    assert_eq!(nobody.status.code(), Some(4), "{}", err(&nobody));
    let reassign = world.run(&["sinks", "reassign", "hook", "chart"]);
    assert_eq!(
        out(&reassign).lines().next().unwrap(),
        "chart is what hook was, with its memory; 2 deliveries to go."
    );
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(0));
    assert_eq!(hook.got().len(), 5);
    // Its memory came along: a backfill finds nothing that it never had.
    world.run(&["backfill", "--since", "30d", "--sink", "chart"]);
    assert_eq!(hook.got().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_goes_to_another_sink_without_what_that_has_had() {
    let hook = Receiver::start(Answer::Status(200)).await;
    let other = Receiver::start(Answer::Status(200)).await;
    let second = other.sink("").replace("\"hook\"", "\"chart\"");
    let world = World::begin(Options::default(), setup(hook.sink("") + &second)).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(2, oak, "patient.created");
    hook.answers(Answer::Status(410));
    world.run(&["run", "--once"]);
    assert_eq!(other.got().len(), 2);
    assert_eq!(queued(&world, "hook"), 2);
    let only = world.run(&["sinks", "pause", "chart"]);
    assert!(only.status.success());
    world.vendor.make_events(1, oak, "patient.updated");
    world.run(&["run", "--once"]);

    world.write_config(&setup(second));
    let reassign = world.run(&["sinks", "reassign", "hook", "chart"]);
    assert_eq!(
        out(&reassign).lines().next().unwrap(),
        "0 deliveries of hook to chart now; 3 deliveries skipped, as chart has had the event already."
    );
    world.run(&["sinks", "resume", "chart"]);
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(0));
    assert_eq!(other.got().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_removed_sink_is_given_up_when_a_person_says_so() {
    let hook = Receiver::start(Answer::Status(410)).await;
    let world = world(&hook).await;
    world.run(&["run", "--once"]);
    let configured = world.run(&["sinks", "forget", "hook", "--yes"]);
    assert_eq!(configured.status.code(), Some(2), "{}", err(&configured));
    world.write_config(&setup(String::new()));
    let counted = world.run(&["sinks", "forget", "hook"]);
    assert_eq!(
        out(&counted),
        "3 deliveries would be given up; nothing was changed. To do it: the same with --yes\n"
    );
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(78));
    let forget = world.run(&["sinks", "forget", "hook", "--yes"]);
    assert_eq!(out(&forget), "3 deliveries of hook given up.\n");
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(0));
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_event_is_answered_and_remembered_by_nobody() {
    let hook = Receiver::start(Answer::Status(200)).await;
    let world = World::begin(Options::default(), setup(hook.sink(""))).await;
    let test = world.run(&["sinks", "test", "hook"]);
    assert!(test.status.success(), "{}", err(&test));
    let got = hook.got();
    let body: Value = serde_json::from_slice(&got[0].body).unwrap();
    assert_eq!(body["event"]["type"], "fullscript_events.test");
    assert_eq!(
        out(&test),
        format!("hook took the test event {}.\n", got[0].event)
    );
    hook.answers(Answer::Status(403));
    let test = world.run(&["sinks", "test", "hook"]);
    assert_eq!(test.status.code(), Some(69));
    assert!(
        err(&test).ends_with("refused (403 Forbidden)\n"),
        "{}",
        err(&test)
    );
    assert_eq!(world.run(&["sinks", "test", "log"]).status.code(), Some(2));
    assert!(!world.state_path().exists(), "the ledger was not asked");
}
