//! The sinks as the ledger knows them: by their names, which the backlog belongs to, and how each of them stands.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row};

use super::parked::{self, PausedClinic};
use super::query::{state, time};
use super::{Ledger, Query, SinkId, attest, ms, numbers, order, outbox, output, treatments};
use crate::breaker::{Breaker, Outage};
use crate::domain::{DeliveryState, OrderBy, Parked, SinkName};
use crate::store::Unavailable;

/// Whether a sink's deliveries are attempted, and whether it gets new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Both.
    Open,
    /// Nothing is attempted; its events wait.
    Paused,
    /// What waits is delivered, and nothing new is issued to it.
    Draining,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Open, Self::Paused, Self::Draining];

    /// The one word for it in the ledger and in what commands print.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

/// What a sink's loop may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until it is resumed.
    Paused,
    /// Nothing is queued with its body here.
    Nothing,
    /// Something is due at this time.
    DueAt(DateTime<Utc>),
}

/// A sink as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkRow {
    /// Its name.
    pub name: String,
    /// How many deliveries are in each state, in the order of [`DeliveryState::ALL`].
    pub counts: [u64; 7],
    /// How many of those that are parked wait for what, in the order of [`Parked::ALL`].
    pub parked: [u64; 3],
    /// Clinics whose deliveries wait for a person.
    pub paused_clinics: Vec<PausedClinic>,
    /// When the oldest unsettled event happened.
    pub oldest: Option<DateTime<Utc>>,
    /// Since when the longest unsettled delivery is owed: later than `oldest` after a backfill.
    pub waiting_since: Option<DateTime<Utc>>,
    /// How the last failed attempt of a queued delivery ended.
    pub trouble: Option<String>,
    /// Why it needs a person.
    pub stopped: Option<String>,
    /// Whether it is paused or draining.
    pub mode: Mode,
    /// Why, if it is paused.
    pub mode_why: Option<String>,
    /// Its receiver does not work (see `breaker`).
    pub outage: Option<Outage>,
}

impl SinkRow {
    /// How many deliveries are on their way: queued and claimed.
    pub fn waiting(&self) -> u64 {
        self.count(DeliveryState::Queued) + self.count(DeliveryState::Claimed)
    }

    /// How many parked deliveries wait for this.
    pub fn parked(&self, why: Parked) -> u64 {
        Parked::ALL
            .into_iter()
            .zip(self.parked)
            .find_map(|(each, count)| (each == why).then_some(count))
            .unwrap_or_default()
    }

    /// How many deliveries are in a state.
    pub fn count(&self, state: DeliveryState) -> u64 {
        DeliveryState::ALL
            .into_iter()
            .zip(self.counts)
            .find_map(|(each, count)| (each == state).then_some(count))
            .unwrap_or_default()
    }
}

/// What became of the wish to give one sink's backlog to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reassigned {
    /// The other had nothing: it is the same sink by a new name, history and all.
    Renamed {
        /// How many deliveries waited, were held or dead.
        waiting: u64,
    },
    /// What waited, was held or dead is the other's now.
    Moved {
        /// How many.
        moved: u64,
        /// How many the other had had already: skipped.
        known: u64,
    },
}

impl Ledger {
    /// Gives every sink of the configuration a row, and the numbers of all of them; lines up the deliveries of those that
    /// keep another order than before.
    pub async fn enrol_sinks(
        &self,
        sinks: Vec<(SinkName, OrderBy)>,
    ) -> Result<BTreeMap<SinkName, SinkId>, Unavailable> {
        self.store
            .write(move |c| {
                let numbers = sinks
                    .iter()
                    .map(|(name, by)| {
                        let id = c
                            .prepare_cached(
                                "INSERT INTO sink (name) VALUES (?1)
                                 ON CONFLICT (name) DO UPDATE SET name = name RETURNING sink",
                            )?
                            .query_row([name.as_str()], |row| row.get(0).map(SinkId))?;
                        order::keep_order(c, id, *by)?;
                        Ok((name.clone(), id))
                    })
                    .collect::<rusqlite::Result<_>>()?;
                order::index_lines(c)?;
                Ok(numbers)
            })
            .await
    }

    /// What a sink's loop may do next.
    pub async fn next(&self, sink: SinkId) -> Result<Next, Unavailable> {
        self.next_of(sink, "ready = 1").await
    }

