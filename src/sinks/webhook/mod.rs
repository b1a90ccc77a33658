//! An HTTP POST per event: the same id and the same bytes on every attempt, signed as Fullscript signs its own
//! webhooks (`fullscript-api.md` §6) or as Standard Webhooks does, so that the receiver can tell a repetition.
//!
//! It prevents counting a failure as delivered, and calling something *not sent* that may have arrived: only failures
//! from before the request was written are that.

mod preflight;
mod probe;
mod request;
mod resolve;
pub(super) mod sfs;
mod tls;
mod verdict;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::HeaderValue;
use reqwest::Client;
use secrecy::SecretString;
use url::{Host, Url};

use self::preflight::Preflight;
use self::probe::Seen;
use self::resolve::FilteringResolver;
use self::sfs::Sfs;
use super::address::{NetError, Policy, Refused};
use super::{Checkpoint, Delivered, Orphan, Ports, Resumed, Sink, Stopped};
use crate::config::{self, Enrich, IdUrl, WebhookPayload};
use crate::domain::{ClinicName, Outcome, Parcel, SinkName};
use crate::format::{Payload, standard};
use crate::http as client;

/// How long a connection may take to open, if the sink's time-out is not shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is used again. Short: a receiver that closes it just when it is used leaves a doubt.
const IDLE: Duration = Duration::from_secs(2);

/// Why a webhook cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// `allow_nets` is not what it should be.
    #[error("allow_nets: {0}")]
    AllowNets(#[source] NetError),
    /// No client could be built.
    #[error(transparent)]
    Client(#[from] client::BuildError),
    /// The sink's TLS settings cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// All of them together were refused, such as a key that does not belong to its certificate.
    #[error("the HTTP client cannot be built: {}", verdict::innermost(.0))]
    Build(#[source] reqwest::Error),
}

/// The secrets of a webhook, read.
#[derive(Default)]
pub struct Secrets {
    /// Signs each attempt, if it is to be signed.
    pub signing: Signing,
    /// The `Authorization` header, if the receiver wants one.
    pub authorization: Option<HeaderValue>,
    /// The key of our own certificate, if the receiver asks for one.
    pub client_key: Option<SecretString>,
    /// What the receiver must echo, if it must.
    pub challenge: Option<SecretString>,
    /// What a receiver of `format = "sfs"` knows each clinic by.
    pub clinic_keys: BTreeMap<ClinicName, SecretString>,
}

/// What signs an attempt.
#[derive(Default)]
pub enum Signing {
    /// Nothing.
    #[default]
    None,
    /// The secret of a signature like Fullscript's.
    Fullscript(SecretString),
    /// The keys of Standard Webhooks, the current one first.
    Standard(Vec<standard::Key>),
}

/// The sink of `kind = "webhook"`.
pub struct WebhookSink {
    settings: config::WebhookSink,
    payload: Payload,
    secrets: Secrets,
    policy: Policy,
    client: Client,
    preflight: Preflight,
    enrich: Arc<Enrich>,
    sfs: Option<Sfs>,
}

impl WebhookSink {
    /// Builds the sink's own client. Where a proxy stands between, the proxy looks the receiver's name up, and only a
    /// receiver that is named by its address is checked against `allow_nets`.
    pub fn new(
        settings: config::WebhookSink,
        secrets: Secrets,
        http: &config::Http,
    ) -> Result<Self, WebhookError> {
        let policy = Policy::new(&settings.allow_nets).map_err(WebhookError::AllowNets)?;
        let probe_url = settings.probe_url.as_ref().map(IdUrl::sample);
        let hosts = [Some(&settings.url), probe_url].into_iter().flatten();
        let hosts = hosts.filter_map(Url::host_str).map(str::to_owned);
        let resolver = FilteringResolver::new(hosts.collect(), policy.clone());
        // Connecting ends well before the attempt does: a receiver that cannot be reached is no doubt.
        let builder = client::builder(http, settings.timeout)?;
        let client = tls::dressed(builder, &settings, secrets.client_key.as_ref())?
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout / 2))
            .pool_idle_timeout(IDLE)
            .dns_resolver(Arc::new(resolver))
            .build()
            .map_err(WebhookError::Build)?;
        let payload = match settings.payload.clone() {
            WebhookPayload::Ids => Payload::Ids,
            WebhookPayload::Data { only, redact } => Payload::of_paths(only, redact),
        };
        Ok(Self {
            settings,
            payload,
            secrets,
            policy,
            client,
            preflight: Preflight::default(),
            enrich: Arc::default(),
            sfs: None,
        })
    }

    /// The same, with what the operator says of events.
    #[must_use]
    pub fn enriched(self, enrich: Arc<Enrich>) -> Self {
        Self { enrich, ..self }
    }

    /// With what `format = "sfs"` asks beside the receiver; nothing for another format.
    #[must_use]
    pub fn with_ports(mut self, sink: SinkName, ports: &Ports) -> Self {
        self.sfs = self.settings.sfs.clone().map(|settings| Sfs {
            sink,
            settings,
            keys: std::mem::take(&mut self.secrets.clinic_keys),
            ports: ports.clone(),
            alone: sfs::Alone::default(),
        });
        self
    }

    /// The resolver is not asked about a receiver that is named by its address.
    fn check_literal(&self, url: &Url) -> Result<(), Refused> {
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        self.policy.check(address)
    }

    /// Notes the answer's status in `status`, if there is an answer.
    async fn attempt(
        &self,
        parcel: &Parcel,
        now: DateTime<Utc>,
        status: &mut Option<u16>,
    ) -> Outcome {
        if let Err(refused) = self.check_literal(&self.settings.url) {
            return Outcome::NotSent {
                reason: refused.to_string(),
            };
        }
        let body = match self.body(parcel) {
            Ok(body) => body,
            Err(refused) => {
                return Outcome::No {
                    reason: refused.to_string(),
                    retry_after: None,
                };
            }
        };
        if let Err(outcome) = self.cleared(now).await {
            return outcome;
        }
        let (delivery, event) = (parcel.delivery, &parcel.event);
        // An earlier attempt may have arrived after all.
        if parcel.attempt > 1 && self.seen(delivery, event).await == Seen::Yes {
            return Outcome::Yes;
        }
        let outcome = match self.post(parcel, body, now).send().await {
            Ok(response) => {
                *status = Some(response.status().as_u16());
                verdict::answered(response, self.secrets.challenge.as_ref(), now).await
            }
            Err(error) => verdict::unanswered(&error),
        };
        if let Outcome::Doubt { reason } = outcome {
            return self.settled(reason, delivery, event).await;
        }
        outcome
    }
}

