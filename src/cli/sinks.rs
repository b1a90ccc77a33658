//! `sinks`: where events go and how far each sink is, and letting a stopped one go on.

use std::path::Path;

use serde_json::json;

use super::output::{self, aligned, cells, iso, print};
use super::{CommandResult, Exit, Failure, configured, on_runtime};
use crate::app;
use crate::config::Config;
use crate::domain::DeliveryState;
use crate::ledger::{Query, SinkRow};
use crate::store::Unavailable;

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `sinks`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the sinks, and how many deliveries are in each state.
    #[command(after_help = "Example: fullscript-events sinks list --json")]
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Let a stopped file sink go on with its file as it is now.
    ///
    /// A file sink stops when its file is not as this program left it: shorter, replaced or edited. Look at it first:
    /// what was written there and is gone is not written again by this.
    #[command(after_help = "Example: fullscript-events sinks accept archive")]
    Accept {
        /// The sink's name in the configuration.
        name: String,
    },
}

/// Runs `sinks`.
pub(super) fn run(path: &Path, args: Args) -> CommandResult {
    let config = configured(path)?;
    let query = Query::new(app::open_store(&config)?);
    on_runtime(async {
        match args.command {
            Command::List { json } => list(&config, &query, json.into()).await,
            Command::Accept { name } => accept(&query, name, &output::program(path)).await,
        }
    })
}

enum Format {
    Text,
    Json,
}

impl From<bool> for Format {
    fn from(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

fn state(error: Unavailable) -> Failure {
    Failure::new(Exit::State, error)
}

async fn list(config: &Config, query: &Query, format: Format) -> CommandResult {
    let rows = query.sinks().await.map_err(state)?;
    let kind = |row: &SinkRow| {
        let sink = config
            .sinks
            .iter()
            .find(|sink| sink.name.as_str() == row.name);
        sink.map(|sink| sink.kind.name())
    };
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
            for row in &rows {
                if let Some(why) = &row.stopped {
                    text.push(format!("\n{} is stopped: {why}", row.name));
                }
            }
            print(&(text.join("\n") + "\n"))
        }
    }
}

fn as_json(row: &SinkRow, kind: Option<&str>) -> serde_json::Value {
    let counts: serde_json::Map<_, _> = DeliveryState::ALL
        .into_iter()
        .map(|state| (state.as_str().to_owned(), row.count(state).into()))
        .collect();
    json!({
        "name": row.name,
        "kind": kind,
        "deliveries": counts,
        "waiting_since": row.waiting_since.map(iso),
        "trouble": row.trouble,
        "stopped": row.stopped,
    })
}

async fn accept(query: &Query, name: String, program: &str) -> CommandResult {
    let rows = query.sinks().await.map_err(state)?;
    let Some(row) = rows.iter().find(|row| row.name == name) else {
        let known: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        return Err(Failure::new(
            Exit::NotFound,
            format!("there is no sink {name:?}; there are: {}", known.join(", ")),
        ));
    };
    if row.stopped.is_none() {
        return print(&format!("{name} is not stopped: nothing was changed.\n"));
    }
    query.accept_sink(name.clone()).await.map_err(state)?;
    print(&format!(
        "{name} takes its file as it is now, and goes on behind its last line within a minute.\nWhether it does: {program} status\n"
    ))
}
