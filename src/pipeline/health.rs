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
    /// A delivery was set aside for the order of the others since the last yes.
    set_aside: bool,
    /// The ledger knows of the outage.
    noted: bool,
}

/// What an attempt has changed for the sink as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// Its receiver does not work.
    Down(Outage),
    /// It still does not.
    StillDown(Outage),
    /// It works again, after this outage.
    Works(Outage),
}

impl Health {
    fn locked(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the ledger knows: a restart does not forget an outage, and a person may have ended it.
    pub(super) fn remember(&self, outage: Option<Outage>) {
        let mut seen = self.locked();
        if seen.breaker.outage() != outage {
            seen.breaker = outage.map_or_else(Breaker::default, Breaker::Open);
        }
        seen.noted = true;
    }

    /// The ledger knows of the outage now.
    pub(super) fn noted(&self) {
        self.locked().noted = true;
    }

    /// The ledger knows of no outage: if it did, a person has ended it. Gives whether that is so.
    pub(super) fn is_resumed(&self) -> bool {
        let mut seen = self.locked();
        if seen.noted {
            seen.breaker = Breaker::default();
        }
        seen.noted
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
        seen.set_aside &= *outcome != Outcome::Yes;
        match (before, seen.breaker.outage()) {
            (None, Some(outage)) => {
                seen.noted = false;
                (Standing::Down, Change::Down(outage))
            }
            (Some(before), Some(outage)) if before == outage => (Standing::Down, Change::None),
            (Some(_), Some(outage)) => (Standing::Down, Change::StillDown(outage)),
            (Some(outage), None) => (Standing::Works, Change::Works(outage)),
            (None, None) if seen.set_aside => (Standing::Doubtful, Change::None),
            (None, None) => (Standing::Works, Change::None),
        }
    }

    /// A delivery was set aside, so that later ones of its key go on.
    pub(super) fn set_aside(&self) {
        self.locked().set_aside = true;
    }
}
