//! What changes a grant: new pairs, failures, a pin, its end. Each is one transaction.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::OptionalExtension;
use secrecy::SecretString;

use super::intent::me;
use super::rows::{GRANTS, NewPair, adopt, grant, peers, prune, save};
use super::{Pinned, Proof, Vault};
use crate::domain::{ClinicId, ClinicName};
use crate::store::Unavailable;
use crate::token::TokenError;
use crate::token::exchange::FreshPair;
use crate::token::state::{ALL_REFUSED, Alert, Change, Failure, Times};

impl Vault {
    /// Makes a fresh pair durable; it becomes the current one unless somebody logged in meanwhile.
    pub(in crate::token) async fn keep_pair(
        &self,
        clinic: &ClinicName,
        pair: FreshPair,
        times: Times,
    ) -> Result<(), Unavailable> {
        let new = NewPair::seal(self.store.sealer().clone(), clinic, pair, times);
        let name = clinic.as_str().to_owned();
        let attested = self.attest(clinic, "refreshed", times.issued_at);
        self.store
            .write(move |c| {
                attested.insert(c)?;
                let generation = new.insert(c)?;
                let ours = c.execute(
                    "UPDATE grant SET state = 'active', generation = ?2, refreshed_at = ?3, since_at = NULL,
                       refused_at = NULL, failures = 0, retry_at = NULL, trouble = NULL,
                       intent_holder = NULL, intent_until = NULL, reply = NULL
                     WHERE clinic = ?1 AND intent_holder = ?4",
                    (&name, generation, times.issued_at.timestamp_millis(), me()),
                )?;
                if ours == 1 {
                    adopt(c, &name, generation)?;
                    prune(c, &name)?;
                    // The configuration works after all: look at the other grants again.
                    c.execute(
                        "UPDATE grant SET retry_at = ?1 WHERE state = 'misconfigured' AND retry_at > ?1",
                        [times.issued_at.timestamp_millis()],
                    )?;
                }
                Ok(())
            })
            .await
    }

    /// Stores a pair beside the current one: it can be used and revoked, and is not the grant's yet.
    pub(in crate::token) async fn keep_candidate(
        &self,
        clinic: &ClinicName,
        pair: FreshPair,
        times: Times,
    ) -> Result<i64, Unavailable> {
        let new = NewPair::seal(self.store.sealer().clone(), clinic, pair, times);
        self.store.write(move |c| new.insert(c)).await
    }

    /// Stores a refresh token that somebody brought, as a pair that is due at once.
    pub(in crate::token) async fn keep_refresh_token(
        &self,
        clinic: &ClinicName,
        refresh: SecretString,
        now: DateTime<Utc>,
    ) -> Result<i64, Unavailable> {
        let pair = FreshPair {
            access: String::new().into(),
            refresh,
            life: TimeDelta::zero(),
        };
        self.keep_candidate(clinic, pair, Times::of(now, TimeDelta::zero(), 0.0))
            .await
    }

    /// Makes a stored pair the grant's current one, whatever state the grant was in.
    pub(in crate::token) async fn promote(
        &self,
        clinic: &ClinicName,
        generation: i64,
        pinned: Option<Pinned>,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        let attested = self.attest(clinic, "given", now);
        self.store
            .write(move |c| {
                attested.insert(c)?;
                let (id, verified) = match &pinned {
                    Some(pinned) => (Some(pinned.clinic_id.as_str()), pinned.proof == Proof::Verified),
                    None => (None, false),
                };
                c.execute(
                    "INSERT INTO grant (clinic, state, generation, clinic_id, verified, enrolled_at, refreshed_at)
                     VALUES (?1, 'active', ?2, ?3, ?4, ?5, (SELECT issued_at FROM pair
                       WHERE clinic = ?1 AND generation = ?2 AND access IS NOT NULL))
                     ON CONFLICT (clinic) DO UPDATE SET state = 'active', generation = ?2,
                       clinic_id = coalesce(?3, clinic_id), verified = ?4, enrolled_at = ?5, refreshed_at = excluded.refreshed_at,
                       since_at = NULL, refused_at = NULL, failures = 0, retry_at = NULL, trouble = NULL,
                       intent_holder = NULL, intent_until = NULL, reply = NULL",
                    (&name, generation, id, verified, now.timestamp_millis()),
                )?;
                adopt(c, &name, generation)
            })
            .await
    }

