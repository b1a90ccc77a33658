//! The crosswalk against the simulated vendor: what is asked how often, and what is remembered.

use std::sync::Arc;
use std::time::Duration;

use fullscript_events::app;
use fullscript_events::clock::{Clock as _, ManualClock, SharedClock, SystemClock};
use fullscript_events::crosswalk::Crosswalk;
use fullscript_events::domain::{ClinicName, Subject};
use fullscript_events::simulator::{Endpoint, ErrorBody, Fault, FaultRule, Options, RecordKind};
use fullscript_events::sinks::{Crossed, Crosswalk as _};
use fullscript_events::store::Owner;
use serde_json::Value;

use crate::world::{Setup, World, own};

/// An open crosswalk of the clinic `oak`, which has one plan.
struct Open {
    world: World,
    clock: Arc<ManualClock>,
    owner: Owner,
    crosswalk: Crosswalk,
    plan: String,
    patient: String,
}

impl Open {
    async fn new() -> Self {
        let world = World::begin(Options::default(), Setup::default()).await;
        world.log_in().await;
        let oak = world.clinic("oak").clinic_id.clone();
        let event = world.vendor.make_event(&oak, "treatment_plan.created");
        let body = world.vendor.reply_for(&event.unwrap()).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let plan = &body["event"]["data"]["treatment_plan"];
        let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
        let (plan, patient) = (id(plan), id(&plan["patient"]));
        let config = world.config();
        let owner = own(&config);
        let clock = ManualClock::standing_at(SystemClock::start().now());
        let shared = Arc::clone(&clock) as SharedClock;
        let pipeline = app::open(&config, &owner, Arc::clone(&shared))
            .await
            .unwrap();
        let crosswalk = Crosswalk::new(Arc::clone(&pipeline.api), pipeline.ledger.clone(), shared);
        Self {
            world,
            clock,
            owner,
            crosswalk,
            plan,
            patient,
        }
    }

    fn set(&self, kind: RecordKind, id: &str, emr_id: Option<&str>) {
        let oak = &self.world.clinic("oak").clinic_id;
        self.world.vendor.set_emr_id(oak, kind, id, emr_id);
    }

    async fn ask(&self, subject: Subject) -> String {
        let oak = ClinicName::new("oak").unwrap();
        match self.crosswalk.hospitalization_id(&oak, subject).await {
            Crossed::Found(id) => id,
            Crossed::None => "none".to_owned(),
            Crossed::Unavailable(why) => format!("unavailable: {why}"),
        }
    }

    async fn of_plan(&self) -> String {
        self.ask(Subject::TreatmentPlan(self.plan.clone())).await
    }

    async fn of_patient(&self) -> String {
        self.ask(Subject::Patient(self.patient.clone())).await
    }

