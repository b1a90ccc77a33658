//! Intake: a sweep of one lane, or one lane of a backfill: list → route → admit, page by page.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Pipeline;
use crate::api::Trouble;
use crate::api::budget::Share;
use crate::config::FirstRun;
use crate::decide::back_off;
use crate::domain::{ClinicId, Lane, ListDigest, Reference, Sweep};
use crate::ledger::{Admitted, Found, Heard, JobLane, LaneState, Page, Progress, SinkId, SweepEnd};
use crate::list::{self, Listing};
use crate::schedule::{self, LISTED, OVERLAP, Plan};
use crate::store::AcceptedLoss;
use crate::token::TokenError;

/// The first wait after a failed sweep, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));
/// How often a parked lane is probed: a firewall's passing 403 must not cost 30 days.
const PROBE: Duration = Duration::from_hours(1);
/// A backfill gives a lane up after so many failures in a row, some ten minutes: somebody waits for its end.
const MOST_FAILURES: u32 = 7;

/// What a sweep found when it reached its end.
struct Swept {
    admitted: Admitted,
    newest: Option<DateTime<Utc>>,
    /// The vendor's clock, if it told.
    server_now: Option<DateTime<Utc>>,
    /// When its last page was admitted.
    ended_at: DateTime<Utc>,
    /// The first event that could not be read, in words. It ends no sweep: one bad record must not make a lane list
    /// its thirty days again and again, for as long as the vendor lists it.
    malformed: Option<String>,
    /// Of the list, if one good page was all of it.
    digest: Option<ListDigest>,
}

impl Pipeline {
    /// Makes the widest sweep of a lane that is due, and records how it ended.
    pub(super) async fn sweep(&self, lane: LaneState) {
        let Some(plan) = schedule::plan(&lane, self.now()) else {
            return;
        };
        match self.list_whole(&lane, plan).await {
            Ok(swept) => {
                self.sweep_ended(&lane, plan.sweep, &swept);
                // Else it has released nothing: a bell for each of a thousand quiet lanes is a thousand looks.
                if swept.admitted.issued > 0 || lane.failures > 0 {
                    self.wake_sinks();
                }
            }
            Err(trouble) => self.sweep_failed(&lane, plan.sweep, trouble).await,
        }
    }

    async fn list_whole(&self, lane: &LaneState, plan: Plan) -> Result<Swept, Trouble> {
        let mut swept = Swept {
            admitted: Admitted::default(),
            newest: plan.newest,
            server_now: None,
            ended_at: self.now(),
            malformed: None,
            digest: None,
        };
        let mut issue_from = lane.issue_from;
        let mut descending = true;
        let mut seen = Vec::new();
        let mut number = 1;
        loop {
            let page = list::page(&self.api, &lane.lane, plan.days, number, Share::Polling).await;
            self.audit.polled(&lane.lane, page.is_err(), self.now());
            let page = page?;
            swept.server_now = page.server_now.or(swept.server_now);
            swept.ended_at = self.now();
            let digest = if number == 1 {
                page.digest(swept.ended_at.date_naive())
            } else {
                None
            };
            if digest.is_some() && digest == lane.digest {
                // Nearly every sweep ends here: all that it listed has been admitted today.
                self.ledger
                    .end_sweep(self.sweep_end(lane, plan.sweep, &swept))
                    .await?;
                return Ok(swept);
            }
            let listing = page.read()?;
            refuse_repetition(&mut seen, &listing, number)?;
            let server_now = swept.server_now.unwrap_or_else(|| self.now());
            if !lane.baseline_done && issue_from.is_none() {
                let from = match (lane.after_loss, self.first_run) {
                    (Some(AcceptedLoss::Baseline), _) | (None, FirstRun::Baseline) => server_now,
                    (Some(AcceptedLoss::Replay), _) => server_now - LISTED,
                    (None, FirstRun::Since(span)) => server_now - span,
                };
                issue_from = Some(from);
            }
            let (newest, oldest) = ends(&listing);
            // An event of the future must not move the mark to where nothing is new any more.
            swept.newest = swept
                .newest
                .max(newest.map(|newest| newest.min(server_now)));
            descending &= listing.descending;
            swept.malformed = swept.malformed.or_else(|| listing.malformed.clone());
            let past_mark = plan
                .stop_at
                .zip(oldest)
                .is_some_and(|(at, oldest)| oldest < at);
            let next = listing.next.filter(|_| !(past_mark && descending));
            let progress = swept.newest.zip(oldest).filter(|_| {
                // Only a sweep of the whole list is worth going on with after a restart.
                plan.sweep == Sweep::Reconcile && descending
            });
            let found = Found::BySweep {
                sweep: plan.sweep,
                progress: progress.map(|(newest, reached)| Progress { newest, reached }),
                issue_from: issue_from.filter(|_| !lane.baseline_done),
                late_before: lane
                    .complete_to
                    .filter(|_| plan.sweep != Sweep::Fast)
                    .map(|mark| mark - OVERLAP),
            };
            swept.ended_at = self.now();
            if listing.next.is_none() && swept.malformed.is_none() {
                swept.digest = digest;
            }
            let end = next
                .is_none()
                .then(|| self.sweep_end(lane, plan.sweep, &swept));
            swept.admitted += self
                .admit(lane.id, &lane.lane, found, listing, None, end)
                .await?;
            crate::crash::point("sweep.after_page");
            match next {
                Some(next) => number = next,
                None => return Ok(swept),
            }
        }
    }

