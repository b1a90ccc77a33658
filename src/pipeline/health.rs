//! How a sink's receiver does, as the attempts of this process have shown it: its breaker, and what follows from it for
//! the deliveries that fail.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::breaker::{Breaker, Outage, Permit};
use crate::decide::Standing;
use crate::domain::{DeliveryId, Outcome};

/// How a sink's receiver does.
#[derive(Default)]
pub struct Health(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    breaker: Breaker,
    /// The breaker that the ledger knows.
    noted: Breaker,
}

/// What an attempt has changed for the sink as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that anybody has to know.
    None,
    /// Its receiver does not work.
    Down(Outage),
    /// It works again, after this outage.
    Works(Outage),
}

impl Health {
    fn locked(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the ledger knows: a restart does not forget an outage.
    pub(super) fn remember(&self, breaker: Breaker) {
        let mut seen = self.locked();
        seen.breaker = breaker;
        seen.noted = breaker;
    }

    /// The breaker, if the ledger should be told.
    pub(super) fn to_note(&self) -> Option<Breaker> {
        let seen = self.locked();
        (seen.breaker != seen.noted).then_some(seen.breaker)
    }

    /// The ledger knows this now.
    pub(super) fn noted(&self, breaker: Breaker) {
        self.locked().noted = breaker;
    }

    /// The ledger holds this breaker: if it is not the one that was noted, a person has let the sink go on. Gives
    /// whether that is so.
    pub(super) fn is_resumed(&self, in_ledger: Breaker) -> bool {
        let mut seen = self.locked();
        let resumed = seen.noted.outage().is_some() && in_ledger == Breaker::default();
        if resumed {
            seen.breaker = in_ledger;
            seen.noted = in_ledger;
        }
        resumed
    }

    pub(super) fn permits(&self, now: DateTime<Utc>) -> Permit {
        self.locked().breaker.permits(now)
    }

    /// Takes in how an attempt ended.
    pub(super) fn after(
        &self,
        delivery: DeliveryId,
        outcome: &Outcome,
        now: DateTime<Utc>,
    ) -> (Standing, Change) {
        let mut seen = self.locked();
        let before = seen.breaker.outage();
        seen.breaker = seen.breaker.after(delivery, outcome, now, rand::random());
        match (before, seen.breaker.outage()) {
            (None, Some(outage)) => (Standing::Down, Change::Down(outage)),
            (Some(_), Some(_)) => (Standing::Down, Change::None),
            (Some(outage), None) => (Standing::Works, Change::Works(outage)),
            (None, None) => (Standing::Works, Change::None),
        }
    }
}
