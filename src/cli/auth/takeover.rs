//! `auth takeover`: the state directory, and with it the grants, live on this machine now.

use std::path::Path;

use super::session::Session;
use super::{CommandResult, Exit, Failure};
use crate::audit::Action;
use crate::cli::session::audit_of_user;
use crate::clock::{Clock as _, SystemClock};
use crate::store::{Host, Place};

/// Arguments of `auth takeover`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do it: the other machine does not run on its copy any more.
    #[arg(long)]
    yes: bool,
}

/// Runs `auth takeover`.
pub(super) async fn run(config: &Path, args: &Args) -> CommandResult {
    let session = Session::open(config)?;
    let state = |error| Failure::new(Exit::State, error);
    let (home, here) = (session.store.home().await.map_err(state)?, Host::here());
    if here.id.is_none() {
        return Err(Failure::new(
            Exit::State,
            format!(
                "{here} cannot be told from other machines: make /etc/machine-id (`systemd-machine-id-setup`), or leave [state] bind_host off"
            ),
        ));
    }
    if home.place(&here) == Place::Home {
        println!("{here}: the state directory lives here already");
        return Ok(Exit::Done);
    }
    if !args.yes {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "the state directory was used on {home}, this is {here}. Both at once deliver every event twice and end each other's logins: stop it there, for good, and repeat with --yes"
            ),
        ));
    }
    session.store.take_over(here.clone()).await.map_err(state)?;
    let audit = audit_of_user(&session.config, &session.store);
    let record = audit.entry(Action::Token, SystemClock::start().now());
    let record = record
        .at("command", "auth takeover")
        .note("what", "takeover");
    audit.record(vec![record]).await.map_err(state)?;
    println!(
        "{here}: took the state directory over from {home}; a daemon that waits here goes on within 10 s"
    );
    Ok(Exit::Done)
}
