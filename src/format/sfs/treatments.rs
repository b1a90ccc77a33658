//! A treatment for each recommendation or line: what an EMR may order and bill by.
//!
//! `removed` and `not_changed` are never said. A plan that is updated may list only what has changed (the vendor's contract
//! does not say), so what it does not list cannot be told from what is gone.

use serde::Serialize;
use serde_json::Number;

use super::{NotAnEvent, Record, time};
use crate::domain::Parcel;

/// What the EMR is told of an earlier message about the same treatment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// There was none: a second one would be entered a second time.
    Added,
    /// There may have been one: it is made to be as this one says.
    Changed,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the receiver's names")]
struct Medic {
    object_type: &'static str,
    medic_id: String,
    name: String,
    medic_type: &'static str,
}

/// A treatment. Carries health data: no `Debug`.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Treatment {
    object_type: &'static str,
    inventory_id: Option<String>,
    name: String,
    hospitalization_id: String,
    /// What the EMR finds it by: `<plan or order id>:<variant id>`.
    pub treatment_guid: String,
    time: String,
    /// Whether it was told before.
    pub status: Status,
    qty: Number,
    volume: (),
    units: (),
    value: String,
    doctor_name: String,
    doctor: Option<Medic>,
    r#type: u8,
    /// Whether the EMR may bill it. Never another than at the first time.
    pub billed: bool,
    async_operation_status: i32,
    async_operation_message: (),
}

/// The treatments of an event, each as if it were the first message about it. None where nothing was recommended or
/// ordered.
pub fn treatments(
    parcel: &Parcel,
    hospitalization: &str,
    billed: bool,
) -> Result<Vec<Treatment>, NotAnEvent> {
    let record = Record::of(parcel)?;
    let Some(id) = record.id else {
        return Ok(Vec::new());
    };
    let doctor = record.practitioner.map(|id| Medic {
        object_type: "medic",
        medic_id: id,
        // No event names a practitioner.
        name: String::new(),
        medic_type: "doctor",
    });
    let treatments = record.lines.into_iter().map(|line| Treatment {
        object_type: "treatment",
        treatment_guid: format!("{id}:{}", line.variant),
        name: format!("Fullscript {}", line.variant),
        inventory_id: Some(line.variant),
        hospitalization_id: hospitalization.to_owned(),
        time: time(parcel.created_at),
        status: Status::Added,
        qty: line.quantity,
        volume: (),
        units: (),
        value: line.dosage,
        doctor_name: String::new(),
        doctor: doctor.clone(),
        r#type: 2,
        billed,
        async_operation_status: 0,
        async_operation_message: (),
    });
    Ok(treatments.collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parcel, posted};
    use super::super::{Several, TREATMENTS};
    use super::*;

    #[test]
    fn each_recommendation_is_one_treatment_that_is_found_by_its_guid() {
        let plan = parcel(
            "treatment_plan.created",
            r#"{"treatment_plan":{"id":"t-1","practitioner":{"id":"d-1"},"recommendations":[{"variant_id":"v-1","units_to_purchase":2,"dosage":{"amount":1,"format":"capsule"}},{"variant_id":"v-2"}]}}"#,
        );
        let mut entered = treatments(&plan, "h-1", false).unwrap();
        assert_eq!(entered.len(), 2);
        entered[1].status = Status::Changed;
        let several = Several {
            object_type: "treatments",
            id: "b-1",
            items: &entered,
        };
        assert_eq!(
            posted(TREATMENTS, &several),
            concat!(
                r#"{"clinicApiKey":"k\"1","eventType":"treatments.records_entered","object":{"objectType":"treatments","id":"b-1","treatments":["#,
                r#"{"objectType":"treatment","inventoryId":"v-1","name":"Fullscript v-1","hospitalizationId":"h-1","treatmentGuid":"t-1:v-1","time":"2026-03-02T14:05:09.250+00:00","status":"added","qty":2,"volume":null,"units":null,"value":"1 capsule","doctorName":"","doctor":{"objectType":"medic","medicId":"d-1","name":"","medicType":"doctor"},"type":2,"billed":false,"asyncOperationStatus":0,"asyncOperationMessage":null},"#,
                r#"{"objectType":"treatment","inventoryId":"v-2","name":"Fullscript v-2","hospitalizationId":"h-1","treatmentGuid":"t-1:v-2","time":"2026-03-02T14:05:09.250+00:00","status":"changed","qty":1,"volume":null,"units":null,"value":"","doctorName":"","doctor":{"objectType":"medic","medicId":"d-1","name":"","medicType":"doctor"},"type":2,"billed":false,"asyncOperationStatus":0,"asyncOperationMessage":null}]}}"#
            )
        );
    }

    #[test]
    fn an_event_without_recommendations_has_nothing_to_enter() {
        for (event_type, data) in [
            (
                "treatment_plan.updated",
                r#"{"treatment_plan":{"id":"t-1"}}"#,
            ),
            ("patient.updated", r#"{"patient":{"id":"p-1"}}"#),
            ("order.placed", r#"{"line_items":[{"variant_id":"v"}]}"#),
        ] {
            let entered = treatments(&parcel(event_type, data), "h-1", false).unwrap();
            assert!(entered.is_empty());
        }
    }
}
