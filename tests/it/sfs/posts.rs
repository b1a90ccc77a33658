//! The sink by itself, against an EMR and a real ledger.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use fullscript_events::breaker::Breaker;
use fullscript_events::config::{self, SinkKind};
use fullscript_events::domain::{
    Category, ClinicName, DeliveryId, EventBody, EventId, EventType, Lane, OrderBy, Outcome,
    Parcel, Parked, SinkName, Subject,
};
use fullscript_events::format::sfs::guid;
use fullscript_events::ledger::{ItemState, Ledger, Reassigned};
use fullscript_events::sinks::{
    Crossed, Crosswalk, Ports, Secrets, Sink as _, Unrecorded, WebhookSink,
};
use fullscript_events::store::{AcceptedLoss, OpenError, Owner, SealKey};
use futures_util::future::BoxFuture;
use secrecy::SecretBox;
use serde_json::{Value, json};

use super::emr::{Answer, Emr, read};
use crate::world::patiently;

/// Knows the visit of every patient but `nobody`, and of no plan. Cannot be asked for `silent`.
struct Known;

impl Crosswalk for Known {
    fn hospitalization_id<'a>(
        &'a self,
        _: &'a ClinicName,
        subject: Subject,
    ) -> BoxFuture<'a, Crossed> {
        let crossed = match subject {
            Subject::Patient(id) if id == "silent" => Crossed::Unavailable("503".to_owned()),
            Subject::Patient(id) if id != "nobody" => Crossed::Found(format!("visit-of-{id}")),
            Subject::Patient(_) | Subject::TreatmentPlan(_) => Crossed::None,
        };
        Box::pin(std::future::ready(crossed))
    }
}

/// A sink, its EMR and its ledger.
struct Bench {
    emr: Emr,
    ledger: Ledger,
    directory: tempfile::TempDir,
    owner: Owner,
    sink: WebhookSink,
}

fn settings(url: &str, sfs: &str) -> config::WebhookSink {
    let text = format!(
        "[app]\nenvironment = \"us\"\nclient_id = \"i\"\nclient_secret = {{ env = \"S\" }}\n\
         redirect_uri = \"http://127.0.0.1:8765/callback\"\n[state]\nseal_key = {{ env = \"K\" }}\n\
         [[clinics]]\nname = \"elm\"\n[[clinics]]\nname = \"oak\"\n\
         [[sinks]]\nname = \"sfs\"\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = {url:?}\nsignature = \"none\"\ntimeout = \"2s\"\n\
         format = \"sfs\"\n[sinks.sfs]\n{sfs}\nclinic_keys = {{ oak = {{ env = \"O\" }}, elm = {{ env = \"E\" }} }}\n"
    );
    let loaded = config::parse(&text, Path::new("config.toml")).unwrap_or_else(|e| panic!("{e}"));
    let kind = loaded.config.sinks.into_iter().next().unwrap().kind;
    let SinkKind::Webhook(settings) = kind else {
        panic!()
    };
    *settings
}

fn opened(emr: &Emr, sfs: &str, ledger: &Ledger) -> WebhookSink {
    let key = |clinic: &str| {
        (
            ClinicName::new(clinic).unwrap(),
            format!("key-of-{clinic}").into(),
        )
    };
    let secrets = Secrets {
        clinic_keys: BTreeMap::from([key("oak"), key("elm")]),
        ..Secrets::default()
    };
    let ports = Ports {
        recorder: Arc::new(Unrecorded),
        frames: Arc::new(Unrecorded),
        crosswalk: Arc::new(Known),
        treatments: Arc::new(ledger.clone()),
    };
    let sink = WebhookSink::new(settings(&emr.url, sfs), secrets, &config::Http::default());
    sink.unwrap().with_ports(name(), &ports)
}

fn name() -> SinkName {
    SinkName::new("sfs").unwrap()
}

impl Bench {
    async fn new(sfs: &str) -> Self {
        let emr = Emr::start().await;
        let directory = tempfile::tempdir().unwrap();
        let (owner, ledger) = owned(directory.path()).await;
        let sink = opened(&emr, sfs, &ledger);
        Self {
            emr,
            ledger,
            directory,
            owner,
            sink,
        }
    }

    /// As after a crash: nothing is left but what is on disk.
    async fn started_again(self, sfs: &str) -> Self {
        drop((self.sink, self.ledger, self.owner));
        let (owner, ledger) = owned(self.directory.path()).await;
        let sink = opened(&self.emr, sfs, &ledger);
        Self {
            emr: self.emr,
            directory: self.directory,
            ledger,
            owner,
            sink,
        }
    }

