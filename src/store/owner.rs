//! Ownership of a state directory: a lock that dies with its process, and an epoch that outlives it.
//!
//! Two daemons on one state directory would refresh the same grant twice and deliver every event twice. The lock
//! keeps the second one out; the epoch, written into every claim, fences a first one that only seemed dead.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::host::Host;
use super::marker::{self, AcceptedLoss, Found, Marker};
use super::queue::Closing;
use super::{DATABASE, OpenError, SealKey, Store, Unavailable, create_directory};

/// The name of the lock file inside the state directory.
const LOCK: &str = "owner.lock";
/// How often a start tries again while others only look at the lock: each look lasts microseconds.
const MOST_LOOKS: u32 = 100_000;

/// The how-manieth owner of the state directory this process is. A claim with an older epoch is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// Proof that this process owns the state directory, as long as the value lives.
pub struct Owner {
    // In the order in which they are dropped: nobody else owns the directory before the database is closed.
    store: Store,
    _closing: Closing,
    _lock: File,
    epoch: Epoch,
    directory: PathBuf,
    ledger: String,
    home: Host,
}

/// The pulse of an owned ledger: each beat is written into the ledger, and then into the marker. A ledger that is put
/// back later from a backup has fewer beats than its marker.
pub struct Pulse {
    store: Store,
    directory: PathBuf,
    ledger: String,
}

/// Why a beat is not in the marker.
#[derive(Debug, thiserror::Error)]
pub enum Missed {
    /// The ledger did not take it.
    #[error(transparent)]
    Ledger(#[from] Unavailable),
    /// The marker was not written.
    #[error(transparent)]
    Marker(#[from] OpenError),
    /// The runtime ends.
    #[error("cut off")]
    CutOff,
}

impl Pulse {
    /// One beat, at this time in milliseconds since 1970. What is missed the next one makes up for.
    pub async fn beat(&self, now_ms: i64) -> Result<(), Missed> {
        let beat = self.store.write(move |c| {
            c.query_row(
                "UPDATE instance SET beat = beat + 1, alive_at = ?1 RETURNING beat",
                [now_ms],
                |row| row.get(0),
            )
        });
        let marker = Marker {
            ledger: self.ledger.clone(),
            beat: beat.await?,
            accepted: None,
        };
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || marker.write(&directory))
            .await
            .map_err(|_| Missed::CutOff)??;
        Ok(())
    }
}

impl Owner {
    /// Takes the lock, opens the database (creating the first one) and begins a new epoch. A ledger that was lost is not
    /// made anew: [`OpenError::Lost`].
    pub fn take(directory: &Path, app: &str, key: &SealKey) -> Result<Self, OpenError> {
        Self::begin(directory, app, key, None)
    }

    /// The same where the ledger was lost, and a person has said how to go on. Where none was lost it is refused.
    pub fn take_after_loss(
        directory: &Path,
        app: &str,
        key: &SealKey,
        accepted: AcceptedLoss,
    ) -> Result<Self, OpenError> {
        Self::begin(directory, app, key, Some(accepted))
    }

    fn begin(
        directory: &Path,
        app: &str,
        key: &SealKey,
        accepted: Option<AcceptedLoss>,
    ) -> Result<Self, OpenError> {
        create_directory(directory)?;
        let lock = lock(directory)?;
        let path = directory.join(DATABASE);
        let (marker, found) = expected(directory, &path, accepted)?;
        // The epoch is written on a connection of its own: the queue's threads do not run yet.
        let (store, closing) = Store::open(&path, app, key, Some(&marker))?;
        let here = Host::here();
        let (epoch, beat, home) = super::connect(&path)?
            .query_row(
                "UPDATE instance SET epoch = epoch + 1, beat = max(beat, ?1) + 1, restored = restored OR ?2,
                   host = CASE WHEN host_name IS NULL THEN ?3 ELSE host END, host_name = coalesce(host_name, ?4)
                 RETURNING epoch, beat, host, host_name",
                (marker.beat, found == Found::Restored, &here.id, &here.name),
                |row| {
                    let home = Host {
                        id: row.get(2)?,
                        name: row.get(3)?,
                    };
                    Ok((row.get(0)?, row.get(1)?, home))
                },
            )
            .map_err(|source| OpenError::sqlite(&path, source))?;
        let marker = Marker {
            beat,
            accepted: None,
            ..marker
        };
        marker.write(directory)?;
        Ok(Self {
            store,
            _closing: closing,
            _lock: lock,
            epoch: Epoch(epoch),
            directory: directory.to_owned(),
            ledger: marker.ledger,
            home,
        })
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What tells a ledger that was put back later.
    pub fn pulse(&self) -> Pulse {
        Pulse {
            store: self.store.clone(),
            directory: self.directory.clone(),
            ledger: self.ledger.clone(),
        }
    }

    /// The machine that the directory was first used on, or taken over by.
    pub fn home(&self) -> &Host {
        &self.home
    }

    /// This owner's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// The marker of the ledger that is there, or that may be made; and what was found.
fn expected(
    directory: &Path,
    path: &Path,
    accepted: Option<AcceptedLoss>,
) -> Result<(Marker, Found), OpenError> {
    let marker = Marker::read(directory)?;
    let ledger = super::identity(path)?;
    let known = ledger.as_ref().map(|(id, beat)| (id.as_str(), *beat));
    let found = marker::judge(marker.as_ref(), known);
    // A start that accepted a loss and was cut off before there was a ledger: it is as if it came now.
    let resumed = marker.as_ref().and_then(|marker| marker.accepted);
    if found == Found::Lost && accepted.is_none() {
        return Err(super::lost(directory));
    }
    if found != Found::Lost && accepted.is_some() && accepted != resumed {
        return Err(OpenError::NoLoss(path.to_owned()));
    }
    let marker = match (found, marker, ledger) {
        (Found::Other, Some(marker), Some((found, _))) => {
            return Err(OpenError::OtherLedger {
                ledger: path.to_owned(),
                found,
                marker: marker::path(directory),
                wanted: marker.ledger,
            });
        }
        (_, Some(marker), Some(_)) | (Found::Nothing, Some(marker), None) => marker,
        (_, None, Some((ledger, beat))) => Marker {
            ledger,
            beat,
            accepted: None,
        },
        (_, _, None) => {
            // It stands before the ledger does: one that is cut off here is begun again, not missed.
            let marker = Marker::of_new_ledger(accepted);
            marker.write(directory)?;
            marker
        }
    };
    Ok((marker, found))
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    for _ in 0..MOST_LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if held_by_owner(&file).map_err(io)? => break,
            // Somebody only looked, and is gone in a moment.
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    Err(OpenError::Owned(directory.to_owned()))
}

/// Whether a process owns the state directory now. Looks, and keeps nothing.
pub fn is_owned(directory: &Path) -> io::Result<bool> {
    match File::open(directory.join(LOCK)) {
        Ok(file) => held_by_owner(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An owner's lock is exclusive, a look's is shared: lookers neither see nor keep out each other.
fn held_by_owner(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_tells_an_owner_and_takes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_owned(directory.path()).unwrap());
        let owner = lock(directory.path()).unwrap();
        assert!(is_owned(directory.path()).unwrap());
        drop(owner);
        assert!(!is_owned(directory.path()).unwrap());
        drop(lock(directory.path()).unwrap());
    }
}
