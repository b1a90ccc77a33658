//! Forgetting: an id that the vendor has not listed for 35 days can never be listed again (it lists 30).
//!
//! Pruned by *last listed*, never by age alone; never an event with an unsettled delivery; and only when the caller
//! has just heard from the vendor that the clocks agree: a clock that jumped would purge the memory, and everything
//! would be delivered a second time.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;

use super::{Ledger, day, ms, numbers, order, output};
use crate::store::Unavailable;

/// The vendor lists 30 days; five more are kept.
const KEPT_DAYS: i64 = 35;
/// No body is kept longer, whatever becomes of its deliveries.
const BODY_KEPT: TimeDelta = TimeDelta::days(30);
/// Why a delivery whose body had to go is given up.
const EXPIRED: &str = "not delivered within 30 days: its body is not kept longer, and Fullscript does not list it longer";
/// The most rows forgotten in one transaction.
const LARGEST_BATCH: u32 = 1_000;
/// Clocks that differ by more than this do not agree.
const CLOCKS_AGREE: TimeDelta = TimeDelta::hours(1);

/// Health data is not kept for a receiver that may never come back, nor for a sink that is not configured any more.
fn expire_bodies(c: &Connection, now: DateTime<Utc>) -> rusqlite::Result<()> {
    const OLD: &str = "SELECT event FROM body JOIN event USING (event) WHERE admitted_at < ?1";
    let before = ms(now - BODY_KEPT);
    let expired: Vec<i64> = c
        .prepare_cached(&format!(
            "UPDATE delivery SET state = 'dead', reason = ?2, settled_at = ?3 WHERE state = 'queued' AND event IN ({OLD})
             RETURNING delivery"
        ))?
        .query_map((before, EXPIRED, ms(now)), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    order::next_in_line(c, &numbers(expired))?;
    c.prepare_cached(&format!(
        "DELETE FROM body WHERE event IN ({OLD}) AND NOT EXISTS
           (SELECT 1 FROM delivery d WHERE d.event = body.event AND d.state = 'claimed')"
    ))?
    .execute([before])?;
    output::expire(c, before)
}

/// What pruning did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pruned {
    /// So many events were forgotten.
    Forgotten(usize),
    /// Nothing: this machine's clock and the vendor's disagree.
    ClocksDisagree,
}

impl Ledger {
    /// Forgets a batch. `server_now` is the `Date` of a reply that has just come.
    pub async fn prune(
        &self,
        now: DateTime<Utc>,
        server_now: DateTime<Utc>,
    ) -> Result<Pruned, Unavailable> {
        if (now - server_now).abs() > CLOCKS_AGREE {
            return Ok(Pruned::ClocksDisagree);
        }
        let earlier = now.min(server_now);
        let before = day(earlier) - KEPT_DAYS;
        let created_before = ms(earlier - TimeDelta::days(KEPT_DAYS));
        self.store
            .write(move |c| {
                expire_bodies(c, earlier)?;
                c.prepare_cached(
                    // Events are numbered in the order in which they were admitted: the first that is not old ends the
                    // search, which therefore needs no index that every admission would have to write.
                    "DELETE FROM event WHERE event IN (
                       SELECT event FROM event e
                       WHERE listed_day < ?1 AND created_at < ?2
                         AND event < coalesce((SELECT event FROM event WHERE admitted_at >= ?2 ORDER BY event LIMIT 1), 9223372036854775807)
                         AND NOT EXISTS
                         (SELECT 1 FROM delivery d WHERE d.event = e.event AND d.state NOT IN ('done', 'skipped'))
                       LIMIT ?3)",
                )?
                .execute((before, created_before, LARGEST_BATCH))
                .map(Pruned::Forgotten)
            })
            .await
    }
}
