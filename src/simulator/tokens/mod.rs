//! Grants, codes and token pairs as Doorkeeper with a `previous_refresh_token` column keeps them
//! (`fullscript-api.md` §4). Pure: the caller brings the time and the client's credentials.
//!
//! The access and the refresh token of a pair share one row and die together. Under [`Rotation::OnUse`] a refresh
//! revokes nothing: the pair it came from dies when the new access token is first *presented*.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::seeded::Seeded;

/// How long a code can be exchanged.
const CODE_LIFE: TimeDelta = TimeDelta::minutes(10);

/// When the old pair dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Rotation {
    /// When the new access token is first presented: Doorkeeper, and what Fullscript documents.
    #[default]
    OnUse,
    /// At the refresh itself.
    AtOnce,
    /// At the refresh itself; and a dead refresh token that is posted again revokes every pair of its login.
    Family,
}

/// What a token endpoint answers instead of a pair: the `error` of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// 400: a parameter is missing.
    #[error("invalid_request")]
    InvalidRequest,
    /// 400: neither `authorization_code` nor `refresh_token`.
    #[error("unsupported_grant_type")]
    UnsupportedGrantType,
    /// 400: the code or refresh token is unknown, used, expired, revoked, or somebody else's.
    #[error("invalid_grant")]
    InvalidGrant,
    /// 401: the secret is wrong.
    #[error("invalid_client")]
    InvalidClient,
}

/// Why a presented access token opens nothing: a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    /// No such token, or none at all.
    #[error("The access token is invalid")]
    Invalid,
    /// The pair was revoked.
    #[error("The access token was revoked")]
    Revoked,
    /// Its life is over.
    #[error("The access token expired")]
    Expired,
}

/// Who asks the token endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credentials<'a> {
    pub(super) client_id: &'a str,
    pub(super) client_secret: &'a str,
}

/// One row: an access and a refresh token.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) clinic: u32,
    pub(super) access: String,
    pub(super) refresh: String,
    pub(super) scopes: Vec<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
    client_id: String,
    previous_refresh: Option<String>,
    family: u64,
    revoked: bool,
}

impl Pair {
    /// Revokes it, as a person or Fullscript would.
    pub(super) fn revoke(&mut self) {
        self.revoked = true;
    }

    fn is_live(&self, now: DateTime<Utc>) -> bool {
        !self.revoked && now < self.expires_at
    }
}

#[derive(Debug)]
struct Code {
    clinic: u32,
    client_id: String,
    redirect_uri: String,
    expires_at: DateTime<Utc>,
}

/// All codes and pairs.
#[derive(Debug)]
pub(super) struct Tokens {
    rotation: Rotation,
    lifetime: TimeDelta,
    clients: HashMap<String, String>,
    random: Seeded,
    pairs: Vec<Pair>,
    by_access: HashMap<String, usize>,
    by_refresh: HashMap<String, usize>,
    codes: HashMap<String, Code>,
    families: u64,
}

impl Tokens {
    pub(super) fn new(seed: u64, rotation: Rotation, lifetime: TimeDelta) -> Self {
        Self {
            rotation,
            lifetime,
            clients: HashMap::new(),
            random: Seeded::new(seed, u64::MAX),
            pairs: Vec::new(),
            by_access: HashMap::new(),
            by_refresh: HashMap::new(),
            codes: HashMap::new(),
            families: 0,
        }
    }

    /// Registers an app.
    pub(super) fn add_client(&mut self, client_id: &str, client_secret: &str) {
        self.clients
            .insert(client_id.to_owned(), client_secret.to_owned());
    }

    /// Whether an app of this id is registered.
    pub(super) fn knows_client(&self, client_id: &str) -> bool {
        self.clients.contains_key(client_id)
    }

    /// A one-use code, as after *Allow*.
    pub(super) fn issue_code(
        &mut self,
        clinic: u32,
        client_id: &str,
        redirect_uri: &str,
        now: DateTime<Utc>,
    ) -> String {
        let code = self.random.token();
        self.codes.insert(
            code.clone(),
            Code {
                clinic,
                client_id: client_id.to_owned(),
                redirect_uri: redirect_uri.to_owned(),
                expires_at: now + CODE_LIFE,
            },
        );
        code
    }

    /// A new login: a pair without a predecessor.
    pub(super) fn grant(
        &mut self,
        clinic: u32,
        client_id: &str,
        scopes: Vec<String>,
        now: DateTime<Utc>,
    ) -> Pair {
        self.families += 1;
        self.insert(clinic, client_id, scopes, self.families, None, now)
    }

    /// Exchanges a code, once.
    pub(super) fn exchange(
        &mut self,
        who: Credentials<'_>,
        code: &str,
        redirect_uri: &str,
        scopes: Vec<String>,
        now: DateTime<Utc>,
    ) -> Result<Pair, Refusal> {
        if self.clients.get(who.client_id).map(String::as_str) != Some(who.client_secret) {
            return Err(Refusal::InvalidClient);
        }
        match self.codes.get(code) {
            Some(found)
                if found.client_id == who.client_id
                    && found.redirect_uri == redirect_uri
                    && now < found.expires_at => {}
            _ => return Err(Refusal::InvalidGrant),
        }
        let code = self.codes.remove(code).ok_or(Refusal::InvalidGrant)?;
        Ok(self.grant(code.clinic, who.client_id, scopes, now))
    }

