//! `events`: what became of every event that Fullscript listed, and sending one again. Never shows a body.

mod list;
mod resend;
mod show;

use std::path::Path;

use serde_json::{Value, json};

use super::output::iso;
use super::{CommandResult, Exit, Failure, configured, on_runtime, output};
use crate::app;
use crate::clock::{Clock as _, SystemClock};
use crate::domain::DeliveryState;
use crate::ledger::{DeliveryRow, EventRow, Query};
use crate::store::{self, Unavailable};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List events, the newest first.
    List(list::Args),
    /// Show one event's journey: when it was seen, and how far each sink has it.
    Show(show::Args),
    /// Send events to a sink once more.
    Resend(resend::Args),
}

/// What the three work with.
struct Session {
    query: Query,
    now: chrono::DateTime<chrono::Utc>,
    program: String,
    running: bool,
    clinics: Vec<String>,
    sinks: Vec<String>,
}

/// Runs `events`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    let config = configured(path)?;
    let session = Session {
        query: Query::new(app::open_store(&config)?),
        now: SystemClock::start().now(),
        program: output::program(path),
        running: store::is_owned(&config.state.directory).unwrap_or(false),
        clinics: config.clinics.iter().map(|c| c.name.to_string()).collect(),
        sinks: config.sinks.iter().map(|s| s.name.to_string()).collect(),
    };
    on_runtime(async {
        match args.command {
            Command::List(args) => list::run(&session, args).await,
            Command::Show(args) => show::run(&session, args).await,
            Command::Resend(args) => resend::run(&session, args).await,
        }
    })
}

fn state_failure(error: Unavailable) -> Failure {
    Failure::new(Exit::State, error)
}

/// Reads a delivery state from the command line.
fn delivery_state(word: &str) -> Result<DeliveryState, String> {
    DeliveryState::parse(word).ok_or_else(|| {
        let words = DeliveryState::ALL.map(DeliveryState::as_str);
        format!("one of {} is expected", words.join(", "))
    })
}

fn event_json(event: &EventRow) -> Value {
    json!({
        "id": event.id,
        "type": event.event_type,
        "created_at": iso(event.created_at),
        "clinic": event.clinic,
        "admitted_at": iso(event.admitted_at),
        "found_by": event.found_by,
        "skipped": event.skipped,
        "fetch_trouble": event.fetch_trouble,
        "deliveries": event.deliveries.iter().map(delivery_json).collect::<Vec<_>>(),
    })
}

fn delivery_json(delivery: &DeliveryRow) -> Value {
    let due = (delivery.state == DeliveryState::Queued).then(|| iso(delivery.due_at));
    json!({
        "delivery": delivery.delivery.0,
        "sink": delivery.sink,
        "ordinal": delivery.ordinal,
        "state": delivery.state.as_str(),
        "attempts": delivery.attempts,
        "due_at": due,
        "settled_at": delivery.settled_at.map(iso),
        "reason": delivery.reason,
    })
}
