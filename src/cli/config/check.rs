//! `config check`: every problem at once, or on one screen what is polled and who gets what.

use std::path::Path;

use http::HeaderValue;
use serde_json::json;

use super::{CommandResult, Exit, Failure};
use crate::config::{
    self, ClinicSelection, Config, FirstRun, Holds, Invalid, Loaded, Problem, SecretRef,
    Unreadable, show_duration,
};
use crate::domain::{Category, ClinicName, Pattern, Patterns};
use crate::format::authorization::{self, Unsendable};
use crate::format::standard;

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
        let secrets = secrets(&loaded.config);
        loaded.warnings.extend(secrets);
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

/// The secrets that cannot be used, as far as can be seen from here. Warnings only: whoever checks is often not the
/// service, which has credentials that nobody else has.
fn secrets(config: &Config) -> Vec<Problem> {
    let seal_key = config.state.seal_key.read_key().err();
    let seal_key = seal_key.map(|error| unreadable("state.seal_key".to_owned(), &error));
    let others = config.secrets().into_iter();
    let others = others.filter_map(|(key, secret, holds)| match (secret.read(), holds) {
        (Err(error), _) => Some(unreadable(key, &error)),
        // Whether a key belongs to its certificate is seen at the start.
        (Ok(_), Holds::Text | Holds::PrivateKey) => None,
        (Ok(text), Holds::SigningKey) => {
            let error = standard::Key::parse(&text).err()?;
            let found = format!("{secret} holds no signing key: {error}");
            Some(warning(key, found, standard::WANTED))
        }
        (Ok(text), Holds::Token) => unsendable(key, secret, authorization::bearer(&text)),
        (Ok(text), Holds::Password) => unsendable(key, secret, authorization::basic("", &text)),
    });
    seal_key.into_iter().chain(others).collect()
}

fn unsendable(
    key: String,
    secret: &SecretRef,
    header: Result<HeaderValue, Unsendable>,
) -> Option<Problem> {
    let error = header.err()?;
    let wanted = "a secret that a header can carry";
    Some(warning(key, format!("{secret} {error}"), wanted))
}

fn unreadable(key: String, error: &Unreadable) -> Problem {
    let found = format!("cannot be read by this command: {error}");
    let wanted = "a secret that the service can read when it starts";
    warning(key, found, wanted)
}

fn warning(key: String, found: String, wanted: &str) -> Problem {
    Problem {
        key,
        line: None,
        found,
        wanted: wanted.to_owned(),
        suggestion: None,
    }
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
            received(&sink.matches, &sink.clinics),
        ]
    });
    lines.extend(joined_columns(&sinks.collect::<Vec<_>>()));
    let enrich = config.enrich.tables().iter().enumerate();
    let enrich = enrich.map(|(index, table)| {
        let keys: Vec<_> = table.metadata.iter().map(|(key, _)| key).collect();
        let of = received(&table.matches, &table.clinics);
        vec![words("enrich", index), keys.join(", "), of]
    });
    lines.extend(joined_columns(&enrich.collect::<Vec<_>>()));
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

fn received(matches: &Patterns, clinics: &ClinicSelection) -> String {
    let patterns: Vec<_> = matches.iter().map(Pattern::as_str).collect();
    let clinics = match clinics {
        ClinicSelection::All => "all clinics".to_owned(),
        ClinicSelection::Named(_) => clinics_of(clinics).join(", "),
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
        let clinics = clinics_of(&sink.clinics);
        let patterns: Vec<_> = sink.matches.iter().map(Pattern::as_str).collect();
        json!({
            "name": sink.name.as_str(),
            "kind": sink.kind.name(),
            "clinics": clinics,
            "match": patterns,
        })
    });
    let enrich = config.enrich.tables().iter().map(|table| {
        json!({
            "clinics": clinics_of(&table.clinics),
            "match": table.matches.iter().map(Pattern::as_str).collect::<Vec<_>>(),
            "metadata": table.metadata,
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
        "enrich": enrich.collect::<Vec<_>>(),
        "warnings": loaded.warnings,
    })
}

fn clinics_of(selection: &ClinicSelection) -> Vec<&str> {
    match selection {
        ClinicSelection::All => vec!["*"],
        ClinicSelection::Named(names) => names.iter().map(ClinicName::as_str).collect(),
    }
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
[[enrich]]
match = ["fhir.*"]
metadata = { compliance = "PHIPA", audit_required = true }
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
    enrich   audit_required, compliance  fhir.* of all clinics

    warning: clinics[0].categories[1] (line 11)
      found:  "order"
      wanted: a category that this program knows; it is polled all the same
      did you mean "orders"?
    "#);
    }

    #[test]
    fn what_is_said_of_events_is_in_the_json_too() {
        let path = Path::new("config.toml");
        let json = good_json(path, &config::parse(TWO_CLINICS, path).unwrap());
        let expected = json!([{
            "clinics": ["*"],
            "match": ["fhir.*"],
            "metadata": { "audit_required": true, "compliance": "PHIPA" },
        }]);
        assert_eq!(json["enrich"], expected);
    }

    #[test]
    fn secrets_that_only_the_service_can_read_are_warnings() {
        let loaded = config::parse(TWO_CLINICS, Path::new("config.toml")).unwrap();
        let warnings = secrets(&loaded.config);
        let keys: Vec<_> = warnings.iter().map(|w| w.key.as_str()).collect();
        assert_eq!(keys, ["state.seal_key", "app.client_secret"]);
    }

    #[test]
    fn a_secret_that_is_not_what_it_should_be_is_told_by_its_key_and_not_shown() {
        let text = format!(
            "{TWO_CLINICS}
[[sinks]]
name = \"portal\"
kind = \"webhook\"
clinics = [\"*\"]
url = \"https://portal.example/hooks\"
signature = \"standard\"
secret = {{ env = \"CARGO_PKG_NAME\" }}
old_secret = {{ file = \"/nowhere/old_secret\" }}
auth = {{ bearer = {{ env = \"CARGO_PKG_DESCRIPTION\" }} }}
"
        );
        let loaded = config::parse(&text, Path::new("config.toml")).unwrap();
        let warnings = secrets(&loaded.config).split_off(2);
        let words: Vec<_> = warnings.iter().map(Problem::to_string).collect();
        insta::assert_snapshot!(words.join("\n"), @r"
    sinks[2].secret
      found:  environment variable CARGO_PKG_NAME holds no signing key: its text is not base64
      wanted: whsec_ and base64 of 24 to 64 bytes, or whsk_ and base64 of an ed25519 seed (32 bytes, or 64 with the public key behind it)
    sinks[2].old_secret
      found:  cannot be read by this command: /nowhere/old_secret: No such file or directory (os error 2)
      wanted: a secret that the service can read when it starts
    sinks[2].auth.bearer
      found:  environment variable CARGO_PKG_DESCRIPTION holds no token: wanted are visible ASCII characters, without spaces
      wanted: a secret that a header can carry
    ");
        assert!(!words.concat().contains("fullscript-events"));
        assert!(!words.concat().contains("Fullscript"));
    }
}
