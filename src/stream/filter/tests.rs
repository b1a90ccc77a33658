use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::{ClinicName, EventType};

/// Stands for the keyed one.
fn digest(id: &str) -> String {
    format!("digest of {id}")
}

fn frame(event_type: &str, clinic: &str, patient: Option<&str>, at: i64) -> Facts {
    let event_type = EventType::new(event_type).unwrap();
    Facts {
        event: format!("event-{at}"),
        operation: event_type.operation(),
        entity_class: event_type.entity(),
        names: event_type.names(),
        event_type,
        clinic: ClinicName::new(clinic).unwrap(),
        clinic_id: Some(format!("id-of-{clinic}")),
        patient: patient.map(digest),
        entity: patient.map(|_| digest("entity")),
        created_at: DateTime::from_timestamp(at, 0).unwrap(),
    }
}

fn parse(value: &Value) -> Result<Filter, Refusal> {
    Filter::parse(value, 8)?.granted(Phi::Full, &digest)
}

#[test]
fn who_may_see_ids_only_cannot_ask_whom_an_event_concerns() {
    let asked = |value: &Value| Filter::parse(value, 8).unwrap().granted(Phi::Ids, &digest);
    let by_patient = json!({"$type":"ByPatientFilter","patients":["p1"]});
    let all = json!({"$type":"ByNameFilter","pattern":"*"});
    for filter in [
        by_patient.clone(),
        json!({"$type":"UnionFilter","filters":[all, by_patient]}),
        json!({"$type":"IntersectionFilter","filters":[by_patient]}),
        json!({"$type":"ComplementFilter","superSet":all,"subSet":by_patient}),
        json!({"$type":"ComplementFilter","superSet":by_patient,"subSet":all}),
    ] {
        assert!(
            matches!(asked(&filter), Err(Refusal::Forbidden(_))),
            "{filter}"
        );
    }
    let plan = frame("treatment_plan.updated", "oak", Some("p1"), 100);
    let by_ids = |id: &str| json!({"$type":"ByIdsFilter","ids":[id]});
    assert!(asked(&by_ids("event-100")).unwrap().wants(&plan));
    assert!(parse(&by_ids("entity")).unwrap().wants(&plan));
    assert!(!asked(&by_ids("entity")).unwrap().wants(&plan));
    let nested = json!({"$type":"UnionFilter","filters":[by_ids("entity")]});
    assert!(!asked(&nested).unwrap().wants(&plan));
}

#[test]
fn a_pattern_is_only_so_long() {
    let of = |length: usize| json!({"$type":"ByNameFilter","pattern":"[".repeat(length)});
    assert!(parse(&of(256)).is_ok());
    assert!(matches!(parse(&of(257)), Err(Refusal::Malformed(_))));
}

#[test]
fn each_filter_wants_what_it_names() {
    let plan = frame("treatment_plan.updated", "oak", Some("p1"), 100);
    for (filter, wanted) in [
        (json!({"$type":"ByIdsFilter","ids":["x","event-100"]}), true),
        (json!({"$type":"ByIdsFilter","ids":["entity"]}), true),
        (json!({"$type":"ByIdsFilter","ids":["p1"]}), false),
        (json!({"$type":"ByClinicFilter","clinics":["oak"]}), true),
        (
            json!({"$type":"ByClinicFilter","clinics":["id-of-oak"]}),
            true,
        ),
        (json!({"$type":"ByClinicFilter","clinics":["elm"]}), false),
        (
            json!({"$type":"ByPatientFilter","patients":["p2","p1"]}),
            true,
        ),
        (json!({"$type":"ByPatientFilter","patients":["p2"]}), false),
        (
            json!({"$type":"ByNameFilter","pattern":"treatment_plan.*"}),
            true,
        ),
        (
            json!({"$type":"ByNameFilter","pattern":"fhir.careplan.update"}),
            true,
        ),
        (
            json!({"$type":"ByNameFilter","pattern":"fullscript.order.*"}),
            false,
        ),
        (
            json!({"$type":"CreatedBetweenFilter","from":"1970-01-01T00:01:40Z"}),
            true,
        ),
        (
            json!({"$type":"CreatedBetweenFilter","from":"1970-01-01T01:01:40+01:00"}),
            true,
        ),
        (
            json!({"$type":"CreatedBetweenFilter","to":"1970-01-01T00:01:40Z"}),
            false,
        ),
        (
            json!({"$type":"CreatedBetweenFilter","from":"1970-01-01T00:01:41Z"}),
            false,
        ),
        (
            json!({"$type":"org.example.ByNameFilter","pattern":"*"}),
            true,
        ),
        (
            json!({"filter":{"$type":"ByNameFilter","pattern":"*"}}),
            true,
        ),
        (
            json!({"filter":{"$type":"ByNameFilter","pattern":"*"},"predicate":null}),
            true,
        ),
    ] {
        assert_eq!(parse(&filter).unwrap().wants(&plan), wanted, "{filter}");
    }
    // An event of no patient is of none.
    let product = frame("product.created", "oak", None, 100);
    let of_patient = json!({"$type":"ByPatientFilter","patients":["p1"]});
    assert!(!parse(&of_patient).unwrap().wants(&product));
}

