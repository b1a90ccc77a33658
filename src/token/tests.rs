//! The grants against the simulator: real HTTP, real SQLite, a clock that is stepped.

use std::io;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use secrecy::ExposeSecret;
use tracing::subscriber::DefaultGuard;
use url::Url;

use super::*;
use crate::clock::{Clock as _, ManualClock};
use crate::config::SecretRef;
use crate::simulator::{Endpoint, ErrorBody, Fault, FaultRule, Options, Rotation, Simulator};
use crate::store::{Owner, SealKey};

const RIGHT_APP: (&str, &str) = ("simulated-client-id", "simulated-client-secret");

/// Everything that was logged while it lives, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start(&self) -> DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn errors(&self) -> usize {
        self.text().matches("ERROR").count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct World {
    vendor: Simulator,
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
    owner: Owner,
    tokens: Tokens,
    log: Log,
    _logging: DefaultGuard,
}

impl World {
    async fn new() -> Self {
        Self::with(Rotation::OnUse).await
    }

    async fn with(rotation: Rotation) -> Self {
        let log = Log::default();
        let logging = log.start();
        let start = DateTime::parse_from_rfc3339("2026-03-02T14:05:09Z").unwrap();
        let clock = ManualClock::standing_at(start.to_utc());
        let vendor = Simulator::start(Options {
            clock: Arc::clone(&clock) as SharedClock,
            rotation,
            ..Options::default()
        })
        .await
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let owner = Owner::take(directory.path(), "app", &SealKey::generate()).unwrap();
        let tokens = tokens(&vendor, &owner, &clock, RIGHT_APP).await;
        Self {
            vendor,
            clock,
            directory,
            owner,
            tokens,
            log,
            _logging: logging,
        }
    }

    /// The same grants as another process sees them after a restart.
    async fn restarted(&self) -> Tokens {
        self.with_app(RIGHT_APP).await
    }

    async fn with_app(&self, app: (&str, &str)) -> Tokens {
        tokens(&self.vendor, &self.owner, &self.clock, app).await
    }

    /// A clinic whose grant was imported without a call; its first bearer refreshes.
    async fn clinic(&self, name: &str) -> (ClinicName, String) {
        let id = self.vendor.add_clinic(name).clinic_id;
        let name = ClinicName::new(name).unwrap();
        let refresh = self.vendor.grant(&id).unwrap().into();
        self.tokens
            .import_offline(&name, None, refresh)
            .await
            .unwrap();
        (name, id)
    }

    /// Presents a bearer, as every request does.
    async fn works(&self, bearer: &Bearer) -> bool {
        let answer = self.tokens.inner.exchange.clinic(bearer).await;
        matches!(answer, exchange::ClinicAnswer::Is(_))
    }

    fn token_calls(&self) -> u64 {
        self.vendor.counters().tokens.values().sum()
    }

    async fn sql(&self, text: &'static str) {
        let done = self.owner.store().write(move |c| c.execute_batch(text));
        done.await.unwrap();
    }

    async fn state_of(&self, clinic: &ClinicName) -> State {
        self.tokens.inner.vault.load(clinic).await.unwrap().state
    }

    async fn pinned(&self, clinic: &ClinicName) -> Option<Pinned> {
        self.tokens.inner.vault.load(clinic).await.unwrap().pinned
    }

    async fn refresh_tokens(&self, clinic: &ClinicName) -> Vec<String> {
        let stored = self.tokens.inner.vault.tokens(clinic).await.unwrap();
        let text = |stored: vault::Stored| stored.refresh.expose_secret().to_owned();
        stored.into_iter().map(text).collect()
    }

    fn later(&self, by: TimeDelta) {
        self.clock.advance(by.to_std().unwrap());
    }
}

