//! The outbox: what is due is claimed, and what was claimed is settled.
//!
//! A [`Claim`] exists only after its row is durable, and settling consumes it. A claim of an owner that is gone, or of
//! an attempt that is not the newest any more, changes nothing when it is settled: it is fenced.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rusqlite::vtab::array::Array;
use rusqlite::{Connection, Row};

use super::details::{self, Detail, Taker};
use super::order::{self, Gate};
use super::query::time;
use super::unkept::Brought;
use super::{
    EventKey, LONGEST_WAIT_FOR_SWEEP, Ledger, SinkId, at, body_place, damaged, ms, numbers, output,
    parked, treatments,
};
use crate::audit::{Action, Attested, Audit, Record};
use crate::decide::{Decision, Facts};
use crate::domain::{
    ClinicId, ClinicName, DeliveryId, DeliveryState, EventBody, EventId, EventType, Parcel, Parked,
};
use crate::sinks::{Checkpoint, Orphan, Resumed};
use crate::store::{Epoch, Sealer, Unavailable};

/// The right to attempt a delivery once. Dropping it without settling leaves the delivery claimed until the next
/// start finds it as an orphan.
#[must_use]
pub struct Claim {
    /// What the sink is handed.
    pub parcel: Parcel,
    /// What settles it. Belongs to this parcel and to no other.
    pub ticket: Ticket,
}

/// What is needed to decide on a claim and to settle it.
#[must_use]
pub struct Ticket {
    /// What the decision needs to know.
    pub facts: Facts,
    event: EventKey,
    epoch: Epoch,
    /// Its body is in the ledger too, or is never kept there.
    kept: bool,
    /// An earlier attempt may have arrived (only where bodies are never kept).
    sent_before: bool,
}

impl Claim {
    /// The claim of what was fetched for this one attempt, once it is durable.
    pub(super) fn unkept(
        brought: &Brought,
        clinic: ClinicName,
        facts: Facts,
        sent_before: bool,
        epoch: Epoch,
    ) -> Self {
        let reference = &brought.reference;
        Self {
            parcel: Parcel {
                delivery: brought.delivery,
                attempt: facts.attempt,
                event: reference.id.clone(),
                event_type: reference.event_type.clone(),
                created_at: reference.created_at,
                clinic,
                clinic_id: reference.clinic_id.clone(),
                body: brought.body.clone(),
            },
            ticket: Ticket {
                facts,
                event: brought.event,
                epoch,
                kept: true,
                sent_before,
            },
        }
    }
}

/// Claims and what was decided of each: made once, by consuming the claims, and offered to the ledger until it takes
/// it. A full disk between an effect and its record must not turn into a second effect.
#[derive(Clone)]
#[must_use]
pub struct Settlement {
    sink: SinkId,
    decided: Arc<[(Stub, Decision)]>,
    checkpoint: Option<Checkpoint>,
    attested: Attested,
}

/// What is left of a consumed claim.
struct Stub {
    delivery: DeliveryId,
    event: EventKey,
    event_type: EventType,
    epoch: Epoch,
    facts: Facts,
    sent_before: bool,
    /// For an attempt to come: the ledger does not have it.
    body: Option<EventBody>,
}

impl Settlement {
    /// Consumes the claims.
    pub fn new(
        sink: SinkId,
        decided: Vec<(Claim, Decision)>,
        checkpoint: Option<Checkpoint>,
    ) -> Self {
        let decided = decided.into_iter().map(|(claim, decision)| {
            let is_open = !matches!(decision, Decision::Done | Decision::Skipped { .. });
            let owned = !claim.ticket.kept && is_open;
            let stub = Stub {
                delivery: claim.parcel.delivery,
                event: claim.ticket.event,
                event_type: claim.parcel.event_type,
                epoch: claim.ticket.epoch,
                facts: claim.ticket.facts,
                sent_before: claim.ticket.sent_before,
                body: owned.then_some(claim.parcel.body),
            };
            (stub, decision)
        });
        Self {
            sink,
            decided: decided.collect(),
            checkpoint,
            attested: Attested::default(),
        }
    }

    /// With a record of each attempt: it is there when the claims are settled.
    pub fn attested(self, attested: Attested) -> Self {
        Self { attested, ..self }
    }
}

