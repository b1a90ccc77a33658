//! `[audit]`: the log of who was given what. The section alone turns it on.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `[audit]` (`docs/audit.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where the files are, one per UTC day.
    pub directory: PathBuf,
    /// How long a day is kept.
    pub keep: Duration,
    /// Whether nothing is delivered while it cannot be written.
    pub required: bool,
}

/// Of the text of a configuration: tells whether it is the one of last time. Two texts that mean the same have two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    /// Says nothing: what is shown of a configuration is what it means.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}
