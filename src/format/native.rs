//! This program's own shape of an event: one JSON object that names the delivery, the clinic by both its names, and
//! carries `data` byte for byte as the vendor sent it.
//!
//! `data` is never parsed into numbers and strings and written again: that would round amounts and reorder keys. The
//! attempt is not part of it, so that every attempt of a delivery has the same bytes.

use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{ClinicId, EventBody, Metadata, Parcel};

/// The stored event is not what a retrieve gives. Says nothing of its content: that is health data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event is not a JSON object with its data")]
pub struct NotAnEvent;

/// What the rest takes beside the event, about; more only costs another allocation.
const ENVELOPE: usize = 256;

#[derive(Serialize)]
struct Native<'a> {
    delivery: String,
    id: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    created_at: String,
    clinic: &'a str,
    clinic_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// `{"delivery":"123","id":…,"type":…,"created_at":…,"clinic":…,"clinic_id":…|null,"metadata":…,"data":…}`, without a
/// newline at its end; those inside `data` are the vendor's. Where there is no metadata, the member is not there.
pub fn body(parcel: &Parcel, metadata: &Metadata) -> Result<Vec<u8>, NotAnEvent> {
    body_with(parcel, metadata, Some(data(&parcel.body)?))
}

/// The same with `data` as it is given; without, no `data` at all.
pub fn body_with(
    parcel: &Parcel,
    metadata: &Metadata,
    data: Option<&str>,
) -> Result<Vec<u8>, NotAnEvent> {
    let native = Native {
        delivery: parcel.delivery.to_string(),
        id: parcel.event.as_str(),
        event_type: parcel.event_type.as_str(),
        created_at: time(parcel),
        clinic: parcel.clinic.as_str(),
        clinic_id: parcel.clinic_id.as_ref().map(ClinicId::as_str),
        metadata: (!metadata.is_empty()).then_some(metadata),
    };
    with_data(&native, data)
}

/// When the event happened, as the contract writes it.
pub(super) fn time(parcel: &Parcel) -> String {
    parcel
        .created_at
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// An object that has members, and `data` behind them, if there is any.
pub(super) fn with_data(head: &impl Serialize, data: Option<&str>) -> Result<Vec<u8>, NotAnEvent> {
    let mut body = Vec::with_capacity(data.map_or(0, str::len) + ENVELOPE);
    serde_json::to_writer(&mut body, head).map_err(|_: serde_json::Error| NotAnEvent)?;
    let Some(data) = data else {
        return Ok(body);
    };
    // The object is opened again for its last member, which goes in as it is.
    body.pop();
    body.extend_from_slice(br#","data":"#);
    body.extend_from_slice(data.as_bytes());
    body.push(b'}');
    Ok(body)
}

/// The value of the event's `data`, byte for byte as the vendor sent it.
pub fn data(body: &EventBody) -> Result<&str, NotAnEvent> {
    if let Some(data) = body.data() {
        return Ok(data);
    }
    let event: Event<'_> =
        serde_json::from_str(body.as_json()).map_err(|_: serde_json::Error| NotAnEvent)?;
    Ok(event.data.get())
}

/// The body as exactly one line, its newline included. A raw newline in JSON can only stand between tokens (within a
/// string it is escaped), so a space in its place changes the layout and no value.
pub fn line(parcel: &Parcel, metadata: &Metadata) -> Result<Vec<u8>, NotAnEvent> {
    let mut line = body(parcel, metadata)?;
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventId, EventType};

    fn parcel(event: &str) -> Parcel {
        Parcel {
            delivery: DeliveryId(123),
            attempt: 1,
            event: EventId::new("e-1").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            created_at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: Some(ClinicId::new("c-1").unwrap()),
            body: EventBody::from_json(event),
        }
    }

    fn none() -> Metadata {
        Metadata::default()
    }

    #[test]
    fn metadata_stands_before_data_in_the_order_of_its_names() {
        let values = serde_json::json!({ "compliance": "PHIPA", "audit_required": true });
        let metadata = Metadata::new(serde_json::from_value(values).unwrap());
        let body = body(&parcel(r#"{"data":{}}"#), &metadata).unwrap();
        let text = String::from_utf8(body).unwrap();
        let (_, end) = text.split_once(r#""clinic_id":"c-1","#).unwrap();
        assert_eq!(
            end,
            r#""metadata":{"audit_required":true,"compliance":"PHIPA"},"data":{}}"#
        );
    }

    #[test]
    fn data_keeps_every_byte_the_vendor_sent() {
        let data = r#"{ "z":1.10, "a":12345678901234567890.0,"s":"\u00e9\/é" }"#;
        let body = body(
            &parcel(&format!(r#"{{"id":"e-1","data":{data}}}"#)),
            &none(),
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            format!(
                r#"{{"delivery":"123","id":"e-1","type":"order.placed","created_at":"2026-01-01T00:00:00.500Z","clinic":"oak-street","clinic_id":"c-1","data":{data}}}"#
            )
        );
    }

    #[test]
    fn every_attempt_has_the_same_bytes() {
        let first = parcel(r#"{"data":null}"#);
        let second = Parcel {
            attempt: 2,
            ..first.clone()
        };
        assert_eq!(body(&first, &none()), body(&second, &none()));
    }

    #[test]
    fn a_pretty_printed_event_is_still_one_line_with_the_same_values() {
        let data = "{\r\n  \"note\": \"two\\nlines\"\n}";
        let line = line(&parcel(&format!("{{\"data\":{data}}}")), &none()).unwrap();
        let text = String::from_utf8(line.clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!line.contains(&b'\r'));
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["data"]["note"], "two\nlines");
    }

    #[test]
    fn a_body_without_data_is_refused_rather_than_guessed() {
        assert_eq!(body(&parcel(r#"{"id":"e-1"}"#), &none()), Err(NotAnEvent));
        assert_eq!(body(&parcel("["), &none()), Err(NotAnEvent));
    }
}
