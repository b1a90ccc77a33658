//! When: which sweep of a lane is due and over which days, how fast lanes may be polled, and the cron ticks.
//!
//! A tick only nudges; what is due comes from the ledger. So a missed, doubled or late tick changes nothing, and at
//! most one wake-up of a lane waits, the widest. The plan of a sweep is a pure function of the lane's row and `now`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::config;
use crate::domain::Sweep;
use crate::ledger::LaneState;
use crate::list::Days;

/// The vendor lists 30 days (`fullscript-api.md` §1).
pub const LISTED: TimeDelta = TimeDelta::days(30);
/// How far a deep sweep looks back.
const DEEP: TimeDelta = TimeDelta::days(3);
/// Asked for beyond what is wanted: an exclusive bound, and a day cut at another midnight (`fullscript-api.md` §7.1).
const DAY_MARGIN: TimeDelta = TimeDelta::days(2);
/// A sweep stops only this far below the mark: events become visible minutes late (`fullscript-api.md` §7.3).
pub const OVERLAP: TimeDelta = TimeDelta::minutes(10);

/// A sweep to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which.
    pub sweep: Sweep,
    /// The days to ask for.
    pub days: Days,
    /// It may end when everything below is older than this; `None`: only at the end of the list.
    pub stop_at: Option<DateTime<Utc>>,
    /// It goes on with an unfinished one: the newest `created_at` that one saw.
    pub newest: Option<DateTime<Utc>>,
}

/// The widest sweep of a lane that is due at `now`, if any is.
pub fn plan(lane: &LaneState, now: DateTime<Utc>) -> Option<Plan> {
    let sweep = if !lane.baseline_done || lane.reconcile_at <= now {
        Sweep::Reconcile
    } else if lane.deep_at <= now {
        Sweep::Deep
    } else if lane.fast_at <= now {
        Sweep::Fast
    } else {
        return None;
    };
    let mark = lane.complete_to.map(|mark| mark.min(now) - OVERLAP);
    let stop_at = match sweep {
        Sweep::Reconcile => None,
        Sweep::Deep => Some(mark.map_or(now - DEEP, |mark| mark.min(now - DEEP))),
        // Without a mark nothing was ever listed: a fast sweep must then see all.
        Sweep::Fast => mark,
    };
    let after = day_before(stop_at.unwrap_or(now - LISTED));
    // Only a sweep of the whole list is worth going on with; the others are begun again. Every other retry of it begins
    // at the top too: a page that cannot be had must not hide what has come since.
    let open = lane.open.filter(|(open, ..)| {
        *open == sweep && sweep == Sweep::Reconcile && lane.failures.is_multiple_of(2)
    });
    Some(Plan {
        sweep,
        days: Days {
            after,
            until: open.map(|(_, _, reached)| (reached + DAY_MARGIN).date_naive()),
        },
        stop_at,
        newest: open.map(|(_, newest, _)| newest),
    })
}

/// The days to ask for so that nothing created at or after `since`, and before `until`, is missed.
pub fn days_between(since: DateTime<Utc>, until: Option<DateTime<Utc>>) -> Days {
    Days {
        after: day_before(since),
        until: until.map(|until| (until + DAY_MARGIN).date_naive()),
    }
}

fn day_before(at: DateTime<Utc>) -> NaiveDate {
    (at - DAY_MARGIN).date_naive()
}

/// How often lanes are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two fast sweeps of a lane.
    pub fast: Duration,
    /// Between two deep sweeps.
    pub deep: Duration,
    /// Between two reconciling sweeps.
    pub reconcile: Duration,
}

impl Pace {
    /// The configured pace, its fast interval stretched so that `lanes` fast sweeps take at most half the budget.
    pub fn for_lanes(poll: &config::Poll, lanes: usize) -> Self {
        let budget = poll.budget;
        let half = f64::from(budget.requests.saturating_sub(budget.reserve).max(2)) / 2.0;
        #[allow(
            clippy::cast_precision_loss,
            reason = "there are fewer than 2^52 lanes"
        )]
        let shortest = budget.window.mul_f64(lanes as f64 / half);
        Self {
            fast: poll.interval.max(shortest),
            deep: poll.deep_interval.max(shortest),
            reconcile: poll.reconcile_interval.max(shortest),
        }
    }

    /// When each sweep of a lane is due again after `done` has ended at `now`: a wider sweep counts for the narrower.
    pub fn next(
        &self,
        lane: &LaneState,
        done: Sweep,
        now: DateTime<Utc>,
    ) -> (DateTime<Utc>, DateTime<Utc>, DateTime<Utc>) {
        let deep_at = if done >= Sweep::Deep {
            now + self.deep
        } else {
            lane.deep_at
        };
        let reconcile_at = if done >= Sweep::Reconcile {
            now + self.reconcile
        } else {
            lane.reconcile_at
        };
        (now + self.fast, deep_at, reconcile_at)
    }
}