    /// As after a start with what `owner` takes, which finds the ledger as it was made to be.
    async fn started_with(
        self,
        sfs: &str,
        changed: impl FnOnce(&Path),
        owner: impl Fn(&Path, &SealKey) -> Result<Owner, OpenError>,
    ) -> Self {
        drop((self.sink, self.ledger, self.owner));
        changed(self.directory.path());
        let key = seal_key();
        let owner = patiently(|| owner(self.directory.path(), &key)).unwrap();
        let ledger = enrolled(&owner).await;
        ledger.wake(Vec::new(), at(1_000)).await.unwrap();
        let lane = Lane {
            clinic: ClinicName::new("oak").unwrap(),
            category: Category::new("treatment_plans").unwrap(),
        };
        ledger.enrol_lanes(vec![lane]).await.unwrap();
        let sink = opened(&self.emr, sfs, &ledger);
        Self {
            emr: self.emr,
            directory: self.directory,
            ledger,
            owner,
            sink,
        }
    }

    /// What was said of the treatments posted so far: guid, status and `billed`.
    fn said(&self) -> Vec<String> {
        let posts = self.emr.posts();
        let items = posts.iter().flat_map(super::emr::Post::items);
        items
            .map(|item| {
                let [guid, status] = ["treatmentGuid", "status"].map(|of| item[of].as_str());
                format!("{} {} {}", guid.unwrap(), status.unwrap(), item["billed"])
            })
            .collect()
    }

    async fn deliver(&self, parcels: &[Parcel]) -> Vec<Outcome> {
        self.sink.deliver(parcels, at(0)).await.unwrap().outcomes
    }

    async fn delivered(&self, parcel: Parcel) -> Outcome {
        self.deliver(&[parcel]).await.pop().unwrap()
    }
}

fn seal_key() -> SealKey {
    SealKey::new(SecretBox::new(Box::new([7; 32])))
}

async fn owned(directory: &Path) -> (Owner, Ledger) {
    let key = seal_key();
    let owner = patiently(|| Owner::take(directory, "app", &key)).unwrap();
    let ledger = enrolled(&owner).await;
    (owner, ledger)
}

async fn enrolled(owner: &Owner) -> Ledger {
    let ledger = Ledger::new(owner.store().clone(), owner.epoch());
    ledger
        .enrol_sinks(vec![(name(), OrderBy::None)])
        .await
        .unwrap();
    ledger
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn parcel(number: i64, clinic: &str, event_type: &str, data: &Value) -> Parcel {
    Parcel {
        delivery: DeliveryId(number),
        attempt: 1,
        event: EventId::new(format!("e-{number:03}")).unwrap(),
        event_type: EventType::new(event_type).unwrap(),
        created_at: at(number),
        clinic: ClinicName::new(clinic).unwrap(),
        clinic_id: None,
        body: EventBody::from_json(json!({ "id": "e", "data": data }).to_string()),
    }
}

fn patient(number: i64, clinic: &str, event_type: &str) -> Parcel {
    parcel(
        number,
        clinic,
        event_type,
        &json!({"patient":{"id":"p","first_name":"Ada Canary"}}),
    )
}

fn plan(number: i64, quantity: i64, variants: &[&str]) -> Parcel {
    let lines = variants
        .iter()
        .map(|variant| json!({"variant_id":variant,"units_to_purchase":quantity}));
    let lines: Vec<_> = lines.collect();
    let plan = json!({"treatment_plan":{"id":"t","patient":{"id":"p"},"recommendations":lines}});
    parcel(number, "oak", "treatment_plan.updated", &plan)
}

fn again(parcel: &Parcel, attempt: u32) -> Parcel {
    Parcel {
        attempt,
        ..parcel.clone()
    }
}

fn words(outcomes: &[Outcome]) -> Vec<&'static str> {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Yes => "yes",
        Outcome::No { .. } => "no",
        Outcome::Later { .. } => "later",
        Outcome::NotSent { .. } => "not sent",
        Outcome::Doubt { .. } => "doubt",
        Outcome::Gone { .. } => "gone",
        Outcome::ClinicRefused { .. } => "clinic refused",
        Outcome::Skip { .. } => "skip",
        Outcome::Park { why, .. } => why.as_str(),
    };
    outcomes.iter().map(word).collect()
}

const TREATMENTS: &str = "mode = \"treatments\"";

