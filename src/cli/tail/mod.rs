//! `tail`: watch events as they happen, over the live subscription of a running daemon (`docs/icure.md`).
//!
//! A lost connection is made again behind the last frame that was printed, so that none is missed and none is shown twice.
//! Where that cannot be promised any more (the frames are gone), it ends and says so.

mod events;
mod frame;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::{Host, Url};

use super::output::{self, Paint};
use super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::config::{self, SecretRef};
use crate::http;
use events::Reader;
use frame::Frame;

/// A sign of life comes every 15 s; without one for so long the connection is made again.
const SILENCE: Duration = Duration::from_secs(45);
/// No connection is kept for longer: it goes on in a new one.
const LONGEST: Duration = Duration::from_hours(24 * 30);
/// The wait before a lost connection is made again; doubled each time it fails.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The longest refusal that is read.
const LONGEST_REFUSAL: usize = 64 << 10;

/// Arguments of `tail`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Needs [stream] in the configuration, and a running daemon.\n\
                  The lines hold ids, types and times; --json prints frames whole,\n\
                  with what the token may see of the events.\n\n\
                  Examples: fullscript-events tail --type 'order.*' --clinic oak-street\n          \
                  fullscript-events tail --after oldest --json"
)]
pub(super) struct Args {
    /// Only events one of whose names fits: `order.placed`, `patient.*`, `fhir.careplan.*`.
    #[arg(long = "type", value_name = "PATTERN")]
    event_type: Option<String>,
    /// Only events of this clinic.
    #[arg(long, value_name = "NAME")]
    clinic: Option<String>,
    /// Begin behind this seq of an earlier frame, or with the `oldest` that is kept; without it with what comes now.
    #[arg(long, value_name = "SEQ")]
    after: Option<String>,
    /// Print each frame of an event as it came: one JSON object per line.
    #[arg(long)]
    json: bool,
    /// End when the connection is lost, instead of going on where it was.
    #[arg(long)]
    no_resume: bool,
    /// Subscribe with this token of [[stream.tokens]]; without it with the first.
    #[arg(long = "as", value_name = "NAME", conflicts_with = "url")]
    token: Option<String>,
    /// Subscribe to a daemon elsewhere, without a configuration: the address in front of its /v1/stream.
    #[arg(long, value_name = "URL", requires = "token_file")]
    url: Option<Url>,
    /// With --url: the file whose first line is the token.
    #[arg(long, value_name = "PATH", requires = "url")]
    token_file: Option<PathBuf>,
}

/// Whom to ask, and as whom.
struct Source {
    client: Client,
    url: Url,
    token: SecretString,
    /// Where the token is from, in words.
    token_is: String,
    program: String,
}

/// Why a connection brings nothing more.
enum Ended {
    /// It may be made again.
    Lost(String),
    /// The reader of our output has seen enough.
    Unread,
}

/// What was printed so far.
struct Shown {
    json: bool,
    paint: Paint,
    heading: bool,
    /// The seq of the last frame.
    last: Option<String>,
}

/// Runs `tail`.
pub(super) fn run(path: &Path, args: &Args) -> CommandResult {
    let source = source(path, args)?;
    on_runtime(async {
        tokio::select! {
            ended = follow(&source, args) => ended,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        }
    })
}