impl Sink for WebhookSink {
    fn batch(&self) -> usize {
        let places = self.settings.concurrency;
        self.sfs.as_ref().map_or(1, |sfs| sfs.takes(places))
    }

    fn concurrency(&self) -> usize {
        match &self.sfs {
            Some(sfs) if sfs.is_one_by_one() => 1,
            Some(_) | None => self.settings.concurrency,
        }
    }

    fn may_park(&self) -> bool {
        self.sfs.is_some()
    }

    async fn resume(
        &self,
        checkpoint: Option<Checkpoint>,
        orphans: Vec<Orphan>,
    ) -> Result<Resumed, Stopped> {
        // A keyed sink keeps none.
        drop(checkpoint);
        Ok(self.resumed(orphans).await)
    }

    async fn deliver(&self, parcels: &[Parcel], now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        if let Some(sfs) = &self.sfs {
            let (outcomes, status_codes) = self.deliver_sfs(sfs, parcels, now).await;
            return Ok(Delivered {
                outcomes,
                checkpoint: None,
                status_codes,
            });
        }
        let mut outcomes = Vec::with_capacity(parcels.len());
        let mut status_codes = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            let mut status_code = None;
            outcomes.push(self.attempt(parcel, now, &mut status_code).await);
            status_codes.push(status_code);
        }
        Ok(Delivered {
            outcomes,
            checkpoint: None,
            status_codes,
        })
    }
}

#[cfg(test)]
mod tests;
