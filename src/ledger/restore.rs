//! A ledger that was restored from a backup: what it knows ends with the backup, what was delivered does not.
//!
//! So whatever may have been delivered in between is held until a person says: what was owed when the backup was made,
//! and every event from before the restore that this ledger has never seen. Of what an exact sink was owed its own file
//! knows: that is taken for claimed, and the sink says at its start what it shows.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;

use super::{Ledger, SinkId, at, attest, frames, ms, numbers, parked};
use crate::audit::Audit;
use crate::store::Unavailable;

/// Fullscript's clock, which dates events, may be ahead of ours by so much.
const AHEAD: TimeDelta = TimeDelta::minutes(5);

/// What came of a restore that was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// When the backup was made, to the minute, as far as is known.
    pub of: Option<DateTime<Utc>>,
    /// Deliveries that were owed then, and are held now.
    pub held: usize,
    /// Deliveries of exact sinks that were owed then: the sinks look for them.
    pub looked_for: usize,
}

/// What the ledger does not know, and somebody may have.
#[derive(Clone, Debug)]
pub(super) struct Unknown {
    /// Events that were created before this may have been delivered.
    pub(super) until: DateTime<Utc>,
    /// Why they are held.
    pub(super) reason: String,
}

impl Ledger {
    /// A start: the ledger is alive at `now`. If it was restored from a backup, which is told once, what may have been
    /// delivered since is held; `exact` are the sinks that know themselves.
    pub async fn wake(
        &self,
        exact: Vec<SinkId>,
        now: DateTime<Utc>,
    ) -> Result<Option<Restored>, Unavailable> {
        let audit = self.audit.clone();
        self.store
            .write(move |c| wake(c, &audit, &exact, now))
            .await
    }
}

fn wake(
    c: &Connection,
    audit: &Audit,
    exact: &[SinkId],
    now: DateTime<Utc>,
) -> rusqlite::Result<Option<Restored>> {
    let (restored, alive_at): (bool, Option<i64>) =
        c.query_row("SELECT restored, alive_at FROM instance", (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    c.execute("UPDATE instance SET restored = 0, alive_at = ?1", [ms(now)])?;
    if !restored {
        return Ok(None);
    }
    frames::begin_anew(c)?;
    c.execute(
        "UPDATE instance SET restored_of = ?1, restored_until = ?2",
        (alive_at, ms(now + AHEAD)),
    )?;
    let exact = numbers(exact.iter().map(|sink| sink.0));
    // Owner 0 is nobody: what was queued has no attempt that could have ended.
    let looked_for = c.execute(
        "UPDATE delivery SET epoch = CASE state WHEN 'queued' THEN 0 ELSE coalesce(epoch, 0) END, state = 'claimed'
         WHERE (state = 'queued' OR state = 'claimed') AND sink IN rarray(?1)",
        [&exact],
    )?;
    let held = ("d.sink NOT IN rarray(?1)", [&exact]);
    attest::left(c, audit, held, "after_restore", now)?;
    let held = c.execute(
        "UPDATE delivery SET state = 'held', reason = ?1, settled_at = ?2
         WHERE (state = 'queued' OR state = 'claimed' OR state = 'parked') AND sink NOT IN rarray(?3)",
        (reason(alive_at.map(at)), ms(now), exact),
    )?;
    parked::tidy_all(c)?;
    Ok(Some(Restored {
        of: alive_at.map(at),
        held,
        looked_for,
    }))
}

/// What a restored ledger does not know; `None` if this one never was restored.
pub(super) fn unknown(c: &Connection) -> rusqlite::Result<Option<Unknown>> {
    c.prepare_cached("SELECT restored_until, restored_of FROM instance")?
        .query_row((), |row| {
            let until: Option<i64> = row.get(0)?;
            let of: Option<i64> = row.get(1)?;
            Ok(until.map(|until| Unknown {
                until: at(until),
                reason: reason(of.map(at)),
            }))
        })
}

fn reason(of: Option<DateTime<Utc>>) -> String {
    let of = of.map_or("an unknown time".to_owned(), |of| {
        of.format("%FT%TZ").to_string()
    });
    format!("the ledger was restored from a backup of {of}: this may have been delivered since")
}
