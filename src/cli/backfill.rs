//! `backfill`: deliver what a sink never had of the past.
//!
//! A durable job, carried out by whoever owns the state directory: by the daemon if one runs, else by this command.
//! Either way this command shows how far it is. An interrupted one goes on when it is asked for again.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use indicatif::{ProgressBar, ProgressStyle};

use super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::app::{self, StartError};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, parse_duration};
use crate::domain::{Lane, SinkName};
use crate::ledger::{Asked, JobRequest, JobTotals, Query};
use crate::lifecycle::Lifecycle;
use crate::pipeline::Scope;
use crate::schedule::LISTED;
use crate::store::{OpenError, Unavailable};

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How often a line is printed where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// Arguments of `backfill`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: fullscript-events backfill --since 7d --sink warehouse\n\n\
    Issues what a sink never had, what the first poll skipped included. What a sink has had, holds or has given up\n\
    is not touched: for that there is `events resend`."
)]
pub(super) struct Args {
    /// From when: a day (`2026-03-01`), a time (`2026-03-01T08:00:00Z`) or a span back from now (`7d`).
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Moment,
    /// Until when, exclusive; now if absent.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Moment>,
    /// This clinic only.
    #[arg(long)]
    clinic: Option<String>,
    /// This category only.
    #[arg(long)]
    category: Option<String>,
    /// This sink only.
    #[arg(long)]
    sink: Option<String>,
}

/// A point in time as people give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(DateTime<Utc>),
    Ago(TimeDelta),
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Moment::At(at.with_timezone(&Utc)));
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(Moment::At(day.and_time(NaiveTime::MIN).and_utc()));
    }
    parse_duration(text)
        .and_then(|span| TimeDelta::from_std(span).ok())
        .map(Moment::Ago)
        .ok_or_else(|| {
            "write a day (2026-03-01), a time (2026-03-01T08:00:00Z) or a span (7d)".to_owned()
        })
}

impl Moment {
    fn before(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.checked_sub_signed(span).unwrap_or(DateTime::UNIX_EPOCH),
        }
    }
}

/// Runs `backfill`.
pub(super) fn run(path: &Path, args: &Args) -> CommandResult {
    let config = configured(path)?;
    let clock: SharedClock = Arc::new(SystemClock::start());
    let request = request(&config, args, clock.now())?;
    on_runtime(async move {
        let lifecycle = Lifecycle::begin();
        lifecycle
            .listen()
            .map_err(|e| Failure::new(Exit::Unexpected, format!("signals cannot be heard: {e}")))?;
        let ended = match app::take_ownership(&config) {
            Ok(owner) => {
                let pipeline = app::open(&config, &owner, Arc::clone(&clock)).await?;
                let query = pipeline.ledger.query();
                let job = ask(&query, request, clock.now()).await?;
                let done = tokio_util::sync::CancellationToken::new();
                let work = async {
                    let jobs = Arc::clone(&pipeline).run_until_drained(&lifecycle, Scope::JobsOnly);
                    super::run::while_beating(owner.pulse(), &clock, jobs).await;
                    super::run::drain(&pipeline).await;
                    done.cancel();
                };
                let (watched, ()) = tokio::join!(watch(&query, job, &done), work);
                watched?;
                summary(&query, job, Worker::Here).await
            }
            Err(StartError::State(OpenError::Owned(_))) => {
                let query = Query::new(app::open_store(&config)?);
                let job = ask(&query, request, clock.now()).await?;
                eprintln!("the running daemon carries it out; Ctrl-C ends this display only");
                watch(&query, job, lifecycle.soft()).await?;
                summary(&query, job, Worker::Daemon).await
            }
            Err(error) => Err(error.into()),
        };
        lifecycle.finish().await;
        ended
    })
}

/// Who carries the job out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worker {
    Here,
    Daemon,
}

