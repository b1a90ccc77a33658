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

    /// The pattern without its leading `!`.
    pub fn glob(&self) -> &str {
        self.text.strip_prefix('!').unwrap_or(&self.text)
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

/// A list of patterns: a `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(Vec<Pattern>);

/// What a list of patterns says of an event, and why. The first pattern of the list that decides it is named, with the
/// first of the event's names that it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement<'a> {
    /// It is wanted: this pattern fits this name.
    Fits {
        /// The pattern.
        pattern: &'a Pattern,
        /// One of the event's names.
        name: &'a str,
    },
    /// It is wanted: the list only excludes, and nothing in it fits.
    NotExcluded,
    /// It is not wanted, whatever else fits: this exclude fits this name.
    Excluded {
        /// The exclude.
        pattern: &'a Pattern,
        /// One of the event's names.
        name: &'a str,
    },
    /// It is not wanted: no pattern fits any of its names.
    NothingFits,
}

impl Judgement<'_> {
    /// Whether the event is wanted.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::Fits { .. } | Self::NotExcluded)
    }
}

impl Patterns {
    /// The list as it stands in the configuration.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Self(patterns)
    }

    /// The patterns, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }

    /// Judges an event by all its names ([`super::EventType::names`]). Whoever routes and whoever explains a route asks
    /// here, so that an explanation cannot differ from what is done.
    pub fn judge<'a>(&'a self, names: &'a [String]) -> Judgement<'a> {
        let first = |excludes: bool| {
            let patterns = self.0.iter().filter(move |p| p.excludes == excludes);
            let mut hits = patterns.filter_map(|pattern| {
                let name = names.iter().find(|name| pattern.fits(name))?;
                Some((pattern, name.as_str()))
            });
            hits.next()
        };
        if let Some((pattern, name)) = first(true) {
            return Judgement::Excluded { pattern, name };
        }
        if let Some((pattern, name)) = first(false) {
            return Judgement::Fits { pattern, name };
        }
        if self.0.iter().all(Pattern::excludes) {
            return Judgement::NotExcluded;
        }
        Judgement::NothingFits
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
    let body = text.strip_prefix('!').unwrap_or(text);
    let (end, _) = body.char_indices().find(|(at, c)| *at > 0 && *c == ']')?;
    let (members, behind) = text.split_at_checked(text.len() - body.len() + end)?;
    Some((members_of(members), behind.strip_prefix(']')?))
}

