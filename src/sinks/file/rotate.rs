//! Daily rotation: at the first write of a new UTC day the file becomes `<path>.<yyyy-mm-dd>` and a new one begins.
//!
//! A crash at any step leaves what [`super::open::resume`] finds by the inode in the mark: the old file under its
//! dated name, with no new file, an empty one, or one with lines that were not settled yet.

use chrono::NaiveDate;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::mark::Mark;
use super::open::open_or_create;
use super::{Lines, Place};
use crate::sinks::Stopped;
use crate::sinks::owned_file::sync_parent;

/// Whether lines of `today` belong into a new file. A clock that went back never rotates.
pub(super) fn is_due(mark: &Mark, today: NaiveDate) -> bool {
    mark.day.is_some_and(|day| day < today)
}

/// Renames the file to its day, never over another. `Some` reason: the system refused, nothing has changed, and the
/// next attempt tries again.
pub(super) fn put_away(place: &Place, day: NaiveDate) -> Result<Option<String>, Stopped> {
    let target = place.rotated(day);
    match renameat_with(CWD, place.path(), CWD, &target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(None),
        Err(Errno::EXIST) => Err(Stopped(format!(
            "{}: cannot be rotated, because {} exists already and is never overwritten; move it away",
            place.path().display(),
            target.display()
        ))),
        Err(errno) => Ok(Some(format!("the file cannot be rotated: {errno}"))),
    }
}

/// Makes the renaming durable and opens the successor.
pub(super) fn begin(place: &Place, lines: Lines) -> Result<Lines, Stopped> {
    let file = sync_parent(place.path())
        .map_err(|error| place.failed("rotate", &error))
        .and_then(|()| open_or_create(place))?;
    // The old file's lock is held until the new one is.
    drop(lines);
    let metadata = file
        .metadata()
        .map_err(|error| place.failed("examine", &error))?;
    Ok(Lines {
        mark: Mark::at_end(&metadata),
        file,
    })
}
