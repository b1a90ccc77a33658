//! What a token with `phi = "ids"` sees, and what lies on the disk.

use std::time::Duration;

use fullscript_events::simulator::Options;
use serde_json::Value;

use super::client::text;
use super::setting::{ALL, IDS, Streaming};
use crate::world::Setup;

/// Everything in an event's data that says something of somebody: ids, addresses, names.
fn canaries(data: &Value, found: &mut Vec<String>) {
    match data {
        Value::Array(list) => list.iter().for_each(|value| canaries(value, found)),
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if key.contains("name") || key == "email" || text.len() == 36 => {
                        found.extend((text.len() > 3).then(|| text.to_owned()));
                    }
                    _ => canaries(value, found),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

const TYPES: [&str; 5] = [
    "patient.created",
    "patient.emancipated",
    "order.placed",
    "lab_order.updated",
    "treatment_plan.created",
];

fn canaries_of(streaming: &Streaming, ids: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for id in ids {
        let reply = streaming.world.vendor.reply_for(id).unwrap();
        let reply: Value = serde_json::from_str(&reply).unwrap();
        canaries(&reply["event"]["data"], &mut found);
    }
    assert!(found.iter().any(|text| text.contains('@')), "no address");
    assert!(found.len() > 10);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_ids_sees_nobody_in_any_frame() {
    let streaming = Streaming::begin(Options::default(), "").await;
    let mut ids: Vec<String> = TYPES.iter().flat_map(|it| streaming.make(1, it)).collect();
    let daemon = streaming.daemon();
    // From the ledger, and then from the ring.
    let mut sse = streaming.sse("?after=oldest", IDS, None).await;
    let mut socket = streaming.socket(IDS, r#"{"after":"oldest"}"#).await;
    let mut full = streaming.sse("?after=oldest", ALL, None).await;
    for _ in 0..5 {
        sse.event().await;
        socket.event().await;
        full.event().await;
    }
    ids.extend(TYPES.iter().flat_map(|it| streaming.make(1, it)));
    let mut patient = None;
    for _ in 0..5 {
        assert_eq!(sse.event().await.get("entity"), None);
        socket.event().await;
        let frame = full.event().await;
        if frame["name"] == "patient.created" {
            patient = frame["entity"]["patient"]["id"].as_str().map(str::to_owned);
        }
    }
    let patient = patient.unwrap();
    let path = format!("/v1/events?patient={patient}");
    let mut plain = streaming
        .get("/v1/events", Some(IDS))
        .await
        .text()
        .await
        .unwrap();
    let of_patient = streaming.get(&path, Some(ALL)).await.text().await.unwrap();
    assert!(of_patient.contains("patient.created"));
    // Who may see ids only cannot find out whom an event concerns, also if it knows a patient's id.
    assert_eq!(streaming.get(&path, Some(IDS)).await.status(), 403);
    for (token, found) in [(ALL, true), (IDS, false)] {
        let path = format!("/v1/events?ids={patient}");
        let by_id = streaming.get(&path, Some(token)).await.text().await;
        let by_id = by_id.unwrap();
        assert_eq!(by_id.contains("patient.created"), found, "{by_id}");
        if token == IDS {
            plain += &by_id;
        }
    }
    let canaries = canaries_of(&streaming, &ids);
    for canary in &canaries {
        assert!(!sse.raw.contains(canary.as_str()), "{canary}");
        assert!(!socket.raw.contains(canary.as_str()), "{canary}");
        assert!(!plain.contains(canary.as_str()), "{canary}");
    }
    // They were there to be seen.
    assert!(
        canaries
            .iter()
            .any(|canary| full.raw.contains(canary.as_str()))
    );
    let said = daemon.stop_and_listen();
    let files = std::fs::read_dir(streaming.world.state_path()).unwrap();
    for path in files.map(|entry| entry.unwrap().path()) {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for canary in canaries
            .iter()
            .filter(|text| text.contains('@') || text.len() == 36)
        {
            assert!(
                !text.contains(canary.as_str()),
                "{}: {canary}",
                path.display()
            );
            assert!(!said.contains(canary.as_str()), "{canary}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_bodies_are_kept_frames_carry_ids_and_say_so() {
    for (state, stream) in [("", "retain = \"0s\""), ("bodies = \"never\"", "")] {
        let setup = Setup {
            clinics: vec!["oak".to_owned(), "elm".to_owned()],
            poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
            state: state.to_owned(),
            ..Setup::default()
        };
        let streaming = Streaming::begin_with(Options::default(), setup, stream).await;
        streaming.make(2, "patient.created");
        let daemon = streaming.daemon();
        let mut sse = streaming.sse("?after=oldest", ALL, None).await;
        assert_eq!(sse.frame().await.unwrap()["phi"], "ids");
        for _ in 0..2 {
            assert_eq!(sse.event().await.get("entity"), None);
        }
        assert!(daemon.stop().success());
        let c = rusqlite::Connection::open(streaming.world.ledger_path()).unwrap();
        let count = "SELECT count(*), count(sealed) FROM frame";
        let kept: (i64, i64) = c
            .query_row(count, (), |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(kept, (2, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_person_sends_again_is_a_new_frame() {
    let streaming = Streaming::begin(Options::default(), "").await;
    let id = streaming.make(1, "order.placed").remove(0);
    let daemon = streaming.daemon();
    let mut sse = streaming.sse("?after=oldest", ALL, None).await;
    let first = sse.event().await;
    assert_eq!(first["replay"], false);
    let resent = streaming
        .world
        .run(&["events", "resend", &id, "--sink", "stream"]);
    assert!(resent.status.success(), "{resent:?}");
    let second = tokio::time::timeout(Duration::from_secs(30), sse.event());
    let second = second.await.unwrap();
    assert_eq!(second["replay"], true);
    assert_eq!(second["eventId"], first["eventId"]);
    assert_eq!(second["entity"], first["entity"]);
    assert_ne!(second["seq"], first["seq"]);
    let listed = streaming.world.run(&["sinks", "list"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("stream"), "{listed}");
    assert_eq!(text(&second, "clinic"), "oak");
    assert!(daemon.stop().success());
}
