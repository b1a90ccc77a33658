//! The command line: what can be asked, and how a command ends.
//!
//! Data goes to standard output, logs and errors to standard error; [`Exit`] is the table of exit codes. Only this
//! folder prints.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this folder is what people read"
)]

mod audit;
mod auth;
mod backfill;
mod config;
mod crosswalk;
mod deliveries;
mod demo;
mod docs;
mod events;
mod output;
mod routes;
mod run;
mod session;
mod simulate;
mod sinks;
mod status;
mod tail;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::fs::Mode;
use tracing::level_filters::LevelFilter;

use crate::app::StartError;
use crate::config::{self as configuration, Config};
use crate::observe::{self, LogFormat};
use crate::store::OpenError;
use crate::stream::CannotServe;

/// Where the configuration is unless somebody says otherwise.
const DEFAULT_CONFIG: &str = "/etc/fullscript-events/config.toml";

/// How long a blocking write may take at the very end.
const LAST_WAIT: Duration = Duration::from_secs(5);

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
    /// The state directory cannot be used: missing, full, read-only, of a newer version, sealed with another key,
    /// lost, or bound to another machine.
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
            StartError::State(OpenError::NoLoss(_)) => Exit::Usage,
            StartError::State(_) | StartError::OtherHost { .. } | StartError::Ledger(_) => {
                Exit::State
            }
            // Whoever listens there may go away: a restart mends it.
            StartError::Stream(CannotServe::Listen { .. }) => Exit::Unavailable,
            StartError::Stream(CannotServe::Ledger(_)) => Exit::State,
            StartError::Secret { .. }
            | StartError::Sink(_)
            | StartError::Http(_)
            | StartError::Stream(CannotServe::Tokens(_))
            | StartError::Late(_)
            | StartError::Strangers(_) => Exit::Config,
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
fn on_runtime<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Unexpected, format!("the runtime cannot start: {e}")))?;
    let ended = runtime.block_on(command);
    // A write that hangs (a pipe that nobody reads, a network file system) must not keep the process alive.
    runtime.shutdown_timeout(LAST_WAIT);
    ended
}

/// What every command returns.
pub type CommandResult = Result<Exit, Failure>;

/// Fullscript webhooks without a public endpoint, and with a memory.
#[derive(Debug, Parser)]
#[command(
    name = "fullscript-events",
    version,
    propagate_version = true,
    after_help = "Start: fullscript-events config init, then auth login CLINIC, then run. At a glance: status."
)]
pub struct Cli {
    /// The configuration file.
    #[arg(
        long,
        short,
        global = true,
        value_name = "PATH",
        env = "FULLSCRIPT_EVENTS_CONFIG",
        default_value = DEFAULT_CONFIG
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
    #[command(after_help = "Example: fullscript-events run --once")]
    Run(run::Args),
    /// Deliver what a sink never had of the past.
    Backfill(backfill::Args),
    /// Tell whether all is well, and if not, what mends it.
    Status(status::Args),
    /// Watch events as they happen.
    Tail(tail::Args),
    /// Look at events and their deliveries; send one again.
    Events(events::Args),
    /// Look at deliveries that need you, and settle them
    Deliveries(deliveries::Args),
    /// Look at sinks; test, pause, drain, rename one.
    Sinks(sinks::Args),
    /// Tell who gets what, and why.
    Routes(routes::Args),
    /// List whom Fullscript knows no id of the EMR's for (sinks with format = "sfs").
    Crosswalk(crosswalk::Args),
    /// Check or create the configuration.
    Config(config::Args),
    /// Give, list and revoke the clinics' grants.
    Auth(auth::Args),
    /// Check the audit log, or hand it on.
    Audit(audit::Args),
    /// See all of it at work, against an imitation of Fullscript; nothing to configure.
    Demo(demo::Args),
    /// Serve an imitation of the Fullscript API.
    #[command(after_help = "Example: fullscript-events simulate --clinics 2 --live-every 5s")]
    Simulate(Box<simulate::Args>),
    /// Print the completions of a shell.
    Completions(docs::CompletionsArgs),
    /// Print the manual page, or write one per command.
    Man(docs::ManArgs),
}

/// Parses the command line, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    // Whatever is created is for this user alone; a file sink's `mode` opens its own file and nothing else.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let cli = Cli::parse();
    // A demonstration tells itself what happens: the log would tear its display.
    if !matches!(cli.command, Command::Demo(_)) {
        observe::start_log(cli.log_level, cli.log_format);
    }
    let result = match cli.command {
        Command::Run(args) => run::run(&cli.config, &args),
        Command::Backfill(args) => backfill::run(&cli.config, &args),
        Command::Crosswalk(args) => crosswalk::run(&cli.config, args),
        Command::Config(args) => config::run(&cli.config, args),
        Command::Auth(args) => auth::run(&cli.config, args),
        Command::Audit(args) => audit::run(&cli.config, args),
        Command::Demo(args) => demo::run(&args),
        Command::Status(args) => status::run(&cli.config, &args),
        Command::Tail(args) => tail::run(&cli.config, &args),
        Command::Events(args) => events::run(&cli.config, args),
        Command::Deliveries(args) => deliveries::run(&cli.config, args),
        Command::Sinks(args) => sinks::run(&cli.config, args),
        Command::Routes(args) => routes::run(&cli.config, args),
        Command::Simulate(args) => simulate::run(*args),
        Command::Completions(args) => docs::completions(&args),
        Command::Man(args) => docs::man(&args),
    };
    let exit = result.unwrap_or_else(|failure| {
        eprintln!("error: {}", failure.message);
        failure.exit
    });
    ExitCode::from(exit as u8)
}
