//! A grant survives whatever interrupts its refresh: the real binary dies at each step of it, replies get lost, and
//! many tasks want a token at once.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;

use fullscript_events::api::budget::Budget;
use fullscript_events::app;
use fullscript_events::clock::{SharedClock, SystemClock};
use fullscript_events::domain::ClinicName;
use fullscript_events::simulator::{Endpoint, Fault, FaultRule, Options, Rotation};
use tokio::task::JoinSet;

use crate::binary::{crash_points, was_killed};
use crate::world::{Setup, World, own};

const ONCE: [&str; 2] = ["run", "--once"];
/// What the log says of a clinic that needs a person.
const ALERT: &str = "must log in again";

/// A world with one clinic whose access token has expired.
async fn expired(rotation: Rotation) -> World {
    let options = Options {
        rotation,
        ..Options::default()
    };
    let world = World::begin(options, Setup::default()).await;
    world.log_in_long_ago().await;
    world
}

/// Every call of the token endpoint so far.
fn token_calls(world: &World) -> u64 {
    world.vendor.counters().tokens.values().sum()
}

fn alerts(outputs: &[Output]) -> usize {
    let alerts = |output: &Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_alert = |line: &&str| line.contains("ERROR") && line.contains(ALERT);
        said.lines().filter(is_alert).count()
    };
    outputs.iter().map(alerts).sum()
}

/// Makes an event and runs three whole cycles; gives what they said.
fn three_cycles(world: &World) -> Vec<Output> {
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_event(oak, "patient.created").unwrap();
    (0..3).map(|_| world.run(&ONCE)).collect()
}

/// Kills a refresh at each of its steps, and looks how the clinic fares afterwards.
async fn kill_a_refresh_at_each_step(rotation: Rotation) {
    let points: Vec<String> = crash_points()
        .into_iter()
        .filter(|point| point.starts_with("refresh."))
        .collect();
    assert!(points.len() >= 5, "{points:?}");
    for point in points {
        let world = expired(rotation).await;
        let killed = world.run_dying_at(&point, &ONCE);
        assert!(was_killed(killed.status), "{point} was not reached");
        let before = token_calls(&world);
        let cycles = three_cycles(&world);
        let calls = token_calls(&world) - before;

        // Only where the vendor kills the old pair at once is there a moment in which the new one is nowhere else.
        let is_lost = rotation != Rotation::OnUse && point == "refresh.after_reply";
        let case = format!("{rotation:?}, {point}");
        assert!(calls <= 1, "{case}: {calls} further token calls");
        assert_eq!(alerts(&cycles), usize::from(is_lost), "{case}");
        if is_lost {
            assert!(world.shown().is_empty(), "{case}");
        } else {
            assert_eq!(world.shown_ids(), world.made_ids(), "{case}");
            assert!(cycles.iter().all(|cycle| cycle.status.success()), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_killed_at_any_step_needs_no_login_as_fullscript_rotates() {
    kill_a_refresh_at_each_step(Rotation::OnUse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_killed_under_immediate_rotation_alerts_once_and_calls_once() {
    kill_a_refresh_at_each_step(Rotation::AtOnce).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_killed_under_family_revocation_alerts_once_and_calls_once() {
    kill_a_refresh_at_each_step(Rotation::Family).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_costs_one_more_call_and_under_fullscripts_rotation_nothing_else() {
    for rotation in [Rotation::OnUse, Rotation::AtOnce, Rotation::Family] {
        let world = expired(rotation).await;
        let lost = FaultRule::next(1, Endpoint::Token, Fault::ReplyLost);
        world.vendor.fail(lost);
        let before = token_calls(&world);
        let cycles = three_cycles(&world);
        assert_eq!(token_calls(&world) - before, 2, "{rotation:?}");
        let needs_login = rotation != Rotation::OnUse;
        assert_eq!(alerts(&cycles), usize::from(needs_login), "{rotation:?}");
        assert_eq!(world.shown().is_empty(), needs_login, "{rotation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_tasks_that_want_a_token_at_once_cost_one_call() {
    let world = expired(Rotation::OnUse).await;
    let config = world.config();
    let owner = own(&config);
    let clock: SharedClock = Arc::new(SystemClock::start());
    let settings = config.poll.budget;
    let budget = Budget::open(owner.store().clone(), Arc::clone(&clock), settings);
    let budget = budget.await.unwrap();
    let tokens = app::tokens(
        &config,
        owner.store(),
        &clock,
        budget,
        &fullscript_events::audit::Audit::off(),
    )
    .unwrap();
    let before = token_calls(&world);
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let tokens = tokens.clone();
        tasks.spawn(async move { tokens.bearer(&ClinicName::new("oak").unwrap()).await });
    }
    let bearers = tasks.join_all().await;
    let generations: BTreeSet<i64> = bearers
        .into_iter()
        .map(|b| b.unwrap().generation())
        .collect();
    assert_eq!(generations.len(), 1);
    assert_eq!(token_calls(&world) - before, 1);
}
