//! What a disk may hold after a power cut, from what was noted. No I/O.
//!
//! Every change is either flushed, and then there, or it may be there or not. Sectors are independent of each other, and
//! each is as it was at some moment since its last flush: so a later write may be there without an earlier one, and
//! a file may have grown around a hole of zeros. What a file's directory says of it happens in its order.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use rand::RngExt;
use rand::rngs::StdRng;

use super::Files;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// What was done to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) inode: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Wrote {
        at: usize,
        bytes: Vec<u8>,
    },
    HasLength(usize),
    /// Of a file or of a directory.
    Flush,
    Created(PathBuf),
    Removed(PathBuf),
    Renamed(PathBuf, PathBuf),
}

impl Note {
    /// Reads what `notes.c` writes. The last note may be torn: then what it says had not returned.
    pub(super) fn read_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut notes = Vec::new();
        while let Some((note, rest)) = Self::read(bytes) {
            notes.push(note);
            bytes = rest;
        }
        notes
    }

    fn read(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut number = || -> Option<u64> {
            let (number, rest) = bytes.split_first_chunk()?;
            bytes = rest;
            Some(u64::from_ne_bytes(*number))
        };
        let (what, inode, at, length) = (number()?, number()?, number()?, number()?);
        let (data, rest) = bytes.split_at_checked(usize::try_from(length).unwrap())?;
        let path = || PathBuf::from(std::str::from_utf8(data).unwrap());
        let at = usize::try_from(at).unwrap();
        let what = match u8::try_from(what).unwrap() {
            b'w' => What::Wrote {
                at,
                bytes: data.to_owned(),
            },
            b't' => What::HasLength(at),
            b's' => What::Flush,
            b'c' => What::Created(path()),
            b'u' => What::Removed(path()),
            b'r' => {
                let (from, to) = std::str::from_utf8(data).unwrap().split_once('\0').unwrap();
                What::Renamed(from.into(), to.into())
            }
            other => panic!("no note is called {other}"),
        };
        Some((Self { inode, what }, rest))
    }
}

/// What makes a new name durable, or the end of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// A flush of their directory: all that POSIX promises.
    Posix,
    /// Any flush, as in a file system with one journal for all.
    Journal,
}

/// How much is left of what was not flushed.
pub(super) enum Left<'a> {
    Flushed,
    All,
    Some(&'a mut StdRng),
}

/// A disk and what has happened to it since it was last made durable.
pub(super) struct Replayed {
    names: BTreeMap<PathBuf, u64>,
    /// In order.
    naming: Vec<Naming>,
    contents: HashMap<u64, Content>,
    folders: HashMap<u64, PathBuf>,
}

/// What happens to names of one directory at once; `None` removes.
type Naming = Vec<(PathBuf, Option<u64>)>;

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    since: Vec<Change>,
}

enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

/// Goes through the notes.
pub(super) fn replay(files: Files, notes: Vec<Note>, names: Names) -> Replayed {
    let content = |durable| Content {
        durable,
        since: Vec::new(),
    };
    let contents = files.contents.into_iter();
    let mut disk = Replayed {
        names: files.names,
        naming: Vec::new(),
        contents: contents
            .map(|(inode, bytes)| (inode, content(bytes)))
            .collect(),
        folders: files.folders,
    };
    for Note { inode, what } in notes {
        match what {
            What::Wrote { at, bytes } => disk.change(inode, Change::Write { at, bytes }),
            What::HasLength(length) => disk.change(inode, Change::Length(length)),
            What::Created(path) => {
                disk.naming.push(vec![(path, Some(inode))]);
                disk.contents.insert(inode, Content::default());
            }
            What::Removed(path) => disk.naming.push(vec![(path, None)]),
            What::Renamed(from, to) => {
                assert_eq!(from.parent(), to.parent());
                disk.naming.push(vec![(from, None), (to, Some(inode))]);
            }
            What::Flush => disk.flush(inode, names),
        }
    }
    disk
}

