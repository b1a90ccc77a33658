//! Details: what a clinic is owed, fetched a few at a time, each on its own row.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Pipeline;
use super::keep::OnItsWay;
use crate::api::Trouble;
use crate::api::budget::Share;
use crate::audit::Attested;
use crate::decide::back_off;
use crate::domain::{ClinicName, EventBody};
use crate::fetch;
use crate::ledger::{Detail, EventKey, Owed};
use crate::schedule::LISTED;
use crate::store::Unavailable;

/// The first wait after a failed fetch of one event, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_hours(6));
/// How long a clinic's details are left alone when nothing of them could be fetched.
const REST: Duration = Duration::from_secs(30);
/// While so many events of a clinic are on their way, from the queue until they are kept, the ledger is not asked for
/// more of them, and for how many it is asked at once: it goes through those on their way again at each asking.
const ON_THE_WAY: usize = 256;
const AT_ONCE: usize = 512;
/// How long past the 30-day edge a detail waits for its clinic's grant: the vendor does not serve it any more.
const LONGEST_GRANT_TROUBLE: TimeDelta = TimeDelta::days(1);
/// So many events in a row without an answer: it is not the event, it is the server.
const SERVER_IS_DOWN: u32 = 4;

/// What one fetch says about the next.
pub(super) enum Step {
    Fetched(EventBody, Attested),
    /// This event waits on its own row.
    Failed,
    /// This event got no answer: perhaps none will.
    Unanswered,
    /// Nothing of this clinic can be fetched for a while.
    Rest(Duration),
}

impl Pipeline {
    /// Fetches what a clinic is owed now, until nothing is left or nothing can be fetched.
    pub(super) async fn fetch_owed(self: &Arc<Self>, clinic: &ClinicName) {
        match self.try_fetch_owed(clinic).await {
            Ok(None) => {}
            Ok(Some(wait)) => self.activity.rest(clinic, self.now() + wait),
            Err(error) => self.ledger_trouble(&error),
        }
    }

    /// Gives how long the clinic is to be left alone, if so. While some bodies go to disk, the next are fetched: the
    /// disk takes many in the time of one.
    async fn try_fetch_owed(
        self: &Arc<Self>,
        clinic: &ClinicName,
    ) -> Result<Option<Duration>, Unavailable> {
        let mut queue: VecDeque<(Owed, OnItsWay)> = VecDeque::new();
        // From the queue until they are kept.
        let mut taken: HashSet<EventKey> = HashSet::new();
        let mut asking = FuturesUnordered::new();
        let mut fetching = FuturesUnordered::new();
        let mut fetched: Vec<Detail> = Vec::new();
        let mut on_their_way: Vec<OnItsWay> = Vec::new();
        let mut writing = FuturesUnordered::new();
        let mut unanswered = 0;
        // Nothing more was owed when last asked; worth asking again when something has been kept.
        let mut exhausted = false;
        let rest = loop {
            if queue.len() < 2 * self.in_flight
                && taken.len() < ON_THE_WAY
                && asking.is_empty()
                && !exhausted
            {
                asking.push(self.ledger.owed(clinic, self.now(), taken.clone(), AT_ONCE));
            }
            while fetching.len() < 2 * self.in_flight {
                let Some((owed, mut on_its_way)) = queue.pop_front() else {
                    break;
                };
                fetching.push(async move {
                    let step = self.fetch_one(clinic, &owed).await;
                    if let Ok(Step::Fetched(body, _)) = &step {
                        on_its_way.arrive(body).await;
                    }
                    (owed, step, on_its_way)
                });
            }
            if writing.is_empty() && !fetched.is_empty() {
                let (fetched, ways) = (
                    std::mem::take(&mut fetched),
                    std::mem::take(&mut on_their_way),
                );
                writing.push(self.keep(fetched, ways));
            }
            tokio::select! {
                Some((owed, step, on_its_way)) = fetching.next() => match step? {
                    Step::Fetched(body, attested) => {
                        unanswered = 0;
                        fetched.push(Detail {
                            event: owed.event,
                            reference: owed.reference,
                            body,
                            in_trouble: owed.in_trouble,
                            attested,
                        });
                        on_their_way.push(on_its_way);
                    }
                    Step::Failed => drop(taken.remove(&owed.event)),
                    Step::Unanswered => {
                        taken.remove(&owed.event);
                        unanswered += 1;
                        if unanswered >= SERVER_IS_DOWN {
                            break Some(REST);
                        }
                    }
                    Step::Rest(wait) => break Some(wait),
                },
                Some(owing) = asking.next() => {
                    let owing = owing?;
                    exhausted = owing.whole || owing.events.is_empty();
                    taken.extend(owing.events.iter().map(|owed| owed.event));
                    let set_out = |owed| (owed, self.activity.keeping.set_out());
                    queue.extend(owing.events.into_iter().map(set_out));
                }
                Some(kept) = writing.next() => {
                    for event in kept? {
                        taken.remove(&event);
                    }
                    exhausted = false;
                }
                else => break None,
            }
        };
        // What was fetched before a rest is not fetched again.
        while let Some(kept) = writing.next().await {
            kept?;
        }
        if !fetched.is_empty() {
            self.keep(fetched, on_their_way).await?;
        }
        Ok(rest)
    }

