//! `audit export`: the log for other programs.

use std::io::{self, BufWriter, Write as _};

use chrono::{DateTime, NaiveDate, Utc};

use super::super::{CommandResult, Exit, Failure};
use super::Session;
use super::verify::words;
use crate::audit::{Action, Row, fhir};
use crate::clock::{Clock as _, SystemClock};

/// How a row is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// FHIR R4 `AuditEvent` resources, one a line (NDJSON).
    Fhir,
    /// The rows as they are.
    Jsonl,
}

/// Arguments of `audit export`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Only rows that are as they were written are printed; at the first that is not it stops, with exit code 3.\n\n\
                  Example: fullscript-events audit export --format fhir --since 2026-03-01 --clinic oak"
)]
pub(super) struct Args {
    /// fhir or jsonl.
    #[arg(long, value_name = "FORMAT")]
    format: Format,
    /// From this time on: RFC 3339, or a day (UTC).
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<DateTime<Utc>>,
    /// Of this clinic.
    #[arg(long, value_name = "NAME")]
    clinic: Option<String>,
    /// About the event of this id.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
}

fn time(word: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(word) {
        return Ok(time.with_timezone(&Utc));
    }
    let day = NaiveDate::parse_from_str(word, "%Y-%m-%d").ok();
    day.and_then(|day| day.and_hms_opt(0, 0, 0))
        .map(|midnight| midnight.and_utc())
        .ok_or_else(|| "a time such as 2026-03-20T12:00:00Z, or a day, is expected".to_owned())
}

impl Args {
    fn wants(&self, row: &Row) -> bool {
        let record = &row.record;
        let Ok(at) = DateTime::parse_from_rfc3339(&record.timestamp) else {
            return false;
        };
        self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && (self.clinic.is_none() || self.clinic == record.clinic)
            && (self.event.is_none() || self.event == record.event_id)
    }
}

/// Runs `audit export`.
pub(super) async fn run(session: &Session, args: &Args) -> CommandResult {
    let now = SystemClock::start().now();
    let record = session.audit.entry(Action::Read, now);
    let record = record.at("command", "audit export");
    let record = match &args.clinic {
        Some(clinic) => record.clinic(clinic),
        None => record,
    };
    let recorded = session.audit.record(vec![record]).await;
    recorded.map_err(super::super::session::state_failure)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut printed = Ok(());
    let found = session.walk(|row| {
        if printed.is_ok() && args.wants(row) {
            let line = match args.format {
                Format::Fhir => fhir::audit_event(row).to_string(),
                Format::Jsonl => row.text.clone(),
            };
            printed = writeln!(out, "{line}");
        }
    })?;
    match printed.and_then(|()| out.flush()) {
        // Who has seen enough (`| head`) is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::new(
                Exit::Unexpected,
                format!("standard output cannot be written: {error}"),
            ));
        }
        Ok(()) | Err(_) => {}
    }
    match &found.broken {
        None => Ok(Exit::Done),
        Some(broken) => Err(Failure::new(
            Exit::Partial,
            format!(
                "the audit log is broken, and nothing is printed from there on: {}",
                words(broken)
            ),
        )),
    }
}
