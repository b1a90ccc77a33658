//! The files of the log: one per UTC day, only ever appended to.
//!
//! What lies behind the head is what a crash left between a write and the record of it: it is cut and written again, byte
//! for byte. Unless there is a good row in it that is not about to be written: then the ledger is older than the log (a
//! restored one), and the log is right. A good row is never cut, whatever lies before it: writing goes on behind the last
//! one, and a break stays where [`super::verify`] names it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::chain::{Key, Link};
use super::record::{Action, Record};
use super::rows::{Head, Pending};

/// No row is as long: what is longer is none, and is not read into memory.
pub(super) const LONGEST_ROW: u64 = 64 << 10;

/// The word for a row that says where the log begins.
const BEGAN: &str = "began";

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Unwritten {
    /// The system refused: full, read-only, gone.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not as it was left.
    #[error("{path} is {found} bytes long, {expected} were written")]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// Its length as it was left.
        expected: u64,
    },
    /// There is a log that this ledger's key did not make.
    #[error(
        "{0} belongs to another ledger, or its first row was changed: move the files away, or name another [audit] directory"
    )]
    Foreign(PathBuf),
}

/// What was written.
pub(super) struct Written {
    pub(super) head: Head,
    /// The newest row of the ledger that is in it.
    pub(super) upto: Option<i64>,
}

/// What was found behind the head, or missing before it.
pub(super) struct Settled {
    /// Where the log ends now; `None` if it is empty.
    pub(super) written: Option<Written>,
    /// What is worth a word in the log.
    pub(super) remarks: Vec<Remark>,
}

