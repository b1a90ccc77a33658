//! What receivers do, and what becomes of the events: a table of behaviours over real sockets, each in a world of its
//! own. Every one ends as `docs/webhook.md` says, delays no other sink, keeps the order where one is kept, and leaves
//! nothing of the receiver's words behind; and when the receiver is mended, what waited arrives once.

mod table;
mod tls;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fullscript_events::domain::{DeliveryId, DeliveryState};
use fullscript_events::ledger::{Choice, Mode, Query};
use fullscript_events::simulator::Options;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

use self::table::{Behaviour, CANARY, Ends, Entry, Wish};
use self::tls::{Authority, Flaw};
use self::wire::{Door, Journal, Manner, Receiver, Seen};
use crate::stepped::{HOUR, Stepped, polling};
use crate::world::{Setup, assert_same_ids, write_secret};

/// Worlds at once: they wait more than they work.
const AT_ONCE: usize = 6;
/// No world takes longer, however busy this machine is.
const LIMIT: Duration = Duration::from_mins(1);

/// The sinks whose receiver misbehaves: name, `on_doubt`, `order_by`. With more patience where the others' arrival is
/// compared with its end.
const FAILING: [Failing; 4] = [
    Failing {
        name: "resend",
        on_doubt: "resend",
        order_by: "none",
        timeout: "2s",
    },
    Failing {
        name: "hold",
        on_doubt: "hold",
        order_by: "none",
        timeout: "2s",
    },
    Failing {
        name: "resend-in-order",
        on_doubt: "resend",
        order_by: "patient",
        timeout: "1s",
    },
    Failing {
        name: "hold-in-order",
        on_doubt: "hold",
        order_by: "patient",
        timeout: "1s",
    },
];

struct Failing {
    name: &'static str,
    on_doubt: &'static str,
    order_by: &'static str,
    timeout: &'static str,
}

impl Failing {
    fn keeps_order(&self) -> bool {
        self.order_by != "none"
    }

    /// What becomes of an attempt that ends so.
    fn state_after(&self, ends: Ends) -> DeliveryState {
        match ends {
            Ends::Yes => DeliveryState::Done,
            Ends::Doubt if self.on_doubt == "hold" => DeliveryState::Held,
            Ends::No(_) | Ends::Later(_) | Ends::NotSent | Ends::Doubt | Ends::Gone => {
                DeliveryState::Queued
            }
        }
    }
}

/// What all worlds share.
struct Shared {
    authority: Authority,
    directory: tempfile::TempDir,
}

