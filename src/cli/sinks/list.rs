//! `sinks list`.

use serde_json::json;

use super::super::CommandResult;
use super::super::output::{aligned, cells, iso, print, utc};
use super::super::session::{Session, state_failure};
use crate::domain::{DeliveryState, Parked};
use crate::ledger::{Mode, SinkRow};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

pub(super) enum Format {
    Text,
    Json,
}

impl From<bool> for Format {
    fn from(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

pub(super) async fn run(session: &Session, format: Format) -> CommandResult {
    let rows = session.query.sinks().await.map_err(state_failure)?;
    let kind = |row: &SinkRow| session.kinds.get(&row.name).copied();
    match format {
        Format::Json => {
            let sinks: Vec<_> = rows.iter().map(|row| as_json(row, kind(row))).collect();
            let object = json!({ "schema": SCHEMA, "sinks": sinks });
            print(&format!("{object:#}\n"))
        }
        Format::Text => {
            let mut header = cells(["SINK", "KIND"]);
            header.extend(DeliveryState::ALL.map(|state| state.as_str().to_uppercase()));
            let mut lines = vec![header];
            for row in &rows {
                let mut line = cells([&row.name, kind(row).unwrap_or("not configured")]);
                line.extend(row.counts.iter().map(u64::to_string));
                lines.push(line);
            }
            let mut text = aligned(&lines);
            let notes = rows.iter().flat_map(|row| notes(row, &session.program));
            text.extend(notes.map(|note| format!("\n{note}")));
            print(&(text.join("\n") + "\n"))
        }
    }
}

/// What a person should know of a sink beside its numbers.
fn notes(row: &SinkRow, program: &str) -> Vec<String> {
    let name = &row.name;
    let mut notes = Vec::new();
    if let Some(why) = &row.stopped {
        notes.push(format!("{name} is stopped: {why}"));
    }
    match row.mode {
        Mode::Open => {}
        Mode::Paused => {
            let why = row.mode_why.as_deref().unwrap_or("by a person");
            notes.push(format!(
                "{name} is paused: {why}. To go on: {program} sinks resume {name}"
            ));
        }
        Mode::Draining => notes.push(format!(
            "{name} is draining: what waits is delivered, and it gets nothing new. To go on: {program} sinks resume {name}"
        )),
    }
    for paused in &row.paused_clinics {
        let clinic = &paused.clinic;
        notes.push(format!(
            "{name} has paused {clinic} since {}: {}. To go on: {program} sinks resume {name} --clinic {clinic}",
            utc(paused.since),
            paused.why
        ));
    }
    if let Some(outage) = row.outage {
        notes.push(format!(
            "{name}'s receiver has not worked since {}; tried again at {}. Now: {program} sinks test {name}",
            utc(outage.since),
            utc(outage.probe_at)
        ));
    }
    notes
}

fn as_json(row: &SinkRow, kind: Option<&str>) -> serde_json::Value {
    let counts: serde_json::Map<_, _> = DeliveryState::ALL
        .into_iter()
        .map(|state| (state.as_str().to_owned(), row.count(state).into()))
        .collect();
    let parked: serde_json::Map<_, _> = Parked::ALL
        .into_iter()
        .map(|why| (why.as_str().to_owned(), row.parked(why).into()))
        .collect();
    let paused: Vec<_> = (row.paused_clinics.iter())
        .map(|paused| json!({ "clinic": paused.clinic, "why": paused.why, "since": iso(paused.since) }))
        .collect();
    json!({
        "name": row.name,
        "kind": kind,
        "deliveries": counts,
        "parked": parked,
        "paused_clinics": paused,
        "waiting_since": row.waiting_since.map(iso),
        "trouble": row.trouble,
        "stopped": row.stopped,
        "mode": row.mode.as_str(),
        "mode_why": row.mode_why,
        "outage_since": row.outage.map(|outage| iso(outage.since)),
        "probe_at": row.outage.map(|outage| iso(outage.probe_at)),
    })
}
