//! Memory: one backfill that lists and admits a million events, of which it fetches and delivers 20,000, in the real
//! binary. What counts is the most that was ever resident. See `benches/README.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark reads the machine's clock, prints, and ends at the first surprise"
)]

#[path = "../world/mod.rs"]
mod world;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use world::state::State;
use world::vendor::{self, Size, Vendor};

/// What is promised.
const LIMIT_MIB: f64 = 64.0;
const CLINICS: usize = 10;
/// Per clinic: what nobody wants, and what the sink wants.
const CATEGORIES: [(&str, u32); 2] = [("messages", 98_000), ("orders", 2_000)];
/// How often the kernel is asked; the high-water mark never falls, so only what the last moment adds can be missed.
const LOOK: Duration = Duration::from_millis(10);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == vendor::ARGUMENT) {
        return vendor::serve(&args[1]);
    }
    // `cargo test --benches` runs benchmarks too; only `cargo bench` says so.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let vendor = Vendor::start(Size {
        clinics: CLINICS,
        categories: &CATEGORIES,
        latency: Duration::ZERO,
    });
    let categories = CATEGORIES.map(|(name, _)| name);
    let poll = format!("categories = {categories:?}");
    let state = runtime.block_on(State::prepare(&vendor, &poll, "order.*"));
    let before = runtime.block_on(vendor.requests());
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fullscript-events"))
        .env_clear()
        .arg("--config")
        .arg(state.config_path())
        .args(["backfill", "--since", "30d"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let most = watch(&mut child);
    let took = start.elapsed();
    let requests = runtime.block_on(vendor.requests()) - before;
    let delivered = fs::read_to_string(state.shown()).unwrap();
    let delivered = delivered.lines().count();
    let wanted = CLINICS * CATEGORIES[1].1 as usize;
    assert_eq!(delivered, wanted, "not everything was delivered");
    println!(
        "\n{requests} requests, {delivered} delivered, in {:.1} s\nmost resident  {most:.1} MiB\nlimit          {LIMIT_MIB:.1} MiB: {}",
        took.as_secs_f64(),
        if most < LIMIT_MIB { "held" } else { "BROKEN" }
    );
    if most >= LIMIT_MIB {
        std::process::exit(1);
    }
}

/// Waits for the end of a process; gives the most that was ever resident of it, in MiB.
fn watch(child: &mut Child) -> f64 {
    let mut most = 0.0;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return most;
        }
        most = high_water(child.id()).unwrap_or(most);
        std::thread::sleep(LOOK);
    }
}

/// `VmHWM` of a process that has not ended yet.
fn high_water(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
