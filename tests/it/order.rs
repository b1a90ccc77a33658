//! The order that a sink asks for: of a clinic or a patient one event is on its way at a time, as they happened, and
//! one that fails holds back its own successors only, for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fullscript_events::domain::DeliveryState;
use fullscript_events::simulator::{Endpoint, ErrorBody, Fault, FaultRule, Options};
use serde_json::Value;

use crate::receiver::{Answer, Receiver};
use crate::stepped::{DAY, HOUR, MINUTE, Stepped, polling, two_clinics};
use crate::world::Setup;

const CATEGORIES: [&str; 4] = ["patients", "treatment_plans", "orders", "lab_orders"];
const TYPES: [&str; 4] = [
    "patient.updated",
    "treatment_plan.updated",
    "order.placed",
    "lab_order.updated",
];

fn setup(sinks: String) -> Setup {
    Setup {
        more: sinks,
        ..two_clinics(polling(&CATEGORIES, "first_run = \"30d\""))
    }
}

async fn begin(patients: u32, sinks: String) -> Stepped {
    let options = Options {
        patients,
        ..Options::default()
    };
    Stepped::begin_with(options, setup(sinks)).await
}

/// Whose event it is, and when it happened.
fn patient_and_time(body: &[u8]) -> (String, String, String) {
    let event: Value = serde_json::from_slice::<Value>(body).unwrap()["event"].take();
    let data = &event["data"];
    let places = [
        "/patient/id",
        "/treatment_plan/patient/id",
        "/patient_id",
        "/lab_order/patient_id",
    ];
    let patient = places.iter().find_map(|place| data.pointer(place)).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(patient),
        text(&event["created_at"]),
        text(&event["id"]),
    )
}

