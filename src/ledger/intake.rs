//! Admission: a page of a listing becomes rows, once per event id.

use std::collections::HashMap;
use std::rc::Rc;

use chrono::{DateTime, Utc};
use rusqlite::types::Value;
use rusqlite::vtab::array::Array;
use rusqlite::{CachedStatement, Connection};

use super::lanes::{self, SweepEnd};
use super::restore::{self, Unknown};
use super::{EventKey, LaneId, Ledger, SinkId, day, ms, numbers};
use super::{order, sinks};
use crate::domain::{DeliveryState, Reference, Sweep};
use crate::store::Unavailable;

/// What a sweep listed on one page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The lane that was listed.
    pub lane: LaneId,
    /// By which sweep, or by which backfill.
    pub found: Found,
    /// The events, each with the sinks that want it.
    pub events: Vec<(Reference, Vec<SinkId>)>,
    /// Events that name another clinic than the grant's: kept apart.
    pub foreign: Vec<Reference>,
    /// When.
    pub now: DateTime<Utc>,
    /// How the sweep ends, if this is its last page.
    pub end: Option<SweepEnd>,
}

/// Why a page was listed, which decides what is issued of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// By a sweep: unseen ids are issued, unless they were created before `issue_from`.
    BySweep {
        /// Which.
        sweep: Sweep,
        /// How far it is by now, kept so that a long sweep goes on after a restart.
        progress: Option<Progress>,
        /// During the baseline: what was created before is skipped. Kept with the first page.
        issue_from: Option<DateTime<Utc>>,
        /// The lane's mark with its overlap: an unseen event older than this was found late.
        late_before: Option<DateTime<Utc>>,
    },
    /// By a backfill: what a sink never had is issued, seen before or not.
    ByJob {
        /// Which.
        job: i64,
        /// The `created_at` down to which its pages are admitted, if that can be said.
        reached: Option<DateTime<Utc>>,
        /// Nothing created before this is issued.
        since: DateTime<Utc>,
        /// Nothing created at or after this is issued.
        until: Option<DateTime<Utc>>,
    },
}

/// How far a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The newest `created_at` it saw at its start.
    pub newest: DateTime<Utc>,
    /// The `created_at` down to which its pages are admitted.
    pub reached: DateTime<Utc>,
}

/// What became of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Ids that were never seen before.
    pub new: u64,
    /// Deliveries that were issued.
    pub issued: u64,
    /// Unseen ids that the baseline skipped.
    pub baseline: u64,
    /// Unseen ids that no sink wants.
    pub unmatched: u64,
    /// Unseen ids that only a wider sweep found.
    pub late: u64,
    /// Ids that name another clinic.
    pub foreign: u64,
}

impl std::ops::AddAssign for Admitted {
    fn add_assign(&mut self, other: Self) {
        self.new += other.new;
        self.issued += other.issued;
        self.baseline += other.baseline;
        self.unmatched += other.unmatched;
        self.late += other.late;
        self.foreign += other.foreign;
    }
}

