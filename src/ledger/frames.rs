//! The frames of the live subscription: made by the sink `stream`, read by whoever serves them.
//!
//! 1. A frame's number is given in the transaction that makes it servable, by the one thread that writes: no reader
//!    ever sees a number and later a smaller one. An event that is fetched late simply comes late.
//! 2. A delivery has one frame at most.
//! 3. What is forgotten is a beginning: all up to `floor`. A cursor below it is told so, and never skips silently.
//! 4. The epoch changes when a restore is noticed; a new ledger has another one.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use ring::hmac;
use rusqlite::{Connection, Row};

use super::{Ledger, at, damaged, ms, numbers};
use crate::domain::{ClinicId, ClinicName, DeliveryId, EventBody, EventId, EventType};
use crate::sinks::{Frames, NewFrame};
use crate::store::{Epoch, Reader, Sealer, Store, Unavailable};

/// One read takes no more sealed bodies than this, in bytes, but always one frame.
const LARGEST_PAGE: usize = 1 << 20;
/// The most frames forgotten in one transaction: others wait for it.
const LARGEST_BATCH: usize = 1_000;

/// A frame as it is kept. Health data only in what is sealed.
pub struct FrameRow {
    /// Its number.
    pub seq: i64,
    /// The event's id.
    pub event: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// When it happened, by the vendor's clock.
    pub created_at: DateTime<Utc>,
    /// The clinic by its name in the configuration.
    pub clinic: ClinicName,
    /// The clinic by Fullscript's id, where the event has one.
    pub clinic_id: Option<ClinicId>,
    /// A keyed digest of the patient's id ([`IdDigest`]).
    pub patient: Option<String>,
    /// A digest of the id of what it happened to.
    pub entity: Option<String>,
    /// Whether a person has sent it again.
    pub replay: bool,
    delivery: DeliveryId,
    sealed: Option<Vec<u8>>,
}

/// What can be read at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which count of frames this is.
    pub epoch: String,
    /// Frames up to this number are forgotten.
    pub floor: i64,
    /// The newest number that was ever given.
    pub head: i64,
}

/// Frames in their order, and what could be read at that moment.
pub struct FramePage {
    /// What could be read.
    pub extent: Extent,
    /// The frames.
    pub frames: Vec<FrameRow>,
}

/// What stands for an id in a frame's row, where only equality is asked for. Keyed: whoever has the ledger and not the seal
/// key cannot try out whose frame it is.
pub struct IdDigest(hmac::Key);

impl IdDigest {
    fn new(sealer: &Sealer) -> Self {
        Self(sealer.derived("frame id"))
    }

    /// Of one id.
    pub fn of(&self, id: &str) -> String {
        let tag = hmac::sign(&self.0, id.as_bytes());
        hex::encode(tag.as_ref().get(..16).unwrap_or_default())
    }
}

/// Reads frames over a connection of its own: many subscribers that catch up never hold back polling or delivery. Cheap
/// to clone.
#[derive(Clone)]
pub struct FrameLog(Reader);

impl FrameLog {
    /// The frames of a store.
    pub fn open(store: &Store) -> Result<Self, crate::store::OpenError> {
        store.reader("stream-read").map(Self)
    }

    /// What can be read at the moment.
    pub async fn extent(&self) -> Result<Extent, Unavailable> {
        self.0.read(extent).await
    }

    /// What makes of ids what frames have in their place.
    pub fn id_digest(&self) -> IdDigest {
        IdDigest::new(self.0.sealer())
    }

    /// At most `limit` frames behind `position`.
    pub async fn after(&self, position: i64, limit: usize) -> Result<FramePage, Unavailable> {
        self.0.read(move |c| page(c, position, limit)).await
    }

