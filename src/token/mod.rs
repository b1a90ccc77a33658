//! The grants: for each clinic a bearer that works now.
//!
//! What it guarantees: a token is on disk before it is used (`vault`); a grant is refreshed by one task of one
//! process at a time (`refresh`); only Fullscript's own refusal of every stored token ends a grant, and refusals of
//! all grants at once are taken for what they are, a wrong configuration (`state`); no secret is in a log, an error
//! or a `Debug`.

mod enroll;
mod exchange;
mod refresh;
mod state;
mod vault;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use crate::api::budget::Budget;
use crate::audit::Audit;
use crate::clock::SharedClock;
use crate::config;
use crate::domain::{ClinicId, ClinicName};
use crate::http::BuildError;
use crate::store::{Store, Unavailable};

pub use enroll::{EnrollError, Enrolled, RevokeError, Verification};
pub use state::State;
pub use vault::{Bearer, Pinned, Proof};

use exchange::Exchange;
use refresh::Flight;
use state::{Need, Want};
use vault::Vault;

/// Why there is no bearer, by what is to be done about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// Nobody has given this clinic's access yet.
    #[error("clinic {0} has no grant: run `fullscript-events auth login {0}`")]
    NoGrant(ClinicName),
    /// Fullscript refused every token of this clinic.
    #[error("clinic {0} must log in again: run `fullscript-events auth login {0}`")]
    LoginRequired(ClinicName),
    /// The app's own credentials are refused, or all grants at once.
    #[error(
        "Fullscript refuses this app: check client_id, client_secret and environment under [app]"
    )]
    ConfigurationFault,
    /// No answer for now: try again at this time. Never a verdict.
    #[error("no token for now, trying again at {retry_at}: {why}")]
    Unavailable {
        /// When it is tried again.
        retry_at: DateTime<Utc>,
        /// What happened, in words.
        why: String,
    },
    /// A stored token does not open: the file was changed by somebody else.
    #[error("the stored grant of clinic {0} is damaged: run `fullscript-events auth login {0}`")]
    Damaged(ClinicName),
    /// The ledger cannot be written or read, so nothing is asked of Fullscript.
    #[error(transparent)]
    Ledger(#[from] Unavailable),
}

/// A grant, as `status` and `auth list` show it.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The clinic's name.
    pub clinic: ClinicName,
    /// What state it is in.
    pub state: State,
    /// The Fullscript clinic it is pinned to.
    pub pinned: Option<Pinned>,
    /// When the current access token expires.
    pub expires_at: DateTime<Utc>,
    /// When Fullscript last gave tokens.
    pub refreshed_at: Option<DateTime<Utc>>,
}

impl Overview {
    /// What is wrong, in words.
    pub fn trouble(&self) -> Option<&str> {
        match &self.state {
            State::Active => None,
            State::Retrying { trouble, .. }
            | State::Misconfigured { trouble, .. }
            | State::LoginRequired { trouble, .. } => Some(trouble),
        }
    }

    /// The command that mends it, if one does.
    pub fn remedy(&self) -> Option<String> {
        match &self.state {
            State::Active | State::Retrying { .. } => None,
            State::Misconfigured { .. } => Some("fullscript-events config check".to_owned()),
            State::LoginRequired { .. } => {
                Some(format!("fullscript-events auth login {}", self.clinic))
            }
        }
    }
}

/// All grants, and whether the app itself seems to be refused.
#[derive(Clone, Debug)]
pub struct Grants {
    /// One per clinic that has a grant, by name; also of clinics that are no longer configured.
    pub grants: Vec<Overview>,
}

impl Grants {
    /// Since when the app's credentials seem wrong, if they do.
    pub fn configuration_fault(&self) -> Option<DateTime<Utc>> {
        self.grants
            .iter()
            .filter_map(|grant| match grant.state {
                State::Misconfigured { since, .. } => Some(since),
                State::Active | State::Retrying { .. } | State::LoginRequired { .. } => None,
            })
            .min()
    }
}

/// All grants, for people to look at. Reads only.
pub async fn grants(store: &Store) -> Result<Grants, Unavailable> {
    let grants = Vault::new(store.clone(), Audit::off()).all().await?;
    Ok(Grants {
        grants: grants
            .into_iter()
            .map(|grant| Overview {
                clinic: grant.clinic,
                state: grant.state,
                pinned: grant.pinned,
                expires_at: grant.times.expires_at,
                refreshed_at: grant.refreshed_at,
            })
            .collect(),
    })
}

