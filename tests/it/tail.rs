//! `tail`: the first client of the live subscription, as a process beside the real daemon.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Instant;

use fullscript_events::simulator::Options;
use serde_json::Value;

use crate::binary::LIMIT;
use crate::stream::setting::Streaming;

/// A `tail` that runs; killed when dropped.
struct Tail {
    child: Child,
    out: PathBuf,
}

impl Tail {
    fn start(setting: &Streaming, name: &str, args: &[&str]) -> Self {
        let out = setting.world.directory.path().join(name);
        let errors = File::create(out.with_extension("errors")).unwrap();
        let mut command = setting.world.command(&["tail"]);
        let command = command.args(args).stderr(errors);
        let child = command.stdout(File::create(&out).unwrap()).spawn().unwrap();
        Self { child, out }
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.out).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.out.with_extension("errors")).unwrap()
    }

    /// Waits until it has printed so many lines.
    #[track_caller]
    fn wait_for(&self, count: usize) -> Vec<String> {
        self.wait_until(|tail| tail.lines().len() >= count);
        self.lines()
    }

    #[track_caller]
    fn wait_until(&self, done: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            let so_far = self.lines().len();
            assert!(began.elapsed() < LIMIT, "{so_far} lines; {}", self.errors());
            std::thread::yield_now();
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How a process ends, within the limit.
#[track_caller]
fn ended(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(began.elapsed() < LIMIT, "it goes on");
        std::thread::yield_now();
    }
}

fn ids(lines: &[String]) -> Vec<String> {
    let id = |line: &String| {
        let frame: Value = serde_json::from_str(line).unwrap();
        frame["eventId"].as_str().unwrap().to_owned()
    };
    lines.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_goes_on_behind_the_last_event_when_the_daemon_comes_back() {
    let setting = Streaming::begin(Options::default(), "").await;
    let mut made = setting.make(3, "patient.created");
    let daemon = setting.daemon();
    let tail = Tail::start(&setting, "json", &["--json", "--after", "oldest"]);
    tail.wait_for(3);
    made.extend(setting.make(2, "order.placed"));
    tail.wait_for(5);
    daemon.kill();
    made.extend(setting.make(4, "patient.updated"));
    let daemon = setting.daemon();
    let lines = tail.wait_for(made.len());
    let mut found = ids(&lines);
    let seqs: Vec<String> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|frame| frame["seq"].as_str().unwrap().to_owned())
        .collect();
    let number = |seq: &String| seq.rsplit('-').next().unwrap().parse::<u64>().unwrap();
    assert!(
        seqs.windows(2)
            .all(|pair| number(&pair[0]) < number(&pair[1]))
    );
    found.sort();
    made.sort();
    assert_eq!(found, made);
    assert!(lines[0].contains("\"entity\""));
    let errors = tail.errors();
    assert!(errors.contains("trying again"), "{errors}");
    assert!(errors.contains("nothing was missed"), "{errors}");
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_whom_it_is_asked_for_and_nothing_of_what_is_in_an_event() {
    let setting = Streaming::begin(Options::default(), "").await;
    let elm = setting.world.clinic("elm").clinic_id.clone();
    setting.make(2, "patient.created");
    setting.make_at(&elm, 2, "patient.created");
    let orders = setting.make_at(&elm, 2, "order.placed");
    let daemon = setting.daemon();
    let names = [
        "--type",
        "fhir.*.create",
        "--clinic",
        "elm",
        "--after",
        "oldest",
    ];
    let tail = Tail::start(&setting, "elm", &names);
    let orders_of_elm = Tail::start(
        &setting,
        "orders",
        &["--type", "order.*", "--clinic", "elm", "--after", "oldest"],
    );
    // The heading is a line too.
    let shown = tail.wait_for(5);
    assert!(
        shown[1..].iter().all(|line| line.contains("  elm  ")),
        "{shown:?}"
    );
    let lines = orders_of_elm.wait_for(3);
    assert!(lines[0].starts_with("HAPPENED (UTC)"));
    for line in &lines[1..] {
        let id = line.split_whitespace().last().unwrap();
        assert!(orders.iter().any(|made| made == id), "{line}");
        assert_eq!(line.split_whitespace().count(), 5, "{line}");
    }
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_ends_when_nobody_reads_or_a_person_has_seen_enough() {
    let setting = Streaming::begin(Options::default(), "").await;
    setting.make(3, "patient.created");
    let daemon = setting.daemon();
    let mut command = setting
        .world
        .command(&["tail", "--after", "oldest", "--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    drop(out);
    setting.make(1, "patient.created");
    assert!(ended(&mut child).success());

    let mut tail = Tail::start(&setting, "seen", &["--after", "oldest"]);
    tail.wait_for(5);
    let id = rustix::process::Pid::from_child(&tail.child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert!(ended(&mut tail.child).success());
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_says_what_is_wrong_and_what_mends_it() {
    let setting = Streaming::begin(Options::default(), "").await;
    let world = &setting.world;
    let failed = |args: &[&str]| {
        let output = world.run(args);
        assert!(output.stdout.is_empty());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, words) = failed(&["tail"]);
    assert_eq!(code, Some(69), "{words}");
    assert!(words.contains("does the daemon run?"), "{words}");

    let daemon = setting.daemon();
    for (args, code, expected) in [
        (
            vec!["--as", "nobody"],
            4,
            "there are: all, ids, oak, patients",
        ),
        (
            vec!["--as", "oak", "--clinic", "elm"],
            2,
            "may not see a clinic",
        ),
        (vec!["--after", "yesterday"], 2, "oldest"),
        (
            vec!["--after", "00000000-7"],
            3,
            "begin again with after=oldest",
        ),
        (
            vec!["--url", "http://ehr.example", "--token-file", "/t"],
            2,
            "https is wanted",
        ),
    ] {
        let args: Vec<&str> = ["tail"].into_iter().chain(args).collect();
        let (found, words) = failed(&args);
        assert_eq!(found, Some(code), "{args:?}: {words}");
        assert!(words.contains(expected), "{args:?}: {words}");
    }
    // The configuration has another token than the daemon that was started with it.
    let path = world.directory.path().join("token_all");
    crate::world::write_secret(&path, "another-token-0123456789");
    let (code, words) = failed(&["tail"]);
    assert_eq!(code, Some(78), "{words}");
    assert!(
        words.contains("is refused") && !words.contains("another-token"),
        "{words}"
    );
    assert!(daemon.stop().success());

    world.write_config(&crate::world::Setup::default());
    let (code, words) = failed(&["tail"]);
    assert_eq!(code, Some(78), "{words}");
    assert!(words.contains("there is no [stream]"), "{words}");
}
