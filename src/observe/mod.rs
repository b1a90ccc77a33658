//! What the daemon tells of itself: the log, and the watchdog.
//!
//! At every level the log holds this crate's own lines only. Libraries log headers and bodies at `trace`; a level that
//! is raised at 2 a.m. must not write tokens and health data into the journal.

pub mod watchdog;

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; without a time under systemd, which adds its own.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts the log, to standard error. Called once; a second call changes nothing.
pub fn start_log(level: LevelFilter, format: LogFormat) {
    let own_lines = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text if in_journal => layer.without_time().with_ansi(false).boxed(),
        LogFormat::Text => layer.with_ansi(colour).boxed(),
    };
    // Fails only if a log was started before, which then serves.
    drop(
        tracing_subscriber::registry()
            .with(layer.with_filter(own_lines))
            .try_init(),
    );
}