async fn tokens(
    vendor: &Simulator,
    owner: &Owner,
    clock: &Arc<ManualClock>,
    (client_id, secret): (&str, &str),
) -> Tokens {
    let url = |path: &str| Url::parse(&format!("{}{path}", vendor.base_url())).unwrap();
    let app = config::App {
        environment: "custom".into(),
        api_base: url(""),
        authorize_url: url("/oauth/authorize"),
        token_url: url("/oauth/token"),
        revoke_url: url("/oauth/revoke"),
        client_id: client_id.into(),
        client_secret: SecretRef::Env("UNUSED".into()),
        redirect_uri: Url::parse("http://127.0.0.1:8765/callback").unwrap(),
    };
    let settings = config::Budget {
        requests: 5000,
        window: Duration::from_mins(5),
        reserve: 1000,
        backfill: 1000,
    };
    let clock = Arc::clone(clock) as SharedClock;
    let store = owner.store().clone();
    let budget = Budget::open(store.clone(), Arc::clone(&clock), settings)
        .await
        .unwrap();
    let http = config::Http::default();
    Tokens::new(
        store,
        clock,
        &app,
        &http,
        secret.into(),
        budget,
        Audit::off(),
    )
    .unwrap()
}

#[tokio::test]
async fn sixty_four_tasks_that_want_a_token_at_once_make_one_token_call() {
    let world = World::new().await;
    let (oak, _) = world.clinic("oak").await;
    let bearers = join_all((0..64).map(|_| world.tokens.bearer(&oak))).await;
    let generations: Vec<i64> = bearers
        .iter()
        .map(|bearer| bearer.as_ref().unwrap().generation())
        .collect();
    assert_eq!(generations, [2; 64]);
    assert_eq!(world.token_calls(), 1);
}

#[tokio::test]
async fn a_grant_lives_on_under_every_way_of_rotation() {
    for rotation in [Rotation::OnUse, Rotation::AtOnce, Rotation::Family] {
        let world = World::with(rotation).await;
        let (oak, _) = world.clinic("oak").await;
        for _ in 0..6 {
            let bearer = world.tokens.bearer(&oak).await.unwrap();
            assert!(world.works(&bearer).await, "{rotation:?}");
            world.later(TimeDelta::hours(2));
        }
        assert_eq!(world.token_calls(), 6);
        assert!(world.refresh_tokens(&oak).await.len() <= 2);
    }
}

#[tokio::test]
async fn a_lost_reply_costs_one_more_call_and_not_the_grant() {
    let world = World::new().await;
    let (oak, _) = world.clinic("oak").await;
    world
        .vendor
        .fail(FaultRule::next(1, Endpoint::Token, Fault::ReplyLost));
    let bearer = world.tokens.bearer(&oak).await.unwrap();
    assert!(world.works(&bearer).await);
    assert_eq!(world.token_calls(), 2);
}

#[tokio::test]
async fn nothing_is_asked_of_fullscript_while_the_store_cannot_be_written() {
    let world = World::new().await;
    let (oak, _) = world.clinic("oak").await;
    world.tokens.bearer(&oak).await.unwrap();
    world.sql("PRAGMA query_only = 1").await;
    // Due, and still alive: the current token serves.
    world.later(TimeDelta::minutes(100));
    assert_eq!(world.tokens.bearer(&oak).await.unwrap().generation(), 2);
    world.later(TimeDelta::minutes(100));
    let error = world.tokens.bearer(&oak).await.unwrap_err();
    assert!(matches!(error, TokenError::Ledger(_)), "{error:?}");
    assert_eq!(world.token_calls(), 1);
}

#[tokio::test]
async fn a_reply_that_was_kept_raw_is_settled_after_a_restart_without_a_call() {
    let world = World::with(Rotation::AtOnce).await;
    let (oak, _) = world.clinic("oak").await;
    world
        .sql("CREATE TRIGGER full BEFORE INSERT ON pair BEGIN SELECT RAISE(FAIL, 'disk full'); END")
        .await;
    let error = world.tokens.bearer(&oak).await.unwrap_err();
    assert!(matches!(error, TokenError::Ledger(_)), "{error:?}");
    world.sql("DROP TRIGGER full").await;
    let bearer = world.restarted().await.bearer(&oak).await.unwrap();
    assert!(world.works(&bearer).await);
    assert_eq!(world.token_calls(), 1);
}

