//! What the demonstration is played on: a simulated Fullscript with a past, a receiver, and a temporary directory with
//! the daemon's configuration, secrets and grants. Dropping the stage removes the directory.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use ring::rand::{SecureRandom as _, SystemRandom};
use secrecy::SecretString;
use tempfile::TempDir;

use super::receiver::Receiver;
use crate::cli::{Exit, Failure, configured};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::domain::ClinicName;
use crate::simulator::{Endpoint, Fault, FaultRule, Options, SimClinic, Simulator};
use crate::token::Tokens;

/// The clinics.
const CLINICS: [&str; 3] = ["oak-street", "elm-avenue", "maple-court"];
/// What is polled. With one category more the interval would be stretched: the budget is Fullscript's real one.
const CATEGORIES: [&str; 5] = [
    "patients",
    "treatment_plans",
    "orders",
    "lab_orders",
    "products",
];
/// Events of the past, per clinic and category.
const PAST: u32 = 28;
/// How far the past goes back: a little less than Fullscript lists, so that nothing leaves the list meanwhile.
const SPAN: Duration = Duration::from_hours(30 * 24 - 6);
/// The daemon refreshes 30 s before the end of a token's life: with this, a few seconds after the start.
const TOKEN_LIFETIME: Duration = Duration::from_secs(37);
/// As on the way to a real server.
const LATENCY: Duration = Duration::from_millis(60);

/// An event that happens while one looks.
pub(super) struct Scene {
    /// Which clinic, by its place.
    clinic: usize,
    category: &'static str,
    event_type: &'static str,
    /// How long ago it happened when it becomes visible.
    late_s: i64,
    /// So many at once: they tie on the second.
    count: usize,
}

/// The events that happen while one looks, one scene after the other.
pub(super) const SCENES: [Scene; 7] = [
    scene(0, "patients", "patient.created"),
    scene(1, "orders", "order.placed"),
    Scene {
        count: 3,
        ..scene(2, "treatment_plans", "treatment_plan.created")
    },
    scene(0, "lab_orders", "lab_order.updated"),
    Scene {
        late_s: 240,
        ..scene(1, "patients", "patient.updated")
    },
    Scene {
        late_s: 420,
        ..scene(2, "orders", "order.placed")
    },
    Scene {
        count: 2,
        ..scene(0, "orders", "order.placed")
    },
];

const fn scene(clinic: usize, category: &'static str, event_type: &'static str) -> Scene {
    Scene {
        clinic,
        category,
        event_type,
        late_s: 0,
        count: 1,
    }
}

/// The stage.
pub(super) struct Stage {
    /// Fullscript.
    pub(super) vendor: Simulator,
    /// Its clinics.
    pub(super) clinics: Vec<SimClinic>,
    /// Where the webhooks go.
    pub(super) receiver: Receiver,
    /// The daemon's configuration.
    pub(super) config: Config,
    clock: SharedClock,
    directory: TempDir,
}

impl Stage {
    /// Sets everything up but the daemon.
    pub(super) async fn set(clock: SharedClock) -> Result<Self, Failure> {
        let vendor = Simulator::start(Options {
            token_lifetime: TOKEN_LIFETIME,
            latency: LATENCY,
            ..Options::default()
        })
        .await
        .map_err(|error| cannot("start the simulator", error))?;
        let clinics: Vec<_> = CLINICS.map(|name| vendor.add_clinic(name)).into();
        for clinic in &clinics {
            for category in CATEGORIES {
                vendor.make_history(&clinic.clinic_id, category, PAST, SPAN);
            }
        }
        if let Some(busy) = clinics.get(1) {
            let throttled = Fault::Throttled {
                status: 429,
                retry_after_s: 1,
            };
            let rule = FaultRule::next(1, Endpoint::Retrieve, throttled);
            vendor.fail(FaultRule { after: 30, ..rule }.of_clinic(&busy.clinic_id));
        }
        let directory = tempfile::Builder::new()
            .prefix("fullscript-events-demo-")
            .tempdir()
            .map_err(|error| cannot("make a temporary directory", error))?;
        let signing_secret = random_hex()?;
        let receiver = Receiver::start(&signing_secret, SharedClock::clone(&clock))
            .await
            .map_err(|error| cannot("start the receiver", error))?;
        let at = directory.path();
        for (name, text) in [
            ("client_secret", Options::default().client_secret.as_str()),
            ("signing_secret", &signing_secret),
            ("seal_key", &random_hex()?),
            ("config.toml", &config_text(at, &vendor, &receiver)),
        ] {
            write(&at.join(name), text)
                .map_err(|error| cannot("write into the temporary directory", error))?;
        }
        let config = configured(&at.join("config.toml"))?;
        Ok(Self {
            vendor,
            clinics,
            receiver,
            config,
            clock,
            directory,
        })
    }