/// What settling changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Deliveries settled or given back.
    pub changed: usize,
    /// Claims that were not the newest any more: nothing was changed for them.
    pub fenced: usize,
}

/// A delivery that is due, its body being kept.
struct Due {
    event: EventKey,
    delivery: DeliveryId,
    facts: Facts,
    id: EventId,
    event_type: EventType,
    created_at: DateTime<Utc>,
    clinic: ClinicName,
    clinic_id: Option<ClinicId>,
}

impl Due {
    /// The claim, once it is durable.
    fn claimed(self, body: EventBody, epoch: Epoch) -> Claim {
        Claim {
            parcel: Parcel {
                delivery: self.delivery,
                attempt: self.facts.attempt,
                event: self.id,
                event_type: self.event_type,
                created_at: self.created_at,
                clinic: self.clinic,
                clinic_id: self.clinic_id,
                body,
            },
            ticket: Ticket {
                facts: self.facts,
                event: self.event,
                epoch,
                kept: true,
                sent_before: false,
            },
        }
    }
}

impl Ledger {
    /// Claims at most `limit` deliveries of a sink that are due at `now`, the oldest event first; no more of them than
    /// reach `kib` with their bodies.
    pub async fn claim(
        &self,
        sink: SinkId,
        limit: usize,
        kib: usize,
        now: DateTime<Utc>,
    ) -> Result<Vec<Claim>, Unavailable> {
        let epoch = self.epoch;
        let due = self
            .store
            .write(move |c| claim(c, sink, (limit, kib), epoch, now))
            .await?;
        Ok(self.opened(due).await)
    }

    /// What was claimed, with its bodies.
    async fn opened(&self, due: Vec<(Due, Option<Vec<u8>>)>) -> Vec<Claim> {
        let epoch = self.epoch;
        let mut claims = Vec::with_capacity(due.len());
        let mut unreadable = Vec::new();
        for (row, sealed) in due {
            let opened = sealed.as_deref().and_then(|sealed| {
                let opened = self.store.sealer().open(&body_place(row.event), sealed);
                opened.and_then(crate::store::Opened::into_text).ok()
            });
            match opened {
                Some(json) => claims.push(row.claimed(EventBody::from_json(json), epoch)),
                None => unreadable.push((row.delivery, row.event)),
            }
        }
        if !unreadable.is_empty()
            && let Err(error) = self.fetch_again(unreadable).await
        {
            // Those stay claimed until the sink resumes; the good ones must not wait with them.
            tracing::error!(%error, "a damaged body could not be asked for again");
        }
        claims
    }

    /// Settles claims by their decisions, and the sink's checkpoint with them, in one transaction. Once another owner
    /// has begun its epoch this changes nothing at all, the checkpoint included.
    pub async fn settle(
        &self,
        settlement: &Settlement,
        now: DateTime<Utc>,
    ) -> Result<Settled, Unavailable> {
        let (settlement, sealer) = (settlement.clone(), self.store.sealer().clone());
        self.store
            .write(move |c| settle(c, &sealer, &settlement, now))
            .await
    }

