//! What must have arrived, compared with what did: ids counted, bodies byte by byte, and the ledger's word for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::witnesses::{Promise, Sighting};
use crate::world::World;

/// Where what was shown differs from what was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Made, and never shown.
    pub(crate) lost: Vec<String>,
    /// Shown more than once.
    pub(crate) repeated: Vec<String>,
    /// Shown, and not to be shown.
    pub(crate) foreign: Vec<String>,
}

/// Compares ids as multisets.
pub(crate) fn judge<'a>(
    made: impl IntoIterator<Item = &'a String>,
    shown: impl IntoIterator<Item = &'a String>,
) -> Verdict {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for id in shown {
        *counts.entry(id).or_default() += 1;
    }
    let mut verdict = Verdict::default();
    for id in made {
        match counts.remove(id) {
            None => verdict.lost.push(id.clone()),
            Some(1) => {}
            Some(_) => verdict.repeated.push(id.clone()),
        }
    }
    verdict.foreign = counts.into_keys().cloned().collect();
    verdict
}

/// What became of one sink's events, by the three who know: the vendor issued them, the receiver saw them, the ledger
/// says what was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Different events that the receiver saw.
    pub(crate) seen: usize,
    /// Deliveries that wait for a person, seen or not.
    pub(crate) held: usize,
    /// Issued, and neither seen nor held.
    pub(crate) lost: Vec<String>,
    /// Seen more than once, each time with the same id and the same bytes.
    pub(crate) repeated: Vec<String>,
    /// Seen more than once, and not with the same id and the same bytes.
    pub(crate) doubled: Vec<String>,
    /// Seen, and not issued.
    pub(crate) foreign: Vec<String>,
    /// Of which the ledger says what the receiver does not: done, and not seen; or neither done nor held.
    pub(crate) disputed: Vec<String>,
}

/// Compares what was issued, what the receiver saw, and the sink's deliveries in the ledger ([`deliveries`]).
pub(crate) fn tally(
    issued: &[String],
    seen: &[Sighting],
    ledger: &BTreeMap<String, (String, String)>,
) -> Tally {
    let mut sightings: BTreeMap<&String, Vec<&Sighting>> = BTreeMap::new();
    for sighting in seen {
        sightings.entry(&sighting.event).or_default().push(sighting);
    }
    let in_state = |wanted: &str| -> BTreeSet<&String> {
        let rows = ledger.values().filter(|(_, state)| state == wanted);
        rows.map(|(event, _)| event).collect()
    };
    let (held, done) = (in_state("held"), in_state("done"));
    let mut tally = Tally {
        seen: sightings.len(),
        held: held.len(),
        ..Tally::default()
    };
    for event in issued {
        let copies = sightings.remove(event).unwrap_or_default();
        let is_done = done.contains(event);
        if is_done == held.contains(event) || (is_done && copies.is_empty()) {
            tally.disputed.push(event.clone());
        }
        match copies[..] {
            [] if held.contains(event) => {}
            [] => tally.lost.push(event.clone()),
            [_] => {}
            [first, ref again @ ..] if again.iter().all(|copy| *copy == first) => {
                tally.repeated.push(event.clone());
            }
            _ => tally.doubled.push(event.clone()),
        }
    }
    tally.foreign = sightings.into_keys().cloned().collect();
    tally
}

impl Tally {
    /// Asserts that the sink has kept what it promises.
    #[track_caller]
    pub(crate) fn assert_kept(&self, sink: &str, promise: Promise) {
        let nothing: [String; 0] = [];
        assert_eq!(self.lost, nothing, "{sink}: lost");
        assert_eq!(self.doubled, nothing, "{sink}: twice, as different ones");
        assert_eq!(self.foreign, nothing, "{sink}: of nobody");
        assert_eq!(self.disputed, nothing, "{sink}: the ledger says otherwise");
        if promise != Promise::Resent {
            assert_eq!(self.repeated, nothing, "{sink}: twice");
        }
        if promise != Promise::Held {
            assert_eq!(self.held, 0, "{sink}: held");
        }
    }
}

/// A line of the file sink, its data unparsed.
#[derive(Deserialize)]
struct Line<'a> {
    delivery: String,
    id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// A retrieve's reply, its data unparsed.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    event: Event<'a>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

