//! Speed of delivery, as a ratio: a webhook sink that delivers a backlog against a bare loop that posts the same bodies
//! and promises nothing.
//!
//! Ours makes two durable commits for every delivery: the claim before it leaves, and the settling after the answer. The
//! loop posts one after the other, which is what the limit is about, or as many at once as ours. The receiver answers at
//! once, in a process of its own. See `benches/README.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark reads the machine's clock, prints, and ends at the first surprise"
)]

#[path = "../cycle/figures.rs"]
mod figures;
mod receiver;
#[path = "../world/mod.rs"]
#[allow(dead_code, reason = "other benchmarks use the rest")]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use figures::Figures;
use fullscript_events::app;
use fullscript_events::clock::{SharedClock, SystemClock};
use fullscript_events::ledger::Mode;
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;
use futures_util::StreamExt as _;

use receiver::Receiver;
use world::state::State;
use world::vendor::{self, Size, Vendor};

/// Posts in flight at once: the default of a webhook sink, and more.
const CASES: [usize; 2] = [8, 32];
const CLINICS: usize = 4;
const EVENTS: u32 = 1_000;
/// The time may be this many times the bare loop's: at least half its rate.
const LIMIT: f64 = 2.0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == vendor::ARGUMENT) {
        return vendor::serve(&args[1]);
    }
    if args.first().is_some_and(|arg| arg == receiver::ARGUMENT) {
        return receiver::serve();
    }
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let pairs = args.iter().position(|arg| arg == "--pairs");
    let pairs = pairs.and_then(|at| args.get(at + 1)?.parse().ok());
    let pairs = pairs.unwrap_or(7);
    let events = CLINICS * EVENTS as usize;
    println!(
        "time to deliver {events} events to a receiver that answers at once, ours and a bare loop's\n"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut is_broken = false;
    for in_flight in CASES {
        println!("concurrency = {in_flight}");
        let [one, many] = runtime.block_on(measure(pairs, events, in_flight));
        println!("against one post after the other:\n{one}");
        let is_held = one.ratio() <= LIMIT;
        is_broken |= !is_held;
        let verdict = if is_held { "held" } else { "BROKEN" };
        println!("  limit  {LIMIT:.2}: {verdict}");
        println!("against {in_flight} posts at once:\n{many}\n");
    }
    if is_broken {
        std::process::exit(1);
    }
}

async fn measure(pairs: usize, events: usize, in_flight: usize) -> [Figures; 2] {
    let vendor = Vendor::start(Size {
        clinics: CLINICS,
        categories: &[("patients", EVENTS)],
        latency: Duration::ZERO,
    });
    let receiver = Receiver::start();
    let mut figures = [Figures::default(), Figures::default()];
    let mut bodies = Vec::new();
    // The first pair only warms up.
    for pair in 0..=pairs {
        let backlog = Backlog::prepare(&vendor, &receiver, in_flight).await;
        if pair == 0 {
            // What ours posts, the loop posts.
            let delivered = backlog.deliver().await;
            bodies = receiver.take(events).await;
            println!(
                "  first  {:.3} s, and {:.1} MB",
                delivered.as_secs_f64(),
                megabytes(&bodies)
            );
            continue;
        }
        let (ours, one, many);
        if pair % 2 == 0 {
            ours = backlog.deliver().await;
            one = bare(&receiver, &bodies, 1).await;
            many = bare(&receiver, &bodies, in_flight).await;
        } else {
            many = bare(&receiver, &bodies, in_flight).await;
            one = bare(&receiver, &bodies, 1).await;
            ours = backlog.deliver().await;
        }
        assert_eq!(receiver.take(3 * events).await.len(), 3 * events);
        for (figures, bare) in figures.iter_mut().zip([one, many]) {
            figures.add(ours, bare, events as u64);
        }
    }
    figures
}

fn megabytes(bodies: &[Bytes]) -> f64 {
    let bytes: usize = bodies.iter().map(Bytes::len).sum();
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let megabytes = bytes as f64 / 1e6;
    megabytes
}

/// A state directory in which every event waits, sealed, for a sink.
struct Backlog(State);

impl Backlog {
    async fn prepare(vendor: &Vendor, receiver: &Receiver, in_flight: usize) -> Self {
        let sink = format!(
            "[[sinks]]\nname = \"hook\"\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = {:?}\nsignature = \"none\"\n\
             concurrency = {in_flight}\n",
            receiver.url
        );
        let poll = "first_run = \"30d\"\ncategories = [\"patients\"]";
        let backlog = Self(State::prepare_with(vendor, poll, "nothing.*", &sink).await);
        backlog.set(Mode::Paused).await;
        backlog.run(Scope::Everything).await;
        backlog.set(Mode::Open).await;
        backlog
    }

    /// As `sinks pause` and `resume` do.
    async fn set(&self, mode: Mode) {
        let config = self.0.config();
        let owner = app::take_ownership(&config).unwrap();
        let clock: SharedClock = Arc::new(SystemClock::start());
        let pipeline = app::open(&config, &owner, Arc::clone(&clock))
            .await
            .unwrap();
        let query = pipeline.ledger.query();
        let set = query.set_sink_mode("hook".to_owned(), mode, None, clock.now());
        assert!(set.await.unwrap());
    }

    async fn run(&self, scope: Scope) {
        let config = self.0.config();
        let owner = app::take_ownership(&config).unwrap();
        let clock: SharedClock = Arc::new(SystemClock::start());
        let pipeline = app::open(&config, &owner, clock).await.unwrap();
        let life = Lifecycle::begin();
        Arc::clone(&pipeline).run_until_drained(&life, scope).await;
        pipeline.tokens.drain().await;
    }

    /// From opening the state directory until all is settled on disk.
    async fn deliver(&self) -> Duration {
        let start = Instant::now();
        self.run(Scope::JobsOnly).await;
        start.elapsed()
    }
}

/// Posts the bodies, so many at once.
async fn bare(receiver: &Receiver, bodies: &[Bytes], at_once: usize) -> Duration {
    let client = vendor::client();
    let start = Instant::now();
    futures_util::stream::iter(bodies.iter().cloned())
        .map(|body| {
            let post = client
                .post(&receiver.url)
                .header("content-type", "application/json")
                .body(body);
            async move {
                let response = post.send().await.unwrap();
                assert!(response.status().is_success());
                response.bytes().await.unwrap();
            }
        })
        .buffer_unordered(at_once)
        .collect::<Vec<()>>()
        .await;
    start.elapsed()
}