/// What stands between the brackets of a set, read as Python's `fnmatch.translate` reads it, to the letter: it cuts the
/// text at the hyphens that make ranges, and takes a range that runs backwards out together with its two ends. Whatever
/// then comes first says whether the set is negated: `[b-a!x]` is `[!x]`.
fn members_of(text: &str) -> Piece {
    let text: Vec<char> = text.chars().collect();
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let mut rest = text.as_slice();
    // Neither the `!` nor the first member can be the hyphen of a range.
    let mut from = if rest.first() == Some(&'!') { 2 } else { 1 };
    while let Some(hyphen) = (from..rest.len()).find(|at| rest.get(*at) == Some(&'-')) {
        let (chunk, behind) = rest.split_at(hyphen);
        chunks.push(chunk.to_vec());
        rest = behind.get(1..).unwrap_or_default();
        // The member behind a hyphen is the other end of its range, and begins none.
        from = 2;
    }
    match chunks.last_mut() {
        Some(last) if rest.is_empty() => last.push('-'),
        _ => chunks.push(rest.to_vec()),
    }
    let mut joined: Vec<Vec<char>> = Vec::new();
    for mut chunk in chunks.into_iter().rev() {
        match joined.last_mut() {
            Some(next) if chunk.last() > next.first() => {
                chunk.pop();
                chunk.extend(next.drain(..).skip(1));
                *next = chunk;
            }
            _ => joined.push(chunk),
        }
    }
    joined.reverse();
    let negated = joined.first().and_then(|chunk| chunk.first()) == Some(&'!');
    if negated && let Some(first) = joined.first_mut() {
        first.remove(0);
    }
    let mut ranges: Vec<(char, char)> = Vec::new();
    // Two chunks that meet make a range of their ends, which are no members by themselves.
    let mut low: Option<char> = None;
    for (index, chunk) in joined.iter().enumerate() {
        let mut members = chunk.iter().copied();
        match (index, low.take()) {
            (0, _) => {}
            (_, Some(low)) => ranges.extend(members.next().map(|high| (low, high))),
            // The hyphen comes first of all: it is a member itself.
            (_, None) => ranges.push(('-', '-')),
        }
        let mut members: Vec<char> = members.collect();
        if index + 1 < joined.len() {
            low = members.pop();
        }
        ranges.extend(members.into_iter().map(|member| (member, member)));
    }
    Piece::Set { negated, ranges }
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
            // What is left of a set when a range that runs backwards is taken out is read anew.
            ("[b-a!x]", "x", false),
            ("[b-a!x]", "y", true),
            ("[b-a!-z-~]", "-", false),
            ("[b-a!-z-~]", "}", true),
            ("[b-ax-z]", "y", true),
            ("[b-ax-z]", "b", false),
            ("[--a]", "A", true),
            ("[!-a]", "-", false),
            ("[a--]", "a", false),
            ("a*", "a", true),
            ("a", "ab", false),
        ] {
            assert_eq!(fits_text(pattern, name), expected, "{pattern} on {name}");
        }
    }

    fn list(texts: &[&str]) -> Patterns {
        Patterns::new(texts.iter().map(|t| Pattern::new(t).unwrap()).collect())
    }

    #[test]
    fn any_exclude_wins_and_excludes_alone_imply_everything_else() {
        let wants = |texts: &[&str], name: &str| {
            let names = [name.to_owned()];
            list(texts).judge(&names).is_wanted()
        };
        assert!(wants(&["!product.*"], "order.placed"));
        assert!(!wants(&["!product.*"], "product.created"));
        assert!(!wants(
            &["*", "!product.*", "product.created"],
            "product.created"
        ));
        assert!(!wants(&["order.*"], "patient.created"));
    }

    #[test]
    fn an_event_is_judged_by_all_its_names_and_the_first_pattern_that_decides_is_named() {
        let names = ["order.placed", "fhir.supplyrequest.create", "fhir.create"].map(str::to_owned);
        let judged = |texts: &[&str]| match list(texts).judge(&names) {
            Judgement::Fits { pattern, name } => format!("{pattern} fits {name}"),
            Judgement::NotExcluded => "not excluded".to_owned(),
            Judgement::Excluded { pattern, name } => format!("{pattern} excludes {name}"),
            Judgement::NothingFits => "nothing fits".to_owned(),
        };
        for (texts, expected) in [
            (&["fhir.create"][..], "fhir.create fits fhir.create"),
            (&["fhir.*"], "fhir.* fits fhir.supplyrequest.create"),
            (
                &["patient.*", "*.create", "*"],
                "*.create fits fhir.supplyrequest.create",
            ),
            (&["*"], "* fits order.placed"),
            (&["*", "!fhir.create"], "!fhir.create excludes fhir.create"),
            (
                &["!fhir.update", "!*.placed"],
                "!*.placed excludes order.placed",
            ),
            (&["!fhir.update"], "not excluded"),
            (&["fhir.update", "!fhir.delete"], "nothing fits"),
        ] {
            assert_eq!(judged(texts), expected, "{texts:?}");
        }
    }

    #[test]
    fn a_pattern_of_nothing_is_refused() {
        assert_eq!(Pattern::new(""), Err(PatternError::Empty));
        assert_eq!(Pattern::new("!"), Err(PatternError::Empty));
        let excludes = Pattern::new("!!a*").unwrap();
        assert_eq!((excludes.as_str(), excludes.glob()), ("!!a*", "!a*"));
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
