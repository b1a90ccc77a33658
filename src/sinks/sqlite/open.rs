//! Opening: create or take the database, find out whether it is the one that the checkpoint speaks of, make or check the
//! tables, and settle what a crash left open.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::PathBuf;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::handed::{self, Mark, Shown};
use super::statement::{self, COLUMNS, Value};
use super::{Place, meaning};
use crate::config::SqliteInto;
use crate::sinks::owned_file::{OwnedFile, directory};
use crate::sinks::{Checkpoint, Orphan, Resumed, Stopped};

/// The database while it is held open and locked, and what is known of it.
pub(super) struct Database {
    /// Closed before `_file`: closing any descriptor of a file gives up the locks that SQLite holds on it.
    pub(super) connection: Connection,
    pub(super) mark: Mark,
    /// The statement that runs for each event, and the values that it asks for.
    pub(super) statement: String,
    pub(super) values: Vec<Value>,
    identity: (u64, u64),
    _file: File,
}

impl Drop for Database {
    /// Brings what is in the write-ahead log into the database, as far as no reader is in the way, so that it can be
    /// copied as one file. What cannot be done now SQLite does later.
    fn drop(&mut self) {
        let quickly = self.connection.busy_timeout(std::time::Duration::ZERO);
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        drop(quickly.and_then(|()| self.connection.query_row(checkpoint, (), |_| Ok(()))));
    }
}

impl Database {
    /// Whether the path still leads to this database.
    pub(super) fn check_untouched(&self, place: &Place) -> Result<(), Stopped> {
        let found = fs::symlink_metadata(place.path())
            .map_err(|error| place.refuse(format_args!("cannot be found any more ({error})")))?;
        if identity(&found) == self.identity {
            Ok(())
        } else {
            Err(place.refuse("was replaced by another file while it was in use"))
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Opens the database and settles the orphans: adopted where their event is there, absent where it is not.
pub(super) fn resume(
    place: &Place,
    checkpoint: Option<&Checkpoint>,
    orphans: &[Orphan],
) -> Result<(Database, Resumed), Stopped> {
    let expected = checkpoint
        .map(|stored| {
            Mark::parse(stored).ok_or_else(|| place.refuse("its checkpoint cannot be read"))
        })
        .transpose()?;
    if fs::symlink_metadata(place.path()).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        if expected.is_some() {
            return Err(place.refuse("is gone"));
        }
        if let SqliteInto::Statement(_) = place.settings.into {
            return Err(place.failed(
                "does not exist; make the database and the tables that `statement` writes to",
            ));
        }
    }
    let owned = OwnedFile {
        path: place.path(),
        mode: place.settings.mode,
        group: place.settings.group.as_deref(),
    };
    let file = owned.open_or_create()?;
    let metadata = file
        .metadata()
        .map_err(|error| place.failed(format_args!("cannot be examined: {error}")))?;
    let connection = connect(place, &metadata)?;
    let mut database = Database {
        connection,
        mark: Mark {
            database: String::new(),
            batch: 0,
        },
        statement: statement::text(&place.settings.into),
        values: Vec::new(),
        identity: identity(&metadata),
        _file: file,
    };
    // Only now SQLite has it open, by its path.
    database.check_untouched(place)?;
    let (adopted, absent) = take_up(place, &mut database, expected.as_ref(), orphans)?;
    if let Some(group) = owned.group_id()? {
        give_log_to(place, group)?;
    }
    let resumed = Resumed {
        adopted: adopted.iter().map(|orphan| orphan.delivery).collect(),
        absent: absent.iter().map(|orphan| orphan.delivery).collect(),
        doubtful: Vec::new(),
        checkpoint: database.mark.checkpoint(),
    };
    Ok((database, resumed))
}

/// Opens a connection and makes sure of what the promise rests on.
#[allow(
    clippy::disallowed_methods,
    reason = "not the ledger but the operator's database; what matters is set and read back here too"
)]
fn connect(place: &Place, file: &Metadata) -> Result<Connection, Stopped> {
    let failed = |error: rusqlite::Error| place.sqlite("be opened", &error);
    let connection = Connection::open_with_flags(
        without_links(place)?,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW,
    )
    .map_err(failed)?;
    connection
        .busy_timeout(place.busy_timeout)
        .map_err(failed)?;
    // The log and its index stay when the sink ends: who may only read cannot make them, and without them a database
    // with a write-ahead log cannot be read.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed)?;
    if file.len() == 0 {
        set(place, &connection, "journal_mode", "wal", "wal")?;
    }
    // With NORMAL a power cut takes back what was reported; without a write-ahead log FULL may too, EXTRA does not.
    set(place, &connection, "synchronous", "extra", "3")?;
    // What a savepoint would roll back is kept in memory: no rows in files elsewhere.
    set(place, &connection, "temp_store", "memory", "2")?;
    Ok(connection)
}

