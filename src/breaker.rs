//! The breaker of a sink: when its receiver as a whole does not work, its backlog waits and one delivery at a time
//! asks whether it works again. Pure.
//!
//! What it prevents: a week's outage that gives up every event of the week one by one, and a receiver that comes back
//! and is met by a thousand retries at once. It is opened only by what says something of the receiver: several
//! deliveries in a row that failed, or one that could not even be sent. One event that its receiver does not like
//! opens nothing, however often it is refused, and neither does a receiver that asks to be left alone (429).

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::decide::back_off;
use crate::domain::{DeliveryId, Outcome, Parked};

/// So many failures in a row open it.
const FAILURES: u32 = 5;
/// The first wait for a probe; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// No probe is further away: so long a receiver that works again waits at most.
const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// The breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// Attempts are made.
    Closed(Streak),
    /// Nothing is attempted but probes.
    Open(Outage),
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    failures: u32,
    first: Option<i64>,
    /// Not one delivery's fault alone.
    general: bool,
}

/// Since when a receiver does not work, and when it is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it was noticed.
    pub since: DateTime<Utc>,
    /// When the next delivery is attempted.
    pub probe_at: DateTime<Utc>,
    /// Probes so far.
    pub probes: u32,
}

/// What may be attempted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Whatever is due.
    All,
    /// One delivery, while nothing else is in flight.
    Probe,
    /// Nothing.
    Nothing,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed(Streak::default())
    }
}

impl Breaker {
    /// The outage, while it is open.
    pub fn outage(&self) -> Option<Outage> {
        match self {
            Self::Closed(_) => None,
            Self::Open(outage) => Some(*outage),
        }
    }

    /// What may be attempted at `now`. A probe that is further away than any can be was written by a clock that has
    /// been set back since: it is due.
    pub fn permits(&self, now: DateTime<Utc>) -> Permit {
        let Self::Open(outage) = self else {
            return Permit::All;
        };
        let furthest = now + TimeDelta::from_std(LONGEST_WAIT).unwrap_or_default();
        if outage.probe_at <= now || outage.probe_at > furthest {
            Permit::Probe
        } else {
            Permit::Nothing
        }
    }

    /// The breaker after an attempt that has just ended. `jitter` is uniform in 0‥1.
    #[must_use]
    pub fn after(
        self,
        delivery: DeliveryId,
        outcome: &Outcome,
        now: DateTime<Utc>,
        jitter: f64,
    ) -> Self {
        match (self, outcome) {
            (
                _,
                Outcome::Yes
                | Outcome::Park {
                    why: Parked::AwaitsResult,
                    ..
                },
            ) => Self::default(),
            // Nothing was sent, or one clinic is refused: neither says how the receiver does for others.
            (_, Outcome::Park { .. } | Outcome::ClinicRefused { .. } | Outcome::Skip { .. }) => {
                self
            }
            (Self::Closed(streak), Outcome::Later { .. } | Outcome::Gone { .. }) => {
                Self::Closed(streak)
            }
            (Self::Closed(streak), Outcome::No { .. } | Outcome::Doubt { .. }) => {
                streak.and(delivery, false).breaker(now, jitter)
            }
            (Self::Closed(streak), Outcome::NotSent { .. }) => {
                streak.and(delivery, true).breaker(now, jitter)
            }
            // Begun before it opened: tells nothing new.
            (Self::Open(outage), _) if self.permits(now) == Permit::Nothing => Self::Open(outage),
            (Self::Open(outage), _) => Self::Open(outage.probed(now, jitter)),
        }
    }
}

impl Streak {
    fn and(self, delivery: DeliveryId, general: bool) -> Self {
        let other = self.first.is_some_and(|first| first != delivery.0);
        Self {
            failures: self.failures.saturating_add(1),
            first: self.first.or(Some(delivery.0)),
            general: self.general || general || other,
        }
    }