    /// As [`Ledger::settle`], and claims at most `limit` others of the sink in the same transaction, unless it is paused:
    /// one flush for both.
    pub async fn settle_and_claim(
        &self,
        settlement: &Settlement,
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<(Settled, Vec<Claim>), Unavailable> {
        let (settlement, sealer) = (settlement.clone(), self.store.sealer().clone());
        let epoch = self.epoch;
        let (settled, due) = self
            .store
            .write(move |c| {
                let sink = settlement.sink;
                let settled = settle(c, &sealer, &settlement, now)?;
                let is_paused = c
                    .prepare_cached("SELECT mode = 'paused' FROM sink WHERE sink = ?1")?
                    .query_row([sink.0], |row| row.get(0))?;
                let due = if is_paused || settled.fenced > 0 {
                    Vec::new()
                } else {
                    claim(c, sink, (limit, usize::MAX), epoch, now)?
                };
                Ok((settled, due))
            })
            .await?;
        Ok((settled, self.opened(due).await))
    }

    /// What a sink's last checkpoint was, and which of its deliveries are claimed. Asked only while no attempt of the
    /// sink is in flight: whoever claimed them is gone, or was stopped.
    pub async fn orphans(
        &self,
        sink: SinkId,
    ) -> Result<(Option<Checkpoint>, Vec<Orphan>), Unavailable> {
        self.store
            .read(move |c| {
                let checkpoint = c
                    .prepare_cached("SELECT checkpoint FROM sink WHERE sink = ?1")?
                    .query_row([sink.0], |row| row.get::<_, Option<String>>(0))?;
                let orphans = c
                    .prepare_cached(
                        "SELECT delivery, attempts, id FROM delivery JOIN event USING (event)
                         WHERE sink = ?1 AND state = 'claimed' ORDER BY delivery",
                    )?
                    .query_map([sink.0], |row| {
                        Ok(Orphan {
                            delivery: DeliveryId(row.get(0)?),
                            attempt: row.get(1)?,
                            event: EventId::new(row.get::<_, String>(2)?)
                                .map_err(|_| damaged(2, "a malformed event id"))?,
                        })
                    })?
                    .collect::<rusqlite::Result<_>>()?;
                Ok((checkpoint.map(Checkpoint), orphans))
            })
            .await
    }

    /// Settles what a sink found out about its orphans. `doubtful` says what becomes of those of which nothing is
    /// known: [`DeliveryState::Held`] or [`DeliveryState::Queued`].
    pub async fn settle_orphans(
        &self,
        sink: SinkId,
        resumed: Resumed,
        doubtful: DeliveryState,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let audit = self.audit.clone();
        self.store
            .write(move |c| {
                attest_orphans(c, &audit, sink, &resumed, now)?;
                let mut groups: BTreeMap<(DeliveryState, Option<&str>), Vec<i64>> = BTreeMap::new();
                let known = [
                    (&resumed.adopted, DeliveryState::Done),
                    (&resumed.absent, DeliveryState::Queued),
                ];
                for (deliveries, state) in known {
                    let deliveries = deliveries.iter().map(|delivery| delivery.0);
                    groups.entry((state, None)).or_default().extend(deliveries);
                }
                for doubt in &resumed.doubtful {
                    let group = groups.entry((doubtful, Some(doubt.reason.as_str())));
                    group.or_default().push(doubt.delivery.0);
                }
                for ((state, reason), deliveries) in groups {
                    let deliveries = numbers(deliveries);
                    c.prepare_cached(
                        "UPDATE delivery SET state = ?1, reason = ?2, maybe_sent = CASE WHEN ?5 THEN maybe_sent END,
                           settled_at = CASE ?1 WHEN 'queued' THEN NULL ELSE ?3 END
                         WHERE delivery IN rarray(?4) AND state = 'claimed'",
                    )?
                    .execute((
                        state.as_str(),
                        reason,
                        ms(now),
                        &deliveries,
                        reason.is_some(),
                    ))?;
                    if state == DeliveryState::Done {
                        let events = c
                            .prepare_cached(
                                "SELECT event FROM delivery WHERE delivery IN rarray(?1)",
                            )?
                            .query_map([&deliveries], |row| row.get(0))?
                            .collect::<rusqlite::Result<Vec<i64>>>()?;
                        forget_bodies(c, &numbers(events))?;
                        output::forget(c, &deliveries)?;
                    } else {
                        find_bodies(c, &deliveries)?;
                    }
                    order::rejoin(c, &deliveries)?;
                }
                write_checkpoint(c, sink, resumed.checkpoint.as_ref())?;
                c.prepare_cached("UPDATE sink SET stopped = NULL WHERE sink = ?1")?
                    .execute([sink.0])
                    .map(drop)
            })
            .await
    }

    /// A body does not open (damaged on disk): the delivery waits and the detail is owed again.
    async fn fetch_again(
        &self,
        deliveries: Vec<(DeliveryId, EventKey)>,
    ) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                for (delivery, event) in &deliveries {
                    c.prepare_cached("DELETE FROM body WHERE event = ?1")?
                        .execute([event.0])?;
                    c.prepare_cached(
                        "UPDATE delivery SET state = 'queued', attempts = attempts - 1 WHERE delivery = ?1 AND state = 'claimed'",
                    )?
                    .execute([delivery.0])?;
                    c.prepare_cached("UPDATE delivery SET ready = 0 WHERE event = ?1 AND state = 'queued'")?
                        .execute([event.0])?;
                    order::next_in_line(c, &order::of_event(c, *event)?)?;
                }
                Ok(())
            })
            .await
    }
}

