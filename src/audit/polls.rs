//! What is polled, counted: one summary per lane and hour, because six years of single polls would be 10⁹ rows.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::record::{Action, Record};
use super::{Actor, Audit};
use crate::domain::Lane;

/// Of one lane, since its last summary.
#[derive(Clone, Copy, Default)]
struct Counted {
    requests: u64,
    failed: u64,
}

/// What is counted, per clinic and category.
#[derive(Default)]
pub(super) struct Polls(Mutex<Hour>);

#[derive(Default)]
struct Hour {
    /// In hours since 1970 UTC.
    begun: i64,
    lanes: BTreeMap<(String, String), Counted>,
}

impl Polls {
    fn count(&self, lane: &Lane, failed: bool, now: DateTime<Utc>) {
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if polls.lanes.is_empty() {
            polls.begun = hour(now);
        }
        let key = (lane.clinic.to_string(), lane.category.to_string());
        let counted = polls.lanes.entry(key).or_default();
        counted.requests += 1;
        counted.failed += u64::from(failed);
    }

    /// The summaries, if an hour has ended, or the program does.
    pub(super) fn summaries(&self, ending: bool, now: DateTime<Utc>) -> Vec<Record> {
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !ending && polls.begun == hour(now) {
            return Vec::new();
        }
        let counted = std::mem::take(&mut polls.lanes).into_iter();
        let records = counted.map(|((clinic, category), counted)| {
            Record::new(&Actor::Daemon, Action::Poll, now)
                .clinic(clinic)
                .at("GET", "/api/events")
                .note("category", category)
                .note("requests", counted.requests)
                .note("failed", counted.failed)
        });
        records.collect()
    }
}

impl Audit {
    /// A page of a lane was asked for. Counted in memory: what a crash takes along is less than an hour of them.
    pub fn polled(&self, lane: &Lane, failed: bool, now: DateTime<Utc>) {
        if let Some(inner) = &self.0 {
            inner.polls.count(lane, failed, now);
        }
    }
}

fn hour(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(3600)
}