    /// Notes that a pair is known dead.
    pub(in crate::token) async fn refused(
        &self,
        clinic: &ClinicName,
        generation: i64,
    ) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute(
                    "UPDATE pair SET refused = 1 WHERE clinic = ?1 AND generation = ?2",
                    (&name, generation),
                )
                .map(drop)
            })
            .await
    }

    /// Removes a pair that is known dead.
    pub(in crate::token) async fn forget_pair(
        &self,
        clinic: &ClinicName,
        generation: i64,
    ) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute(
                    "DELETE FROM pair WHERE clinic = ?1 AND generation = ?2",
                    (&name, generation),
                )
                .map(drop)
            })
            .await
    }

    /// Removes a grant and whatever is left of its pairs.
    pub(in crate::token) async fn forget(
        &self,
        clinic: &ClinicName,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        let attested = self.attest(clinic, "revoked", now);
        self.store
            .write(move |c| {
                attested.insert(c)?;
                c.execute("DELETE FROM pair WHERE clinic = ?1", [&name])?;
                c.execute("DELETE FROM grant WHERE clinic = ?1", [&name])
                    .map(drop)
            })
            .await
    }

    /// Pins a grant to the clinic whose events it lists, unless it is pinned already; says what it is pinned to.
    pub(in crate::token) async fn pin(
        &self,
        clinic: &ClinicName,
        id: &ClinicId,
    ) -> Result<Pinned, TokenError> {
        let (name, id) = (clinic.as_str().to_owned(), id.as_str().to_owned());
        self.store
            .write(move |c| {
                c.execute(
                    "UPDATE grant SET clinic_id = ?2 WHERE clinic = ?1 AND clinic_id IS NULL",
                    (&name, &id),
                )
            })
            .await?;
        let grant = self.load(clinic).await?;
        grant
            .pinned
            .ok_or_else(|| TokenError::NoGrant(clinic.clone()))
    }

    /// Records that a refresh gave no pair, and decides, in the same transaction, what that makes of the grant and
    /// of the others.
    pub(in crate::token) async fn fail(
        &self,
        clinic: &ClinicName,
        failure: Failure,
        now: DateTime<Utc>,
        jitter: f64,
    ) -> Result<Change, TokenError> {
        let name = clinic.as_str().to_owned();
        let what = match &failure {
            Failure::Refused => "refresh_refused",
            Failure::WrongClient => "refresh_wrong_client",
            Failure::Unavailable { .. } => "refresh_unanswered",
        };
        let attested = self.attest(clinic, what, now);
        self.store
            .write(move |c| {
                attested.insert(c)?;
                let before = c
                    .prepare_cached(&format!("{GRANTS} WHERE g.clinic = ?1"))?
                    .query_row([&name], grant)
                    .optional()?
                    .flatten();
                let Some(before) = before else {
                    return Ok(None);
                };
                let change = before.state.after(&failure, peers(c, &name)?, now, jitter);
                save(c, &name, &change.state)?;
                if failure == Failure::Refused {
                    c.execute(
                        "UPDATE grant SET refused_at = ?2 WHERE clinic = ?1",
                        (&name, now.timestamp_millis()),
                    )?;
                    if change.alert == Alert::ConfigurationFault {
                        // Those that were refused first were not to blame either.
                        c.execute(
                            "UPDATE grant SET state = 'misconfigured', retry_at = ?1, trouble = ?2
                             WHERE state = 'login_required'
                               AND refused_at >= (SELECT coalesce(max(refreshed_at), 0) FROM grant)",
                            (
                                (now + TimeDelta::hours(1)).timestamp_millis(),
                                ALL_REFUSED,
                            ),
                        )?;
                    }
                }
                Ok(Some(change))
            })
            .await?
            .ok_or_else(|| TokenError::NoGrant(clinic.clone()))
    }
}