/// Something that is not as it was left: a word for the chain itself, how much of what, and words for people.
pub(super) struct Remark {
    pub(super) what: &'static str,
    pub(super) much: (&'static str, u64),
    pub(super) words: String,
}

/// What lies behind the head.
struct Behind {
    /// Where the log ends with all of it but a torn rest.
    end: Head,
    /// Good rows that are not about to be written.
    unknown: u64,
    /// Bytes of good rows that are: a crash came before they were noted.
    again: u64,
    /// The newest row of the ledger that is in it, with all before.
    upto: Option<i64>,
    /// Something in it does not continue the chain.
    is_broken: bool,
}

/// A directory of day files.
#[derive(Clone)]
pub(super) struct Folder {
    directory: PathBuf,
}

/// The name of a day's file.
fn name_of(day: &str) -> String {
    format!("audit-{day}.jsonl")
}

/// The UTC day of a file's name, as `YYYY-MM-DD`.
pub(super) fn day_of(name: &str) -> Option<&str> {
    let day = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let is_date = chrono::NaiveDate::parse_from_str(day, "%Y-%m-%d").is_ok();
    (is_date && day.len() == 10).then_some(day)
}

fn at<T>(path: &Path, done: io::Result<T>) -> Result<T, Unwritten> {
    done.map_err(|source| Unwritten::Io {
        path: path.to_owned(),
        source,
    })
}

impl Folder {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// The names of the day files, the oldest first; none where there is no directory.
    pub(super) fn files(&self) -> Result<Vec<String>, Unwritten> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => at(&self.directory, entries)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let name = at(&self.directory, entry)?.file_name();
            if let Some(name) = name.to_str()
                && day_of(name).is_some()
            {
                files.push(name.to_owned());
            }
        }
        files.sort();
        Ok(files)
    }

    fn open(&self, file: &str) -> Result<File, Unwritten> {
        let path = self.path(file);
        let open = |new| {
            OpenOptions::new()
                .read(true)
                .append(true)
                .create_new(new)
                .mode(0o600)
                .open(&path)
        };
        match open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = at(&path, open(true))?;
                // Without this a power cut takes the name of a file that the ledger counts on.
                at(
                    &self.directory,
                    File::open(&self.directory).and_then(|d| d.sync_all()),
                )?;
                Ok(made)
            }
            opened => at(&path, opened),
        }
    }

    /// The file as it was left, ready for more.
    fn expect(&self, file: &str, expected: u64) -> Result<File, Unwritten> {
        let opened = self.open(file)?;
        let path = self.path(file);
        let found = at(&path, opened.metadata())?.len();
        if found != expected {
            return Err(Unwritten::Changed {
                path,
                found,
                expected,
            });
        }
        Ok(opened)
    }

    /// Whether the next row could be written, as far as that can be told without one.
    pub(super) fn probe(&self, head: Option<&Head>) -> Result<(), Unwritten> {
        match head {
            Some(head) => self.expect(&head.file, head.length).map(drop),
            None => at(&self.directory, fs::read_dir(&self.directory)).map(drop),
        }
    }

    /// Appends records, down to the disk. On an error what was written of them lies behind the head.
    pub(super) fn append(
        &self,
        key: &Key,
        head: Option<&Head>,
        pending: &[Pending],
    ) -> Result<Option<Written>, Unwritten> {
        let mut head = head.cloned();
        let mut records = pending.iter().flat_map(|row| &row.records).peekable();
        while let Some(first) = records.peek() {
            let file = next_file(head.as_ref(), &first.timestamp);
            let (before, length) = match &head {
                Some(head) if head.file == file => (head.end.clone(), head.length),
                Some(head) => (head.end.clone(), 0),
                None => (Link::none(), 0),
            };
            let mut end = before.clone();
            let mut bytes = Vec::new();
            while let Some(record) = records.next_if(|record| is_of_day(&file, &record.timestamp)) {
                let (line, link) = key.line(&end, record);
                bytes.extend_from_slice(&line);
                end = link;
            }
            let path = self.path(&file);
            let mut opened = self.expect(&file, length)?;
            at(
                &path,
                opened.write_all(&bytes).and_then(|()| opened.sync_data()),
            )?;
            let (begin, first) = match head {
                Some(head) => (head.begin, head.first),
                None => (before, file.clone()),
            };
            head = Some(Head {
                begin,
                first,
                end,
                file,
                length: length + bytes.len() as u64,
            });
        }
        Ok(head.map(|head| Written {
            head,
            upto: pending.last().map(|row| row.row),
        }))
    }

    /// Brings files and ledger into agreement: cuts what a crash left behind the head, goes on behind what was cut off by
    /// others, and takes over a chain that is longer than the ledger knows.
    pub(super) fn settle(
        &self,
        key: &Key,
        head: Option<&Head>,
        pending: &[Pending],
    ) -> Result<Settled, Unwritten> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory);
        at(&self.directory, made)?;
        let files = self.files()?;
        let Some(head) = head
            .cloned()
            .map_or_else(|| self.found(key, &files), |h| Ok(Some(h)))?
        else {
            // At most what a crash, or a full disk, left of the very first row.
            self.cut("", 0, &files)?;
            return Ok(Settled {
                written: None,
                remarks: Vec::new(),
            });
        };
        let found = self.length(&head.file)?;
        if found < head.length {
            let missing = head.length - found;
            let words = format!(
                "{} is shorter than it was left: rows are missing (`fullscript-events audit verify`); writing goes on behind them",
                self.path(&head.file).display()
            );
            return Ok(Settled {
                written: Some(Written {
                    head: self.shortened(head)?,
                    upto: None,
                }),
                remarks: vec![Remark {
                    what: "found_shorter",
                    much: ("bytes", missing),
                    words,
                }],
            });
        }
        self.settle_behind(key, head, &files, pending)
    }

    /// The head of a log that the ledger knows nothing of: before its first row. It has to begin with row 1, unless a row
    /// in it says where ([`began`]): else its first days could be taken off together with the ledger's word.
    fn found(&self, key: &Key, files: &[String]) -> Result<Option<Head>, Unwritten> {
        for file in files {
            let path = self.path(file);
            let mut lines = BufReader::new(at(&path, File::open(&path))?);
            let Some(line) = at(&path, next_line(&mut lines))? else {
                continue;
            };
            if line.last() != Some(&b'\n') && (line.len() as u64) < LONGEST_ROW {
                continue;
            }
            let row = key.read(line.trim_ascii_end());
            let row = row.map_err(|_| Unwritten::Foreign(path))?;
            return Ok(Some(Head {
                begin: Link::none(),
                first: file.clone(),
                end: row.before,
                file: file.clone(),
                length: 0,
            }));
        }
        Ok(None)
    }

    fn length(&self, file: &str) -> Result<u64, Unwritten> {
        let path = self.path(file);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            found => Ok(at(&path, found)?.len()),
        }
    }

    /// Somebody has cut the file: what comes next begins a line of its own.
    fn shortened(&self, head: Head) -> Result<Head, Unwritten> {
        let path = self.path(&head.file);
        let mut file = self.open(&head.file)?;
        let mut length = at(&path, file.metadata())?.len();
        if length > 0 {
            let mut last = [0];
            let read = file
                .seek(SeekFrom::Start(length - 1))
                .and_then(|_| file.read_exact(&mut last));
            at(&path, read)?;
            if last != *b"\n" {
                at(&path, file.write_all(b"\n").and_then(|()| file.sync_data()))?;
                length += 1;
            }
        }
        Ok(Head { length, ..head })
    }

    fn settle_behind(
        &self,
        key: &Key,
        head: Head,
        files: &[String],
        pending: &[Pending],
    ) -> Result<Settled, Unwritten> {
        let behind = self.behind(key, &head, files, pending)?;
        let mut remarks = Vec::new();
        let mut remark = |what, much, words| remarks.push(Remark { what, much, words });
        // Rows that are about to be written came from a crash in between: they are written again. Other ones are the
        // truth, and the ledger is a backup.
        let (written, again) = if behind.unknown == 0 {
            (Written { head, upto: None }, behind.again)
        } else {
            let rows = behind.unknown;
            let mut words = format!(
                "the audit log has {rows} rows more than the ledger knows (was it restored?): it goes on behind them"
            );
            if behind.is_broken {
                words +=
                    "; not all of them are as they were written (`fullscript-events audit verify`)";
            }
            remark("found_longer", ("rows", rows), words);
            let (head, upto) = (behind.end, behind.upto);
            (Written { head, upto }, 0)
        };
        let head = &written.head;
        let cut = self.cut(&head.file, head.length, files)?;
        // Rows that are written again are no loss; the rest is what a crash has torn, or somebody's else.
        let lost = cut.saturating_sub(again);
        if lost > 0 {
            let words = format!(
                "{lost} bytes behind the end of the audit log, which are no row of it, were cut"
            );
            remark("cut", ("bytes", lost), words);
        }
        let written = Written {
            // The last row may have lost its end, and no more than that.
            head: self.shortened(written.head)?,
            ..written
        };
        Ok(Settled {
            written: Some(written),
            remarks,
        })
    }

    fn behind(
        &self,
        key: &Key,
        head: &Head,
        files: &[String],
        pending: &[Pending],
    ) -> Result<Behind, Unwritten> {
        let coming = coming(key, &head.end, pending);
        let mut behind = Behind {
            end: head.clone(),
            unknown: 0,
            again: 0,
            upto: None,
            is_broken: false,
        };
        let mut matched = 0;
        for file in files.iter().filter(|file| **file >= head.file) {
            let path = self.path(file);
            let mut length = if *file == head.file { head.length } else { 0 };
            let mut opened = at(&path, File::open(&path))?;
            at(&path, opened.seek(SeekFrom::Start(length)))?;
            let mut lines = BufReader::new(opened);
            while let Some(line) = at(&path, next_line(&mut lines))? {
                length += line.len() as u64;
                let is_torn = line.last() != Some(&b'\n');
                let Ok(row) = key.read(line.strip_suffix(b"\n").unwrap_or(&line)) else {
                    if !is_torn {
                        behind.is_broken = true;
                        (behind.end.file, behind.end.length) = (file.clone(), length);
                    }
                    continue;
                };
                match coming.get(&row.link.hash) {
                    Some((place, whole)) => {
                        behind.again += line.len() as u64;
                        if *place == matched {
                            matched += 1;
                            behind.upto = whole.or(behind.upto);
                        }
                    }
                    None => behind.unknown += 1,
                }
                behind.is_broken |= row.before != behind.end.end;
                // A row that is there a second time is not where the chain goes on.
                if row.link.seq > behind.end.end.seq {
                    if let Some((begin, first)) = begun(&row.record) {
                        (behind.end.begin, behind.end.first) = (begin, first);
                    }
                    behind.end.end = row.link;
                }
                (behind.end.file, behind.end.length) = (file.clone(), length);
            }
        }
        Ok(behind)
    }

    /// Cuts what lies behind the end, which is so far in this file; gives how many bytes.
    fn cut(&self, end: &str, length: u64, files: &[String]) -> Result<u64, Unwritten> {
        let mut cut = 0;
        for file in files.iter().filter(|file| file.as_str() >= end) {
            let keep = if file == end { length } else { 0 };
            let path = self.path(file);
            let found = self.length(file)?;
            if found > keep {
                let opened = at(&path, OpenOptions::new().write(true).open(&path))?;
                at(&path, opened.set_len(keep).and_then(|()| opened.sync_all()))?;
                cut += found - keep;
            }
        }
        Ok(cut)
    }

    /// Where the log would begin if days before `oldest` were gone; `None` if there are none, or none that is followed by
    /// a good row.
    pub(super) fn begin_at(
        &self,
        key: &Key,
        head: &Head,
        oldest: &str,
    ) -> Result<Option<Head>, Unwritten> {
        let files = self.files()?;
        let expired = |file: &&String| day_of(file).is_some_and(|day| day < oldest);
        if !files
            .iter()
            .any(|file| expired(&file) && *file >= head.first)
        {
            return Ok(None);
        }
        let is_kept = |file: &&String| !expired(file) || **file >= head.file;
        for file in files.iter().filter(is_kept) {
            let path = self.path(file);
            let mut lines = BufReader::new(at(&path, File::open(&path))?);
            let Some(line) = at(&path, next_line(&mut lines))? else {
                continue;
            };
            let Ok(row) = key.read(line.trim_ascii_end()) else {
                // What follows a change must not be where the proof begins.
                return Ok(None);
            };
            let begin = Head {
                begin: row.before,
                first: file.clone(),
                ..head.clone()
            };
            return Ok((begin.first != head.first).then_some(begin));
        }
        Ok(None)
    }

    /// Removes the days before the log's first; gives how many.
    pub(super) fn remove_before(&self, head: &Head) -> Result<usize, Unwritten> {
        let mut removed = 0;
        for file in self.files()?.iter().filter(|file| **file < head.first) {
            let path = self.path(file);
            at(&path, fs::remove_file(&path))?;
            removed += 1;
        }
        Ok(removed)
    }
}

