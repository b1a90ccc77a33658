//! The configuration: what TOML can say (`file`), every problem at once (`check`), and the checked value that the
//! rest of the program takes. A [`Config`] exists only if nothing was wrong with it: no step checks it again.
//!
//! Secrets stand in it only as references ([`SecretRef`]); they are read when the program starts, after the whole
//! file was found good.

mod audit;
mod check;
mod duration;
mod enrich;
mod file;
mod id_url;
mod late;
mod load;
mod presets;
mod problem;
mod secret;
mod sfs;
mod stream;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use url::Url;

pub use self::audit::{Audit, Fingerprint};
pub use self::duration::{parse_duration, show_duration};
pub use self::enrich::{Enrich, Enrichment};
pub use self::id_url::{IdUrl, IdUrlError};
pub use self::late::LateResults;
pub use self::load::{Loaded, load, parse};
pub use self::presets::environments;
pub use self::problem::{Invalid, Problem};
pub use self::secret::{KeyBytes, Unreadable, shell_word};
pub use self::sfs::{Sfs, SfsMode};
pub use self::stream::{EntitySelection, Phi, STREAM, Stream, StreamSink, StreamToken};
use crate::domain::{Category, ClinicId, ClinicName, JsonPath, OrderBy, Patterns, SinkName};

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Fullscript servers and this program's app there.
    pub app: App,
    /// Where state lives and what seals it.
    pub state: State,
    /// How requests go out.
    pub http: Http,
    /// When and what is polled.
    pub poll: Poll,
    /// The clinics, in the order of the file.
    pub clinics: Vec<Clinic>,
    /// The sinks, in the order of the file.
    pub sinks: Vec<Sink>,
    /// What is said of events beside what the vendor says. Shared by whoever writes a body.
    pub enrich: Arc<Enrich>,
    /// The audit log; nothing is recorded where there is none.
    pub audit: Option<Audit>,
    /// Whether the text is the one of last time.
    pub fingerprint: Fingerprint,
    /// The live subscription, if there is one; as a sink it is the last of `sinks`.
    pub stream: Option<Stream>,
    /// Where late results are taken, if anywhere.
    pub late: Option<LateResults>,
}

impl Config {
    /// Every secret but the seal key, with the key of the file that refers to it: what a start must be able to read
    /// as text, and what the text must be. The seal key is read by [`SecretRef::read_key`].
    pub fn secrets(&self) -> Vec<(String, &SecretRef, Holds)> {
        let app = "app.client_secret".to_owned();
        let mut secrets = vec![(app, &self.app.client_secret, Holds::Text)];
        if let Some(late) = &self.late {
            secrets.push((
                "sfs.emr_api_key".to_owned(),
                &late.emr_api_key,
                Holds::Token,
            ));
        }
        for (index, sink) in self.sinks.iter().enumerate() {
            let mut add = |key, secret, holds| {
                secrets.push((format!("sinks[{index}].{key}"), secret, holds));
            };
            if let SinkKind::Webhook(webhook) = &sink.kind {
                match &webhook.signature {
                    WebhookSignature::Fullscript(secret) => add("secret", secret, Holds::Text),
                    WebhookSignature::Standard { secret, old_secret } => {
                        add("secret", secret, Holds::SigningKey);
                        if let Some(old) = old_secret {
                            add("old_secret", old, Holds::SigningKey);
                        }
                    }
                    WebhookSignature::None => {}
                }
                match &webhook.auth {
                    Some(WebhookAuth::Basic { password, .. }) => {
                        add("auth.password", password, Holds::Password);
                    }
                    Some(WebhookAuth::Bearer(token)) => add("auth.bearer", token, Holds::Token),
                    None => {}
                }
                if let Some(client) = &webhook.client {
                    add("client_key", &client.key, Holds::PrivateKey);
                }
                if let Some(challenge) = &webhook.challenge {
                    add("challenge", challenge, Holds::Text);
                }
            }
        }
        let tokens = self.stream.iter().flat_map(|stream| &stream.tokens);
        for (index, token) in tokens.enumerate() {
            let key = format!("stream.tokens[{index}].token");
            secrets.push((key, &token.token, Holds::Token));
        }
        secrets
    }
}

