//! The lanes: which sweep is due, how far it is, and how it ended.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{LaneId, Ledger, Query, at, damaged, ms, numbers};
use crate::domain::{Category, ClinicName, Lane, ListDigest, Sweep};
use crate::store::{AcceptedLoss, Unavailable};

/// What the ledger knows of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneState {
    /// Its number.
    pub id: LaneId,
    /// Its clinic and category.
    pub lane: Lane,
    /// It takes the place of a lane of a lost ledger: how it begins, whatever the configuration says.
    pub after_loss: Option<AcceptedLoss>,
    /// Set when the baseline began: what was created before is skipped while the baseline lasts.
    pub issue_from: Option<DateTime<Utc>>,
    /// One whole 30-day listing has been admitted.
    pub baseline_done: bool,
    /// Everything created up to here has been admitted.
    pub complete_to: Option<DateTime<Utc>>,
    /// A sweep that was begun and has not reached its end: which, the newest it saw, how far down it is.
    pub open: Option<(Sweep, DateTime<Utc>, DateTime<Utc>)>,
    /// When the next fast sweep is due.
    pub fast_at: DateTime<Utc>,
    /// When the next deep sweep is due.
    pub deep_at: DateTime<Utc>,
    /// When the next reconciling sweep is due.
    pub reconcile_at: DateTime<Utc>,
    /// Not before this time, after a failure.
    pub retry_at: Option<DateTime<Utc>>,
    /// Failures in a row.
    pub failures: u32,
    /// Of the list that has been admitted whole, if it was one page.
    pub digest: Option<ListDigest>,
}

/// How a sweep ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepEnd {
    /// The lane.
    pub lane: LaneId,
    /// Which sweep.
    pub sweep: Sweep,
    /// The newest `created_at` it saw; `None` if the list was empty.
    pub newest: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
    /// When each sweep is due again.
    pub fast_at: DateTime<Utc>,
    /// See `fast_at`.
    pub deep_at: DateTime<Utc>,
    /// See `fast_at`.
    pub reconcile_at: DateTime<Utc>,
    /// What could not be read of the list, in words.
    pub trouble: Option<String>,
    /// Of the list, if it was one page and everything on it could be read.
    pub digest: Option<ListDigest>,
}

/// No due time lies further ahead than this, but for a clock that was set back since.
const FURTHEST: TimeDelta = TimeDelta::days(2);

const COLUMNS: &str = "lane, clinic, category, issue_from, baseline_done, complete_to, sweep, sweep_newest, \
                       sweep_reached, fast_at, deep_at, reconcile_at, retry_at, failures, digest, after_loss";

impl Ledger {
    /// Gives every lane of the configuration a row, and the numbers of all of them.
    pub async fn enrol_lanes(&self, lanes: Vec<Lane>) -> Result<Vec<LaneId>, Unavailable> {
        self.store
            .write(move |c| {
                let ids = lanes.iter().map(|lane| enrol(c, lane)).collect();
                // Where this ledger took the place of a lost one, its first lanes begin as a person chose; later ones as
                // the configuration says.
                c.execute(
                    "UPDATE lane SET after_loss = accepted FROM instance WHERE accepted IS NOT NULL",
                    (),
                )?;
                c.execute("UPDATE instance SET accepted = NULL WHERE accepted IS NOT NULL", ())?;
                ids
            })
            .await
    }

    /// The lanes with a sweep due at `now`, the longest due first. `fast` is the time between two fast sweeps: a lane
    /// that is due much later than that was written by a clock that has been set back, and is due now.
    pub async fn due_lanes(
        &self,
        now: DateTime<Utc>,
        fast: Duration,
    ) -> Result<Vec<LaneState>, Unavailable> {
        let slack = TimeDelta::from_std(fast).unwrap_or(FURTHEST) * 2 + TimeDelta::minutes(5);
        self.store
            .read(move |c| {
                c.prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM lane
                     WHERE (min(fast_at, deep_at, reconcile_at) <= ?1 OR fast_at > ?2)
                       AND (coalesce(retry_at, 0) <= ?1 OR retry_at > ?3)
                     ORDER BY min(fast_at, deep_at, reconcile_at), lane"
                ))?
                .query_map([ms(now), ms(now + slack), ms(now + FURTHEST)], lane_state)?
                .collect()
            })
            .await
    }

    /// A sweep ended that listed what was admitted before, to the byte.
    pub async fn end_sweep(&self, end: SweepEnd) -> Result<(), Unavailable> {
        self.store.write_later(move |c| write_end(c, &end)).await
    }

    /// A sweep failed: it is due again at `retry_at`. The lane's mark and its place in the sweep stay. A wide sweep
    /// that fails does not hold the fast one back: a page that the vendor cannot give must not hide what is new.
    pub async fn fail_sweep(
        &self,
        lane: &LaneState,
        sweep: Sweep,
        trouble: String,
        retry_at: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let due = match sweep {
            Sweep::Deep if lane.baseline_done => "deep_at",
            Sweep::Reconcile if lane.baseline_done => "reconcile_at",
            Sweep::Fast | Sweep::Deep | Sweep::Reconcile => "retry_at",
        };
        let lane = lane.id;
        self.store
            .write(move |c| {
                c.prepare_cached(&format!(
                    "UPDATE lane SET failures = failures + 1, trouble = ?1, {due} = ?2 WHERE lane = ?3"
                ))?
                .execute((&trouble, ms(retry_at), lane.0))
                .map(drop)
            })
            .await
    }

    /// A 403: the lane is parked as *scope missing* and probed again at `probe_at`.
    pub async fn park_lane(
        &self,
        lane: LaneId,
        trouble: String,
        now: DateTime<Utc>,
        probe_at: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                c.prepare_cached(
                    "UPDATE lane SET parked_at = coalesce(parked_at, ?1), trouble = ?2, retry_at = ?3 WHERE lane = ?4",
                )?
                .execute((ms(now), &trouble, ms(probe_at), lane.0))
                .map(drop)
            })
            .await
    }

    /// Makes a sweep of every lane due now: what a one-shot run does.
    pub async fn make_due(&self, lanes: Vec<LaneId>) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                c.prepare_cached(
                    "UPDATE lane SET fast_at = 0, retry_at = NULL WHERE lane IN rarray(?1)",
                )?
                .execute([numbers(lanes.iter().map(|lane| lane.0))])
                .map(drop)
            })
            .await
    }
}

