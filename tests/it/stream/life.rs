//! Signs of life, and clients that give none. In this process: the minutes of the real daemon are milliseconds here.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use fullscript_events::app;
use fullscript_events::clock::{Clock as _, SharedClock, SystemClock};
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::{Pipeline, Scope};
use fullscript_events::simulator::Options;
use fullscript_events::store::Owner;
use fullscript_events::stream::Timing;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::client::{Bare, Got, text};
use super::setting::{ALL, Streaming};
use crate::binary::LIMIT;
use crate::world::{Setup, own};

/// Short, and apart enough to be told from each other on a busy machine.
const TIMING: Timing = Timing {
    ping: Duration::from_millis(50),
    silence: Duration::from_millis(800),
    greeting: Duration::from_millis(800),
    patience: Duration::from_secs(30),
};

/// A server without a daemon around it.
struct Serving {
    streaming: Streaming,
    pipeline: Arc<Pipeline>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    owner: Owner,
}

impl Serving {
    async fn begin(lines: &str) -> Self {
        Self::of(Streaming::begin(Options::default(), lines).await).await
    }

    async fn of(streaming: Streaming) -> Self {
        let config = streaming.world.config();
        let owner = own(&config);
        let clock: SharedClock = Arc::new(SystemClock::start());
        let pipeline = app::open(&config, &owner, clock).await.unwrap();
        let server = app::open_stream(&config, &owner, &pipeline, TIMING).await;
        let server = server.unwrap().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Self {
            streaming,
            pipeline,
            stop,
            task,
            owner,
        }
    }

