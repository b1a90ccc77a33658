//! `events list`.

use serde_json::json;

use super::super::CommandResult;
use super::super::output::{Paint, Tone, ago, aligned, cells, print};
use super::super::session::{Session, delivery_state, state_failure};
use super::{SCHEMA, event_json};
use crate::domain::DeliveryState;
use crate::ledger::{EventFilter, EventRow};

/// Arguments of `events list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fullscript-events events list --state dead --type 'order.*'")]
pub(super) struct Args {
    /// Of this clinic.
    #[arg(long, value_name = "NAME")]
    clinic: Option<String>,
    /// Of this type; `*`, `?` and `[…]` as in file names.
    #[arg(long = "type", value_name = "GLOB")]
    event_type: Option<String>,
    /// With a delivery in this state: queued, claimed, held, parked, dead, done or skipped.
    #[arg(long, value_name = "STATE", value_parser = delivery_state)]
    state: Option<DeliveryState>,
    /// With a delivery to this sink.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `events list`.
pub(super) async fn run(session: &Session, args: Args) -> CommandResult {
    if let Some(clinic) = &args.clinic {
        session.expect_clinic(clinic).await?;
    }
    if let Some(sink) = &args.sink {
        session.expect_sink(sink).await?;
    }
    let filter = EventFilter {
        clinic: args.clinic,
        event_type: args.event_type,
        state: args.state,
        sink: args.sink,
        limit: args.limit,
    };
    let events = session.query.events(filter).await.map_err(state_failure)?;
    let limited = events.len() == usize::try_from(args.limit).unwrap_or(usize::MAX);
    if args.json {
        let rows: Vec<_> = events.iter().map(event_json).collect();
        let object = json!({ "schema": SCHEMA, "events": rows, "limited": limited });
        return print(&format!("{object:#}\n"));
    }
    print(&text(session, &events, limited))
}

fn text(session: &Session, events: &[EventRow], limited: bool) -> String {
    if events.is_empty() {
        return "No event fits.\n".to_owned();
    }
    let mut rows = vec![cells(["CREATED", "CLINIC", "TYPE", "ID", "DELIVERIES"])];
    rows.extend(events.iter().map(|event| {
        cells([
            &ago(event.created_at, session.now),
            &event.clinic,
            &event.event_type,
            &event.id,
            &deliveries(event),
        ])
    }));
    let paint = Paint::for_stdout();
    let mut lines = aligned(&rows);
    if let Some(heading) = lines.first_mut() {
        *heading = paint.tint(Tone::Heading, heading);
    }
    if limited {
        lines.push(format!(
            "\nThe newest {}; more with --limit. One of them in full: {} events show ID",
            events.len(),
            session.program
        ));
    }
    lines.join("\n") + "\n"
}

/// Each sink with the state of its newest delivery.
fn deliveries(event: &EventRow) -> String {
    if let Some(reason) = &event.skipped {
        return format!("skipped ({reason})");
    }
    let newest = |d: &&crate::ledger::DeliveryRow| {
        let others = event.deliveries.iter();
        others
            .filter(|o| o.sink == d.sink)
            .all(|o| o.ordinal <= d.ordinal)
    };
    let words: Vec<String> = event
        .deliveries
        .iter()
        .filter(newest)
        .map(|delivery| format!("{} {}", delivery.sink, delivery.state))
        .collect();
    words.join(", ")
}
