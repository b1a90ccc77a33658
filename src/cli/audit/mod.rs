//! `audit`: whether the log of who was given what is whole, and the log for other programs.

mod export;
mod verify;

use std::path::Path;

use super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::app;
use crate::audit::{self, Audit, Standing, verify::Found};
use crate::config;
use crate::store::Store;

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check every row of the log, and name the first that is not as it was written.
    Verify(verify::Args),
    /// Print the log, as it is or as FHIR R4 `AuditEvent` resources, one a line.
    Export(export::Args),
}

/// An open log.
struct Session {
    settings: config::Audit,
    store: Store,
    audit: Audit,
    /// How it stood before its files were read: what is written meanwhile is not missed.
    standing: Standing,
}

/// Runs `audit`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    let config = configured(path)?;
    let Some(settings) = config.audit.clone() else {
        return Err(Failure::new(
            Exit::NotFound,
            format!(
                "the audit log is off: {} has no section [audit]",
                path.display()
            ),
        ));
    };
    let store = app::open_store(&config)?;
    let audit = super::session::audit_of_user(&config, &store);
    on_runtime(async {
        let standing = audit::standing(&store).await;
        let session = Session {
            settings,
            audit,
            standing: standing.map_err(super::session::state_failure)?,
            store,
        };
        match args.command {
            Command::Verify(args) => verify::run(session, &args).await,
            Command::Export(args) => export::run(&session, &args).await,
        }
    })
}

impl Session {
    /// Reads the whole log; each good row is handed on.
    fn walk(&self, each: impl FnMut(&audit::Row)) -> Result<Found, Failure> {
        audit::verify::walk(&self.settings.directory, &self.store, &self.standing, each)
            .map_err(|error| Failure::new(Exit::State, error))
    }
}