impl Ledger {
    /// Admits a page in one transaction, its progress and the end of its sweep included.
    pub async fn admit(&self, mut page: Page) -> Result<Admitted, Unavailable> {
        // A listing is newest first; rows are made oldest first, so that equal due times keep the order of happening.
        page.events
            .sort_by(|(a, _), (b, _)| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        self.store.write_later(move |c| admit(c, &page)).await
    }
}

/// What the memory holds of an id that was listed.
struct Known {
    event: EventKey,
    lane: LaneId,
    listed_day: i64,
    /// Only a backfill has listed it.
    by_job: bool,
}

fn admit(c: &Connection, page: &Page) -> rusqlite::Result<Admitted> {
    let mut admitted = Admitted::default();
    let mut known = known(c, page)?;
    // A page may list an id twice.
    let mut new: HashMap<&str, Known> = HashMap::new();
    let today = day(page.now);
    let all_known = known.iter().flatten();
    let listed_again = all_known.filter(|known| known.listed_day < today);
    let listed_again = numbers(listed_again.map(|known| known.event.0));
    if !listed_again.is_empty() {
        c.prepare_cached("UPDATE event SET listed_day = ?1 WHERE event IN rarray(?2)")?
            .execute((today, listed_again))?;
    }
    let mut inserts = Inserts::prepare(c)?;
    let draining = sinks::draining(c)?;
    inserts.ordered = order::ordered(c)?;
    for ((reference, sinks), known) in page.events.iter().zip(&mut known) {
        let id = reference.id.as_str();
        let issued_to: Vec<SinkId>;
        let event = if draining.is_empty() {
            (reference, sinks.as_slice())
        } else {
            let not_draining = sinks.iter().filter(|sink| !draining.contains(sink));
            issued_to = not_draining.copied().collect();
            (reference, issued_to.as_slice())
        };
        if let Some(known) = known.as_mut().or_else(|| new.get_mut(id)) {
            admit_known(c, &mut inserts, page, event, known, &mut admitted)?;
        } else {
            let unseen = admit_new(c, &mut inserts, page, event, &mut admitted)?;
            new.extend(unseen.map(|known| (id, known)));
        }
    }
    for reference in &page.foreign {
        admitted.foreign += quarantine(c, page, reference)?;
    }
    record_progress(c, page, &admitted)?;
    if let Some(end) = &page.end {
        lanes::write_end(c, end)?;
    }
    Ok(admitted)
}

/// One for each event of the page, in their order: what is known is found by its place, not by its id again.
fn known(c: &Connection, page: &Page) -> rusqlite::Result<Vec<Option<Known>>> {
    let ids = page.events.iter();
    let ids = ids.map(|(reference, _)| Value::Text(reference.id.as_str().to_owned()));
    let ids: Array = Rc::new(ids.collect());
    let mut known: Vec<Option<Known>> = page.events.iter().map(|_| None).collect();
    let mut found = c.prepare_cached(
        // CROSS: the ids are gone through in their order, and each is looked up.
        "SELECT ids.rowid, event, lane, listed_day, found_by = 'backfill'
         FROM rarray(?1) AS ids CROSS JOIN event ON event.id = ids.value",
    )?;
    let mut rows = found.query([ids])?;
    while let Some(row) = rows.next()? {
        let place = row.get::<_, usize>(0)?.checked_sub(1);
        if let Some(known) = place.and_then(|place| known.get_mut(place)) {
            *known = Some(Known {
                event: EventKey(row.get(1)?),
                lane: LaneId(row.get(2)?),
                listed_day: row.get(3)?,
                by_job: row.get(4)?,
            });
        }
    }
    Ok(known)
}

/// An id that was never seen before; `None` if it still is not.
fn admit_new(
    c: &Connection,
    inserts: &mut Inserts<'_>,
    page: &Page,
    (reference, sinks): (&Reference, &[SinkId]),
    admitted: &mut Admitted,
) -> rusqlite::Result<Option<Known>> {
    let by_job = matches!(page.found, Found::ByJob { .. });
    let wanted = wanted(page.found, reference.created_at);
    if by_job && wanted == Wanted::No {
        // Listed beyond the span that was asked for: whether it is issued is for a sweep to say.
        return Ok(None);
    }
    admitted.new += 1;
    let skipped = match wanted {
        Wanted::No => Some("baseline"),
        Wanted::Yes | Wanted::EvenIfSeen if sinks.is_empty() => Some("unmatched"),
        Wanted::Yes | Wanted::EvenIfSeen => None,
    };
    let event = inserts.event(c, page, reference, skipped)?;
    match skipped {
        Some("baseline") => admitted.baseline += 1,
        Some(_) => admitted.unmatched += 1,
        None => {
            admitted.issued += inserts.issue(page, event, page.lane, sinks, reference)?;
            if let Found::BySweep {
                late_before: Some(mark),
                ..
            } = page.found
            {
                admitted.late += u64::from(reference.created_at < mark);
            }
        }
    }
    Ok(Some(Known {
        event,
        lane: page.lane,
        listed_day: day(page.now),
        by_job,
    }))
}

fn admit_known(
    c: &Connection,
    inserts: &mut Inserts<'_>,
    page: &Page,
    (reference, sinks): (&Reference, &[SinkId]),
    known: &mut Known,
    admitted: &mut Admitted,
) -> rusqlite::Result<()> {
    let event = known.event;
    let first_sighting = match page.found {
        Found::ByJob { .. } => false,
        // A backfill saw it first, perhaps for one sink alone: for the sweeps it is new.
        Found::BySweep { sweep, .. } if known.by_job => {
            c.prepare_cached("UPDATE event SET found_by = ?1, lane = ?2 WHERE event = ?3")?
                .execute((sweep.as_str(), page.lane.0, event.0))?;
            known.by_job = false;
            known.lane = page.lane;
            true
        }
        // A clinic that sees the id for the first time may have sinks that the first clinic did not have.
        Found::BySweep { .. } => {
            known.lane != page.lane
                && c.prepare_cached("INSERT OR IGNORE INTO sighting (event, lane) VALUES (?1, ?2)")?
                    .execute((event.0, page.lane.0))?
                    == 1
        }
    };
    let wanted = wanted(page.found, reference.created_at);
    if wanted == Wanted::EvenIfSeen || (first_sighting && wanted == Wanted::Yes) {
        let issued = inserts.issue(page, event, known.lane, sinks, reference)?;
        if issued > 0 {
            wait_for_body(c, event)?;
        }
        admitted.issued += issued;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    No,
    Yes,
    EvenIfSeen,
}

fn wanted(found: Found, created_at: DateTime<Utc>) -> Wanted {
    match found {
        Found::BySweep { issue_from, .. } => {
            if issue_from.is_some_and(|from| created_at < from) {
                Wanted::No
            } else {
                Wanted::Yes
            }
        }
        Found::ByJob { since, until, .. } => {
            if created_at < since || until.is_some_and(|until| created_at >= until) {
                Wanted::No
            } else {
                Wanted::EvenIfSeen
            }
        }
    }
}

/// The two statements that a page runs a hundred times.
struct Inserts<'c> {
    /// What is held instead of queued.
    unknown: Option<Unknown>,
    event: CachedStatement<'c>,
    delivery: CachedStatement<'c>,
    /// The sinks whose deliveries have a place.
    ordered: Vec<SinkId>,
}

impl<'c> Inserts<'c> {
    fn prepare(c: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            unknown: restore::unknown(c)?,
            event: c.prepare_cached(
                "INSERT INTO event (id, type, created_at, clinic_id, lane, admitted_at, listed_day, found_by, skipped)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?,
            delivery: c.prepare_cached(
                "INSERT INTO delivery (event, sink, lane, through, due_at, issued_at, place, state, settled_at, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (event, sink, ordinal) DO NOTHING",
            )?,
            ordered: Vec::new(),
        })
    }

