//! `audit verify`.

use serde_json::{Value, json};

use super::super::output::{count, iso, print};
use super::super::session::state_failure;
use super::super::{CommandResult, Exit};
use super::Session;
use crate::audit::verify::{Broken, Found};
use crate::audit::{self, Standing};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `audit verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: every row is as it was written. 3: one is not; it is named, with its file, line and number."
)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `audit verify`.
pub(super) async fn run(mut session: Session, args: &Args) -> CommandResult {
    let mut found = session.walk(|_| {})?;
    if found.broken.is_some() {
        // Unless the daemon has just removed a day that was kept long enough.
        let standing = audit::standing(&session.store)
            .await
            .map_err(state_failure)?;
        let first = |standing: &Standing| standing.head.as_ref().map(|head| head.first.clone());
        if first(&standing) != first(&session.standing) {
            session.standing = standing;
            found = session.walk(|_| {})?;
        }
    }
    let session = &session;
    print(&if args.json {
        format!("{:#}\n", json_of(session, &found))
    } else {
        text(session, &found)
    })?;
    Ok(if found.broken.is_none() {
        Exit::Done
    } else {
        Exit::Partial
    })
}

fn text(session: &Session, found: &Found) -> String {
    let mut lines = Vec::new();
    let of = format!(
        "{} in {}",
        count(found.rows, "row"),
        count(found.files, "file")
    );
    match &found.broken {
        None => {
            let span = found.span.map_or(String::new(), |(first, last)| {
                format!(", {first} to {last}")
            });
            lines.push(format!("The audit log is whole: {of}{span}."));
        }
        Some(broken) => {
            lines.push(format!("The audit log is broken: {}.", words(broken)));
            lines.push(format!("Good up to there: {of}."));
        }
    }
    let waiting = session.standing.waiting;
    if waiting > 0 {
        lines.push(format!(
            "{} in the ledger: the running daemon writes them, or the next start.",
            if waiting == 1 {
                "1 record waits".to_owned()
            } else {
                format!("{waiting} records wait")
            }
        ));
    }
    if let Some((trouble, _)) = &session.standing.trouble {
        lines.push(format!("It cannot be written: {trouble}"));
    }
    lines.join("\n") + "\n"
}

/// The first bad row, in words.
pub(super) fn words(broken: &Broken) -> String {
    let Broken {
        file,
        line,
        seq,
        wrong,
    } = broken;
    format!("{}, line {line}, row {seq}: {wrong}", file.display())
}

fn json_of(session: &Session, found: &Found) -> Value {
    json!({
        "schema": SCHEMA,
        "ok": found.broken.is_none(),
        "directory": session.settings.directory,
        "files": found.files,
        "rows": found.rows,
        "first_seq": found.span.map(|(first, _)| first),
        "last_seq": found.span.map(|(_, last)| last),
        "waiting": session.standing.waiting,
        "broken": found.broken.as_ref().map(|broken| json!({
            "file": broken.file,
            "line": broken.line,
            "seq": broken.seq,
            "wrong": broken.wrong.as_str(),
            "words": broken.wrong.to_string(),
        })),
        "trouble": session.standing.trouble.as_ref().map(|(trouble, since)| json!({
            "words": trouble,
            "since": iso(*since),
        })),
    })
}
