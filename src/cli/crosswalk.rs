//! `crosswalk`: whom Fullscript knows no id of the EMR's for, and what waits for one.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::output::{self, ago, aligned, cells, count, deliveries, iso, print, wrapped};
use super::session::{Session, state_failure};
use super::{CommandResult, Exit, on_runtime};
use crate::domain::Subject;
use crate::ledger::{Gap, Waiting};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;
/// How wide the advice is.
const WIDTH: usize = 100;
const MENDED_BY: &str = "To mend it, have your EMR's integration enter the EMR's own id in Fullscript, as metadata.id of the \
     patient (or of the plan). It is noticed at the next attempt.";

/// Arguments of `crosswalk`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the patients and plans whose id in the EMR Fullscript does not know, and the deliveries that wait for one.
    ///
    /// Tells what has been asked so far, and asks nobody. Exits with 3 if there is something to mend.
    #[command(after_help = "Example: fullscript-events crosswalk check --clinic oak-street")]
    Check {
        /// Only this clinic.
        #[arg(long, value_name = "CLINIC")]
        clinic: Option<String>,
        /// Have them asked for again, and what waits attempted again, by the daemon.
        #[arg(long)]
        refresh: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `crosswalk`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    let Command::Check {
        clinic,
        refresh,
        json,
    } = args.command;
    let session = Session::open(path)?;
    on_runtime(async {
        if let Some(clinic) = &clinic {
            session.expect_clinic(clinic).await?;
        }
        let query = &session.query;
        let queued = if refresh {
            let queued = query.refresh_crosswalk(clinic.clone()).await;
            Some(queued.map_err(state_failure)?)
        } else {
            None
        };
        let gaps = query.crosswalk_gaps(clinic.clone()).await;
        let waiting = query.waiting_for_crosswalk(clinic).await;
        let found = Found {
            gaps: gaps.map_err(state_failure)?,
            waiting: waiting.map_err(state_failure)?,
            queued,
        };
        if json {
            print(&format!("{:#}\n", found.as_json()))?;
        } else {
            let when = session.when_delivered();
            print(&found.text(session.now, &session.program, &when))?;
        }
        Ok(if found.is_whole() || refresh {
            Exit::Done
        } else {
            Exit::Partial
        })
    })
}

struct Found {
    gaps: Vec<Gap>,
    waiting: Vec<Waiting>,
    /// How many deliveries are attempted again, if that was asked for.
    queued: Option<usize>,
}

impl Found {
    fn is_whole(&self) -> bool {
        self.gaps.is_empty() && self.waiting.is_empty()
    }

    fn text(&self, now: DateTime<Utc>, program: &str, when_delivered: &str) -> String {
        let mut lines = Vec::new();
        if let Some(queued) = self.queued {
            let queued = deliveries(u64::try_from(queued).unwrap_or(u64::MAX));
            lines.push(format!(
                "{} will be asked for again; {queued} attempted again. {when_delivered}",
                count(self.gaps.len() as u64, "gap")
            ));
        }
        if self.is_whole() {
            if self.queued.is_none() {
                lines.push(
                    "No gap: of all that was asked for, Fullscript knows the EMR's own id."
                        .to_owned(),
                );
            }
            return lines.join("\n") + "\n";
        }
        if !self.gaps.is_empty() {
            let mut table = vec![cells(["CLINIC", "WHO", "FULLSCRIPT ID", "PLANS", "ASKED"])];
            table.extend(self.gaps.iter().map(|gap| row(gap, now)));
            lines.extend(aligned(&table));
        }
        for waiting in &self.waiting {
            let next = match waiting.next_at {
                Some(at) if at > now => format!("next attempt in {}", output::span(at - now)),
                Some(_) => "next attempt soon".to_owned(),
                None => "no further attempt by itself".to_owned(),
            };
            let verb = if waiting.deliveries == 1 {
                "waits"
            } else {
                "wait"
            };
            lines.push(format!(
                "{} of {} to {} {verb} for an id; {next}.",
                deliveries(waiting.deliveries),
                waiting.clinic,
                waiting.sink
            ));
        }
        if self.queued.is_none() {
            lines.push(String::new());
            lines.extend(wrapped(MENDED_BY, WIDTH));
            lines.push(format!("At once: {program} crosswalk check --refresh"));
        }
        lines.join("\n") + "\n"
    }

