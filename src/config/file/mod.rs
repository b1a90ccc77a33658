//! What TOML can say: a typed reader over the parsed document that knows the path and line of every value, notes a
//! problem instead of stopping at it, and at the end of a section names the keys that nobody asked for.
//!
//! A reader rather than serde's derive, because serde stops at the first error and the promise is every problem at
//! once. A value that could not be read is `None`, and the problem is noted already: callers only pass it on.

mod field;
mod section;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;

pub(super) use self::field::Field;
pub(super) use self::section::Section;
use super::Fingerprint;
use super::problem::Problem;

/// Collects what is wrong, what is odd, and which keys exist.
pub(super) struct Report<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    asked: RefCell<BTreeSet<String>>,
    present: RefCell<BTreeSet<String>>,
}

/// What a [`Report`] has collected.
pub(super) struct Collected {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Every key that the checker knows, such as `sinks[].url`.
    #[cfg(test)]
    pub(super) asked: BTreeSet<String>,
    /// Those of them that the file has.
    #[cfg(test)]
    pub(super) present: BTreeSet<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            asked: RefCell::default(),
            present: RefCell::default(),
        }
    }

    /// Everything, in the order of the file.
    pub(super) fn collected(self) -> Collected {
        let in_order = |problems: RefCell<Vec<Problem>>| {
            let mut problems = problems.into_inner();
            problems.sort_by_key(|problem| problem.line);
            problems
        };
        Collected {
            problems: in_order(self.problems),
            warnings: in_order(self.warnings),
            #[cfg(test)]
            asked: self.asked.into_inner(),
            #[cfg(test)]
            present: self.present.into_inner(),
        }
    }

    /// What tells this text from others.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.text.as_bytes());
        Fingerprint(digest.as_ref().try_into().unwrap_or_default())
    }

    /// The line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.bytes().take(offset);
        1 + before.filter(|byte| *byte == b'\n').count()
    }

    /// The column of a byte offset, in characters, from 1.
    pub(super) fn column(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        1 + before.chars().rev().take_while(|c| *c != '\n').count()
    }
}

/// A place in the file that problems can be pinned to.
#[derive(Clone)]
pub(super) struct Place<'a> {
    report: &'a Report<'a>,
    key: String,
    /// In bytes from the start of the file.
    offset: Option<usize>,
}

impl Place<'_> {
    /// The place of another key, at a byte offset.
    fn at(&self, key: String, offset: usize) -> Self {
        Self {
            report: self.report,
            key,
            offset: Some(offset),
        }
    }

    pub(super) fn problem(&self, found: impl Display, wanted: impl Display) {
        self.problem_like(found, wanted, None);
    }

    pub(super) fn problem_like(
        &self,
        found: impl Display,
        wanted: impl Display,
        suggestion: Option<String>,
    ) {
        let problem = self.noted(found, wanted, suggestion);
        self.report.problems.borrow_mut().push(problem);
    }

    pub(super) fn warning(
        &self,
        found: impl Display,
        wanted: impl Display,
        suggestion: Option<String>,
    ) {
        let problem = self.noted(found, wanted, suggestion);
        self.report.warnings.borrow_mut().push(problem);
    }

    fn noted(
        &self,
        found: impl Display,
        wanted: impl Display,
        suggestion: Option<String>,
    ) -> Problem {
        Problem {
            key: self.key.clone(),
            line: self.offset.map(|offset| self.report.line(offset)),
            found: found.to_string(),
            wanted: wanted.to_string(),
            suggestion,
        }
    }
}
