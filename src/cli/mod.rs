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
mod config;
mod simulate;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    let result = match cli.command {
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
