//! `run`: the daemon; `run --once`: one whole cycle.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::app::{self, StartError};
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::domain::DeliveryState;
use crate::ledger::{LaneRow, Query};
use crate::lifecycle::{Lifecycle, notify};
use crate::observe::watchdog;
use crate::pipeline::{Pipeline, Scope};
use crate::schedule::{self, Nudges};
use crate::store::{OpenError, Owner};

/// How often a state directory that cannot be used is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Poll every clinic once, deliver what is due, and end.
    #[arg(long)]
    once: bool,
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
        let ended = if args.once {
            once(&config, clock, &lifecycle).await
        } else {
            daemon(&config, clock, &lifecycle).await
        };
        lifecycle.finish().await;
        ended
    })
}

async fn daemon(config: &Config, clock: SharedClock, lifecycle: &Lifecycle) -> CommandResult {
    let Some((_owner, pipeline)) = started(config, &clock, lifecycle).await? else {
        return Ok(Exit::Done);
    };
    let nudges = Nudges::default();
    let mut scheduler = schedule::start(&nudges)
        .await
        .map_err(|e| Failure::new(Exit::Unexpected, format!("the scheduler cannot start: {e}")))?;
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
    Arc::clone(&pipeline).run(lifecycle, &nudges).await;
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping: what is in flight is finished first");
    lifecycle.finish().await;
    pipeline.tokens.drain().await;
    if let Err(error) = scheduler.shutdown().await {
        tracing::debug!(%error, "the scheduler did not shut down");
    }
    Ok(Exit::Done)
}

/// Takes the state directory and opens everything. A disk that is full or read-only is waited for, not crashed over:
/// it may fill up between the two. `None` if the process was stopped meanwhile.
async fn started(
    config: &Config,
    clock: &SharedClock,
    lifecycle: &Lifecycle,
) -> Result<Option<(Owner, Arc<Pipeline>)>, Failure> {
    let mut told = BTreeSet::new();
    loop {
        match start(config, clock).await {
            Ok(started) => return Ok(Some(started)),
            Err(
                error @ (StartError::State(OpenError::Io { .. } | OpenError::Sqlite { .. })
                | StartError::Ledger(_)),
            ) => {
                let words = error.to_string();
                if told.insert(words.clone()) {
                    tracing::error!(
                        "{words}; nothing is polled until it can be used (`df -h`, `mount`, `ls -ld`)"
                    );
                }
                notify(&[NotifyState::Status(&words), NotifyState::Watchdog]);
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(TRY_AGAIN) => {}
            () = lifecycle.soft().cancelled() => return Ok(None),
        }
    }
}

async fn start(config: &Config, clock: &SharedClock) -> Result<(Owner, Arc<Pipeline>), StartError> {
    let owner = app::take_ownership(config)?;
    let pipeline = app::open(config, &owner, Arc::clone(clock)).await?;
    Ok((owner, pipeline))
}

async fn once(config: &Config, clock: SharedClock, lifecycle: &Lifecycle) -> CommandResult {
    let owner = app::take_ownership(config)?;
    let pipeline = app::open(config, &owner, clock).await?;
    let lanes = pipeline.lanes.iter().copied().collect();
    pipeline
        .ledger
        .make_due(lanes)
        .await
        .map_err(|error| Failure::new(Exit::State, error))?;
    Arc::clone(&pipeline)
        .run_until_drained(lifecycle, Scope::Everything)
        .await;
    pipeline.tokens.drain().await;
    summarise(&pipeline, config).await
}

/// One line per sink, one per lane in trouble.
async fn summarise(pipeline: &Pipeline, config: &Config) -> CommandResult {
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
    let left = sinks
        .iter()
        .map(|sink| sink.count(DeliveryState::Queued) + sink.count(DeliveryState::Claimed));
    Ok((troubled.collect(), left.sum()))
}
