//! One value with its place.

use std::fmt::Display;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::{Place, Section};

/// Longer values are cut in messages.
const SHOWN: usize = 60;

/// One value.
#[derive(Clone)]
pub(in crate::config) struct Field<'a> {
    pub(in crate::config) place: Place<'a>,
    /// The path with `[]` for every index.
    pub(super) schema: String,
    pub(super) value: &'a DeValue<'a>,
}

impl<'a> Field<'a> {
    /// The value as messages show it. Never called where a secret may stand.
    pub(in crate::config) fn shown(&self) -> String {
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
    pub(in crate::config) fn kind(&self) -> &'static str {
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
    pub(in crate::config) fn refuse<T>(&self, wanted: impl Display) -> Option<T> {
        self.place.problem(self.shown(), wanted);
        None
    }

    pub(in crate::config) fn text(&self) -> Option<&'a str> {
        match self.value.as_str() {
            Some(text) => Some(text),
            None => self.refuse("a string in quotes"),
        }
    }

    /// The text, if it is one; notes nothing.
    pub(in crate::config) fn peek(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Like [`Field::text`], for a place where a secret may stand: what is there is not shown.
    pub(in crate::config) fn text_unseen(&self, wanted: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.place.problem(self.kind(), wanted);
        }
        text
    }

    pub(in crate::config) fn boolean(&self) -> Option<bool> {
        match self.value.as_bool() {
            Some(value) => Some(value),
            None => self.refuse("true or false"),
        }
    }

    pub(in crate::config) fn number(&self, range: Range<u32>) -> Option<u32> {
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

    /// A text, a number, or true or false, as JSON; `None` for all else, and for a number that has no JSON. Notes
    /// nothing.
    pub(in crate::config) fn scalar(&self) -> Option<serde_json::Value> {
        match self.value {
            DeValue::String(text) => Some((&**text).into()),
            DeValue::Boolean(value) => Some((*value).into()),
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
                Some(number.into())
            }
            DeValue::Float(number) => {
                let number = serde_json::Number::from_f64(number.as_str().parse().ok()?)?;
                Some(number.into())
            }
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        }
    }

    /// The members of a list that must not be empty.
    pub(in crate::config) fn list(&self) -> Option<Vec<Self>> {
        let Some(members) = self.members() else {
            return self.refuse("a list, such as [\"…\"]");
        };
        if members.is_empty() {
            self.place
                .problem("an empty list", "at least one entry, or no such key");
            return None;
        }
        Some(members)
    }

    /// The members of a list, if it is one; notes nothing.
    pub(in crate::config) fn members(&self) -> Option<Vec<Self>> {
        let members = self.value.as_array()?.iter().enumerate();
        let member = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| Self {
            place: self
                .place
                .at(format!("{}[{index}]", self.place.key), value.span().start),
            schema: format!("{}[]", self.schema),
            value: value.get_ref(),
        };
        Some(members.map(member).collect())
    }

    /// The keys of a table and their values, if it is one, where the file may choose the keys; notes nothing.
    pub(in crate::config) fn entries(&self) -> Option<Vec<(&'a str, Self)>> {
        let entries = self.value.as_table()?.iter();
        let entry = |(name, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let key = format!("{}.{}", self.place.key, name.get_ref());
            let field = Self {
                place: self.place.at(key, name.span().start),
                schema: format!("{}.*", self.schema),
                value: value.get_ref(),
            };
            (&**name.get_ref(), field)
        };
        Some(entries.map(entry).collect())
    }

    /// The table that this value is, if it is one; notes nothing.
    pub(in crate::config) fn table(&self) -> Option<Section<'a>> {
        let table = self.value.as_table()?;
        Some(Section::new(
            self.place.clone(),
            self.schema.clone(),
            Some(table),
        ))
    }
}

/// A text as messages show it: in quotes, escaped, cut.
fn quoted(text: &str) -> String {
    if text.chars().count() > SHOWN {
        let head: String = text.chars().take(SHOWN).collect();
        format!("{:?}", head + "…")
    } else {
        format!("{text:?}")
    }
}