#[tokio::test]
async fn a_reply_that_the_disk_did_not_take_is_not_asked_for_again() {
    let world = World::with(Rotation::AtOnce).await;
    let (oak, _) = world.clinic("oak").await;
    world
        .sql(
            "CREATE TRIGGER full BEFORE UPDATE OF reply ON grant WHEN NEW.reply IS NOT NULL
             BEGIN SELECT RAISE(FAIL, 'disk full'); END",
        )
        .await;
    let error = world.tokens.bearer(&oak).await.unwrap_err();
    assert!(matches!(error, TokenError::Ledger(_)), "{error:?}");
    world.sql("DROP TRIGGER full").await;
    let bearer = world.tokens.bearer(&oak).await.unwrap();
    assert!(world.works(&bearer).await);
    assert_eq!(world.token_calls(), 1);
}

#[tokio::test]
async fn an_intent_of_a_dead_process_is_settled_and_one_of_a_living_process_is_waited_for() {
    let world = World::new().await;
    let (oak, _) = world.clinic("oak").await;
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    let until = (world.clock.now() + TimeDelta::minutes(2)).timestamp_millis();
    let intend = |holder: i32| {
        world.owner.store().write(move |c| {
            c.execute(
                "UPDATE grant SET intent_holder = ?1, intent_until = ?2",
                (holder, until),
            )
        })
    };
    intend(dead).await.unwrap();
    world.tokens.bearer(&oak).await.unwrap();
    world.later(TimeDelta::hours(2));
    // Process 1 always lives. Its lease has lapsed two hours later, so a fresh one is written.
    let until = (world.clock.now() + TimeDelta::minutes(2)).timestamp_millis();
    let intend = world.owner.store().write(move |c| {
        c.execute(
            "UPDATE grant SET intent_holder = 1, intent_until = ?1",
            [until],
        )
    });
    intend.await.unwrap();
    let waiting = world.tokens.bearer(&oak);
    let finishing = async {
        let over = tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>());
        over.await.unwrap_err();
        assert_eq!(world.token_calls(), 1, "the other process is waited for");
        world.later(TimeDelta::minutes(3));
    };
    let (bearer, ()) = tokio::join!(waiting, finishing);
    assert_eq!(bearer.unwrap().generation(), 3);
}

#[tokio::test]
async fn a_revoked_grant_is_tried_with_one_other_token_and_told_once() {
    let world = World::new().await;
    let (oak, oak_id) = world.clinic("oak").await;
    let (elm, _) = world.clinic("elm").await;
    world.tokens.bearer(&oak).await.unwrap();
    world.later(TimeDelta::hours(2));
    world.tokens.bearer(&oak).await.unwrap();
    world.tokens.bearer(&elm).await.unwrap();
    world.vendor.revoke_grants(&oak_id);
    world.later(TimeDelta::hours(2));
    let before = world.token_calls();
    for _ in 0..3 {
        let error = world.tokens.bearer(&oak).await.unwrap_err();
        assert!(matches!(error, TokenError::LoginRequired(_)), "{error:?}");
    }
    world.tokens.keep_alive().await.unwrap();
    assert_eq!(
        world.token_calls() - before,
        2 + 1,
        "two of oak's, one of elm"
    );
    assert_eq!(world.log.errors(), 1, "{}", world.log.text());
    assert!(world.log.text().contains("clinic=oak"));
    let bearer = world.tokens.bearer(&elm).await.unwrap();
    assert!(world.works(&bearer).await, "other clinics run on");
    let found = grants(world.owner.store()).await.unwrap();
    assert_eq!(found.configuration_fault(), None);
    let remedy = found.grants[1].remedy();
    assert_eq!(remedy.as_deref(), Some("fullscript-events auth login oak"));
}

#[tokio::test]
async fn the_other_stored_token_saves_a_grant_whose_current_one_is_refused() {
    let world = World::new().await;
    let (oak, _) = world.clinic("oak").await;
    // Not presented, so that the first pair lives on.
    world.tokens.bearer(&oak).await.unwrap();
    let current = world.refresh_tokens(&oak).await.swap_remove(0);
    let revoked = world.tokens.inner.exchange.revoke(&current.into()).await;
    assert!(matches!(revoked, exchange::Revocation::Done));
    world.later(TimeDelta::hours(2));
    let bearer = world.tokens.bearer(&oak).await.unwrap();
    assert!(world.works(&bearer).await);
    assert_eq!(world.log.errors(), 0);
}

