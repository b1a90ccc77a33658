//! Where fetched bodies go: to the sinks that take them at once, else sealed to disk.
//!
//! The clinics fetch on their own and keep together: what they bring while one transaction is made shares the next.
//! Once begun, keeping goes on to its end, whatever becomes of the fetch that waits for it: between a claim and its
//! hand-over nothing is cut off.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::Pipeline;
use super::handover::Room;
use crate::ledger::{Detail, EventKey, SinkId, Taker};
use crate::store::Unavailable;

/// So many details, and one clinic's more, share a transaction.
const LARGEST_BATCH: usize = 512;

/// So long is waited for more: a transaction costs the same for ten bodies as for two hundred.
const GATHER: Duration = Duration::from_millis(5);

/// What waits to be kept.
#[derive(Default)]
pub(super) struct Keeping {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by the one who keeps.
    turn: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

/// What one clinic has brought.
struct Waiting {
    details: Vec<Detail>,
    kept: oneshot::Sender<Result<(), Unavailable>>,
}

impl Keeping {
    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; empty when nothing waits.
    fn next(&self) -> Vec<Waiting> {
        let mut all = self.locked();
        let mut details = 0;
        let within = |waiting: &&Waiting| {
            let before = details;
            details += waiting.details.len();
            before < LARGEST_BATCH
        };
        let count = all.iter().take_while(within).count();
        all.drain(..count).collect()
    }
}

impl Pipeline {
    /// Keeps details and rings the sinks; gives their events.
    pub(super) async fn keep(
        self: &Arc<Self>,
        details: Vec<Detail>,
    ) -> Result<Vec<EventKey>, Unavailable> {
        crate::crash::point("fetch.before_kept");
        let events = details.iter().map(|detail| detail.event).collect();
        let (kept, answer) = oneshot::channel();
        let keeping = &self.activity.keeping;
        keeping.locked().push(Waiting { details, kept });
        let pipeline = Arc::clone(self);
        // Most find at their turn that another has kept theirs.
        drop(
            keeping
                .tasks
                .spawn(async move { pipeline.keep_all().await }),
        );
        match answer.await {
            Ok(kept) => kept.map(|()| events),
            // A panic is a defect of ours: as after a crash nothing is known, and the details are still owed.
            Err(_) => Ok(events),
        }
    }

    async fn keep_all(&self) {
        let keeping = &self.activity.keeping;
        let _turn = keeping.turn.lock().await;
        loop {
            if keeping.locked().is_empty() {
                return;
            }
            tokio::time::sleep(GATHER).await;
            let batch = keeping.next();
            let details = batch.iter().flat_map(|waiting| &waiting.details);
            let kept = self.keep_batch(details.cloned().collect()).await;
            for waiting in batch {
                // What cannot be kept of one clinic must not keep the others back.
                let kept = match &kept {
                    Err(_) => self.keep_batch(waiting.details.into()).await,
                    Ok(()) => Ok(()),
                };
                // Whoever fetched it may have been stopped.
                drop(waiting.kept.send(kept));
            }
        }
    }

    async fn keep_batch(&self, details: Arc<[Detail]>) -> Result<(), Unavailable> {
        let sinks = self.sinks.iter();
        let mut rooms: Vec<(SinkId, Room)> = sinks
            .filter_map(|sink| Some((sink.id, sink.handover.room(details.len())?)))
            .collect();
        let takers = rooms.iter().map(|(sink, room)| Taker {
            sink: *sink,
            room: room.len(),
        });
        let takers = takers.collect();
        let fetched = self.ledger.fetched(&details, takers, self.now()).await?;
        for (sink, claim) in fetched.claims {
            if let Some((_, room)) = rooms.iter_mut().find(|(id, _)| *id == sink) {
                room.hand(claim);
            }
        }
        let ready = |sink: &&super::OpenSink| fetched.ready.contains(&sink.id);
        for sink in self.sinks.iter().filter(ready) {
            sink.wake.notify_one();
        }
        Ok(())
    }
}
