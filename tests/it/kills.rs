//! The proof: the real binary dies at random moments, by `kill -9` or by a power cut, and an oracle counts what the
//! receivers saw. They are other machines: no death of the daemon touches what they wrote down.
//!
//! One loop, by how lives end ([`Ending`]). A run whose lives end as they should must show no trace of doubt, and a run
//! under power cuts with `synchronous = NORMAL` must show events twice: else the loop would prove nothing.
//!
//! `FULLSCRIPT_EVENTS_KILLS` and `FULLSCRIPT_EVENTS_POWER_CUTS` set how often it dies (a few times unless set), and
//! `FULLSCRIPT_EVENTS_SEED` repeats a run's choices, as far as the machine's timing allows. What the long runs showed
//! is in `docs/reliability.md`.

use std::fmt;
use std::fs;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use fullscript_events::clock::{Clock as _, SystemClock};
use fullscript_events::simulator::{
    Counters, Delay, Endpoint, Fault, FaultRule, Options, RateLimit, Rotation,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::binary::{CRASH_AT, DAEMON, LIMIT, Running, crash_points, was_killed};
use crate::oracle::{Tally, Verdict, deliveries, judge, tally};
use crate::power::Disk;
use crate::witnesses::{Promise, Reader, SINKS, Sighting, Witnesses};
use crate::world::{Setup, World};

/// What the vendor allows within [`WINDOW_S`], and what the daemon is told: small, so that it is felt. Each death costs
/// what was leased, a hundredth.
const REQUESTS: u32 = 2000;
const WINDOW_S: u64 = 10;
/// A run that does not reach its crash point, or does not say so many lines, is killed after this.
const LONGEST_LIFE: Duration = Duration::from_millis(700);
/// Covers the back-off of whatever failed last.
const DRAINED_WITHIN: Duration = Duration::from_mins(5);
/// Said by a daemon that has opened everything.
const POLLING: &str = "polling";
/// Lets the daemon of a debug build write as carelessly as most programs do (`src/store/mod.rs`).
const SYNCHRONOUS: &str = "FULLSCRIPT_EVENTS_SYNCHRONOUS";

/// How the lives of a run end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The daemon is asked to stop, and does.
    Stop,
    /// `kill -9`: all that was written is there.
    Kill,
    /// Only what was flushed is surely there.
    PowerCut,
}

/// A run of the loop.
#[derive(Clone, Copy, Debug)]
struct Plan {
    ending: Ending,
    rounds: u64,
    /// The daemon's `PRAGMA synchronous`, if not its own.
    synchronous: Option<&'static str>,
}

/// When a life ends.
#[derive(Debug)]
enum Death {
    /// So long after its start.
    After(Duration),
    /// So long after it has opened everything.
    AfterOpening(Duration),
    /// When it has said so many lines.
    AfterLines(usize),
    /// Where it passes this point.
    At(String),
    /// So long after it was asked to stop, which is so long after it has opened everything.
    Stopping(Duration, Duration),
    /// Before so manieth change of a file.
    BeforeChange(u64),
}

impl Death {
    /// Before which change the power fails by itself.
    fn change(&self) -> Option<u64> {
        if let Self::BeforeChange(change) = self {
            Some(*change)
        } else {
            None
        }
    }
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// From outside.
    Killed,
    /// At its crash point, or at the change at which the power failed.
    There,
    /// By itself and well.
    Well,
    /// It found the state directory owned: what the one before had just started held a copy of its lock for a moment.
    TurnedAway,
}

/// What an environment variable sets.
pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seed(rounds: u64, what: &str) -> u64 {
    let seed = number("FULLSCRIPT_EVENTS_SEED").unwrap_or_else(rand::random);
    eprintln!("{rounds} {what}; FULLSCRIPT_EVENTS_SEED={seed} repeats this run");
    seed
}

fn up_to_ms(random: &mut StdRng, most: u64) -> Duration {
    Duration::from_micros(random.random_range(0..most * 1000))
}

