//! A world: the simulated vendor, a state directory, a configuration, and a file sink to look at. Dropping it checks
//! what must always hold.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fullscript_events::api::budget::Budget;
use fullscript_events::app::{self, StartError};
use fullscript_events::clock::{Clock as _, ManualClock, SharedClock, SystemClock};
use fullscript_events::config::{self, Config};
use fullscript_events::domain::ClinicName;
use fullscript_events::ledger::Query;
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;
use fullscript_events::simulator::{Options, SimClinic, Simulator};
use fullscript_events::store::{OpenError, Owner};
use secrecy::SecretString;
use serde_json::Value;

/// The key of every test's state directory.
const SEAL_KEY: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

/// What a test configures beside the vendor.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Names of the clinics, in the configuration and at the vendor.
    pub(crate) clinics: Vec<String>,
    /// Further lines of `[app]`.
    pub(crate) app: String,
    /// Further lines of `[state]`.
    pub(crate) state: String,
    /// Lines of `[poll]`.
    pub(crate) poll: String,
    /// Further `[[sinks]]` blocks and other text at the end.
    pub(crate) more: String,
    /// Whether there is a file sink `log` that takes everything.
    pub(crate) file_sink: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            clinics: vec!["oak".to_owned()],
            app: String::new(),
            state: String::new(),
            poll: "first_run = \"30d\"\n".to_owned(),
            more: String::new(),
            file_sink: true,
        }
    }
}

/// The world of one test.
pub(crate) struct World {
    pub(crate) vendor: Simulator,
    pub(crate) clinics: Vec<SimClinic>,
    pub(crate) directory: tempfile::TempDir,
}

impl World {
    /// Starts the vendor and writes the configuration. No clinic has a grant yet.
    pub(crate) async fn begin(options: Options, setup: Setup) -> Self {
        let vendor = Simulator::start(options).await.unwrap();
        let clinics = setup.clinics.iter().map(|name| vendor.add_clinic(name));
        let clinics = clinics.collect();
        let directory = tempfile::tempdir().unwrap();
        let world = Self {
            vendor,
            clinics,
            directory,
        };
        world.write_config(&setup);
        world
    }