/// What is asked for, in the terms of the configuration.
fn request(config: &Config, args: &Args, now: DateTime<Utc>) -> Result<JobRequest, Failure> {
    let lanes = app::lanes(config);
    let names = |lanes: &[Lane], name: fn(&Lane) -> &str| {
        let mut names: Vec<&str> = lanes.iter().map(name).collect();
        names.dedup();
        names.join(", ")
    };
    let unknown = |what: &str, name: &str, known: String| {
        Failure::new(
            Exit::NotFound,
            format!("no {what} {name:?} in the configuration; there are: {known}"),
        )
    };
    let mut wanted = lanes.clone();
    if let Some(clinic) = &args.clinic {
        wanted.retain(|lane| lane.clinic.as_str() == clinic);
        if wanted.is_empty() {
            return Err(unknown(
                "clinic",
                clinic,
                names(&lanes, |l| l.clinic.as_str()),
            ));
        }
    }
    if let Some(category) = &args.category {
        let of_clinic = wanted.clone();
        wanted.retain(|lane| lane.category.as_str() == category);
        if wanted.is_empty() {
            let known = names(&of_clinic, |l| l.category.as_str());
            return Err(unknown("category", category, known));
        }
    }
    let sink = args.sink.as_ref().map(|name| {
        let known = || config.sinks.iter().map(|sink| sink.name.as_str());
        known()
            .any(|each| each == name)
            .then(|| SinkName::new(name.as_str()).ok())
            .flatten()
            .ok_or_else(|| unknown("sink", name, known().collect::<Vec<_>>().join(", ")))
    });
    let since = args.since.before(now);
    let oldest = now - LISTED;
    if since < oldest {
        eprintln!(
            "Fullscript lists 30 days: nothing before {} can be had",
            oldest.format("%F")
        );
    }
    Ok(JobRequest {
        since: since.max(oldest),
        // Nothing is listed of the future; a day that no calendar has must not reach the arithmetic.
        until: args
            .until
            .map(|until| until.before(now))
            .filter(|until| *until <= now),
        sink: sink.transpose()?,
        lanes: wanted,
    })
}

fn ledger(error: Unavailable) -> Failure {
    Failure::new(Exit::State, error)
}

async fn ask(query: &Query, request: JobRequest, now: DateTime<Utc>) -> Result<i64, Failure> {
    Ok(
        match query.ask_for_job(request, now).await.map_err(ledger)? {
            Asked::New(job) => job,
            Asked::Resumed(job) => {
                eprintln!("going on with the backfill that was interrupted");
                job
            }
        },
    )
}

/// Shows how far a job is until it is done, or until `end`.
async fn watch(
    query: &Query,
    job: i64,
    end: &tokio_util::sync::CancellationToken,
) -> Result<(), Failure> {
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} lists  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style)
    });
    let mut since_line = LINE;
    loop {
        let totals = query.job_totals(job).await.map_err(ledger)?;
        let finished = totals.ended == totals.lanes && totals.pending == 0;
        if let Some(bar) = &bar {
            bar.set_length(totals.lanes);
            bar.set_position(totals.ended);
            bar.set_message(counts(&totals));
        } else if since_line >= LINE && !finished {
            eprintln!(
                "{}/{} lists, {}",
                totals.ended,
                totals.lanes,
                counts(&totals)
            );
            since_line = Duration::ZERO;
        }
        if finished || end.is_cancelled() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => since_line += LOOK,
            () = end.cancelled() => {}
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}

fn counts(totals: &JobTotals) -> String {
    format!(
        "{} listed, {} issued, {} delivered, {} pending",
        totals.listed, totals.issued, totals.done, totals.pending
    )
}

/// What became of it; exit 3 if something did not arrive.
async fn summary(query: &Query, job: i64, worker: Worker) -> CommandResult {
    let totals = query.job_totals(job).await.map_err(ledger)?;
    println!(
        "listed     {:>9}\nissued     {:>9}\ndelivered  {:>9}\npending    {:>9}\nfailed     {:>9}",
        totals.listed, totals.issued, totals.done, totals.pending, totals.failed
    );
    for (lane, trouble) in &totals.troubles {
        println!("{lane}: {trouble}");
    }
    let unfinished = totals.ended < totals.lanes || totals.pending > 0;
    let next = match worker {
        Worker::Daemon if unfinished => Some("the daemon goes on: `fullscript-events status`"),
        Worker::Here if unfinished => {
            Some("not finished: the same command, or the daemon, goes on from here")
        }
        Worker::Here | Worker::Daemon if totals.failed > 0 => {
            Some("what failed: `fullscript-events events list --state dead` (or held)")
        }
        Worker::Here | Worker::Daemon => None,
    };
    if let Some(next) = next {
        println!("{next}");
    }
    Ok(
        if unfinished || totals.failed > 0 || !totals.troubles.is_empty() {
            Exit::Partial
        } else {
            Exit::Done
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_day_a_time_or_a_span() {
        let now: DateTime<Utc> = "2026-03-10T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-03-01", "2026-03-01T00:00:00Z"),
            ("2026-03-01T08:00:00+02:00", "2026-03-01T06:00:00Z"),
            ("7d", "2026-03-03T12:00:00Z"),
        ] {
            assert_eq!(
                moment(text).unwrap().before(now),
                expected.parse::<DateTime<Utc>>().unwrap()
            );
        }
        assert!(moment("last week").unwrap_err().contains("2026-03-01"));
    }
}
