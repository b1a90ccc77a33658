//! An imitation of the Fullscript API, as far as `fullscript-api.md` describes it: for tests, for `demo`, and for
//! integrators who have no sandbox account. A real HTTP server, on loopback only; everything in it is made up.
//!
//! | file | holds |
//! |---|---|
//! | `server` | routes, request ids, latency, the limiter |
//! | `api`, `answers` | list, retrieve, clinic, patient, treatment plan |
//! | `oauth`, `pages` | authorize, token, revoke |
//! | `control` | `/_control`: make events, faults and grants from another process |
//! | `handle` | the same from within, for tests |
//! | `world` | everything that changes, behind one lock |
//! | `tokens`, `events`, `listing`, `limiter`, `faults`, `data`, `records`, `seeded` | pure: state and decisions |
//! | `reply` | answers, whole and broken |
//! | `emr` | apart from all this: the imitation of an EMR that Smart Flow Sheet's events are posted to |
//!
//! Every unknown of `fullscript-api.md` §8 is an [`Options`] field. The same seed, clock and calls give the same ids,
//! tokens, delays and bodies.

mod answers;
mod api;
mod control;
mod counters;
mod data;
pub mod emr;
mod events;
mod faults;
mod handle;
mod limiter;
mod listing;
mod oauth;
mod pages;
mod records;
mod reply;
mod seeded;
mod server;
mod tokens;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use tokio::task::JoinSet;

pub use self::counters::{ClinicCounters, Counters};
pub use self::faults::{Endpoint, ErrorBody, Fault, FaultRule};
pub use self::handle::Handle;
pub use self::limiter::{RateLimit, RetryAfter};
pub use self::listing::{Bounds, PageSizes};
pub use self::records::RecordKind;
pub use self::tokens::Rotation;
pub use self::world::{MadeEvent, SimClinic};
use crate::clock::{SharedClock, SystemClock};

/// How long a stopping simulator waits for requests in flight.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Every scope there is (`fullscript-api.md` §4).
pub const ALL_SCOPES: &[&str] = &[
    "catalog:read",
    "clinic:read",
    "clinic:write",
    "patients:read",
    "patients:write",
    "patients:treatment_plan_history",
    "patients:order_history",
];

/// How late events become visible, between these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// At least so late.
    pub least: Duration,
    /// At most so late.
    pub most: Duration,
}

/// Which records have the EMR's own id (`metadata.id`), beside those that it was set for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmrIds {
    /// None.
    #[default]
    None,
    /// Every patient: `emr-` and Fullscript's id.
    OfPatients,
}

/// How the simulator behaves. The default is the contract's assumption for each unknown.
#[derive(Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one. Only loopback addresses are accepted.
    pub listen: SocketAddr,
    /// What ids, tokens, delays and bodies are made from.
    pub seed: u64,
    /// How many patients each clinic has: their events come again and again.
    pub patients: u32,
    /// Which records have the EMR's own id.
    pub emr_ids: EmrIds,
    /// The time it lives in.
    pub clock: SharedClock,
    /// Where the day of the `created_at` filter begins.
    pub zone: Tz,
    /// Which days that filter takes in.
    pub bounds: Bounds,
    /// Rows per page.
    pub page_sizes: PageSizes,
    /// When a refreshed pair's predecessor dies.
    pub rotation: Rotation,
    /// The life of an access token.
    pub token_lifetime: Duration,
    /// The request limit.
    pub rate_limit: RateLimit,
    /// How late events become visible.
    pub visible_after: Delay,
    /// How long each request takes at least.
    pub latency: Duration,
    /// What comes with 401, 403, 404, 429 and 503.
    pub error_body: ErrorBody,
    /// The registered app.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// The redirect URIs registered for it; compared as text.
    pub redirect_uris: Vec<String>,
    /// The app's scopes, which new grants get.
    pub scopes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            patients: 200,
            emr_ids: EmrIds::None,
            clock: Arc::new(SystemClock::start()),
            zone: chrono_tz::America::New_York,
            bounds: Bounds::default(),
            page_sizes: PageSizes::default(),
            rotation: Rotation::default(),
            token_lifetime: Duration::from_hours(2),
            rate_limit: RateLimit::default(),
            visible_after: Delay::default(),
            latency: Duration::ZERO,
            error_body: ErrorBody::default(),
            client_id: "simulated-client-id".to_owned(),
            client_secret: "simulated-client-secret".to_owned(),
            redirect_uris: vec!["http://127.0.0.1:8765/callback".to_owned()],
            scopes: ALL_SCOPES.iter().map(|&scope| scope.to_owned()).collect(),
        }
    }
}

/// Why a simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It would be reachable from elsewhere.
    #[error("{0} is not a loopback address: the simulator listens on 127.0.0.1 or [::1] only")]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running simulator; derefs to its [`Handle`]. Dropping it stops accepting.
pub struct Simulator {
    handle: Handle,
    address: SocketAddr,
    server: JoinSet<()>,
}

impl Simulator {
    /// Binds and serves.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let address = options.listen;
        Self::resume(Handle::new(options), address).await
    }

    /// Serves a stopped simulator's clinics, grants and events again, as after an outage at Fullscript; give
    /// [`Simulator::address`] to come back where it was.
    pub async fn resume(handle: Handle, address: SocketAddr) -> Result<Self, StartError> {
        if !address.ip().is_loopback() {
            return Err(StartError::NotLoopback(address));
        }
        let listen_error = |source| StartError::Listen { address, source };
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        handle.ended.send_replace(false);
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, handle.clone()));
        Ok(Self {
            handle,
            address,
            server,
        })
    }

    /// The inside, to be kept elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API base: what the configuration's base URL is.
    pub fn base_url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    /// The authorize page.
    pub fn authorize_url(&self) -> String {
        format!("{}/oauth/authorize", self.base_url())
    }

    /// Where other processes control it.
    pub fn control_url(&self) -> String {
        format!("http://{}/_control", self.address)
    }

    /// Stops: hanging requests end, others get a moment, later connections are refused.
    pub async fn shutdown(mut self) {
        self.handle.ended.send_replace(true);
        drop(tokio::time::timeout(LAST_WORDS, self.server.join_next()).await);
        self.server.shutdown().await;
    }
}

impl Deref for Simulator {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

#[cfg(test)]
mod tests;