    /// The clinic of a name.
    pub(crate) fn clinic(&self, name: &str) -> &SimClinic {
        self.clinics.iter().find(|c| c.name == name).unwrap()
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    pub(crate) fn state_path(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Where the file sink `log` writes.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.directory.path().join("events.jsonl")
    }

    /// Writes the configuration anew.
    pub(crate) fn write_config(&self, setup: &Setup) {
        let at = self.directory.path();
        write_secret(&at.join("client_secret"), "simulated-client-secret");
        write_secret(&at.join("seal_key"), SEAL_KEY);
        let mut text = format!(
            "[app]\napi_base = {:?}\nclient_id = \"simulated-client-id\"\n\
             client_secret = {{ file = {:?} }}\nredirect_uri = \"http://127.0.0.1:8765/callback\"\n{}\n\
             [state]\ndirectory = {:?}\nseal_key = {{ file = {:?} }}\n{}\n[poll]\n{}\n",
            self.vendor.base_url(),
            at.join("client_secret"),
            setup.app,
            self.state_path(),
            at.join("seal_key"),
            setup.state,
            setup.poll,
        );
        for name in &setup.clinics {
            writeln!(text, "[[clinics]]\nname = {name:?}\n").unwrap();
        }
        if setup.file_sink {
            writeln!(
                text,
                "[[sinks]]\nname = \"log\"\nkind = \"file\"\nclinics = [\"*\"]\npath = {:?}\n",
                self.log_path()
            )
            .unwrap();
        }
        text += &setup.more;
        fs::write(self.config_path(), text).unwrap();
    }

    pub(crate) fn config(&self) -> Config {
        config::load(&self.config_path())
            .unwrap_or_else(|invalid| panic!("{invalid}"))
            .config
    }

    /// Gives every clinic a grant, as `auth import` does.
    pub(crate) async fn log_in(&self) {
        self.log_in_by(Arc::new(SystemClock::start())).await;
    }

    /// Gives every clinic a grant whose access token expired hours ago by this machine's clock: the first who needs
    /// it has to refresh it.
    pub(crate) async fn log_in_long_ago(&self) {
        let long_ago = SystemClock::start().now() - chrono::TimeDelta::hours(3);
        self.log_in_by(ManualClock::standing_at(long_ago)).await;
    }

    async fn log_in_by(&self, clock: SharedClock) {
        let config = self.config();
        let owner = own(&config);
        let settings = config.poll.budget;
        let budget = Budget::open(owner.store().clone(), Arc::clone(&clock), settings);
        let budget = budget.await.unwrap();
        let tokens = app::tokens(
            &config,
            owner.store(),
            &clock,
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

    /// One whole cycle in this process, as `run --once`, without making lanes due.
    pub(crate) async fn cycle(&self) {
        self.cycle_with(Arc::new(SystemClock::start())).await;
    }

    /// One whole cycle by another clock.
    pub(crate) async fn cycle_with(&self, clock: SharedClock) {
        let config = self.config();
        let owner = own(&config);
        let pipeline = app::open(&config, &owner, clock).await.unwrap();
        let lanes = pipeline.lanes.iter().copied().collect();
        pipeline.ledger.make_due(lanes).await.unwrap();
        let life = Lifecycle::begin();
        Arc::clone(&pipeline)
            .run_until_drained(&life, Scope::Everything)
            .await;
        pipeline.tokens.drain().await;
    }

    /// The questions to the ledger, while no daemon runs in this process.
    pub(crate) fn query(&self) -> (Owner, Query) {
        let owner = own(&self.config());
        let query = Query::new(owner.store().clone());
        (owner, query)
    }

    /// The events that the file sink shows, in order.
    pub(crate) fn shown(&self) -> Vec<Value> {
        lines_of(&self.log_path())
    }

    /// The ids that the file sink shows, sorted.
    pub(crate) fn shown_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.shown().iter().map(id_of).collect();
        ids.sort();
        ids
    }

    /// The database, for looking into it from outside.
    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.state_path().join("ledger.sqlite3")
    }

    /// The ids of every event that the vendor has, sorted.
    pub(crate) fn made_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.vendor.all_events().into_iter().map(|e| e.id).collect();
        ids.sort();
        ids
    }
}

/// Asserts that two sorted lists of ids are the same, and says how they differ without printing them whole.
#[track_caller]
pub(crate) fn assert_same_ids(found: &[String], expected: &[String]) {
    let differing = |a: &[String], b: &[String]| -> Vec<String> {
        let known: std::collections::BTreeSet<_> = b.iter().collect();
        a.iter()
            .filter(|id| !known.contains(id))
            .take(3)
            .cloned()
            .collect()
    };
    assert!(
        found == expected,
        "{} ids, {} expected; missing: {:?}, too many: {:?}, first twice: {:?}",
        found.len(),
        expected.len(),
        differing(expected, found),
        differing(found, expected),
        found.windows(2).find(|pair| pair[0] == pair[1])
    );
}

impl World {
    /// Everything that the vendor has is shown exactly once.
    #[track_caller]
    pub(crate) fn assert_all_shown_once(&self) {
        assert_same_ids(&self.shown_ids(), &self.made_ids());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.ledger_path().exists() {
            return;
        }
        check_invariants(&self.ledger_path());
    }
}

/// Takes the state directory.
pub(crate) fn own(config: &Config) -> Owner {
    let take = || match app::take_ownership(config) {
        Err(StartError::State(error)) => Err(error),
        owner => Ok(owner.unwrap()),
    };
    patiently(take).unwrap()
}

/// Takes a state directory that nobody owns. While another test starts a process, the child holds a copy of every open
/// file until it has become its program, and so for a moment the lock of an owner that is gone.
pub(crate) fn patiently(take: impl Fn() -> Result<Owner, OpenError>) -> Result<Owner, OpenError> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match take() {
            Err(OpenError::Owned(_)) if std::time::Instant::now() < end => {
                std::thread::yield_now();
            }
            owner => return owner,
        }
    }
}

