use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use secrecy::SecretBox;

use super::*;

fn key() -> SealKey {
    SealKey::new(SecretBox::new(Box::new([15; 32])))
}

/// A piece of work that keeps the writer busy until the sender is dropped: what is asked for meanwhile waits together.
fn busy() -> (Sender<()>, impl Fn(&Connection) -> rusqlite::Result<()>) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let work = move |_: &Connection| {
        assert!(held.lock().unwrap().recv().is_err());
        Ok(())
    };
    (release, work)
}

#[tokio::test]
async fn a_write_is_seen_after_it_returns_and_a_failed_one_takes_nothing_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let owner = Owner::take(directory.path(), "app", &key()).unwrap();
    let store = owner.store().clone();
    let (release, busy) = busy();
    let good = store.write(|c| c.execute("INSERT INTO sink (name) VALUES ('good')", ()));
    let bad = store.write(|c| {
        c.execute("INSERT INTO sink (name) VALUES ('bad')", ())?;
        c.execute("INSERT INTO sink (nonsense) VALUES (1)", ())
    });
    let also_good = store.write(|c| c.execute("INSERT INTO sink (name) VALUES ('better')", ()));
    let (_, good, bad, also_good, ()) =
        tokio::join!(store.write(busy), good, bad, also_good, async {
            drop(release);
        });
    assert_eq!(good.unwrap(), 1);
    assert_eq!(also_good.unwrap(), 1);
    assert!(bad.unwrap_err().to_string().contains("nonsense"));
    let names: Vec<String> = store
        .read(|c| {
            c.prepare("SELECT name FROM sink ORDER BY sink")?
                .query_map((), |r| r.get(0))?
                .collect()
        })
        .await
        .unwrap();
    assert_eq!(names, ["good", "better"]);
}

#[tokio::test]
async fn what_may_wait_comes_after_all_else_that_waits() {
    let directory = tempfile::tempdir().unwrap();
    let owner = Owner::take(directory.path(), "app", &key()).unwrap();
    let store = owner.store().clone();
    let order: Arc<Mutex<Vec<&str>>> = Arc::default();
    let noting = |word| {
        let order = Arc::clone(&order);
        move |_: &Connection| {
            order.lock().unwrap().push(word);
            Ok(())
        }
    };
    let (release, busy) = busy();
    let (a, b, c, d, ()) = tokio::join!(
        store.write(busy),
        store.write_later(noting("a page")),
        store.write(noting("a token")),
        store.write(noting("a settlement")),
        async { drop(release) }
    );
    for written in [a, b, c, d] {
        written.unwrap();
    }
    assert_eq!(
        *order.lock().unwrap(),
        ["a token", "a settlement", "a page"]
    );
}

#[tokio::test]
async fn a_second_owner_is_refused_and_each_owner_begins_a_new_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let first = Owner::take(directory.path(), "app", &key()).unwrap();
    assert!(matches!(
        Owner::take(directory.path(), "app", &key()),
        Err(OpenError::Owned(_))
    ));
    let epoch = first.epoch();
    drop(first);
    assert!(
        Owner::take(directory.path(), "app", &key())
            .unwrap()
            .epoch()
            > epoch
    );
}

#[test]
fn an_owner_that_has_gone_leaves_no_log_for_the_next_start_to_read() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        drop(Owner::take(directory.path(), "app", &key()).unwrap());
        assert!(directory.path().join(DATABASE).exists());
        assert!(!directory.path().join("ledger.sqlite3-wal").exists());
    }
}

#[test]
fn another_key_another_app_and_a_newer_schema_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Owner::take(directory.path(), "app", &key()).unwrap());
    let other = SealKey::generate();
    assert!(matches!(
        Owner::take(directory.path(), "app", &other),
        Err(OpenError::WrongKey(_))
    ));
    assert!(matches!(
        Owner::take(directory.path(), "another", &key()),
        Err(OpenError::OtherApp { .. })
    ));
    connect(&directory.path().join(DATABASE))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        Store::open_existing(directory.path(), "app", &key()),
        Err(OpenError::Newer { found: 99, .. })
    ));
}

#[test]
fn a_reader_without_a_database_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(
        Store::open_existing(directory.path(), "app", &key()),
        Err(OpenError::Missing(_))
    ));
}

#[test]
fn an_accepted_loss_that_was_cut_off_is_not_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let taken = || Owner::take(directory.path(), "app", &key());
    drop(taken().unwrap());
    fs::remove_file(directory.path().join(DATABASE)).unwrap();
    assert!(matches!(taken(), Err(OpenError::Lost { .. })));
    // Killed before there was a new ledger.
    let announced = Marker::of_new_ledger(Some(AcceptedLoss::Replay));
    announced.write(directory.path()).unwrap();
    drop(taken().unwrap());
    let accepted: String = connect(&directory.path().join(DATABASE))
        .unwrap()
        .query_row("SELECT accepted FROM instance", (), |row| row.get(0))
        .unwrap();
    assert_eq!(accepted, "replay");
    let again = Owner::take_after_loss(directory.path(), "app", &key(), AcceptedLoss::Replay);
    assert!(matches!(again, Err(OpenError::NoLoss(_))));
}

#[test]
fn a_ledger_of_another_directory_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&here, &there] {
        drop(Owner::take(directory.path(), "app", &key()).unwrap());
    }
    fs::copy(there.path().join(DATABASE), here.path().join(DATABASE)).unwrap();
    assert!(matches!(
        Owner::take(here.path(), "app", &key()),
        Err(OpenError::OtherLedger { .. })
    ));
}

#[tokio::test]
async fn a_backup_of_the_same_run_is_told_by_its_beats() {
    let directory = tempfile::tempdir().unwrap();
    let (path, backup) = (
        directory.path().join(DATABASE),
        directory.path().join("backup"),
    );
    let owner = Owner::take(directory.path(), "app", &key()).unwrap();
    let pulse = owner.pulse();
    connect(&path)
        .unwrap()
        .execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    pulse.beat(60_000).await.unwrap();
    drop((owner, pulse));
    let restored = || {
        drop(Owner::take(directory.path(), "app", &key()).unwrap());
        connect(&path)
            .unwrap()
            .query_row("SELECT restored FROM instance", (), |row| {
                row.get::<_, bool>(0)
            })
            .unwrap()
    };
    assert!(!restored());
    fs::copy(&backup, &path).unwrap();
    assert!(restored());
}
