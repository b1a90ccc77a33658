use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe as unix_pipe;
use tokio::sync::Notify;

use super::*;
use crate::domain::{ClinicName, EventBody, EventId, EventType, Metadata};
use crate::sinks::Recorder;

/// A recorder in memory.
#[derive(Default)]
struct Notes {
    kept: Mutex<HashMap<(DeliveryId, u32), Output>>,
    count: AtomicUsize,
    news: Notify,
}

impl Recorder for Notes {
    fn record(&self, delivery: DeliveryId, attempt: u32, output: Output) -> BoxFuture<'_, ()> {
        self.kept
            .lock()
            .unwrap()
            .insert((delivery, attempt), output);
        self.count.fetch_add(1, Ordering::SeqCst);
        self.news.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn recorded(&self, delivery: DeliveryId, attempt: u32) -> BoxFuture<'_, Output> {
        let kept = self.kept.lock().unwrap();
        let output = kept.get(&(delivery, attempt)).cloned();
        Box::pin(std::future::ready(output.unwrap_or_default()))
    }
}

impl Notes {
    fn output(&self) -> Output {
        let kept = self.kept.lock().unwrap();
        kept.get(&(DeliveryId(7), 2)).cloned().unwrap_or_default()
    }

    fn text(&self) -> String {
        self.output().text()
    }

