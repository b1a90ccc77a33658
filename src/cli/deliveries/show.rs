//! `deliveries show`: what is known of a delivery, what its program said, and the commands that settle it.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::super::output::{ago, aligned, cells, print, utc};
use super::super::session::{Session, state_failure};
use super::super::{CommandResult, Exit, Failure};
use super::{SCHEMA, to_json};
use crate::domain::{DeliveryId, DeliveryState, Output, Parked};
use crate::ledger::{DeliveryFilter, DeliveryOf, Said};

/// Arguments of `deliveries show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fullscript-events deliveries show 42")]
pub(super) struct Args {
    /// The number of the delivery.
    number: i64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `deliveries show`.
pub(super) async fn run(session: &Session, args: &Args) -> CommandResult {
    let found = with_numbers(session, &[args.number]).await?;
    let Some(of) = found.first() else {
        return Err(unknown(session, args.number));
    };
    let said = session.query.said(of.delivery.delivery).await;
    let said = said.map_err(state_failure)?;
    let shown = session.shown(|record| {
        let record = record.clinic(&of.clinic).event(&of.event);
        let record = record.sink(&of.delivery.sink);
        record
            .at("command", "deliveries show")
            .note("delivery", of.delivery.delivery)
    });
    shown.await?;
    if args.json {
        let mut delivery = to_json(of);
        if let Some(object) = delivery.as_object_mut() {
            let output = said.as_ref().and_then(|said| said.output.as_ref());
            object.insert("output".to_owned(), json!(output.map(Output::text)));
            let attempt = said.as_ref().map(|said| said.attempt);
            object.insert("output_attempt".to_owned(), json!(attempt));
        }
        let object = json!({ "schema": SCHEMA, "delivery": delivery });
        return print(&format!("{object:#}\n"));
    }
    print(&text(of, said.as_ref(), session.now, &session.program))
}

/// Those of the deliveries with these numbers that there are.
pub(super) async fn with_numbers(
    session: &Session,
    numbers: &[i64],
) -> Result<Vec<DeliveryOf>, Failure> {
    let filter = DeliveryFilter {
        ids: Some(numbers.iter().copied().map(DeliveryId).collect()),
        limit: u32::MAX,
        ..DeliveryFilter::default()
    };
    let found = session.query.deliveries(filter).await;
    found.map_err(state_failure)
}

pub(super) fn unknown(session: &Session, number: i64) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!(
            "there is no delivery {number}: `{} deliveries list` shows those that need you",
            session.program
        ),
    )
}

/// What the program said, framed: nobody takes it for words of ours. It may say anything, and hold health data.
fn output(said: &Said) -> Vec<String> {
    let attempt = said.attempt;
    let Some(output) = &said.output else {
        return vec![format!(
            "The output of attempt {attempt} cannot be opened: its row is damaged."
        )];
    };
    if output.said() == 0 {
        return vec![format!("Attempt {attempt} said nothing.")];
    }
    let mut lines = vec![format!("Attempt {attempt} said:")];
    let text = output.text();
    lines.extend(text.lines().map(|line| format!("  | {}", harmless(line))));
    lines
}

/// A line that only shows: what would move a cursor, colour, or turn the direction of a terminal is written out.
fn harmless(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || (c.is_control() && c != '\t') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn text(of: &DeliveryOf, said: Option<&Said>, now: DateTime<Utc>, program: &str) -> String {
    let delivery = &of.delivery;
    let number = delivery.delivery;
    let when = |at: DateTime<Utc>| format!("{} ({})", utc(at), ago(at, now));
    let mut rows = vec![
        cells(["delivery", &format!("{number} to {}", delivery.sink)]),
        cells(["state", delivery.state.as_str()]),
        cells(["attempts", &delivery.attempts.to_string()]),
    ];
    if let Some(at) = delivery.settled_at {
        rows.push(cells(["since", &when(at)]));
    }
    if let Some(reason) = &delivery.reason {
        rows.push(cells(["reason", reason]));
    }
    rows.push(cells(["clinic", &of.clinic]));
    rows.push(cells(["type", &of.event_type]));
    rows.push(cells(["created", &when(of.created_at)]));
    rows.push(cells(["event", &of.event]));
    let mut lines = aligned(&rows);
    lines.push(String::new());
    if let Some(said) = said {
        lines.extend(output(said));
        lines.push(String::new());
    }
    match delivery.state {
        DeliveryState::Held => {
            lines.push("It may have arrived. Look at the receiver, then say one of:".to_owned());
        }
        DeliveryState::Parked => lines.push(match delivery.parked {
            Some(Parked::NoCrosswalk) => format!(
                "The receiver's id of its patient or plan is not known: `{program} crosswalk check` says which. It is asked again by itself; or say one of:"
            ),
            Some(Parked::ClinicPaused) => format!(
                "The receiver refuses its clinic. When it takes it again: `{program} sinks resume {} --clinic {}`; or say one of:",
                delivery.sink, of.clinic
            ),
            Some(Parked::AwaitsResult) | None => {
                "The receiver has accepted it, and works on it. It needs nobody; or say one of:".to_owned()
            }
        }),
        DeliveryState::Dead => lines.push("It was given up. Say one of:".to_owned()),
        DeliveryState::Queued
        | DeliveryState::Claimed
        | DeliveryState::Done
        | DeliveryState::Skipped => {
            lines.push(format!(
                "It needs nobody. The event's journey: {program} events show {}",
                of.event
            ));
            return lines.join("\n") + "\n";
        }
    }
    let choices = [
        ("it has arrived", "done"),
        ("send it again", "retry"),
        ("it shall not arrive", "drop"),
    ];
    let choices = choices.map(|(words, command)| {
        vec![
            format!("  {words}"),
            format!("{program} deliveries {command} {number}"),
        ]
    });
    lines.extend(aligned(&choices));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::ledger::DeliveryRow;

    #[test]
    fn what_is_held_shows_what_its_program_said_and_names_the_three_commands_that_settle_it() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let ago = |minutes| now - TimeDelta::minutes(minutes);
        let mut output = Output::default();
        output.push(b"reading e-1\n\x1b[2Jdone\x07\rfailed: \xff\n\xe2\x80\xaetxt");
        let said = Said {
            attempt: 1,
            output: Some(output),
        };
        let of = DeliveryOf {
            delivery: DeliveryRow {
                delivery: DeliveryId(42),
                sink: "ehr".to_owned(),
                ordinal: 1,
                state: DeliveryState::Held,
                attempts: 1,
                due_at: ago(9),
                settled_at: Some(ago(5)),
                reason: Some("ran for longer than 60 s".to_owned()),
                parked: None,
            },
            event: "e-1".to_owned(),
            event_type: "order.placed".to_owned(),
            created_at: ago(90),
            clinic: "oak".to_owned(),
        };
        insta::assert_snapshot!(text(&of, Some(&said), now, "fullscript-events"), @r#"
        delivery  42 to ehr
        state     held
        attempts  1
        since     2024-10-03 23:55:00 UTC (5 min ago)
        reason    ran for longer than 60 s
        clinic    oak
        type      order.placed
        created   2024-10-03 22:30:00 UTC (90 min ago)
        event     e-1

        Attempt 1 said:
          | reading e-1
          | \u{1b}[2Jdone\u{7}\rfailed: �
          | \u{202e}txt

        It may have arrived. Look at the receiver, then say one of:
          it has arrived       fullscript-events deliveries done 42
          send it again        fullscript-events deliveries retry 42
          it shall not arrive  fullscript-events deliveries drop 42
        "#);
    }
}
