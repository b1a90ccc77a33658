//! What each kind of sink has for itself.

mod exec;
mod file;
mod sqlite;
mod webhook;

use crate::config::file::Section;
use crate::config::{Sink, SinkKind};
use crate::domain::ClinicName;

/// A sink's `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdout,
    File,
    Sqlite,
    Exec,
    Webhook,
}

/// The kinds by name.
pub(super) const KINDS: [(&str, Kind); 5] = [
    ("stdout", Kind::Stdout),
    ("file", Kind::File),
    ("sqlite", Kind::Sqlite),
    ("exec", Kind::Exec),
    ("webhook", Kind::Webhook),
];

/// The keys that only some kinds have, to say so when they stand at another.
const KEYS: [(&str, &[&str]); 5] = [
    ("stdout", &["on_doubt"]),
    ("file", &["path", "mode", "group", "rotate_daily"]),
    ("sqlite", &["path", "mode", "group", "table", "statement"]),
    ("exec", &["command", "timeout", "concurrency", "on_doubt"]),
    (
        "webhook",
        &[
            "url",
            "format",
            "sfs",
            "payload",
            "only",
            "redact",
            "signature",
            "secret",
            "old_secret",
            "idempotency_key",
            "headers",
            "auth",
            "challenge",
            "preflight",
            "probe_url",
            "timeout",
            "concurrency",
            "ca_file",
            "client_cert",
            "client_key",
            "allow_nets",
            "insecure_http",
            "on_doubt",
        ],
    ),
];

pub(super) fn read(section: &Section<'_>, kind: Kind) -> Option<SinkKind> {
    match kind {
        Kind::Stdout => Some(SinkKind::Stdout),
        Kind::File => file::read(section).map(SinkKind::File),
        Kind::Sqlite => sqlite::read(section).map(SinkKind::Sqlite),
        Kind::Exec => exec::read(section).map(SinkKind::Exec),
        Kind::Webhook => webhook::read(section).map(|read| SinkKind::Webhook(Box::new(read))),
    }
}

/// What can be said of a sink only when the whole of it is known. `clinics`: every clinic of the file.
pub(super) fn agree(section: &Section<'_>, sink: &Sink, clinics: &[ClinicName]) {
    webhook::sfs::agree(section, sink, clinics);
}

/// Why a key that exists elsewhere has no meaning at this sink.
pub(super) fn explained(section: &Section<'_>, key: &str) -> Option<String> {
    let kind = section.field("kind")?.text()?;
    if key == "on_doubt"
        && let Some(what) = match kind {
            "file" => Some("a file"),
            "sqlite" => Some("a database"),
            _ => None,
        }
    {
        return Some(format!(
            "no on_doubt: {what} shows every event exactly once whatever crashes, so nothing is ever in doubt"
        ));
    }
    let kinds: Vec<_> = KEYS
        .iter()
        .filter(|(_, keys)| keys.contains(&key))
        .map(|(kind, _)| format!("kind = \"{kind}\""))
        .collect();
    (!kinds.is_empty()).then(|| format!("{key} only with {}", kinds.join(" or ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::de::DeTable;

    use super::*;
    use crate::config::check;
    use crate::config::file::Report;

    /// What every sink has, whatever its kind.
    const COMMON: [&str; 8] = [
        "name",
        "kind",
        "clinics",
        "match",
        "max_attempts",
        "give_up_after",
        "order_by",
        "order_wait",
    ];

    #[test]
    fn the_page_of_the_webhook_names_each_of_its_keys() {
        let page = include_str!("../../../../../docs/webhook.md");
        let of_webhook = KEYS.iter().find(|(kind, _)| *kind == "webhook");
        for key in of_webhook.unwrap().1 {
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
    }

    #[test]
    fn the_table_of_keys_says_what_each_kind_reads() {
        for (kind, keys) in KEYS {
            let text = format!("[[sinks]]\nkind = \"{kind}\"\n");
            let document = DeTable::parse(&text).unwrap();
            let report = Report::new(&text);
            check::config(&report, document.get_ref());
            let asked = report.collected().asked;
            let read: BTreeSet<_> = asked
                .iter()
                .filter_map(|key| key.strip_prefix("sinks[]."))
                .filter(|key| !COMMON.contains(key))
                .collect();
            assert_eq!(read, keys.iter().copied().collect(), "{kind}");
        }
    }
}
