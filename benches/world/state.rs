//! A state directory with its configuration and a grant for every clinic.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fullscript_events::api::budget::Budget;
use fullscript_events::app;
use fullscript_events::clock::{SharedClock, SystemClock};
use fullscript_events::config::{self, Config};
use fullscript_events::domain::ClinicName;
use fullscript_events::simulator::Options;
use secrecy::SecretString;

use super::vendor::Vendor;

/// Any key will do.
const SEAL_KEY: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

/// Everything that a `run` or a `backfill` needs; removed when dropped.
pub(crate) struct State {
    directory: tempfile::TempDir,
}

impl State {
    /// With a file sink that takes the types of `matches`; `poll` are further lines of `[poll]`.
    pub(crate) async fn prepare(vendor: &Vendor, poll: &str, matches: &str) -> Self {
        Self::prepare_with(vendor, poll, matches, "").await
    }

    /// The same with further sinks.
    pub(crate) async fn prepare_with(
        vendor: &Vendor,
        poll: &str,
        matches: &str,
        sinks: &str,
    ) -> Self {
        let state = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        state.write_config(vendor, poll, matches, sinks);
        state.log_in(vendor).await;
        state
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub(crate) fn config(&self) -> Config {
        config::load(&self.config_path()).unwrap().config
    }

    /// Where the file sink writes.
    pub(crate) fn shown(&self) -> PathBuf {
        self.path("events.jsonl")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_config(&self, vendor: &Vendor, poll: &str, matches: &str, sinks: &str) {
        let options = Options::default();
        write_secret(&self.path("client_secret"), &options.client_secret);
        write_secret(&self.path("seal_key"), SEAL_KEY);
        let path = |name| self.path(name).display().to_string();
        // The simulator is on loopback and has no limit: the budget shall not be what is measured.
        let mut text = format!(
            "[app]\napi_base = {:?}\nclient_id = {:?}\nclient_secret = {{ file = {:?} }}\nredirect_uri = {:?}\n\
             [state]\ndirectory = {:?}\nseal_key = {{ file = {:?} }}\n\
             [poll]\n{poll}\n\
             [poll.budget]\nrequests = 10000000\nbackfill = 5000000\n\
             [[sinks]]\nname = \"log\"\nkind = \"file\"\nclinics = [\"*\"]\nmatch = [{matches:?}]\npath = {:?}\n{sinks}\n",
            vendor.base,
            options.client_id,
            path("client_secret"),
            options.redirect_uris[0],
            path("state"),
            path("seal_key"),
            path("events.jsonl"),
        );
        for clinic in &vendor.clinics {
            writeln!(text, "[[clinics]]\nname = {:?}", clinic.name).unwrap();
        }
        fs::write(self.config_path(), text).unwrap();
    }

    async fn log_in(&self, vendor: &Vendor) {
        let config = self.config();
        let clock: SharedClock = Arc::new(SystemClock::start());
        let owner = app::take_ownership(&config).unwrap();
        let budget = Budget::open(
            owner.store().clone(),
            Arc::clone(&clock),
            config.poll.budget,
        );
        let budget = budget.await.unwrap();
        let tokens = app::tokens(
            &config,
            owner.store(),
            &clock,
            budget,
            &fullscript_events::audit::Audit::off(),
        )
        .unwrap();
        for clinic in &vendor.clinics {
            let name = ClinicName::new(&clinic.name).unwrap();
            let refresh = SecretString::from(vendor.grant(clinic).await);
            tokens.import(&name, None, refresh).await.unwrap();
        }
    }
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
