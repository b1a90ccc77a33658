//! `audit verify`.

use serde_json::{Value, json};

use super::super::output::{count, iso, print};
use super::super::session::state_failure;
use super::super::{CommandResult, Exit};
use super::Session;
use crate::audit::verify::{Broken, Found};
use crate::audit::{self, Row, Standing};

/// The version of what `--json` prints.
const SCHEMA: u32 = 1;

/// Arguments of `audit verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: every row that the ledger knows of is as it was written. 3: one is not; it is named, with its file, line and \
                  number.\n\nRows that say that the log itself was not as it was left (a lost or restored ledger, a crash, a cut) are \
                  printed as `Look at row ...` and change no exit code: of each somebody should know why."
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
    for row in &found.remarks {
        lines.push(format!("Look at row {}: {}", row.link.seq, remark(row)));
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

/// A row about the log itself, in words.
fn remark(row: &Row) -> String {
    let record = &row.record;
    let much = |key| record.noted(key).unwrap_or("some").to_owned();
    let words = match record.noted("what") {
        Some("found_longer") => format!(
            "the ledger did not know {} rows that were in the log, as after a restore or a loss of the ledger; \
             whether there were more, nothing here can say",
            much("rows")
        ),
        Some("found_shorter") => {
            format!("{} bytes were missing at the end of the log", much("bytes"))
        }
        Some("cut") => format!(
            "{} bytes behind the end, which were no row, were cut, as after a crash",
            much("bytes")
        ),
        _ => format!(
            "{} records were lost, as the log could not be written for too long",
            much("lost")
        ),
    };
    format!("at {}, {words}.", record.timestamp)
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
        "remarks": found.remarks.iter().map(|row| json!({
            "seq": row.link.seq,
            "timestamp": row.record.timestamp,
            "what": row.record.noted("what"),
            "words": remark(row),
        })).collect::<Vec<_>>(),
        "trouble": session.standing.trouble.as_ref().map(|(trouble, since)| json!({
            "words": trouble,
            "since": iso(*since),
        })),
    })
}