    /// How a sweep ends whose last page is about to be admitted.
    fn sweep_end(&self, lane: &LaneState, sweep: Sweep, swept: &Swept) -> SweepEnd {
        let (fast_at, deep_at, reconcile_at) = self.pace.next(lane, sweep, swept.ended_at);
        SweepEnd {
            lane: lane.id,
            sweep,
            newest: swept.newest,
            ended_at: swept.ended_at,
            fast_at,
            deep_at,
            reconcile_at,
            trouble: swept.malformed.clone(),
            digest: swept.digest,
        }
    }

    /// Routes a page and admits it; events of another clinic than the grant's are kept apart.
    async fn admit(
        &self,
        id: crate::ledger::LaneId,
        lane: &Lane,
        found: Found,
        listing: Listing,
        only: Option<SinkId>,
        end: Option<SweepEnd>,
    ) -> Result<Admitted, Trouble> {
        let clinic_id = self.clinic_id(lane, &listing).await?;
        let (foreign, own): (Vec<Reference>, Vec<Reference>) =
            listing.references.into_iter().partition(|reference| {
                reference.clinic_id.is_some() && reference.clinic_id != clinic_id
            });
        let events = own.into_iter().map(|reference| {
            let mut sinks = self.routes.sinks_for(&lane.clinic, &reference.event_type);
            sinks.retain(|sink| only.is_none_or(|only| *sink == only));
            (reference, sinks)
        });
        let page = Page {
            lane: id,
            found,
            events: events.collect(),
            foreign,
            now: self.now(),
            end,
        };
        let admitted = self.ledger.admit(page).await?;
        if admitted.foreign > 0 {
            tracing::error!(
                clinic = %lane.clinic, category = %lane.category, events = admitted.foreign,
                "events of another clinic were listed: quarantined, not delivered; log this clinic in again (`fullscript-events auth login {}`)", lane.clinic
            );
        }
        if admitted.issued > 0 {
            self.activity.changed.notify_one();
        }
        Ok(admitted)
    }

    /// The clinic that the grant is for; an unverified grant is pinned by the first `clinic_id` it lists, before
    /// anything of it is admitted.
    async fn clinic_id(&self, lane: &Lane, listing: &Listing) -> Result<Option<ClinicId>, Trouble> {
        if listing.clinic_id.is_some() {
            return Ok(listing.clinic_id.clone());
        }
        let first = listing.references.iter().find_map(|r| r.clinic_id.clone());
        match first {
            None => Ok(None),
            Some(first) => {
                let pinned = self.tokens.pin(&lane.clinic, &first).await;
                Ok(Some(pinned.map_err(Trouble::Grant)?.clinic_id))
            }
        }
    }

