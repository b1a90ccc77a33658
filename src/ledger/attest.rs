//! What a person does is recorded in the transaction that does it.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use crate::audit::{Action, Audit};
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
