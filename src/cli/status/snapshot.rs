//! What `status` reads: the configuration's names, and the rows of the ledger as they are now.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::super::{Exit, Failure};
use crate::app;
use crate::audit;
use crate::config::Config;
use crate::domain::Category;
use crate::ledger::{LaneRow, Query, SinkRow};
use crate::schedule::Pace;
use crate::store::{self, Host, Place};
use crate::token::{self, Overview};

/// Everything that the judgement needs.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// When it was taken.
    pub(super) now: DateTime<Utc>,
    /// How this program is called in the commands that are shown.
    pub(super) program: String,
    /// Where the state is.
    pub(super) directory: String,
    /// Whether a daemon runs.
    pub(super) running: bool,
    /// The machine that the state was used on and this one, where they differ.
    pub(super) elsewhere: Option<(Host, Host)>,
    /// Whether it is bound to its machine.
    pub(super) bound: bool,
    /// Time between two polls of a lane, as the daemon computes it.
    pub(super) pace: Duration,
    /// The configured clinics with what is polled for each.
    pub(super) clinics: BTreeMap<String, Vec<String>>,
    /// The configured sinks.
    pub(super) sinks: Vec<String>,
    /// The lanes of the ledger; `new` counts the last 24 hours.
    pub(super) lanes: Vec<LaneRow>,
    /// The sinks of the ledger.
    pub(super) sink_rows: Vec<SinkRow>,
    /// The grants.
    pub(super) grants: Vec<Overview>,
    /// The audit log, if there is one.
    pub(super) audit: Option<AuditLog>,
}

/// The audit log.
#[derive(Clone, Debug)]
pub(super) struct AuditLog {
    /// Where its files are.
    pub(super) directory: String,
    /// Whether nothing is delivered without it.
    pub(super) required: bool,
    /// How it stands.
    pub(super) standing: audit::Standing,
}

impl Snapshot {
    /// Reads. Asks Fullscript nothing, refreshes nothing, takes no lock.
    pub(super) async fn gather(
        config: &Config,
        program: String,
        now: DateTime<Utc>,
    ) -> Result<Self, Failure> {
        let state = |error: store::Unavailable| Failure::new(Exit::State, error);
        let directory = &config.state.directory;
        let opened = app::open_store(config)?;
        let query = Query::new(opened.clone());
        let running = store::is_owned(directory).map_err(|error| {
            Failure::new(Exit::State, format!("{}: {error}", directory.display()))
        })?;
        let (home, here) = (opened.home().await.map_err(state)?, Host::here());
        let bound = config.state.bind_host;
        let elsewhere = match home.place(&here) {
            Place::Home => false,
            Place::Unknown => bound,
            Place::Elsewhere => true,
        };
        let clinics = config.clinics.iter().map(|clinic| {
            let categories = clinic.categories.iter().map(Category::to_string);
            (clinic.name.to_string(), categories.collect())
        });
        let audit = match &config.audit {
            None => None,
            Some(settings) => Some(AuditLog {
                directory: settings.directory.display().to_string(),
                required: settings.required,
                standing: audit::standing(&opened).await.map_err(state)?,
            }),
        };
        Ok(Self {
            audit,
            now,
            program,
            directory: directory.display().to_string(),
            running,
            elsewhere: elsewhere.then_some((home, here)),
            bound,
            pace: Pace::for_lanes(&config.poll, app::lanes(config).len()).fast,
            clinics: clinics.collect(),
            sinks: config.sinks.iter().map(|s| s.name.to_string()).collect(),
            lanes: query.lanes(now - TimeDelta::days(1)).await.map_err(state)?,
            sink_rows: query.sinks().await.map_err(state)?,
            grants: token::grants(&opened).await.map_err(state)?.grants,
        })
    }
}
