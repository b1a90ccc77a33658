//! `auth import`: refresh tokens from elsewhere, one or hundreds. Never from the command line: it is visible to every
//! user of the machine.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::session::{Session, exit_of, told};
use super::{CommandResult, Exit, Failure};
use crate::token::Tokens;

/// The longest input: a hundred thousand tokens.
const LONGEST: u64 = 16 * 1024 * 1024;
/// How many tokens are imported at once.
const AT_ONCE: usize = 4;

/// Arguments of `auth import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The clinic that the input's only token belongs to. Without it, each line is a clinic, a comma, tab or space,
    /// and its refresh token.
    clinic: Option<String>,
    /// Read this file instead of standard input.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Store without asking Fullscript: the first use will tell.
    #[arg(long)]
    offline: bool,
}

/// One token of the input.
struct Entry<'a> {
    line: usize,
    clinic: &'a str,
    token: SecretString,
}

/// Runs `auth import`.
pub(super) async fn run(config: &Path, args: &Args) -> CommandResult {
    let session = Session::open_or_create(config)?;
    let tokens = session.tokens().await?;
    let text = read(args.file.as_deref())?;
    if let Some(clinic) = &args.clinic {
        let token = text.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(Failure::new(
                Exit::Usage,
                "the input must hold one refresh token and nothing else (for several, leave CLINIC out)",
            ));
        }
        let entry = Entry {
            line: 1,
            clinic,
            token: token.into(),
        };
        println!("{}", imported(&session, &tokens, args, entry).await?);
        println!("next: fullscript-events status");
        return Ok(Exit::Done);
    }
    let (entries, unread) = entries(&text);
    for line in &unread {
        eprintln!(
            "line {line}: a clinic and a refresh token are wanted, separated by a comma, tab or space"
        );
    }
    if entries.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "the input holds no refresh token",
        ));
    }
    let all = entries.len() + unread.len();
    let (session, tokens) = (&session, &tokens);
    let mut results = futures_util::stream::iter(entries)
        .map(|entry| async move { (entry.line, imported(session, tokens, args, entry).await) })
        .buffered(AT_ONCE);
    let mut stored = 0;
    while let Some((line, result)) = results.next().await {
        match result {
            Ok(words) => {
                stored += 1;
                println!("{words}");
            }
            Err(failure) => eprintln!("line {line}: {}", failure.message),
        }
    }
    println!("{stored} of {all} stored; next: fullscript-events status");
    Ok(if stored == all {
        Exit::Done
    } else {
        Exit::Partial
    })
}

async fn imported(
    session: &Session,
    tokens: &Tokens,
    args: &Args,
    entry: Entry<'_>,
) -> Result<String, Failure> {
    let (clinic, configured) = session.clinic(entry.clinic)?;
    let enrolled = if args.offline {
        tokens
            .import_offline(&clinic, configured.as_ref(), entry.token)
            .await
    } else {
        tokens
            .import(&clinic, configured.as_ref(), entry.token)
            .await
    };
    let enrolled = enrolled.map_err(|error| Failure::new(exit_of(&error), error))?;
    session.probe(&clinic).await?;
    Ok(told(&clinic, &enrolled))
}

/// The lines that hold a token, and the numbers of those that hold something else. Blank lines and `#` are passed over.
fn entries(text: &str) -> (Vec<Entry<'_>>, Vec<usize>) {
    let (mut entries, mut unread) = (Vec::new(), Vec::new());
    for (line, content) in (1..).zip(text.lines().map(str::trim)) {
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let separator = |c: char| c == ',' || c.is_whitespace();
        let mut parts = content.split(separator).filter(|part| !part.is_empty());
        match (parts.next(), parts.next(), parts.next()) {
            (Some(clinic), Some(token), None) => entries.push(Entry {
                line,
                clinic,
                token: token.into(),
            }),
            _ => unread.push(line),
        }
    }
    (entries, unread)
}

fn read(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = match file {
        Some(path) => {
            std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        }
        None => std::io::stdin()
            .lock()
            .take(LONGEST)
            .read_to_string(&mut text),
    };
    let name = file.map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(Exit::NotFound, format!("{name}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn lines_are_read_with_any_separator_and_bad_ones_are_numbered() {
        let text = "# ours\noak, r1\n\nelm\tr2\nfir r3\nbirch\na b c\n";
        let (found, unread) = entries(text);
        let found: Vec<_> = found
            .iter()
            .map(|entry| (entry.line, entry.clinic, entry.token.expose_secret()))
            .collect();
        assert_eq!(
            found,
            [(2, "oak", "r1"), (4, "elm", "r2"), (5, "fir", "r3")]
        );
        assert_eq!(unread, [6, 7]);
    }
}
