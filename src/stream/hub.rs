//! The newest frames, read once and shared by all who follow.
//!
//! Whoever follows stands at a position and asks the ring for what is behind it. The ring answers only where it has all
//! of it; else it says so, and the asker reads pages of the ledger, or is too slow and closed. So there is neither gap
//! nor repetition where the one way of reading meets the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::frame::{Facts, Frame};
use crate::ledger::{Extent, FrameLog};
use crate::store::Unavailable;

/// How many frames are read at a time.
pub(super) const PAGE: usize = 256;
/// What the ring holds at most, in bytes, however many frames that are; but always the newest.
const LARGEST_RING: usize = 32 << 20;
/// The bell is the owner's own and is always rung; this covers a read that has failed.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// The newest frames.
struct Ring {
    frames: VecDeque<Arc<Frame>>,
    /// All frames behind this number are in the ring.
    floor: i64,
    size: usize,
    most: usize,
}

/// Some of what was asked for is not in the ring any more, or never was.
#[derive(Debug)]
pub(super) struct Behind;

impl Ring {
    fn push(&mut self, frame: Arc<Frame>) {
        self.size += frame.size();
        self.frames.push_back(frame);
        while self.frames.len() > self.most || (self.size > LARGEST_RING && self.frames.len() > 1) {
            if let Some(oldest) = self.frames.pop_front() {
                self.size -= oldest.size();
                self.floor = oldest.seq;
            }
        }
    }

    fn after(&self, position: i64, limit: usize) -> Result<Vec<Arc<Frame>>, Behind> {
        if position < self.floor {
            return Err(Behind);
        }
        let seen = self.frames.partition_point(|frame| frame.seq <= position);
        Ok(self.frames.iter().skip(seen).take(limit).cloned().collect())
    }
}

/// Where frames come from.
pub(super) struct Hub {
    pub(super) log: FrameLog,
    /// Which count of frames this is. A restore is noticed at a start, so it stays for as long as the daemon runs.
    pub(super) epoch: String,
    ring: Mutex<Ring>,
    head: watch::Sender<i64>,
}

impl Hub {
    /// A hub whose ring holds so many frames, and none yet.
    pub(super) async fn open(log: FrameLog, most: usize) -> Result<Self, Unavailable> {
        let Extent { epoch, head, .. } = log.extent().await?;
        Ok(Self {
            log,
            epoch,
            ring: Mutex::new(Ring {
                frames: VecDeque::new(),
                floor: head,
                size: 0,
                most,
            }),
            head: watch::Sender::new(head),
        })
    }

    fn locked(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every newer frame, by the newest number in the ring.
    pub(super) fn follow(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// At most `limit` frames behind `position`, if the ring has all that are behind it.
    pub(super) fn after(&self, position: i64, limit: usize) -> Result<Vec<Arc<Frame>>, Behind> {
        self.locked().after(position, limit)
    }

    /// Puts new frames into the ring, until it is stopped.
    pub(super) async fn run(&self, bell: Arc<Notify>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.take_in().await {
                Ok(0) => {}
                Ok(_) => continue,
                // Polling and delivery tell of a ledger that cannot be used; here it is simply tried again.
                Err(error) => tracing::debug!(%error, "the stream cannot read its frames"),
            }
            tokio::select! {
                () = bell.notified() => {}
                () = tokio::time::sleep(LONGEST_SLEEP) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn take_in(&self) -> Result<usize, Unavailable> {
        let position = *self.head.borrow();
        let page = self.log.after(position, PAGE).await?;
        let read = page.frames.len();
        let Some(newest) = page.frames.last().map(|row| row.seq) else {
            return Ok(0);
        };
        let frames = page.frames.iter().map(|row| {
            let body = self.log.body(row);
            Arc::new(Frame::new(&self.epoch, row, Facts::of(row), body.as_ref()))
        });
        let frames: Vec<_> = frames.collect();
        {
            let mut ring = self.locked();
            for frame in frames {
                ring.push(frame);
            }
        }
        self.head.send_replace(newest);
        Ok(read)
    }
}
