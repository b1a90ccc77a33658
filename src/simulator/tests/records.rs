//! Patients and treatment plans, and the EMR's own ids of them.

use serde_json::{Value, json};

use super::*;

/// The ids of a plan that an event told of, and of its patient.
async fn plan(world: &World) -> (String, String) {
    let event = world.make("treatment_plan.created");
    let event = world.json(&format!("/events/{event}")).await;
    let plan = &event["event"]["data"]["treatment_plan"];
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    assert!(plan.get("metadata").is_none());
    (id(plan), id(&plan["patient"]))
}

#[tokio::test]
async fn the_plan_and_the_patient_of_an_event_can_be_read_and_have_no_id_of_an_emr() {
    let world = World::new().await;
    let (plan, patient) = plan(&world).await;
    let read = world.json(&format!("/clinic/treatment_plans/{plan}")).await;
    assert_eq!(read["treatment_plan"]["id"], plan);
    assert_eq!(read["treatment_plan"]["patient"]["id"], patient);
    assert_eq!(read["treatment_plan"]["metadata"]["id"], Value::Null);
    let read = world.json(&format!("/clinic/patients/{patient}")).await;
    assert_eq!(read["patient"]["id"], patient);
    assert_eq!(read["patient"]["archived"], false);
    assert_eq!(read["patient"]["metadata"]["id"], Value::Null);
    let counters = world.simulator.counters();
    assert_eq!((counters.patients, counters.treatment_plans), (1, 1));
}

#[tokio::test]
async fn an_id_of_an_emr_is_set_and_taken_away_from_within_and_over_http() {
    let world = World::with(|options| options.emr_ids = EmrIds::OfPatients).await;
    let (plan, patient) = plan(&world).await;
    let clinic = world.clinic.clinic_id.as_str();
    let of = async |path: String, key: &str| world.json(&path).await[key]["metadata"]["id"].take();
    let patient_path = || format!("/clinic/patients/{patient}");
    assert_eq!(
        of(patient_path(), "patient").await,
        format!("emr-{patient}")
    );
    let set = |kind, id: &str, emr_id| world.simulator.set_emr_id(clinic, kind, id, emr_id);
    set(RecordKind::Patient, &patient, None);
    assert_eq!(of(patient_path(), "patient").await, Value::Null);
    let url = format!("{}/emr-ids", world.simulator.control_url());
    let body =
        json!({ "clinic_id": clinic, "kind": "treatment_plan", "id": plan, "emr_id": "visit-7" });
    let set = world.client.post(url).json(&body).send().await.unwrap();
    assert_eq!(set.status(), 200);
    let plan_path = format!("/clinic/treatment_plans/{plan}");
    assert_eq!(of(plan_path, "treatment_plan").await, "visit-7");
}

#[tokio::test]
async fn records_need_their_scope_and_belong_to_their_clinic() {
    let world = World::new().await;
    let (plan, patient) = plan(&world).await;
    let status = async |path: String| world.get(&path).await.unwrap().status().as_u16();
    assert_eq!(status("/clinic/patients/nobody".to_owned()).await, 404);
    assert_eq!(status("/clinic/treatment_plans/none".to_owned()).await, 404);
    let elsewhere = world.simulator.add_clinic("south");
    let theirs = world
        .simulator
        .make_event(&elsewhere.clinic_id, "treatment_plan.created");
    let theirs = world.simulator.reply_for(&theirs.unwrap()).unwrap();
    let theirs: Value = serde_json::from_str(&theirs).unwrap();
    let theirs = &theirs["event"]["data"]["treatment_plan"];
    for (path, id) in [
        ("treatment_plans", &theirs["id"]),
        ("patients", &theirs["patient"]["id"]),
    ] {
        let id = id.as_str().unwrap();
        assert_eq!(status(format!("/clinic/{path}/{id}")).await, 404, "{path}");
    }
    for (scope, path) in [
        ("patients:read", format!("/clinic/patients/{patient}")),
        (
            "patients:treatment_plan_history",
            format!("/clinic/treatment_plans/{plan}"),
        ),
    ] {
        assert_eq!(status(path.clone()).await, 200);
        let others: Vec<&str> = ALL_SCOPES
            .iter()
            .copied()
            .filter(|has| *has != scope)
            .collect();
        world
            .simulator
            .set_grant_scopes(&world.clinic.clinic_id, &others);
        assert_eq!(status(path).await, 403, "{scope}");
        world
            .simulator
            .set_grant_scopes(&world.clinic.clinic_id, ALL_SCOPES);
    }
}