fn any_death(random: &mut StdRng, ending: Ending, points: &[String]) -> Death {
    let kind = match ending {
        Ending::Stop => return Death::AfterOpening(up_to_ms(random, 300)),
        Ending::Kill => random.random_range(0..8),
        Ending::PowerCut => random.random_range(4..16),
    };
    match kind {
        0 => Death::After(up_to_ms(random, 200)),
        1 => Death::AfterLines(random.random_range(1..120)),
        2..6 => Death::AfterOpening(up_to_ms(random, 300)),
        6 => Death::At(points[random.random_range(0..points.len())].clone()),
        // Half of them come to their end, which puts the write-ahead log away.
        7 => {
            let most = if random.random() { 40 } else { 1500 };
            Death::Stopping(up_to_ms(random, 200), up_to_ms(random, most))
        }
        // Among the first two as often as among the first two hundred and then some.
        _ => {
            let most = 2_u64 << random.random_range(0..9);
            Death::BeforeChange(random.random_range(1..=most))
        }
    }
}

/// Runs the daemon until it dies.
fn live_and_die(mut command: Command, ending: Ending, death: &Death) -> Ended {
    if let Death::At(point) = death {
        command.env(CRASH_AT, point);
    }
    let mut daemon = Running::start(&mut command);
    let after_opening = |daemon: &mut Running, more| {
        daemon
            .let_run_to(POLLING, LIMIT)
            .or_else(|| daemon.let_run(usize::MAX, more))
    };
    let ended = match death {
        Death::After(limit) => daemon.let_run(usize::MAX, *limit),
        Death::AfterOpening(limit) => after_opening(&mut daemon, *limit),
        Death::AfterLines(lines) => daemon.let_run(*lines, LONGEST_LIFE),
        Death::At(_) | Death::BeforeChange(_) => daemon.let_run(usize::MAX, LONGEST_LIFE),
        Death::Stopping(before, limit) => after_opening(&mut daemon, *before).or_else(|| {
            daemon.ask_to_stop();
            daemon.let_run(usize::MAX, *limit)
        }),
    };
    let well = |status: ExitStatus| status.success();
    match ended {
        None if ending == Ending::Stop => {
            let status = daemon.stop();
            assert!(well(status), "{status}");
            Ended::Well
        }
        None => {
            daemon.kill();
            Ended::Killed
        }
        Some(status) if status.code() == Some(75) => Ended::TurnedAway,
        Some(status) if well(status) && matches!(death, Death::Stopping(..)) => Ended::Well,
        Some(status) => {
            assert!(was_killed(status), "{status}: {}", daemon.last_words());
            Ended::There
        }
    }
}

