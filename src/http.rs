//! The one HTTP client builder: every request of this program, to Fullscript, to a receiver, to the simulator, leaves
//! through a client made here, with time-outs, an agent name, no redirects, the configured proxy and authorities.
//!
//! It prevents the failures that a default client has: waiting for ever, following a redirect with a bearer token,
//! reading ten gigabytes into memory, and taking a proxy from the environment that nobody meant.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Client, ClientBuilder, Response};

use crate::config;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One whole request to Fullscript, answer included: a body that drips ends here too.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How this program names itself to servers.
pub const USER_AGENT: &str = concat!("fullscript-events/", env!("CARGO_PKG_VERSION"));

/// Why no client can be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `http.ca_file` holds no authorities.
    #[error("http.ca_file {0}")]
    CaFile(#[from] NoAuthorities),
    /// The TLS or proxy settings were refused.
    #[error("the HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
}

/// Why a file gives no authorities.
#[derive(Debug, thiserror::Error)]
pub enum NoAuthorities {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is nothing of the kind in it.
    #[error("{0} holds no certificate in PEM")]
    NotPem(PathBuf),
}

/// The authorities in a PEM file: at least one.
pub fn authorities(path: &Path) -> Result<Vec<Certificate>, NoAuthorities> {
    let pem = std::fs::read(path).map_err(|source| NoAuthorities::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    // An empty list would leave the receiver's certificate refused, and nobody would know why.
    Certificate::from_pem_bundle(&pem)
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| NoAuthorities::NotPem(path.to_owned()))
}

/// A builder with everything set that all clients share; `timeout` bounds one whole request, answer included, so that
/// a drip-fed body ends too.
pub fn builder(settings: &config::Http, timeout: Duration) -> Result<ClientBuilder, BuildError> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only if a provider is installed already, which then serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that builds a client"
    )]
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(proxy) = &settings.proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(BuildError::Client)?);
    } else if !settings.proxy_from_environment {
        builder = builder.no_proxy();
    }
    if let Some(path) = &settings.ca_file {
        builder = builder.tls_certs_merge(authorities(path)?);
    }
    Ok(builder)
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More than the caller keeps.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The connection ended first. Its URL is taken out.
    #[error("the answer was cut off")]
    CutOff(#[source] reqwest::Error),
}

/// Reads a whole body of at most `limit` bytes; a longer one is dropped as soon as that is known.
pub async fn read_body(mut response: Response, limit: usize) -> Result<Bytes, BodyError> {
    if response.content_length().is_some_and(|n| n > limit as u64) {
        return Err(BodyError::TooLong(limit));
    }
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| BodyError::CutOff(e.without_url()))?
    {
        if whole.len() + parts.len() + chunk.len() > limit {
            return Err(BodyError::TooLong(limit));
        }
        // Most come in one piece, which need not be copied.
        if whole.is_empty() && parts.is_empty() {
            whole = chunk;
        } else {
            parts.extend_from_slice(&std::mem::take(&mut whole));
            parts.extend_from_slice(&chunk);
        }
    }
    Ok(if parts.is_empty() {
        whole
    } else {
        parts.freeze()
    })
}
