//! The outbox of one sink: claim → deliver → decide → settle.
//!
//! Each sink has a loop of its own: one that hangs or fails delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bring::Bringing;
use super::handover::{Held, Taking};
use super::health::Change;
use super::{OpenSink, Pipeline};
use crate::breaker::Permit;
use crate::config::{Bodies, OnDoubt};
use crate::decide::{Decision, Standing, decide};
use crate::deliver;
use crate::domain::{ClinicName, DeliveryState, Outcome, Parked};
use crate::ledger::{Claim, Next, Settlement};
use crate::sinks::{Sink, Stopped};
use crate::store::Unavailable;

/// How often a stopped sink, or a ledger that cannot be written, is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// The longest sleep of an idle sink: covers a bell that was rung by another process.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// So long an exact sink waits at most for more: a flush costs the same for ten events as for two hundred.
const GATHER: Duration = Duration::from_millis(20);

/// What an exact sink may hold of bodies that were handed over, and of bodies that were claimed ahead, in KiB each:
/// bounds memory, however large they are.
const IN_MEMORY: usize = 2 << 10;

/// Why deliveries ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// They were stopped, or nothing is due any more.
    Ended,
    /// The sink is paused.
    Paused,
}

/// When the loop of a sink may end.
#[derive(Clone)]
pub(super) struct Until {
    /// Nothing new is begun.
    pub(super) stopped: CancellationToken,
    /// Nothing new will come: the loop ends when nothing is due.
    pub(super) drained: CancellationToken,
}

