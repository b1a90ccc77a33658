//! The order of the steps, and nothing else.
//!
//! ```text
//! intake   schedule → token → list → route → admit ─┐
//!                                               LEDGER
//!                                  body ← fetch ← ──┤
//! outbox   claim → deliver → decide → settle ← ─────┘
//! ```
//!
//! Two passes that meet only in the ledger: a slow receiver never stalls polling, a dead vendor never stalls
//! retries. Fresh work and what a crash left behind run the same lines, because every pass asks the ledger what is
//! owed, never what it has just done.

mod attest;
mod bring;
mod details;
mod drive;
mod handover;
mod health;
mod intake;
mod keep;
mod outbox;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;

use crate::api::Api;
use crate::audit::Audit;
use crate::clock::SharedClock;
use crate::config::{Bodies, FirstRun};
use crate::decide::Rules;
use crate::domain::{ClinicName, SinkName};
use crate::ledger::{Heard, LaneId, Ledger, SinkId, Watch};
use crate::route::Routes;
use crate::schedule::Pace;
use crate::sinks::AnySink;
use crate::store::Unavailable;
use crate::token::Tokens;

use keep::Keeping;

pub use attest::Target;
pub use drive::{Ended, Scope};
pub use handover::Handover;
pub use health::Health;

/// Between two looks at the lanes that are due, while lanes are swept.
const LANES_PAUSE: TimeDelta = TimeDelta::milliseconds(200);
/// Between two looks at the grants that are due.
const KEEP_ALIVE_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// A sink that is open, with its rules and its bell.
pub struct OpenSink {
    /// The ledger's number of it.
    pub id: SinkId,
    /// Its name.
    pub name: SinkName,
    /// When it gives up, and what it does in doubt.
    pub rules: Rules,
    /// The sink.
    pub sink: AnySink,
    /// Rung when it has work.
    pub wake: Notify,
    /// The short way from a fetch to it.
    pub handover: Handover,
    /// How its receiver does.
    pub health: Health,
    /// How it is reached, for the audit log.
    pub target: Target,
}

/// Everything the passes need.
pub struct Pipeline {
    /// Where intake and outbox meet.
    pub ledger: Ledger,
    /// Requests to Fullscript.
    pub api: Arc<Api>,
    /// The grants.
    pub tokens: Tokens,
    /// Which sinks want what.
    pub routes: Routes,
    /// The sinks of the configuration.
    pub sinks: Vec<OpenSink>,
    /// The lanes of the configuration; others are not polled.
    pub lanes: HashSet<LaneId>,
    /// The only `now`.
    pub clock: SharedClock,
    /// How often lanes are polled.
    pub pace: Pace,
    /// Whether bodies that wait are kept.
    pub bodies: Bodies,
    /// What the first poll of a lane does.
    pub first_run: FirstRun,
    /// Requests of one clinic that may be in flight at once.
    pub in_flight: usize,
    /// What goes on at the moment.
    pub activity: Activity,
    /// Who was given what.
    pub audit: Audit,
}

impl Pipeline {
    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    fn wake_sinks(&self) {
        for sink in &self.sinks {
            sink.wake.notify_one();
        }
    }

    /// Reports that the ledger cannot be used, once until it can again. Nothing goes out meanwhile: a request needs a
    /// permit and a delivery a claim, and both are rows.
    fn ledger_trouble(&self, error: &Unavailable) {
        if self.activity.enter_degraded() {
            tracing::error!(
                "{error}: nothing is fetched or delivered until the state directory can be written again (is the disk full or read-only? `df -h`, `mount`)"
            );
        }
    }

    fn ledger_works(&self) {
        if self.activity.leave_degraded() {
            tracing::info!("the ledger can be written again: going on");
        }
    }
}

/// What is being worked on, so that nothing is worked on twice at once.
#[derive(Default)]
pub struct Activity {
    busy: Arc<Mutex<Busy>>,
    /// Rung when a piece of work has ended or has brought new work.
    changed: Arc<Notify>,
    /// Rung when the last piece of work has ended.
    idle: Arc<Notify>,
    keeping: Keeping,
}