    fn as_json(&self) -> serde_json::Value {
        let gaps = self.gaps.iter().map(|gap| {
            let (kind, id) = parts(&gap.subject);
            json!({
                "clinic": gap.clinic,
                "kind": kind,
                "id": id,
                "plans": gap.plans,
                "looked_at": iso(gap.looked_at),
                "asked_again": gap.is_stale,
            })
        });
        let waiting = self.waiting.iter().map(|waiting| {
            json!({
                "sink": waiting.sink,
                "clinic": waiting.clinic,
                "deliveries": waiting.deliveries,
                "next_at": waiting.next_at.map(iso),
            })
        });
        json!({
            "schema": SCHEMA,
            "gaps": gaps.collect::<Vec<_>>(),
            "waiting": waiting.collect::<Vec<_>>(),
            "queued_again": self.queued,
        })
    }
}

fn parts(subject: &Subject) -> (&'static str, &str) {
    match subject {
        Subject::Patient(id) => ("patient", id),
        Subject::TreatmentPlan(id) => ("treatment_plan", id),
    }
}

fn row(gap: &Gap, now: DateTime<Utc>) -> Vec<String> {
    let (kind, id) = parts(&gap.subject);
    let plans = match gap.plans {
        0 => String::new(),
        plans => plans.to_string(),
    };
    let asked = if gap.is_stale {
        "will be again".to_owned()
    } else {
        ago(gap.looked_at, now)
    };
    cells([&gap.clinic, &kind.replace('_', " "), id, &plans, &asked])
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn found(now: DateTime<Utc>, queued: Option<usize>) -> Found {
        let gap = |subject, plans, minutes| Gap {
            clinic: "oak".to_owned(),
            subject,
            plans,
            looked_at: now - TimeDelta::minutes(minutes),
            is_stale: queued.is_some(),
        };
        Found {
            gaps: vec![
                gap(Subject::Patient("0f8b6c1e".to_owned()), 2, 12),
                gap(Subject::TreatmentPlan("6f1d2c3b".to_owned()), 0, 40),
            ],
            waiting: vec![Waiting {
                sink: "chart".to_owned(),
                clinic: "oak".to_owned(),
                deliveries: 3,
                next_at: Some(now + TimeDelta::minutes(20)),
            }],
            queued,
        }
    }

    #[test]
    fn gaps_and_what_waits_are_told_with_what_mends_them() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let when = "The running daemon delivers within a minute.";
        let text = |found: Found| found.text(now, "fullscript-events", when);
        insta::assert_snapshot!(text(found(now, None)), @r"
        CLINIC  WHO             FULLSCRIPT ID  PLANS  ASKED
        oak     patient         0f8b6c1e       2      12 min ago
        oak     treatment plan  6f1d2c3b              40 min ago
        3 deliveries of oak to chart wait for an id; next attempt in 20 min.

        To mend it, have your EMR's integration enter the EMR's own id in Fullscript, as metadata.id of the
        patient (or of the plan). It is noticed at the next attempt.
        At once: fullscript-events crosswalk check --refresh
        ");
        let refreshed = Found {
            waiting: Vec::new(),
            ..found(now, Some(3))
        };
        insta::assert_snapshot!(text(refreshed), @r"
        2 gaps will be asked for again; 3 deliveries attempted again. The running daemon delivers within a minute.
        CLINIC  WHO             FULLSCRIPT ID  PLANS  ASKED
        oak     patient         0f8b6c1e       2      will be again
        oak     treatment plan  6f1d2c3b              will be again
        ");
        let none = Found {
            gaps: Vec::new(),
            waiting: Vec::new(),
            queued: None,
        };
        insta::assert_snapshot!(text(none), @"No gap: of all that was asked for, Fullscript knows the EMR's own id.");
        insta::assert_snapshot!(format!("{:#}", found(now, None).as_json()), @r#"
        {
          "gaps": [
            {
              "asked_again": false,
              "clinic": "oak",
              "id": "0f8b6c1e",
              "kind": "patient",
              "looked_at": "2024-10-03T23:48:00.000Z",
              "plans": 2
            },
            {
              "asked_again": false,
              "clinic": "oak",
              "id": "6f1d2c3b",
              "kind": "treatment_plan",
              "looked_at": "2024-10-03T23:20:00.000Z",
              "plans": 0
            }
          ],
          "queued_again": null,
          "schema": 1,
          "waiting": [
            {
              "clinic": "oak",
              "deliveries": 3,
              "next_at": "2024-10-04T00:20:00.000Z",
              "sink": "chart"
            }
          ]
        }
        "#);
    }
}