#[tokio::test]
async fn refusals_of_all_grants_at_once_are_one_configuration_fault_and_heal_without_a_login() {
    let world = World::new().await;
    let mut clinics = Vec::new();
    for name in ["elm", "fir", "oak"] {
        clinics.push(world.clinic(name).await.0);
    }
    // A clinic that has needed a login for long says nothing about the others.
    let (yew, yew_id) = world.clinic("yew").await;
    world.vendor.revoke_grants(&yew_id);
    world.tokens.bearer(&yew).await.unwrap_err();
    world.later(TimeDelta::minutes(1));
    world.tokens.keep_alive().await.unwrap();
    assert_eq!(world.log.errors(), 1);
    world.later(TimeDelta::hours(2));
    let wrong = world.with_app(("another-app", "another-secret")).await;
    for clinic in &clinics {
        wrong.bearer(clinic).await.unwrap_err();
    }
    for clinic in &clinics {
        let state = world.state_of(clinic).await;
        assert!(matches!(state, State::Misconfigured { .. }), "{state:?}");
    }
    let fault = "client_id, client_secret and environment";
    assert_eq!(
        world.log.text().matches(fault).count(),
        1,
        "{}",
        world.log.text()
    );
    let found = grants(world.owner.store()).await.unwrap();
    assert!(found.configuration_fault().is_some());
    // Probed again at most hourly.
    let calls = world.token_calls();
    wrong.keep_alive().await.unwrap();
    world.later(TimeDelta::minutes(59));
    wrong.keep_alive().await.unwrap();
    assert_eq!(world.token_calls(), calls);
    world.later(TimeDelta::minutes(1));
    world.restarted().await.keep_alive().await.unwrap();
    for clinic in &clinics {
        assert_eq!(world.state_of(clinic).await, State::Active);
    }
    let state = world.state_of(&yew).await;
    assert!(matches!(state, State::LoginRequired { .. }), "{state:?}");
}

#[tokio::test]
async fn a_wrong_client_secret_is_told_once_and_heals_without_a_login() {
    let world = World::new().await;
    let mut clinics = Vec::new();
    for name in ["elm", "fir", "oak"] {
        clinics.push(world.clinic(name).await.0);
    }
    let wrong = world.with_app((RIGHT_APP.0, "wrong")).await;
    for clinic in &clinics {
        let error = wrong.bearer(clinic).await.unwrap_err();
        assert!(matches!(error, TokenError::ConfigurationFault), "{error:?}");
    }
    assert_eq!(world.log.errors(), 1, "{}", world.log.text());
    let mended = world.restarted().await;
    mended.keep_alive().await.unwrap();
    world.later(TimeDelta::hours(1));
    mended.keep_alive().await.unwrap();
    for clinic in &clinics {
        assert_eq!(world.state_of(clinic).await, State::Active);
    }
}

#[tokio::test]
async fn an_outage_is_no_verdict_and_its_pace_survives_a_restart() {
    let faults = [
        Fault::Status {
            status: 503,
            body: ErrorBody::Html,
        },
        Fault::Status {
            status: 429,
            body: ErrorBody::Json,
        },
        Fault::Html,
    ];
    for fault in faults {
        let world = World::new().await;
        let (oak, _) = world.clinic("oak").await;
        world.vendor.fail(FaultRule::always(Endpoint::Token, fault));
        let TokenError::Unavailable { retry_at, .. } = world.tokens.bearer(&oak).await.unwrap_err()
        else {
            panic!("{fault:?} is an outage");
        };
        assert!(retry_at > world.clock.now());
        let faults = world.vendor.counters().faults;
        let again = world.restarted().await;
        again.bearer(&oak).await.unwrap_err();
        again.keep_alive().await.unwrap();
        assert_eq!(world.vendor.counters().faults, faults, "{fault:?}");
        assert_eq!(again.next_refresh_at().await.unwrap(), Some(retry_at));
        world.vendor.clear_faults();
        world.later(retry_at - world.clock.now());
        again.bearer(&oak).await.unwrap();
        assert_eq!(world.log.errors(), 0);
    }
}

