//! One refresh, step by step: persist, then use.
//!
//! Fresh work and recovered work run the same lines: an intent or a raw reply that a dead process left is settled by
//! the next refresh of that grant, and that is due because the grant still is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;

use super::exchange::{Answer, FreshPair, Keep, RawReply};
use super::state::{Alert, Failure, Need, State, TOO_YOUNG_TO_REFRESH, Times, Want};
use super::vault::{Bearer, Grant, Intent, Stored, Vault};
use super::{Inner, TokenError};
use crate::api::budget::Share;
use crate::crash;
use crate::domain::ClinicName;
use crate::store::Unavailable;

/// How often one token is posted when nothing comes back.
const POSTS: u32 = 3;
/// The pause before the second post; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the store is asked whether another process has finished.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the tasks of this process share about one grant.
#[derive(Default)]
pub(super) struct Flight {
    /// Held while the grant is refreshed, enrolled or revoked.
    pub(super) alone: tokio::sync::Mutex<()>,
    /// A reply that the disk did not take. Under Fullscript's rotation the old token still works, but nothing is
    /// lost by trying this one first.
    unkept: Mutex<Option<RawReply>>,
}

impl Flight {
    fn put_aside(&self, reply: RawReply) {
        *self.unkept.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
    }

    fn take_aside(&self) -> Option<RawReply> {
        self.unkept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Makes a raw reply durable, or keeps it in memory until the disk takes it.
    async fn keep(
        &self,
        vault: &Vault,
        clinic: &ClinicName,
        reply: RawReply,
    ) -> Result<RawReply, Unavailable> {
        match vault.keep_reply(clinic, &reply).await {
            Ok(()) => Ok(reply),
            Err(unavailable) => {
                self.put_aside(reply);
                Err(unavailable)
            }
        }
    }
}

impl Inner {
    /// What a caller gets when nothing is to be refreshed.
    pub(super) async fn settled(&self, grant: &Grant, need: Need) -> Result<Bearer, TokenError> {
        match need {
            Need::HandOut | Need::Refresh => self.vault.bearer(grant).await,
            Need::LogIn => Err(TokenError::LoginRequired(grant.clinic.clone())),
            Need::Mend => Err(TokenError::ConfigurationFault),
            Need::Wait(retry_at) => Err(TokenError::Unavailable {
                retry_at,
                why: match &grant.state {
                    State::Retrying { trouble, .. } => trouble.clone(),
                    State::Active | State::Misconfigured { .. } | State::LoginRequired { .. } => {
                        "waiting".to_owned()
                    }
                },
            }),
        }
    }

    /// Refreshes a grant if it still needs it, and hands out what is current afterwards.
    pub(super) async fn refresh(
        &self,
        clinic: &ClinicName,
        want: Want,
    ) -> Result<Bearer, TokenError> {
        let flight = self.flight(clinic);
        let _alone = flight.alone.lock().await;
        let before = self.vault.load(clinic).await?;
        if self.need(&before, want) == Need::Refresh {
            let refreshed = self.refresh_alone(&flight, clinic, want).await;
            if let Err(TokenError::Ledger(unavailable)) = refreshed {
                // Said once, aloud, by whoever wanted the token: this comes at every try.
                tracing::debug!(%clinic, error = %unavailable, "no token is asked for while the ledger cannot be written");
                // A token that works is not withheld because the disk is full.
                if want == Want::Working && before.times.usable(self.clock.now()) {
                    return self.vault.bearer(&before).await;
                }
                return Err(TokenError::Ledger(unavailable));
            }
            refreshed?;
        }
        let grant = self.vault.load(clinic).await?;
        let need = match self.need(&grant, want) {
            // Just now it was tried; whoever asks next tries again.
            Need::Refresh if grant.generation == before.generation => Need::Wait(self.clock.now()),
            need @ (Need::HandOut | Need::Refresh | Need::Wait(_) | Need::Mend | Need::LogIn) => {
                need
            }
        };
        self.settled(&grant, need).await
    }

    fn need(&self, grant: &Grant, want: Want) -> Need {
        grant
            .state
            .need(want, grant.generation, &grant.times, self.clock.now())
    }

    async fn refresh_alone(
        &self,
        flight: &Arc<Flight>,
        clinic: &ClinicName,
        want: Want,
    ) -> Result<(), TokenError> {
        self.intend(clinic).await?;
        // Another process may have done it while this one waited.
        let grant = self.vault.load(clinic).await?;
        if self.need(&grant, want) != Need::Refresh {
            return Ok(self.vault.relent(clinic).await?);
        }
        crash::point("refresh.after_intent");
        let started = self.clock.now();
        match self.exchanged(flight, clinic).await? {
            Ok((pair, age)) => {
                let times = Times::of(started - age, pair.life, rand::random());
                self.vault.keep_pair(clinic, pair, times).await?;
                crash::point("refresh.after_pair_stored");
                tracing::debug!(%clinic, refresh_at = %times.refresh_at, "grant refreshed");
                Ok(())
            }
            Err(failure) => self.failed(clinic, failure).await,
        }
    }