/// The invariants of the ledger (see `src/ledger/mod.rs`), read from outside.
pub(crate) fn check_invariants(ledger: &Path) {
    let c = rusqlite::Connection::open(ledger).unwrap();
    let count = |sql: &str| c.query_row(sql, (), |row| row.get::<_, i64>(0)).unwrap();
    for (law, violations) in [
        (
            "an event without a delivery has a reason, one with a delivery has none",
            "SELECT count(*) FROM event e WHERE (skipped IS NULL) != EXISTS (SELECT 1 FROM delivery d WHERE d.event = e.event)",
        ),
        (
            "a body is kept only while a delivery of its event is not settled",
            "SELECT count(*) FROM body b WHERE NOT EXISTS (SELECT 1 FROM delivery d WHERE d.event = b.event AND d.state NOT IN ('done', 'skipped'))",
        ),
        (
            "what is ready has its body",
            "SELECT count(*) FROM delivery d WHERE state = 'queued' AND ready > 0 AND NOT EXISTS (SELECT 1 FROM body b WHERE b.event = d.event)",
        ),
        (
            "what is queued and not ready has no body: it is owed",
            "SELECT count(*) FROM delivery d WHERE state = 'queued' AND ready = 0 AND EXISTS (SELECT 1 FROM body b WHERE b.event = d.event)",
        ),
        (
            "of a key one at most is claimed or may be",
            "SELECT count(*) FROM (SELECT 1 FROM delivery WHERE key IS NOT NULL AND (state = 'claimed' OR (state = 'queued' AND ready = 1)) GROUP BY sink, key HAVING count(*) > 1)",
        ),
        (
            "who waits in line waits for somebody who came before",
            "SELECT count(*) FROM delivery d WHERE state = 'queued' AND ready = 2 AND NOT EXISTS (SELECT 1 FROM delivery h WHERE h.sink = d.sink AND h.key = d.key AND (h.state = 'claimed' OR (h.state = 'queued' AND h.ready = 1 AND h.place <= d.place)))",
        ),
        (
            "what a program has said is kept only while its delivery is not settled",
            "SELECT count(*) FROM output JOIN delivery USING (delivery) WHERE state IN ('done', 'skipped')",
        ),
        (
            "what is parked says what it waits for, and nothing else does",
            "SELECT (SELECT count(*) FROM delivery WHERE state = 'parked' AND delivery NOT IN (SELECT delivery FROM parked)) + (SELECT count(*) FROM parked JOIN delivery USING (delivery) WHERE state <> 'parked' OR parked.sink <> delivery.sink)",
        ),
        (
            "what waits for its clinic has somebody to resume",
            "SELECT count(*) FROM parked JOIN delivery USING (delivery) JOIN lane USING (lane) WHERE why = 'clinic_paused' AND (delivery.sink, clinic) NOT IN (SELECT sink, clinic FROM paused_clinic)",
        ),
        (
            "what has a frame is claimed or done",
            "SELECT count(*) FROM frame JOIN delivery USING (delivery) WHERE state NOT IN ('claimed', 'done')",
        ),
        (
            "no frame is kept that was forgotten",
            "SELECT count(*) FROM frame, stream WHERE seq <= floor",
        ),
        (
            "a claim has an owner",
            "SELECT count(*) FROM delivery WHERE state = 'claimed' AND epoch IS NULL",
        ),
        (
            "what is settled says when",
            "SELECT count(*) FROM delivery WHERE state IN ('done', 'skipped', 'held', 'parked', 'dead') AND settled_at IS NULL",
        ),
    ] {
        assert_eq!(count(violations), 0, "{law}");
    }
    let integrity: String = c
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(integrity, "ok");
}

/// The whole lines of a JSON-lines file; a torn last line is a failure.
pub(crate) fn lines_of(path: &Path) -> Vec<Value> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => panic!("{error}"),
    };
    assert!(text.is_empty() || text.ends_with('\n'), "a torn last line");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn id_of(line: &Value) -> String {
    line["id"].as_str().unwrap().to_owned()
}

pub(crate) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
