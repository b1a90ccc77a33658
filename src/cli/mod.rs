//! The command line: what can be asked, and how a command ends.
//!
//! Data goes to standard output, logs and errors to standard error; [`Exit`] is the table of exit codes. Only this
//! folder prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this folder is what people read"
)]

mod auth;
mod backfill;
mod config;
mod run;
mod simulate;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::app::StartError;
use crate::config::{self as configuration, Config};
use crate::observe::{self, LogFormat};
use crate::store::OpenError;

/// How a command ends (`ARCHITECTURE.md`, "Exit codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something unforeseen: a defect.
    Unexpected = 1,
    /// The command line was not understood.
    Usage = 2,
    /// Finished, but some clinics or events failed.
    Partial = 3,
    /// What was asked for does not exist.
    NotFound = 4,
    /// Fullscript or a sink cannot be reached.
    Unavailable = 69,
    /// The state directory cannot be used: missing, full, read-only, of a newer version, sealed with another key.
    State = 74,
    /// Another process owns the state directory.
    Owned = 75,
    /// A clinic must log in again.
    LoginRequired = 77,
    /// The configuration is invalid.
    Config = 78,
}

/// Why a command failed: the exit code, and the words for the person.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with its exit code and a message that names what was found and what to do.
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::State(OpenError::Owned(_)) => Exit::Owned,
            StartError::State(_) | StartError::Ledger(_) => Exit::State,
            StartError::Secret { .. } | StartError::Sink(_) | StartError::Http(_) => Exit::Config,
        };
        Self::new(exit, error)
    }
}

/// Reads the configuration, or fails with every problem in it; warnings go to the log.
fn configured(path: &Path) -> Result<Config, Failure> {
    let loaded =
        configuration::load(path).map_err(|invalid| Failure::new(Exit::Config, invalid))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// Runs a command on a runtime of its own.
fn on_runtime(command: impl Future<Output = CommandResult>) -> CommandResult {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Unexpected, format!("the runtime cannot start: {e}")))?
        .block_on(command)
}

/// What every command returns.
pub type CommandResult = Result<Exit, Failure>;

/// Fullscript webhooks without a public endpoint, and with a memory.
#[derive(Debug, Parser)]
#[command(name = "fullscript-events", version, propagate_version = true)]
pub struct Cli {
    /// The configuration file.
    #[arg(
        long,
        short,
        global = true,
        value_name = "PATH",
        env = "FULLSCRIPT_EVENTS_CONFIG",
        default_value = "/etc/fullscript-events/config.toml"
    )]
    config: PathBuf,
    /// How much is logged, to standard error; nothing but this program's own lines, at any level.
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "FULLSCRIPT_EVENTS_LOG",
        default_value = "info"
    )]
    log_level: LevelFilter,
    /// How a log line looks.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Poll and deliver, for ever or for one cycle.
    Run(run::Args),
    /// Deliver what a sink never had of the past.
    Backfill(backfill::Args),
    /// Check or create the configuration.
    Config(config::Args),
    /// Give, list and revoke the clinics' grants.
    Auth(auth::Args),
    /// Serve an imitation of the Fullscript API.
    Simulate(simulate::Args),
}

/// Parses the command line, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    observe::start_log(cli.log_level, cli.log_format);
    let result = match cli.command {
        Command::Run(args) => run::run(&cli.config, &args),
        Command::Backfill(args) => backfill::run(&cli.config, &args),
        Command::Config(args) => config::run(&cli.config, args),
        Command::Auth(args) => auth::run(&cli.config, args),
        Command::Simulate(args) => simulate::run(args),
    };
    let exit = result.unwrap_or_else(|failure| {
        eprintln!("error: {}", failure.message);
        failure.exit
    });
    ExitCode::from(exit as u8)
}
