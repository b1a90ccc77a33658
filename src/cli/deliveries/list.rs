//! `deliveries list`, and the filters that `done`, `retry` and `drop` share with it.

use serde_json::json;

use super::super::output::{Paint, Tone, ago, aligned, cells, print};
use super::super::session::{Session, delivery_state, state_failure};
use super::super::{CommandResult, Failure};
use super::{SCHEMA, to_json};
use crate::domain::DeliveryState;
use crate::ledger::{DeliveryFilter, DeliveryOf};

/// Arguments of `deliveries list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: fullscript-events deliveries list --state held --sink ehr")]
pub(super) struct Args {
    /// In this state: queued, claimed, held, parked, dead, done or skipped; without it those that are held or dead.
    #[arg(long, value_name = "STATE", value_parser = delivery_state)]
    state: Option<DeliveryState>,
    #[command(flatten)]
    of: Of,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Which deliveries, but for their state.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Of {
    /// To this sink.
    #[arg(long, value_name = "NAME")]
    pub(super) sink: Option<String>,
    /// Of this clinic.
    #[arg(long, value_name = "NAME")]
    pub(super) clinic: Option<String>,
    /// Of events of this type; `*`, `?` and `[…]` as in file names.
    #[arg(long = "type", value_name = "GLOB")]
    pub(super) event_type: Option<String>,
}

impl Of {
    /// The filter, once the names in it are known to exist: a misspelt one must not look like "nothing is held".
    pub(super) async fn filter(
        self,
        session: &Session,
        state: Option<DeliveryState>,
        limit: u32,
    ) -> Result<DeliveryFilter, Failure> {
        if let Some(clinic) = &self.clinic {
            session.expect_clinic(clinic).await?;
        }
        if let Some(sink) = &self.sink {
            session.expect_sink(sink).await?;
        }
        Ok(DeliveryFilter {
            ids: None,
            state,
            sink: self.sink,
            clinic: self.clinic,
            event_type: self.event_type,
            limit,
        })
    }
}

/// Runs `deliveries list`.
pub(super) async fn run(session: &Session, args: Args) -> CommandResult {
    let filter = args.of.filter(session, args.state, args.limit).await?;
    let found = session.query.deliveries(filter).await;
    let found = found.map_err(state_failure)?;
    let limited = found.len() == usize::try_from(args.limit).unwrap_or(usize::MAX);
    if args.json {
        let rows: Vec<_> = found.iter().map(to_json).collect();
        let object = json!({ "schema": SCHEMA, "deliveries": rows, "limited": limited });
        return print(&format!("{object:#}\n"));
    }
    if found.is_empty() {
        return print(if args.state.is_some() {
            "No delivery fits.\n"
        } else {
            "Nothing is held or dead: no delivery needs you.\n"
        });
    }
    print(&text(session, &found, limited, Paint::for_stdout()))
}

fn text(session: &Session, found: &[DeliveryOf], limited: bool, paint: Paint) -> String {
    let headings = [
        "DELIVERY", "SINK", "STATE", "SINCE", "CLINIC", "TYPE", "REASON",
    ];
    let mut rows = vec![cells(headings)];
    rows.extend(found.iter().map(|of| {
        let since = of.delivery.settled_at;
        let since = since.map_or_else(|| "-".to_owned(), |at| ago(at, session.now));
        cells([
            &of.delivery.delivery.to_string(),
            &of.delivery.sink,
            of.delivery.state.as_str(),
            &since,
            &of.clinic,
            &of.event_type,
            of.delivery.reason.as_deref().unwrap_or("-"),
        ])
    }));
    let mut lines = aligned(&rows);
    if let Some(heading) = lines.first_mut() {
        *heading = paint.tint(Tone::Heading, heading);
    }
    let more = if limited {
        format!("The oldest {}; more with --limit. ", found.len())
    } else {
        String::new()
    };
    lines.push(format!(
        "\n{more}One of them, and what can be said about it: {} deliveries show NUMBER",
        session.program
    ));
    lines.join("\n") + "\n"
}
