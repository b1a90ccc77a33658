//! `sinks`: where events go and how far each sink is, and what a person may say about one.

mod backlog;
mod list;
mod mode;
mod test;

use std::path::Path;

use super::session::{Session, state_failure};
use super::{CommandResult, on_runtime};
use crate::ledger::{Mode, SinkRow};

/// Arguments of `sinks`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the sinks, and how many deliveries are in each state.
    #[command(after_help = "Example: fullscript-events sinks list --json")]
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Hand a made-up event to a sink, and tell what its receiver answers.
    ///
    /// The event has the type `fullscript_events.test` and no patient in it. Nothing is remembered of it.
    #[command(after_help = "Example: fullscript-events sinks test chart")]
    Test {
        /// The sink's name in the configuration.
        name: String,
    },
    /// Attempt no delivery to a sink until it is resumed; its events wait.
    #[command(after_help = "Example: fullscript-events sinks pause chart")]
    Pause {
        /// The sink's name.
        name: String,
        /// For this clinic only; others go on.
        #[arg(long, value_name = "NAME")]
        clinic: Option<String>,
    },
    /// Let a paused or draining sink go on, and try at once a receiver that did not work.
    #[command(after_help = "Example: fullscript-events sinks resume chart")]
    Resume {
        /// The sink's name.
        name: String,
        /// For this clinic only; without it for all that are paused.
        #[arg(long, value_name = "NAME")]
        clinic: Option<String>,
    },
    /// Deliver what waits for a sink, and issue nothing new to it: before it is removed from the configuration.
    #[command(after_help = "Example: fullscript-events sinks drain chart")]
    Drain {
        /// The sink's name.
        name: String,
    },
    /// Give the backlog of a sink to another one: after a sink was renamed, or to replace it.
    ///
    /// To a sink that never had anything goes the whole memory of the old one. To another goes what waits, is held or
    /// dead, but for the events that it has had already. Only while no daemon runs.
    #[command(after_help = "Example: fullscript-events sinks reassign chart ehr")]
    Reassign {
        /// The sink whose backlog it is.
        old: String,
        /// The sink of the configuration that gets it.
        new: String,
    },
    /// Give up what waits, is held or dead of a sink that is not configured any more.
    ///
    /// Only while no daemon runs.
    #[command(after_help = "Example: fullscript-events sinks forget chart --yes")]
    Forget {
        /// The sink's name.
        name: String,
        /// Do it; without this it is only counted.
        #[arg(long)]
        yes: bool,
    },
    /// Let a stopped file or sqlite sink go on with its file as it is now.
    ///
    /// A file sink stops when its file is not as this program left it: shorter, replaced or edited; a sqlite sink when its
    /// database is gone, another one or an older copy. Look at it first: what was written there and is gone is not
    /// written again by this.
    #[command(after_help = "Example: fullscript-events sinks accept archive")]
    Accept {
        /// The sink's name in the configuration.
        name: String,
    },
}

/// Runs `sinks`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    match args.command {
        Command::Test { name } => test::run(path, &name),
        Command::Reassign { old, new } => backlog::reassign(path, &old, &new),
        Command::Forget { name, yes } => backlog::forget(path, &name, yes),
        Command::List { json } => {
            with_session(path, async |session| list::run(session, json.into()).await)
        }
        Command::Pause { name, clinic } => with_session(path, async |session| match &clinic {
            Some(clinic) => mode::pause_clinic(session, &name, clinic).await,
            None => mode::set(session, &name, Mode::Paused).await,
        }),
        Command::Resume { name, clinic } => with_session(path, async |session| match &clinic {
            Some(clinic) => mode::resume_clinic(session, &name, clinic).await,
            None => mode::set(session, &name, Mode::Open).await,
        }),
        Command::Drain { name } => with_session(path, async |session| {
            mode::set(session, &name, Mode::Draining).await
        }),
        Command::Accept { name } => {
            with_session(path, async |session| mode::accept(session, &name).await)
        }
    }
}

fn with_session(
    path: &Path,
    command: impl AsyncFnOnce(&Session) -> CommandResult,
) -> CommandResult {
    let session = Session::open(path)?;
    on_runtime(async { command(&session).await })
}

/// What the ledger knows of a sink.
async fn known(session: &Session, name: &str) -> Result<SinkRow, super::Failure> {
    let rows = session.query.sinks().await.map_err(state_failure)?;
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let row = rows.into_iter().find(|row| row.name == name);
    row.ok_or_else(|| super::session::unknown("sink", name, &names))
}