/// What the text of a secret must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Anything.
    Text,
    /// A key of Standard Webhooks.
    SigningKey,
    /// A token that a header can carry.
    Token,
    /// A password without control characters.
    Password,
    /// A private key in PEM, on more than one line.
    PrivateKey,
}

/// `[app]`: one Fullscript app (`fullscript-api.md` §3, §4).
#[derive(Clone, Debug)]
pub struct App {
    /// The preset's name (`us`, `ca`, `us-sandbox`, `ca-sandbox`) or `custom`.
    pub environment: String,
    /// Base of the REST API, ending in `/api`, without a trailing slash.
    pub api_base: Url,
    /// The page where a user grants access.
    pub authorize_url: Url,
    /// The token endpoint.
    pub token_url: Url,
    /// The revocation endpoint.
    pub revoke_url: Url,
    /// The app's client id.
    pub client_id: String,
    /// The app's client secret.
    pub client_secret: SecretRef,
    /// Exactly as registered in Fullscript's dashboard.
    pub redirect_uri: Url,
}

impl App {
    /// What a state directory is bound to: the servers and the app there.
    pub fn identity(&self) -> String {
        format!("{} {}", self.api_base, self.client_id)
    }
}

/// `[state]`.
#[derive(Clone, Debug)]
pub struct State {
    /// The state directory: ledger and lock.
    pub directory: PathBuf,
    /// The 32-byte key that seals tokens and bodies at rest.
    pub seal_key: SecretRef,
    /// Whether events that wait are kept.
    pub bodies: Bodies,
    /// Whether a copy on another machine does nothing until somebody takes it over.
    pub bind_host: bool,
}

/// Whether events that wait for a sink are kept, sealed (`ARCHITECTURE.md`, "Bodies").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// Until every delivery of them is settled.
    UntilSettled,
    /// Not at all: each attempt fetches its event again.
    Never,
}

/// `[http]`.
#[derive(Clone, Debug, Default)]
pub struct Http {
    /// The outbound proxy, for Fullscript and webhooks alike.
    pub proxy: Option<Url>,
    /// Whether `HTTPS_PROXY` and its kin are honoured.
    pub proxy_from_environment: bool,
    /// A PEM file of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// `[poll]` (`ARCHITECTURE.md`, "Polling").
#[derive(Clone, Debug)]
pub struct Poll {
    /// Time between two fast sweeps of a lane.
    pub interval: Duration,
    /// Time between two deep sweeps (3 days) of a lane.
    pub deep_interval: Duration,
    /// Time between two reconciling sweeps (30 days) of a lane.
    pub reconcile_interval: Duration,
    /// What the first poll of a lane does with what is already there.
    pub first_run: FirstRun,
    /// The categories that a clinic without a list of its own is polled for.
    pub categories: Vec<Category>,
    /// The request budget that all clinics share.
    pub budget: Budget,
    /// Requests of one clinic in flight at once. Per clinic, so that one whose server hangs takes nobody else's place.
    pub concurrency: usize,
}

/// `[poll.budget]` (`fullscript-api.md` §5).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Requests that Fullscript allows per window.
    pub requests: u32,
    /// The rolling window.
    pub window: Duration,
    /// Requests per window left to the rest of the integration.
    pub reserve: u32,
    /// The most requests per window that a backfill may take.
    pub backfill: u32,
}

/// What the first poll of a lane does with what is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstRun {
    /// It is marked as seen and not delivered.
    Baseline,
    /// What is younger than this is delivered, the rest is marked.
    Since(Duration),
}

