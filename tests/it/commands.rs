//! The commands that people ask with, on the real binary: they read beside a daemon and ask Fullscript nothing.

use std::process::Output;

use fullscript_events::simulator::Options;
use serde_json::Value;

use crate::world::{Setup, World};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A world with this many events delivered to its file.
async fn delivered(events: usize) -> World {
    let world = World::begin(Options::default(), Setup::default()).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(events, oak, "patient.created");
    world.cycle().await;
    assert_eq!(world.shown().len(), events);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn status_without_a_ledger_exits_74_and_names_the_next_command() {
    let world = World::begin(Options::default(), Setup::default()).await;
    let status = world.run(&["status"]);
    assert_eq!(status.status.code(), Some(74));
    assert!(
        err(&status).contains("fullscript-events run"),
        "{}",
        err(&status)
    );
    let check = world.run(&["status", "--check"]);
    assert_eq!(check.status.code(), Some(3));
    assert!(out(&check).starts_with("UNKNOWN - "), "{}", out(&check));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cycle_beside_its_owner_all_is_well_and_nobody_was_asked() {
    let world = delivered(3).await;
    let before = world.vendor.counters().requests;
    let (_owner, _) = world.query();
    let status = world.run(&["status"]);
    assert_eq!(
        out(&status).lines().next(),
        Some("All is well: 1 clinic polled within 1 min, nothing waiting.")
    );
    assert_eq!(status.status.code(), Some(0));
    let check = world.run(&["status", "--check"]);
    assert!(
        out(&check).starts_with("OK - 1 clinic polled within 1 min"),
        "{}",
        out(&check)
    );
    assert_eq!(check.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&world.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&json["schema"], &json["ok"]), (&1.into(), &true.into()));
    assert_eq!(world.vendor.counters().requests, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_run_is_critical() {
    let world = delivered(1).await;
    assert_eq!(world.run(&["status"]).status.code(), Some(3));
    let check = world.run(&["status", "--check"]);
    assert!(out(&check).starts_with("CRITICAL - "), "{}", out(&check));
    assert_eq!(check.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_listed_shown_without_its_body_and_sent_again() {
    let world = delivered(2).await;
    let id = world.made_ids().remove(0);
    let list = world.run(&[
        "events",
        "list",
        "--json",
        "--type",
        "patient.*",
        "--sink",
        "log",
    ]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list["events"].as_array().unwrap().len(), 2);
    let none = world.run(&["events", "list", "--state", "dead"]);
    assert_eq!(out(&none), "No event fits.\n");

    let show = world.run(&["events", "show", &id]);
    assert!(
        out(&show).contains("to log: done, 1 attempt"),
        "{}",
        out(&show)
    );
    assert!(!out(&show).contains("data"), "{}", out(&show));
    assert_eq!(
        world.run(&["events", "show", "nothing"]).status.code(),
        Some(4)
    );

    let resend = world.run(&["events", "resend", &id, "--sink", "log"]);
    assert!(resend.status.success(), "{}", err(&resend));
    let again = world.run(&["events", "resend", &id, "--sink", "log"]);
    assert_eq!(again.status.code(), Some(3), "{}", err(&again));
    let nowhere = world.run(&["events", "resend", &id, "--sink", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(4), "{}", err(&nowhere));

    world.cycle().await;
    let lines: Vec<Value> = world
        .shown()
        .into_iter()
        .filter(|line| line["id"] == id.as_str())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_ne!(lines[0]["delivery"], lines[1]["delivery"]);
    assert_eq!(world.shown().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_person_is_listed_and_settled_as_the_person_says() {
    let setup = |command: &str| Setup {
        more: format!(
            "[[sinks]]\nname = \"program\"\nkind = \"exec\"\nclinics = [\"*\"]\n\
             command = [{command:?}]\nmax_attempts = 1\n"
        ),
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup("/bin/false")).await;
    world.log_in().await;
    let nothing = world.run(&["deliveries", "list"]);
    assert_eq!(
        out(&nothing),
        "Nothing is held or dead: no delivery needs you.\n"
    );
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(3, oak, "patient.created");
    world.cycle().await;
    let list = || {
        let list = world.run(&["deliveries", "list", "--json", "--sink", "program"]);
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        list["deliveries"].as_array().unwrap().clone()
    };
    let dead = list();
    assert_eq!(dead.len(), 3);
    let number = |place: usize| dead[place]["delivery"].to_string();
    let shown = world.run(&["deliveries", "show", &number(0)]);
    let retry = format!("deliveries retry {}", number(0));
    assert!(out(&shown).contains(&retry), "{}", out(&shown));
    assert!(!out(&shown).contains("data"), "{}", out(&shown));

    // Nothing is settled by a mistake.
    let code = |args: &[&str]| world.run(&[&["deliveries"], args].concat()).status.code();
    assert_eq!(code(&["done"]), Some(2));
    assert_eq!(code(&["done", "999999"]), Some(4));
    assert_eq!(code(&["done", &number(0), "999999"]), Some(4));
    assert_eq!(code(&["done", "--sink", "progam", "--yes"]), Some(4));
    assert_eq!(code(&["done", "--state", "done", "--yes"]), Some(2));
    let counted = world.run(&["deliveries", "done", "--sink", "program"]);
    assert!(
        out(&counted).starts_with("3 deliveries: would be done now; nothing was changed."),
        "{}",
        out(&counted)
    );
    assert_eq!(list(), dead);

    assert_eq!(code(&["done", &number(0)]), Some(0));
    assert_eq!(code(&["drop", &number(1)]), Some(0));
    assert_eq!(code(&["drop", &number(0)]), Some(3), "done is final");
    assert_eq!(list(), [dead[2].clone()]);
    world.write_config(&setup("/bin/true"));
    let filter = ["--type", "patient.*", "--limit", "1", "--yes"];
    let retried = world.run(&[&["deliveries", "retry"], &filter[..]].concat());
    let said = out(&retried);
    assert!(
        said.starts_with("1 delivery: queued again.\nNo daemon runs"),
        "{said}"
    );
    assert!(said.contains("There may be more"), "{said}");
    world.cycle().await;
    assert!(list().is_empty());
    let done = world.run(&[
        "deliveries",
        "list",
        "--sink",
        "program",
        "--state",
        "done",
        "--json",
    ]);
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    let again = done["deliveries"].as_array().unwrap();
    let again = again
        .iter()
        .find(|of| of["delivery"] == dead[2]["delivery"])
        .unwrap();
    assert_eq!(again["attempts"], 2, "the same delivery, attempted again");
    let ledger = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let bodies: i64 = ledger
        .query_row("SELECT count(*) FROM body", (), |row| row.get(0))
        .unwrap();
    assert_eq!(bodies, 0, "what is settled keeps no body");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_deliveries_are_counted_first_and_sent_again_aloud() {
    let exec = "[[sinks]]\nname = \"program\"\nkind = \"exec\"\nclinics = [\"*\"]\n\
                command = [\"/bin/false\"]\nmax_attempts = 1\n";
    let setup = |command: &str| Setup {
        more: exec.replace("/bin/false", command),
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup("/bin/false")).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(2, oak, "patient.created");
    world.cycle().await;
    let counted = world.run(&["events", "resend", "--state", "dead", "--sink", "program"]);
    assert!(
        out(&counted).starts_with("dead at program: 2 deliveries;"),
        "{}",
        out(&counted)
    );
    world.write_config(&setup("/bin/true"));
    let resent = world.run(&[
        "events", "resend", "--state", "dead", "--sink", "program", "--yes",
    ]);
    assert!(
        out(&resent).starts_with("2 events queued again"),
        "{}",
        out(&resent)
    );
    world.cycle().await;
    let (_owner, query) = world.query();
    let sinks = query.sinks().await.unwrap();
    let counts = sinks
        .iter()
        .find(|row| row.name == "program")
        .unwrap()
        .counts;
    assert_eq!(counts, [0, 0, 0, 0, 0, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_are_listed_and_only_a_known_one_is_accepted() {
    let world = delivered(1).await;
    let list: Value =
        serde_json::from_slice(&world.run(&["sinks", "list", "--json"]).stdout).unwrap();
    assert_eq!(list["sinks"][0]["deliveries"]["done"], 1);
    let accepted = world.run(&["sinks", "accept", "log"]);
    assert!(
        out(&accepted).contains("is not stopped"),
        "{}",
        out(&accepted)
    );
    assert_eq!(
        world.run(&["sinks", "accept", "nowhere"]).status.code(),
        Some(4)
    );
}
