//! A world whose time is stepped: the vendor and the pipeline share a clock that stands still while anything is in
//! flight. Every pass opens the state directory anew, as a restarted daemon does.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use fullscript_events::api::budget::Budget;
use fullscript_events::app;
use fullscript_events::clock::{Clock as _, ManualClock, SharedClock};
use fullscript_events::domain::ClinicName;
use fullscript_events::ledger::{EventRow, LaneRow, Query, SinkRow};
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;
use fullscript_events::simulator::Options;
use secrecy::SecretString;

use crate::world::{Setup, World, assert_same_ids, own};

pub(crate) const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const HOUR: Duration = Duration::from_hours(1);
pub(crate) const DAY: Duration = Duration::from_hours(24);

/// A world and its time.
pub(crate) struct Stepped {
    world: World,
    pub(crate) clock: Arc<ManualClock>,
}

impl Deref for Stepped {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Stepped {
    /// A world in which every clinic is logged in.
    pub(crate) async fn begin(setup: Setup) -> Self {
        Self::begin_with(Options::default(), setup).await
    }

    /// The same with a vendor of its own ways.
    pub(crate) async fn begin_with(mut options: Options, setup: Setup) -> Self {
        let clock = ManualClock::standing_at("2026-03-20T12:00:00Z".parse().unwrap());
        options.clock = Arc::<ManualClock>::clone(&clock);
        let world = World::begin(options, setup).await;
        let stepped = Self { world, clock };
        stepped.log_in_all().await;
        stepped
    }

    async fn log_in_all(&self) {
        let config = self.config();
        let owner = own(&config);
        let budget = Budget::beside(owner.store().clone(), self.shared(), config.poll.budget);
        let tokens = app::tokens(
            &config,
            owner.store(),
            &self.shared(),
            budget,
            &fullscript_events::audit::Audit::off(),
        )
        .unwrap();
        for clinic in &self.clinics {
            let name = ClinicName::new(&clinic.name).unwrap();
            let refresh = self.vendor.grant(&clinic.clinic_id).unwrap();
            tokens
                .import(&name, None, SecretString::from(refresh))
                .await
                .unwrap();
        }
    }

    pub(crate) fn shared(&self) -> SharedClock {
        Arc::<ManualClock>::clone(&self.clock)
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Does what is due now, and nothing else.
    pub(crate) async fn pass(&self) {
        let config = self.config();
        let owner = own(&config);
        let pipeline = app::open(&config, &owner, self.shared()).await.unwrap();
        let life = Lifecycle::begin();
        Arc::clone(&pipeline)
            .run_until_drained(&life, Scope::Everything)
            .await;
        pipeline.tokens.drain().await;
    }

    /// Begins what is due, and stops softly when `happened`.
    pub(crate) async fn pass_until(
        &self,
        what: &str,
        mut happened: impl AsyncFnMut(&Query) -> bool,
    ) {
        let config = self.config();
        let owner = own(&config);
        let pipeline = app::open(&config, &owner, self.shared()).await.unwrap();
        let query = pipeline.ledger.query();
        let life = Lifecycle::begin();
        let stop = async {
            until(what, async || happened(&query).await).await;
            life.soft().cancel();
        };
        let run = Arc::clone(&pipeline).run_until_drained(&life, Scope::Everything);
        tokio::join!(run, stop);
        life.finish().await;
        pipeline.tokens.drain().await;
    }

    /// Lets time pass, then does what is due.
    pub(crate) async fn pass_after(&self, wait: Duration) {
        self.clock.advance(wait);
        self.pass().await;
    }

    /// The id at Fullscript of the clinic of this name.
    pub(crate) fn id_of(&self, clinic: &str) -> &str {
        &self.clinic(clinic).clinic_id
    }

    /// Makes an event now.
    pub(crate) fn make(&self, clinic: &str, event_type: &str) -> String {
        self.vendor
            .make_event(self.id_of(clinic), event_type)
            .unwrap()
    }

    /// Makes an event that happened a while ago and is listed only from now on.
    pub(crate) fn make_late(&self, clinic: &str, category: &str, ago: Duration) -> String {
        let at = self.now() - ago;
        self.vendor
            .make_event_in(self.id_of(clinic), category, "simulated.happened", at)
            .unwrap()
    }

    pub(crate) async fn ask<T>(&self, question: impl AsyncFnOnce(Query) -> T) -> T {
        let (_owner, query) = self.query();
        question(query).await
    }

    pub(crate) async fn lane(&self, clinic: &str, category: &str) -> LaneRow {
        let lanes = self
            .ask(async |query| query.lanes(DateTime::UNIX_EPOCH).await.unwrap())
            .await;
        let mut found = lanes.into_iter();
        found
            .find(|lane| lane.clinic == clinic && lane.category == category)
            .unwrap()
    }

    pub(crate) async fn event(&self, id: &str) -> Option<EventRow> {
        self.ask(async |query| query.event(id.to_owned()).await.unwrap())
            .await
    }

    pub(crate) async fn sink(&self, name: &str) -> SinkRow {
        let sinks = self.ask(async |query| query.sinks().await.unwrap()).await;
        sinks.into_iter().find(|sink| sink.name == name).unwrap()
    }

    /// Every event arrived once at the file sink, and its detail was fetched once.
    #[track_caller]
    pub(crate) fn assert_all_shown_once(&self) {
        assert_same_ids(&self.shown_ids(), &self.made_ids());
        assert_eq!(self.vendor.counters().retrieved_again, 0);
    }
}

/// One clinic `oak` with these categories, and whatever else `[poll]` says.
pub(crate) fn polling(categories: &[&str], poll: &str) -> Setup {
    Setup {
        poll: format!("categories = {categories:?}\n{poll}\n"),
        ..Setup::default()
    }
}

/// Two clinics, `oak` and `elm`.
pub(crate) fn two_clinics(setup: Setup) -> Setup {
    Setup {
        clinics: vec!["oak".to_owned(), "elm".to_owned()],
        ..setup
    }
}

/// Waits until something has happened, for a minute at most.
pub(crate) async fn until(what: &str, happened: impl AsyncFnMut() -> bool) {
    until_within(MINUTE, what, happened).await;
}

/// Waits until something has happened, for `limit` at most.
pub(crate) async fn until_within(
    limit: Duration,
    what: &str,
    mut happened: impl AsyncFnMut() -> bool,
) {
    let end = std::time::Instant::now() + limit;
    while !happened().await {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