    async fn wait_for(&self, words: &str) {
        let waiting = async {
            loop {
                let news = self.news.notified();
                if self.text().contains(words) {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap();
    }
}

/// A state directory, and what was recorded.
struct World {
    directory: TempDir,
    notes: Arc<Notes>,
}

impl World {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            notes: Arc::default(),
        }
    }

    fn sink(&self, command: &[&str], timeout: Duration) -> ExecSink {
        let settings = config::ExecSink {
            command: command.iter().map(ToString::to_string).collect(),
            timeout,
            concurrency: 1,
        };
        let notes = Arc::clone(&self.notes);
        let name = SinkName::new("import").unwrap();
        ExecSink::new(name, settings, self.directory.path(), notes)
    }

    fn shell(&self, script: &str, timeout: Duration) -> ExecSink {
        self.sink(
            &["/bin/sh", "-c", script, self.gate().to_str().unwrap()],
            timeout,
        )
    }

    /// A named pipe that scripts have as `$0`.
    fn gate(&self) -> PathBuf {
        let gate = self.directory.path().join("gate");
        let made = rustix::fs::mkfifoat(CWD, &gate, Mode::from_raw_mode(0o600));
        assert!(matches!(made, Ok(()) | Err(Errno::EXIST)));
        gate
    }

    /// Lets whoever reads from the gate go on; waits until somebody does.
    async fn let_go(&self) {
        let gate = self.gate();
        let opening = async {
            while let Err(error) = unix_pipe::OpenOptions::new().open_sender(&gate) {
                assert_eq!(Errno::from_io_error(&error), Some(Errno::NXIO), "{error}");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, opening).await.unwrap();
    }

    /// The names of the pipes that there are.
    fn pipes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join(PIPES)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Says of the abandoned attempt, on its pipe, that this leads it, or that nobody knows who does.
    fn rename(&self, left: &Abandoned, leader: &str) {
        let pipes = self.directory.path().join(PIPES);
        let name = format!("7-2{leader}");
        std::fs::rename(pipes.join(&left.name), pipes.join(name)).unwrap();
    }
}

/// Killed when it is dropped.
struct Abandoned {
    child: Child,
    name: String,
}

/// An attempt whose daemon is gone: the program runs, and nobody listens.
fn abandoned(sink: &ExecSink) -> Abandoned {
    let (mut pipe, ends) = Pipe::make(&sink.directory, DeliveryId(7), 2).unwrap();
    let mut child = sink.start(&parcel("{}"), ends).unwrap();
    drop(child.stdin.take());
    let process = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    pipe.is_led_by(Leader::of(process).unwrap());
    let name = pipe.forget();
    Abandoned { child, name }
}

async fn resumed(sink: &ExecSink) -> String {
    let orphan = Orphan {
        delivery: DeliveryId(7),
        attempt: 2,
        event: EventId::new("e-7").unwrap(),
    };
    let resuming = tokio::time::timeout(LONG, sink.resume(None, vec![orphan]));
    let resumed = resuming.await.unwrap().unwrap();
    assert!(resumed.adopted.is_empty() && resumed.absent.is_empty());
    let [doubtful] = <[Doubtful; 1]>::try_from(resumed.doubtful).unwrap();
    assert_eq!(doubtful.delivery, DeliveryId(7));
    doubtful.reason
}

fn parcel(data: &str) -> Parcel {
    Parcel {
        delivery: DeliveryId(7),
        attempt: 2,
        event: EventId::new("e-7").unwrap(),
        event_type: EventType::new("order.placed").unwrap(),
        created_at: DateTime::UNIX_EPOCH,
        clinic: ClinicName::new("oak-street").unwrap(),
        clinic_id: None,
        body: EventBody::from_json(format!(r#"{{"data":{data}}}"#)),
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_exit_code_is_the_answer() {
    for (script, expected) in [
        ("exit 0", "Yes"),
        ("cat >/dev/null", "Yes"),
        (
            "exit 75",
            "Later { reason: \"exit code 75\", retry_after: None }",
        ),
        (
            "exit 1",
            "No { reason: \"exit code 1\", retry_after: None }",
        ),
        ("kill -9 $$", "Doubt { reason: \"killed by signal 9\" }"),
    ] {
        let outcome = World::new()
            .sink(&["/bin/sh", "-c", script], LONG)
            .attempt(&parcel("{}"))
            .await;
        assert_eq!(format!("{outcome:?}"), expected, "{script}");
    }
    let missing = World::new()
        .sink(&["/nonexistent/program"], LONG)
        .attempt(&parcel("{}"))
        .await;
    assert!(matches!(missing, Outcome::NotSent { .. }), "{missing:?}");
}

#[tokio::test]
async fn a_program_gets_the_event_on_stdin_and_only_ids_in_its_environment() {
    let dir = TempDir::new().unwrap();
    let kept = dir.path().join("kept");
    let script = "cat >\"$0\"; echo >>\"$0\"; env >>\"$0\"";
    let parcel = parcel(r#"{"name":"Ada"}"#);
    let outcome = World::new()
        .sink(&["/bin/sh", "-c", script, kept.to_str().unwrap()], LONG)
        .attempt(&parcel)
        .await;
    assert_eq!(outcome, Outcome::Yes);
    let text = std::fs::read_to_string(kept).unwrap();
    let (body, environment) = text.split_once('\n').unwrap();
    assert_eq!(
        body.as_bytes(),
        native::body(&parcel, &Metadata::default()).unwrap()
    );
    let mut names: Vec<_> = environment
        .lines()
        .filter_map(|line| line.split('=').next())
        // The shell's own.
        .filter(|name| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "FULLSCRIPT_ATTEMPT",
            "FULLSCRIPT_CLINIC",
            "FULLSCRIPT_DELIVERY",
            "FULLSCRIPT_EVENT_ID",
            "FULLSCRIPT_EVENT_TYPE",
            "PATH"
        ]
    );
    assert!(!environment.contains("Ada"));
}

#[tokio::test]
async fn a_body_longer_than_a_pipe_holds_does_not_hang_on_a_program_that_ignores_it() {
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let outcome = World::new()
        .sink(&["/bin/sh", "-c", "exit 0"], LONG)
        .attempt(&parcel(&long))
        .await;
    assert_eq!(outcome, Outcome::Yes);
}

/// A script whose grandchild holds a named pipe open: the pipe's end is the end of the whole group.
fn grandchild(fifo: &Path) -> (unix_pipe::Receiver, [String; 4]) {
    let made = std::process::Command::new("mkfifo")
        .arg(fifo)
        .status()
        .unwrap();
    assert!(made.success());
    let held = unix_pipe::OpenOptions::new().open_receiver(fifo).unwrap();
    let script = "(exec >\"$0\"; echo here; sleep 600) & wait";
    let fifo = fifo.to_str().unwrap();
    (held, ["/bin/sh", "-c", script, fifo].map(str::to_owned))
}

/// Returns when nobody holds the pipe any more; fails when that takes too long.
async fn all_gone(mut held: unix_pipe::Receiver) {
    let mut text = String::new();
    let reading = held.read_to_string(&mut text);
    tokio::time::timeout(LONG, reading).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_time_out_kills_the_grandchildren_too_and_leaves_a_doubt() {
    let dir = TempDir::new().unwrap();
    let (mut held, command) = grandchild(&dir.path().join("fifo"));
    let command = command.each_ref().map(String::as_str);
    let world = World::new();
    let sink = world.sink(&command, Duration::from_millis(500));
    let parcel = parcel("{}");
    let (outcome, started) = tokio::join!(sink.attempt(&parcel), held.read_u8());
    started.unwrap();
    assert!(matches!(outcome, Outcome::Doubt { .. }), "{outcome:?}");
    all_gone(held).await;
}

#[tokio::test]
async fn an_attempt_that_is_dropped_leaves_no_process_behind() {
    let dir = TempDir::new().unwrap();
    let (mut held, command) = grandchild(&dir.path().join("fifo"));
    let command = command.each_ref().map(String::as_str);
    let world = World::new();
    let sink = world.sink(&command, LONG * 10);
    let parcel = parcel("{}");
    tokio::select! {
        outcome = sink.attempt(&parcel) => panic!("ended by itself: {outcome:?}"),
        started = held.read_u8() => drop(started.unwrap()),
    }
    all_gone(held).await;
}

#[tokio::test]
async fn what_it_says_is_recorded_wherever_its_answer_is_not_yes() {
    for (script, expected) in [
        (
            "echo one; echo two >&2; echo three; exit 1",
            "one\ntwo\nthree\n",
        ),
        ("echo later; exit 75", "later\n"),
        ("echo killed; kill -9 $$", "killed\n"),
        ("printf 'a\\377\\000b'; exit 1", "a\u{fffd}\0b"),
        ("exec >/dev/null 2>&1; echo unheard; exit 1", ""),
    ] {
        let world = World::new();
        let outcome = world.shell(script, LONG).attempt(&parcel("{}")).await;
        assert_ne!(outcome, Outcome::Yes);
        assert_eq!(world.notes.text(), expected, "{script}");
        assert_eq!(world.notes.count.load(Ordering::SeqCst), 1);
        assert!(world.pipes().is_empty());
    }
    let world = World::new();
    let outcome = world.shell("echo fine", LONG).attempt(&parcel("{}")).await;
    assert_eq!(outcome, Outcome::Yes);
    assert_eq!(world.notes.count.load(Ordering::SeqCst), 0);
    assert!(world.pipes().is_empty());
}

#[tokio::test]
async fn a_flood_is_read_to_its_end_and_hardly_any_of_it_is_kept() {
    let world = World::new();
    let script = "echo begin; head -c 100000000 /dev/zero; echo end; exit 1";
    let outcome = world.shell(script, LONG).attempt(&parcel("{}")).await;
    assert!(matches!(outcome, Outcome::No { .. }), "{outcome:?}");
    let output = world.notes.output();
    assert_eq!(output.said(), 100_000_000 + 10);
    assert!(output.to_bytes().len() < 65 << 10);
    assert!(output.text().starts_with("begin\n") && output.text().ends_with("end\n"));
}

#[tokio::test]
async fn whoever_it_leaves_behind_with_its_pipe_open_holds_nothing_up() {
    let world = World::new();
    let script = "(read line <\"$0\") & echo said; exit 1";
    let outcome = world.shell(script, LONG).attempt(&parcel("{}")).await;
    assert!(matches!(outcome, Outcome::No { .. }), "{outcome:?}");
    assert_eq!(world.notes.text(), "said\n");
    // It was there all the time.
    world.let_go().await;
}

#[tokio::test]
async fn what_a_long_run_has_said_so_far_is_recorded_when_there_is_news() {
    let world = World::new();
    let script = "echo first; read line <\"$0\"; echo second; read line <\"$0\"; exit 0";
    let mut sink = world.shell(script, LONG);
    sink.recorded_every = Duration::from_millis(5);
    let parcel = parcel("{}");
    let steps = async {
        world.notes.wait_for("first\n").await;
        world.let_go().await;
        world.notes.wait_for("first\nsecond\n").await;
        world.let_go().await;
    };
    let (outcome, ()) = tokio::join!(sink.attempt(&parcel), steps);
    assert_eq!(outcome, Outcome::Yes);
    assert_eq!(world.notes.count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_time_out_keeps_what_was_said_before() {
    let world = World::new();
    let script = "echo begun; read line <\"$0\"";
    let sink = world.shell(script, Duration::from_millis(300));
    let outcome = sink.attempt(&parcel("{}")).await;
    assert!(matches!(outcome, Outcome::Doubt { .. }), "{outcome:?}");
    assert_eq!(world.notes.text(), "begun\n");
}

#[tokio::test]
async fn where_no_pipe_can_be_made_nothing_is_started() {
    let world = World::new();
    let marker = world.directory.path().join("marker");
    let script = format!("touch {}", marker.display());
    std::fs::write(world.directory.path().join(PIPES), "").unwrap();
    let outcome = world.shell(&script, LONG).attempt(&parcel("{}")).await;
    let Outcome::NotSent { reason } = outcome else {
        panic!("{outcome:?}")
    };
    let place = format!("{}/exec: ", world.directory.path().display());
    assert!(reason.contains(&place), "{reason}");
    assert!(!marker.exists());
}

#[tokio::test]
async fn no_program_inherits_another_ones_pipe() {
    let world = World::new();
    let first = world.shell("echo begun; read line <\"$0\"", LONG);
    let _held = abandoned(&first);
    let look = world.shell("ls -l /proc/$$/fd; exit 1", LONG);
    let mut other = parcel("{}");
    other.delivery = DeliveryId(8);
    look.attempt(&other).await;
    let seen = look.recorder.recorded(DeliveryId(8), 2).await.text();
    assert!(!seen.contains("/exec/7-2"), "{seen}");
    // Its standard output and error, and the end that all have.
    assert_eq!(seen.matches("/exec/8-2").count(), 3, "{seen}");
}

#[tokio::test]
async fn a_program_that_outlives_its_daemon_is_waited_for_and_heard_to_its_end() {
    for redirected in [
        "",
        "exec >/dev/null 2>&1;",
        "exec 3>/dev/null 9>/dev/null; ",
    ] {
        let world = World::new();
        let script = format!("echo before; {redirected} read line <\"$0\"; echo after; exit 0");
        let sink = world.shell(&script, LONG);
        let _left = abandoned(&sink);
        let wait = async {
            // Opens only when the program has come so far: until then it is certainly there.
            world.let_go().await;
        };
        let (reason, ()) = tokio::join!(resumed(&sink), wait);
        assert!(
            reason.starts_with("the daemon ended while the program ran; it ended "),
            "{reason}"
        );
        let heard = if redirected.contains("2>&1") {
            "before\n"
        } else {
            "before\nafter\n"
        };
        assert_eq!(world.notes.text(), heard);
        assert!(world.pipes().is_empty());
    }
}

#[tokio::test]
async fn what_was_recorded_before_the_crash_goes_on_after_it() {
    let world = World::new();
    let mut before = Output::default();
    before.push(b"recorded\n");
    world.notes.record(DeliveryId(7), 2, before).await;
    let mut sink = world.shell("echo more; read line <\"$0\"; echo last", LONG);
    sink.recorded_every = Duration::from_millis(5);
    let _left = abandoned(&sink);
    let steps = async {
        world.notes.wait_for("recorded\nmore\n").await;
        world.let_go().await;
    };
    tokio::join!(resumed(&sink), steps);
    assert_eq!(world.notes.text(), "recorded\nmore\nlast\n");
}

#[tokio::test]
async fn a_grandchild_counts_as_running_too() {
    let world = World::new();
    let sink = world.shell("(read line <\"$0\") >/dev/null 2>&1 & exit 0", LONG);
    let mut left = abandoned(&sink);
    left.child.wait().await.unwrap();
    let (reason, ()) = tokio::join!(resumed(&sink), world.let_go());
    assert!(reason.contains("it ended "), "{reason}");
}

#[tokio::test]
async fn what_has_ended_is_not_waited_for() {
    let world = World::new();
    let sink = world.shell("exit 0", LONG);
    let mut left = abandoned(&sink);
    left.child.wait().await.unwrap();
    let reason = resumed(&sink).await;
    assert!(
        reason.ends_with("it has ended since; how, nobody knows"),
        "{reason}"
    );
    assert!(world.pipes().is_empty());
    // And of an attempt without a trace no more is known.
    assert_eq!(resumed(&sink).await, Doubtful::STOPPED);
}

#[tokio::test]
async fn when_its_time_is_over_its_whole_group_is_killed() {
    let dir = TempDir::new().unwrap();
    let (mut held, command) = grandchild(&dir.path().join("fifo"));
    let command = command.each_ref().map(String::as_str);
    let world = World::new();
    let sink = world.sink(&command, Duration::from_millis(300));
    let _left = abandoned(&sink);
    held.read_u8().await.unwrap();
    let reason = resumed(&sink).await;
    assert!(
        reason.ends_with("it was killed after its 0.3 s"),
        "{reason}"
    );
    assert!(world.pipes().is_empty());
    all_gone(held).await;
}

#[tokio::test]
async fn nobody_is_killed_who_is_not_surely_its_own() {
    let own = Leader::of(rustix::process::getpid()).unwrap();
    assert!(own.is_there());
    let world = World::new();
    let sink = world.shell("read line <\"$0\"", Duration::from_millis(100));
    // Nobody knows who leads it; somebody has the number now who was started at another time.
    for start in [None, Some(1)] {
        let mut left = abandoned(&sink);
        let id = left.child.id().unwrap();
        let leader = start.map(|start| format!(".{id}-{start}"));
        world.rename(&left, &leader.unwrap_or_default());
        let reason = resumed(&sink).await;
        assert!(
            reason.contains("still runs, and was left alone"),
            "{reason}"
        );
        assert!(left.child.try_wait().unwrap().is_none());
    }
}

#[tokio::test]
async fn a_stop_while_it_is_waited_for_leaves_it_to_the_next_start() {
    let world = World::new();
    let sink = world.shell("echo begun; read line <\"$0\"; echo over", LONG);
    let mut left = abandoned(&sink);
    let stop = world.notes.wait_for("begun");
    let mut waiting = world.shell("", LONG);
    waiting.recorded_every = Duration::from_millis(5);
    tokio::select! {
        reason = resumed(&waiting) => panic!("{reason}"),
        () = stop => {}
    }
    assert_eq!(world.pipes(), [left.name.clone()]);
    assert!(left.child.try_wait().unwrap().is_none());
    let (reason, ()) = tokio::join!(resumed(&sink), world.let_go());
    assert!(reason.contains("it ended "), "{reason}");
    assert_eq!(world.notes.text(), "begun\nover\n");
}

#[tokio::test]
async fn how_long_a_process_runs_is_counted_from_its_start() {
    let own = Leader::of(rustix::process::getpid()).unwrap();
    let first = own.running_for();
    assert!(first < Duration::from_hours(24), "{first:?}");
    assert!(own.running_for() >= first);
}