/// Asserts that what arrived is in order for each patient, and gives how many patients there were.
fn assert_in_order(hook: &Receiver) -> usize {
    let mut seen = BTreeSet::new();
    let mut lines: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for got in hook.got() {
        let (patient, at, id) = patient_and_time(&got.body);
        if seen.insert(id.clone()) {
            lines.entry(patient).or_default().push((at, id));
        }
    }
    for (patient, line) in &lines {
        assert!(line.is_sorted(), "{patient}: {line:?}");
    }
    lines.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_patients_events_arrive_in_order_however_the_receiver_fails() {
    let hook = Receiver::start(Answer::Status(200)).await;
    let sink = hook.sink("order_by = \"patient\"\nconcurrency = 8\nmax_attempts = 1000");
    let world = begin(5, sink).await;
    let mut made = 0;
    for round in 0..24 {
        hook.answers(Answer::Status([200, 500, 504, 429, 200, 503][round % 6]));
        for event_type in TYPES {
            for clinic in ["oak", "elm"] {
                world.make(clinic, event_type);
                made += 1;
            }
        }
        if round % 5 == 0 {
            // Of some the detail is late: whose they are is not known before.
            let rule = FaultRule::next(
                3,
                Endpoint::Retrieve,
                Fault::Status {
                    status: 500,
                    body: ErrorBody::Html,
                },
            );
            world.vendor.fail(rule);
        }
        world.pass_after(Duration::from_secs(90)).await;
        assert_in_order(&hook);
    }
    hook.answers(Answer::Status(200));
    for _ in 0..6 {
        world.pass_after(HOUR).await;
    }
    assert_eq!(assert_in_order(&hook), 10);
    let sink = world.sink("hook").await;
    assert_eq!(sink.count(DeliveryState::Done), made);
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_is_on_its_way_of_each_clinic() {
    let hook = Receiver::start(Answer::Hang).await;
    let world = begin(5, hook.sink("order_by = \"clinic\"\nconcurrency = 8")).await;
    for clinic in ["oak", "elm"] {
        let id = world.id_of(clinic);
        world.vendor.make_events(5, id, "patient.created");
    }
    world
        .pass_until(
            "both clinics' first events are on their way",
            async |query| {
                if hook.got().len() < 2 || world.shown().len() < 10 {
                    return false;
                }
                let sinks = query.sinks().await.unwrap();
                let hanging = sinks.iter().find(|sink| sink.name == "hook").unwrap();
                assert_eq!(hanging.count(DeliveryState::Claimed), 2);
                hook.answers(Answer::Status(200));
                true
            },
        )
        .await;
    world.pass().await;
    let mut of_clinic: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for got in hook.got() {
        let event: Value = serde_json::from_slice(&got.body).unwrap();
        let text = |name: &str| event["event"][name].as_str().unwrap().to_owned();
        of_clinic
            .entry(text("clinic_id"))
            .or_default()
            .push(text("id"));
    }
    assert_eq!(of_clinic.len(), 2);
    for line in of_clinic.values() {
        assert_eq!(line.len(), 5);
        assert!(line.is_sorted(), "they tie on the second: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_holds_back_its_own_patient_for_an_hour_and_is_set_aside() {
    let hook = Receiver::start(Answer::Status(200)).await;
    let sink = hook.sink("order_by = \"patient\"\nmax_attempts = 1000\ntimeout = \"30s\"");
    let world = begin(1, sink).await;
    let poison = world.make("oak", "patient.created");
    hook.refuses(&poison);
    world.pass_after(MINUTE).await;
    let behind: Vec<String> = (0..3)
        .map(|_| world.make("oak", "patient.updated"))
        .collect();
    let other = world.make("elm", "patient.created");
    world.pass_after(50 * MINUTE).await;
    let arrived = || -> BTreeSet<String> { hook.got().into_iter().map(|got| got.event).collect() };
    assert_eq!(arrived(), BTreeSet::from([poison.clone(), other.clone()]));
    for _ in 0..3 {
        world.pass_after(40 * MINUTE).await;
    }
    let delivery = |event: fullscript_events::ledger::EventRow| {
        let mut to_hook = event.deliveries.into_iter().filter(|d| d.sink == "hook");
        to_hook.next().unwrap()
    };
    let held = delivery(world.event(&poison).await.unwrap());
    assert_eq!(held.state, DeliveryState::Held);
    assert_eq!(
        held.reason.unwrap(),
        "422 Unprocessable Entity; set aside after it held back later events for 60 min"
    );
    assert!(behind.iter().all(|id| arrived().contains(id)));
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_week_without_a_receiver_keeps_the_order_and_sets_nothing_aside() {
    for answer in [Answer::Status(503), Answer::Status(504)] {
        let hook = Receiver::start(answer).await;
        let world = begin(3, hook.sink("order_by = \"patient\"")).await;
        let mut made = 0;
        for day in 0..14 {
            for event_type in TYPES {
                world.make(["oak", "elm"][day % 2], event_type);
                made += 1;
            }
            world.pass_after(DAY / 2).await;
        }
        let asked = hook.got().len();
        assert!(asked < 14 + 10, "{asked} attempts");
        hook.answers(Answer::Status(200));
        world.pass_after(15 * MINUTE).await;
        world.pass().await;
        assert_eq!(assert_in_order(&hook), 6);
        let sink = world.sink("hook").await;
        assert_eq!(sink.count(DeliveryState::Done), made, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_looks_like_one_events_fault_sets_one_aside_at_most() {
    let hook = Receiver::start(Answer::Status(504)).await;
    let world = begin(1, hook.sink("order_by = \"patient\"")).await;
    let made = 40;
    for _ in 0..made {
        world.make("oak", "patient.updated");
        world.pass_after(20 * MINUTE).await;
    }
    hook.answers(Answer::Status(200));
    world.pass_after(15 * MINUTE).await;
    world.pass().await;
    let sink = world.sink("hook").await;
    let counts = [DeliveryState::Held, DeliveryState::Done].map(|state| sink.count(state));
    assert_eq!(counts, [1, made - 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_lined_up_when_a_sink_begins_to_keep_an_order() {
    let hook = Receiver::start(Answer::Status(429)).await;
    let world = begin(2, hook.sink("")).await;
    for _ in 0..4 {
        for event_type in TYPES {
            world.make("oak", event_type);
        }
        world.pass_after(MINUTE).await;
    }
    let before = hook.got().len();
    for order in ["patient", "clinic", "none", "patient"] {
        world.write_config(&setup(hook.sink(&format!("order_by = {order:?}"))));
        world.pass().await;
    }
    hook.answers(Answer::Status(200));
    world.pass_after(HOUR).await;
    let later = hook.got().split_off(before);
    let mut seen: BTreeMap<String, (String, String)> = BTreeMap::new();
    for got in later {
        let (patient, at, id) = patient_and_time(&got.body);
        if let Some(last) = seen.insert(patient, (at.clone(), id.clone())) {
            assert!(last <= (at, id));
        }
    }
    assert_eq!(world.sink("hook").await.count(DeliveryState::Done), 16);
}
