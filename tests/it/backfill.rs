//! `backfill`: what a sink never had, and nothing else, with a daemon and without one.

use std::time::Duration;

use fullscript_events::simulator::Options;

use crate::world::{Setup, World, assert_same_ids, id_of, lines_of};

const MONTH: Duration = Duration::from_hours(24 * 29);

fn baseline() -> Setup {
    Setup {
        poll: "first_run = \"baseline\"\n".to_owned(),
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_delivers_what_the_baseline_skipped_and_nothing_a_second_time() {
    let world = World::begin(Options::default(), baseline()).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_history(oak, "patients", 230, MONTH);
    world.cycle().await;
    world.vendor.make_events(5, oak, "patient.updated");
    world.cycle().await;
    assert_eq!(world.shown().len(), 5);
    for expected in ["issued           230", "issued             0"] {
        let output = world.run(&["backfill", "--since", "30d"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains(expected), "{text}");
        world.assert_all_shown_once();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_added_later_gets_the_past_and_the_others_are_left_alone() {
    let world = World::begin(Options::default(), Setup::default()).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_history(oak, "orders", 40, MONTH);
    world.cycle().await;
    let late = world.directory.path().join("late.jsonl");
    world.write_config(&Setup {
        more: format!("[[sinks]]\nname = \"late\"\nkind = \"file\"\npath = {late:?}\n"),
        ..Setup::default()
    });
    let output = world.run(&["backfill", "--since", "30d", "--sink", "late"]);
    assert!(output.status.success());
    let mut ids: Vec<String> = lines_of(&late).iter().map(id_of).collect();
    ids.sort();
    assert_same_ids(&ids, &world.made_ids());
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_was_killed_goes_on_where_it_stood() {
    let world = World::begin(Options::default(), baseline()).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.cycle().await;
    world.vendor.make_history(oak, "patients", 950, MONTH);
    let listed = || world.vendor.counters().all_lists();
    let mut killed = crate::binary::command(&world.config_path(), &["backfill", "--since", "30d"]);
    killed.env("FULLSCRIPT_EVENTS_CRASH_AT", "backfill.after_page");
    assert!(!killed.output().unwrap().status.success());
    let before = listed();
    let output = world.run(&["backfill", "--since", "30d"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(
        errors.contains("going on with the backfill that was interrupted"),
        "{errors}"
    );
    world.assert_all_shown_once();
    assert!(listed() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_daemon_the_daemon_does_it_and_the_command_shows_it() {
    let world = World::begin(Options::default(), baseline()).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_history(oak, "patients", 120, MONTH);
    let mut daemon = world.daemon();
    for _ in 0..6 {
        daemon.wait_for("oak");
    }
    let output = world.run(&["backfill", "--since", "30d", "--category", "patients"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{errors}");
    assert!(
        errors.contains("the running daemon carries it out"),
        "{errors}"
    );
    assert!(daemon.stop().success());
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_configured_is_answered_with_those_that_are() {
    let world = World::begin(Options::default(), baseline()).await;
    for (flag, known) in [
        ("--clinic", "oak"),
        ("--category", "patients"),
        ("--sink", "log"),
    ] {
        let output = world.run(&["backfill", "--since", "7d", flag, "nonsense"]);
        assert_eq!(output.status.code(), Some(4));
        assert!(String::from_utf8_lossy(&output.stderr).contains(known));
    }
}