/// `[[clinics]]`.
#[derive(Clone, Debug)]
pub struct Clinic {
    /// What logs, commands and sinks call it.
    pub name: ClinicName,
    /// The Fullscript clinic it must be, if the file says so; else the login pins it.
    pub clinic_id: Option<ClinicId>,
    /// What is polled for it.
    pub categories: Vec<Category>,
}

/// `[[sinks]]`: what every sink has, and its kind.
#[derive(Clone, Debug)]
pub struct Sink {
    /// The backlog belongs to this name.
    pub name: SinkName,
    /// Which clinics' events it gets.
    pub clinics: ClinicSelection,
    /// Which event types it gets.
    pub matches: Patterns,
    /// After so many answers of *no* a delivery is dead.
    pub max_attempts: u32,
    /// After so long without a yes a delivery is dead.
    pub give_up_after: Duration,
    /// What becomes of a delivery that may have arrived.
    pub on_doubt: OnDoubt,
    /// In which order it gets them.
    pub order_by: OrderBy,
    /// How long one delivery may hold back the later ones of its key.
    pub order_wait: Duration,
    /// Where the events go.
    pub kind: SinkKind,
}

/// A sink's `clinics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClinicSelection {
    /// `["*"]`, or nothing said while there is one clinic.
    All,
    /// These.
    Named(BTreeSet<ClinicName>),
}

impl ClinicSelection {
    /// Whether a clinic's events may go there.
    pub fn contains(&self, clinic: &ClinicName) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(clinic),
        }
    }
}

/// A sink's `on_doubt` (`ARCHITECTURE.md`, "The promise").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDoubt {
    /// Never twice: a person settles it.
    Hold,
    /// Never lost: it is sent again.
    Resend,
}

/// A sink's `kind` with what only that kind has.
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines in a file.
    File(FileSink),
    /// Rows in a SQLite database.
    Sqlite(SqliteSink),
    /// A program per event.
    Exec(ExecSink),
    /// An HTTP POST per event.
    Webhook(Box<WebhookSink>),
    /// Frames of the live subscription: the one sink that `[stream]` is.
    Stream(StreamSink),
}

impl SinkKind {
    /// What the configuration calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Sqlite(_) => "sqlite",
            Self::Exec(_) => "exec",
            Self::Webhook(_) => "webhook",
            Self::Stream(_) => "stream",
        }
    }
}

/// `kind = "file"`.
#[derive(Clone, Debug)]
pub struct FileSink {
    /// Where the lines go.
    pub path: PathBuf,
    /// Permissions of the file, such as `0o640`.
    pub mode: u32,
    /// The group that owns the file, by name or number; unchanged if absent.
    pub group: Option<String>,
    /// Whether a finished UTC day is renamed to `<path>.<yyyy-mm-dd>`.
    pub rotate_daily: bool,
}

/// `kind = "sqlite"`.
#[derive(Clone, Debug)]
pub struct SqliteSink {
    /// The database.
    pub path: PathBuf,
    /// Permissions of the database where it is made, such as `0o640`.
    pub mode: u32,
    /// The group that owns it, by name or number; unchanged if absent.
    pub group: Option<String>,
    /// Where in it the events go.
    pub into: SqliteInto,
}

/// Where in a database the events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqliteInto {
    /// The documented table (`docs/sqlite.md`), under this name.
    Table(String),
    /// The operator's own tables, by this statement for each event.
    Statement(String),
}

/// `kind = "exec"`.
#[derive(Clone, Debug)]
pub struct ExecSink {
    /// The program and its arguments; no shell.
    pub command: Vec<String>,
    /// How long it may run before its process group is killed.
    pub timeout: Duration,
    /// How many may run at once.
    pub concurrency: usize,
}

