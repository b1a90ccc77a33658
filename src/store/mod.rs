//! SQLite: one file in the state directory, opened, checked and written in one way only.
//!
//! What it guarantees: the pragmas that the promises rest on are set *and read back* (SQLite ignores a misspelt one);
//! a caller of [`Store::write`] wakes only after its change is on disk; many small writes share one `fsync` (group
//! commit, `queue`); a database of a newer version, of another app or sealed with another key is refused before
//! anything else happens.
//!
//! One process owns the state directory ([`Owner`]): it alone polls, refreshes and delivers. Others read, or write
//! single rows.

mod host;
mod marker;
mod migrations;
mod owner;
mod queue;
mod seal;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

pub use host::{Host, Place};
pub use marker::AcceptedLoss;
pub use owner::{Epoch, Owner, Pulse, is_owned};
pub use queue::{Unavailable, Work};
pub use seal::{Opened, SealKey, Sealer, WrongKey};

use marker::{Found, Marker};
use queue::{Closing, Queue, Turn};

/// The database's name inside the state directory.
const DATABASE: &str = "ledger.sqlite3";
/// How long a statement waits for another process that writes a row.
const BUSY_TIMEOUT_MS: u32 = 10_000;

/// Why the state directory cannot be used. Every variant is exit code 74, except [`OpenError::Owned`] (75) and
/// [`OpenError::NoLoss`] (2).
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A command that only reads found nothing to read.
    #[error(
        "{0} does not exist: no daemon has run with this configuration yet (start it with `fullscript-events run`)"
    )]
    Missing(PathBuf),
    /// Another process has the lock.
    #[error(
        "another fullscript-events process owns {0}: stop it first (`systemctl stop fullscript-events`), or ask it with `fullscript-events status`"
    )]
    Owned(PathBuf),
    /// Written by a later version of this program.
    #[error(
        "{path} has schema {found}, this program knows up to {known}: install the newer version again"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema known here.
        known: u32,
    },
    /// Written by an earlier version of this program, whose daemon may be running: only a start may change it.
    #[error(
        "{path} has schema {found}, this program needs {wanted}: restart the daemon with this version first (`systemctl restart fullscript-events`)"
    )]
    Older {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The schema needed.
        wanted: u32,
    },
    /// The state directory belongs to another Fullscript app.
    #[error(
        "{path} belongs to the app `{found}`, the configuration names `{wanted}`: give every app a state directory of its own ([state] directory)"
    )]
    OtherApp {
        /// The database.
        path: PathBuf,
        /// The app it was made for.
        found: String,
        /// The app of the configuration.
        wanted: String,
    },
    /// The key does not open what is stored.
    #[error(
        "{0} is sealed with another key: configure the key it was made with ([state] seal_key)"
    )]
    WrongKey(PathBuf),
    /// A ledger was here, and is gone: without a person's word no new one takes its place.
    #[error(
        "{ledger} is gone, though {marker} says that a ledger lived here. Without it all of the last 30 days would be \
         taken for new, and the clinics' logins are lost with it.\n\
         Put the ledger back from a backup; or accept the loss, in one of two ways:\n  \
         fullscript-events run --once --accept-ledger-loss=baseline\n    \
         What was created until now is skipped: nothing is sent twice, and what no sink had yet never reaches one.\n  \
         fullscript-events run --once --accept-ledger-loss=replay\n    \
         All that Fullscript still lists (30 days) is sent again, with the same event ids: nothing is lost, a webhook's \
         receiver can tell the repeats, a file shows them a second time.\n\
         Then give each clinic's access again (`fullscript-events auth login CLINIC`), and start the daemon without the \
         option."
    )]
    Lost {
        /// Where the ledger was.
        ledger: PathBuf,
        /// What says so.
        marker: PathBuf,
    },
    /// A loss was accepted that there is not. The only one that is exit code 2: the next loss must not be accepted by an
    /// option that was left standing.
    #[error(
        "there is no loss to accept, {0} is as it was left: start without --accept-ledger-loss"
    )]
    NoLoss(PathBuf),
    /// The ledger is not the one that lived here.
    #[error(
        "{ledger} is not the ledger that lived here (its id is {found}, {marker} says {wanted}): put the right one back; \
         or, if this one shall go on here, remove {marker}: it is then taken for a backup, and holds what may have been \
         delivered since"
    )]
    OtherLedger {
        /// The database.
        ledger: PathBuf,
        /// Its id.
        found: String,
        /// The marker.
        marker: PathBuf,
        /// The id that it names.
        wanted: String,
    },
    /// The marker cannot be read.
    #[error(
        "{0} is damaged: remove it; the ledger beside it is then taken for a backup, and holds what may have been delivered since"
    )]
    Marker(PathBuf),
    /// SQLite says that the file is none of its own, or broken.
    #[error(
        "{path} is damaged ({source}): stop the daemon, move the file away together with its -wal and -shm, and put a \
         backup in its place; without a backup the next start tells how to accept the loss"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A pragma did not take: the promises would not hold.
    #[error("{path}: `PRAGMA {pragma}` is `{found}`, `{wanted}` is needed")]
    Pragma {
        /// The database.
        path: PathBuf,
        /// The pragma.
        pragma: &'static str,
        /// What SQLite says.
        found: String,
        /// What was set.
        wanted: &'static str,
    },
    /// The system refused: full, read-only, no permission.
    #[error("{path} cannot be used: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// SQLite refused: full, read-only.
    #[error("{path} cannot be used: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

