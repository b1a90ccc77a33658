//! What is read of an event's `data`, and no more: whose it is, and what was recommended or ordered (`fullscript-api.md`
//! §2). What is not where the contract has it is not there; a new field of the vendor breaks nothing.

use serde_json::{Number, Value};

use super::NotAnEvent;
use crate::domain::{Parcel, Subject};
use crate::format::native;

/// The longest id of an EMR that is believed, in bytes.
const LONGEST_ID: usize = 255;

/// A recommendation of a plan, or a line of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Fullscript's id of the product's variant.
    pub variant: String,
    /// How many; 1 where the vendor says none.
    pub quantity: Number,
    /// How it is to be taken, in the vendor's words; empty where nothing is said.
    pub dosage: String,
}

/// What an event is about. Carries health data: no `Debug`.
#[derive(Default)]
pub struct Record {
    /// Fullscript's id of the object.
    pub id: Option<String>,
    /// The EMR's own id of it, where the vendor has put it in.
    pub external_id: Option<String>,
    /// The EMR's own id of the visit, where the event carries it: of a plan or a patient.
    pub visit: Option<String>,
    /// Fullscript's id of whoever has prescribed.
    pub practitioner: Option<String>,
    /// Whose visit it may belong to, the nearest first.
    pub subjects: Vec<Subject>,
    /// What was recommended or ordered; one for each variant.
    pub lines: Vec<Line>,
}

impl Record {
    /// Reads an event.
    pub fn of(parcel: &Parcel) -> Result<Self, NotAnEvent> {
        let data = native::data(&parcel.body)?;
        let data: Value = serde_json::from_str(data).map_err(|_: serde_json::Error| NotAnEvent)?;
        let kind = parcel.event_type.as_str().split('.').next();
        Ok(match kind.unwrap_or_default() {
            "patient" => patient(member(&data, "/patient")),
            "treatment_plan" => plan(member(&data, "/treatment_plan")),
            // These two stand in `data` directly.
            "order" => order(&data),
            "lab_order" => lab_order(member(&data, "/lab_order")),
            other => {
                let object = data.get(other).unwrap_or(&data);
                Self {
                    id: id(member(object, "/id")),
                    external_id: emr_id(member(object, "/metadata/id")),
                    ..Self::default()
                }
            }
        })
    }
}

fn patient(patient: &Value) -> Record {
    let id = id(member(patient, "/id"));
    Record {
        subjects: id.clone().map(Subject::Patient).into_iter().collect(),
        id,
        external_id: emr_id(member(patient, "/metadata/id")),
        visit: emr_id(member(patient, "/metadata/id")),
        ..Record::default()
    }
}

fn plan(plan: &Value) -> Record {
    let id = id(member(plan, "/id"));
    let of_plan = id.clone().map(Subject::TreatmentPlan);
    let of_patient = self::id(member(plan, "/patient/id")).map(Subject::Patient);
    let lines = members(member(plan, "/recommendations")).map(|said| {
        let dosage = member(said, "/dosage");
        line(said, member(said, "/units_to_purchase"), dosage_of(dosage))
    });
    Record {
        id,
        external_id: emr_id(member(plan, "/metadata/id")),
        visit: emr_id(member(plan, "/metadata/id")),
        practitioner: self::id(member(plan, "/practitioner/id")),
        subjects: of_plan.into_iter().chain(of_patient).collect(),
        lines: merged(lines.flatten()),
    }
}

fn order(order: &Value) -> Record {
    let plans = members(member(order, "/treatment_plan_ids")).filter_map(id);
    let plans = plans.map(Subject::TreatmentPlan);
    let of_patient = id(member(order, "/patient_id")).map(Subject::Patient);
    let lines = members(member(order, "/line_items"));
    let lines = lines.filter_map(|said| line(said, member(said, "/quantity"), String::new()));
    Record {
        id: id(member(order, "/id")),
        external_id: emr_id(member(order, "/metadata/id")),
        visit: None,
        practitioner: members(member(order, "/practitioner_ids")).find_map(id),
        subjects: plans.chain(of_patient).collect(),
        lines: merged(lines),
    }
}

fn lab_order(order: &Value) -> Record {
    Record {
        id: id(member(order, "/id")),
        external_id: emr_id(member(order, "/metadata/id")),
        visit: None,
        practitioner: id(member(order, "/practitioner_id")),
        subjects: id(member(order, "/patient_id"))
            .map(Subject::Patient)
            .into_iter()
            .collect(),
        lines: Vec::new(),
    }
}