    /// `ready` stands in the statement, and not beside it: only so is it answered from the index of those rows alone.
    pub(super) async fn next_of(
        &self,
        sink: SinkId,
        ready: &'static str,
    ) -> Result<Next, Unavailable> {
        self.store
            .read(move |c| {
                c.prepare_cached(&format!(
                    "SELECT mode = 'paused',
                       (SELECT due_at FROM delivery WHERE sink = ?1 AND state = 'queued' AND {ready}
                        ORDER BY due_at LIMIT 1)
                     FROM sink WHERE sink = ?1"
                ))?
                .query_row([sink.0], |row| {
                    Ok(match (row.get(0)?, time(row, 1)?) {
                        (true, _) => Next::Paused,
                        (false, None) => Next::Nothing,
                        (false, Some(due_at)) => Next::DueAt(due_at),
                    })
                })
            })
            .await
    }

    /// A sink's breaker as it was last noted.
    pub async fn breaker(&self, sink: SinkId) -> Result<Breaker, Unavailable> {
        self.store
            .read(move |c| {
                c.prepare_cached("SELECT breaker FROM sink WHERE sink = ?1")?
                    .query_row([sink.0], |row| breaker(row, 0))
            })
            .await
    }

    /// Notes how a sink's breaker stands.
    pub async fn note_breaker(&self, sink: SinkId, breaker: Breaker) -> Result<(), Unavailable> {
        self.store
            .write(move |c| set_breaker(c, sink, breaker))
            .await
    }

    /// Notes that a sink's receiver works again. What failed because it did not is due at once, and takes its place
    /// by the time it happened again; what the receiver has refused and is not due keeps its own patience.
    pub async fn note_works(&self, sink: SinkId, now: DateTime<Utc>) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                c.prepare_cached(
                    "UPDATE delivery SET due_at = (SELECT created_at FROM event e WHERE e.event = delivery.event)
                     WHERE sink = ?1 AND state = 'queued' AND ready = 1 AND failing_since IS NOT NULL
                       AND (refusals = 0 OR due_at <= ?2)",
                )?
                .execute((sink.0, ms(now)))?;
                set_breaker(c, sink, Breaker::default())
            })
            .await
    }

    /// The receiver says that it is no receiver any more.
    pub async fn pause_sink(
        &self,
        sink: SinkId,
        why: String,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        self.store
            .write(move |c| set_mode(c, sink, Mode::Paused, Some(&why), now))
            .await
    }

    /// Notes why a sink needs a person; cleared when it goes on.
    pub async fn note_stopped(&self, sink: SinkId, stopped: String) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                c.prepare_cached("UPDATE sink SET stopped = ?1 WHERE sink = ?2")?
                    .execute((&stopped, sink.0))
                    .map(drop)
            })
            .await
    }
}

impl Query {
    /// Every sink that has ever been configured.
    pub async fn sinks(&self) -> Result<Vec<SinkRow>, Unavailable> {
        self.store.read(sinks).await
    }

    /// Makes an exact sink take its file as it is now: what a person says after having looked. Gives whether there is
    /// such a sink.
    pub async fn accept_sink(&self, sink: String) -> Result<bool, Unavailable> {
        self.store
            .write(move |c| {
                c.execute("UPDATE sink SET checkpoint = NULL WHERE name = ?1", [&sink])
                    .map(|changed| changed > 0)
            })
            .await
    }

    /// Pauses a sink, lets it drain, or opens it again; the latter forgets its outage too. Gives whether there is such
    /// a sink.
    pub async fn set_sink_mode(
        &self,
        sink: String,
        mode: Mode,
        why: Option<String>,
        now: DateTime<Utc>,
    ) -> Result<bool, Unavailable> {
        self.store
            .write(move |c| {
                let Some(sink) = number_of(c, &sink)? else {
                    return Ok(false);
                };
                set_mode(c, sink, mode, why.as_deref(), now)?;
                if mode == Mode::Open {
                    set_breaker(c, sink, Breaker::default())?;
                }
                Ok(true)
            })
            .await
    }

    /// The sinks that are none of `configured` and have deliveries that wait, with their number, or that remember what
    /// treatments they have sent: under another name nothing would be known of those, and they would be entered twice.
    pub async fn strangers(
        &self,
        configured: Vec<SinkName>,
    ) -> Result<Vec<(String, u64)>, Unavailable> {
        let rows = self.sinks().await?;
        let rememberers = self.store.read(treatments::rememberers).await?;
        let strangers = rows.into_iter().filter_map(|row| {
            let waiting = row.waiting() + row.count(DeliveryState::Parked);
            let known = configured.iter().any(|name| name.as_str() == row.name);
            let is_owed = waiting > 0 || rememberers.contains(&row.name);
            (is_owed && !known).then_some((row.name, waiting))
        });
        Ok(strangers.collect())
    }

