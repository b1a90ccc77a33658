//! The one writer: carries records from the ledger to the files, in batches, and says when it cannot.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use super::folder::{Unwritten, began};
use super::record::{Action, Record};
use super::rows::{self, Attested, Damaged};
use super::{Actor, Audit, Inner};
use crate::store::Unavailable;

/// So long is waited for more: records are durable in the ledger, and each batch waits for the disk twice.
const GATHER: Duration = Duration::from_millis(250);
/// How often is looked for what another process has left.
const LOOK: Duration = Duration::from_secs(1);
/// How often is tried again what failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// About so much is carried at once: bounds memory.
const BATCH: usize = 4 << 20;
/// So much may wait of a log that cannot be written and need not be.
pub(super) const MOST_WAITING: i64 = 256 << 20;

/// Held by who carries.
#[derive(Default)]
pub(super) struct Turn {
    /// Files and ledger are in agreement, as far as is known.
    settled: bool,
    /// What was told of it.
    told: Option<String>,
}

/// Why nothing was carried.
enum Failed {
    Files(Unwritten),
    Ledger(Unavailable),
    Damaged(Damaged),
}

impl From<Damaged> for Failed {
    fn from(error: Damaged) -> Self {
        Self::Damaged(error)
    }
}

impl From<Unavailable> for Failed {
    fn from(error: Unavailable) -> Self {
        Self::Ledger(error)
    }
}

impl From<Unwritten> for Failed {
    fn from(error: Unwritten) -> Self {
        Self::Files(error)
    }
}

impl Audit {
    /// Notes the configuration of this start, and brings ledger and files into agreement. A log that cannot be written is
    /// told and noted: it keeps nobody from polling.
    pub async fn begin(&self, configuration: &[u8], now: DateTime<Utc>) -> Result<(), Unavailable> {
        let Some(inner) = &self.0 else {
            return Ok(());
        };
        let digest = inner.key.digest(configuration);
        let mut record = self.entry(Action::Config, now).note("what", "start");
        record.payload_digest = Some(digest.clone());
        rows::note_config(&inner.store, digest, Attested::of(&[record])).await?;
        self.carry().await;
        Ok(())
    }

    /// Carries records to the files until it is stopped.
    pub async fn run(&self, stopped: CancellationToken) {
        let Some(inner) = &self.0 else {
            return;
        };
        while !stopped.is_cancelled() {
            let works = self.carry().await;
            let woken = async {
                if works {
                    inner.wake.notified().await;
                    tokio::time::sleep(GATHER).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(if works { LOOK } else { TRY_AGAIN }) => {}
                () = stopped.cancelled() => {}
            }
        }
    }

    /// Writes what is left, summaries of polls included. What cannot be written waits for the next start.
    pub async fn finish(&self) {
        if let Some(inner) = &self.0 {
            inner.summarise(true).await;
            self.carry().await;
        }
    }

    /// Carries all that waits; gives whether the log can be written.
    async fn carry(&self) -> bool {
        let Some(inner) = &self.0 else {
            return true;
        };
        let mut turn = inner.turn.lock().await;
        inner.summarise(false).await;
        let carried = inner.carry_all(&mut turn).await;
        inner.tell(&mut turn, carried).await
    }

    /// Removes days that are older than they are kept. Asked only while the clocks are believed: one that jumped must not
    /// take six years along.
    pub async fn expire(&self, now: DateTime<Utc>) {
        let Some(inner) = &self.0 else {
            return;
        };
        let mut turn = inner.turn.lock().await;
        if !turn.settled {
            return;
        }
        match inner.expire(&mut turn, now).await {
            Ok(0) => {}
            Ok(days) => tracing::info!(
                days,
                "removed days of the audit log that were kept long enough"
            ),
            Err(Failed::Files(error)) => {
                tracing::warn!("{error}: old days of the audit log are removed later");
            }
            Err(Failed::Damaged(error)) => {
                tracing::warn!("{error}: old days of the audit log are removed later");
            }
            Err(Failed::Ledger(error)) => {
                tracing::debug!(%error, "old days of the audit log are removed later");
            }
        }
    }
}

impl Inner {
    async fn summarise(&self, ending: bool) {
        let summaries = self.polls.summaries(ending, self.clock.now());
        if summaries.is_empty() {
            return;
        }
        let attested = Attested::of(&summaries);
        if let Err(error) = self.store.write(move |c| attested.insert(c)).await {
            // Counts, and no disclosure: the ledger's trouble is told by whoever has more to lose.
            tracing::debug!(%error, "a summary of polls was lost");
        }
    }

