//! Patterns over event names, with the meaning of Python's `fnmatch`: `*` crosses dots, `?`, `[seq]`, `[!seq]`,
//! case-sensitive. A leading `!` excludes; any exclude wins; a list of excludes only implies `*`.
//!
//! The matcher goes back to the last `*` only, so that its time is bounded by the product of the two lengths: a
//! pattern like `*a*a*a*b` cannot stall the daemon.

use std::fmt;

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
    excludes: bool,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// `*`: any text, none too.
    Run,
    /// `?`: any one character.
    Any,
    /// This character.
    One(char),
    /// `[seq]`, `[!seq]`: one character inside (outside) these inclusive ranges.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Run | Self::Any => true,
            Self::One(one) => *one == c,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

impl Pattern {
    /// Takes a pattern as it stands in the configuration.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let (excludes, glob) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if glob.is_empty() {
            return Err(PatternError::Empty);
        }
        Ok(Self {
            text: text.to_owned(),
            excludes,
            pieces: pieces(glob),
        })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it takes names away (a leading `!`).
    pub fn excludes(&self) -> bool {
        self.excludes
    }

    /// Whether a whole name fits what stands behind the `!`, if there is one.
    pub fn fits(&self, name: &str) -> bool {
        fits(&self.pieces, name)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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

    /// The patterns, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }

    /// Whether the list wants a name: no exclude fits, and an include does or there is none.
    pub fn matches(&self, name: &str) -> bool {
        let (excludes, includes): (Vec<_>, Vec<_>) = self.0.iter().partition(|p| p.excludes);
        !excludes.iter().any(|p| p.fits(name))
            && (includes.is_empty() || includes.iter().any(|p| p.fits(name)))
    }
}

fn pieces(glob: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        rest = rest.strip_prefix(c).unwrap_or_default();
        match c {
            '*' if pieces.last() == Some(&Piece::Run) => {}
            '*' => pieces.push(Piece::Run),
            '?' => pieces.push(Piece::Any),
            '[' => {
                if let Some((set, behind)) = set(rest) {
                    pieces.push(set);
                    rest = behind;
                } else {
                    pieces.push(Piece::One('['));
                }
            }
            _ => pieces.push(Piece::One(c)),
        }
    }
    pieces
}

/// Reads the set behind a `[`, and what stands behind its `]`; `None` if it is never closed. A `]` that comes first
/// belongs to the set.
fn set(text: &str) -> Option<(Piece, &str)> {
    let (negated, body) = match text.strip_prefix('!') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let (end, _) = body.char_indices().find(|(at, c)| *at > 0 && *c == ']')?;
    let (members, behind) = body.split_at_checked(end)?;
    let mut ranges = Vec::new();
    let mut members = members.chars().peekable();
    while let Some(low) = members.next() {
        let mut ahead = members.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(high)) => {
                // A range that runs backwards is empty, as in Python.
                ranges.push((low, high));
                members = ahead;
            }
            _ => ranges.push((low, low)),
        }
    }
    Some((Piece::Set { negated, ranges }, behind.strip_prefix(']')?))
}

fn fits(pieces: &[Piece], name: &str) -> bool {
    let mut pattern = pieces;
    let mut text = name.chars();
    // Where to go on if the last `*` took one character more.
    let mut retry: Option<(&[Piece], std::str::Chars<'_>)> = None;
    loop {
        match pattern.split_first() {
            Some((Piece::Run, behind)) => {
                retry = Some((behind, text.clone()));
                pattern = behind;
                continue;
            }
            Some((piece, behind)) => {
                let mut ahead = text.clone();
                match ahead.next() {
                    Some(c) if piece.takes(c) => {
                        pattern = behind;
                        text = ahead;
                        continue;
                    }
                    Some(_) => {}
                    None => return false,
                }
            }
            None if text.as_str().is_empty() => return true,
            None => {}
        }
        let Some((behind, longer)) = retry.as_mut() else {
            return false;
        };
        if longer.next().is_none() {
            return false;
        }
        pattern = behind;
        text = longer.clone();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits_text(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().fits(name)
    }

    #[test]
    fn patterns_mean_what_pythons_fnmatch_means() {
        for hit in ["fhir.read", "fhir.*", "*", "*.read", "fhir.r[a-f]ad"] {
            assert!(fits_text(hit, "fhir.read"), "{hit}");
        }
        for miss in ["fhir.patient.*", "fhir.patient.read", "FHIR.READ"] {
            assert!(!fits_text(miss, "fhir.read"), "{miss}");
        }
        for (pattern, name, expected) in [
            (
                "treatment_plan.*",
                "treatment_plan.recommendation.updated",
                true,
            ),
            ("*.updated", "treatment_plan.recommendation.updated", true),
            ("order.?laced", "order.placed", true),
            ("order.?placed", "order.placed", false),
            ("[!a-c]x", "dx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[!]", "[!]", true),
            ("a[b", "a[b", true),
            ("a[b", "ab", false),
            ("[z-a]", "m", false),
            ("[!z-a]", "m", true),
            ("[a-]", "-", true),
            ("[^a]", "^", true),
            ("[é-ü]", "ö", true),
            ("a*", "a", true),
            ("a", "ab", false),
        ] {
            assert_eq!(fits_text(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn any_exclude_wins_and_excludes_alone_imply_everything_else() {
        let list = |texts: &[&str]| {
            Patterns::new(texts.iter().map(|t| Pattern::new(t).unwrap()).collect())
        };
        assert!(list(&["!product.*"]).matches("order.placed"));
        assert!(!list(&["!product.*"]).matches("product.created"));
        assert!(!list(&["*", "!product.*", "product.created"]).matches("product.created"));
        assert!(!list(&["order.*"]).matches("patient.created"));
    }

    #[test]
    fn a_pattern_of_nothing_is_refused() {
        assert_eq!(Pattern::new(""), Err(PatternError::Empty));
        assert_eq!(Pattern::new("!"), Err(PatternError::Empty));
        assert_eq!(Pattern::new("!a*").unwrap().as_str(), "!a*");
    }

    #[test]
    fn many_stars_do_not_stall() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!fits_text(&pattern, &"a".repeat(2000)));
    }

    /// The meaning of the pieces, written down without a thought for time.
    fn naive(pieces: &[Piece], text: &[char]) -> bool {
        match (pieces, text) {
            ([], []) => true,
            ([Piece::Run, rest @ ..], _) => {
                naive(rest, text) || (!text.is_empty() && naive(pieces, &text[1..]))
            }
            ([piece, rest @ ..], [c, behind @ ..]) => piece.takes(*c) && naive(rest, behind),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn going_back_to_the_last_star_is_enough(glob in "[ab*?]{1,8}", name in "[ab]{0,8}") {
            let text: Vec<char> = name.chars().collect();
            prop_assert_eq!(fits_text(&glob, &name), naive(&pieces(&glob), &text));
        }

        #[test]
        fn no_text_breaks_the_reader(glob in "\\PC{1,12}", name in "\\PC{0,12}") {
            if let Ok(pattern) = Pattern::new(&glob) {
                pattern.fits(&name);
            }
        }
    }
}
