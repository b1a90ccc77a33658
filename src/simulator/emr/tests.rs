//! The double over real HTTP.

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::config;

fn client() -> Client {
    let http = config::Http::default();
    let builder = crate::http::builder(&http, Duration::from_secs(20)).unwrap();
    builder.build().unwrap()
}

async fn send(emr: &SfsEmr, body: impl Into<String>) -> reqwest::Result<Response> {
    let post = client().post(emr.url()).body(body.into());
    let post = post
        .header("X-Event-Id", "e1")
        .header("X-Delivery-Attempt", "2");
    post.send().await
}

fn treatments(id: &str, guids: &[&str], status: &str) -> String {
    let treatments: Vec<Value> = guids
        .iter()
        .map(|guid| {
            json!({
                "objectType": "treatment", "inventoryId": format!("item-{guid}"), "name": "Secret Oil",
                "hospitalizationId": "h1", "treatmentGuid": guid, "status": status, "qty": 2, "billed": true,
            })
        })
        .collect();
    let object = json!({ "objectType": "treatments", "id": id, "treatments": treatments });
    format!(
        r#"{{"clinicApiKey":"oak-key","eventType":"treatments.records_entered","object":{object}}}"#
    )
}

#[tokio::test]
async fn the_ordered_envelope_is_booked_and_a_shuffled_one_dropped_with_200() {
    let emr = SfsEmr::start(Options::default()).await.unwrap();
    let object = json!({ "id": "b1", "notes": [{
        "noteGuid": "n1", "hospitalizationId": "h1", "text": "a secret text", "status": "added",
    }]});
    for (body, notes, dropped) in [
        (
            format!(
                r#"{{"clinicApiKey":"oak-key","object":{object},"eventType":"notes.entered"}}"#
            ),
            0,
            1,
        ),
        (
            format!(
                r#"{{"clinicApiKey":"oak-key","eventType":"notes.entered","object":{object}}}"#
            ),
            1,
            1,
        ),
    ] {
        assert_eq!(send(&emr, body).await.unwrap().status(), 200);
        assert_eq!(
            (emr.state().notes.len(), emr.state().dropped),
            (notes, dropped)
        );
    }
    let unknown = r#"{"clinicApiKey":"oak-key","eventType":"patients.updated","object":{}}"#;
    // What is refused on request is refused, whatever it is, and not dropped.
    emr.script(Rule::status(1, 503));
    assert_eq!(send(&emr, unknown).await.unwrap().status(), 503);
    assert_eq!(emr.state().ignored, 0);
    assert_eq!(send(&emr, unknown).await.unwrap().status(), 200);
    let state = emr.state();
    assert_eq!(state.ignored, 1);
    let outcomes: Vec<Outcome> = state.received.iter().map(|event| event.outcome).collect();
    assert_eq!(
        outcomes,
        [
            Outcome::Dropped,
            Outcome::Booked,
            Outcome::Refused,
            Outcome::Ignored
        ]
    );
    let booked = &state.received[1];
    assert_eq!(booked.keys, ["clinicApiKey", "eventType", "object"]);
    assert_eq!(booked.attempt.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_strange_key_is_401_and_what_is_no_event_400_with_a_message() {
    let emr = SfsEmr::start(Options::default()).await.unwrap();
    let strange = treatments("b1", &["g1"], "added").replace("oak-key", "elm-key");
    for (body, status) in [
        (strange.as_str(), 401),
        ("{}", 401),
        ("nonsense", 400),
        (
            r#"{"clinicApiKey":"oak-key","eventType":"notes.entered","object":{"notes":7}}"#,
            400,
        ),
    ] {
        let answer = send(&emr, body).await.unwrap();
        assert_eq!(answer.status(), status, "{body}");
        let message: Value = answer.json().await.unwrap();
        assert!(message["Message"].is_string(), "{body}");
    }
    assert!(emr.state().orders.is_empty());
}

#[tokio::test]
async fn what_is_scripted_is_answered_and_takes_effect_or_not() {
    let emr = SfsEmr::start(Options {
        unknown_items: vec!["item-g9".to_owned()],
        ..Options::default()
    });
    let emr = emr.await.unwrap();
    // Another process scripts over HTTP.
    let rules = format!("{}/rules", emr.control_url());
    let rule = json!({ "guid": "g2", "status": 400, "message": "not today" });
    client().post(&rules).json(&rule).send().await.unwrap();
    emr.script(Rule {
        event_id: Some("b4".to_owned()),
        retry_after_s: Some(30),
        ..Rule::status(1, 429)
    });
    for (id, guid, status, retry_after, message, orders) in [
        ("b1", "g1", 200, None, None, 1),
        ("b2", "g2", 400, None, Some("not today"), 1),
        ("b3", "g9", 400, None, Some("Inventory item not found"), 1),
        ("b4", "g4", 429, Some("30"), None, 1),
        ("b4", "g4", 200, None, None, 2),
    ] {
        let answer = send(&emr, treatments(id, &[guid], "added")).await.unwrap();
        assert_eq!(answer.status(), status, "{id}");
        let header = answer.headers().get("retry-after").cloned();
        assert_eq!(
            header.as_ref().map(|value| value.to_str().unwrap()),
            retry_after
        );
        let body = answer.text().await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        assert_eq!(body["Message"].as_str(), message, "{id}");
        assert_eq!(emr.state().orders.len(), orders, "{id}");
    }
    client().delete(&rules).send().await.unwrap();
    let answer = send(&emr, treatments("b5", &["g2"], "added"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn it_books_and_never_answers_and_a_retry_that_says_changed_leaves_one_order() {
    let emr = SfsEmr::start(Options::default()).await.unwrap();
    emr.script(Rule::booked_then_hang(1));
    let first = client()
        .post(emr.url())
        .timeout(Duration::from_millis(300))
        .body(treatments("b1", &["g1"], "added"))
        .send();
    assert!(first.await.unwrap_err().is_timeout());
    let again = send(&emr, treatments("b1", &["g1"], "changed"))
        .await
        .unwrap();
    assert_eq!(again.status(), 200);
    let state = emr.state();
    assert_eq!(state.orders.len(), 1);
    assert_eq!(state.received[0].status, None);
    // The careless sender: a second `added` makes a second order.
    send(&emr, treatments("b1", &["g1"], "added"))
        .await
        .unwrap();
    assert_eq!(emr.state().orders.len(), 2);
}

#[tokio::test]
async fn late_results_are_posted_with_every_field_and_the_scripted_verdicts() {
    let (got, mut calls) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/late", listener.local_addr().unwrap());
    let receive = move |headers: HeaderMap, body: String| {
        let key = |name| headers[name].to_str().unwrap().to_owned();
        let body: Value = serde_json::from_str(&body).unwrap();
        got.send((key("emrapikey"), key("clinicapikey"), body))
            .unwrap();
        std::future::ready(())
    };
    let app = Router::new().route("/late", post(receive));
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let emr = SfsEmr::start(Options {
        call_back: Some(CallBack {
            client: client(),
            url: url.parse().unwrap(),
            emr_api_key: "emr-key".to_owned(),
            after: Duration::ZERO,
        }),
        ..Options::default()
    });
    let emr = emr.await.unwrap();
    emr.set_late_result("g2", -1, "out of stock");
    send(&emr, treatments("b1", &["g1", "g2"], "added"))
        .await
        .unwrap();
    let (emr_key, clinic_key, body) = calls.recv().await.unwrap();
    assert_eq!(
        (emr_key.as_str(), clinic_key.as_str()),
        ("emr-key", "oak-key")
    );
    assert_eq!(body["id"], "b1");
    let [first, second] = [&body["treatments"][0], &body["treatments"][1]];
    assert_eq!(first["asyncOperationStatus"], 0);
    assert_eq!(first["name"], "Secret Oil");
    assert_eq!(second["asyncOperationStatus"], -1);
    assert_eq!(second["asyncOperationMessage"], "out of stock");
    let again = emr.call_back("b1").await.unwrap();
    assert_eq!(again.status, Some(200));
    assert!(emr.call_back("b9").await.is_none());
    emr.shutdown().await;
}

#[tokio::test]
async fn it_shows_no_text_unless_it_is_told_to() {
    for shows_text in [false, true] {
        let (lines, mut said) = mpsc::unbounded_channel();
        let emr = SfsEmr::start(Options {
            shows_text,
            lines: Some(lines),
            ..Options::default()
        });
        let emr = emr.await.unwrap();
        let note = json!({ "id": "b1", "notes": [{
            "noteGuid": "n1", "hospitalizationId": "h1", "text": "a secret text", "status": "added",
        }]});
        let note =
            format!(r#"{{"clinicApiKey":"oak-key","eventType":"notes.entered","object":{note}}}"#);
        send(&emr, note).await.unwrap();
        send(&emr, treatments("b1", &["g1"], "added"))
            .await
            .unwrap();
        let state = client().get(format!("{}/state", emr.control_url()));
        let state = state.send().await.unwrap().text().await.unwrap();
        let shown = ["a secret text", "Secret Oil"].map(|secret| state.contains(secret));
        assert_eq!(shown, [shows_text; 2], "{state}");
        for end in [
            "oak  notes.entered  e1  1 item  200: booked, 1 written",
            "oak  treatments.records_entered  e1  1 item  200: booked, 1 made",
        ] {
            let line = said.recv().await.unwrap();
            assert!(line.ends_with(end), "{line}");
        }
    }
}
