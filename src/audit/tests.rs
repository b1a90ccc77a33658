//! Whatever is done to the log is found and named; whatever a crash leaves is mended.

use std::fs;
use std::path::PathBuf;

use chrono::TimeDelta;
use proptest::prelude::*;
use rusqlite::Connection;

use super::verify::{Found, Wrong, walk};
use super::*;
use crate::clock::{Clock as _, ManualClock};
use crate::store::{Owner, SealKey};

const DAY: TimeDelta = TimeDelta::days(1);

/// A log of three rows a day, beside its ledger.
struct Log {
    place: tempfile::TempDir,
    owner: Owner,
    clock: Arc<ManualClock>,
    audit: Audit,
    runtime: tokio::runtime::Runtime,
}

fn settings(directory: PathBuf, required: bool) -> config::Audit {
    config::Audit {
        directory,
        keep: std::time::Duration::from_hours(3 * 24),
        required,
    }
}

impl Log {
    fn begin(required: bool) -> Self {
        let place = tempfile::tempdir().unwrap();
        let owner = Owner::take(&place.path().join("state"), "app", &SealKey::generate()).unwrap();
        let clock = ManualClock::standing_at(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let settings = settings(place.path().join("audit"), required);
        let shared: SharedClock = Arc::<ManualClock>::clone(&clock);
        let audit = Audit::new(Some(&settings), owner.store(), &shared, Actor::Daemon);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        Self {
            place,
            owner,
            clock,
            audit,
            runtime,
        }
    }

    fn of_days(days: usize) -> Self {
        let log = Self::begin(false);
        for day in 0..days {
            if day > 0 {
                log.clock.advance(DAY.to_std().unwrap());
            }
            log.note(3);
            log.carry();
        }
        log
    }

    fn note(&self, rows: usize) {
        let record = |n| {
            let record = self.audit.entry(Action::Deliver, self.clock.now());
            record
                .event(format!("e{n}"))
                .sink("ehr")
                .at("POST", "/hook")
        };
        let records = (0..rows).map(record).collect();
        self.runtime.block_on(self.audit.record(records)).unwrap();
    }

    fn carry(&self) {
        self.runtime.block_on(self.audit.finish());
    }

    /// As a process that starts anew: nothing is known of the files.
    fn restart(&mut self) {
        let inner = self.audit.0.as_ref().unwrap();
        let shared: SharedClock = Arc::<ManualClock>::clone(&self.clock);
        self.audit = Audit::new(
            Some(&inner.settings),
            self.owner.store(),
            &shared,
            Actor::Daemon,
        );
    }

    fn files(&self) -> Vec<PathBuf> {
        let folder = &self.audit.0.as_ref().unwrap().folder;
        let files = folder.files().unwrap();
        files.iter().map(|file| folder.path(file)).collect()
    }

    /// All rows, with their ends.
    fn lines(&self, file: usize) -> Vec<Vec<u8>> {
        let text = fs::read(&self.files()[file]).unwrap();
        text.split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    }

    fn write(&self, file: usize, lines: &[Vec<u8>]) {
        fs::write(&self.files()[file], lines.concat()).unwrap();
    }

    fn verify(&self) -> Found {
        let standing = self.runtime.block_on(standing(self.owner.store())).unwrap();
        let inner = self.audit.0.as_ref().unwrap();
        walk(
            &inner.settings.directory,
            self.owner.store(),
            &standing,
            |_| {},
        )
        .unwrap()
    }

    /// The first bad row: which file, line and number, and what is wrong.
    fn broken(&self) -> Option<(usize, u64, u64, Wrong)> {
        let broken = self.verify().broken?;
        let file = self.files().iter().position(|file| *file == broken.file);
        Some((
            file.unwrap_or(usize::MAX),
            broken.line,
            broken.seq,
            broken.wrong,
        ))
    }

    fn ledger(&self) -> Connection {
        #[allow(clippy::disallowed_methods, reason = "looks in from outside")]
        Connection::open(self.place.path().join("state/ledger.sqlite3")).unwrap()
    }
}

#[test]
fn a_log_that_nobody_touched_is_whole_and_a_day_a_file() {
    let log = Log::of_days(3);
    let found = log.verify();
    assert_eq!((found.files, found.rows, found.span), (3, 9, Some((1, 9))));
    assert_eq!(found.broken, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_flipped_bit_anywhere_is_found_and_its_row_named(at in 0.0..1.0_f64, bit in 0..8_u8) {
        thread_local!(static LOG: Log = Log::of_days(2));
        LOG.with(|log| {
            let files = log.files();
            let texts: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
            let all = texts.concat();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place")]
            let at = (at * all.len() as f64) as usize;
            let file = usize::from(at >= texts[0].len());
            let offset = at - file * texts[0].len();
            let line = texts[file][..offset].split(|byte| *byte == b'\n').count() as u64;
            let mut changed = texts[file].clone();
            changed[offset] ^= 1 << bit;
            fs::write(&files[file], &changed).unwrap();
            let broken = log.broken();
            fs::write(&files[file], &texts[file]).unwrap();
            let (in_file, in_line, seq, _) = broken.expect("found");
            prop_assert_eq!((in_file, in_line, seq), (file, line, file as u64 * 3 + line));
            Ok(())
        })?;
    }
}

#[test]
fn a_cut_tail_is_found_be_it_half_a_row_or_a_day() {
    for (cut, expected) in [
        (0, (1, 4, 6, Wrong::CutTail(1))),
        (1, (1, 3, 5, Wrong::CutTail(2))),
    ] {
        let log = Log::of_days(2);
        log.note(0);
        let mut lines = log.lines(1);
        lines.truncate(2 - cut);
        log.write(1, &lines);
        let (file, line, seq, wrong) = expected;
        assert_eq!(log.broken(), Some((file, line - 1, seq, wrong)));
    }
    let log = Log::of_days(2);
    let mut lines = log.lines(1);
    lines[2].truncate(40);
    log.write(1, &lines);
    assert_eq!(log.broken(), Some((1, 3, 6, Wrong::Changed)));
    fs::remove_file(&log.files()[1]).unwrap();
    assert_eq!(log.broken(), Some((0, 4, 4, Wrong::CutTail(3))));
    fs::remove_file(&log.files()[0]).unwrap();
    assert_eq!(log.broken().unwrap().3, Wrong::CutTail(6));
}

#[test]
fn rows_taken_out_swapped_repeated_or_put_in_are_told_apart() {
    let log = Log::of_days(2);
    let good = log.lines(0);
    let told = |order: &[usize]| {
        let lines: Vec<Vec<u8>> = order.iter().map(|n| good[*n].clone()).collect();
        log.write(0, &lines);
        log.broken()
    };
    assert_eq!(told(&[0, 2]), Some((0, 2, 3, Wrong::Missing(1))));
    assert_eq!(told(&[0, 2, 1]), Some((0, 2, 3, Wrong::OutOfOrder)));
    assert_eq!(told(&[0, 1, 1, 2]), Some((0, 3, 2, Wrong::Repeated)));
    assert_eq!(told(&[1, 2]), Some((0, 1, 2, Wrong::Missing(1))));
    assert_eq!(told(&[0, 1]), Some((1, 1, 4, Wrong::Missing(1))));
    assert_eq!(told(&[0, 1, 2]), None);

    let mut forged = good.clone();
    forged.insert(
        1,
        b"{\"timestamp\":\"2024-10-04T00:00:00.000Z\"}\n".to_vec(),
    );
    log.write(0, &forged);
    assert_eq!(log.broken(), Some((0, 2, 2, Wrong::Inserted)));
}

#[test]
fn a_missing_day_in_the_middle_is_found() {
    let log = Log::of_days(3);
    fs::remove_file(&log.files()[1]).unwrap();
    assert_eq!(log.broken(), Some((1, 1, 7, Wrong::Missing(3))));
}

#[test]
fn a_row_rewritten_with_a_hash_that_needs_no_key_is_found() {
    let log = Log::of_days(1);
    let mut lines = log.lines(0);
    let text = String::from_utf8(lines[1].clone()).unwrap();
    let (signed, _) = text.split_once(",\"hash\"").unwrap();
    let signed = signed.replace("ehr", "her");
    let hash = ring::digest::digest(&ring::digest::SHA256, signed.as_bytes());
    let hash = hex::encode(hash);
    lines[1] = format!("{signed},\"hash\":\"{hash}\"}}\n").into_bytes();
    log.write(0, &lines);
    assert_eq!(log.broken(), Some((0, 2, 2, Wrong::Changed)));
}

#[test]
fn a_head_that_was_taken_out_of_the_ledger_is_no_proof() {
    let log = Log::of_days(1);
    log.ledger()
        .execute("UPDATE audit SET head = NULL", ())
        .unwrap();
    assert_eq!(log.broken().unwrap().3, Wrong::Inserted);
}

#[test]
fn what_a_crash_left_behind_the_head_is_written_again_byte_for_byte() {
    let mut log = Log::of_days(1);
    let before = log
        .ledger()
        .query_row("SELECT head FROM audit", (), |row| row.get::<_, Vec<u8>>(0))
        .unwrap();
    let kept = log.lines(0).len();
    log.note(4);
    let c = log.ledger();
    c.execute("CREATE TABLE kept AS SELECT * FROM audit_pending", ())
        .unwrap();
    log.carry();
    let written = log.lines(0);
    // The ledger as the crash left it: nothing of it was recorded; and of the file some of it was on disk.
    for left in kept..=written.len() {
        for torn in [0, 17] {
            c.execute("UPDATE audit SET head = ?1", [&before]).unwrap();
            c.execute("INSERT INTO audit_pending SELECT * FROM kept", ())
                .unwrap();
            let mut lines = written[..left].to_vec();
            if let Some(next) = written.get(left) {
                lines.push(next[..torn].to_vec());
            }
            log.write(0, &lines);
            log.restart();
            log.carry();
            // A torn rest is worth a word.
            assert_eq!(log.lines(0)[..written.len()], written[..], "{left} {torn}");
            assert_eq!(log.broken(), None);
        }
    }
}

#[test]
fn a_restored_ledger_goes_on_behind_what_the_log_has() {
    let mut log = Log::of_days(1);
    let c = log.ledger();
    let before = c
        .query_row("SELECT head FROM audit", (), |row| row.get::<_, Vec<u8>>(0))
        .unwrap();
    log.note(2);
    log.clock.advance(DAY.to_std().unwrap());
    log.note(2);
    log.carry();
    c.execute("UPDATE audit SET head = ?1", [&before]).unwrap();
    log.restart();
    log.note(1);
    log.carry();
    let found = log.verify();
    // Also that it was found longer.
    assert_eq!((&found.broken, found.rows), (&None, 9));
    let remarks = |found: &Found| {
        let what = found
            .remarks
            .iter()
            .map(|row| row.record.noted("what").unwrap().to_owned());
        what.collect::<Vec<_>>()
    };
    assert_eq!(remarks(&found), ["found_longer"]);
    assert!(
        String::from_utf8(log.lines(1).concat())
            .unwrap()
            .contains("found_longer")
    );

    // A ledger that knows nothing of it.
    c.execute("UPDATE audit SET head = NULL", ()).unwrap();
    log.restart();
    log.carry();
    let found = log.verify();
    assert_eq!((found.broken, found.rows), (None, 10));

    // A tail that goes with the ledger's word leaves no other trace than this.
    let mut lines = log.lines(1);
    lines.truncate(2);
    log.write(1, &lines);
    lose_head(&mut log, None);
    let found = log.verify();
    assert_eq!((&found.broken, found.rows), (&None, 8));
    assert_eq!(remarks(&found), ["found_longer"]);
}

/// A ledger that lost its head, or has an old one.
fn lose_head(log: &mut Log, head: Option<&[u8]>) {
    log.ledger()
        .execute("UPDATE audit SET head = ?1", [head])
        .unwrap();
    log.restart();
    log.carry();
}

fn head(log: &Log) -> Vec<u8> {
    log.ledger()
        .query_row("SELECT head FROM audit", (), |row| row.get(0))
        .unwrap()
}

#[test]
fn no_good_row_is_cut_whatever_lies_before_it() {
    for is_lost in [true, false] {
        let mut log = Log::of_days(1);
        let old = head(&log);
        for _ in 0..2 {
            log.clock.advance(DAY.to_std().unwrap());
            log.note(3);
            log.carry();
        }
        // A row in the middle is not as it was written; and a torn rest.
        let mut lines = log.lines(1);
        lines[1][20] ^= 1;
        log.write(1, &lines);
        let mut last = log.lines(2);
        last.push(b"{\"timestamp".to_vec());
        log.write(2, &last);
        last.pop();
        lose_head(&mut log, (!is_lost).then_some(&old));
        assert_eq!(log.lines(1), lines);
        assert_eq!(log.lines(2)[..3], last);
        let told = String::from_utf8(log.lines(2)[3..].concat()).unwrap();
        assert!(told.contains("#what=found_longer;rows="), "{told}");
        assert!(told.contains("#what=cut;bytes=11"), "{told}");
        assert_eq!(log.broken(), Some((1, 2, 5, Wrong::Changed)));
        // Also what is written now stays, the next time.
        lose_head(&mut log, None);
        assert_eq!(log.lines(2).len(), 6);
    }
}

#[test]
fn what_lies_behind_a_gap_is_kept_when_the_ledger_is_lost() {
    let mut log = Log::of_days(1);
    let mut lines = log.lines(0);
    lines.pop();
    log.write(0, &lines);
    log.restart();
    log.note(3);
    log.carry();
    let written = log.lines(0);
    lose_head(&mut log, None);
    assert_eq!(log.lines(0)[..written.len()], written);
    assert_eq!(log.broken(), Some((0, 3, 4, Wrong::Missing(1))));
}

#[test]
fn a_last_row_that_lost_its_end_is_kept() {
    let mut log = Log::of_days(1);
    let mut lines = log.lines(0);
    lines[2].pop();
    log.write(0, &lines);
    lose_head(&mut log, None);
    assert_eq!((log.broken(), log.verify().rows), (None, 4));
}

#[test]
fn first_days_that_were_taken_with_the_ledgers_word_are_missed() {
    let mut log = Log::of_days(3);
    fs::remove_file(&log.files()[0]).unwrap();
    lose_head(&mut log, None);
    assert_eq!(log.broken(), Some((0, 1, 4, Wrong::Missing(3))));
}

#[test]
fn a_ledger_that_does_not_know_where_the_log_begins_learns_it_from_the_log() {
    for is_lost in [true, false] {
        let mut log = Log::of_days(5);
        let old = head(&log);
        log.clock.advance(DAY.to_std().unwrap());
        log.note(3);
        log.carry();
        log.runtime.block_on(log.audit.expire(log.clock.now()));
        lose_head(&mut log, (!is_lost).then_some(&old));
        assert_eq!(log.broken(), None);
        assert_eq!(log.verify().span.unwrap().0, 7);
        fs::remove_file(&log.files()[0]).unwrap();
        lose_head(&mut log, None);
        assert_eq!(log.broken(), Some((0, 1, 10, Wrong::Missing(3))));
    }
}

#[test]
fn another_ledgers_log_is_left_alone() {
    let other = Log::of_days(1);
    let mut log = Log::begin(true);
    fs::create_dir(log.place.path().join("audit")).unwrap();
    let file = other.files()[0].file_name().unwrap().to_owned();
    let text = fs::read(&other.files()[0]).unwrap();
    fs::write(log.place.path().join("audit").join(file), &text).unwrap();
    log.restart();
    log.note(1);
    log.carry();
    assert!(log.audit.holds_back());
    assert_eq!(fs::read(&log.files()[0]).unwrap(), text);
}

#[test]
fn a_log_that_was_cut_goes_on_and_stays_broken() {
    let mut log = Log::of_days(1);
    let text = fs::read(&log.files()[0]).unwrap();
    fs::write(&log.files()[0], &text[..text.len() - 30]).unwrap();
    log.note(1);
    log.carry();
    log.restart();
    log.note(1);
    log.carry();
    assert_eq!(log.broken(), Some((0, 3, 3, Wrong::Changed)));
    let lines = log.lines(0);
    assert!(
        lines
            .iter()
            .any(|line| line.windows(13).any(|w| w == b"found_shorter"))
    );
    assert_eq!(
        log.runtime
            .block_on(standing(log.owner.store()))
            .unwrap()
            .waiting,
        0
    );
}

#[test]
fn days_go_when_they_were_kept_long_enough_and_the_rest_is_whole() {
    let log = Log::of_days(6);
    log.runtime.block_on(log.audit.expire(log.clock.now()));
    // Three days, and today.
    assert_eq!(log.files().len(), 4);
    let found = log.verify();
    // And that it begins there now.
    assert_eq!((found.broken, found.span), (None, Some((7, 19))));
    // Now one that was not kept long enough.
    fs::remove_file(&log.files()[0]).unwrap();
    assert_eq!(log.broken(), Some((0, 1, 10, Wrong::Missing(3))));
}

#[test]
fn a_crash_between_the_note_of_a_removal_and_the_removal_breaks_nothing() {
    let log = Log::of_days(6);
    let old = fs::read(&log.files()[0]).unwrap();
    let path = log.files()[0].clone();
    log.runtime.block_on(log.audit.expire(log.clock.now()));
    fs::write(&path, old).unwrap();
    assert_eq!(log.broken(), None);
    log.runtime.block_on(log.audit.expire(log.clock.now()));
    assert!(!path.exists());
}

#[test]
fn a_clock_that_is_set_back_reopens_no_day() {
    let log = Log::of_days(2);
    log.clock.jump(-DAY);
    log.note(2);
    log.carry();
    assert_eq!(log.lines(0).len(), 3);
    assert_eq!(log.lines(1).len(), 5);
    assert_eq!(log.broken(), None);
}

#[test]
fn what_cannot_be_written_waits_and_only_where_it_is_required_does_it_hold_back() {
    for required in [false, true] {
        let log = Log::begin(required);
        assert_eq!(log.audit.holds_back(), required, "nobody knows yet");
        fs::write(log.place.path().join("audit"), "in the way").unwrap();
        log.note(3);
        log.carry();
        assert_eq!(log.audit.holds_back(), required);
        let standing = || log.runtime.block_on(standing(log.owner.store())).unwrap();
        assert_eq!(standing().waiting, 3);
        assert!(standing().trouble.unwrap().0.contains("audit"));
        fs::remove_file(log.place.path().join("audit")).unwrap();
        log.carry();
        assert!(!log.audit.holds_back());
        assert_eq!((standing().waiting, standing().trouble), (0, None));
        assert_eq!((log.verify().rows, log.broken()), (3, None));
    }
}

#[test]
fn damage_in_the_ledger_is_told_and_what_waits_stays_bounded() {
    for (damage, word) in [
        ("UPDATE audit SET head = x'00'", "where the log ends"),
        ("UPDATE audit_pending SET records = '{'", "audit_pending"),
        (
            "UPDATE audit_pending SET records = CAST(x'ff' AS TEXT)",
            "audit_pending",
        ),
    ] {
        for required in [false, true] {
            let mut log = Log::begin(required);
            log.note(1);
            log.carry();
            log.note(1);
            log.ledger().execute(damage, ()).unwrap();
            log.note(10);
            let inner = Arc::get_mut(log.audit.0.as_mut().unwrap()).unwrap();
            inner.most_waiting = 1;
            log.carry();
            assert_eq!(log.audit.holds_back(), required, "{damage}");
            let standing = log.runtime.block_on(standing(log.owner.store())).unwrap();
            let (trouble, since) = standing.trouble.unwrap();
            assert!(trouble.contains(word) && trouble.contains("docs/audit.md"));
            assert_eq!(since, log.clock.now());
            let waiting: i64 = log
                .ledger()
                .query_row("SELECT count(*) FROM audit_pending", (), |row| row.get(0))
                .unwrap();
            assert_eq!(waiting, if required { 2 } else { 1 }, "{damage}");
        }
    }
}

#[test]
fn a_log_whose_directory_is_gone_is_missed_before_anything_is_written() {
    let mut log = Log::begin(true);
    log.note(1);
    log.carry();
    log.restart();
    assert!(log.audit.holds_back(), "a start knows nothing yet");
    log.carry();
    assert!(!log.audit.holds_back());
    fs::remove_dir_all(log.place.path().join("audit")).unwrap();
    fs::write(log.place.path().join("audit"), "in the way").unwrap();
    log.carry();
    assert!(log.audit.holds_back());
}

#[test]
fn what_waits_for_too_long_is_counted_and_let_go() {
    let log = Log::begin(false);
    for _ in 0..5 {
        log.note(10);
    }
    let now = log.clock.now();
    let lost = move |lost: u64| Record::new(&Actor::Daemon, Action::Config, now).note("lost", lost);
    let one: i64 = log
        .ledger()
        .query_row(
            "SELECT length(records) FROM audit_pending LIMIT 1",
            (),
            |row| row.get(0),
        )
        .unwrap();
    for _ in 0..2 {
        log.runtime
            .block_on(rows::let_go(log.owner.store(), 2 * one, lost))
            .unwrap();
    }
    log.carry();
    let rows = log.lines(0);
    assert_eq!(rows.len(), 21);
    assert!(
        String::from_utf8(rows[0].clone())
            .unwrap()
            .contains("lost=30")
    );
}

#[test]
fn a_disk_that_is_full_holds_back_and_what_was_half_written_is_no_row() {
    let log = Log::begin(true);
    let directory = log.place.path().join("audit");
    log.note(1);
    log.carry();
    log.clock.advance(DAY.to_std().unwrap());
    let file = directory.join("audit-2024-10-05.jsonl");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    log.note(2);
    log.carry();
    assert!(log.audit.holds_back());
    let trouble = log
        .runtime
        .block_on(standing(log.owner.store()))
        .unwrap()
        .trouble
        .unwrap()
        .0;
    assert!(
        trouble.contains("No space left") && trouble.contains("audit-2024-10-05"),
        "{trouble}"
    );
    fs::remove_file(&file).unwrap();
    log.carry();
    assert!(!log.audit.holds_back());

    // As much of a row as there was room for.
    log.note(1);
    let mut half = fs::read(&file).unwrap();
    half.extend_from_slice(b"{\"timestamp\":\"2024-10-05T00");
    fs::write(&file, half).unwrap();
    log.carry();
    assert_eq!(log.broken(), None, "a moment later");
    log.carry();
    assert_eq!((log.broken(), log.verify().rows), (None, 5));
    assert!(
        String::from_utf8(log.lines(1).concat())
            .unwrap()
            .contains("#what=cut")
    );
}

#[test]
fn half_of_the_very_first_row_is_no_other_ledgers_log() {
    let log = Log::begin(true);
    let directory = log.place.path().join("audit");
    fs::create_dir(&directory).unwrap();
    fs::write(
        directory.join("audit-2024-10-04.jsonl"),
        "{\"timestamp\":\"20",
    )
    .unwrap();
    log.note(1);
    log.carry();
    assert!(!log.audit.holds_back());
    assert_eq!((log.broken(), log.verify().rows), (None, 1));
}