    /// Gives every clinic a grant, as `auth import` does.
    pub(super) async fn log_in(&self, tokens: &Tokens) -> Result<(), Failure> {
        for clinic in &self.clinics {
            let name =
                ClinicName::new(&clinic.name).map_err(|error| cannot("name a clinic", error))?;
            let refresh = self.vendor.grant(&clinic.clinic_id).unwrap_or_default();
            tokens
                .import(&name, None, SecretString::from(refresh))
                .await
                .map_err(|error| cannot("import a grant", error))?;
        }
        Ok(())
    }

    /// Lets a scene happen; gives a line of words and the ids.
    pub(super) fn play(&self, scene: &Scene) -> (String, Vec<String>) {
        let Some(clinic) = self.clinics.get(scene.clinic) else {
            return (String::new(), Vec::new());
        };
        let at = self.clock.now() - TimeDelta::seconds(scene.late_s);
        let ids = (0..scene.count).filter_map(|_| {
            let id = &clinic.clinic_id;
            self.vendor
                .make_event_in(id, scene.category, scene.event_type, at)
        });
        let note = match (scene.late_s / 60, scene.count) {
            (0, 1) => String::new(),
            (0, count) => format!(" ({count} in the same second)"),
            (minutes, _) => format!(" (listed {minutes} min late)"),
        };
        let words = format!("{:<12} {}{note}", clinic.name, scene.event_type);
        (words, ids.collect())
    }

    /// What the simulated Fullscript lists for a clinic at this moment.
    pub(super) fn listed(&self, clinic: &SimClinic) -> BTreeSet<String> {
        let lists = CATEGORIES.map(|category| self.vendor.listed_ids(&clinic.clinic_id, category));
        lists.into_iter().flatten().collect()
    }

    /// Where everything lies while the demonstration runs.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Lines in the file sink.
    pub(super) fn file_lines(&self) -> usize {
        std::fs::read_to_string(events_file(self.path())).map_or(0, |text| text.lines().count())
    }

    /// Stops the simulator and removes the directory.
    pub(super) async fn strike(self) -> Result<(), Failure> {
        let path = self.path().to_owned();
        self.vendor.shutdown().await;
        self.directory
            .close()
            .map_err(|error| cannot(&format!("remove {}", path.display()), error))
    }
}

fn events_file(directory: &Path) -> PathBuf {
    directory.join("events.jsonl")
}

fn config_text(at: &Path, vendor: &Simulator, receiver: &Receiver) -> String {
    let clinics = CLINICS.map(|name| format!("[[clinics]]\nname = {name:?}\n\n"));
    let path = |path: PathBuf| toml::Value::from(path.to_string_lossy().into_owned()).to_string();
    format!(
        r#"[app]
api_base = {base:?}
client_id = {client_id:?}
client_secret = {{ file = {client_secret} }}
redirect_uri = "http://127.0.0.1:8765/callback"

[state]
directory = {state}
seal_key = {{ file = {seal_key} }}

[poll]
interval = "2s"
first_run = "30d"
categories = {CATEGORIES:?}

{clinics}[[sinks]]
name = "chart"
kind = "webhook"
clinics = ["*"]
url = {url:?}
format = "fullscript"
secret = {{ file = {signing_secret} }}

[[sinks]]
name = "log"
kind = "file"
clinics = ["*"]
path = {events}
"#,
        clinics = clinics.concat(),
        base = vendor.base_url(),
        client_id = Options::default().client_id,
        client_secret = path(at.join("client_secret")),
        state = path(at.join("state")),
        seal_key = path(at.join("seal_key")),
        url = receiver.url(),
        signing_secret = path(at.join("signing_secret")),
        events = path(events_file(at)),
    )
}

fn random_hex() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| cannot("make a key", "the system gives no random numbers"))?;
    Ok(hex::encode(bytes))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

fn cannot(what: &str, error: impl Display) -> Failure {
    Failure::new(Exit::Unexpected, format!("cannot {what}: {error}"))
}
