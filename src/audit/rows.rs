//! What the ledger holds of the log: its head, and the records that wait to be written.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use super::chain::Link;
use super::record::Record;
use crate::store::{Sealer, Store, Unavailable};

/// Where the head is sealed to.
const PLACE: &str = "audit/head";

/// Up to where the files are in agreement with the ledger. Sealed: nobody without the key can say that the log ends
/// earlier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// What the oldest row that is kept continues.
    pub begin: Link,
    /// The file that it is in.
    pub first: String,
    /// The newest row.
    pub end: Link,
    /// The file that it is in.
    pub file: String,
    /// How long that file is.
    pub length: u64,
}

/// Records that commit together with what they attest; none where nothing is audited.
#[derive(Clone, Debug, Default)]
pub struct Attested(Option<std::sync::Arc<str>>);

impl Attested {
    /// Of these records.
    pub(super) fn of(records: &[Record]) -> Self {
        let mut lines = String::new();
        for record in records {
            // Text and numbers: it cannot fail.
            lines.push_str(&serde_json::to_string(record).unwrap_or_default());
            lines.push('\n');
        }
        Self((!lines.is_empty()).then(|| lines.into()))
    }

    /// All of these in one, in their order.
    pub fn all<'a>(each: impl IntoIterator<Item = &'a Self>) -> Self {
        let lines: String = each
            .into_iter()
            .filter_map(|attested| attested.0.as_deref())
            .collect();
        Self((!lines.is_empty()).then(|| lines.into()))
    }

    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Within the transaction of what they attest: they are there if that is.
    pub fn insert(&self, c: &Connection) -> rusqlite::Result<()> {
        if let Some(lines) = &self.0 {
            c.prepare_cached("INSERT INTO audit_pending (records) VALUES (?1)")?
                .execute([&**lines])?;
        }
        Ok(())
    }
}

/// Records of one transaction that wait.
pub(super) struct Pending {
    pub(super) row: i64,
    /// As it lies in the ledger.
    pub(super) bytes: usize,
    pub(super) records: Vec<Record>,
}

/// Of the log as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How far it is; `None` before its first row, and where that is damaged.
    pub head: Option<Head>,
    /// How many records wait to be written.
    pub waiting: u64,
    /// Why it cannot be written, and since when.
    pub trouble: Option<(String, DateTime<Utc>)>,
}

/// What the ledger holds of the log and does not open. It does not mend by itself: a person has to know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// The head.
    #[error(
        "the ledger's note of where the log ends is damaged: restore the ledger from a backup, or give the note up (docs/audit.md, \"Damage in the ledger\")"
    )]
    Head,
    /// Records that wait, in this row.
    #[error(
        "row {0} of the records that wait in the ledger (audit_pending) is damaged: restore the ledger from a backup, or give the row up \
         (docs/audit.md, \"Damage in the ledger\")"
    )]
    Records(i64),
}

fn unseal(sealer: &Sealer, sealed: Option<Vec<u8>>) -> Result<Option<Head>, Damaged> {
    let Some(sealed) = sealed else {
        return Ok(None);
    };
    let opened = sealer.open(PLACE, &sealed).ok();
    let head = opened.and_then(|opened| serde_json::from_slice(opened.bytes()).ok());
    head.map(Some).ok_or(Damaged::Head)
}

/// The head and the oldest records that wait, at most about `bytes` of them.
pub(super) async fn next(
    store: &Store,
    bytes: usize,
) -> Result<Result<(Option<Head>, Vec<Pending>), Damaged>, Unavailable> {
    let sealer = store.sealer().clone();
    store
        .read(move |c| {
            let mut waiting =
                c.prepare_cached("SELECT row, records FROM audit_pending ORDER BY row")?;
            let mut waiting = waiting.query(())?;
            let mut pending = Vec::new();
            let mut taken = 0;
            while taken < bytes
                && let Some(row) = waiting.next()?
            {
                let (number, lines) = (row.get(0)?, row.get_ref(1)?.as_bytes()?);
                let Some(records) = records(lines) else {
                    return Ok(Err(Damaged::Records(number)));
                };
                taken += lines.len();
                pending.push(Pending {
                    row: number,
                    bytes: lines.len(),
                    records,
                });
            }
            let head = c
                .prepare_cached("SELECT head FROM audit")?
                .query_row((), |row| row.get(0))?;
            Ok(unseal(&sealer, head).map(|head| (head, pending)))
        })
        .await
}

fn records(lines: &[u8]) -> Option<Vec<Record>> {
    let lines = std::str::from_utf8(lines).ok()?.lines();
    lines.map(|line| serde_json::from_str(line).ok()).collect()
}

