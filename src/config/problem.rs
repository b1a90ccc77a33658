//! What is wrong with a configuration, in words: where it stands, what was found, what is wanted. No text in here
//! ever holds the value of a secret.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// One thing that is wrong (or, as a warning, odd).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, such as `sinks[1].url`; empty for the file as a whole.
    pub key: String,
    /// The line of the file, counted from 1, where there is one.
    pub line: Option<usize>,
    /// What stands there.
    pub found: String,
    /// What should stand there.
    pub wanted: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() {
            "the file"
        } else {
            &self.key
        };
        match self.line {
            Some(line) => writeln!(f, "{key} (line {line})")?,
            None => writeln!(f, "{key}")?,
        }
        writeln!(f, "  found:  {}", self.found)?;
        write!(f, "  wanted: {}", self.wanted)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "\n  did you mean \"{suggestion}\"?")?;
        }
        Ok(())
    }
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The configuration file.
    pub file: PathBuf,
    /// At least one, in the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(f, "{}: {count} {noun}", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n\n{problem}")?;
        }
        Ok(())
    }
}

/// The known name that an unknown one most resembles, if it resembles any.
pub(super) fn resembling<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}
