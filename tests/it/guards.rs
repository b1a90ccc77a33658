//! The guards against what makes duplicates without any crash: a lost ledger, a restored one, a copied one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use fullscript_events::domain::DeliveryState;
use fullscript_events::simulator::Options;

use crate::stepped::{HOUR, MINUTE, Stepped, polling};
use crate::world::{Setup, World, assert_same_ids};

/// What a command said, with the test's directory left out.
fn said(world: &World, output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.replace(&world.directory.path().display().to_string(), "/test")
}

/// A world that has shown so many events.
async fn shown(events: u32) -> World {
    let world = World::begin(Options::default(), Setup::default()).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    let day = std::time::Duration::from_hours(24);
    world.vendor.make_history(oak, "patients", events, day);
    world.cycle().await;
    assert_eq!(world.shown().len(), events as usize);
    world
}

fn remove_ledger(world: &World) {
    for entry in fs::read_dir(world.state_path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("ledger.sqlite3") {
            fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_gone_is_refused_and_both_ways_out_are_told() {
    let world = shown(3).await;
    remove_ledger(&world);
    let before = world.vendor.counters().requests;
    let refused = world.run(&["run", "--once"]);
    insta::assert_snapshot!(said(&world, &refused), @r"
    error: /test/state/ledger.sqlite3 is gone, though /test/state/ledger.id says that a ledger lived here. Without it all of the last 30 days would be taken for new, and the clinics' logins are lost with it.
    Put the ledger back from a backup; or accept the loss, in one of two ways:
      fullscript-events run --once --accept-ledger-loss=baseline
        What was created until now is skipped: nothing is sent twice, and what no sink had yet never reaches one.
      fullscript-events run --once --accept-ledger-loss=replay
        All that Fullscript still lists (30 days) is sent again, with the same event ids: nothing is lost, a webhook's receiver can tell the repeats, a file shows them a second time.
    Then give each clinic's access again (`fullscript-events auth login CLINIC`), and start the daemon without the option.
    ");
    for command in [
        &["run"][..],
        &["run", "--once"],
        &["backfill", "--since", "30d"],
        &["status"],
        &["auth", "list"],
        &["auth", "import", "oak"],
    ] {
        let refused = world.run(command);
        assert_eq!(refused.status.code(), Some(74), "{command:?}");
        assert!(said(&world, &refused).contains("is gone, though"));
    }
    assert!(!world.ledger_path().exists());
    assert_eq!(world.vendor.counters().requests, before);
}

/// Accepts the loss, logs in again, and polls; gives the ids that were made before.
async fn accept(world: &World, how: &str) -> Vec<String> {
    remove_ledger(world);
    let before = world.made_ids();
    let option = format!("--accept-ledger-loss={how}");
    let accepted = world.run(&["run", "--once", &option]);
    // There is no grant any more.
    assert_eq!(
        accepted.status.code(),
        Some(77),
        "{}",
        said(world, &accepted)
    );
    assert!(said(world, &accepted).contains(&format!("is accepted ({how})")));
    // The option that was left standing does not accept the next loss.
    let standing = world.run(&["run", "--once", &option]);
    assert_eq!(standing.status.code(), Some(2));
    insta::allow_duplicates! {
        insta::assert_snapshot!(said(world, &standing), @"error: there is no loss to accept, /test/state/ledger.sqlite3 is as it was left: start without --accept-ledger-loss");
    }
    remove_ledger(world);
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(74));
    let accepted = world.run(&["run", "--once", &option]);
    assert_eq!(accepted.status.code(), Some(77));
    world.log_in().await;
    world.cycle().await;
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_accepted_as_baseline_shows_nothing_twice_and_then_goes_on() {
    let world = shown(3).await;
    accept(&world, "baseline").await;
    world.assert_all_shown_once();
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(2, oak, "patient.updated");
    world.cycle().await;
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_accepted_as_replay_shows_all_again_with_the_same_ids() {
    let setup = Setup {
        poll: "first_run = \"baseline\"\n".to_owned(),
        ..Setup::default()
    };
    let world = shown(3).await;
    world.write_config(&setup);
    let mut twice = accept(&world, "replay").await;
    twice.extend(twice.clone());
    twice.sort();
    assert_same_ids(&world.shown_ids(), &twice);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_is_refused_and_nothing_is_asked_of_fullscript() {
    let world = shown(1).await;
    let before = world.vendor.counters().requests;
    remove_ledger(&world);
    fs::write(world.ledger_path(), "no database ".repeat(1_000)).unwrap();
    for command in [&["run"][..], &["run", "--once"], &["status"]] {
        let refused = world.run(command);
        assert_eq!(refused.status.code(), Some(74), "{command:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(said(&world, &refused), @"error: /test/state/ledger.sqlite3 is damaged (file is not a database): stop the daemon, move the file away together with its -wal and -shm, and put a backup in its place; without a backup the next start tells how to accept the loss");
        }
    }
    assert_eq!(world.vendor.counters().requests, before);
    remove_ledger(&world);
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(74));
}

/// A copy of the ledger as SQLite makes one, beside a daemon or without.
fn back_up(world: &World) -> PathBuf {
    let backup = world.directory.path().join("backup.sqlite3");
    rusqlite::Connection::open(world.ledger_path())
        .unwrap()
        .execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    backup
}

fn restore(world: &World, backup: &Path) {
    remove_ledger(world);
    fs::copy(backup, world.ledger_path()).unwrap();
}

/// A file, and a program that writes down each id.
fn two_sinks(world: &Path) -> Setup {
    Setup {
        more: format!(
            "[[sinks]]\nname = \"runs\"\nkind = \"exec\"\nclinics = [\"*\"]\n\
             command = [\"/bin/sh\", \"-c\", \"test ! -e {0}/refuse && echo x >> {0}/runs\"]\n",
            world.display()
        ),
        ..polling(&["patients"], "first_run = \"30d\"")
    }
}

fn runs(world: &World) -> usize {
    let runs = fs::read_to_string(world.directory.path().join("runs"));
    runs.unwrap_or_default().lines().count()
}

async fn states(world: &Stepped, id: &str) -> Vec<(String, DeliveryState, Option<String>)> {
    let event = world.event(id).await.unwrap();
    let deliveries = event.deliveries.into_iter();
    deliveries
        .map(|delivery| (delivery.sink, delivery.state, delivery.reason))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_ledger_does_not_know_is_held_and_what_comes_later_goes_out() {
    for marker_is_here in [true, false] {
        let world = Stepped::begin(Setup::default()).await;
        world.write_config(&two_sinks(world.directory.path()));
        let known = world.make("oak", "patient.created");
        world.pass().await;
        // Owed when the backup is made: the program refuses, and the file cannot be opened.
        let refuse = world.directory.path().join("refuse");
        fs::write(&refuse, "").unwrap();
        let aside = world.directory.path().join("aside.jsonl");
        fs::rename(world.log_path(), &aside).unwrap();
        fs::create_dir(world.log_path()).unwrap();
        let owed = world.make("oak", "patient.updated");
        world.pass_after(MINUTE).await;
        let backup = back_up(&world);
        // Delivered by the ledger that is lost soon.
        fs::remove_file(&refuse).unwrap();
        fs::remove_dir(world.log_path()).unwrap();
        fs::rename(&aside, world.log_path()).unwrap();
        let unknown = world.make("oak", "patient.created");
        world.pass_after(HOUR / 2).await;
        assert_eq!((world.shown().len(), runs(&world)), (3, 3));

        restore(&world, &backup);
        if !marker_is_here {
            fs::remove_file(world.state_path().join("ledger.id")).unwrap();
        }
        world.pass_after(MINUTE).await;
        world.assert_all_shown_once();
        assert_eq!(runs(&world), 3);
        let done = |sink: &str| (sink.to_owned(), DeliveryState::Done, None);
        assert_eq!(states(&world, &known).await, [done("log"), done("runs")]);
        let reason = "the ledger was restored from a backup of 2026-03-20T12:01:00Z: \
                      this may have been delivered since";
        let held = |sink: &str| {
            let reason = Some(reason.to_owned());
            (sink.to_owned(), DeliveryState::Held, reason)
        };
        // The file shows it, and says so.
        assert_eq!(states(&world, &owed).await, [done("log"), held("runs")]);
        assert_eq!(states(&world, &unknown).await, [held("log"), held("runs")]);

        world.clock.advance(HOUR / 4);
        world.make("oak", "patient.created");
        world.pass().await;
        world.assert_all_shown_once();
        assert_eq!(runs(&world), 4);
        // Listed late, and as old as the restore: nobody knows either.
        let late = world.make_late("oak", "patients", HOUR / 2);
        world.pass_after(HOUR).await;
        assert_eq!(states(&world, &late).await, [held("log"), held("runs")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_says_what_it_holds_of_a_restored_ledger_and_a_person_settles_it() {
    let world = shown(2).await;
    let backup = back_up(&world);
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(3, oak, "patient.updated");
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(0));
    restore(&world, &backup);
    let restored = world.run(&["run", "--once"]);
    assert_eq!(
        restored.status.code(),
        Some(0),
        "{}",
        said(&world, &restored)
    );
    assert!(said(&world, &restored).contains("the ledger was restored from a backup of 20"));
    world.assert_all_shown_once();
    assert!(!said(&world, &world.run(&["run", "--once"])).contains("restored"));
    let list = world.run(&["deliveries", "list", "--state", "held"]);
    let list = String::from_utf8(list.stdout).unwrap();
    assert_eq!(
        list.matches("may have been delivered since").count(),
        3,
        "{list}"
    );
    let settled = world.run(&["deliveries", "done", "--state", "held", "--yes"]);
    assert!(settled.status.success(), "{}", said(&world, &settled));
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(0));
    world.assert_all_shown_once();
}

/// As if the state directory had been copied here from another machine; `false` where this one has no id.
fn copied_here(world: &World) -> bool {
    let here = fullscript_events::store::Host::here();
    if here.id.is_none() {
        eprintln!("skipped: this machine has no /etc/machine-id");
        return false;
    }
    rusqlite::Connection::open(world.ledger_path())
        .unwrap()
        .execute(
            "UPDATE instance SET host = '1a2b3c4d1a2b3c4d1a2b3c4d1a2b3c4d', host_name = 'old-server'",
            (),
        )
        .unwrap();
    true
}

/// What a command said, with this machine's name left out too.
fn said_here(world: &World, output: &Output) -> String {
    let here = fullscript_events::store::Host::here().to_string();
    said(world, output).replace(&here, "new-server (5e6f7a8b)")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_state_directory_is_told_until_it_is_taken_over() {
    let world = shown(1).await;
    let oak = &world.clinic("oak").clinic_id;
    if !copied_here(&world) {
        return;
    }
    world.vendor.make_events(1, oak, "patient.updated");
    let run = world.run(&["run", "--once"]);
    assert_eq!(run.status.code(), Some(0));
    let told =
        "the state directory was used on old-server (1a2b3c4d), this is new-server (5e6f7a8b)";
    assert!(
        said_here(&world, &run).contains(told),
        "{}",
        said_here(&world, &run)
    );
    world.assert_all_shown_once();
    let json = world.run(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["other_host"]["used_on"], "old-server (1a2b3c4d)");

    let asked = world.run(&["auth", "takeover"]);
    assert_eq!(asked.status.code(), Some(2));
    insta::assert_snapshot!(said_here(&world, &asked), @"error: the state directory was used on old-server (1a2b3c4d), this is new-server (5e6f7a8b). Both at once deliver every event twice and end each other's logins: stop it there, for good, and repeat with --yes");
    for _ in 0..2 {
        let taken = world.run(&["auth", "takeover", "--yes"]);
        assert_eq!(taken.status.code(), Some(0));
    }
    assert!(!said(&world, &world.run(&["run", "--once"])).contains("was used on"));
    let json = world.run(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["other_host"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_copy_does_nothing_until_it_is_taken_over() {
    let world = shown(1).await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(1, oak, "patient.updated");
    let config = fs::read_to_string(world.config_path()).unwrap();
    let config = config.replace("[poll]\n", "bind_host = true\n[poll]\n");
    fs::write(world.config_path(), config).unwrap();
    // It is bound to where it was used, and that is here.
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(0));
    world.assert_all_shown_once();
    if !copied_here(&world) {
        return;
    }
    let before = world.vendor.counters().requests;
    world.vendor.make_events(1, oak, "patient.updated");
    let refused = world.run(&["run", "--once"]);
    assert_eq!(refused.status.code(), Some(74));
    insta::assert_snapshot!(said_here(&world, &refused), @"error: /test/state belongs to another machine: it was used on old-server (1a2b3c4d), this is new-server (5e6f7a8b), and [state] bind_host is on, so nothing is polled, refreshed or delivered here; if it does not run there any more: `fullscript-events auth takeover --yes`");
    assert_eq!(
        world.run(&["backfill", "--since", "30d"]).status.code(),
        Some(74)
    );
    // The daemon waits for a person.
    let mut daemon = world.daemon();
    daemon.wait_for("belongs to another machine");
    assert_eq!(world.run(&["status", "--check"]).status.code(), Some(2));
    assert_eq!(world.vendor.counters().requests, before);
    assert!(world.run(&["auth", "takeover", "--yes"]).status.success());
    daemon.wait_for("polling http");
    assert!(daemon.stop().success());
    assert_eq!(world.run(&["run", "--once"]).status.code(), Some(0));
    world.assert_all_shown_once();
}
