//! Values with a meaning: spans, URLs, paths, names, references to secrets. Each reader notes what is wrong and gives
//! `None`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::{Host, Url};

use crate::config::SecretRef;
use crate::config::duration::{parse_duration, show_duration};
use crate::config::file::Field;
use crate::config::problem::resembling;

const SECRETS_ARE_REFERRED_TO: &str = "a reference, since secrets never stand in this file: { credential = \"NAME\" } (systemd), \
     { file = \"/PATH\" } or { env = \"VARIABLE\" }";

const A_URL: &str = "a URL such as https://example.org/path";

/// A span that is longer than nothing and at most `longest`.
pub(super) fn span(field: &Field<'_>, longest: Duration) -> Option<Duration> {
    let span = parse_duration(field.text()?).filter(|s| !s.is_zero() && *s <= longest);
    if span.is_none() {
        return field.refuse(format_args!(
            "a span such as \"60s\", \"5m\", \"1h\" or \"7d\", longer than nothing and at most {}",
            show_duration(longest)
        ));
    }
    span
}

/// A text that is not empty.
pub(super) fn words(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return field.refuse("a text that is not empty and has no control characters");
    }
    Some(text.to_owned())
}

/// A name for logs, commands and metrics: `[a-z0-9][a-z0-9_-]*`, at most 64 characters.
pub(super) fn name(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = text.len() <= 64
        && text.starts_with(plain)
        && text.chars().all(|c| plain(c) || c == '_' || c == '-');
    if !good {
        return field.refuse(
            "a name of lower-case letters, digits, - and _, which begins with a letter or a digit, at most 64 long",
        );
    }
    Some(text.to_owned())
}

/// One of a few names.
pub(super) fn choice<T: Copy>(field: &Field<'_>, choices: &[(&str, T)]) -> Option<T> {
    let text = field.text()?;
    let chosen = choices.iter().find(|(name, _)| *name == text);
    if chosen.is_none() {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        field.place.problem_like(
            field.shown(),
            format_args!("one of {}", names.join(", ")),
            resembling(text, names.iter().copied()),
        );
    }
    chosen.map(|(_, value)| *value)
}

/// An absolute path.
pub(super) fn path(field: &Field<'_>) -> Option<PathBuf> {
    let path = Path::new(field.text()?);
    if !path.is_absolute() {
        return field
            .refuse("an absolute path: the service has no directory of its own to start from");
    }
    // Taken apart and put together, `/a//b/./c` is `/a/b/c`: two spellings of a path are one.
    Some(path.components().collect())
}

/// An http or https URL with a host and without user and password.
pub(super) fn url(field: &Field<'_>) -> Option<Url> {
    let Ok(url) = Url::parse(field.text()?) else {
        field.place.problem("a text that is no URL", A_URL);
        return None;
    };
    is_web(field, &url)?;
    Some(url)
}

/// Notes that a URL is none of http or https, or names no host, or a user.
pub(super) fn is_web(field: &Field<'_>, url: &Url) -> Option<()> {
    if !url.username().is_empty() || url.password().is_some() {
        field.place.problem(
            "a URL with a user or a password in it",
            "a URL without: secrets never stand in this file",
        );
        return None;
    }
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        let found = format!("a URL that begins with {}:", url.scheme());
        field.place.problem(found, A_URL);
        return None;
    }
    Some(())
}

/// A URL whose traffic no one on the way can read: https, or http to this machine.
pub(super) fn private_url(field: &Field<'_>) -> Option<Url> {
    let url = url(field)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return refuse_host(
            field,
            &url,
            "https; plain http is for loopback (127.0.0.1, [::1], localhost) only",
        );
    }
    Some(url)
}

/// Notes that a URL is not what is wanted, and shows no more than its host: a path or a query may hold a token.
pub(super) fn refuse_host<T>(field: &Field<'_>, url: &Url, wanted: &str) -> Option<T> {
    field.place.problem(
        format_args!("a URL at {}", url.origin().ascii_serialization()),
        wanted,
    );
    None
}

/// Whether a URL names this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// A reference to a secret. What stands in its place is never shown.
pub(super) fn secret(field: &Field<'_>) -> Option<SecretRef> {
    let refuse = |found: &str| -> Option<SecretRef> {
        field.place.problem(found, SECRETS_ARE_REFERRED_TO);
        None
    };
    let Some(table) = field.table() else {
        let literal = field.kind() == "a string";
        return refuse(if literal {
            "a text that would be the secret itself (not shown)"
        } else {
            field.kind()
        });
    };
    let credential = table.field("credential");
    let file = table.field("file");
    let env = table.field("env");
    table.finish();
    match (credential, file, env) {
        (Some(name), None, None) => {
            let found = reference(&name, &['_', '-', '.'])?;
            Some(SecretRef::Credential(found))
        }
        (None, Some(file), None) => path(&file).map(SecretRef::File),
        (None, None, Some(variable)) => reference(&variable, &['_']).map(SecretRef::Env),
        (None, None, None) => refuse("a table without credential, file or env"),
        _ => refuse("more than one reference"),
    }
}

/// The name of a credential or of a variable. Not shown when it is none: it may be the secret, put in the wrong
/// place.
fn reference(field: &Field<'_>, marks: &[char]) -> Option<String> {
    let name = field.text_unseen("a name in quotes")?;
    let good = !name.is_empty()
        && !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || marks.contains(&c));
    if !good {
        let marks: Vec<_> = marks.iter().map(char::to_string).collect();
        field.place.problem(
            "a text that is no name (not shown)",
            format_args!("a name of letters, digits and {}", marks.join(" ")),
        );
        return None;
    }
    Some(name.to_owned())
}
