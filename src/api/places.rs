//! Who may wait for an answer: a few requests of each clinic, and no more than [`ALL`] at once.
//!
//! A clinic that hangs takes nobody else's place: it has few, and a request that has waited for [`SLOW`] goes on
//! waiting outside the count of all. A backfill has places of its own, because it waits for its share of the budget
//! while it holds one.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::Share;
use crate::domain::ClinicName;

/// Requests in flight over all clinics: each costs a socket, and a thousand clinics must not need as many thousands.
/// Nothing goes faster with more, because the budget allows 17 requests a second.
const ALL: usize = 32;
/// An answer that takes longer does not keep others from asking.
const SLOW: Duration = Duration::from_secs(2);

/// The places of both shares.
pub(super) struct Places {
    polling: OfShare,
    backfill: OfShare,
    patience: Duration,
}

struct OfShare {
    all: Arc<Semaphore>,
    each: usize,
    clinics: Mutex<HashMap<ClinicName, Arc<Semaphore>>>,
}

/// A place among all, and one among its clinic's.
pub(super) struct Place {
    patience: Duration,
    among_all: Option<OwnedSemaphorePermit>,
    _of_clinic: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// `each` is how many requests of one clinic may be in flight at once.
    pub(super) fn new(each: usize) -> Self {
        Self {
            polling: OfShare::new(each, ALL),
            backfill: OfShare::new(each, ALL),
            patience: SLOW,
        }
    }

    /// Waits for a place; served in the order of asking.
    pub(super) async fn take(&self, clinic: &ClinicName, share: Share) -> Place {
        let places = match share {
            Share::Polling => &self.polling,
            Share::Backfill => &self.backfill,
        };
        // Both fail only if a semaphore was closed, which nobody does.
        let of_clinic = places.of_clinic(clinic).acquire_owned().await.ok();
        let among_all = Arc::clone(&places.all).acquire_owned().await.ok();
        Place {
            patience: self.patience,
            among_all,
            _of_clinic: of_clinic,
        }
    }
}

impl OfShare {
    fn new(each: usize, all: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            each,
            clinics: Mutex::default(),
        }
    }

    fn of_clinic(&self, clinic: &ClinicName) -> Arc<Semaphore> {
        let mut clinics = self.clinics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = clinics.get(clinic) {
            return Arc::clone(places);
        }
        let places = Arc::new(Semaphore::new(self.each));
        clinics.insert(clinic.clone(), Arc::clone(&places));
        places
    }
}

impl Place {
    /// Waits for an answer, and no longer than [`SLOW`] at the cost of others.
    pub(super) async fn answer<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            () = tokio::time::sleep(self.patience) => self.among_all = None,
        }
        answer.await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn clinic(name: &str) -> ClinicName {
        ClinicName::new(name).unwrap()
    }

    #[tokio::test]
    async fn a_clinic_has_a_few_places_and_all_together_have_no_more_than_there_are() {
        let places = Places {
            polling: OfShare::new(2, 4),
            ..Places::new(2)
        };
        let (oak, elm, ash) = (clinic("oak"), clinic("elm"), clinic("ash"));
        let of_oak = [
            places.take(&oak, Share::Polling).await,
            places.take(&oak, Share::Polling).await,
        ];
        assert!(places.take(&oak, Share::Polling).now_or_never().is_none());
        let _of_elm = [
            places.take(&elm, Share::Polling).await,
            places.take(&elm, Share::Polling).await,
        ];
        assert!(places.take(&ash, Share::Polling).now_or_never().is_none());
        assert!(places.take(&oak, Share::Backfill).now_or_never().is_some());
        drop(of_oak);
        assert!(places.take(&ash, Share::Polling).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_request_that_hangs_gives_its_place_to_others_and_not_to_its_own_clinic() {
        let places = Places {
            polling: OfShare::new(1, 1),
            patience: Duration::ZERO,
            ..Places::new(1)
        };
        let (oak, elm) = (clinic("oak"), clinic("elm"));
        let mut place = places.take(&oak, Share::Polling).await;
        let mut hanging = pin!(place.answer(std::future::pending::<()>()));
        assert!(places.take(&elm, Share::Polling).now_or_never().is_none());
        tokio::select! {
            () = &mut hanging => unreachable!("nothing answers"),
            next = places.take(&elm, Share::Polling) => drop(next),
        }
        assert!(places.take(&oak, Share::Polling).now_or_never().is_none());
    }
}
