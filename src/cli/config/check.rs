//! `config check`: every problem at once, or on one screen what is polled and who gets what.

use std::path::Path;

use serde_json::json;

use super::{CommandResult, Exit, Failure};
use crate::config::{
    self, ClinicSelection, Config, FirstRun, Invalid, Loaded, Problem, Sink, show_duration,
};
use crate::domain::{Category, ClinicName, Pattern};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `config check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `config check`.
pub(super) fn run(path: &Path, args: &Args) -> CommandResult {
    let checked = config::load(path).map(|mut loaded| {
        let unreadable = unreadable(&loaded.config);
        loaded.warnings.extend(unreadable);
        loaded
    });
    match checked {
        Ok(loaded) if args.json => println!("{}", good_json(path, &loaded)),
        Ok(loaded) => print!("{}", summary(path, &loaded)),
        Err(invalid) if args.json => {
            println!("{}", invalid_json(&invalid));
            return Ok(Exit::Config);
        }
        Err(invalid) => return Err(Failure::new(Exit::Config, invalid)),
    }
    Ok(Exit::Done)
}

/// The secrets that cannot be read from here. Warnings only: whoever checks is often not the service, which has
/// credentials that nobody else has.
fn unreadable(config: &Config) -> Vec<Problem> {
    let seal_key = (
        "state.seal_key".to_owned(),
        config.state.seal_key.read_key().err(),
    );
    let others = config
        .secrets()
        .into_iter()
        .map(|(key, secret)| (key, secret.read().err()));
    std::iter::once(seal_key)
        .chain(others)
        .filter_map(|(key, error)| {
            Some(Problem {
                key,
                line: None,
                found: format!("cannot be read by this command: {}", error?),
                wanted: "a secret that the service can read when it starts".to_owned(),
                suggestion: None,
            })
        })
        .collect()
}

fn summary(path: &Path, loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut lines = vec![
        vec!["app".to_owned(), config.app.environment.clone()],
        vec![String::new(), config.app.api_base.to_string()],
        vec![
            "state".to_owned(),
            config.state.directory.display().to_string(),
        ],
        vec!["poll".to_owned(), polling(config)],
    ];
    let words = |title: &str, index: usize| {
        if index == 0 {
            title.to_owned()
        } else {
            String::new()
        }
    };
    let mut rows = Vec::new();
    for (index, clinic) in config.clinics.iter().enumerate() {
        let categories: Vec<_> = clinic.categories.iter().map(Category::as_str).collect();
        rows.push(vec![
            words("clinics", index),
            clinic.name.to_string(),
            categories.join(", "),
        ]);
    }
    lines.extend(joined_columns(&rows));
    let sinks = config.sinks.iter().enumerate().map(|(index, sink)| {
        vec![
            words("sinks", index),
            sink.name.to_string(),
            sink.kind.name().to_owned(),
            receives(sink),
        ]
    });
    lines.extend(joined_columns(&sinks.collect::<Vec<_>>()));
    let mut text = format!("{}: good\n\n", path.display());
    for line in lines {
        let title = line.first().map_or("", String::as_str);
        let rest = line.get(1).map_or("", String::as_str);
        text += format!("{title:<9}{rest}").trim_end();
        text.push('\n');
    }
    for warning in &loaded.warnings {
        text.extend(["\nwarning: ", &warning.to_string(), "\n"]);
    }
    text
}

/// Aligns every column but the first, and joins them to one.
fn joined_columns(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(move |row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let join = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).skip(1);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        vec![row.first().cloned().unwrap_or_default(), cells.join("  ")]
    };
    rows.iter().map(join).collect()
}

fn polling(config: &Config) -> String {
    let poll = &config.poll;
    let first_run = match poll.first_run {
        FirstRun::Baseline => "sends nothing of what is there".to_owned(),
        FirstRun::Since(span) => format!("sends the last {}", show_duration(span)),
    };
    format!(
        "every {}, deep every {}, reconcile every {}; the first run {first_run}",
        show_duration(poll.interval),
        show_duration(poll.deep_interval),
        show_duration(poll.reconcile_interval)
    )
}

fn receives(sink: &Sink) -> String {
    let patterns: Vec<_> = sink.matches.iter().map(Pattern::as_str).collect();
    let clinics = match &sink.clinics {
        ClinicSelection::All => "all clinics".to_owned(),
        ClinicSelection::Named(names) => {
            let names: Vec<_> = names.iter().map(ClinicName::as_str).collect();
            names.join(", ")
        }
    };
    format!("{} of {clinics}", patterns.join(" "))
}

fn good_json(path: &Path, loaded: &Loaded) -> serde_json::Value {
    let config = &loaded.config;
    let clinics = config.clinics.iter().map(|clinic| {
        let categories: Vec<_> = clinic.categories.iter().map(Category::as_str).collect();
        json!({ "name": clinic.name.as_str(), "categories": categories })
    });
    let sinks = config.sinks.iter().map(|sink| {
        let clinics: Vec<_> = match &sink.clinics {
            ClinicSelection::All => vec!["*"],
            ClinicSelection::Named(names) => names.iter().map(ClinicName::as_str).collect(),
        };
        let patterns: Vec<_> = sink.matches.iter().map(Pattern::as_str).collect();
        json!({
            "name": sink.name.as_str(),
            "kind": sink.kind.name(),
            "clinics": clinics,
            "match": patterns,
        })
    });
    json!({
        "schema": SCHEMA,
        "file": path.display().to_string(),
        "good": true,
        "environment": config.app.environment,
        "api_base": config.app.api_base.as_str(),
        "state_directory": config.state.directory.display().to_string(),
        "clinics": clinics.collect::<Vec<_>>(),
        "sinks": sinks.collect::<Vec<_>>(),
        "warnings": loaded.warnings,
    })
}

fn invalid_json(invalid: &Invalid) -> serde_json::Value {
    json!({
        "schema": SCHEMA,
        "file": invalid.file.display().to_string(),
        "good": false,
        "problems": invalid.problems,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_CLINICS: &str = r#"
[app]
environment = "ca-sandbox"
client_id = "id"
client_secret = { file = "/nowhere/client_secret" }
redirect_uri = "http://127.0.0.1:8765/callback"
[state]
seal_key = { credential = "seal_key" }
[[clinics]]
name = "oak-street"
categories = ["patients", "order"]
[[clinics]]
name = "harbour"
[[sinks]]
name = "chart"
kind = "file"
path = "/srv/events.jsonl"
clinics = ["*"]
match = ["order.*", "!*.updated"]
[[sinks]]
name = "import"
kind = "exec"
command = ["/usr/bin/true"]
clinics = ["harbour"]
"#;

    #[test]
    fn the_summary_says_who_gets_what_and_what_is_odd() {
        let path = Path::new("config.toml");
        let loaded = config::parse(TWO_CLINICS, path).unwrap();
        insta::assert_snapshot!(summary(path, &loaded), @r#"
    config.toml: good

    app      ca-sandbox
             https://api-ca-snd.fullscript.io/api
    state    /var/lib/fullscript-events
    poll     every 1m, deep every 1h, reconcile every 1d; the first run sends nothing of what is there
    clinics  oak-street  patients, order
             harbour     patients, treatment_plans, orders, products, clinic_keys
    sinks    chart   file  order.* !*.updated of all clinics
             import  exec  * of harbour

    warning: clinics[0].categories[1] (line 11)
      found:  "order"
      wanted: a category that this program knows; it is polled all the same
      did you mean "orders"?
    "#);
    }

    #[test]
    fn secrets_that_only_the_service_can_read_are_warnings() {
        let loaded = config::parse(TWO_CLINICS, Path::new("config.toml")).unwrap();
        let warnings = unreadable(&loaded.config);
        let keys: Vec<_> = warnings.iter().map(|w| w.key.as_str()).collect();
        assert_eq!(keys, ["state.seal_key", "app.client_secret"]);
    }
}