/// The value at a place of the contract; null where there is none.
fn member<'v>(value: &'v Value, place: &str) -> &'v Value {
    value.pointer(place).unwrap_or(&Value::Null)
}

fn members(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Ids are opaque; one that is written as a number is taken too.
fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

/// An id of the EMR's: a text, or a number as one. What no EMR would take for an id is none: a visit of that name is
/// nowhere, and what is sent for it is lost in silence.
pub fn emr_id(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let is_id = !text.is_empty() && text.len() <= LONGEST_ID && !text.chars().any(char::is_control);
    is_id.then_some(text)
}

fn line(said: &Value, quantity: &Value, dosage: String) -> Option<Line> {
    Some(Line {
        variant: id(member(said, "/variant_id"))?,
        quantity: number(quantity).unwrap_or_else(|| Number::from(1)),
        dosage,
    })
}

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) => serde_json::from_str(text).ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `2 capsule twice per day`, of what is said.
fn dosage_of(dosage: &Value) -> String {
    let either = |known: &str| {
        let recommended = member(dosage, &format!("/recommended_{known}"));
        id(member(dosage, &format!("/{known}"))).or_else(|| id(recommended))
    };
    let parts = [
        either("amount"),
        id(member(dosage, "/format")),
        either("frequency"),
        either("duration"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// One line for each variant: two of the same would be one treatment that is entered twice.
fn merged(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    let mut merged: Vec<Line> = Vec::new();
    for line in lines {
        match merged
            .iter_mut()
            .find(|known| known.variant == line.variant)
        {
            Some(known) => known.quantity = sum(&known.quantity, &line.quantity),
            None => merged.push(line),
        }
    }
    merged
}

fn sum(a: &Number, b: &Number) -> Number {
    let whole = a.as_i64().zip(b.as_i64());
    let whole = whole.and_then(|(a, b)| a.checked_add(b)).map(Number::from);
    let broken = || Number::from_f64(a.as_f64()? + b.as_f64()?);
    whole.or_else(broken).unwrap_or_else(|| a.clone())
}

#[cfg(test)]
mod tests {
    use super::super::tests::parcel;
    use super::*;

    #[test]
    fn whose_it_is_and_what_is_in_it_is_read_where_the_contract_has_it() {
        let plan = parcel(
            "treatment_plan.created",
            r#"{"treatment_plan":{"id":"t-1","patient":{"id":5},"practitioner":{"id":"d-1"},"recommendations":[
               {"variant_id":"v-1","units_to_purchase":2,"dosage":{"recommended_amount":"2","format":"capsule","frequency":"daily"}},
               {"variant_id":"v-2","units_to_purchase":null},{"variant_id":"v-1","units_to_purchase":"1.5"},{"refill":true}]}}"#,
        );
        let plan = Record::of(&plan).unwrap();
        assert_eq!(
            plan.subjects,
            [
                Subject::TreatmentPlan("t-1".into()),
                Subject::Patient("5".into())
            ]
        );
        let lines = plan.lines.iter().map(|line| {
            (
                line.variant.as_str(),
                line.quantity.to_string(),
                line.dosage.as_str(),
            )
        });
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                ("v-1", "3.5".to_owned(), "2 capsule daily"),
                ("v-2", "1".to_owned(), "")
            ]
        );
        let order = parcel(
            "order.placed",
            r#"{"id":"o-1","treatment_plan_ids":["t-1","t-2"],"patient_id":"p-1","line_items":[{"variant_id":"v","quantity":2},{"variant_id":"v","quantity":3}]}"#,
        );
        let order = Record::of(&order).unwrap();
        assert_eq!(order.subjects.len(), 3);
        assert_eq!(order.lines[0].quantity.to_string(), "5");
        let labs = parcel(
            "lab_order.updated",
            r#"{"lab_order":{"id":"l","patient_id":"p"}}"#,
        );
        assert_eq!(
            Record::of(&labs).unwrap().subjects,
            [Subject::Patient("p".into())]
        );
        let product = parcel("product.created", r#"{"name":"x","variants":[]}"#);
        let product = Record::of(&product).unwrap();
        assert!(product.id.is_none() && product.subjects.is_empty());
    }

    #[test]
    fn what_is_said_otherwise_is_not_there_and_breaks_nothing() {
        for data in ["null", "[]", "7", r#"{"treatment_plan":[],"patient":"x"}"#] {
            for event_type in [
                "patient.created",
                "treatment_plan.created",
                "order.placed",
                "x",
            ] {
                let record = Record::of(&parcel(event_type, data)).unwrap();
                assert!(record.lines.is_empty() && record.subjects.is_empty());
            }
        }
    }
}
