//! The checkpoint of a file: which file it was, and up to where its lines are settled.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::sinks::Checkpoint;

/// Stored as JSON in the ledger. The device is compared only while the file is open: device numbers change over
/// reboots, inode numbers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// In bytes: every line before it is settled.
    pub(super) length: u64,
    /// The UTC day whose lines the file holds, where it is rotated daily and has been written to.
    pub(super) day: Option<NaiveDate>,
}

impl Mark {
    /// The end of a file, as it is.
    pub(super) fn at_end(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            day: None,
        }
    }

    pub(super) fn is_of(&self, file: &Metadata) -> bool {
        self.inode == file.ino()
    }

    pub(super) fn parse(checkpoint: &Checkpoint) -> Option<Self> {
        serde_json::from_str(&checkpoint.0).ok()
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        serde_json::to_string(self).ok().map(Checkpoint)
    }
}