#[tokio::test]
async fn the_envelope_is_three_members_with_the_object_last_and_a_shuffled_one_is_dropped() {
    for sfs in [
        "",
        "batch = 5",
        "mode = \"notes\"",
        TREATMENTS,
        "mode = \"treatments\"\nbatch = 5",
    ] {
        let bench = Bench::new(sfs).await;
        let event = plan(1, 2, &["v"]);
        assert_eq!(bench.delivered(event).await, Outcome::Yes, "{sfs}");
        let post = bench.emr.posts().pop().unwrap();
        let head = format!(
            "{{\"clinicApiKey\":\"key-of-oak\",\"eventType\":{},\"object\":{{\"objectType\":",
            json!(post.event_type)
        );
        assert!(post.body.starts_with(&head), "{}", post.body);
        let object = &post.body[head.len() - "{\"objectType\":".len()..post.body.len() - 1];
        assert_eq!(serde_json::from_str::<Value>(object).unwrap(), post.object);
        assert_eq!(post.headers["x-delivery-attempt"], "1");
        assert!(!post.body.contains("Z\""), "{}", post.body);
        // The same members otherwise, and nobody is told.
        let shuffled = format!(
            "{{\"clinicApiKey\":\"key-of-oak\",\"object\":{object},\"eventType\":{}}}",
            json!(post.event_type)
        );
        assert!(read(shuffled.as_bytes()).object.is_none());
        assert!(read(post.body.as_bytes()).object.is_some());
    }
}

