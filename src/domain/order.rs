//! In which order a sink wants its events, and whose events they are.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{EventBody, EventType};

/// What a sink keeps in order: one delivery at a time, in the order of happening, of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderBy {
    /// Nothing: deliveries are independent of each other.
    None,
    /// The events of a clinic.
    Clinic,
    /// The events of a patient; an event of no patient is independent.
    Patient,
}

impl OrderBy {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::None, Self::Clinic, Self::Patient];

    /// The one word for it in the configuration and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Clinic => "clinic",
            Self::Patient => "patient",
        }
    }
}

impl fmt::Display for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the types of event keep their patient's id, by the first word of the type (`fullscript-api.md` §2).
const PLACES: [(&str, &[&str]); 4] = [
    ("patient", &["patient", "id"]),
    ("treatment_plan", &["treatment_plan", "patient", "id"]),
    // The order stands in `data` directly.
    ("order", &["patient_id"]),
    ("lab_order", &["lab_order", "patient_id"]),
];

/// Fullscript's id of the patient that an event is about; `None` where it says none, or says it otherwise than known:
/// such an event keeps no order, and is delivered all the same.
pub fn patient_of(event_type: &EventType, body: &EventBody) -> Option<String> {
    let subject = event_type.as_str().split('.').next()?;
    let (_, place) = PLACES.iter().find(|(known, _)| *known == subject)?;
    id_at(&data_of(body)?, place)
}

/// Fullscript's id of what an event happened to: of the plan, the order, the patient; `None` where it says none.
pub fn entity_of(event_type: &EventType, body: &EventBody) -> Option<String> {
    let subject = event_type.as_str().split('.').next()?;
    let data = data_of(body)?;
    // An order stands in `data` directly.
    id_at(&data, &[subject, "id"]).or_else(|| id_at(&data, &["id"]))
}

fn data_of(body: &EventBody) -> Option<Value> {
    #[derive(Deserialize)]
    struct Event {
        data: Value,
    }
    Some(match body.data() {
        Some(data) => serde_json::from_str(data).ok()?,
        None => serde_json::from_str::<Event>(body.as_json()).ok()?.data,
    })
}

fn id_at(data: &Value, place: &[&str]) -> Option<String> {
    let mut found = data;
    for member in place {
        found = found.get(member)?;
    }
    match found {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_keeps_its_patient_where_the_contract_says() {
        for (event_type, data, patient) in [
            ("patient.created", r#"{"patient":{"id":"p1"}}"#, Some("p1")),
            (
                "patient.emancipated",
                r#"{"patient":{"id":"p1","guardian_patient_id":"p2"}}"#,
                Some("p1"),
            ),
            (
                "treatment_plan.recommendation.updated",
                r#"{"treatment_plan":{"id":"t","patient":{"id":"p1"}}}"#,
                Some("p1"),
            ),
            (
                "treatment_plan.updated",
                r#"{"treatment_plan":{"id":"t"}}"#,
                None,
            ),
            (
                "order.placed",
                r#"{"id":"o","patient_id":"p1"}"#,
                Some("p1"),
            ),
            ("order.placed", r#"{"id":"o","patient_id":17}"#, Some("17")),
            ("order.placed", r#"{"id":"o","patient_id":null}"#, None),
            (
                "lab_order.updated",
                r#"{"lab_order":{"patient_id":"p1"}}"#,
                Some("p1"),
            ),
            ("product.updated", r#"{"patient":{"id":"p1"}}"#, None),
            ("patient.created", "[]", None),
        ] {
            let event_type = EventType::new(event_type).unwrap();
            let json = format!(r#"{{"id":"e","data":{data}}}"#);
            let found = patient_of(&event_type, &EventBody::from_json(json.clone()));
            assert_eq!(found.as_deref(), patient, "{event_type} {data}");
            let start = json.find(data).unwrap();
            let part = &json[start..start + data.len()];
            let whole = EventBody::from_parts(&json, Some(part));
            assert_eq!(patient_of(&event_type, &whole), found);
        }
    }

    #[test]
    fn what_an_event_happened_to_is_found_where_the_contract_says() {
        for (event_type, data, entity) in [
            ("patient.created", r#"{"patient":{"id":"p1"}}"#, Some("p1")),
            (
                "treatment_plan.updated",
                r#"{"treatment_plan":{"id":"t","patient":{"id":"p1"}}}"#,
                Some("t"),
            ),
            ("order.placed", r#"{"id":"o","patient_id":"p1"}"#, Some("o")),
            ("product.created", r#"{"id":17}"#, Some("17")),
            ("product.updated", r#"{"name":"x"}"#, None),
        ] {
            let body = EventBody::from_json(format!(r#"{{"data":{data}}}"#));
            let event_type = EventType::new(event_type).unwrap();
            assert_eq!(entity_of(&event_type, &body).as_deref(), entity, "{data}");
        }
    }
}
