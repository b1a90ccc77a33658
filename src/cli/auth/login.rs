//! `auth login`: a person grants access in the browser.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use url::Url;

use super::session::{Session, exit_of, told};
use super::{CommandResult, Exit, Failure, callback};

/// How long a person may take.
const PATIENCE: Duration = Duration::from_mins(15);

/// Arguments of `auth login`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The clinic, as the configuration names it.
    clinic: String,
    /// Only print the URL: do not open a browser.
    #[arg(long)]
    no_browser: bool,
    /// Do not listen for the browser: ask for the address that it ended at.
    #[arg(long)]
    paste: bool,
}

/// Runs `auth login`.
pub(super) async fn run(config: &Path, args: &Args) -> CommandResult {
    let session = Session::open_or_create(config)?;
    let (clinic, configured) = session.clinic(&args.clinic)?;
    let tokens = session.tokens().await?;
    let redirect_uri = &session.config.app.redirect_uri;
    let address = callback::address_of(redirect_uri).filter(|_| !args.paste);
    let listener = match address {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            Failure::new(
                Exit::Unavailable,
                format!("cannot listen on {address} for the browser ({error}): end what uses that port, or use --paste"),
            )
        })?),
        None => None,
    };
    let (url, state) = tokens.authorize_url();
    eprintln!("Log in as a user of {clinic} and allow access:\n\n  {url}\n");
    if !args.no_browser {
        open(&url);
    }
    let waiting = async {
        match listener {
            Some(listener) => callback::wait(listener, redirect_uri, state)
                .await
                .map_err(|declined| Failure::new(Exit::LoginRequired, declined)),
            None => pasted(state).await,
        }
    };
    let code = tokio::time::timeout(PATIENCE, waiting)
        .await
        .map_err(|_| Failure::new(Exit::LoginRequired, "nobody logged in within 15 minutes"))??;
    let enrolled = tokens
        .adopt(&clinic, configured.as_ref(), &code)
        .await
        .map_err(|error| Failure::new(exit_of(&error), error))?;
    session.probe(&clinic).await?;
    println!("{}", told(&clinic, &enrolled));
    println!("next: fullscript-events status");
    Ok(Exit::Done)
}

/// Asks for the address that the browser ended at.
async fn pasted(state: SecretString) -> Result<SecretString, Failure> {
    eprint!("Then paste the whole address that the browser ended at: ");
    drop(std::io::stderr().flush());
    let mut line = String::new();
    let mut input = tokio::io::BufReader::new(tokio::io::stdin());
    tokio::io::AsyncBufReadExt::read_line(&mut input, &mut line)
        .await
        .map_err(|error| Failure::new(Exit::Usage, format!("standard input: {error}")))?;
    let query = Url::parse(line.trim())
        .ok()
        .and_then(|url| url.query().map(str::to_owned))
        .unwrap_or_default();
    callback::code_in(&query, &state)
        .map_err(|declined| Failure::new(Exit::LoginRequired, declined))
}

/// Opens the page, if this machine has a desktop. Nothing depends on it: the URL was printed.
fn open(url: &Url) {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
    {
        "xdg-open"
    } else {
        return;
    };
    drop(
        std::process::Command::new(program)
            .arg(url.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn(),
    );
}