/// `kind = "webhook"`.
#[derive(Clone, Debug)]
pub struct WebhookSink {
    /// Where it is posted.
    pub url: Url,
    /// The shape of the body.
    pub format: WebhookFormat,
    /// Smart Flow Sheet's shape, in the place of `format`.
    pub sfs: Option<Sfs>,
    /// How much of an event it carries.
    pub payload: WebhookPayload,
    /// How it is signed.
    pub signature: WebhookSignature,
    /// Whether an `Idempotency-Key` goes with each attempt, and how.
    pub idempotency_key: IdempotencyKey,
    /// Further headers of each request. None of them is secret, nor one that the program sets itself.
    pub headers: HeaderMap,
    /// Who is asking, if the receiver wants to know.
    pub auth: Option<WebhookAuth>,
    /// The token that the receiver must echo as `{"challenge": …}`; unchecked if absent.
    pub challenge: Option<SecretRef>,
    /// Whether the receiver must answer an empty POST with the challenge before it gets an event.
    pub preflight: bool,
    /// Where the receiver says whether it has an event, to settle a doubt.
    pub probe_url: Option<IdUrl>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How many may be in flight at once.
    pub concurrency: usize,
    /// A PEM file of authorities that are trusted for this receiver, besides the system's and those of `[http]`.
    pub ca_file: Option<PathBuf>,
    /// What the receiver knows us by, if it asks for a certificate.
    pub client: Option<ClientCertificate>,
    /// Private networks that this receiver may live in, as CIDR blocks. Loopback needs none.
    pub allow_nets: Vec<String>,
    /// Whether plain http to something else than loopback was allowed aloud.
    pub insecure_http: bool,
}

/// The shape of a webhook's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    /// `{"event": …}`, as Fullscript posts it (`fullscript-api.md` §6).
    Fullscript,
    /// `{"event_payload":{"event": …}}`, as the vendor's guide shows it (`fullscript-api.md` §6).
    EventPayload,
    /// This program's own shape, the same as a line of a file sink.
    Native,
    /// As [CloudEvents](https://cloudevents.io) 1.0 says, in structured mode.
    CloudEvents,
    /// An `EHREvent` of HealthChain (`docs/healthchain.md`).
    HealthChain,
}

/// How much of an event a webhook carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookPayload {
    /// Its `data`, or a part of it.
    Data {
        /// Only what these name; all of it where there are none.
        only: Vec<JsonPath>,
        /// Nothing that these name.
        redact: Vec<JsonPath>,
    },
    /// No `data` at all.
    Ids,
}

impl Default for WebhookPayload {
    /// All of `data`.
    fn default() -> Self {
        Self::Data {
            only: Vec::new(),
            redact: Vec::new(),
        }
    }
}

/// How a webhook is signed.
#[derive(Clone, Debug)]
pub enum WebhookSignature {
    /// `Fullscript-Signature`, exactly the vendor's (`fullscript-api.md` §6), with this secret.
    Fullscript(SecretRef),
    /// As Standard Webhooks 1.0 says.
    Standard {
        /// The current key.
        secret: SecretRef,
        /// The one before, which signs too for as long as receivers may still verify with it.
        old_secret: Option<SecretRef>,
    },
    /// Not at all.
    None,
}

/// A certificate for mutual TLS.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// A PEM file: the certificate, and its chain behind it.
    pub certificate: PathBuf,
    /// Its private key, in PEM and without a passphrase.
    pub key: SecretRef,
}

/// How a webhook's `Idempotency-Key` is written, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdempotencyKey {
    /// There is none.
    None,
    /// In quotes, as the draft of the IETF says (`draft-ietf-httpapi-idempotency-key-header`).
    Quoted,
    /// As it is, for receivers that compare the whole header.
    Bare,
}

/// Who is asking, in a webhook's `Authorization` header.
#[derive(Clone, Debug)]
pub enum WebhookAuth {
    /// A user and a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: SecretRef,
    },
    /// A token.
    Bearer(SecretRef),
}

/// Where a secret is to be found. Never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// A systemd credential of this name (`$CREDENTIALS_DIRECTORY`, else the system's credential store).
    Credential(String),
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}
