//! `auth revoke`.

use std::path::Path;

use super::session::{Session, exit_of_token};
use super::{CommandResult, Exit, Failure};
use crate::domain::ClinicName;
use crate::token::RevokeError;

/// Arguments of `auth revoke`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The clinic, configured or not.
    clinic: String,
    /// Do it: the clinic is disconnected, and only a new login brings it back.
    #[arg(long)]
    yes: bool,
}

/// Runs `auth revoke`.
pub(super) async fn run(config: &Path, args: &Args) -> CommandResult {
    let clinic =
        ClinicName::new(args.clinic.as_str()).map_err(|error| Failure::new(Exit::Usage, error))?;
    if !args.yes {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "this disconnects {clinic}: nothing of it is polled until somebody logs in again; repeat with --yes"
            ),
        ));
    }
    let revoked = Session::open(config)?
        .tokens()?
        .revoke(&clinic)
        .await
        .map_err(|error| {
            let exit = match &error {
                RevokeError::Unavailable(_) => Exit::Unavailable,
                RevokeError::WrongClient => Exit::Config,
                RevokeError::Token(error) => exit_of_token(error),
            };
            Failure::new(exit, error)
        })?;
    println!("{clinic}: forgot the grant and revoked its tokens (pairs: {revoked})");
    Ok(Exit::Done)
}
