//! Whatever Fullscript's servers, or something between, may answer: it is that lane's or that event's trouble, in
//! words that say what was found; other clinics go on, and nothing is lost once it is over.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use fullscript_events::ledger::{EventFilter, LaneRow, Query};
use fullscript_events::simulator::{Endpoint, ErrorBody, Fault, FaultRule};

use crate::stepped::{DAY, HOUR, Stepped, polling};
use crate::world::{Setup, assert_same_ids};

/// Each meets a clinic of this name.
const FAULTS: [(&str, Fault); 14] = [
    ("malformed", Fault::MalformedJson),
    ("html", Fault::Html),
    ("no-meta", Fault::MissingMeta),
    ("looping", Fault::LoopingNextPage),
    ("newline", Fault::IdWithNewline),
    ("huge-id", Fault::HugeId),
    ("endless", Fault::EndlessBody),
    ("cut-off", Fault::CutOff),
    ("lost", Fault::ReplyLost),
    ("wrong-id", Fault::WrongId),
    ("wrong-clinic", Fault::WrongClinic),
    (
        "down",
        Fault::Status {
            status: 502,
            body: ErrorBody::Html,
        },
    ),
    (
        "teapot",
        Fault::Status {
            status: 418,
            body: ErrorBody::Empty,
        },
    ),
    (
        "throttled",
        Fault::Throttled {
            status: 429,
            retry_after_s: 7,
        },
    ),
];
/// These take the whole time-out of a request; nobody waits for them here.
const STALLS: [(&str, Fault); 2] = [
    ("hang", Fault::Hang),
    ("drip", Fault::DripFed { every_ms: 1_000 }),
];
/// Nothing is wrong with this one.
const HEALTHY: &str = "healthy";

async fn world_with(endpoint: Endpoint) -> Stepped {
    let faults = FAULTS.into_iter().chain(STALLS);
    let mut clinics: Vec<String> = faults.clone().map(|(name, _)| name.to_owned()).collect();
    clinics.push(HEALTHY.to_owned());
    let world = Stepped::begin(Setup {
        clinics,
        ..polling(&["patients"], "first_run = \"30d\"")
    })
    .await;
    for clinic in &world.clinics {
        world
            .vendor
            .make_history(&clinic.clinic_id, "patients", 3, DAY);
    }
    for (name, fault) in faults {
        let rule = FaultRule::always(endpoint, fault);
        world.vendor.fail(rule.of_clinic(world.id_of(name)));
    }
    world
}

/// How many events of a clinic the file shows.
fn shown_of(world: &Stepped, clinic: &str) -> usize {
    let id = world.id_of(clinic);
    let of = |line: &&serde_json::Value| line["clinic_id"] == id;
    world.shown().iter().filter(of).count()
}

async fn lanes(query: &Query) -> BTreeMap<String, LaneRow> {
    let lanes = query.lanes(DateTime::UNIX_EPOCH).await.unwrap();
    lanes
        .into_iter()
        .map(|lane| (lane.clinic.clone(), lane))
        .collect()
}

