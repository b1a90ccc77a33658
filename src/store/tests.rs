use secrecy::SecretBox;

use super::*;

fn key() -> SealKey {
    SealKey::new(SecretBox::new(Box::new([15; 32])))
}

#[tokio::test]
async fn a_write_is_seen_after_it_returns_and_a_failed_one_takes_nothing_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let owner = Owner::take(directory.path(), "app", &key()).unwrap();
    let store = owner.store().clone();
    let good = store.write(|c| c.execute("INSERT INTO sink (name) VALUES ('good')", ()));
    let bad = store.write(|c| {
        c.execute("INSERT INTO sink (name) VALUES ('bad')", ())?;
        c.execute("INSERT INTO sink (nonsense) VALUES (1)", ())
    });
    let (good, bad) = tokio::join!(good, bad);
    assert_eq!(good.unwrap(), 1);
    assert!(bad.unwrap_err().to_string().contains("nonsense"));
    let names: Vec<String> = store
        .read(|c| {
            c.prepare("SELECT name FROM sink")?
                .query_map((), |r| r.get(0))?
                .collect()
        })
        .await
        .unwrap();
    assert_eq!(names, ["good"]);
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
