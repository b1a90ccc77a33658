//! Which frames a subscriber wants: a tree of filters, as iCure's combinators have it. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::frame::Facts;
use super::refusal::Refusal;
use crate::config::Phi;
use crate::domain::Pattern;

/// The filters by their `$type`.
const TYPES: &str = "ByIdsFilter, ByClinicFilter, ByPatientFilter, ByNameFilter, CreatedBetweenFilter, UnionFilter, \
                     IntersectionFilter, ComplementFilter";

/// The longest pattern, in characters: its reading and its matching take more than its length.
const LONGEST_PATTERN: usize = 256;

/// Which frames are wanted. Ids stand in it as they were asked for until it is granted; then as digests, as frames have
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// All.
    All,
    /// Of these events, or of what these ids name, as digests: none until it is granted.
    Ids {
        ids: BTreeSet<String>,
        entities: BTreeSet<String>,
    },
    /// Of these clinics, by their names or by Fullscript's ids.
    Clinics(BTreeSet<String>),
    /// Of these patients.
    Patients(BTreeSet<String>),
    /// One of whose names fits.
    Name(Pattern),
    /// Of events that happened from the one and before the other.
    Created {
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
    },
    /// That any of these wants.
    Union(Vec<Filter>),
    /// That all of these want.
    Intersection(Vec<Filter>),
    /// That the first wants and the second does not.
    Complement(Box<Filter>, Box<Filter>),
}

impl Filter {
    /// Whether a frame is wanted.
    pub(super) fn wants(&self, frame: &Facts) -> bool {
        let in_set = |id: &Option<String>, set: &BTreeSet<String>| {
            id.as_ref().is_some_and(|id| set.contains(id))
        };
        match self {
            Self::All => true,
            Self::Ids { ids, entities } => {
                ids.contains(&frame.event) || in_set(&frame.entity, entities)
            }
            Self::Clinics(clinics) => {
                clinics.contains(frame.clinic.as_str()) || in_set(&frame.clinic_id, clinics)
            }
            Self::Patients(patients) => in_set(&frame.patient, patients),
            Self::Name(pattern) => frame.names.iter().any(|name| pattern.fits(name)),
            Self::Created { from, to } => {
                from.is_none_or(|from| frame.created_at >= from)
                    && to.is_none_or(|to| frame.created_at < to)
            }
            Self::Union(filters) => filters.iter().any(|filter| filter.wants(frame)),
            Self::Intersection(filters) => filters.iter().all(|filter| filter.wants(frame)),
            Self::Complement(super_set, sub_set) => super_set.wants(frame) && !sub_set.wants(frame),
        }
    }

    /// Every clinic that it names, wherever in the tree.
    pub(super) fn clinics(&self) -> Vec<&str> {
        match self {
            Self::Clinics(clinics) => clinics.iter().map(String::as_str).collect(),
            Self::Union(filters) | Self::Intersection(filters) => {
                filters.iter().flat_map(Self::clinics).collect()
            }
            Self::Complement(super_set, sub_set) => {
                let mut clinics = super_set.clinics();
                clinics.extend(sub_set.clinics());
                clinics
            }
            Self::All
            | Self::Ids { .. }
            | Self::Patients(_)
            | Self::Name(_)
            | Self::Created { .. } => Vec::new(),
        }
    }

    /// What a bearer who may see so much gets of it. With ids only nobody may ask by the patient, nor by what something
    /// happened to: what comes would tell whom it concerns.
    pub(super) fn granted(
        self,
        phi: Phi,
        digest: &impl Fn(&str) -> String,
    ) -> Result<Self, Refusal> {
        let all = |filters: Vec<Self>| {
            let granted = filters.into_iter().map(|f| f.granted(phi, digest));
            granted.collect::<Result<Vec<_>, _>>()
        };
        Ok(match (self, phi) {
            (Self::Patients(_), Phi::Ids) => {
                return Err(Refusal::Forbidden(
                    "this token may not ask by patients (phi = \"ids\"): the answer would tell whom an event concerns"
                        .to_owned(),
                ));
            }
            (Self::Patients(patients), Phi::Full) => {
                Self::Patients(patients.iter().map(|id| digest(id)).collect())
            }
            (Self::Ids { ids, .. }, Phi::Full) => {
                let entities = ids.iter().map(|id| digest(id)).collect();
                Self::Ids { ids, entities }
            }
            (Self::Union(filters), _) => Self::Union(all(filters)?),
            (Self::Intersection(filters), _) => Self::Intersection(all(filters)?),
            (Self::Complement(super_set, sub_set), _) => Self::Complement(
                Box::new(super_set.granted(phi, digest)?),
                Box::new(sub_set.granted(phi, digest)?),
            ),
            (
                plain @ (Self::All
                | Self::Ids { .. }
                | Self::Clinics(_)
                | Self::Name(_)
                | Self::Created { .. }),
                _,
            ) => plain,
        })
    }

    /// Reads a filter of at most `most` nodes. iCure's own wrapping, `{"filter":{"$type":…}}`, is taken off.
    pub(super) fn parse(value: &Value, most: usize) -> Result<Self, Refusal> {
        let mut left = most;
        node(unwrapped(value)?, &mut left).map_err(|refusal| match refusal {
            Refused::Why(why) => Refusal::Malformed(why),
            Refused::TooLarge => Refusal::Malformed(format!(
                "the filter has more than {most} nodes (stream.max_filter): name fewer"
            )),
        })
    }
}