/// Now and then something goes wrong at the vendor's.
fn any_trouble(random: &mut StdRng, world: &World) {
    let status = |status| Fault::Status {
        status,
        body: fullscript_events::simulator::ErrorBody::Html,
    };
    let throttled = Fault::Throttled {
        status: 429,
        retry_after_s: 1,
    };
    let (endpoint, fault) = match random.random_range(0..48) {
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

/// Lets a daemon run that nobody kills, until this is so.
fn let_run_until(world: &World, done: impl FnMut() -> bool) {
    let mut daemon: Running = world.daemon();
    // The last one that was killed may have left nothing to do: this one must not be stopped before it hears signals.
    daemon.wait_for(POLLING);
    daemon.let_run_until(DRAINED_WITHIN, done);
    assert!(daemon.stop().success());
}

/// Lets a daemon that nobody kills do all there is to do.
fn drain(world: &World, made: &[String]) {
    let_run_until(world, || {
        assert_eq!(stopped_sinks(world), [""; 0], "they wait for a person");
        world.is_drained(made)
    });
    let once = world.run(&["run", "--once"]);
    assert!(
        once.status.success(),
        "{}",
        String::from_utf8_lossy(&once.stderr)
    );
}

/// Two clinics whose tokens last for seconds only, a month of history, a sink of each kind, and those who bear witness.
async fn begin(plan: Plan, seed: u64) -> (World, Witnesses) {
    let options = Options {
        seed,
        rotation: Rotation::OnUse,
        // The daemon hands no token out in its last 30 s: a refresh every two seconds. But what a careless daemon forgets
        // of its tokens, no login gives back.
        token_lifetime: match plan.synchronous {
            None => Duration::from_secs(32),
            Some(_) => Duration::from_hours(2),
        },
        rate_limit: RateLimit {
            requests: Some(REQUESTS),
            window: Duration::from_secs(WINDOW_S),
            ..RateLimit::default()
        },
        visible_after: Delay {
            least: Duration::ZERO,
            most: Duration::from_secs(1),
        },
        ..Options::default()
    };
    let witnesses = Witnesses::start();
    let mut setup = Setup {
        clinics: vec!["oak".to_owned(), "elm".to_owned()],
        poll: format!(
            "interval = \"1s\"\nfirst_run = \"30d\"\n\n\
             [poll.budget]\nrequests = {REQUESTS}\nwindow = \"{WINDOW_S}s\"\nreserve = 0\nbackfill = 0\n"
        ),
        ..Setup::default()
    };
    let world = World::begin(options, setup.clone()).await;
    setup.more = witnesses.sinks(&world) + "\n[audit]\n";
    world.write_config(&setup);
    world.log_in().await;
    for clinic in &world.clinics {
        let month = Duration::from_hours(24 * 29);
        world
            .vendor
            .make_history(&clinic.clinic_id, "patients", 20, month);
    }
    (world, witnesses)
}

/// What a run was like, and what became of every sink's events.
struct Report {
    plan: Plan,
    seed: u64,
    /// Lives that ended at a crash point, or before a change.
    there: u64,
    turned_away: u64,
    /// Changes that were not flushed when the power failed, over all cuts.
    unflushed: usize,
    issued: Vec<String>,
    sinks: Vec<(&'static str, Promise, Tally)>,
    counters: Counters,
    grants_lost: i64,
    took: Duration,
}

impl Report {
    fn sink(&self, wanted: &str) -> &Tally {
        let found = self.sinks.iter().find(|(name, ..)| *name == wanted);
        &found.unwrap().2
    }

    /// Events shown twice by the sinks that promise never to.
    fn shown_twice_against_a_promise(&self) -> usize {
        (self.sinks.iter())
            .filter(|(_, promise, _)| *promise != Promise::Resent)
            .map(|(.., tally)| tally.repeated.len() + tally.doubled.len())
            .sum()
    }

    /// Asserts what every run must show.
    fn assert_promises(&self) {
        for (sink, promise, tally) in &self.sinks {
            tally.assert_kept(sink, *promise);
        }
        let refused = self.counters.tokens_with("refresh_token", "invalid_grant");
        assert_eq!((refused, self.grants_lost), (0, 0));
        assert!(
            self.counters.most_in_window <= REQUESTS as usize,
            "{} requests in a window",
            self.counters.most_in_window
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, synchronous) = match self.plan.ending {
            Ending::Stop => ("stops", ""),
            Ending::Kill => ("kills", ""),
            Ending::PowerCut => ("power cuts", ""),
        };
        let synchronous = self
            .plan
            .synchronous
            .map_or(synchronous, |_| " of the control");
        writeln!(
            f,
            "{} {word}{synchronous} in {} s (seed {}): {} events issued to each sink, {} refreshes, {} faults; {} \
             deaths at a point of their own, {} starts turned away, {} unflushed changes, {} grants lost",
            self.plan.rounds,
            self.took.as_secs(),
            self.seed,
            self.issued.len(),
            self.counters.tokens_with("refresh_token", "ok"),
            self.counters.faults,
            self.there,
            self.turned_away,
            self.unflushed,
            self.grants_lost,
        )?;
        writeln!(
            f,
            "\n| sink | promise | seen | lost | twice, same id and bytes | twice, otherwise | held |\n\
             |---|---|---|---|---|---|---|"
        )?;
        for (sink, promise, tally) in &self.sinks {
            let promise = match promise {
                Promise::Exact => "exact",
                Promise::Held => "hold",
                Promise::Resent => "resend",
            };
            writeln!(
                f,
                "| `{sink}` | {promise} | {} | {} | {} | {} | {} |",
                tally.seen,
                tally.lost.len(),
                tally.repeated.len(),
                tally.doubled.len(),
                tally.held
            )?;
        }
        Ok(())
    }
}

/// The loop. `None`: this machine cannot do what the plan asks for.
async fn run(plan: Plan, seed: u64) -> Option<Report> {
    let started = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let (world, witnesses) = begin(plan, seed).await;
    // The notes lie on another disk.
    let notes = tempfile::tempdir().unwrap();
    let mut disk = match plan.ending {
        Ending::Stop | Ending::Kill => None,
        Ending::PowerCut => {
            let notes = notes.path().join("notes");
            Some(Disk::below(world.directory.path(), notes)?)
        }
    };
    // What a power cut takes away a reader may have read: it was on no disk yet.
    let reader = disk.is_none().then(|| Reader::of(world.log_path()));
    // No backfill runs here, nor a stream, and no day is removed: their points would only be waited for.
    let points: Vec<String> = crash_points()
        .into_iter()
        .filter(|point| !point.starts_with("backfill.") && !point.starts_with("stream."))
        .filter(|point| point != "audit.before_removal")
        .collect();
    assert!(points.len() >= 8, "{points:?}");

    let (mut there, mut turned_away, mut unflushed) = (0, 0, 0);
    for round in 1..=plan.rounds {
        for _ in 0..random.random_range(0..9) {
            world.vendor.make_any_event().unwrap();
        }
        // What fails last is waited for at the end.
        world.vendor.clear_faults();
        if plan.ending != Ending::Stop && round + 10 < plan.rounds {
            any_trouble(&mut random, &world);
        }
        let death = any_death(&mut random, plan.ending, &points);
        let mut command = world.command(&DAEMON);
        if let Some(synchronous) = plan.synchronous {
            command.env(SYNCHRONOUS, synchronous);
        }
        if let Some(disk) = &mut disk {
            disk.power_on(&mut command, death.change());
        }
        let ended = live_and_die(command, plan.ending, &death);
        there += u64::from(ended == Ended::There);
        turned_away += u64::from(ended == Ended::TurnedAway);
        if let Some(disk) = &mut disk {
            if ended == Ended::There && death.change().is_some() {
                disk.assert_all_is_noted();
            }
            unflushed += disk.cut(&mut random).unflushed;
            if plan.synchronous.is_some() {
                set_the_marker_back(&world);
            }
        }
        if round % 100 == 0 {
            eprintln!("{round} of {} in {:?}", plan.rounds, started.elapsed());
        }
    }

    world.vendor.clear_faults();
    let issued = world.made_ids();
    if plan.synchronous.is_none() {
        drain(&world, &issued);
    } else {
        // A careless ledger may have forgotten which file its sink wrote.
        let_run_until(&world, || {
            world.is_drained(&issued) || !stopped_sinks(&world).is_empty()
        });
    }
    if let Some(reader) = reader {
        assert_read_once(&reader.end(), &issued, &witnesses.seen(&world, "log"));
    }
    let sinks = SINKS.map(|(sink, promise)| {
        let ledger = deliveries(&world.ledger_path(), sink);
        let seen = witnesses.seen(&world, sink);
        (sink, promise, tally(&issued, &seen, &ledger))
    });
    let report = Report {
        plan,
        seed,
        there,
        turned_away,
        unflushed,
        sinks: sinks.into(),
        counters: world.vendor.counters(),
        grants_lost: grants_that_need_a_login(&world),
        took: started.elapsed(),
        issued,
    };
    eprintln!("{report}");
    if plan.synchronous.is_none() {
        world.assert_exactly_once(&report.issued);
        world.assert_each_attempt_is_audited();
        world.assert_whole();
    }
    Some(report)
}

/// The marker beside the ledger tells the next start that the ledger has lost something, and all is held. The control
/// is of what the flushes alone are worth.
fn set_the_marker_back(world: &World) {
    let path = world.state_path().join("ledger.id");
    let Ok(text) = fs::read(&path) else {
        return;
    };
    let mut marker: serde_json::Value = serde_json::from_slice(&text).unwrap();
    marker["beat"] = 0.into();
    fs::write(&path, marker.to_string()).unwrap();
}

/// Asserts that whoever read along has read every event once, in whole lines, and the ones that are there.
fn assert_read_once(read: &[u8], issued: &[String], shown: &[Sighting]) {
    let text = std::str::from_utf8(read).unwrap();
    let lines: Vec<Sighting> = text.lines().map(Sighting::of_line).collect();
    assert!(lines == shown, "what was read is not what is there");
    let ids = lines.iter().map(|line| &line.event);
    assert_eq!(judge(issued, ids), Verdict::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_keeps_every_sinks_promise() {
    let rounds = number("FULLSCRIPT_EVENTS_KILLS").unwrap_or(20);
    let seed = seed(rounds, "kills");
    let plan = Plan {
        ending: Ending::Kill,
        rounds,
        synchronous: None,
    };
    let report = run(plan, seed).await.unwrap();
    report.assert_promises();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_power_cut_leaves_it_keeps_every_sinks_promise() {
    let rounds = number("FULLSCRIPT_EVENTS_POWER_CUTS").unwrap_or(20);
    let seed = seed(rounds, "power cuts");
    let plan = Plan {
        ending: Ending::PowerCut,
        rounds,
        synchronous: None,
    };
    if let Some(report) = run(plan, seed).await {
        report.assert_promises();
        assert!(report.unflushed > 0, "no cut took anything");
    }
}

/// The control of the power cuts: they must do harm where a commit is not flushed, or they would prove nothing.
///
/// One short run may be lucky (its cuts fell where nothing was unflushed that matters), so it gets a few. Ten lucky ones in a
/// row mean that the cuts do no harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_not_flushed_shows_events_twice_after_power_cuts() {
    let rounds = number("FULLSCRIPT_EVENTS_POWER_CUTS").map_or(15, |cuts| cuts.clamp(15, 100));
    let seed = seed(rounds, "power cuts of the control");
    let plan = Plan {
        ending: Ending::PowerCut,
        rounds,
        synchronous: Some("NORMAL"),
    };
    for run_of_it in 0..10 {
        let Some(report) = run(plan, seed.wrapping_add(run_of_it)).await else {
            return;
        };
        if report.shown_twice_against_a_promise() > 0 {
            return;
        }
    }
    panic!("not even NORMAL shows an event twice");
}

/// The control of both: without a crash nothing is in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_crash_nothing_is_held_or_repeated() {
    let rounds = 4;
    let seed = seed(rounds, "stops");
    let plan = Plan {
        ending: Ending::Stop,
        rounds,
        synchronous: None,
    };
    let report = run(plan, seed).await.unwrap();
    report.assert_promises();
    for (sink, _) in SINKS {
        report.sink(sink).assert_kept(sink, Promise::Exact);
    }
}

fn stopped_sinks(world: &World) -> Vec<String> {
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let sql = "SELECT stopped FROM sink WHERE stopped IS NOT NULL";
    let mut stopped = c.prepare(sql).unwrap();
    let words = stopped.query_map((), |row| row.get(0)).unwrap();
    words.map(Result::unwrap).collect()
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
