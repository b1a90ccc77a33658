//! `[[sinks]]`: what every sink has, and what several of them must agree on.

mod kinds;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::values::{self, span};
use super::{clinics, matches, stream};
use crate::config::duration::DAY;
use crate::config::file::Section;
use crate::config::{Bodies, ClinicSelection, OnDoubt, STREAM, Sink};
use crate::domain::{OrderBy, SinkName};

pub(super) fn read(
    root: &Section<'_>,
    clinics: &clinics::Read,
    bodies: Option<Bodies>,
    stream: &stream::Read,
) -> Vec<Sink> {
    let sections = root.sections("sinks");
    if sections.is_empty() && !stream.is_there {
        root.place.warning(
            "no [[sinks]]",
            "at least one sink: without any, events are remembered and go nowhere",
            None,
        );
    }
    let mut sinks: Vec<Sink> = Vec::new();
    let mut taken = Taken::default();
    if stream.is_there {
        taken.names.insert(STREAM);
    }
    for section in &sections {
        sinks.extend(one(section, clinics, bodies));
        section.finish_with(|key| kinds::explained(section, key));
        taken.take(section);
    }
    let all_good = sinks.len() == sections.len() && stream.is_there == stream.sink.is_some();
    sinks.extend(stream.sink.clone());
    if all_good && !sinks.is_empty() {
        for clinic in &clinics.clinics {
            if !sinks.iter().any(|sink| sink.clinics.contains(&clinic.name)) {
                root.place.warning(
                    format_args!("no sink that gets the events of {}", clinic.name),
                    "the clinic in the `clinics` of a sink: without, its events are remembered and go nowhere",
                    None,
                );
            }
        }
    }
    sinks
}

fn one(section: &Section<'_>, clinics: &clinics::Read, bodies: Option<Bodies>) -> Option<Sink> {
    let name = section.required("name", "a name for logs and commands, such as \"chart\"");
    let name = name.as_ref().and_then(values::name);
    let selection = selection(section, clinics);
    let matches = section.or("match", matches::everything(), matches::patterns);
    let max_attempts = section.or("max_attempts", 8, |field| field.number(1..1001));
    let give_up_after = section.or("give_up_after", 30 * DAY, |f| span(f, 365 * DAY));
    let order_by = section.or("order_by", OrderBy::None, |field| {
        let by = values::choice(field, &OrderBy::ALL.map(|by| (by.as_str(), by)))?;
        if by != OrderBy::None && bodies == Some(Bodies::Never) {
            // What waits in line is here, and whose it is stands in it.
            return field.refuse("\"none\", or state.bodies = \"until-settled\"");
        }
        Some(by)
    });
    let order_wait = section.or("order_wait", Duration::from_hours(1), |f| span(f, 30 * DAY));
    let kind = section.required("kind", "one of stdout, file, sqlite, exec, webhook");
    let kind = kind.as_ref().and_then(|f| values::choice(f, &kinds::KINDS));
    let Some(kind) = kind else {
        // Which keys it may have is unknown: complaining of them would only mislead.
        section.forgive();
        return None;
    };
    let on_doubt = on_doubt(section, kind);
    let kind = kinds::read(section, kind);
    let sink = Sink {
        name: SinkName::new(name?).ok()?,
        clinics: selection?,
        matches,
        max_attempts,
        give_up_after,
        on_doubt,
        order_by,
        order_wait,
        kind: kind?,
    };
    let names = clinics.clinics.iter().map(|clinic| clinic.name.clone());
    kinds::agree(section, &sink, &names.collect::<Vec<_>>());
    Some(sink)
}

/// With one clinic, nothing said means that one. With several, a sink that gets everything must say so aloud.
pub(super) fn selection(section: &Section<'_>, clinics: &clinics::Read) -> Option<ClinicSelection> {
    let Some(field) = section.field("clinics") else {
        if clinics.count > 1 {
            section.missing(
                "clinics",
                "which clinics' events go there, such as [\"oak-street\"], or [\"*\"] for all: with more than one \
                 clinic each sink says it",
            );
            return None;
        }
        return Some(ClinicSelection::All);
    };
    clinics::selection(&field, clinics)
}

fn on_doubt(section: &Section<'_>, kind: kinds::Kind) -> OnDoubt {
    let default = match kind {
        // What is exact is never in doubt, and the value is never looked at.
        kinds::Kind::File | kinds::Kind::Sqlite => return OnDoubt::Hold,
        kinds::Kind::Exec => OnDoubt::Hold,
        kinds::Kind::Stdout | kinds::Kind::Webhook => OnDoubt::Resend,
    };
    section.or("on_doubt", default, |field| {
        values::choice(
            field,
            &[("hold", OnDoubt::Hold), ("resend", OnDoubt::Resend)],
        )
    })
}

/// What the sinks so far have for themselves. Noted even of a sink that is wrong elsewhere, so that a collision is
/// told with the rest.
#[derive(Default)]
struct Taken<'a> {
    names: BTreeSet<&'a str>,
    paths: BTreeSet<PathBuf>,
    stdout: bool,
}

impl<'a> Taken<'a> {
    fn take(&mut self, section: &Section<'a>) {
        if let Some(field) = section.field("name")
            && let Some(name) = field.peek()
            && !self.names.insert(name)
        {
            field.refuse::<()>("a name that no other sink has");
        }
        let Some(kind) = section.field("kind") else {
            return;
        };
        match kind.peek() {
            Some("stdout") if self.stdout => {
                kind.refuse::<()>("one stdout sink at most");
            }
            Some("stdout") => self.stdout = true,
            Some("file" | "sqlite") => {
                if let Some(field) = section.field("path")
                    && let Some(path) = field.peek()
                    && !self.paths.insert(Path::new(path).components().collect())
                {
                    field.refuse::<()>("a file of its own: another sink writes to this one");
                }
            }
            _ => {}
        }
    }
}
