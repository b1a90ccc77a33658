//! The ledger against a model of it that fits in the head: random histories over three events, two sinks and two
//! lanes, with crashes between any two steps. Three ids, because with many a missing fence slips through.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use fullscript_events::audit::Attested;
use fullscript_events::decide::Decision;
use fullscript_events::domain::{
    Category, ClinicId, ClinicName, DeliveryId, DeliveryState, EventBody, EventId, EventType, Lane,
    OrderBy, Parked, Reference, SinkName, Sweep,
};
use fullscript_events::ledger::{
    Admitted, Brought, Choice, Claim, Detail, EventFilter, Found, Heard, InHand, LaneId, Ledger,
    Owed, Page, Pruned, Reassigned, Resend, Settlement, SinkId, Taker, Watch,
};
use fullscript_events::sinks::{Checkpoint, Doubtful, Resumed};
use fullscript_events::store::{Owner, SealKey};
use proptest::prelude::*;
use secrecy::SecretBox;

use crate::world::{check_invariants, patiently};

const IDS: [&str; 3] = ["a", "b", "c"];
const CLINICS: [&str; 2] = ["oak", "elm"];
const SINKS: [&str; 2] = ["log", "hook"];
/// One step of a history; longer than an event waits for the end of its sweep.
const STEP: TimeDelta = TimeDelta::minutes(1);

#[derive(Clone, Debug)]
enum Op {
    /// A page of a sweep; `old` is what the baseline skips.
    List {
        page: Listed,
        baseline: bool,
    },
    /// A page of a backfill; `all`: from before the oldest event on.
    Backfill {
        page: Listed,
        all: bool,
    },
    /// A page on which an event names another clinic.
    ListForeign {
        lane: usize,
        id: usize,
    },
    /// A detail is here; these sinks have room for one.
    Fetched {
        id: usize,
        takers: Vec<usize>,
    },
    Gone(usize),
    Claim {
        sink: usize,
        limit: usize,
    },
    /// Any claim that was ever made and not settled yet, stale ones too.
    Settle {
        which: usize,
        verdict: Verdict,
    },
    /// The owner is gone; the next one begins its epoch, and the second sink keeps this order now.
    Crash(OrderBy),
    /// A sink finds out what became of its orphans.
    Resume {
        sink: usize,
        fate: Fate,
    },
    Resend {
        sink: usize,
        id: usize,
    },
    /// The sink's loop looks after what is parked.
    Tend(usize),
    /// A person lets a clinic go on at a sink.
    ResumeClinic {
        sink: usize,
        lane: usize,
    },
    /// A person settles a delivery, whether it needs one or not.
    Choose {
        which: usize,
        choice: Choice,
    },
}

#[derive(Clone, Debug)]
struct Listed {
    lane: usize,
    ids: Vec<usize>,
    sinks: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Done,
    Again,
    AgainMuchLater,
    Held,
    /// Only a sink that is not exact says so.
    Parked(Parked),
    Dead,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Shown,
    NotShown,
    Held,
    SentAgain,
}

fn listed() -> impl Strategy<Value = Listed> {
    (
        0..CLINICS.len(),
        proptest::sample::subsequence(vec![0, 1, 2], 1..=3),
        proptest::sample::subsequence(vec![0, 1], 0..=2),
    )
        .prop_map(|(lane, ids, sinks)| Listed { lane, ids, sinks })
}

fn op() -> impl Strategy<Value = Op> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Done),
        2 => Just(Verdict::Again),
        1 => Just(Verdict::AgainMuchLater),
        1 => Just(Verdict::Held),
        2 => proptest::sample::select(Parked::ALL.to_vec()).prop_map(Verdict::Parked),
        1 => Just(Verdict::Dead),
    ];
    let fate = prop_oneof![
        Just(Fate::Shown),
        Just(Fate::NotShown),
        Just(Fate::Held),
        Just(Fate::SentAgain),
    ];
    let choice = prop_oneof![
        1 => Just(Choice::Done),
        2 => Just(Choice::Retry),
        1 => Just(Choice::Drop),
    ];
    prop_oneof![
        4 => (listed(), any::<bool>()).prop_map(|(page, baseline)| Op::List { page, baseline }),
        1 => (listed(), any::<bool>()).prop_map(|(page, all)| Op::Backfill { page, all }),
        1 => (0..2_usize, 0..3_usize).prop_map(|(lane, id)| Op::ListForeign { lane, id }),
        4 => (0..3_usize, proptest::sample::subsequence(vec![0, 1], 0..=2))
            .prop_map(|(id, takers)| Op::Fetched { id, takers }),
        1 => (0..3_usize).prop_map(Op::Gone),
        6 => (0..2_usize, 1..4_usize).prop_map(|(sink, limit)| Op::Claim { sink, limit }),
        6 => (0..9_usize, verdict).prop_map(|(which, verdict)| Op::Settle { which, verdict }),
        2 => proptest::sample::select(OrderBy::ALL.to_vec()).prop_map(Op::Crash),
        3 => (0..2_usize, fate).prop_map(|(sink, fate)| Op::Resume { sink, fate }),
        1 => (0..2_usize, 0..3_usize).prop_map(|(sink, id)| Op::Resend { sink, id }),
        1 => (0..2_usize).prop_map(Op::Tend),
        1 => (0..2_usize, 0..2_usize).prop_map(|(sink, lane)| Op::ResumeClinic { sink, lane }),
        2 => (0..9_usize, choice).prop_map(|(which, choice)| Op::Choose { which, choice }),
    ]
}

fn start() -> DateTime<Utc> {
    "2026-03-20T12:00:00Z".parse().unwrap()
}

/// `b` and `c` tie; only `a` is older than the baseline.
fn created_at(id: usize) -> DateTime<Utc> {
    start() - TimeDelta::hours(if id == 0 { 3 } else { 2 })
}

fn baseline_from() -> DateTime<Utc> {
    start() - TimeDelta::minutes(150)
}

