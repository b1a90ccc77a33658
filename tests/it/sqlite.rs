//! The sqlite sink in the real binary: killed between its commit and the record of it, refused by an operator's
//! trigger, and with its database taken away.

use std::path::{Path, PathBuf};

use fullscript_events::simulator::Options;

use crate::binary::{LIMIT, was_killed};
use crate::oracle::{Verdict, judge};
use crate::stepped::{DAY, MINUTE, Stepped, polling};
use crate::world::{Setup, World};

const EVERYTHING: &str = "first_run = \"30d\"";

/// A sink `records` with the documented table.
pub(crate) fn records(path: &Path) -> String {
    format!(
        "[[sinks]]\nname = \"records\"\nkind = \"sqlite\"\nclinics = [\"*\"]\npath = {path:?}\n"
    )
}

/// A sink `inbox` with a statement into a table that keeps no event from coming twice.
fn inbox(path: &Path, schema: &str) -> String {
    let operator = rusqlite::Connection::open(path).unwrap();
    operator.execute_batch(schema).unwrap();
    format!(
        "[[sinks]]\nname = \"inbox\"\nkind = \"sqlite\"\nclinics = [\"*\"]\npath = {path:?}\n\
         statement = \"INSERT INTO inbox (id, body) VALUES (:id, :data)\"\n"
    )
}

/// The ids in a table, sorted, with each one's data.
pub(crate) fn rows(path: &Path, query: &str) -> Vec<(String, String)> {
    let operator = rusqlite::Connection::open(path).unwrap();
    let mut statement = operator.prepare(query).unwrap();
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    let mut rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
    rows.sort();
    rows
}

pub(crate) const RECORDS: &str = "SELECT id, data FROM fullscript_event";
const INBOX: &str = "SELECT id, body FROM inbox";

impl World {
    /// Asserts that a table shows each event exactly once, and its data byte for byte what the vendor has.
    pub(crate) fn assert_rows_once(&self, made: &[String], rows: &[(String, String)]) {
        let ids = rows.iter().map(|(id, _)| id);
        assert_eq!(judge(made, ids), Verdict::default());
        for (id, data) in rows {
            let reply = self.vendor.reply_for(id).unwrap();
            assert!(reply.contains(&format!("\"data\":{data}")), "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_its_commit_it_shows_every_event_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| -> PathBuf { directory.path().join(name) };
    let schema = "CREATE TABLE inbox (id, body)";
    let setup = Setup {
        poll: "interval = \"1s\"\nfirst_run = \"30d\"\ncategories = [\"patients\"]\n".to_owned(),
        more: records(&place("records.db")) + &inbox(&place("inbox.db"), schema),
        file_sink: false,
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    for _ in 0..2 {
        for point in [
            "sqlite.before_commit",
            "sqlite.after_commit",
            "deliver.after_claim",
            "deliver.before_settle",
        ] {
            world.vendor.make_events(20, oak, "patient.created");
            let mut daemon = world.daemon_dying_at(point);
            let ended = daemon.let_run(usize::MAX, LIMIT);
            assert!(ended.is_some_and(was_killed), "{}", daemon.last_words());
        }
    }
    let made = world.made_ids();
    let mut daemon = world.daemon();
    daemon.wait_for("polling");
    daemon.let_run_until(LIMIT, || world.is_drained(&made));
    assert!(daemon.stop().success());
    world.assert_rows_once(&made, &rows(&place("records.db"), RECORDS));
    world.assert_rows_once(&made, &rows(&place("inbox.db"), INBOX));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operators_trigger_says_of_an_event_is_told_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inbox.db");
    let schema = "CREATE TABLE inbox (id, body);
                  CREATE TRIGGER t BEFORE INSERT ON inbox
                  BEGIN SELECT RAISE(ABORT, 'canary-' || new.body); END";
    let setup = Setup {
        more: inbox(&path, schema),
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    let id = world.vendor.make_event(oak, "patient.created").unwrap();
    let once = world.run(&["--log-level", "trace", "run", "--once"]);
    let said = String::from_utf8(once.stderr).unwrap();
    assert!(said.contains("refused by a trigger of its table"), "{said}");
    let shown = world.run(&["events", "show", &id]).stdout;
    let said = said + &String::from_utf8(shown).unwrap();
    assert!(said.contains("refused by a trigger"), "{said}");
    assert!(!said.contains("canary-"), "{said}");
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_stops_its_sink_only_until_it_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.db");
    let setup = Setup {
        more: records(&path),
        ..polling(&["patients"], EVERYTHING)
    };
    let world = Stepped::begin(setup).await;
    world.make("oak", "patient.created");
    world.pass().await;
    assert_eq!(rows(&path, RECORDS).len(), 1);
    // Whoever looked at it last has put its log away: it is one file.
    std::fs::rename(&path, directory.path().join("moved.db")).unwrap();
    world.clock.advance(MINUTE);
    let next = world.make("oak", "patient.updated");
    world.pass().await;
    let stopped = world.sink("records").await.stopped.unwrap();
    assert!(stopped.contains("is gone; look at it"), "{stopped}");
    assert!(stopped.contains("sinks accept records"), "{stopped}");
    assert!(!path.exists());
    world.assert_all_shown_once();

    // Looking at it again and again changes nothing.
    world.pass_after(DAY).await;
    assert!(!path.exists());
    let accepted = world
        .ask(async |query| query.accept_sink("records".to_owned()).await.unwrap())
        .await;
    assert!(accepted);
    world.pass().await;
    assert_eq!(world.sink("records").await.stopped, None);
    world.assert_rows_once(&[next], &rows(&path, RECORDS));
}
