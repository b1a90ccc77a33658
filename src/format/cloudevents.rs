//! As [CloudEvents](https://cloudevents.io) 1.0 says, in structured mode, for receivers that route by attributes.
//!
//! `id` is Fullscript's id of the event and `source` names the clinic, so that the pair tells a repeat whatever delivered
//! it, a person's resend included.

use serde::Serialize;

use super::native::{NotAnEvent, data, time, with_data};
use crate::domain::{ClinicId, Parcel};

/// What the body says it is.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'static str>,
    // Extensions: their names may hold nothing but lower-case letters and digits.
    delivery: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clinicid: Option<&'a str>,
}

/// `{"specversion":"1.0","id":…,"source":"/clinics/NAME","type":"com.fullscript.TYPE","time":…,"datacontenttype":…,
/// "delivery":…,"clinicid":…,"data":…}`; `data` has the vendor's bytes, and an event without a clinic no `clinicid`.
pub fn body(parcel: &Parcel) -> Result<Vec<u8>, NotAnEvent> {
    body_with(parcel, Some(data(&parcel.body)?))
}

/// The same with `data` as it is given; without, neither `data` nor `datacontenttype`.
pub fn body_with(parcel: &Parcel, data: Option<&str>) -> Result<Vec<u8>, NotAnEvent> {
    let event = CloudEvent {
        specversion: "1.0",
        id: parcel.event.as_str(),
        source: format!("/clinics/{}", parcel.clinic),
        event_type: format!("com.fullscript.{}", parcel.event_type),
        time: time(parcel),
        datacontenttype: data.map(|_| "application/json"),
        delivery: parcel.delivery.to_string(),
        clinicid: parcel.clinic_id.as_ref().map(ClinicId::as_str),
    };
    with_data(&event, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType};

    fn parcel(attempt: u32, clinic_id: Option<&str>) -> Parcel {
        Parcel {
            delivery: DeliveryId(123),
            attempt,
            event: EventId::new("e-1").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            created_at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: clinic_id.map(|id| ClinicId::new(id).unwrap()),
            body: EventBody::from_json(r#"{"id":"e-1","data":{ "b":1.10 }}"#),
        }
    }

    #[test]
    fn it_has_the_required_attributes_and_the_vendors_bytes() {
        let of_clinic = body(&parcel(1, Some("c-1"))).unwrap();
        assert_eq!(
            String::from_utf8(of_clinic.clone()).unwrap(),
            r#"{"specversion":"1.0","id":"e-1","source":"/clinics/oak-street","type":"com.fullscript.order.placed","time":"2026-01-01T00:00:00.500Z","datacontenttype":"application/json","delivery":"123","clinicid":"c-1","data":{ "b":1.10 }}"#
        );
        assert_eq!(body(&parcel(2, Some("c-1"))).unwrap(), of_clinic);
    }

    #[test]
    fn an_attribute_without_a_value_is_left_out() {
        let product = body(&parcel(1, None)).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&product).unwrap();
        assert!(read.get("clinicid").is_none());
        let bare = body_with(&parcel(1, None), None).unwrap();
        assert_eq!(
            String::from_utf8(bare).unwrap(),
            r#"{"specversion":"1.0","id":"e-1","source":"/clinics/oak-street","type":"com.fullscript.order.placed","time":"2026-01-01T00:00:00.500Z","delivery":"123"}"#
        );
    }
}