impl Replayed {
    fn change(&mut self, inode: u64, change: Change) {
        self.contents.get_mut(&inode).unwrap().since.push(change);
    }

    fn flush(&mut self, inode: u64, names: Names) {
        if let Some(content) = self.contents.get_mut(&inode) {
            content.durable = content.left(&mut Left::All);
            content.since.clear();
        }
        let folder = self.folders.get(&inode);
        let naming = std::mem::take(&mut self.naming);
        for naming in naming {
            let of_folder =
                |(path, _): &(PathBuf, _)| path.parent() == folder.map(PathBuf::as_path);
            if names == Names::Journal || naming.iter().all(of_folder) {
                call(&mut self.names, &naming);
            } else {
                self.naming.push(naming);
            }
        }
    }

    /// How many changes no flush has made durable.
    pub(super) fn unflushed(&self) -> usize {
        let contents = self.contents.values();
        self.naming.len() + contents.map(|content| content.since.len()).sum::<usize>()
    }

    /// The files after a cut.
    pub(super) fn left(&self, left: &mut Left<'_>) -> Files {
        let happened = match left {
            Left::Flushed => 0,
            Left::All => self.naming.len(),
            Left::Some(random) => random.random_range(0..=self.naming.len()),
        };
        let mut names = self.names.clone();
        for naming in self.naming.iter().take(happened) {
            call(&mut names, naming);
        }
        // In the order of the names, so that a seed gives the same choices again.
        let contents = names
            .values()
            .map(|inode| (*inode, self.contents[inode].left(left)));
        Files {
            contents: contents.collect(),
            folders: self.folders.clone(),
            names,
        }
    }
}

fn call(names: &mut BTreeMap<PathBuf, u64>, naming: &Naming) {
    for (path, now) in naming {
        match now {
            Some(inode) => names.insert(path.clone(), *inode),
            None => names.remove(path),
        };
    }
}

impl Content {
    fn left(&self, left: &mut Left<'_>) -> Vec<u8> {
        let all = self.since.len();
        let mut moment = || match left {
            Left::Flushed => 0,
            Left::All => all,
            Left::Some(random) => match random.random_range(0..3) {
                0 => 0,
                1 => all,
                _ => random.random_range(0..=all),
            },
        };
        let length_as_of = moment();
        let mut as_of: HashMap<usize, usize> = HashMap::new();
        let mut bytes = self.durable.clone();
        for (nth, change) in self.since.iter().enumerate() {
            match change {
                Change::Length(length) if nth < length_as_of => bytes.resize(*length, 0),
                Change::Length(_) => {}
                Change::Write { at, bytes: written } => {
                    for (sector, at, piece) in sectors(*at, written) {
                        if nth < *as_of.entry(sector).or_insert_with(&mut moment) {
                            let end = at + piece.len();
                            bytes.resize(bytes.len().max(end), 0);
                            bytes[at..end].copy_from_slice(piece);
                        }
                    }
                }
            }
        }
        bytes
    }
}

