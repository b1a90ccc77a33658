//! `config`: check the configuration, or write one to start from.

mod check;
mod init;

use std::path::Path;

use super::{CommandResult, Exit, Failure};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tell everything that is wrong with the configuration, or what it means. Exits 78 if it cannot be used.
    Check(check::Args),
    /// Write a configuration to start from, and a new key that seals the state.
    Init(init::Args),
}

/// Runs `config`.
pub(super) fn run(config: &Path, args: Args) -> CommandResult {
    match args.command {
        Command::Check(args) => check::run(config, &args),
        Command::Init(args) => init::run(config, &args),
    }
}
