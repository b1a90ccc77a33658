//! Reading what stands behind the mark: which orphans are there, where the last complete line ends, and where there is a
//! hole.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};

use serde::Deserialize;

use crate::domain::DeliveryId;
use crate::sinks::Orphan;

/// The orphans whose line was found.
pub(super) type Found = HashSet<DeliveryId>;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    delivery: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// Where the first zero byte behind `from` is. No line of ours has one: it is a hole, where a power cut left a later
/// part of an append without an earlier one.
pub(super) fn first_hole(mut file: &File, from: u64) -> io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file);
    let mut at = from;
    loop {
        let bytes = reader.fill_buf()?;
        if let Some(sound) = bytes.iter().position(|byte| *byte == 0) {
            return Ok(Some(at + sound as u64));
        }
        let read = bytes.len();
        if read == 0 {
            return Ok(None);
        }
        reader.consume(read);
        at += read as u64;
    }
}

/// Reads from `from` to the end, adds each orphan with a complete line to `found`, and gives the offset behind the
/// last complete line. A complete line of anything else stays: a reader may have seen it.
pub(super) fn roll_forward(
    mut file: &File,
    from: u64,
    orphans: &[Orphan],
    found: &mut Found,
) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file);
    let mut good = from;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes)?;
        if bytes.last() != Some(&b'\n') {
            return Ok(good);
        }
        good += read as u64;
        let Ok(line) = serde_json::from_slice::<Line<'_>>(&bytes) else {
            continue;
        };
        // The event is compared too: a ledger that was started afresh counts its deliveries from 1 again.
        found.extend(
            orphans
                .iter()
                .find(|orphan| {
                    orphan.event.as_str() == line.id && orphan.delivery.to_string() == line.delivery
                })
                .map(|orphan| orphan.delivery),
        );
    }
}
