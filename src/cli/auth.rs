//! `auth`.

use std::path::Path;

use super::{CommandResult, Exit};

/// Arguments of `auth`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Runs `auth`.
pub(super) fn run(_config: &Path, _args: Args) -> CommandResult {
    Ok(Exit::Done)
}