/// What the cron jobs nudge.
#[derive(Clone, Default)]
pub struct Nudges {
    /// Every second: look at what is due.
    pub tick: Arc<Notify>,
    /// Every hour: forget what may be forgotten.
    pub hour: Arc<Notify>,
    looks: Arc<AtomicU64>,
}

impl Nudges {
    /// Counts a look at what is due: the watchdog's proof that ticks arrive and are followed.
    pub fn looked(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks so far.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

/// Starts the cron jobs. They do nothing but nudge.
pub async fn start(nudges: &Nudges) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    for (cron, nudge) in [
        ("* * * * * *", &nudges.tick),
        ("0 17 * * * *", &nudges.hour),
    ] {
        let nudge = Arc::clone(nudge);
        let job = Job::new_async(cron, move |_, _| {
            nudge.notify_one();
            Box::pin(std::future::ready(()))
        })?;
        scheduler.add(job).await?;
    }
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Category, ClinicName, Lane};
    use crate::ledger::LaneId;

    fn now() -> DateTime<Utc> {
        "2026-03-20T12:00:00Z".parse().unwrap()
    }

    fn lane() -> LaneState {
        LaneState {
            id: LaneId(1),
            lane: Lane {
                clinic: ClinicName::new("oak").unwrap(),
                category: Category::new("patients").unwrap(),
            },
            after_loss: None,
            issue_from: None,
            baseline_done: true,
            complete_to: Some(now() - TimeDelta::minutes(5)),
            open: None,
            fast_at: now(),
            deep_at: now() + TimeDelta::hours(1),
            reconcile_at: now() + TimeDelta::hours(9),
            retry_at: None,
            failures: 0,
            digest: None,
        }
    }

    #[test]
    fn a_lane_without_a_baseline_is_listed_whole_whatever_is_due() {
        let plan = plan(
            &LaneState {
                baseline_done: false,
                ..lane()
            },
            now(),
        )
        .unwrap();
        assert_eq!((plan.sweep, plan.stop_at), (Sweep::Reconcile, None));
        assert_eq!(plan.days.after.to_string(), "2026-02-16");
    }

    #[test]
    fn the_widest_due_sweep_is_made_and_nothing_before_its_time() {
        let of = |lane: LaneState| plan(&lane, now()).map(|plan| plan.sweep);
        assert_eq!(of(lane()), Some(Sweep::Fast));
        assert_eq!(
            of(LaneState {
                deep_at: now(),
                ..lane()
            }),
            Some(Sweep::Deep)
        );
        assert_eq!(
            of(LaneState {
                deep_at: now(),
                reconcile_at: now(),
                ..lane()
            }),
            Some(Sweep::Reconcile)
        );
        assert_eq!(
            of(LaneState {
                fast_at: now() + TimeDelta::seconds(1),
                ..lane()
            }),
            None
        );
    }

    #[test]
    fn after_an_outage_every_sweep_goes_down_to_the_mark() {
        let mark = now() - TimeDelta::days(9);
        for due in [
            lane(),
            LaneState {
                deep_at: now(),
                ..lane()
            },
        ] {
            let plan = plan(
                &LaneState {
                    complete_to: Some(mark),
                    ..due
                },
                now(),
            )
            .unwrap();
            assert_eq!(plan.stop_at, Some(mark - OVERLAP));
            assert_eq!(plan.days.after, (mark - OVERLAP - DAY_MARGIN).date_naive());
        }
    }

    #[test]
    fn an_unfinished_listing_goes_on_where_it_stood() {
        let reached = now() - TimeDelta::days(20);
        let open = Some((Sweep::Reconcile, now(), reached));
        let plan = plan(
            &LaneState {
                baseline_done: false,
                open,
                ..lane()
            },
            now(),
        )
        .unwrap();
        assert_eq!(plan.days.until, Some((reached + DAY_MARGIN).date_naive()));
        assert_eq!(plan.newest, Some(now()));
    }

    #[test]
    fn many_lanes_stretch_the_pace_so_that_half_the_budget_stays_free() {
        let poll = |requests| config::Poll {
            interval: Duration::from_mins(1),
            deep_interval: Duration::from_hours(1),
            reconcile_interval: Duration::from_hours(24),
            first_run: config::FirstRun::Baseline,
            categories: Vec::new(),
            budget: config::Budget {
                requests,
                window: Duration::from_mins(5),
                reserve: 500,
                backfill: 1000,
            },
            concurrency: 4,
        };
        assert_eq!(
            Pace::for_lanes(&poll(5000), 15).fast,
            Duration::from_mins(1)
        );
        assert_eq!(
            Pace::for_lanes(&poll(5000), 1500).fast,
            Duration::from_secs(200)
        );
    }
}
