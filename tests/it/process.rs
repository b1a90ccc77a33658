//! The real binary: starting, stopping, and standing beside another one.

use fullscript_events::simulator::Options;

use crate::world::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_delivers_and_ends_cleanly_on_sigterm() {
    let world = World::begin(Options::default(), Setup::default()).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(20, oak, "patient.created");
    let mut daemon = world.daemon();
    for _ in 0..20 {
        daemon.wait_for("delivered");
    }
    assert!(daemon.stop().success());
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_state_exits_75_and_calls_nobody() {
    let world = World::begin(Options::default(), Setup::default()).await;
    world.log_in().await;
    let (_owner, _) = world.query();
    let before = world.vendor.counters().requests;
    let second = world.run(&["run", "--once"]);
    assert_eq!(second.status.code(), Some(75));
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("another fullscript-events process owns")
    );
    assert_eq!(world.vendor.counters().requests, before);
}
