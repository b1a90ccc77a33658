//! What a client sees when all is well.

use fullscript_events::simulator::Options;
use serde_json::json;

use super::client::text;
use super::setting::{ALL, IDS, PATIENTS, Streaming};
use crate::world::Setup;

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_carries_what_the_operator_says_of_its_event_live_and_read_again() {
    let setup = Setup {
        poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
        more: "[[enrich]]\nmatch = [\"fhir.create\"]\nmetadata = { compliance = \"HIPAA\" }\n"
            .to_owned(),
        ..Setup::default()
    };
    let streaming = Streaming::begin_with(Options::default(), setup, "").await;
    let daemon = streaming.daemon();
    let mut sse = streaming.sse("", IDS, None).await;
    sse.frame().await.unwrap();
    streaming.make(1, "patient.created");
    assert_eq!(
        sse.event().await["metadata"],
        json!({ "compliance": "HIPAA" })
    );
    streaming.make(1, "patient.updated");
    assert!(sse.event().await.get("metadata").is_none());
    let (_, all) = streaming.answer("/v1/events", ALL.into()).await;
    assert_eq!(
        all["events"][0]["metadata"],
        json!({ "compliance": "HIPAA" })
    );
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_every_kind_of_client() {
    let streaming = Streaming::begin(Options::default(), "").await;
    let before = streaming.make(3, "patient.created");
    let daemon = streaming.daemon();
    let mut sse = streaming.sse("?after=oldest", ALL, None).await;
    let connected = sse.frame().await.unwrap();
    assert_eq!(connected["status"], "CONNECTED");
    assert_eq!(connected["phi"], "full");
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(text(&sse.event().await, "eventId").to_owned());
    }
    seen.sort();
    let mut expected = before.clone();
    expected.sort();
    assert_eq!(seen, expected);
    // iCure's first frame, exactly.
    let mut socket = streaming
        .socket(
            ALL,
            r#"{"eventTypes":["CREATE"],"entityClass":"org.taktik.icure.entities.Patient","filter":{"filter":{"$type":"ByNameFilter","pattern":"*"}}}"#,
        )
        .await;
    assert_eq!(socket.frame().await["status"], "CONNECTED");
    assert_eq!(socket.frame().await["status"], "CAUGHT_UP");
    let id = streaming.make(1, "patient.created").remove(0);
    let by_sse = sse.event().await;
    let by_socket = socket.event().await;
    assert_eq!(by_sse, by_socket);
    assert_eq!(by_sse["eventId"], json!(id));
    assert_eq!(by_sse["eventType"], "CREATE");
    assert_eq!(by_sse["entityClass"], "Patient");
    assert_eq!(by_sse["clinic"], "oak");
    assert!(by_sse["entity"]["patient"]["id"].is_string());
    let (status, all) = streaming.answer("/v1/events?limit=3", IDS.into()).await;
    assert_eq!(status, 200, "{all}");
    assert_eq!(all["events"].as_array().unwrap().len(), 3);
    assert_eq!(all["more"], true);
    assert!(all["events"][0].get("entity").is_none());
    let next = format!("/v1/events?after={}", text(&all, "next"));
    let (_, rest) = streaming.answer(&next, ALL.into()).await;
    assert_eq!(rest["events"], json!([by_sse]));
    assert_eq!(rest["more"], false);
    assert_eq!(rest["next"], by_sse["seq"]);
    assert!(daemon.stop().success());
    assert_eq!(sse.status("CLOSED").await["reason"], "Shutdown");
    let (code, last) = socket.closed().await;
    assert_eq!((code, text(&last, "reason")), (1001, "Shutdown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_is_in_the_audit_log() {
    let setup = Setup {
        poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
        more: "[audit]\n".to_owned(),
        ..Setup::default()
    };
    let streaming = Streaming::begin_with(Options::default(), setup, "").await;
    streaming.make(2, "patient.created");
    let daemon = streaming.daemon();
    let mut sse = streaming.sse("?after=oldest", ALL, None).await;
    sse.event().await;
    let second = sse.event().await;
    let (status, _) = streaming.answer("/v1/events", IDS.into()).await;
    assert_eq!(status, 200);
    let nothing = "/v1/events?name=order.*";
    let (status, _) = streaming.answer(nothing, Some(PATIENTS)).await;
    assert_eq!(status, 200);
    // Stopped while it is subscribed: that it ends is known all the same.
    assert!(daemon.stop().success());
    let rows = streaming.world.audit_rows();
    let of = |action: &str, actor: &str| {
        let row = rows
            .iter()
            .find(|row| row["action"] == action && row["actor"] == actor);
        row.unwrap_or_else(|| panic!("no {action} by {actor}"))["path"].clone()
    };
    // With the epoch of the cursor, of which a number alone says nothing once a ledger was restored.
    let epoch = text(&second, "seq").split('-').next().unwrap().to_owned();
    let all = "clinics=:all";
    assert_eq!(
        of("stream_open", "stream:all"),
        format!("/v1/stream#after={epoch}-0;phi=full;{all}")
    );
    assert_eq!(
        of("stream_close", "stream:all"),
        format!("/v1/stream#after={epoch}-0;upto={epoch}-2")
    );
    assert_eq!(
        of("read", "stream:ids"),
        format!("/v1/events#after={epoch}-0;upto={epoch}-2;frames=2;phi=ids;{all}")
    );
    // An answer that tells nothing is not in it.
    assert!(!rows.iter().any(|row| row["actor"] == "stream:patients"));
    let (code, found) = streaming.world.verify();
    assert_eq!(code, 0, "{found}");
    assert!(!rows.iter().any(|row| row.to_string().contains(ALL)));
}
