//! Opening: create or take the file, lock it, find out whether it is the one that the mark speaks of, and settle what a
//! crash left open.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

use chrono::NaiveDate;

use super::mark::Mark;
use super::roll_forward::{Found, first_hole, roll_forward};
use super::{Lines, Place};
use crate::sinks::owned_file::{OwnedFile, directory};
use crate::sinks::{Checkpoint, Orphan, Resumed, Stopped};

/// Opens the file and settles the orphans: adopted where their line is there, absent where it is not.
pub(super) fn resume(
    place: &Place,
    checkpoint: Option<&Checkpoint>,
    orphans: &[Orphan],
) -> Result<(Lines, Resumed), Stopped> {
    let mark = checkpoint
        .map(|stored| {
            Mark::parse(stored).ok_or_else(|| place.refuse("its checkpoint cannot be read"))
        })
        .transpose()?;
    let mut found = Found::default();
    let lines = match mark {
        None => first_start(place, orphans, &mut found)?,
        Some(mark) => go_on(place, mark, orphans, &mut found)?,
    };
    let (adopted, absent) = orphans
        .iter()
        .map(|orphan| orphan.delivery)
        .partition(|delivery| found.contains(delivery));
    let checkpoint = lines.mark.checkpoint();
    Ok((
        lines,
        Resumed {
            adopted,
            absent,
            doubtful: Vec::new(),
            checkpoint,
        },
    ))
}

/// No mark: what the file holds is not ours, and new lines go behind it. Orphans without a mark (the operator had
/// the file accepted as it is) are looked for in the whole file.
fn first_start(place: &Place, orphans: &[Orphan], found: &mut Found) -> Result<Lines, Stopped> {
    let file = open_or_create(place)?;
    let metadata = file
        .metadata()
        .map_err(|error| place.failed("examine", &error))?;
    let mark = Mark::at_end(&metadata);
    // Without orphans only the last byte matters: whether it ends a line.
    let from = if orphans.is_empty() {
        mark.length.saturating_sub(1)
    } else {
        0
    };
    let whole =
        roll_forward(&file, from, orphans, found).map_err(|error| place.failed("read", &error))?;
    if whole != mark.length {
        return Err(Stopped(format!(
            "{}: ends in the middle of a line that this program did not write; complete the line, or move the file \
             away",
            place.path().display()
        )));
    }
    Ok(Lines { file, mark })
}

/// A mark: the file is the same and not shorter, or it is the successor in a rotation that a crash interrupted.
fn go_on(
    place: &Place,
    mark: Mark,
    orphans: &[Orphan],
    found: &mut Found,
) -> Result<Lines, Stopped> {
    let is_the_same = std::fs::symlink_metadata(place.path()).is_ok_and(|file| mark.is_of(&file));
    if is_the_same {
        let file = open_or_create(place)?;
        let length = settle(place, &file, mark.length, orphans, found)?;
        return held(place, file, length, mark.day);
    }
    let Some(rotated) = rotated_away(place, &mark) else {
        let what = if place.path().exists() {
            "was replaced by another file"
        } else {
            "is gone"
        };
        return Err(place.refuse(format!(
            "{what} (expected inode {} with at least {} bytes)",
            mark.inode, mark.length
        )));
    };
    let old = OpenOptions::new()
        .read(true)
        .append(true)
        .open(&rotated)
        .map_err(|error| place.failed("open its rotated predecessor", &error))?;
    settle(place, &old, mark.length, orphans, found)?;
    let file = open_or_create(place)?;
    let length = settle(place, &file, 0, orphans, found)?;
    held(place, file, length, None)
}

/// The open file with its new mark.
fn held(place: &Place, file: File, length: u64, day: Option<NaiveDate>) -> Result<Lines, Stopped> {
    let metadata = file
        .metadata()
        .map_err(|error| place.failed("examine", &error))?;
    let mark = Mark {
        length,
        day,
        ..Mark::at_end(&metadata)
    };
    Ok(Lines { file, mark })
}

/// Rolls forward from `from`, cuts a torn last line and all that lies behind a hole, and gives the length that is good.
fn settle(
    place: &Place,
    file: &File,
    from: u64,
    orphans: &[Orphan],
    found: &mut Found,
) -> Result<u64, Stopped> {
    let failed = |error: io::Error| place.failed("roll forward", &error);
    // What is about to be adopted must be on disk, not only in the page cache.
    file.sync_data().map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length < from {
        return Err(place.refuse(format!("is {length} bytes long, expected at least {from}")));
    }
    // Left where it is, the line with the hole would be torn for ever. What is cut is due again.
    let sound = first_hole(file, from).map_err(failed)?;
    if let Some(sound) = sound {
        file.set_len(sound).map_err(failed)?;
        file.sync_data().map_err(failed)?;
    }
    let length = sound.unwrap_or(length);
    let good = roll_forward(file, from, orphans, found).map_err(failed)?;
    if good != length {
        file.set_len(good).map_err(failed)?;
        file.sync_data().map_err(failed)?;
    }
    Ok(good)
}

/// The file `<path>.<yyyy-mm-dd>` that is the one of the mark, if there is one.
fn rotated_away(place: &Place, mark: &Mark) -> Option<PathBuf> {
    let name = place.path().file_name()?.to_str()?;
    std::fs::read_dir(directory(place.path()))
        .ok()?
        .flatten()
        .find(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|found| found.strip_prefix(name)?.strip_prefix('.'))
                .is_some_and(|day| day.parse::<NaiveDate>().is_ok())
                && entry.metadata().is_ok_and(|file| mark.is_of(&file))
        })
        .map(|entry| entry.path())
}

/// Opens the file at the sink's path, or creates it; locked, so that no second process writes to it.
pub(super) fn open_or_create(place: &Place) -> Result<File, Stopped> {
    let settings = &place.settings;
    OwnedFile {
        path: &settings.path,
        mode: settings.mode,
        group: settings.group.as_deref(),
    }
    .open_or_create()
}