    /// Gives one sink's backlog to another. What was in flight to the old one may have arrived there: it is held.
    /// `None` if the ledger does not know the old one. Only while nobody delivers.
    pub async fn reassign(
        &self,
        from: String,
        to: SinkName,
        now: DateTime<Utc>,
    ) -> Result<Option<Reassigned>, Unavailable> {
        let audit = self.audit.clone();
        self.store
            .write(move |c| {
                let Some(old) = number_of(c, &from)? else {
                    return Ok(None);
                };
                attest::left(c, &audit, ("d.sink = ?1", [old.0]), "reassign", now)?;
                let reassigned = reassign(c, old, &to, now)?;
                let deliveries = match reassigned {
                    Reassigned::Renamed { waiting } => waiting,
                    Reassigned::Moved { moved, known } => moved + known,
                };
                attest::backlog(c, &audit, (&from, "sinks reassign", deliveries), now)?;
                Ok(Some(reassigned))
            })
            .await
    }

    /// Gives up what waits, is held or dead of a sink: it is skipped. Gives how much. Only while nobody delivers.
    pub async fn forget_sink(
        &self,
        name: String,
        now: DateTime<Utc>,
    ) -> Result<Option<u64>, Unavailable> {
        let audit = self.audit.clone();
        self.store
            .write(move |c| {
                let Some(sink) = number_of(c, &name)? else {
                    return Ok(None);
                };
                attest::left(c, &audit, ("d.sink = ?1", [sink.0]), "forget", now)?;
                let events: Vec<i64> = c
                    .prepare_cached(&format!(
                        "UPDATE delivery SET state = 'skipped', settled_at = ?1, reason = 'the sink was removed by a person'
                         WHERE sink = ?2 AND {OPEN} RETURNING event"
                    ))?
                    .query_map((ms(now), sink.0), |row| row.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                parked::tidy_all(c)?;
                c.execute("DELETE FROM paused_clinic WHERE sink = ?1", [sink.0])?;
                treatments::forget_sink(c, sink.0)?;
                let count = events.len() as u64;
                attest::backlog(c, &audit, (&name, "sinks forget", count), now)?;
                let events = numbers(events);
                outbox::forget_bodies(c, &events)?;
                output::forget_of(c, &events)?;
                Ok(Some(count))
            })
            .await
    }
}

/// Not settled for good.
const OPEN: &str = "state <> 'done' AND state <> 'skipped'";

fn number_of(c: &Connection, name: &str) -> rusqlite::Result<Option<SinkId>> {
    c.prepare_cached("SELECT sink FROM sink WHERE name = ?1")?
        .query_row([name], |row| row.get(0).map(SinkId))
        .optional()
}

fn set_mode(
    c: &Connection,
    sink: SinkId,
    mode: Mode,
    why: Option<&str>,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    c.prepare_cached("UPDATE sink SET mode = ?1, mode_why = ?2, mode_at = ?3 WHERE sink = ?4")?
        .execute((mode.as_str(), why, ms(now), sink.0))
        .map(drop)
}

fn set_breaker(c: &Connection, sink: SinkId, breaker: Breaker) -> rusqlite::Result<()> {
    let text = (breaker != Breaker::default()).then(|| serde_json::to_string(&breaker));
    let text = text
        .transpose()
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    c.prepare_cached("UPDATE sink SET breaker = ?1 WHERE sink = ?2")?
        .execute((text, sink.0))
        .map(drop)
}

/// The sinks that nothing new is issued to.
pub(super) fn draining(c: &Connection) -> rusqlite::Result<Vec<SinkId>> {
    c.prepare_cached("SELECT sink FROM sink WHERE mode = 'draining'")?
        .query_map((), |row| row.get(0).map(SinkId))?
        .collect()
}

fn reassign(
    c: &Connection,
    from: SinkId,
    to: &SinkName,
    now: DateTime<Utc>,
) -> rusqlite::Result<Reassigned> {
    c.prepare_cached(
        "UPDATE delivery SET state = 'held', settled_at = ?1, reason = 'in flight when its sink was reassigned'
         WHERE sink = ?2 AND state = 'claimed'",
    )?
    .execute((ms(now), from.0))?;
    // What it waited for, it waited for at the old one.
    parked::close_awaiting(c, from, now)?;
    parked::release(c, "sink = ?1", [from.0])?;
    c.execute("DELETE FROM paused_clinic WHERE sink = ?1", [from.0])?;
    let waiting = c
        .prepare_cached(&format!(
            "SELECT count(*) FROM delivery WHERE sink = ?1 AND {OPEN}"
        ))?
        .query_row([from.0], |row| row.get::<_, u64>(0))?;
    let other = number_of(c, to.as_str())?;
    // A sink's deliveries are forgotten by age, the treatments that it has sent are not.
    let has_past = other.map_or(Ok(false), |other| {
        c.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM delivery WHERE sink = ?1) OR EXISTS (SELECT 1 FROM sfs_item WHERE sink = ?1)",
        )?
        .query_row([other.0], |row| row.get(0))
    })?;
    let Some(other) = other.filter(|_| has_past) else {
        c.execute("DELETE FROM sink WHERE name = ?1", [to.as_str()])?;
        c.execute(
            "UPDATE sink SET name = ?1, mode = 'open', mode_why = NULL, stopped = NULL WHERE sink = ?2",
            (to.as_str(), from.0),
        )?;
        set_breaker(c, from, Breaker::default())?;
        return Ok(Reassigned::Renamed { waiting });
    };
    let known: Vec<i64> = c
        .prepare(&format!(
            "UPDATE delivery SET state = 'skipped', settled_at = ?1, reason = 'reassigned to a sink that has it'
             WHERE sink = ?2 AND {OPEN}
               AND EXISTS (SELECT 1 FROM delivery d WHERE d.event = delivery.event AND d.sink = ?3)
             RETURNING event"
        ))?
        .query_map((ms(now), from.0, other.0), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let skipped = known.len() as u64;
    let known = numbers(known);
    outbox::forget_bodies(c, &known)?;
    output::forget_of(c, &known)?;
    let moved = c.execute(
        &format!("UPDATE delivery SET sink = ?1, ordinal = 1, key = NULL, ready = min(ready, 1) WHERE sink = ?2 AND {OPEN}"),
        (other.0, from.0),
    )?;
    treatments::reassign(c, from.0, other.0)?;
    order::line_up_all(c, other)?;
    Ok(Reassigned::Moved {
        moved: moved as u64,
        known: skipped,
    })
}

