//! Walks the whole log, and names the first row that is not as it was written.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::chain::{Key, Link, Row};
use super::folder::{Folder, Unwritten, next_line};
use super::record::{Action, Record};
use super::rows::{Head, Standing};
use crate::store::Store;

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Its bytes are not those that were written, or were written by somebody without the key.
    Changed,
    /// It was never part of the chain: the row after it follows the one before.
    Inserted,
    /// So many rows before it are missing.
    Missing(u64),
    /// A row that belongs before it comes later.
    OutOfOrder,
    /// It is there a second time.
    Repeated,
    /// So many rows are missing at the end.
    CutTail(u64),
}

impl Wrong {
    /// The one word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Inserted => "inserted",
            Self::Missing(_) => "missing",
            Self::OutOfOrder => "out_of_order",
            Self::Repeated => "repeated",
            Self::CutTail(_) => "cut_tail",
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("the row is not as it was written"),
            Self::Inserted => f.write_str("the row was put in"),
            Self::Missing(1) => f.write_str("the row before it is missing"),
            Self::Missing(rows) => write!(f, "{rows} rows before it are missing"),
            Self::OutOfOrder => f.write_str("it comes before a row that was written earlier"),
            Self::Repeated => f.write_str("the row is there a second time"),
            Self::CutTail(1) => f.write_str("the last row is missing"),
            Self::CutTail(rows) => write!(f, "the last {rows} rows are missing"),
        }
    }
}

/// The first row that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1; where the end is missing, the line that is not there.
    pub line: u64,
    /// The number that the row has, or should have.
    pub seq: u64,
    /// What is wrong.
    pub wrong: Wrong,
}

/// What was found of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Files that were read.
    pub files: u64,
    /// Rows that are as they were written, up to the first that is not.
    pub rows: u64,
    /// The first and the last of them.
    pub span: Option<(u64, u64)>,
    /// What is wrong, if something is.
    pub broken: Option<Broken>,
    /// Good rows that say that the log itself was not as it was left: somebody should know why.
    pub remarks: Vec<Row>,
}

/// What the writer says of the log itself, where a person should look.
const REMARKS: [&str; 4] = ["found_longer", "found_shorter", "cut", "records_lost"];

fn is_remark(record: &Record) -> bool {
    let what = record.noted("what");
    record.action == Action::Config && what.is_some_and(|what| REMARKS.contains(&what))
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The directory cannot be read.
    #[error(transparent)]
    Files(#[from] Unwritten),
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Reads a log that lies in `directory`, up to what the ledger said of it before, and hands each good row on.
pub fn walk(
    directory: &Path,
    store: &Store,
    standing: &Standing,
    each: impl FnMut(&Row),
) -> Result<Found, Unread> {
    let key = Key::new(store.sealer());
    Walk {
        key,
        folder: Folder::new(directory),
        each,
        found: Found {
            files: 0,
            rows: 0,
            span: None,
            broken: None,
            remarks: Vec::new(),
        },
    }
    .through(standing.head.as_ref())
}

struct Walk<F> {
    key: Key,
    folder: Folder,
    each: F,
    found: Found,
}

impl<F: FnMut(&Row)> Walk<F> {
    fn through(mut self, head: Option<&Head>) -> Result<Found, Unread> {
        let Some(head) = head else {
            // The ledger knows of no row: whatever is here, nothing says that it is all.
            for file in self.folder.files()? {
                let path = self.folder.path(&file);
                if path.metadata().map_err(|e| unread(&path, e))?.len() > 0 {
                    return Ok(self.broken(path, 1, 1, Wrong::Inserted));
                }
            }
            return Ok(self.found);
        };
        let mut end = head.begin.clone();
        let mut last = (self.folder.path(&head.first), 0);
        for file in self.folder.files()? {
            // Older days were kept long enough, and are being removed.
            if file < head.first {
                continue;
            }
            let path = self.folder.path(&file);
            let opened = File::open(&path);
            let mut lines = BufReader::new(opened.map_err(|e| unread(&path, e))?);
            self.found.files += 1;
            let mut number = 0;
            while let Some(line) = next_line(&mut lines).map_err(|e| unread(&path, e))? {
                number += 1;
                let row = line
                    .strip_suffix(b"\n")
                    .and_then(|row| self.key.read(row).ok());
                match row {
                    Some(row) if row.before == end => {
                        (self.each)(&row);
                        end = row.link.clone();
                        if is_remark(&row.record) {
                            self.found.remarks.push(row);
                        }
                        self.found.rows += 1;
                        let first = self.found.span.map_or(end.seq, |(first, _)| first);
                        self.found.span = Some((first, end.seq));
                        last = (path.clone(), number);
                    }
                    // What is being written at this moment, or was when a crash came.
                    None if end.seq >= head.end.seq && line.last() != Some(&b'\n') => break,
                    row => {
                        let wrong = self
                            .judge(row.as_ref(), &end, &mut lines)
                            .map_err(|e| unread(&path, e))?;
                        let seq = row.map_or(end.seq + 1, |row| row.link.seq);
                        return Ok(self.broken(path, number, seq, wrong));
                    }
                }
            }
        }
        if end.seq < head.end.seq {
            let (path, line) = last;
            let wrong = Wrong::CutTail(head.end.seq - end.seq);
            return Ok(self.broken(path, line + 1, end.seq + 1, wrong));
        }
        Ok(self.found)
    }

    fn broken(mut self, file: PathBuf, line: u64, seq: u64, wrong: Wrong) -> Found {
        self.found.broken = Some(Broken {
            file,
            line,
            seq,
            wrong,
        });
        self.found
    }

    /// What is wrong with a row that does not follow `end`, by the rows that come after it in its file.
    fn judge(
        &self,
        row: Option<&Row>,
        end: &Link,
        lines: &mut impl io::BufRead,
    ) -> io::Result<Wrong> {
        let mut is_next = true;
        loop {
            let line = next_line(lines)?;
            let later = line.as_ref().map(|line| {
                let line = line.strip_suffix(b"\n")?;
                self.key.read(line).ok()
            });
            match (row, later) {
                (None, Some(Some(later))) if is_next && later.before == *end => {
                    return Ok(Wrong::Inserted);
                }
                (None, _) => return Ok(Wrong::Changed),
                (Some(row), _) if row.link.seq <= end.seq => return Ok(Wrong::Repeated),
                (Some(_), Some(Some(later))) if later.before == *end => {
                    return Ok(Wrong::OutOfOrder);
                }
                (Some(row), None) => return Ok(Wrong::Missing(row.before.seq - end.seq)),
                (Some(_), Some(_)) => is_next = false,
            }
        }
    }
}

fn unread(path: &Path, source: io::Error) -> Unread {
    Unread::Io {
        path: path.to_owned(),
        source,
    }
}
