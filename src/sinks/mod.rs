//! Where events go: one file per kind, and the port that they share.
//!
//! A sink makes one attempt and says how it ended; it never retries, never sees the ledger, and never decides what
//! an outcome means for a delivery. It is handed only what the ledger has claimed durably before.

pub mod address;
mod any;
mod exec;
mod file;
mod owned_file;
mod sqlite;
mod stdout;
mod stream;
mod webhook;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::domain::{DeliveryId, EventId, Outcome, Output, Parcel};

pub use any::{AnySink, OpenError};
pub use exec::ExecSink;
pub use file::FileSink;
pub use sqlite::SqliteSink;
pub use stdout::{StdoutError, StdoutSink};
pub use stream::{Frames, NewFrame, SharedFrames, StreamSink};
pub use webhook::sfs::{
    Crossed, Crosswalk, Ended, Post, Sending, SharedCrosswalk, SharedTreatments, Told, Treatments,
    Uncrossed, Unnoted, Untracked,
};
pub use webhook::{Secrets, Signing, WebhookError, WebhookSink};

/// A sink that cannot go on until a person has looked: its deliveries wait, other sinks run on. The text says what
/// was found, what was expected, and the command that mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stopped(pub String);

/// What an exact sink has made durable, written into the ledger in the transaction that settles the deliveries: the
/// point behind which it rolls forward after a crash. JSON text of the sink's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint(pub String);

/// A delivery that was claimed by an owner that is gone: whether its event arrived is for the sink to find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Which attempt of it was in flight, from 1.
    pub attempt: u32,
    /// Its event.
    pub event: EventId,
}

/// An orphan of which nothing can be known: `on_doubt` decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubtful {
    /// The delivery.
    pub delivery: DeliveryId,
    /// What became of its attempt, as far as it is known. For logs and people: no receiver's text.
    pub reason: String,
}

impl Doubtful {
    /// What is said of an attempt that left no trace.
    const STOPPED: &str = "the daemon ended while this was being delivered";
}

/// Keeps what a program says while it runs, so that a crash does not take it along. Whoever makes it has the ledger,
/// and seals; a sink only hands over. Best effort: no delivery fails because this does.
pub trait Recorder: Send + Sync + 'static {
    /// Keeps `output` as all that this attempt has said, in the place of what was kept of the delivery before.
    fn record(&self, delivery: DeliveryId, attempt: u32, output: Output) -> BoxFuture<'_, ()>;

    /// What was kept of this attempt; nothing if there is nothing.
    fn recorded(&self, delivery: DeliveryId, attempt: u32) -> BoxFuture<'_, Output>;
}

/// A recorder that all sinks share.
pub type SharedRecorder = Arc<dyn Recorder>;

/// Records nothing: for an attempt of which the ledger knows nothing.
pub struct Unrecorded;

impl Frames for Unrecorded {
    fn append(&self, _: Vec<NewFrame>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Err("nothing is recorded".to_owned())))
    }

    fn shown(&self, _: Vec<DeliveryId>) -> BoxFuture<'_, Result<HashSet<DeliveryId>, String>> {
        Box::pin(std::future::ready(Ok(HashSet::new())))
    }
}

impl Recorder for Unrecorded {
    fn record(&self, _: DeliveryId, _: u32, _: Output) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn recorded(&self, _: DeliveryId, _: u32) -> BoxFuture<'_, Output> {
        Box::pin(std::future::ready(Output::default()))
    }
}

/// What sinks ask of the rest of the program: each by a port, so that no sink knows the ledger.
#[derive(Clone)]
pub struct Ports {
    /// Keeps what programs and receivers say.
    pub recorder: SharedRecorder,
    /// Keeps the stream's frames.
    pub frames: SharedFrames,
    /// Knows the EMR's own ids.
    pub crosswalk: SharedCrosswalk,
    /// Remembers what an EMR was sent.
    pub treatments: SharedTreatments,
}

impl Default for Ports {
    /// Those of an attempt beside the daemon, without the ledger.
    fn default() -> Self {
        Self {
            recorder: Arc::new(Unrecorded),
            frames: Arc::new(Unrecorded),
            crosswalk: Arc::new(Uncrossed),
            treatments: Arc::new(Untracked),
        }
    }
}

/// What a sink found when it rolled forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Orphans that are shown already: they are done.
    pub adopted: Vec<DeliveryId>,
    /// Orphans that were certainly never shown: they are due again.
    pub absent: Vec<DeliveryId>,
    /// Orphans of which nothing can be known: `on_doubt` decides.
    pub doubtful: Vec<Doubtful>,
    /// The new checkpoint, if this sink keeps one.
    pub checkpoint: Option<Checkpoint>,
}

impl Resumed {
    /// What a sink says that cannot look: nothing can be known of any orphan.
    fn all_doubtful(orphans: Vec<Orphan>) -> Self {
        let doubtful = |orphan: Orphan| Doubtful {
            delivery: orphan.delivery,
            reason: Doubtful::STOPPED.to_owned(),
        };
        Self {
            adopted: Vec::new(),
            absent: Vec::new(),
            doubtful: orphans.into_iter().map(doubtful).collect(),
            checkpoint: None,
        }
    }
}

/// How a batch ended: one outcome per parcel, in their order.
pub struct Delivered {
    /// One per parcel.
    pub outcomes: Vec<Outcome>,
    /// The new checkpoint, if this sink keeps one.
    pub checkpoint: Option<Checkpoint>,
    /// The HTTP status of each parcel's answer, where there was one; empty for a sink that does not ask over HTTP.
    pub status_codes: Vec<Option<u16>>,
}

/// The port of every sink.
pub trait Sink: Send + Sync + 'static {
    /// How many parcels one call of [`Sink::deliver`] takes at most.
    fn batch(&self) -> usize;

    /// How many calls of [`Sink::deliver`] may run at once.
    fn concurrency(&self) -> usize;

    /// Whether [`Sink::resume`] finds out of every orphan whether it was shown. Then more may be claimed than is
    /// attempted: what was not is simply due again.
    fn is_exact(&self) -> bool {
        false
    }

    /// Whether an attempt may end parked until a time that has to be watched ([`Outcome::Park`]).
    fn may_park(&self) -> bool {
        false
    }

    /// Called once, before the first [`Sink::deliver`]: settles what a crash left open.
    fn resume(
        &self,
        checkpoint: Option<Checkpoint>,
        orphans: Vec<Orphan>,
    ) -> impl Future<Output = Result<Resumed, Stopped>> + Send {
        // An opaque or keyed sink keeps no checkpoint and cannot know what its receiver has.
        drop(checkpoint);
        std::future::ready(Ok(Resumed::all_doubtful(orphans)))
    }

    /// One attempt for each parcel. `now` is the clock's: signatures and rotation use it. `Err`: the sink
    /// needs a person. The parcels stay claimed, and the next [`Sink::resume`] gets them as orphans: after a failed
    /// write that could not be taken back, only the sink can find out what was shown.
    fn deliver(
        &self,
        parcels: &[Parcel],
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Delivered, Stopped>> + Send;
}