fn sinks(c: &Connection) -> rusqlite::Result<Vec<SinkRow>> {
    let mut rows: Vec<(i64, SinkRow)> = c
        .prepare(
            "SELECT sink, name,
               (SELECT min(e.created_at) FROM delivery d JOIN event e USING (event)
                  WHERE d.sink = sink.sink AND d.state IN ('queued', 'claimed')),
               (SELECT min(issued_at) FROM delivery d WHERE d.sink = sink.sink AND d.state IN ('queued', 'claimed')),
               (SELECT reason FROM delivery d WHERE d.sink = sink.sink AND d.state = 'queued' AND reason IS NOT NULL
                  ORDER BY due_at DESC LIMIT 1),
               stopped, mode, mode_why, breaker
             FROM sink ORDER BY name",
        )?
        .query_map((), |row| {
            let mode = row.get_ref(6)?.as_str()?;
            Ok((
                row.get(0)?,
                SinkRow {
                    name: row.get(1)?,
                    counts: [0; 7],
                    parked: [0; 3],
                    paused_clinics: Vec::new(),
                    oldest: time(row, 2)?,
                    waiting_since: time(row, 3)?,
                    trouble: row.get(4)?,
                    stopped: row.get(5)?,
                    mode: Mode::ALL
                        .into_iter()
                        .find(|each| each.as_str() == mode)
                        .unwrap_or(Mode::Open),
                    mode_why: row.get(7)?,
                    outage: breaker(row, 8)?.outage(),
                },
            ))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut statement =
        c.prepare("SELECT sink, state, count(*) FROM delivery GROUP BY sink, state")?;
    let mut counts = statement.query(())?;
    while let Some(row) = counts.next()? {
        let (sink, state, count) = (row.get::<_, i64>(0)?, state(row, 1)?, row.get(2)?);
        let place = DeliveryState::ALL
            .into_iter()
            .position(|each| each == state);
        let sink = rows.iter_mut().find(|(id, _)| *id == sink);
        if let Some(slot) = sink
            .zip(place)
            .and_then(|((_, row), n)| row.counts.get_mut(n))
        {
            *slot = count;
        }
    }
    for (id, why, count) in parked::counts(c)? {
        let place = Parked::ALL.into_iter().position(|each| each == why);
        let row = rows.iter_mut().find(|(sink, _)| *sink == id);
        if let Some(slot) = row
            .zip(place)
            .and_then(|((_, row), n)| row.parked.get_mut(n))
        {
            *slot = count;
        }
    }
    for (id, paused) in parked::paused_clinics(c)? {
        if let Some((_, row)) = rows.iter_mut().find(|(sink, _)| *sink == id) {
            row.paused_clinics.push(paused);
        }
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// What cannot be read is a breaker that has seen nothing: it is only caution.
fn breaker(row: &Row<'_>, column: usize) -> rusqlite::Result<Breaker> {
    let text: Option<String> = row.get(column)?;
    let known = text.and_then(|text| serde_json::from_str(&text).ok());
    Ok(known.unwrap_or_default())
}
