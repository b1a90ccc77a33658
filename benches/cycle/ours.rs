//! This program's cycle, as `run --once` makes it: the clock runs from before the state directory is opened until
//! every sink is drained and everything is settled on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fullscript_events::app;
use fullscript_events::clock::{SharedClock, SystemClock};
use fullscript_events::config;
use fullscript_events::domain::ClinicName;
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;
use fullscript_events::simulator::Options;
use secrecy::SecretString;

use crate::vendor::Vendor;
use crate::{CATEGORIES, CONCURRENCY};

/// Any key will do.
const SEAL_KEY: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

/// What a first cycle takes of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstRun {
    /// Every event is fetched and delivered.
    Everything,
    /// Every event is known and none is fetched.
    Baseline,
}

/// A state directory with a grant for every clinic.
pub(crate) struct Ours {
    directory: tempfile::TempDir,
    config: PathBuf,
}

/// Makes a state directory; with a baseline its first cycle is done.
pub(crate) async fn prepare(vendor: &Vendor, first_run: FirstRun) -> Ours {
    let directory = tempfile::tempdir().unwrap();
    let config = write_config(directory.path(), vendor, first_run);
    let ours = Ours { directory, config };
    let config = config::load(&ours.config).unwrap().config;
    let clock: SharedClock = Arc::new(SystemClock::start());
    let owner = app::take_ownership(&config).unwrap();
    let (tokens, _) = app::tokens(&config, owner.store(), &clock).await.unwrap();
    for clinic in &vendor.clinics {
        let name = ClinicName::new(&clinic.name).unwrap();
        let refresh = SecretString::from(vendor.grant(clinic).await);
        tokens.import(&name, None, refresh).await.unwrap();
    }
    drop((tokens, owner));
    if first_run == FirstRun::Baseline {
        ours.cycle().await;
    }
    ours
}

impl Ours {
    /// One cycle.
    pub(crate) async fn cycle(&self) -> Duration {
        let start = Instant::now();
        let config = config::load(&self.config).unwrap().config;
        let owner = app::take_ownership(&config).unwrap();
        let clock: SharedClock = Arc::new(SystemClock::start());
        let pipeline = app::open(&config, &owner, clock).await.unwrap();
        let lanes = pipeline.lanes.iter().copied().collect();
        pipeline.ledger.make_due(lanes).await.unwrap();
        let life = Lifecycle::begin();
        Arc::clone(&pipeline)
            .run_until_drained(&life, Scope::Everything)
            .await;
        pipeline.tokens.drain().await;
        drop((pipeline, owner));
        start.elapsed()
    }

    /// How many events the file shows.
    pub(crate) fn shown(&self) -> usize {
        lines(&self.directory.path().join("events.jsonl"))
    }
}

/// The lines of a file; none if there is no file.
pub(crate) fn lines(path: &Path) -> usize {
    fs::read(path).map_or(0, |text| text.split(|byte| *byte == b'\n').count() - 1)
}

fn write_config(at: &Path, vendor: &Vendor, first_run: FirstRun) -> PathBuf {
    let options = Options::default();
    write_secret(&at.join("client_secret"), &options.client_secret);
    write_secret(&at.join("seal_key"), SEAL_KEY);
    let first_run = match first_run {
        FirstRun::Everything => "30d",
        FirstRun::Baseline => "baseline",
    };
    // The simulator is on loopback and has no limit: the budget shall not be what is measured.
    let mut text = format!(
        "[app]\napi_base = {:?}\nclient_id = {:?}\nclient_secret = {{ file = {:?} }}\nredirect_uri = {:?}\n\
         [state]\ndirectory = {:?}\nseal_key = {{ file = {:?} }}\n\
         [poll]\nfirst_run = {first_run:?}\nconcurrency = {CONCURRENCY}\ncategories = {CATEGORIES:?}\n\
         [poll.budget]\nrequests = 1000000\n\
         [[sinks]]\nname = \"log\"\nkind = \"file\"\nclinics = [\"*\"]\npath = {:?}\n",
        vendor.base,
        options.client_id,
        at.join("client_secret"),
        options.redirect_uris[0],
        at.join("state"),
        at.join("seal_key"),
        at.join("events.jsonl"),
    );
    for clinic in &vendor.clinics {
        text += &format!("[[clinics]]\nname = {:?}\n", clinic.name);
    }
    let path = at.join("config.toml");
    fs::write(&path, text).unwrap();
    path
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
