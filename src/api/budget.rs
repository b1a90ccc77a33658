//! The request budget that all clinics share: 5,000 requests per rolling 5 minutes (`fullscript-api.md` §5), one
//! permit for every attempt, whatever becomes of it.
//!
//! Permits are leased from the ledger in small blocks, durably and *before* they are spent, so that a restart does
//! not forget what its predecessor spent: a block whose owner died counts as spent at the moment of the restart. A
//! block counts until a whole window after its *last* permit was spent, so no window can ever hold more than the
//! capacity, however it is laid. Waiters of one share are served in the order they came.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;

use crate::clock::SharedClock;
use crate::config;
use crate::store::{Store, Unavailable};

/// A window is measured longer than the vendor's, by a fiftieth and at least this, because requests spend unequal times
/// on the way: two that leave a window apart may arrive closer together.
const SHORTEST_TRAVEL: Duration = Duration::from_secs(1);
const TRAVEL_SHARE: u32 = 50;
/// The capacity is leased in at least so many blocks.
const BLOCKS: u32 = 100;

/// Whose account a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Sweeps, details, tokens.
    Polling,
    /// A backfill: capped, so that it never starves polling.
    Backfill,
}

impl Share {
    fn as_str(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::Backfill => "backfill",
        }
    }
}

/// The budget. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    store: Store,
    clock: SharedClock,
    window: Mutex<Window>,
    /// One waiter of a share at a time looks at the window; the others queue here in order.
    polling: tokio::sync::Mutex<Option<Block>>,
    backfill: tokio::sync::Mutex<Option<Block>>,
}

/// An open block: its row in the ledger, and what is left of it.
struct Block {
    lease: i64,
    permits: u32,
    left: u32,
}

impl Budget {
    /// Takes up the budget where the last owner left it: what that one had open counts as spent now, because when it
    /// spent the last of it is unknown.
    pub async fn open(
        store: Store,
        clock: SharedClock,
        settings: config::Budget,
    ) -> Result<Self, Unavailable> {
        let now = clock.now();
        let closed = store.write(move |c| {
            c.execute(
                "UPDATE lease SET closed_at = ?1 WHERE closed_at IS NULL",
                [now.timestamp_millis()],
            )
        });
        closed.await?;
        let leases = store.read(move |c| leases(c, now)).await?;
        let mut window = Window::new(settings);
        for (share, permits, closed_at) in leases {
            let age = (now - closed_at).to_std().unwrap_or_default();
            window.inherit(share, permits, age, clock.monotonic());
        }
        Ok(Self::over(store, clock, window))
    }

    /// The budget of a command beside the owner: its few requests come out of the reserve.
    pub fn beside(store: Store, clock: SharedClock, settings: config::Budget) -> Self {
        Self::over(store, clock, Window::beside(settings))
    }

    fn over(store: Store, clock: SharedClock, window: Window) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            window: Mutex::new(window),
            polling: tokio::sync::Mutex::new(None),
            backfill: tokio::sync::Mutex::new(None),
        }))
    }

    /// Waits until one more request may go out, and spends it. Fails only if the ledger cannot record it: then no
    /// request may go out.
    pub async fn spend(&self, share: Share) -> Result<(), Unavailable> {
        let inner = &*self.0;
        let mut open = match share {
            Share::Polling => inner.polling.lock().await,
            Share::Backfill => inner.backfill.lock().await,
        };
        loop {
            if let Some(block) = open.as_mut().filter(|block| block.left > 0) {
                block.left -= 1;
                return Ok(());
            }
            let spent = open.take();
            *open = Some(inner.lease(share, spent).await?);
        }
    }
}

