//! A client that is cut off anywhere, and a daemon that dies anywhere: every later event once, in order.
//!
//! `FULLSCRIPT_EVENTS_DISCONNECTS` sets how often the client is cut off; the daemon dies once for every ten times, by
//! `kill -9`, between a frame and the record of it, or as it should. `FULLSCRIPT_EVENTS_SEED` repeats a run's choices.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use fullscript_events::simulator::{Delay, Options};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::client::{Heard, text};
use super::setting::{ALL, Streaming};
use crate::binary::{DAEMON, LIMIT, Running};
use crate::kills::number;
use crate::world::assert_same_ids;

const CRASH_POINT: &str = "stream.appended";

/// What a client has seen, and where it stands.
#[derive(Default)]
struct Seen {
    events: Vec<Value>,
    cursor: Option<String>,
}

impl Seen {
    fn take(&mut self, frame: Value) {
        self.cursor = Some(text(&frame, "seq").to_owned());
        if frame["type"] == "event" {
            self.events.push(frame);
        }
    }

    fn ids(&self) -> Vec<String> {
        let ids = self.events.iter();
        ids.map(|frame| text(frame, "eventId").to_owned()).collect()
    }

    /// Connects, takes at most so many frames for at most so long, and goes away without a word. The daemon may have
    /// died meanwhile.
    async fn connect(&mut self, streaming: &Streaming, wire: u32, most: usize, limit: Duration) {
        let cursor = self.cursor.clone().unwrap_or_else(|| "oldest".to_owned());
        match wire {
            0 => {
                let known = self.cursor.as_deref();
                let query = if known.is_none() { "?after=oldest" } else { "" };
                let Some(mut sse) = streaming.try_sse(query, ALL, known).await else {
                    return;
                };
                for _ in 0..most {
                    match tokio::time::timeout(limit, sse.frame()).await {
                        Ok(Some(frame)) => self.take(frame),
                        Ok(None) | Err(_) => break,
                    }
                }
            }
            1 => {
                let first = format!(r#"{{"entityClass":"*","after":"{cursor}"}}"#);
                let Some(mut socket) = streaming.try_socket(ALL, &first).await else {
                    return;
                };
                for _ in 0..most {
                    match tokio::time::timeout(limit, socket.next()).await {
                        Ok(Heard::Frame(frame)) => self.take(frame),
                        Ok(Heard::Closed(..)) | Err(_) => break,
                    }
                }
            }
            _ => {
                let path = format!("/v1/events?after={cursor}&limit={most}");
                let Some(response) = streaming.try_get(&path, Some(ALL)).await else {
                    return;
                };
                assert_eq!(response.status(), 200);
                let Ok(body) = response.text().await else {
                    return;
                };
                let answer: Value = serde_json::from_str(&body).unwrap();
                for frame in answer["events"].as_array().unwrap() {
                    self.take(frame.clone());
                }
                self.cursor = Some(text(&answer, "next").to_owned());
            }
        }
    }
}

fn start(streaming: &Streaming, dying: bool) -> Running {
    let mut command = streaming.world.command(&DAEMON);
    if dying {
        command.env(crate::binary::CRASH_AT, CRASH_POINT);
    }
    let mut daemon = Running::start(&mut command);
    daemon.wait_for("the live subscription listens");
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cut_off_anywhere_sees_every_later_event_once_and_in_order() {
    let disconnects = number("FULLSCRIPT_EVENTS_DISCONNECTS").unwrap_or(40);
    let seed = number("FULLSCRIPT_EVENTS_SEED").unwrap_or_else(rand::random);
    eprintln!("{disconnects} disconnects; FULLSCRIPT_EVENTS_SEED={seed} repeats this run");
    let mut random = StdRng::seed_from_u64(seed);
    let options = Options {
        seed,
        // They become visible late and out of order.
        visible_after: Delay {
            least: Duration::ZERO,
            most: Duration::from_secs(1),
        },
        ..Options::default()
    };
    let streaming = Streaming::begin(options, "").await;
    let month = Duration::from_hours(24 * 29);
    for clinic in &streaming.world.clinics {
        let vendor = &streaming.world.vendor;
        vendor.make_history(&clinic.clinic_id, "patients", 60, month);
        vendor.make_history(&clinic.clinic_id, "orders", 60, month);
    }
    let begun = Instant::now();
    let (mut restarts, mut crashes) = (0, 0);
    let mut daemon = start(&streaming, true);
    let mut seen = Seen::default();
    for round in 1..=disconnects {
        for _ in 0..random.random_range(0..6) {
            streaming.world.vendor.make_any_event().unwrap();
        }
        // One that is to die between a frame and its record may do so under the client's hands.
        if daemon.has_ended() {
            crashes += 1;
            restarts += 1;
            daemon = start(&streaming, false);
        } else if round % 10 == 0 {
            restarts += 1;
            if random.random() {
                daemon.kill();
            } else {
                assert!(daemon.stop().success());
            }
            daemon = start(&streaming, random.random());
        }
        let limit = Duration::from_millis(random.random_range(1..400));
        let (wire, most) = (random.random_range(0..3), random.random_range(1..25));
        if daemon.has_ended() {
            continue;
        }
        seen.connect(&streaming, wire, most, limit).await;
    }
    // One that stays takes the rest.
    drop(daemon);
    let daemon = start(&streaming, false);
    let made = streaming.world.made_ids();
    let until = Instant::now() + LIMIT;
    while seen.events.len() < made.len() {
        assert!(
            Instant::now() < until,
            "{} of {}",
            seen.events.len(),
            made.len()
        );
        seen.connect(&streaming, 0, 100, Duration::from_millis(500))
            .await;
    }
    // Nothing more comes.
    seen.connect(&streaming, 2, 100, Duration::ZERO).await;
    let ids = seen.ids();
    let distinct: HashSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "an event came twice");
    let mut sorted = ids.clone();
    sorted.sort();
    assert_same_ids(&sorted, &made);
    // In the order in which they became servable, and with the same bytes.
    let mut afresh = Seen::default();
    while afresh.events.len() < made.len() {
        afresh.connect(&streaming, 2, 1000, Duration::ZERO).await;
    }
    assert!(
        afresh.events == seen.events,
        "another order, or other frames"
    );
    assert!(daemon.stop().success());
    streaming.world.assert_all_shown_once();
    eprintln!(
        "{} events, {disconnects} disconnects, {restarts} restarts ({crashes} between a frame and its record), {} s: \
         each once, in order",
        made.len(),
        begun.elapsed().as_secs()
    );
}