fn reference(id: usize) -> Reference {
    Reference {
        id: EventId::new(IDS[id]).unwrap(),
        event_type: EventType::new("patient.created").unwrap(),
        created_at: created_at(id),
        clinic_id: None,
    }
}

/// What the model knows of an event.
#[derive(Clone, Debug)]
struct Event {
    lane: usize,
    seen_by: BTreeSet<usize>,
    /// Only a backfill has listed it yet.
    by_job: bool,
    skipped: Option<&'static str>,
    body: bool,
    /// Why it could not be fetched; over when it is.
    trouble: Option<&'static str>,
}

/// What it knows of a delivery; its number is its place in the list, from 1.
#[derive(Clone, Debug)]
struct Delivery {
    id: usize,
    sink: usize,
    lane: usize,
    issued_at: DateTime<Utc>,
    ordinal: u32,
    state: DeliveryState,
    ready: bool,
    due_at: DateTime<Utc>,
    attempts: u32,
    epoch: i64,
    /// An attempt of it has failed since it began to be owed.
    failing: bool,
    /// What it waits for, and until when.
    parked: Option<(Parked, Option<DateTime<Utc>>)>,
}

impl Delivery {
    fn is_open(&self) -> bool {
        !matches!(self.state, DeliveryState::Done | DeliveryState::Skipped)
    }
}