impl Inner {
    /// Closes the spent block and leases the next, waiting until the window has room for it.
    async fn lease(&self, share: Share, spent: Option<Block>) -> Result<Block, Unavailable> {
        if let Some(block) = &spent {
            let now = self.clock.monotonic();
            self.locked().close(share, block.permits, now);
        }
        let permits = loop {
            let found = self.locked().room(share, self.clock.monotonic());
            match found {
                Room::Permits(permits) => break permits,
                // A rate window is I/O time: a wall clock that is set back must not stretch it.
                Room::After(wait) => tokio::time::sleep(wait).await,
            }
        };
        // A caller that goes away before the answer must not take the permits along.
        let mut counted = Counted {
            inner: self,
            share,
            permits,
            fate: Fate::MayBeRecorded,
        };
        let now = self.clock.now();
        let forget = now - TimeDelta::from_std(self.locked().length).unwrap_or(TimeDelta::MAX);
        let spent = spent.map(|block| block.lease);
        let written = self
            .store
            .write(move |c| {
                if let Some(lease) = spent {
                    c.prepare_cached("UPDATE lease SET closed_at = ?1 WHERE lease = ?2")?
                        .execute((now.timestamp_millis(), lease))?;
                }
                c.prepare_cached("DELETE FROM lease WHERE closed_at < ?1")?
                    .execute([forget.timestamp_millis()])?;
                c.prepare_cached("INSERT INTO lease (share, permits) VALUES (?1, ?2)")?
                    .execute((share.as_str(), permits))?;
                Ok(c.last_insert_rowid())
            })
            .await;
        counted.fate = match &written {
            Ok(_) => Fate::Open,
            Err(_) => Fate::NotRecorded,
        };
        Ok(Block {
            lease: written?,
            permits,
            left: permits,
        })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permits that the window counts while their row is written.
struct Counted<'a> {
    inner: &'a Inner,
    share: Share,
    permits: u32,
    fate: Fate,
}

enum Fate {
    /// The answer was not waited for: they count as spent now.
    MayBeRecorded,
    /// They are a block that is being spent.
    Open,
    /// There is no row: nothing was spent.
    NotRecorded,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut window = self.inner.locked();
        match self.fate {
            Fate::MayBeRecorded => {
                let now = self.inner.clock.monotonic();
                window.close(self.share, self.permits, now);
            }
            Fate::Open => {}
            Fate::NotRecorded => window.give_back(self.share, self.permits),
        }
    }
}

/// All leases; one that is open counts from `now`.
fn leases(
    connection: &Connection,
    now: DateTime<Utc>,
) -> rusqlite::Result<Vec<(Share, u32, DateTime<Utc>)>> {
    connection
        .prepare(
            "SELECT share, permits, closed_at FROM lease ORDER BY closed_at IS NULL, closed_at",
        )?
        .query_map((), |row| {
            let share = if row.get_ref(0)?.as_str()? == Share::Backfill.as_str() {
                Share::Backfill
            } else {
                Share::Polling
            };
            let closed_at: Option<i64> = row.get(2)?;
            let closed_at = closed_at.and_then(DateTime::from_timestamp_millis);
            Ok((share, row.get(1)?, closed_at.unwrap_or(now)))
        })?
        .collect()
}

/// What the window has to offer now.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    /// A block of so many permits; they count from now on.
    Permits(u32),
    /// Nothing; ask again after this.
    After(Duration),
}

/// The arithmetic of the rolling window. Pure: time is passed in.
struct Window {
    capacity: u32,
    backfill_cap: u32,
    block: u32,
    length: Duration,
    /// Blocks whose last permit is spent, oldest first, and when each stops counting.
    closed: VecDeque<(Share, u32, Duration)>,
    polling: u32,
    backfill: u32,
}

impl Window {
    fn new(settings: config::Budget) -> Self {
        let capacity = settings.requests.saturating_sub(settings.reserve).max(2);
        Self {
            capacity,
            backfill_cap: settings.backfill.clamp(1, capacity - 1),
            block: (capacity / BLOCKS).max(1),
            length: settings.window + (settings.window / TRAVEL_SHARE).max(SHORTEST_TRAVEL),
            closed: VecDeque::new(),
            polling: 0,
            backfill: 0,
        }
    }

    /// A window of the reserve's size, spent one by one.
    fn beside(settings: config::Budget) -> Self {
        Self {
            capacity: settings.reserve.max(2),
            block: 1,
            ..Self::new(settings)
        }
    }

