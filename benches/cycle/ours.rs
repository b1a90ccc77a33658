//! This program's cycle, as `run --once` makes it: the clock runs from before the state directory is opened until
//! every sink is drained and everything is settled on disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fullscript_events::app;
use fullscript_events::clock::{SharedClock, SystemClock};
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;

use crate::world::state::State;
use crate::world::vendor::Vendor;
use crate::{CATEGORIES, OF_A_CLINIC};

/// What a first cycle takes of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstRun {
    /// Every event is fetched and delivered.
    Everything,
    /// Every event is known and none is fetched.
    Baseline,
}

/// A state directory with a grant for every clinic.
pub(crate) struct Ours(State);

/// Makes a state directory; with a baseline its first cycle is done.
pub(crate) async fn prepare(vendor: &Vendor, first_run: FirstRun) -> Ours {
    let first = match first_run {
        FirstRun::Everything => "30d",
        FirstRun::Baseline => "baseline",
    };
    let poll =
        format!("first_run = {first:?}\nconcurrency = {OF_A_CLINIC}\ncategories = {CATEGORIES:?}");
    let is_audited = std::env::args().any(|arg| arg == "--audit");
    let ours = Ours(if is_audited {
        State::prepare_with(vendor, &poll, "*", "[audit]").await
    } else {
        State::prepare(vendor, &poll, "*").await
    });
    if first_run == FirstRun::Baseline {
        ours.cycle().await;
    }
    ours
}

impl Ours {
    /// One cycle.
    pub(crate) async fn cycle(&self) -> Duration {
        let start = Instant::now();
        let config = self.0.config();
        let owner = app::take_ownership(&config).unwrap();
        let clock: SharedClock = Arc::new(SystemClock::start());
        let pipeline = app::open(&config, &owner, clock).await.unwrap();
        let lanes = pipeline.lanes.iter().copied().collect();
        pipeline.ledger.make_due(lanes).await.unwrap();
        let life = Lifecycle::begin();
        Arc::clone(&pipeline)
            .run_until_drained(&life, Scope::Everything)
            .await;
        pipeline.tokens.drain().await;
        drop((pipeline, owner));
        start.elapsed()
    }

    /// How many events the file shows.
    pub(crate) fn shown(&self) -> usize {
        lines(&self.0.shown())
    }
}

/// The lines of a file; none if there is no file.
pub(crate) fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}
