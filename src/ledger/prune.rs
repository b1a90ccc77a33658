//! Forgetting: an id that the vendor has not listed for 35 days can never be listed again (it lists 30).
//!
//! Pruned by *last listed*, never by age alone; never an event with an unsettled delivery; only while all clocks agree
//! (`clocks`); and never more than a tenth at once: a clock that jumped would purge the memory, and everything would be
//! delivered a second time.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;

use super::clocks::{self, Doubt, Watch};
use super::{Ledger, at, crosswalk, day, ms, numbers, order, output, parked, treatments};
use crate::store::Unavailable;

/// The vendor lists 30 days; five more are kept.
const KEPT_DAYS: i64 = 35;
/// No body is kept longer, whatever becomes of its deliveries.
const BODY_KEPT: TimeDelta = TimeDelta::days(30);
/// Why a delivery whose body had to go is given up.
const EXPIRED: &str = "not delivered within 30 days: its body is not kept longer, and Fullscript does not list it longer";
/// The most rows forgotten in one transaction.
const LARGEST_BATCH: usize = 1_000;
/// One run forgets at most a tenth of all events, and at least may forget so many: should every clock be wrong alike, the
/// log says so while nine tenths are still known.
const SHARE: usize = 10;
/// See [`SHARE`]: a small ledger need not take ten hours.
const ALWAYS: usize = 1_000;

/// Health data is not kept for a receiver that may never come back, nor for a sink that is not configured any more.
fn expire_bodies(c: &Connection, now: DateTime<Utc>) -> rusqlite::Result<()> {
    const OLD: &str = "SELECT event FROM body JOIN event USING (event) WHERE admitted_at < ?1";
    let before = ms(now - BODY_KEPT);
    let expired: Vec<i64> = c
        .prepare_cached(&format!(
            "UPDATE delivery SET state = 'dead', reason = ?2, settled_at = ?3
             WHERE (state = 'queued' AND event IN ({OLD}))
                OR delivery IN (SELECT p.delivery FROM parked p JOIN delivery d USING (delivery)
                                WHERE d.issued_at < ?1 AND why <> 'awaits_result')
             RETURNING delivery"
        ))?
        .query_map((before, EXPIRED, ms(now)), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    parked::tidy_all(c)?;
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
    Forgotten {
        /// How many.
        events: usize,
        /// That was as many as one run may: there are others.
        more: bool,
    },
    /// Nothing: the time is not known well enough.
    Doubted(Doubt),
}

impl Ledger {
    /// Forgets what may be forgotten, at most a tenth of all events. `watch` is what was heard of the clocks,
    /// `since_boot` is now.
    pub async fn prune(&self, watch: Watch, since_boot: TimeDelta) -> Result<Pruned, Unavailable> {
        let (agreed_at, events) = self
            .store
            .read(|c| {
                let agreed_at: Option<i64> =
                    c.query_row("SELECT agreed_at FROM instance", (), |row| row.get(0))?;
                let events = c.query_row("SELECT count(*) FROM event", (), |row| row.get(0))?;
                Ok((agreed_at.map(at), events))
            })
            .await?;
        let now = match clocks::judge(&watch, since_boot, agreed_at) {
            Ok(now) => now,
            Err(doubt) => return Ok(Pruned::Doubted(doubt)),
        };
        let most = most_at_once(events);
        let mut forgotten = 0;
        while forgotten < most {
            let batch = LARGEST_BATCH.min(most - forgotten);
            let count = self.store.write(move |c| forget(c, now, batch)).await?;
            forgotten += count;
            if count < batch {
                break;
            }
        }
        Ok(Pruned::Forgotten {
            events: forgotten,
            more: forgotten == most,
        })
    }
}

/// How many of so many events one run may forget.
fn most_at_once(events: usize) -> usize {
    ALWAYS.max(events / SHARE)
}

fn forget(c: &Connection, now: DateTime<Utc>, batch: usize) -> rusqlite::Result<usize> {
    expire_bodies(c, now)?;
    treatments::forget_posts(c, ms(now))?;
    crosswalk::forget(c, now)?;
    c.prepare_cached("UPDATE instance SET agreed_at = ?1")?
        .execute([ms(now)])?;
    c.prepare_cached(
        // Events are numbered in the order in which they were admitted: the first that is not old ends the
        // search, which therefore needs no index that every admission would have to write.
        "DELETE FROM event WHERE event IN (
           SELECT event FROM event e
           WHERE listed_day < ?1 AND created_at < ?2
             AND event < coalesce((SELECT event FROM event WHERE admitted_at >= ?2 ORDER BY event LIMIT 1), 9223372036854775807)
             AND NOT EXISTS
             (SELECT 1 FROM delivery d WHERE d.event = e.event AND d.state NOT IN ('done', 'skipped'))
             -- A frame goes when its own time has come, and moves the floor; out of the middle it would be skipped in silence.
             AND NOT EXISTS
             (SELECT 1 FROM delivery d JOIN frame f ON f.delivery = d.delivery WHERE d.event = e.event)
           LIMIT ?3)",
    )?
    .execute((day(now) - KEPT_DAYS, ms(now - TimeDelta::days(KEPT_DAYS)), batch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Owner, SealKey};

    #[test]
    fn one_run_forgets_a_tenth_and_a_small_ledger_is_not_held_up() {
        for (events, most) in [(0, 1_000), (999, 1_000), (10_000, 1_000), (500_000, 50_000)] {
            assert_eq!(most_at_once(events), most, "{events}");
        }
    }

    #[tokio::test]
    async fn an_event_whose_frame_is_kept_is_not_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("state");
        let owner = Owner::take(&at, "app", &SealKey::generate()).unwrap();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let forgotten = owner.store().write(move |c| {
            c.execute_batch(
                "INSERT INTO event (event, id, type, created_at, lane, admitted_at, listed_day, found_by)
                 VALUES (1, 'e', 'order.placed', 0, 1, 0, 0, 'fast');
                 INSERT INTO delivery (delivery, event, sink, lane, through, state, due_at, issued_at)
                 VALUES (1, 1, 1, 1, 1, 'done', 0, 0);
                 INSERT INTO frame (delivery, id, type, created_at, clinic, replay, made_at, kept_until)
                 VALUES (1, 'e', 'order.placed', 0, 'oak', 0, 0, 0)",
            )?;
            let kept = forget(c, now, 10)?;
            c.execute("DELETE FROM frame", ())?;
            Ok((kept, forget(c, now, 10)?))
        });
        assert_eq!(forgotten.await.unwrap(), (0, 1));
    }
}
