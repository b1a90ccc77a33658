//! A grant begins (a login, an import) and ends (a disconnect).
//!
//! New tokens are stored beside the grant's current ones, then asked which clinic they belong to, and only then take
//! over. So a person who logs in as the wrong clinic cannot disturb a grant that works.

use std::sync::Arc;

use secrecy::SecretString;
use url::Url;

use super::exchange::{Answer, ClinicAnswer, FreshPair, Keep, Revocation};
use super::state::{Failure, Times};
use super::vault::{Pinned, Proof, Stored};
use super::{Inner, TokenError, Tokens};
use crate::api::budget::Share;
use crate::domain::{ClinicId, ClinicName};

/// What is known about the clinic of a new grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// `GET /clinic` said that it is this one.
    Verified(ClinicId),
    /// The scope `clinic:read` is missing: the first `clinic_id` that is listed pins the grant.
    ScopeMissing,
    /// `GET /clinic` gave no answer, in words: as with a missing scope.
    Unknown(String),
    /// Nothing was asked of Fullscript.
    Offline,
}

/// A grant that was stored.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// What is known about its clinic.
    pub verification: Verification,
}

/// Why a login or an import was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The code or refresh token is not valid.
    #[error(
        "Fullscript refused what was given for clinic {0} (invalid_grant): it is used up, expired, or another app's"
    )]
    Refused(ClinicName),
    /// The app's credentials are refused.
    #[error(
        "Fullscript refused client_id and client_secret (invalid_client): check [app] in the configuration"
    )]
    WrongClient,
    /// Fullscript gave no answer: nothing was taken.
    #[error("Fullscript gave no tokens: {0}")]
    Unavailable(String),
    /// The person logged in to another clinic than the one that belongs to this name. The new tokens were revoked.
    #[error(
        "this login belongs to the Fullscript clinic {found}, but {clinic} is {expected}: log in as a user of that clinic, or run `fullscript-events auth revoke {clinic} --yes` first if {clinic} is to be another one"
    )]
    OtherClinic {
        /// The name that was enrolled.
        clinic: ClinicName,
        /// The clinic that the tokens belong to.
        found: ClinicId,
        /// The clinic that the configuration or the grant's past names.
        expected: ClinicId,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl From<crate::store::Unavailable> for EnrollError {
    fn from(unavailable: crate::store::Unavailable) -> Self {
        Self::Token(unavailable.into())
    }
}

/// Why a disconnect is not complete. What was revoked is forgotten, the rest is kept: run it again.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Fullscript gave no answer.
    #[error("not every token could be revoked, the rest is kept: {0}")]
    Unavailable(String),
    /// The app's credentials are refused.
    #[error("Fullscript refused client_id and client_secret: check [app] in the configuration")]
    WrongClient,
    /// There is no grant, or the ledger cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl From<crate::store::Unavailable> for RevokeError {
    fn from(unavailable: crate::store::Unavailable) -> Self {
        Self::Token(unavailable.into())
    }
}

impl Tokens {
    /// The page where a user grants access, and the `state` that must come back with the code.
    pub fn authorize_url(&self) -> (Url, SecretString) {
        self.inner.exchange.authorize_url()
    }

    /// Redeems an authorization code and makes its tokens the clinic's grant, if they are that clinic's: `configured`
    /// is the clinic that the configuration names.
    pub async fn adopt(
        &self,
        clinic: &ClinicName,
        configured: Option<&ClinicId>,
        code: &SecretString,
    ) -> Result<Enrolled, EnrollError> {
        let inner = &self.inner;
        let flight = inner.flight(clinic);
        let _alone = flight.alone.lock().await;
        inner.vault.probe().await?;
        inner.budget.spend(Share::Polling).await?;
        let pair = pair_of(clinic, inner.exchange.redeem(code).await)?;
        inner.enroll(clinic, configured, pair).await
    }

    /// Makes a refresh token from elsewhere the clinic's grant: it is refreshed at once, which proves it.
    pub async fn import(
        &self,
        clinic: &ClinicName,
        configured: Option<&ClinicId>,
        refresh_token: SecretString,
    ) -> Result<Enrolled, EnrollError> {
        let inner = &self.inner;
        let flight = inner.flight(clinic);
        let _alone = flight.alone.lock().await;
        inner.vault.probe().await?;
        inner.budget.spend(Share::Polling).await?;
        let reply = inner.exchange.refresh(&refresh_token, &as_it_is()).await;
        let pair = pair_of(clinic, reply)?;
        inner.enroll(clinic, configured, pair).await
    }

    /// Makes a refresh token from elsewhere the clinic's grant without asking Fullscript: its first use will tell.
    pub async fn import_offline(
        &self,
        clinic: &ClinicName,
        configured: Option<&ClinicId>,
        refresh_token: SecretString,
    ) -> Result<Enrolled, EnrollError> {
        let inner = &self.inner;
        let flight = inner.flight(clinic);
        let _alone = flight.alone.lock().await;
        let now = inner.clock.now();
        let generation = inner
            .vault
            .keep_refresh_token(clinic, refresh_token, now)
            .await?;
        let pinned = configured.map(|id| inferred(id.clone()));
        inner.vault.promote(clinic, generation, pinned, now).await?;
        Ok(Enrolled {
            verification: Verification::Offline,
        })
    }

