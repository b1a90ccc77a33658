//! Cursors that are no good any more: what they point behind is forgotten, or another ledger's.

use std::fs;

use fullscript_events::simulator::Options;
use serde_json::Value;

use super::client::text;
use super::setting::{ALL, Streaming};
use crate::binary::{Running, was_killed};

/// Everything that is kept, with the daemon that serves it.
async fn all_of(streaming: &Streaming, count: usize) -> (Running, Vec<Value>) {
    let daemon = streaming.daemon();
    let mut sse = streaming.sse("?after=oldest", ALL, None).await;
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(sse.event().await);
    }
    (daemon, events)
}

/// On every wire the cursor is refused, and told which is the oldest that is good.
async fn refused(streaming: &Streaming, cursor: &str) -> String {
    let mut oldest = Vec::new();
    for path in ["/v1/stream", "/v1/events"] {
        let path = format!("{path}?after={cursor}");
        let (status, body) = streaming.answer(&path, Some(ALL)).await;
        assert_eq!(status, 410, "{path}: {body}");
        assert_eq!(text(&body, "error"), "gone");
        oldest.push(text(&body, "oldest").to_owned());
    }
    let first = format!(r#"{{"after":"{cursor}"}}"#);
    let (code, last) = streaming.socket(ALL, &first).await.closed().await;
    assert_eq!((code, text(&last, "status")), (4410, "CLOSED"));
    oldest.push(text(&last, "seq").to_owned());
    oldest.dedup();
    assert_eq!(oldest.len(), 1, "{oldest:?}");
    oldest.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_behind_which_frames_were_forgotten_is_told_the_oldest_that_is_good() {
    let streaming = Streaming::begin(Options::default(), "").await;
    streaming.make(6, "patient.created");
    let (daemon, events) = all_of(&streaming, 6).await;
    assert!(daemon.stop().success());
    let expire = |frames: usize| {
        let c = rusqlite::Connection::open(streaming.world.ledger_path()).unwrap();
        let expired = "UPDATE frame SET kept_until = 0 WHERE seq IN (SELECT seq FROM frame ORDER BY seq LIMIT ?1)";
        c.execute(expired, [frames]).unwrap();
    };
    expire(3);
    let daemon = streaming.daemon();
    let oldest = refused(&streaming, text(&events[1], "seq")).await;
    assert_eq!(oldest, text(&events[2], "seq"));
    for cursor in [&oldest, "oldest"] {
        let (_, answer) = streaming
            .answer(&format!("/v1/events?after={cursor}"), Some(ALL))
            .await;
        assert_eq!(answer["events"].as_array().unwrap(), &events[3..]);
    }
    assert!(daemon.stop().success());
    // With none left, the numbers go on where they were.
    expire(3);
    let daemon = streaming.daemon();
    refused(&streaming, text(&events[4], "seq")).await;
    let newest = text(&events[5], "seq");
    let mut sse = streaming.sse("", ALL, Some(newest)).await;
    assert_eq!(sse.frame().await.unwrap()["status"], "RECONNECTED");
    streaming.make(1, "order.placed");
    let next = sse.event().await;
    let number = |seq: &str| seq.rsplit('-').next().unwrap().parse::<i64>().unwrap();
    assert_eq!(number(text(&next, "seq")), number(newest) + 1);
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_a_ledger_that_was_restored_since_is_refused() {
    let streaming = Streaming::begin(Options::default(), "").await;
    streaming.make(2, "patient.created");
    let (daemon, before) = all_of(&streaming, 2).await;
    assert!(daemon.stop().success());
    let ledger = streaming.world.ledger_path();
    let backup = streaming.world.directory.path().join("backup");
    fs::copy(&ledger, &backup).unwrap();
    streaming.make(3, "patient.created");
    let (daemon, after) = all_of(&streaming, 5).await;
    assert_eq!(after[..2], before[..]);
    assert!(daemon.stop().success());
    fs::copy(&backup, &ledger).unwrap();
    let daemon = streaming.daemon();
    // Also one whose number the restored ledger knows: what comes next is not what came then.
    for cursor in [&before[0], &before[1], &after[4]] {
        refused(&streaming, text(cursor, "seq")).await;
    }
    let (_, answer) = streaming.answer("/v1/events", Some(ALL)).await;
    let served = answer["events"].as_array().unwrap();
    assert_eq!(served[0]["eventId"], before[0]["eventId"]);
    assert_ne!(served[0]["seq"], before[0]["seq"]);
    // And it stays so: the next start is no restore.
    assert!(daemon.stop().success());
    let daemon = streaming.daemon();
    let (_, again) = streaming.answer("/v1/events", Some(ALL)).await;
    assert_eq!(again["events"][0], served[0]);
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_whose_delivery_is_not_settled_is_not_forgotten() {
    let streaming = Streaming::begin(Options::default(), "").await;
    streaming.make(4, "patient.created");
    let mut dying = streaming.world.daemon_dying_at("stream.appended");
    assert!(was_killed(dying.wait()));
    let frames = || {
        let c = rusqlite::Connection::open(streaming.world.ledger_path()).unwrap();
        c.execute("UPDATE frame SET kept_until = 0", ()).unwrap();
        c.query_row("SELECT count(*) FROM frame", (), |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let made = frames();
    assert!(made > 0);
    // It would be made a second time.
    let (daemon, events) = all_of(&streaming, 4).await;
    assert!(text(&events[0], "seq").ends_with("-1"), "{}", events[0]);
    assert!(daemon.stop().success());
    assert_eq!(frames(), 4);
}