/// The body of an event; the third is of no patient.
fn body(id: usize) -> String {
    let data = if id < 2 {
        r#"{"patient":{"id":"p"}}"#
    } else {
        "{}"
    };
    format!(r#"{{"id":"{}","data":{data}}}"#, IDS[id])
}

struct Model {
    /// The order that the second sink keeps.
    order: OrderBy,
    events: BTreeMap<usize, Event>,
    deliveries: Vec<Delivery>,
    foreign: BTreeSet<(usize, usize)>,
    /// Clinics that are paused, by sink and lane: each clinic has one.
    paused: BTreeSet<(usize, usize)>,
}

impl Model {
    fn of(&mut self, id: usize) -> impl Iterator<Item = &mut Delivery> {
        self.deliveries.iter_mut().filter(move |d| d.id == id)
    }

    /// What a delivery may not overtake others of.
    fn key(&self, d: &Delivery) -> Option<usize> {
        match self.order {
            _ if d.sink == 0 => None,
            OrderBy::None => None,
            OrderBy::Clinic => Some(d.lane),
            OrderBy::Patient => (d.id < 2).then_some(0),
        }
    }

    /// Whether it is a queued delivery's turn.
    fn has_its_turn(&self, n: usize, now: DateTime<Utc>) -> bool {
        let d = &self.deliveries[n];
        let Some(key) = self.key(d) else {
            return true;
        };
        let place = |n: usize, d: &Delivery| (created_at(d.id), d.id, n);
        self.deliveries.iter().enumerate().all(|(m, other)| {
            let comes_before = place(m, other) < place(n, d);
            let is_queued = other.state == DeliveryState::Queued;
            if other.sink != d.sink || m == n {
                true
            } else if is_queued && !other.ready {
                // Perhaps it is of the same patient.
                let waits = other.issued_at >= now - TimeDelta::hours(1);
                let ties = other.id == d.id;
                !(waits && other.lane == d.lane && (comes_before || ties))
            } else if self.key(other) == Some(key) {
                other.state != DeliveryState::Claimed && !(is_queued && comes_before)
            } else {
                true
            }
        })
    }

    /// Whether it is the first of its key that is here.
    fn is_first_in_line(&self, n: usize) -> bool {
        let d = &self.deliveries[n];
        let Some(key) = self.key(d) else {
            return true;
        };
        let place = |n: usize, d: &Delivery| (created_at(d.id), d.id, n);
        self.deliveries.iter().enumerate().all(|(m, other)| {
            let is_of_key = other.sink == d.sink && self.key(other) == Some(key);
            let is_before = other.state == DeliveryState::Queued
                && other.ready
                && place(m, other) < place(n, d);
            m == n || !is_of_key || !(other.state == DeliveryState::Claimed || is_before)
        })
    }

    /// What could be claimed of a paused clinic is parked, and then who comes next.
    fn park_paused(&mut self, sink: usize) {
        loop {
            let first: Vec<usize> = (0..self.deliveries.len())
                .filter(|&n| {
                    let d = &self.deliveries[n];
                    let is_here = d.state == DeliveryState::Queued && d.ready;
                    let is_paused = self.paused.contains(&(sink, d.lane));
                    d.sink == sink && is_here && is_paused && self.is_first_in_line(n)
                })
                .collect();
            if first.is_empty() {
                return;
            }
            for n in first {
                self.deliveries[n].state = DeliveryState::Parked;
                self.deliveries[n].parked = Some((Parked::ClinicPaused, None));
            }
        }
    }

    /// These are queued again, by the time they happened.
    fn release(&mut self, which: impl Fn(&Delivery) -> bool) -> usize {
        let mut released = 0;
        for d in self.deliveries.iter_mut().filter(|d| which(d)) {
            d.state = DeliveryState::Queued;
            d.ready = self.events[&d.id].body;
            d.due_at = created_at(d.id);
            d.failing = false;
            released += 1;
        }
        released
    }

    fn list(
        &mut self,
        page: &Listed,
        wanted: impl Fn(usize) -> bool,
        by_job: bool,
        now: DateTime<Utc>,
    ) -> Admitted {
        let mut admitted = Admitted::default();
        for &id in &page.ids {
            let is_new = !self.events.contains_key(&id);
            if is_new && by_job && !wanted(id) {
                continue;
            }
            let event = self.events.entry(id).or_insert(Event {
                lane: page.lane,
                // A backfill is no sighting: it may have looked for one sink alone.
                seen_by: (!by_job).then_some(page.lane).into_iter().collect(),
                by_job,
                skipped: None,
                body: false,
                trouble: None,
            });
            let mut first_sighting = false;
            if !by_job {
                first_sighting = event.seen_by.insert(page.lane);
                if event.by_job {
                    (event.by_job, event.lane) = (false, page.lane);
                    first_sighting = true;
                }
            }
            admitted.new += u64::from(is_new);
            if is_new && !wanted(id) {
                event.skipped = Some("baseline");
                admitted.baseline += 1;
            } else if is_new && page.sinks.is_empty() {
                event.skipped = Some("unmatched");
                admitted.unmatched += 1;
            } else if wanted(id) && (is_new || by_job || first_sighting) {
                for &sink in &page.sinks {
                    let had = self.deliveries.iter().any(|d| d.id == id && d.sink == sink);
                    if !had {
                        self.issue(id, sink, page.lane, created_at(id), now);
                        admitted.issued += 1;
                    }
                }
            }
        }
        admitted
    }

    fn issue(
        &mut self,
        id: usize,
        sink: usize,
        lane: usize,
        due_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) {
        let before = self.of(id).filter(|d| d.sink == sink).count();
        let event = self.events.get_mut(&id).unwrap();
        event.skipped = None;
        self.deliveries.push(Delivery {
            id,
            sink,
            lane,
            issued_at: now,
            ordinal: u32::try_from(before).unwrap() + 1,
            state: DeliveryState::Queued,
            ready: event.body,
            due_at,
            attempts: 0,
            epoch: 0,
            failing: false,
            parked: None,
        });
    }

    fn claim(
        &mut self,
        sink: usize,
        limit: usize,
        epoch: i64,
        now: DateTime<Utc>,
    ) -> Vec<(usize, u32)> {
        self.park_paused(sink);
        let mut due: Vec<usize> = (0..self.deliveries.len())
            .filter(|&n| {
                let d = &self.deliveries[n];
                let is_due = d.ready && d.due_at <= now;
                let is_queued = d.sink == sink && d.state == DeliveryState::Queued;
                is_queued && is_due && self.has_its_turn(n, now)
            })
            .collect();
        due.sort_by_key(|&n| (self.deliveries[n].due_at, n));
        due.truncate(limit);
        self.mark_claimed(due, epoch)
    }

    fn mark_claimed(&mut self, due: Vec<usize>, epoch: i64) -> Vec<(usize, u32)> {
        due.into_iter()
            .map(|n| {
                let d = &mut self.deliveries[n];
                d.state = DeliveryState::Claimed;
                d.attempts += 1;
                d.epoch = epoch;
                (n, d.attempts)
            })
            .collect()
    }

    /// A detail is here: claimed at once if all that waits for it is due, for takers without a backlog; else kept.
    fn fetched(
        &mut self,
        id: usize,
        takers: &[usize],
        epoch: i64,
        now: DateTime<Utc>,
    ) -> Vec<(usize, u32)> {
        let is_queued = |d: &Delivery| d.state == DeliveryState::Queued;
        let has_backlog = |sink: usize| {
            let all = self.deliveries.iter();
            let mut due = all.filter(|d| d.sink == sink && d.due_at <= now);
            due.any(|d| is_queued(d) && d.ready)
        };
        let waiting: Vec<usize> = (0..self.deliveries.len())
            .filter(|&n| self.deliveries[n].id == id && is_queued(&self.deliveries[n]))
            .collect();
        let taken = waiting.iter().all(|&n| {
            let d = &self.deliveries[n];
            d.due_at <= now && takers.contains(&d.sink) && !has_backlog(d.sink)
        });
        if taken && !waiting.is_empty() {
            return self.mark_claimed(waiting, epoch);
        }
        self.body_is_here(id);
        Vec::new()
    }

    fn body_is_here(&mut self, id: usize) {
        self.events.get_mut(&id).unwrap().body = true;
        self.of(id)
            .filter(|d| d.state == DeliveryState::Queued)
            .for_each(|d| d.ready = true);
    }

    /// An event is owed while something waits for it and its body is not here.
    fn is_owed(&self, id: usize) -> bool {
        let mut of_event = self.deliveries.iter().filter(|d| d.id == id);
        of_event.any(|d| d.state == DeliveryState::Queued && !d.ready)
    }

    fn is_live(&self, n: usize, attempt: u32, epoch: i64) -> bool {
        let d = &self.deliveries[n];
        d.state == DeliveryState::Claimed && d.attempts == attempt && d.epoch == epoch
    }

    /// Bodies are kept exactly while a delivery is open.
    fn forget_body(&mut self, id: usize) {
        let open = self.of(id).any(|d| d.is_open());
        let event = self.events.get_mut(&id).unwrap();
        event.body &= open;
    }
}

/// A claim that somebody holds, whether or not its owner still lives.
struct Holding {
    claim: Claim,
    place: usize,
    sink: usize,
    epoch: i64,
    /// Its body is in the ledger too.
    kept: bool,
}

/// The real ledger beside the model.
struct Bench {
    directory: tempfile::TempDir,
    owner: Option<Owner>,
    ledger: Option<Ledger>,
    lanes: Vec<LaneId>,
    sinks: Vec<SinkId>,
    model: Model,
    held: Vec<Holding>,
    now: DateTime<Utc>,
    checkpoint: Option<String>,
}

impl Bench {
    async fn begin() -> Self {
        let mut bench = Self {
            directory: tempfile::tempdir().unwrap(),
            owner: None,
            ledger: None,
            lanes: Vec::new(),
            sinks: Vec::new(),
            model: Model {
                order: OrderBy::None,
                events: BTreeMap::new(),
                deliveries: Vec::new(),
                foreign: BTreeSet::new(),
                paused: BTreeSet::new(),
            },
            held: Vec::new(),
            now: start(),
            checkpoint: None,
        };
        bench.take_over().await;
        bench
    }

    /// A new owner, as after a crash.
    async fn take_over(&mut self) {
        self.ledger = None;
        self.owner = None;
        let key = SealKey::new(SecretBox::new(Box::new([15; 32])));
        let owner = patiently(|| Owner::take(self.directory.path(), "app", &key)).unwrap();
        let ledger = Ledger::new(owner.store().clone(), owner.epoch());
        let lanes = CLINICS.map(|clinic| Lane {
            clinic: ClinicName::new(clinic).unwrap(),
            category: Category::new("patients").unwrap(),
        });
        self.lanes = ledger.enrol_lanes(lanes.to_vec()).await.unwrap();
        let names = SINKS.map(|name| SinkName::new(name).unwrap());
        let sinks = ledger
            .enrol_sinks(
                names
                    .iter()
                    .cloned()
                    .zip([OrderBy::None, self.model.order])
                    .collect(),
            )
            .await
            .unwrap();
        self.sinks = names.iter().map(|name| sinks[name]).collect();
        self.ledger = Some(ledger);
        self.owner = Some(owner);
    }

    fn ledger(&self) -> Ledger {
        self.ledger.clone().unwrap()
    }

    fn epoch(&self) -> i64 {
        self.owner.as_ref().unwrap().epoch().0
    }

    async fn admit(&self, page: &Listed, found: Found) -> Admitted {
        let sinks: Vec<SinkId> = page.sinks.iter().map(|&sink| self.sinks[sink]).collect();
        // Newest first, as the vendor lists.
        let events = page
            .ids
            .iter()
            .rev()
            .map(|&id| (reference(id), sinks.clone()));
        let page = Page {
            lane: self.lanes[page.lane],
            found,
            events: events.collect(),
            foreign: Vec::new(),
            now: self.now,
            end: None,
        };
        self.ledger().admit(page).await.unwrap()
    }

    /// An event, if its detail is owed.
    async fn owed(&self, id: usize) -> Option<Owed> {
        let far = self.now + TimeDelta::days(9);
        for clinic in CLINICS {
            let clinic = ClinicName::new(clinic).unwrap();
            let owed = self
                .ledger()
                .owed(&clinic, far, HashSet::new(), 9)
                .await
                .unwrap()
                .events;
            let mut of_id = owed
                .into_iter()
                .filter(|owed| owed.reference.id.as_str() == IDS[id]);
            if let Some(found) = of_id.next() {
                return Some(found);
            }
        }
        None
    }

    async fn apply(&mut self, op: Op) {
        self.now += STEP;
        match op {
            Op::List { page, baseline } => {
                let found = Found::BySweep {
                    sweep: Sweep::Fast,
                    progress: None,
                    issue_from: baseline.then(baseline_from),
                    late_before: None,
                };
                let expected = self
                    .model
                    .list(&page, |id| !baseline || id > 0, false, self.now);
                assert_eq!(self.admit(&page, found).await, expected);
            }
            Op::Backfill { page, all } => {
                let since = if all { created_at(0) } else { baseline_from() };
                let found = Found::ByJob {
                    job: 1,
                    reached: Some(created_at(0)),
                    since,
                    until: None,
                };
                let expected = self.model.list(&page, |id| all || id > 0, true, self.now);
                assert_eq!(self.admit(&page, found).await, expected);
            }
            Op::ListForeign { lane, id } => self.list_foreign(lane, id).await,
            Op::Fetched { id, takers } => self.fetched(id, &takers).await,
            Op::Gone(id) => {
                if let Some(Owed { event, .. }) = self.owed(id).await {
                    let ledger = self.ledger();
                    ledger.fetch_gone(event, "gone", self.now).await.unwrap();
                    self.model.events.get_mut(&id).unwrap().trouble = Some("gone");
                    self.model
                        .of(id)
                        .filter(|d| d.state == DeliveryState::Queued)
                        .for_each(|d| d.state = DeliveryState::Skipped);
                }
            }
            Op::Claim { sink, limit } => self.claim(sink, limit).await,
            Op::Settle { which, verdict } => self.settle(which, verdict).await,
            Op::Crash(order) => {
                let before = std::mem::replace(&mut self.model.order, order);
                self.take_over().await;
                if before != order {
                    // As the daemon does, before it claims anything.
                    self.resume(1, Fate::SentAgain).await;
                }
            }
            Op::Resume { sink, fate } => self.resume(sink, fate).await,
            Op::Resend { sink, id } => self.resend(sink, id).await,
            Op::Choose { which, choice } => self.choose(which, choice).await,
            Op::Tend(sink) => self.tend(sink).await,
            Op::ResumeClinic { sink, lane } => self.resume_clinic(sink, lane).await,
        }
        // Only what is parked waits for something.
        for d in &mut self.model.deliveries {
            if d.state != DeliveryState::Parked {
                d.parked = None;
            }
        }
    }

    async fn fetched(&mut self, id: usize, takers: &[usize]) {
        let Some(owed) = self.owed(id).await else {
            return;
        };
        self.model.events.get_mut(&id).unwrap().trouble = None;
        // A sink that keeps an order takes nothing at once.
        let is_ordered = |sink: usize| sink == 1 && self.model.order != OrderBy::None;
        // Nor does one that may refuse a clinic.
        let is_paused = |sink: usize| self.model.paused.iter().any(|paused| paused.0 == sink);
        let takers = takers.iter().copied();
        let takers = takers.filter(|sink| !is_ordered(*sink) && !is_paused(*sink));
        let takers: Vec<usize> = takers.collect();
        let body = EventBody::from_json(body(id));
        let detail = Detail {
            attested: Attested::default(),
            event: owed.event,
            reference: reference(id),
            body,
            in_trouble: owed.in_trouble,
        };
        let of_sink = |&sink: &usize| Taker {
            sink: self.sinks[sink],
            kib: 1,
        };
        let rooms = takers.iter().map(of_sink).collect();
        let fetched = self
            .ledger()
            .fetched(&[detail].into(), rooms, self.now)
            .await
            .unwrap();
        let epoch = self.epoch();
        let mut expected = self.model.fetched(id, &takers, epoch, self.now);
        expected.sort_unstable();
        let mut found: Vec<(usize, u32)> = Vec::new();
        for (sink, claim) in fetched.claims {
            let sink = self.sinks.iter().position(|of| *of == sink).unwrap();
            found.push((place(claim.parcel.delivery), claim.parcel.attempt));
            self.hold(sink, claim, false);
        }
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    async fn list_foreign(&mut self, lane: usize, id: usize) {
        let foreign = Reference {
            clinic_id: Some(ClinicId::new("another").unwrap()),
            ..reference(id)
        };
        let page = Page {
            lane: self.lanes[lane],
            found: Found::BySweep {
                sweep: Sweep::Fast,
                progress: None,
                issue_from: None,
                late_before: None,
            },
            events: Vec::new(),
            foreign: vec![foreign],
            now: self.now,
            end: None,
        };
        let expected = Admitted {
            foreign: u64::from(self.model.foreign.insert((lane, id))),
            ..Admitted::default()
        };
        assert_eq!(self.ledger().admit(page).await.unwrap(), expected);
    }

    async fn claim(&mut self, sink: usize, limit: usize) {
        let epoch = self.epoch();
        let expected = self.model.claim(sink, limit, epoch, self.now);
        let ledger = self.ledger();
        let sink_id = self.sinks[sink];
        // One body is all there is memory for; then there is more of it.
        let first = ledger.claim(sink_id, limit, 0, self.now).await;
        let mut claims = first.unwrap();
        assert!(claims.len() <= 1);
        let left = limit - claims.len();
        let rest = ledger.claim(sink_id, left, usize::MAX, self.now).await;
        claims.extend(rest.unwrap());
        let found: Vec<(usize, u32)> = claims
            .iter()
            .map(|claim| (place(claim.parcel.delivery), claim.parcel.attempt))
            .collect();
        assert_eq!(found, expected);
        for claim in claims {
            self.hold(sink, claim, true);
        }
    }

    fn hold(&mut self, sink: usize, claim: Claim, kept: bool) {
        let place = place(claim.parcel.delivery);
        let id = self.model.deliveries[place].id;
        assert_eq!(claim.parcel.event.as_str(), IDS[id]);
        assert_eq!(claim.parcel.body.as_json(), body(id));
        let failing = claim.ticket.facts.failing_since.is_some();
        assert_eq!(failing, self.model.deliveries[place].failing);
        self.held.push(Holding {
            claim,
            place,
            sink,
            epoch: self.epoch(),
            kept,
        });
    }

    fn take_held(&mut self, which: usize) -> Option<Holding> {
        (!self.held.is_empty()).then(|| self.held.remove(which % self.held.len()))
    }

    async fn settle(&mut self, which: usize, verdict: Verdict) {
        let Some(Holding {
            claim,
            place,
            sink,
            epoch,
            kept,
        }) = self.take_held(which)
        else {
            return;
        };
        let live = epoch == self.epoch() && self.model.is_live(place, claim.parcel.attempt, epoch);
        let reason = || "a reason".to_owned();
        let verdict = if sink == 0 && matches!(verdict, Verdict::Parked(_)) {
            Verdict::Held
        } else {
            verdict
        };
        let parked = if let Verdict::Parked(why) = verdict {
            let until = (why != Parked::ClinicPaused).then_some(self.now + STEP * 20);
            Some((why, until))
        } else {
            None
        };
        let (decision, state) = match verdict {
            Verdict::Done => (Decision::Done, DeliveryState::Done),
            Verdict::Again | Verdict::AgainMuchLater => {
                let wait = if matches!(verdict, Verdict::Again) {
                    0
                } else {
                    20
                };
                let decision = Decision::Again {
                    at: self.now + STEP * wait,
                    refusals: 1,
                    reason: reason(),
                    in_doubt: false,
                };
                (decision, DeliveryState::Queued)
            }
            Verdict::Held => (
                Decision::Held {
                    reason: reason(),
                    in_doubt: true,
                },
                DeliveryState::Held,
            ),
            Verdict::Parked(why) => (
                Decision::Parked {
                    why,
                    reason: reason(),
                    until: parked.and_then(|(_, until)| until),
                },
                DeliveryState::Parked,
            ),
            Verdict::Dead => (Decision::Dead { reason: reason() }, DeliveryState::Dead),
        };
        let due_at = match &decision {
            Decision::Again { at, .. } => Some(*at),
            Decision::Done
            | Decision::Held { .. }
            | Decision::Parked { .. }
            | Decision::Skipped { .. }
            | Decision::Dead { .. } => None,
        };
        let mark = format!("settled at {}", self.now);
        let checkpoint = Some(Checkpoint(mark.clone()));
        let settlement = Settlement::new(self.sinks[sink], vec![(claim, decision)], checkpoint);
        // Offered twice, as after a write of which nobody knows whether it was made.
        let settled = self.ledger().settle(&settlement, self.now).await.unwrap();
        assert_eq!(settled.changed, usize::from(live));
        assert_eq!(settled.fenced, usize::from(!live));
        let again = self.ledger().settle(&settlement, self.now).await.unwrap();
        assert_eq!(again.changed, 0);
        if live {
            let delivery = &mut self.model.deliveries[place];
            delivery.state = state;
            delivery.due_at = due_at.unwrap_or(delivery.due_at);
            delivery.parked = parked;
            delivery.failing |= state != DeliveryState::Done;
            let (id, lane) = (delivery.id, delivery.lane);
            if let Some((Parked::ClinicPaused, _)) = parked {
                self.model.paused.insert((sink, lane));
            }
            if !kept && state != DeliveryState::Done {
                // Another attempt will need it.
                self.model.body_is_here(id);
            }
            self.model.forget_body(id);
            if sink == 0 {
                self.checkpoint = Some(mark);
            }
        }
    }

    async fn resume(&mut self, sink: usize, fate: Fate) {
        let (_, orphans) = self.ledger().orphans(self.sinks[sink]).await.unwrap();
        let found: Vec<usize> = orphans.iter().map(|o| place(o.delivery)).collect();
        let expected: Vec<usize> = (0..self.model.deliveries.len())
            .filter(|&n| {
                let d = &self.model.deliveries[n];
                d.sink == sink && d.state == DeliveryState::Claimed
            })
            .collect();
        assert_eq!(found, expected);
        let all: Vec<DeliveryId> = orphans.into_iter().map(|o| o.delivery).collect();
        let none = Vec::new;
        let (adopted, absent, doubtful, state) = match fate {
            Fate::Shown => (all, none(), none(), DeliveryState::Done),
            Fate::NotShown => (none(), all, none(), DeliveryState::Queued),
            Fate::Held => (none(), none(), all, DeliveryState::Held),
            Fate::SentAgain => (none(), none(), all, DeliveryState::Queued),
        };
        let in_doubt = |delivery| Doubtful {
            delivery,
            reason: "the daemon ended".to_owned(),
        };
        let resumed = Resumed {
            adopted,
            absent,
            doubtful: doubtful.into_iter().map(in_doubt).collect(),
            checkpoint: None,
        };
        self.ledger()
            .settle_orphans(self.sinks[sink], resumed, state, self.now)
            .await
            .unwrap();
        for n in expected {
            let id = self.model.deliveries[n].id;
            let delivery = &mut self.model.deliveries[n];
            delivery.state = state;
            if state == DeliveryState::Queued {
                delivery.ready = self.model.events[&id].body;
            }
            self.model.forget_body(id);
        }
    }

    async fn resend(&mut self, sink: usize, id: usize) {
        let query = self.ledger().query();
        let issued = query
            .resend(IDS[id].to_owned(), SINKS[sink].to_owned(), self.now)
            .await
            .unwrap();
        let had: Vec<DeliveryState> = self
            .model
            .of(id)
            .filter(|d| d.sink == sink)
            .map(|d| d.state)
            .collect();
        let on_its_way =
            |state: &DeliveryState| matches!(state, DeliveryState::Queued | DeliveryState::Claimed);
        if had.is_empty() || had.iter().any(on_its_way) {
            assert!(!matches!(issued, Resend::Issued(_)), "{issued:?}");
        } else {
            // What waited for a person waits no more.
            self.model
                .of(id)
                .filter(|d| d.sink == sink)
                .filter(|d| needs_a_person(d.state))
                .for_each(|d| d.state = DeliveryState::Skipped);
            let mut before = self.model.of(id).filter(|d| d.sink == sink);
            let lane = before.next().unwrap().lane;
            drop(before);
            self.model.issue(id, sink, lane, self.now, self.now);
            let newest = DeliveryId(i64::try_from(self.model.deliveries.len()).unwrap());
            assert_eq!(issued, Resend::Issued(newest));
        }
    }

    async fn choose(&mut self, which: usize, choice: Choice) {
        let Some(which) = which.checked_rem(self.model.deliveries.len()) else {
            return;
        };
        let number = DeliveryId(i64::try_from(which).unwrap() + 1);
        let query = self.ledger().query();
        let changed = query.choose(choice, vec![number], self.now).await.unwrap();
        let delivery = &mut self.model.deliveries[which];
        let needs_one = needs_a_person(delivery.state);
        assert_eq!(changed, u64::from(needs_one));
        if !needs_one {
            return;
        }
        let id = delivery.id;
        match choice {
            Choice::Done => delivery.state = DeliveryState::Done,
            Choice::Drop => delivery.state = DeliveryState::Skipped,
            Choice::Retry => {
                delivery.state = DeliveryState::Queued;
                delivery.due_at = self.now;
                delivery.issued_at = self.now;
                delivery.failing = false;
                delivery.ready = self.model.events[&id].body;
            }
        }
        self.model.forget_body(id);
    }

    async fn tend(&mut self, sink: usize) {
        let ledger = self.ledger();
        let tended = ledger.tend_parked(self.sinks[sink], true, self.now);
        tended.await.unwrap();
        let now = self.now;
        let is_due = |d: &Delivery, for_what| {
            let waited =
                matches!(d.parked, Some((why, Some(until))) if why == for_what && until <= now);
            d.sink == sink && d.state == DeliveryState::Parked && waited
        };
        (self.model).release(|d| is_due(d, Parked::NoCrosswalk));
        let mut done = Vec::new();
        for d in &mut self.model.deliveries {
            if is_due(d, Parked::AwaitsResult) {
                d.state = DeliveryState::Done;
                done.push(d.id);
            }
        }
        for id in done {
            self.model.forget_body(id);
        }
    }

    async fn resume_clinic(&mut self, sink: usize, lane: usize) {
        let query = self.ledger().query();
        let (name, clinic) = (SINKS[sink].to_owned(), CLINICS[lane].to_owned());
        let resumed = query.resume_clinic(name, Some(clinic)).await.unwrap();
        let was_paused = self.model.paused.remove(&(sink, lane));
        let released = self.model.release(|d| {
            let waits = matches!(d.parked, Some((Parked::ClinicPaused, _)));
            let is_its = d.sink == sink && d.lane == lane;
            d.state == DeliveryState::Parked && waits && is_its
        });
        assert_eq!(resumed, was_paused.then_some(released));
    }

    /// Everything that can be asked says what the model says.
    async fn compare(&mut self) {
        let query = self.ledger().query();
        let filter = EventFilter {
            limit: 9,
            ..EventFilter::default()
        };
        let mut rows = query.events(filter).await.unwrap();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        let known: Vec<&str> = self.model.events.keys().map(|&id| IDS[id]).collect();
        assert_eq!(ids, known);
        let mut issued = 0;
        for (row, (&id, event)) in rows.iter().zip(&self.model.events) {
            assert_eq!(row.skipped.as_deref(), event.skipped);
            assert_eq!(row.fetch_trouble.as_deref(), event.trouble);
            assert_eq!(row.clinic, CLINICS[event.lane]);
            issued += row.deliveries.len();
            for found in &row.deliveries {
                let expected = &self.model.deliveries[place(found.delivery)];
                assert_eq!(expected.id, id);
                assert_eq!(found.sink, SINKS[expected.sink]);
                assert_eq!(found.ordinal, expected.ordinal);
                assert_eq!(found.state, expected.state);
                assert_eq!(found.attempts, expected.attempts);
                assert_eq!(found.due_at, expected.due_at);
                assert_eq!(found.parked, expected.parked.map(|(why, _)| why));
            }
        }
        assert_eq!(issued, self.model.deliveries.len());
        let sinks = query.sinks().await.unwrap();
        let counted: u64 = sinks.iter().flat_map(|sink| sink.counts).sum();
        assert_eq!(counted, issued as u64, "issued is the sum of all states");
        for (id, name) in IDS.iter().enumerate() {
            let owed = self.owed(id).await.is_some();
            let expected = self.model.is_owed(id);
            assert_eq!(owed, expected, "{name} is owed");
        }
        let (checkpoint, _) = self.ledger().orphans(self.sinks[0]).await.unwrap();
        assert_eq!(checkpoint.map(|c| c.0), self.checkpoint);
        let path = self.directory.path().join("ledger.sqlite3");
        check_invariants(&path);
        self.compare_bodies(&path);
    }

    fn compare_bodies(&self, path: &Path) {
        let c = rusqlite::Connection::open(path).unwrap();
        let mut bodies = c
            .prepare("SELECT id FROM body JOIN event USING (event) ORDER BY id")
            .unwrap();
        let bodies: Vec<String> = bodies
            .query_map((), |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let kept = self.model.events.iter().filter(|(_, event)| event.body);
        let kept: Vec<&str> = kept.map(|(&id, _)| IDS[id]).collect();
        assert_eq!(bodies, kept);
    }
}

fn needs_a_person(state: DeliveryState) -> bool {
    matches!(
        state,
        DeliveryState::Held | DeliveryState::Parked | DeliveryState::Dead
    )
}

/// Where the model keeps a delivery.
fn place(delivery: DeliveryId) -> usize {
    usize::try_from(delivery.0).unwrap() - 1
}

/// Every event is listed for both sinks and its body is here.
fn everything_is_ready() -> Vec<Op> {
    let page = Listed {
        lane: 0,
        ids: vec![0, 1, 2],
        sinks: vec![0, 1],
    };
    let list = Op::List {
        page,
        baseline: false,
    };
    std::iter::once(list)
        .chain((0..IDS.len()).map(|id| Op::Fetched {
            id,
            takers: Vec::new(),
        }))
        .collect()
}

fn replay(ops: impl IntoIterator<Item = Op>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut bench = Bench::begin().await;
        for op in ops {
            bench.apply(op).await;
            bench.compare().await;
        }
    });
}

#[test]
fn only_the_newest_claim_of_the_living_owner_may_settle() {
    let claim = || Op::Claim { sink: 0, limit: 1 };
    let settle = || Op::Settle {
        which: 0,
        verdict: Verdict::Done,
    };
    let not_shown = || Op::Resume {
        sink: 0,
        fate: Fate::NotShown,
    };
    for since_the_claim in [
        vec![Op::Crash(OrderBy::None)],
        vec![not_shown()],
        vec![not_shown(), claim()],
        vec![Op::Crash(OrderBy::None), not_shown()],
        vec![Op::Crash(OrderBy::None), not_shown(), claim()],
    ] {
        let mut history = everything_is_ready();
        history.push(claim());
        history.extend(since_the_claim);
        // The oldest claim first: whether it may settle, the model says.
        history.extend([settle(), settle()]);
        replay(history);
    }
}

#[test]
fn a_paused_clinic_is_parked_whole_however_it_stands_in_line() {
    let claim = || Op::Claim { sink: 1, limit: 1 };
    for order in OrderBy::ALL {
        let mut history = everything_is_ready();
        history.extend([
            Op::Crash(order),
            claim(),
            Op::Settle {
                which: 0,
                verdict: Verdict::Parked(Parked::ClinicPaused),
            },
            claim(),
            Op::ResumeClinic { sink: 1, lane: 0 },
            claim(),
        ]);
        replay(history);
    }
}

#[test]
fn what_fullscript_does_not_have_is_in_trouble_until_it_has_it_again() {
    let page = Listed {
        lane: 0,
        ids: vec![1],
        sinks: vec![0],
    };
    replay([
        Op::List {
            page,
            baseline: false,
        },
        Op::Gone(1),
        Op::Resend { sink: 0, id: 1 },
        Op::Fetched {
            id: 1,
            takers: vec![0],
        },
    ]);
}

#[test]
fn what_is_claimed_as_it_is_fetched_has_no_body_until_it_has_to_wait() {
    let resume = |fate| Op::Resume { sink: 0, fate };
    let settle = |verdict| Op::Settle { which: 0, verdict };
    let choose = |choice| Op::Choose { which: 0, choice };
    let list = |sinks: &[usize]| Op::List {
        page: Listed {
            lane: 0,
            ids: vec![1],
            sinks: sinks.to_vec(),
        },
        baseline: false,
    };
    let fetched = || Op::Fetched {
        id: 1,
        takers: vec![0],
    };
    for then in [
        vec![settle(Verdict::Done)],
        vec![settle(Verdict::Again), Op::Claim { sink: 0, limit: 1 }],
        vec![settle(Verdict::Held)],
        vec![settle(Verdict::Dead), Op::Resend { sink: 0, id: 1 }],
        vec![settle(Verdict::Held), choose(Choice::Done)],
        vec![settle(Verdict::Dead), choose(Choice::Drop)],
        vec![
            settle(Verdict::Held),
            choose(Choice::Retry),
            Op::Claim { sink: 0, limit: 1 },
        ],
        // Held without a body: nobody has it but the vendor.
        vec![
            Op::Crash(OrderBy::None),
            resume(Fate::Held),
            choose(Choice::Retry),
            fetched(),
        ],
        // Not shown: it is fetched again, and taken again.
        vec![Op::Crash(OrderBy::None), resume(Fate::NotShown), fetched()],
        vec![Op::Crash(OrderBy::None), resume(Fate::Shown)],
        // Another sink's wish brings the body meanwhile.
        vec![
            Op::Backfill {
                page: Listed {
                    lane: 0,
                    ids: vec![1],
                    sinks: vec![1],
                },
                all: true,
            },
            fetched(),
            Op::Crash(OrderBy::None),
            resume(Fate::NotShown),
        ],
    ] {
        replay([list(&[0]), fetched()].into_iter().chain(then));
    }
    // A sink beside it that does not take at once: then neither does.
    replay([list(&[0, 1]), fetched()]);
}

/// What its receiver has accepted is not the next sink's to do again.
#[tokio::test]
async fn a_reassigned_sink_takes_along_what_waits_and_not_what_was_accepted() {
    let mut bench = Bench::begin().await;
    for op in everything_is_ready() {
        bench.apply(op).await;
    }
    for why in [Parked::AwaitsResult, Parked::ClinicPaused] {
        bench.apply(Op::Claim { sink: 1, limit: 1 }).await;
        let verdict = Verdict::Parked(why);
        bench.apply(Op::Settle { which: 0, verdict }).await;
    }
    let query = bench.ledger().query();
    let to = SinkName::new("another").unwrap();
    let reassigned = query.reassign("hook".to_owned(), to, bench.now).await;
    assert_eq!(
        reassigned.unwrap(),
        Some(Reassigned::Renamed { waiting: 2 })
    );
    let rows = query.sinks().await.unwrap();
    let another = rows.iter().find(|row| row.name == "another").unwrap();
    let counts = [
        DeliveryState::Queued,
        DeliveryState::Parked,
        DeliveryState::Done,
    ];
    assert_eq!(counts.map(|state| another.count(state)), [2, 0, 1]);
    assert!(another.paused_clinics.is_empty());
}

/// Where bodies are never kept: what was parked before anything of it left may read otherwise when it is fetched again.
#[tokio::test]
async fn what_was_parked_unsent_is_not_in_doubt_where_bodies_are_not_kept() {
    let mut bench = Bench::begin().await;
    let page = Listed {
        lane: 0,
        ids: vec![1],
        sinks: vec![1],
    };
    let baseline = false;
    bench.apply(Op::List { page, baseline }).await;
    let (ledger, sink) = (bench.ledger(), bench.sinks[1]);
    ledger.keep_bodies(false).await.unwrap();
    let later = bench.now + STEP * 60;
    let brought = async |body: &str| {
        let in_hand = InHand {
            of_clinic: 9,
            ..InHand::default()
        };
        let wanted = ledger.wanted(sink, in_hand, 9, later).await.unwrap();
        let brought = wanted.into_iter().map(|wanted| Brought {
            delivery: wanted.delivery,
            event: wanted.owed.event,
            reference: wanted.owed.reference,
            body: EventBody::from_json(body),
        });
        let claims = ledger.claim_brought(brought.collect(), later).await;
        claims.unwrap()
    };
    let claim = brought("{}").await.remove(0);
    let decision = Decision::Parked {
        why: Parked::NoCrosswalk,
        reason: "it waits".to_owned(),
        until: Some(later),
    };
    let settlement = Settlement::new(sink, vec![(claim, decision)], None);
    assert_eq!(ledger.settle(&settlement, later).await.unwrap().changed, 1);
    ledger.tend_parked(sink, false, later).await.unwrap();
    assert_eq!(brought("{ }").await.len(), 1);
}

/// A clinic that nobody resumes keeps its events for as long as every other, and not longer.
#[tokio::test]
async fn what_nobody_resumes_is_given_up_after_thirty_days() {
    let mut bench = Bench::begin().await;
    for op in everything_is_ready() {
        bench.apply(op).await;
    }
    for why in [
        Parked::AwaitsResult,
        Parked::NoCrosswalk,
        Parked::ClinicPaused,
    ] {
        bench.apply(Op::Claim { sink: 1, limit: 1 }).await;
        let verdict = Verdict::Parked(why);
        bench.apply(Op::Settle { which: 0, verdict }).await;
    }
    // No body says how old they are.
    bench.ledger().keep_bodies(false).await.unwrap();
    let now = bench.now + TimeDelta::days(31);
    let (mut watch, up) = (Watch::default(), TimeDelta::days(40));
    for minutes in [60, 30, 0] {
        let ago = TimeDelta::minutes(minutes);
        watch.hear(Heard {
            ours: now - ago,
            fullscripts: now - ago,
            since_boot: up - ago,
        });
    }
    let pruned = bench.ledger().prune(watch, up).await.unwrap();
    assert!(matches!(pruned, Pruned::Forgotten { .. }), "{pruned:?}");
    let rows = bench.ledger().query().sinks().await.unwrap();
    let hook = rows.iter().find(|row| row.name == "hook").unwrap();
    let counts = [DeliveryState::Parked, DeliveryState::Dead];
    assert_eq!(counts.map(|state| hook.count(state)), [1, 2]);
    assert_eq!(hook.parked(Parked::AwaitsResult), 1);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_history_leaves_the_ledger_as_the_model_says(
        ready in any::<bool>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let before = if ready { everything_is_ready() } else { Vec::new() };
        replay(before.into_iter().chain(ops));
    }
}

/// How many random histories: few by default, many by `FULLSCRIPT_EVENTS_HISTORIES`.
fn cases() -> u32 {
    std::env::var("FULLSCRIPT_EVENTS_HISTORIES").map_or(32, |text| text.parse().unwrap())
}
