//! Where tokens lie: durable before use.
//!
//! Only the vault makes a [`Bearer`], and only from a row that is on disk: a fresh pair has no way to its access token
//! except through [`Vault::keep_pair`]. So Fullscript, which kills the old pair when the new access token is first
//! presented (`fullscript-api.md` §4), never does so before the new one would survive a power cut.

mod rows;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::OptionalExtension;
use rustix::process::{Pid, getpid, test_kill_process};
use secrecy::SecretString;

use super::TokenError;
use super::exchange::{FreshPair, RawReply};
use super::state::{ALL_REFUSED, Alert, Change, Failure, State, Times};
use crate::domain::{ClinicId, ClinicName};
use crate::store::{Opened, Store, Unavailable};
use rows::{GRANTS, NewPair, adopt, grant, peers, place, prune, reply_place, save};

/// How long another process that refreshes a grant is waited for: longer than its calls can take.
const LEASE: TimeDelta = TimeDelta::minutes(2);

/// An access token that is on disk, and the generation of its pair. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Bearer {
    secret: SecretString,
    generation: i64,
}

impl Bearer {
    /// The access token, for one `Authorization` header.
    pub fn secret(&self) -> &SecretString {
        &self.secret
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
}

impl Vault {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// The grant as it is now.
    pub(super) async fn load(&self, clinic: &ClinicName) -> Result<Grant, TokenError> {
        let name = clinic.as_str().to_owned();
        self.store
            .read(move |c| {
                c.prepare_cached(&format!("{GRANTS} WHERE g.clinic = ?1"))?
                    .query_row([name], grant)
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

    /// Hands out the access token of a stored pair.
    pub(super) async fn bearer(
        &self,
        clinic: &ClinicName,
        generation: i64,
    ) -> Result<Bearer, TokenError> {
        let name = clinic.as_str().to_owned();
        let (sealed, used): (Option<Vec<u8>>, bool) = self
            .store
            .read(move |c| {
                c.prepare_cached(
                    "SELECT access, used FROM pair WHERE clinic = ?1 AND generation = ?2",
                )?
                .query_row((name, generation), |row| Ok((row.get(0)?, row.get(1)?)))
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
                    (name, generation),
                )
            });
            // Unmarked, the pair before it is only kept for longer.
            drop(marked.await);
        }
        Ok(Bearer { secret, generation })
    }

    /// Writes down that this process is about to refresh the grant, which also proves that the store can be written.
    /// Another living process may be at it already.
    pub(super) async fn intend(
        &self,
        clinic: &ClinicName,
        now: DateTime<Utc>,
    ) -> Result<Intent, Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                let found: Option<(Option<i32>, Option<i64>)> = c
                    .query_row(
                        "SELECT intent_holder, intent_until FROM grant WHERE clinic = ?1",
                        [&name],
                        |row| Ok((row.get(0)?, row.get(1)?)),
                    )
                    .optional()?;
                if let Some((Some(holder), Some(until))) = found
                    && now.timestamp_millis() < until
                    && is_another_living_process(holder)
                {
                    return Ok(Intent::Elsewhere);
                }
                c.execute(
                    "UPDATE grant SET intent_holder = ?2, intent_until = ?3 WHERE clinic = ?1",
                    (&name, me(), (now + LEASE).timestamp_millis()),
                )?;
                Ok(Intent::Ours)
            })
            .await
    }

    /// Proves that the store can be written, before Fullscript is asked for tokens that would have to be kept.
    pub(super) async fn probe(&self) -> Result<(), Unavailable> {
        self.store
            .write(|c| c.execute("UPDATE instance SET epoch = epoch", ()).map(drop))
            .await
    }

    /// Takes the intent back: nothing was called.
    pub(super) async fn relent(&self, clinic: &ClinicName) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute(
                    "UPDATE grant SET intent_holder = NULL, intent_until = NULL
                     WHERE clinic = ?1 AND intent_holder = ?2",
                    (name, me()),
                )
                .map(drop)
            })
            .await
    }

    /// Keeps a reply that is not parsed yet.
    pub(super) async fn keep_reply(
        &self,
        clinic: &ClinicName,
        reply: &RawReply,
    ) -> Result<(), Unavailable> {
        let sealed = self.store.sealer().seal(&reply_place(clinic), &reply.0);
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute(
                    "UPDATE grant SET reply = ?2 WHERE clinic = ?1 AND intent_holder = ?3",
                    (name, sealed, me()),
                )
                .map(drop)
            })
            .await
    }

    /// The reply that was kept and never parsed, if there is one.
    pub(super) async fn kept_reply(
        &self,
        clinic: &ClinicName,
    ) -> Result<Option<RawReply>, Unavailable> {
        let name = clinic.as_str().to_owned();
        let sealed: Option<Vec<u8>> = self
            .store
            .read(move |c| {
                c.query_row("SELECT reply FROM grant WHERE clinic = ?1", [name], |row| {
                    row.get(0)
                })
                .optional()
            })
            .await?
            .flatten();
        Ok(sealed.and_then(|sealed| {
            let opened = self.store.sealer().open(&reply_place(clinic), &sealed);
            opened.ok().map(|reply| RawReply(reply.bytes().to_vec()))
        }))
    }

    /// Makes a fresh pair durable; it becomes the current one unless somebody logged in meanwhile.
    pub(super) async fn keep_pair(
        &self,
        clinic: &ClinicName,
        pair: FreshPair,
        times: Times,
    ) -> Result<(), Unavailable> {
        let new = NewPair::seal(self.store.sealer().clone(), clinic, pair, times);
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
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
    pub(super) async fn keep_candidate(
        &self,
        clinic: &ClinicName,
        pair: FreshPair,
        times: Times,
    ) -> Result<i64, Unavailable> {
        let new = NewPair::seal(self.store.sealer().clone(), clinic, pair, times);
        self.store.write(move |c| new.insert(c)).await
    }

    /// Stores a refresh token that somebody brought, as a pair that is due at once.
    pub(super) async fn keep_refresh_token(
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
    pub(super) async fn promote(
        &self,
        clinic: &ClinicName,
        generation: i64,
        pinned: Option<Pinned>,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
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
                .query_map([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
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

    /// Notes that a pair is known dead.
    pub(super) async fn refused(
        &self,
        clinic: &ClinicName,
        generation: i64,
    ) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute(
                    "UPDATE pair SET refused = 1 WHERE clinic = ?1 AND generation = ?2",
                    (name, generation),
                )
                .map(drop)
            })
            .await
    }

    /// Removes a pair that is known dead.
    pub(super) async fn forget_pair(
        &self,
        clinic: &ClinicName,
        generation: i64,
    ) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute(
                    "DELETE FROM pair WHERE clinic = ?1 AND generation = ?2",
                    (name, generation),
                )
                .map(drop)
            })
            .await
    }

    /// Removes a grant and whatever is left of its pairs.
    pub(super) async fn forget(&self, clinic: &ClinicName) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute("DELETE FROM pair WHERE clinic = ?1", [&name])?;
                c.execute("DELETE FROM grant WHERE clinic = ?1", [&name])
                    .map(drop)
            })
            .await
    }

    /// Pins a grant to the clinic whose events it lists, unless it is pinned already; says what it is pinned to.
    pub(super) async fn pin(
        &self,
        clinic: &ClinicName,
        id: &ClinicId,
    ) -> Result<Pinned, TokenError> {
        let (name, id) = (clinic.as_str().to_owned(), id.as_str().to_owned());
        self.store
            .write(move |c| {
                c.execute(
                    "UPDATE grant SET clinic_id = ?2 WHERE clinic = ?1 AND clinic_id IS NULL",
                    (name, id),
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
    pub(super) async fn fail(
        &self,
        clinic: &ClinicName,
        failure: Failure,
        now: DateTime<Utc>,
        jitter: f64,
    ) -> Result<Change, TokenError> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
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

/// Who may refresh now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// This process: the intent is on disk.
    Ours,
    /// Another living process.
    Elsewhere,
}

fn me() -> i32 {
    getpid().as_raw_nonzero().get()
}

/// Whether a process other than this one has this id. One that may not be signalled lives too.
fn is_another_living_process(pid: i32) -> bool {
    pid != me()
        && Pid::from_raw(pid).is_some_and(
            |pid| !matches!(test_kill_process(pid), Err(error) if error == rustix::io::Errno::SRCH),
        )
}