    pub(super) async fn fetch_one(
        &self,
        clinic: &ClinicName,
        owed: &Owed,
    ) -> Result<Step, Unavailable> {
        let now = self.now();
        let event = &owed.reference.id;
        let begun = self.clock.monotonic();
        match fetch::detail(&self.api, clinic, &owed.reference, Share::Polling).await {
            Ok(fetched) => {
                let took = self.clock.monotonic().saturating_sub(begun);
                let attested = self.read(clinic, event, &fetched, took);
                Ok(Step::Fetched(fetched.body, attested))
            }
            Err(Trouble::Ledger(error)) => Err(error),
            Err(Trouble::Grant(_)) => {
                let too_old = now - LISTED - LONGEST_GRANT_TROUBLE;
                self.ledger.hand_over(clinic, too_old, now).await?;
                Ok(Step::Rest(REST))
            }
            Err(ref trouble @ Trouble::Throttled { retry_after, .. }) => {
                let wait = retry_after.unwrap_or(REST).clamp(REST / 10, 10 * REST);
                tracing::warn!(%clinic, wait_s = wait.as_secs(), "details wait: {trouble}");
                // Not the first one to be asked for again: were it the event, it would keep all others back.
                self.ledger
                    .fetch_failed(owed.event, trouble.to_string(), now + wait)
                    .await?;
                Ok(Step::Rest(wait))
            }
            Err(
                trouble @ (Trouble::Gone
                | Trouble::Contract(_)
                | Trouble::Forbidden
                | Trouble::Unauthorized),
            ) if now - owed.reference.created_at > LISTED => {
                let reason = match trouble {
                    Trouble::Gone => "gone",
                    Trouble::Contract(_) => "unreadable",
                    Trouble::Forbidden
                    | Trouble::Unauthorized
                    | Trouble::Grant(_)
                    | Trouble::Throttled { .. }
                    | Trouble::Unavailable(_)
                    | Trouble::Ledger(_) => "refused",
                };
                tracing::warn!(%clinic, %event, "{trouble}, and it is older than 30 days: not delivered ({reason})");
                self.ledger.fetch_gone(owed.event, reason, now).await?;
                Ok(Step::Failed)
            }
            Err(trouble) => {
                let wait = back_off(owed.failures + 1, RETRY.0, RETRY.1, rand::random());
                tracing::warn!(%clinic, %event, wait_s = wait.as_secs(), "detail not fetched: {trouble}");
                let step = if matches!(trouble, Trouble::Unavailable(_)) {
                    Step::Unanswered
                } else {
                    Step::Failed
                };
                let retry_at = retry_at(owed, now, wait);
                self.ledger
                    .fetch_failed(owed.event, trouble.to_string(), retry_at)
                    .await?;
                Ok(step)
            }
        }
    }
}

/// A retry is made just past the 30-day edge at the latest: there a 404 becomes final (`fullscript-api.md` §7.5).
fn retry_at(owed: &Owed, now: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    let edge = owed.reference.created_at + LISTED + TimeDelta::seconds(1);
    let at = now + wait;
    if edge > now { at.min(edge) } else { at }
}