/// The parts of a write: each its sector's number, its place in the file, and its bytes.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, usize, &[u8])> {
    let (mut at, mut rest) = (at, bytes);
    std::iter::from_fn(move || {
        let room = SECTOR - at % SECTOR;
        let (piece, behind) = rest.split_at(room.min(rest.len()));
        let part = (at / SECTOR, at, piece);
        (at, rest) = (at + piece.len(), behind);
        (!piece.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use std::path::Path;

    use super::*;

    const FILE: u64 = 7;
    const FOLDER: u64 = 1;

    fn note(inode: u64, what: What) -> Note {
        Note { inode, what }
    }

    fn wrote(at: usize, bytes: &[u8]) -> Note {
        let bytes = bytes.to_owned();
        note(FILE, What::Wrote { at, bytes })
    }

    fn with_file(content: &[u8]) -> Files {
        Files {
            names: [("/d/file".into(), FILE)].into(),
            contents: [(FILE, content.to_owned())].into(),
            folders: [(FOLDER, "/d".into())].into(),
        }
    }

    /// Everything that a thousand cuts leave of the file.
    fn every_content(disk: &Replayed) -> HashSet<Vec<u8>> {
        let mut random = StdRng::seed_from_u64(1);
        (0..1000)
            .map(|_| disk.left(&mut Left::Some(&mut random)).contents[&FILE].clone())
            .collect()
    }

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_each_sector_may_be() {
        let notes = vec![
            wrote(0, b"flushed "),
            note(FILE, What::Flush),
            wrote(8, &[b'x'; SECTOR]),
        ];
        let disk = replay(with_file(b""), notes, Names::Posix);
        assert_eq!(disk.unflushed(), 1);
        assert_eq!(disk.left(&mut Left::Flushed).contents[&FILE], b"flushed ");
        let all = [b"flushed ".as_slice(), &[b'x'; SECTOR]].concat();
        assert_eq!(disk.left(&mut Left::All).contents[&FILE], all);
        // Neither, the first, the last behind a hole, both.
        let mut hole = all.clone();
        hole[8..SECTOR].fill(0);
        let expected = [b"flushed ".to_vec(), all[..SECTOR].to_vec(), hole, all];
        assert_eq!(every_content(&disk), HashSet::from(expected));
    }

    #[test]
    fn a_sector_is_as_it_was_at_some_moment() {
        let notes = vec![wrote(0, b"a"), wrote(1, b"b"), wrote(0, b"c")];
        let disk = replay(with_file(b""), notes, Names::Posix);
        let expected = ["", "a", "ab", "cb"].map(|text| text.as_bytes().to_vec());
        assert_eq!(every_content(&disk), HashSet::from(expected));
    }

    #[test]
    fn a_name_is_durable_after_a_flush_of_its_directory_or_of_anything() {
        let created = note(8, What::Created("/d/new".into()));
        let removed = note(0, What::Removed("/d/file".into()));
        for (names, flushed, is_durable) in [
            (Names::Posix, FOLDER, true),
            (Names::Posix, 8, false),
            (Names::Journal, 8, true),
        ] {
            let notes = vec![created.clone(), removed.clone(), note(flushed, What::Flush)];
            let disk = replay(with_file(b"kept"), notes, names);
            let left = disk.left(&mut Left::Flushed);
            let expected = if is_durable { "/d/new" } else { "/d/file" };
            let found: Vec<_> = left.names.keys().collect();
            assert_eq!(found, [Path::new(expected)], "{names:?} {flushed}");
        }
    }

    #[test]
    fn a_renamed_file_has_its_old_name_or_its_new_one() {
        let new = note(8, What::Created("/d/new".into()));
        let renamed = note(8, What::Renamed("/d/new".into(), "/d/file".into()));
        let notes = vec![new, note(FOLDER, What::Flush), renamed.clone()];
        let disk = replay(with_file(b"kept"), notes, Names::Posix);
        let mut random = StdRng::seed_from_u64(1);
        let mut names = || disk.left(&mut Left::Some(&mut random)).names;
        let found: HashSet<Vec<(PathBuf, u64)>> =
            (0..99).map(|_| names().into_iter().collect()).collect();
        let (file, new) = (PathBuf::from("/d/file"), PathBuf::from("/d/new"));
        let before = vec![(file.clone(), FILE), (new, 8)];
        assert_eq!(found, HashSet::from([before, vec![(file, 8)]]));
    }

    #[test]
    fn a_torn_note_has_not_happened() {
        let number = |n: u64| n.to_ne_bytes();
        let head = [number(u64::from(b'w')), number(FILE), number(3), number(2)].concat();
        let whole = [head.as_slice(), b"ab"].concat();
        assert_eq!(Note::read_all(&whole), [wrote(3, b"ab")]);
        for end in 1..whole.len() {
            let torn = [&whole, &whole[..end]].concat();
            assert_eq!(Note::read_all(&torn), [wrote(3, b"ab")]);
        }
    }
}
