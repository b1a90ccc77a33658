//! The audit log, from outside: what is in it, that whatever is done to it is found, and that nothing goes out without it
//! where it is required.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use fullscript_events::audit::{Action, Actor, Link, Record, Row, fhir};
use fullscript_events::clock::{Clock as _, SystemClock};
use fullscript_events::simulator::Options;
use serde_json::Value;

use crate::binary::LIMIT;
use crate::receiver::{Answer, Receiver};
use crate::standard::python_with;
use crate::world::{Setup, World, lines_of};

const ONCE: [&str; 2] = ["run", "--once"];
const FIELDS: [&str; 15] = [
    "timestamp",
    "seq",
    "actor",
    "action",
    "clinic",
    "event_id",
    "sink",
    "method",
    "path",
    "status_code",
    "duration_ms",
    "request_id",
    "payload_digest",
    "prev",
    "hash",
];

pub(crate) fn audited(lines: &str) -> Setup {
    Setup {
        more: format!("[audit]\n{lines}\n"),
        ..Setup::default()
    }
}

/// A world with some events, a cycle and a log.
async fn world(setup: Setup) -> World {
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    for event_type in ["patient.created", "order.placed", "product.updated"] {
        world
            .vendor
            .make_event(&world.clinic("oak").clinic_id, event_type)
            .unwrap();
    }
    world
}

impl World {
    fn audit_directory(&self) -> PathBuf {
        self.state_path().join("audit")
    }

    /// The files of the log, the oldest first.
    pub(crate) fn audit_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.audit_directory()).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    pub(crate) fn audit_rows(&self) -> Vec<Value> {
        self.audit_files()
            .iter()
            .flat_map(|file| lines_of(file))
            .collect()
    }

    /// What `audit verify` says, with its exit code.
    pub(crate) fn verify(&self) -> (i32, Value) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.run(&["audit", "verify", "--json"]);
        let found = serde_json::from_slice(&stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&stderr)));
        (status.code().unwrap(), found)
    }

    /// Every attempt that has ended is recorded, once: in the files or, for a moment, in the ledger.
    #[track_caller]
    pub(crate) fn assert_each_attempt_is_audited(&self) {
        let c = rusqlite::Connection::open(self.ledger_path()).unwrap();
        let mut waiting = c
            .prepare("SELECT records FROM audit_pending ORDER BY row")
            .unwrap();
        let waiting = waiting
            .query_map((), |row| row.get::<_, String>(0))
            .unwrap();
        let waiting: String = waiting.map(Result::unwrap).collect();
        let waiting = waiting
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let mut recorded: Vec<(i64, i64)> = Vec::new();
        for row in self.audit_rows().into_iter().chain(waiting) {
            if row["action"] == "deliver" {
                let number = |key| note(&row, key).unwrap().parse().unwrap();
                recorded.push((number("delivery"), number("attempt")));
            }
        }
        recorded.sort_unstable();
        let mut attempts = c
            .prepare("SELECT delivery, attempts - (state = 'claimed') FROM delivery ORDER BY 1")
            .unwrap();
        let attempts = attempts
            .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        let ended: Vec<(i64, i64)> = attempts
            .map(Result::unwrap)
            .flat_map(|(delivery, attempts): (i64, i64)| (1..=attempts).map(move |n| (delivery, n)))
            .collect();
        assert!(
            recorded == ended,
            "{} recorded, {} ended",
            recorded.len(),
            ended.len()
        );
    }

    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        let (exit, found) = self.verify();
        assert_eq!((exit, &found["ok"]), (0, &Value::Bool(true)), "{found:#}");
    }
}

