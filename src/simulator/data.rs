//! The bodies of events, in the shapes of `fullscript-api.md` §2, made from the seed and the event's index: the same
//! event has the same bytes at every retrieve. Nobody in them exists.

use chrono::{DateTime, FixedOffset, TimeDelta};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::events::created_at;
use super::seeded::Seeded;

/// What a body is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) seed: u64,
    pub(super) index: u32,
    pub(super) id: &'a str,
    pub(super) event_type: &'a str,
    pub(super) created: i64,
    pub(super) clinic_id: Option<&'a str>,
    /// How many patients its clinic has.
    pub(super) patients: u32,
}

/// An event as lists show it.
#[derive(Serialize)]
pub(super) struct Reference<'a> {
    pub(super) id: &'a str,
    #[serde(rename = "type")]
    pub(super) event_type: &'a str,
    pub(super) created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clinic_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(flatten)]
    reference: Reference<'a>,
    data: Value,
}

#[derive(Serialize)]
struct Reply<'a> {
    event: Event<'a>,
}

/// The whole reply of a retrieve.
pub(super) fn reply(facts: &Facts<'_>) -> String {
    let event = Event {
        reference: Reference {
            id: facts.id,
            event_type: facts.event_type,
            created_at: created_at(facts.created),
            clinic_id: facts.clinic_id,
        },
        data: data(facts),
    };
    serde_json::to_string(&Reply { event }).unwrap_or_default()
}

const FIRST: &[&str] = &[
    "Ada", "Bo", "Chloë", "Dmitri", "Efua", "Fay", "Grace", "Hiro",
];
const LAST: &[&str] = &[
    "Example",
    "Sample",
    "Tester",
    "Placeholder",
    "O'Mock",
    "von Probe",
];
const PRODUCTS: &[&str] = &[
    "Vitamin D3 1000 IU",
    "Magnesium Glycinate",
    "Omega-3",
    "Zinc Picolinate",
    "Ashwagandha",
];
const BRANDS: &[&str] = &["Sample Labs", "Example Naturals", "Placeholder Health"];

fn data(facts: &Facts<'_>) -> Value {
    let mut random = Seeded::new(facts.seed, u64::from(facts.index));
    let mut data = match facts.event_type {
        "patient.created" | "patient.updated" => {
            json!({ "patient": patient(facts, &mut random) })
        }
        "patient.emancipated" => {
            let mut patient = patient(facts, &mut random);
            patient.insert("is_dependent".to_owned(), json!(false));
            patient.insert("guardian_patient_id".to_owned(), json!(random.uuid()));
            json!({ "patient": patient })
        }
        "order.placed" => order(facts, &mut random),
        "lab_order.updated" => json!({ "lab_order": lab_order(facts, &mut random) }),
        "product.created" => product(&mut random),
        other if other.starts_with("treatment_plan.") => {
            json!({ "treatment_plan": treatment_plan(facts, &mut random) })
        }
        other if other.starts_with("product.") => json!({ "product": product(&mut random) }),
        other => {
            let key = other.split('.').next().unwrap_or(other);
            json!({ key: { "id": random.uuid() } })
        }
    };
    // New keys are declared non-breaking: some events have one.
    if let (0, Value::Object(object)) = (random.below(8), &mut data) {
        object.insert(
            "added_later".to_owned(),
            json!({ "note": "a key that is documented nowhere" }),
        );
    }
    data
}

/// One of the clinic's patients.
fn patient_id(facts: &Facts<'_>, random: &mut Seeded) -> String {
    let number = random.below(u64::from(facts.patients));
    numbered(facts.seed, facts.clinic_id.unwrap_or_default(), number).uuid()
}

/// What a clinic's patient is made of: first its id.
fn numbered(seed: u64, clinic_id: &str, number: u64) -> Seeded {
    let of_clinic = clinic_id.bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    Seeded::new(seed ^ of_clinic, number)
}

/// The clinic's patient of this id, as the REST interface shows one, but for `metadata`.
pub(super) fn patient_of(seed: u64, clinic_id: &str, patients: u32, id: &str) -> Option<Value> {
    let mut all = (0..u64::from(patients)).map(|number| numbered(seed, clinic_id, number));
    let mut random = all.find_map(|mut random| (random.uuid() == id).then_some(random))?;
    let mut patient = facts_of(id, &mut random);
    patient.insert("archived".to_owned(), json!(false));
    Some(Value::Object(patient))
}

fn patient(facts: &Facts<'_>, random: &mut Seeded) -> Map<String, Value> {
    let id = patient_id(facts, random);
    facts_of(&id, random)
}

