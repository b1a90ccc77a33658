//! What EMRs were sent as treatments: so that none is entered twice, and a late result finds what it is about.
//!
//! Invariants: a treatment's row is durable before the post that may make it known; it is taken back only by a post that
//! has certainly had no effect, to what it was before that post; `billed` never changes while the row is there. No message
//! of an older event is sent behind one of a newer. A guid is Fullscript's: it is the same treatment whatever its clinic is
//! called. A ledger that has lost some of its past takes what it does not know for sent. What an EMR says is kept sealed, as it
//! may repeat health data, and no longer than what programs say (`output`).

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use rusqlite::vtab::array::Array;
use rusqlite::{Connection, OptionalExtension};

use super::{Ledger, damaged, ms, output, parked};
use crate::domain::{ClinicName, DeliveryId, Output};
use crate::sinks::{Ended, Post, Sending, Told, Treatments, Unnoted};
use crate::store::{Epoch, Sealer, Unavailable};

/// Fullscript's clock, which dates events, may be ahead of ours by so much.
const AHEAD: TimeDelta = TimeDelta::minutes(5);

/// How long a post is remembered for late results that come after their deadline, in milliseconds: longer than any
/// deadline, and a delivery's memory behind it.
const POSTS_KEPT: i64 = 65 * 86_400_000;

/// What is said of a delivery of which the EMR refused something later.
const REJECTED: &str = "accepted, and refused by the receiver's late result";

/// What is known of a treatment in a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    /// It may have arrived.
    Sending,
    /// It was accepted.
    Sent,
    /// The EMR has entered it.
    Confirmed,
    /// The EMR has refused it.
    Rejected,
}

impl ItemState {
    const ALL: [(&str, Self); 4] = [
        ("sending", Self::Sending),
        ("sent", Self::Sent),
        ("confirmed", Self::Confirmed),
        ("rejected", Self::Rejected),
    ];
}

/// A treatment in a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostedItem {
    /// `<plan or order id>:<variant id>`.
    pub guid: String,
    /// The delivery that carried it.
    pub delivery: DeliveryId,
    /// What is known of it.
    pub state: ItemState,
}

/// A post that carried treatments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostedBatch {
    /// By which sink.
    pub sink: String,
    /// Whose they are: nobody else's result is heard.
    pub clinic: ClinicName,
    /// What it carried, by guid.
    pub items: Vec<PostedItem>,
}

impl Treatments for Ledger {
    fn sending(&self, post: Post) -> BoxFuture<'_, Result<Vec<Told>, Unnoted>> {
        Box::pin(async move {
            let epoch = self.epoch;
            let told = self.store.write(move |c| sending(c, &post, epoch));
            let told = told.await.map_err(|error| Unnoted(error.to_string()))?;
            told.ok_or_else(|| Unnoted("another process owns the ledger".to_owned()))
        })
    }

    fn ended(&self, post: Post, ended: Ended) -> BoxFuture<'_, Result<(), Unnoted>> {
        Box::pin(async move {
            let epoch = self.epoch;
            let noted = self.store.write(move |c| {
                if is_owner(c, epoch)? {
                    end(c, &post, ended)?;
                }
                Ok(())
            });
            noted.await.map_err(|error| Unnoted(error.to_string()))
        })
    }
}

impl Ledger {
    /// The post that a late result names, if it is remembered.
    pub async fn batch(&self, batch: String) -> Result<Option<PostedBatch>, Unavailable> {
        self.store.read(move |c| batch_of(c, &batch)).await
    }

    /// The EMR has entered these treatments of a post. A delivery all of whose treatments are entered is done, if it has
    /// awaited that. Gives how many deliveries were concluded.
    pub async fn confirm(
        &self,
        batch: String,
        guids: Vec<String>,
        now: DateTime<Utc>,
    ) -> Result<usize, Unavailable> {
        let sealer = self.store.sealer().clone();
        self.store
            .write(move |c| {
                for guid in &guids {
                    c.prepare_cached(
                        "UPDATE sfs_carried SET state = 'confirmed'
                         WHERE batch = ?1 AND guid = ?2 AND state <> 'rejected'",
                    )?
                    .execute((&batch, guid))?;
                }
                conclude_of(c, &sealer, &batch, now)
            })
            .await
    }

