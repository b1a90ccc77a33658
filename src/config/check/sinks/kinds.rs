//! What each kind of sink has for itself.

use std::net::IpAddr;
use std::time::Duration;

use super::super::poll::concurrency;
use super::super::values::{self, span};
use crate::config::duration::DAY;
use crate::config::file::{Field, Section};
use crate::config::{
    ExecSink, FileSink, SecretRef, SinkKind, WebhookFormat, WebhookSignature, WebhookSink,
};

/// A sink's `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdout,
    File,
    Exec,
    Webhook,
}

/// The kinds by name.
pub(super) const KINDS: [(&str, Kind); 4] = [
    ("stdout", Kind::Stdout),
    ("file", Kind::File),
    ("exec", Kind::Exec),
    ("webhook", Kind::Webhook),
];

/// The keys that only some kinds have, to say so when they stand at another.
const KEYS: [(&str, &[&str]); 4] = [
    ("stdout", &["on_doubt"]),
    ("file", &["path", "mode", "group", "rotate_daily"]),
    ("exec", &["command", "timeout", "concurrency", "on_doubt"]),
    (
        "webhook",
        &[
            "url",
            "format",
            "signature",
            "secret",
            "old_secret",
            "challenge",
            "timeout",
            "concurrency",
            "allow_nets",
            "insecure_http",
            "on_doubt",
        ],
    ),
];

pub(super) fn read(section: &Section<'_>, kind: Kind) -> Option<SinkKind> {
    match kind {
        Kind::Stdout => Some(SinkKind::Stdout),
        Kind::File => file(section).map(SinkKind::File),
        Kind::Exec => exec(section).map(SinkKind::Exec),
        Kind::Webhook => webhook(section).map(SinkKind::Webhook),
    }
}

/// Why a key that exists elsewhere has no meaning at this sink.
pub(super) fn explained(section: &Section<'_>, key: &str) -> Option<String> {
    let kind = section.field("kind")?.text()?;
    if kind == "file" && key == "on_doubt" {
        return Some(
            "no on_doubt: a file shows every event exactly once whatever crashes, so nothing is ever in doubt"
                .to_owned(),
        );
    }
    let kinds: Vec<_> = KEYS
        .iter()
        .filter(|(_, keys)| keys.contains(&key))
        .map(|(kind, _)| format!("kind = \"{kind}\""))
        .collect();
    (!kinds.is_empty()).then(|| format!("{key} only with {}", kinds.join(" or ")))
}

fn file(section: &Section<'_>) -> Option<FileSink> {
    let path = section.required(
        "path",
        "the file that events are appended to, such as \"/srv/ehr/events.jsonl\"",
    );
    let path = path.as_ref().and_then(values::path);
    let mode = section.or("mode", 0o640, mode);
    let group = section.field("group").as_ref().and_then(values::words);
    let rotate_daily = section.or("rotate_daily", false, Field::boolean);
    Some(FileSink {
        path: path?,
        mode,
        group,
        rotate_daily,
    })
}

fn mode(field: &Field<'_>) -> Option<u32> {
    let text = field.text()?;
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
    let Some(mode) = mode else {
        return field
            .refuse("permissions in octal which let the owner read and write, such as \"0640\"");
    };
    if mode & 0o007 != 0 {
        field.place.warning(
            field.shown(),
            "a last digit of 0: events are health data, and every user of this machine could read them",
            None,
        );
    }
    Some(mode)
}

fn exec(section: &Section<'_>) -> Option<ExecSink> {
    let command = section.required(
        "command",
        "the program and its arguments, such as [\"/usr/local/bin/import\", \"--quiet\"]",
    );
    let command = command.as_ref().and_then(command_line);
    let timeout = section.or("timeout", Duration::from_mins(1), |f| span(f, DAY));
    let concurrency = section.or("concurrency", 1, concurrency);
    Some(ExecSink {
        command: command?,
        timeout,
        concurrency,
    })
}

fn command_line(field: &Field<'_>) -> Option<Vec<String>> {
    let members = field.list()?;
    let program = members.first()?;
    if !program.text()?.starts_with('/') {
        program
            .refuse::<()>("the absolute path of a program: there is no shell and no search path")?;
    }
    let words: Option<Vec<_>> = members.iter().map(Field::text).collect();
    Some(words?.into_iter().map(str::to_owned).collect())
}

