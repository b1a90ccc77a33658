//! Before and during a refresh: the intent, which keeps other processes out and proves that the store can be written,
//! and the reply that is not parsed yet.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::OptionalExtension;
use rustix::process::{Pid, getpid, test_kill_process};

use super::Vault;
use super::rows::reply_place;
use crate::domain::ClinicName;
use crate::store::Unavailable;
use crate::token::exchange::RawReply;

/// How long another process that refreshes a grant is waited for: longer than its calls can take.
const LEASE: TimeDelta = TimeDelta::minutes(2);

/// Who may refresh now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::token) enum Intent {
    /// This process: the intent is on disk.
    Ours,
    /// Another living process.
    Elsewhere,
}

impl Vault {
    /// Proves that the store can be written, before Fullscript is asked for tokens that would have to be kept.
    pub(in crate::token) async fn probe(&self) -> Result<(), Unavailable> {
        self.store
            .write(|c| c.execute("UPDATE instance SET epoch = epoch", ()).map(drop))
            .await
    }

    /// Writes down that this process is about to refresh the grant, which also proves that the store can be written.
    /// Another living process may be at it already.
    pub(in crate::token) async fn intend(
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

    /// Takes the intent back: nothing was called.
    pub(in crate::token) async fn relent(&self, clinic: &ClinicName) -> Result<(), Unavailable> {
        let name = clinic.as_str().to_owned();
        self.store
            .write(move |c| {
                c.execute(
                    "UPDATE grant SET intent_holder = NULL, intent_until = NULL
                     WHERE clinic = ?1 AND intent_holder = ?2",
                    (&name, me()),
                )
                .map(drop)
            })
            .await
    }

    /// Keeps a reply that is not parsed yet.
    pub(in crate::token) async fn keep_reply(
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
                    (&name, &sealed, me()),
                )
                .map(drop)
            })
            .await
    }

    /// The reply that was kept and never parsed, if there is one.
    pub(in crate::token) async fn kept_reply(
        &self,
        clinic: &ClinicName,
    ) -> Result<Option<RawReply>, Unavailable> {
        let name = clinic.as_str().to_owned();
        let sealed: Option<Vec<u8>> = self
            .store
            .read(move |c| {
                c.query_row(
                    "SELECT reply FROM grant WHERE clinic = ?1",
                    [&name],
                    |row| row.get(0),
                )
                .optional()
            })
            .await?
            .flatten();
        Ok(sealed.and_then(|sealed| {
            let opened = self.store.sealer().open(&reply_place(clinic), &sealed);
            opened.ok().map(|reply| RawReply(reply.bytes().to_vec()))
        }))
    }
}

/// This process.
pub(super) fn me() -> i32 {
    getpid().as_raw_nonzero().get()
}

/// Whether a process other than this one has this id. One that may not be signalled lives too.
fn is_another_living_process(pid: i32) -> bool {
    pid != me()
        && Pid::from_raw(pid).is_some_and(
            |pid| !matches!(test_kill_process(pid), Err(error) if error == rustix::io::Errno::SRCH),
        )
}
