//! What the `auth` commands work with: the configuration, the store beside whoever owns it, and the grants.

use std::path::Path;
use std::sync::Arc;

use super::{Exit, Failure};
use crate::api::budget::Budget;
use crate::app::{self, StartError};
use crate::cli::configured;
use crate::cli::session::audit_of_user;
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::domain::{ClinicId, ClinicName};
use crate::ledger::Query;
use crate::store::{OpenError, Store};
use crate::token::{EnrollError, Enrolled, TokenError, Tokens, Verification};

/// An opened configuration and store.
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) store: Store,
}

impl Session {
    /// Opens what a daemon, or an earlier command, has made.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let config = configured(path)?;
        let store = app::open_store(&config)?;
        Ok(Self { config, store })
    }

    /// The same, but makes the state directory if there is none yet, or if what made it was cut off halfway. The owner's
    /// lock is not kept: a login may take minutes, and the daemon must be able to start meanwhile.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, Failure> {
        let config = configured(path)?;
        let store = match app::open_store(&config) {
            Err(StartError::State(OpenError::Missing(_) | OpenError::Older { .. })) => {
                drop(app::take_ownership(&config)?);
                app::open_store(&config)?
            }
            opened => opened?,
        };
        Ok(Self { config, store })
    }

    /// The grants, ready to talk to Fullscript.
    pub(super) fn tokens(&self) -> Result<Tokens, Failure> {
        let clock: SharedClock = Arc::new(SystemClock::start());
        let budget = Budget::beside(
            self.store.clone(),
            Arc::clone(&clock),
            self.config.poll.budget,
        );
        Ok(app::tokens(
            &self.config,
            &self.store,
            &clock,
            budget,
            &audit_of_user(&self.config, &self.store),
        )?)
    }

    /// Has a clinic with a new grant polled at once: its lanes may have been parked, or wait after failures.
    pub(super) async fn probe(&self, clinic: &ClinicName) -> Result<(), Failure> {
        Query::new(self.store.clone())
            .probe_clinic(clinic)
            .await
            .map_err(|error| Failure::new(Exit::State, error))
    }

    /// A configured clinic, and the Fullscript clinic that the configuration says it is.
    pub(super) fn clinic(&self, name: &str) -> Result<(ClinicName, Option<ClinicId>), Failure> {
        self.config
            .clinics
            .iter()
            .find(|clinic| clinic.name.as_str() == name)
            .map(|clinic| (clinic.name.clone(), clinic.clinic_id.clone()))
            .ok_or_else(|| {
                Failure::new(
                    Exit::NotFound,
                    format!(
                        "the configuration has no clinic {name:?}: add it as [[clinics]], or choose one of: {}",
                        self.config
                            .clinics
                            .iter()
                            .map(|clinic| clinic.name.as_str())
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                )
            })
    }
}

/// What a person is told of a new grant.
pub(super) fn told(clinic: &ClinicName, enrolled: &Enrolled) -> String {
    match &enrolled.verification {
        Verification::Verified(id) => format!("{clinic}: stored; it is the Fullscript clinic {id}"),
        Verification::ScopeMissing => format!(
            "{clinic}: stored, unverified: the app lacks the scope clinic:read, so the first clinic_id that is listed \
             pins it"
        ),
        Verification::Unknown(why) => format!(
            "{clinic}: stored, unverified ({why}): the first clinic_id that is listed pins it"
        ),
        Verification::Offline => {
            format!("{clinic}: stored without asking Fullscript; its first use will tell")
        }
    }
}

/// The exit code of a login or import that failed.
pub(super) fn exit_of(error: &EnrollError) -> Exit {
    match error {
        EnrollError::Refused(_) | EnrollError::OtherClinic { .. } => Exit::LoginRequired,
        EnrollError::WrongClient => Exit::Config,
        EnrollError::Unavailable(_) => Exit::Unavailable,
        EnrollError::Token(error) => exit_of_token(error),
    }
}

/// The exit code for a grant that cannot be used.
pub(super) fn exit_of_token(error: &TokenError) -> Exit {
    match error {
        TokenError::NoGrant(_) => Exit::NotFound,
        TokenError::LoginRequired(_) | TokenError::Damaged(_) => Exit::LoginRequired,
        TokenError::ConfigurationFault => Exit::Config,
        TokenError::Unavailable { .. } => Exit::Unavailable,
        TokenError::Ledger(_) => Exit::State,
    }
}
