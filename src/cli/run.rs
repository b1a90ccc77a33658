//! `run`: the daemon; `run --once`: one whole cycle.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::app::{self, StartError};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Clinic, Config};
use crate::domain::DeliveryState;
use crate::late;
use crate::ledger::{LaneRow, Query, SinkRow};
use crate::lifecycle::{Lifecycle, notify};
use crate::observe::watchdog;
use crate::pipeline::{Ended, Pipeline, Scope};
use crate::schedule::{self, Nudges};
use crate::store::{AcceptedLoss, OpenError, Owner, Pulse};
use crate::stream::Timing;
use crate::token::{self, State};

/// How often a state directory that cannot be used is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often the ledger and its marker are told that time passes: a backup is told from the ledger to the minute.
const BEAT: Duration = Duration::from_mins(1);
/// How long a refresh in flight may take at the end.
const LAST_REFRESH: Duration = Duration::from_secs(10);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Poll every clinic once, deliver what is due, and end.
    #[arg(long)]
    once: bool,
    /// The ledger was lost: go on without it. `baseline` skips what was created until now (nothing twice), `replay`
    /// delivers all that is still listed again (nothing lost). Refused where nothing was lost.
    #[arg(long, value_name = "HOW", value_parser = accepted_loss)]
    accept_ledger_loss: Option<AcceptedLoss>,
}

fn accepted_loss(word: &str) -> Result<AcceptedLoss, String> {
    AcceptedLoss::parse(word).ok_or_else(|| "baseline or replay is expected".to_owned())
}

/// Runs `run`.
pub(super) fn run(path: &Path, args: &Args) -> CommandResult {
    let config = configured(path)?;
    let clock: SharedClock = Arc::new(SystemClock::start());
    on_runtime(async move {
        let lifecycle = Lifecycle::begin();
        lifecycle
            .listen()
            .map_err(|e| Failure::new(Exit::Unexpected, format!("signals cannot be heard: {e}")))?;
        let accepted = args.accept_ledger_loss;
        let ended = if args.once {
            once(&config, clock, &lifecycle, accepted).await
        } else {
            daemon(&config, clock, &lifecycle, accepted).await
        };
        lifecycle.finish().await;
        ended
    })
}

async fn daemon(
    config: &Config,
    clock: SharedClock,
    lifecycle: &Lifecycle,
    accepted: Option<AcceptedLoss>,
) -> CommandResult {
    let Some((owner, pipeline)) = open(config, &clock, lifecycle, accepted).await? else {
        return Ok(Exit::Done);
    };
    // Nothing is served before everything is there: where one is missing, the owner goes, and with it the ledger's lock.
    let stream = app::open_stream(config, &owner, &pipeline, Timing::default()).await?;
    let late_results = app::late_results(config).await?;
    let nudges = Nudges::default();
    let mut scheduler = schedule::start(&nudges)
        .await
        .map_err(|e| Failure::new(Exit::Unexpected, format!("the scheduler cannot start: {e}")))?;
    if let Some(stream) = stream {
        if let Ok(address) = stream.address() {
            tracing::info!(%address, "the live subscription listens");
        }
        lifecycle.spawn(stream.run(lifecycle.soft().clone()));
    }
    if let Some((endpoint, keys)) = late_results {
        let address = endpoint.address();
        tracing::info!("late results are taken at http://{address}{}", late::PATH);
        let results = Arc::new(pipeline.ledger.clone());
        let stop = lifecycle.soft().clone();
        lifecycle.spawn(endpoint.serve(keys, results, Arc::clone(&clock), stop));
    }
    lifecycle.spawn(watchdog::feed(
        pipeline.ledger.query(),
        nudges.clone(),
        lifecycle.soft().clone(),
    ));
    tracing::info!(
        clinics = config.clinics.len(),
        lanes = pipeline.lanes.len(),
        sinks = pipeline.sinks.len(),
        interval_s = pipeline.pace.fast.as_secs(),
        "polling {} ({})",
        config.app.api_base,
        config.app.environment
    );
    notify(&[NotifyState::Ready]);
    let run = Arc::clone(&pipeline).run(lifecycle, &nudges);
    while_beating(owner.pulse(), &clock, run).await;
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping: what is in flight is finished first");
    lifecycle.finish().await;
    drain(&pipeline).await;
    pipeline.audit.finish().await;
    if let Err(error) = scheduler.shutdown().await {
        tracing::debug!(%error, "the scheduler did not shut down");
    }
    Ok(Exit::Done)
}