impl OpenError {
    fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::Damaged { path, source }
            }
            _ => Self::Sqlite { path, source },
        }
    }
}

/// The database, as all tasks share it: cheap to clone.
#[derive(Clone)]
pub struct Store {
    writes: Queue,
    reads: Queue,
    sealer: Sealer,
    path: Arc<Path>,
}

impl Store {
    /// Opens an existing database beside its owner, for reading and for single rows.
    pub fn open_existing(directory: &Path, app: &str, key: &SealKey) -> Result<Self, OpenError> {
        let path = directory.join(DATABASE);
        let marker = Marker::read(directory)?;
        let ledger = identity(&path)?;
        match marker::judge(
            marker.as_ref(),
            ledger.as_ref().map(|(id, beat)| (id.as_str(), *beat)),
        ) {
            Found::Lost => return Err(lost(directory)),
            Found::Nothing => return Err(OpenError::Missing(path)),
            Found::AsLeft | Found::Restored | Found::Other => {}
        }
        migrations::expect_newest(&connect(&path)?, &path)?;
        Self::open(&path, app, key, None).map(|(store, _)| store)
    }

    /// Opens the database, or creates the one that a marker announces. The caller holds the owner's lock, or has seen
    /// that it exists.
    fn open(
        path: &Path,
        app: &str,
        key: &SealKey,
        new: Option<&Marker>,
    ) -> Result<(Self, Closing), OpenError> {
        let sealer = Sealer::new(key);
        let sqlite = |source| OpenError::sqlite(path, source);
        let mut writer = connect(path)?;
        migrations::migrate(&mut writer, path)?;
        bind(&writer, path, app, &sealer, new)?;
        let reader = connect(path)?;
        reader
            .pragma_update(None, "query_only", true)
            .map_err(sqlite)?;
        let thread = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let (reads, reading) = Queue::read_only("ledger-read", reader).map_err(thread)?;
        let (writes, closing) =
            Queue::group_commit("ledger-write", writer, reading).map_err(thread)?;
        let store = Self {
            writes,
            reads,
            sealer,
            path: path.into(),
        };
        Ok((store, closing))
    }

    /// Runs `work` inside the next transaction and returns after that transaction is durable. An error of `work`
    /// undoes what `work` did, and nothing else. It may be run twice: only what the last run did and gave counts.
    pub async fn write<T, F>(&self, work: F) -> Result<T, Unavailable>
    where
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.writes.run(Turn::Next, work).await
    }

    /// As [`Store::write`], after whatever else waits to be written.
    pub async fn write_later<T, F>(&self, work: F) -> Result<T, Unavailable>
    where
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.writes.run(Turn::Later, work).await
    }

    /// Runs a query against what is committed.
    pub async fn read<T, F>(&self, work: F) -> Result<T, Unavailable>
    where
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.reads.run(Turn::Next, work).await
    }

    /// A further connection that only reads, for whoever reads much: the queries of polling and delivery do not wait for
    /// it.
    pub fn reader(&self, name: &str) -> Result<Reader, OpenError> {
        let connection = connect(&self.path)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(|source| OpenError::sqlite(&self.path, source))?;
        let (reads, _) = Queue::read_only(name, connection).map_err(|source| OpenError::Io {
            path: self.path.to_path_buf(),
            source,
        })?;
        Ok(Reader {
            reads,
            sealer: self.sealer.clone(),
        })
    }

    /// Empties the write-ahead log, which still holds what was deleted meanwhile. Left for the next time where somebody
    /// reads from it.
    pub async fn empty_log(&self) -> Result<(), OpenError> {
        let path = Arc::clone(&self.path);
        let emptied = tokio::task::spawn_blocking(move || {
            connect(&path)?
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
                .map_err(|source| OpenError::Sqlite {
                    path: path.to_path_buf(),
                    source,
                })
        });
        // A panic has been reported by its own hook.
        emptied.await.unwrap_or(Ok(()))
    }

    /// Seals and opens what must not lie on disk in the clear.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }
}

/// A connection of its own that only reads. Cheap to clone; closed with its last clone.
#[derive(Clone)]
pub struct Reader {
    reads: Queue,
    sealer: Sealer,
}

impl Reader {
    /// Runs a query against what is committed.
    pub async fn read<T, F>(&self, work: F) -> Result<T, Unavailable>
    where
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.reads.run(Turn::Next, work).await
    }

    /// Opens what was sealed.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }
}