    async fn carry_all(self: &Arc<Self>, turn: &mut Turn) -> Result<(), Failed> {
        loop {
            let (head, pending) = rows::next(&self.store, BATCH).await??;
            let (is_first, is_idle) = (!turn.settled, pending.is_empty());
            let waiting: usize = pending.iter().map(|row| row.bytes).sum();
            if !is_first && is_idle {
                let this = Arc::clone(self);
                // A log that is required must be known to work before something is delivered.
                return blocking(move || this.folder.probe(head.as_ref()))
                    .await
                    .inspect_err(|_| turn.settled = false);
            }
            turn.settled = false;
            let this = Arc::clone(self);
            let (written, remarks) = if is_first {
                let settled =
                    blocking(move || this.folder.settle(&this.key, head.as_ref(), &pending))
                        .await?;
                (settled.written, settled.remarks)
            } else {
                blocking(move || {
                    let written = this.folder.append(&this.key, head.as_ref(), &pending)?;
                    crate::crash::point("audit.after_write");
                    Ok((written, Vec::new()))
                })
                .await?
            };
            if let Some(written) = written {
                rows::carried(&self.store, &written.head, written.upto).await?;
            }
            turn.settled = true;
            let is_as_left = remarks.is_empty();
            for remark in &remarks {
                tracing::warn!("{}", remark.words);
            }
            let remarks = remarks.iter().map(|remark| {
                Record::new(&Actor::Daemon, Action::Config, self.clock.now())
                    .note("what", remark.what)
                    .note(remark.much.0, remark.much.1)
            });
            let attested = Attested::of(&remarks.collect::<Vec<_>>());
            if !is_as_left {
                self.store.write(move |c| attested.insert(c)).await?;
            } else if !is_first && waiting < BATCH {
                // What has come meanwhile waits for company: each batch waits for the disk twice.
                return Ok(());
            }
        }
    }

    /// Says once that the log cannot be written, and once that it can again; gives whether it can.
    async fn tell(&self, turn: &mut Turn, carried: Result<(), Failed>) -> bool {
        let now = self.clock.now();
        let mut hint = String::new();
        let error = match carried {
            Ok(()) => {
                self.blocked.store(false, Ordering::Relaxed);
                if turn.told.take().is_some() {
                    tracing::info!("the audit log can be written again: going on");
                    drop(rows::note_trouble(&self.store, None, now).await);
                }
                return true;
            }
            // Nothing goes out while the ledger cannot be written: that is told, and waited for, elsewhere.
            Err(Failed::Ledger(error)) => {
                tracing::debug!(%error, "the audit log waits for the ledger");
                return false;
            }
            Err(Failed::Files(error)) => {
                hint = format!(" (`df -h`, `ls -ld {}`)", self.settings.directory.display());
                error.to_string()
            }
            // Unlike a ledger that cannot be read at all, nobody else misses it: it would wait for ever.
            Err(Failed::Damaged(error)) => error.to_string(),
        };
        self.blocked
            .store(self.settings.required, Ordering::Relaxed);
        if turn.told.as_ref() != Some(&error) {
            let then = if self.settings.required {
                "it is required, so nothing is delivered until it can be written"
            } else {
                "its records wait in the ledger"
            };
            tracing::error!("the audit log cannot be written: {error}; {then}{hint}");
            drop(rows::note_trouble(&self.store, Some(error.clone()), now).await);
            turn.told = Some(error);
        }
        if !self.settings.required {
            let lost = move |lost: u64| {
                Record::new(&Actor::Daemon, Action::Config, now)
                    .note("what", "records_lost")
                    .note("lost", lost)
            };
            drop(rows::let_go(&self.store, self.most_waiting, lost).await);
        }
        false
    }

    async fn expire(
        self: &Arc<Self>,
        turn: &mut Turn,
        now: DateTime<Utc>,
    ) -> Result<usize, Failed> {
        let Ok(keep) = TimeDelta::from_std(self.settings.keep) else {
            return Ok(0);
        };
        let Some(oldest) = now.checked_sub_signed(keep) else {
            return Ok(0);
        };
        let oldest = oldest.format("%Y-%m-%d").to_string();
        let (Some(head), _) = rows::next(&self.store, 0).await?? else {
            return Ok(0);
        };
        let (this, before) = (Arc::clone(self), head.clone());
        let begin = blocking(move || this.folder.begin_at(&this.key, &before, &oldest)).await?;
        let head = match begin {
            Some(begin) => {
                // First where the log begins, then the files: the other way round a crash would look like a theft.
                rows::carried(&self.store, &begin, None).await?;
                let record = Record::new(&Actor::Daemon, Action::Config, now);
                let attested = Attested::of(&[began(record, &begin)]);
                self.store.write(move |c| attested.insert(c)).await?;
                crate::crash::point("audit.before_removal");
                begin
            }
            None => head,
        };
        // The chain says so too before they go, or a ledger that is lost takes the proof along.
        self.carry_all(turn).await?;
        let this = Arc::clone(self);
        blocking(move || this.folder.remove_before(&head)).await
    }
}

/// Files are slow, and never in the way of others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unwritten> + Send + 'static,
) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        // The runtime ends, or a defect of ours, which its hook has reported: nothing is known, as after a crash.
        Err(error) => Err(Failed::Files(Unwritten::Io {
            path: std::path::PathBuf::new(),
            source: std::io::Error::other(error),
        })),
    }
}
