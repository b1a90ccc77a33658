//! An imitation of an EMR that Smart Flow Sheet's events are posted to (`neighbours.md` §1): for the tests of
//! `format = "sfs"`, and for whoever wants to see what their configuration would do to a real one. A real HTTP server, on
//! loopback only.
//!
//! It behaves as OpenVPMS does in code, which is the only receiver whose behaviour is public: it reads the JSON as a
//! stream, so that the order of the keys matters, and it answers 200 to much that it drops.
//!
//! | file | holds |
//! |---|---|
//! | `envelope` | the order-sensitive reading of an event (pure) |
//! | `chart` | orders and notes, and what an event does to them (pure) |
//! | `script` | scripted answers (pure) |
//! | `inside` | everything that changes, behind one lock; what came and what was answered |
//! | `server` | the webhook, and `/control` |
//! | `call_back` | late results, posted to the sender's endpoint |
//!
//! What is sent to it may be real: it shows ids, counts and statuses, and keeps texts and bodies only where
//! [`Options::shows_text`] says so.

mod call_back;
mod chart;
mod envelope;
mod inside;
mod script;
mod server;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use url::Url;

pub use self::chart::{Effects, Note, Order};
pub use self::inside::{CalledBack, Handle, Outcome, Received, State};
pub use self::script::Rule;
use super::StartError;
use crate::clock::{SharedClock, SystemClock};

/// How long a stopping double waits for requests and call-backs in flight.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How the double behaves.
#[derive(Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one. Only loopback addresses are accepted.
    pub listen: SocketAddr,
    /// The API key of each clinic, by the clinic's name.
    pub clinics: BTreeMap<String, String>,
    /// The visits (`hospitalizationId`) that there are; none said: every one.
    pub visits: Vec<String>,
    /// Inventory ids that it refuses with 400.
    pub unknown_items: Vec<String>,
    /// Notes of fewer words are left out, with success.
    pub least_words: usize,
    /// Notes are left out altogether, with success.
    pub without_notes: bool,
    /// Whether texts and bodies are kept and shown.
    pub shows_text: bool,
    /// Where late results go, if there are any.
    pub call_back: Option<CallBack>,
    /// Gets a line for each event.
    pub lines: Option<UnboundedSender<String>>,
    /// The time in those lines.
    pub clock: SharedClock,
}

/// Where late results go.
#[derive(Clone)]
pub struct CallBack {
    /// What posts them.
    pub client: reqwest::Client,
    /// The sender's endpoint.
    pub url: Url,
    /// Its `emrApiKey`.
    pub emr_api_key: String,
    /// How long after the booking.
    pub after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            clinics: BTreeMap::from([("oak".to_owned(), "oak-key".to_owned())]),
            visits: Vec::new(),
            unknown_items: Vec::new(),
            least_words: 0,
            without_notes: false,
            shows_text: false,
            call_back: None,
            lines: None,
            clock: Arc::new(SystemClock::start()),
        }
    }
}

/// A running double; derefs to its [`Handle`]. Dropping it stops accepting.
pub struct SfsEmr {
    handle: Handle,
    address: SocketAddr,
    server: JoinSet<()>,
}

impl SfsEmr {
    /// Binds and serves.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let address = options.listen;
        if !address.ip().is_loopback() {
            return Err(StartError::NotLoopback(address));
        }
        let listen_error = |source| StartError::Listen { address, source };
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let handle = Handle::new(options);
        let mut server = JoinSet::new();
        server.spawn(server::serve(listener, handle.clone()));
        Ok(Self {
            handle,
            address,
            server,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where events are posted.
    pub fn url(&self) -> String {
        format!("http://{}/webhook", self.address)
    }

    /// Where other processes look at it and control it.
    pub fn control_url(&self) -> String {
        format!("http://{}/control", self.address)
    }

    /// Stops: hanging requests end, others get a moment, later connections are refused.
    pub async fn shutdown(mut self) {
        self.handle.end();
        let all = async {
            self.handle.called_back().await;
            drop(self.server.join_next().await);
        };
        drop(tokio::time::timeout(LAST_WORDS, all).await);
        self.server.shutdown().await;
    }
}

impl Deref for SfsEmr {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

#[cfg(test)]
mod tests;