fn source(path: &Path, args: &Args) -> Result<Source, Failure> {
    let program = output::program(path);
    let (base, token, token_is, http) = match (&args.url, &args.token_file) {
        (Some(url), Some(file)) => {
            if url.scheme() != "https" && !is_this_machine(url) {
                return Err(Failure::new(
                    Exit::Usage,
                    format!(
                        "{url}: https is wanted, or http to this machine: the token and health data would cross the network in the clear"
                    ),
                ));
            }
            let token_is = format!("the token in {}", file.display());
            let token = SecretRef::File(file.clone());
            (url.clone(), token, token_is, config::Http::default())
        }
        _ => configured_source(path, args.token.as_deref(), &program)?,
    };
    let mut url = base;
    let folder = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{folder}/v1/stream"));
    {
        let mut query = url.query_pairs_mut();
        query.clear();
        if let Some(pattern) = &args.event_type {
            query.append_pair("name", pattern);
        }
        if let Some(clinic) = &args.clinic {
            query.append_pair("clinic", clinic);
        }
    }
    let unexpected = |error: &dyn std::fmt::Display| Failure::new(Exit::Unexpected, error);
    let client = http::builder(&http, LONGEST).map_err(|error| unexpected(&error))?;
    let client = client.read_timeout(SILENCE).build();
    Ok(Source {
        client: client.map_err(|error| unexpected(&error.without_url()))?,
        url,
        token: token
            .read()
            .map_err(|error| Failure::new(Exit::Config, format!("{token_is}: {error}")))?,
        token_is,
        program,
    })
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(v4)) => v4.is_loopback(),
        Some(Host::Ipv6(v6)) => v6.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The daemon of this configuration, on this machine: asked without a proxy.
fn configured_source(
    path: &Path,
    name: Option<&str>,
    program: &str,
) -> Result<(Url, SecretRef, String, config::Http), Failure> {
    let config = configured(path)?;
    let Some(stream) = config.stream else {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "{}: there is no [stream]: add it with a token (config.example.toml shows how), restart the daemon; what \
                 happened so far: `{program} events list`",
                path.display()
            ),
        ));
    };
    let names: Vec<&str> = stream.tokens.iter().map(|t| t.name.as_str()).collect();
    let token = match name {
        None => stream.tokens.first(),
        Some(name) => stream.tokens.iter().find(|token| token.name == name),
    };
    let Some(token) = token else {
        return Err(Failure::new(
            Exit::NotFound,
            format!(
                "there is no token {:?} in [[stream.tokens]]; there are: {}",
                name.unwrap_or_default(),
                names.join(", ")
            ),
        ));
    };
    let mut listen = stream.listen;
    if listen.ip().is_unspecified() {
        listen.set_ip(if listen.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    let url = Url::parse(&format!("http://{listen}"));
    let url = url.map_err(|error| Failure::new(Exit::Unexpected, error))?;
    let token_is = format!("the token {:?} of [[stream.tokens]]", token.name);
    Ok((url, token.token.clone(), token_is, config::Http::default()))
}

/// Prints what comes, over as many connections as it takes.
async fn follow(source: &Source, args: &Args) -> CommandResult {
    let mut shown = Shown {
        json: args.json,
        paint: Paint::for_stdout(),
        heading: false,
        last: args.after.clone(),
    };
    let mut has_been_connected = false;
    let mut wait = FIRST_WAIT;
    loop {
        let resumes = shown.last.is_some();
        let lost = match connect(source, shown.last.as_deref()).await? {
            Ok(response) => {
                if !has_been_connected {
                    eprintln!("Subscribed; events appear as they happen. Ctrl-C ends.");
                } else if wait > FIRST_WAIT {
                    eprintln!("{}", connected_again(resumes));
                }
                has_been_connected = true;
                wait = FIRST_WAIT;
                match read(response, &mut shown).await? {
                    Ended::Unread => return Ok(Exit::Done),
                    Ended::Lost(why) => why,
                }
            }
            Err(why) if !has_been_connected => return Err(unreachable(source, &why)),
            Err(why) => why,
        };
        if args.no_resume {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("the connection is lost ({lost}){}", goes_on(&shown)),
            ));
        }
        if wait == FIRST_WAIT {
            eprintln!("The connection is lost ({lost}): trying again.");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// What is said of a connection that was made again, behind the last seq or with what comes now.
fn connected_again(resumes: bool) -> &'static str {
    if resumes {
        "Connected again; nothing was missed."
    } else {
        "Connected again with what comes now: events may have been missed meanwhile."
    }
}

fn goes_on(shown: &Shown) -> String {
    let last = shown.last.as_ref();
    last.map_or(String::new(), |seq| {
        format!("; to go on there: --after {seq}")
    })
}

fn unreachable(source: &Source, why: &str) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!(
            "nobody can be subscribed to at {} ({why}): does the daemon run? `{} status` tells",
            source.url.origin().ascii_serialization(),
            source.program
        ),
    )
}

