//! JSON lines on standard output: for a pipe into another program, and for a person at a terminal.
//!
//! Opaque: a pipe keeps no record of what was read from it. Refused where standard output is the system's journal,
//! which keeps what it is given for months and shows it to every administrator: no place for health data.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::{Delivered, Sink, Stopped};
use crate::config::Enrich;
use crate::domain::{Outcome, Parcel};
use crate::format::{NotAnEvent, native};

/// Why standard output is not taken.
#[derive(Debug, thiserror::Error)]
pub enum StdoutError {
    /// It leads into the journal.
    #[error(
        "standard output is the systemd journal, which must not hold health data; give the unit \
         StandardOutput=file:PATH or use a sink of kind \"file\""
    )]
    Journal,
    /// It cannot be looked at.
    #[error("standard output cannot be examined")]
    Unknown(#[source] io::Error),
}

type Out = Arc<Mutex<dyn Write + Send>>;

/// The sink of `kind = "stdout"`.
pub struct StdoutSink {
    out: Out,
    enrich: Arc<Enrich>,
}

impl StdoutSink {
    /// Takes standard output, unless it is the journal.
    pub fn open() -> Result<Self, StdoutError> {
        let named = std::env::var("JOURNAL_STREAM").ok();
        let stat =
            rustix::fs::fstat(io::stdout()).map_err(|errno| StdoutError::Unknown(errno.into()))?;
        if is_journal(named.as_deref(), stat.st_dev, stat.st_ino) {
            return Err(StdoutError::Journal);
        }
        Ok(Self::writing_to(io::stdout()))
    }

    fn writing_to(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Arc::new(Mutex::new(out)),
            enrich: Arc::default(),
        }
    }

    /// The same, with what the operator says of events.
    #[must_use]
    pub fn enriched(self, enrich: Arc<Enrich>) -> Self {
        Self { enrich, ..self }
    }
}

/// Whether `$JOURNAL_STREAM` (`<device>:<inode>`) names this stream.
fn is_journal(named: Option<&str>, device: u64, inode: u64) -> bool {
    named.is_some_and(|named| named == format!("{device}:{inode}"))
}

impl Sink for StdoutSink {
    fn batch(&self) -> usize {
        64
    }

    fn concurrency(&self) -> usize {
        1
    }

    async fn deliver(&self, parcels: &[Parcel], _now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        let lines = parcels.iter().map(|parcel| {
            let metadata = self.enrich.metadata_for(&parcel.event_type, &parcel.clinic);
            native::line(parcel, &metadata)
        });
        let batch: Vec<_> = lines.collect();
        let out = Arc::clone(&self.out);
        let outcomes = tokio::task::spawn_blocking(move || {
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            print(&mut *out, &batch)
        })
        .await
        // A panic's own words are left out: they may quote what was being written.
        .unwrap_or_else(|_| Err(Stopped("the stdout sink has failed inside".to_owned())))?;
        Ok(Delivered {
            status_codes: Vec::new(),
            outcomes,
            checkpoint: None,
        })
    }
}

/// Writes line by line. Once a write has failed, nothing behind it is tried: it would stand in a torn line.
fn print(
    out: &mut dyn Write,
    batch: &[Result<Vec<u8>, NotAnEvent>],
) -> Result<Vec<Outcome>, Stopped> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut failed = false;
    for line in batch {
        outcomes.push(match line {
            Err(refused) => Outcome::No {
                reason: refused.to_string(),
                retry_after: None,
            },
            Ok(_) if failed => Outcome::NotSent {
                reason: "standard output failed before".to_owned(),
            },
            Ok(line) => match out.write_all(line).and_then(|()| out.flush()) {
                Ok(()) => Outcome::Yes,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe && outcomes.is_empty() => {
                    return Err(Stopped(
                        "standard output is closed: whoever read it has gone; start both again"
                            .to_owned(),
                    ));
                }
                Err(error) => {
                    failed = true;
                    Outcome::Doubt {
                        reason: format!("standard output cannot be written: {error}"),
                    }
                }
            },
        });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType, Metadata};

    fn parcel() -> Parcel {
        Parcel {
            delivery: DeliveryId(1),
            attempt: 1,
            event: EventId::new("e-1").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            created_at: DateTime::UNIX_EPOCH,
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: None,
            body: EventBody::from_json(r#"{"data":{}}"#),
        }
    }

    #[tokio::test]
    async fn each_event_is_one_line() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = StdoutSink::writing_to(writer);
        let delivered = sink
            .deliver(&[parcel(), parcel()], DateTime::UNIX_EPOCH)
            .await
            .unwrap();
        assert_eq!(delivered.outcomes, [Outcome::Yes, Outcome::Yes]);
        drop(sink);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        assert_eq!(
            text,
            native::line(&parcel(), &Metadata::default())
                .unwrap()
                .repeat(2)
        );
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_stops_the_sink() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let sink = StdoutSink::writing_to(writer);
        let delivered = sink.deliver(&[parcel()], DateTime::UNIX_EPOCH).await;
        assert!(delivered.err().unwrap().0.contains("closed"));
    }

    #[test]
    fn a_reader_that_leaves_within_a_batch_leaves_one_line_in_doubt() {
        /// Takes one line, then breaks.
        struct Leaving(bool);
        impl Write for Leaving {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(line.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let batch = vec![native::line(&parcel(), &Metadata::default()); 3];
        let outcomes = print(&mut Leaving(false), &batch).unwrap();
        assert!(matches!(
            outcomes[..],
            [Outcome::Yes, Outcome::Doubt { .. }, Outcome::NotSent { .. }]
        ));
    }

    #[test]
    fn only_the_stream_that_the_journal_names_is_the_journal() {
        assert!(is_journal(Some("9:12345"), 9, 12345));
        assert!(!is_journal(Some("9:12345"), 9, 1));
        assert!(!is_journal(None, 9, 12345));
    }
}