/// What the log says while a world of this thread is at work.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn whatever_a_receiver_does_ends_as_documented_and_costs_nobody_else_anything() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
    write_secret(&directory.path().join("challenge"), "token");
    let shared = Shared {
        authority,
        directory,
    };
    let mut all = table::all();
    let names: BTreeSet<_> = all.iter().map(|behaviour| behaviour.name).collect();
    assert!(names.len() >= 40 && names.len() == all.len());
    if let Ok(word) = std::env::var("FULLSCRIPT_EVENTS_BEHAVIOUR") {
        all.retain(|behaviour| behaviour.name.contains(&word));
    }
    let left = Mutex::new(all);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(behaviour) = next(&left) {
                    // A thread for each, whose name a panic says.
                    let thread = std::thread::Builder::new().name(behaviour.name.to_owned());
                    let ended = std::thread::scope(|one| {
                        let shared = &shared;
                        let one = thread.spawn_scoped(one, || alone(&behaviour, shared));
                        one.unwrap().join()
                    });
                    if ended.is_err() {
                        failed.lock().unwrap().push(behaviour.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

fn next(left: &Mutex<Vec<Behaviour>>) -> Option<Behaviour> {
    left.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// On one thread, so that the log of this world is heard apart from all others.
fn alone(behaviour: &Behaviour, shared: &Shared) {
    let log = Log::default();
    let writer = log.clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    let own_lines = Targets::new().with_target("fullscript_events", LevelFilter::TRACE);
    let subscriber = tracing_subscriber::registry().with(own_lines).with(layer);
    let _heard = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // What is due again at once would be a pass without an end.
    let limited = async { tokio::time::timeout(LIMIT, run(behaviour, shared, &log)).await };
    assert!(runtime.block_on(limited).is_ok(), "it never ends");
}

/// A world with a receiver that misbehaves at four sinks, one that does not at another, and a file.
struct Play<'a> {
    behaviour: &'a Behaviour,
    world: Stepped,
    journal: Journal,
    receivers: Vec<Receiver>,
    /// The events, in the order of happening.
    events: Vec<String>,
}

async fn run(behaviour: &Behaviour, shared: &Shared, log: &Log) {
    let mut play = Play::begin(behaviour, shared).await;
    play.world.pass().await;
    play.assert_nobody_else_was_delayed();
    let ended = play.deliveries();
    for sink in &FAILING {
        play.assert_ended(sink, &ended);
    }
    play.assert_nothing_is_repeated(log);

    for receiver in &mut play.receivers {
        receiver.mend();
    }
    let before = play.journal.read().len();
    let (held, owed) = (
        of(&ended, DeliveryState::Held),
        of(&ended, DeliveryState::Queued),
    );
    play.world.clock.advance(play.until_due(&owed));
    play.world.pass().await;
    if behaviour.ends == Ends::Gone {
        assert!(play.journal.got_from(before).is_empty(), "it is paused");
        play.resume_all().await;
        play.world.pass().await;
    }
    play.assert_arrived_once(before, &owed);
    // What is held waits for a person, and what has arrived is not sent again.
    let before = play.journal.read().len();
    play.world.clock.advance(HOUR);
    if !held.is_empty() {
        play.retry(&held).await;
    }
    play.world.pass().await;
    play.assert_arrived_once(before, &held);
    let done = of(&play.deliveries(), DeliveryState::Done);
    assert_eq!(done.len(), play.events.len() * FAILING.len());
    play.assert_order_and_bytes();
    play.world.assert_all_shown_once();
    play.assert_nothing_is_repeated(log);
}

impl<'a> Play<'a> {
    async fn begin(behaviour: &'a Behaviour, shared: &Shared) -> Self {
        let journal = Journal::default();
        let well = Manner {
            door: Door::Open,
            script: Vec::new(),
            tls_when_mended: None,
        };
        let mut good = Receiver::start("good", well, &journal).await;
        good.mend();
        let mut sinks = format!(
            "[[sinks]]\nname = \"good\"\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = \"http://127.0.0.1:{}/hook\"\nsignature = \"none\"\n",
            good.port
        );
        let mut receivers = vec![good];
        let manner = manner(behaviour, &shared.authority);
        for sink in &FAILING {
            let receiver = Receiver::start(sink.name, manner.clone(), &journal).await;
            sinks += &section(sink, behaviour, receiver.port, shared.directory.path());
            receivers.push(receiver);
        }
        let setup = Setup {
            more: sinks,
            ..polling(&["patients"], "first_run = \"30d\"")
        };
        let options = Options {
            patients: 1,
            ..Options::default()
        };
        let world = Stepped::begin_with(options, setup).await;
        let events = (0..3).map(|_| {
            world.clock.advance(Duration::from_secs(1));
            world.make("oak", "patient.updated")
        });
        let events = events.collect();
        Self {
            behaviour,
            world,
            journal,
            receivers,
            events,
        }
    }

    /// The file has all, and the good receiver had them before anybody gave the other up.
    fn assert_nobody_else_was_delayed(&self) {
        self.world.assert_all_shown_once();
        let seen = self.journal.read();
        let of_good = |seen: &Seen| matches!(seen, Seen::Got(got) if got.sink == "good");
        assert_eq!(seen.iter().filter(|seen| of_good(seen)).count(), 3);
        let patient = |seen: &Seen| matches!(seen, Seen::GivenUp("resend" | "hold"));
        if let Some(given_up) = seen.iter().position(patient)
            && matches!(self.behaviour.ends, Ends::Doubt | Ends::NotSent)
        {
            let meanwhile = seen[..given_up].iter().filter(|seen| of_good(seen));
            assert_eq!(meanwhile.count(), 3, "before the time-out");
        }
    }

    /// Each delivery of a sink is as the behaviour says.
    fn assert_ended(&self, sink: &Failing, all: &[Delivery]) {
        let ends = self.behaviour.ends;
        let state = sink.state_after(ends);
        assert_eq!(self.is_paused(sink), ends == Ends::Gone, "{}", sink.name);
        let of_sink = all.iter().filter(|found| found.sink == sink.name);
        let mut attempted = 0;
        for (nth, found) in of_sink.enumerate() {
            assert_eq!(found.event, self.events[nth]);
            assert_eq!(found.state, state, "{found:?}");
            let waits_in_line = state == DeliveryState::Queued && sink.keeps_order() && nth > 0;
            // The first 410 pauses the sink, whether the others were on their way or not.
            let may_wait = waits_in_line || (ends == Ends::Gone && found.attempts == 0);
            assert_eq!(found.attempts, u32::from(!may_wait), "{found:?}");
            let counted = matches!(ends, Ends::No(_)) && found.attempts > 0;
            assert_eq!(found.refusals, u32::from(counted), "{found:?}");
            if found.attempts == 0 {
                continue;
            }
            attempted += 1;
            if ends == Ends::Yes {
                assert_eq!(found.reason, "");
            } else {
                assert!(found.reason.starts_with(self.behaviour.says), "{found:?}");
            }
            if state == DeliveryState::Queued {
                assert_due(ends, found.due_at, self.world.now());
            }
            if nth == 0 {
                eprintln!(
                    "{:<45} {:<16} {:<28} {:<7} {}",
                    self.behaviour.name,
                    sink.name,
                    format!("{ends:?}"),
                    found.state.as_str(),
                    found.reason
                );
            }
        }
        assert!(attempted > 0);
    }

    /// Every delivery of the failing sinks, the oldest event first, as the ledger has it.
    fn deliveries(&self) -> Vec<Delivery> {
        let c = rusqlite::Connection::open(self.world.ledger_path()).unwrap();
        let sql = "SELECT s.name, e.id, delivery, state, attempts, refusals, due_at, coalesce(reason, '')
                   FROM delivery JOIN sink s USING (sink) JOIN event e USING (event) ORDER BY created_at";
        let mut asked = c.prepare(sql).unwrap();
        let rows = asked.query_map((), |row| {
            let name: String = row.get(0)?;
            let sink = FAILING.iter().find(|sink| sink.name == name);
            let (state, due_at): (String, i64) = (row.get(3)?, row.get(6)?);
            Ok(sink.map(|sink| Delivery {
                sink: sink.name,
                event: row.get(1).unwrap(),
                number: DeliveryId(row.get(2).unwrap()),
                state: DeliveryState::parse(&state).unwrap(),
                attempts: row.get(4).unwrap(),
                refusals: row.get(5).unwrap(),
                due_at: DateTime::from_timestamp_millis(due_at).unwrap(),
                reason: row.get(7).unwrap(),
            }))
        });
        rows.unwrap().filter_map(Result::unwrap).collect()
    }

    fn is_paused(&self, sink: &Failing) -> bool {
        let c = rusqlite::Connection::open(self.world.ledger_path()).unwrap();
        let sql = "SELECT mode = 'paused' FROM sink WHERE name = ?1";
        c.query_row(sql, [sink.name], |row| row.get(0)).unwrap()
    }

    /// The receiver's words are in no reason, no log line and no file of the ledger.
    fn assert_nothing_is_repeated(&self, log: &Log) {
        let said = log.0.lock().unwrap();
        assert!(holds(&said, "not delivered") || !holds(&said, "WARN"));
        assert!(!holds(&said, CANARY), "in the log");
        for file in fs::read_dir(self.world.state_path()).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            assert!(!holds(&bytes, CANARY), "in {}", path.display());
        }
    }

    fn until_due(&self, owed: &[Delivery]) -> Duration {
        let latest = owed.iter().map(|owed| owed.due_at).max();
        let wait = latest.map_or(TimeDelta::hours(1), |at| at - self.world.now());
        wait.to_std().unwrap_or_default()
    }

    async fn resume_all(&self) {
        let now = self.world.now();
        let resume = async |query: Query| {
            for sink in &FAILING {
                let resumed = query.set_sink_mode(sink.name.to_owned(), Mode::Open, None, now);
                assert!(resumed.await.unwrap());
            }
        };
        self.world.ask(resume).await;
    }

    /// A person has what is held attempted again.
    async fn retry(&self, held: &[Delivery]) {
        let numbers: Vec<DeliveryId> = held.iter().map(|held| held.number).collect();
        let (count, now) = (numbers.len() as u64, self.world.now());
        let chosen = self
            .world
            .ask(async |query| query.choose(Choice::Retry, numbers, now).await.unwrap());
        assert_eq!(chosen.await, count);
    }

    /// What was owed has arrived since, once each, by the next attempt; and nothing else has.
    fn assert_arrived_once(&self, from: usize, owed: &[Delivery]) {
        let line = |sink, event: &str, attempt: &str| format!("{sink} {event} {attempt}");
        let mut expected: Vec<String> = owed
            .iter()
            .map(|owed| line(owed.sink, &owed.event, &(owed.attempts + 1).to_string()))
            .collect();
        let got = self.journal.got_from(from);
        let mut arrived: Vec<String> = got
            .iter()
            .map(|got| line(got.sink, &got.event, &got.attempt))
            .collect();
        expected.sort();
        arrived.sort();
        assert_same_ids(&arrived, &expected);
    }

    /// Of the sinks that keep an order every event arrived after those before it, and each time with the same bytes.
    fn assert_order_and_bytes(&self) {
        let mut firsts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for got in self.journal.got_from(0) {
            let reply = self.world.vendor.reply_for(&got.event).unwrap();
            assert_eq!(got.body, reply.as_bytes(), "{} {}", got.sink, got.event);
            let line = firsts.entry(got.sink).or_default();
            if !line.contains(&got.event) {
                line.push(got.event);
            }
        }
        for sink in FAILING.iter().filter(|sink| sink.keeps_order()) {
            assert_eq!(firsts[sink.name], self.events, "{}", sink.name);
        }
    }
}

/// A delivery as the ledger has it.
#[derive(Clone, Debug)]
struct Delivery {
    sink: &'static str,
    event: String,
    number: DeliveryId,
    state: DeliveryState,
    attempts: u32,
    refusals: u32,
    due_at: DateTime<Utc>,
    reason: String,
}

fn of(all: &[Delivery], state: DeliveryState) -> Vec<Delivery> {
    let found = all.iter().filter(|delivery| delivery.state == state);
    found.cloned().collect()
}

/// When an attempt that ended so is due again: as the receiver wishes, or after our first wait.
fn assert_due(ends: Ends, due_at: DateTime<Utc>, begun: DateTime<Utc>) {
    let wish = match ends {
        Ends::No(wish) | Ends::Later(wish) => wish,
        Ends::Yes | Ends::NotSent | Ends::Doubt | Ends::Gone => Wish::Ours,
    };
    match wish {
        Wish::Ours => {
            let wait = due_at - begun;
            let (least, most) = (TimeDelta::seconds(1), TimeDelta::seconds(10));
            assert!(least <= wait && wait <= most, "{wait}");
        }
        Wish::Seconds(seconds) => assert_eq!(due_at, begun + TimeDelta::seconds(seconds)),
        Wish::At(time) => assert_eq!(due_at, time.parse::<DateTime<Utc>>().unwrap()),
    }
}

fn holds(bytes: &[u8], word: &str) -> bool {
    // Both are plain text: whatever else is in the bytes does not hide them.
    String::from_utf8_lossy(bytes).contains(word)
}

fn manner(behaviour: &Behaviour, authority: &Authority) -> Manner {
    let (door, is_https) = match behaviour.entry {
        Entry::Closed => (Door::Closed, false),
        Entry::Full => (Door::Full, false),
        Entry::Unattended => (Door::Unattended, false),
        Entry::Http => (Door::Open, false),
        Entry::NoTls => (Door::Open, true),
        Entry::Tls(flaw) => (Door::Tls(authority.acceptor(flaw)), true),
    };
    Manner {
        door,
        script: behaviour.script.clone(),
        tls_when_mended: is_https.then(|| authority.acceptor(Flaw::Nothing)),
    }
}

fn section(sink: &Failing, behaviour: &Behaviour, port: u16, shared: &Path) -> String {
    let Failing {
        name,
        on_doubt,
        order_by,
        timeout,
    } = sink;
    let (scheme, ca_file) = match behaviour.entry {
        Entry::NoTls | Entry::Tls(_) => {
            ("https", format!("ca_file = {:?}\n", shared.join("ca.pem")))
        }
        Entry::Closed | Entry::Full | Entry::Unattended | Entry::Http => ("http", String::new()),
    };
    let mut section = format!(
        "[[sinks]]\nname = {name:?}\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = \"{scheme}://127.0.0.1:{port}/hook\"\n\
         signature = \"none\"\non_doubt = {on_doubt:?}\norder_by = {order_by:?}\ntimeout = {timeout:?}\n{ca_file}"
    );
    if behaviour.challenge {
        writeln!(
            section,
            "challenge = {{ file = {:?} }}",
            shared.join("challenge")
        )
        .unwrap();
    }
    section
}
