//! Where fetched bodies go: to the sinks that take them at once, else sealed to disk.
//!
//! The clinics fetch on their own and keep together: what they bring while one transaction is made shares the next.
//! Once begun, keeping goes on to its end, whatever becomes of the fetch that waits for it: between a claim and its
//! hand-over nothing is cut off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use super::Pipeline;
use super::handover::Room;
use crate::domain::EventBody;
use crate::ledger::{Detail, EventKey, SinkId, Taker};
use crate::store::Unavailable;

/// So many details, and one clinic's more, share a transaction. What is fetched lies all over the ledger, the oldest
/// event first: a transaction of a thousand writes hardly more pages than one of five hundred.
const LARGEST_BATCH: usize = 1024;

/// So long is waited for more that is on its way: a transaction costs the same for ten bodies as for two hundred.
const GATHER: Duration = Duration::from_millis(12);

/// Details that are here and not kept yet, over all clinics, in KiB: bounds memory, however large they are.
const IN_MEMORY: u32 = 4 << 10;

/// What waits to be kept.
pub(super) struct Keeping {
    memory: Arc<Semaphore>,
    on_the_way: Arc<AtomicUsize>,
    waiting: Mutex<Vec<Waiting>>,
    /// Rung when something is added to them.
    added: Notify,
    /// Held by the one who keeps.
    turn: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

/// A detail from the queue until it is kept.
pub(super) struct OnItsWay {
    on_the_way: Arc<AtomicUsize>,
    room: Arc<Semaphore>,
    memory: Option<OwnedSemaphorePermit>,
}

impl OnItsWay {
    /// It is here, and stays when there is memory for it. Not before: a clinic that hangs must not hold any.
    pub(super) async fn arrive(&mut self, body: &EventBody) {
        // One that is larger than all there is has all of it.
        let kib = u32::try_from(body.kib()).map_or(IN_MEMORY, |kib| kib.min(IN_MEMORY));
        let memory = Arc::clone(&self.room).acquire_many_owned(kib).await;
        self.memory = memory.ok();
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.on_the_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one clinic has brought.
struct Waiting {
    details: Vec<Detail>,
    on_their_way: Vec<OnItsWay>,
    kept: oneshot::Sender<Result<(), Unavailable>>,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            memory: Arc::new(Semaphore::new(IN_MEMORY as usize)),
            on_the_way: Arc::default(),
            waiting: Mutex::default(),
            added: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }
}

impl Keeping {
    /// A detail is going to be asked for.
    pub(super) fn set_out(&self) -> OnItsWay {
        self.on_the_way.fetch_add(1, Ordering::Relaxed);
        OnItsWay {
            on_the_way: Arc::clone(&self.on_the_way),
            room: Arc::clone(&self.memory),
            memory: None,
        }
    }

    /// How many details are going to be kept.
    pub(super) fn on_the_way(&self) -> usize {
        self.on_the_way.load(Ordering::Relaxed)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, waiting: Waiting) {
        self.locked().push(waiting);
        self.added.notify_one();
    }