impl World {
    /// Asserts that the file sink shows each of these events exactly once, byte for byte what the vendor has, and
    /// that the ledger says the same: these deliveries, all of them done, and nothing else owed.
    pub(crate) fn assert_exactly_once(&self, made: &[String]) {
        self.assert_ledger_agrees(made, &self.ledger_path());
    }

    /// The same, with the ledger of another place.
    pub(crate) fn assert_ledger_agrees(&self, made: &[String], ledger: &Path) {
        assert_eq!(judge(made, &self.shown_ids()), Verdict::default());
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let mut shown = BTreeMap::new();
        for line in text.lines() {
            let line: Line<'_> = serde_json::from_str(line).unwrap();
            let reply = self.vendor.reply_for(&line.id).unwrap();
            let reply: Reply<'_> = serde_json::from_str(&reply).unwrap();
            assert_eq!(line.data.get(), reply.event.data.get());
            shown.insert(line.delivery, line.id);
        }
        let settled = deliveries(ledger, "log");
        assert!(settled.values().all(|(_, state)| state == "done"));
        let settled: BTreeMap<_, _> = settled.into_iter().map(|(d, (id, _))| (d, id)).collect();
        assert_eq!(settled, shown);
    }

    /// Whether the ledger knows each of these events, and has nothing left to fetch or to deliver but what a person
    /// must decide.
    pub(crate) fn is_drained(&self, made: &[String]) -> bool {
        let c = rusqlite::Connection::open(self.ledger_path()).unwrap();
        let mut known = c.prepare("SELECT 1 FROM event WHERE id = ?1").unwrap();
        let open = "SELECT count(*) FROM delivery WHERE state NOT IN ('done', 'skipped', 'held')";
        c.query_row(open, (), |row| row.get::<_, i64>(0)).unwrap() == 0
            && made.iter().all(|id| known.exists([id]).unwrap())
    }
}

/// Every delivery of a sink, by its number: the event's id and the delivery's state.
pub(crate) fn deliveries(ledger: &Path, sink: &str) -> BTreeMap<String, (String, String)> {
    let c = rusqlite::Connection::open(ledger).unwrap();
    c.prepare(
        "SELECT CAST(d.delivery AS TEXT), e.id, d.state
         FROM delivery d JOIN event e USING (event) JOIN sink s USING (sink) WHERE s.name = ?1",
    )
    .unwrap()
    .query_map([sink], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
    .unwrap()
    .map(Result::unwrap)
    .collect()
}

#[test]
fn the_oracle_sees_what_is_lost_repeated_and_foreign() {
    let ids = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    assert_eq!(judge(&ids("a b c"), &ids("c a b")), Verdict::default());
    assert_eq!(
        judge(&ids("a b c d"), &ids("a c c x")),
        Verdict {
            lost: ids("b d"),
            repeated: ids("c"),
            foreign: ids("x"),
        }
    );
}

#[test]
fn the_tally_tells_a_loss_a_repeat_a_double_and_a_lie_of_the_ledger() {
    let seen = |event: &str, digest: &str| Sighting {
        event: event.to_owned(),
        delivery: format!("of {event}"),
        digest: digest.to_owned(),
    };
    let row = |event: &str, state: &str| {
        let row = (event.to_owned(), state.to_owned());
        (format!("of {event}"), row)
    };
    let ids = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let found = tally(
        &ids("good held-unseen held-seen lost repeated doubled done-unseen waiting"),
        &[
            seen("good", "1"),
            seen("held-seen", "1"),
            seen("repeated", "1"),
            seen("doubled", "1"),
            seen("repeated", "1"),
            seen("doubled", "2"),
            seen("foreign", "1"),
            seen("waiting", "1"),
        ],
        &[
            row("good", "done"),
            row("held-unseen", "held"),
            row("held-seen", "held"),
            row("repeated", "done"),
            row("doubled", "done"),
            row("done-unseen", "done"),
            row("waiting", "queued"),
        ]
        .into(),
    );
    let expected = Tally {
        seen: 6,
        held: 2,
        lost: ids("lost done-unseen"),
        repeated: ids("repeated"),
        doubled: ids("doubled"),
        foreign: ids("foreign"),
        disputed: ids("lost done-unseen waiting"),
    };
    assert_eq!(found, expected);
}
