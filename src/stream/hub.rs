//! The newest frames, read once and shared by all who follow.
//!
//! Whoever follows stands at a position and asks the ring for what is behind it. The ring answers only where it has all
//! of it; else it says so, and the asker reads pages of the ledger, or is too slow and closed. So there is neither gap
//! nor repetition where the one way of reading meets the other.
//!
//! Before frames leave the ring that a follower has not taken, the followers get a moment: a burst would otherwise overrun
//! a thousand clients that are well. Who takes nothing even then is left behind.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::frame::{Facts, Frame};
use crate::config::Enrich;
use crate::domain::EventBody;
use crate::ledger::{Extent, FrameLog, FrameRow};
use crate::store::Unavailable;

/// How many frames are read at a time.
pub(super) const PAGE: usize = 256;
/// What the ring holds at most, in bytes, however many frames that are; but always the newest.
const LARGEST_RING: usize = 32 << 20;
/// So long frames that would be pushed out of the ring wait for a follower that has not taken them.
const GRACE: Duration = Duration::from_secs(1);
/// The bell is the owner's own and is always rung; this covers a read that has failed.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// The newest frames.
struct Ring {
    frames: VecDeque<Arc<Frame>>,
    /// All frames behind this number are in the ring.
    floor: i64,
    size: usize,
    most: usize,
    /// How far each follower is.
    followers: HashMap<u64, i64>,
    next_follower: u64,
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

    /// What is not in the ring up to here is gone from the ledger too: whoever has not got so far is told so, and does not
    /// get what comes behind as if nothing lay between.
    fn forget_up_to(&mut self, floor: i64) {
        self.frames.clear();
        self.size = 0;
        self.floor = floor;
    }

    /// Whether somebody who follows would be left behind by so many more frames.
    fn is_needed(&self, more: usize) -> bool {
        let too_many = (self.frames.len() + more).saturating_sub(self.most);
        let last_out = too_many
            .checked_sub(1)
            .and_then(|last| self.frames.get(last));
        last_out.is_some_and(|last| {
            let mut positions = self.followers.values();
            positions.any(|position| (self.floor..last.seq).contains(position))
        })
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
    enrich: Arc<Enrich>,
    ring: Mutex<Ring>,
    head: watch::Sender<i64>,
    /// Rung when a follower has taken something, or is gone.
    taken: Notify,
}

/// One who follows the ring. The ring waits a moment for it, and forgets it when it is dropped.
pub(super) struct Follower {
    hub: Arc<Hub>,
    number: u64,
    news: watch::Receiver<i64>,
}

impl Follower {
    /// At most `limit` frames behind `position`, if the ring has all that are behind it. Those up to `position` were
    /// taken.
    pub(super) fn after(&mut self, position: i64, limit: usize) -> Result<Vec<Arc<Frame>>, Behind> {
        self.news.mark_unchanged();
        let mut ring = self.hub.locked();
        let found = ring.after(position, limit);
        // Who still reads the ledger is waited for by nobody.
        if found.is_ok() {
            ring.followers.insert(self.number, position);
        } else {
            ring.followers.remove(&self.number);
        }
        drop(ring);
        self.hub.taken.notify_one();
        found
    }

    /// Returns when there is something newer than at the last [`Follower::after`].
    pub(super) async fn news(&mut self) {
        // Its sender lives as long as the hub.
        self.news.changed().await.ok();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.hub.locked().followers.remove(&self.number);
        self.hub.taken.notify_one();
    }
}

impl Hub {
    /// A hub whose ring holds so many frames, and none yet.
    pub(super) async fn open(
        log: FrameLog,
        most: usize,
        enrich: Arc<Enrich>,
    ) -> Result<Self, Unavailable> {
        let Extent { epoch, head, .. } = log.extent().await?;
        Ok(Self {
            log,
            epoch,
            enrich,
            ring: Mutex::new(Ring {
                frames: VecDeque::new(),
                floor: head,
                size: 0,
                // The newest page comes on top of what one may be behind.
                most: most + PAGE,
                followers: HashMap::new(),
                next_follower: 0,
            }),
            head: watch::Sender::new(head),
            taken: Notify::new(),
        })
    }

    /// The frame of a row; `body` is its event, where that is kept and wanted.
    pub(super) fn frame(&self, row: &FrameRow, facts: Facts, body: Option<&EventBody>) -> Frame {
        let metadata = self.enrich.metadata_for(&row.event_type, &row.clinic);
        Frame::new(&self.epoch, row, facts, body, &metadata)
    }

    fn locked(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more who follows.
    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        let mut ring = self.locked();
        ring.next_follower += 1;
        Follower {
            hub: Arc::clone(self),
            number: ring.next_follower,
            news: self.head.subscribe(),
        }
    }

    /// Returns when so many more frames leave nobody behind, or when it has been long enough.
    async fn make_room(&self, more: usize) {
        let room = async {
            loop {
                let taken = self.taken.notified();
                if !self.locked().is_needed(more) {
                    return;
                }
                taken.await;
            }
        };
        // Who has taken nothing all this time is too slow.
        drop(tokio::time::timeout(GRACE, room).await);
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
        let floor = page.extent.floor;
        let newest = page.frames.last().map_or(floor, |row| row.seq);
        if newest <= position {
            return Ok(0);
        }
        let frames = page.frames.iter().map(|row| {
            let body = self.log.body(row);
            Arc::new(self.frame(row, Facts::of(row), body.as_ref()))
        });
        let frames: Vec<_> = frames.collect();
        self.make_room(frames.len()).await;
        {
            let mut ring = self.locked();
            if floor > position {
                ring.forget_up_to(floor);
            }
            for frame in frames {
                ring.push(frame);
            }
        }
        self.head.send_replace(newest);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClinicName, EventType, Operation};
    use crate::store::{Owner, SealKey};