    /// Waits for more, until half is here of all that is on its way, or enough for a transaction, or it has been long
    /// enough. Half: of the last few hundred, most are on disk before the very last has come.
    async fn gather(&self) {
        let gathered = async {
            loop {
                let added = self.added.notified();
                let waiting: usize = self.locked().iter().map(|w| w.details.len()).sum();
                if waiting >= self.on_the_way().div_ceil(2).min(LARGEST_BATCH) {
                    return;
                }
                added.await;
            }
        };
        // Too long is no failure: what is here is kept.
        drop(tokio::time::timeout(GATHER, gathered).await);
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
        on_their_way: Vec<OnItsWay>,
    ) -> Result<Vec<EventKey>, Unavailable> {
        crate::crash::point("fetch.before_kept");
        let events = details.iter().map(|detail| detail.event).collect();
        let (kept, answer) = oneshot::channel();
        let keeping = &self.activity.keeping;
        keeping.add(Waiting {
            details,
            on_their_way,
            kept,
        });
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
            keeping.gather().await;
            let batch = keeping.next();
            let mut details = Vec::new();
            let mut shares = Vec::new();
            for waiting in batch {
                shares.push((waiting.details.len(), waiting.on_their_way, waiting.kept));
                details.extend(waiting.details);
            }
            let details: Arc<[Detail]> = details.into();
            let all_kept = self.keep_batch(&details).await;
            let mut rest = &*details;
            for (share, _on_their_way, kept) in shares {
                let of_clinic;
                (of_clinic, rest) = rest.split_at(share);
                // What cannot be kept of one clinic must not keep the others back.
                let answer = match &all_kept {
                    Err(_) => self.keep_batch(&of_clinic.into()).await,
                    Ok(()) => Ok(()),
                };
                // Whoever fetched it may have been stopped.
                drop(kept.send(answer));
            }
        }
    }

    async fn keep_batch(&self, details: &Arc<[Detail]>) -> Result<(), Unavailable> {
        let sinks = self.sinks.iter();
        let kib = details.iter().map(|detail| detail.body.kib()).sum();
        let mut rooms: Vec<(SinkId, Room)> = sinks
            // While the audit log holds back, nothing is claimed.
            .filter(|_| !self.audit.holds_back())
            .filter_map(|sink| Some((sink.id, sink.handover.room(kib)?)))
            .collect();
        let takers = rooms.iter().map(|(sink, room)| Taker {
            sink: *sink,
            kib: room.kib(),
        });
        let takers = takers.collect();
        let fetched = self.ledger.fetched(details, takers, self.now()).await?;
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::domain::{EventId, EventType, Reference};

    fn body(kib: usize) -> EventBody {
        EventBody::from_json("x".repeat(kib * 1024 - 1))
    }

    fn waiting(details: usize) -> Waiting {
        let detail = Detail {
            event: EventKey(1),
            reference: Reference {
                id: EventId::new("e1").unwrap(),
                event_type: EventType::new("patient.created").unwrap(),
                created_at: chrono::DateTime::UNIX_EPOCH,
                clinic_id: None,
            },
            body: body(1),
            in_trouble: false,
            attested: crate::audit::Attested::default(),
        };
        Waiting {
            details: vec![detail; details],
            on_their_way: Vec::new(),
            kept: oneshot::channel().0,
        }
    }

    #[tokio::test]
    async fn what_is_here_is_bounded_by_its_size_however_large_one_is() {
        let keeping = Keeping::default();
        let all = IN_MEMORY as usize;
        let mut small = keeping.set_out();
        small.arrive(&body(1)).await;
        let mut large = keeping.set_out();
        assert!(large.arrive(&body(all)).now_or_never().is_none());
        drop(small);
        // Larger than all there is: alone it finds room.
        large.arrive(&body(2 * all)).await;
        let mut next = keeping.set_out();
        assert!(next.arrive(&body(1)).now_or_never().is_none());
        drop(large);
        next.arrive(&body(1)).await;
    }

    #[tokio::test]
    async fn nobody_waits_for_more_when_half_is_here_or_a_transaction_is_full() {
        let keeping = Keeping::default();
        let on_the_way: Vec<OnItsWay> = (0..4).map(|_| keeping.set_out()).collect();
        keeping.add(waiting(1));
        assert!(keeping.gather().now_or_never().is_none());
        keeping.add(waiting(1));
        assert!(keeping.gather().now_or_never().is_some());
        drop(on_the_way);
        let _many: Vec<OnItsWay> = (0..9_999).map(|_| keeping.set_out()).collect();
        assert!(keeping.gather().now_or_never().is_none());
        keeping.add(waiting(LARGEST_BATCH));
        assert!(keeping.gather().now_or_never().is_some());
        assert_eq!(keeping.next().len(), 3, "one clinic's more than a batch");
        assert!(keeping.next().is_empty());
    }
}