    /// Counts a block of an earlier owner that was closed `age` ago.
    fn inherit(&mut self, share: Share, permits: u32, age: Duration, now: Duration) {
        if let Some(left) = self.length.checked_sub(age) {
            *self.counted(share) += permits;
            self.closed.push_back((share, permits, now + left));
        }
    }

    fn room(&mut self, share: Share, now: Duration) -> Room {
        while let Some(&(share, permits, until)) = self.closed.front() {
            if until > now {
                break;
            }
            self.closed.pop_front();
            *self.counted(share) -= permits;
        }
        // More may be counted than fits: the limit was lowered since, or commands beside the owner spent some.
        let free = self.capacity.saturating_sub(self.polling + self.backfill);
        let free = match share {
            Share::Polling => free,
            Share::Backfill => free.min(self.backfill_cap.saturating_sub(self.backfill)),
        };
        let permits = free.min(self.block);
        if permits == 0 {
            let next = self
                .closed
                .front()
                .map_or(self.length, |b| b.2.saturating_sub(now));
            return Room::After(next);
        }
        *self.counted(share) += permits;
        Room::Permits(permits)
    }

    fn close(&mut self, share: Share, permits: u32, now: Duration) {
        self.closed.push_back((share, permits, now + self.length));
    }

    fn give_back(&mut self, share: Share, permits: u32) {
        *self.counted(share) -= permits;
    }

    fn counted(&mut self, share: Share) -> &mut u32 {
        match share {
            Share::Polling => &mut self.polling,
            Share::Backfill => &mut self.backfill,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(requests: u32, backfill: u32) -> config::Budget {
        config::Budget {
            requests,
            window: Duration::from_secs(100),
            reserve: 0,
            backfill,
        }
    }

    proptest! {
        /// The law: however requests come and whenever the daemon restarts, no window holds more than the capacity.
        #[test]
        fn no_window_ever_holds_more_than_the_capacity(
            requests in 2u32..40,
            backfill in 1u32..40,
            steps in prop::collection::vec((0u64..9, 0u8..12), 1..400),
        ) {
            let settings = settings(requests, backfill);
            let mut window = Window::new(settings);
            let mut open: [Option<(u32, u32)>; 2] = [None, None];
            let mut spent: Vec<(Duration, Share)> = Vec::new();
            let mut now = Duration::ZERO;
            for (wait, action) in steps {
                now += Duration::from_secs(wait);
                if action == 11 {
                    let mut heir = Window::new(settings);
                    for &(share, permits, until) in &window.closed {
                        heir.inherit(share, permits, window.length.saturating_sub(until.saturating_sub(now)), now);
                    }
                    for (share, block) in [Share::Polling, Share::Backfill].into_iter().zip(&mut open) {
                        if let Some((permits, _)) = block.take() {
                            heir.inherit(share, permits, Duration::ZERO, now);
                        }
                    }
                    window = heir;
                    continue;
                }
                let share = if action % 3 == 0 { Share::Backfill } else { Share::Polling };
                let slot = &mut open[usize::from(share == Share::Backfill)];
                if let Some((permits, 0)) = *slot {
                    window.close(share, permits, now);
                    *slot = None;
                }
                if slot.is_none() && let Room::Permits(permits) = window.room(share, now) {
                    *slot = Some((permits, permits));
                }
                if let Some((_, left)) = slot {
                    *left -= 1;
                    spent.push((now, share));
                }
            }
            for &(start, _) in &spent {
                let inside = spent.iter().filter(|(at, _)| *at >= start && *at < start + settings.window);
                let (all, filling) = inside.fold((0, 0), |(all, filling), (_, share)| {
                    (all + 1, filling + u32::from(*share == Share::Backfill))
                });
                prop_assert!(all <= requests);
                prop_assert!(filling <= backfill.max(1));
            }
        }
    }

    #[test]
    fn a_backfill_at_its_cap_leaves_room_for_polling() {
        let mut window = Window::new(settings(1000, 100));
        let mut taken = 0;
        while let Room::Permits(n) = window.room(Share::Backfill, Duration::ZERO) {
            taken += n;
        }
        assert_eq!(taken, 100);
        assert!(matches!(
            window.room(Share::Polling, Duration::ZERO),
            Room::Permits(_)
        ));
    }
}