#[tokio::test]
async fn a_rejected_token_is_replaced_once_and_an_old_ones_rejection_costs_nothing() {
    let world = World::new().await;
    let (oak, id) = world.clinic("oak").await;
    let first = world.tokens.bearer(&oak).await.unwrap();
    world.later(TimeDelta::minutes(5));
    world.vendor.expire_access_tokens(&id);
    let second = world.tokens.rejected(&oak, &first).await.unwrap();
    assert!(second.generation() > first.generation());
    let calls = world.token_calls();
    let same = join_all((0..16).map(|_| world.tokens.rejected(&oak, &first))).await;
    assert!(
        same.into_iter()
            .all(|b| b.unwrap().generation() == second.generation())
    );
    // Fresh and rejected nevertheless: the caller sees that there is nothing newer.
    let still = world.tokens.rejected(&oak, &second).await.unwrap();
    assert_eq!(still.generation(), second.generation());
    assert_eq!(world.token_calls(), calls);
}

#[tokio::test]
async fn a_login_for_another_clinic_is_refused_and_revoked_and_the_old_grant_works_on() {
    let world = World::new().await;
    let (oak, oak_id) = world.clinic("oak").await;
    let oak_id = ClinicId::new(oak_id).unwrap();
    let enrolled = world
        .tokens
        .import(
            &oak,
            Some(&oak_id),
            world.vendor.grant(oak_id.as_str()).unwrap().into(),
        )
        .await
        .unwrap();
    assert_eq!(
        enrolled.verification,
        Verification::Verified(oak_id.clone())
    );
    let other = world.vendor.add_clinic("other").clinic_id;
    let foreign = world.vendor.grant(&other).unwrap();
    // Without a word in the configuration: the grant's own past tells.
    let error = world
        .tokens
        .import(&oak, None, foreign.clone().into())
        .await
        .unwrap_err();
    assert!(
        matches!(error, EnrollError::OtherClinic { .. }),
        "{error:?}"
    );
    assert!(!world.vendor.is_live(&foreign));
    assert_eq!(world.vendor.counters().revokes, 1);
    let bearer = world.tokens.bearer(&oak).await.unwrap();
    assert!(world.works(&bearer).await);
    let pinned = world.pinned(&oak).await.unwrap();
    assert_eq!((pinned.clinic_id, pinned.proof), (oak_id, Proof::Verified));
}

#[tokio::test]
async fn a_grant_without_clinic_read_is_pinned_by_the_first_clinic_it_lists() {
    let world = World::new().await;
    let id = world.vendor.add_clinic("oak").clinic_id;
    let refresh = world.vendor.grant(&id).unwrap();
    world.vendor.set_grant_scopes(&id, &["catalog:read"]);
    let oak = ClinicName::new("oak").unwrap();
    let enrolled = world
        .tokens
        .import(&oak, None, refresh.into())
        .await
        .unwrap();
    assert_eq!(enrolled.verification, Verification::ScopeMissing);
    assert_eq!(world.pinned(&oak).await, None);
    let (first, second) = (
        ClinicId::new("first").unwrap(),
        ClinicId::new("second").unwrap(),
    );
    for seen in [&first, &second] {
        let pinned = world.tokens.pin(&oak, seen).await.unwrap();
        assert_eq!(
            (pinned.clinic_id, pinned.proof),
            (first.clone(), Proof::Inferred)
        );
    }
}

#[tokio::test]
async fn a_code_from_the_browser_becomes_a_verified_grant_and_works_once() {
    let world = World::new().await;
    let id = world.vendor.add_clinic("oak").clinic_id;
    let oak = ClinicName::new("oak").unwrap();
    let (url, state) = world.tokens.authorize_url();
    let mut decision: HashMap<String, String> = url.query_pairs().into_owned().collect();
    assert_eq!(decision["state"], state.expose_secret());
    decision.insert("clinic_id".into(), id.clone());
    decision.insert("decision".into(), "allow".into());
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&decision)
        .finish();
    let browser = crate::http::builder(&config::Http::default(), Duration::from_secs(10));
    let redirect = browser
        .unwrap()
        .build()
        .unwrap()
        .post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    let back = Url::parse(redirect.headers()["location"].to_str().unwrap()).unwrap();
    let code: HashMap<_, _> = back.query_pairs().into_owned().collect();
    let code = SecretString::from(code["code"].clone());
    let enrolled = world.tokens.adopt(&oak, None, &code).await.unwrap();
    let id = ClinicId::new(id).unwrap();
    assert_eq!(enrolled.verification, Verification::Verified(id));
    let bearer = world.tokens.bearer(&oak).await.unwrap();
    assert!(world.works(&bearer).await);
    let again = world.tokens.adopt(&oak, None, &code).await.unwrap_err();
    assert!(matches!(again, EnrollError::Refused(_)), "{again:?}");
}

