//! From a file to a [`Config`], or to everything that is wrong with it.

use std::path::Path;

use toml::de::DeTable;

use super::check;
use super::file::{Collected, Report};
use super::{Config, Invalid, Problem};

/// A usable configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the rest of the program takes.
    pub config: Config,
    /// What is odd but no obstacle, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Reads and checks a file. Secrets are not read: see [`super::SecretRef::read`].
pub fn load(path: &Path) -> Result<Loaded, Invalid> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) => Err(Invalid {
            file: path.to_owned(),
            problems: vec![Problem {
                key: String::new(),
                line: None,
                found: error.to_string(),
                wanted: "a file that can be read (`fullscript-events config init` writes one; -c names another)"
                    .to_owned(),
                suggestion: None,
            }],
        }),
    }
}

/// Checks a text; `path` is what messages call it.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, Invalid> {
    let (config, collected) = read(text);
    match config {
        Some(config) if collected.problems.is_empty() => Ok(Loaded {
            config,
            warnings: collected.warnings,
        }),
        _ => Err(Invalid {
            file: path.to_owned(),
            problems: collected.problems,
        }),
    }
}

fn read(text: &str) -> (Option<Config>, Collected) {
    let report = Report::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    // A text that is no TOML is told first and alone: what follows from it would be guesses.
    if let Some(error) = errors.first() {
        let mut collected = report.collected();
        collected.problems.push(syntax(text, error));
        return (None, collected);
    }
    let config = check::config(&report, document.get_ref());
    (config, report.collected())
}

/// Never the error's own display, which quotes the line: a secret may stand in it.
fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let report = Report::new(text);
    let offset = error.span().map_or(0, |span| span.start);
    Problem {
        key: String::new(),
        line: Some(report.line(offset)),
        found: format!(
            "no TOML at column {}: {}",
            report.column(offset),
            error.message().replace('\n', ", ")
        ),
        wanted: "TOML, as in config.example.toml".to_owned(),
        suggestion: None,
    }
}