    fn event(
        &mut self,
        c: &Connection,
        page: &Page,
        reference: &Reference,
        skipped: Option<&str>,
    ) -> rusqlite::Result<EventKey> {
        let found_by = match page.found {
            Found::BySweep { sweep, .. } => sweep.as_str(),
            Found::ByJob { .. } => "backfill",
        };
        self.event.execute((
            reference.id.as_str(),
            reference.event_type.as_str(),
            ms(reference.created_at),
            reference
                .clinic_id
                .as_ref()
                .map(crate::domain::ClinicId::as_str),
            page.lane.0,
            ms(page.now),
            day(page.now),
            found_by,
            skipped,
        ))?;
        Ok(EventKey(c.last_insert_rowid()))
    }

    /// Issues the deliveries that these sinks never had of an event, to be fetched `through` a lane; gives how many.
    fn issue(
        &mut self,
        page: &Page,
        event: EventKey,
        through: LaneId,
        sinks: &[SinkId],
        reference: &Reference,
    ) -> rusqlite::Result<u64> {
        let created_at = reference.created_at;
        let unknown = self.unknown.as_ref();
        let held = unknown.filter(|unknown| created_at < unknown.until);
        let (state, settled_at) = match held {
            Some(_) => (DeliveryState::Held, Some(ms(page.now))),
            None => (DeliveryState::Queued, None),
        };
        let mut issued = 0;
        for sink in sinks {
            let is_ordered = self.ordered.contains(sink);
            issued += self.delivery.execute((
                event.0,
                sink.0,
                page.lane.0,
                through.0,
                ms(created_at.min(page.now)),
                ms(page.now),
                is_ordered.then(|| order::place(reference)),
                state.as_str(),
                settled_at,
                held.map(|unknown| &unknown.reason),
            ))? as u64;
        }
        Ok(issued)
    }
}