/// The log is so far now, and the records up to this row are in it.
pub(super) async fn carried(
    store: &Store,
    head: &Head,
    upto: Option<i64>,
) -> Result<(), Unavailable> {
    let bytes = serde_json::to_vec(head).unwrap_or_default();
    let sealed = store.sealer().seal(PLACE, &bytes);
    store
        .write(move |c| {
            c.prepare_cached("DELETE FROM audit_pending WHERE row <= ?1")?
                .execute([upto.unwrap_or(i64::MIN)])?;
            c.prepare_cached("UPDATE audit SET head = ?1, trouble = NULL, trouble_at = NULL")?
                .execute([&sealed])
                .map(drop)
        })
        .await
}

/// Notes whether the log can be written.
pub(super) async fn note_trouble(
    store: &Store,
    trouble: Option<String>,
    now: DateTime<Utc>,
) -> Result<(), Unavailable> {
    store
        .write(move |c| {
            c.prepare_cached(
                "UPDATE audit SET trouble = ?1,
                   trouble_at = CASE WHEN ?1 IS NULL THEN NULL ELSE coalesce(trouble_at, ?2) END",
            )?
            .execute((&trouble, now.timestamp_millis()))
            .map(drop)
        })
        .await
}

/// Notes the configuration of this start; makes `attested` of it where it is another one than last time.
pub(super) async fn note_config(
    store: &Store,
    digest: String,
    attested: Attested,
) -> Result<(), Unavailable> {
    store
        .write(move |c| {
            let is_new = c
                .prepare_cached("UPDATE audit SET config = ?1 WHERE config IS NOT ?1")?
                .execute([&digest])?
                > 0;
            if is_new { attested.insert(c) } else { Ok(()) }
        })
        .await
}

/// Lets the oldest records go that reach beyond `most` bytes, and puts `instead` of them in their place, made of their
/// number. A log that need not be written must not fill the disk of the ledger.
pub(super) async fn let_go(
    store: &Store,
    most: i64,
    instead: impl Fn(u64) -> Record + Send + 'static,
) -> Result<(), Unavailable> {
    store
        .write(move |c| {
            // The newest row that is beyond what may wait.
            let last: Option<i64> = c
                .prepare_cached(
                    "SELECT row FROM (SELECT row, sum(length(records)) OVER (ORDER BY row DESC) AS newer FROM audit_pending)
                     WHERE newer > ?1 ORDER BY row DESC LIMIT 1",
                )?
                .query_row([most], |row| row.get(0))
                .optional()?;
            let Some(last) = last else {
                return Ok(());
            };
            let lines = c
                .prepare_cached("SELECT records FROM audit_pending WHERE row <= ?1")?
                .query_map([last], |row| {
                    Ok(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned())
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let mut lost = 0;
            for record in lines.iter().flat_map(|lines| lines.lines()) {
                let record = serde_json::from_str::<Record>(record).ok();
                // What was let go before is counted on.
                let before = record.as_ref().and_then(|record| record.noted("lost")?.parse().ok());
                lost += before.unwrap_or(1_u64);
            }
            c.prepare_cached("DELETE FROM audit_pending WHERE row < ?1")?.execute([last])?;
            let line = serde_json::to_string(&instead(lost)).unwrap_or_default() + "\n";
            c.prepare_cached("UPDATE audit_pending SET records = ?1 WHERE row = ?2")?
                .execute((line, last))
                .map(drop)
        })
        .await
}

/// How the log stands.
pub async fn standing(store: &Store) -> Result<Standing, Unavailable> {
    let sealer = store.sealer().clone();
    store
        .read(move |c| {
            let waiting = c
                .prepare_cached(
                    "SELECT coalesce(sum(length(records) - length(replace(records, char(10), ''))), 0) FROM audit_pending",
                )?
                .query_row((), |row| row.get(0))?;
            c.prepare_cached("SELECT head, trouble, trouble_at FROM audit")?
                .query_row((), |row| {
                    let (trouble, at): (Option<String>, Option<i64>) = (row.get(1)?, row.get(2)?);
                    let at = at.and_then(DateTime::from_timestamp_millis).unwrap_or_default();
                    let (head, damaged) = match unseal(&sealer, row.get(0)?) {
                        Ok(head) => (head, None),
                        Err(damaged) => (None, Some(damaged.to_string())),
                    };
                    Ok(Standing {
                        head,
                        waiting,
                        trouble: damaged.or(trouble).map(|trouble| (trouble, at)),
                    })
                })
        })
        .await
}
