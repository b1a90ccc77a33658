//! A world with a live subscription.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};

use fullscript_events::simulator::Options;

use crate::binary::{DAEMON, Running};
use crate::world::{Setup, World, write_secret};

/// The tokens: all that is there; all of it, but ids only; only what happens at oak; only patients.
pub(crate) const ALL: &str = "canary-token-all-0123456789";
pub(crate) const IDS: &str = "canary-token-ids-0123456789";
pub(crate) const OAK: &str = "canary-token-oak-0123456789";
pub(crate) const PATIENTS: &str = "canary-token-patients-0123456789";

/// A world that streams.
pub(crate) struct Streaming {
    pub(crate) world: World,
    pub(crate) address: SocketAddr,
}

/// A port that nobody has at the moment. Another test may take it in between; the daemon then says so and ends.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Streaming {
    /// Two clinics, oak and elm, four tokens, and further lines of `[stream]`.
    pub(crate) async fn begin(options: Options, lines: &str) -> Self {
        let setup = Setup {
            clinics: vec!["oak".to_owned(), "elm".to_owned()],
            poll: "interval = \"1s\"\nfirst_run = \"30d\"\n".to_owned(),
            ..Setup::default()
        };
        Self::begin_with(options, setup, lines).await
    }

    pub(crate) async fn begin_with(options: Options, mut setup: Setup, lines: &str) -> Self {
        let address = free_port();
        let world = World::begin(options, setup.clone()).await;
        let at = world.directory.path();
        let mut text = format!("[stream]\nlisten = \"{address}\"\nclinics = [\"*\"]\n{lines}\n");
        for (name, token, more) in [
            ("all", ALL, "clinics = [\"*\"]\nphi = \"full\""),
            ("ids", IDS, "clinics = [\"*\"]"),
            ("oak", OAK, "clinics = [\"oak\"]\nphi = \"full\""),
            (
                "patients",
                PATIENTS,
                "clinics = [\"*\"]\nphi = \"full\"\nentities = [\"Patient\"]",
            ),
        ] {
            let path = at.join(format!("token_{name}"));
            write_secret(&path, token);
            writeln!(
                text,
                "[[stream.tokens]]\nname = {name:?}\ntoken = {{ file = {path:?} }}\n{more}\n"
            )
            .unwrap();
        }
        setup.more = text + &setup.more;
        world.write_config(&setup);
        world.log_in().await;
        Self { world, address }
    }

    /// The daemon, once it listens.
    pub(crate) fn daemon(&self) -> Running {
        let mut daemon = Running::start(&mut self.world.command(&DAEMON));
        daemon.wait_for("the live subscription listens");
        daemon
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Makes events at oak.
    pub(crate) fn make(&self, count: usize, event_type: &str) -> Vec<String> {
        let oak = &self.world.clinic("oak").clinic_id;
        self.make_at(oak, count, event_type)
    }

    pub(crate) fn make_at(&self, clinic_id: &str, count: usize, event_type: &str) -> Vec<String> {
        let made = (0..count).map(|_| self.world.vendor.make_event(clinic_id, event_type));
        made.map(Option::unwrap).collect()
    }
}
