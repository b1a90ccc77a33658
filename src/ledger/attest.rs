//! What a person does, and what becomes of attempts that nobody finishes, is recorded in the transaction that does it.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Params};

use crate::audit::{Action, Actor, Audit, Record};
use crate::domain::DeliveryId;

/// Records that a person has decided this of a delivery.
pub(super) fn decided(
    c: &Connection,
    audit: &Audit,
    (delivery, command): (DeliveryId, &str),
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    if !audit.is_on() {
        return Ok(());
    }
    let record = c
        .prepare_cached(
            "SELECT clinic, e.id, name FROM delivery d JOIN event e USING (event) JOIN sink USING (sink)
               JOIN lane l ON l.lane = d.lane WHERE delivery = ?1",
        )?
        .query_row([delivery.0], |row| {
            Ok(audit
                .entry(Action::Resend, now)
                .clinic(row.get::<_, String>(0)?)
                .event(row.get::<_, String>(1)?)
                .sink(row.get::<_, String>(2)?)
                .at("command", command)
                .note("delivery", delivery))
        })?;
    audit.attest(|| vec![record]).insert(c)
}

/// Records that a person has settled, or given away, what a sink was owed.
pub(super) fn backlog(
    c: &Connection,
    audit: &Audit,
    (sink, command, deliveries): (&str, &str, u64),
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    let record = || {
        let record = audit.entry(Action::Resend, now).sink(sink);
        record.at("command", command).note("deliveries", deliveries)
    };
    audit.attest(|| vec![record()]).insert(c)
}

/// Records that the attempts of those claimed deliveries that are `which` have ended with whoever made them, and nobody
/// knows how. Before they are claimed no more.
pub(super) fn left(
    c: &Connection,
    audit: &Audit,
    (which, of): (&str, impl Params),
    found: &str,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    if !audit.is_on() {
        return Ok(());
    }
    let records = c
        .prepare(&format!(
            "SELECT clinic, e.id, name, delivery, attempts FROM delivery d JOIN event e USING (event) JOIN sink USING (sink)
               JOIN lane l ON l.lane = d.lane WHERE d.state = 'claimed' AND {which} ORDER BY delivery"
        ))?
        .query_map(of, |row| {
            Ok(Record::new(&Actor::Daemon, Action::Deliver, now)
                .clinic(row.get::<_, String>(0)?)
                .event(row.get::<_, String>(1)?)
                .sink(row.get::<_, String>(2)?)
                .note("outcome", "doubt")
                .note("delivery", row.get::<_, i64>(3)?)
                .note("attempt", row.get::<_, u32>(4)?)
                .note("found", found))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    audit.attest(|| records).insert(c)
}
