//! Backfill jobs: asked for by anybody, durable, carried out lane by lane by the owner, resumable at any page.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension};

use super::lanes::enrol;
use super::{LaneId, Ledger, Query, at, damaged, ms};
use crate::domain::{Category, ClinicName, DeliveryState, Lane, SinkName};
use crate::store::Unavailable;

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequest {
    /// Events created before this are left alone.
    pub since: DateTime<Utc>,
    /// Events created at or after this are left alone.
    pub until: Option<DateTime<Utc>>,
    /// This sink only; absent: every sink that wants the event.
    pub sink: Option<SinkName>,
    /// What is listed for it.
    pub lanes: Vec<Lane>,
}

/// A job that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is new.
    New(i64),
    /// The same was asked for within a day and is not done yet: it goes on.
    Resumed(i64),
}

/// An open job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub job: i64,
    /// See [`JobRequest`].
    pub since: DateTime<Utc>,
    /// See [`JobRequest`].
    pub until: Option<DateTime<Utc>>,
    /// See [`JobRequest`].
    pub sink: Option<SinkName>,
}

/// What is left of a job in one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobLane {
    /// The job.
    pub job: Job,
    /// The lane's number.
    pub id: LaneId,
    /// The lane.
    pub lane: Lane,
    /// The `created_at` down to which its pages are admitted.
    pub reached: Option<DateTime<Utc>>,
    /// Failures in a row.
    pub failures: u32,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobTotals {
    /// Lanes of the job.
    pub lanes: u64,
    /// Lanes that are listed to their end, or failed for good.
    pub ended: u64,
    /// Events listed.
    pub listed: u64,
    /// Deliveries issued.
    pub issued: u64,
    /// Deliveries issued since the job began that wait for their body or their sink.
    pub pending: u64,
    /// Deliveries issued since the job began that arrived.
    pub done: u64,
    /// Deliveries issued since the job began that a person has to look at, or that Fullscript no longer has.
    pub failed: u64,
    /// Lanes that have failed, each with its trouble in words.
    pub troubles: Vec<(Lane, String)>,
}

impl Query {
    /// Writes a job; the owner notices it. One that was asked for within the last day with the same words, and was
    /// interrupted, goes on where it stood.
    pub async fn ask_for_job(
        &self,
        request: JobRequest,
        now: DateTime<Utc>,
    ) -> Result<Asked, Unavailable> {
        self.store
            .write(move |c| {
                let words = words(&request);
                let interrupted = c
                    .prepare(
                        "SELECT job FROM job WHERE ended_at IS NULL AND words = ?1
                           AND since_at BETWEEN ?2 AND ?3 ORDER BY job DESC LIMIT 1",
                    )?
                    .query_row(
                        (
                            &words,
                            ms(request.since - TimeDelta::days(1)),
                            ms(request.since),
                        ),
                        |row| row.get(0),
                    )
                    .optional()?;
                if let Some(job) = interrupted {
                    return Ok(Asked::Resumed(job));
                }
                c.execute(
                    "INSERT INTO job (since_at, until_at, sink, words, created_at, delivered_before)
                     VALUES (?1, ?2, ?3, ?4, ?5, coalesce((SELECT max(delivery) FROM delivery), 0))",
                    (
                        ms(request.since),
                        request.until.map(ms),
                        request.sink.as_ref().map(SinkName::as_str),
                        words,
                        ms(now),
                    ),
                )?;
                let job = c.last_insert_rowid();
                for lane in &request.lanes {
                    // The owner may not have polled it yet: a clinic that was added since it started.
                    let lane = enrol(c, lane)?;
                    c.prepare_cached("INSERT INTO job_lane (job, lane) VALUES (?1, ?2)")?
                        .execute((job, lane.0))?;
                }
                Ok(Asked::New(job))
            })
            .await
    }

    /// How far a job is.
    pub async fn job_totals(&self, job: i64) -> Result<JobTotals, Unavailable> {
        self.store.read(move |c| totals(c, job)).await
    }
}

