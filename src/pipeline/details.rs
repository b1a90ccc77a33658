//! Details: what a clinic is owed, fetched a few at a time, each on its own row.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Pipeline;
use crate::api::Trouble;
use crate::api::budget::Share;
use crate::decide::back_off;
use crate::domain::ClinicName;
use crate::fetch;
use crate::ledger::{EventKey, Owed};
use crate::schedule::LISTED;
use crate::store::Unavailable;

/// The first wait after a failed fetch of one event, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_hours(6));
/// How long a clinic's details are left alone when nothing of them could be fetched.
const REST: Duration = Duration::from_secs(30);
/// So many events in a row without an answer: it is not the event, it is the server.
const SERVER_IS_DOWN: u32 = 4;

/// What one fetch says about the next.
enum Step {
    Fetched,
    /// This event waits on its own row.
    Failed,
    /// This event got no answer: perhaps none will.
    Unanswered,
    /// Nothing of this clinic can be fetched for a while.
    Rest(Duration),
}

impl Pipeline {
    /// Fetches what a clinic is owed now, until nothing is left or nothing can be fetched.
    pub(super) async fn fetch_owed(&self, clinic: &ClinicName) {
        let mut queue: VecDeque<Owed> = VecDeque::new();
        let mut taken: HashSet<EventKey> = HashSet::new();
        let mut running = FuturesUnordered::new();
        let mut unanswered = 0;
        loop {
            while running.len() < self.in_flight {
                if queue.is_empty() {
                    let wanted = running.len() + 8 * self.in_flight;
                    match self.ledger.owed(clinic, self.now(), wanted).await {
                        Ok(owed) => {
                            queue.extend(owed.into_iter().filter(|o| !taken.contains(&o.event)));
                        }
                        Err(error) => return self.ledger_trouble(&error),
                    }
                }
                let Some(owed) = queue.pop_front() else { break };
                taken.insert(owed.event);
                running.push(async move { (owed.event, self.fetch_one(clinic, owed).await) });
            }
            let Some((event, step)) = running.next().await else {
                return;
            };
            taken.remove(&event);
            match step {
                Ok(Step::Fetched) => unanswered = 0,
                Ok(Step::Failed) => {}
                Ok(Step::Unanswered) => unanswered += 1,
                Ok(Step::Rest(wait)) => return self.activity.rest(clinic, self.now() + wait),
                Err(error) => return self.ledger_trouble(&error),
            }
            if unanswered >= SERVER_IS_DOWN {
                return self.activity.rest(clinic, self.now() + REST);
            }
        }
    }

    async fn fetch_one(&self, clinic: &ClinicName, owed: Owed) -> Result<Step, Unavailable> {
        let now = self.now();
        let event = &owed.reference.id;
        match fetch::detail(&self.api, clinic, &owed.reference, Share::Polling).await {
            Ok(body) => {
                crate::crash::point("fetch.before_kept");
                let ready = self.ledger.fetched(owed.event, &body).await?;
                for sink in self.sinks.iter().filter(|sink| ready.contains(&sink.id)) {
                    sink.wake.notify_one();
                }
                Ok(Step::Fetched)
            }
            Err(Trouble::Ledger(error)) => Err(error),
            Err(Trouble::Grant(_)) => Ok(Step::Rest(REST)),
            Err(ref trouble @ Trouble::Throttled { retry_after, .. }) => {
                let wait = retry_after.unwrap_or(REST).min(10 * REST);
                tracing::warn!(%clinic, wait_s = wait.as_secs(), "details wait: {trouble}");
                Ok(Step::Rest(wait))
            }
            Err(trouble @ (Trouble::Gone | Trouble::Contract(_)))
                if now - owed.reference.created_at > LISTED =>
            {
                let reason = if matches!(trouble, Trouble::Gone) {
                    "gone"
                } else {
                    "unreadable"
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
                let retry_at = retry_at(&owed, now, wait);
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
    let edge = owed.reference.created_at + LISTED + chrono::TimeDelta::seconds(1);
    let at = now + wait;
    if edge > now { at.min(edge) } else { at }
}
