//! Programs of exec sinks that are at work when the daemon is killed: the next start finds them, waits for them, and
//! keeps what they said.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use fullscript_events::clock::{Clock as _, SystemClock};
use fullscript_events::domain::{DeliveryId, OrderBy, Output, SinkName};
use fullscript_events::ledger::{Choice, Heard, Ledger, Pruned, Resend, Watch};
use fullscript_events::simulator::Options;
use fullscript_events::sinks::Recorder as _;
use rustix::fs::{CWD, Mode};
use serde_json::Value;
use tokio::net::unix::pipe;

use crate::binary::{LIMIT, Running};
use crate::stepped::DAY;
use crate::world::{Setup, World, own};

/// What the daemon says that finds a program at work.
const WAITS: &str = "waiting for it";
/// What it says when it has settled what was in flight.
const SETTLED: &str = "deliveries were in flight when the daemon ended";

/// A world with a sink `import`, whose program notes each step in the file `$1`, talks, and waits at the gate `$0`.
struct Programs {
    world: World,
}

impl Programs {
    async fn begin(settings: &str) -> Self {
        let world = World::begin(Options::default(), Setup::default()).await;
        let at = world.directory.path();
        rustix::fs::mkfifoat(CWD, at.join("gate"), Mode::from_raw_mode(0o600)).unwrap();
        let script = "echo \"$$ began $FULLSCRIPT_ATTEMPT\" >>\"$1\"; echo \"reading\"; cat >/dev/null; \
                      read line <\"$0\"; echo 'went \x1b[1mon' >&2; echo \"$$ ended $FULLSCRIPT_ATTEMPT\" >>\"$1\"";
        world.write_config(&Setup {
            more: format!(
                "[[sinks]]\nname = \"import\"\nkind = \"exec\"\nclinics = [\"*\"]\n\
                 command = [\"/bin/sh\", \"-c\", {script:?}, {:?}, {:?}]\n{settings}\n",
                at.join("gate"),
                at.join("steps"),
            )
            // TOML has no such escape.
            .replace("\\u{1b}", "\\u001b"),
            poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
            ..Setup::default()
        });
        world.log_in().await;
        Self { world }
    }

    fn make_event(&self) {
        let oak = &self.world.clinic("oak").clinic_id;
        self.world.vendor.make_events(1, oak, "patient.created");
    }

    fn steps(&self) -> Vec<(i32, String)> {
        let text = fs::read_to_string(self.world.directory.path().join("steps"));
        let text = text.unwrap_or_default();
        let steps = text.lines().map(|line| {
            let (process, step) = line.split_once(' ').unwrap();
            (process.parse().unwrap(), step.to_owned())
        });
        steps.collect()
    }

    fn words(&self) -> Vec<String> {
        self.steps().into_iter().map(|(_, step)| step).collect()
    }

    fn number(&self, sql: &str) -> i64 {
        let c = rusqlite::Connection::open(self.world.ledger_path()).unwrap();
        c.query_row(sql, (), |row| row.get(0)).unwrap()
    }

    fn pipes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.world.state_path().join("exec")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Lets the program that stands at the gate go on.
    fn let_go(&self) {
        let end = Instant::now() + LIMIT;
        let gate = self.world.directory.path().join("gate");
        while pipe::OpenOptions::new().open_sender(&gate).is_err() {
            assert!(Instant::now() < end, "nobody is at the gate");
            std::thread::yield_now();
        }
    }

    /// Kills the daemon when its program has begun, and what it said so far lies in the ledger if that is waited for.
    fn kill_at_work(&self, recorded: bool) {
        let mut daemon = self.world.daemon();
        daemon.let_run_until(LIMIT, || {
            let begun = !self.steps().is_empty() && !self.pipes().is_empty();
            begun && (!recorded || self.number("SELECT count(*) FROM output") > 0)
        });
        daemon.kill();
    }

    fn held(&self) -> String {
        let sql = "SELECT delivery FROM delivery WHERE state = 'held'";
        self.number(sql).to_string()
    }

    fn show(&self, more: &[&str]) -> String {
        let held = self.held();
        let shown = self
            .world
            .run(&[&["deliveries", "show", &held], more].concat());
        assert!(shown.status.success());
        String::from_utf8(shown.stdout).unwrap()
    }
}