    fn sweep_ended(&self, lane: &LaneState, sweep: Sweep, swept: &Swept) {
        self.ledger_works();
        if let Some(server_now) = swept.server_now {
            self.activity.heard_from_vendor(Heard {
                ours: self.now(),
                fullscripts: server_now,
                since_boot: self.clock.since_boot(),
            });
        }
        let Admitted {
            new,
            issued,
            baseline,
            late,
            ..
        } = swept.admitted;
        let (clinic, category) = (&lane.lane.clinic, &lane.lane.category);
        if let Some(problem) = &swept.malformed {
            tracing::error!(%clinic, %category, "{problem}: it cannot be handed on, the others are; tell Fullscript's support");
        }
        if baseline > 0 {
            tracing::info!(
                %clinic, %category, skipped = baseline, issued,
                "first poll: {baseline} events were there already and are not delivered; to get them: `fullscript-events backfill --since 30d --clinic {clinic} --category {category}`"
            );
        } else if new > 0 {
            tracing::info!(%clinic, %category, %sweep, new, issued, late, "new events");
        } else {
            tracing::debug!(%clinic, %category, %sweep, "nothing new");
        }
    }

    async fn sweep_failed(&self, lane: &LaneState, sweep: Sweep, trouble: Trouble) {
        let now = self.now();
        let (clinic, category) = (&lane.lane.clinic, &lane.lane.category);
        let wait = back_off(lane.failures + 1, RETRY.0, RETRY.1, rand::random());
        let recorded = match trouble {
            Trouble::Ledger(error) => return self.ledger_trouble(&error),
            // Said once, where the grant is kept.
            Trouble::Grant(error) => {
                let words = error.to_string();
                self.ledger.fail_sweep(lane, sweep, words, now + wait).await
            }
            Trouble::Forbidden | Trouble::Unauthorized | Trouble::Gone => {
                let words = scope_missing(&lane.lane, &trouble);
                tracing::warn!(%clinic, %category, "{words}");
                self.ledger
                    .park_lane(lane.id, words, now, now + PROBE)
                    .await
            }
            Trouble::Throttled { retry_after, .. } => {
                let wait = retry_after.map_or(wait, |wish| wish.min(RETRY.1).max(wait));
                tracing::warn!(%clinic, %category, %sweep, wait_s = wait.as_secs(), "{trouble}");
                let words = trouble.to_string();
                self.ledger.fail_sweep(lane, sweep, words, now + wait).await
            }
            Trouble::Unavailable(words) | Trouble::Contract(words) => {
                tracing::warn!(%clinic, %category, %sweep, wait_s = wait.as_secs(), "{words}");
                self.ledger.fail_sweep(lane, sweep, words, now + wait).await
            }
        };
        if let Err(error) = recorded {
            self.ledger_trouble(&error);
        }
    }

    /// Lists one lane of a backfill from where it stands; newest first, so that an interrupted one goes on below.
    pub(super) async fn backfill(&self, work: JobLane) {
        let job = work.job.job;
        let named = work.job.sink.as_ref();
        let found = named.and_then(|name| self.sinks.iter().find(|sink| sink.name == *name));
        if let (Some(name), None) = (named, found) {
            let words = format!("the sink {name} is not configured");
            return self.end_backfill(&work, Some(words)).await;
        }
        let only = found.map(|sink| sink.id);
        match self.list_span(&work, only).await {
            Ok((admitted, malformed)) => {
                tracing::debug!(lane = %work.lane, issued = admitted.issued, "backfilled");
                self.end_backfill(&work, malformed).await;
            }
            Err(Trouble::Ledger(error)) => self.ledger_trouble(&error),
            Err(
                trouble @ (Trouble::Throttled { .. }
                | Trouble::Unavailable(_)
                | Trouble::Grant(TokenError::Unavailable { .. })),
            ) if work.failures < MOST_FAILURES => {
                let wait = back_off(work.failures + 1, RETRY.0, RETRY.1, rand::random());
                tracing::warn!(lane = %work.lane, job, wait_s = wait.as_secs(), "backfill waits: {trouble}");
                let words = trouble.to_string();
                if let Err(error) = self.ledger.note_job_trouble(job, work.id, words).await {
                    self.ledger_trouble(&error);
                }
                self.clock.sleep_until(self.now() + wait).await;
            }
            Err(trouble) => {
                tracing::warn!(lane = %work.lane, job, "backfill gives this lane up: {trouble}");
                self.end_backfill(&work, Some(trouble.to_string())).await;
            }
        }
        self.wake_sinks();
    }

