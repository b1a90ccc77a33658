//! `backfill`.

use std::path::Path;

use super::{CommandResult, Exit};

/// Arguments of `backfill`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Runs `backfill`.
pub(super) fn run(_config: &Path, _args: Args) -> CommandResult {
    Ok(Exit::Done)
}
