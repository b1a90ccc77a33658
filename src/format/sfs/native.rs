//! Fullscript's own event in an envelope of Smart Flow Sheet: for a receiver that is written for it.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{NotAnEvent, Record, time};
use crate::domain::{Operation, Parcel};

/// What happened to one thing. Carries health data: no `Debug`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entity {
    object_type: String,
    id: Option<String>,
    external_id: Option<String>,
    event_id: String,
    time: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

/// An event with `data` as it is given, byte for byte; without, no `data` at all.
pub fn native(parcel: &Parcel, data: Option<&str>) -> Result<Entity, NotAnEvent> {
    // What cannot be read costs the event its id here, and nothing else.
    let record = Record::of(parcel).unwrap_or_default();
    let data = data.map(|data| RawValue::from_string(data.to_owned()));
    let event_type = parcel.event_type.as_str();
    Ok(Entity {
        object_type: event_type.split('.').next().unwrap_or_default().to_owned(),
        id: record.id,
        external_id: record.external_id,
        event_id: parcel.event.as_str().to_owned(),
        time: time(parcel.created_at),
        status: match parcel.event_type.operation() {
            Operation::Create => "added",
            Operation::Update => "changed",
            Operation::Delete => "removed",
        },
        data: data
            .transpose()
            .map_err(|_: serde_json::Error| NotAnEvent)?,
    })
}
