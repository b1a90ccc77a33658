//! The rows of `grant` and `pair`, read and written inside the vault's transactions.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row};
use secrecy::{ExposeSecret, SecretString};

use super::{Grant, Pinned, Proof};
use crate::domain::{ClinicId, ClinicName};
use crate::store::Sealer;
use crate::token::exchange::FreshPair;
use crate::token::state::{Peers, State, Times};

/// The most pairs that are kept of one grant, should none of them ever be used.
const MOST_PAIRS: i64 = 64;

/// A pair that is sealed when its generation is known: the generation is part of the place it is sealed for.
pub(super) struct NewPair {
    sealer: Sealer,
    clinic: ClinicName,
    pair: FreshPair,
    times: Times,
}

impl NewPair {
    pub(super) fn seal(sealer: Sealer, clinic: &ClinicName, pair: FreshPair, times: Times) -> Self {
        Self {
            sealer,
            clinic: clinic.clone(),
            pair,
            times,
        }
    }

    /// Inserts it with the next generation.
    pub(super) fn insert(&self, c: &Connection) -> rusqlite::Result<i64> {
        let clinic = &self.clinic;
        let generation: i64 = c.query_row(
            "SELECT 1 + max(coalesce((SELECT max(generation) FROM pair WHERE clinic = ?1), 0),
                            coalesce((SELECT generation FROM grant WHERE clinic = ?1), 0))",
            [clinic.as_str()],
            |row| row.get(0),
        )?;
        let seal = |what: &str, secret: &SecretString| {
            self.sealer.seal(
                &place(clinic, generation, what),
                secret.expose_secret().as_bytes(),
            )
        };
        let access = &self.pair.access;
        c.execute(
            "INSERT INTO pair (clinic, generation, access, refresh, issued_at, expires_at, refresh_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                clinic.as_str(),
                generation,
                (!access.expose_secret().is_empty()).then(|| seal("access", access)),
                seal("refresh", &self.pair.refresh),
                self.times.issued_at.timestamp_millis(),
                self.times.expires_at.timestamp_millis(),
                self.times.refresh_at.timestamp_millis(),
            ),
        )?;
        Ok(generation)
    }
}

pub(super) fn adopt(c: &Connection, clinic: &str, generation: i64) -> rusqlite::Result<()> {
    c.execute(
        "UPDATE pair SET adopted = 1 WHERE clinic = ?1 AND generation = ?2",
        (clinic, generation),
    )
    .map(drop)
}

/// Drops pairs that are surely dead: those before the previous one whose successor was used, and refused ones.
pub(super) fn prune(c: &Connection, clinic: &str) -> rusqlite::Result<()> {
    c.execute(
        "DELETE FROM pair WHERE clinic = ?1
           AND generation < (SELECT generation - 1 FROM grant WHERE clinic = ?1)
           AND (refused = 1
                OR (SELECT used FROM pair n WHERE n.clinic = pair.clinic AND n.generation > pair.generation
                    ORDER BY n.generation LIMIT 1) = 1
                OR generation < (SELECT generation - ?2 FROM grant WHERE clinic = ?1))",
        (clinic, MOST_PAIRS),
    )
    .map(drop)
}

pub(super) fn peers(c: &Connection, clinic: &str) -> rusqlite::Result<Peers> {
    c.query_row(
        "WITH last AS (SELECT coalesce(max(refreshed_at), 0) AS at FROM grant)
         SELECT count(*) FILTER (WHERE state <> 'login_required' OR refused_at >= last.at),
                count(*) FILTER (WHERE state <> 'active' AND refused_at >= last.at),
                count(*) FILTER (WHERE state = 'misconfigured')
         FROM grant, last WHERE clinic <> ?1",
        [clinic],
        |row| {
            Ok(Peers {
                others: row.get(0)?,
                refused: row.get(1)?,
                misconfigured: row.get(2)?,
            })
        },
    )
}

pub(super) const GRANTS: &str =
    "SELECT g.clinic, g.state, g.generation, g.clinic_id, g.verified, g.refreshed_at, g.since_at,
    g.failures, g.retry_at, g.trouble, p.issued_at, p.expires_at, p.refresh_at
  FROM grant g JOIN pair p ON p.clinic = g.clinic AND p.generation = g.generation";

/// Reads a row of [`GRANTS`]; `None`: its clinic's name is none (somebody edited the file).
pub(super) fn grant(row: &Row<'_>) -> rusqlite::Result<Option<Grant>> {
    let at = |index: &str| -> rusqlite::Result<Option<DateTime<Utc>>> {
        Ok(row
            .get::<_, Option<i64>>(index)?
            .and_then(DateTime::from_timestamp_millis))
    };
    let sure = |index: &str| at(index).map(Option::unwrap_or_default);
    let Ok(clinic) = ClinicName::new(row.get::<_, String>("clinic")?) else {
        return Ok(None);
    };
    let trouble: String = row.get::<_, Option<String>>("trouble")?.unwrap_or_default();
    let failures: u32 = row.get("failures")?;
    let state = match row.get::<_, String>("state")?.as_str() {
        "login_required" => State::LoginRequired {
            since: sure("since_at")?,
            trouble,
        },
        "misconfigured" => State::Misconfigured {
            since: sure("since_at")?,
            probe_at: sure("retry_at")?,
            trouble,
        },
        _ if failures > 0 => State::Retrying {
            failures,
            retry_at: sure("retry_at")?,
            trouble,
        },
        _ => State::Active,
    };
    let proof = if row.get("verified")? {
        Proof::Verified
    } else {
        Proof::Inferred
    };
    Ok(Some(Grant {
        clinic,
        state,
        generation: row.get("generation")?,
        times: Times {
            issued_at: sure("issued_at")?,
            expires_at: sure("expires_at")?,
            refresh_at: sure("refresh_at")?,
        },
        pinned: row
            .get::<_, Option<String>>("clinic_id")?
            .and_then(|id| ClinicId::new(id).ok())
            .map(|clinic_id| Pinned { clinic_id, proof }),
        refreshed_at: at("refreshed_at")?,
    }))
}

/// Writes a state that is not the work of a fresh pair, and ends the intent.
pub(super) fn save(c: &Connection, clinic: &str, state: &State) -> rusqlite::Result<()> {
    let (word, since, failures, retry_at, trouble) = match state {
        State::Active => ("active", None, 0, None, None),
        State::Retrying {
            failures,
            retry_at,
            trouble,
        } => ("active", None, *failures, Some(retry_at), Some(trouble)),
        State::Misconfigured {
            since,
            probe_at,
            trouble,
        } => (
            "misconfigured",
            Some(since),
            0,
            Some(probe_at),
            Some(trouble),
        ),
        State::LoginRequired { since, trouble } => {
            ("login_required", Some(since), 0, None, Some(trouble))
        }
    };
    c.execute(
        "UPDATE grant SET state = ?2, since_at = ?3, failures = ?4, retry_at = ?5, trouble = ?6,
           intent_holder = NULL, intent_until = NULL WHERE clinic = ?1",
        (
            clinic,
            word,
            since.map(DateTime::timestamp_millis),
            failures,
            retry_at.map(DateTime::timestamp_millis),
            trouble,
        ),
    )
    .map(drop)
}

/// The identity of a sealed token's row.
pub(super) fn place(clinic: &ClinicName, generation: i64, what: &str) -> String {
    format!("pair/{clinic}/{generation}/{what}")
}

pub(super) fn reply_place(clinic: &ClinicName) -> String {
    format!("grant/{clinic}/reply")
}
