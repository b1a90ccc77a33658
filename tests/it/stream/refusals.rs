//! What a token may not have, and what is not understood.

use fullscript_events::simulator::Options;

use super::client::text;
use super::setting::{ALL, IDS, OAK, PATIENTS, Streaming};

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_more_than_its_token_has_is_refused_and_told_why() {
    let streaming = Streaming::begin(Options::default(), "max_filter = 4").await;
    let elm = streaming.world.clinic("elm").clinic_id.clone();
    streaming.make(2, "patient.created");
    streaming.make_at(&elm, 2, "order.placed");
    let daemon = streaming.daemon();
    let mut all = streaming.sse("?after=oldest", ALL, None).await;
    for _ in 0..4 {
        all.event().await;
    }
    let five = r#"{"$type":"UnionFilter","filters":[{"$type":"ByNameFilter","pattern":"a"},{"$type":"ByNameFilter","pattern":"a"},{"$type":"ByNameFilter","pattern":"a"},{"$type":"ByNameFilter","pattern":"a"}]}"#;
    let clinic = |name: &str| format!(r#"{{"$type":"ByClinicFilter","clinics":["{name}"]}}"#);
    let subset = format!(
        r#"{{"$type":"ComplementFilter","superSet":{},"subSet":{}}}"#,
        clinic("oak"),
        clinic("elm")
    );
    for (token, frame, expected) in [
        (Some(OAK), format!(r#"{{"filter":{}}}"#, clinic("elm")), 403),
        (Some(OAK), format!(r#"{{"filter":{}}}"#, clinic(&elm)), 403),
        (
            Some(OAK),
            format!(r#"{{"filter":{}}}"#, clinic("nowhere")),
            403,
        ),
        (Some(OAK), format!(r#"{{"filter":{subset}}}"#), 403),
        (Some(OAK), format!(r#"{{"filter":{}}}"#, clinic("oak")), 200),
        (Some(ALL), format!(r#"{{"filter":{}}}"#, clinic(&elm)), 200),
        (Some(PATIENTS), r#"{"entityClass":"Order"}"#.to_owned(), 403),
        (
            Some(PATIENTS),
            r#"{"entityClass":["Patient","Order"]}"#.to_owned(),
            403,
        ),
        (Some(PATIENTS), r#"{"entityClass":"*"}"#.to_owned(), 403),
        (
            Some(PATIENTS),
            r#"{"entityClass":"x.y.Patient"}"#.to_owned(),
            200,
        ),
        (Some(PATIENTS), "{}".to_owned(), 200),
        (Some(ALL), format!(r#"{{"filter":{five}}}"#), 400),
        (
            Some(ALL),
            r#"{"filter":{"$type":"PatientBySsinFilter"}}"#.to_owned(),
            400,
        ),
        (Some(ALL), r#"{"eventTypes":["MERGE"]}"#.to_owned(), 400),
        (Some(ALL), r#"{"entitiyClass":"Patient"}"#.to_owned(), 400),
        (Some(ALL), r#"{"after":"1041"}"#.to_owned(), 400),
        (Some(ALL), "[]".to_owned(), 400),
        (Some(ALL), "{".to_owned(), 400),
        (Some("canary-token-of-nobody-0123"), "{}".to_owned(), 401),
        (None, "{}".to_owned(), 401),
    ] {
        let query: String = url_encoded(&frame);
        for path in ["/v1/stream", "/v1/events"] {
            let path = format!("{path}?subscribe={query}");
            let response = streaming.get(&path, token).await;
            assert_eq!(response.status().as_u16(), expected, "{path} {frame}");
            if expected != 200 {
                let body: serde_json::Value =
                    serde_json::from_str(&response.text().await.unwrap()).unwrap();
                assert!(text(&body, "message").len() > 10, "{body}");
            }
        }
        if let (Some(token), false) = (token, expected == 401) {
            let mut socket = streaming.socket(token, &frame).await;
            if expected == 200 {
                assert_eq!(socket.frame().await["status"], "CONNECTED");
            } else {
                let (code, last) = socket.closed().await;
                assert_eq!(code, 4000 + expected, "{frame}");
                assert_eq!(last["status"], "CLOSED");
                // Whoever keeps the last seq keeps the one it had.
                assert!(last.get("seq").is_none(), "{last}");
                assert!(text(&last, "message").len() > 10, "{last}");
            }
        }
    }
    // Never in an address.
    let (status, body) = streaming
        .answer(&format!("/v1/events?token={ALL}"), Some(ALL))
        .await;
    assert_eq!(status, 400, "{body}");
    let (status, _) = streaming
        .answer(&format!("/v1/events?access_token={ALL}"), None)
        .await;
    assert_eq!(status, 401);
    for (token, expected) in [(ALL, 4), (IDS, 4), (OAK, 2), (PATIENTS, 2)] {
        let (_, answer) = streaming.answer("/v1/events", Some(token)).await;
        let events = answer["events"].as_array().unwrap();
        assert_eq!(events.len(), expected, "{answer}");
        // What is not its own moves its cursor all the same.
        let (_, of_all) = streaming.answer("/v1/events", Some(ALL)).await;
        assert_eq!(answer["next"], of_all["next"]);
    }
    let said = daemon.stop_and_listen();
    for token in [ALL, IDS, OAK, PATIENTS, "canary-token-of-nobody-0123"] {
        assert!(!said.contains(token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_subscribe_and_only_pages_of_listed_origins_read() {
    let lines = "max_connections = 2\nallow_origins = [\"https://ehr.example\"]";
    let streaming = Streaming::begin(Options::default(), lines).await;
    let daemon = streaming.daemon();
    let first = streaming.sse("", ALL, None).await;
    let mut second = streaming.socket(ALL, "{}").await;
    assert_eq!(second.frame().await["status"], "CONNECTED");
    let (status, body) = streaming.answer("/v1/stream", Some(ALL)).await;
    assert_eq!(
        (status, text(&body, "error")),
        (503, "too_many_connections")
    );
    let mut third = streaming.socket(ALL, "{}").await;
    let (code, last) = third.closed().await;
    assert_eq!((code, last.get("seq")), (4429, None));
    // A plain request takes no place.
    assert_eq!(streaming.answer("/v1/events", Some(ALL)).await.0, 200);
    drop(first);
    // The place is free as soon as the daemon has noticed.
    while streaming.get("/v1/stream", Some(ALL)).await.status() != 200 {}

    for (origin, allowed) in [
        ("https://ehr.example", true),
        ("https://evil.example", false),
    ] {
        let client = reqwest_client();
        let asked = client.request(reqwest::Method::OPTIONS, streaming.url("/v1/stream"));
        let asked = asked.header("origin", origin);
        let asked = asked.header("access-control-request-headers", "authorization");
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status().is_success(), allowed);
        let answered = answer.headers().get("access-control-allow-origin");
        assert_eq!(answered.is_some_and(|it| it == origin), allowed);
        let asked = client.get(streaming.url("/v1/events")).bearer_auth(ALL);
        let answer = asked.header("origin", origin).send().await.unwrap();
        let answered = answer.headers().get("access-control-allow-origin");
        assert_eq!(answered.is_some_and(|it| it == origin), allowed);
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    drop(second);
    assert!(daemon.stop().success());
}

fn reqwest_client() -> reqwest::Client {
    fullscript_events::http::builder(
        &fullscript_events::config::Http::default(),
        crate::binary::LIMIT,
    )
    .unwrap()
    .build()
    .unwrap()
}

fn url_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