    /// What was admitted, and the first event that could not be read, in words.
    async fn list_span(
        &self,
        work: &JobLane,
        only: Option<SinkId>,
    ) -> Result<(Admitted, Option<String>), Trouble> {
        let (since, until) = (work.job.since, work.job.until);
        let days = schedule::days_between(since, work.reached.or(until));
        let mut total = Admitted::default();
        let mut malformed = None;
        let mut all_descending = true;
        let mut seen = Vec::new();
        let mut number = 1;
        loop {
            let page = list::page(&self.api, &work.lane, days, number, Share::Backfill).await;
            self.audit.polled(&work.lane, page.is_err(), self.now());
            let page = page?;
            let listing = page.read()?;
            refuse_repetition(&mut seen, &listing, number)?;
            let (_, oldest) = ends(&listing);
            let next = listing.next;
            all_descending &= listing.descending;
            malformed = malformed.or_else(|| listing.malformed.clone());
            if let Some(oldest) = oldest {
                // A list in another order has not been seen whole down to its oldest.
                let reached = if all_descending {
                    Some(oldest)
                } else {
                    work.reached
                };
                let found = Found::ByJob {
                    job: work.job.job,
                    reached,
                    since,
                    until,
                };
                total += self
                    .admit(work.id, &work.lane, found, listing, only, None)
                    .await?;
                crate::crash::point("backfill.after_page");
            }
            let past = oldest.is_some_and(|oldest| oldest < since);
            match next {
                Some(next) if !(past && all_descending) => number = next,
                Some(_) | None => return Ok((total, malformed)),
            }
        }
    }

    async fn end_backfill(&self, work: &JobLane, trouble: Option<String>) {
        let ended = self
            .ledger
            .end_job_lane(work.job.job, work.id, trouble, self.now());
        if let Err(error) = ended.await {
            self.ledger_trouble(&error);
        }
    }
}

/// The newest and the oldest `created_at` of a page.
fn ends(listing: &Listing) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    let times = || listing.references.iter().map(|r| r.created_at);
    (times().max(), times().min())
}

/// A page that is the one before it, to the last id, would be listed for ever.
fn refuse_repetition(
    seen: &mut Vec<String>,
    listing: &Listing,
    number: u32,
) -> Result<(), Trouble> {
    let ids: Vec<String> = listing
        .references
        .iter()
        .map(|r| r.id.as_str().to_owned())
        .collect();
    if !ids.is_empty() && ids == *seen {
        return Err(Trouble::Contract(format!(
            "page {number} repeats page {}",
            number - 1
        )));
    }
    *seen = ids;
    Ok(())
}

fn scope_missing(lane: &Lane, trouble: &Trouble) -> String {
    let scope = lane.category.known().and_then(|known| known.scope);
    match (trouble, scope) {
        (Trouble::Gone, _) => format!(
            "404: this Fullscript server has no category {}; take it out of `categories`, or wait: it is probed hourly",
            lane.category
        ),
        (_, Some(scope)) => format!(
            "scope_missing: {trouble}; tick `{scope}` in Fullscript's developer dashboard, then `fullscript-events auth login {}` (existing grants do not grow); probed hourly",
            lane.clinic
        ),
        (_, None) => format!(
            "scope_missing: {trouble}; which scope {} needs is not documented; probed hourly",
            lane.category
        ),
    }
}
