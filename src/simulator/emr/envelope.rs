//! Reads an event as OpenVPMS does (`EventDeserializer`): as a stream of keys, each used as it comes by.
//!
//! What is not in the expected order is not wrong to such a receiver. It is simply not there, and the sender is told
//! that all went well: that is the failure this double exists to show.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The event types that this EMR does something with. It knows others (admissions, discharges, imports) and has nothing
/// to do for them; to the sender that is the same as an unknown type.
const HANDLED: &[&str] = &[
    "treatment.record_entered",
    "treatments.records_entered",
    "notes.entered",
];

/// An event as it was read. May carry health data: no `Debug`.
pub(super) struct Envelope {
    /// The keys, in the order of the text.
    pub(super) keys: Vec<String>,
    /// `clinicApiKey`, wherever it stands.
    pub(super) clinic_api_key: Option<String>,
    /// `eventType`, wherever it stands.
    pub(super) event_type: Option<String>,
    /// What came of it.
    pub(super) reading: Reading,
}

/// What a stream of keys comes to.
pub(super) enum Reading {
    /// A handled type, and the JSON of the last object that came after it.
    Payload(Box<RawValue>),
    /// The object came before its type, or there is none: nothing happens, with success.
    Dropped,
    /// A type that nothing is done for: nothing happens, with success.
    Ignored,
}

impl Envelope {
    /// Reads a body; `None` if it is no JSON object.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let Entries(entries) = serde_json::from_slice(body).ok()?;
        let text = |name: &str| {
            let mut named = entries.iter().filter(|(key, _)| key == name);
            named.find_map(|(_, value)| serde_json::from_str(value.get()).ok())
        };
        Some(Self {
            clinic_api_key: text("clinicApiKey"),
            event_type: text("eventType"),
            reading: reading(&entries),
            keys: entries.into_iter().map(|(key, _)| key).collect(),
        })
    }
}

fn reading(entries: &[(String, Box<RawValue>)]) -> Reading {
    let mut event_type: Option<String> = None;
    let mut payload = None;
    for (key, value) in entries {
        if key == "eventType"
            && let Ok(text) = serde_json::from_str(value.get())
        {
            event_type = Some(text);
        }
        for object in objects(value) {
            let Some(event_type) = event_type.as_deref() else {
                return Reading::Dropped;
            };
            if !HANDLED.contains(&event_type) {
                return Reading::Ignored;
            }
            // Under whatever key: the last one counts.
            payload = Some(object);
        }
    }
    payload.map_or(Reading::Dropped, Reading::Payload)
}

/// The objects that a stream meets in a value: the value itself, or the members of a list.
fn objects(value: &RawValue) -> Vec<Box<RawValue>> {
    let is_object = |value: &RawValue| value.get().starts_with('{');
    if is_object(value) {
        return vec![value.to_owned()];
    }
    let members: Vec<Box<RawValue>> = serde_json::from_str(value.get()).unwrap_or_default();
    let objects = members.into_iter().filter(|member| is_object(member));
    objects.collect()
}

/// The members of an object, in the order of the text, whichever keys come twice.
struct Entries(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> String {
        match Envelope::read(body.as_bytes()).map(|envelope| envelope.reading) {
            None => "no JSON".to_owned(),
            Some(Reading::Dropped) => "dropped".to_owned(),
            Some(Reading::Ignored) => "ignored".to_owned(),
            Some(Reading::Payload(payload)) => payload.get().to_owned(),
        }
    }

    #[test]
    fn the_order_of_the_keys_decides_what_is_seen() {
        for (body, seen) in [
            (
                r#"{"clinicApiKey":"k","eventType":"notes.entered","object":{"id":"1"}}"#,
                r#"{"id":"1"}"#,
            ),
            (
                r#"{"eventType":"notes.entered","clinicApiKey":"k","object":{"id":"1"}}"#,
                r#"{"id":"1"}"#,
            ),
            // The type after the object: gone, even if another object follows.
            (
                r#"{"clinicApiKey":"k","object":{"id":"1"},"eventType":"notes.entered"}"#,
                "dropped",
            ),
            (
                r#"{"object":{"id":"1"},"eventType":"notes.entered","object":{"id":"2"}}"#,
                "dropped",
            ),
            (
                r#"{"clinicApiKey":"k","eventType":"notes.entered"}"#,
                "dropped",
            ),
            // A later object takes the place of the payload, whatever its key; a text or a number does not.
            (
                r#"{"eventType":"notes.entered","object":{"id":"1"},"signature":{"v":1}}"#,
                r#"{"v":1}"#,
            ),
            (
                r#"{"eventType":"notes.entered","object":{"id":"1"},"all":[{"v":2}]}"#,
                r#"{"v":2}"#,
            ),
            (
                r#"{"eventType":"notes.entered","object":{"id":"1"},"at":"now","n":1}"#,
                r#"{"id":"1"}"#,
            ),
            (r#"{"eventType":"patients.updated","object":{}}"#, "ignored"),
            ("[]", "no JSON"),
            ("{", "no JSON"),
        ] {
            assert_eq!(read(body), seen, "{body}");
        }
    }

    #[test]
    fn the_clinic_is_known_wherever_its_key_stands() {
        let envelope =
            Envelope::read(br#"{"object":{},"eventType":"notes.entered","clinicApiKey":"k"}"#);
        let envelope = envelope.unwrap();
        assert_eq!(envelope.clinic_api_key.as_deref(), Some("k"));
        assert_eq!(envelope.keys, ["object", "eventType", "clinicApiKey"]);
    }
}
