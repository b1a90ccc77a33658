//! Every kind of sink as one type: the one place that knows them all. A new kind is its file, a variant and an arm.

use chrono::{DateTime, Utc};

use super::{
    Checkpoint, Delivered, ExecSink, FileSink, Orphan, Resumed, Secrets, Sink, StdoutError,
    StdoutSink, Stopped, WebhookError, WebhookSink,
};
use crate::config::{self, SecretRef, SinkKind, WebhookSignature};
use crate::domain::{Parcel, SinkName};

/// A sink of any kind.
pub enum AnySink {
    /// `kind = "file"`.
    File(FileSink),
    /// `kind = "stdout"`.
    Stdout(StdoutSink),
    /// `kind = "exec"`.
    Exec(ExecSink),
    /// `kind = "webhook"`.
    Webhook(Box<WebhookSink>),
}

/// Why a configured sink cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A secret that it needs cannot be read.
    #[error("sink {sink}: {setting}: {source}")]
    Secret {
        /// The sink.
        sink: SinkName,
        /// Where the configuration refers to the secret.
        setting: &'static str,
        /// Why.
        #[source]
        source: config::Unreadable,
    },
    /// Standard output is not fit for it.
    #[error("sink {sink}: {source}")]
    Stdout {
        /// The sink.
        sink: SinkName,
        /// Why.
        #[source]
        source: StdoutError,
    },
    /// The webhook's settings were refused.
    #[error("sink {sink}: {source}")]
    Webhook {
        /// The sink.
        sink: SinkName,
        /// Why.
        #[source]
        source: WebhookError,
    },
}

impl AnySink {
    /// Makes the sink that the configuration describes, and reads its secrets. Nothing is sent or written, and a
    /// file is opened only by [`Sink::resume`].
    pub fn open(sink: &config::Sink, http: &config::Http) -> Result<Self, OpenError> {
        let name = || sink.name.clone();
        let secret = |setting, reference: Option<&SecretRef>| {
            reference
                .map(SecretRef::read)
                .transpose()
                .map_err(|source| OpenError::Secret {
                    sink: name(),
                    setting,
                    source,
                })
        };
        match &sink.kind {
            SinkKind::File(settings) => Ok(Self::File(FileSink::new(name(), settings.clone()))),
            SinkKind::Exec(settings) => Ok(Self::Exec(ExecSink::new(settings.clone()))),
            SinkKind::Stdout => {
                StdoutSink::open()
                    .map(Self::Stdout)
                    .map_err(|source| OpenError::Stdout {
                        sink: name(),
                        source,
                    })
            }
            SinkKind::Webhook(settings) => {
                let signing = match &settings.signature {
                    WebhookSignature::Fullscript(secret) => Some(secret),
                    WebhookSignature::None => None,
                };
                let secrets = Secrets {
                    signing: secret("signature", signing)?,
                    challenge: secret("challenge", settings.challenge.as_ref())?,
                };
                WebhookSink::new(settings.clone(), secrets, http)
                    .map(|sink| Self::Webhook(Box::new(sink)))
                    .map_err(|source| OpenError::Webhook {
                        sink: name(),
                        source,
                    })
            }
        }
    }
}

impl Sink for AnySink {
    fn batch(&self) -> usize {
        match self {
            Self::File(sink) => sink.batch(),
            Self::Stdout(sink) => sink.batch(),
            Self::Exec(sink) => sink.batch(),
            Self::Webhook(sink) => sink.batch(),
        }
    }

    fn concurrency(&self) -> usize {
        match self {
            Self::File(sink) => sink.concurrency(),
            Self::Stdout(sink) => sink.concurrency(),
            Self::Exec(sink) => sink.concurrency(),
            Self::Webhook(sink) => sink.concurrency(),
        }
    }

    fn is_exact(&self) -> bool {
        match self {
            Self::File(sink) => sink.is_exact(),
            Self::Stdout(sink) => sink.is_exact(),
            Self::Exec(sink) => sink.is_exact(),
            Self::Webhook(sink) => sink.is_exact(),
        }
    }

    async fn resume(
        &self,
        checkpoint: Option<Checkpoint>,
        orphans: Vec<Orphan>,
    ) -> Result<Resumed, Stopped> {
        match self {
            Self::File(sink) => sink.resume(checkpoint, orphans).await,
            Self::Stdout(sink) => sink.resume(checkpoint, orphans).await,
            Self::Exec(sink) => sink.resume(checkpoint, orphans).await,
            Self::Webhook(sink) => sink.resume(checkpoint, orphans).await,
        }
    }

    async fn deliver(&self, parcels: &[Parcel], now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        match self {
            Self::File(sink) => sink.deliver(parcels, now).await,
            Self::Stdout(sink) => sink.deliver(parcels, now).await,
            Self::Exec(sink) => sink.deliver(parcels, now).await,
            Self::Webhook(sink) => sink.deliver(parcels, now).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ClinicSelection, OnDoubt, WebhookFormat};
    use crate::domain::{Pattern, Patterns};

    #[test]
    fn a_secret_that_cannot_be_read_names_the_sink_and_the_setting() {
        let sink = config::Sink {
            name: SinkName::new("ehr").unwrap(),
            clinics: ClinicSelection::All,
            matches: Patterns::new(vec![Pattern::new("*").unwrap()]),
            max_attempts: 6,
            give_up_after: Duration::from_hours(720),
            on_doubt: OnDoubt::Hold,
            kind: SinkKind::Webhook(config::WebhookSink {
                url: "http://localhost/".parse().unwrap(),
                format: WebhookFormat::Native,
                signature: WebhookSignature::Fullscript(SecretRef::Env(
                    "NOBODY_SETS_THIS".to_owned(),
                )),
                challenge: None,
                timeout: Duration::from_secs(1),
                concurrency: 1,
                allow_nets: Vec::new(),
                insecure_http: false,
            }),
        };
        let http = config::Http::default();
        let error = AnySink::open(&sink, &http).err().unwrap().to_string();
        assert!(error.starts_with("sink ehr: signature: "), "{error}");
    }
}
