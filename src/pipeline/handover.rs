//! The short way of an event: from its fetch straight to a sink that has room, without its body ever touching the disk.
//!
//! Only an exact sink takes events this way: what a crash leaves claimed it can look up, and what it never showed is
//! fetched again. A sink with a backlog takes the backlog first, which the ledger sees to.
//!
//! What it prevents: claims that nobody holds. Whoever claims for a sink holds its [`Room`] until the claims are in
//! the sink's hands, and a sink that stops waits until no room is held any more, before it looks at what was left.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ledger::Claim;

/// A claim in its sink's hands, with the room that it takes up if it came the short way.
pub(super) struct Held {
    pub(super) claim: Claim,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// The end that the fetches see. Closed until its sink takes.
#[derive(Default)]
pub struct Handover(Mutex<Option<Open>>);

struct Open {
    room: Arc<Semaphore>,
    sender: UnboundedSender<Held>,
}

/// The right to claim deliveries for a sink whose bodies take up so much, and to hand them to it.
pub(super) struct Room {
    permits: OwnedSemaphorePermit,
    sender: UnboundedSender<Held>,
}

/// The end that the sink sees; dropping it closes the handover.
pub(super) struct Taking<'a> {
    handover: &'a Handover,
    receiver: UnboundedReceiver<Held>,
}

impl Handover {
    fn locked(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens it for at most `room` KiB at a time.
    pub(super) fn open(&self, room: usize) -> Taking<'_> {
        let (sender, receiver) = unbounded_channel();
        *self.locked() = Some(Open {
            room: Arc::new(Semaphore::new(room)),
            sender,
        });
        Taking {
            handover: self,
            receiver,
        }
    }

    /// As much room as there is, up to `wanted` KiB; `None` if there is none.
    pub(super) fn room(&self, wanted: usize) -> Option<Room> {
        let locked = self.locked();
        let open = locked.as_ref()?;
        // Nobody else takes permits while the lock is held, so they are still there.
        let some = wanted.min(open.room.available_permits());
        let permits = u32::try_from(some).ok().filter(|some| *some > 0)?;
        Some(Room {
            permits: Arc::clone(&open.room)
                .try_acquire_many_owned(permits)
                .ok()?,
            sender: open.sender.clone(),
        })
    }
}

impl Room {
    pub(super) fn kib(&self) -> usize {
        self.permits.num_permits()
    }

    /// Hands a claim over. To a sink that has stopped it stays claimed: `resume` finds it.
    pub(super) fn hand(&mut self, claim: Claim) {
        let room = self.permits.split(claim.parcel.body.kib());
        drop(self.sender.send(Held { claim, room }));
    }
}

impl Taking<'_> {
    /// What has been handed over meanwhile.
    pub(super) fn take_all(&mut self, claims: &mut Vec<Held>) {
        while let Ok(held) = self.receiver.try_recv() {
            claims.push(held);
        }
    }

    /// Waits for something to be handed over. Safe to be dropped: nothing is lost.
    pub(super) async fn take(&mut self, claims: &mut Vec<Held>) {
        match self.receiver.recv().await {
            Some(held) => claims.push(held),
            // Closed: it says nothing any more.
            None => std::future::pending().await,
        }
    }

    /// Closes, and waits for those who have claimed already.
    pub(super) async fn close(mut self, claims: &mut Vec<Held>) {
        *self.handover.locked() = None;
        while let Some(held) = self.receiver.recv().await {
            claims.push(held);
        }
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        *self.handover.locked() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_bounded_by_its_size_until_it_is_settled() {
        let handover = Handover::default();
        assert!(handover.room(1).is_none(), "nobody takes");
        let taking = handover.open(4);
        let first = handover.room(3).unwrap();
        let second = handover.room(3).unwrap();
        assert_eq!((first.kib(), second.kib()), (3, 1));
        assert!(handover.room(1).is_none());
        drop(first);
        assert_eq!(handover.room(9).unwrap().kib(), 3);
        drop(taking);
        assert!(handover.room(1).is_none());
    }
}
