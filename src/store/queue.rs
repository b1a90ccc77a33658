//! Group commit: a thread that owns a connection, takes every write that waits, runs them in one transaction, and
//! wakes the callers after its commit.
//!
//! `fsync` costs the same for one row as for five hundred; without this, `synchronous = FULL` would make polling wait
//! for the disk at every event. Where several pieces share a transaction, each runs in a savepoint, so that one that
//! fails takes nothing else with it. If the commit itself fails (a full disk), every caller of that batch learns it,
//! and nothing of it is there.

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
    /// Runs inside the transaction; `Err` asks for its savepoint to be rolled back.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells the caller. `Err` overrides whatever [`Work::run`] found.
    fn answer(self: Box<Self>, committed: Result<(), Unavailable>);
}

struct Call<T, F> {
    work: Option<F>,
    found: Result<T, Unavailable>,
    caller: oneshot::Sender<Result<T, Unavailable>>,
}

impl<T, F> Work for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(work) = self.work.take() else {
            return Ok(());
        };
        match work(connection) {
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
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let call = Call {
            work: Some(work),
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
        let committed = commit(connection, &mut batch);
        if committed.is_err() {
            // Leaves the connection usable for the next batch; what failed is told to every caller below.
            drop(roll_back(connection));
        }
        let committed = committed.map_err(|error| Unavailable::because(&error));
        for work in batch {
            work.answer(committed.clone());
        }
    }
}

fn commit(connection: &Connection, batch: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    if let [alone] = batch {
        if alone.run(connection).is_err() {
            // Its error is in its answer; the transaction holds nothing else.
            return roll_back(connection);
        }
        return connection.prepare_cached("COMMIT")?.execute(()).map(drop);
    }
    for work in batch {
        connection.prepare_cached("SAVEPOINT work")?.execute(())?;
        if let Err(error) = work.run(connection) {
            if connection.is_autocommit() {
                // SQLite gave up the whole transaction (full disk, I/O error): nobody's work is there.
                return Err(error);
            }
            connection.prepare_cached("ROLLBACK TO work")?.execute(())?;
        }
        connection.prepare_cached("RELEASE work")?.execute(())?;
    }
    connection.prepare_cached("COMMIT")?.execute(()).map(drop)
}

/// Undoes the transaction, unless SQLite has done so already.
fn roll_back(connection: &Connection) -> rusqlite::Result<()> {
    if connection.is_autocommit() {
        return Ok(());
    }
    connection.prepare_cached("ROLLBACK")?.execute(()).map(drop)
}
