//! The outbox of one sink: claim → deliver → decide → settle.
//!
//! Each sink has a loop of its own: one that hangs or fails delays no other.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::handover::{Held, Taking};
use super::{OpenSink, Pipeline};
use crate::config::OnDoubt;
use crate::decide::{Decision, decide};
use crate::deliver;
use crate::domain::DeliveryState;
use crate::ledger::{Claim, Settlement};
use crate::sinks::{Sink, Stopped};

/// How often a stopped sink, or a ledger that cannot be written, is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// The longest sleep of an idle sink: covers a bell that was rung by another process.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// So long an exact sink waits at most for more: a flush costs the same for ten events as for two hundred.
const GATHER: Duration = Duration::from_millis(20);

/// What an exact sink may hold of bodies that were handed over, and of bodies that were claimed ahead, in KiB each:
/// bounds memory, however large they are.
const IN_MEMORY: usize = 2 << 10;

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
            if let Err(stopped) = self.resume(sink).await {
                self.report_stopped(sink, &stopped).await;
            } else {
                match Arc::clone(&self).deliver_due(index, &until).await {
                    Ok(()) => return,
                    Err(stopped) => self.report_stopped(sink, &stopped).await,
                }
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

    /// Settles what a crash, or a stop of the sink, left claimed.
    async fn resume(&self, sink: &OpenSink) -> Result<(), Stopped> {
        let ledger = |error: crate::store::Unavailable| Stopped(error.to_string());
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
            .map_err(ledger)
    }

    async fn report_stopped(&self, sink: &OpenSink, stopped: &Stopped) {
        if self.activity.sink_stopped(sink.id, &stopped.0) {
            tracing::error!(sink = %sink.name, "{stopped}; its events wait, other sinks go on");
        }
        if let Err(error) = self.ledger.note_stopped(sink.id, stopped.0.clone()).await {
            self.ledger_trouble(&error);
        }
    }

    /// Delivers what is due, for as long as the sink works.
    async fn deliver_due(self: Arc<Self>, index: usize, until: &Until) -> Result<(), Stopped> {
        let Some(sink) = self.sinks.get(index) else {
            return Ok(());
        };
        self.activity.sink_works(sink.id);
        let (batch, places) = (sink.sink.batch(), sink.sink.concurrency());
        // While an exact sink writes one batch, the next is claimed. Should the first stop the sink, `resume` finds out
        // that the second was never shown; of another kind's nothing would be known.
        let (ahead, handed_over) = if sink.sink.is_exact() {
            (batch, IN_MEMORY)
        } else {
            (0, 0)
        };
        let mut taking = sink.handover.open(handed_over);
        let mut attempts: JoinSet<Result<(), Stopped>> = JoinSet::new();
        let mut claims: Vec<Held> = Vec::new();
        let mut failed = None;
        while failed.is_none() && !until.stopped.is_cancelled() {
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
            self.start(index, &mut claims, &mut attempts);
            let wanted = ((places - attempts.len()) * batch + ahead).saturating_sub(claims.len());
            let held = claims.iter().map(|held| held.claim.parcel.body.kib());
            let free = if ahead > 0 {
                IN_MEMORY.saturating_sub(held.sum())
            } else {
                // Each has a place at once.
                usize::MAX
            };
            if wanted > 0 && free > 0 {
                claims.extend(self.claim(sink, wanted, free).await);
            }
            let nothing_due = wanted > 0 && claims.is_empty();
            self.start(index, &mut claims, &mut attempts);
            if drained && nothing_due && attempts.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = attempts.join_next() => failed = flatten(ended).err(),
                () = taking.take(&mut claims) => {}
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
                self.start(index, &mut claims, &mut attempts);
            }
            let Some(ended) = attempts.join_next().await else {
                break;
            };
            failed = failed.or(flatten(ended).err());
        }
        failed.map_or(Ok(()), Err)
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
            attempts.spawn(Arc::clone(self).attempt(index, batch));
        }
    }

    async fn claim(&self, sink: &OpenSink, limit: usize, kib: usize) -> Vec<Held> {
        let now = self.now();
        let claimed = match self.ledger.next_due(sink.id).await {
            Ok(Some(at)) if at <= now => self.ledger.claim(sink.id, limit, kib, now).await,
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let claims = claimed.unwrap_or_else(|error| {
            self.ledger_trouble(&error);
            Vec::new()
        });
        let held = |claim| Held { claim, room: None };
        claims.into_iter().map(held).collect()
    }

    /// Attempts a batch of claims once, and settles them however often the ledger has to be asked.
    async fn attempt(self: Arc<Self>, index: usize, claims: Vec<Held>) -> Result<(), Stopped> {
        let Some(sink) = self.sinks.get(index) else {
            return Ok(());
        };
        // The room is free again when all is settled.
        let (claims, _room): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .map(|held| (held.claim, held.room))
            .unzip();
        crate::crash::point("deliver.after_claim");
        let attempted = deliver::attempt(&sink.sink, claims, self.now()).await?;
        crate::crash::point("deliver.before_settle");
        let now = self.now();
        let decided = attempted.outcomes.into_iter().map(|(claim, outcome)| {
            let decision = decide(sink.rules, claim.ticket.facts, outcome, now, rand::random());
            report(sink, &claim, &decision);
            (claim, decision)
        });
        let settlement = Settlement::new(sink.id, decided.collect(), attempted.checkpoint);
        loop {
            match self.ledger.settle(&settlement, now).await {
                Ok(settled) => {
                    if settled.fenced > 0 {
                        tracing::error!(sink = %sink.name, fenced = settled.fenced, "deliveries were settled by somebody else meanwhile");
                    }
                    self.ledger_works();
                    return Ok(());
                }
                Err(error) => {
                    self.ledger_trouble(&error);
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}

/// A panicking attempt is a defect of ours: its claims stay claimed, and the sink resumes as after a crash.
fn flatten(joined: Result<Result<(), Stopped>, tokio::task::JoinError>) -> Result<(), Stopped> {
    joined.unwrap_or_else(|error| Err(Stopped(format!("an attempt ended unexpectedly: {error}"))))
}

/// One line per failed attempt, here where it is handled.
fn report(sink: &OpenSink, claim: &Claim, decision: &Decision) {
    let (sink, event) = (&sink.name, &claim.parcel.event);
    let attempt = claim.parcel.attempt;
    match decision {
        Decision::Done => tracing::debug!(%sink, %event, attempt, "delivered"),
        Decision::Again { at, reason, .. } => {
            tracing::warn!(%sink, %event, attempt, due_at = %at.format("%FT%TZ"), "not delivered: {reason}");
        }
        Decision::Held { reason } => tracing::error!(
            %sink, %event, attempt,
            "may have been delivered: {reason}; held until a person decides (`fullscript-events deliveries show {delivery}`)",
            delivery = claim.parcel.delivery,
        ),
        Decision::Dead { reason } => tracing::error!(
            %sink, %event, attempt,
            "given up: {reason}; to send it again: `fullscript-events deliveries retry {delivery}`",
            delivery = claim.parcel.delivery,
        ),
    }
}