    /// How often plans and patients were asked about so far.
    fn asked(&self) -> (u64, u64) {
        let counters = self.world.vendor.counters();
        (counters.treatment_plans, counters.patients)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_is_asked_first_then_its_patient_and_both_once_a_day() {
    let open = Open::new().await;
    open.set(RecordKind::Patient, &open.patient, Some("visit-7"));
    for _ in 0..3 {
        assert_eq!(open.of_plan().await, "visit-7");
        assert_eq!(open.of_patient().await, "visit-7");
    }
    assert_eq!(open.asked(), (1, 1));
    // That the plan has none is believed for an hour only; what the patient has, for a day.
    open.set(RecordKind::TreatmentPlan, &open.plan, Some("visit-8"));
    open.clock.advance(Duration::from_mins(59));
    assert_eq!(open.of_plan().await, "visit-7");
    open.clock.advance(Duration::from_mins(1));
    assert_eq!(open.of_plan().await, "visit-8");
    assert_eq!(open.asked(), (2, 1));
    open.set(RecordKind::TreatmentPlan, &open.plan, None);
    open.clock.advance(Duration::from_hours(23));
    assert_eq!(open.of_plan().await, "visit-8");
    open.clock.advance(Duration::from_hours(1));
    assert_eq!(open.of_plan().await, "visit-7");
    assert_eq!(open.asked(), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_at_once_fullscript_is_asked_once() {
    let open = Open::new().await;
    open.set(RecordKind::Patient, &open.patient, Some("visit-7"));
    let answers = futures_util::future::join_all((0..20).map(|_| open.of_plan())).await;
    assert!(answers.iter().all(|answer| answer == "visit-7"));
    assert_eq!(open.asked(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn that_there_is_none_is_remembered_for_an_hour_and_listed_until_it_is_mended() {
    let open = Open::new().await;
    assert_eq!(
        open.ask(Subject::Patient("nobody".to_owned())).await,
        "none"
    );
    for _ in 0..3 {
        assert_eq!(open.of_plan().await, "none");
    }
    assert_eq!(open.asked(), (1, 2));
    assert_eq!(
        open.ask(Subject::TreatmentPlan("no-plan".to_owned())).await,
        "none"
    );
    let check = |more: &[&str]| {
        let args = [&["crosswalk", "check", "--json"][..], more].concat();
        let output = open.world.run(&args);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), json)
    };
    let (exit, listed) = check(&["--clinic", "oak"]);
    assert_eq!(exit, Some(3));
    let gap = |id: &str| {
        let gaps = listed["gaps"].as_array().unwrap();
        gaps.iter().find(|gap| gap["id"] == id).cloned()
    };
    assert_eq!(gap(&open.patient).unwrap()["plans"], 1);
    assert!(gap("nobody").is_some() && gap(&open.plan).is_none());
    // A plan that Fullscript does not know, as an order may name one, is nothing to mend while nothing waits for it.
    assert!(gap("no-plan").is_none());
    // The clinic adds it; a person does not wait for the hour.
    open.set(RecordKind::Patient, &open.patient, Some("visit-7"));
    assert_eq!(open.of_plan().await, "none");
    let (exit, refreshed) = check(&["--refresh"]);
    assert_eq!((exit, &refreshed["queued_again"]), (Some(0), &0.into()));
    assert_eq!(open.of_plan().await, "visit-7");
    let (_, listed) = check(&[]);
    assert_eq!(listed["gaps"].as_array().unwrap().len(), 1);
    let strange = open
        .world
        .run(&["crosswalk", "check", "--clinic", "nowhere"]);
    assert_eq!(strange.status.code(), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_scope_is_named_and_not_asked_for_again_at_once() {
    let open = Open::new().await;
    let oak = open.world.clinic("oak").clinic_id.clone();
    for (scopes, names) in [
        (
            vec!["clinic:read", "patients:treatment_plan_history"],
            "`patients:read`",
        ),
        (
            vec!["clinic:read", "patients:read"],
            "`patients:treatment_plan_history`",
        ),
    ] {
        open.world.vendor.set_grant_scopes(&oak, &scopes);
        open.clock.advance(Duration::from_hours(1));
        let before = open.asked();
        for _ in 0..3 {
            let answer = open.of_plan().await;
            assert!(
                answer.starts_with("unavailable: 403") && answer.contains(names),
                "{answer}"
            );
        }
        let asked = open.asked();
        assert_eq!(
            asked.0 + asked.1 - before.0 - before.1,
            if names.contains("plan") { 1 } else { 2 }
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_neither_none_nor_remembered() {
    let open = Open::new().await;
    open.set(RecordKind::Patient, &open.patient, Some("visit-7"));
    let outage = Fault::Status {
        status: 500,
        body: ErrorBody::Json,
    };
    for fault in [outage, Fault::MalformedJson, Fault::WrongId, Fault::CutOff] {
        open.world
            .vendor
            .fail(FaultRule::next(1, Endpoint::Patient, fault));
        let answer = open.of_patient().await;
        assert!(answer.starts_with("unavailable: "), "{fault:?}: {answer}");
    }
    assert_eq!(open.of_patient().await, "visit-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_the_emrs_lies_sealed_on_disk() {
    let open = Open::new().await;
    open.set(RecordKind::Patient, &open.patient, Some("visit-canary-7"));
    assert_eq!(open.of_plan().await, "visit-canary-7");
    drop(open.owner);
    for entry in std::fs::read_dir(open.world.state_path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(14).any(|window| window == b"visit-canary-7");
        assert!(!found, "{}", path.display());
    }
}
