//! Paths into an event's `data`: the part of JSONPath (RFC 9535) that names members whatever their place, which is
//! `$`, `.name`, `['name']`, `.*`, `[*]` and `..name`. Each means here what it means there.
//!
//! Positions, slices and filters are refused: what is kept back for a patient's sake must not depend on the order in
//! which the vendor lists it, nor on another value.

use std::fmt;

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// A path begins at `data`.
    #[error("it does not begin with $")]
    NoRoot,
    /// `$` alone.
    #[error("it names no member of data")]
    Everything,
    /// Other parts of JSONPath.
    #[error(
        "{0:?} in it is not taken: only .name, ['name'], .*, [*] and ..name are, one name in each bracket"
    )]
    Unsupported(String),
}

/// One step from a value to values inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `.name`: the members of this name.
    Member(String),
    /// `[*]`: every member or element.
    Each,
    /// `..name`: the members of this name, at any depth.
    Anywhere(String),
}

/// A path, such as `$.patient.email`. At least one step long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

impl JsonPath {
    /// Takes a path as it stands in the configuration.
    pub fn new(text: &str) -> Result<Self, JsonPathError> {
        let mut rest = text.strip_prefix('$').ok_or(JsonPathError::NoRoot)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, behind) =
                step(rest).ok_or_else(|| JsonPathError::Unsupported(rest.to_owned()))?;
            steps.push(step);
            rest = behind;
        }
        if steps.is_empty() {
            return Err(JsonPathError::Everything);
        }
        let text = text.to_owned();
        Ok(Self { text, steps })
    }

    /// Its steps, from `data` on.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first step of a text, and what is behind it.
fn step(text: &str) -> Option<(Step, &str)> {
    if let Some(text) = text.strip_prefix("..") {
        let (name, rest) = match text.strip_prefix('[') {
            Some(text) => bracket(text)?,
            None => shorthand(text)?,
        };
        // `..*` would be everything but the bare objects.
        return Some((Step::Anywhere(name?), rest));
    }
    let (name, rest) = match text.strip_prefix('.') {
        Some(text) => shorthand(text)?,
        None => bracket(text.strip_prefix('[')?)?,
    };
    Some((name.map_or(Step::Each, Step::Member), rest))
}

/// A name behind a dot; `None` inside is `*`.
fn shorthand(text: &str) -> Option<(Option<String>, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some((None, rest));
    }
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let end = text.find(|c: char| !first(c) && !c.is_ascii_digit());
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    name.starts_with(first)
        .then(|| (Some(name.to_owned()), rest))
}

/// What stands in brackets, up to the closing one; `None` inside is `*`. In double quotes a name is what it is in JSON;
/// in single quotes nothing is escaped.
fn bracket(text: &str) -> Option<(Option<String>, &str)> {
    let text = text.trim_ascii_start();
    let (name, rest) = if let Some(rest) = text.strip_prefix('*') {
        (None, rest)
    } else if let Some(text) = text.strip_prefix('\'') {
        let (name, rest) = text.split_once('\'')?;
        if name.contains(|c: char| c == '\\' || c.is_control()) {
            return None;
        }
        (Some(name.to_owned()), rest)
    } else {
        let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let name = names.next()?.ok()?;
        (Some(name), text.get(names.byte_offset()..)?)
    };
    let rest = rest.trim_ascii_start().strip_prefix(']')?;
    Some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Step {
        Step::Member(name.to_owned())
    }

    fn anywhere(name: &str) -> Step {
        Step::Anywhere(name.to_owned())
    }

    #[test]
    fn a_path_is_its_steps_in_every_spelling() {
        for (text, expected) in [
            ("$.a", vec![member("a")]),
            ("$['a']", vec![member("a")]),
            ("$[ \"a\" ]", vec![member("a")]),
            ("$['a.b']['']", vec![member("a.b"), member("")]),
            (r#"$["it's \u0061"]"#, vec![member("it's a")]),
            ("$.größe_7", vec![member("größe_7")]),
            (
                "$.a.*[*].b",
                vec![member("a"), Step::Each, Step::Each, member("b")],
            ),
            ("$..a.b", vec![anywhere("a"), member("b")]),
            ("$.a..['b c']", vec![member("a"), anywhere("b c")]),
        ] {
            assert_eq!(JsonPath::new(text).unwrap().steps(), expected, "{text}");
        }
    }

    #[test]
    fn what_would_mean_something_else_is_refused() {
        assert_eq!(JsonPath::new("patient.email"), Err(JsonPathError::NoRoot));
        assert_eq!(JsonPath::new(""), Err(JsonPathError::NoRoot));
        assert_eq!(JsonPath::new("$"), Err(JsonPathError::Everything));
        for text in [
            "$.",
            "$..",
            "$.a.",
            "$a",
            "$ .a",
            "$.a ",
            "$.7",
            "$.a-b",
            "$.a[0]",
            "$[1:2]",
            "$[?@.a]",
            "$['a','b']",
            "$['a'",
            "$[a]",
            "$[]",
            "$['a\\'b']",
            "$[\"a]",
            "$..*",
            "$..[*]",
            "$...a",
            "$[7]",
            "$[null]",
        ] {
            let refused = JsonPath::new(text);
            assert!(
                matches!(refused, Err(JsonPathError::Unsupported(_))),
                "{text} {refused:?}"
            );
        }
    }
}
