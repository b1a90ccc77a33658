//! What programs have said: kept sealed for `deliveries show`, so that whoever has to decide knows how far one came.
//!
//! May repeat health data. So it is kept no longer than it is of use: until the delivery is done or skipped, and never
//! for more than 30 days. A recorder that is not the owner any more, or whose attempt is not the newest, records
//! nothing.

use futures_util::future::BoxFuture;
use rusqlite::vtab::array::Array;
use rusqlite::{Connection, OptionalExtension};

use super::{Ledger, Query, numbers, treatments};
use crate::domain::{DeliveryId, Output};
use crate::sinks::Recorder;
use crate::store::{Sealer, Unavailable};

/// What is kept of a delivery's programs.
pub struct Said {
    /// Which attempt said it.
    pub attempt: u32,
    /// What it said; `None` if it cannot be opened (damaged on disk).
    pub output: Option<Output>,
}

impl Query {
    /// What the program of a delivery has said, if that is kept.
    pub async fn said(&self, delivery: DeliveryId) -> Result<Option<Said>, Unavailable> {
        let sealer = self.store.sealer().clone();
        self.store.read(move |c| said(c, &sealer, delivery)).await
    }
}

impl Recorder for Ledger {
    fn record(&self, delivery: DeliveryId, attempt: u32, output: Output) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let sealed = self
                .store
                .sealer()
                .seal(&place(delivery, attempt), &output.to_bytes());
            let epoch = self.epoch;
            let recorded = self
                .store
                .write(move |c| {
                    c.prepare_cached(
                        "INSERT OR REPLACE INTO output (delivery, attempt, sealed)
                         SELECT delivery, attempts, ?3 FROM delivery
                         WHERE delivery = ?1 AND attempts = ?2 AND state = 'claimed'
                           AND (SELECT epoch FROM instance) = ?4",
                    )?
                    .execute((delivery.0, attempt, &sealed, epoch.0))
                    .map(drop)
                })
                .await;
            if let Err(error) = recorded {
                tracing::debug!(%delivery, attempt, %error, "what a program has said is not kept");
            }
        })
    }

    fn recorded(&self, delivery: DeliveryId, attempt: u32) -> BoxFuture<'_, Output> {
        Box::pin(async move {
            let said = self.query().said(delivery).await.unwrap_or_else(|error| {
                tracing::debug!(%delivery, attempt, %error, "what a program has said is not known");
                None
            });
            said.filter(|said| said.attempt == attempt)
                .and_then(|said| said.output)
                .unwrap_or_default()
        })
    }
}

/// Keeps what a receiver has said of a delivery later, as its last attempt's.
pub(super) fn keep(
    c: &Connection,
    sealer: &Sealer,
    delivery: DeliveryId,
    said: &Output,
) -> rusqlite::Result<()> {
    let attempt = c
        .prepare_cached("SELECT attempts FROM delivery WHERE delivery = ?1")?
        .query_row([delivery.0], |row| row.get(0))?;
    let sealed = sealer.seal(&place(delivery, attempt), &said.to_bytes());
    c.prepare_cached(
        "INSERT OR REPLACE INTO output (delivery, attempt, sealed) VALUES (?1, ?2, ?3)",
    )?
    .execute((delivery.0, attempt, sealed))
    .map(drop)
}

/// Where an output is sealed to: it opens only in its own row, as that attempt's.
fn place(delivery: DeliveryId, attempt: u32) -> String {
    format!("output/{delivery}/{attempt}")
}

fn said(c: &Connection, sealer: &Sealer, delivery: DeliveryId) -> rusqlite::Result<Option<Said>> {
    c.prepare_cached("SELECT attempt, sealed FROM output WHERE delivery = ?1")?
        .query_row([delivery.0], |row| {
            let attempt = row.get(0)?;
            let sealed: Vec<u8> = row.get(1)?;
            let opened = sealer.open(&place(delivery, attempt), &sealed).ok();
            Ok(Said {
                attempt,
                output: opened.and_then(|opened| Output::from_bytes(opened.bytes())),
            })
        })
        .optional()
}

/// Drops what was said for those of these deliveries that need nobody any more.
pub(super) fn forget(c: &Connection, deliveries: &Array) -> rusqlite::Result<()> {
    c.prepare_cached(
        "DELETE FROM output WHERE delivery IN rarray(?1) AND EXISTS
           (SELECT 1 FROM delivery d WHERE d.delivery = output.delivery AND (d.state = 'done' OR d.state = 'skipped'))",
    )?
    .execute([deliveries])?;
    treatments::forget_words(c, deliveries)
}

/// As [`forget`], for all deliveries of these events.
pub(super) fn forget_of(c: &Connection, events: &Array) -> rusqlite::Result<()> {
    let deliveries = c
        .prepare_cached("SELECT delivery FROM delivery WHERE event IN rarray(?1)")?
        .query_map([events], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    forget(c, &numbers(deliveries))
}

/// Drops what was said for events that were admitted before `before`, in milliseconds; what is claimed is still said.
pub(super) fn expire(c: &Connection, before: i64) -> rusqlite::Result<()> {
    c.prepare_cached(
        "DELETE FROM output WHERE EXISTS
           (SELECT 1 FROM delivery d JOIN event e USING (event)
            WHERE d.delivery = output.delivery AND d.state <> 'claimed' AND e.admitted_at < ?1)",
    )?
    .execute([before])?;
    treatments::expire_words(c, before)
}
