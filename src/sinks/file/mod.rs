//! JSON lines in a file, each event exactly once whatever crashes.
//!
//! A batch is written and flushed (`fdatasync`) before it is reported; the report carries a [`Mark`], which the ledger
//! stores in the transaction that settles the batch. What a crash leaves behind the mark is *rolled forward* at the
//! next start: complete lines are adopted, because a reader may have seen them; only a torn last line is cut, and what
//! lies behind a hole of zeros, as a power cut may leave. The file belongs to this program alone: one that somebody
//! else shrank, grew or replaced stops the sink.
//!
//! The caller's part: the mark that [`Sink::resume`] returns is stored durably before the first
//! [`Sink::deliver`], each delivery's mark before the next, and parcels whose call ended in `Err` stay claimed, so
//! that the next `resume` gets them as orphans.

mod batch;
mod mark;
mod open;
mod roll_forward;
mod rotate;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use self::mark::Mark;
use super::{Checkpoint, Delivered, Orphan, Resumed, Sink, Stopped};
use crate::config::{self, Enrich};
use crate::domain::{Parcel, SinkName};
use crate::format::native;

/// The sink of `kind = "file"`.
pub struct FileSink {
    place: Arc<Place>,
    state: Arc<Mutex<Option<Lines>>>,
    enrich: Arc<Enrich>,
}

/// Which file, and under which sink's name.
struct Place {
    sink: SinkName,
    settings: config::FileSink,
}

/// The file while it is held open and locked, and how far it is known to be good.
struct Lines {
    file: std::fs::File,
    mark: Mark,
}

impl Place {
    fn path(&self) -> &Path {
        &self.settings.path
    }

    fn rotated(&self, day: chrono::NaiveDate) -> PathBuf {
        let mut path = self.settings.path.clone().into_os_string();
        path.push(format!(".{day}"));
        path.into()
    }

    /// For what only a person can judge: what was found, and the command that accepts it.
    fn refuse(&self, found: impl std::fmt::Display) -> Stopped {
        Stopped(format!(
            "{}: {found}; look at it, then go on from the file as it is with \
             `fullscript-events sinks accept {}`",
            self.path().display(),
            self.sink
        ))
    }

    /// For what the system refused: nothing to accept, the cause has to be mended.
    fn failed(&self, doing: &str, error: &std::io::Error) -> Stopped {
        Stopped(format!(
            "{}: cannot {doing}: {error}",
            self.path().display()
        ))
    }
}

impl FileSink {
    /// A sink that opens nothing before [`Sink::resume`].
    pub fn new(sink: SinkName, settings: config::FileSink) -> Self {
        Self {
            place: Arc::new(Place { sink, settings }),
            state: Arc::default(),
            enrich: Arc::default(),
        }
    }

    /// The same, with what the operator says of events.
    #[must_use]
    pub fn enriched(self, enrich: Arc<Enrich>) -> Self {
        Self { enrich, ..self }
    }

    /// Runs file work where it may block, with the state to itself. The work is not abandoned when the caller is.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place, &mut Option<Lines>) -> Result<T, Stopped> + Send + 'static,
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
        .unwrap_or_else(|_| Err(Stopped("the file sink has failed inside".to_owned())))
    }
}

impl Sink for FileSink {
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
            let (lines, resumed) = open::resume(place, checkpoint.as_ref(), &orphans)?;
            *state = Some(lines);
            Ok(resumed)
        })
        .await
    }

    async fn deliver(&self, parcels: &[Parcel], now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        let lines = parcels.iter().map(|parcel| {
            let metadata = self.enrich.metadata_for(&parcel.event_type, &parcel.clinic);
            native::line(parcel, &metadata)
        });
        let batch: Vec<_> = lines.collect();
        self.blocking(move |place, state| {
            // Taken out, and put back only when the file's state is known: after an error the sink resumes first.
            let lines = state
                .take()
                .ok_or_else(|| Stopped(format!("{}: stopped before", place.path().display())))?;
            let (lines, delivered) = batch::deliver(place, lines, &batch, now.date_naive())?;
            *state = Some(lines);
            Ok(delivered)
        })
        .await
    }
}

#[cfg(test)]
mod tests;
