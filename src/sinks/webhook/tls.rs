//! What a receiver's TLS needs beside the system's authorities: an authority of its own, and a certificate of ours.

use std::path::PathBuf;
use std::{fs, io};

use reqwest::{ClientBuilder, Identity};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

use crate::config;
use crate::http::{self as client, NoAuthorities};

/// Why a sink's TLS settings cannot be used. No variant holds any part of the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// `ca_file` holds no authorities.
    #[error("ca_file {0}")]
    CaFile(#[from] NoAuthorities),
    /// `client_cert` cannot be read.
    #[error("client_cert {path}: {source}")]
    ClientCert {
        /// The file named in the configuration.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The two are no identity.
    #[error(
        "client_cert {path} and client_key: wanted are a certificate with its chain and its private key, both in PEM \
         and the key without a passphrase"
    )]
    Identity {
        /// The file named in the configuration.
        path: PathBuf,
    },
}

/// Adds the sink's authorities and its certificate.
pub(super) fn dressed(
    mut builder: ClientBuilder,
    settings: &config::WebhookSink,
    client_key: Option<&SecretString>,
) -> Result<ClientBuilder, TlsError> {
    if let Some(path) = &settings.ca_file {
        builder = builder.tls_certs_merge(client::authorities(path)?);
    }
    if let (Some(client), Some(key)) = (&settings.client, client_key) {
        let path = || client.certificate.clone();
        let certificate = fs::read(&client.certificate).map_err(|source| TlsError::ClientCert {
            path: path(),
            source,
        })?;
        let pem = Zeroizing::new(
            [
                certificate.as_slice(),
                b"\n",
                key.expose_secret().as_bytes(),
            ]
            .concat(),
        );
        // Not the library's words: they may name what it found in the key.
        let identity = Identity::from_pem(&pem).map_err(|_| TlsError::Identity { path: path() })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests;