/// A patient as events show one: without `archived` and `metadata`, which only the REST interface has.
fn facts_of(id: &str, random: &mut Seeded) -> Map<String, Value> {
    let (first, last) = (random.pick(FIRST), random.pick(LAST));
    let born = match random.below(4) {
        0 => Value::Null,
        n => json!(format!(
            "19{}-0{}-1{}",
            50 + random.below(50),
            1 + random.below(9),
            n
        )),
    };
    let gender = match random.below(4) {
        0 => Value::Null,
        1 => json!("male"),
        2 => json!("female"),
        _ => json!("x"),
    };
    let patient = json!({
        "id": id,
        "first_name": first,
        "last_name": last,
        "email": format!("patient{}@example.test", random.below(100_000)),
        "date_of_birth": born,
        "gender": gender,
        "discount": random.below(30),
        "total_discount": random.below(35),
        "mobile_number": if random.below(2) == 0 { Value::Null } else { json!("+15555550100") },
        "text_message_notification": random.below(2) == 0,
    });
    match patient {
        Value::Object(object) => object,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

fn treatment_plan(facts: &Facts<'_>, random: &mut Seeded) -> Value {
    let recommendations: Vec<Value> = (0..=random.below(3))
        .map(|_| {
            json!({
                "variant_id": random.uuid(),
                "refill": random.below(2) == 0,
                "units_to_purchase": 1 + random.below(3),
                "take_with": "water",
                "dosage": {
                    "recommended_amount": (1 + random.below(3)).to_string(),
                    "recommended_frequency": "twice per day",
                    "recommended_duration": "1 month",
                    "format": "capsule",
                    "additional_info": "with food",
                    "time_of_day": ["morning", "evening"],
                },
            })
        })
        .collect();
    let mut plan = json!({
        "id": random.uuid(),
        "available_at": created_at(facts.created),
        "patient": { "id": patient_id(facts, random) },
        "practitioner": { "id": random.uuid() },
        "recommendations": recommendations,
        "resources": [],
    });
    if let Value::Object(plan) = &mut plan {
        // Which of the two it is depends on the app's patch version.
        if random.below(2) == 0 {
            plan.insert("state".to_owned(), json!("active"));
        } else {
            plan.insert("active".to_owned(), json!("true"));
        }
        if random.below(3) == 0 {
            plan.insert(
                "lab_recommendations".to_owned(),
                json!([{
                    "id": random.uuid(),
                    "name": "Comprehensive panel",
                    "requires_fasting": true,
                    "instructions": "fast for 12 hours",
                    "tests": [{ "id": random.uuid(), "name": "Ferritin" }],
                }]),
            );
        }
    }
    plan
}

fn order(facts: &Facts<'_>, random: &mut Seeded) -> Value {
    let lines: Vec<Value> = (0..=random.below(3))
        .map(|_| {
            json!({
                "variant_id": random.uuid(),
                "quantity": 1 + random.below(4),
                "type": random.pick(&["supplement", "supplement", "labs"]),
            })
        })
        .collect();
    let local = FixedOffset::west_opt(5 * 3600).and_then(|offset| {
        let at = DateTime::from_timestamp(facts.created, 0)? - TimeDelta::seconds(2);
        Some(at.with_timezone(&offset).to_rfc3339())
    });
    json!({
        "id": random.uuid(),
        "order_number": format!("R{:09}", random.below(1_000_000_000)),
        "completed_at": local,
        "treatment_plan_ids": [random.uuid()],
        "practitioner_ids": [random.uuid()],
        "patient_id": patient_id(facts, random),
        "line_items": lines,
    })
}

fn lab_order(facts: &Facts<'_>, random: &mut Seeded) -> Value {
    json!({
        "id": random.uuid(),
        "practitioner_id": random.uuid(),
        "patient_id": patient_id(facts, random),
        "first_name": random.pick(FIRST),
        "last_name": random.pick(LAST),
        "email": format!("patient{}@example.test", random.below(100_000)),
        "status": random.pick(&["results_received", "all_results_received", "results_amended"]),
    })
}

fn product(random: &mut Seeded) -> Value {
    json!({
        "name": random.pick(PRODUCTS),
        "description_html": "<p>A product that does not exist.</p>",
        "dosage": { "recommended_amount": "1", "recommended_frequency": "daily", "format": "capsule" },
        "brand": { "id": random.uuid(), "name": random.pick(BRANDS), "prefix": "SIM" },
        "variants": [{
            "id": random.uuid(),
            "sku": format!("SIM{:05}", random.below(100_000)),
            "primary": true,
            "units": 60,
            "unit_of_measure": "capsules",
            "availability": "in_stock",
            "status": "active",
            "upc": format!("{:012}", random.below(1_000_000_000_000)),
            "msrp": format!("{}.{:02}", 10 + random.below(60), random.below(100)),
            "supplier_sku": format!("S-{}", random.below(10_000)),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(event_type: &str) -> Value {
        let facts = Facts {
            seed: 1,
            index: 5,
            id: "some-id",
            event_type,
            created: 1_767_225_600,
            clinic_id: (event_type != "product.created").then_some("some-clinic"),
            patients: 3,
        };
        assert_eq!(reply(&facts), reply(&facts));
        serde_json::from_str(&reply(&facts)).unwrap()
    }

    #[test]
    fn orders_and_new_products_are_not_wrapped_and_new_products_name_no_clinic() {
        let order = body("order.placed");
        assert!(order["event"]["data"]["line_items"].is_array());
        assert!(
            order["event"]["data"]["completed_at"]
                .as_str()
                .unwrap()
                .ends_with("-05:00")
        );
        let product = body("product.created");
        assert!(product["event"]["data"]["variants"].is_array());
        assert!(product["event"].get("clinic_id").is_none());
        assert!(body("product.updated")["event"]["data"]["product"]["variants"].is_array());
        assert_eq!(
            body("patient.created")["event"]["created_at"],
            "2026-01-01T00:00:00.000Z"
        );
    }
}
