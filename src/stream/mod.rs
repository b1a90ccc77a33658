//! The live subscription: what happens is told, as it becomes known, to clients that connect to this machine.
//!
//! It serves the frames that the sink `stream` has made ([`crate::ledger::FrameLog`]), over server-sent events, over a
//! WebSocket, and as plain JSON; one filter language for all three. It only reads: nothing that a client does changes
//! what is polled or delivered, and it reads over a connection of its own.
//!
//! 1. A client that names the last seq it has seen gets every later frame that it wants, once, in order, across
//!    restarts of either side; or it is told that this is impossible (410), and never less than that in silence.
//! 2. A token gets nothing beyond its clinics and entities, and asking for it is refused. With `phi = "ids"` no event
//!    is even opened for it.
//! 3. What is kept for one connection is bounded. Who is too slow is closed, and loses nothing.
//! 4. No token is kept, compared in a way that tells of it, taken from an address, or logged.

mod catch_up;
mod cursor;
mod filter;
mod frame;
mod hub;
mod presence;
mod refusal;
mod server;
mod subscribe;
mod subscription;
mod tokens;
mod ws;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener as _;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::hub::Hub;
use self::presence::Attendance;
use self::server::Shared;
use self::subscribe::Grant;
use self::tokens::Tokens;
use crate::audit::Audit;
use crate::clock::SharedClock;
use crate::config::{self, Clinic, Enrich, Phi};
use crate::domain::ClinicId;
use crate::ledger::FrameLog;
use crate::listener::Bounded;
use crate::store::Unavailable;

pub use self::server::Timing;
pub use self::tokens::BadTokens;

/// Connections beside those that subscribe: for refusals, and for plain requests.
const FURTHER_CONNECTIONS: usize = 32;
/// So long clients have at the end to hear the last words.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the stream cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CannotServe {
    /// A token is no good.
    #[error(transparent)]
    Tokens(#[from] BadTokens),
    /// Nobody can listen there.
    #[error("stream.listen: {address} cannot be listened at: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] Unavailable),
}

/// A stream that listens, and answers when it is run.
pub struct Server {
    shared: Arc<Shared>,
    listener: Bounded,
    bell: Arc<Notify>,
}

impl Server {
    /// Listens. `tokens` are the secrets of `settings.tokens`, in their order; `bell` is rung when frames were made.
    pub async fn open(
        settings: &config::Stream,
        tokens: Vec<SecretString>,
        (clinics, enrich): (&[Clinic], Arc<Enrich>),
        log: FrameLog,
        bell: Arc<Notify>,
        (timing, audit, clock): (Timing, Audit, SharedClock),
    ) -> Result<Self, CannotServe> {
        let grants = settings.tokens.iter().map(|token| Grant {
            name: token.name.clone(),
            clinics: token.clinics.clone(),
            entities: token.entities.clone(),
            // Who may see more than is kept is told what there is.
            phi: if settings.keeps_bodies {
                token.phi
            } else {
                Phi::Ids
            },
        });
        let tokens = Tokens::new(tokens.into_iter().zip(grants).collect())?;
        let address = settings.listen;
        let cannot = |source| CannotServe::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let hub = Arc::new(Hub::open(log, settings.buffer, enrich).await?);
        let clinics = clinics.iter().map(|clinic| {
            let id = clinic.clinic_id.as_ref().map(ClinicId::as_str);
            (clinic.name.clone(), id.map(str::to_owned))
        });
        let most = settings.max_connections;
        let sockets = TaskTracker::new();
        let epoch = hub.epoch.clone();
        Ok(Self {
            shared: Arc::new(Shared {
                hub,
                tokens,
                settings: settings.clone(),
                clinics: clinics.collect(),
                timing,
                places: Arc::new(Semaphore::new(most)),
                stop: CancellationToken::new(),
                attendance: Attendance::new(audit, clock, epoch, sockets.clone()),
                sockets,
            }),
            listener: Bounded::new(
                listener,
                most + FURTHER_CONNECTIONS,
                timing.greeting,
                timing.patience,
            ),
            bell,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`; then every subscriber hears that it is closed.
    pub async fn run(self, stop: CancellationToken) {
        let shared = self.shared;
        let hub = Arc::clone(&shared.hub);
        let router = server::router(Arc::clone(&shared));
        let closing = shared.stop.clone();
        let attendance = shared.attendance.clone();
        let serve = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { closing.cancelled().await });
        let serve = async {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the stream cannot be served any more");
            }
            shared.sockets.close();
            shared.sockets.wait().await;
        };
        let farewell = async {
            stop.cancelled().await;
            shared.stop.cancel();
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(serve, hub.run(self.bell, shared.stop.clone())) } => {}
            () = farewell => {}
        }
        // Whose connection takes nothing is still there.
        attendance.close().await;
    }
}