    /// The Fullscript ids of clinics, by their names here, as far as logins have told them.
    pub async fn clinic_ids(&self) -> Result<Vec<(String, String)>, Unavailable> {
        self.0
            .read(|c| {
                c.prepare_cached("SELECT clinic, clinic_id FROM grant WHERE clinic_id IS NOT NULL")?
                    .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .await
    }

    /// The event of a frame, where it is kept and opens.
    pub fn body(&self, frame: &FrameRow) -> Option<EventBody> {
        let sealed = frame.sealed.as_deref()?;
        let opened = self.0.sealer().open(&place(frame.delivery), sealed).ok()?;
        opened.into_text().ok().map(EventBody::from_json)
    }
}

impl Ledger {
    /// Forgets frames whose time is over. `now` is the machine's: a clock that is wrong forgets early, and whoever asks
    /// for what is gone is told so.
    pub async fn prune_frames(&self, now: DateTime<Utc>) -> Result<usize, Unavailable> {
        let mut forgotten = 0;
        loop {
            let count = self.store.write(move |c| prune(c, now)).await?;
            forgotten += count;
            if count < LARGEST_BATCH {
                return Ok(forgotten);
            }
        }
    }

    /// What is kept already obeys what the configuration says now: no longer than `retain`, and without bodies where
    /// there shall be none.
    pub async fn keep_frames(
        &self,
        retain: TimeDelta,
        bodies: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Unavailable> {
        let retain = retain.num_milliseconds();
        self.store
            .write(move |c| {
                // Each start would read all of them otherwise.
                if c.execute("UPDATE stream SET retain = ?1 WHERE retain IS NOT ?1", [retain])? > 0 {
                    c.execute(
                        "UPDATE frame SET kept_until = made_at + ?1 WHERE kept_until > made_at + ?1",
                        [retain],
                    )?;
                }
                if !bodies {
                    c.execute(
                        "UPDATE frame SET sealed = NULL WHERE sealed IS NOT NULL",
                        (),
                    )?;
                }
                Ok(())
            })
            .await?;
        self.prune_frames(now).await.map(drop)
    }
}

impl Frames for Ledger {
    fn append(&self, frames: Vec<NewFrame>) -> BoxFuture<'_, Result<(), String>> {
        let sealer = self.store.sealer().clone();
        let epoch = self.epoch;
        let appended = self
            .store
            .write(move |c| append(c, &sealer, epoch, &frames));
        Box::pin(async move { appended.await.map_err(|error| error.to_string()) })
    }

    fn shown(
        &self,
        deliveries: Vec<DeliveryId>,
    ) -> BoxFuture<'_, Result<HashSet<DeliveryId>, String>> {
        let shown = self.store.read(move |c| {
            let deliveries = numbers(deliveries.iter().map(|delivery| delivery.0));
            c.prepare_cached("SELECT delivery FROM frame WHERE delivery IN rarray(?1)")?
                .query_map([deliveries], |row| row.get(0).map(DeliveryId))?
                .collect()
        });
        Box::pin(async move { shown.await.map_err(|error| error.to_string()) })
    }
}

/// Where the event of a frame is sealed to: it opens only in its own row.
fn place(delivery: DeliveryId) -> String {
    format!("frame/{delivery}")
}

fn append(
    c: &Connection,
    sealer: &Sealer,
    epoch: Epoch,
    frames: &[NewFrame],
) -> rusqlite::Result<()> {
    let mut insert = c.prepare_cached(
        "INSERT INTO frame
           (delivery, id, type, created_at, clinic, clinic_id, patient, entity, replay, sealed, made_at, kept_until)
         SELECT delivery, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ordinal > 1, ?9, ?10, ?11 FROM delivery
         WHERE delivery = ?1 AND state = 'claimed' AND (SELECT epoch FROM instance) = ?12
         ON CONFLICT (delivery) DO NOTHING",
    )?;
    let ids = IdDigest::new(sealer);
    let digest = |id: &Option<String>| id.as_deref().map(|id| ids.of(id));
    for frame in frames {
        let sealed = frame
            .body
            .as_ref()
            .map(|body| sealer.seal(&place(frame.delivery), body.as_json().as_bytes()));
        insert.execute((
            frame.delivery.0,
            frame.event.as_str(),
            frame.event_type.as_str(),
            ms(frame.created_at),
            frame.clinic.as_str(),
            frame.clinic_id.as_ref().map(ClinicId::as_str),
            digest(&frame.patient),
            digest(&frame.entity),
            sealed,
            ms(frame.made_at),
            ms(frame.kept_until),
            epoch.0,
        ))?;
    }
    Ok(())
}

fn extent(c: &Connection) -> rusqlite::Result<Extent> {
    c.prepare_cached(
        "SELECT epoch, floor, max(floor, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'frame'), 0)) FROM stream",
    )?
    .query_row((), |row| {
        Ok(Extent {
            epoch: row.get(0)?,
            floor: row.get(1)?,
            head: row.get(2)?,
        })
    })
}

fn page(c: &Connection, position: i64, limit: usize) -> rusqlite::Result<FramePage> {
    let extent = extent(c)?;
    let mut statement = c.prepare_cached(
        "SELECT seq, delivery, id, type, created_at, clinic, clinic_id, patient, entity, replay, sealed
         FROM frame WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut frames = Vec::new();
    let mut size = 0;
    for row in statement.query_map((position, limit), frame)? {
        let row = row?;
        size += row.sealed.as_ref().map_or(0, Vec::len);
        frames.push(row);
        if size >= LARGEST_PAGE {
            break;
        }
    }
    Ok(FramePage { extent, frames })
}

fn frame(row: &Row<'_>) -> rusqlite::Result<FrameRow> {
    let text = |column| row.get::<_, String>(column);
    Ok(FrameRow {
        seq: row.get(0)?,
        delivery: DeliveryId(row.get(1)?),
        event: EventId::new(text(2)?).map_err(|_| damaged(2, "a malformed event id"))?,
        event_type: EventType::new(text(3)?).map_err(|_| damaged(3, "a malformed event type"))?,
        created_at: at(row.get(4)?),
        clinic: ClinicName::new(text(5)?).map_err(|_| damaged(5, "a malformed clinic name"))?,
        clinic_id: row
            .get::<_, Option<String>>(6)?
            .map(ClinicId::new)
            .transpose()
            .map_err(|_| damaged(6, "a malformed clinic id"))?,
        patient: row.get(7)?,
        entity: row.get(8)?,
        replay: row.get(9)?,
        sealed: row.get(10)?,
    })
}

/// What is claimed is not forgotten: at the next start its frame tells that it was shown.
fn prune(c: &Connection, now: DateTime<Utc>) -> rusqlite::Result<usize> {
    let expired: Option<i64> = c.query_row(
        "SELECT max(seq) FROM frame WHERE kept_until <= ?1 AND seq < coalesce(
           (SELECT min(f.seq) FROM frame f
            WHERE f.delivery IN (SELECT d.delivery FROM delivery d WHERE d.state = 'claimed')),
           9223372036854775807)",
        [ms(now)],
        |row| row.get(0),
    )?;
    let Some(expired) = expired else {
        return Ok(0);
    };
    let floor: Option<i64> = c.query_row(
        "SELECT max(seq) FROM (SELECT seq FROM frame WHERE seq <= ?1 ORDER BY seq LIMIT ?2)",
        (expired, LARGEST_BATCH),
        |row| row.get(0),
    )?;
    c.execute("UPDATE stream SET floor = max(floor, ?1)", [floor])?;
    c.execute("DELETE FROM frame WHERE seq <= ?1", [floor])
}

/// A restore was noticed: the numbers behind the backup were given to other frames.
pub(super) fn begin_anew(c: &Connection) -> rusqlite::Result<()> {
    c.execute("UPDATE stream SET epoch = lower(hex(randomblob(4)))", ())
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SealKey;

    #[test]
    fn an_ids_digest_is_of_its_own_ledgers_key() {
        let sealer = Sealer::new(&SealKey::generate());
        let of = |sealer: &Sealer, id: &str| IdDigest::new(sealer).of(id);
        assert_eq!(of(&sealer, "p-1"), of(&sealer.clone(), "p-1"));
        assert_ne!(of(&sealer, "p-1"), of(&sealer, "p-2"));
        let other = Sealer::new(&SealKey::generate());
        assert_ne!(of(&sealer, "p-1"), of(&other, "p-1"));
    }
}