/// What stands behind the `#` of a row's path.
fn note<'a>(row: &'a Value, key: &str) -> Option<&'a str> {
    let (_, notes) = row["path"].as_str()?.split_once('#')?;
    let mut notes = notes.split(';').filter_map(|note| note.split_once('='));
    notes
        .find(|(noted, _)| *noted == key)
        .map(|(_, value)| value)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_given_what_is_in_it_and_nothing_else() {
    let world = world(audited("")).await;
    let cycle = world.run(&ONCE);
    assert!(cycle.status.success(), "{cycle:?}");
    world.assert_whole();
    let rows = world.audit_rows();
    for row in &rows {
        let keys: Vec<&str> = row
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut fields = FIELDS.to_vec();
        fields.sort_unstable();
        assert_eq!(keys, fields);
    }
    let of = |action: &str| -> Vec<&Value> {
        rows.iter().filter(|row| row["action"] == action).collect()
    };
    let (fetched, delivered) = (of("fetch"), of("deliver"));
    assert_eq!((fetched.len(), delivered.len()), (3, 3));
    for row in &delivered {
        let read = fetched
            .iter()
            .find(|read| read["event_id"] == row["event_id"]);
        let read = read.expect("it was read before");
        assert!(read["request_id"].is_string());
        // The same bytes, by a digest that says nothing of them.
        assert_eq!(read["payload_digest"], row["payload_digest"]);
        assert_eq!(
            (note(row, "outcome"), note(row, "attempt")),
            (Some("yes"), Some("1"))
        );
        assert_eq!(
            (&row["sink"], &row["clinic"]),
            (&"log".into(), &"oak".into())
        );
    }
    assert_eq!(of("poll").len(), 6);
    assert!(
        of("poll")
            .iter()
            .all(|row| note(row, "requests") == Some("1"))
    );
}

