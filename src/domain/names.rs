//! What an event is called: the names of the neighbouring systems that its type answers to (HealthChain), and the entity
//! and operation that a live subscription speaks of (iCure).
//!
//! All of it follows from the type alone, so that an event can be routed before it is fetched. A type that this program
//! has never heard of has names too: by its first word and by how it ends.

use std::fmt;

use serde_json::Value;

use super::EventType;

/// What happened to the entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// It is new.
    Create,
    /// It changed.
    Update,
    /// It is gone.
    Delete,
}

impl Operation {
    /// Every operation, in the order people read them.
    pub const ALL: [Self; 3] = [Self::Create, Self::Update, Self::Delete];

    /// The last part of a `fhir` name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// The word of a live subscription (`eventTypes`).
    pub fn as_event_type(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the first part of a type stands for.
struct Kind {
    segment: &'static str,
    entity: &'static str,
    /// The FHIR R4 resource; products and clinic keys have none.
    resource: Option<Resource>,
}

struct Resource {
    name: &'static str,
    /// Where in `data` its id stands (`fullscript-api.md` §2).
    id: &'static [&'static str],
}

const KINDS: [Kind; 6] = [
    Kind {
        segment: "patient",
        entity: "Patient",
        resource: Some(Resource {
            name: "Patient",
            id: &["patient", "id"],
        }),
    },
    Kind {
        segment: "treatment_plan",
        entity: "TreatmentPlan",
        resource: Some(Resource {
            name: "CarePlan",
            id: &["treatment_plan", "id"],
        }),
    },
    Kind {
        segment: "order",
        entity: "Order",
        // The order stands in `data` directly.
        resource: Some(Resource {
            name: "SupplyRequest",
            id: &["id"],
        }),
    },
    Kind {
        segment: "lab_order",
        entity: "LabOrder",
        resource: Some(Resource {
            name: "DiagnosticReport",
            id: &["lab_order", "id"],
        }),
    },
    Kind {
        segment: "product",
        entity: "Product",
        resource: None,
    },
    Kind {
        segment: "clinic_key",
        entity: "ClinicKey",
        resource: None,
    },
];

impl EventType {
    /// What happened: `created` and `placed` create, `deleted` and `revoked` delete, all else updates. A clinic's key comes
    /// to be by its activation.
    pub fn operation(&self) -> Operation {
        let text = self.as_str();
        if text == "clinic_key.activated" {
            return Operation::Create;
        }
        match text.rsplit('.').next() {
            Some("created" | "placed") => Operation::Create,
            Some("deleted" | "revoked") => Operation::Delete,
            Some(_) | None => Operation::Update,
        }
    }

