//! `[[enrich]]`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{clinics, matches};
use crate::config::file::{Field, Section};
use crate::config::{ClinicSelection, Enrich, Enrichment};
use crate::domain::Metadata;

/// The longest key, in bytes.
const LONGEST: usize = 64;

/// What formats have for themselves, as [`squeezed`] gives it: the attributes of `CloudEvents`, ours among them, and the
/// ids of the `healthchain` format.
const RESERVED: [&str; 13] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "delivery",
    "clinic",
    "clinicid",
    "eventid",
];

/// Who caused an event, in the words of those who would like to know.
const ACTORS: [&str; 6] = [
    "user",
    "userid",
    "username",
    "actor",
    "actorid",
    "sessionid",
];

pub(super) fn read(root: &Section<'_>, clinics: &clinics::Read) -> Enrich {
    let mut keys = Keys::default();
    let mut tables = Vec::new();
    for section in root.sections("enrich") {
        let matches = section.or("match", matches::everything(), matches::patterns);
        let selection = section.or("clinics", ClinicSelection::All, |field| {
            clinics::selection(field, clinics)
        });
        let metadata = section.required(
            "metadata",
            "what is said of these events, such as { compliance = \"HIPAA\" }",
        );
        let metadata = metadata.and_then(|field| keys.metadata(&field));
        section.finish();
        tables.extend(metadata.map(|metadata| Enrichment {
            matches,
            clinics: selection,
            metadata,
        }));
    }
    Enrich::new(tables)
}

/// The keys so far, by what is left of them where only letters and digits are allowed.
#[derive(Default)]
struct Keys<'a>(BTreeMap<String, &'a str>);

impl<'a> Keys<'a> {
    fn metadata(&mut self, field: &Field<'a>) -> Option<Metadata> {
        let Some(entries) = field.entries().filter(|entries| !entries.is_empty()) else {
            return field
                .refuse("a table with something in it, such as { compliance = \"HIPAA\" }");
        };
        let mut values = BTreeMap::new();
        for (key, value) in entries {
            if self.take(key, &value).is_none() {
                continue;
            }
            if let Some(read) = plain(&value) {
                values.insert(key.to_owned(), read);
            }
        }
        Some(Metadata::new(values))
    }

    /// Checks a key. A later table may say an earlier one's key again, but not one that only looks like it.
    fn take(&mut self, key: &'a str, value: &Field<'a>) -> Option<()> {
        let place = &value.place;
        let good = key.len() <= LONGEST
            && key.starts_with(|c: char| c.is_ascii_lowercase())
            && key
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !good {
            place.problem(
                format_args!("the key {key:?}"),
                format_args!("a key of lower-case letters, digits and _, which begins with a letter, at most {LONGEST} long"),
            );
            return None;
        }
        let squeezed = squeezed(key);
        if RESERVED.contains(&squeezed.as_str()) {
            place.problem(
                format_args!("the key {key:?}"),
                "another key: events have this one already, and two of a name are none",
            );
            return None;
        }
        if ACTORS.contains(&squeezed.as_str()) {
            place.warning(
                format_args!("the key {key:?}"),
                "nothing about who caused an event: Fullscript does not say it, and the same name for all is wrong for most",
                None,
            );
        }
        let other = *self.0.entry(squeezed).or_insert(key);
        if other != key {
            place.problem(
                format_args!("the key {key:?} beside {other:?}"),
                "one of the two: a CloudEvent's names have no _, and there they are the same",
            );
            return None;
        }
        Some(())
    }
}

/// As CloudEvents wants its names: nothing but letters and digits.
fn squeezed(key: &str) -> String {
    key.replace('_', "")
}

/// A value, or a list of values.
fn plain(field: &Field<'_>) -> Option<Value> {
    let read = match field.members() {
        Some(members) => members
            .iter()
            .map(scalar)
            .collect::<Option<Vec<_>>>()
            .map(Value::from),
        None => scalar(field),
    };
    if read.is_none() {
        return field.refuse(
            "a text without control characters, a number, true or false, or a list of these",
        );
    }
    read
}

/// A text, a number, or true or false; notes nothing.
fn scalar(field: &Field<'_>) -> Option<Value> {
    field.scalar().filter(|value| {
        let text = value.as_str().unwrap_or_default();
        !text.chars().any(char::is_control)
    })
}
