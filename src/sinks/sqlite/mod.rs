//! Rows in the operator's own SQLite database, each event exactly once whatever crashes.
//!
//! A batch and the record of it ([`handed`]) are one transaction, flushed before it is reported. The report carries a
//! [`handed::Mark`], which the ledger stores in the transaction that settles the batch. What a crash leaves between the two is
//! found in the record at the next start, even where the operator has taken the rows away meanwhile.
//!
//! The database is the operator's: he may read it, and write to it, at any time. Of this sink are two tables, its
//! own and the one of the events; where a statement is configured, only its own. Nothing else is touched, and of the
//! database's settings only the journal of one that this sink has made.
//!
//! The caller's part is the same as for a file: the mark that [`Sink::resume`] returns is stored durably before the
//! first [`Sink::deliver`], each delivery's mark before the next, and parcels whose call ended in `Err` stay claimed.

mod batch;
mod handed;
mod meaning;
mod open;
mod statement;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use self::open::Database;
use super::{Checkpoint, Delivered, Orphan, Resumed, Sink, Stopped};
use crate::config::{self, Enrich};
use crate::domain::{Parcel, SinkName};

/// So long a batch waits for another program that writes to the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The sink of `kind = "sqlite"`.
pub struct SqliteSink {
    place: Arc<Place>,
    state: Arc<Mutex<Option<Database>>>,
    enrich: Arc<Enrich>,
}

/// Which database, and under which sink's name.
struct Place {
    sink: SinkName,
    settings: config::SqliteSink,
    busy_timeout: Duration,
}

impl Place {
    fn path(&self) -> &Path {
        &self.settings.path
    }

    /// For what only a person can judge: what was found, and the command that accepts it.
    fn refuse(&self, found: impl std::fmt::Display) -> Stopped {
        Stopped(format!(
            "{}: {found}; look at it, then go on with the database as it is with \
             `fullscript-events sinks accept {}`",
            self.path().display(),
            self.sink
        ))
    }

    /// For what has to be mended: nothing to accept.
    fn failed(&self, found: impl std::fmt::Display) -> Stopped {
        Stopped(format!("{}: {found}", self.path().display()))
    }

    /// For what SQLite has refused.
    fn sqlite(&self, doing: &str, error: &rusqlite::Error) -> Stopped {
        self.failed(format_args!(
            "cannot {doing}: {}",
            meaning::words(meaning::code(error))
        ))
    }
}

impl SqliteSink {
    /// A sink that opens nothing before [`Sink::resume`].
    pub fn new(sink: SinkName, settings: config::SqliteSink) -> Self {
        Self {
            place: Arc::new(Place {
                sink,
                settings,
                busy_timeout: BUSY_TIMEOUT,
            }),
            state: Arc::default(),
            enrich: Arc::default(),
        }
    }

    /// The same, with what the operator says of events.
    #[must_use]
    pub fn enriched(self, enrich: Arc<Enrich>) -> Self {
        Self { enrich, ..self }
    }

    /// Runs the database's work where it may block, with the state to itself. It is not abandoned when the caller is.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place, &mut Option<Database>) -> Result<T, Stopped> + Send + 'static,
    ) -> Result<T, Stopped> {
        let place = Arc::clone(&self.place);
        let state = Arc::clone(&self.state);
        tokio::task::spawn_blocking(move || {
            work(
                &place,
                &mut state.lock().unwrap_or_else(PoisonError::into_inner),
            )
        })
        .await
        // A panic's own words are left out: they may quote what was being written.
        .unwrap_or_else(|_| Err(Stopped("the sqlite sink has failed inside".to_owned())))
    }
}

impl Sink for SqliteSink {
    fn batch(&self) -> usize {
        1024
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn is_exact(&self) -> bool {
        true
    }

    async fn resume(
        &self,
        checkpoint: Option<Checkpoint>,
        orphans: Vec<Orphan>,
    ) -> Result<Resumed, Stopped> {
        self.blocking(move |place, state| {
            // Gives up the lock that an earlier resume of this sink took.
            drop(state.take());
            let (database, resumed) = open::resume(place, checkpoint.as_ref(), &orphans)?;
            *state = Some(database);
            Ok(resumed)
        })
        .await
    }

    async fn deliver(&self, parcels: &[Parcel], now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        let parcels = parcels.to_vec();
        let enrich = Arc::clone(&self.enrich);
        self.blocking(move |place, state| {
            // Taken out, and put back only when the database's state is known: after an error the sink resumes first.
            let mut database = state.take().ok_or_else(|| place.failed("stopped before"))?;
            let delivered = batch::deliver(place, &mut database, &parcels, &enrich, now)?;
            *state = Some(database);
            Ok(delivered)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
