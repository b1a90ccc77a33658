//! What an EMR takes that was written for Smart Flow Sheet: `{"clinicApiKey":…,"eventType":…,"object":…}`.
//!
//! Such an EMR reads the JSON as a stream: an `eventType` behind the `object` drops the event in silence, and a later key
//! whose value is an object takes the payload's place. So the envelope is a struct, whose members are written in their
//! order, the object last and nothing else; and no event of ours can make it another.

mod native;
mod notes;
mod record;
mod treatments;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::NotAnEvent;

pub use native::{Entity, native};
pub use notes::{Note, note};
pub use record::{Line, Record, emr_id};
pub use treatments::{Status, Treatment, treatments};

/// The type of an event that carries notes.
pub const NOTES: &str = "notes.entered";
/// The type of an event that carries one treatment.
pub const TREATMENT: &str = "treatment.record_entered";
/// The type of an event that carries treatments.
pub const TREATMENTS: &str = "treatments.records_entered";

/// What our UUIDs are made in. Never to be changed: an EMR finds its notes by them.
const NAMESPACE: Uuid = Uuid::from_u128(0x5f1c_2a9e_7b64_4d0a_9c3e_e4a8_51d7_206b);

/// A name's UUID (version 5): the same for the same name, for ever.
pub fn guid(name: &str) -> String {
    Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
}

/// `YYYY-MM-DDThh:mm:ss.sss+00:00`: a numeric offset, never `Z`.
pub fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

/// A type that names one thing, as it names several: `patient.updated` is `patients.updated`.
pub fn plural(event_type: &str) -> String {
    let (first, rest) = event_type
        .split_once('.')
        .map_or((event_type, None), |(first, rest)| (first, Some(rest)));
    let several = if first.ends_with('s') {
        first.to_owned()
    } else {
        format!("{first}s")
    };
    rest.map_or(several.clone(), |rest| format!("{several}.{rest}"))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, T> {
    clinic_api_key: &'a str,
    event_type: &'a str,
    object: &'a T,
}

/// The body of a post. Holds the clinic's key: it goes to the receiver and nowhere else.
pub fn envelope(
    key: &SecretString,
    event_type: &str,
    object: &impl Serialize,
) -> Result<Vec<u8>, NotAnEvent> {
    let envelope = Envelope {
        clinic_api_key: key.expose_secret(),
        event_type,
        object,
    };
    serde_json::to_vec(&envelope).map_err(|_: serde_json::Error| NotAnEvent)
}

/// Several objects as one: `{"objectType":"notes","id":…,"notes":[…]}`.
pub struct Several<'a, T> {
    /// What they are, in the plural: the type, and the name of the list.
    pub object_type: &'a str,
    /// The batch: what a late result names.
    pub id: &'a str,
    /// The objects, in the source's order.
    pub items: &'a [T],
}

impl<T: Serialize> Serialize for Several<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("objectType", self.object_type)?;
        map.serialize_entry("id", self.id)?;
        map.serialize_entry(self.object_type, self.items)?;
        map.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType, NoteText, Parcel};

    pub(super) fn parcel(event_type: &str, data: &str) -> Parcel {
        Parcel {
            delivery: DeliveryId(7),
            attempt: 1,
            event: EventId::new("e-7").unwrap(),
            event_type: EventType::new(event_type).unwrap(),
            created_at: "2026-03-02T14:05:09.25Z".parse().unwrap(),
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: None,
            body: EventBody::from_json(format!(r#"{{"id":"e-7","data":{data}}}"#)),
        }
    }

    pub(super) fn posted(event_type: &str, object: &impl Serialize) -> String {
        let body = envelope(&"k\"1".into(), event_type, object).unwrap();
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn the_envelope_is_three_members_in_their_order_with_the_object_last() {
        let event = parcel(
            "patient.updated",
            r#"{ "patient":{"id":"p-1","b":1.10,"a":"\u00e9"} }"#,
        );
        let event = native(
            &event,
            Some(r#"{ "patient":{"id":"p-1","b":1.10,"a":"\u00e9"} }"#),
        );
        assert_eq!(
            posted("patient.updated", &event.unwrap()),
            r#"{"clinicApiKey":"k\"1","eventType":"patient.updated","object":{"objectType":"patient","id":"p-1","externalId":null,"eventId":"e-7","time":"2026-03-02T14:05:09.250+00:00","status":"changed","data":{ "patient":{"id":"p-1","b":1.10,"a":"\u00e9"} }}}"#
        );
    }

    #[test]
    fn several_carry_their_batch_and_keep_their_order() {
        let text =
            NoteText::new("{what} at {time}: {items} ({clinic} {id} {type} {event_id})").unwrap();
        let event = parcel(
            "order.placed",
            r#"{"id":"o-1","patient_id":"p-1","line_items":[{"variant_id":"v-1","quantity":2},{"variant_id":"v-2"}]}"#,
        );
        let note = note(&event, "h-1", &text).unwrap();
        let several = Several {
            object_type: "notes",
            id: "b-1",
            items: &[note],
        };
        let guid = guid("e-7");
        assert_eq!(guid, "bc7c9780-2b93-5124-8dc2-ee4b123b7cce");
        assert_eq!(
            posted(NOTES, &several),
            format!(
                r#"{{"clinicApiKey":"k\"1","eventType":"notes.entered","object":{{"objectType":"notes","id":"b-1","notes":[{{"objectType":"note","noteGuid":"{guid}","hospitalizationId":"h-1","time":"2026-03-02T14:05:09.250+00:00","text":"order placed at 2026-03-02 14:05 UTC: 2 x v-1, 1 x v-2 (oak-street o-1 order.placed e-7)","status":"added","type":0,"anestheticGuid":null}}]}}}}"#
            )
        );
    }

    #[test]
    fn a_batch_is_named_in_the_plural_of_its_first_part() {
        for (one, several) in [
            ("patient.updated", "patients.updated"),
            (
                "treatment_plan.recommendation.updated",
                "treatment_plans.recommendation.updated",
            ),
            ("order.placed", "orders.placed"),
            ("news", "news"),
        ] {
            assert_eq!(plural(one), several);
        }
    }
}
