//! The memory: what was listed, what is owed, what was handed over. Intake and outbox meet here and nowhere else.
//!
//! The invariants, each kept by one transaction and checked by `tests/it/world.rs` after every test:
//!
//! 1. An event id is admitted once: the first listing makes its row, every later one only a sighting.
//! 2. issued = queued + claimed + held + parked + dead + done + skipped, for every sink, always: a delivery is never deleted
//!    while it is unsettled, and never leaves one state without entering another.
//! 3. An event without a delivery has a reason in `skipped`; an event with one has none.
//! 4. A claim is durable before its effect, and carries the owner's epoch and the attempt's number: at most one claim
//!    of a delivery is live, and only the newest one may settle it.
//! 5. `done` is final. A person's resend is a new delivery with the next ordinal.
//! 6. *Complete-to* moves only when a sweep has reached its end, in the transaction that says so.
//! 7. A body is kept exactly while a delivery of its event waits or is held, and while one that waited is attempted.
//!    What a sink takes as soon as it is fetched is claimed without one.
//! 8. An event is owed a fetch exactly while a delivery of it is queued and its body is not here.
//! 9. Of a key that a sink keeps in order at most one delivery is claimed or may be (see `order`).
//! 10. What a program has said is kept, sealed, only while its delivery is neither done nor skipped.
//! 11. What a parked delivery waits for is kept exactly while it is parked, and a clinic's pause as long as one waits for it.
//! 12. A delivery to the stream has one frame at most; see `frames` for their numbers.
//! 13. Where the audit log is on, an attempt that has ended has exactly one record, waiting or in a file.
//!
//! There is no recovery code: what a crash leaves are rows that the next pass takes up by the same lines.

mod attest;
mod choice;
mod clocks;
mod crosswalk;
mod details;
mod frames;
mod intake;
mod jobs;
mod lanes;
mod late;
mod order;
mod outbox;
mod output;
mod parked;
mod prune;
mod query;
mod restore;
mod sinks;
mod treatments;
mod unkept;

use std::rc::Rc;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::types::Value;
use rusqlite::vtab::array::Array;

use crate::audit::Audit;
use crate::store::{Epoch, Store};

pub use choice::{Choice, DeliveryFilter, DeliveryOf};
pub use clocks::{Doubt, Heard, Watch};
pub use crosswalk::{Gap, Looked, Waiting};
pub use details::{Detail, Fetched, Owed, Owing, Taker};
pub use frames::{Extent, FrameLog, FramePage, FrameRow, IdDigest};
pub use intake::{Admitted, Found, Page, Progress};
pub use jobs::{Asked, Job, JobLane, JobRequest, JobTotals};
pub use lanes::{LaneState, SweepEnd};
pub use outbox::{Claim, Settled, Settlement, Ticket};
pub use output::Said;
pub use parked::PausedClinic;
pub use prune::Pruned;
pub use query::{DeliveryRow, EventFilter, EventRow, LaneRow, Query, Resend};
pub use restore::Restored;
pub use sinks::{Mode, Next, Reassigned, SinkRow};
pub use treatments::{ItemState, PostedBatch, PostedItem};
pub use unkept::{Brought, InHand, Wanted};

/// An event of a sweep that has not ended may be claimed after this time all the same: a long sweep must not hold
/// back what it found first.
const LONGEST_WAIT_FOR_SWEEP: TimeDelta = TimeDelta::seconds(30);

/// The ledger's number of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub i64);

/// The ledger's number of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SinkId(pub i64);

/// The ledger's number of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(pub i64);

/// The ledger in the hands of its owner: the only one who admits, claims and settles.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    epoch: Epoch,
    audit: Audit,
}

impl Ledger {
    /// The ledger of an owned store.
    pub fn new(store: Store, epoch: Epoch) -> Self {
        Self {
            store,
            epoch,
            audit: Audit::off(),
        }
    }

    /// The same, recording what is done.
    #[must_use]
    pub fn audited(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// The questions that anybody may ask.
    pub fn query(&self) -> Query {
        Query::new(self.store.clone()).audited(self.audit.clone())
    }
}

/// Where a body is sealed to: it opens only in its own row.
fn body_place(event: EventKey) -> String {
    format!("body/{}", event.0)
}

/// Numbers as one parameter, for `IN rarray(?)`: one statement over five hundred rows takes a third of the time of five
/// hundred statements.
fn numbers(numbers: impl IntoIterator<Item = i64>) -> Array {
    Rc::new(numbers.into_iter().map(Value::Integer).collect())
}

fn ms(at: DateTime<Utc>) -> i64 {
    at.timestamp_millis()
}

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// Days since 1970, by UTC.
fn day(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(86_400)
}

/// A value of the ledger that its own writers cannot have produced: the file was changed by somebody else.
fn damaged(column: usize, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        rusqlite::types::Type::Text,
        format!("the ledger holds {what}").into(),
    )
}