#[tokio::test]
async fn native_data_is_the_vendors_bytes() {
    let bench = Bench::new("").await;
    let data = r#"{ "patient":{"id":"p","x":1.10,"y":"\u00e9\/" }, "z":12345678901234567890.0 }"#;
    let event = Parcel {
        body: EventBody::from_json(format!(r#"{{"id":"e","data":{data}}}"#)),
        ..patient(1, "oak", "patient.created")
    };
    assert_eq!(bench.delivered(event).await, Outcome::Yes);
    let post = bench.emr.posts().pop().unwrap();
    assert!(
        post.body
            .ends_with(&format!("\"status\":\"added\",\"data\":{data}}}}}"))
    );
    assert_eq!(post.headers["x-event-id"], "e-001");
}

#[tokio::test]
async fn one_bad_item_in_fifty_is_refused_alone_and_the_order_is_kept() {
    for sfs in ["batch = 50", "mode = \"notes\"\nbatch = 50"] {
        let bench = Bench::new(sfs).await;
        let events: Vec<_> = (1..=50)
            .map(|n| patient(n, "oak", "patient.updated"))
            .collect();
        let ids = events.iter().map(|event| {
            let id = event.event.as_str();
            if sfs == "batch = 50" {
                id.to_owned()
            } else {
                guid(id)
            }
        });
        let mut ids: Vec<_> = ids.collect();
        let bad = ids.remove(30);
        bench.emr.inside.lock().unwrap().unknown.insert(bad.clone());
        let outcomes = bench.deliver(&events).await;
        let refused: Vec<_> = outcomes
            .iter()
            .enumerate()
            .filter(|(_, of)| **of != Outcome::Yes)
            .collect();
        assert_eq!(refused.len(), 1, "{outcomes:?}");
        assert_eq!(refused[0].0, 30);
        assert_eq!(words(&outcomes)[30], "no");
        assert!(!format!("{outcomes:?}").contains("Canary"), "{outcomes:?}");
        assert_eq!(bench.emr.filed(), ids, "each once, in order");
        let posts = bench.emr.posts();
        assert_eq!(posts[0].items().len(), 50);
        // 50, 25, 25, 12, 13, …: twice the depth, not one for each item.
        assert!(posts.len() <= 13, "{}", posts.len());
        assert_eq!(
            posts
                .iter()
                .filter(|post| post.ids() == [bad.clone()])
                .count(),
            1
        );
    }
}

#[tokio::test]
async fn a_batch_is_of_one_clinic_and_one_type_in_the_sources_order() {
    let bench = Bench::new("batch = 3").await;
    let of = [
        (1, "oak", "patient.created"),
        (2, "elm", "patient.created"),
        (3, "oak", "patient.created"),
        (4, "oak", "patient.updated"),
        (5, "oak", "patient.created"),
        (6, "elm", "patient.created"),
        (7, "oak", "patient.created"),
        (8, "oak", "patient.created"),
        (9, "oak", "patient.created"),
    ];
    let events: Vec<_> = of.map(|(n, clinic, of)| patient(n, clinic, of)).to_vec();
    assert_eq!(bench.deliver(&events).await, vec![Outcome::Yes; 9]);
    let posts = bench.emr.posts();
    let of_clinic = |key: &str| {
        let posts = posts.iter().filter(|post| post.key == key);
        posts
            .map(|post| format!("{} {}", post.event_type, post.ids().join(" ")))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_clinic("key-of-elm"), ["patients.created e-002 e-006"]);
    assert_eq!(
        of_clinic("key-of-oak"),
        [
            "patients.created e-001 e-003",
            "patients.updated e-004",
            "patients.created e-005 e-007 e-008",
            "patients.created e-009",
        ]
    );
    let ids: Vec<_> = posts
        .iter()
        .map(|post| post.object["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids.iter().collect::<std::collections::BTreeSet<_>>().len(),
        ids.len()
    );
}

#[tokio::test]
async fn what_was_refused_or_in_doubt_goes_alone_and_what_had_to_wait_does_not() {
    for (answer, expected) in [
        (
            Answer::Says(500, &[]),
            &["e-001", "e-002", "e-003 e-004"][..],
        ),
        (Answer::Says(429, &[]), &["e-001 e-002 e-003 e-004"]),
    ] {
        let bench = Bench::new("batch = 9").await;
        let events: Vec<_> = (1..=4)
            .map(|n| patient(n, "oak", "patient.created"))
            .collect();
        bench.emr.answers([answer]);
        bench.deliver(&events[..2]).await;
        bench.deliver(&events).await;
        let posts = bench.emr.posts();
        let posts: Vec<_> = posts[1..].iter().map(|post| post.ids().join(" ")).collect();
        assert_eq!(posts, expected);
    }
}

#[tokio::test]
async fn every_answer_has_its_outcome() {
    for (status, headers, word) in [
        (200, &[][..], "yes"),
        (204, &[], "yes"),
        (409, &[], "yes"),
        (302, &[("location", "/x")], "no"),
        (400, &[], "no"),
        (413, &[], "no"),
        (422, &[], "no"),
        (401, &[], "clinic refused"),
        (403, &[], "clinic refused"),
        (404, &[], "clinic refused"),
        (410, &[], "clinic refused"),
        (408, &[], "later"),
        (429, &[("retry-after", "7")], "later"),
        (503, &[("retry-after", "9")], "later"),
        (500, &[], "doubt"),
        (502, &[], "doubt"),
        (504, &[], "doubt"),
    ] {
        for sfs in ["", "batch = 9"] {
            let bench = Bench::new(sfs).await;
            bench.emr.answers([Answer::Says(status, headers)]);
            let outcome = bench.delivered(patient(1, "oak", "patient.created")).await;
            assert_eq!(words(std::slice::from_ref(&outcome)), [word], "{status}");
            if let Outcome::Later { retry_after, .. } = outcome {
                let wish = headers.first().map(|(_, seconds)| seconds.parse().unwrap());
                assert_eq!(retry_after.map(|wait| wait.as_secs()), wish);
            }
        }
    }
    let bench = Bench::new("").await;
    bench.emr.answers([Answer::WorksAndHangs]);
    assert_eq!(
        words(&bench.deliver(&[patient(1, "oak", "patient.created")]).await),
        ["doubt"]
    );
}

#[tokio::test]
async fn what_ends_a_clinics_turn_leaves_the_rest_unsent_and_other_clinics_alone() {
    let bench = Bench::new("batch = 4").await;
    bench
        .emr
        .inside
        .lock()
        .unwrap()
        .strangers
        .insert("key-of-elm".to_owned());
    bench
        .emr
        .inside
        .lock()
        .unwrap()
        .unknown
        .insert("e-001".to_owned());
    let wish = &[("retry-after", "7")];
    // Of oak: the whole, its first half, and of that the first are refused; then it has enough.
    bench.emr.answers([
        Answer::Works,
        Answer::Works,
        Answer::Works,
        Answer::Says(429, wish),
    ]);
    let mut events: Vec<_> = (1..=6)
        .map(|n| patient(n, "oak", "patient.created"))
        .collect();
    events.push(patient(7, "elm", "patient.created"));
    let outcomes = bench.deliver(&events).await;
    assert_eq!(
        words(&outcomes),
        [
            "no",
            "later",
            "later",
            "later",
            "later",
            "later",
            "clinic refused"
        ]
    );
    for outcome in &outcomes[1..6] {
        let Outcome::Later { retry_after, .. } = outcome else {
            panic!()
        };
        assert_eq!(retry_after.map(|wait| wait.as_secs()), Some(7));
    }
    assert_eq!(bench.emr.filed(), Vec::<String>::new());
}

#[tokio::test]
async fn a_doubt_in_the_middle_of_a_halving_says_of_each_item_what_is_known() {
    let bench = Bench::new("batch = 4").await;
    bench
        .emr
        .inside
        .lock()
        .unwrap()
        .unknown
        .insert("e-004".to_owned());
    // The whole is refused, its first half is filed and not answered.
    bench.emr.answers([Answer::Works, Answer::WorksAndHangs]);
    let events: Vec<_> = (1..=6)
        .map(|n| patient(n, "oak", "patient.created"))
        .collect();
    let outcomes = bench.deliver(&events).await;
    assert_eq!(
        words(&outcomes),
        ["doubt", "doubt", "later", "later", "later", "later"]
    );
    assert_eq!(bench.emr.filed(), ["e-001", "e-002"]);
}

#[tokio::test]
async fn without_a_crosswalk_nothing_is_sent_and_the_rest_goes_on() {
    for sfs in [
        "mode = \"notes\"\nbatch = 9",
        "mode = \"treatments\"\nbatch = 9",
    ] {
        let bench = Bench::new(sfs).await;
        let order = |number, patient: &str| {
            let lines = json!([{"variant_id":"v","quantity":1}]);
            let order = json!({"id":format!("o-{number}"),"patient_id":patient,"line_items":lines});
            parcel(number, "oak", "order.placed", &order)
        };
        let product = parcel(4, "oak", "product.updated", &json!({"product":{}}));
        let events = [
            order(1, "nobody"),
            order(2, "p"),
            order(3, "silent"),
            product,
        ];
        let outcomes = bench.deliver(&events).await;
        assert_eq!(
            words(&outcomes),
            ["no_crosswalk", "yes", "no_crosswalk", "skip"],
            "{sfs}"
        );
        let Outcome::Park { until, .. } = &outcomes[0] else {
            panic!()
        };
        assert_eq!(*until, Some(at(6 * 3600)));
        // That Fullscript could not be asked is no event's fault: nothing that could set it aside is counted.
        let Outcome::Park { until, reason, .. } = &outcomes[2] else {
            panic!()
        };
        assert_eq!(*until, Some(at(600)));
        assert!(reason.contains("503"), "{reason}");
        let posts = bench.emr.posts();
        assert_eq!(posts.len(), 1);
        let items = posts[0].items();
        assert_eq!(items[0]["hospitalizationId"], "visit-of-p");
        assert_eq!(items.len(), 1);
    }
}

#[tokio::test]
async fn a_note_is_the_same_on_every_attempt() {
    let bench = Bench::new("mode = \"notes\"").await;
    bench.emr.answers([Answer::WorksAndHangs]);
    let event = plan(1, 2, &["v"]);
    assert_eq!(
        words(&bench.deliver(std::slice::from_ref(&event)).await),
        ["doubt"]
    );
    assert_eq!(bench.delivered(again(&event, 2)).await, Outcome::Yes);
    let posts = bench.emr.posts();
    assert_eq!(posts[0].body, posts[1].body);
    assert_eq!(posts[1].headers["x-delivery-attempt"], "2");
}

#[tokio::test]
async fn what_may_have_arrived_is_told_as_changed_and_makes_one_order() {
    for sfs in [TREATMENTS, "mode = \"treatments\"\nbatch = 9"] {
        let bench = Bench::new(sfs).await;
        bench.emr.answers([Answer::WorksAndHangs]);
        let event = plan(1, 2, &["v"]);
        assert_eq!(
            words(&bench.deliver(std::slice::from_ref(&event)).await),
            ["doubt"]
        );
        // Also where nothing but the disk knows of it.
        let bench = bench.started_again(sfs).await;
        assert_eq!(bench.delivered(again(&event, 2)).await, Outcome::Yes);
        // A later event of the same plan, and a resend of the first one by a person, which comes too late.
        assert_eq!(bench.delivered(plan(2, 5, &["v", "w"])).await, Outcome::Yes);
        assert_eq!(words(&bench.deliver(&[again(&event, 3)]).await), ["skip"]);
        let said: Vec<_> = bench
            .emr
            .posts()
            .iter()
            .flat_map(|post| {
                let said = |item: Value| item["status"].as_str().unwrap().to_owned();
                post.items().into_iter().map(said).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(said, ["added", "changed", "changed", "added"]);
        let orders = BTreeMap::from([("t:v".to_owned(), (1, 5)), ("t:w".to_owned(), (1, 5))]);
        assert_eq!(bench.emr.orders(), orders);
    }
}

#[tokio::test]
async fn what_was_clearly_refused_or_never_sent_is_told_as_added() {
    for status in [400, 401, 429] {
        let bench = Bench::new(TREATMENTS).await;
        bench.emr.answers([Answer::Says(status, &[])]);
        let event = plan(1, 2, &["v"]);
        bench.deliver(std::slice::from_ref(&event)).await;
        assert_eq!(bench.delivered(again(&event, 2)).await, Outcome::Yes);
        assert_eq!(bench.emr.posts()[1].object["status"], "added", "{status}");
    }
    // 503 is also said by what stands between, a redirect by some after their work; and what was in doubt once stays so.
    for script in [vec![503], vec![302], vec![500, 400]] {
        let bench = Bench::new(TREATMENTS).await;
        bench
            .emr
            .answers(script.iter().map(|status| Answer::Says(*status, &[])));
        let event = plan(1, 2, &["v"]);
        for attempt in 1..=script.len() {
            bench
                .deliver(&[again(&event, u32::try_from(attempt).unwrap())])
                .await;
        }
        assert_eq!(bench.delivered(again(&event, 9)).await, Outcome::Yes);
        assert_eq!(
            bench.emr.posts().pop().unwrap().object["status"],
            "changed",
            "{script:?}"
        );
    }
}

#[tokio::test]
async fn billed_stays_as_it_was_said_first() {
    let bench = Bench::new(TREATMENTS).await;
    assert_eq!(bench.delivered(plan(1, 2, &["v"])).await, Outcome::Yes);
    let bench = bench
        .started_again("mode = \"treatments\"\nbilled = true")
        .await;
    assert_eq!(bench.delivered(plan(2, 2, &["v", "w"])).await, Outcome::Yes);
    let billed: Vec<_> = bench
        .emr
        .posts()
        .iter()
        .map(|post| post.object["billed"].clone())
        .collect();
    assert_eq!(billed, [json!(false), json!(false), json!(true)]);
}

#[tokio::test]
async fn one_bad_treatment_of_an_event_does_not_keep_the_others_back() {
    let bench = Bench::new("mode = \"treatments\"\nbatch = 9").await;
    bench
        .emr
        .inside
        .lock()
        .unwrap()
        .unknown
        .insert("t:b".to_owned());
    let event = plan(1, 2, &["a", "b", "c"]);
    assert_eq!(
        words(&bench.deliver(std::slice::from_ref(&event)).await),
        ["no"]
    );
    assert_eq!(bench.emr.filed(), ["t:a", "t:c"]);
    assert_eq!(words(&bench.deliver(&[again(&event, 2)]).await), ["no"]);
    let orders = bench.emr.orders();
    assert_eq!(orders["t:a"], (1, 2));
    assert_eq!(orders["t:c"], (1, 2));
}

#[tokio::test]
async fn two_events_of_one_plan_are_two_batches_in_their_order() {
    let bench = Bench::new("mode = \"treatments\"\nbatch = 9").await;
    let outcomes = bench
        .deliver(&[plan(1, 2, &["v"]), plan(2, 3, &["v"])])
        .await;
    assert_eq!(outcomes, [Outcome::Yes, Outcome::Yes]);
    let posts = bench.emr.posts();
    assert_eq!(posts.len(), 2);
    assert_eq!(bench.emr.orders()["t:v"], (1, 3));
}

#[tokio::test]
async fn an_accepted_batch_awaits_its_result_and_is_found_by_its_id() {
    let bench = Bench::new("mode = \"treatments\"\nbatch = 9\nlate_results = \"7d\"").await;
    let outcome = bench.delivered(plan(1, 2, &["v", "w"])).await;
    let Outcome::Park { why, until, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((why, until), (Parked::AwaitsResult, Some(at(7 * 86_400))));
    let post = bench.emr.posts().pop().unwrap();
    let id = post.object["id"].as_str().unwrap().to_owned();
    let posted = bench.ledger.batch(id).await.unwrap().unwrap();
    assert_eq!(
        (posted.sink.as_str(), posted.clinic.as_str()),
        ("sfs", "oak")
    );
    let items: Vec<_> = posted
        .items
        .iter()
        .map(|item| (item.guid.as_str(), item.delivery.0, item.state))
        .collect();
    assert_eq!(
        items,
        [("t:v", 1, ItemState::Sent), ("t:w", 1, ItemState::Sent)]
    );
    assert_eq!(bench.ledger.batch("other".to_owned()).await.unwrap(), None);
}

#[tokio::test]
async fn where_an_order_is_kept_one_call_at_a_time_takes_what_is_due() {
    for (sfs, takes, places) in [
        ("", 1, 8),
        ("mode = \"notes\"", 1, 8),
        ("batch = 50", 50, 1),
        // One for each of the clinics that may be at it.
        (TREATMENTS, 8, 1),
        ("mode = \"treatments\"\nbatch = 20", 20, 1),
    ] {
        let bench = Bench::new(sfs).await;
        let found = (bench.sink.batch(), bench.sink.concurrency());
        assert_eq!(found, (takes, places), "{sfs}");
    }
}

#[tokio::test]
async fn who_does_not_own_the_ledger_any_more_sends_no_treatment() {
    let bench = Bench::new(TREATMENTS).await;
    let stale = opened(&bench.emr, TREATMENTS, &bench.ledger);
    let bench = bench.started_again(TREATMENTS).await;
    let outcomes = stale
        .deliver(&[plan(1, 2, &["v"])], at(0))
        .await
        .unwrap()
        .outcomes;
    assert_eq!(words(&outcomes), ["not sent"]);
    assert!(bench.emr.posts().is_empty());
}

/// A plan that came to be, with one treatment.
fn made(number: i64, plan: &str) -> Parcel {
    let lines = json!([{"variant_id":"v","units_to_purchase":2}]);
    let plan = json!({"treatment_plan":{"id":plan,"patient":{"id":"p"},"recommendations":lines}});
    parcel(number, "oak", "treatment_plan.created", &plan)
}

const LEDGER: &str = "ledger.sqlite3";

#[tokio::test]
async fn a_restored_ledger_says_changed_of_what_it_may_have_forgotten_and_makes_one_order() {
    let bench = Bench::new(TREATMENTS).await;
    let bench = bench
        .started_with(
            TREATMENTS,
            |at| {
                std::fs::copy(at.join(LEDGER), at.join("backup")).unwrap();
            },
            |at, key| Owner::take(at, "app", key),
        )
        .await;
    assert_eq!(bench.delivered(plan(1, 2, &["v"])).await, Outcome::Yes);
    let bench = bench
        .started_with(
            "mode = \"treatments\"\nbilled = true",
            |at| {
                std::fs::rename(at.join("backup"), at.join(LEDGER)).unwrap();
                assert!(!at.join(format!("{LEDGER}-wal")).exists());
            },
            |at, key| Owner::take(at, "app", key),
        )
        .await;
    // An update of what was sent; what began before the restore; what began since.
    assert_eq!(bench.delivered(plan(2, 5, &["v"])).await, Outcome::Yes);
    assert_eq!(bench.delivered(made(3, "before")).await, Outcome::Yes);
    assert_eq!(bench.delivered(made(2_000, "since")).await, Outcome::Yes);
    assert_eq!(bench.delivered(plan(2_001, 6, &["w"])).await, Outcome::Yes);
    assert_eq!(
        bench.said(),
        [
            "t:v added false",
            "t:v changed true",
            "before:v changed true",
            "since:v added true",
            "t:w changed true"
        ]
    );
    assert_eq!(bench.emr.orders()["t:v"], (1, 5));
}

#[tokio::test]
async fn a_ledger_in_a_lost_ones_place_says_changed_of_what_it_does_not_know() {
    let bench = Bench::new(TREATMENTS).await;
    assert_eq!(bench.delivered(plan(1, 2, &["v"])).await, Outcome::Yes);
    let bench = bench
        .started_with(
            TREATMENTS,
            |at| std::fs::remove_file(at.join(LEDGER)).unwrap(),
            |at, key| Owner::take_after_loss(at, "app", key, AcceptedLoss::Replay),
        )
        .await;
    assert_eq!(bench.delivered(plan(2, 5, &["v"])).await, Outcome::Yes);
    // Refused, it is as unknown as before.
    bench.emr.answers([Answer::Says(400, &[])]);
    let other = made(3, "other");
    assert_eq!(
        words(&bench.deliver(std::slice::from_ref(&other)).await),
        ["no"]
    );
    assert_eq!(bench.delivered(again(&other, 2)).await, Outcome::Yes);
    assert_eq!(
        bench.said(),
        [
            "t:v added false",
            "t:v changed false",
            "other:v changed false",
            "other:v changed false"
        ]
    );
    assert_eq!(bench.emr.orders()["t:v"], (1, 5));
}

#[tokio::test]
async fn one_event_that_always_makes_the_emr_fail_keeps_nobody_else_back_and_opens_no_breaker() {
    for (sfs, turns) in [
        (TREATMENTS, [["doubt", "yes", "yes", "yes", "yes"]; 2]),
        (
            "batch = 2",
            [
                ["doubt", "doubt", "later", "later", "later"],
                ["doubt", "yes", "yes", "yes", "yes"],
            ],
        ),
    ] {
        let bench = Bench::new(sfs).await;
        let events: Vec<_> = (1..=5).map(|n| made(n, &format!("t-{n}"))).collect();
        let mut breaker = Breaker::default();
        for turn in turns {
            bench.emr.answers([Answer::Says(500, &[])]);
            let outcomes = bench.deliver(&events).await;
            assert_eq!(words(&outcomes), turn, "{sfs}");
            for (event, outcome) in events.iter().zip(&outcomes) {
                breaker = breaker.after(event.delivery, outcome, at(0), 1.0);
            }
        }
        assert!(breaker.outage().is_none(), "{sfs}");
    }
    // Behind what nobody answered in time each would wait as long, and says nothing of the receiver.
    let bench = Bench::new(TREATMENTS).await;
    let events: Vec<_> = (1..=8).map(|n| made(n, &format!("t-{n}"))).collect();
    bench.emr.answers([Answer::WorksAndHangs]);
    let outcomes = bench.deliver(&events).await;
    assert_eq!(words(&outcomes[..2]), ["doubt", "later"]);
    let mut breaker = Breaker::default();
    for (event, outcome) in events.iter().zip(&outcomes) {
        breaker = breaker.after(event.delivery, outcome, at(0), 1.0);
    }
    assert!(breaker.outage().is_none());
}

#[tokio::test]
async fn what_goes_alone_still_does_after_a_turn_that_ended_before_it() {
    let bench = Bench::new("batch = 9").await;
    let events: Vec<_> = (1..=3)
        .map(|n| patient(n, "oak", "patient.created"))
        .collect();
    bench.emr.answers([Answer::Says(400, &[])]);
    assert_eq!(words(&bench.deliver(&events[1..2]).await), ["no"]);
    // A turn that ends at the first post: nothing was found out about the second.
    bench.emr.answers([Answer::Says(429, &[])]);
    assert_eq!(words(&bench.deliver(&events).await), ["later"; 3]);
    assert_eq!(bench.deliver(&events).await, vec![Outcome::Yes; 3]);
    // Once it is over, it is as any other.
    assert_eq!(bench.deliver(&events).await, vec![Outcome::Yes; 3]);
    let posts = bench.emr.posts();
    let posts: Vec<_> = posts.iter().map(|post| post.ids().join(" ")).collect();
    assert_eq!(
        posts,
        [
            "e-002",
            "e-001",
            "e-001",
            "e-002",
            "e-003",
            "e-001 e-002 e-003"
        ]
    );
}

#[tokio::test]
async fn a_treatment_is_known_under_whatever_name_its_clinic_has() {
    let bench = Bench::new(TREATMENTS).await;
    assert_eq!(bench.delivered(plan(1, 2, &["v"])).await, Outcome::Yes);
    let renamed = Parcel {
        clinic: ClinicName::new("elm").unwrap(),
        ..plan(2, 5, &["v"])
    };
    assert_eq!(bench.delivered(renamed).await, Outcome::Yes);
    assert_eq!(bench.said(), ["t:v added false", "t:v changed false"]);
}

#[tokio::test]
async fn a_renamed_sink_without_a_backlog_is_noticed_and_its_memory_goes_along_or_is_forgotten() {
    let bench = Bench::new(TREATMENTS).await;
    let query = bench.ledger.query();
    let named = |name: &str| SinkName::new(name).unwrap();
    let strangers = || query.strangers(vec![named("chart"), named("empty")]);
    assert_eq!(strangers().await.unwrap(), []);
    assert_eq!(bench.delivered(plan(1, 2, &["v"])).await, Outcome::Yes);
    assert_eq!(strangers().await.unwrap(), [("sfs".to_owned(), 0)]);
    // To one that has had nothing, and back again to one all of whose deliveries are pruned.
    let sinks = ["chart", "empty"].map(|name| (named(name), OrderBy::None));
    bench.ledger.enrol_sinks(sinks.to_vec()).await.unwrap();
    let to = |from: &str, to: &str| query.reassign(from.to_owned(), named(to), at(9));
    let moved = to("sfs", "chart").await.unwrap();
    assert_eq!(moved, Some(Reassigned::Renamed { waiting: 0 }));
    assert_eq!(strangers().await.unwrap(), []);
    let moved = to("empty", "chart").await.unwrap();
    let nothing = Reassigned::Moved { moved: 0, known: 0 };
    assert_eq!(moved, Some(nothing), "chart has a past, if only treatments");
    let sinks = vec![(name(), OrderBy::None)];
    bench.ledger.enrol_sinks(sinks).await.unwrap();
    assert_eq!(bench.delivered(plan(3, 2, &["w", "x"])).await, Outcome::Yes);
    to("sfs", "chart").await.unwrap();
    assert_eq!(strangers().await.unwrap(), []);
    to("chart", "sfs").await.unwrap();
    assert_eq!(
        bench.delivered(plan(4, 5, &["v", "w", "z"])).await,
        Outcome::Yes
    );
    assert_eq!(
        bench.said(),
        [
            "t:v added false",
            "t:w added false",
            "t:x added false",
            "t:v changed false",
            "t:w changed false",
            "t:z added false"
        ]
    );
    let forgotten = query.forget_sink("sfs".to_owned(), at(9)).await.unwrap();
    assert_eq!(forgotten, Some(0));
    assert_eq!(strangers().await.unwrap(), []);
    let left: i64 = rusqlite::Connection::open(bench.directory.path().join(LEDGER))
        .unwrap()
        .query_row(
            "SELECT (SELECT count(*) FROM sfs_item) + (SELECT count(*) FROM sfs_post)",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_visit_that_no_emr_would_know_is_none_and_the_crosswalk_is_asked() {
    for (carried, sent) in [
        (json!(" "), "visit-of-p"),
        (json!("a\u{7}"), "visit-of-p"),
        (json!("9".repeat(256)), "visit-of-p"),
        (json!(" 12 "), "12"),
        (json!(12), "12"),
    ] {
        let bench = Bench::new("mode = \"notes\"").await;
        let plan =
            json!({"treatment_plan":{"id":"t","metadata":{"id":carried},"patient":{"id":"p"}}});
        let plan = parcel(1, "oak", "treatment_plan.updated", &plan);
        assert_eq!(bench.delivered(plan).await, Outcome::Yes);
        let post = bench.emr.posts().remove(0);
        assert_eq!(post.items()[0]["hospitalizationId"], sent, "{carried}");
    }
}