impl Query {
    /// A clinic has a new grant: its parked and failed lanes are tried at once.
    pub async fn probe_clinic(&self, clinic: &ClinicName) -> Result<(), Unavailable> {
        let clinic = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.prepare_cached("UPDATE lane SET retry_at = NULL WHERE clinic = ?1")?
                    .execute([&clinic])
                    .map(drop)
            })
            .await
    }
}

/// The number of a lane, which gets a row if it has none.
pub(super) fn enrol(c: &Connection, lane: &Lane) -> rusqlite::Result<LaneId> {
    let known = c
        .prepare_cached("SELECT lane FROM lane WHERE clinic = ?1 AND category = ?2")?
        .query_row((lane.clinic.as_str(), lane.category.as_str()), |row| {
            row.get(0).map(LaneId)
        })
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    c.prepare_cached("INSERT INTO lane (clinic, category) VALUES (?1, ?2)")?
        .execute((lane.clinic.as_str(), lane.category.as_str()))?;
    Ok(LaneId(c.last_insert_rowid()))
}

/// A sweep reached its end: moves the mark, releases what it admitted, clears the trouble.
pub(super) fn write_end(c: &Connection, end: &SweepEnd) -> rusqlite::Result<()> {
    c.prepare_cached(
        "UPDATE lane SET
           complete_to = max(coalesce(complete_to, ?1), coalesce(?1, complete_to)),
           baseline_done = baseline_done OR ?2,
           released = coalesce((SELECT max(event) FROM event), 0),
           sweep = NULL, sweep_newest = NULL, sweep_reached = NULL,
           fast_at = ?3, deep_at = ?4, reconcile_at = ?5, polled_at = ?6,
           failures = 0, retry_at = NULL, trouble = ?8, parked_at = NULL,
           digest = coalesce(?9, digest)
         WHERE lane = ?7",
    )?
    .execute((
        end.newest.map(ms),
        end.sweep == Sweep::Reconcile,
        ms(end.fast_at),
        ms(end.deep_at),
        ms(end.reconcile_at),
        ms(end.ended_at),
        end.lane.0,
        &end.trouble,
        end.digest.map(|digest| digest.0),
    ))
    .map(drop)
}

fn lane_state(row: &Row<'_>) -> rusqlite::Result<LaneState> {
    let open = match (row.get::<_, Option<String>>(6)?, row.get(7)?, row.get(8)?) {
        (Some(sweep), Some(newest), Some(reached)) => Some((
            Sweep::parse(&sweep).ok_or_else(|| damaged(6, "an unknown sweep"))?,
            at(newest),
            at(reached),
        )),
        _ => None,
    };
    Ok(LaneState {
        id: LaneId(row.get(0)?),
        lane: Lane {
            clinic: ClinicName::new(row.get::<_, String>(1)?)
                .map_err(|_| damaged(1, "a malformed clinic name"))?,
            category: Category::new(row.get::<_, String>(2)?)
                .map_err(|_| damaged(2, "a malformed category"))?,
        },
        issue_from: row.get::<_, Option<i64>>(3)?.map(at),
        baseline_done: row.get(4)?,
        complete_to: row.get::<_, Option<i64>>(5)?.map(at),
        open,
        fast_at: at(row.get(9)?),
        deep_at: at(row.get(10)?),
        reconcile_at: at(row.get(11)?),
        retry_at: row.get::<_, Option<i64>>(12)?.map(at),
        failures: row.get(13)?,
        digest: row.get::<_, Option<_>>(14)?.map(ListDigest),
        after_loss: row
            .get::<_, Option<String>>(15)?
            .map(|word| AcceptedLoss::parse(&word).ok_or_else(|| damaged(15, "an unknown choice")))
            .transpose()?,
    })
}