/// Sets a pragma and reads it back.
fn set(
    place: &Place,
    connection: &Connection,
    pragma: &str,
    value: &str,
    wanted: &str,
) -> Result<(), Stopped> {
    let failed = |error: rusqlite::Error| place.sqlite("be opened", &error);
    connection
        .pragma_update_and_check(None, pragma, value, |_| Ok(()))
        .optional()
        .map_err(failed)?;
    let found = connection
        .query_row(
            &format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}"),
            (),
            |row| row.get::<_, String>(0),
        )
        .map_err(failed)?;
    if found == wanted {
        Ok(())
    } else {
        Err(place.failed(format_args!(
            "`PRAGMA {pragma}` is `{found}`, `{wanted}` is needed; the database has to lie on a disk of this machine"
        )))
    }
}

/// The path with every link in its directories followed: SQLite is to follow none.
fn without_links(place: &Place) -> Result<PathBuf, Stopped> {
    let failed = |error: io::Error| place.failed(format_args!("cannot be found: {error}"));
    let directory = directory(place.path()).canonicalize().map_err(failed)?;
    Ok(directory.join(place.path().file_name().unwrap_or_default()))
}

type Orphans<'a> = Vec<&'a Orphan>;

/// Makes or checks the tables, compares the database with the checkpoint, and looks for the orphans: one transaction,
/// which writes.
fn take_up<'a>(
    place: &Place,
    database: &mut Database,
    expected: Option<&Mark>,
    orphans: &'a [Orphan],
) -> Result<(Orphans<'a>, Orphans<'a>), Stopped> {
    let failed = |error: rusqlite::Error| place.sqlite("be taken up", &error);
    let transaction =
        Transaction::new_unchecked(&database.connection, TransactionBehavior::Immediate)
            .map_err(failed)?;
    handed::create(&transaction).map_err(failed)?;
    let found = handed::read(&transaction).map_err(|error| {
        place.failed(format_args!(
            "its table {} is not as this program left it: {}",
            handed::TABLE,
            meaning::words(meaning::code(&error))
        ))
    })?;
    let found = compare(place, expected, found)?;
    if let SqliteInto::Table(table) = &place.settings.into {
        make_table(place, &transaction, table)?;
    }
    let values =
        statement::check(&transaction, &database.statement).map_err(|wrong| {
            match &place.settings.into {
                SqliteInto::Table(table) => another_table(place, table, &wrong),
                SqliteInto::Statement(_) => {
                    place.failed(format_args!("the sink's `statement` {wrong}"))
                }
            }
        })?;
    let (mark, shown) = match found {
        Some(found) => found,
        None => (handed::begin(&transaction).map_err(failed)?, Vec::new()),
    };
    handed::note_opening(&transaction).map_err(failed)?;
    let mut adopted = Vec::new();
    let mut absent = Vec::new();
    for orphan in orphans {
        let is_there =
            handed::has(&shown, orphan) || has_row(place, &transaction, orphan).map_err(failed)?;
        if is_there { &mut adopted } else { &mut absent }.push(orphan);
    }
    transaction.commit().map_err(failed)?;
    database.mark = mark;
    database.values = values;
    Ok((adopted, absent))
}