impl Pipeline {
    /// Runs a sink until it is stopped, or drained.
    pub(super) async fn run_sink(self: Arc<Self>, index: usize, until: Until) {
        let Some(sink) = self.sinks.get(index) else {
            return;
        };
        while !until.stopped.is_cancelled() {
            let resumed = tokio::select! {
                resumed = self.resume(sink) => resumed,
                // A program may be waited for that an earlier daemon left: the next start goes on with that.
                () = until.stopped.cancelled() => return,
            };
            match resumed {
                Ok(()) => match Arc::clone(&self).deliver_due(index, &until).await {
                    Ok(Left::Ended) => return,
                    Ok(Left::Paused) => self.while_paused(sink, &until).await,
                    Err(stopped) => self.report_stopped(sink, &stopped).await,
                },
                Err(stopped) => self.report_stopped(sink, &stopped).await,
            }
            if until.drained.is_cancelled() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(TRY_AGAIN) => {}
                () = until.stopped.cancelled() => {}
                () = until.drained.cancelled() => {}
            }
        }
    }

    /// Returns when a paused sink is resumed, or has to end.
    async fn while_paused(&self, sink: &OpenSink, until: &Until) {
        while matches!(self.ledger.next(sink.id).await, Ok(Next::Paused)) {
            tokio::select! {
                () = tokio::time::sleep(LONGEST_SLEEP) => {}
                () = until.stopped.cancelled() => return,
                () = until.drained.cancelled() => return,
            }
        }
    }

    /// Settles what a crash, or a stop of the sink, left claimed.
    async fn resume(&self, sink: &OpenSink) -> Result<(), Stopped> {
        let ledger = |error: Unavailable| Stopped(error.to_string());
        let (checkpoint, orphans) = self.ledger.orphans(sink.id).await.map_err(ledger)?;
        let count = orphans.len();
        let resumed = sink.sink.resume(checkpoint, orphans).await?;
        let doubtful = match sink.rules.on_doubt {
            OnDoubt::Hold => DeliveryState::Held,
            OnDoubt::Resend => DeliveryState::Queued,
        };
        if count > 0 {
            tracing::warn!(
                sink = %sink.name, in_flight = count, shown = resumed.adopted.len(),
                not_shown = resumed.absent.len(), in_doubt = resumed.doubtful.len(),
                "deliveries were in flight when the daemon ended; those in doubt are {doubtful}"
            );
        }
        let now = self.now();
        self.ledger
            .settle_orphans(sink.id, resumed, doubtful, now)
            .await
            .map_err(ledger)?;
        let breaker = self.ledger.breaker(sink.id).await.map_err(ledger)?;
        sink.health.remember(breaker);
        Ok(())
    }

    async fn report_stopped(&self, sink: &OpenSink, stopped: &Stopped) {
        if self.activity.sink_stopped(sink.id, &stopped.0) {
            tracing::error!(sink = %sink.name, "{stopped}; its events wait, other sinks go on");
        }
        if let Err(error) = self.ledger.note_stopped(sink.id, stopped.0.clone()).await {
            self.ledger_trouble(&error);
        }
    }

    /// Delivers what is due, for as long as the sink works and is not paused.
    async fn deliver_due(self: Arc<Self>, index: usize, until: &Until) -> Result<Left, Stopped> {
        let Some(sink) = self.sinks.get(index) else {
            return Ok(Left::Ended);
        };
        self.activity.sink_works(sink.id);
        let (batch, places) = (sink.sink.batch(), sink.sink.concurrency());
        // While an exact sink writes one batch, the next is claimed. Should the first stop the sink, `resume` finds out
        // that the second was never shown; of another kind's nothing would be known.
        // Where an order is kept, only the ledger knows whose turn it is.
        let (ahead, handed_over) = if sink.sink.is_exact() && sink.rules.order_wait.is_none() {
            (batch, IN_MEMORY)
        } else {
            (0, 0)
        };
        let mut taking = sink.handover.open(handed_over);
        let mut attempts: JoinSet<Result<(), Stopped>> = JoinSet::new();
        let mut claims: Vec<Held> = Vec::new();
        let mut bringing = Bringing::default();
        let mut failed = None;
        let mut left = Left::Ended;
        while failed.is_none() && !until.stopped.is_cancelled() {
            // Those that have ended since: what is free is claimed in one transaction.
            while let Some(ended) = attempts.try_join_next() {
                failed = failed.or(flatten(ended).err());
            }
            // Known before the ledger is asked: what was released after the question is seen by one more.
            let drained = until.drained.is_cancelled();
            taking.take_all(&mut claims);
            if attempts.is_empty() && !claims.is_empty() {
                tokio::select! {
                    () = self.gather(&mut taking, &mut claims, ahead) => {}
                    () = tokio::time::sleep(GATHER) => {}
                    () = until.drained.cancelled() => {}
                }
                taking.take_all(&mut claims);
            }
            self.start(index, &mut claims, &mut attempts, &until.stopped);
            let permitted = self.permitted(sink).await;
            if permitted == Permit::Nothing {
                bringing.let_go();
            }
            let wanted = match permitted {
                Permit::All => {
                    ((places - attempts.len()) * batch + ahead).saturating_sub(claims.len())
                }
                Permit::Probe => usize::from(attempts.is_empty() && claims.is_empty()),
                Permit::Nothing => 0,
            };
            let held = claims.iter().map(|held| held.claim.parcel.body.kib());
            let free = if ahead > 0 {
                IN_MEMORY.saturating_sub(held.sum())
            } else {
                // Each has a place at once.
                usize::MAX
            };
            if wanted > 0 && free > 0 {
                let Some(more) = self.claim(sink, &mut bringing, wanted, free).await else {
                    left = Left::Paused;
                    break;
                };
                claims.extend(more);
            }
            let nothing_due = (wanted > 0 || permitted == Permit::Nothing)
                && claims.is_empty()
                && bringing.is_empty();
            self.start(index, &mut claims, &mut attempts, &until.stopped);
            if drained && nothing_due && attempts.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = attempts.join_next() => failed = flatten(ended).err(),
                () = taking.take(&mut claims) => {}
                () = bringing.arrive(&self) => {}
                () = sink.wake.notified() => {}
                () = tokio::time::sleep(LONGEST_SLEEP) => {}
                () = until.stopped.cancelled() => {}
                () = until.drained.cancelled(), if !drained => {}
            }
        }
        taking.close(&mut claims).await;
        // What is claimed and in flight is finished before the loop ends: what it did has to be settled.
        loop {
            if failed.is_none() {
                self.start(index, &mut claims, &mut attempts, &until.stopped);
            }
            let Some(ended) = attempts.join_next().await else {
                break;
            };
            failed = failed.or(flatten(ended).err());
        }
        failed.map_or(Ok(left), Err)
    }

    /// Returns when a batch is here, or half of all that is on its way.
    async fn gather(&self, taking: &mut Taking<'_>, claims: &mut Vec<Held>, batch: usize) {
        while claims.len() < self.activity.keeping.on_the_way().min(batch) {
            taking.take(claims).await;
            taking.take_all(claims);
        }
    }

    /// Begins as many attempts as there are places, with what is claimed, the oldest events first.
    fn start(
        self: &Arc<Self>,
        index: usize,
        claims: &mut Vec<Held>,
        attempts: &mut JoinSet<Result<(), Stopped>>,
        stopped: &CancellationToken,
    ) {
        let Some(sink) = self.sinks.get(index).map(|open| &open.sink) else {
            return;
        };
        if claims.is_empty() || attempts.len() >= sink.concurrency() {
            return;
        }
        claims.sort_by(|a, b| {
            let of = |held: &'_ Held| held.claim.parcel.created_at;
            (of(a), &a.claim.parcel.event).cmp(&(of(b), &b.claim.parcel.event))
        });
        while attempts.len() < sink.concurrency() && !claims.is_empty() {
            let rest = claims.split_off(sink.batch().min(claims.len()));
            let batch = std::mem::replace(claims, rest);
            attempts.spawn(Arc::clone(self).attempt(index, batch, stopped.clone()));
        }
    }

    /// What may be attempted: while that is nothing, a person may say that the receiver works again.
    async fn permitted(&self, sink: &OpenSink) -> Permit {
        if self.audit.holds_back() {
            return Permit::Nothing;
        }
        let permitted = sink.health.permits(self.now());
        if permitted == Permit::Nothing
            && let Ok(in_ledger) = self.ledger.breaker(sink.id).await
            && sink.health.is_resumed(in_ledger)
        {
            return Permit::All;
        }
        permitted
    }

    /// Claims what is due; `None` if the sink is paused.
    async fn claim(
        self: &Arc<Self>,
        sink: &OpenSink,
        bringing: &mut Bringing,
        limit: usize,
        kib: usize,
    ) -> Option<Vec<Held>> {
        let now = self.now();
        let are_kept = self.bodies == Bodies::UntilSettled;
        // Where bodies are kept, a claim parks what is of a paused clinic.
        if (sink.sink.may_park() || !are_kept)
            && let Err(error) = self.ledger.tend_parked(sink.id, are_kept, now).await
        {
            self.ledger_trouble(&error);
        }
        let next = match self.bodies {
            Bodies::UntilSettled => self.ledger.next(sink.id).await,
            Bodies::Never => self.ledger.next_unkept(sink.id).await,
        };
        let claimed = match (next, self.bodies) {
            (Ok(Next::Paused), _) => return None,
            (Ok(Next::DueAt(at)), Bodies::UntilSettled) if at <= now => {
                self.ledger.claim(sink.id, limit, kib, now).await
            }
            (Ok(Next::DueAt(at)), Bodies::Never) if at <= now => {
                bringing.claim(self, sink, limit).await
            }
            (Ok(Next::DueAt(_) | Next::Nothing), _) => Ok(Vec::new()),
            (Err(error), _) => Err(error),
        };
        let claims = claimed.unwrap_or_else(|error| {
            self.ledger_trouble(&error);
            Vec::new()
        });
        let held = |claim| Held { claim, room: None };
        Some(claims.into_iter().map(held).collect())
    }

    /// Takes one place of a sink for as long as there is something to attempt: what is claimed, and what is due when
    /// that is settled.
    async fn attempt(
        self: Arc<Self>,
        index: usize,
        mut claims: Vec<Held>,
        stopped: CancellationToken,
    ) -> Result<(), Stopped> {
        let Some(sink) = self.sinks.get(index) else {
            return Ok(());
        };
        while !claims.is_empty() {
            claims = self.attempt_once(sink, claims, &stopped).await?;
        }
        Ok(())
    }

    /// How many claims the end of an attempt may bring: none where the sink's loop brings them otherwise.
    fn successors(&self, sink: &OpenSink, stopped: &CancellationToken) -> usize {
        let by_itself = !sink.sink.is_exact()
            && self.bodies == Bodies::UntilSettled
            && !self.audit.holds_back();
        if by_itself && !stopped.is_cancelled() && sink.health.permits(self.now()) == Permit::All {
            sink.sink.batch()
        } else {
            0
        }
    }

    /// Attempts a batch of claims once, and settles them however often the ledger has to be asked. Gives what was claimed
    /// with that.
    async fn attempt_once(
        &self,
        sink: &OpenSink,
        claims: Vec<Held>,
        stopped: &CancellationToken,
    ) -> Result<Vec<Held>, Stopped> {
        // The room is free again when all is settled.
        let (claims, _room): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .map(|held| (held.claim, held.room))
            .unzip();
        crate::crash::point("deliver.after_claim");
        let begun = self.clock.monotonic();
        let attempted = deliver::attempt(&sink.sink, claims, self.now()).await?;
        let took = self.clock.monotonic().saturating_sub(begun);
        crate::crash::point("deliver.before_settle");
        let now = self.now();
        let mut decided = Vec::with_capacity(attempted.outcomes.len());
        let mut changed = Change::None;
        let mut gone = None;
        let mut refused = BTreeMap::new();
        let mut records = Vec::new();
        for (claim, outcome, status_code) in attempted.outcomes {
            records.extend(self.attempted(sink, &claim, &outcome, (took, status_code)));
            // What an exact sink refuses is one event's fault: it stops by itself where it does not work.
            let (standing, change) = if sink.sink.is_exact() {
                (Standing::Works, Change::None)
            } else {
                sink.health.after(claim.parcel.delivery, &outcome, now)
            };
            if change != Change::None {
                changed = change;
            }
            if let Outcome::Gone { reason } = &outcome {
                gone = Some(reason.clone());
            }
            let (facts, jitter) = (claim.ticket.facts, rand::random());
            let decision = decide(sink.rules, facts, outcome, standing, now, jitter);
            report(sink, &claim, &decision, standing);
            if let Decision::Parked {
                why: Parked::ClinicPaused,
                reason,
                ..
            } = &decision
            {
                refused.insert(claim.parcel.clinic.clone(), reason.clone());
            }
            decided.push((claim, decision));
        }
        let attested = self.audit.attest(|| records);
        let settlement = Settlement::new(sink.id, decided, attempted.checkpoint).attested(attested);
        loop {
            // What an outage has pushed back gets its place again first, and what is gone gets nothing.
            let is_steady = changed == Change::None && gone.is_none();
            let settled = match self.successors(sink, stopped) {
                limit if limit == 0 || !is_steady => {
                    let settled = self.ledger.settle(&settlement, now).await;
                    settled.map(|settled| (settled, Vec::new()))
                }
                limit => {
                    let (ledger, now) = (&self.ledger, self.now());
                    ledger.settle_and_claim(&settlement, limit, now).await
                }
            };
            match settled {
                Ok((settled, next)) => {
                    if settled.fenced > 0 {
                        tracing::error!(sink = %sink.name, fenced = settled.fenced, "deliveries were settled by somebody else meanwhile");
                    }
                    self.ledger_works();
                    report_refused(sink, &refused);
                    self.audit.wake();
                    if let Err(error) = self.note(sink, changed, gone, now).await {
                        // The next attempt, or the next start, finds out again.
                        self.ledger_trouble(&error);
                    }
                    let held = |claim| Held { claim, room: None };
                    return Ok(next.into_iter().map(held).collect());
                }
                Err(error) => {
                    self.ledger_trouble(&error);
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Notes what an attempt has said of the sink as a whole. After the settling: what failed because its receiver did
    /// not work gets its place again.
    async fn note(
        &self,
        sink: &OpenSink,
        changed: Change,
        gone: Option<String>,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let name = &sink.name;
        if let Some(why) = gone {
            tracing::error!(
                sink = %name,
                "{why}: paused, its events wait; when it has an address again: `fullscript-events sinks resume {name}`"
            );
            self.ledger.pause_sink(sink.id, why, now).await?;
        }
        match changed {
            Change::None => {}
            Change::Down(outage) => tracing::error!(
                sink = %name, probe_at = %outage.probe_at.format("%FT%TZ"),
                "its receiver does not work: several deliveries failed in a row; its events wait, and one of them is tried now and then"
            ),
            Change::Works(outage) => {
                tracing::info!(
                    sink = %name, since = %outage.since.format("%FT%TZ"), probes = outage.probes + 1,
                    "its receiver works again: delivering what has waited"
                );
                self.ledger.note_works(sink.id, now).await?;
                sink.wake.notify_one();
            }
        }
        if let Some(breaker) = sink.health.to_note() {
            self.ledger.note_breaker(sink.id, breaker).await?;
            sink.health.noted(breaker);
        }
        Ok(())
    }
}

/// A panicking attempt is a defect of ours: its claims stay claimed, and the sink resumes as after a crash.
fn flatten(joined: Result<Result<(), Stopped>, tokio::task::JoinError>) -> Result<(), Stopped> {
    joined.unwrap_or_else(|error| Err(Stopped(format!("an attempt ended unexpectedly: {error}"))))
}

/// One alert per clinic that is refused, however many deliveries were in flight.
fn report_refused(sink: &OpenSink, refused: &BTreeMap<ClinicName, String>) {
    let name = &sink.name;
    for (clinic, reason) in refused {
        tracing::error!(
            sink = %name, %clinic,
            "the receiver refuses this clinic: {reason}; its events wait, other clinics go on; look at its key, restart if \
             you have changed it, then: `fullscript-events sinks resume {name} --clinic {clinic}`"
        );
    }
}

/// One line per failed attempt, here where it is handled.
fn report(sink: &OpenSink, claim: &Claim, decision: &Decision, standing: Standing) {
    let (sink, event) = (&sink.name, &claim.parcel.event);
    let attempt = claim.parcel.attempt;
    match decision {
        Decision::Done => tracing::debug!(%sink, %event, attempt, "delivered"),
        Decision::Skipped { reason } => {
            tracing::debug!(%sink, %event, attempt, "skipped: {reason}");
        }
        Decision::Again { reason, .. } if standing == Standing::Down => {
            tracing::debug!(%sink, %event, attempt, "not delivered, as its receiver does not work: {reason}");
        }
        Decision::Again { at, reason, .. } => {
            tracing::warn!(%sink, %event, attempt, due_at = %at.format("%FT%TZ"), "not delivered: {reason}");
        }
        Decision::Held { reason, in_doubt } => tracing::error!(
            %sink, %event, attempt,
            "{what}: {reason}; held until a person decides (`fullscript-events deliveries show {delivery}`)",
            what = if *in_doubt { "may have been delivered" } else { "not delivered" },
            delivery = claim.parcel.delivery,
        ),
        Decision::Parked {
            why: Parked::AwaitsResult,
            ..
        } => {
            tracing::debug!(%sink, %event, attempt, "accepted; its result is awaited");
        }
        Decision::Parked {
            why: Parked::ClinicPaused,
            ..
        } => {
            tracing::debug!(%sink, %event, attempt, "not delivered, as its clinic is refused");
        }
        Decision::Parked {
            why: Parked::NoCrosswalk,
            reason,
            ..
        } => {
            tracing::warn!(%sink, %event, attempt, "parked: {reason}; asked again by itself (`fullscript-events crosswalk check` lists all)");
        }
        Decision::Dead { reason } => tracing::error!(
            %sink, %event, attempt,
            "given up: {reason}; to send it again: `fullscript-events deliveries retry {delivery}`",
            delivery = claim.parcel.delivery,
        ),
    }
}