/// The attempts of these have ended too: with the daemon. What their sink has found out says how. What nobody claimed (see
/// `restore`) was only looked for.
fn attest_orphans(
    c: &Connection,
    audit: &Audit,
    sink: SinkId,
    resumed: &Resumed,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    if !audit.is_on() {
        return Ok(());
    }
    let mut of = c.prepare_cached(
        "SELECT clinic, e.id, name, attempts FROM delivery d JOIN event e USING (event) JOIN sink USING (sink)
           JOIN lane l ON l.lane = d.lane WHERE delivery = ?1 AND d.sink = ?2 AND d.state = 'claimed' AND d.epoch > 0",
    )?;
    let adopted = resumed.adopted.iter().map(|delivery| (delivery, "yes"));
    let absent = resumed.absent.iter().map(|delivery| (delivery, "not_sent"));
    let doubtful = resumed.doubtful.iter();
    let doubtful = doubtful.map(|doubt| (&doubt.delivery, "doubt"));
    let mut records: Vec<Record> = Vec::new();
    for (delivery, outcome) in adopted.chain(absent).chain(doubtful) {
        let record = of.query_map((delivery.0, sink.0), |row| {
            Ok(audit
                .entry(Action::Deliver, now)
                .clinic(row.get::<_, String>(0)?)
                .event(row.get::<_, String>(1)?)
                .sink(row.get::<_, String>(2)?)
                .note("outcome", outcome)
                .note("delivery", delivery)
                .note("attempt", row.get::<_, u32>(3)?)
                .note("found", "at_start"))
        })?;
        records.extend(record.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    audit.attest(|| records).insert(c)
}

fn settle(
    c: &Connection,
    sealer: &Sealer,
    settlement: &Settlement,
    now: DateTime<Utc>,
) -> rusqlite::Result<Settled> {
    let newest = c
        .prepare_cached("SELECT epoch FROM instance")?
        .query_row((), |row| row.get(0).map(Epoch))?;
    let mut settled = Settled::default();
    if settlement
        .decided
        .iter()
        .all(|(claim, _)| claim.epoch == newest)
    {
        settled.changed = settle_done(c, &settlement.decided, now)?;
        for (claim, decision) in settlement.decided.iter() {
            settled.changed += settle_open(c, sealer, claim, decision, now)?;
        }
        if order::ordered(c)?.contains(&settlement.sink) {
            let claims = settlement.decided.iter().map(|(claim, _)| claim);
            order::next_in_line(c, &numbers(claims.map(|claim| claim.delivery.0)))?;
        }
    }
    if settled.changed > 0 {
        settlement.attested.insert(c)?;
    }
    settled.fenced = settlement.decided.len() - settled.changed;
    // Behind an older checkpoint a sink rolls forward; behind a stale owner's it would miss lines.
    if settled.fenced == 0 {
        write_checkpoint(c, settlement.sink, settlement.checkpoint.as_ref())?;
    }
    Ok(settled)
}

fn claim(
    c: &Connection,
    sink: SinkId,
    (limit, kib): (usize, usize),
    epoch: Epoch,
    now: DateTime<Utc>,
) -> rusqlite::Result<Vec<(Due, Option<Vec<u8>>)>> {
    parked::park_paused(c, sink, 1, now)?;
    let mut all = c.prepare_cached(
        "SELECT d.delivery, d.event, d.attempts, d.refusals, d.issued_at, d.failing_since,
                e.id, e.type, e.created_at, l.clinic, e.clinic_id, b.sealed, CASE WHEN d.key IS NOT NULL THEN d.place END
         FROM delivery d JOIN event e ON e.event = d.event JOIN lane l ON l.lane = d.lane
              LEFT JOIN body b ON b.event = d.event
         WHERE d.sink = ?1 AND d.state = 'queued' AND d.ready = 1 AND d.due_at <= ?2
           AND (e.event <= l.released OR e.admitted_at <= ?3)
         ORDER BY d.due_at, d.delivery",
    )?;
    let mut all = all.query((sink.0, ms(now), ms(now - LONGEST_WAIT_FOR_SWEEP)))?;
    let mut gate = Gate::new(c, sink, now);
    let mut due = Vec::new();
    let mut bytes = 0;
    while due.len() < limit
        && let Some(row) = all.next()?
    {
        let sealed = row.get::<_, Option<Vec<u8>>>(11)?;
        let place = row.get::<_, Option<String>>(12)?;
        let row = read_due(row)?;
        if let Some(place) = place
            && !gate.lets_pass(row.clinic.as_str(), &place)?
        {
            continue;
        }
        bytes += sealed.as_ref().map_or(0, Vec::len);
        due.push((row, sealed));
        if bytes / 1024 >= kib {
            break;
        }
    }
    drop(all);
    mark_claimed(c, due.iter().map(|(due, _)| due.delivery), epoch)?;
    Ok(due)
}

/// A delivery that waits for a detail that has just come.
pub(super) struct DueNow {
    pub(super) event: EventKey,
    pub(super) sink: SinkId,
    delivery: DeliveryId,
    facts: Facts,
    clinic: ClinicName,
    /// It is due, and its sweep has ended or lasts too long.
    is_due: bool,
}

impl DueNow {
    /// The claim, once it is durable.
    pub(super) fn claimed(self, detail: &Detail, epoch: Epoch) -> Claim {
        let reference = &detail.reference;
        Claim {
            parcel: Parcel {
                delivery: self.delivery,
                attempt: self.facts.attempt,
                event: reference.id.clone(),
                event_type: reference.event_type.clone(),
                created_at: reference.created_at,
                clinic: self.clinic,
                clinic_id: reference.clinic_id.clone(),
                body: detail.body.clone(),
            },
            ticket: Ticket {
                facts: self.facts,
                event: self.event,
                epoch,
                kept: false,
                sent_before: false,
            },
        }
    }
}

/// Claims what waits for one of these details, where that is due and all of it is for sinks that have room and no
/// backlog.
pub(super) fn claim_fetched(
    c: &Connection,
    fetched: &[Detail],
    takers: &[Taker],
    epoch: Epoch,
    now: DateTime<Utc>,
) -> rusqlite::Result<Vec<DueNow>> {
    let mut room: BTreeMap<SinkId, usize> = BTreeMap::new();
    for taker in takers {
        let backlog = c
            .prepare_cached(
                "SELECT 1 FROM delivery WHERE sink = ?1 AND state = 'queued' AND ready = 1 AND due_at <= ?2 LIMIT 1",
            )?
            .exists((taker.sink.0, ms(now)))?;
        if !backlog {
            room.insert(taker.sink, taker.kib);
        }
    }
    if room.is_empty() {
        return Ok(Vec::new());
    }
    let kib = fetched
        .iter()
        .map(|detail| (detail.event, detail.body.kib()));
    let kib: HashMap<EventKey, usize> = kib.collect();
    let events = numbers(fetched.iter().map(|detail| detail.event.0));
    let waiting: Vec<DueNow> = c
        .prepare_cached(
            "SELECT event, sink, delivery, clinic, attempts, refusals, issued_at, failing_since,
                    due_at <= ?2 AND (event <= released OR issued_at <= ?3)
             FROM delivery JOIN lane USING (lane)
             WHERE event IN rarray(?1) AND state = 'queued' ORDER BY event",
        )?
        .query_map((events, ms(now), ms(now - LONGEST_WAIT_FOR_SWEEP)), due_now)?
        .collect::<rusqlite::Result<_>>()?;
    let mut claimed = Vec::with_capacity(waiting.len());
    for mut of_event in by_event(waiting) {
        let taken = |due: &DueNow| kib.get(&due.event).copied().unwrap_or(usize::MAX);
        let has_room = |due: &DueNow| room.get(&due.sink).is_some_and(|room| *room >= taken(due));
        if of_event.iter().all(|due| due.is_due && has_room(due)) {
            for due in &of_event {
                let taken = taken(due);
                room.entry(due.sink)
                    .and_modify(|room| *room = room.saturating_sub(taken));
            }
            claimed.append(&mut of_event);
        }
    }
    mark_claimed(c, claimed.iter().map(|due| due.delivery), epoch)?;
    Ok(claimed)
}

fn due_now(row: &Row<'_>) -> rusqlite::Result<DueNow> {
    Ok(DueNow {
        event: EventKey(row.get(0)?),
        sink: SinkId(row.get(1)?),
        delivery: DeliveryId(row.get(2)?),
        clinic: ClinicName::new(row.get::<_, String>(3)?)
            .map_err(|_| damaged(3, "a malformed clinic name"))?,
        facts: Facts {
            attempt: row.get::<_, u32>(4)?.saturating_add(1),
            refusals: row.get(5)?,
            issued_at: at(row.get(6)?),
            failing_since: time(row, 7)?,
        },
        is_due: row.get(8)?,
    })
}

/// What is sorted by event, in groups of one event.
fn by_event(waiting: Vec<DueNow>) -> impl Iterator<Item = Vec<DueNow>> {
    let mut waiting = waiting.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = waiting.next()?;
        let event = first.event;
        let mut group = vec![first];
        while let Some(next) = waiting.next_if(|next| next.event == event) {
            group.push(next);
        }
        Some(group)
    })
}

