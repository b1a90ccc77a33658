//! The simulator from within: what a test says to it without HTTP.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use super::counters::Counters;
use super::events::{Draft, Events, category_for};
use super::faults::{FaultRule, Faults};
use super::limiter::Limiter;
use super::records::{RecordKind, Records};
use super::seeded::Seeded;
use super::tokens::Tokens;
use super::world::{MadeEvent, SimClinic, World};
use super::{Delay, Options};
use crate::clock::SharedClock;
use crate::domain::KNOWN_CATEGORIES;

/// A running simulator's inside; clones are the same simulator.
///
/// Methods that take a clinic take its id; an id that no clinic has changes nothing and gives nothing.
#[derive(Clone)]
pub struct Handle {
    pub(super) options: Arc<Options>,
    world: Arc<Mutex<World>>,
    /// Turns true when the simulator stops: hanging requests end.
    pub(super) ended: watch::Sender<bool>,
}

impl Handle {
    pub(super) fn new(options: Options) -> Self {
        let lifetime = TimeDelta::from_std(options.token_lifetime).unwrap_or(TimeDelta::hours(2));
        let mut tokens = Tokens::new(options.seed, options.rotation, lifetime);
        tokens.add_client(&options.client_id, &options.client_secret);
        let world = World {
            events: Events::new(options.seed),
            tokens,
            clinics: Vec::new(),
            limiter: Limiter::new(options.rate_limit),
            faults: Faults::default(),
            counters: Counters::default(),
            records: Records::default(),
            scopes: options.scopes.clone(),
            rewritten: std::collections::HashSet::new(),
            random: Seeded::new(options.seed, u64::MAX - 1),
            request_ids: Seeded::new(options.seed, u64::MAX - 2),
        };
        Self {
            options: Arc::new(options),
            world: Arc::new(Mutex::new(world)),
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.options.clock
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock().now()
    }

    /// Opens a clinic.
    pub fn add_clinic(&self, name: &str) -> SimClinic {
        let mut world = self.world();
        let clinic = SimClinic {
            clinic_id: world.random.uuid(),
            name: name.to_owned(),
            number: u32::try_from(world.clinics.len()).unwrap_or(u32::MAX),
        };
        world.clinics.push(clinic.clone());
        clinic
    }

    /// All clinics, in the order they were added.
    pub fn clinics(&self) -> Vec<SimClinic> {
        self.world().clinics.clone()
    }

    /// A live grant as after a login, with the app's scopes: its refresh token.
    pub fn grant(&self, clinic_id: &str) -> Option<String> {
        let now = self.now();
        let mut world = self.world();
        let number = world.number_of(clinic_id)?;
        let scopes = world.scopes.clone();
        let pair = world
            .tokens
            .grant(number, &self.options.client_id, scopes, now);
        Some(pair.refresh)
    }

    /// Whether a refresh token still works.
    pub fn is_live(&self, refresh_token: &str) -> bool {
        self.world().tokens.is_unrevoked(refresh_token)
    }

    /// Revokes every pair of a clinic, as its user would in Fullscript's settings.
    pub fn revoke_grants(&self, clinic_id: &str) {
        let mut world = self.world();
        if let Some(number) = world.number_of(clinic_id) {
            world
                .tokens
                .of_clinic(number)
                .for_each(super::tokens::Pair::revoke);
        }
    }

    /// Ends the life of every access token of a clinic now; the refresh tokens live on.
    pub fn expire_access_tokens(&self, clinic_id: &str) {
        let now = self.now();
        let mut world = self.world();
        if let Some(number) = world.number_of(clinic_id) {
            for pair in world.tokens.of_clinic(number) {
                pair.expires_at = pair.expires_at.min(now);
            }
        }
    }

    /// The scopes of every existing pair of a clinic, and of what is refreshed from it.
    pub fn set_grant_scopes(&self, clinic_id: &str, scopes: &[&str]) {
        let mut world = self.world();
        if let Some(number) = world.number_of(clinic_id) {
            for pair in world.tokens.of_clinic(number) {
                pair.scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
            }
        }
    }

    /// The app's scopes, as set in the dashboard: existing grants keep theirs (`fullscript-api.md` §4).
    pub fn set_app_scopes(&self, scopes: &[&str]) {
        self.world().scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
    }

    /// Makes an event that happens now; gives its id. It is found in the list that the contract names for its type,
    /// or for an unknown type in one named after its first segment. `product.created` belongs to no clinic and is
    /// listed by every clinic.
    pub fn make_event(&self, clinic_id: &str, event_type: &str) -> Option<String> {
        self.make_event_in(clinic_id, &category_for(event_type), event_type, self.now())
    }

    /// The same, so many times; gives their ids. They tie on the second.
    pub fn make_events(&self, count: usize, clinic_id: &str, event_type: &str) -> Vec<String> {
        (0..count)
            .filter_map(|_| self.make_event(clinic_id, event_type))
            .collect()
    }

    /// Makes an event of some type at some clinic now; sometimes of a type that is documented nowhere.
    pub fn make_any_event(&self) -> Option<String> {
        let (clinic_id, category, event_type) = {
            let mut world = self.world();
            let clinics = world.clinics.len() as u64;
            let at = usize::try_from(world.random.below(clinics)).ok()?;
            let clinic_id = world.clinics.get(at)?.clinic_id.clone();
            if world.random.below(20) == 0 {
                (clinic_id, "orders", "fulfillment.shipment.shipped")
            } else {
                let names: Vec<&str> = KNOWN_CATEGORIES.iter().map(|row| row.name).collect();
                let name = world.random.pick(&names);
                let row = KNOWN_CATEGORIES.iter().find(|row| row.name == name)?;
                (clinic_id, row.name, world.random.pick(row.event_types))
            }
        };
        self.make_event_in(&clinic_id, category, event_type, self.now())
    }

    /// Makes an event that happened at `at`, in any list.
    pub fn make_event_in(
        &self,
        clinic_id: &str,
        category: &str,
        event_type: &str,
        at: DateTime<Utc>,
    ) -> Option<String> {
        let now = self.now().timestamp();
        let mut world = self.world();
        let number = world.number_of(clinic_id)?;
        let shared = belongs_to_none(event_type);
        let shown_to = if shared {
            0..u32::try_from(world.clinics.len()).unwrap_or(u32::MAX)
        } else {
            number..number.saturating_add(1)
        };
        let visible = at.timestamp() + self.delay(&mut world.random);
        let draft = Draft {
            event_type,
            category,
            clinic: (!shared).then_some(number),
            created: at.timestamp(),
            visible,
        };
        let index = world.events.add(draft, shown_to, now);
        Some(world.events.id(index))
    }

    /// Makes a clinic's past: `count` events of a category, spread over `span` until now, by the types that the
    /// contract names. Only this clinic lists them, and they are all visible. Nothing is longer listed than 30 days.
    pub fn make_history(&self, clinic_id: &str, category: &str, count: u32, span: Duration) {
        let now = self.now().timestamp();
        let mut world = self.world();
        let Some(number) = world.number_of(clinic_id) else {
            return;
        };
        let known = KNOWN_CATEGORIES.iter().find(|row| row.name == category);
        let types = known.map_or(&["simulated.happened"][..], |row| row.event_types);
        let span = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        for n in 0..count {
            let event_type = world.random.pick(types);
            let back = i128::from(span) * i128::from(count - n) / i128::from(count);
            let created = now.saturating_sub(i64::try_from(back).unwrap_or(span));
            let draft = Draft {
                event_type,
                category,
                clinic: (!belongs_to_none(event_type)).then_some(number),
                created,
                visible: created,
            };
            world.events.add(draft, [number], now);
        }
    }

    /// Adds a fault.
    pub fn fail(&self, rule: FaultRule) {
        self.world().faults.add(rule);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.world().faults.clear();
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        let world = self.world();
        let mut counters = world.counters.clone();
        counters.most_in_window = world.limiter.most_in_window();
        counters
    }

    /// Every event that was ever made, visible or not, in the order of making.
    pub fn all_events(&self) -> Vec<MadeEvent> {
        self.made_events(&self.indices(None))
    }

    /// The events of these indices.
    pub(super) fn made_events(&self, indices: &[u32]) -> Vec<MadeEvent> {
        let world = self.world();
        indices
            .iter()
            .filter_map(|&index| world.made_event(index))
            .collect()
    }

    /// The indices of all events, or of those that a clinic's lists show now or will show.
    pub(super) fn indices(&self, clinic_id: Option<&str>) -> Vec<u32> {
        let world = self.world();
        match clinic_id {
            None => world.events.all().map(|(index, _)| index).collect(),
            Some(id) => world
                .number_of(id)
                .map(|number| world.events.shown_to(number))
                .unwrap_or_default(),
        }
    }

    /// How many events were made.
    pub fn event_count(&self) -> usize {
        self.world().events.len()
    }

    /// The ids that a clinic's list shows now, oldest first.
    pub fn listed_ids(&self, clinic_id: &str, category: &str) -> Vec<String> {
        let now = self.now().timestamp();
        let mut world = self.world();
        world.events.settle(now);
        let Some(number) = world.number_of(clinic_id) else {
            return Vec::new();
        };
        let events = &world.events;
        events
            .listed(number, category, i64::MIN..i64::MAX, now)
            .iter()
            .map(|&index| events.id(index))
            .collect()
    }

    /// How often an event was retrieved with a 200.
    pub fn retrieves_of(&self, event_id: &str) -> u32 {
        let world = self.world();
        world
            .events
            .index(event_id)
            .and_then(|index| world.events.get(index))
            .map_or(0, |record| record.retrieved)
    }

    /// Sets or takes away the EMR's own id (`metadata.id`) of a clinic's patient or plan.
    pub fn set_emr_id(&self, clinic_id: &str, kind: RecordKind, id: &str, emr_id: Option<&str>) {
        let mut world = self.world();
        if let Some(number) = world.number_of(clinic_id) {
            world.records.set_emr_id(number, kind, id, emr_id);
        }
    }

    /// From now on this event reads otherwise, as after a change of Fullscript's own.
    pub fn rewrite(&self, event_id: &str) {
        let mut world = self.world();
        let index = world.events.index(event_id);
        world.rewritten.extend(index);
    }

    /// The exact text that a retrieve of this event answers.
    pub fn reply_for(&self, event_id: &str) -> Option<String> {
        let world = self.world();
        let index = world.events.index(event_id)?;
        world.reply_for(&self.options, index)
    }

    fn delay(&self, random: &mut Seeded) -> i64 {
        let Delay { least, most } = self.options.visible_after;
        let spread = most.saturating_sub(least).as_secs();
        let late = if spread == 0 {
            0
        } else {
            random.below(spread + 1)
        };
        i64::try_from(least.as_secs().saturating_add(late)).unwrap_or(0)
    }
}

fn belongs_to_none(event_type: &str) -> bool {
    event_type == "product.created"
}
