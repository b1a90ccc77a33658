//! Every kind of sink as one type: the one place that knows them all. A new kind is its file, a variant and an arm.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{
    Checkpoint, Delivered, ExecSink, FileSink, Orphan, Ports, Resumed, Secrets, Signing, Sink,
    SqliteSink, StdoutError, StdoutSink, Stopped, StreamSink, WebhookError, WebhookSink,
};
use crate::config::{self, Enrich, SecretRef, SinkKind, WebhookAuth, WebhookSignature};
use crate::domain::{Parcel, SinkName};
use crate::format::authorization;
use crate::format::standard::{self, NotAKey};

/// A sink of any kind.
pub enum AnySink {
    /// `kind = "file"`.
    File(FileSink),
    /// `kind = "sqlite"`.
    Sqlite(SqliteSink),
    /// `kind = "stdout"`.
    Stdout(StdoutSink),
    /// `kind = "exec"`.
    Exec(ExecSink),
    /// `[stream]`.
    Stream(StreamSink),
    /// `kind = "webhook"`.
    Webhook(Box<WebhookSink>),
}

/// What a secret is not.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A key of Standard Webhooks.
    #[error("holds no signing key: {0}; wanted is {wanted}", wanted = standard::WANTED)]
    Key(#[from] NotAKey),
    /// What a header can carry.
    #[error(transparent)]
    Authorization(#[from] authorization::Unsendable),
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
    /// A secret was read and is not what it should be.
    #[error("sink {sink}: {setting}: {reference} {source}")]
    Unusable {
        /// The sink.
        sink: SinkName,
        /// Where the configuration refers to the secret.
        setting: &'static str,
        /// Where the secret is.
        reference: SecretRef,
        /// Why.
        #[source]
        source: Unusable,
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
    /// file is opened only by [`Sink::resume`]. `state` is the state directory, `enrich` what the operator says of events.
    pub fn open(
        sink: &config::Sink,
        http: &config::Http,
        state: &Path,
        ports: &Ports,
        enrich: &Arc<Enrich>,
    ) -> Result<Self, OpenError> {
        let name = || sink.name.clone();
        let enrich = Arc::clone(enrich);
        match &sink.kind {
            SinkKind::File(settings) => {
                let sink = FileSink::new(name(), settings.clone());
                Ok(Self::File(sink.enriched(enrich)))
            }
            SinkKind::Sqlite(settings) => {
                let sink = SqliteSink::new(name(), settings.clone());
                Ok(Self::Sqlite(sink.enriched(enrich)))
            }
            SinkKind::Exec(settings) => {
                let recorder = Arc::clone(&ports.recorder);
                let sink = ExecSink::new(name(), settings.clone(), state, recorder);
                Ok(Self::Exec(sink.enriched(enrich)))
            }
            SinkKind::Stream(settings) => {
                let frames = Arc::clone(&ports.frames);
                Ok(Self::Stream(StreamSink::new(settings.clone(), frames)))
            }
            SinkKind::Stdout => StdoutSink::open()
                .map(|sink| Self::Stdout(sink.enriched(enrich)))
                .map_err(|source| OpenError::Stdout {
                    sink: name(),
                    source,
                }),
            SinkKind::Webhook(settings) => {
                let secrets = webhook_secrets(&sink.name, settings)?;
                WebhookSink::new((**settings).clone(), secrets, http)
                    .map(|sink| sink.enriched(enrich).with_ports(name(), ports))
                    .map(|sink| Self::Webhook(Box::new(sink)))
                    .map_err(|source| OpenError::Webhook {
                        sink: name(),
                        source,
                    })
            }
        }
    }
}

/// Reads what a webhook's configuration refers to, and what it has to be.
fn webhook_secrets(sink: &SinkName, settings: &config::WebhookSink) -> Result<Secrets, OpenError> {
    let unreadable = |setting, source| OpenError::Secret {
        sink: sink.clone(),
        setting,
        source,
    };
    let secret = |setting, reference: &SecretRef| {
        let read = reference.read();
        read.map_err(|source| unreadable(setting, source))
    };
    let unusable = |setting, reference: &SecretRef, source| OpenError::Unusable {
        sink: sink.clone(),
        setting,
        reference: reference.clone(),
        source,
    };
    let key = |setting, reference: &SecretRef| {
        let key = standard::Key::parse(&secret(setting, reference)?);
        key.map_err(|source| unusable(setting, reference, source.into()))
    };
    let signing = match &settings.signature {
        WebhookSignature::Fullscript(reference) => {
            Signing::Fullscript(secret("signature", reference)?)
        }
        WebhookSignature::Standard {
            secret: current,
            old_secret,
        } => {
            let mut keys = vec![key("secret", current)?];
            if let Some(old) = old_secret {
                keys.push(key("old_secret", old)?);
            }
            Signing::Standard(keys)
        }
        WebhookSignature::None => Signing::None,
    };
    let authorization = match &settings.auth {
        Some(WebhookAuth::Basic { user, password }) => {
            let value = authorization::basic(user, &secret("auth.password", password)?);
            Some(value.map_err(|source| unusable("auth.password", password, source.into()))?)
        }
        Some(WebhookAuth::Bearer(token)) => {
            let value = authorization::bearer(&secret("auth.bearer", token)?);
            Some(value.map_err(|source| unusable("auth.bearer", token, source.into()))?)
        }
        None => None,
    };
    let client_key = settings.client.as_ref().map(|client| {
        let read = client.key.read_whole();
        read.map_err(|source| unreadable("client_key", source))
    });
    let challenge = settings.challenge.as_ref();
    let challenge = challenge.map(|reference| secret("challenge", reference));
    let clinic_keys = settings.sfs.iter().flat_map(|sfs| &sfs.clinic_keys);
    let clinic_keys = clinic_keys.map(|(clinic, reference)| {
        let key = secret("sfs.clinic_keys", reference)?;
        Ok((clinic.clone(), key))
    });
    Ok(Secrets {
        signing,
        authorization,
        client_key: client_key.transpose()?,
        challenge: challenge.transpose()?,
        clinic_keys: clinic_keys.collect::<Result<_, _>>()?,
    })
}

impl Sink for AnySink {
    fn batch(&self) -> usize {
        match self {
            Self::File(sink) => sink.batch(),
            Self::Sqlite(sink) => sink.batch(),
            Self::Stdout(sink) => sink.batch(),
            Self::Exec(sink) => sink.batch(),
            Self::Stream(sink) => sink.batch(),
            Self::Webhook(sink) => sink.batch(),
        }
    }

    fn concurrency(&self) -> usize {
        match self {
            Self::File(sink) => sink.concurrency(),
            Self::Sqlite(sink) => sink.concurrency(),
            Self::Stdout(sink) => sink.concurrency(),
            Self::Exec(sink) => sink.concurrency(),
            Self::Stream(sink) => sink.concurrency(),
            Self::Webhook(sink) => sink.concurrency(),
        }
    }

    fn is_exact(&self) -> bool {
        match self {
            Self::File(sink) => sink.is_exact(),
            Self::Sqlite(sink) => sink.is_exact(),
            Self::Stdout(sink) => sink.is_exact(),
            Self::Exec(sink) => sink.is_exact(),
            Self::Stream(sink) => sink.is_exact(),
            Self::Webhook(sink) => sink.is_exact(),
        }
    }

    fn may_park(&self) -> bool {
        match self {
            Self::File(sink) => sink.may_park(),
            Self::Sqlite(sink) => sink.may_park(),
            Self::Stdout(sink) => sink.may_park(),
            Self::Exec(sink) => sink.may_park(),
            Self::Stream(sink) => sink.may_park(),
            Self::Webhook(sink) => sink.may_park(),
        }
    }

    async fn resume(
        &self,
        checkpoint: Option<Checkpoint>,
        orphans: Vec<Orphan>,
    ) -> Result<Resumed, Stopped> {
        match self {
            Self::File(sink) => sink.resume(checkpoint, orphans).await,
            Self::Sqlite(sink) => sink.resume(checkpoint, orphans).await,
            Self::Stdout(sink) => sink.resume(checkpoint, orphans).await,
            Self::Exec(sink) => sink.resume(checkpoint, orphans).await,
            Self::Stream(sink) => sink.resume(checkpoint, orphans).await,
            Self::Webhook(sink) => sink.resume(checkpoint, orphans).await,
        }
    }

    async fn deliver(&self, parcels: &[Parcel], now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        match self {
            Self::File(sink) => sink.deliver(parcels, now).await,
            Self::Sqlite(sink) => sink.deliver(parcels, now).await,
            Self::Stdout(sink) => sink.deliver(parcels, now).await,
            Self::Exec(sink) => sink.deliver(parcels, now).await,
            Self::Stream(sink) => sink.deliver(parcels, now).await,
            Self::Webhook(sink) => sink.deliver(parcels, now).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::config::{ClinicSelection, OnDoubt, WebhookFormat};
    use crate::domain::{OrderBy, Pattern, Patterns};

    fn sink(signature: WebhookSignature) -> config::Sink {
        config::Sink {
            name: SinkName::new("ehr").unwrap(),
            clinics: ClinicSelection::All,
            matches: Patterns::new(vec![Pattern::new("*").unwrap()]),
            max_attempts: 6,
            give_up_after: Duration::from_hours(720),
            on_doubt: OnDoubt::Hold,
            order_by: OrderBy::None,
            order_wait: Duration::from_hours(1),
            kind: SinkKind::Webhook(Box::new(config::WebhookSink {
                url: "http://localhost/".parse().unwrap(),
                format: WebhookFormat::Native,
                sfs: None,
                payload: config::WebhookPayload::default(),
                signature,
                idempotency_key: config::IdempotencyKey::None,
                headers: http::HeaderMap::new(),
                auth: None,
                challenge: None,
                preflight: false,
                probe_url: None,
                timeout: Duration::from_secs(1),
                concurrency: 1,
                ca_file: None,
                client: None,
                allow_nets: Vec::new(),
                insecure_http: false,
            })),
        }
    }

    fn complaint(signature: WebhookSignature) -> String {
        refusal(&sink(signature))
    }

    fn refusal(sink: &config::Sink) -> String {
        let http = config::Http::default();
        let opened = AnySink::open(
            sink,
            &http,
            Path::new("/nowhere"),
            &Ports::default(),
            &Arc::default(),
        );
        opened.err().unwrap().to_string()
    }

    #[test]
    fn a_secret_that_cannot_be_read_names_the_sink_and_the_setting() {
        let nowhere = SecretRef::Env("NOBODY_SETS_THIS".to_owned());
        let error = complaint(WebhookSignature::Fullscript(nowhere));
        assert!(error.starts_with("sink ehr: signature: "), "{error}");
    }

    #[test]
    fn a_secret_that_is_no_signing_key_names_the_setting_and_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            SecretRef::File(path)
        };
        let good = file("good", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let bad = file("bad", "whsec_s3cr3t!");
        let short = file("short", "whsec_czNjcjN0");
        for (secret, old_secret, setting, words) in [
            (
                &bad,
                None,
                "secret",
                "bad holds no signing key: its text is not base64",
            ),
            (
                &good,
                Some(&short),
                "old_secret",
                "short holds no signing key: it has 6 bytes",
            ),
        ] {
            let error = complaint(WebhookSignature::Standard {
                secret: secret.clone(),
                old_secret: old_secret.cloned(),
            });
            assert!(
                error.starts_with(&format!("sink ehr: {setting}: file /")),
                "{error}"
            );
            assert!(error.contains(words), "{error}");
            assert!(
                !error.contains("s3cr3t") && !error.contains("czNj"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_secret_that_no_header_can_carry_names_the_setting_and_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, "s3cr3t\u{7}s3cr3t").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let reference = || SecretRef::File(path.clone());
        let user = "relay".to_owned();
        for (auth, words) in [
            (
                WebhookAuth::Bearer(reference()),
                "auth.bearer: file / holds no token",
            ),
            (
                WebhookAuth::Basic {
                    user,
                    password: reference(),
                },
                "auth.password: file / holds no password",
            ),
        ] {
            let mut sink = sink(WebhookSignature::None);
            if let SinkKind::Webhook(settings) = &mut sink.kind {
                settings.auth = Some(auth);
            }
            let error = refusal(&sink);
            let error = error.replace(path.to_str().unwrap(), "/");
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }
}