/// Some delivery of an event is queued: it is ready if the body is here, and else its detail is owed.
pub(super) fn wait_for_body(c: &Connection, event: EventKey) -> rusqlite::Result<()> {
    c.prepare_cached("UPDATE event SET skipped = NULL WHERE event = ?1 AND skipped IS NOT NULL")?
        .execute([event.0])?;
    c.prepare_cached(
        "UPDATE delivery SET ready = 1 WHERE event = ?1 AND state = 'queued' AND ready = 0
           AND EXISTS (SELECT 1 FROM body WHERE event = ?1)",
    )?
    .execute([event.0])?;
    order::line_up(c, &numbers([event.0]))
}

fn quarantine(c: &Connection, page: &Page, reference: &Reference) -> rusqlite::Result<u64> {
    let new = c
        .prepare_cached(
            "INSERT OR IGNORE INTO quarantine (lane, id, type, clinic_id, seen_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((
            page.lane.0,
            reference.id.as_str(),
            reference.event_type.as_str(),
            reference.clinic_id.as_ref().map_or("", crate::domain::ClinicId::as_str),
            ms(page.now),
        ))?;
    Ok(new as u64)
}

fn record_progress(c: &Connection, page: &Page, admitted: &Admitted) -> rusqlite::Result<()> {
    match page.found {
        Found::BySweep {
            sweep,
            progress,
            issue_from,
            ..
        } => {
            if let Some(from) = issue_from {
                // A baseline keeps its beginning, whatever becomes of this sweep.
                c.prepare_cached(
                    "UPDATE lane SET issue_from = ?1 WHERE lane = ?2 AND issue_from IS NULL",
                )?
                .execute((ms(from), page.lane.0))?;
            }
            if let Some(progress) = progress {
                c.prepare_cached(
                    "UPDATE lane SET sweep = ?1, sweep_newest = ?2, sweep_reached = ?3 WHERE lane = ?4",
                )?
                .execute((
                    sweep.as_str(),
                    ms(progress.newest),
                    ms(progress.reached),
                    page.lane.0,
                ))?;
            }
            if admitted.late > 0 {
                c.prepare_cached("UPDATE lane SET late = late + ?1 WHERE lane = ?2")?
                    .execute((admitted.late, page.lane.0))?;
            }
        }
        Found::ByJob { job, reached, .. } => {
            c.prepare_cached(
                "UPDATE job_lane SET reached = ?1, listed = listed + ?2, issued = issued + ?3, failures = 0, trouble = NULL
                 WHERE job = ?4 AND lane = ?5",
            )?
            .execute((
                reached.map(ms),
                page.events.len(),
                admitted.issued,
                job,
                page.lane.0,
            ))?;
        }
    }
    Ok(())
}