/// What each clinic's events say of why their detail is not here.
async fn troubles(query: &Query) -> BTreeMap<String, BTreeSet<Option<String>>> {
    let filter = EventFilter {
        limit: 99,
        ..EventFilter::default()
    };
    let mut troubles: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
    for event in query.events(filter).await.unwrap() {
        let of = troubles.entry(event.clinic).or_default();
        of.insert(event.fetch_trouble);
    }
    troubles
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_list_is_its_lanes_trouble_and_loses_nothing() {
    let world = world_with(Endpoint::List).await;
    world
        .pass_until("every other clinic was listed", async |query| {
            let lanes = lanes(query).await;
            let was_tried = |lane: &LaneRow| lane.polled_at.is_some() || lane.trouble.is_some();
            FAULTS.iter().all(|(name, _)| was_tried(&lanes[*name]))
                && shown_of(&world, HEALTHY) == 3
        })
        .await;
    let lanes = world.ask(async |query| lanes(&query).await).await;
    for (name, _) in STALLS {
        let lane = &lanes[name];
        assert_eq!((lane.polled_at, &lane.trouble), (None, &None), "{name}");
    }
    assert_eq!(lanes["wrong-clinic"].quarantined, 3);
    // What was good on the page is admitted, and waits for the sweep to end well, or for half a minute.
    assert_eq!(lanes["newline"].new, 2);
    let words = FAULTS.map(|(name, _)| {
        let trouble = lanes[name].trouble.as_deref();
        format!("{name}: {}", trouble.unwrap_or("none"))
    });
    insta::assert_snapshot!(words.join("\n"), @r#"
    malformed: page 1 of malformed/patients: not the list that the contract describes (Eof at line 1, column 593)
    html: page 1 of html/patients: not the list that the contract describes (Syntax at line 1, column 1)
    no-meta: page 1 of no-meta/patients: not the list that the contract describes (Data at line 1, column 502)
    looping: page 1 of looping/patients: its next_page is 1, which goes in a circle
    newline: event 1 of page 1: an id contains a control character
    huge-id: event 1 of page 1: an id is 1048576 bytes long, at most 255 are accepted
    endless: the answer is longer than 2097152 bytes
    cut-off: the answer was cut off
    lost: the connection broke before an answer
    wrong-id: none
    wrong-clinic: none
    down: the server answered 502 Bad Gateway
    teapot: the server answered 418 I'm a teapot, which its contract does not know
    throttled: the server asks to come later (429 Too Many Requests)
    "#);

    world.vendor.clear_faults();
    world.pass_after(HOUR).await;
    let foreign = "00000000-0000-4000-8000-000000000000";
    let mut shown = world.shown_ids();
    shown.retain(|id| id != foreign);
    assert_same_ids(&shown, &world.made_ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_detail_is_its_events_trouble_and_loses_nothing() {
    let world = world_with(Endpoint::Retrieve).await;
    world
        .pass_until("every other detail was tried", async |query| {
            let troubles = troubles(query).await;
            let was_tried = |name: &str| {
                let of = troubles.get(name);
                of.is_some_and(|of| !of.contains(&None))
                    || shown_of(&world, name) == 3
                    // The server's wish concerns the whole clinic: the others wait with the one that heard it.
                    || (name == "throttled" && of.is_some_and(|of| of.iter().any(Option::is_some)))
            };
            FAULTS.iter().all(|(name, _)| was_tried(name)) && shown_of(&world, HEALTHY) == 3
        })
        .await;
    let troubles = world.ask(async |query| troubles(&query).await).await;
    for (name, _) in STALLS {
        assert_eq!(troubles[name], BTreeSet::from([None]), "{name}");
    }
    let words = FAULTS.map(|(name, _)| {
        let of: Vec<&str> = troubles[name]
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        format!(
            "{name}: {}",
            if of.is_empty() {
                "none".to_owned()
            } else {
                of.join(" | ")
            }
        )
    });
    insta::assert_snapshot!(words.join("\n"), @r#"
    malformed: the answer is not the event that the contract describes
    html: the answer is not the event that the contract describes
    no-meta: none
    looping: none
    newline: the answer is about another event than the one asked for
    huge-id: the answer is about another event than the one asked for
    endless: the answer is longer than 8388608 bytes
    cut-off: the answer was cut off
    lost: the connection broke before an answer
    wrong-id: the answer is about another event than the one asked for
    wrong-clinic: the answer is about another clinic than the one asked for
    down: the server answered 502 Bad Gateway
    teapot: the server answered 418 I'm a teapot, which its contract does not know
    throttled: the server asks to come later (429 Too Many Requests)
    "#);
    // Of these two faults a detail has nothing to be spoilt.
    for (name, _) in FAULTS {
        let untouched = ["no-meta", "looping"].contains(&name);
        assert_eq!(
            shown_of(&world, name),
            if untouched { 3 } else { 0 },
            "{name}"
        );
    }

    world.vendor.clear_faults();
    world.pass_after(HOUR).await;
    assert_eq!(world.shown_ids(), world.made_ids());
}
