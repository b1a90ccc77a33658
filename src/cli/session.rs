//! What the commands that look into the ledger work with: it is opened beside the daemon, and nothing is polled.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use nix::unistd::{Uid, User};

use super::{Exit, Failure, configured, output};
use crate::app;
use crate::audit::{Action, Actor, Audit, Record};
use crate::clock::{Clock as _, SharedClock, SystemClock};
use crate::config::Config;
use crate::domain::DeliveryState;
use crate::ledger::Query;
use crate::store::{self, Store, Unavailable};

/// An open ledger, and what the configuration names.
pub(super) struct Session {
    pub(super) query: Query,
    /// Who looks, and what was shown.
    pub(super) audit: Audit,
    pub(super) now: DateTime<Utc>,
    /// How this program is called with this configuration.
    pub(super) program: String,
    /// Whether a daemon runs.
    pub(super) running: bool,
    pub(super) clinics: Vec<String>,
    pub(super) sinks: Vec<String>,
    /// The kind of each configured sink.
    pub(super) kinds: BTreeMap<String, &'static str>,
}

impl Session {
    /// Reads the configuration and opens the ledger.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let config = configured(path)?;
        let store = app::open_store(&config)?;
        let audit = audit_of_user(&config, &store);
        Ok(Self {
            query: Query::new(store).audited(audit.clone()),
            audit,
            now: SystemClock::start().now(),
            program: output::program(path),
            running: store::is_owned(&config.state.directory).unwrap_or(false),
            clinics: config.clinics.iter().map(|c| c.name.to_string()).collect(),
            sinks: config.sinks.iter().map(|s| s.name.to_string()).collect(),
            kinds: config
                .sinks
                .iter()
                .map(|s| (s.name.to_string(), s.kind.name()))
                .collect(),
        })
    }

    /// Records that somebody is shown this; before it is shown, so that nothing is seen without a record.
    pub(super) async fn shown(&self, what: impl FnOnce(Record) -> Record) -> Result<(), Failure> {
        if !self.audit.is_on() {
            return Ok(());
        }
        let record = what(self.audit.entry(Action::Read, self.now));
        self.audit.record(vec![record]).await.map_err(state_failure)
    }

    /// Fails if neither the configuration nor the ledger knows this clinic.
    pub(super) async fn expect_clinic(&self, clinic: &str) -> Result<(), Failure> {
        let lanes = self.query.lanes(self.now).await.map_err(state_failure)?;
        let mut known = lanes.iter().map(|lane| &lane.clinic).chain(&self.clinics);
        if known.any(|known| known == clinic) {
            return Ok(());
        }
        Err(unknown("clinic", clinic, &self.clinics))
    }

    /// Fails if neither the configuration nor the ledger knows this sink.
    pub(super) async fn expect_sink(&self, sink: &str) -> Result<(), Failure> {
        let rows = self.query.sinks().await.map_err(state_failure)?;
        let mut known = rows.iter().map(|row| &row.name).chain(&self.sinks);
        if known.any(|known| known == sink) {
            return Ok(());
        }
        Err(unknown("sink", sink, &self.sinks))
    }

    /// When what was queued is going to be delivered.
    pub(super) fn when_delivered(&self) -> String {
        if self.running {
            "The running daemon delivers within a minute.".to_owned()
        } else {
            format!(
                "No daemon runs: it is delivered when one starts, or by `{} run --once`.",
                self.program
            )
        }
    }
}

/// The audit log of a command: its records wait in the ledger for the daemon.
pub(super) fn audit_of_user(config: &Config, store: &Store) -> Audit {
    let clock: SharedClock = Arc::new(SystemClock::start());
    let actor = Actor::User(user());
    Audit::new(config.audit.as_ref(), store, &clock, actor)
}

/// The system's user who runs this: behind `sudo`, who called it. Else a shared account would be all that is known.
fn user() -> String {
    let mut uid = Uid::current();
    // Only root's word counts: anybody can set a variable.
    if uid.is_root()
        && let Some(caller) = std::env::var("SUDO_UID")
            .ok()
            .and_then(|uid| uid.parse().ok())
    {
        uid = Uid::from_raw(caller);
    }
    let user = User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// A name that nobody knows.
pub(super) fn unknown(kind: &str, name: &str, known: &[String]) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!(
            "there is no {kind} {name:?}; configured are: {}",
            known.join(", ")
        ),
    )
}

/// The ledger cannot be used.
pub(super) fn state_failure(error: Unavailable) -> Failure {
    Failure::new(Exit::State, error)
}

/// Reads a delivery state from the command line.
pub(super) fn delivery_state(word: &str) -> Result<DeliveryState, String> {
    DeliveryState::parse(word).ok_or_else(|| {
        let words = DeliveryState::ALL.map(DeliveryState::as_str);
        format!("one of {} is expected", words.join(", "))
    })
}