/// What the checkpoint and the database say of each other.
fn compare(
    place: &Place,
    expected: Option<&Mark>,
    found: Option<(Mark, Vec<Shown>)>,
) -> Result<Option<(Mark, Vec<Shown>)>, Stopped> {
    let Some(expected) = expected else {
        return Ok(found);
    };
    let Some((mark, _)) = found
        .as_ref()
        .filter(|(m, _)| m.database == expected.database)
    else {
        return Err(place.refuse("is another database than before"));
    };
    if mark.batch < expected.batch {
        return Err(place.refuse(format_args!(
            "is an older copy (it has taken {} batches, expected at least {}); what came since is not in it",
            mark.batch, expected.batch
        )));
    }
    // Ids keep the documented table from what it has already; nothing keeps an operator's statement.
    let is_statement = matches!(place.settings.into, SqliteInto::Statement(_));
    if is_statement && mark.batch > expected.batch + 1 {
        return Err(place.refuse(format_args!(
            "is ahead of the ledger (it has taken {} batches, expected at most {}): with an older ledger the statement \
             may run again for events that it has had",
            mark.batch,
            expected.batch + 1
        )));
    }
    Ok(found)
}

/// Whether the documented table has an orphan's event. Of an operator's tables nothing is known.
fn has_row(place: &Place, connection: &Connection, orphan: &Orphan) -> rusqlite::Result<bool> {
    let SqliteInto::Table(table) = &place.settings.into else {
        return Ok(false);
    };
    connection
        .prepare_cached(&format!("SELECT 1 FROM \"{table}\" WHERE id = ?1"))?
        .exists([orphan.event.as_str()])
}

/// Makes the documented table, or checks that one of its name can stand for it.
fn make_table(place: &Place, connection: &Connection, table: &str) -> Result<(), Stopped> {
    let failed = |error: rusqlite::Error| place.sqlite("have the table of the events", &error);
    let found = columns(connection, table).map_err(failed)?;
    if found.is_empty() {
        let columns: Vec<_> = COLUMNS.map(|(name, of)| format!("{name} {of}")).into();
        return connection
            .execute_batch(&format!(
                "CREATE TABLE \"{table}\" ({});
                 CREATE INDEX \"{table}_by_type\" ON \"{table}\" (type, created_at);",
                columns.join(", ")
            ))
            .map_err(failed);
    }
    let missing: Vec<_> = COLUMNS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !found.iter().any(|column| column.name == *name))
        .collect();
    if !missing.is_empty() {
        let wrong = format!("it has no column {}", missing.join(", "));
        return Err(another_table(place, table, &wrong));
    }
    let must_be_filled: Vec<_> = found
        .iter()
        .filter(|column| column.must_be_filled && !COLUMNS.iter().any(|(n, _)| column.name == *n))
        .map(|column| column.name.as_str())
        .collect();
    if !must_be_filled.is_empty() {
        let wrong = format!(
            "{} may not be NULL and has no default",
            must_be_filled.join(", ")
        );
        return Err(another_table(place, table, &wrong));
    }
    Ok(())
}

fn another_table(place: &Place, table: &str, wrong: &str) -> Stopped {
    place.failed(format_args!(
        "its table {table} is another than this program makes: {wrong}; name one that is not there yet with \
         `table`, or write to this one with a `statement` of your own"
    ))
}

struct Column {
    name: String,
    must_be_filled: bool,
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    connection
        .prepare(
            "SELECT name, \"notnull\" AND dflt_value IS NULL AND pk = 0 FROM pragma_table_info(?1)",
        )?
        .query_map([table], |row| {
            Ok(Column {
                name: row.get(0)?,
                must_be_filled: row.get(1)?,
            })
        })?
        .collect()
}

/// Gives the write-ahead log and its index to the readers' group. SQLite gives them the database's mode, and its group
/// only where it runs as root. By their names: to open and close them would give up SQLite's locks on them.
fn give_log_to(place: &Place, group: u32) -> Result<(), Stopped> {
    for end in ["-wal", "-shm"] {
        let mut path = OsString::from(place.path());
        path.push(end);
        let given = match fs::symlink_metadata(&path) {
            Ok(found) if found.gid() == group => Ok(()),
            Ok(_) => lchown(&path, None, Some(group)),
            // Of a database with another journal.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        given.map_err(|error| {
            place.failed(format_args!(
                "cannot give {} to its group: {error}",
                PathBuf::from(&path).display()
            ))
        })?;
    }
    Ok(())
}
