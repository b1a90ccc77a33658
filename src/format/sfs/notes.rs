//! A note for an EMR that cannot be changed: it files it with the visit, and finds it again by its guid.

use serde::Serialize;

use super::{NotAnEvent, Record, guid, time};
use crate::domain::{NoteField, NoteText, Parcel};

/// A note. Carries health data: no `Debug`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the receiver's names")]
pub struct Note {
    object_type: &'static str,
    note_guid: String,
    hospitalization_id: String,
    time: String,
    text: String,
    status: &'static str,
    r#type: u8,
    anesthetic_guid: (),
}

/// The note of an event: the same on every attempt, so that what is sent again replaces what is there.
pub fn note(parcel: &Parcel, hospitalization: &str, text: &NoteText) -> Result<Note, NotAnEvent> {
    let record = Record::of(parcel)?;
    let lines = record.lines.iter();
    let lines = lines.map(|line| format!("{} x {}", line.quantity, line.variant));
    let items = lines.collect::<Vec<_>>().join(", ");
    let value = |field| match field {
        NoteField::What => parcel.event_type.as_str().replace(['.', '_'], " "),
        NoteField::Type => parcel.event_type.to_string(),
        NoteField::Time => parcel.created_at.format("%Y-%m-%d %H:%M UTC").to_string(),
        NoteField::Clinic => parcel.clinic.to_string(),
        NoteField::Id => record.id.clone().unwrap_or_else(|| "unknown".to_owned()),
        NoteField::EventId => parcel.event.to_string(),
        NoteField::Items if items.is_empty() => "none".to_owned(),
        NoteField::Items => items.clone(),
    };
    Ok(Note {
        object_type: "note",
        note_guid: guid(parcel.event.as_str()),
        hospitalization_id: hospitalization.to_owned(),
        time: time(parcel.created_at),
        text: text.fill(value),
        status: "added",
        // 1 belongs to an anesthetic sheet.
        r#type: 0,
        anesthetic_guid: (),
    })
}
