//! Where bodies are never kept, the sink's own loop brings them: each due delivery's event is fetched for the attempt,
//! and claimed when it is here, so that nothing is claimed which was not sent.
//!
//! A clinic whose server hangs has only its own few fetches waiting, and no place of the sink.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::details::Step;
use super::{OpenSink, Pipeline};
use crate::domain::{ClinicName, DeliveryId};
use crate::ledger::{Brought, Claim, InHand, Wanted};
use crate::store::Unavailable;

/// The most that are here and not claimed: bounds memory.
const MOST: usize = 32;

type Fetch = Pin<Box<dyn Future<Output = (Wanted, Result<Step, Unavailable>)> + Send>>;

/// What a sink has sent for.
#[derive(Default)]
pub(super) struct Bringing {
    fetching: FuturesUnordered<Fetch>,
    here: Vec<Brought>,
    in_hand: HashMap<DeliveryId, ClinicName>,
}

impl Bringing {
    pub(super) fn is_empty(&self) -> bool {
        self.in_hand.is_empty()
    }

    /// Keeps nothing that cannot be attempted now.
    pub(super) fn let_go(&mut self) {
        for brought in self.here.drain(..) {
            self.in_hand.remove(&brought.delivery);
        }
    }

    /// Sends for what is due, as long as there are places for it, and claims what is here.
    pub(super) async fn claim(
        &mut self,
        pipeline: &Arc<Pipeline>,
        sink: &OpenSink,
        places: usize,
    ) -> Result<Vec<Claim>, Unavailable> {
        let now = pipeline.now();
        let free = places.min(MOST).saturating_sub(self.here.len());
        if free > 0 {
            let in_hand = InHand {
                deliveries: self.in_hand.clone(),
                resting: pipeline.activity.resting(now),
                of_clinic: pipeline.in_flight,
            };
            for wanted in pipeline.ledger.wanted(sink.id, in_hand, free, now).await? {
                self.in_hand.insert(wanted.delivery, wanted.through.clone());
                self.fetching.push(fetch(Arc::clone(pipeline), wanted));
            }
        }
        let here: Vec<Brought> = self.here.drain(..places.min(self.here.len())).collect();
        if here.is_empty() {
            return Ok(Vec::new());
        }
        for brought in &here {
            self.in_hand.remove(&brought.delivery);
        }
        pipeline.ledger.claim_brought(here, now).await
    }

    /// Waits for one that was sent for. Safe to be dropped.
    pub(super) async fn arrive(&mut self, pipeline: &Pipeline) {
        let Some((wanted, step)) = self.fetching.next().await else {
            return std::future::pending().await;
        };
        match step {
            Ok(Step::Fetched(body, _)) => {
                self.here.push(Brought {
                    delivery: wanted.delivery,
                    event: wanted.owed.event,
                    reference: wanted.owed.reference,
                    body,
                });
                return;
            }
            Ok(Step::Failed | Step::Unanswered) => {}
            Ok(Step::Rest(wait)) => {
                let until = pipeline.now() + wait;
                pipeline.activity.rest(&wanted.through, until);
            }
            Err(error) => pipeline.ledger_trouble(&error),
        }
        self.in_hand.remove(&wanted.delivery);
    }
}

fn fetch(pipeline: Arc<Pipeline>, wanted: Wanted) -> Fetch {
    Box::pin(async move {
        let mut step = pipeline.fetch_one(&wanted.through, &wanted.owed).await;
        // Whatever becomes of it: it has been read.
        if let Ok(Step::Fetched(_, attested)) = &step
            && let Err(error) = pipeline.audit.commit(attested.clone()).await
        {
            step = Err(error);
        }
        (wanted, step)
    })
}