    /// Writes the intent, waiting for another process that is at it.
    pub(super) async fn intend(&self, clinic: &ClinicName) -> Result<(), Unavailable> {
        while self.vault.intend(clinic, self.clock.now()).await? == Intent::Elsewhere {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Gets a pair and its age: from a reply that was kept and never parsed, else with the current token, else, once,
    /// with another stored one.
    async fn exchanged(
        &self,
        flight: &Arc<Flight>,
        clinic: &ClinicName,
    ) -> Result<Result<(FreshPair, TimeDelta), Failure>, TokenError> {
        if let Some(pair) = self.left_over(flight, clinic).await? {
            // How long it lay there is unknown. Should its access token have expired, the 401 must lead to a refresh.
            return Ok(Ok((pair, TOO_YOUNG_TO_REFRESH)));
        }
        let mut posted: Vec<i64> = Vec::new();
        loop {
            // Read again each time: a refusal judges the bytes that were posted, not the clinic.
            let untried = self
                .vault
                .tokens(clinic)
                .await?
                .into_iter()
                .find(|stored| stored.adopted && !posted.contains(&stored.generation));
            let Some(stored) = untried.filter(|_| posted.len() < 2) else {
                return Ok(Err(Failure::Refused));
            };
            match self.post(flight, clinic, &stored).await? {
                Err(Failure::Refused) => posted.push(stored.generation),
                Ok(pair) => {
                    // This one worked, so the refusal before was about its token and nothing else.
                    for dead in posted {
                        self.vault.refused(clinic, dead).await?;
                    }
                    return Ok(Ok((pair, TimeDelta::zero())));
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
    }

    /// The pair in a reply that a dead process, or a full disk, left unparsed.
    async fn left_over(
        &self,
        flight: &Arc<Flight>,
        clinic: &ClinicName,
    ) -> Result<Option<FreshPair>, TokenError> {
        let kept = match flight.take_aside() {
            Some(reply) => Some(flight.keep(&self.vault, clinic, reply).await?),
            None => self.vault.kept_reply(clinic).await?,
        };
        let Some(reply) = kept else { return Ok(None) };
        Ok(match self.exchange.replay(&reply).await {
            Answer::Pair(pair) => Some(pair),
            Answer::Failed(_) | Answer::Unanswered(_) | Answer::NotKept(_) => None,
        })
    }

    /// Posts one token, again if nothing comes back.
    async fn post(
        &self,
        flight: &Arc<Flight>,
        clinic: &ClinicName,
        stored: &Stored,
    ) -> Result<Result<FreshPair, Failure>, TokenError> {
        let (vault, flight, name) = (self.vault.clone(), Arc::clone(flight), clinic.clone());
        let keep: Keep = Arc::new(move |reply| {
            let (vault, flight, name) = (vault.clone(), Arc::clone(&flight), name.clone());
            Box::pin(async move {
                crash::point("refresh.after_reply");
                let kept = flight.keep(&vault, &name, reply).await?;
                crash::point("refresh.after_raw_stored");
                Ok(kept)
            })
        });
        let mut why = String::new();
        for post in 0..POSTS {
            if post > 0 {
                let jitter = 0.5 + rand::random::<f64>() / 2.0;
                tokio::time::sleep(PAUSE.mul_f64(jitter) * 2_u32.pow(post - 1)).await;
            }
            self.budget.spend(Share::Polling).await?;
            crash::point("refresh.before_call");
            match self.exchange.refresh(&stored.refresh, &keep).await {
                Answer::Pair(pair) => return Ok(Ok(pair)),
                Answer::Failed(failure) => return Ok(Err(failure)),
                Answer::NotKept(unavailable) => return Err(unavailable.into()),
                Answer::Unanswered(words) => why = words,
            }
        }
        Ok(Err(Failure::Unavailable {
            why,
            retry_after: None,
        }))
    }

    /// Records a failure and tells a person, once, if a person is needed.
    async fn failed(&self, clinic: &ClinicName, failure: Failure) -> Result<(), TokenError> {
        let now = self.clock.now();
        let change = self
            .vault
            .fail(clinic, failure, now, rand::random())
            .await?;
        match (change.alert, change.state) {
            (Alert::LoginRequired, _) => tracing::error!(
                %clinic,
                "clinic must log in again: Fullscript refused its grant; run `fullscript-events auth login {clinic}`"
            ),
            (Alert::ConfigurationFault, _) => tracing::error!(
                "Fullscript refuses this app, not single clinics: check client_id, client_secret and environment \
                 under [app]; the grants are kept and tried again every hour"
            ),
            (
                Alert::None,
                State::Retrying {
                    failures,
                    retry_at,
                    trouble,
                },
            ) => tracing::warn!(
                %clinic, failures, %retry_at, trouble, "grant was not refreshed, trying again later"
            ),
            (
                Alert::None,
                State::Active | State::Misconfigured { .. } | State::LoginRequired { .. },
            ) => {}
        }
        Ok(())
    }
}
