//! The memory of what an EMR was sent: without it a second message about a treatment would be entered as a second order.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use crate::domain::{ClinicName, DeliveryId, EventId, SinkName};

/// A treatment that is about to be posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// `<plan or order id>:<variant id>`.
    pub guid: String,
    /// The delivery that carries it.
    pub delivery: DeliveryId,
    /// Its event,
    pub event: EventId,
    /// and when that happened: an older one never undoes a later one.
    pub created_at: DateTime<Utc>,
    /// Whether its plan or order came to be with that event.
    pub begins: bool,
    /// Whether it may be billed, if it is the first message about it.
    pub billed: bool,
}

/// Treatments that are about to be posted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// By which sink.
    pub sink: SinkName,
    /// Whose they are.
    pub clinic: ClinicName,
    /// What a late result will name: `object.id`.
    pub batch: String,
    /// When it is posted.
    pub posted_at: DateTime<Utc>,
    /// Until when a late result is waited for.
    pub deadline: Option<DateTime<Utc>>,
    /// What it carries, each guid once.
    pub items: Vec<Sending>,
}

/// What the EMR may know of a treatment already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Never,
    /// An earlier message, which may have arrived, with this `billed`. Also where there may have been one that is
    /// forgotten.
    Before {
        /// As it was said first; if that is forgotten, as it would be now.
        billed: bool,
    },
    /// A message of a later event: this one is not to be sent.
    Later,
}

/// How a post has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was accepted.
    Accepted,
    /// It has certainly had no effect.
    Refused,
}

/// The memory cannot be read or written now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what was sent before cannot be noted: {0}")]
pub struct Unnoted(pub String);

/// The memory. Whoever makes it has the ledger; a sink only asks.
pub trait Treatments: Send + Sync + 'static {
    /// Notes, durably, that these may arrive from now on, and says of each what may have arrived before.
    fn sending(&self, post: Post) -> BoxFuture<'_, Result<Vec<Told>, Unnoted>>;

    /// Notes how a post has ended. A post whose end is not known, or was not noted, may have arrived.
    fn ended(&self, post: Post, ended: Ended) -> BoxFuture<'_, Result<(), Unnoted>>;
}

/// A memory that all sinks share.
pub type SharedTreatments = Arc<dyn Treatments>;

/// Notes nothing, so that nothing is sent: for an attempt beside the daemon.
pub struct Untracked;

impl Treatments for Untracked {
    fn sending(&self, _: Post) -> BoxFuture<'_, Result<Vec<Told>, Unnoted>> {
        let why = Unnoted("only the daemon has a ledger".to_owned());
        Box::pin(std::future::ready(Err(why)))
    }

    fn ended(&self, _: Post, _: Ended) -> BoxFuture<'_, Result<(), Unnoted>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
