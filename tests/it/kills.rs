//! `kill -9` at random moments of the real binary, and an oracle that counts what arrived.
//!
//! `FULLSCRIPT_EVENTS_KILLS` sets how often it is killed (12 unless set; 200 takes some minutes), and
//! `FULLSCRIPT_EVENTS_SEED` repeats a run's choices, as far as the machine's timing allows.

use std::fs;
use std::time::{Duration, Instant};

use fullscript_events::clock::{Clock as _, SystemClock};
use fullscript_events::simulator::{
    Delay, Endpoint, Fault, FaultRule, Options, RateLimit, Rotation,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::binary::{LIMIT, Running, crash_points, was_killed};

use crate::oracle::{Verdict, judge};
use crate::sqlite::{RECORDS, records, rows};
use crate::world::{Setup, World};

/// What the vendor allows, and what the daemon is told: small, so that it is felt.
const REQUESTS: u32 = 600;
/// A run that does not reach its crash point, or does not say so many lines, is killed after this.
const LONGEST_LIFE: Duration = Duration::from_secs(3);
/// Covers the back-off of whatever failed last.
const DRAINED_WITHIN: Duration = Duration::from_mins(5);

/// When a run is killed.
#[derive(Debug)]
enum Death {
    /// After so long.
    After(Duration),
    /// When it has said so many lines.
    AfterLines(usize),
    /// Where it passes this point.
    At(String),
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn any_death(random: &mut StdRng, points: &[String]) -> Death {
    match random.random_range(0..4) {
        0 => Death::After(Duration::from_millis(random.random_range(0..400))),
        1 => Death::After(Duration::from_millis(random.random_range(0..2500))),
        2 => Death::AfterLines(random.random_range(1..120)),
        _ => Death::At(points[random.random_range(0..points.len())].clone()),
    }
}

/// Runs the daemon until it dies; gives whether it died by itself, at its crash point.
fn live_and_die(world: &World, death: &Death) -> bool {
    let mut daemon = match death {
        Death::At(point) => world.daemon_dying_at(point),
        Death::After(_) | Death::AfterLines(_) => world.daemon(),
    };
    let (lines, limit) = match death {
        Death::After(limit) => (usize::MAX, *limit),
        Death::AfterLines(lines) => (*lines, LONGEST_LIFE),
        Death::At(_) => (usize::MAX, LONGEST_LIFE),
    };
    match daemon.let_run(lines, limit) {
        None => {
            daemon.kill();
            false
        }
        Some(status) => {
            assert!(was_killed(status), "{status}: {}", daemon.last_words());
            true
        }
    }
}

/// Now and then something goes wrong at the vendor's.
fn any_trouble(random: &mut StdRng, world: &World) {
    world.vendor.clear_faults();
    let status = |status| Fault::Status {
        status,
        body: fullscript_events::simulator::ErrorBody::Html,
    };
    let throttled = Fault::Throttled {
        status: 429,
        retry_after_s: 1,
    };
    let (endpoint, fault) = match random.random_range(0..16) {
        0 => (Endpoint::List, status(502)),
        1 => (Endpoint::List, throttled),
        2 => (Endpoint::List, Fault::CutOff),
        3 => (Endpoint::Retrieve, status(500)),
        4 => (Endpoint::Retrieve, throttled),
        5 => (Endpoint::Retrieve, Fault::MalformedJson),
        6 | 7 => (Endpoint::Token, Fault::ReplyLost),
        8 => (Endpoint::Token, status(503)),
        _ => return,
    };
    let times = random.random_range(1..3);
    world.vendor.fail(FaultRule::next(times, endpoint, fault));
}

/// The whole lines of the file sink, while nobody writes to it.
fn whole_lines(world: &World) -> Vec<u8> {
    let mut bytes = fs::read(world.log_path()).unwrap_or_default();
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    bytes.truncate(end.map_or(0, |newline| newline + 1));
    bytes
}

fn drain(world: &World, made: &[String]) {
    let mut daemon: Running = world.daemon();
    // The last one that was killed may have left nothing to do: this one must not be stopped before it hears signals.
    daemon.wait_for("polling");
    daemon.let_run_until(DRAINED_WITHIN, || world.is_drained(made));
    assert!(daemon.stop().success());
    let once = world.run(&["run", "--once"]);
    assert!(
        once.status.success(),
        "{}",
        String::from_utf8_lossy(&once.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_shows_every_event_exactly_once() {
    let kills = number("FULLSCRIPT_EVENTS_KILLS").unwrap_or(12);
    let seed = number("FULLSCRIPT_EVENTS_SEED").unwrap_or_else(rand::random);
    eprintln!("{kills} kills; FULLSCRIPT_EVENTS_SEED={seed} repeats this run");
    let started = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let options = Options {
        seed,
        rotation: Rotation::OnUse,
        // The daemon hands no token out in its last 30 s: a refresh every few seconds.
        token_lifetime: Duration::from_secs(33),
        rate_limit: RateLimit {
            requests: Some(REQUESTS),
            window: Duration::from_secs(10),
            ..RateLimit::default()
        },
        visible_after: Delay {
            least: Duration::ZERO,
            most: Duration::from_secs(3),
        },
        ..Options::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("records.db");
    let setup = Setup {
        more: records(&database),
        clinics: vec!["oak".to_owned(), "elm".to_owned()],
        poll: format!(
            "interval = \"1s\"\nfirst_run = \"30d\"\n\n\
             [poll.budget]\nrequests = {REQUESTS}\nwindow = \"10s\"\nreserve = 0\nbackfill = 0\n"
        ),
        ..Setup::default()
    };
    let world = World::begin(options, setup).await;
    world.log_in().await;
    for clinic in &world.clinics {
        let month = Duration::from_hours(24 * 29);
        world
            .vendor
            .make_history(&clinic.clinic_id, "patients", 150, month);
    }
    // No backfill runs here: its point would only be waited for.
    let points: Vec<String> = crash_points()
        .into_iter()
        .filter(|point| !point.starts_with("backfill."))
        .collect();
    assert!(points.len() >= 8, "{points:?}");

    let mut at_points = 0;
    let mut before = Vec::new();
    for kill in 0..kills {
        for _ in 0..random.random_range(0..9) {
            world.vendor.make_any_event().unwrap();
        }
        any_trouble(&mut random, &world);
        let death = any_death(&mut random, &points);
        at_points += u64::from(live_and_die(&world, &death));
        let now = whole_lines(&world);
        assert!(
            now.starts_with(&before),
            "a line that a reader may have seen was taken back: kill {kill}, {death:?}"
        );
        before = now;
    }

    world.vendor.clear_faults();
    let made = world.made_ids();
    drain(&world, &made);
    let verdict = judge(&made, &world.shown_ids());
    let counters = world.vendor.counters();
    eprintln!(
        "{kills} kills ({at_points} of them at crash points), {} refreshes, {} faults, {} events: {} lost, {} shown \
         twice, {} foreign; {:?}",
        counters.tokens_with("refresh_token", "ok"),
        counters.faults,
        made.len(),
        verdict.lost.len(),
        verdict.repeated.len(),
        verdict.foreign.len(),
        started.elapsed()
    );
    assert_eq!(verdict, Verdict::default());
    world.assert_exactly_once(&made);
    world.assert_rows_once(&made, &rows(&database, RECORDS));
    assert_eq!(counters.tokens_with("refresh_token", "invalid_grant"), 0);
    assert_eq!(grants_that_need_a_login(&world), 0);
    assert!(
        counters.most_in_window <= REQUESTS as usize,
        "{} requests in a window",
        counters.most_in_window
    );
}

fn grants_that_need_a_login(world: &World) -> i64 {
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let sql = "SELECT count(*) FROM grant WHERE state <> 'active'";
    c.query_row(sql, (), |row| row.get(0)).unwrap()
}

/// The vendor's times have no fractions: what is made now is older than what begins after this.
fn wait_for_the_next_second() {
    let second = || SystemClock::start().now().timestamp();
    let before = second();
    while second() == before {
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_killed_after_each_page_skips_the_past_and_nothing_else() {
    let setup = Setup {
        poll: "interval = \"1s\"\nfirst_run = \"baseline\"\ncategories = [\"patients\"]\n"
            .to_owned(),
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    let month = Duration::from_hours(24 * 29);
    world.vendor.make_history(oak, "patients", 450, month);
    let past = world.made_ids();

    let mut made_since = Vec::new();
    for kill in 0..4 {
        if kill < 2 {
            // A retry after a failed page begins at the top: it lists everything again, and must still know when the
            // baseline began.
            let broken = FaultRule::next(1, Endpoint::List, Fault::Html);
            world.vendor.fail(broken);
        }
        let mut daemon = world.daemon_dying_at("sweep.after_page");
        assert!(daemon.let_run(usize::MAX, LIMIT).is_some_and(was_killed));
        made_since.extend(world.vendor.make_events(3, oak, "patient.created"));
        wait_for_the_next_second();
    }
    drain(&world, &world.made_ids());
    world.assert_exactly_once(&made_since);
    assert!(past.iter().all(|id| world.vendor.retrieves_of(id) == 0));
}
