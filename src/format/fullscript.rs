//! The body as Fullscript's own webhooks post it: `{"event":…}` (`fullscript-api.md` §6).

use serde::Serialize;

use super::native::{self, NotAnEvent};
use crate::domain::{ClinicId, Parcel};

/// Wraps an event object, whose bytes stay as they are.
pub fn body(event: &[u8]) -> Vec<u8> {
    [br#"{"event":"#, event, b"}"].concat()
}

/// A body inside `{"event_payload":…}`, as the vendor's guide shows it and its signing page does not.
pub fn wrapped(body: &[u8]) -> Vec<u8> {
    [br#"{"event_payload":"#, body, b"}"].concat()
}

#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    r#type: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clinic_id: Option<&'a str>,
}

/// An event with less in it: the members that the contract names, in its order, and `data` as it is given, if at all.
/// What else the vendor may put beside `data` is left out: nobody has said that the receiver needs it.
pub fn reduced(parcel: &Parcel, data: Option<&str>) -> Result<Vec<u8>, NotAnEvent> {
    let event = Event {
        id: parcel.event.as_str(),
        r#type: parcel.event_type.as_str(),
        created_at: native::time(parcel),
        clinic_id: parcel.clinic_id.as_ref().map(ClinicId::as_str),
    };
    native::with_data(&event, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType};

    #[test]
    fn the_events_bytes_are_not_touched() {
        let raw = "{ \"b\":1.0,\n\"a\":\"\\u00e9 é\" }";
        let body = body(raw.as_bytes());
        assert_eq!(body, format!("{{\"event\":{raw}}}").as_bytes());
        let inside = format!("{{\"event_payload\":{{\"event\":{raw}}}}}");
        assert_eq!(wrapped(&body), inside.as_bytes());
    }

    #[test]
    fn a_reduced_has_what_the_contract_names_and_nothing_that_the_vendor_adds() {
        let parcel = |clinic_id: Option<&str>| Parcel {
            delivery: DeliveryId(1),
            attempt: 1,
            event: EventId::new("e-1").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: clinic_id.map(|id| ClinicId::new(id).unwrap()),
            body: EventBody::from_json(r#"{"id":"e-1","patient_name":"Ada","data":{}}"#),
        };
        let text = |clinic_id, data| {
            let event = reduced(&parcel(clinic_id), data).unwrap();
            String::from_utf8(body(&event)).unwrap()
        };
        assert_eq!(
            text(Some("c-1"), Some(r#"{ "a":1.0 }"#)),
            r#"{"event":{"id":"e-1","type":"order.placed","created_at":"2026-01-01T00:00:00.000Z","clinic_id":"c-1","data":{ "a":1.0 }}}"#
        );
        assert_eq!(
            text(None, None),
            r#"{"event":{"id":"e-1","type":"order.placed","created_at":"2026-01-01T00:00:00.000Z"}}"#
        );
    }
}
