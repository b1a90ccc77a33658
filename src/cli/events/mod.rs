//! `events`: what became of every event that Fullscript listed, and sending one again. Never shows a body.

mod list;
mod resend;
mod show;

use std::path::Path;

use serde_json::{Value, json};

use super::output::iso;
use super::session::Session;
use super::{CommandResult, on_runtime};
use crate::domain::DeliveryState;
use crate::ledger::{DeliveryRow, EventRow};

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

/// Runs `events`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    let session = Session::open(path)?;
    on_runtime(async {
        match args.command {
            Command::List(args) => list::run(&session, args).await,
            Command::Show(args) => show::run(&session, args).await,
            Command::Resend(args) => resend::run(&session, args).await,
        }
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

pub(super) fn delivery_json(delivery: &DeliveryRow) -> Value {
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
