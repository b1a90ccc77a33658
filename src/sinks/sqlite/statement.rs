//! The statement that runs for each event: ours into the documented table, or the operator's. Both take their values by
//! name, so that there is one way to run them.

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, Statement};

use crate::config::{Enrich, SqliteInto};
use crate::domain::{ClinicId, KNOWN_CATEGORIES, Parcel};
use crate::format::{NotAnEvent, native};

use super::meaning;

/// The columns of the documented table, and what each is made of.
pub(super) const COLUMNS: [(&str, &str); 9] = [
    ("seq", "INTEGER PRIMARY KEY AUTOINCREMENT"),
    ("id", "TEXT NOT NULL UNIQUE"),
    ("type", "TEXT NOT NULL"),
    ("category", "TEXT"),
    ("created_at", "TEXT NOT NULL"),
    ("clinic", "TEXT NOT NULL"),
    ("clinic_id", "TEXT"),
    ("data", "TEXT NOT NULL"),
    ("received_at", "TEXT NOT NULL"),
];

/// What a statement may begin with. Anything else gives rows, or would meddle with the transaction.
const VERBS: [&str; 5] = ["INSERT", "UPDATE", "REPLACE", "DELETE", "WITH"];

/// A value that a statement may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Id,
    Type,
    Category,
    CreatedAt,
    Clinic,
    ClinicId,
    Data,
    Event,
    Delivery,
    ReceivedAt,
    Metadata,
}

/// The values by name.
const VALUES: [(&str, Value); 11] = [
    (":id", Value::Id),
    (":type", Value::Type),
    (":category", Value::Category),
    (":created_at", Value::CreatedAt),
    (":clinic", Value::Clinic),
    (":clinic_id", Value::ClinicId),
    (":data", Value::Data),
    (":event", Value::Event),
    (":delivery", Value::Delivery),
    (":received_at", Value::ReceivedAt),
    (":metadata", Value::Metadata),
];

/// The text of the statement. What is there already is left as it is: whoever has read a row has read all of it.
pub(super) fn text(into: &SqliteInto) -> String {
    match into {
        SqliteInto::Statement(text) => text.clone(),
        SqliteInto::Table(table) => format!(
            "INSERT INTO \"{table}\" (id, type, category, created_at, clinic, clinic_id, data, received_at) \
             VALUES (:id, :type, :category, :created_at, :clinic, :clinic_id, :data, :received_at) \
             ON CONFLICT (id) DO NOTHING"
        ),
    }
}

/// Looks whether the statement is one that can run for each event; gives what it asks for, or what is wrong with it.
pub(super) fn check(connection: &Connection, text: &str) -> Result<Vec<Value>, String> {
    let verb = text.trim_start();
    let verb = verb
        .split(|c: char| !c.is_ascii_alphabetic())
        .next()
        .unwrap_or_default();
    if !VERBS.iter().any(|known| known.eq_ignore_ascii_case(verb)) {
        return Err(format!(
            "begins with {verb:?}, expected one of {}",
            VERBS.join(", ")
        ));
    }
    let statement = connection.prepare(text).map_err(|error| why(&error))?;
    if statement.column_count() > 0 {
        return Err("gives rows, expected one that only writes, without RETURNING".to_owned());
    }
    if statement.readonly() {
        return Err("writes nothing, expected one that does".to_owned());
    }
    values(&statement)
}

/// Why a statement cannot be prepared. Here SQLite's words are about the statement and the tables alone: there is no
/// event yet.
fn why(error: &rusqlite::Error) -> String {
    if let rusqlite::Error::MultipleStatement = error {
        return "is more than one statement, expected one".to_owned();
    }
    let words = if let rusqlite::Error::SqlInputError { msg, .. }
    | rusqlite::Error::SqliteFailure(_, Some(msg)) = error
    {
        msg.clone()
    } else {
        meaning::words(meaning::code(error))
    };
    format!("cannot be prepared: {words}")
}

fn values(statement: &Statement<'_>) -> Result<Vec<Value>, String> {
    let known = || VALUES.map(|(name, _)| name).join(" ");
    (1..=statement.parameter_count())
        .map(|index| {
            let name = statement.parameter_name(index);
            let value = VALUES.iter().find(|(known, _)| Some(*known) == name);
            value.map(|(_, value)| *value).ok_or_else(|| match name {
                Some(name) => format!("asks for {name}, known are {}", known()),
                None => format!("has a parameter without a name, known are {}", known()),
            })
        })
        .collect()
}

/// What an event gives to the statement. Health data: no `Debug`.
pub(super) struct Row<'a> {
    pub(super) parcel: &'a Parcel,
    data: &'a str,
    category: Option<&'static str>,
    created_at: String,
    enrich: &'a Enrich,
}

impl<'a> Row<'a> {
    pub(super) fn of(parcel: &'a Parcel, enrich: &'a Enrich) -> Result<Self, NotAnEvent> {
        let event_type = parcel.event_type.as_str();
        Ok(Self {
            parcel,
            data: native::data(&parcel.body)?,
            category: KNOWN_CATEGORIES
                .iter()
                .find(|row| row.event_types.contains(&event_type))
                .map(|row| row.name),
            created_at: instant(parcel.created_at),
            enrich,
        })
    }

    /// What the operator says of the event, as a JSON object; `None` where that is nothing.
    fn metadata(&self) -> Option<String> {
        let (event_type, clinic) = (&self.parcel.event_type, &self.parcel.clinic);
        let metadata = self.enrich.metadata_for(event_type, clinic);
        (!metadata.is_empty()).then(|| metadata.to_json())
    }

    /// Runs the statement with this event's values.
    pub(super) fn run(
        &self,
        statement: &mut Statement<'_>,
        values: &[Value],
        received_at: &str,
    ) -> rusqlite::Result<()> {
        for (index, value) in (1..).zip(values) {
            let text = match value {
                Value::Id => Some(self.parcel.event.as_str()),
                Value::Type => Some(self.parcel.event_type.as_str()),
                Value::Category => self.category,
                Value::CreatedAt => Some(self.created_at.as_str()),
                Value::Clinic => Some(self.parcel.clinic.as_str()),
                Value::ClinicId => self.parcel.clinic_id.as_ref().map(ClinicId::as_str),
                Value::Data => Some(self.data),
                Value::Event => Some(self.parcel.body.as_json()),
                Value::ReceivedAt => Some(received_at),
                Value::Metadata => {
                    statement.raw_bind_parameter(index, self.metadata())?;
                    continue;
                }
                Value::Delivery => {
                    statement.raw_bind_parameter(index, self.parcel.delivery.0)?;
                    continue;
                }
            };
            statement.raw_bind_parameter(index, text)?;
        }
        statement.raw_execute().map(drop)
    }
}

/// RFC 3339 in UTC with milliseconds: as text it sorts by time, and SQLite's own date functions read it.
pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
