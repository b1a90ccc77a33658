//! Where tokens lie: durable before use.
//!
//! Only the vault makes a [`Bearer`], and only from a row that is on disk: a fresh pair has no way to its access token
//! except through [`Vault::keep_pair`]. So Fullscript, which kills the old pair when the new access token is first
//! presented (`fullscript-api.md` §4), never does so before the new one would survive a power cut.

mod intent;
mod keep;
mod rows;

use chrono::{DateTime, Utc};
use rusqlite::OptionalExtension;
use secrecy::SecretString;

use super::TokenError;
use super::state::{State, Times};
use crate::audit::{Action, Attested, Audit};
use crate::domain::{ClinicId, ClinicName};
use crate::store::{Opened, Store, Unavailable};

pub(super) use intent::Intent;
use rows::{GRANTS, grant, place};

/// An access token that is on disk, and the generation of its pair. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Bearer {
    secret: SecretString,
    generation: i64,
    pinned: Option<Pinned>,
}

impl Bearer {
    /// The access token, for one `Authorization` header.
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// The Fullscript clinic that its grant is pinned to, if it is yet.
    pub fn pinned(&self) -> Option<&Pinned> {
        self.pinned.as_ref()
    }

    /// The pair's generation: it grows with every new pair of the grant.
    pub fn generation(&self) -> i64 {
        self.generation
    }
}

/// The Fullscript clinic that a grant is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Fullscript's id of it.
    pub clinic_id: ClinicId,
    /// How that is known.
    pub proof: Proof,
}

/// How the clinic of a grant is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// `GET /clinic` said it.
    Verified,
    /// It was the first `clinic_id` that was listed, or the configuration's.
    Inferred,
}

/// A grant as it is stored. No secret is in it.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) clinic: ClinicName,
    pub(super) state: State,
    pub(super) generation: i64,
    pub(super) times: Times,
    pub(super) pinned: Option<Pinned>,
    pub(super) refreshed_at: Option<DateTime<Utc>>,
}

/// A stored refresh token.
pub(super) struct Stored {
    pub(super) generation: i64,
    pub(super) refresh: SecretString,
    pub(super) expires_at: DateTime<Utc>,
    /// It is or was the grant's. Others were stored by a login that did not come to its end: their clinic is not sure.
    pub(super) adopted: bool,
}

#[derive(Clone)]
pub(super) struct Vault {
    store: Store,
    audit: Audit,
}

impl Vault {
    pub(super) fn new(store: Store, audit: Audit) -> Self {
        Self { store, audit }
    }

    /// The record of what becomes of a grant; it commits with that.
    fn attest(&self, clinic: &ClinicName, what: &str, now: DateTime<Utc>) -> Attested {
        self.audit.attest(|| {
            let record = self.audit.entry(Action::Token, now);
            vec![record.clinic(clinic.as_str()).note("what", what)]
        })
    }

    /// The grant as it is now.
    pub(super) async fn load(&self, clinic: &ClinicName) -> Result<Grant, TokenError> {
        let name = clinic.as_str().to_owned();
        self.store
            .read(move |c| {
                c.prepare_cached(&format!("{GRANTS} WHERE g.clinic = ?1"))?
                    .query_row([&name], grant)
                    .optional()
            })
            .await?
            .flatten()
            .ok_or_else(|| TokenError::NoGrant(clinic.clone()))
    }

    /// All grants, by name.
    pub(super) async fn all(&self) -> Result<Vec<Grant>, Unavailable> {
        self.store
            .read(|c| {
                c.prepare_cached(&format!("{GRANTS} ORDER BY g.clinic"))?
                    .query_map((), grant)?
                    .filter_map(Result::transpose)
                    .collect()
            })
            .await
    }

    /// Hands out the access token of a grant.
    pub(super) async fn bearer(&self, grant: &Grant) -> Result<Bearer, TokenError> {
        let pinned = grant.pinned.clone();
        self.bearer_of(&grant.clinic, grant.generation, pinned)
            .await
    }

    /// Hands out the access token of a pair that no grant has adopted yet.
    pub(super) async fn candidate(
        &self,
        clinic: &ClinicName,
        generation: i64,
    ) -> Result<Bearer, TokenError> {
        self.bearer_of(clinic, generation, None).await
    }

    async fn bearer_of(
        &self,
        clinic: &ClinicName,
        generation: i64,
        pinned: Option<Pinned>,
    ) -> Result<Bearer, TokenError> {
        let name = clinic.as_str().to_owned();
        let (sealed, used): (Option<Vec<u8>>, bool) = self
            .store
            .read(move |c| {
                c.prepare_cached(
                    "SELECT access, used FROM pair WHERE clinic = ?1 AND generation = ?2",
                )?
                .query_row((&name, generation), |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
            })
            .await?
            .ok_or_else(|| TokenError::NoGrant(clinic.clone()))?;
        let sealed = sealed.ok_or_else(|| TokenError::Damaged(clinic.clone()))?;
        let secret = self.open(clinic, &place(clinic, generation, "access"), &sealed)?;
        if !used {
            let name = clinic.as_str().to_owned();
            let marked = self.store.write(move |c| {
                c.execute(
                    "UPDATE pair SET used = 1 WHERE clinic = ?1 AND generation = ?2",
                    (&name, generation),
                )
            });
            // Unmarked, the pair before it is only kept for longer.
            drop(marked.await);
        }
        Ok(Bearer {
            secret,
            generation,
            pinned,
        })
    }

    /// Every stored refresh token that may still live, the current one first, then the newest.
    pub(super) async fn tokens(&self, clinic: &ClinicName) -> Result<Vec<Stored>, TokenError> {
        let name = clinic.as_str().to_owned();
        let rows: Vec<(i64, Vec<u8>, i64, bool)> = self
            .store
            .read(move |c| {
                c.prepare_cached(
                    "SELECT generation, refresh, expires_at, adopted FROM pair p WHERE clinic = ?1 AND refused = 0
                     ORDER BY generation = (SELECT generation FROM grant g WHERE g.clinic = p.clinic) DESC,
                              generation DESC",
                )?
                .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect()
            })
            .await?;
        rows.into_iter()
            .map(|(generation, sealed, expires_at, adopted)| {
                let refresh = self.open(clinic, &place(clinic, generation, "refresh"), &sealed)?;
                Ok(Stored {
                    generation,
                    refresh,
                    expires_at: DateTime::from_timestamp_millis(expires_at).unwrap_or_default(),
                    adopted,
                })
            })
            .collect()
    }

    fn open(
        &self,
        clinic: &ClinicName,
        place: &str,
        sealed: &[u8],
    ) -> Result<SecretString, TokenError> {
        self.store
            .sealer()
            .open(place, sealed)
            .and_then(Opened::into_text)
            .map(SecretString::from)
            .map_err(|_| TokenError::Damaged(clinic.clone()))
    }
}
