//! Group commit: a thread that owns a connection, takes every write that waits, runs them in one transaction, and
//! wakes the callers after its commit.
//!
//! `fsync` costs the same for one row as for five hundred; without this, `synchronous = FULL` would make polling wait
//! for the disk at every event. Where one of several pieces that share a transaction fails, all of it is undone and
//! each is run again in a transaction of its own, so that the one takes nothing else with it. (A savepoint around each
//! piece would do so too, and has SQLite copy every page before its change, for a failure that hardly ever comes.) If
//! the commit itself fails (a full disk), every caller of that batch learns it, and nothing of it is there.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// The most pieces of work in one transaction, and how long it takes more of them: bounds how long the first waits.
/// While eight thousand events are admitted, the details of the first shall be fetched; but ids have no order, and
/// each transaction that admits some writes most pages of their index.
const LARGEST_BATCH: usize = 512;
const LONGEST_BATCH: Duration = Duration::from_millis(10);
/// So long work that may wait has for others to join it.
const GATHER: Duration = Duration::from_millis(2);
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

/// When a piece of work has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// As soon as may be.
    Next,
    /// After whatever else waits: a listing of a thousand pages must not hold back a token that was rotated, or an
    /// event that was delivered.
    Later,
}

type Piece = (Turn, Box<dyn Work>);

/// The sending end of a connection's thread.
#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Piece>);

impl Queue {
    /// A thread that writes in transactions. It closes its connection after `reading` has ended: whoever closes the last
    /// one puts the write-ahead log away, and of two at once neither does; then the next start reads all of it.
    pub(super) fn group_commit(
        name: &str,
        connection: Connection,
        reading: JoinHandle<()>,
    ) -> io::Result<(Self, Closing)> {
        let (queue, thread) = Self::spawn(name, move |receiver| {
            commit_batches(&connection, receiver);
            // It can only have panicked, which closes its connection too.
            drop(reading.join());
        })?;
        let closing = Closing {
            senders: queue.0.downgrade(),
            thread: Some(thread),
        };
        Ok((queue, closing))
    }

    /// A thread that only reads, each piece of work in one snapshot: no waiting for others' writes.
    pub(super) fn read_only(
        name: &str,
        connection: Connection,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        Self::spawn(name, move |mut receiver| {
            while let Some((_, mut work)) = receiver.blocking_recv() {
                // An error is in the answer already. Without the transaction each statement would lock for itself.
                drop(execute(&connection, "BEGIN"));
                drop(work.run(&connection));
                drop(execute(&connection, "COMMIT"));
                work.answer(Ok(()));
            }
        })
    }

    fn spawn(
        name: &str,
        body: impl FnOnce(mpsc::Receiver<Piece>) + Send + 'static,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(receiver))?;
        Ok((Self(sender), thread))
    }

    /// Runs `work` on the thread; returns when its transaction is durable.
    pub(super) async fn run<T, F>(&self, turn: Turn, work: F) -> Result<T, Unavailable>
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
            .send((turn, Box::new(call)))
            .await
            .map_err(|_| Unavailable::closed())?;
        answer.await.map_err(|_| Unavailable::closed())?
    }
}

/// Dropped after the last [`Queue`], it waits until the thread has put everything away; while there are others, it does
/// not.
pub(super) struct Closing {
    senders: mpsc::WeakSender<Piece>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if self.senders.strong_count() == 0
            && let Some(thread) = self.thread.take()
        {
            // A panic has been reported by its own hook.
            drop(thread.join());
        }
    }
}

/// What waits for the thread.
struct Waiting {
    receiver: mpsc::Receiver<Piece>,
    next: VecDeque<Box<dyn Work>>,
    later: VecDeque<Box<dyn Work>>,
}

impl Waiting {
    /// The first piece of a transaction; `None` when nobody can send any more. What waited through the last one comes
    /// first: one piece of each transaction, so that it is held back and never kept out.
    fn first(&mut self) -> Option<Box<dyn Work>> {
        if let Some(work) = self.later.pop_front() {
            return Some(work);
        }
        if let Some(work) = self.next.pop_front() {
            return Some(work);
        }
        let (turn, work) = self.receiver.blocking_recv()?;
        if turn == Turn::Later {
            // What may wait gathers: each transaction waits for the disk once.
            std::thread::park_timeout(GATHER);
        }
        Some(work)
    }

    /// A further piece of it.
    fn another(&mut self) -> Option<Box<dyn Work>> {
        while self.next.len() + self.later.len() < WAITING
            && let Ok((turn, work)) = self.receiver.try_recv()
        {
            match turn {
                Turn::Next => self.next.push_back(work),
                Turn::Later => self.later.push_back(work),
            }
        }
        self.next.pop_front().or_else(|| self.later.pop_front())
    }
}

fn commit_batches(connection: &Connection, receiver: mpsc::Receiver<Piece>) {
    let mut waiting = Waiting {
        receiver,
        next: VecDeque::new(),
        later: VecDeque::new(),
    };
    while let Some(first) = waiting.first() {
        let mut batch = Vec::new();
        match commit(connection, first, || waiting.another(), &mut batch) {
            Err(Failed::OnePiece(_)) if batch.len() > 1 => {
                for work in batch {
                    let mut alone = Vec::new();
                    let committed = commit(connection, work, || None, &mut alone);
                    answer(alone, committed);
                }
            }
            committed => answer(batch, committed),
        }
    }
}

fn answer(batch: Vec<Box<dyn Work>>, committed: Result<(), Failed>) {
    let committed = committed.map_err(Unavailable::from);
    for work in batch {
        work.answer(committed.clone());
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

/// `first`, and whatever else waits, in one transaction, or nothing of it; the connection is good for the next either
/// way. `batch` has the pieces that were begun.
fn commit(
    connection: &Connection,
    first: Box<dyn Work>,
    next: impl FnMut() -> Option<Box<dyn Work>>,
    batch: &mut Vec<Box<dyn Work>>,
) -> Result<(), Failed> {
    let done = run_all(connection, first, next, batch);
    if done.is_err() && !connection.is_autocommit() {
        // What failed is told to the callers.
        drop(execute(connection, "ROLLBACK"));
    }
    done
}

#[allow(
    clippy::disallowed_methods,
    reason = "measures work, and decides nothing that a test could ask for"
)]
fn run_all(
    connection: &Connection,
    first: Box<dyn Work>,
    mut next: impl FnMut() -> Option<Box<dyn Work>>,
    batch: &mut Vec<Box<dyn Work>>,
) -> Result<(), Failed> {
    let begun = Instant::now();
    let mut waiting = Some(first);
    if let Err(error) = execute(connection, "BEGIN IMMEDIATE") {
        batch.extend(waiting);
        return Err(Failed::Whole(error));
    }
    while let Some(mut work) = waiting.take() {
        let ran = work.run(connection);
        batch.push(work);
        if let Err(error) = ran {
            // SQLite gives up the transaction by itself where nothing can be written: full disk, I/O error.
            return Err(if connection.is_autocommit() {
                Failed::Whole(error)
            } else {
                Failed::OnePiece(error)
            });
        }
        if batch.len() < LARGEST_BATCH && begun.elapsed() < LONGEST_BATCH {
            waiting = next();
        }
    }
    execute(connection, "COMMIT").map_err(Failed::Whole)
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute(()).map(drop)
}
