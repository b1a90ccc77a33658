//! `match`, wherever it stands: the patterns, and a warning of each that fits no event that this program knows.

use std::collections::BTreeSet;

use crate::config::file::Field;
use crate::config::problem::resembling;
use crate::domain::{EventType, KNOWN_CATEGORIES, Pattern, Patterns};

/// What a `match` that is not there means.
pub(super) fn everything() -> Patterns {
    Patterns::new(Pattern::new("*").into_iter().collect())
}

pub(super) fn patterns(field: &Field<'_>) -> Option<Patterns> {
    let mut patterns = Vec::new();
    for member in field.list()? {
        match Pattern::new(member.text()?) {
            Ok(pattern) => {
                fits_something(&member, &pattern);
                patterns.push(pattern);
            }
            Err(error) => member.refuse::<()>(format_args!(
                "a pattern such as \"order.*\" or \"!product.*\": {error}"
            ))?,
        }
    }
    Some(Patterns::new(patterns))
}

/// A pattern that fits nothing known is most likely mistyped; but Fullscript adds event types, so it is no problem.
fn fits_something(field: &Field<'_>, pattern: &Pattern) {
    let known = known_types();
    let names: Vec<String> = known.iter().flat_map(EventType::names).collect();
    if names.iter().any(|name| pattern.fits(name)) {
        return;
    }
    let Hint { why, meant } = hint(pattern.glob(), &known, &names);
    let sign = if pattern.excludes() { "!" } else { "" };
    field.place.warning(
        field.shown(),
        format_args!(
            "a pattern that fits an event that this program knows{why}; it is used all the same"
        ),
        meant.map(|meant| format!("{sign}{meant}")),
    );
}

fn known_types() -> Vec<EventType> {
    let types = KNOWN_CATEGORIES.iter().flat_map(|row| row.event_types);
    types
        .filter_map(|text| EventType::new(*text).ok())
        .collect()
}

/// What may help whoever wrote a pattern that fits nothing.
struct Hint {
    /// Why it fits nothing, as far as that can be told.
    why: String,
    /// What was probably meant.
    meant: Option<String>,
}

fn hint(glob: &str, types: &[EventType], names: &[String]) -> Hint {
    let lower = glob.to_lowercase();
    if Pattern::new(&lower).is_ok_and(|lower| names.iter().any(|name| lower.fits(name))) {
        return Hint {
            why: " (names are case-sensitive)".to_owned(),
            meant: Some(lower),
        };
    }
    if let Some("read" | "search") = lower.rsplit('.').next() {
        return Hint {
            why: " (Fullscript tells what was created, changed or deleted, and has no reads)"
                .to_owned(),
            meant: None,
        };
    }
    let resources: BTreeSet<_> = types.iter().filter_map(EventType::fhir_resource).collect();
    let resources: Vec<_> = resources.into_iter().map(str::to_lowercase).collect();
    let mut parts = lower.split('.');
    let of_another = match (parts.next(), parts.next(), parts.next()) {
        (Some("fhir"), Some(resource), Some(_)) => !resources.iter().any(|known| known == resource),
        _ => false,
    };
    Hint {
        why: if of_another {
            format!(" (of FHIR it knows {})", resources.join(", "))
        } else {
            String::new()
        },
        meant: resembling(glob, candidates(names).iter().map(String::as_str)),
    }
}

/// What people write: a whole name, or the beginning of one with `.*` behind it.
fn candidates(names: &[String]) -> BTreeSet<String> {
    let beginnings = names.iter().flat_map(|name| {
        let dots = name.match_indices('.');
        dots.filter_map(|(at, _)| Some(format!("{}.*", name.get(..at)?)))
    });
    beginnings.chain(names.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_fits_nothing_is_told_why_and_what_was_meant() {
        let types = known_types();
        let names: Vec<String> = types.iter().flat_map(EventType::names).collect();
        let hints = [
            "FHIR.READ",
            "fhir.read",
            "fhir.patient.search",
            "Fhir.Patient.*",
            "fhir.observation.*",
            "fhir.Careplans.*",
            "fhir.updated",
            "fhir.delete",
            "patients.updated",
            "orders.*",
            "fullscript.patients.*",
            "shipment.*",
        ];
        let hints = hints.map(|glob| {
            let hint = hint(glob, &types, &names);
            format!(
                "{glob}{} -> {}",
                hint.why,
                hint.meant.as_deref().unwrap_or("?")
            )
        });
        insta::assert_snapshot!(hints.join("\n"), @r"
    FHIR.READ (Fullscript tells what was created, changed or deleted, and has no reads) -> ?
    fhir.read (Fullscript tells what was created, changed or deleted, and has no reads) -> ?
    fhir.patient.search (Fullscript tells what was created, changed or deleted, and has no reads) -> ?
    Fhir.Patient.* (names are case-sensitive) -> fhir.patient.*
    fhir.observation.* (of FHIR it knows careplan, diagnosticreport, patient, supplyrequest) -> ?
    fhir.Careplans.* (of FHIR it knows careplan, diagnosticreport, patient, supplyrequest) -> fhir.careplan.*
    fhir.updated -> fhir.update
    fhir.delete -> ?
    patients.updated -> patient.updated
    orders.* -> order.*
    fullscript.patients.* -> fullscript.patient.*
    shipment.* -> ?
    ");
    }
}
