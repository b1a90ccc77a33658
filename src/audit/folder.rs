//! The files of the log: one per UTC day, only ever appended to.
//!
//! What lies behind the head is what a crash left between a write and the record of it: it is cut and written again, byte
//! for byte. Unless it is a chain that goes on: then the ledger is older than the log (a restored one), and the log is
//! right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::chain::{Key, Link};
use super::rows::{Head, Pending};

/// No row is as long: what is longer is none, and is not read into memory.
pub(super) const LONGEST_ROW: u64 = 64 << 10;

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
    pub(super) remark: Option<Remark>,
}

/// Something that is not as it was left: a word for the chain itself, and words for people.
pub(super) struct Remark {
    pub(super) what: &'static str,
    pub(super) words: String,
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
                remark: None,
            });
        };
        let found = self.length(&head.file)?;
        if found < head.length {
            let words = format!(
                "{} is shorter than it was left: rows are missing (`fullscript-events audit verify`); writing goes on behind them",
                self.path(&head.file).display()
            );
            return Ok(Settled {
                written: Some(Written {
                    head: self.shortened(head)?,
                    upto: None,
                }),
                remark: Some(Remark {
                    what: "found_shorter",
                    words,
                }),
            });
        }
        self.behind(key, head, &files, pending)
    }

    /// The head of a log that the ledger knows nothing of: before its first row.
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
                begin: row.before.clone(),
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

    fn behind(
        &self,
        key: &Key,
        head: Head,
        files: &[String],
        pending: &[Pending],
    ) -> Result<Settled, Unwritten> {
        // The rows that are going to be written, and how many of the ledger's are whole with each.
        let mut next = head.end.clone();
        let mut coming = pending.iter().flat_map(|row| {
            let last = row.records.len();
            (1..)
                .zip(&row.records)
                .map(move |(n, record)| (record, (n == last).then_some(row.row)))
        });
        let mut reached = head.clone();
        let (mut known, mut matched, mut bytes, mut upto) = (0_u64, 0_u64, 0_u64, None);
        let later = |file: &&String| **file >= head.file;
        'files: for file in files.iter().filter(later) {
            let path = self.path(file);
            let from = if *file == head.file { head.length } else { 0 };
            let mut opened = at(&path, File::open(&path))?;
            at(&path, opened.seek(SeekFrom::Start(from)))?;
            let mut lines = BufReader::new(opened);
            let mut length = from;
            while let Some(line) = at(&path, next_line(&mut lines))? {
                let row = line.strip_suffix(b"\n").and_then(|row| key.read(row).ok());
                let Some(row) = row.filter(|row| row.before == reached.end) else {
                    break 'files;
                };
                if matched == known
                    && let Some((record, whole)) = coming.next()
                {
                    let (ours, link) = key.line(&next, record);
                    if ours == line {
                        (matched, next) = (matched + 1, link);
                        upto = whole.or(upto);
                    }
                }
                known += 1;
                bytes += line.len() as u64;
                length += line.len() as u64;
                reached = Head {
                    end: row.link,
                    file: file.clone(),
                    length,
                    ..reached
                };
            }
        }
        // Rows that are about to be written came from a crash in between: they are written again. A chain that goes on
        // with others is the truth, and the ledger is a backup.
        let (head, remark) = if known == matched {
            (head, None)
        } else {
            let words = format!(
                "the audit log has {known} rows more than the ledger knows (was it restored?): it goes on behind them"
            );
            let what = "found_longer";
            (reached, Some(Remark { what, words }))
        };
        let upto = upto.filter(|_| known != matched);
        let cut = self.cut(&head.file, head.length, files)?;
        // Rows that are written again are no loss; the rest is what a crash has torn, or somebody's else.
        let lost = if known == matched { cut - bytes } else { cut };
        let remark = remark.or_else(|| {
            (lost > 0).then(|| Remark {
                what: "cut",
                words: format!(
                    "{lost} bytes behind the end of the audit log, which are no row of it, were cut"
                ),
            })
        });
        Ok(Settled {
            written: Some(Written { head, upto }),
            remark,
        })
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
