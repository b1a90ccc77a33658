//! Which deliveries go alone when they are tried again: those that were refused, or left a post in doubt. One event that
//! always makes the EMR fail must not take others with it again and again. What only had to wait goes with others as before.
//!
//! Not durable: after a start such an event costs one more halving, and no more.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::domain::{DeliveryId, Outcome};

/// So many are remembered; beyond, the oldest deliveries are forgotten.
const MOST: usize = 4096;

/// The deliveries that go alone.
#[derive(Default)]
pub(in super::super) struct Alone(Mutex<BTreeSet<DeliveryId>>);

impl Alone {
    /// Whether this one goes alone now.
    pub(super) fn goes(&self, delivery: DeliveryId) -> bool {
        let alone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        alone.contains(&delivery)
    }

    /// Notes how one has ended. Until it is over, what went alone once goes alone: a turn that ends before its post has
    /// told nothing of it.
    pub(super) fn note(&self, delivery: DeliveryId, outcome: &Outcome) {
        let mut alone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Outcome::No { .. } | Outcome::Doubt { .. } => alone.insert(delivery),
            Outcome::Yes | Outcome::Park { .. } | Outcome::Skip { .. } => alone.remove(&delivery),
            Outcome::Later { .. }
            | Outcome::NotSent { .. }
            | Outcome::ClinicRefused { .. }
            | Outcome::Gone { .. } => return,
        };
        if alone.len() > MOST {
            alone.pop_first();
        }
    }
}
