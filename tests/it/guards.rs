//! The guards against what makes duplicates without any crash: a lost ledger, a restored one, a copied one.

use std::fs;
use std::process::Output;

use fullscript_events::simulator::Options;

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
    let standing = world.run(&["run", &option]);
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
