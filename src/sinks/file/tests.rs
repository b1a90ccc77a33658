//! The file sink against real files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::batch::{Appended, append};
use super::*;
use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType, Metadata, Outcome};

struct World {
    dir: TempDir,
    rotate_daily: bool,
}

impl World {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            rotate_daily: false,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("events.jsonl")
    }

    fn sink(&self) -> FileSink {
        FileSink::new(
            SinkName::new("archive").unwrap(),
            config::FileSink {
                path: self.path(),
                mode: 0o640,
                group: None,
                rotate_daily: self.rotate_daily,
            },
        )
    }

    fn append(&self, text: &str) {
        let mut file = OpenOptions::new().append(true).open(self.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
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
        body: EventBody::from_json(r#"{"data":{}}"#),
    }
}

fn line(delivery: i64) -> String {
    String::from_utf8(native::line(&parcel(delivery), &Metadata::default()).unwrap()).unwrap()
}

fn orphan(delivery: i64) -> Orphan {
    Orphan {
        delivery: DeliveryId(delivery),
        attempt: 1,
        event: EventId::new(format!("e-{delivery}")).unwrap(),
    }
}

fn on(day: u32) -> DateTime<Utc> {
    format!("2026-01-{day:02}T12:00:00Z").parse().unwrap()
}

/// A sink that has delivered 1, stopped, and the checkpoint the ledger has.
async fn after_one(world: &World) -> Option<Checkpoint> {
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    let delivered = sink.deliver(&[parcel(1)], on(1)).await.unwrap();
    assert_eq!(delivered.outcomes, [Outcome::Yes]);
    delivered.checkpoint
}

#[tokio::test]
async fn a_batch_is_appended_line_by_line_to_a_file_with_the_configured_mode() {
    let world = World::new();
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    let broken = Parcel {
        body: EventBody::from_json("{}"),
        ..parcel(2)
    };
    let delivered = sink
        .deliver(&[parcel(1), broken, parcel(3)], on(1))
        .await
        .unwrap();
    assert!(matches!(
        delivered.outcomes[..],
        [Outcome::Yes, Outcome::No { .. }, Outcome::Yes]
    ));
    assert_eq!(world.text(), line(1) + &line(3));
    let mode = fs::metadata(world.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[tokio::test]
async fn a_first_start_appends_behind_what_is_there_but_not_behind_half_a_line() {
    let world = World::new();
    fs::write(world.path(), "theirs\n").unwrap();
    after_one(&world).await;
    assert_eq!(world.text(), format!("theirs\n{}", line(1)));
    fs::write(world.path(), "half").unwrap();
    world.sink().resume(None, vec![]).await.unwrap_err();
    assert_eq!(world.text(), "half");
}

#[tokio::test]
async fn a_crash_before_the_first_settle_is_rolled_forward_too() {
    let world = World::new();
    let sink = world.sink();
    let first = sink.resume(None, vec![]).await.unwrap().checkpoint;
    sink.deliver(&[parcel(1)], on(1)).await.unwrap();
    drop(sink);
    let resumed = world.sink().resume(first, vec![orphan(1)]).await.unwrap();
    assert_eq!(resumed.adopted, [DeliveryId(1)]);
}

#[tokio::test]
async fn orphans_without_a_checkpoint_are_looked_for_in_the_whole_file() {
    let world = World::new();
    fs::write(world.path(), "theirs\n".to_owned() + &line(1) + &line(2)).unwrap();
    let resumed = world
        .sink()
        .resume(None, vec![orphan(1), orphan(3)])
        .await
        .unwrap();
    assert_eq!(resumed.adopted, [DeliveryId(1)]);
    assert_eq!(resumed.absent, [DeliveryId(3)]);
}

#[tokio::test]
async fn whole_lines_are_adopted_and_only_a_torn_one_is_cut() {
    let world = World::new();
    let checkpoint = after_one(&world).await;
    // Line 9 has the number of an orphan and another's event: it belongs to an older ledger.
    let foreign = line(9).replace("e-9", "e-0");
    world.append(&(line(2) + "unknown\n" + &foreign + &line(3)[..20]));
    let sink = world.sink();
    let resumed = sink
        .resume(checkpoint, vec![orphan(2), orphan(3), orphan(9)])
        .await
        .unwrap();
    assert_eq!(resumed.adopted, [DeliveryId(2)]);
    assert_eq!(resumed.absent, [DeliveryId(3), DeliveryId(9)]);
    assert_eq!(resumed.doubtful, []);
    sink.deliver(&[parcel(3)], on(1)).await.unwrap();
    assert_eq!(
        world.text(),
        line(1) + &line(2) + "unknown\n" + &foreign + &line(3)
    );
}

#[tokio::test]
async fn what_lies_behind_a_hole_that_a_power_cut_left_is_cut_and_due_again() {
    let world = World::new();
    let checkpoint = after_one(&world).await;
    // A later sector of an append reached the disk, an earlier one did not: it reads as zeros.
    let half = line(3).split_at(40).1.to_owned();
    world.append(&(line(2) + &"\0".repeat(40) + &half + &line(4)));
    let sink = world.sink();
    let resumed = sink
        .resume(checkpoint, vec![orphan(2), orphan(3), orphan(4)])
        .await
        .unwrap();
    assert_eq!(resumed.adopted, [DeliveryId(2)]);
    assert_eq!(resumed.absent, [DeliveryId(3), DeliveryId(4)]);
    sink.deliver(&[parcel(3), parcel(4)], on(1)).await.unwrap();
    assert_eq!(world.text(), line(1) + &line(2) + &line(3) + &line(4));
}

#[tokio::test]
async fn a_file_that_was_shrunk_or_replaced_or_removed_while_away_stops_the_sink() {
    let change: [fn(&World); 3] = [
        |world| {
            let file = OpenOptions::new().write(true).open(world.path()).unwrap();
            file.set_len(5).unwrap();
        },
        |world| {
            fs::copy(world.path(), world.dir.path().join("copy")).unwrap();
            fs::rename(world.dir.path().join("copy"), world.path()).unwrap();
        },
        |world| fs::remove_file(world.path()).unwrap(),
    ];
    for change in change {
        let world = World::new();
        let checkpoint = after_one(&world).await;
        change(&world);
        let Stopped(text) = world.sink().resume(checkpoint, vec![]).await.unwrap_err();
        assert!(
            text.contains("`fullscript-events sinks accept archive`"),
            "{text}"
        );
        assert!(text.contains("events.jsonl"), "{text}");
        // Accepting it means to start without a checkpoint.
        fs::write(world.path(), "").unwrap();
        world.sink().resume(None, vec![]).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_changes_under_a_running_sink_stops_it_before_it_writes() {
    let change: [fn(&World); 3] = [
        |world| world.append("theirs\n"),
        |world| fs::write(world.path(), "").unwrap(),
        |world| {
            fs::copy(world.path(), world.dir.path().join("copy")).unwrap();
            fs::rename(world.dir.path().join("copy"), world.path()).unwrap();
        },
    ];
    for change in change {
        let world = World::new();
        let sink = world.sink();
        sink.resume(None, vec![]).await.unwrap();
        sink.deliver(&[parcel(1)], on(1)).await.unwrap();
        change(&world);
        let before = world.text();
        let stopped = sink.deliver(&[parcel(2)], on(1)).await.err().unwrap();
        assert!(stopped.0.contains("sinks accept archive"), "{stopped}");
        assert_eq!(world.text(), before);
    }
}

#[tokio::test]
async fn a_second_process_is_refused_the_file() {
    let world = World::new();
    let first = world.sink();
    first.resume(None, vec![]).await.unwrap();
    let Stopped(text) = world.sink().resume(None, vec![]).await.unwrap_err();
    assert!(text.contains("locked"), "{text}");
}

#[tokio::test]
async fn a_finished_day_is_put_away_and_never_over_another_file() {
    let mut world = World::new();
    world.rotate_daily = true;
    let sink = world.sink();
    sink.resume(None, vec![]).await.unwrap();
    sink.deliver(&[parcel(1)], on(1)).await.unwrap();
    sink.deliver(&[parcel(2)], on(2)).await.unwrap();
    // A clock that goes back does not rotate.
    sink.deliver(&[parcel(3)], on(1)).await.unwrap();
    assert_eq!(world.text(), line(2) + &line(3));
    let rotated = world.dir.path().join("events.jsonl.2026-01-01");
    assert_eq!(fs::read_to_string(rotated).unwrap(), line(1));

    fs::write(world.dir.path().join("events.jsonl.2026-01-02"), "kept").unwrap();
    let stopped = sink.deliver(&[parcel(4)], on(3)).await.err().unwrap();
    assert!(stopped.0.contains("events.jsonl.2026-01-02"), "{stopped}");
    assert_eq!(world.text(), line(2) + &line(3));
}

#[tokio::test]
async fn a_rotation_that_a_crash_interrupted_is_finished_at_each_step() {
    // What stands at the path when the program comes back: nothing, a new file, one with lines and a torn rest.
    for (new, adopted) in [
        (None, vec![]),
        (Some(String::new()), vec![]),
        (Some(line(2) + "{\"torn"), vec![DeliveryId(2)]),
    ] {
        let mut world = World::new();
        world.rotate_daily = true;
        let checkpoint = after_one(&world).await;
        world.append(&line(5));
        let rotated = world.dir.path().join("events.jsonl.2026-01-01");
        fs::rename(world.path(), &rotated).unwrap();
        if let Some(text) = new {
            fs::write(world.path(), text).unwrap();
        }
        let sink = world.sink();
        let resumed = sink
            .resume(checkpoint, vec![orphan(5), orphan(2), orphan(3)])
            .await
            .unwrap();
        assert_eq!(
            resumed.adopted,
            [vec![DeliveryId(5)], adopted.clone()].concat()
        );
        sink.deliver(&[parcel(3)], on(2)).await.unwrap();
        let two = if adopted.is_empty() {
            String::new()
        } else {
            line(2)
        };
        assert_eq!(world.text(), two + &line(3));
        assert_eq!(fs::read_to_string(rotated).unwrap(), line(1) + &line(5));
    }
}

#[test]
fn a_write_that_cannot_be_taken_back_is_an_error() {
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    append(&full, 0, b"line\n").unwrap_err();
}

/// Runs itself again as a child whose files may not grow beyond a limit.
#[test]
fn after_a_short_write_whole_lines_stay_and_the_torn_one_is_cut() {
    if std::env::var_os("FILES_ARE_LIMITED").is_none() {
        let status = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\" >/dev/null",
            ])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sinks::file::tests::after_a_short_write_whole_lines_stay_and_the_torn_one_is_cut",
            ])
            .env("FILES_ARE_LIMITED", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"before\n").unwrap();
    let batch = format!("{}\n{}\n", "a".repeat(200), "b".repeat(2000));
    let Appended { durable, failure } = append(file.as_file(), 7, batch.as_bytes()).unwrap();
    assert_eq!(durable, 201);
    assert!(failure.is_some());
    assert_eq!(file.as_file().metadata().unwrap().len(), 7 + 201);
}