pub(super) fn mark_claimed(
    c: &Connection,
    deliveries: impl Iterator<Item = DeliveryId>,
    epoch: Epoch,
) -> rusqlite::Result<()> {
    c.prepare_cached(
        "UPDATE delivery SET state = 'claimed', attempts = attempts + 1, epoch = ?1 WHERE delivery IN rarray(?2)",
    )?
    .execute((epoch.0, numbers(deliveries.map(|delivery| delivery.0))))
    .map(drop)
}

fn read_due(row: &Row<'_>) -> rusqlite::Result<Due> {
    Ok(Due {
        delivery: DeliveryId(row.get(0)?),
        event: EventKey(row.get(1)?),
        facts: Facts {
            attempt: row.get::<_, u32>(2)?.saturating_add(1),
            refusals: row.get(3)?,
            issued_at: at(row.get(4)?),
            failing_since: time(row, 5)?,
        },
        id: EventId::new(row.get::<_, String>(6)?)
            .map_err(|_| damaged(6, "a malformed event id"))?,
        event_type: EventType::new(row.get::<_, String>(7)?)
            .map_err(|_| damaged(7, "a malformed event type"))?,
        created_at: at(row.get(8)?),
        clinic: ClinicName::new(row.get::<_, String>(9)?)
            .map_err(|_| damaged(9, "a malformed clinic name"))?,
        clinic_id: row
            .get::<_, Option<String>>(10)?
            .map(ClinicId::new)
            .transpose()
            .map_err(|_| damaged(10, "a malformed clinic id"))?,
    })
}

