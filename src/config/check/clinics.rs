//! `[[clinics]]`, and `clinics` wherever it stands.

use std::collections::BTreeSet;

use super::app::Servers;
use super::{poll, values};
use crate::config::file::{Field, Section};
use crate::config::problem::resembling;
use crate::config::{Clinic, ClinicSelection};
use crate::domain::{Category, ClinicId, ClinicName};

/// What `[[clinics]]` says.
pub(super) struct Read {
    /// Those without a problem.
    pub(super) clinics: Vec<Clinic>,
    /// How many there are in the file, for rules that begin with the second.
    pub(super) count: usize,
}

pub(super) fn read(root: &Section<'_>, categories: &[Category], servers: Servers) -> Read {
    let sections = root.sections("clinics");
    if sections.is_empty() {
        root.missing(
            "clinics",
            "at least one [[clinics]] with a name, such as name = \"oak-street\"",
        );
    }
    let count = sections.len();
    let mut clinics: Vec<Clinic> = Vec::new();
    for section in sections {
        let name_field = section.required(
            "name",
            "a name for logs and commands, such as \"oak-street\"",
        );
        let name = name_field
            .as_ref()
            .and_then(values::name)
            .and_then(|name| ClinicName::new(name).ok());
        let id_field = section.field("clinic_id");
        let clinic_id = id_field.as_ref().and_then(|field| {
            let id = ClinicId::new(field.text()?).ok();
            id.or_else(|| field.refuse("Fullscript's id of the clinic, at most 255 bytes"))
        });
        let categories = section.or("categories", categories.to_vec(), |field| {
            poll::categories(field, servers)
        });
        section.finish();
        let Some(name) = name else { continue };
        if let (Some(field), true) = (&name_field, clinics.iter().any(|c| c.name == name)) {
            field.refuse::<()>("a name that no other clinic has");
            continue;
        }
        let taken = clinic_id.is_some() && clinics.iter().any(|c| c.clinic_id == clinic_id);
        if let (Some(field), true) = (&id_field, taken) {
            field.refuse::<()>("an id that no other clinic has: one grant belongs to one clinic");
        }
        clinics.push(Clinic {
            name,
            clinic_id,
            categories,
        });
    }
    Read { clinics, count }
}

/// Which clinics a `clinics` names.
pub(super) fn selection(field: &Field<'_>, clinics: &Read) -> Option<ClinicSelection> {
    let members = field.list()?;
    let mut names = BTreeSet::new();
    let mut all = false;
    for member in &members {
        let text = member.text()?;
        if text == "*" {
            all = true;
        } else if let Some(clinic) = clinics.clinics.iter().find(|c| c.name.as_str() == text) {
            names.insert(clinic.name.clone());
        } else {
            let known = || clinics.clinics.iter().map(|clinic| clinic.name.as_str());
            member.place.problem_like(
                member.shown(),
                format_args!("a clinic of this file: {}", listed(known())),
                resembling(text, known()),
            );
        }
    }
    if all && members.len() > 1 {
        return field.refuse("either [\"*\"] or names, not both");
    }
    Some(if all {
        ClinicSelection::All
    } else {
        ClinicSelection::Named(names)
    })
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        "it has none".to_owned()
    } else {
        names.join(", ")
    }
}