    fn frame(seq: i64) -> Arc<Frame> {
        let facts = Facts {
            event: format!("e{seq}"),
            event_type: EventType::new("order.placed").unwrap(),
            operation: Operation::Create,
            entity_class: "Order".to_owned(),
            names: Vec::new(),
            clinic: ClinicName::new("oak").unwrap(),
            clinic_id: None,
            patient: None,
            entity: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        Arc::new(Frame::of_ids(seq, facts))
    }

    fn ring(floor: i64, most: usize) -> Ring {
        Ring {
            frames: VecDeque::new(),
            floor,
            size: 0,
            most,
            followers: HashMap::new(),
            next_follower: 0,
        }
    }

    fn seqs(ring: &Ring, position: i64) -> Option<Vec<i64>> {
        let frames = ring.after(position, 3).ok()?;
        Some(frames.iter().map(|frame| frame.seq).collect())
    }

    #[test]
    fn a_ring_answers_only_where_it_has_all_that_comes_behind() {
        let mut ring = ring(10, 4);
        assert_eq!(seqs(&ring, 10), Some(vec![]));
        assert_eq!(seqs(&ring, 9), None);
        // Numbers may be missing: what was undone was never given.
        for seq in [11, 12, 14, 15] {
            ring.push(frame(seq));
        }
        assert_eq!(seqs(&ring, 10), Some(vec![11, 12, 14]));
        assert_eq!(seqs(&ring, 12), Some(vec![14, 15]));
        assert_eq!(seqs(&ring, 15), Some(vec![]));
        // Somebody who has read further in the ledger.
        assert_eq!(seqs(&ring, 99), Some(vec![]));
        ring.push(frame(16));
        assert_eq!(seqs(&ring, 10), None);
        assert_eq!(seqs(&ring, 11), Some(vec![12, 14, 15]));
    }

    #[test]
    fn the_ring_waits_for_who_follows_and_for_nobody_else() {
        let mut ring = ring(0, 4);
        (1..=4).for_each(|seq| ring.push(frame(seq)));
        assert!(!ring.is_needed(2), "nobody follows");
        ring.followers.insert(1, 4);
        assert!(!ring.is_needed(2), "it has taken all");
        ring.followers.insert(2, 1);
        assert!(!ring.is_needed(1), "it has taken the one that would go");
        assert!(ring.is_needed(2));
        ring.push(frame(5));
        ring.push(frame(6));
        assert!(!ring.is_needed(2), "it was left behind already");
    }

    #[tokio::test]
    async fn who_follows_is_told_of_frames_that_were_forgotten_before_the_ring_had_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("state");
        let owner = Owner::take(&at, "app", &SealKey::generate()).unwrap();
        let write = async |sql: String| {
            let written = owner.store().write(move |c| c.execute_batch(&sql));
            written.await.unwrap();
        };
        let frames = async |from: i64, to: i64| {
            for number in from..=to {
                let rows = format!(
                    "INSERT INTO event (event, id, type, created_at, lane, admitted_at, listed_day, found_by)
                     VALUES ({number}, 'e-{number}', 'order.placed', 0, 1, 0, 0, 'fast');
                     INSERT INTO delivery (delivery, event, sink, lane, through, state, due_at, issued_at)
                     VALUES ({number}, {number}, 1, 1, 1, 'done', 0, 0);
                     INSERT INTO frame (delivery, id, type, created_at, clinic, replay, made_at, kept_until)
                     VALUES ({number}, 'e-{number}', 'order.placed', 0, 'oak', 0, 0, 0)"
                );
                write(rows).await;
            }
        };
        let forget = async |floor: i64| {
            let forgotten = format!(
                "DELETE FROM frame WHERE seq <= {floor}; UPDATE stream SET floor = {floor}"
            );
            write(forgotten).await;
        };
        let log = FrameLog::open(owner.store()).unwrap();
        let hub = Hub::open(log, 4, Arc::default()).await.unwrap();
        let hub = Arc::new(hub);
        let mut follower = hub.follow();
        frames(1, 2).await;
        assert_eq!(hub.take_in().await.unwrap(), 2);
        assert_eq!(follower.after(0, 9).unwrap().len(), 2);
        frames(3, 6).await;
        forget(5).await;
        assert_eq!(hub.take_in().await.unwrap(), 1);
        assert!(follower.after(2, 9).is_err());
        assert_eq!(follower.after(5, 9).unwrap().len(), 1);
        // Also where nothing is left.
        frames(7, 8).await;
        forget(8).await;
        assert_eq!(hub.take_in().await.unwrap(), 0);
        assert!(follower.after(6, 9).is_err());
        assert_eq!(hub.take_in().await.unwrap(), 0);
        assert!(follower.after(8, 9).unwrap().is_empty());
    }
}