    fn breaker(self, now: DateTime<Utc>, jitter: f64) -> Breaker {
        if self.failures < FAILURES || !self.general {
            return Breaker::Closed(self);
        }
        Breaker::Open(Outage {
            since: now,
            probe_at: probe_at(1, now, jitter),
            probes: 0,
        })
    }
}

impl Outage {
    fn probed(self, now: DateTime<Utc>, jitter: f64) -> Self {
        let probes = self.probes.saturating_add(1);
        Self {
            probe_at: probe_at(probes, now, jitter),
            probes,
            ..self
        }
    }
}

fn probe_at(nth: u32, now: DateTime<Utc>, jitter: f64) -> DateTime<Utc> {
    let wait = back_off(nth, FIRST_WAIT, LONGEST_WAIT, jitter.max(0.5));
    now + TimeDelta::from_std(wait).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn no() -> Outcome {
        Outcome::No {
            reason: "503".into(),
            retry_after: None,
        }
    }

    fn not_sent() -> Outcome {
        Outcome::NotSent {
            reason: "refused".into(),
        }
    }

    fn later() -> Outcome {
        Outcome::Later {
            reason: "429".into(),
            retry_after: Some(Duration::from_secs(1)),
        }
    }

    /// The breaker after these attempts, all at the same time.
    fn after(attempts: impl IntoIterator<Item = (i64, Outcome)>) -> Breaker {
        attempts
            .into_iter()
            .fold(Breaker::default(), |breaker, (delivery, outcome)| {
                breaker.after(DeliveryId(delivery), &outcome, T0, 1.0)
            })
    }

    #[test]
    fn several_deliveries_that_fail_in_a_row_open_it_and_one_alone_does_not() {
        assert!(after((0..4).map(|n| (n, no()))).outage().is_none());
        let outage = after((0..5).map(|n| (n, no()))).outage().unwrap();
        assert_eq!(outage.since, T0);
        assert_eq!(outage.probe_at, T0 + Duration::from_secs(10));
        assert!(after((0..100).map(|_| (1, no()))).outage().is_none());
        assert!(after((0..5).map(|_| (1, not_sent()))).outage().is_some());
        let broken = (0..40).map(|n| (n, if n % 4 == 3 { Outcome::Yes } else { no() }));
        assert!(after(broken).outage().is_none());
    }

    #[test]
    fn a_receiver_that_asks_for_patience_never_opens_it() {
        assert!(after((0..100).map(|n| (n, later()))).outage().is_none());
        let between = (0..9).map(|n| (n, if n % 2 == 0 { no() } else { later() }));
        assert!(after(between).outage().is_some(), "nor is it a yes");
    }

    #[test]
    fn open_it_allows_one_probe_at_a_time_ever_more_rarely_until_a_yes() {
        let mut breaker = after((0..5).map(|n| (n, no())));
        let mut now = T0;
        let mut waits = Vec::new();
        for probe in 0..9 {
            assert_eq!(breaker.permits(now), Permit::Nothing, "{probe}");
            let stale = breaker.after(DeliveryId(9), &no(), now, 1.0);
            assert_eq!(stale, breaker, "begun before it opened");
            let probe_at = breaker.outage().unwrap().probe_at;
            waits.push((probe_at - now).num_seconds());
            now = probe_at;
            assert_eq!(breaker.permits(now), Permit::Probe);
            let outcome = if probe % 2 == 0 { no() } else { later() };
            breaker = breaker.after(DeliveryId(probe), &outcome, now, 1.0);
        }
        assert_eq!(waits, [10, 10, 20, 40, 80, 160, 320, 640, 900]);
        assert_eq!(breaker.outage().unwrap().since, T0);
        let closed = breaker.after(DeliveryId(1), &Outcome::Yes, now, 1.0);
        assert_eq!(closed, Breaker::default());
        assert_eq!(closed.permits(now), Permit::All);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_it_open() {
        let breaker = after((0..5).map(|n| (n, no())));
        assert_eq!(breaker.permits(T0 - TimeDelta::days(1)), Permit::Probe);
    }
}
