//! The sqlite sink against real databases.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::config::SqliteInto;
use crate::domain::{ClinicId, ClinicName, DeliveryId, EventBody, EventId, EventType, Outcome};

/// A health fact that no message may repeat.
const FACT: &str = "Ada takes magnesium";

struct World {
    dir: TempDir,
    into: SqliteInto,
}

impl World {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            into: SqliteInto::Table("fullscript_event".to_owned()),
        }
    }

    /// A database of the operator's, and his statement.
    fn of_operator(schema: &str, statement: &str) -> Self {
        let world = Self {
            into: SqliteInto::Statement(statement.to_owned()),
            ..Self::new()
        };
        world.look().execute_batch(schema).unwrap();
        world
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("events.db")
    }

    fn beside(&self, end: &str) -> PathBuf {
        self.dir.path().join(format!("events.db{end}"))
    }

    fn settings(&self) -> config::SqliteSink {
        config::SqliteSink {
            path: self.path(),
            mode: 0o640,
            group: None,
            into: self.into.clone(),
        }
    }

    fn sink(&self) -> SqliteSink {
        Self::sink_with(self.settings())
    }

    /// A sink that does not wait for others' locks.
    fn sink_with(settings: config::SqliteSink) -> SqliteSink {
        SqliteSink {
            place: Arc::new(Place {
                sink: SinkName::new("records").unwrap(),
                settings,
                busy_timeout: Duration::ZERO,
            }),
            state: Arc::default(),
            enrich: Arc::default(),
        }
    }

    /// As any other program looks at it.
    #[allow(clippy::disallowed_methods, reason = "another program's view")]
    fn look(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn texts(&self, query: &str) -> Vec<String> {
        let connection = self.look();
        let mut statement = connection.prepare(query).unwrap();
        let rows = statement.query_map((), |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.texts("SELECT id FROM fullscript_event ORDER BY seq")
    }
}

fn parcel(delivery: i64) -> Parcel {
    Parcel {
        delivery: DeliveryId(delivery),
        attempt: 1,
        event: EventId::new(format!("e-{delivery}")).unwrap(),
        event_type: EventType::new("order.placed").unwrap(),
        created_at: DateTime::UNIX_EPOCH,
        clinic: ClinicName::new("oak-street").unwrap(),
        clinic_id: None,
        body: EventBody::from_json(format!(r#"{{"data":{{"n":{delivery},"x":"{FACT}"}}}}"#)),
    }
}

fn parcels(deliveries: impl IntoIterator<Item = i64>) -> Vec<Parcel> {
    deliveries.into_iter().map(parcel).collect()
}

fn orphan(delivery: i64) -> Orphan {
    Orphan {
        delivery: DeliveryId(delivery),
        attempt: 1,
        event: EventId::new(format!("e-{delivery}")).unwrap(),
    }
}

fn now() -> DateTime<Utc> {
    "2026-01-02T03:04:05.678Z".parse().unwrap()
}

async fn deliver(sink: &SqliteSink, deliveries: impl IntoIterator<Item = i64>) -> Delivered {
    sink.deliver(&parcels(deliveries), now()).await.unwrap()
}

/// A sink that has delivered 1, stopped, and the checkpoint the ledger has.
async fn after_one(world: &World) -> Option<Checkpoint> {
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    let delivered = deliver(&sink, [1]).await;
    assert_eq!(delivered.outcomes, [Outcome::Yes]);
    delivered.checkpoint
}

fn is_no(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::No { .. })
}

fn reason(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::No { reason, .. }
        | Outcome::Later { reason, .. }
        | Outcome::NotSent { reason }
        | Outcome::Gone { reason }
        | Outcome::ClinicRefused { reason }
        | Outcome::Skip { reason }
        | Outcome::Park { reason, .. }
        | Outcome::Doubt { reason } => reason,
        Outcome::Yes => "",
    }
}

#[tokio::test]
async fn an_event_is_a_row_and_its_data_keeps_every_byte() {
    let world = World::new();
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    let data = "{ \"z\":1.10,\n \"a\":12345678901234567890.0,\"s\":\"\\u00e9\\/é\" }";
    let known = Parcel {
        created_at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
        clinic_id: Some(ClinicId::new("c-1").unwrap()),
        body: EventBody::from_json(format!(r#"{{"id":"e-1","data":{data}}}"#)),
        ..parcel(1)
    };
    let unknown = Parcel {
        event_type: EventType::new("lunch.served").unwrap(),
        ..parcel(2)
    };
    let without = Parcel {
        body: EventBody::from_json("{}"),
        ..parcel(3)
    };
    let twice = Parcel {
        body: EventBody::from_json(r#"{"data":1,"data":2}"#),
        ..parcel(4)
    };
    let delivered = sink
        .deliver(&[without, known, twice, unknown], now())
        .await
        .unwrap();
    let no: Vec<bool> = delivered.outcomes.iter().map(is_no).collect();
    assert_eq!(no, [true, false, true, false]);

    let columns = "json_array(seq, id, type, category, created_at, clinic, clinic_id, received_at)";
    let rows = world.texts(&format!("SELECT {columns} FROM fullscript_event"));
    assert_eq!(
        rows,
        [
            r#"[1,"e-1","order.placed","orders","2026-01-01T00:00:00.500Z","oak-street","c-1","2026-01-02T03:04:05.678Z"]"#,
            r#"[2,"e-2","lunch.served",null,"1970-01-01T00:00:00.000Z","oak-street",null,"2026-01-02T03:04:05.678Z"]"#,
        ]
    );
    let found = world.texts("SELECT data FROM fullscript_event");
    assert_eq!(found[0], data);
    let asked = world.texts("SELECT json_extract(data, '$.x') FROM fullscript_event WHERE seq = 2");
    assert_eq!(asked, [FACT]);
}

#[tokio::test]
async fn what_a_crash_left_unsettled_is_found_even_where_its_rows_were_taken_away() {
    let world = World::new();
    let checkpoint = after_one(&world).await;
    let sink = world.sink();
    sink.resume(checkpoint.clone(), vec![]).await.unwrap();
    // Committed, and never settled.
    deliver(&sink, 2..5).await;
    drop(sink);
    let take = "DELETE FROM fullscript_event WHERE id = 'e-3'";
    world.look().execute_batch(take).unwrap();
    // Whoever is killed while it resumes does so again, from the same checkpoint.
    for _ in 0..3 {
        let orphans = [2, 3, 4, 5].map(orphan).to_vec();
        let resumed = world.sink().resume(checkpoint.clone(), orphans).await;
        let resumed = resumed.unwrap();
        assert_eq!(resumed.adopted, [2, 3, 4].map(DeliveryId));
        assert_eq!(resumed.absent, [DeliveryId(5)]);
        assert_eq!(resumed.doubtful, []);
        assert_ne!(resumed.checkpoint, checkpoint);
    }
    assert_eq!(world.ids(), ["e-1", "e-2", "e-4"]);
}

#[tokio::test]
async fn a_crash_before_the_first_settle_is_found_too() {
    for checkpoint_is_there in [false, true] {
        let world = World::new();
        let sink = world.sink();
        let first = sink.resume(None, vec![]).await.unwrap().checkpoint;
        deliver(&sink, [1]).await;
        drop(sink);
        let checkpoint = first.filter(|_| checkpoint_is_there);
        let sink = world.sink();
        let resumed = sink.resume(checkpoint, vec![orphan(1)]).await.unwrap();
        assert_eq!(resumed.adopted, [DeliveryId(1)]);
        deliver(&sink, [2]).await;
        assert_eq!(world.ids(), ["e-1", "e-2"]);
    }
}

#[tokio::test]
async fn an_event_that_is_there_stays_as_it_is_whatever_the_ledger_forgot() {
    let world = World::new();
    after_one(&world).await;
    let edit = "UPDATE fullscript_event SET clinic = 'edited'";
    world.look().execute_batch(edit).unwrap();
    // Another ledger, which has another number for it; then a person's resend.
    let sink = world.sink();
    let anew = Orphan {
        delivery: DeliveryId(7),
        ..orphan(1)
    };
    let resumed = sink.resume(None, vec![anew]).await.unwrap();
    assert_eq!(resumed.adopted, [DeliveryId(7)]);
    let again = Parcel {
        delivery: DeliveryId(8),
        ..parcel(1)
    };
    let resent = sink.deliver(&[again], now()).await.unwrap();
    assert_eq!(resent.outcomes, [Outcome::Yes]);
    assert_eq!(
        world.texts("SELECT clinic FROM fullscript_event"),
        ["edited"]
    );
    // Taken away, it is written anew by a resend.
    world
        .look()
        .execute_batch("DELETE FROM fullscript_event")
        .unwrap();
    let again = Parcel {
        delivery: DeliveryId(9),
        ..parcel(1)
    };
    sink.deliver(&[again], now()).await.unwrap();
    assert_eq!(world.ids(), ["e-1"]);
    // A reader who goes on behind the last `seq` that he has seen sees it.
    let new = "SELECT id FROM fullscript_event WHERE seq > 1";
    assert_eq!(world.texts(new), ["e-1"]);
}

#[tokio::test]
async fn a_database_that_is_not_the_one_before_stops_the_sink_until_it_is_accepted() {
    type Change = (&'static str, fn(&World));
    let change: [Change; 4] = [
        ("is gone", |world| fs::remove_file(world.path()).unwrap()),
        ("is another database than before", |world| {
            fs::remove_file(world.path()).unwrap();
            world.look().execute_batch("CREATE TABLE t (a)").unwrap();
        }),
        ("is another database than before", |world| {
            // Of another sink, which has taken as many batches.
            let other = "UPDATE fullscript_sink SET database = 'another'";
            world.look().execute_batch(other).unwrap();
        }),
        (
            "is an older copy (it has taken 1 batches, expected at least 2)",
            |world| {
                fs::rename(world.beside(".backup"), world.path()).unwrap();
            },
        ),
    ];
    for (words, change) in change {
        let world = World::new();
        after_one(&world).await;
        fs::copy(world.path(), world.beside(".backup")).unwrap();
        let sink = world.sink();
        sink.resume(None, vec![]).await.unwrap();
        let checkpoint = deliver(&sink, [2]).await.checkpoint;
        drop(sink);
        for end in ["-wal", "-shm"] {
            fs::remove_file(world.beside(end)).unwrap();
        }
        change(&world);
        let Stopped(text) = world.sink().resume(checkpoint, vec![]).await.unwrap_err();
        assert!(text.contains(words), "{text}");
        assert!(text.contains("events.db"), "{text}");
        assert!(
            text.contains("`fullscript-events sinks accept records`"),
            "{text}"
        );
        // Accepting it means to start without a checkpoint.
        let sink = world.sink();
        sink.resume(None, vec![]).await.unwrap();
        deliver(&sink, [3]).await;
        assert_eq!(world.ids().last().unwrap(), "e-3");
    }
}

#[tokio::test]
async fn an_older_ledger_stops_a_statement_that_might_run_twice_but_not_the_table() {
    let operator = World::of_operator("CREATE TABLE inbox (id)", "INSERT INTO inbox VALUES (:id)");
    for (world, goes_on) in [(World::new(), true), (operator, false)] {
        let checkpoint = after_one(&world).await;
        let sink = world.sink();
        sink.resume(checkpoint.clone(), vec![]).await.unwrap();
        deliver(&sink, [2]).await;
        deliver(&sink, [3]).await;
        drop(sink);
        let resumed = world.sink().resume(checkpoint, vec![]).await;
        assert_eq!(resumed.is_ok(), goes_on);
        if let Err(Stopped(text)) = resumed {
            assert!(text.contains("is ahead of the ledger"), "{text}");
            assert!(text.contains("sinks accept records"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_database_that_is_replaced_under_a_running_sink_stops_it_before_it_writes() {
    let world = World::new();
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    deliver(&sink, [1]).await;
    fs::copy(world.path(), world.beside(".copy")).unwrap();
    fs::rename(world.beside(".copy"), world.path()).unwrap();
    let stopped = sink.deliver(&[parcel(2)], now()).await.err().unwrap();
    assert!(
        stopped.0.contains("was replaced by another file"),
        "{stopped}"
    );
    sink.deliver(&[parcel(2)], now()).await.err().unwrap();
}

#[tokio::test]
async fn a_second_sink_is_refused_the_database() {
    let world = World::new();
    let first = world.sink();
    first.resume(None, vec![]).await.unwrap();
    let Stopped(text) = world.sink().resume(None, vec![]).await.unwrap_err();
    assert!(text.contains("one file belongs to one sink"), "{text}");
    // It may itself take it up anew; each time it writes, so that no commit that failed is left behind its back.
    first.resume(None, vec![]).await.unwrap();
    let opened = "SELECT CAST(opened AS TEXT) FROM fullscript_sink";
    assert_eq!(world.texts(opened), ["2"]);
    drop(first);
    world.sink().resume(None, vec![]).await.unwrap();
}

#[tokio::test]
async fn a_database_that_another_program_writes_to_is_tried_later_and_nothing_is_there() {
    let world = World::new();
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    let other = world.look();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let delivered = deliver(&sink, 1..3).await;
    for outcome in &delivered.outcomes {
        assert!(matches!(outcome, Outcome::Later { .. }));
        assert_eq!(
            reason(outcome),
            "the database is locked by another program (SQLite code 5)"
        );
    }
    let Stopped(text) = world.sink().resume(None, vec![]).await.unwrap_err();
    assert!(text.contains("locked"), "{text}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(world.ids().len(), 0);
    let delivered = deliver(&sink, 1..3).await;
    assert_eq!(delivered.outcomes, [Outcome::Yes, Outcome::Yes]);
    // Readers are never in the way.
    other
        .execute_batch("BEGIN; SELECT * FROM fullscript_event")
        .unwrap();
    assert_eq!(deliver(&sink, [3]).await.outcomes, [Outcome::Yes]);
}

#[tokio::test]
async fn a_reader_in_the_way_of_a_commit_is_waited_for_too() {
    let world = World::of_operator("CREATE TABLE inbox (id)", "INSERT INTO inbox VALUES (:id)");
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    assert_eq!(
        world.texts("PRAGMA journal_mode"),
        ["delete"],
        "it is the operator's"
    );
    let reader = world.look();
    reader.execute_batch("BEGIN; SELECT * FROM inbox").unwrap();
    let delivered = deliver(&sink, [1]).await;
    assert!(matches!(delivered.outcomes[..], [Outcome::Later { .. }]));
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(deliver(&sink, [1]).await.outcomes, [Outcome::Yes]);
    assert_eq!(world.texts("SELECT id FROM inbox"), ["e-1"]);
}

#[tokio::test]
async fn where_there_is_no_room_nothing_is_there_and_nothing_is_refused() {
    let world = World::new();
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    let limit = |pages: i64| {
        let mut state = sink.state.lock().unwrap();
        let connection = &state.as_mut().unwrap().connection;
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    };
    limit(8);
    let large = Parcel {
        body: EventBody::from_json(format!(r#"{{"data":"{}"}}"#, "x".repeat(100_000))),
        ..parcel(2)
    };
    let delivered = sink
        .deliver(&[parcel(1), large.clone()], now())
        .await
        .unwrap();
    for outcome in &delivered.outcomes {
        assert!(matches!(outcome, Outcome::NotSent { .. }), "{outcome:?}");
    }
    assert_eq!(world.ids().len(), 0);
    limit(1000);
    let delivered = sink.deliver(&[parcel(1), large], now()).await.unwrap();
    assert_eq!(delivered.outcomes, [Outcome::Yes, Outcome::Yes]);
}

#[tokio::test]
async fn of_the_operators_database_nothing_else_is_touched() {
    let world = World {
        into: SqliteInto::Table("Events".to_owned()),
        ..World::new()
    };
    let schema = "CREATE TABLE patient (a); PRAGMA user_version = 7; PRAGMA application_id = 9;
                  INSERT INTO patient VALUES (1)";
    world.look().execute_batch(schema).unwrap();
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o604)).unwrap();
    after_one(&world).await;
    let names =
        world.texts("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1");
    assert_eq!(
        names,
        ["Events", "Events_by_type", "fullscript_sink", "patient"]
    );
    assert_eq!(
        world.texts("SELECT CAST(user_version AS TEXT) FROM pragma_user_version"),
        ["7"]
    );
    assert_eq!(world.texts("SELECT CAST(a AS TEXT) FROM patient"), ["1"]);
    assert_eq!(world.texts("PRAGMA journal_mode"), ["delete"]);
    let mode = fs::metadata(world.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o604);
}

#[tokio::test]
async fn a_table_of_that_name_that_is_another_stops_the_sink_and_is_left_alone() {
    for (schema, words) in [
        (
            "CREATE TABLE fullscript_event (id TEXT PRIMARY KEY, type, clinic, created_at)",
            "it has no column seq, category, clinic_id, data, received_at",
        ),
        (
            "CREATE TABLE fullscript_event (seq, id UNIQUE, type, category, created_at, clinic, clinic_id, data, received_at, who NOT NULL, seen NOT NULL DEFAULT 0)",
            "who may not be NULL and has no default",
        ),
        (
            "CREATE TABLE fullscript_event (seq, id, type, category, created_at, clinic, clinic_id, data, received_at)",
            "ON CONFLICT clause does not match",
        ),
        (
            "CREATE VIEW fullscript_event AS SELECT 1 seq, 2 id, 3 type, 4 category, 5 created_at, 6 clinic, 7 clinic_id, 8 data, 9 received_at",
            "cannot be prepared: cannot modify fullscript_event because it is a view",
        ),
    ] {
        let world = World::new();
        world.look().execute_batch(schema).unwrap();
        let Stopped(text) = world.sink().resume(None, vec![]).await.unwrap_err();
        assert!(text.contains(words), "{text}");
        assert!(
            text.contains("its table fullscript_event is another"),
            "{text}"
        );
        assert!(text.contains("`table`"), "{text}");
        let found = world.texts("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL");
        assert!(found.contains(&schema.to_owned()), "{found:?}");
        assert!(!found.concat().contains("fullscript_sink"), "{found:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let world = World::new();
    let text = "not a database".repeat(99);
    fs::write(world.path(), &text).unwrap();
    let Stopped(words) = world.sink().resume(None, vec![]).await.unwrap_err();
    assert!(words.contains("not a SQLite database"), "{words}");
    assert_eq!(fs::read_to_string(world.path()).unwrap(), text);
}

#[tokio::test]
async fn a_statement_that_cannot_run_for_each_event_is_told_what_is_wrong() {
    for (statement, words) in [
        (
            "SELECT :id",
            "begins with \"SELECT\", expected one of INSERT",
        ),
        ("BEGIN", "begins with \"BEGIN\""),
        (
            "COMMIT; INSERT INTO inbox VALUES (1, 2)",
            "begins with \"COMMIT\"",
        ),
        (
            "-- mine\nINSERT INTO inbox VALUES (1, 2)",
            "begins with \"\"",
        ),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "gives rows"),
        (
            "INSERT INTO inbox VALUES (:id, 2) RETURNING id",
            "gives rows",
        ),
        (
            "INSERT INTO inbox VALUES (:id, 2); DELETE FROM inbox",
            "more than one statement",
        ),
        ("INSERT INTO outbox VALUES (:id)", "no such table: outbox"),
        (
            "INSERT INTO inbox (id, who) VALUES (:id, 1)",
            "no column named who",
        ),
        (
            "INSERT INTO inbox VALUES (:id, :payload)",
            "asks for :payload, known are :id :type",
        ),
        ("INSERT INTO inbox VALUES (@id, 1)", "asks for @id"),
        (
            "INSERT INTO inbox VALUES (?, 1)",
            "a parameter without a name",
        ),
        ("INSERT INTO inbox VALUES (:id", "incomplete input"),
    ] {
        let world = World::of_operator("CREATE TABLE inbox (id, body)", statement);
        let Stopped(text) = world.sink().resume(None, vec![]).await.unwrap_err();
        assert!(text.contains(words), "{statement}: {text}");
        assert!(text.contains("`statement`"), "{text}");
        let tables = world.texts("SELECT name FROM sqlite_schema");
        assert_eq!(tables, ["inbox"], "{statement}");
    }
}

#[tokio::test]
async fn a_statement_needs_a_database_that_is_there() {
    let world = World {
        into: SqliteInto::Statement("INSERT INTO inbox VALUES (:id)".to_owned()),
        ..World::new()
    };
    let Stopped(text) = world.sink().resume(None, vec![]).await.unwrap_err();
    assert!(text.contains("does not exist; make the database"), "{text}");
    assert!(!world.path().exists());
}

#[tokio::test]
async fn a_statement_gets_what_it_asks_for_and_runs_once_for_each_delivery() {
    let world = World::of_operator(
        "CREATE TABLE inbox (a)",
        "INSERT INTO inbox SELECT json_array(:id, :type, :category, :created_at, :clinic, :clinic_id, :received_at, \
         :delivery, json(:data), json(:event), :id);",
    );
    let sink = world.sink();
    let checkpoint = sink.resume(None, vec![]).await.unwrap().checkpoint;
    deliver(&sink, 1..3).await;
    drop(sink);
    let rows = world.texts("SELECT a FROM inbox");
    assert_eq!(
        rows[0],
        format!(
            r#"["e-1","order.placed","orders","1970-01-01T00:00:00.000Z","oak-street",null,"2026-01-02T03:04:05.678Z",1,{{"n":1,"x":"{FACT}"}},{{"data":{{"n":1,"x":"{FACT}"}}}},"e-1"]"#
        )
    );
    // A crash before the settling: both are known, though the operator's table could not tell.
    world.look().execute_batch("DELETE FROM inbox").unwrap();
    let sink = world.sink();
    let resumed = sink
        .resume(checkpoint, vec![orphan(1), orphan(2), orphan(3)])
        .await;
    let resumed = resumed.unwrap();
    assert_eq!(resumed.adopted, [1, 2].map(DeliveryId));
    assert_eq!(resumed.absent, [DeliveryId(3)]);
    // A person's resend is a new delivery.
    let again = Parcel {
        delivery: DeliveryId(4),
        ..parcel(1)
    };
    sink.deliver(&[again], now()).await.unwrap();
    assert_eq!(world.texts("SELECT a FROM inbox").len(), 1);
}

/// What the operator's schema refuses of the events 1 to 4, by event 2's and 3's own fault; none of it is in a message.
#[tokio::test]
async fn an_event_that_is_refused_takes_no_other_with_it() {
    const INSERT: &str = "INSERT INTO inbox (id, body) VALUES (:id, :data)";
    let trigger = |how: &str| {
        format!(
            "CREATE TABLE inbox (id, body); CREATE TABLE log (id);
             CREATE TRIGGER t AFTER INSERT ON inbox BEGIN
                 INSERT INTO log VALUES (new.id);
                 SELECT RAISE({how}, 'no {FACT}') WHERE new.id IN ('e-2', 'e-3');
             END"
        )
    };
    for (schema, statement, words) in [
        (
            "CREATE TABLE inbox (id UNIQUE, body); INSERT INTO inbox VALUES ('e-2', ''), ('e-3', '')"
                .to_owned(),
            INSERT,
            "refused by a UNIQUE constraint of its table (SQLite code 2067)",
        ),
        (
            "CREATE TABLE inbox (id CHECK (id NOT IN ('e-2', 'e-3')), body)".to_owned(),
            INSERT,
            "refused by a CHECK constraint of its table (SQLite code 275)",
        ),
        (
            trigger("ABORT"),
            INSERT,
            "refused by a trigger of its table (SQLite code 1811)",
        ),
        (
            trigger("FAIL"),
            INSERT,
            "refused by a trigger of its table (SQLite code 1811)",
        ),
        // Takes back the whole transaction.
        (
            trigger("ROLLBACK"),
            INSERT,
            "refused by a trigger of its table (SQLite code 1811)",
        ),
        (
            "CREATE TABLE inbox (id, body)".to_owned(),
            "INSERT INTO inbox VALUES (:id, iif(:id IN ('e-2', 'e-3'), json('no ' || :data), 1))",
            "refused by an expression that cannot be computed (SQLite code 1)",
        ),
        // Is looked at only at the commit.
        (
            "CREATE TABLE known (id PRIMARY KEY); INSERT INTO known VALUES ('e-1'), ('e-4');
             CREATE TABLE inbox (id REFERENCES known (id) DEFERRABLE INITIALLY DEFERRED, body)"
                .to_owned(),
            INSERT,
            "refused by a foreign key of its table (SQLite code 787)",
        ),
    ] {
        let world = World::of_operator(&schema, statement);
        let sink = world.sink();
        let first = sink.resume(None, vec![]).await.unwrap().checkpoint;
        let delivered = deliver(&sink, 1..5).await;
        let yes: Vec<bool> = delivered
            .outcomes
            .iter()
            .map(|o| *o == Outcome::Yes)
            .collect();
        assert_eq!(
            yes,
            [true, false, false, true],
            "{schema} {:?}",
            delivered.outcomes
        );
        for outcome in &delivered.outcomes[1..3] {
            let refused = reason(outcome);
            assert!(
                is_no(outcome) && refused.starts_with(words),
                "{schema}: {refused}"
            );
        }
        let new = "SELECT id FROM inbox WHERE body <> '' ORDER BY id";
        assert_eq!(world.texts(new), ["e-1", "e-4"], "{schema}");
        if schema.contains("log") {
            assert_eq!(
                world.texts("SELECT id FROM log"),
                ["e-1", "e-4"],
                "{schema}"
            );
        }
        drop(sink);
        let orphans = (1..5).map(orphan).collect();
        let resumed = world.sink().resume(first, orphans).await.unwrap();
        assert_eq!(resumed.adopted, [1, 4].map(DeliveryId), "{schema}");
        assert_eq!(resumed.checkpoint, delivered.checkpoint);
    }
}

#[tokio::test]
async fn a_batch_of_which_nothing_is_wanted_leaves_the_database_as_it_was() {
    let world = World::of_operator(
        "CREATE TABLE inbox (id CHECK (id = 0))",
        "INSERT INTO inbox VALUES (:id)",
    );
    let sink = world.sink();
    let first = sink.resume(None, vec![]).await.unwrap().checkpoint;
    let delivered = deliver(&sink, 1..4).await;
    assert!(delivered.outcomes.iter().all(is_no));
    assert_eq!(delivered.checkpoint, first);
}

#[tokio::test]
async fn a_table_that_is_dropped_under_a_running_sink_stops_it_and_refuses_nothing() {
    for (world, drop_it) in [
        (World::new(), "DROP TABLE fullscript_event"),
        (World::new(), "DROP TABLE fullscript_sink"),
        (World::new(), "UPDATE fullscript_sink SET batch = 5"),
        (
            World::of_operator("CREATE TABLE inbox (id)", "INSERT INTO inbox VALUES (:id)"),
            "DROP TABLE inbox",
        ),
    ] {
        let sink = world.sink();
        sink.resume(None, vec![]).await.unwrap();
        deliver(&sink, [1]).await;
        world.look().execute_batch(drop_it).unwrap();
        let stopped = sink.deliver(&parcels(2..4), now()).await.err().unwrap();
        assert!(stopped.0.contains("events.db"), "{stopped}");
        assert!(!stopped.0.contains("magnesium"), "{stopped}");
    }
}

#[tokio::test]
async fn the_database_and_its_log_are_for_the_configured_group_alone() {
    let world = World::new();
    let own = fs::metadata(world.dir.path()).unwrap();
    // Root may give files to any group, others only to theirs.
    let group = if own.uid() == 0 { 54321 } else { own.gid() };
    let settings = config::SqliteSink {
        group: Some(group.to_string()),
        ..world.settings()
    };
    let sink = World::sink_with(settings);
    sink.resume(None, vec![]).await.unwrap();
    deliver(&sink, [1]).await;
    let check = || {
        for end in ["", "-wal", "-shm"] {
            let found = fs::metadata(world.beside(end)).unwrap();
            assert_eq!(found.mode() & 0o777, 0o640, "{end}");
            assert_eq!(found.gid(), group, "{end}");
        }
    };
    check();
    // They stay when the sink ends: who may only read cannot make them. All is in the one file then.
    drop(sink);
    check();
    assert_eq!(fs::metadata(world.beside("-wal")).unwrap().len(), 0);
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "says what it skips")]
async fn the_log_is_for_the_group_where_sqlite_does_not_see_to_it() {
    let world = World::new();
    world
        .look()
        .execute_batch("PRAGMA journal_mode = wal")
        .unwrap();
    let found = fs::metadata(world.path()).unwrap();
    if found.uid() != 0 {
        eprintln!("skipped: only root may give files to a group that is not its own");
        return;
    }
    // SQLite gives its files the group of the database, which is another.
    let settings = config::SqliteSink {
        group: Some("54321".to_owned()),
        ..world.settings()
    };
    let sink = World::sink_with(settings);
    sink.resume(None, vec![]).await.unwrap();
    for end in ["-wal", "-shm"] {
        assert_eq!(fs::metadata(world.beside(end)).unwrap().gid(), 54321);
    }
    assert_eq!(fs::metadata(world.path()).unwrap().gid(), found.gid());
}

#[tokio::test]
async fn what_the_promise_rests_on_is_set() {
    let world = World::new();
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    let state = sink.state.lock().unwrap();
    let connection = &state.as_ref().unwrap().connection;
    let read = |pragma: &str| -> String {
        let query = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
        connection.query_row(&query, (), |row| row.get(0)).unwrap()
    };
    assert_eq!(read("journal_mode"), "wal");
    assert_eq!(read("synchronous"), "3");
}

#[tokio::test]
async fn a_link_at_the_path_is_refused_and_one_above_it_is_not() {
    let world = World::new();
    let elsewhere = world.beside(".elsewhere");
    fs::write(&elsewhere, "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.path()).unwrap();
    world.sink().resume(None, vec![]).await.unwrap_err();
    assert_eq!(fs::metadata(&elsewhere).unwrap().len(), 0);

    let above = world.dir.path().join("above");
    std::os::unix::fs::symlink(world.dir.path(), &above).unwrap();
    let settings = config::SqliteSink {
        path: above.join("other.db"),
        ..world.settings()
    };
    let sink = World::sink_with(settings);
    sink.resume(None, vec![]).await.unwrap();
    assert_eq!(deliver(&sink, [1]).await.outcomes, [Outcome::Yes]);
}
