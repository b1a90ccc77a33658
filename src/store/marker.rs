//! The marker beside the ledger: which ledger lives in this directory, and how far it was.
//!
//! A ledger that vanished would be made anew in silence, and all that Fullscript still lists would be delivered again.
//! So its id and its *beat*, a number that only grows, stand in a second file. The ledger is written first and the marker
//! after it: a marker that is ahead of the ledger can only mean that the ledger is not the one that was left here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::OpenError;

/// The marker's name inside the state directory.
const NAME: &str = "ledger.id";

/// What a person chose after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceptedLoss {
    /// What was created before is skipped: nothing twice.
    Baseline,
    /// All that is still listed is delivered again: nothing lost.
    Replay,
}

impl AcceptedLoss {
    /// The word for it, on the command line and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Replay => "replay",
        }
    }

    /// The choice of a word.
    pub fn parse(word: &str) -> Option<Self> {
        let all = [Self::Baseline, Self::Replay];
        all.into_iter().find(|choice| choice.as_str() == word)
    }
}

/// Which ledger, and how far it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The ledger's id.
    pub(super) ledger: String,
    /// 0 until the ledger is there.
    pub(super) beat: i64,
    /// The ledger that is about to be made takes the place of a lost one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) accepted: Option<AcceptedLoss>,
}

/// Where the marker of a directory is.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

impl Marker {
    /// For a ledger that is about to be made.
    pub(super) fn of_new_ledger(accepted: Option<AcceptedLoss>) -> Self {
        Self {
            ledger: format!("{:032x}", rand::random::<u128>()),
            beat: 0,
            accepted,
        }
    }

    /// The marker of a directory, if it has one.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, OpenError> {
        let path = path(directory);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|_| OpenError::Marker(path))
    }

    /// Puts it in place of the one before, durably: whole, or not at all.
    pub(super) fn write(&self, directory: &Path) -> Result<(), OpenError> {
        let new = directory.join(format!("{NAME}.new"));
        let put = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, path(directory))?;
            File::open(directory)?.sync_all()
        };
        put().map_err(|source| OpenError::Io {
            path: path(directory),
            source,
        })
    }
}

/// What marker and ledger say of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No ledger has ever been here.
    Nothing,
    /// The ledger that was left here.
    AsLeft,
    /// There was a ledger, and it is gone.
    Lost,
    /// A ledger of another place.
    Other,
    /// A backup of the ledger that was here, or a ledger that came without its marker.
    Restored,
}

/// Judges. `ledger` is the id and the beat of the ledger that is there.
pub(super) fn judge(marker: Option<&Marker>, ledger: Option<(&str, i64)>) -> Found {
    match (marker, ledger) {
        (None, None) => Found::Nothing,
        (Some(marker), None) if marker.beat == 0 => Found::Nothing,
        (Some(_), None) => Found::Lost,
        (Some(marker), Some((id, _))) if id != marker.ledger => Found::Other,
        (Some(marker), Some((_, beat))) if beat >= marker.beat => Found::AsLeft,
        (None | Some(_), Some(_)) => Found::Restored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_and_ledger_tell_what_became_of_the_ledger() {
        let marker = |beat| Marker {
            ledger: "a".to_owned(),
            beat,
            accepted: None,
        };
        for (what, marker, ledger, expected) in [
            ("a first start", None, None, Found::Nothing),
            (
                "a first start that was cut off",
                Some(marker(0)),
                None,
                Found::Nothing,
            ),
            ("the ledger is gone", Some(marker(1)), None, Found::Lost),
            (
                "another ledger lies here",
                Some(marker(7)),
                Some(("b", 9)),
                Found::Other,
            ),
            (
                "as it was left",
                Some(marker(7)),
                Some(("a", 7)),
                Found::AsLeft,
            ),
            (
                "a backup in its place",
                Some(marker(7)),
                Some(("a", 6)),
                Found::Restored,
            ),
            (
                "a backup in an empty directory",
                None,
                Some(("a", 6)),
                Found::Restored,
            ),
            (
                "a crash before the marker was written",
                Some(marker(7)),
                Some(("a", 8)),
                Found::AsLeft,
            ),
        ] {
            assert_eq!(judge(marker.as_ref(), ledger), expected, "{what}");
        }
    }

    #[test]
    fn a_marker_is_read_as_it_was_written_and_one_that_cannot_be_read_is_told() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Marker::read(directory.path()).unwrap(), None);
        let marker = Marker::of_new_ledger(Some(AcceptedLoss::Replay));
        marker.write(directory.path()).unwrap();
        assert_eq!(Marker::read(directory.path()).unwrap(), Some(marker));
        fs::write(path(directory.path()), "nonsense").unwrap();
        assert!(matches!(
            Marker::read(directory.path()),
            Err(OpenError::Marker(_))
        ));
    }
}
