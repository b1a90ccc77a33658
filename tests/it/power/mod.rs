//! Power cuts: what a disk is left with when the machine stops at any moment.
//!
//! A library that is preloaded into the daemon (`notes.c`) notes down every write, truncation, flush, creation, renaming and
//! removal below the world's directory. When the daemon is dead, [`Disk::cut`] makes the files what the notes allow a
//! real disk to hold (`model`): all that was flushed, and of the rest any part. Files keep their inode numbers, as they
//! do on a disk. What is modelled and what is not is in `docs/reliability.md`.

mod login;
mod model;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rand::RngExt;
use rand::rngs::StdRng;

use model::{Left, Names, Note, What, replay};

/// The library, compiled once; `None`, and why is said, where it cannot be.
fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let compiled = LIBRARY.get_or_init(|| {
        if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
            return Err("power cuts need 64-bit Linux".to_owned());
        }
        // The tests of one run share it, and two runs do not write it at once.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("power-notes.so");
        let new = path.with_extension(std::process::id().to_string());
        let compiled = Command::new("cc")
            .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
            .arg(&new)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/power/notes.c"))
            .args(["-ldl", "-lpthread"])
            .output()
            .map_err(|error| format!("power cuts need the C compiler `cc`: {error}"))?;
        let words = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{words}");
        fs::rename(new, &path).unwrap();
        Ok(path)
    });
    compiled
        .as_deref()
        .map_err(|reason| eprintln!("skipped: {reason}"))
        .ok()
}

/// The disk that a directory lies on.
pub(crate) struct Disk {
    directory: PathBuf,
    notes: PathBuf,
    library: &'static Path,
    /// What was there when the power came on: all of it durable.
    at_power_on: Files,
}

/// Files by name and by inode number; and the directories, that a flush of one can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    names: BTreeMap<PathBuf, u64>,
    contents: HashMap<u64, Vec<u8>>,
    folders: HashMap<u64, PathBuf>,
}

/// What a power cut was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Changes that the daemon had made in its life.
    pub(crate) made: usize,
    /// Changes of them that no flush had made durable.
    pub(crate) unflushed: usize,
}

impl Disk {
    /// `None`: this machine cannot have its power cut, which is said.
    pub(crate) fn below(directory: &Path, notes: PathBuf) -> Option<Self> {
        Some(Self {
            directory: directory.canonicalize().unwrap(),
            notes,
            library: library()?,
            at_power_on: Files::default(),
        })
    }

    /// Prepares a daemon's start. With `ends_at` the power fails before that change of it.
    pub(crate) fn power_on(&mut self, daemon: &mut Command, ends_at: Option<u64>) {
        drop(fs::remove_file(&self.notes));
        self.at_power_on = Files::below(&self.directory);
        daemon
            .env("LD_PRELOAD", self.library)
            .env("POWER_DIRECTORY", &self.directory)
            .env("POWER_NOTES", &self.notes)
            .env("POWER_ENDS_AT", ends_at.unwrap_or(0).to_string());
    }

    fn notes(&self) -> Vec<Note> {
        Note::read_all(&fs::read(&self.notes).unwrap_or_default())
    }

    /// Asserts that the notes lead from what was there to what is there: that the daemon has no way to a file that the
    /// library does not see. Not after a kill from outside, which may fall between a change and its note.
    pub(crate) fn assert_all_is_noted(&self) {
        let replayed = replay(self.at_power_on.clone(), self.notes(), Names::Posix);
        let (noted, found) = (replayed.left(&mut Left::All), Files::below(&self.directory));
        let differing: Vec<_> = (noted.by_name().keys())
            .chain(found.by_name().keys())
            .filter(|path| noted.by_name().get(*path) != found.by_name().get(*path))
            .copied()
            .collect();
        assert!(differing.is_empty(), "not all is noted of {differing:?}");
    }

    /// The daemon is dead: makes the files what a power cut may have left of them.
    pub(crate) fn cut(&mut self, random: &mut StdRng) -> Cut {
        let notes = self.notes();
        let made = notes.iter().filter(|note| note.what != What::Flush);
        let made = made.count();
        let names = if random.random() {
            Names::Posix
        } else {
            Names::Journal
        };
        let replayed = replay(std::mem::take(&mut self.at_power_on), notes, names);
        let unflushed = replayed.unflushed();
        let left = match random.random_range(0..10) {
            0..4 => replayed.left(&mut Left::Flushed),
            4 => replayed.left(&mut Left::All),
            _ => replayed.left(&mut Left::Some(random)),
        };
        left.put(&self.directory);
        Cut { made, unflushed }
    }
}

impl Files {
    fn below(directory: &Path) -> Self {
        let mut files = Self::default();
        let mut folders = vec![directory.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let (path, inode) = (entry.path(), entry.metadata().unwrap().ino());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(path);
                } else if entry.file_type().unwrap().is_file() && !is_index(&path) {
                    files.contents.insert(inode, fs::read(&path).unwrap());
                    files.names.insert(path, inode);
                }
            }
            let inode = fs::metadata(&folder).unwrap().ino();
            files.folders.insert(inode, folder);
        }
        files
    }

    fn by_name(&self) -> BTreeMap<&Path, &[u8]> {
        let content = |inode| self.contents[inode].as_slice();
        let files = self.names.iter();
        files
            .map(|(path, inode)| (path.as_path(), content(inode)))
            .collect()
    }

    /// Makes the directory hold this. A file that is there keeps its number.
    fn put(&self, directory: &Path) {
        for folder in self.folders.values() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() && !self.names.contains_key(&entry.path()) {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        assert!(self.folders.values().any(|folder| folder == directory));
        for (path, content) in self.by_name() {
            if fs::read(path).is_ok_and(|found| found == content) {
                continue;
            }
            let mut options = fs::File::options();
            let file = options.create(true).truncate(false).write(true).open(path);
            let file = file.unwrap();
            file.set_len(content.len() as u64).unwrap();
            file.write_all_at(content, 0).unwrap();
        }
    }
}

/// The index of a write-ahead log is shared memory that happens to have a name: no power cut leaves it.
fn is_index(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with("-shm"))
}