/// The rows that are about to be written behind `end`, by their hashes: the place of each among them, and the ledger's row
/// that is whole with it.
fn coming(key: &Key, end: &Link, pending: &[Pending]) -> HashMap<String, (usize, Option<i64>)> {
    let mut end = end.clone();
    let records = pending.iter().flat_map(|row| {
        let last = row.records.len();
        (1..)
            .zip(&row.records)
            .map(move |(n, record)| (record, (n == last).then_some(row.row)))
    });
    let places = records.enumerate().map(|(place, (record, whole))| {
        let (_, link) = key.line(&end, record);
        end = link;
        (end.hash.clone(), (place, whole))
    });
    places.collect()
}

/// Says in the chain itself where it begins now. A ledger that does not know, a lost one or a backup, learns it from there.
pub(super) fn began(record: Record, head: &Head) -> Record {
    record
        .note("what", BEGAN)
        .note("day", day_of(&head.first).unwrap_or_default())
        .note("behind", head.begin.seq)
        .note("hash", &head.begin.hash)
}

/// What [`began`] said: what the first row continues, and its file.
fn begun(record: &Record) -> Option<(Link, String)> {
    if record.action != Action::Config || record.noted("what") != Some(BEGAN) {
        return None;
    }
    let begin = Link {
        seq: record.noted("behind")?.parse().ok()?,
        hash: record.noted("hash")?.to_owned(),
    };
    Some((begin, name_of(record.noted("day")?)))
}

/// A line with its end, if it has one; what is too long is no row, and comes in pieces.
pub(super) fn next_line(lines: &mut impl io::BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = lines.take(LONGEST_ROW).read_until(b'\n', &mut line)?;
    Ok((read > 0).then_some(line))
}

/// The file of a record that comes next. A clock that was set back does not reopen a day: rows lie in their order.
fn next_file(head: Option<&Head>, timestamp: &str) -> String {
    let file = name_of(timestamp.get(..10).unwrap_or_default());
    match head {
        Some(head) if head.file > file => head.file.clone(),
        _ => file,
    }
}

/// Whether a record goes on in this file.
fn is_of_day(file: &str, timestamp: &str) -> bool {
    name_of(timestamp.get(..10).unwrap_or_default()).as_str() <= file
}