/// The path of a file in the way of the log's directory: what is below it cannot be made.
fn blocked(world: &World) -> (PathBuf, String) {
    let file = world.directory.path().join("disk");
    fs::write(&file, "in the way").unwrap();
    let line = format!("directory = {:?}\n", file.join("audit"));
    (file, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_while_a_required_log_cannot_be_written_and_then_all_is() {
    let world = world(Setup::default()).await;
    let (file, directory) = blocked(&world);
    world.write_config(&audited(&format!("{directory}required = true")));
    let mut daemon = world.daemon();
    let said = daemon.wait_for("the audit log cannot be written");
    assert!(
        said.contains("nothing is delivered") && said.contains("disk/audit"),
        "{said}"
    );
    // Polled and fetched it is all the same.
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let count = |sql: &str| c.query_row(sql, (), |row| row.get::<_, i64>(0)).unwrap();
    let fetched = || count("SELECT count(*) FROM delivery WHERE ready = 1") == 3;
    daemon.let_run_until(LIMIT, fetched);
    let status = world.run(&["status", "--check"]);
    let line = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(2), "{line}");
    assert!(line.contains("the audit log cannot be written"), "{line}");
    let status = world.run(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        text.contains("disk/audit") && text.contains("df -h"),
        "{text}"
    );
    // More than one of the looks of a sink for what is due.
    daemon.let_run(usize::MAX, std::time::Duration::from_secs(3));
    assert_eq!(count("SELECT sum(attempts) FROM delivery"), 0);
    assert!(world.shown().is_empty());

    fs::remove_file(&file).unwrap();
    daemon.wait_for("the audit log can be written again");
    daemon.let_run_until(LIMIT, || world.shown().len() == 3);
    daemon.stop();
    world.assert_all_shown_once();
    let (exit, found) = world.verify();
    assert_eq!((exit, &found["waiting"]), (0, &0.into()), "{found:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_need_not_be_written_keeps_nothing_back() {
    let world = world(Setup::default()).await;
    let (file, directory) = blocked(&world);
    world.write_config(&audited(&directory));
    let cycle = world.run(&ONCE);
    assert!(cycle.status.success());
    world.assert_all_shown_once();
    let log = String::from_utf8_lossy(&cycle.stderr).into_owned();
    assert_eq!(
        log.matches("the audit log cannot be written").count(),
        1,
        "{log}"
    );
    assert_eq!(
        world.run(&["status", "--check"]).status.code(),
        Some(2),
        "no daemon runs"
    );
    fs::remove_file(&file).unwrap();
    assert!(world.run(&ONCE).status.success());
    let (exit, found) = world.verify();
    assert_eq!((exit, &found["waiting"]), (0, &0.into()), "{found:#}");
    // Of the first cycle's as well.
    assert!(
        found["rows"].as_u64().unwrap() >= 1 + 3 + 3 + 6,
        "{found:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_a_command_is_named_and_what_was_done() {
    let world = world(audited("")).await;
    assert!(world.run(&ONCE).status.success());
    let id = &world.shown_ids()[0];
    for args in [
        &["events", "show", id][..],
        &["events", "resend", id, "--sink", "log"],
        &["deliveries", "show", "1"],
        &["audit", "export", "--format", "jsonl"],
        &["auth", "revoke", "oak", "--yes"],
    ] {
        let output = world.run(args);
        assert!(output.status.success(), "{args:?} {output:?}");
    }
    let (_, found) = world.verify();
    assert_eq!(found["waiting"], 5, "{found:#}");
    let before = world.audit_rows().len();
    world.run(&ONCE);
    world.assert_whole();
    let rows = world.audit_rows();
    let name = String::from_utf8(
        std::process::Command::new("id")
            .arg("-un")
            .output()
            .unwrap()
            .stdout,
    );
    let actor = format!("user:{}", name.unwrap().trim());
    let by_user: Vec<(&str, &str)> = rows[before..]
        .iter()
        .filter(|row| row["actor"] == actor.as_str())
        .map(|row| {
            (
                row["action"].as_str().unwrap(),
                row["path"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(by_user.len(), 5, "{rows:?}");
    assert_eq!(by_user[0], ("read", "events show"));
    assert_eq!(by_user[1].0, "resend");
    assert!(by_user[1].1.starts_with("events resend#delivery="));
    assert_eq!(by_user[2], ("read", "deliveries show#delivery=1"));
    assert_eq!(by_user[3], ("read", "audit export"));
    assert_eq!(by_user[4], ("token", "#what=revoked"));
    // The same configuration again is no news.
    assert_eq!(
        rows.iter().filter(|row| row["action"] == "config").count(),
        1
    );
}

/// The deliveries of a sink as a crash leaves them: one is claimed, and its attempt was never recorded.
fn leave_one_claimed(world: &World, sink: &str) {
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let changed = c.execute(
        "UPDATE delivery SET state = 'claimed', attempts = attempts + 1, epoch = 1 WHERE delivery =
           (SELECT min(delivery) FROM delivery JOIN sink USING (sink) WHERE name = ?1)",
        [sink],
    );
    assert_eq!(changed, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_ends_with_its_sink_is_recorded_and_who_ended_it() {
    for (args, found) in [
        (&["sinks", "forget", "hook", "--yes"][..], "forget"),
        (&["sinks", "reassign", "hook", "log"], "reassign"),
    ] {
        let hook = Receiver::start(Answer::Status(200)).await;
        let world = world(audited(&hook.sink(""))).await;
        assert!(world.run(&ONCE).status.success());
        leave_one_claimed(&world, "hook");
        world.write_config(&audited(""));
        let output = world.run(args);
        assert!(output.status.success(), "{output:?}");
        assert!(world.run(&ONCE).status.success());
        world.assert_each_attempt_is_audited();
        world.assert_whole();
        let rows = world.audit_rows();
        let left = rows.iter().find(|row| note(row, "found") == Some(found));
        assert_eq!(note(left.unwrap(), "outcome"), Some("doubt"));
        let person = rows.iter().find(|row| row["action"] == "resend").unwrap();
        assert_eq!(person["sink"], "hook");
        assert!(person["actor"].as_str().unwrap().starts_with("user:"));
        let command = format!("sinks {found}#deliveries=1");
        assert_eq!(person["path"], command.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_attempts_that_were_are_recorded_and_no_others() {
    let hook = Receiver::start(Answer::Status(200)).await;
    let world = world(audited(&hook.sink(""))).await;
    assert!(world.run(&ONCE).status.success());
    leave_one_claimed(&world, "hook");
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    c.execute_batch(
        "UPDATE delivery SET state = 'queued', due_at = 0 WHERE sink = (SELECT sink FROM sink WHERE name = 'log');
         UPDATE instance SET restored = 1",
    )
    .unwrap();
    drop(c);
    let output = world.run(&ONCE);
    // Their bodies are gone, and may have to be fetched again later.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    world.assert_each_attempt_is_audited();
    let rows = world.audit_rows();
    let found = |found: &str| {
        let rows = rows.iter().filter(|row| note(row, "found") == Some(found));
        rows.count()
    };
    assert_eq!((found("after_restore"), found("at_start")), (1, 0));
}

/// Reads each line as an `AuditEvent`, and makes sure that it would refuse one without what R4 requires.
const VALIDATE: &str = r#"
import json, sys
from fhir.resources.R4B.auditevent import AuditEvent
lines = open(sys.argv[1]).read().splitlines()
for line in lines:
    AuditEvent.model_validate_json(line)
for missing in ["type", "recorded", "agent", "source"]:
    event = json.loads(lines[0])
    del event[missing]
    try:
        AuditEvent.model_validate(event)
    except ValueError:
        continue
    sys.exit("valid without " + missing)
print(len(lines))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_are_audit_events_of_fhir_r4() {
    let world = world(audited("")).await;
    assert!(world.run(&ONCE).status.success());
    let exported = world.run(&["audit", "export", "--format", "fhir", "--clinic", "oak"]);
    assert!(exported.status.success(), "{exported:?}");
    let mut lines: Vec<String> = std::str::from_utf8(&exported.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.len(), 3 + 3 + 6);
    // And of what has not happened.
    for action in [
        "poll",
        "fetch",
        "deliver",
        "read",
        "resend",
        "stream_open",
        "stream_close",
        "config",
        "token",
    ] {
        let action: Action = serde_json::from_value(action.into()).unwrap();
        let record = Record::new(
            &Actor::Stream("chart".into()),
            action,
            SystemClock::start().now(),
        );
        let link = Link {
            seq: 7,
            hash: "0".repeat(64),
        };
        let row = Row {
            record,
            before: link.clone(),
            link,
            text: String::new(),
        };
        lines.push(fhir::audit_event(&row).to_string());
    }
    for line in &lines {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["resourceType"], "AuditEvent");
        assert!(event["type"]["code"].is_string() && event["recorded"].is_string());
        assert!(
            event["agent"]
                .as_array()
                .unwrap()
                .iter()
                .all(|agent| agent["requestor"].is_boolean())
        );
        assert!(event["source"]["observer"]["display"].is_string());
        assert!(["C", "R", "U", "D", "E"].contains(&event["action"].as_str().unwrap()));
    }
    let delivered: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &Value| event["subtype"][0]["code"] == "deliver")
        .collect();
    let id = &world.shown_ids()[0];
    assert!(
        delivered
            .iter()
            .any(|event| event["entity"][0]["what"]["identifier"]["value"] == id.as_str())
    );

    let directory = tempfile::tempdir().unwrap();
    let Some(mut python) = python_with("fhir.resources==8.0.0", directory.path()) else {
        eprintln!("skipped: no python3 with venv, or the package fhir.resources cannot be had");
        return;
    };
    let path = directory.path().join("events.ndjson");
    fs::write(&path, lines.join("\n")).unwrap();
    let output = python.args(["-c", VALIDATE]).arg(&path).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{}\n", lines.len())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_what_was_asked_for_and_stops_at_a_row_that_was_changed() {
    let world = world(audited("")).await;
    assert!(world.run(&ONCE).status.success());
    let export = |args: &[&str]| {
        let output = world.run(&[&["audit", "export", "--format", "jsonl"], args].concat());
        let lines = String::from_utf8(output.stdout).unwrap().lines().count();
        (output.status.code(), lines)
    };
    let all = world.audit_rows().len();
    assert_eq!(export(&[]), (Some(0), all));
    assert_eq!(export(&["--event", &world.shown_ids()[1]]), (Some(0), 2));
    assert_eq!(export(&["--clinic", "elm"]), (Some(0), 0));
    assert_eq!(export(&["--until", "2020-01-01"]), (Some(0), 0));
    assert_eq!(export(&["--since", "2020-01-01T00:00:00Z"]), (Some(0), all));

    let file = &world.audit_files()[0];
    let text = fs::read_to_string(file).unwrap();
    let changed = text.replacen("\"sink\":\"log\"", "\"sink\":\"lag\"", 1);
    fs::write(file, &changed).unwrap();
    let bad = 1 + changed
        .lines()
        .position(|line| line.contains("lag"))
        .unwrap();
    let (exit, found) = world.verify();
    assert_eq!((exit, &found["ok"]), (3, &false.into()));
    assert_eq!(found["broken"]["line"], bad);
    assert_eq!(found["broken"]["wrong"], "changed");
    assert_eq!(found["broken"]["file"], file.to_str().unwrap());
    assert_eq!(export(&[]), (Some(3), bad - 1));
    let said = world.run(&["audit", "verify"]);
    assert_eq!(said.status.code(), Some(3));
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains(&format!(
            "line {bad}, row {bad}: the row is not as it was written"
        )),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_webhook_was_asked_and_what_it_answered_is_in_it_but_no_query() {
    for bodies in ["until-settled", "never"] {
        let receiver = Receiver::start(Answer::Status(200)).await;
        let setup = Setup {
            state: format!("bodies = {bodies:?}\n"),
            file_sink: false,
            more: format!(
                "[[sinks]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{}/a?token=s3cr3t\"\nsignature = \"none\"\n[audit]\n",
                receiver.url
            ),
            ..Setup::default()
        };
        let world = World::begin(Options::default(), setup).await;
        world.log_in_long_ago().await;
        let oak = &world.clinic("oak").clinic_id;
        let ids =
            ["patient.created", "order.placed"].map(|t| world.vendor.make_event(oak, t).unwrap());
        receiver.refuses(&ids[1]);
        world.run(&ONCE);
        world.assert_whole();
        world.assert_each_attempt_is_audited();
        let rows = world.audit_rows();
        let of = |action: &str, id: &str| -> Vec<&Value> {
            let of = rows
                .iter()
                .filter(|row| row["action"] == action && row["event_id"] == id);
            of.collect()
        };
        for (id, outcome, status) in [(&ids[0], "yes", 200), (&ids[1], "no", 422)] {
            let delivered = of("deliver", id);
            assert_eq!(delivered.len(), 1, "{bodies}");
            assert_eq!(note(delivered[0], "outcome"), Some(outcome));
            assert_eq!(delivered[0]["status_code"], status);
            assert_eq!(delivered[0]["method"], "POST");
            assert!(
                delivered[0]["path"]
                    .as_str()
                    .unwrap()
                    .starts_with("/hook/a#")
            );
            assert_eq!(of("fetch", id).len(), 1, "{bodies}");
        }
        let refreshed =
            |row: &&Value| note(row, "what") == Some("refreshed") && row["clinic"] == "oak";
        assert_eq!(rows.iter().filter(refreshed).count(), 1);
        for file in world.audit_files() {
            assert!(!fs::read_to_string(file).unwrap().contains("s3cr3t"));
        }
    }
}
