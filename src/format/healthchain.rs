//! `EHREvent`, the event of HealthChain (`docs/healthchain.md`): its closed list of types, Fullscript's event whole in the
//! `payload`, and what names, resource and ids its handlers ask for beside it.

use serde::Serialize;
use serde_json::value::RawValue;

use super::native::{NotAnEvent, time};
use crate::domain::{ClinicId, EventType, Metadata, Operation, Parcel};

/// Who it comes from, in every body.
const SOURCE: &str = "fullscript";

#[derive(Serialize)]
struct EhrEvent<'a> {
    event_type: &'static str,
    source_system: &'static str,
    timestamp: String,
    payload: Payload<'a>,
    metadata: Context<'a>,
}

#[derive(Serialize)]
struct Payload<'a> {
    name: &'a str,
    aliases: &'a [String],
    operation: &'static str,
    resource_type: Option<&'static str>,
    resource_id: Option<String>,
    event: &'a RawValue,
}

/// What the operator says, and the ids; the configuration refuses a key that is one of these.
#[derive(Serialize)]
struct Context<'a> {
    #[serde(flatten)]
    said: &'a Metadata,
    event_id: &'a str,
    delivery: String,
    clinic: &'a str,
    clinic_id: Option<&'a str>,
}

/// `{"event_type":…,"source_system":"fullscript","timestamp":…,"payload":{"name":…,"aliases":[…],"operation":…,
/// "resource_type":…|null,"resource_id":…|null,"event":…},"metadata":{…,"event_id":…,"delivery":…,"clinic":…,
/// "clinic_id":…|null}}`.
///
/// `event` is the event object to be carried, which stays as it is byte for byte. `data` is what of its data is carried:
/// the id of the resource is looked for there alone, so that what the receiver is not to have does not reach it so.
pub fn body(
    parcel: &Parcel,
    metadata: &Metadata,
    event: &[u8],
    data: Option<&str>,
) -> Result<Vec<u8>, NotAnEvent> {
    let event_type = &parcel.event_type;
    let names = event_type.names();
    let body = EhrEvent {
        event_type: ehr_type(event_type),
        source_system: SOURCE,
        timestamp: time(parcel),
        payload: Payload {
            name: event_type.as_str(),
            aliases: names.get(1..).unwrap_or_default(),
            operation: event_type.operation().as_str(),
            resource_type: event_type.fhir_resource(),
            resource_id: data.and_then(|data| event_type.resource_id(data)),
            event: serde_json::from_slice(event).map_err(|_: serde_json::Error| NotAnEvent)?,
        },
        metadata: Context {
            said: metadata,
            event_id: parcel.event.as_str(),
            delivery: parcel.delivery.to_string(),
            clinic: parcel.clinic.as_str(),
            clinic_id: parcel.clinic_id.as_ref().map(ClinicId::as_str),
        },
    };
    serde_json::to_vec(&body).map_err(|_: serde_json::Error| NotAnEvent)
}

/// The value of HealthChain's closed `EHREventType`.
fn ehr_type(event_type: &EventType) -> &'static str {
    match (event_type.fhir_resource(), event_type.operation()) {
        (None, _) => "ehr.generic",
        (Some(_), Operation::Create) => "fhir.create",
        (Some(_), Operation::Update) => "fhir.update",
        (Some(_), Operation::Delete) => "fhir.delete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventBody, EventId};

    fn text(event_type: &str, metadata: &Metadata, event: &str, data: Option<&str>) -> String {
        let parcel = Parcel {
            delivery: DeliveryId(123),
            attempt: 1,
            event: EventId::new("e-1").unwrap(),
            event_type: EventType::new(event_type).unwrap(),
            created_at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: Some(ClinicId::new("c-1").unwrap()),
            body: EventBody::from_json(event),
        };
        String::from_utf8(body(&parcel, metadata, event.as_bytes(), data).unwrap()).unwrap()
    }

    #[test]
    fn it_has_the_members_of_an_ehr_event_and_the_vendors_bytes() {
        let values = serde_json::json!({ "compliance": "HIPAA", "audit_required": true });
        let metadata = Metadata::new(serde_json::from_value(values).unwrap());
        let data = r#"{ "id":"o-1", "z":1.10, "a":12345678901234567890.0,"s":"\u00e9\/é" }"#;
        let event = format!("{{ \"id\":\"e-1\",\n \"data\":{data}}}");
        let body = text("order.placed", &metadata, &event, Some(data));
        assert_eq!(
            body,
            format!(
                r#"{{"event_type":"fhir.create","source_system":"fullscript","timestamp":"2026-01-01T00:00:00.500Z","payload":{{"name":"order.placed","aliases":["fullscript.order.placed","fhir.supplyrequest.create","fhir.create"],"operation":"create","resource_type":"SupplyRequest","resource_id":"o-1","event":{event}}},"metadata":{{"audit_required":true,"compliance":"HIPAA","event_id":"e-1","delivery":"123","clinic":"oak-street","clinic_id":"c-1"}}}}"#
            )
        );
    }

    #[test]
    fn what_has_no_resource_is_generic_and_has_no_names_of_fhir() {
        let event = r#"{"data":{"product":{"id":"p-1"}}}"#;
        let body = text(
            "product.updated",
            &Metadata::default(),
            event,
            Some(r#"{"product":{"id":"p-1"}}"#),
        );
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["event_type"], "ehr.generic");
        assert_eq!(
            body["payload"]["aliases"],
            serde_json::json!(["fullscript.product.updated"])
        );
        assert!(body["payload"]["resource_type"].is_null());
        assert!(body["payload"]["resource_id"].is_null());
    }

    #[test]
    fn each_operation_has_its_type_and_data_that_is_not_carried_gives_no_id() {
        for (event_type, expected) in [
            ("patient.created", "fhir.create"),
            ("patient.emancipated", "fhir.update"),
            ("patient.deleted", "fhir.delete"),
            ("clinic_key.revoked", "ehr.generic"),
            ("shipment.shipped", "ehr.generic"),
        ] {
            let event = r#"{"data":{"patient":{"id":"p-1"}}}"#;
            let body = text(event_type, &Metadata::default(), event, None);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["event_type"], expected, "{event_type}");
            assert!(body["payload"]["resource_id"].is_null());
        }
    }
}