fn stop_at_once(daemon: Running) {
    let begun = Instant::now();
    assert!(daemon.stop().success());
    // The stop's patience is 40 s, the program's time an hour.
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_outlives_a_killed_daemon_is_waited_for_held_and_its_words_are_shown() {
    let programs = Programs::begin("timeout = \"1h\"").await;
    programs.make_event();
    programs.kill_at_work(true);

    // A stop while it is waited for is not held up, and ends nobody.
    let mut second = programs.world.daemon();
    second.wait_for(WAITS);
    stop_at_once(second);
    assert_eq!(programs.words(), ["began 1"]);
    assert_eq!(programs.pipes().len(), 1);

    let mut third = programs.world.daemon();
    third.wait_for(WAITS);
    // Another sink is not kept waiting.
    programs.make_event();
    third.wait_for("delivered");
    assert_eq!(programs.words(), ["began 1"]);
    programs.let_go();
    third.wait_for(SETTLED);
    third.let_run_until(LIMIT, || programs.words().len() == 3);
    assert_eq!(programs.words(), ["began 1", "ended 1", "began 1"]);
    programs.let_go();
    third.wait_for("delivered");
    assert!(third.stop().success());

    let shown = programs.show(&[]);
    for words in [
        "the daemon ended while the program ran; it ended ",
        "Attempt 1 said:\n  | reading\n  | went \\u{1b}[1mon\n\n",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    let json: Value = serde_json::from_str(&programs.show(&["--json"])).unwrap();
    let delivery = &json["delivery"];
    assert_eq!(delivery["output"], "reading\nwent \u{1b}[1mon\n");
    assert_eq!(delivery["output_attempt"], 1);
    assert!(programs.pipes().is_empty());

    let dropped = programs
        .world
        .run(&["deliveries", "drop", &programs.held()]);
    assert!(dropped.status.success());
    assert_eq!(programs.number("SELECT count(*) FROM output"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_doubt_means_resend_the_next_run_begins_when_the_last_one_has_ended() {
    let programs = Programs::begin("timeout = \"1h\"\non_doubt = \"resend\"").await;
    programs.make_event();
    programs.kill_at_work(false);
    let mut daemon = programs.world.daemon();
    daemon.wait_for(WAITS);
    programs.let_go();
    daemon.let_run_until(LIMIT, || programs.words().len() == 3);
    programs.let_go();
    daemon.let_run_until(LIMIT, || {
        programs.number("SELECT count(*) FROM delivery WHERE state <> 'done'") == 0
    });
    assert!(daemon.stop().success());
    assert_eq!(
        programs.words(),
        ["began 1", "ended 1", "began 2", "ended 2"]
    );
    assert_eq!(programs.number("SELECT count(*) FROM output"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_ends_is_killed_when_its_time_is_over() {
    let programs = Programs::begin("timeout = \"6s\"").await;
    programs.make_event();
    programs.kill_at_work(true);
    let (process, _) = programs.steps()[0];
    assert!(fs::exists(format!("/proc/{process}")).unwrap());
    let once = programs.world.run(&["run", "--once"]);
    let said = String::from_utf8_lossy(&once.stderr);
    assert!(once.status.success(), "{said}");
    let shown = programs.show(&[]);
    for words in [
        "the daemon ended while the program ran; it was killed after its 6 s",
        "Attempt 1 said:\n  | reading\n\n",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    assert!(programs.pipes().is_empty());
    assert_eq!(programs.words(), ["began 1"]);
    // Killed; whoever inherited it collects it.
    let end = Instant::now() + LIMIT;
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    while lives() {
        assert!(Instant::now() < end, "it still runs");
    }
}

/// A world whose program says which attempt it is, and no, in the daemon's own process: a child of this one would hold
/// other tests' locks for a moment.
async fn refusing() -> (World, String) {
    let setup = Setup {
        more:
            "[[sinks]]\nname = \"import\"\nkind = \"exec\"\nclinics = [\"*\"]\nmax_attempts = 1\n\
               command = [\"/bin/sh\", \"-c\", \"echo attempt $FULLSCRIPT_ATTEMPT; exit 1\"]\n"
                .to_owned(),
        file_sink: false,
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    let event = world.vendor.make_event(oak, "patient.created").unwrap();
    assert!(world.run(&["run", "--once"]).status.success());
    (world, event)
}

impl World {
    async fn number_of(&self, event: &str) -> DeliveryId {
        let (_owner, query) = self.query();
        let event = query.event(event.to_owned()).await.unwrap().unwrap();
        event.deliveries.last().unwrap().delivery
    }

    async fn said(&self, delivery: DeliveryId) -> Option<(u32, String)> {
        let (_owner, query) = self.query();
        let said = query.said(delivery).await.unwrap()?;
        Some((said.attempt, said.output.unwrap().text()))
    }

    async fn retry(&self, delivery: DeliveryId) {
        let (_owner, query) = self.query();
        let retried = query.choose(Choice::Retry, vec![delivery], now()).await;
        assert_eq!(retried.unwrap(), 1);
    }
}

fn now() -> DateTime<Utc> {
    SystemClock::start().now()
}

fn words(words: &str) -> Output {
    let mut output = Output::default();
    output.push(words.as_bytes());
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_attempts_words_are_kept_until_its_delivery_is_settled() {
    let (world, event) = refusing().await;
    let delivery = world.number_of(&event).await;
    let said = |n: u32| Some((n, format!("attempt {n}\n")));
    assert_eq!(world.said(delivery).await, said(1));
    world.retry(delivery).await;
    assert!(world.run(&["run", "--once"]).status.success());
    assert_eq!(world.said(delivery).await, said(2));
    let (owner, query) = world.query();
    let resent = query.resend(event, "import".to_owned(), now()).await;
    assert!(matches!(resent.unwrap(), Resend::Issued(_)));
    drop((owner, query));
    assert_eq!(world.said(delivery).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_not_kept_for_more_than_30_days() {
    let (world, event) = refusing().await;
    let delivery = world.number_of(&event).await;
    let prune_after = async |days: u32| {
        let owner = own(&world.config());
        let ledger = Ledger::new(owner.store().clone(), owner.epoch());
        // Heard three times in the day before, the last time then.
        let mut watch = Watch::default();
        for hours in [25, 12, 0] {
            let ago = chrono::TimeDelta::hours(hours);
            let then = now() + days * DAY - ago;
            watch.hear(Heard {
                ours: then,
                fullscripts: then,
                since_boot: chrono::TimeDelta::days(99) - ago,
            });
        }
        let pruned = ledger.prune(watch, chrono::TimeDelta::days(99)).await;
        assert!(matches!(pruned.unwrap(), Pruned::Forgotten { .. }));
    };
    prune_after(29).await;
    assert!(world.said(delivery).await.is_some());
    prune_after(30).await;
    assert_eq!(world.said(delivery).await, None);
    // The delivery itself still waits for a person.
    assert_eq!(world.number_of(&event).await, delivery);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_records_and_only_of_the_newest_attempt_while_it_is_claimed() {
    let (world, event) = refusing().await;
    let delivery = world.number_of(&event).await;
    world.retry(delivery).await;
    let name = SinkName::new("import").unwrap();
    let owner = own(&world.config());
    let stale = Ledger::new(owner.store().clone(), owner.epoch());
    let said = async || stale.recorded(delivery, 2).await.text();
    stale.record(delivery, 1, words("too late")).await;
    assert_eq!(stale.recorded(delivery, 1).await.text(), "attempt 1\n");
    let sinks = stale
        .enrol_sinks(vec![(name.clone(), OrderBy::None)])
        .await
        .unwrap();
    let claims = stale.claim(sinks[&name], 1, 1, now()).await.unwrap();
    assert_eq!(claims.len(), 1);
    stale.record(delivery, 2, words("so far")).await;
    stale.record(delivery, 1, words("an older attempt")).await;
    assert_eq!(said().await, "so far");
    // Another owner has begun.
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    c.execute("UPDATE instance SET epoch = epoch + 1", ())
        .unwrap();
    stale.record(delivery, 2, words("a stale owner")).await;
    assert_eq!(said().await, "so far");
    drop(owner);

    // It opens only as what it is: another attempt's is nobody's.
    c.execute("UPDATE output SET attempt = 1", ()).unwrap();
    let number = delivery.to_string();
    let shown = world.run(&["deliveries", "show", &number]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("output of attempt 1 cannot be opened"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sinks_program_is_tested_without_a_trace_in_the_state_directory() {
    let (world, event) = refusing().await;
    let delivery = world.number_of(&event).await;
    let before = world.said(delivery).await;
    fs::remove_dir(world.state_path().join("exec")).unwrap();
    let tested = world.run(&["sinks", "test", "import"]);
    let said = String::from_utf8_lossy(&tested.stderr).into_owned();
    assert!(said.contains("refused (exit code 1)"), "{said}");
    assert!(!world.state_path().join("exec").exists());
    assert_eq!(world.said(delivery).await, before);
    // Forgotten with its sink.
    world.write_config(&Setup::default());
    let forgotten = world.run(&["sinks", "forget", "import", "--yes"]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    assert_eq!(world.said(delivery).await, None);
}
