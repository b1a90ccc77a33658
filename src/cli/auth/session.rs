//! What the `auth` commands work with: the configuration, the store beside whoever owns it, and the grants.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;

use super::{CommandResult, Exit, Failure};
use crate::api::budget::Budget;
use crate::clock::{SharedClock, SystemClock};
use crate::config::{self, Config, SecretRef};
use crate::domain::{ClinicId, ClinicName};
use crate::store::{OpenError, Owner, SealKey, Store};
use crate::token::{EnrollError, Enrolled, TokenError, Tokens, Verification};

/// An opened configuration and store.
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) store: Store,
}

/// Runs a command's future.
pub(super) fn block_on(command: impl Future<Output = CommandResult>) -> CommandResult {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Unexpected, error))?
        .block_on(command)
}

impl Session {
    /// Opens what a daemon, or an earlier command, has made.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        Self::begin(path, |directory, app, key| {
            Store::open_existing(directory, app, key)
        })
    }

    /// The same, but makes the state directory if there is none yet. The owner's lock is not kept: a login may take
    /// minutes, and the daemon must be able to start meanwhile.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, Failure> {
        Self::begin(path, |directory, app, key| {
            match Store::open_existing(directory, app, key) {
                Err(OpenError::Missing(_)) => {
                    drop(Owner::take(directory, app, key)?);
                    Store::open_existing(directory, app, key)
                }
                opened => opened,
            }
        })
    }

    fn begin(
        path: &Path,
        open: impl FnOnce(&Path, &str, &SealKey) -> Result<Store, OpenError>,
    ) -> Result<Self, Failure> {
        let config = config::load(path)
            .map_err(|invalid| Failure::new(Exit::Config, invalid))?
            .config;
        let key = SealKey::parse(&secret("state.seal_key", &config.state.seal_key)?)
            .map_err(|error| Failure::new(Exit::State, format!("state.seal_key: {error}")))?;
        let store =
            open(&config.state.directory, &config.app.identity(), &key).map_err(|error| {
                let exit = match error {
                    OpenError::Owned(_) => Exit::Owned,
                    OpenError::Missing(_)
                    | OpenError::Newer { .. }
                    | OpenError::OtherApp { .. }
                    | OpenError::WrongKey(_)
                    | OpenError::Pragma { .. }
                    | OpenError::Io { .. }
                    | OpenError::Sqlite { .. } => Exit::State,
                };
                Failure::new(exit, error)
            })?;
        Ok(Self { config, store })
    }

    /// The grants, ready to talk to Fullscript.
    pub(super) async fn tokens(&self) -> Result<Tokens, Failure> {
        let clock: SharedClock = Arc::new(SystemClock::start());
        let client_secret = secret("app.client_secret", &self.config.app.client_secret)?;
        let budget = Budget::open(
            self.store.clone(),
            Arc::clone(&clock),
            self.config.poll.budget,
        )
        .await
        .map_err(|error| Failure::new(Exit::State, error))?;
        Tokens::new(
            self.store.clone(),
            clock,
            &self.config.app,
            &self.config.http,
            client_secret,
            budget,
        )
        .map_err(|error| Failure::new(Exit::Config, error))
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

fn secret(key: &str, reference: &SecretRef) -> Result<SecretString, Failure> {
    reference
        .read()
        .map_err(|error| Failure::new(Exit::Config, format!("{key}: {error}")))
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
