//! Slow subscribers, and many of them.

use std::collections::BTreeSet;

use fullscript_events::clock::{Clock as _, SystemClock};
use fullscript_events::simulator::Options;
use tokio::task::JoinSet;

use super::client::{Bare, text};
use super::setting::{ALL, Streaming};
use crate::kills::number;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_closed_with_channel_full_and_loses_nothing() {
    const COUNT: usize = 1_500;
    let streaming = Streaming::begin(Options::default(), "buffer = 16").await;
    let daemon = streaming.daemon();
    let mut slow = Bare::subscribe(&streaming, ALL, "now", Some(4096)).await;
    assert_eq!(slow.frame().await.unwrap()["status"], "CONNECTED");
    assert_eq!(slow.frame().await.unwrap()["status"], "CAUGHT_UP");
    let made: BTreeSet<String> = streaming
        .make(COUNT, "treatment_plan.created")
        .into_iter()
        .collect();
    // Somebody else reads on.
    let mut cursor = "oldest".to_owned();
    let mut known = 0;
    while known < COUNT {
        let path = format!("/v1/events?limit=1000&after={cursor}");
        let (_, answer) = streaming.answer(&path, Some(ALL)).await;
        known += answer["events"].as_array().unwrap().len();
        text(&answer, "next").clone_into(&mut cursor);
    }
    let mut seen = Vec::new();
    let closed = loop {
        let frame = slow.frame().await.unwrap();
        if frame["type"] == "event" {
            seen.push(frame);
        } else if frame["status"] == "CLOSED" {
            break frame;
        }
    };
    assert_eq!(closed["reason"], "ChannelFull");
    assert!(slow.frame().await.is_none(), "it ends");
    let before = seen.len();
    assert!(before < COUNT, "it was not slow");
    // What it is told is where it was.
    assert_eq!(
        closed["seq"],
        seen.last()
            .map_or(closed["seq"].clone(), |last| last["seq"].clone())
    );
    let mut resumed = Bare::subscribe(&streaming, ALL, text(&closed, "seq"), None).await;
    while seen.len() < COUNT {
        let frame = resumed.frame().await.unwrap();
        if frame["type"] == "event" {
            seen.push(frame);
        }
    }
    let ids: BTreeSet<String> = seen
        .iter()
        .map(|it| text(it, "eventId").to_owned())
        .collect();
    assert_eq!(ids, made);
    eprintln!("closed with ChannelFull after {before} of {COUNT} frames; resumed with the rest");
    assert!(daemon.stop().success());
}

/// Memory that a process has of its own, in KiB.
fn memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse().unwrap()
}

/// `FULLSCRIPT_EVENTS_SUBSCRIBERS` sets how many.
#[tokio::test(flavor = "multi_thread")]
async fn many_subscribers_see_an_event_within_two_seconds() {
    let count = usize::try_from(number("FULLSCRIPT_EVENTS_SUBSCRIBERS").unwrap_or(100)).unwrap();
    let lines = format!("max_connections = {}", count.min(10_000));
    let streaming = Streaming::begin(Options::default(), &lines).await;
    // The daemon has read and served before: what it takes once is not counted for each.
    streaming.make(10, "patient.created");
    let daemon = streaming.daemon();
    let mut first = streaming.sse("?after=oldest", ALL, None).await;
    for _ in 0..10 {
        first.event().await;
    }
    drop(first);
    let before = memory_kib(daemon.id());
    let mut sockets = Vec::new();
    let mut bare = Vec::new();
    for index in 0..count {
        if index % 2 == 0 {
            loop {
                // The place of the one before may not be free yet.
                let mut socket = streaming.socket(ALL, "{}").await;
                if socket.frame().await["status"] == "CONNECTED" {
                    assert_eq!(socket.frame().await["status"], "CAUGHT_UP");
                    sockets.push(socket);
                    break;
                }
            }
        } else {
            let mut subscriber = Bare::subscribe(&streaming, ALL, "now", None).await;
            assert_eq!(subscriber.frame().await.unwrap()["status"], "CONNECTED");
            assert_eq!(subscriber.frame().await.unwrap()["status"], "CAUGHT_UP");
            bare.push(subscriber);
        }
    }
    let each_kib = (memory_kib(daemon.id()).saturating_sub(before)) / count as u64;
    let mut arrivals = JoinSet::new();
    for mut socket in sockets {
        arrivals.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..5 {
                let frame = socket.event().await;
                times.push((
                    text(&frame, "eventId").to_owned(),
                    SystemClock::start().now(),
                ));
            }
            times
        });
    }
    for mut subscriber in bare {
        arrivals.spawn(async move {
            let mut times = Vec::new();
            while times.len() < 5 {
                let frame = subscriber.frame().await.unwrap();
                if frame["type"] == "event" {
                    times.push((
                        text(&frame, "eventId").to_owned(),
                        SystemClock::start().now(),
                    ));
                }
            }
            times
        });
    }
    streaming.make(5, "patient.created");
    let arrivals: Vec<_> = arrivals.join_all().await.into_iter().flatten().collect();
    assert_eq!(arrivals.len(), 5 * count);
    let after = memory_kib(daemon.id());
    let c = rusqlite::Connection::open(streaming.world.ledger_path()).unwrap();
    let slowest = arrivals.iter().map(|(id, at)| {
        let made_at: i64 = c
            .query_row("SELECT made_at FROM frame WHERE id = ?1", [id], |row| {
                row.get(0)
            })
            .unwrap();
        at.timestamp_millis() - made_at
    });
    let slowest = slowest.max().unwrap();
    eprintln!(
        "{count} subscribers: the slowest saw an event {slowest} ms after its frame was made; {each_kib} KiB each while \
         they wait, {} KiB each after it",
        after.saturating_sub(before) / count as u64
    );
    assert!(slowest < 2_000, "{slowest} ms");
    assert!(each_kib < 200, "{each_kib} KiB for each subscriber");
    drop(c);
    assert!(daemon.stop().success());
}
