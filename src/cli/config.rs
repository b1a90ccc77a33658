//! `config`.

use std::path::Path;

use super::{CommandResult, Exit};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Runs `config`.
pub(super) fn run(_config: &Path, _args: Args) -> CommandResult {
    Ok(Exit::Done)
}
