//! As [CloudEvents](https://cloudevents.io) 1.0 says, in structured mode, for receivers that route by attributes.
//!
//! `id` is Fullscript's id of the event and `source` names the clinic, so that the pair tells a repeat whatever delivered
//! it, a person's resend included.
//!
//! Metadata goes along as extension attributes: that is what the specification has them for, and `data` stays the
//! vendor's. Its names allow nothing but `a-z` and `0-9`, so a `_` is left out (`audit_required` is `auditrequired`);
//! its types know neither fractions, nor whole numbers of more than 32 bits, nor lists, so these are texts, as JSON
//! writes them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::native::{NotAnEvent, data, time, with_data};
use crate::domain::{ClinicId, Metadata, Parcel};

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
    #[serde(flatten)]
    extensions: BTreeMap<String, Cow<'a, Value>>,
}

/// Metadata by the names and in the types of extension attributes.
fn extensions(metadata: &Metadata) -> BTreeMap<String, Cow<'_, Value>> {
    let attribute = |(name, value): (_, _)| {
        let name: &str = name;
        let value: &Value = value;
        let is_integer = value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        let value = if is_integer || value.is_string() || value.is_boolean() {
            Cow::Borrowed(value)
        } else {
            Cow::Owned(Value::String(value.to_string()))
        };
        (name.replace('_', ""), value)
    };
    metadata.iter().map(attribute).collect()
}

/// `{"specversion":"1.0","id":…,"source":"/clinics/NAME","type":"com.fullscript.TYPE","time":…,"datacontenttype":…,
/// "delivery":…,"clinicid":…,…,"data":…}`, with the metadata before `data`; that has the vendor's bytes, and an event
/// without a clinic no `clinicid`.
pub fn body(parcel: &Parcel, metadata: &Metadata) -> Result<Vec<u8>, NotAnEvent> {
    body_with(parcel, metadata, Some(data(&parcel.body)?))
}

/// The same with `data` as it is given; without, neither `data` nor `datacontenttype`.
pub fn body_with(
    parcel: &Parcel,
    metadata: &Metadata,
    data: Option<&str>,
) -> Result<Vec<u8>, NotAnEvent> {
    let event = CloudEvent {
        specversion: "1.0",
        id: parcel.event.as_str(),
        source: format!("/clinics/{}", parcel.clinic),
        event_type: format!("com.fullscript.{}", parcel.event_type),
        time: time(parcel),
        datacontenttype: data.map(|_| "application/json"),
        delivery: parcel.delivery.to_string(),
        clinicid: parcel.clinic_id.as_ref().map(ClinicId::as_str),
        extensions: extensions(metadata),
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

    fn none() -> Metadata {
        Metadata::default()
    }

    #[test]
    fn it_has_the_required_attributes_and_the_vendors_bytes() {
        let of_clinic = body(&parcel(1, Some("c-1")), &none()).unwrap();
        assert_eq!(
            String::from_utf8(of_clinic.clone()).unwrap(),
            r#"{"specversion":"1.0","id":"e-1","source":"/clinics/oak-street","type":"com.fullscript.order.placed","time":"2026-01-01T00:00:00.500Z","datacontenttype":"application/json","delivery":"123","clinicid":"c-1","data":{ "b":1.10 }}"#
        );
        assert_eq!(body(&parcel(2, Some("c-1")), &none()).unwrap(), of_clinic);
    }

    #[test]
    fn an_attribute_without_a_value_is_left_out() {
        let product = body(&parcel(1, None), &none()).unwrap();
        let read: Value = serde_json::from_slice(&product).unwrap();
        assert!(read.get("clinicid").is_none());
        let bare = body_with(&parcel(1, None), &none(), None).unwrap();
        assert_eq!(
            String::from_utf8(bare).unwrap(),
            r#"{"specversion":"1.0","id":"e-1","source":"/clinics/oak-street","type":"com.fullscript.order.placed","time":"2026-01-01T00:00:00.500Z","delivery":"123"}"#
        );
    }

    #[test]
    fn metadata_goes_along_by_names_and_types_that_the_specification_has() {
        let values = serde_json::json!({
            "audit_required": true,
            "compliance": "HIPAA",
            "large": 2_147_483_648_i64,
            "part": 0.5,
            "retention_years": -6,
            "scopes": ["a", 1],
        });
        let metadata = Metadata::new(serde_json::from_value(values).unwrap());
        let body = body(&parcel(1, Some("c-1")), &metadata).unwrap();
        let text = String::from_utf8(body).unwrap();
        let (_, end) = text.split_once(r#""clinicid":"c-1","#).unwrap();
        assert_eq!(
            end,
            r#""auditrequired":true,"compliance":"HIPAA","large":"2147483648","part":"0.5","retentionyears":-6,"scopes":"[\"a\",1]","data":{ "b":1.10 }}"#
        );
    }
}