/// How a commit waits for the disk: the word that sets it, and the number that SQLite reads back.
///
/// A debug build writes carelessly where `FULLSCRIPT_EVENTS_SYNCHRONOUS=NORMAL` asks for it: the control of the tests
/// that cut the power. Release builds have no such switch.
fn synchronous() -> (&'static str, &'static str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("FULLSCRIPT_EVENTS_SYNCHRONOUS").is_some_and(|word| word == "NORMAL") {
        return ("normal", "1");
    }
    ("full", "2")
}

/// Opens a connection and makes sure of the pragmas.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that opens the database"
)]
fn connect(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(sqlite)?;
    connection
        .busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS.into()))
        .map_err(sqlite)?;
    connection.set_prepared_statement_cache_capacity(128);
    rusqlite::vtab::array::load_module(&connection).map_err(sqlite)?;
    // Plans must not depend on the values that are bound: else SQLite compiles some statements anew at every use.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(sqlite)?;
    let (synchronous, level) = synchronous();
    for (pragma, set, wanted) in [
        ("journal_mode", "wal", "wal"),
        // Measured: with NORMAL a power cut hands events on twice; with FULL none (docs/reliability.md).
        ("synchronous", synchronous, level),
        ("foreign_keys", "on", "1"),
        // What is deleted is overwritten: a body whose last delivery is settled leaves no byte, sealed or not.
        ("secure_delete", "on", "1"),
        ("trusted_schema", "off", "0"),
        // What a savepoint would roll back is kept in memory: in files it cost twice the writes of the ledger itself,
        // and rows would lie outside the state directory. Bounded by the pages that one piece of work changes.
        ("temp_store", "memory", "2"),
        // Bounds memory whatever the backlog: 8 MiB a connection.
        ("cache_size", "-8192", "-8192"),
        // Each checkpoint writes pages a second time and waits for the disk twice: seldom, every 64 MiB.
        ("wal_autocheckpoint", "16384", "16384"),
        ("journal_size_limit", "67108864", "67108864"),
    ] {
        let read = |connection: &Connection| {
            connection.pragma_query_value(None, pragma, |row| {
                row.get::<_, Value>(0).map(|value| match value {
                    Value::Text(text) => text,
                    Value::Integer(number) => number.to_string(),
                    other @ (Value::Null | Value::Real(_) | Value::Blob(_)) => format!("{other:?}"),
                })
            })
        };
        if read(&connection).map_err(sqlite)? != wanted {
            connection
                .pragma_update_and_check(None, pragma, set, |_| Ok(()))
                .optional()
                .map_err(sqlite)?;
        }
        let found = read(&connection).map_err(sqlite)?;
        if found != wanted {
            return Err(OpenError::Pragma {
                path: path.to_owned(),
                pragma,
                found,
                wanted,
            });
        }
    }
    Ok(connection)
}

/// Binds the database to one app and one key at its first use, and refuses others ever after.
fn bind(
    connection: &Connection,
    path: &Path,
    app: &str,
    sealer: &Sealer,
    new: Option<&Marker>,
) -> Result<(), OpenError> {
    const PLACE: &str = "instance/key_check";
    const WORD: &[u8] = b"fullscript-events";
    let sqlite = |source| OpenError::sqlite(path, source);
    let found: Option<(String, Vec<u8>)> = connection
        .query_row("SELECT app, key_check FROM instance", (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
        .map_err(sqlite)?;
    match found {
        None => {
            let new = new.ok_or_else(|| OpenError::Missing(path.to_owned()))?;
            let accepted = new.accepted.map(AcceptedLoss::as_str);
            connection
                .execute(
                    "INSERT INTO instance (one, app, key_check, epoch, id, accepted) VALUES (1, ?1, ?2, 0, ?3, ?4)",
                    (app, sealer.seal(PLACE, WORD), &new.ledger, accepted),
                )
                .map_err(sqlite)?;
            Ok(())
        }
        Some((_, check)) if sealer.open(PLACE, &check).is_err() => {
            Err(OpenError::WrongKey(path.to_owned()))
        }
        Some((found, _)) if found != app => Err(OpenError::OtherApp {
            path: path.to_owned(),
            found,
            wanted: app.to_owned(),
        }),
        Some(_) => Ok(()),
    }
}

/// The id and the beat of the ledger that is there; `None` if there is none, or one that was never used.
fn identity(path: &Path) -> Result<Option<(String, i64)>, OpenError> {
    match fs::metadata(path) {
        Ok(file) if file.len() > 0 => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(OpenError::Io { path, source });
        }
    }
    let sqlite = |source| OpenError::sqlite(path, source);
    let connection = connect(path)?;
    if !connection.table_exists(None, "instance").map_err(sqlite)? {
        return Ok(None);
    }
    connection
        .query_row("SELECT id, beat FROM instance", (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
        .map_err(sqlite)
}

fn lost(directory: &Path) -> OpenError {
    OpenError::Lost {
        ledger: directory.join(DATABASE),
        marker: marker::path(directory),
    }
}

/// Creates the state directory, for its user alone.
fn create_directory(directory: &Path) -> Result<(), OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| OpenError::Io {
            path: directory.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests;
