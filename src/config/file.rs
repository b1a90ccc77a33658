//! What TOML can say: a typed reader over the parsed document that knows the path and line of every value, notes a
//! problem instead of stopping at it, and at the end of a section names the keys that nobody asked for.
//!
//! A reader rather than serde's derive, because serde stops at the first error and the promise is every problem at
//! once. A value that could not be read is `None`, and the problem is noted already: callers only pass it on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, resembling};

/// Longer values are cut in messages.
const SHOWN: usize = 60;

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
    line: Option<usize>,
}

impl Place<'_> {
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
            line: self.line,
            found: found.to_string(),
            wanted: wanted.to_string(),
            suggestion,
        }
    }
}

/// One value.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) place: Place<'a>,
    /// The path with `[]` for every index.
    schema: String,
    value: &'a DeValue<'a>,
}

impl<'a> Field<'a> {
    /// The value as messages show it. Never called where a secret may stand.
    pub(super) fn shown(&self) -> String {
        match self.value {
            DeValue::String(text) => quoted(text),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(_) | DeValue::Table(_) => self.kind().to_owned(),
        }
    }

    /// What sort of value it is, without the value.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    /// Notes that the value is not what is wanted.
    pub(super) fn refuse<T>(&self, wanted: impl Display) -> Option<T> {
        self.place.problem(self.shown(), wanted);
        None
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value.as_str() {
            Some(text) => Some(text),
            None => self.refuse("a string in quotes"),
        }
    }

    /// The text, if it is one; notes nothing.
    pub(super) fn peek(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Like [`Field::text`], for a place where a secret may stand: what is there is not shown.
    pub(super) fn text_unseen(&self, wanted: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.place.problem(self.kind(), wanted);
        }
        text
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value.as_bool() {
            Some(value) => Some(value),
            None => self.refuse("true or false"),
        }
    }

    pub(super) fn number(&self, range: Range<u32>) -> Option<u32> {
        let number = self
            .value
            .as_integer()
            .and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok())
            .filter(|n| range.contains(n));
        match number {
            Some(number) => Some(number),
            None => self.refuse(format!(
                "a whole number from {} to {}",
                range.start,
                range.end.saturating_sub(1)
            )),
        }
    }

    /// The members of a list that must not be empty.
    pub(super) fn list(&self) -> Option<Vec<Field<'a>>> {
        let Some(array) = self.value.as_array() else {
            return self.refuse("a list, such as [\"…\"]");
        };
        if array.is_empty() {
            self.place
                .problem("an empty list", "at least one entry, or no such key");
            return None;
        }
        Some(self.members(array.iter()))
    }

    fn members(&self, values: impl Iterator<Item = &'a Spanned<DeValue<'a>>>) -> Vec<Field<'a>> {
        let report = self.place.report;
        values
            .enumerate()
            .map(|(index, value)| Field {
                place: Place {
                    report,
                    key: format!("{}[{index}]", self.place.key),
                    line: Some(report.line(value.span().start)),
                },
                schema: format!("{}[]", self.schema),
                value: value.get_ref(),
            })
            .collect()
    }

    /// The table that this value is, if it is one.
    pub(super) fn table(&self) -> Option<Section<'a>> {
        Some(Section {
            place: self.place.clone(),
            schema: self.schema.clone(),
            table: Some(self.value.as_table()?),
            taken: RefCell::default(),
            forgiven: Cell::default(),
        })
    }
}

