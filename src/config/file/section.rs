//! One table, and the keys of it that were asked for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use toml::de::DeTable;

use super::{Field, Place, Report};
use crate::config::problem::resembling;

/// A table: the keys are taken one by one, and what is left at the end is unknown.
pub(in crate::config) struct Section<'a> {
    pub(in crate::config) place: Place<'a>,
    schema: String,
    table: Option<&'a DeTable<'a>>,
    taken: RefCell<BTreeSet<&'static str>>,
    forgiven: Cell<bool>,
}

impl<'a> Section<'a> {
    pub(super) fn new(place: Place<'a>, schema: String, table: Option<&'a DeTable<'a>>) -> Self {
        Self {
            place,
            schema,
            table,
            taken: RefCell::default(),
            forgiven: Cell::default(),
        }
    }

    /// The whole document.
    pub(in crate::config) fn root(report: &'a Report<'a>, table: &'a DeTable<'a>) -> Self {
        let place = Place {
            report,
            key: String::new(),
            offset: None,
        };
        Self::new(place, String::new(), Some(table))
    }

    /// The value of a key, if the file has it.
    pub(in crate::config) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        let report = self.place.report;
        let schema = joined(&self.schema, key);
        self.taken.borrow_mut().insert(key);
        report.asked.borrow_mut().insert(schema.clone());
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        report.present.borrow_mut().insert(schema.clone());
        Some(Field {
            place: self
                .place
                .at(joined(&self.place.key, key), name.span().start),
            schema,
            value: value.get_ref(),
        })
    }

    /// The value of a key; noted as missing if the file has it not.
    pub(in crate::config) fn required(&self, key: &'static str, wanted: &str) -> Option<Field<'a>> {
        let field = self.field(key);
        if field.is_none() {
            self.missing(key, wanted);
        }
        field
    }

    /// Notes that a key is missing.
    pub(in crate::config) fn missing(&self, key: &str, wanted: &str) {
        Place {
            key: joined(&self.place.key, key),
            ..self.place.clone()
        }
        .problem("nothing", wanted);
    }

    /// The value of a key as `read` takes it, or the default.
    pub(in crate::config) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> T {
        self.field(key).and_then(|f| read(&f)).unwrap_or(default)
    }

    /// The table under a key; an empty one if the file has it not.
    pub(in crate::config) fn section(&self, key: &'static str) -> Self {
        let field = self.field(key);
        let table = field.as_ref().and_then(|field| {
            let wanted = format!("a section, [{}]", field.place.key);
            tabled(field, &wanted)
        });
        table.unwrap_or_else(|| {
            let place = Place {
                report: self.place.report,
                key: joined(&self.place.key, key),
                offset: None,
            };
            Self::new(place, joined(&self.schema, key), None)
        })
    }

    /// The tables of `[[key]]`.
    pub(in crate::config) fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(field) = self.field(key) else {
            return Vec::new();
        };
        let wanted = format!("a section, [[{key}]]");
        let Some(members) = field.members() else {
            field.place.problem(field.kind(), wanted);
            return Vec::new();
        };
        let tables = members.iter().filter_map(|member| tabled(member, &wanted));
        tables.collect()
    }

    /// Takes every key, so that none is called unknown.
    pub(in crate::config) fn forgive(&self) {
        self.forgiven.set(true);
    }

    /// Notes every key that nobody took.
    pub(in crate::config) fn finish(&self) {
        self.finish_with(|_| None);
    }

    /// Like [`Section::finish`]; `explain` may say what is wanted of a key that is known elsewhere.
    pub(in crate::config) fn finish_with(&self, explain: impl Fn(&str) -> Option<String>) {
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
            let place = self
                .place
                .at(joined(&self.place.key, key), name.span().start);
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

fn tabled<'a>(field: &Field<'a>, wanted: &str) -> Option<Section<'a>> {
    let table = field.table();
    if table.is_none() {
        field.place.problem(field.kind(), wanted);
    }
    table
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