/// Takes the state directory and opens everything. A disk that is full or read-only is waited for, not crashed over, and
/// so is a person who takes over the directory of another machine; `None` if the process was stopped meanwhile.
async fn open(
    config: &Config,
    clock: &SharedClock,
    lifecycle: &Lifecycle,
    mut accepted: Option<AcceptedLoss>,
) -> Result<Option<(Owner, Arc<Pipeline>)>, Failure> {
    let mut told = BTreeSet::new();
    loop {
        let error = match try_open(config, clock, &mut accepted).await {
            Ok(opened) => return Ok(Some(opened)),
            Err(
                error @ (StartError::State(OpenError::Io { .. } | OpenError::Sqlite { .. })
                | StartError::Ledger(_)),
            ) => format!(
                "{error}; nothing is polled until it can be used (`df -h`, `mount`, `ls -ld`)"
            ),
            Err(error @ StartError::OtherHost { .. }) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if told.insert(error.clone()) {
            tracing::error!("{error}");
        }
        // Ready all the same: a restart would not mend the disk, and this loop will notice when it is mended.
        notify(&[
            NotifyState::Ready,
            NotifyState::Status(&error),
            NotifyState::Watchdog,
        ]);
        tokio::select! {
            () = tokio::time::sleep(TRY_AGAIN) => {}
            () = lifecycle.soft().cancelled() => return Ok(None),
        }
    }
}

/// A loss is accepted once: after the directory was taken there is none any more.
async fn try_open(
    config: &Config,
    clock: &SharedClock,
    accepted: &mut Option<AcceptedLoss>,
) -> Result<(Owner, Arc<Pipeline>), StartError> {
    let owner = match *accepted {
        None => app::take_ownership(config)?,
        Some(how) => {
            let owner = app::take_ownership_after_loss(config, how)?;
            tracing::warn!(
                "the loss of the ledger is accepted ({}): a new one begins, and every clinic has to log in again",
                how.as_str()
            );
            *accepted = None;
            owner
        }
    };
    let pipeline = app::open(config, &owner, Arc::clone(clock)).await?;
    Ok((owner, pipeline))
}

/// Does the work; meanwhile the ledger beats each minute.
pub(super) async fn while_beating<T>(
    pulse: Pulse,
    clock: &SharedClock,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(BEAT) => {}
        }
        let now = clock.now().timestamp_millis();
        let (done, beaten) = tokio::select! {
            done = &mut work => (Some(done), Ok(())),
            beaten = pulse.beat(now) => (None, beaten),
        };
        // A disk that takes nothing is told by whoever has something to lose.
        if let Err(error) = beaten {
            tracing::debug!(%error, "a beat was missed");
        }
        if let Some(done) = done {
            return done;
        }
    }
}

/// Lets a refresh end, but not for longer than a stop may take: one that is cut off is settled at the next start.
pub(super) async fn drain(pipeline: &Pipeline) {
    if tokio::time::timeout(LAST_REFRESH, pipeline.tokens.drain())
        .await
        .is_err()
    {
        tracing::warn!(
            "a refresh did not end in {} s: the next start settles it",
            LAST_REFRESH.as_secs()
        );
    }
}

async fn once(
    config: &Config,
    clock: SharedClock,
    lifecycle: &Lifecycle,
    mut accepted: Option<AcceptedLoss>,
) -> CommandResult {
    let (owner, pipeline) = try_open(config, &clock, &mut accepted).await?;
    let lanes = pipeline.lanes.iter().copied().collect();
    pipeline
        .ledger
        .make_due(lanes)
        .await
        .map_err(|error| Failure::new(Exit::State, error))?;
    let cycle = Arc::clone(&pipeline).run_until_drained(lifecycle, Scope::Everything);
    let ended = while_beating(owner.pulse(), &clock, cycle).await;
    drain(&pipeline).await;
    match ended {
        Ended::Drained => summarise(&owner, &pipeline, config).await,
        Ended::Stopped => Err(Failure::new(
            Exit::Partial,
            "stopped before the cycle was over: the next one goes on from there",
        )),
        Ended::LedgerUnavailable => Err(Failure::new(
            Exit::State,
            "the state directory cannot be written (`df -h`, `mount`): the next cycle goes on from there",
        )),
    }
}

/// One line per sink, one per lane in trouble.
async fn summarise(owner: &Owner, pipeline: &Pipeline, config: &Config) -> CommandResult {
    let query = pipeline.ledger.query();
    let (lanes, left) = troubles(&query, config)
        .await
        .map_err(|error| Failure::new(Exit::State, error))?;
    for lane in &lanes {
        let trouble = lane.trouble.as_deref().unwrap_or("not polled");
        eprintln!("{}/{}: {trouble}", lane.clinic, lane.category);
    }
    if left > 0 {
        eprintln!("{left} deliveries are still due: `fullscript-events status` tells why");
    }
    let grants = token::grants(owner.store()).await;
    let grants = grants
        .map_err(|error| Failure::new(Exit::State, error))?
        .grants;
    let works = |clinic: &Clinic| {
        let mut grants = grants.iter().filter(|grant| grant.clinic == clinic.name);
        grants.any(|grant| !matches!(grant.state, State::LoginRequired { .. }))
    };
    if !config.clinics.iter().all(works) {
        return Ok(Exit::LoginRequired);
    }
    Ok(if lanes.is_empty() && left == 0 {
        Exit::Done
    } else {
        Exit::Partial
    })
}

async fn troubles(
    query: &Query,
    config: &Config,
) -> Result<(Vec<LaneRow>, u64), crate::store::Unavailable> {
    let configured = |row: &LaneRow| {
        config.clinics.iter().any(|clinic| {
            clinic.name.as_str() == row.clinic
                && clinic.categories.iter().any(|c| c.as_str() == row.category)
        })
    };
    let lanes = query.lanes(chrono::DateTime::UNIX_EPOCH).await?;
    let troubled = lanes
        .into_iter()
        .filter(|row| configured(row) && row.trouble.is_some());
    let sinks = query.sinks().await?;
    let is_configured = |row: &&SinkRow| {
        config
            .sinks
            .iter()
            .any(|sink| sink.name.as_str() == row.name)
    };
    let left = sinks
        .iter()
        .filter(is_configured)
        .map(|sink| sink.count(DeliveryState::Queued) + sink.count(DeliveryState::Claimed));
    Ok((troubled.collect(), left.sum()))
}
