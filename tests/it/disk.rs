//! A state directory on a disk that is full or read-only: nothing is asked, nothing is delivered that the ledger does
//! not know, it is said once, and it goes on by itself when there is room again.
//!
//! The disk is a small tmpfs in a mount namespace of its own, which takes root. Where there is none to be had, these
//! tests say so and pass.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fullscript_events::simulator::Options;

use crate::binary::{DAEMON, LIMIT, Running, command};
use crate::oracle::deliveries;
use crate::world::{Setup, World, check_invariants};

/// How long the daemon is watched while nothing must happen.
const WATCHED: Duration = Duration::from_secs(4);
/// Said when the state directory cannot be used at the start.
const NOT_STARTED: &str = "nothing is polled until it can be used";
/// Said when it cannot be written any more.
const DEGRADED: &str = "nothing is fetched or delivered until";

/// A mount namespace in which a small disk lies over a world's state directory, with what was in that.
struct Namespace {
    keeper: Child,
}

impl Namespace {
    /// `None`: this machine gives none.
    fn with_small_disk(world: &World) -> Option<Self> {
        let script = "set -e; cp -a \"$1\" \"$2\"; mount -t tmpfs -o size=16m,mode=700 tmpfs \"$1\"; \
                      cp -a \"$2/.\" \"$1\"; echo ready; read -r end";
        let mut keeper = Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .args([world.state_path(), world.directory.path().join("copy")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let stdout = keeper.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        if line == "ready\n" {
            return Some(Self { keeper });
        }
        drop(keeper.wait());
        eprintln!("skipped: no mount namespace with a tmpfs can be had (`unshare -m` takes root)");
        None
    }

    /// A command inside.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .args(["-m", "-t", &self.keeper.id().to_string(), "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdin(Stdio::null());
        inside
    }

    /// Runs a line of shell in the state directory.
    fn shell(&self, world: &World, line: &str) {
        let mut shell = Command::new("sh");
        let line = format!("cd {:?} && {line}", world.state_path());
        shell.args(["-c", &line]);
        shell.env("PATH", std::env::var_os("PATH").unwrap());
        let status = self.inside(&shell).status().unwrap();
        assert!(status.success(), "{line}");
    }

    fn daemon(&self, world: &World) -> Running {
        Running::start(&mut self.inside(&command(&world.config_path(), &DAEMON)))
    }

    /// A copy of the ledger inside, taken while no daemon runs. SQLite itself would follow `/proc/<pid>/root` to the
    /// directory outside.
    fn ledger(&self, world: &World) -> PathBuf {
        let copy = world.directory.path().join("seen");
        drop(fs::remove_dir_all(&copy));
        fs::create_dir(&copy).unwrap();
        let root = format!(
            "/proc/{}/root{}",
            self.keeper.id(),
            world.state_path().display()
        );
        for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
            if entry.file_name().to_str().unwrap().starts_with("ledger") {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
        copy.join("ledger.sqlite3")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Ends with its standard input; both fail only if it has ended already.
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// Fills the disk to the last byte.
const FILL: &str =
    "{ dd if=/dev/zero of=ballast bs=64k; dd if=/dev/zero of=ballast2 bs=1; } 2>/dev/null; true";
/// Makes room again.
const FREE: &str = "rm -f ballast ballast2";

fn setup() -> Setup {
    Setup {
        poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
        ..Setup::default()
    }
}

/// How often the daemon has said something.
fn count(daemon: &mut Running, words: &str) -> usize {
    let said = daemon.said();
    said.iter().filter(|line| line.contains(words)).count()
}

/// Lets it run for a while in which it must neither end nor try again as fast as it can: that nothing happens takes
/// time to be seen.
fn watch(daemon: &mut Running) {
    let before = daemon.said().len();
    let ended = daemon.let_run(usize::MAX, WATCHED);
    assert!(ended.is_none(), "{ended:?}: {}", daemon.last_words());
    let lines = daemon.said().len() - before;
    assert!(lines < 500, "{lines} lines: {}", daemon.last_words());
}

/// Waits until as many events are shown as were made.
fn wait_until_shown(world: &World, daemon: &mut Running) {
    let made = world.made_ids().len();
    daemon.let_run_until(2 * LIMIT, || {
        let shown = fs::read_to_string(world.log_path()).unwrap_or_default();
        shown.matches('\n').count() >= made
    });
}

/// Ends the daemon, and looks whether everything is there, once.
fn settle_up(world: &World, namespace: &Namespace, daemon: Running) {
    assert!(daemon.stop().success());
    let ledger = namespace.ledger(world);
    world.assert_ledger_agrees(&world.made_ids(), &ledger);
    check_invariants(&ledger);
}

/// Starts on a disk that cannot be written; gives what it said when it can be.
async fn start_without_a_disk(spoil: &str, mend: &str) {
    let world = World::begin(Options::default(), setup()).await;
    // Its token has expired: the first thing it would do is to ask for another.
    world.log_in_long_ago().await;
    let Some(namespace) = Namespace::with_small_disk(&world) else {
        return;
    };
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(20, oak, "patient.created");
    namespace.shell(&world, spoil);
    let before = world.vendor.counters();
    let mut daemon = namespace.daemon(&world);
    daemon.wait_for(NOT_STARTED);
    watch(&mut daemon);
    assert_eq!(world.vendor.counters().requests, before.requests);
    assert_eq!(world.vendor.counters().tokens, before.tokens);
    assert!(world.shown().is_empty());

    namespace.shell(&world, mend);
    wait_until_shown(&world, &mut daemon);
    assert_eq!(count(&mut daemon, "ERROR"), 1, "{}", daemon.last_words());
    assert!(world.vendor.counters().tokens != before.tokens);
    settle_up(&world, &namespace, daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn started_on_a_full_disk_it_says_so_once_and_waits_for_room() {
    start_without_a_disk(FILL, FREE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn started_on_a_read_only_disk_it_says_so_once_and_waits_until_it_is_not() {
    start_without_a_disk("mount -o remount,ro .", "mount -o remount,rw .").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_stops_everything_and_costs_nothing() {
    let options = Options {
        // The daemon hands no token out in its last 30 s: a refresh is wanted every few seconds.
        token_lifetime: Duration::from_secs(33),
        ..Options::default()
    };
    let world = World::begin(options, setup()).await;
    world.log_in().await;
    let Some(namespace) = Namespace::with_small_disk(&world) else {
        return;
    };
    let oak = &world.clinic("oak").clinic_id;
    world.vendor.make_events(20, oak, "patient.created");
    let mut daemon = namespace.daemon(&world);
    wait_until_shown(&world, &mut daemon);

    namespace.shell(&world, FILL);
    // More than what SQLite can still write over in its own files.
    world.vendor.make_events(600, oak, "patient.updated");
    daemon.wait_for(DEGRADED);
    watch(&mut daemon);
    assert_eq!(count(&mut daemon, DEGRADED), 1, "{}", daemon.last_words());

    // Not even a kill on the full disk lets an event go out twice.
    for _ in 0..2 {
        daemon.kill();
        assert_only_claimed_events_are_shown(&world, &namespace);
        // A single cycle does not wait for room.
        let cycle = command(&world.config_path(), &["run", "--once"]);
        let mut cycle = Running::start(&mut namespace.inside(&cycle));
        let ended = cycle.let_run(usize::MAX, LIMIT);
        assert!(
            ended.is_some_and(|status| !status.success()),
            "{ended:?}: {}",
            cycle.last_words()
        );
        daemon = namespace.daemon(&world);
        watch(&mut daemon);
    }

    namespace.shell(&world, FREE);
    wait_until_shown(&world, &mut daemon);
    let counters = world.vendor.counters();
    assert_eq!(counters.tokens_with("refresh_token", "invalid_grant"), 0);
    settle_up(&world, &namespace, daemon);
}

/// What the file sink shows is claimed or done in the ledger, on its own disk.
fn assert_only_claimed_events_are_shown(world: &World, namespace: &Namespace) {
    let states = deliveries(&namespace.ledger(world), "log");
    for line in world.shown() {
        let (id, state) = &states[line["delivery"].as_str().unwrap()];
        assert_eq!(id, &line["id"]);
        assert!(state == "claimed" || state == "done", "{id} is {state}");
    }
}
