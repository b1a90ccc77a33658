//! Speed, as ratios: one cycle of this program against a bare loop that makes the same requests and promises nothing.
//!
//! Both run in this process, against one simulated Fullscript in a process of its own, in interleaved pairs; which of
//! the two goes first alternates, so that a machine that slows down or warms up slows or warms both. What counts is
//! the median of the pairs' ratios. See `benches/README.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark reads the machine's clock, prints, and ends at the first surprise"
)]

mod bare;
mod figures;
mod ours;
#[path = "../world/mod.rs"]
mod world;

use std::time::Duration;

use figures::Figures;
use ours::FirstRun;
use world::vendor::{self, Size, Vendor};

/// Requests of one clinic in flight at once: the default of `poll.concurrency`.
const OF_A_CLINIC: usize = 4;
/// Requests in flight at once, over all clinics: what the API client allows itself.
const OF_ALL: usize = 32;
/// The categories that are polled: the contract's six, and two that Fullscript has not invented yet.
const CATEGORIES: [&str; 8] = [
    "patients",
    "treatment_plans",
    "orders",
    "lab_orders",
    "products",
    "clinic_keys",
    "appointments",
    "messages",
];

/// What is measured.
struct Case {
    name: &'static str,
    what: &'static str,
    clinics: usize,
    /// Per clinic and category.
    events: u32,
    latency: Duration,
    first_run: FirstRun,
    /// The ratio that is promised.
    limit: f64,
}

const CASES: [Case; 3] = [
    Case {
        name: "full",
        what: "10 clinics x 8 categories x 100 events, every detail fetched, into a file",
        clinics: 10,
        events: 100,
        latency: Duration::ZERO,
        first_run: FirstRun::Everything,
        limit: 1.5,
    },
    Case {
        name: "latency",
        what: "the same with 20 ms of latency",
        clinics: 10,
        events: 100,
        latency: Duration::from_millis(20),
        first_run: FirstRun::Everything,
        limit: 1.1,
    },
    Case {
        name: "idle",
        what: "200 clinics x 8 categories, nothing new",
        clinics: 200,
        events: 25,
        latency: Duration::ZERO,
        first_run: FirstRun::Baseline,
        limit: 1.5,
    },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == vendor::ARGUMENT) {
        return vendor::serve(&args[1]);
    }
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let pairs = number(&args, "--pairs").unwrap_or(7);
    let named = |case: &Case| args.iter().any(|arg| arg == case.name);
    let any_named = CASES.iter().any(named);
    println!("time of one cycle, ours and a bare loop's; {pairs} interleaved pairs each\n");
    let mut broken = false;
    for case in CASES.iter().filter(|case| !any_named || named(case)) {
        let figures = measure(case, pairs);
        broken |= figures.ratio() > case.limit;
        println!("{}: {}\n{figures}", case.name, case.what);
        println!(
            "  limit  {:.2}: {}\n",
            case.limit,
            if figures.ratio() <= case.limit {
                "held"
            } else {
                "BROKEN"
            }
        );
    }
    if broken {
        std::process::exit(1);
    }
}

fn measure(case: &Case, pairs: usize) -> Figures {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let vendor = Vendor::start(Size {
            clinics: case.clinics,
            categories: &CATEGORIES.map(|name| (name, case.events)),
            latency: case.latency,
        });
        let mut figures = Figures::default();
        // An idle cycle changes nothing, so all pairs find the same state; the others begin with an empty one.
        let mut ours = ours::prepare(&vendor, case.first_run).await;
        let mut bare = bare::prepare(&vendor, case.first_run).await;
        // The first pair only warms up.
        for pair in 0..=pairs {
            if case.first_run == FirstRun::Everything && pair > 0 {
                ours = ours::prepare(&vendor, case.first_run).await;
                bare = bare::prepare(&vendor, case.first_run).await;
            }
            let before = vendor.requests().await;
            let (a, b, between);
            if pair % 2 == 0 {
                a = ours.cycle().await;
                between = vendor.requests().await;
                b = bare.cycle().await;
            } else {
                b = bare.cycle().await;
                between = vendor.requests().await;
                a = ours.cycle().await;
            }
            let after = vendor.requests().await;
            assert_eq!(between - before, after - between, "unequal work");
            assert_eq!(ours.shown(), bare.shown(), "unequal results");
            if pair > 0 {
                figures.add(a, b, after - between);
            }
        }
        figures
    })
}

fn number(args: &[String], name: &str) -> Option<usize> {
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1)?.parse().ok()
}
