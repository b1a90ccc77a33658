//! `auth`: give, list and revoke the clinics' grants.
//!
//! All of it works beside a running daemon: a login writes the grant's rows, and the daemon reads them again before
//! each use. Nothing here refreshes a grant that exists.

mod callback;
mod import;
mod list;
mod login;
mod revoke;
mod session;
mod takeover;

use std::path::Path;

use super::{CommandResult, Exit, Failure, on_runtime};

/// Arguments of `auth`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Log a clinic in with the browser.
    Login(login::Args),
    /// Take over refresh tokens from elsewhere, from a file or standard input.
    Import(import::Args),
    /// Show every clinic's grant.
    List(list::Args),
    /// Disconnect a clinic: revoke every token of it at Fullscript and forget its grant.
    Revoke(revoke::Args),
    /// Say that the state directory, grants included, lives on this machine now.
    Takeover(takeover::Args),
}

/// Runs `auth`.
pub(super) fn run(config: &Path, args: Args) -> CommandResult {
    on_runtime(async {
        match args.command {
            Command::Login(args) => login::run(config, &args).await,
            Command::Import(args) => import::run(config, &args).await,
            Command::List(args) => list::run(config, &args).await,
            Command::Revoke(args) => revoke::run(config, &args).await,
            Command::Takeover(args) => takeover::run(config, &args).await,
        }
    })
}