/// Settles the claims whose sink said yes, all at once; gives how many of them were the newest ones.
fn settle_done(
    c: &Connection,
    decided: &[(Stub, Decision)],
    now: DateTime<Utc>,
) -> rusqlite::Result<usize> {
    let mut settle = c.prepare_cached(
        "UPDATE delivery SET state = 'done', reason = NULL, settled_at = ?1
         WHERE delivery = ?2 AND state = 'claimed' AND epoch = ?3 AND attempts = ?4",
    )?;
    let done = || {
        let done = decided
            .iter()
            .filter(|(_, decision)| *decision == Decision::Done);
        done.map(|(claim, _)| claim)
    };
    let mut changed = 0;
    for claim in done() {
        let (delivery, attempt) = (claim.delivery.0, claim.facts.attempt);
        changed += settle.execute((ms(now), delivery, claim.epoch.0, attempt))?;
    }
    // Also of those that were claimed without a body: another delivery may have brought one since.
    forget_bodies(c, &numbers(done().map(|claim| claim.event.0)))?;
    output::forget(c, &numbers(done().map(|claim| claim.delivery.0)))?;
    Ok(changed)
}

/// Settles a claim whose sink did not say yes; gives 1 if it was the newest one.
fn settle_open(
    c: &Connection,
    sealer: &Sealer,
    claim: &Stub,
    decision: &Decision,
    now: DateTime<Utc>,
) -> rusqlite::Result<usize> {
    let mut maybe_sent = true;
    let (state, due_at, refusals, reason) = match decision {
        Decision::Done => return Ok(0),
        Decision::Again {
            at,
            refusals,
            reason,
            in_doubt,
        } => {
            maybe_sent = *in_doubt || claim.sent_before;
            (DeliveryState::Queued, Some(ms(*at)), *refusals, reason)
        }
        Decision::Held { reason, .. } => (DeliveryState::Held, None, claim.facts.refusals, reason),
        Decision::Parked { why, reason, .. } => {
            // Only what is accepted has arrived.
            maybe_sent = *why == Parked::AwaitsResult || claim.sent_before;
            (DeliveryState::Parked, None, claim.facts.refusals, reason)
        }
        Decision::Skipped { reason } => {
            (DeliveryState::Skipped, None, claim.facts.refusals, reason)
        }
        Decision::Dead { reason } => (DeliveryState::Dead, None, claim.facts.refusals, reason),
    };
    let changed = c.prepare_cached(
        "UPDATE delivery SET state = ?1, due_at = coalesce(?2, due_at), refusals = ?3, reason = ?4,
           failing_since = coalesce(failing_since, ?5), maybe_sent = CASE WHEN ?9 THEN maybe_sent END, settled_at = CASE ?1 WHEN 'queued' THEN NULL ELSE ?5 END
         WHERE delivery = ?6 AND state = 'claimed' AND epoch = ?7 AND attempts = ?8",
    )?
    .execute((
        state.as_str(),
        due_at,
        refusals,
        reason,
        ms(now),
        claim.delivery.0,
        claim.epoch.0,
        claim.facts.attempt,
        maybe_sent,
    ))?;
    if let Decision::Parked { why, reason, until } = decision
        && changed > 0
    {
        parked::park(c, claim.delivery, (*why, reason, *until), now)?;
        treatments::conclude(c, sealer, claim.delivery, now)?;
    }
    if state == DeliveryState::Skipped && changed > 0 {
        forget_bodies(c, &numbers([claim.event.0]))?;
        output::forget(c, &numbers([claim.delivery.0]))?;
    }
    if let Some(body) = claim.body.as_ref().filter(|_| changed > 0) {
        details::keep_body(c, sealer, (claim.event, &claim.event_type), body)?;
        c.prepare_cached(
            "UPDATE delivery SET ready = 1 WHERE event = ?1 AND state = 'queued' AND ready = 0",
        )?
        .execute([claim.event.0])?;
        order::line_up(c, &numbers([claim.event.0]))?;
    }
    Ok(changed)
}

