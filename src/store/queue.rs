//! Group commit: a thread that owns a connection, takes every write that waits, runs them in one transaction, and
//! wakes the callers after its commit.
//!
//! `fsync` costs the same for one row as for five hundred; without this, `synchronous = FULL` would make polling wait
//! for the disk at every event. Where one of several pieces that share a transaction fails, all of it is undone and
//! each is run again in a transaction of its own, so that the one takes nothing else with it. (A savepoint around each
//! piece would do so too, and has SQLite copy every page before its change, for a failure that hardly ever comes.) If
//! the commit itself fails (a full disk), every caller of that batch learns it, and nothing of it is there.

use std::io;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// The most pieces of work in one transaction: bounds how long the first of them waits.
const LARGEST_BATCH: usize = 512;
/// How many pieces of work may wait before callers do.
const WAITING: usize = 4096;

/// The database did not do it: full, read-only, damaged, or shutting down. Nothing was changed; trying again later is
/// right, and going on as if it had been done is wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger cannot be used: {reason}")]
pub struct Unavailable {
    reason: Arc<str>,
}

impl Unavailable {
    fn because(error: &rusqlite::Error) -> Self {
        Self {
            reason: error.to_string().into(),
        }
    }

    fn closed() -> Self {
        Self {
            reason: "it is closed".into(),
        }
    }
}

/// One piece of work on the connection, in two halves: done inside the transaction, answered after its commit.
pub trait Work: Send {
    /// Runs inside the transaction; again if that had to be undone.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells the caller. `Err` overrides whatever [`Work::run`] found.
    fn answer(self: Box<Self>, committed: Result<(), Unavailable>);
}

struct Call<T, F> {
    work: F,
    found: Result<T, Unavailable>,
    caller: oneshot::Sender<Result<T, Unavailable>>,
}

impl<T, F> Work for Call<T, F>
where
    T: Send,
    F: Fn(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        match (self.work)(connection) {
            Ok(value) => {
                self.found = Ok(value);
                Ok(())
            }
            Err(error) => {
                self.found = Err(Unavailable::because(&error));
                Err(error)
            }
        }
    }

    fn answer(self: Box<Self>, committed: Result<(), Unavailable>) {
        // A caller that has gone away (a task stopped at shutdown) wants no answer.
        drop(self.caller.send(committed.and(self.found)));
    }
}

/// The sending end of a connection's thread.
#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Box<dyn Work>>);

impl Queue {
    /// A thread that writes in transactions.
    pub(super) fn group_commit(name: &str, connection: Connection) -> io::Result<Self> {
        Self::spawn(name, move |receiver| commit_batches(&connection, receiver))
    }

    /// A thread that only reads: no transaction, no waiting for others' writes.
    pub(super) fn read_only(name: &str, connection: Connection) -> io::Result<Self> {
        Self::spawn(name, move |mut receiver| {
            while let Some(mut work) = receiver.blocking_recv() {
                // The error is in the answer already.
                drop(work.run(&connection));
                work.answer(Ok(()));
            }
        })
    }

    fn spawn(
        name: &str,
        body: impl FnOnce(mpsc::Receiver<Box<dyn Work>>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(receiver))?;
        Ok(Self(sender))
    }

    /// Runs `work` on the thread; returns when its transaction is durable.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, Unavailable>
    where
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let call = Call {
            work,
            found: Err(Unavailable::closed()),
            caller,
        };
        self.0
            .send(Box::new(call))
            .await
            .map_err(|_| Unavailable::closed())?;
        answer.await.map_err(|_| Unavailable::closed())?
    }
}

fn commit_batches(connection: &Connection, mut receiver: mpsc::Receiver<Box<dyn Work>>) {
    while let Some(first) = receiver.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < LARGEST_BATCH {
            let Ok(next) = receiver.try_recv() else { break };
            batch.push(next);
        }
        match commit(connection, &mut batch) {
            Err(Failed::OnePiece(_)) if batch.len() > 1 => {
                for mut work in batch {
                    let committed = commit(connection, std::slice::from_mut(&mut work));
                    work.answer(committed.map_err(Unavailable::from));
                }
            }
            committed => {
                let committed = committed.map_err(Unavailable::from);
                for work in batch {
                    work.answer(committed.clone());
                }
            }
        }
    }
}

/// Why nothing of a transaction is there.
enum Failed {
    /// One piece of work could not be done; the others might.
    OnePiece(rusqlite::Error),
    /// Nothing can be committed.
    Whole(rusqlite::Error),
}

impl From<Failed> for Unavailable {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::OnePiece(error) | Failed::Whole(error) => Self::because(&error),
        }
    }
}

/// All of the batch in one transaction, or nothing of it; the connection is good for the next either way.
fn commit(connection: &Connection, batch: &mut [Box<dyn Work>]) -> Result<(), Failed> {
    let done = run_all(connection, batch);
    if done.is_err() && !connection.is_autocommit() {
        // What failed is told to the callers.
        drop(execute(connection, "ROLLBACK"));
    }
    done
}

fn run_all(connection: &Connection, batch: &mut [Box<dyn Work>]) -> Result<(), Failed> {
    execute(connection, "BEGIN IMMEDIATE").map_err(Failed::Whole)?;
    for work in batch {
        if let Err(error) = work.run(connection) {
            // SQLite gives up the transaction by itself where nothing can be written: full disk, I/O error.
            return Err(if connection.is_autocommit() {
                Failed::Whole(error)
            } else {
                Failed::OnePiece(error)
            });
        }
    }
    execute(connection, "COMMIT").map_err(Failed::Whole)
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute(()).map(drop)
}
