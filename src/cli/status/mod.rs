//! `status`: at a glance whether all is well, and if not, the command that mends it.
//!
//! Three steps: [`snapshot`] reads, beside a running daemon and without asking Fullscript anything; [`view`] judges,
//! purely; [`text`], [`json`] and [`check`] show the same judgement to people, programs and monitoring.

mod check;
mod json;
mod snapshot;
mod text;
mod view;

#[cfg(test)]
mod tests;

use std::path::Path;

use super::output::{self, Paint};
use super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::clock::{Clock as _, SystemClock};
use snapshot::Snapshot;
use view::View;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all is well, 3 something is wrong, 77 a clinic must log in; 74 there is no state to read.\n\
                  With --check those of monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.\n\n\
                  Example: fullscript-events status --check"
)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long, conflicts_with = "check")]
    json: bool,
    /// Print one line and performance data for Nagios, Icinga and their kin, and exit 0, 1, 2 or 3 as they expect.
    #[arg(long)]
    check: bool,
}

/// Runs `status`.
pub(super) fn run(path: &Path, args: &Args) -> CommandResult {
    let viewed = read(path);
    if args.check {
        let (line, exit) = match &viewed {
            Ok(view) => check::line(view),
            Err(failure) => check::unknown(&failure.message),
        };
        output::print(&line)?;
        return Ok(exit);
    }
    let view = viewed?;
    output::print(&if args.json {
        json::render(&view)
    } else {
        text::render(&view, Paint::for_stdout())
    })?;
    Ok(exit(&view))
}

fn read(path: &Path) -> Result<View, Failure> {
    let config = configured(path)?;
    let now = SystemClock::start().now();
    let snapshot = on_runtime(Snapshot::gather(&config, output::program(path), now))?;
    Ok(View::of(&snapshot))
}

fn exit(view: &View) -> Exit {
    if view.login_required {
        Exit::LoginRequired
    } else if view.problems().next().is_some() {
        Exit::Partial
    } else {
        Exit::Done
    }
}