enum Refused {
    Why(String),
    TooLarge,
}

fn why<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Why(text.into()))
}

/// What stands in iCure's `FilterChain`. Its `predicate`, which asks into the entity, is not offered.
pub(super) fn unwrapped(value: &Value) -> Result<&Value, Refusal> {
    let Some(object) = value.as_object() else {
        return Ok(value);
    };
    let Some(inner) = object
        .get("filter")
        .filter(|_| !object.contains_key("$type"))
    else {
        return Ok(value);
    };
    let is_known = |(key, value): (&String, &Value)| {
        key == "filter" || (key == "predicate" && value.is_null())
    };
    if object.iter().all(is_known) {
        Ok(inner)
    } else {
        Err(Refusal::malformed(
            "beside filter.filter nothing is understood: no predicate looks into an entity here",
        ))
    }
}

fn node(value: &Value, left: &mut usize) -> Result<Filter, Refused> {
    *left = left.checked_sub(1).ok_or(Refused::TooLarge)?;
    let Some(object) = value.as_object() else {
        return why(format!(
            "a filter is an object with a $type: one of {TYPES}"
        ));
    };
    let Some(kind) = object.get("$type").and_then(Value::as_str) else {
        return why(format!("a filter has no $type: one of {TYPES}"));
    };
    // As for entity classes, a package before the name is of no interest.
    match kind.rsplit('.').next().unwrap_or(kind) {
        "ByIdsFilter" => {
            let ids = texts(object, kind, "ids")?;
            let entities = BTreeSet::new();
            Ok(Filter::Ids { ids, entities })
        }
        "ByClinicFilter" => texts(object, kind, "clinics").map(Filter::Clinics),
        "ByPatientFilter" => texts(object, kind, "patients").map(Filter::Patients),
        "ByNameFilter" => {
            only(object, kind, &["pattern"])?;
            match object.get("pattern").and_then(Value::as_str) {
                Some(text) => name(text),
                None => why("ByNameFilter has no pattern, such as \"treatment_plan.*\""),
            }
        }
        "CreatedBetweenFilter" => created(object, kind),
        "UnionFilter" => filters(object, kind, left).map(Filter::Union),
        "IntersectionFilter" => filters(object, kind, left).map(Filter::Intersection),
        "ComplementFilter" => {
            only(object, kind, &["superSet", "subSet"])?;
            let (Some(super_set), Some(sub_set)) = (object.get("superSet"), object.get("subSet"))
            else {
                return why("ComplementFilter has not both superSet and subSet");
            };
            Ok(Filter::Complement(
                Box::new(node(super_set, left)?),
                Box::new(node(sub_set, left)?),
            ))
        }
        _ => why(format!(
            "a filter's $type is none that is known here: one of {TYPES}"
        )),
    }
}

fn name(text: &str) -> Result<Filter, Refused> {
    if text.starts_with('!') {
        return why(
            "ByNameFilter excludes nothing (!): put it into a ComplementFilter as its subSet",
        );
    }
    if text.chars().count() > LONGEST_PATTERN {
        return why(format!(
            "ByNameFilter: a pattern has at most {LONGEST_PATTERN} characters"
        ));
    }
    match Pattern::new(text) {
        Ok(pattern) => Ok(Filter::Name(pattern)),
        Err(error) => why(format!("ByNameFilter: {error}")),
    }
}

fn created(object: &Map<String, Value>, kind: &str) -> Result<Filter, Refused> {
    only(object, kind, &["from", "to"])?;
    let time = |key| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match DateTime::parse_from_rfc3339(text) {
            Ok(at) => Ok(Some(at.to_utc())),
            Err(_) => why(format!(
                "CreatedBetweenFilter: {key} is no time such as 2026-01-01T00:00:00Z"
            )),
        },
        Some(_) => why(format!("CreatedBetweenFilter: {key} is no text")),
    };
    match (time("from")?, time("to")?) {
        (None, None) => why("CreatedBetweenFilter has neither from nor to"),
        (from, to) => Ok(Filter::Created { from, to }),
    }
}

fn filters(
    object: &Map<String, Value>,
    kind: &str,
    left: &mut usize,
) -> Result<Vec<Filter>, Refused> {
    only(object, kind, &["filters"])?;
    match object.get("filters").and_then(Value::as_array) {
        Some(list) if !list.is_empty() => list.iter().map(|value| node(value, left)).collect(),
        Some(_) | None => why(format!(
            "{kind} has no list `filters` with at least one filter"
        )),
    }
}

fn texts(object: &Map<String, Value>, kind: &str, key: &str) -> Result<BTreeSet<String>, Refused> {
    only(object, kind, &[key])?;
    let members = object.get(key).and_then(Value::as_array);
    let texts = members.and_then(|members| {
        let texts = members
            .iter()
            .map(|member| member.as_str().map(str::to_owned));
        texts.collect::<Option<BTreeSet<_>>>()
    });
    match texts {
        Some(texts) if !texts.is_empty() => Ok(texts),
        Some(_) | None => why(format!("{kind} has no list `{key}` with at least one text")),
    }
}

/// A key that is misspelt must not silently widen what is sent.
fn only(object: &Map<String, Value>, kind: &str, known: &[&str]) -> Result<(), Refused> {
    let unknown = |key: &&String| *key != "$type" && !known.contains(&key.as_str());
    if object.keys().any(|key| unknown(&key)) {
        return why(format!(
            "{kind} has a key that is none of {}",
            known.join(", ")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