/// The grants of one app. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    vault: Vault,
    exchange: Exchange,
    clock: SharedClock,
    budget: Budget,
    flights: Mutex<HashMap<ClinicName, Arc<Flight>>>,
    /// Refreshes run here: a caller that goes away does not cut one off between the reply and the disk.
    running: TaskTracker,
}

impl Tokens {
    /// The grants in `store`, for the app that `app` and `client_secret` name.
    pub fn new(
        store: Store,
        clock: SharedClock,
        app: &config::App,
        settings: &config::Http,
        client_secret: SecretString,
        budget: Budget,
        audit: Audit,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            inner: Arc::new(Inner {
                vault: Vault::new(store, audit),
                exchange: Exchange::new(app, settings, client_secret)?,
                clock,
                budget,
                flights: Mutex::default(),
                running: TaskTracker::new(),
            }),
        })
    }

    /// The client that speaks to Fullscript; its API is asked through it too, so that certificates are read once.
    pub fn client(&self) -> &reqwest::Client {
        self.inner.exchange.client()
    }

    /// A bearer that works now, refreshed first if it is time.
    pub async fn bearer(&self, clinic: &ClinicName) -> Result<Bearer, TokenError> {
        self.wanted(clinic, Want::Working).await
    }

    /// What to use after a 401 for `bearer`: the current one if that is newer, else a refreshed one.
    ///
    /// If the answer has the generation of `bearer`, or is rejected too, the token is fresh and still refused: do not
    /// ask again in the same request (`fullscript-api.md` §7.6).
    pub async fn rejected(
        &self,
        clinic: &ClinicName,
        bearer: &Bearer,
    ) -> Result<Bearer, TokenError> {
        self.wanted(clinic, Want::NewerThan(bearer.generation()))
            .await
    }

    /// Refreshes every grant that is due, also of clinics that are no longer configured. Failures are logged and kept
    /// in the ledger.
    pub async fn keep_alive(&self) -> Result<(), Unavailable> {
        use futures_util::StreamExt as _;
        let now = self.inner.clock.now();
        let due = self.inner.vault.all().await?.into_iter().filter(|grant| {
            grant
                .state
                .due_at(&grant.times)
                .is_some_and(|due| due <= now)
        });
        futures_util::stream::iter(due)
            .for_each_concurrent(AT_ONCE, |grant| async move {
                if let Err(error) = self.bearer(&grant.clinic).await {
                    tracing::debug!(clinic = %grant.clinic, %error, "grant was not refreshed");
                }
            })
            .await;
        Ok(())
    }

    /// When [`Tokens::keep_alive`] has something to do next.
    pub async fn next_refresh_at(&self) -> Result<Option<DateTime<Utc>>, Unavailable> {
        let grants = self.inner.vault.all().await?;
        Ok(grants
            .iter()
            .filter_map(|grant| grant.state.due_at(&grant.times))
            .min())
    }

    /// Pins an unverified grant to the first `clinic_id` that it lists. Returns what it is pinned to, which is
    /// another one if it was pinned before: then nothing of `seen` may be delivered.
    pub async fn pin(&self, clinic: &ClinicName, seen: &ClinicId) -> Result<Pinned, TokenError> {
        self.inner.vault.pin(clinic, seen).await
    }

    /// Waits until no refresh is running: for an orderly end.
    pub async fn drain(&self) {
        self.inner.running.close();
        self.inner.running.wait().await;
        self.inner.running.reopen();
    }

    async fn wanted(&self, clinic: &ClinicName, want: Want) -> Result<Bearer, TokenError> {
        let grant = self.inner.vault.load(clinic).await?;
        let now = self.inner.clock.now();
        match grant.state.need(want, grant.generation, &grant.times, now) {
            Need::Refresh => {
                let (inner, clinic) = (Arc::clone(&self.inner), clinic.clone());
                let task = async move { inner.refresh(&clinic, want).await };
                self.inner
                    .running
                    .spawn(task)
                    .await
                    .unwrap_or_else(|error| {
                        Err(TokenError::Unavailable {
                            retry_at: now,
                            why: format!("the refresh was cut off ({error})"),
                        })
                    })
            }
            need @ (Need::HandOut | Need::Wait(_) | Need::Mend | Need::LogIn) => {
                self.inner.settled(&grant, need).await
            }
        }
    }
}

/// How many grants are refreshed at once.
const AT_ONCE: usize = 8;

impl Inner {
    /// The lock that makes a grant's refreshes single.
    fn flight(&self, clinic: &ClinicName) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(clinic.clone()).or_default())
    }
}