impl Ledger {
    /// The lanes that open jobs still want listed.
    pub async fn open_job_lanes(&self) -> Result<Vec<JobLane>, Unavailable> {
        self.store
            .read(|c| {
                c.prepare_cached(
                    "SELECT job, since_at, until_at, sink, lane, clinic, category, reached, job_lane.failures
                     FROM job JOIN job_lane USING (job) JOIN lane USING (lane)
                     WHERE job.ended_at IS NULL AND job_lane.ended_at IS NULL ORDER BY job, lane",
                )?
                .query_map((), |row| {
                    Ok(JobLane {
                        job: Job {
                            job: row.get(0)?,
                            since: at(row.get(1)?),
                            until: row.get::<_, Option<i64>>(2)?.map(at),
                            sink: row
                                .get::<_, Option<String>>(3)?
                                .map(SinkName::new)
                                .transpose()
                                .map_err(|_| damaged(3, "a malformed sink name"))?,
                        },
                        id: LaneId(row.get(4)?),
                        lane: Lane {
                            clinic: ClinicName::new(row.get::<_, String>(5)?)
                                .map_err(|_| damaged(5, "a malformed clinic name"))?,
                            category: Category::new(row.get::<_, String>(6)?)
                                .map_err(|_| damaged(6, "a malformed category"))?,
                        },
                        reached: row.get::<_, Option<i64>>(7)?.map(at),
                        failures: row.get(8)?,
                    })
                })?
                .collect()
            })
            .await
    }

    /// A job is done with a lane: listed to its end, or given up with `trouble`. The last lane ends the job.
    pub async fn end_job_lane(
        &self,
        job: i64,
        lane: LaneId,
        trouble: Option<String>,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                c.prepare_cached(
                    "UPDATE job_lane SET ended_at = ?1, trouble = ?2 WHERE job = ?3 AND lane = ?4",
                )?
                .execute((ms(now), &trouble, job, lane.0))?;
                // What it issued may be claimed now.
                c.prepare_cached(
                    "UPDATE lane SET released = coalesce((SELECT max(event) FROM event), 0) WHERE lane = ?1",
                )?
                .execute([lane.0])?;
                c.prepare_cached(
                    "UPDATE job SET ended_at = ?1 WHERE job = ?2 AND NOT EXISTS
                       (SELECT 1 FROM job_lane WHERE job = ?2 AND ended_at IS NULL)",
                )?
                .execute((ms(now), job))
                .map(drop)
            })
            .await
    }

    /// Notes why a lane of a job has to wait; it goes on from where it is.
    pub async fn note_job_trouble(
        &self,
        job: i64,
        lane: LaneId,
        trouble: String,
    ) -> Result<(), Unavailable> {
        self.store
            .write(move |c| {
                c.prepare_cached("UPDATE job_lane SET trouble = ?1, failures = failures + 1 WHERE job = ?2 AND lane = ?3")?
                    .execute((&trouble, job, lane.0))
                    .map(drop)
            })
            .await
    }
}

/// What makes two requests the same, but for their `since`, which is often counted from now.
fn words(request: &JobRequest) -> String {
    let mut lanes: Vec<String> = request.lanes.iter().map(Lane::to_string).collect();
    lanes.sort();
    format!(
        "until {:?} sink {:?} lanes {}",
        request.until.map(ms),
        request.sink.as_ref().map(SinkName::as_str),
        lanes.join(" ")
    )
}

fn totals(c: &Connection, job: i64) -> rusqlite::Result<JobTotals> {
    let mut totals = c.query_row(
        "SELECT count(*), count(ended_at), coalesce(sum(listed), 0), coalesce(sum(issued), 0)
         FROM job_lane WHERE job = ?1",
        [job],
        |row| {
            Ok(JobTotals {
                lanes: row.get(0)?,
                ended: row.get(1)?,
                listed: row.get(2)?,
                issued: row.get(3)?,
                ..JobTotals::default()
            })
        },
    )?;
    let mut statement = c.prepare_cached(
        "SELECT d.state, count(*) FROM job j JOIN delivery d ON d.delivery > j.delivered_before
         WHERE j.job = ?1 AND d.lane IN (SELECT lane FROM job_lane WHERE job = ?1) GROUP BY d.state",
    )?;
    let mut rows = statement.query([job])?;
    while let Some(row) = rows.next()? {
        let count: u64 = row.get(1)?;
        match DeliveryState::parse(row.get_ref(0)?.as_str()?) {
            Some(DeliveryState::Queued | DeliveryState::Claimed) => totals.pending += count,
            Some(DeliveryState::Done) => totals.done += count,
            Some(
                DeliveryState::Held
                | DeliveryState::Parked
                | DeliveryState::Dead
                | DeliveryState::Skipped,
            )
            | None => totals.failed += count,
        }
    }
    totals.troubles = c
        .prepare(
            "SELECT clinic, category, job_lane.trouble FROM job_lane JOIN lane USING (lane)
             WHERE job = ?1 AND job_lane.trouble IS NOT NULL ORDER BY clinic, category",
        )?
        .query_map([job], |row| {
            let lane = Lane {
                clinic: ClinicName::new(row.get::<_, String>(0)?)
                    .map_err(|_| damaged(0, "a malformed clinic name"))?,
                category: Category::new(row.get::<_, String>(1)?)
                    .map_err(|_| damaged(1, "a malformed category"))?,
            };
            Ok((lane, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(totals)
}