    /// Revokes every stored pair of a clinic that may still live, and forgets the grant. Returns how many there were.
    pub async fn revoke(&self, clinic: &ClinicName) -> Result<usize, RevokeError> {
        let inner = &self.inner;
        let flight = inner.flight(clinic);
        let _alone = flight.alone.lock().await;
        inner.intend(clinic).await?;
        let known = inner.vault.load(clinic).await;
        let tokens = inner.vault.tokens(clinic).await?;
        if tokens.is_empty() {
            known?;
        }
        for stored in &tokens {
            if let Err(error) = inner.revoke_pair(clinic, stored).await {
                inner.vault.relent(clinic).await?;
                return Err(error);
            }
            // Noted, not removed: the grant's row still points at its current pair.
            inner.vault.refused(clinic, stored.generation).await?;
        }
        inner.vault.forget(clinic, inner.clock.now()).await?;
        Ok(tokens.len())
    }
}

impl Inner {
    /// Makes sure that a pair is dead.
    ///
    /// The endpoint answers 200 for a pair whose access token has expired, and lets it live (`fullscript-api.md` §4).
    /// So such a pair is replaced first; presenting the new access token kills the old pair, and the new one is
    /// revoked while it is fresh.
    async fn revoke_pair(&self, clinic: &ClinicName, stored: &Stored) -> Result<(), RevokeError> {
        let now = self.clock.now();
        if now < stored.expires_at {
            return self.revoke_live(&stored.refresh).await;
        }
        self.budget.spend(Share::Polling).await?;
        let pair = match self.exchange.refresh(&stored.refresh, &as_it_is()).await {
            Answer::Pair(pair) => pair,
            Answer::Failed(Failure::Refused) => return Ok(()),
            Answer::Failed(Failure::WrongClient) => return Err(RevokeError::WrongClient),
            Answer::Failed(Failure::Unavailable { why, .. }) | Answer::Unanswered(why) => {
                return Err(RevokeError::Unavailable(why));
            }
            Answer::NotKept(unavailable) => return Err(unavailable.into()),
        };
        let refresh = pair.refresh.clone();
        let times = Times::of(now, pair.life, rand::random());
        let generation = self.vault.keep_candidate(clinic, pair, times).await?;
        let bearer = self.vault.candidate(clinic, generation).await?;
        self.budget.spend(Share::Polling).await?;
        if let ClinicAnswer::Unknown(why) = self.exchange.clinic(&bearer).await {
            return Err(RevokeError::Unavailable(why));
        }
        self.revoke_live(&refresh).await?;
        Ok(self.vault.refused(clinic, generation).await?)
    }

    async fn revoke_live(&self, refresh_token: &SecretString) -> Result<(), RevokeError> {
        self.budget.spend(Share::Polling).await?;
        match self.exchange.revoke(refresh_token).await {
            Revocation::Done => Ok(()),
            Revocation::WrongClient => Err(RevokeError::WrongClient),
            Revocation::Unknown(why) => Err(RevokeError::Unavailable(why)),
        }
    }

    /// Stores new tokens, asks whose they are, and lets them take over or revokes them.
    async fn enroll(
        &self,
        clinic: &ClinicName,
        configured: Option<&ClinicId>,
        pair: FreshPair,
    ) -> Result<Enrolled, EnrollError> {
        let now = self.clock.now();
        let times = Times::of(now, pair.life, rand::random());
        let refresh = pair.refresh.clone();
        let generation = self.vault.keep_candidate(clinic, pair, times).await?;
        let bearer = self.vault.candidate(clinic, generation).await?;
        self.budget.spend(Share::Polling).await?;
        let answer = self.exchange.clinic(&bearer).await;
        let before = match self.vault.load(clinic).await {
            Ok(grant) => grant.pinned.map(|pinned| pinned.clinic_id),
            Err(TokenError::NoGrant(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let expected = configured.cloned().or(before);
        let (pinned, verification) = match (answer, expected) {
            (ClinicAnswer::Is(found), Some(expected)) if found != expected => {
                if self.revoke_live(&refresh).await.is_ok() {
                    self.vault.forget_pair(clinic, generation).await?;
                }
                return Err(EnrollError::OtherClinic {
                    clinic: clinic.clone(),
                    found,
                    expected,
                });
            }
            (ClinicAnswer::Is(found), _) => (
                Some(Pinned {
                    clinic_id: found.clone(),
                    proof: Proof::Verified,
                }),
                Verification::Verified(found),
            ),
            (ClinicAnswer::ScopeMissing, expected) => {
                (expected.map(inferred), Verification::ScopeMissing)
            }
            (ClinicAnswer::Unknown(why), expected) => {
                (expected.map(inferred), Verification::Unknown(why))
            }
        };
        self.vault.promote(clinic, generation, pinned, now).await?;
        Ok(Enrolled { verification })
    }
}

/// The person still has the token that was imported: its reply need not be kept raw.
fn as_it_is() -> Keep {
    Arc::new(|reply| Box::pin(async { Ok(reply) }))
}

fn inferred(clinic_id: ClinicId) -> Pinned {
    Pinned {
        clinic_id,
        proof: Proof::Inferred,
    }
}

fn pair_of(clinic: &ClinicName, answer: Answer) -> Result<FreshPair, EnrollError> {
    match answer {
        Answer::Pair(pair) => Ok(pair),
        Answer::Failed(Failure::Refused) => Err(EnrollError::Refused(clinic.clone())),
        Answer::Failed(Failure::WrongClient) => Err(EnrollError::WrongClient),
        Answer::Failed(Failure::Unavailable { why, .. }) | Answer::Unanswered(why) => {
            Err(EnrollError::Unavailable(why))
        }
        Answer::NotKept(unavailable) => Err(unavailable.into()),
    }
}