/// Drops the bodies of these events of which no delivery is open any more.
pub(super) fn forget_bodies(c: &Connection, events: &Array) -> rusqlite::Result<()> {
    c.prepare_cached(
        "DELETE FROM body WHERE event IN rarray(?1) AND NOT EXISTS
           (SELECT 1 FROM delivery d WHERE d.event = body.event AND d.state <> 'done' AND d.state <> 'skipped')",
    )?
    .execute([events])
    .map(drop)
}

/// What was claimed as soon as it was fetched has no body here, and is owed again; unless another delivery brought it.
fn find_bodies(c: &Connection, deliveries: &Array) -> rusqlite::Result<()> {
    c.prepare_cached(
        "UPDATE delivery SET ready = 1 WHERE delivery IN rarray(?1) AND state = 'queued' AND ready = 0
           AND EXISTS (SELECT 1 FROM body b WHERE b.event = delivery.event)",
    )?
    .execute([deliveries])
    .map(drop)
}

fn write_checkpoint(
    c: &Connection,
    sink: SinkId,
    checkpoint: Option<&Checkpoint>,
) -> rusqlite::Result<()> {
    if let Some(Checkpoint(text)) = checkpoint {
        c.prepare_cached("UPDATE sink SET checkpoint = ?1 WHERE sink = ?2")?
            .execute((text, sink.0))?;
    }
    Ok(())
}