    /// Refreshes. The redirect URI is not checked (§4, corner 6).
    pub(super) fn refresh(
        &mut self,
        who: Credentials<'_>,
        refresh: &str,
        now: DateTime<Utc>,
    ) -> Result<Pair, Refusal> {
        let old = self
            .by_refresh
            .get(refresh)
            .and_then(|&at| self.pairs.get(at))
            .cloned()
            .ok_or(Refusal::InvalidGrant)?;
        if old.revoked {
            if self.rotation == Rotation::Family {
                for pair in self.pairs.iter_mut().filter(|p| p.family == old.family) {
                    pair.revoked = true;
                }
            }
            return Err(Refusal::InvalidGrant);
        }
        match self.clients.get(who.client_id) {
            None => return Err(Refusal::InvalidGrant),
            Some(secret) if secret != who.client_secret => return Err(Refusal::InvalidClient),
            Some(_) if old.client_id != who.client_id => return Err(Refusal::InvalidGrant),
            Some(_) => {}
        }
        let previous = match self.rotation {
            Rotation::OnUse => Some(old.refresh.clone()),
            Rotation::AtOnce | Rotation::Family => {
                self.revoke_refresh(refresh);
                None
            }
        };
        Ok(self.insert(
            old.clinic,
            who.client_id,
            old.scopes,
            old.family,
            previous,
            now,
        ))
    }

    /// Presents an access token to an endpoint that authenticates it. This is where the predecessor dies, even if the
    /// token itself turns out to be expired or revoked (§4, corner 1).
    pub(super) fn present(&mut self, access: &str, now: DateTime<Utc>) -> Result<&Pair, Rejection> {
        let at = *self.by_access.get(access).ok_or(Rejection::Invalid)?;
        let previous = self
            .pairs
            .get_mut(at)
            .and_then(|pair| pair.previous_refresh.take());
        if let Some(previous) = previous {
            self.revoke_refresh(&previous);
        }
        match self.pairs.get(at) {
            None => Err(Rejection::Invalid),
            Some(pair) if pair.revoked => Err(Rejection::Revoked),
            Some(pair) if now >= pair.expires_at => Err(Rejection::Expired),
            Some(pair) => Ok(pair),
        }
    }

    /// Whose token this is, without presenting it.
    pub(super) fn clinic_of(&self, token: &str) -> Option<u32> {
        self.by_access
            .get(token)
            .or_else(|| self.by_refresh.get(token))
            .and_then(|&at| self.pairs.get(at))
            .map(|pair| pair.clinic)
    }

    /// The revoke endpoint: as in Doorkeeper 5.5 a pair whose access token has expired lives on. `Err` is a wrong
    /// client.
    pub(super) fn revoke(
        &mut self,
        who: Credentials<'_>,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        if self.clients.get(who.client_id).map(String::as_str) != Some(who.client_secret) {
            return Err(Refusal::InvalidClient);
        }
        let at = self
            .by_access
            .get(token)
            .or_else(|| self.by_refresh.get(token));
        if let Some(pair) = at.and_then(|&at| self.pairs.get_mut(at)) {
            if pair.client_id != who.client_id {
                return Err(Refusal::InvalidClient);
            }
            if pair.is_live(now) {
                pair.revoked = true;
            }
        }
        Ok(())
    }

    /// Every pair of a clinic, for scripting it: revoked, expired, with other scopes.
    pub(super) fn of_clinic(&mut self, clinic: u32) -> impl Iterator<Item = &mut Pair> {
        self.pairs
            .iter_mut()
            .filter(move |pair| pair.clinic == clinic)
    }

    /// Whether this refresh token could still be used.
    pub(super) fn is_unrevoked(&self, refresh: &str) -> bool {
        self.by_refresh
            .get(refresh)
            .and_then(|&at| self.pairs.get(at))
            .is_some_and(|pair| !pair.revoked)
    }

    fn revoke_refresh(&mut self, refresh: &str) {
        if let Some(pair) = self
            .by_refresh
            .get(refresh)
            .and_then(|&at| self.pairs.get_mut(at))
        {
            pair.revoked = true;
        }
    }

    fn insert(
        &mut self,
        clinic: u32,
        client_id: &str,
        scopes: Vec<String>,
        family: u64,
        previous_refresh: Option<String>,
        now: DateTime<Utc>,
    ) -> Pair {
        let pair = Pair {
            clinic,
            access: self.random.token(),
            refresh: self.random.token(),
            scopes,
            created_at: now,
            expires_at: now + self.lifetime,
            client_id: client_id.to_owned(),
            previous_refresh,
            family,
            revoked: false,
        };
        let at = self.pairs.len();
        self.by_access.insert(pair.access.clone(), at);
        self.by_refresh.insert(pair.refresh.clone(), at);
        self.pairs.push(pair.clone());
        pair
    }
}

#[cfg(test)]
mod tests;