#[test]
fn what_is_not_understood_is_refused_and_never_taken_for_everything() {
    for filter in [
        json!(null),
        json!("*"),
        json!({}),
        json!({"$type":"PatientByHcPartyFilter"}),
        json!({"$type":"ByIdsFilter"}),
        json!({"$type":"ByIdsFilter","ids":[]}),
        json!({"$type":"ByIdsFilter","ids":[7]}),
        json!({"$type":"ByIdsFilter","ids":["a"],"hcpartyId":"b"}),
        json!({"$type":"ByNameFilter","pattern":""}),
        json!({"$type":"ByNameFilter","pattern":"!order.*"}),
        json!({"$type":"CreatedBetweenFilter"}),
        json!({"$type":"CreatedBetweenFilter","from":"yesterday"}),
        json!({"$type":"CreatedBetweenFilter","from":7}),
        json!({"$type":"UnionFilter","filters":[]}),
        json!({"$type":"UnionFilter","filters":[{}]}),
        json!({"$type":"ComplementFilter","superSet":{"$type":"ByNameFilter","pattern":"*"}}),
        json!({"filter":{"$type":"ByNameFilter","pattern":"*"},"predicate":{"$type":"x"}}),
        json!({"filter":{"filter":{"$type":"ByNameFilter","pattern":"*"}}}),
    ] {
        assert!(
            matches!(parse(&filter), Err(Refusal::Malformed(_))),
            "{filter}"
        );
    }
}

#[test]
fn a_filter_has_so_many_nodes_and_no_more() {
    let leaf = json!({"$type":"ByNameFilter","pattern":"*"});
    let of = |count: usize| json!({"$type":"UnionFilter","filters": vec![leaf.clone(); count]});
    assert!(parse(&of(7)).is_ok());
    assert!(parse(&of(8)).is_err());
    let mut deep = leaf.clone();
    for _ in 0..4 {
        deep = json!({"$type":"ComplementFilter","superSet":deep,"subSet":leaf});
    }
    assert!(parse(&deep).is_err());
}

#[test]
fn the_clinics_of_a_filter_are_found_wherever_they_stand() {
    let clinic = |name: &str| json!({"$type":"ByClinicFilter","clinics":[name]});
    let filter = parse(&json!({"$type":"UnionFilter","filters":[
        {"$type":"ComplementFilter","superSet":clinic("a"),"subSet":clinic("b")},
        {"$type":"IntersectionFilter","filters":[clinic("c")]},
    ]}));
    assert_eq!(filter.unwrap().clinics(), ["a", "b", "c"]);
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let leaf = prop_oneof![
        Just(Filter::All),
        "[ab]".prop_map(|clinic| Filter::Clinics([clinic].into())),
        "[pq]".prop_map(|patient| Filter::Patients([digest(&patient)].into())),
        "(order|patient)[.][*]".prop_map(|text| Filter::Name(Pattern::new(&text).unwrap())),
        (0..4_i64, 0..4_i64).prop_map(|(from, to)| Filter::Created {
            from: DateTime::from_timestamp(from, 0),
            to: DateTime::from_timestamp(to, 0),
        }),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::Union),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::Intersection),
            (inner.clone(), inner).prop_map(|(a, b)| Filter::Complement(a.into(), b.into())),
        ]
    })
}

fn any_frame() -> impl Strategy<Value = Facts> {
    let types = prop_oneof![Just("order.placed"), Just("patient.created")];
    let patients = prop::option::of("[pq]");
    (types, "[ab]", patients, 0..4_i64).prop_map(|(event_type, clinic, patient, at)| {
        frame(event_type, &clinic, patient.as_deref(), at)
    })
}

proptest! {
    #[test]
    fn the_combinators_obey_the_laws_of_sets(
        a in any_filter(), b in any_filter(), c in any_filter(), x in any_frame()
    ) {
        let union = |a: &Filter, b: &Filter| Filter::Union(vec![a.clone(), b.clone()]);
        let both = |a: &Filter, b: &Filter| Filter::Intersection(vec![a.clone(), b.clone()]);
        let but = |a: &Filter, b: &Filter| Filter::Complement(a.clone().into(), b.clone().into());
        let not = |a: &Filter| but(&Filter::All, a);
        let same = |left: Filter, right: Filter| left.wants(&x) == right.wants(&x);
        prop_assert!(same(union(&a, &b), union(&b, &a)));
        prop_assert!(same(both(&a, &b), both(&b, &a)));
        prop_assert!(same(both(&a, &union(&b, &c)), union(&both(&a, &b), &both(&a, &c))));
        prop_assert!(same(not(&union(&a, &b)), both(&not(&a), &not(&b))));
        prop_assert!(same(not(&both(&a, &b)), union(&not(&a), &not(&b))));
        prop_assert!(same(not(&not(&a)), a.clone()));
        prop_assert!(same(but(&a, &b), both(&a, &not(&b))));
        prop_assert!(!but(&a, &a).wants(&x));
        prop_assert!(same(union(&a, &not(&a)), Filter::All));
    }

    #[test]
    fn no_json_breaks_the_reader(text in "\\PC{0,40}", key in "\\PC{0,8}") {
        for value in [
            json!(text),
            json!({ "$type": text.as_str() }),
            json!({ "$type": "ByNameFilter", "pattern": text.as_str() }),
            json!({ key: text, "$type": "UnionFilter" }),
        ] {
            drop(parse(&value));
        }
    }
}