#[derive(Default)]
struct Busy {
    work: HashSet<Work>,
    resting: HashMap<ClinicName, DateTime<Utc>>,
    stopped: HashMap<SinkId, String>,
    clocks: Watch,
    kept_alive_at: Option<DateTime<Utc>>,
    lanes_read_at: Option<DateTime<Utc>>,
    looked_at: Duration,
    degraded: bool,
}

/// A piece of work that is done by one task at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Sweep(LaneId),
    Details(ClinicName),
    Job(i64, LaneId),
    KeepAlive,
}

/// Held while a piece of work is done; dropping it lets the next one begin.
struct Working {
    busy: Arc<Mutex<Busy>>,
    changed: Arc<Notify>,
    idle: Arc<Notify>,
    work: Work,
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.work.remove(&self.work);
        self.changed.notify_one();
        if busy.work.is_empty() {
            self.idle.notify_one();
        }
    }
}

impl Activity {
    fn locked(&self) -> std::sync::MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a piece of work, unless it is being done already.
    fn begin(&self, work: Work) -> Option<Working> {
        self.locked().work.insert(work.clone()).then(|| Working {
            busy: Arc::clone(&self.busy),
            changed: Arc::clone(&self.changed),
            idle: Arc::clone(&self.idle),
            work,
        })
    }

    /// What is being done now.
    fn busy(&self) -> HashSet<Work> {
        self.locked().work.clone()
    }

    fn is_idle(&self) -> bool {
        self.locked().work.is_empty()
    }

    /// A clinic's details are left alone until `until`: its grant or its server does not work.
    fn rest(&self, clinic: &ClinicName, until: DateTime<Utc>) {
        self.locked().resting.insert(clinic.clone(), until);
    }

    fn is_resting(&self, clinic: &ClinicName, now: DateTime<Utc>) -> bool {
        self.locked()
            .resting
            .get(clinic)
            .is_some_and(|until| *until > now)
    }

    /// The clinics that are left alone now.
    fn resting(&self, now: DateTime<Utc>) -> HashSet<ClinicName> {
        let busy = self.locked();
        let resting = busy.resting.iter().filter(|(_, until)| **until > now);
        resting.map(|(clinic, _)| clinic.clone()).collect()
    }

    /// A look was begun at this monotonic time.
    fn looked(&self, at: Duration) {
        self.locked().looked_at = at;
    }

    fn since_look(&self, now: Duration) -> Duration {
        now.saturating_sub(self.locked().looked_at)
    }

    /// An answer came: what pruning asks for.
    fn heard_from_vendor(&self, heard: Heard) {
        self.locked().clocks.hear(heard);
    }

    fn clocks(&self) -> Watch {
        self.locked().clocks
    }

    /// Whether this is news.
    fn sink_stopped(&self, sink: SinkId, why: &str) -> bool {
        let before = self.locked().stopped.insert(sink, why.to_owned());
        before.as_deref() != Some(why)
    }

    fn sink_works(&self, sink: SinkId) {
        self.locked().stopped.remove(&sink);
    }

    /// Whether it is worth reading which lanes are due: there may be thousands, and while they are swept each look would
    /// read them again.
    fn may_read_lanes(&self, sweeping: bool, now: DateTime<Utc>) -> bool {
        let mut busy = self.locked();
        let may = !sweeping
            || busy
                .lanes_read_at
                .is_none_or(|at| (now - at).abs() >= LANES_PAUSE);
        if may {
            busy.lanes_read_at = Some(now);
        }
        may
    }

    /// Whether the grants may be looked after now: one that cannot be refreshed stays due, and is not tried all the time.
    fn may_keep_alive(&self, now: DateTime<Utc>) -> bool {
        let mut busy = self.locked();
        let may = busy
            .kept_alive_at
            .is_none_or(|at| (now - at).abs() >= KEEP_ALIVE_PAUSE);
        if may {
            busy.kept_alive_at = Some(now);
        }
        may
    }

    fn enter_degraded(&self) -> bool {
        !std::mem::replace(&mut self.locked().degraded, true)
    }

    fn is_degraded(&self) -> bool {
        self.locked().degraded
    }

    fn leave_degraded(&self) -> bool {
        std::mem::replace(&mut self.locked().degraded, false)
    }
}
