//! The endpoint over real HTTP, with a memory in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use super::*;
use crate::clock::SystemClock;
use crate::config;

/// What is known of each treatment: nothing yet, or what was said first.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Kept>>);

struct Kept {
    batch: Batch,
    said: BTreeMap<String, String>,
}

impl LateResults for Memory {
    fn batch(&self, id: String) -> BoxFuture<'_, Result<Option<Batch>, Unavailable>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = kept.get(&id).map(|kept| kept.batch.clone());
        Box::pin(std::future::ready(Ok(batch)))
    }

    fn settle(
        &self,
        id: String,
        verdicts: Vec<Verdict>,
        _: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<(), Unavailable>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get_mut(&id).unwrap();
        for verdict in verdicts {
            let said = match verdict.said {
                Said::Confirmed => "confirmed".to_owned(),
                Said::Rejected(words) => format!("rejected: {}", words.as_str()),
            };
            kept.said.entry(verdict.guid).or_insert(said);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

struct World {
    memory: Arc<Memory>,
    client: Client,
    url: String,
    stop: CancellationToken,
    server: JoinSet<()>,
}

impl World {
    /// Batches `b-oak` and `b-elm`, each with the treatments `p:1` and `p:2`.
    async fn new() -> Self {
        let memory = Arc::new(Memory::default());
        let clinic = |name: &str| ClinicName::new(name).unwrap();
        for name in ["oak", "elm"] {
            let kept = Kept {
                batch: Batch {
                    clinic: clinic(name),
                    guids: ["p:1", "p:2"].map(str::to_owned).into(),
                },
                said: BTreeMap::new(),
            };
            memory.0.lock().unwrap().insert(format!("b-{name}"), kept);
        }
        let secret = |text: &str| SecretString::from(text.to_owned());
        let keys = [("oak", "oak-key"), ("elm", "elm-key")];
        let keys = keys.map(|(name, key)| (clinic(name), secret(key)));
        let keys = Keys::new(&secret("emr-key"), keys);
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let url = format!("http://{}{PATH}", endpoint.address());
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        let results = Arc::clone(&memory) as SharedLateResults;
        let clock = Arc::new(SystemClock::start());
        server.spawn(endpoint.serve(keys, results, clock, stop.clone()));
        let http = config::Http::default();
        let client = crate::http::builder(&http, Duration::from_secs(20)).unwrap();
        Self {
            memory,
            client: client.build().unwrap(),
            url,
            stop,
            server,
        }
    }

    async fn post(&self, keys: (&str, &str), body: impl Into<String>) -> (StatusCode, String) {
        let post = self
            .client
            .post(&self.url)
            .header("emrApiKey", keys.0)
            .header("clinicApiKey", keys.1)
            .header("timezoneName", "America/New_York")
            .body(body.into());
        let answer = post.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    fn said(&self, batch: &str) -> Vec<String> {
        let kept = self.memory.0.lock().unwrap();
        let said = kept[batch].said.iter();
        said.map(|(guid, said)| format!("{guid} {said}")).collect()
    }
}

const OAK: (&str, &str) = ("emr-key", "oak-key");

fn body(id: &str, treatments: &[(&str, i64, Option<&str>)]) -> String {
    let treatments: Vec<Value> = treatments
        .iter()
        .map(|(guid, status, message)| {
            json!({
                "objectType": "treatment", "name": "Oil", "treatmentGuid": guid, "qty": 2, "billed": false,
                "asyncOperationStatus": status, "asyncOperationMessage": message,
            })
        })
        .collect();
    json!({ "id": id, "treatments": treatments }).to_string()
}

#[tokio::test]
async fn below_zero_rejects_that_treatment_only_and_a_repeat_changes_nothing() {
    let world = World::new().await;
    let results = body(
        "b-oak",
        &[("p:1", -1, Some("out of stock")), ("p:2", 0, None)],
    );
    for _ in 0..2 {
        let (status, text) = world.post(OAK, results.clone()).await;
        assert_eq!((status.as_u16(), text.as_str()), (200, ""));
        assert_eq!(
            world.said("b-oak"),
            ["p:1 rejected: out of stock", "p:2 confirmed"]
        );
    }
    assert!(world.said("b-elm").is_empty());
}

#[tokio::test]
async fn each_refusal_has_its_status_and_keeps_nothing() {
    let world = World::new().await;
    let good = body("b-oak", &[("p:1", 0, None)]);
    let strange = body("b-oak", &[("p:1", 0, None), ("p:9", 0, None)]);
    let long = format!("{good}{}", " ".repeat(server::LONGEST_BODY));
    for (name, keys, body, status) in [
        ("a wrong EMR key", ("emr", "oak-key"), good.clone(), 401),
        (
            "a wrong clinic key",
            ("emr-key", "fir-key"),
            good.clone(),
            401,
        ),
        ("no keys", ("", ""), good.clone(), 401),
        ("keys before the body", ("", ""), "nonsense".to_owned(), 401),
        (
            "another clinic's key",
            ("emr-key", "elm-key"),
            good.clone(),
            403,
        ),
        (
            "an unknown id",
            OAK,
            body("b-fir", &[("p:1", 0, None)]),
            404,
        ),
        ("no JSON", OAK, "nonsense".to_owned(), 400),
        ("no list", OAK, json!({ "id": "b-oak" }).to_string(), 400),
        ("a treatment that was not posted", OAK, strange, 400),
        ("too long a body", OAK, long, 413),
    ] {
        let (found, text) = world.post(keys, body).await;
        assert_eq!(found.as_u16(), status, "{name}: {text}");
        let message: Value = serde_json::from_str(&text).unwrap();
        assert!(message["Message"].is_string(), "{name}");
        assert!(!text.contains("Oil"), "{name}");
    }
    assert!(world.said("b-oak").is_empty());
    let get = world.client.get(&world.url).send().await.unwrap();
    assert_eq!(get.status(), 405);
    let elsewhere = world.client.post(world.url.replace("v3", "v2"));
    assert_eq!(elsewhere.send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_and_an_address_in_use_is_a_clear_error() {
    let mut world = World::new().await;
    let address = world.url.split('/').nth(2).unwrap().parse().unwrap();
    let error = Endpoint::bind(address).await.err().unwrap().to_string();
    assert!(
        error.starts_with(&format!("[sfs] listen: cannot listen on {address}")),
        "{error}"
    );
    world.stop.cancel();
    world.server.join_next().await.unwrap().unwrap();
    assert!(Endpoint::bind(address).await.is_ok());
}

#[tokio::test]
async fn a_connection_is_for_one_request_and_one_that_stays_silent_does_not_hold_up_the_end() {
    let mut world = World::new().await;
    let address = world.url.split('/').nth(2).unwrap().to_owned();
    let answer = world.client.post(&world.url).send().await.unwrap();
    assert_eq!(answer.headers()["connection"], "close");
    let mut half = tokio::net::TcpStream::connect(&address).await.unwrap();
    half.write_all(b"POST /sfs/api/v3/treatments HTTP/1.1\r\nHost:")
        .await
        .unwrap();
    // It is accepted before this one is.
    assert_eq!(world.post(("", ""), "").await.0, 401);
    world.stop.cancel();
    let end = tokio::time::timeout(Duration::from_secs(20), world.server.join_next());
    end.await.unwrap().unwrap().unwrap();
    drop(half);
}