#[tokio::test]
async fn a_login_while_a_refresh_is_under_way_is_not_overwritten_by_it() {
    let world = World::new().await;
    let (oak, id) = world.clinic("oak").await;
    world
        .vendor
        .fail(FaultRule::next(1, Endpoint::Token, Fault::Slow { ms: 500 }));
    let other_process = world.restarted().await;
    let login = async {
        while world.vendor.counters().faults == 0 {
            tokio::task::yield_now().await;
        }
        let refresh = world.vendor.grant(&id).unwrap();
        other_process
            .import(&oak, None, refresh.into())
            .await
            .unwrap();
        other_process.bearer(&oak).await.unwrap().generation()
    };
    let (refreshed, logged_in) = tokio::join!(world.tokens.bearer(&oak), login);
    assert_eq!(refreshed.unwrap().generation(), logged_in);
    assert_eq!(
        world.refresh_tokens(&oak).await.len(),
        3,
        "none is forgotten"
    );
}

#[tokio::test]
async fn a_disconnect_revokes_every_pair_that_may_still_live() {
    let world = World::new().await;
    let (oak, _) = world.clinic("oak").await;
    let bearer = world.tokens.bearer(&oak).await.unwrap();
    assert!(world.works(&bearer).await);
    // The current access token expires: Doorkeeper answers 200 to its revocation and lets the pair live.
    for age in [
        TimeDelta::hours(2),
        TimeDelta::minutes(100),
        TimeDelta::hours(3),
    ] {
        world.later(age);
        world.tokens.bearer(&oak).await.unwrap();
    }
    world.later(TimeDelta::hours(3));
    let stored = world.refresh_tokens(&oak).await;
    assert!(stored.len() > 1);
    world.tokens.revoke(&oak).await.unwrap();
    assert!(stored.iter().all(|token| !world.vendor.is_live(token)));
    let gone = world.tokens.bearer(&oak).await.unwrap_err();
    assert!(matches!(gone, TokenError::NoGrant(_)));
}

#[tokio::test]
async fn no_token_shows_in_a_log_an_error_a_debug_or_the_file() {
    let world = World::new().await;
    let (oak, id) = world.clinic("oak").await;
    let mut secrets = world.refresh_tokens(&oak).await;
    let mut said = Vec::new();
    for fault in [Fault::MalformedJson, Fault::CutOff, Fault::ReplyLost] {
        world
            .vendor
            .fail(FaultRule::next(3, Endpoint::Token, fault));
        said.push(format!(
            "{:?}",
            world.tokens.bearer(&oak).await.unwrap_err()
        ));
        world.later(TimeDelta::hours(1));
        world.vendor.clear_faults();
    }
    let bearer = world.tokens.bearer(&oak).await.unwrap();
    said.push(format!(
        "{bearer:?} {:?}",
        grants(world.owner.store()).await.unwrap()
    ));
    secrets.push(bearer.secret().expose_secret().to_owned());
    secrets.extend(world.refresh_tokens(&oak).await);
    world.vendor.revoke_grants(&id);
    world.later(TimeDelta::hours(2));
    let error = world.tokens.bearer(&oak).await.unwrap_err();
    said.push(format!("{error} {error:?} {}", world.log.text()));
    let mut bytes = said.concat().into_bytes();
    for file in std::fs::read_dir(world.directory.path()).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    secrets.push("simulated-client-secret".into());
    assert!(secrets.len() >= 4 && secrets.iter().all(|secret| secret.len() > 16));
    for secret in secrets {
        let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!found, "a secret is in the open");
    }
    assert!(
        world.log.text().contains("clinic=oak"),
        "something was logged"
    );
}