fn webhook(section: &Section<'_>) -> Option<WebhookSink> {
    let insecure_http = section.or("insecure_http", false, Field::boolean);
    let url = section.required(
        "url",
        "where events are posted, such as \"https://ehr.example/hooks\"",
    );
    let url = url.as_ref().and_then(|field| {
        let url = values::url(field)?;
        if url.scheme() == "http" && !insecure_http && !values::is_loopback(&url) {
            return values::refuse_host(
                field,
                &url,
                "https; or http to this machine; or, aloud, insecure_http = true",
            );
        }
        Some(url)
    });
    let format = section.or("format", WebhookFormat::Fullscript, |field| {
        values::choice(
            field,
            &[
                ("fullscript", WebhookFormat::Fullscript),
                ("native", WebhookFormat::Native),
                ("cloudevents", WebhookFormat::CloudEvents),
            ],
        )
    });
    let signature = signature(section);
    let challenge = section.field("challenge").as_ref().and_then(values::secret);
    let timeout = section.or("timeout", Duration::from_secs(30), |f| {
        span(f, Duration::from_mins(10))
    });
    let concurrency = section.or("concurrency", 8, concurrency);
    let allow_nets = section.or("allow_nets", Vec::new(), nets);
    Some(WebhookSink {
        url: url?,
        format,
        signature: signature?,
        challenge,
        timeout,
        concurrency,
        allow_nets,
        insecure_http,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Scheme {
    Fullscript,
    Standard,
    None,
}

const SCHEMES: [(&str, Scheme); 3] = [
    ("fullscript", Scheme::Fullscript),
    ("standard", Scheme::Standard),
    ("none", Scheme::None),
];

fn signature(section: &Section<'_>) -> Option<WebhookSignature> {
    let said = section.field("signature");
    let scheme = said.as_ref().map_or(Some(Scheme::Fullscript), |field| {
        values::choice(field, &SCHEMES)
    });
    let old_secret = old_secret(section, scheme);
    match (
        scheme.unwrap_or(Scheme::Fullscript),
        section.field("secret"),
    ) {
        (Scheme::Fullscript, Some(field)) => {
            values::secret(&field).map(WebhookSignature::Fullscript)
        }
        (Scheme::Standard, Some(field)) => Some(WebhookSignature::Standard {
            secret: values::secret(&field)?,
            old_secret,
        }),
        (Scheme::Fullscript | Scheme::Standard, None) => {
            section.missing(
                "secret",
                "where the signing secret is, such as { credential = \"chart_secret\" }, or signature = \"none\"",
            );
            None
        }
        (Scheme::None, None) => Some(WebhookSignature::None),
        (Scheme::None, Some(field)) => {
            field
                .place
                .problem("a secret beside signature = \"none\"", "one of the two");
            None
        }
    }
}

/// The secret before the current one. Not judged beside a scheme that could not be read.
fn old_secret(section: &Section<'_>, scheme: Option<Scheme>) -> Option<SecretRef> {
    let field = section.field("old_secret")?;
    let other = SCHEMES
        .iter()
        .find(|(_, other)| Some(*other) == scheme && *other != Scheme::Standard);
    if let Some((name, _)) = other {
        field.place.problem(
            format_args!("an old_secret beside signature = \"{name}\""),
            "an old_secret only with signature = \"standard\", which alone can sign with two",
        );
        return None;
    }
    values::secret(&field)
}

fn nets(field: &Field<'_>) -> Option<Vec<String>> {
    let mut nets = Vec::new();
    for member in field.list()? {
        let text = member.text()?;
        if is_cidr(text) {
            nets.push(text.to_owned());
        } else {
            member.refuse::<()>(
                "a network in CIDR notation, such as \"10.20.0.0/16\" or \"fd00::/8\"",
            );
        }
    }
    Some(nets)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|n| n <= longest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::de::DeTable;

    use super::*;
    use crate::config::check;
    use crate::config::file::Report;

    /// What every sink has, whatever its kind.
    const COMMON: [&str; 6] = [
        "name",
        "kind",
        "clinics",
        "match",
        "max_attempts",
        "give_up_after",
    ];

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

    #[test]
    fn a_network_is_an_address_and_a_prefix_that_fits_it() {
        for good in ["10.0.0.0/8", "192.168.1.7/32", "fd00::/8", "::1/128"] {
            assert!(is_cidr(good), "{good}");
        }
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "10.0.0.0/+8",
            "/8",
        ] {
            assert!(!is_cidr(bad), "{bad}");
        }
    }
}
