//! Our own row in the operator's database, changed in the transaction that writes the events: which database this is,
//! how many batches it has taken, and which deliveries the last of them has shown. Once a batch is settled in the ledger
//! nobody asks for its deliveries again, and the next batch replaces them: the row does not grow.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use crate::sinks::{Checkpoint, Orphan};

/// The name of our table.
pub(super) const TABLE: &str = "fullscript_sink";

/// The checkpoint: what the ledger knows of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Drawn when the sink first used the database. A copy of it has the same.
    pub(super) database: String,
    /// How many batches it has taken.
    pub(super) batch: u64,
}

impl Mark {
    pub(super) fn parse(checkpoint: &Checkpoint) -> Option<Self> {
        serde_json::from_str(&checkpoint.0).ok()
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        serde_json::to_string(self).ok().map(Checkpoint)
    }
}

/// A delivery that was shown, and its event: a ledger that was started afresh counts its deliveries from 1 again.
pub(super) type Shown = (i64, String);

/// Makes our table where there is none.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute(
            "CREATE TABLE IF NOT EXISTS fullscript_sink (
                 one INTEGER PRIMARY KEY CHECK (one = 1),
                 database TEXT NOT NULL,
                 opened INTEGER NOT NULL,
                 batch INTEGER NOT NULL,
                 shown TEXT NOT NULL
             )",
            (),
        )
        .map(drop)
}

/// Our row, if there is one.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Option<(Mark, Vec<Shown>)>> {
    connection
        .query_row(
            "SELECT database, batch, shown FROM fullscript_sink",
            (),
            |row| {
                let mark = Mark {
                    database: row.get(0)?,
                    batch: row.get(1)?,
                };
                let shown = serde_json::from_str(row.get_ref(2)?.as_str()?).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(2, Type::Text, Box::new(error))
                })?;
                Ok((mark, shown))
            },
        )
        .optional()
}

/// Writes our row. `false`: it is not the one that was expected any more.
pub(super) fn write(
    connection: &Connection,
    before: u64,
    mark: &Mark,
    shown: &[Shown],
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "UPDATE fullscript_sink SET batch = ?1, shown = ?2 WHERE database = ?3 AND batch = ?4",
        )?
        .execute((mark.batch, as_json(shown), &mark.database, before))
        .map(|changed| changed == 1)
}

/// Makes our row in a database that this sink has never used.
pub(super) fn begin(connection: &Connection) -> rusqlite::Result<Mark> {
    let mark = Mark {
        database: format!("{:032x}", rand::random::<u128>()),
        batch: 0,
    };
    connection.execute(
        "INSERT INTO fullscript_sink (one, database, opened, batch, shown) VALUES (1, ?1, 0, 0, '[]')",
        [&mark.database],
    )?;
    Ok(mark)
}

/// Changes our row, whatever it says, so that the transaction in which it was read writes. A commit that the disk has
/// failed may stand at the end of the write-ahead log, unseen until somebody recovers the log; this takes its place.
pub(super) fn note_opening(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE fullscript_sink SET opened = opened + 1", ())
        .map(drop)
}

/// Whether the last batch has shown an orphan.
pub(super) fn has(shown: &[Shown], orphan: &Orphan) -> bool {
    shown
        .iter()
        .any(|(delivery, event)| *delivery == orphan.delivery.0 && event == orphan.event.as_str())
}

fn as_json(shown: &[Shown]) -> String {
    serde_json::to_string(shown).unwrap_or_default()
}
