//! Late results: what an EMR says of treatments that it accepted first and worked on afterwards (`neighbours.md` §1).
//!
//! The only request from outside that changes anything here. So: on loopback unless somebody says otherwise aloud;
//! two keys, compared in constant time, before anything of the body is read; connections, bodies and their time
//! bounded; nothing of a body in a log or an error of ours. A result changes only what was asked of that EMR, for that
//! clinic: it names a batch that this program made up, and treatments that were in it.
//!
//! | file | holds |
//! |---|---|
//! | `keys` | whose keys they are, in constant time |
//! | `results` | what a body says, and what follows from it (pure) |
//! | `server` | HTTP |

mod keys;
mod results;
mod server;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::keys::Keys;
pub use self::results::{Said, Verdict, Words};
use crate::clock::SharedClock;
use crate::domain::ClinicName;
use crate::store::Unavailable;

/// The path, as Smart Flow Sheet's API has it.
pub const PATH: &str = "/sfs/api/v3/treatments";

/// Treatments that were posted together, as far as a result asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose they are.
    pub clinic: ClinicName,
    /// Their ids.
    pub guids: BTreeSet<String>,
}

/// The memory of what was posted, and of what became of it. Whoever makes it has the ledger.
pub trait LateResults: Send + Sync + 'static {
    /// The batch of this id.
    fn batch(&self, id: String) -> BoxFuture<'_, Result<Option<Batch>, Unavailable>>;

    /// Notes, durably, what was said of treatments of a batch. A repeat changes nothing. What was rejected stays so, and
    /// what is done is done.
    fn settle(
        &self,
        id: String,
        verdicts: Vec<Verdict>,
        now: DateTime<Utc>,
    ) -> BoxFuture<'_, Result<(), Unavailable>>;
}

/// A memory that all requests share.
pub type SharedLateResults = Arc<dyn LateResults>;

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "[sfs] listen: cannot listen on {address} for late results: {source}; is it in use (`ss -ltnp`), or no address of this machine?"
)]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// The endpoint, bound and not yet serving.
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl Endpoint {
    /// Binds it.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let listen_error = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; what is in flight then has a moment to be answered.
    pub async fn serve(
        self,
        keys: Keys,
        results: SharedLateResults,
        clock: SharedClock,
        stop: CancellationToken,
    ) {
        server::serve(server::bounded(self.listener), (keys, results, clock), stop).await;
    }
}

#[cfg(test)]
mod tests;
