//! The schema, version by version. A step once released is never edited: the next change is a new file.

use std::path::Path;

use rusqlite::Connection;

use super::OpenError;

const STEPS: &[&str] = &[
    include_str!("migrations/0001_ledger.sql"),
    include_str!("migrations/0002_grants.sql"),
    include_str!("migrations/0003_audit.sql"),
    include_str!("migrations/0004_stream.sql"),
    include_str!("migrations/0005_sfs.sql"),
    include_str!("migrations/0006_crosswalk.sql"),
];

/// Brings the database to the newest schema, each step in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let found = version(connection, path)?;
    for (version, step) in (1..).zip(STEPS).skip(found as usize) {
        let transaction = connection.transaction().map_err(sqlite)?;
        transaction.execute_batch(step).map_err(sqlite)?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
    }
    Ok(())
}

/// The newest schema.
fn newest() -> u32 {
    u32::try_from(STEPS.len()).unwrap_or(u32::MAX)
}

/// The schema of a database, if this program knows it.
fn version(connection: &Connection, path: &Path) -> Result<u32, OpenError> {
    let found = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| OpenError::sqlite(path, source))?;
    if found > newest() {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: newest(),
        });
    }
    Ok(found)
}

/// Refuses a database that is to be migrated: that is for its owner to do.
pub(super) fn expect_newest(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    match version(connection, path)? {
        found if found == newest() => Ok(()),
        found => Err(OpenError::Older {
            path: path.to_owned(),
            found,
            wanted: newest(),
        }),
    }
}