/// A table: the keys are taken one by one, and what is left at the end is unknown.
pub(super) struct Section<'a> {
    pub(super) place: Place<'a>,
    schema: String,
    table: Option<&'a DeTable<'a>>,
    taken: RefCell<BTreeSet<&'static str>>,
    forgiven: Cell<bool>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn root(report: &'a Report<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            place: Place {
                report,
                key: String::new(),
                line: None,
            },
            schema: String::new(),
            table: Some(table),
            taken: RefCell::default(),
            forgiven: Cell::default(),
        }
    }

    /// The value of a key, if the file has it.
    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        let report = self.place.report;
        let schema = joined(&self.schema, key);
        self.taken.borrow_mut().insert(key);
        report.asked.borrow_mut().insert(schema.clone());
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        report.present.borrow_mut().insert(schema.clone());
        Some(Field {
            place: Place {
                report,
                key: joined(&self.place.key, key),
                line: Some(report.line(name.span().start)),
            },
            schema,
            value: value.get_ref(),
        })
    }

    /// The value of a key; noted as missing if the file has it not.
    pub(super) fn required(&self, key: &'static str, wanted: &str) -> Option<Field<'a>> {
        let field = self.field(key);
        if field.is_none() {
            self.missing(key, wanted);
        }
        field
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&self, key: &str, wanted: &str) {
        Place {
            key: joined(&self.place.key, key),
            ..self.place.clone()
        }
        .problem("nothing", wanted);
    }

    /// The value of a key as `read` takes it, or the default.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> T {
        self.field(key).and_then(|f| read(&f)).unwrap_or(default)
    }

    /// The table under a key; an empty one if the file has it not.
    pub(super) fn section(&self, key: &'static str) -> Self {
        let field = self.field(key);
        let table = field.as_ref().and_then(|field| {
            let table = field.table();
            if table.is_none() {
                field.place.problem(
                    field.kind(),
                    format_args!("a section, [{}]", field.place.key),
                );
            }
            table
        });
        table.unwrap_or_else(|| Self {
            place: Place {
                report: self.place.report,
                key: joined(&self.place.key, key),
                line: None,
            },
            schema: joined(&self.schema, key),
            table: None,
            taken: RefCell::default(),
            forgiven: Cell::default(),
        })
    }

    /// The tables of `[[key]]`.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(field) = self.field(key) else {
            return Vec::new();
        };
        let Some(array) = field.value.as_array() else {
            field
                .place
                .problem(field.kind(), format_args!("sections, [[{key}]]"));
            return Vec::new();
        };
        let members = field.members(array.iter());
        let tables = members.iter().filter_map(|member| {
            let table = member.table();
            if table.is_none() {
                member
                    .place
                    .problem(member.kind(), format_args!("a section, [[{key}]]"));
            }
            table
        });
        tables.collect()
    }

    /// Takes every key, so that none is called unknown.
    pub(super) fn forgive(&self) {
        self.forgiven.set(true);
    }

    /// Notes every key that nobody took.
    pub(super) fn finish(&self) {
        self.finish_with(|_| None);
    }

    /// Like [`Section::finish`]; `explain` may say what is wanted of a key that is known elsewhere.
    pub(super) fn finish_with(&self, explain: impl Fn(&str) -> Option<String>) {
        if self.forgiven.get() {
            return;
        }
        // A copy: `explain` may ask the section for another key.
        let taken = self.taken.borrow().clone();
        for (name, _) in self.table.into_iter().flatten() {
            let key: &str = name.get_ref();
            if taken.contains(key) {
                continue;
            }
            let place = Place {
                report: self.place.report,
                key: joined(&self.place.key, key),
                line: Some(self.place.report.line(name.span().start)),
            };
            if let Some(wanted) = explain(key) {
                place.problem("a key that has no meaning here", wanted);
            } else {
                let suggestion = resembling(key, taken.iter().copied());
                let known: Vec<_> = taken.iter().copied().collect();
                let wanted = format!("one of {}", known.join(", "));
                place.problem_like("an unknown key", wanted, suggestion);
            }
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A text as messages show it: in quotes, escaped, cut.
pub(super) fn quoted(text: &str) -> String {
    if text.chars().count() > SHOWN {
        let head: String = text.chars().take(SHOWN).collect();
        format!("{:?}", head + "…")
    } else {
        format!("{text:?}")
    }
}
