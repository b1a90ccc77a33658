//! `kind = "sqlite"`.

use super::super::super::values;
use super::file::mode;
use crate::config::file::{Field, Section};
use crate::config::{SqliteInto, SqliteSink};

/// The documented table's name, unless another is given.
const TABLE: &str = "fullscript_event";
/// Our own, in the same database (`docs/sqlite.md`).
const OURS: &str = "fullscript_sink";

pub(super) fn read(section: &Section<'_>) -> Option<SqliteSink> {
    let path = section.required(
        "path",
        "the database that events are written to, such as \"/srv/ehr/fullscript/events.db\"",
    );
    let path = path.as_ref().and_then(values::path);
    let mode = section.or("mode", 0o640, mode);
    let group = section.field("group").as_ref().and_then(values::words);
    let into = into(section);
    Some(SqliteSink {
        path: path?,
        mode,
        group,
        into: into?,
    })
}

fn into(section: &Section<'_>) -> Option<SqliteInto> {
    match (section.field("table"), section.field("statement")) {
        (None, None) => Some(SqliteInto::Table(TABLE.to_owned())),
        (Some(name), None) => table(&name).map(SqliteInto::Table),
        (None, Some(text)) => statement(&text).map(SqliteInto::Statement),
        (Some(_), Some(text)) => {
            text.refuse("either table, which is made for you, or a statement of your own")
        }
    }
}

fn table(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let plain = |c: char| c.is_ascii_alphabetic() || c == '_';
    let good = text.len() <= 64
        && text.starts_with(plain)
        && text.chars().all(|c| plain(c) || c.is_ascii_digit());
    let lower = text.to_ascii_lowercase();
    if !good || lower.starts_with("sqlite_") || lower == OURS {
        return field.refuse(format_args!(
            "a name of letters, digits and _, which begins with no digit, at most 64 long; not sqlite_… nor {OURS}"
        ));
    }
    Some(text.to_owned())
}

/// That it is one statement, and what it asks for, only the database can tell.
fn statement(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.trim().is_empty() || text.contains('\0') {
        return field.refuse(
            "an SQL statement, such as \"INSERT INTO inbox (id, body) VALUES (:id, :data)\"",
        );
    }
    Some(text.to_owned())
}
