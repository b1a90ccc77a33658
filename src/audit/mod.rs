//! The audit log: who was given which event, when, by which way. A chain of rows in day files, with its head in the
//! ledger.
//!
//! What it guarantees: a record commits in the transaction of what it attests ([`Attested::insert`]), so that there is
//! exactly one of each attempt that ended, whatever crashes; one writer carries records to the files in their order,
//! and a crash in between writes the same bytes again; whatever is changed, cut off, taken out or put in afterwards by
//! somebody without the seal key is found and named ([`verify`]). Where it is required, nothing new is claimed while it
//! cannot be written ([`Audit::holds_back`]).
//!
//! To record something that changes nothing else: `audit.record(vec![record]).await`, where `record` is
//! `audit.entry(Action::Config, now)` for the actor of this process, or `Record::new(&Actor::Stream(token), Action::StreamOpen,
//! now)` for another, with what is known of it: `.clinic(…).at("GET", path).note("key", value)`. Together with a change of
//! the ledger: `let attested = audit.attest(|| records)`, and `attested.insert(c)` within its transaction. Where the log is
//! off, `record` and `attest` do nothing; where building a record costs something, ask [`Audit::is_on`] first.

mod chain;
pub mod fhir;
mod folder;
mod polls;
mod record;
mod rows;
pub mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::clock::SharedClock;
use crate::config;
use crate::store::{Store, Unavailable};

use chain::Key;
use folder::Folder;
use polls::Polls;

pub use chain::{Link, Row};
pub use folder::Unwritten;
pub use record::{Action, Actor, Record};
pub use rows::{Attested, Damaged, Head, Standing, standing};

/// The log, as all parts share it: cheap to clone.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    actor: Actor,
    store: Store,
    key: Key,
    settings: config::Audit,
    folder: Folder,
    polls: Polls,
    clock: SharedClock,
    /// Rung when records wait.
    wake: Notify,
    /// Rung when what was held back may go on.
    blocked: AtomicBool,
    /// One carries at a time.
    turn: tokio::sync::Mutex<writer::Turn>,
    /// So many bytes of records may wait where the log need not be written.
    most_waiting: i64,
}

impl Audit {
    /// Nothing is recorded.
    pub fn off() -> Self {
        Self::default()
    }

    /// The log of `settings`, in the hands of `actor`; off where there are none. Only the owner of the state directory
    /// may write it ([`Audit::begin`], [`Audit::run`]): others leave their records in the ledger.
    pub fn new(
        settings: Option<&config::Audit>,
        store: &Store,
        clock: &SharedClock,
        actor: Actor,
    ) -> Self {
        Self(settings.map(|settings| {
            Arc::new(Inner {
                actor,
                store: store.clone(),
                key: Key::new(store.sealer()),
                settings: settings.clone(),
                folder: Folder::new(&settings.directory),
                polls: Polls::default(),
                clock: Arc::clone(clock),
                wake: Notify::new(),
                blocked: AtomicBool::new(settings.required),
                turn: tokio::sync::Mutex::default(),
                most_waiting: writer::MOST_WAITING,
            })
        }))
    }

    /// Whether anything is recorded: else it need not be built.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether nothing new may be claimed: the log is required, and cannot be written.
    pub fn holds_back(&self) -> bool {
        let inner = self.0.as_ref();
        inner.is_some_and(|inner| inner.blocked.load(Ordering::Relaxed))
    }

    /// A record by the actor of this log, to be filled in.
    pub fn entry(&self, action: Action, now: DateTime<Utc>) -> Record {
        let actor = self.0.as_ref().map(|inner| &inner.actor);
        Record::new(actor.unwrap_or(&Actor::Daemon), action, now)
    }

    /// The keyed digest of an event as Fullscript sent it.
    pub fn digest(&self, payload: &[u8]) -> Option<String> {
        self.0.as_ref().map(|inner| inner.key.digest(payload))
    }

    /// What is to commit with what it attests; nothing is built where the log is off.
    pub fn attest(&self, records: impl FnOnce() -> Vec<Record>) -> Attested {
        if self.is_on() {
            Attested::of(&records())
        } else {
            Attested::default()
        }
    }

    /// Records what changes nothing else in the ledger. Durable when it returns.
    pub async fn record(&self, records: Vec<Record>) -> Result<(), Unavailable> {
        self.commit(self.attest(|| records)).await
    }

    /// Commits records that nothing else commits with.
    pub async fn commit(&self, attested: Attested) -> Result<(), Unavailable> {
        match &self.0 {
            Some(inner) if attested.is_some() => {
                inner.store.write(move |c| attested.insert(c)).await?;
                inner.wake.notify_one();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Records wait: the writer need not look for them.
    pub fn wake(&self) {
        if let Some(inner) = &self.0 {
            inner.wake.notify_one();
        }
    }

    /// Where the files are.
    pub fn directory(&self) -> Option<&Path> {
        let inner = self.0.as_ref();
        inner.map(|inner| inner.settings.directory.as_path())
    }
}