    /// The EMR has refused a treatment of a post: its delivery is dead, if it has awaited a result, and what the EMR says
    /// is kept with it. Gives how many deliveries were concluded.
    pub async fn reject(
        &self,
        batch: String,
        guid: String,
        message: String,
        now: DateTime<Utc>,
    ) -> Result<usize, Unavailable> {
        let sealer = self.store.sealer().clone();
        self.store
            .write(move |c| {
                let sealed = sealer.seal(&place(&batch, &guid), message.as_bytes());
                // Of what needs nobody any more, nothing is kept.
                c.prepare_cached(&format!(
                    "UPDATE sfs_carried SET state = 'rejected', message = iif({IS_OVER}, NULL, ?3)
                     WHERE batch = ?1 AND guid = ?2",
                ))?
                .execute((&batch, &guid, sealed))?;
                conclude_of(c, &sealer, &batch, now)
            })
            .await
    }
}

/// Ends those deliveries of a post whose results are known; gives how many.
fn conclude_of(
    c: &Connection,
    sealer: &Sealer,
    batch: &str,
    now: DateTime<Utc>,
) -> rusqlite::Result<usize> {
    let carried: Vec<i64> = c
        .prepare_cached("SELECT DISTINCT delivery FROM sfs_carried WHERE batch = ?1")?
        .query_map([batch], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut concluded = 0;
    for delivery in carried {
        concluded += usize::from(conclude(c, sealer, DeliveryId(delivery), now)?);
    }
    Ok(concluded)
}

/// Ends a delivery that awaits its results, if they are known. All that its last attempt has sent counts, in however many
/// posts. Also asked when it begins to wait: a result may be here before the record of what it is about.
pub(super) fn conclude(
    c: &Connection,
    sealer: &Sealer,
    delivery: DeliveryId,
    now: DateTime<Utc>,
) -> rusqlite::Result<bool> {
    let is_awaiting = c
        .prepare_cached("SELECT 1 FROM parked WHERE delivery = ?1 AND why = 'awaits_result'")?
        .exists([delivery.0])?;
    if !is_awaiting {
        return Ok(false);
    }
    let (carried, entered, refused): (u32, u32, u32) = c
        .prepare_cached(
            "SELECT count(*), sum(state = 'confirmed'), sum(state = 'rejected')
             FROM sfs_carried JOIN sfs_post USING (batch) WHERE delivery = ?1 AND posted_at =
               (SELECT max(posted_at) FROM sfs_carried JOIN sfs_post USING (batch) WHERE delivery = ?1)",
        )?
        .query_row([delivery.0], |row| {
            // There is no sum of nothing.
            let sum = |column| row.get::<_, Option<u32>>(column).map(Option::unwrap_or_default);
            Ok((row.get(0)?, sum(1)?, sum(2)?))
        })?;
    if refused > 0 {
        parked::conclude(c, &[delivery.0], "dead", Some(REJECTED), now)?;
        let said = said_of(c, sealer, delivery)?;
        output::keep(c, sealer, delivery, &said)?;
    } else if carried > 0 && carried == entered {
        parked::conclude(c, &[delivery.0], "done", None, now)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn is_owner(c: &Connection, epoch: Epoch) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT epoch = ?1 FROM instance")?
        .query_row([epoch.0], |row| row.get(0))
}

/// `None`: another owner has begun its epoch.
fn sending(c: &Connection, post: &Post, epoch: Epoch) -> rusqlite::Result<Option<Vec<Told>>> {
    if !is_owner(c, epoch)? {
        return Ok(None);
    }
    let told = post.items.iter().map(|item| told(c, post, item));
    let told: Vec<Told> = told.collect::<rusqlite::Result<_>>()?;
    let going = || {
        let both = post.items.iter().zip(&told);
        both.filter(|(_, told)| **told != Told::Later)
            .map(|(item, _)| item)
    };
    for item in going() {
        c.prepare_cached(
            "INSERT INTO sfs_item (sink, guid, billed, state, created_at, event)
             SELECT sink, ?2, ?3, 'sending', ?4, ?5 FROM sink WHERE name = ?1
             ON CONFLICT DO UPDATE SET was = state, was_created_at = created_at, was_event = event,
               state = 'sending', created_at = excluded.created_at, event = excluded.event",
        )?
        .execute((
            post.sink.as_str(),
            &item.guid,
            item.billed,
            ms(item.created_at),
            item.event.as_str(),
        ))?;
    }
    c.prepare_cached(
        "INSERT INTO sfs_post (batch, sink, clinic, posted_at, deadline)
         SELECT ?2, sink, ?3, ?4, ?5 FROM sink WHERE name = ?1
         ON CONFLICT DO UPDATE SET posted_at = excluded.posted_at, deadline = excluded.deadline",
    )?
    .execute((
        post.sink.as_str(),
        &post.batch,
        post.clinic.as_str(),
        ms(post.posted_at),
        post.deadline.map(ms),
    ))?;
    for item in going() {
        c.prepare_cached(
            "INSERT OR REPLACE INTO sfs_carried (batch, guid, delivery, state) VALUES (?1, ?2, ?3, 'sending')",
        )?
        .execute((&post.batch, &item.guid, item.delivery.0))?;
    }
    Ok(Some(told))
}

fn told(c: &Connection, post: &Post, item: &Sending) -> rusqlite::Result<Told> {
    let known = c
        .prepare_cached(
            "SELECT billed, (created_at, event) > (?3, ?4) FROM sfs_item JOIN sink USING (sink)
             WHERE name = ?1 AND guid = ?2",
        )?
        .query_row(
            (
                post.sink.as_str(),
                &item.guid,
                ms(item.created_at),
                item.event.as_str(),
            ),
            |row| {
                let billed = row.get(0)?;
                let is_older = row.get(1)?;
                Ok(if is_older {
                    Told::Later
                } else {
                    Told::Before { billed }
                })
            },
        )
        .optional()?;
    Ok(match known {
        Some(told) => told,
        None if is_forgotten(c, item)? => Told::Before {
            billed: item.billed,
        },
        None => Told::Never,
    })
}

/// Whether a message about an unknown treatment may have been sent and forgotten: this ledger was restored from a backup,
/// or has taken a lost one's place. What a plan or order begins with that was made since is certainly new.
fn is_forgotten(c: &Connection, item: &Sending) -> rusqlite::Result<bool> {
    // The first event that a new ledger admits stands for its beginning; where that is pruned, the oldest one that is
    // known, which errs towards `forgotten`.
    let (restored, began): (Option<i64>, Option<i64>) = c
        .prepare_cached(
            "SELECT restored_until, CASE
               WHEN accepted IS NOT NULL OR EXISTS (SELECT 1 FROM lane WHERE after_loss IS NOT NULL)
               THEN coalesce((SELECT admitted_at FROM event ORDER BY event LIMIT 1) + ?1, 9223372036854775807) END
             FROM instance",
        )?
        .query_row([AHEAD.num_milliseconds()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(restored
        .max(began)
        .is_some_and(|until| !item.begins || ms(item.created_at) < until))
}

fn end(c: &Connection, post: &Post, ended: Ended) -> rusqlite::Result<()> {
    const OF: &str =
        "sink = (SELECT sink FROM sink WHERE name = ?1) AND guid = ?2 AND state = 'sending'";
    for item in &post.items {
        let row = (post.sink.as_str(), &item.guid);
        match ended {
            Ended::Accepted => {
                c.prepare_cached(&format!("UPDATE sfs_item SET state = 'sent' WHERE {OF}"))?
                    .execute(row)?;
                c.prepare_cached(
                    "UPDATE sfs_carried SET state = 'sent' WHERE batch = ?1 AND guid = ?2 AND state = 'sending'",
                )?
                .execute((&post.batch, &item.guid))?;
            }
            Ended::Refused => {
                c.prepare_cached(&format!("DELETE FROM sfs_item WHERE {OF} AND was IS NULL"))?
                    .execute(row)?;
                c.prepare_cached(&format!(
                    "UPDATE sfs_item SET state = was, created_at = was_created_at, event = was_event WHERE {OF}"
                ))?
                .execute(row)?;
            }
        }
    }
    if ended == Ended::Refused {
        // It has no results; and what it carried is in other posts of this attempt.
        c.prepare_cached("DELETE FROM sfs_post WHERE batch = ?1")?
            .execute([&post.batch])?;
    }
    Ok(())
}

fn batch_of(c: &Connection, batch: &str) -> rusqlite::Result<Option<PostedBatch>> {
    let owner = c
        .prepare_cached(
            "SELECT name, clinic FROM sfs_post JOIN sink USING (sink) WHERE batch = ?1",
        )?
        .query_row([batch], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((sink, clinic)) = owner else {
        return Ok(None);
    };
    let clinic = ClinicName::new(clinic).map_err(|_| damaged(1, "a malformed clinic name"))?;
    let items = c
        .prepare_cached("SELECT guid, delivery, state FROM sfs_carried WHERE batch = ?1")?
        .query_map([batch], |row| {
            let word: String = row.get(2)?;
            let state = ItemState::ALL.iter().find(|(known, _)| *known == word);
            Ok(PostedItem {
                guid: row.get(0)?,
                delivery: DeliveryId(row.get(1)?),
                state: state.ok_or_else(|| damaged(2, "an unknown state"))?.1,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(PostedBatch {
        sink,
        clinic,
        items,
    }))
}

/// Where a message is sealed to: it opens only as what was said of that treatment.
fn place(batch: &str, guid: &str) -> String {
    format!("sfs/{batch}/{guid}")
}

/// All that was said of a delivery's refused treatments.
fn said_of(c: &Connection, sealer: &Sealer, delivery: DeliveryId) -> rusqlite::Result<Output> {
    let mut said = Output::default();
    let mut statement = c.prepare_cached(
        "SELECT batch, guid, message FROM sfs_carried WHERE delivery = ?1 AND message IS NOT NULL ORDER BY guid",
    )?;
    let mut rows = statement.query([delivery.0])?;
    while let Some(row) = rows.next()? {
        let (batch, guid): (String, String) = (row.get(0)?, row.get(1)?);
        let sealed: Vec<u8> = row.get(2)?;
        let message = sealer.open(&place(&batch, &guid), &sealed);
        let message = message.and_then(crate::store::Opened::into_text);
        let message = message.unwrap_or_else(|_| "(damaged)".to_owned());
        said.push(format!("{guid}: {message}\n").as_bytes());
    }
    Ok(said)
}

/// Of what was carried: its delivery needs nobody any more.
const IS_OVER: &str = "NOT EXISTS (SELECT 1 FROM delivery d WHERE d.delivery = sfs_carried.delivery
                         AND d.state <> 'done' AND d.state <> 'skipped')";

/// Drops what EMRs have said of those of these deliveries that need nobody any more.
pub(super) fn forget_words(c: &Connection, deliveries: &Array) -> rusqlite::Result<()> {
    c.prepare_cached(&format!(
        "UPDATE sfs_carried SET message = NULL
         WHERE delivery IN rarray(?1) AND message IS NOT NULL AND {IS_OVER}"
    ))?
    .execute([deliveries])
    .map(drop)
}

/// Drops what EMRs have said of events that were admitted before `before`, in milliseconds.
pub(super) fn expire_words(c: &Connection, before: i64) -> rusqlite::Result<()> {
    c.prepare_cached(
        "UPDATE sfs_carried SET message = NULL WHERE message IS NOT NULL AND NOT EXISTS
           (SELECT 1 FROM delivery d JOIN event e USING (event)
            WHERE d.delivery = sfs_carried.delivery AND (d.state = 'claimed' OR e.admitted_at >= ?1))",
    )?
    .execute([before])
    .map(drop)
}

/// Forgets posts whose late results nobody waits for any more. `now` in milliseconds.
pub(super) fn forget_posts(c: &Connection, now: i64) -> rusqlite::Result<()> {
    c.prepare_cached("DELETE FROM sfs_post WHERE posted_at < ?1")?
        .execute([now - POSTS_KEPT])
        .map(drop)
}

/// Which sinks remember treatments.
pub(super) fn rememberers(c: &Connection) -> rusqlite::Result<Vec<String>> {
    c.prepare(
        "SELECT name FROM sink WHERE EXISTS (SELECT 1 FROM sfs_item i WHERE i.sink = sink.sink)",
    )?
    .query_map((), |row| row.get(0))?
    .collect()
}

/// Forgets all that a sink has sent.
pub(super) fn forget_sink(c: &Connection, sink: i64) -> rusqlite::Result<()> {
    c.execute("DELETE FROM sfs_item WHERE sink = ?1", [sink])?;
    c.execute("DELETE FROM sfs_post WHERE sink = ?1", [sink])
        .map(drop)
}

/// What one sink has sent, another now answers for: its deliveries go there. Of what both have sent, the newer stands;
/// `billed` is as the heir said it.
pub(super) fn reassign(c: &Connection, from: i64, to: i64) -> rusqlite::Result<()> {
    c.execute(
        "INSERT INTO sfs_item (sink, guid, billed, state, created_at, event)
         SELECT ?1, guid, billed, state, created_at, event FROM sfs_item WHERE sink = ?2
         ON CONFLICT DO UPDATE SET created_at = excluded.created_at, event = excluded.event, state = excluded.state
         WHERE (excluded.created_at, excluded.event) > (created_at, event)",
        (to, from),
    )?;
    c.execute("DELETE FROM sfs_item WHERE sink = ?1", [from])?;
    c.execute("UPDATE sfs_post SET sink = ?1 WHERE sink = ?2", (to, from))
        .map(drop)
}
