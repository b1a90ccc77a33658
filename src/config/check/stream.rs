//! `[stream]`: the live subscription, and the sink that it is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use super::clinics;
use super::matches::{everything, patterns};
use super::sinks::selection;
use super::values;
use crate::config::duration::{DAY, parse_duration};
use crate::config::file::{Field, Section};
use crate::config::{
    Bodies, EntitySelection, OnDoubt, Phi, STREAM, Sink, SinkKind, Stream, StreamSink, StreamToken,
};
use crate::domain::{EventType, KNOWN_CATEGORIES, OrderBy, SinkName};

/// The longest that a frame can be replayed: Fullscript lists no longer either.
const LONGEST_RETAIN: Duration = Duration::from_hours(30 * 24);
/// So long ids can be replayed where no body is kept (`retain = "0s"`).
const IDS_KEPT: Duration = Duration::from_hours(7 * 24);

/// What `[stream]` says; nothing where there is none.
#[derive(Default)]
pub(super) struct Read {
    pub(super) stream: Option<Stream>,
    /// The sink that it is.
    pub(super) sink: Option<Sink>,
    /// Whether there is such a section, right or wrong.
    pub(super) is_there: bool,
}

pub(super) fn read(root: &Section<'_>, clinics: &clinics::Read, bodies: Option<Bodies>) -> Read {
    if root.field("stream").is_none() {
        return Read::default();
    }
    let section = root.section("stream");
    let listen = listen(&section);
    let retain = section.or("retain", 7 * DAY, retain);
    let keeps_bodies = !retain.is_zero() && bodies != Some(Bodies::Never);
    let selected = selection(&section, clinics);
    let matches = section.or("match", everything(), patterns);
    let max_connections = section.or("max_connections", 100, |f| f.number(1..10_001));
    let max_filter = section.or("max_filter", 64, |f| f.number(1..1_001));
    let buffer = section.or("buffer", 4096, |f| f.number(16..65_537));
    let allow_origins = section.or("allow_origins", Vec::new(), origins);
    let sections = section.sections("tokens");
    if sections.is_empty() {
        section.missing(
            "tokens",
            "at least one [[stream.tokens]] with name and token: without any, nobody may subscribe",
        );
    }
    let mut names = BTreeSet::new();
    let mut tokens = Vec::new();
    for each in &sections {
        if let Some(field) = each.field("name")
            && let Some(name) = field.peek()
            && !names.insert(name.to_owned())
        {
            field.refuse::<()>("a name that no other token has");
        }
        tokens.extend(token(each, clinics, keeps_bodies));
        each.finish();
    }
    section.finish();
    let settings = StreamSink {
        retain: if retain.is_zero() { IDS_KEPT } else { retain },
        keeps_bodies,
    };
    Read {
        is_there: true,
        sink: selected.and_then(|clinics| {
            Some(Sink {
                name: SinkName::new(STREAM).ok()?,
                clinics,
                matches,
                // What is exact is never refused and never in doubt: none of these is looked at.
                max_attempts: 8,
                give_up_after: LONGEST_RETAIN,
                on_doubt: OnDoubt::Hold,
                order_by: OrderBy::None,
                order_wait: Duration::from_hours(1),
                kind: SinkKind::Stream(settings),
            })
        }),
        stream: listen.map(|listen| Stream {
            listen,
            keeps_bodies,
            max_connections: max_connections as usize,
            max_filter: max_filter as usize,
            buffer: buffer as usize,
            allow_origins,
            tokens,
        }),
    }
}

/// Loopback, unless it is said aloud that health data and tokens may cross a network unencrypted.
fn listen(section: &Section<'_>) -> Option<SocketAddr> {
    let aloud = section.or("insecure_listen", false, Field::boolean);
    let default = SocketAddr::from(([127, 0, 0, 1], 8766));
    let Some(field) = section.field("listen") else {
        return Some(default);
    };
    let Ok(address) = field.text()?.parse::<SocketAddr>() else {
        return field.refuse("an address and a port, such as \"127.0.0.1:8766\" or \"[::1]:8766\"");
    };
    if !address.ip().is_loopback() && !aloud {
        return field.refuse(
            "a loopback address (127.0.0.1, [::1]), with a proxy before it that speaks TLS (docs/icure.md); or \
             insecure_listen = true, if tokens and health data may cross this network in the clear",
        );
    }
    Some(address)
}

fn retain(field: &Field<'_>) -> Option<Duration> {
    let span = parse_duration(field.text()?).filter(|span| *span <= LONGEST_RETAIN);
    if span.is_none() {
        return field.refuse(
            "a span such as \"12h\" or \"7d\", at most 30d; \"0s\" keeps ids and no bodies",
        );
    }
    span
}

fn origins(field: &Field<'_>) -> Option<Vec<String>> {
    let mut origins = Vec::new();
    for member in field.list()? {
        let text = member.text()?;
        let origin = Url::parse(text).map(|url| url.origin().ascii_serialization());
        if origin.as_deref() != Ok(text) {
            return member.refuse(
                "the origin of a page, exactly as a browser sends it, such as \"https://ehr.example\" (no path, no \
                 slash at its end, no \"*\")",
            );
        }
        origins.push(text.to_owned());
    }
    Some(origins)
}

fn token(
    section: &Section<'_>,
    clinics: &clinics::Read,
    keeps_bodies: bool,
) -> Option<StreamToken> {
    let name = section.required("name", "a name for logs, such as \"front-desk\"");
    let name = name.as_ref().and_then(values::name);
    let token = section.required(
        "token",
        "where the token is, such as { credential = \"stream_front_desk\" } (`openssl rand -hex 32` makes one)",
    );
    let token = token.as_ref().and_then(values::secret);
    let selected = selection(section, clinics);
    let entities = section.or("entities", EntitySelection::All, entities);
    let phi = section.or("phi", Phi::Ids, |field| {
        let phi = values::choice(field, &[Phi::Full, Phi::Ids].map(|phi| (phi.as_str(), phi)))?;
        if phi == Phi::Full && !keeps_bodies {
            field.place.warning(
                "\"full\", where no bodies are kept (stream.retain = \"0s\" or state.bodies = \"never\")",
                "\"ids\": frames carry ids only",
                None,
            );
        }
        Some(phi)
    });
    Some(StreamToken {
        name: name?,
        token: token?,
        clinics: selected?,
        entities,
        phi,
    })
}

fn entities(field: &Field<'_>) -> Option<EntitySelection> {
    let known = || {
        let types = KNOWN_CATEGORIES.iter().flat_map(|row| row.event_types);
        types.filter_map(|text| Some(EventType::new(*text).ok()?.entity()))
    };
    let mut names = BTreeSet::new();
    let mut all = false;
    for member in field.list()? {
        let text = member.text()?;
        if text == "*" {
            all = true;
        } else if known().any(|entity| entity == text) {
            names.insert(text.to_owned());
        } else {
            let known: Vec<_> = known().collect::<BTreeSet<_>>().into_iter().collect();
            let suggestion =
                crate::config::problem::resembling(text, known.iter().map(String::as_str));
            let wanted = format!("one of {}, or [\"*\"]", known.join(", "));
            member
                .place
                .problem_like(member.shown(), wanted, suggestion);
        }
    }
    if all && !names.is_empty() {
        return field.refuse("either [\"*\"] or names, not both");
    }
    Some(if all {
        EntitySelection::All
    } else {
        EntitySelection::Named(names)
    })
}

#[cfg(test)]
mod tests;
