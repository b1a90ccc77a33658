//! The request budget with many clinics, in real time: the vendor's rolling window is never overdrawn, however often
//! the daemon is restarted in the middle of it.
//!
//! `FULLSCRIPT_EVENTS_BUDGET_REQUESTS=5000 FULLSCRIPT_EVENTS_BUDGET_WINDOW_S=300` runs it at the real size.

use std::sync::Arc;
use std::time::Duration;

use fullscript_events::api::budget::Budget;
use fullscript_events::app;
use fullscript_events::clock::{SharedClock, SystemClock};
use fullscript_events::domain::{ClinicId, ClinicName};
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;
use fullscript_events::simulator::{Options, RateLimit};
use secrecy::SecretString;

use crate::stepped::{MINUTE, until_within};
use crate::world::{Setup, World, own};

const CLINICS: usize = 300;
const CATEGORIES: [&str; 5] = [
    "patients",
    "treatment_plans",
    "orders",
    "lab_orders",
    "products",
];
const LANES: usize = CLINICS * CATEGORIES.len();
const RESTARTS: u64 = 3;

fn parameter(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Runs until `enough`, then drops everything in the middle of it.
async fn run_until(world: &World, what: &str, enough: impl Fn() -> bool) -> Duration {
    let config = world.config();
    let owner = own(&config);
    let clock: SharedClock = Arc::new(SystemClock::start());
    let pipeline = app::open(&config, &owner, clock).await.unwrap();
    let life = Lifecycle::begin();
    let stop = async {
        // A lane is polled seldom, and a request may have to wait for a whole window.
        until_within(MINUTE + 4 * config.poll.budget.window, what, async || {
            enough()
        })
        .await;
        life.soft().cancel();
    };
    let lanes: Vec<_> = pipeline.lanes.iter().copied().collect();
    // Cycle after cycle, so that only the budget slows it.
    let run = async {
        while !life.soft().is_cancelled() {
            pipeline.ledger.make_due(lanes.clone()).await.unwrap();
            Arc::clone(&pipeline)
                .run_until_drained(&life, Scope::Everything)
                .await;
        }
    };
    tokio::join!(run, stop);
    life.finish().await;
    pipeline.tokens.drain().await;
    pipeline.pace.fast
}

/// Gives every clinic a grant without asking the vendor: that would spend the budget one clinic after the other.
async fn log_in_offline(world: &World) {
    let config = world.config();
    let owner = own(&config);
    let clock: SharedClock = Arc::new(SystemClock::start());
    let budget = Budget::beside(
        owner.store().clone(),
        Arc::clone(&clock),
        config.poll.budget,
    );
    let tokens = app::tokens(
        &config,
        owner.store(),
        &clock,
        budget,
        &fullscript_events::audit::Audit::off(),
    )
    .unwrap();
    for clinic in &world.clinics {
        let name = ClinicName::new(&clinic.name).unwrap();
        let id = ClinicId::new(&clinic.clinic_id).unwrap();
        let refresh = world.vendor.grant(&clinic.clinic_id).unwrap();
        tokens
            .import_offline(&name, Some(&id), SecretString::from(refresh))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_window_is_ever_overdrawn_and_every_clinic_is_polled_across_restarts() {
    let requests = parameter("FULLSCRIPT_EVENTS_BUDGET_REQUESTS", 400);
    let window_s = parameter("FULLSCRIPT_EVENTS_BUDGET_WINDOW_S", 2);
    let window = Duration::from_secs(window_s.into());
    let options = Options {
        rate_limit: RateLimit {
            requests: Some(requests),
            window,
            ..RateLimit::default()
        },
        ..Options::default()
    };
    let setup = Setup {
        clinics: (0..CLINICS).map(|n| format!("clinic-{n}")).collect(),
        poll: format!(
            "first_run = \"30d\"\ninterval = \"1s\"\ncategories = {CATEGORIES:?}\n\
             [poll.budget]\nrequests = {requests}\nwindow = \"{window_s}s\"\nreserve = 0\n"
        ),
        ..Setup::default()
    };
    let world = World::begin(options, setup).await;
    log_in_offline(&world).await;
    let asked = || world.vendor.counters().requests;
    let mut pace = Duration::ZERO;
    for restart in 1..=RESTARTS {
        let some = restart * u64::from(requests) / 2;
        pace = run_until(&world, "some lanes are polled", || asked() >= some).await;
    }
    run_until(&world, "every lane is polled", || {
        let counters = world.vendor.counters();
        counters.clinics.len() == CLINICS
            && counters
                .clinics
                .values()
                .all(|of| of.lists >= CATEGORIES.len() as u64)
    })
    .await;
    let counters = world.vendor.counters();
    assert!(
        counters.most_in_window <= requests as usize,
        "{} requests in a window of {requests}",
        counters.most_in_window
    );
    // The budget was the bottleneck: else this would have shown nothing.
    assert!(counters.most_in_window > requests as usize / 2);
    assert_eq!(counters.answered_with(429), 0);
    // Polled so seldom that all lanes together take half the budget.
    let half = f64::from(requests) / 2.0;
    let lanes = f64::from(u32::try_from(LANES).unwrap());
    assert_eq!(
        pace,
        window.mul_f64(lanes / half).max(Duration::from_secs(1))
    );
}
