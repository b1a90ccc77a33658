//! How text reaches standard output: whole, in columns, in colour only where somebody looks.

use std::io::{self, IsTerminal as _, Write as _};

use chrono::{DateTime, TimeDelta, Utc};

use super::{CommandResult, Exit, Failure};

/// Whether emphasis may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    /// For a file, a pipe, or a reader who does not want it.
    Plain,
    /// For a terminal.
    Colour,
}

/// What is said by a colour too; never by a colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Note,
    Warning,
    Critical,
    Heading,
}

impl Paint {
    /// Colour on a terminal, unless `NO_COLOR` is set.
    pub(super) fn for_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if io::stdout().is_terminal() && !unwanted {
            Self::Colour
        } else {
            Self::Plain
        }
    }

    /// A text in a tone.
    pub(super) fn tint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Note => "2",
            Tone::Warning => "33",
            Tone::Critical => "1;31",
            Tone::Heading => "1",
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// Writes to standard output. A reader who has seen enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> CommandResult {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Unexpected,
            format!("standard output cannot be written: {error}"),
        )),
        Ok(()) | Err(_) => Ok(Exit::Done),
    }
}

/// Lines of cells as lines of text: every column as wide as its widest cell, two blanks between, none at the end.
pub(super) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(move |row| row.get(column));
        cells
            .map(|cell: &String| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A row of cells.
pub(super) fn cells<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

/// A span in one unit: `40 s`, `3 min`, `5 h`, `12 days`. A clock that went back gives `0 s`.
pub(super) fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long ago something was.
pub(super) fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", span(now - at))
}

/// A time as people read it.
pub(super) fn utc(at: DateTime<Utc>) -> String {
    at.format("%F %H:%M:%S UTC").to_string()
}

/// A time as programs read it.
pub(super) fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// `1 event`, `2 events`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// `1 delivery`, `2 deliveries`.
pub(super) fn deliveries(number: u64) -> String {
    let noun = if number == 1 {
        "delivery"
    } else {
        "deliveries"
    };
    format!("{number} {noun}")
}

/// A text in lines of at most `width` characters, broken at blanks; a longer word has a line of its own.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// This program as it must be called to mean the same configuration.
pub(super) fn program(config: &std::path::Path) -> String {
    if config == std::path::Path::new(super::DEFAULT_CONFIG) {
        "fullscript-events".to_owned()
    } else {
        let path = config.display().to_string();
        let plain = |c: char| c.is_alphanumeric() || "/._-@".contains(c);
        if path.chars().all(plain) {
            format!("fullscript-events -c {path}")
        } else {
            format!("fullscript-events -c '{}'", path.replace('\'', r"'\''"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_one_unit_and_never_goes_below_nothing() {
        for (seconds, words) in [
            (-5, "0 s"),
            (59, "59 s"),
            (3600, "60 min"),
            (7200, "2 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(TimeDelta::seconds(seconds)), words);
        }
    }

    #[test]
    fn a_command_to_copy_names_another_configuration_and_quotes_it() {
        let program = |path: &str| program(std::path::Path::new(path));
        assert_eq!(program(super::super::DEFAULT_CONFIG), "fullscript-events");
        assert_eq!(program("/etc/us.toml"), "fullscript-events -c /etc/us.toml");
        assert_eq!(program("a b"), "fullscript-events -c 'a b'");
    }
}
