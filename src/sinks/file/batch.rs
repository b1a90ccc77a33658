//! Appending a batch: all of it durable, or a clean end and the rest not shown.

use std::fs::File;
use std::io::{self, Write};

use chrono::NaiveDate;

use super::mark::Mark;
use super::rotate;
use super::{Lines, Place};
use crate::domain::Outcome;
use crate::format::NotAnEvent;
use crate::sinks::{Delivered, Stopped};

/// What became of an append.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Appended {
    /// So many bytes, all of them whole lines, are durable.
    pub(super) durable: u64,
    /// Why the rest is not there.
    pub(super) failure: Option<String>,
}

/// Checks the file, rotates it if a day has ended, and appends.
pub(super) fn deliver(
    place: &Place,
    mut lines: Lines,
    batch: &[Result<Vec<u8>, NotAnEvent>],
    today: NaiveDate,
) -> Result<(Lines, Delivered), Stopped> {
    check_untouched(place, &lines)?;
    if let Some(day) = lines.mark.day
        && place.settings.rotate_daily
        && rotate::is_due(&lines.mark, today)
    {
        if let Some(reason) = rotate::put_away(place, day)? {
            return Ok(not_sent(lines, batch, reason));
        }
        lines = rotate::begin(place, lines)?;
    }
    if place.settings.rotate_daily {
        lines.mark.day = lines.mark.day.or(Some(today));
    }
    let bytes = batch.iter().flatten().map(Vec::as_slice);
    let bytes = bytes.collect::<Vec<_>>().concat();
    let appended = append(&lines.file, lines.mark.length, &bytes).map_err(|error| {
        place.failed("bring it back to a clean end after a failed write", &error)
    })?;
    Ok(report(lines, batch, &appended))
}

fn not_sent(
    lines: Lines,
    batch: &[Result<Vec<u8>, NotAnEvent>],
    reason: String,
) -> (Lines, Delivered) {
    let nothing = Appended {
        durable: 0,
        failure: Some(reason),
    };
    report(lines, batch, &nothing)
}

fn report(
    mut lines: Lines,
    batch: &[Result<Vec<u8>, NotAnEvent>],
    appended: &Appended,
) -> (Lines, Delivered) {
    lines.mark.length += appended.durable;
    let delivered = Delivered {
        status_codes: Vec::new(),
        outcomes: outcomes(batch, appended),
        checkpoint: lines.mark.checkpoint(),
    };
    (lines, delivered)
}

/// One outcome per line: yes as far as the durable bytes reach.
fn outcomes(batch: &[Result<Vec<u8>, NotAnEvent>], appended: &Appended) -> Vec<Outcome> {
    let mut end = 0;
    batch
        .iter()
        .map(|line| match line {
            Err(refused) => Outcome::No {
                reason: refused.to_string(),
                retry_after: None,
            },
            Ok(line) => {
                end += line.len() as u64;
                match &appended.failure {
                    Some(reason) if end > appended.durable => Outcome::NotSent {
                        reason: reason.clone(),
                    },
                    _ => Outcome::Yes,
                }
            }
        })
        .collect()
}

/// Whether the path still leads to this file, and the file ends where this sink ended it.
fn check_untouched(place: &Place, lines: &Lines) -> Result<(), Stopped> {
    let found = std::fs::symlink_metadata(place.path())
        .map_err(|error| place.refuse(format!("cannot be found any more ({error})")))?;
    let here = Mark::at_end(&found);
    let expected = &lines.mark;
    if (here.device, here.inode) != (expected.device, expected.inode) {
        return Err(place.refuse(format!(
            "was replaced by another file (found inode {}, expected {})",
            here.inode, expected.inode
        )));
    }
    if here.length != expected.length {
        return Err(place.refuse(format!(
            "was changed by somebody else (found {} bytes, expected {})",
            here.length, expected.length
        )));
    }
    Ok(())
}

/// Appends whole lines behind `good` and flushes them. After a failed write the lines that are whole stay (a reader
/// may have seen them) and the torn one is cut; after a failed flush all are cut, because none is known to be on
/// disk. `Err`: not even the cut worked, so that only a new roll forward can tell what is there.
pub(super) fn append(file: &File, good: u64, bytes: &[u8]) -> io::Result<Appended> {
    let (written, failure) = write(file, bytes);
    let Some(failure) = failure else {
        return match file.sync_data() {
            Ok(()) => Ok(Appended {
                durable: bytes.len() as u64,
                failure: None,
            }),
            Err(error) => {
                file.set_len(good)?;
                file.sync_data()?;
                Ok(Appended {
                    durable: 0,
                    failure: Some(format!("the file cannot be flushed: {error}")),
                })
            }
        };
    };
    let whole = bytes
        .get(..written)
        .and_then(|shown| shown.iter().rposition(|byte| *byte == b'\n'))
        .map_or(0, |newline| newline as u64 + 1);
    file.set_len(good + whole)?;
    file.sync_data()?;
    Ok(Appended {
        durable: whole,
        failure: Some(format!("the file cannot be written: {failure}")),
    })
}

/// Like `write_all`, and says how far it came.
fn write(mut file: &File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}
