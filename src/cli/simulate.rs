//! `simulate`.

use super::{CommandResult, Exit};

/// Arguments of `simulate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Runs `simulate`.
pub(super) fn run(_args: Args) -> CommandResult {
    Ok(Exit::Done)
}
