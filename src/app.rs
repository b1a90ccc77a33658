//! The composition root: from a checked configuration to an open pipeline.
//!
//! The order is part of the promise: configuration first, then secrets, then the lock and the ledger, then sinks;
//! nothing touches the network before all of them are good.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use crate::api::Api;
use crate::api::budget::Budget;
use crate::audit::{Actor, Audit};
use crate::clock::SharedClock;
use crate::config::{self, Bodies, Config, SinkKind};
use crate::crosswalk::Crosswalk;
use crate::decide::Rules;
use crate::domain::{Lane, OrderBy};
use crate::http::BuildError;
use crate::late;
use crate::ledger::{FrameLog, Ledger, Restored};
use crate::pipeline::{Activity, Handover, Health, OpenSink, Pipeline, Target};
use crate::route::Routes;
use crate::schedule::Pace;
use crate::sinks::{self, AnySink, Ports, Sink as _};
use crate::store::{AcceptedLoss, Host, OpenError, Owner, Place, SealKey, Store, Unavailable};
use crate::stream::{self, CannotServe};
use crate::token::Tokens;

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A secret cannot be read.
    #[error("{key}: {source}")]
    Secret {
        /// Where the reference stands in the configuration.
        key: String,
        /// What is wrong and what to do.
        source: config::Unreadable,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] OpenError),
    /// The state directory lives on another machine, and is bound to it.
    #[error(
        "{} belongs to another machine: it was used on {home}, this is {here}, and [state] bind_host is on, so nothing is polled, refreshed or delivered here; if it does not run there any more: `fullscript-events auth takeover --yes`", directory.display()
    )]
    OtherHost {
        /// The directory.
        directory: PathBuf,
        /// Its machine.
        home: Host,
        /// This machine.
        here: Host,
    },
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] Unavailable),
    /// A sink cannot be opened.
    #[error(transparent)]
    Sink(#[from] sinks::OpenError),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Http(#[from] BuildError),
    /// The live subscription cannot be served.
    #[error(transparent)]
    Stream(#[from] CannotServe),
    /// The address for late results cannot be had.
    #[error(transparent)]
    Late(#[from] late::ListenError),
    /// Deliveries wait for sinks that the configuration does not name.
    #[error("{}", strangers(.0))]
    Strangers(Vec<(String, u64)>),
}

fn strangers(strangers: &[(String, u64)]) -> String {
    let words = strangers.iter().map(|(name, waiting)| {
        // Nothing waits, but the sink's memory of the treatments that it has sent: without it they would be entered twice.
        let what = if *waiting == 0 {
            "the memory of treatments that were sent waits".to_owned()
        } else {
            format!("{waiting} deliveries wait")
        };
        format!(
            "{what} for a sink {name:?} that the configuration does not name. Was it renamed? \
             `fullscript-events sinks reassign {name} NEW-NAME` gives them to the new name; was it removed? \
             `fullscript-events sinks forget {name} --yes` gives them up; else configure it again"
        )
    });
    words.collect::<Vec<_>>().join("\n")
}

/// Every lane of the configuration.
pub fn lanes(config: &Config) -> Vec<Lane> {
    let lanes = config.clinics.iter().flat_map(|clinic| {
        clinic.categories.iter().map(|category| Lane {
            clinic: clinic.name.clone(),
            category: category.clone(),
        })
    });
    lanes.collect()
}

fn secret<T>(key: &str, read: Result<T, config::Unreadable>) -> Result<T, StartError> {
    read.map_err(|source| StartError::Secret {
        key: key.to_owned(),
        source,
    })
}

/// The key that seals the state directory.
pub fn seal_key(config: &Config) -> Result<SealKey, StartError> {
    secret("state.seal_key", config.state.seal_key.read_key()).map(SealKey::new)
}

/// Opens an existing ledger beside its owner.
pub fn open_store(config: &Config) -> Result<Store, StartError> {
    let key = seal_key(config)?;
    let store = Store::open_existing(&config.state.directory, &config.app.identity(), &key)?;
    Ok(store)
}

/// Takes the state directory, unless it is bound to another machine.
pub fn take_ownership(config: &Config) -> Result<Owner, StartError> {
    let key = seal_key(config)?;
    let owner = Owner::take(&config.state.directory, &config.app.identity(), &key)?;
    let (home, here) = (owner.home(), Host::here());
    let place = home.place(&here);
    if place != Place::Home && config.state.bind_host {
        return Err(StartError::OtherHost {
            directory: config.state.directory.clone(),
            home: home.clone(),
            here,
        });
    }
    if place == Place::Elsewhere {
        tracing::warn!(
            "the state directory was used on {home}, this is {here}: if it runs there too, every event is delivered twice; \
             if not: `fullscript-events auth takeover --yes`"
        );
    }
    Ok(owner)
}

/// Takes the state directory whose ledger was lost, as a person has accepted.
pub fn take_ownership_after_loss(
    config: &Config,
    accepted: AcceptedLoss,
) -> Result<Owner, StartError> {
    let key = seal_key(config)?;
    let directory = &config.state.directory;
    let owner = Owner::take_after_loss(directory, &config.app.identity(), &key, accepted)?;
    Ok(owner)
}

/// The grants, for whoever has a store.
pub fn tokens(
    config: &Config,
    store: &Store,
    clock: &SharedClock,
    budget: Budget,
    audit: &Audit,
) -> Result<Tokens, StartError> {
    let client_secret = secret("app.client_secret", config.app.client_secret.read())?;
    let tokens = Tokens::new(
        store.clone(),
        Arc::clone(clock),
        &config.app,
        &config.http,
        client_secret,
        budget,
        audit.clone(),
    )?;
    Ok(tokens)
}

/// Opens everything else, for the owner of the state directory.
pub async fn open(
    config: &Config,
    owner: &Owner,
    clock: SharedClock,
) -> Result<Arc<Pipeline>, StartError> {
    let audit = Audit::new(config.audit.as_ref(), owner.store(), &clock, Actor::Daemon);
    let ledger = Ledger::new(owner.store().clone(), owner.epoch()).audited(audit.clone());
    let settings = config.poll.budget;
    let budget = Budget::open(owner.store().clone(), Arc::clone(&clock), settings).await?;
    let tokens = tokens(config, owner.store(), &clock, budget.clone(), &audit)?;
    let api = Arc::new(Api::new(
        config.app.api_base.clone(),
        config.poll.concurrency,
        tokens.clone(),
        budget,
        Arc::clone(&clock),
    ));
    let names: Vec<_> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
    // The backlog belongs to the name: under a new one it would wait for ever, unseen.
    let strangers = ledger.query().strangers(names.clone()).await?;
    if !strangers.is_empty() {
        return Err(StartError::Strangers(strangers));
    }
    let orders = config.sinks.iter().map(|sink| sink.order_by);
    let ids = ledger
        .enrol_sinks(names.into_iter().zip(orders).collect())
        .await?;
    let are_kept = config.state.bodies == Bodies::UntilSettled;
    ledger.keep_bodies(are_kept).await?;
    for sink in &config.sinks {
        if let SinkKind::Stream(kept) = &sink.kind {
            let retain = TimeDelta::from_std(kept.retain).unwrap_or(TimeDelta::MAX);
            ledger
                .keep_frames(retain, kept.keeps_bodies, clock.now())
                .await?;
        }
    }
    let ports = Ports {
        recorder: Arc::new(ledger.clone()),
        frames: Arc::new(ledger.clone()),
        crosswalk: Arc::new(Crosswalk::new(
            Arc::clone(&api),
            ledger.clone(),
            Arc::clone(&clock),
        )),
        treatments: Arc::new(ledger.clone()),
    };
    let mut sinks = Vec::with_capacity(config.sinks.len());
    for sink in &config.sinks {
        let Some(id) = ids.get(&sink.name) else {
            continue;
        };
        sinks.push(OpenSink {
            id: *id,
            name: sink.name.clone(),
            rules: Rules {
                max_attempts: sink.max_attempts,
                give_up_after: sink.give_up_after,
                on_doubt: sink.on_doubt,
                order_wait: (sink.order_by != OrderBy::None).then_some(sink.order_wait),
            },
            sink: AnySink::open(
                sink,
                &config.http,
                &config.state.directory,
                &ports,
                &config.enrich,
            )?,
            wake: tokio::sync::Notify::new(),
            handover: Handover::default(),
            health: Health::default(),
            target: target(&sink.kind),
        });
    }
    let exact = sinks.iter().filter(|open| open.sink.is_exact());
    let exact = exact.map(|open| open.id).collect();
    if let Some(restored) = ledger.wake(exact, clock.now()).await? {
        report_restored(restored);
    }
    let lanes: HashSet<_> = ledger
        .enrol_lanes(lanes(config))
        .await?
        .into_iter()
        .collect();
    audit.begin(&config.fingerprint.0, clock.now()).await?;
    let pace = Pace::for_lanes(&config.poll, lanes.len());
    report_pace(config, pace, lanes.len());
    Ok(Arc::new(Pipeline {
        api,
        routes: Routes::new(config, &ids),
        ledger,
        tokens,
        sinks,
        lanes,
        clock,
        pace,
        bodies: config.state.bodies,
        first_run: config.poll.first_run,
        in_flight: config.poll.concurrency,
        activity: Activity::default(),
        audit,
    }))
}

/// How a sink is reached, as the audit log says it.
fn target(kind: &SinkKind) -> Target {
    match kind {
        SinkKind::Webhook(webhook) => Target {
            method: "POST",
            path: webhook.url.path().to_owned(),
        },
        SinkKind::Stdout
        | SinkKind::File(_)
        | SinkKind::Sqlite(_)
        | SinkKind::Stream(_)
        | SinkKind::Exec(_) => Target {
            method: kind.name(),
            path: String::new(),
        },
    }
}

/// Opens the live subscription of a pipeline, if there is to be one: it listens, and answers when it is run.
pub async fn open_stream(
    config: &Config,
    owner: &Owner,
    pipeline: &Pipeline,
    timing: stream::Timing,
) -> Result<Option<stream::Server>, StartError> {
    let sink = pipeline.sinks.iter().find_map(|open| {
        if let AnySink::Stream(sink) = &open.sink {
            Some(sink)
        } else {
            None
        }
    });
    let (Some(settings), Some(sink)) = (&config.stream, sink) else {
        return Ok(None);
    };
    let tokens = settings.tokens.iter().enumerate();
    let tokens = tokens
        .map(|(index, token)| secret(&format!("stream.tokens[{index}].token"), token.token.read()));
    let tokens = tokens.collect::<Result<_, _>>()?;
    let log = FrameLog::open(owner.store())?;
    let server = stream::Server::open(
        settings,
        tokens,
        (&config.clinics, Arc::clone(&config.enrich)),
        log,
        sink.bell(),
        (timing, pipeline.audit.clone(), Arc::clone(&pipeline.clock)),
    )
    .await?;
    Ok(Some(server))
}

/// Binds the endpoint for late results, if one is configured, with the keys that it takes.
pub async fn late_results(
    config: &Config,
) -> Result<Option<(late::Endpoint, late::Keys)>, StartError> {
    let Some(settings) = &config.late else {
        return Ok(None);
    };
    let emr = secret("sfs.emr_api_key", settings.emr_api_key.read())?;
    let mut clinics = Vec::new();
    for sink in &config.sinks {
        let SinkKind::Webhook(webhook) = &sink.kind else {
            continue;
        };
        for (clinic, key) in webhook.sfs.iter().flat_map(|sfs| &sfs.clinic_keys) {
            let at = format!("sink {}: sfs.clinic_keys.{clinic}", sink.name);
            clinics.push((clinic.clone(), secret(&at, key.read())?));
        }
    }
    let endpoint = late::Endpoint::bind(settings.listen).await?;
    Ok(Some((endpoint, late::Keys::new(&emr, clinics))))
}

fn report_restored(restored: Restored) {
    let of = restored.of.map(|of| of.format("%FT%TZ").to_string());
    tracing::warn!(
        held = restored.held,
        looked_for_in_files = restored.looked_for,
        "the ledger was restored from a backup of {}: what may have been delivered since is held, also events from \
         before now that are listed later; see `fullscript-events deliveries list --state held`",
        of.as_deref().unwrap_or("an unknown time")
    );
}

fn report_pace(config: &Config, pace: Pace, lanes: usize) {
    if pace.fast > config.poll.interval + Duration::from_secs(1) {
        tracing::warn!(
            lanes,
            wanted_s = config.poll.interval.as_secs(),
            interval_s = pace.fast.as_secs(),
            "so many lanes would take more than half the request budget: polled less often than poll.interval says"
        );
    }
}