/// What a refusal says.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Connects. `Err` inside: not now, but it may be tried again.
async fn connect(
    source: &Source,
    after: Option<&str>,
) -> Result<Result<Response, String>, Failure> {
    let mut url = source.url.clone();
    if let Some(after) = after {
        url.query_pairs_mut().append_pair("after", after);
    }
    if url.query() == Some("") {
        url.set_query(None);
    }
    let authorization = format!("Bearer {}", source.token.expose_secret());
    let request = source.client.get(url).header(AUTHORIZATION, authorization);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Ok(Err("nobody listens there".to_owned())),
        Err(_) => return Ok(Err("no answer".to_owned())),
    };
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(Ok(response));
    }
    let body = http::read_body(response, LONGEST_REFUSAL).await;
    let refusal: Option<Refusal> = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    let told = refusal.map_or_else(|| format!("HTTP {}", status.as_u16()), |told| told.message);
    let exit = match status {
        StatusCode::UNAUTHORIZED => {
            let why = format!(
                "{} is refused: is the daemon running with this configuration?",
                source.token_is
            );
            return Err(Failure::new(Exit::Config, why));
        }
        // Events are missing between what was printed and what could be.
        StatusCode::GONE => Exit::Partial,
        StatusCode::NOT_FOUND => {
            let why = format!("what listens at {} is no event stream of ours", source.url);
            return Err(Failure::new(Exit::Unavailable, why));
        }
        status if status.is_client_error() => Exit::Usage,
        _ => return Ok(Err(told)),
    };
    Err(Failure::new(exit, told))
}

/// Prints the frames of one connection.
async fn read(mut response: Response, shown: &mut Shown) -> Result<Ended, Failure> {
    let mut reader = Reader::default();
    let mut said = "it was closed".to_owned();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                if let Err(error) = reader.take(&bytes) {
                    return Err(Failure::new(Exit::Unavailable, error));
                }
            }
            Ok(None) => return Ok(Ended::Lost(said)),
            Err(error) if error.is_timeout() => {
                return Ok(Ended::Lost("no sign of life".to_owned()));
            }
            Err(_) => return Ok(Ended::Lost("it broke off".to_owned())),
        }
        while let Some(event) = reader.next() {
            match Frame::read(&event.data) {
                Some(Frame::Event(happened)) => {
                    let line = if shown.json {
                        event.data
                    } else {
                        happened.line(shown.paint)
                    };
                    if !shown.print(&line)? {
                        return Ok(Ended::Unread);
                    }
                }
                Some(Frame::Status(stands)) if stands.status == "CLOSED" => {
                    said = (stands.message).or(stands.reason).unwrap_or(said);
                }
                Some(Frame::Status(stands)) => {
                    let sees_ids = stands.phi.as_deref() == Some("ids");
                    if sees_ids && shown.json && shown.last.is_none() {
                        eprintln!("This token sees ids only: no frame holds what is in an event.");
                    }
                }
                // What a later version sends; but of an event nobody shall believe that there was none.
                None if !frame::is_event(&event.data) => {}
                None if shown.json => {
                    if !shown.print(&event.data)? {
                        return Ok(Ended::Unread);
                    }
                }
                None => eprintln!(
                    "An event came that this version cannot read: --json prints it as it is."
                ),
            }
            // Printed first: what is not printed is asked for again.
            shown.last = event.id.or(shown.last.take());
        }
    }
}

impl Shown {
    /// Prints a line; gives whether anybody still reads.
    fn print(&mut self, line: &str) -> Result<bool, Failure> {
        let mut text = String::with_capacity(line.len() + 1);
        if !self.json && !self.heading {
            text.push_str(&frame::heading(self.paint));
            text.push('\n');
        }
        self.heading = true;
        text.push_str(line);
        text.push('\n');
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::new(
                Exit::Unexpected,
                format!("standard output cannot be written: {error}"),
            )),
        }
    }
}