    /// Polls and delivers all there is.
    async fn cycle(&self) {
        let lanes = self.pipeline.lanes.iter().copied().collect();
        self.pipeline.ledger.make_due(lanes).await.unwrap();
        let pipeline = Arc::clone(&self.pipeline);
        let life = Lifecycle::begin();
        pipeline.run_until_drained(&life, Scope::Everything).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.pipeline.tokens.drain().await;
        drop(self.pipeline);
        drop(self.owner);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_pings_stays_and_who_falls_silent_is_closed() {
    let serving = Serving::begin("").await;
    let mut socket = serving.streaming.socket(ALL, "{}").await;
    assert_eq!(socket.frame().await["status"], "CONNECTED");
    assert_eq!(socket.frame().await["status"], "CAUGHT_UP");
    // Longer than the patience with one that is silent.
    while socket.pings < 25 {
        let message = tokio::time::timeout(LIMIT, socket.wire.next()).await;
        match message.unwrap() {
            Some(Ok(Message::Text(text))) if text.as_str() == "ping" => {
                socket.pings += 1;
                socket.wire.send(Message::text("pong")).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    // A client may ask too.
    socket.wire.send(Message::text("ping")).await.unwrap();
    let mut answered = false;
    let mut last = Value::Null;
    loop {
        let message = tokio::time::timeout(LIMIT, socket.wire.next()).await;
        match message.unwrap() {
            Some(Ok(Message::Text(text))) if text.as_str() == "pong" => answered = true,
            Some(Ok(Message::Text(text))) if text.as_str() == "ping" => {}
            Some(Ok(Message::Text(text))) => last = serde_json::from_str(text.as_str()).unwrap(),
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 4408);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(answered);
    assert_eq!(
        (text(&last, "status"), text(&last, "reason")),
        ("CLOSED", "Silent")
    );
    // Who never says what it wants is closed too.
    let mut mute = serving.streaming.socket(ALL, "ping").await;
    assert_eq!(mute.closed().await.0, 4400);
    serving.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_lets_nothing_through_still_moves_the_cursor() {
    let serving = Serving::begin("").await;
    let mut sse = serving.streaming.sse("?name=clinic_key.*", ALL, None).await;
    let begun = sse.status("CAUGHT_UP").await;
    serving.streaming.make(3, "patient.created");
    serving.cycle().await;
    let (_, all) = serving.streaming.answer("/v1/events", Some(ALL)).await;
    assert_eq!(all["events"].as_array().unwrap().len(), 3);
    assert_ne!(all["next"], begun["seq"]);
    // A sign of life may have come between two of them.
    while sse.status("CAUGHT_UP").await["seq"] != all["next"] {}
    // Signs of life are comments here.
    let mut comments = 0;
    while comments < 3 {
        match sse.next().await {
            Some(Got::Comment) => comments += 1,
            Some(Got::Frame(frame)) => panic!("{frame}"),
            None => panic!("it ended"),
        }
    }
    serving.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_nothing_is_cut_off() {
    let serving = Serving::begin("").await;
    let mut mute = TcpStream::connect(serving.streaming.address).await.unwrap();
    let mut nothing = Vec::new();
    let end = tokio::time::timeout(LIMIT, mute.read_to_end(&mut nothing));
    end.await.unwrap().ok();
    assert_eq!(nothing, [0; 0]);
    serving.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_a_byte_at_a_time_is_cut_off_all_the_same() {
    let serving = Serving::begin("").await;
    let slow = TcpStream::connect(serving.streaming.address).await.unwrap();
    let (mut heard, mut say) = slow.into_split();
    let saying = tokio::spawn(async move {
        while say.write_all(b"G").await.is_ok() {
            // What is tested is a client that takes its time.
            tokio::time::sleep(TIMING.greeting / 8).await;
        }
    });
    let mut nothing = Vec::new();
    let end = tokio::time::timeout(TIMING.greeting * 6, heard.read_to_end(&mut nothing));
    end.await.unwrap().ok();
    assert_eq!(nothing, [0; 0]);
    saying.abort();
    serving.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_read_to_while_the_rest_is_forgotten_is_told() {
    const COUNT: usize = 2_000;
    let serving = Serving::begin("buffer = 16").await;
    serving.streaming.make(COUNT, "treatment_plan.created");
    serving.cycle().await;
    let mut slow = Bare::subscribe(&serving.streaming, ALL, "oldest", Some(4096)).await;
    assert_eq!(slow.frame().await.unwrap()["status"], "CONNECTED");
    let later = SystemClock::start().now() + TimeDelta::days(8);
    let forgotten = serving.pipeline.ledger.prune_frames(later).await.unwrap();
    assert_eq!(forgotten, COUNT);
    let mut seen = 0;
    let last = loop {
        let frame = slow.frame().await.unwrap();
        if frame["type"] == "event" {
            seen += 1;
        } else {
            break frame;
        }
    };
    assert!(seen < COUNT, "it had read all");
    assert_eq!(
        (text(&last, "status"), text(&last, "reason")),
        ("CLOSED", "Expired")
    );
    // Where it can begin again.
    let oldest = text(&last, "seq");
    let again = format!("/v1/events?after={oldest}");
    assert_eq!(serving.streaming.answer(&again, Some(ALL)).await.0, 200);
    serving.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_client_that_takes_nothing_is_in_the_audit_log_all_the_same() {
    let setup = Setup {
        clinics: vec!["oak".to_owned(), "elm".to_owned()],
        poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
        more: "[audit]\n".to_owned(),
        ..Setup::default()
    };
    let streaming = Streaming::begin_with(Options::default(), setup, "").await;
    let serving = Serving::of(streaming).await;
    serving.streaming.make(2_000, "treatment_plan.created");
    serving.cycle().await;
    let mut slow = Bare::subscribe(&serving.streaming, ALL, "oldest", Some(4096)).await;
    assert_eq!(slow.frame().await.unwrap()["status"], "CONNECTED");
    let Serving {
        streaming,
        pipeline,
        stop,
        task,
        owner,
    } = serving;
    stop.cancel();
    task.await.unwrap();
    pipeline.audit.finish().await;
    let rows = streaming.world.audit_rows();
    let closed = rows.iter().filter(|row| row["action"] == "stream_close");
    assert_eq!(closed.count(), 1);
    drop((slow, pipeline, owner));
}
