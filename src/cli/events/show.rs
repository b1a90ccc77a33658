//! `events show`: an event's journey.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::super::output::{ago, aligned, cells, print, span, utc};
use super::super::session::{Session, state_failure};
use super::super::{CommandResult, Exit, Failure};
use super::{SCHEMA, event_json};
use crate::domain::{DeliveryState, Parked};
use crate::ledger::{DeliveryRow, EventRow};

/// Arguments of `events show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fullscript-events events show 3f1c…")]
pub(super) struct Args {
    /// Fullscript's id of the event.
    id: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `events show`.
pub(super) async fn run(session: &Session, args: Args) -> CommandResult {
    let found = session
        .query
        .event(args.id.clone())
        .await
        .map_err(state_failure)?;
    let event = found.ok_or_else(|| unknown(session, &args.id))?;
    let shown = session.shown(|record| {
        let record = record.clinic(&event.clinic).event(&event.id);
        record.at("command", "events show")
    });
    shown.await?;
    if args.json {
        let object = json!({ "schema": SCHEMA, "event": event_json(&event) });
        return print(&format!("{object:#}\n"));
    }
    print(&text(&event, session.now, &session.program))
}

pub(super) fn unknown(session: &Session, id: &str) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!(
            "the ledger has no event {id:?}: it was never listed, or was forgotten 35 days after it last was; `{} events list` shows what there is",
            session.program
        ),
    )
}

fn text(event: &EventRow, now: DateTime<Utc>, program: &str) -> String {
    let when = |at: DateTime<Utc>| format!("{} ({})", utc(at), ago(at, now));
    let seen = match event.found_by.as_str() {
        "backfill" => "by a backfill".to_owned(),
        sweep => format!("by a {sweep} sweep"),
    };
    let mut rows = vec![
        cells(["event", &event.id]),
        cells(["type", &event.event_type]),
        cells(["clinic", &event.clinic]),
        cells(["created", &when(event.created_at)]),
        cells(["seen", &format!("{}, {seen}", when(event.admitted_at))]),
    ];
    if let Some(reason) = &event.skipped {
        let words = match reason.as_str() {
            "baseline" => "no sink gets it: it was there before the first poll (`first_run`)",
            "unmatched" => "no sink gets it: none matches its type and clinic",
            other => other,
        };
        rows.push(cells(["skipped", words]));
        rows.push(cells([
            "",
            &format!("to send it all the same: {program} backfill --help"),
        ]));
    }
    if let Some(trouble) = &event.fetch_trouble {
        rows.push(cells(["detail", &format!("not fetched yet: {trouble}")]));
    }
    let mut lines = aligned(&rows);
    for delivery in &event.deliveries {
        lines.push(String::new());
        lines.extend(journey(delivery, now, program));
    }
    lines.join("\n") + "\n"
}

fn journey(delivery: &DeliveryRow, now: DateTime<Utc>, program: &str) -> Vec<String> {
    let sink = &delivery.sink;
    let attempts = match delivery.attempts {
        0 => "not attempted yet".to_owned(),
        1 => "1 attempt".to_owned(),
        n => format!("{n} attempts"),
    };
    let again = match delivery.ordinal {
        1 => String::new(),
        n => format!(", resend {}", n - 1),
    };
    let mut lines = vec![format!(
        "delivery {} to {sink}{again}: {}, {attempts}",
        delivery.delivery, delivery.state
    )];
    if let Some(at) = delivery.settled_at {
        lines.push(format!("  settled  {} ({})", utc(at), ago(at, now)));
    }
    if let Some(reason) = &delivery.reason {
        lines.push(format!("  reason   {reason}"));
    }
    let settle = format!("  settle   {program} deliveries show {}", delivery.delivery);
    match delivery.state {
        DeliveryState::Queued if delivery.due_at > now => {
            lines.push(format!(
                "  due      {} (in {})",
                utc(delivery.due_at),
                span(delivery.due_at - now)
            ));
        }
        DeliveryState::Queued => lines.push("  due      now".to_owned()),
        DeliveryState::Held => {
            lines.push("  held     it may have arrived: look at the receiver first".to_owned());
            lines.push(settle);
        }
        DeliveryState::Parked => {
            let why = delivery.parked.map_or("", Parked::as_str);
            lines.push(format!("  parked   {why}"));
            lines.push(settle);
        }
        DeliveryState::Dead => lines.push(settle),
        DeliveryState::Claimed | DeliveryState::Done | DeliveryState::Skipped => {}
    }
    lines
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::DeliveryId;

    #[test]
    fn a_journey_tells_what_happened_and_names_the_next_command() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let ago = |minutes| now - TimeDelta::minutes(minutes);
        let delivery = |number, state, settled_at, reason: &str| DeliveryRow {
            delivery: DeliveryId(number),
            sink: "ehr".to_owned(),
            ordinal: 1,
            state,
            attempts: 3,
            due_at: now + TimeDelta::minutes(4),
            settled_at,
            reason: Some(reason.to_owned()),
            parked: None,
        };
        let event = EventRow {
            id: "e-1".to_owned(),
            event_type: "order.placed".to_owned(),
            created_at: ago(90),
            clinic: "oak".to_owned(),
            admitted_at: ago(89),
            found_by: "fast".to_owned(),
            skipped: None,
            fetch_trouble: None,
            deliveries: vec![
                delivery(7, DeliveryState::Dead, Some(ago(5)), "500"),
                delivery(8, DeliveryState::Queued, None, "connection refused"),
            ],
        };
        insta::assert_snapshot!(text(&event, now, "fullscript-events"), @r#"
        event    e-1
        type     order.placed
        clinic   oak
        created  2024-10-03 22:30:00 UTC (90 min ago)
        seen     2024-10-03 22:31:00 UTC (89 min ago), by a fast sweep

        delivery 7 to ehr: dead, 3 attempts
          settled  2024-10-03 23:55:00 UTC (5 min ago)
          reason   500
          settle   fullscript-events deliveries show 7

        delivery 8 to ehr: queued, 3 attempts
          reason   connection refused
          due      2024-10-04 00:04:00 UTC (in 4 min)
        "#);
    }
}