    /// What it happened to, such as `TreatmentPlan`; of an unknown type, its first part in the same spelling.
    pub fn entity(&self) -> String {
        if let Some(kind) = self.kind() {
            return kind.entity.to_owned();
        }
        let words = self.segment().split('_').map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(char::to_uppercase);
            first.into_iter().flatten().chain(letters)
        });
        words.flatten().collect()
    }

    /// The FHIR R4 resource that it is about, if there is one.
    pub fn fhir_resource(&self) -> Option<&'static str> {
        Some(self.resource()?.name)
    }

    /// Fullscript's id of that resource, out of the JSON text of the event's `data`; `None` where `data` has it not.
    pub fn resource_id(&self, data: &str) -> Option<String> {
        let data: Value = serde_json::from_str(data).ok()?;
        let place = self.resource()?.id;
        let id = place
            .iter()
            .try_fold(&data, |inside, name| inside.get(name))?;
        id.as_str().map(str::to_owned)
    }

    /// Every name that it answers to, the most telling last: its type, `fullscript.<type>`, and where there is a FHIR
    /// resource `fhir.<resource>.<operation>` and `fhir.<operation>`.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec![self.as_str().to_owned(), format!("fullscript.{self}")];
        if let Some(resource) = self.fhir_resource() {
            let operation = self.operation();
            let resource = resource.to_ascii_lowercase();
            names.push(format!("fhir.{resource}.{operation}"));
            names.push(format!("fhir.{operation}"));
        }
        names
    }

    fn segment(&self) -> &str {
        self.as_str().split('.').next().unwrap_or_default()
    }

    fn resource(&self) -> Option<&'static Resource> {
        self.kind()?.resource.as_ref()
    }

    fn kind(&self) -> Option<&'static Kind> {
        let segment = self.segment();
        KINDS.iter().find(|kind| kind.segment == segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::KNOWN_CATEGORIES;

    fn of(text: &str) -> EventType {
        EventType::new(text).unwrap()
    }

    #[test]
    fn every_known_type_has_an_entity_and_an_operation() {
        let known = KNOWN_CATEGORIES
            .iter()
            .flat_map(|category| category.event_types)
            .map(|text| {
                let event_type = of(text);
                let (entity, operation) = (event_type.entity(), event_type.operation());
                format!("{text}: {entity} {}", operation.as_event_type())
            })
            .collect::<Vec<_>>();
        insta::assert_snapshot!(known.join("\n"), @r"
        patient.created: Patient CREATE
        patient.updated: Patient UPDATE
        patient.emancipated: Patient UPDATE
        treatment_plan.created: TreatmentPlan CREATE
        treatment_plan.updated: TreatmentPlan UPDATE
        treatment_plan.recommendation.updated: TreatmentPlan UPDATE
        order.placed: Order CREATE
        lab_order.updated: LabOrder UPDATE
        product.created: Product CREATE
        product.updated: Product UPDATE
        product.description.updated: Product UPDATE
        clinic_key.activated: ClinicKey CREATE
        clinic_key.revoked: ClinicKey DELETE
        ");
    }

    #[test]
    fn a_type_answers_to_the_names_of_healthchain() {
        assert_eq!(
            of("treatment_plan.recommendation.updated").names(),
            [
                "treatment_plan.recommendation.updated",
                "fullscript.treatment_plan.recommendation.updated",
                "fhir.careplan.update",
                "fhir.update",
            ]
        );
        assert_eq!(of("order.placed").names()[2], "fhir.supplyrequest.create");
        assert_eq!(
            of("clinic_key.revoked").names(),
            ["clinic_key.revoked", "fullscript.clinic_key.revoked"]
        );
        assert_eq!(of("product.created").fhir_resource(), None);
    }

    #[test]
    fn the_id_of_the_resource_is_where_the_contract_has_it() {
        for (event_type, data, id) in [
            ("patient.updated", r#"{"patient":{"id":"p"}}"#, Some("p")),
            (
                "treatment_plan.recommendation.updated",
                r#"{"treatment_plan":{"id":"t","patient":{"id":"p"}}}"#,
                Some("t"),
            ),
            ("order.placed", r#"{"id":"o","patient_id":"p"}"#, Some("o")),
            (
                "lab_order.updated",
                r#"{"lab_order":{"id":"l"}}"#,
                Some("l"),
            ),
            ("product.updated", r#"{"product":{"id":"x"}}"#, None),
            ("patient.updated", r#"{"patient":{"id":7}}"#, None),
            ("patient.updated", "{}", None),
            ("patient.updated", "[", None),
        ] {
            assert_eq!(of(event_type).resource_id(data).as_deref(), id, "{data}");
        }
    }

    #[test]
    fn an_unknown_type_is_named_by_its_first_word_and_its_end() {
        let merged = of("patient.merged");
        assert_eq!(merged.names()[2], "fhir.patient.update");
        assert_eq!(of("patient.deleted").operation(), Operation::Delete);
        assert_eq!(of("lab_result.created").entity(), "LabResult");
        assert_eq!(of("lab_result.created").operation(), Operation::Create);
        assert_eq!(of("lab_result.created").names().len(), 2);
        assert_eq!(of("_").entity(), "");
    }
}
