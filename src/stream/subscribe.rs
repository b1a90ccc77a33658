//! What a client asks for: the subscribe frame, or its query parameters, and whether its token reaches so far. Pure.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::cursor::Start;
use super::filter::{self, Filter};
use super::frame::Facts;
use super::refusal::Refusal;
use crate::config::{ClinicSelection, EntitySelection, Phi};
use crate::domain::{ClinicName, Operation};

/// What a bearer may see.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// What logs call it.
    pub(super) name: String,
    pub(super) clinics: ClinicSelection,
    pub(super) entities: EntitySelection,
    pub(super) phi: Phi,
}

/// What is asked for, before anybody has looked whether it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Empty is all.
    operations: Vec<Operation>,
    entities: Entities,
    filter: Filter,
    /// Where it begins, if that is said.
    pub(super) after: Option<Start>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entities {
    /// Whatever the token may see.
    Granted,
    /// `"*"`.
    All,
    Named(BTreeSet<String>),
}

/// What a subscriber gets.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    operations: Vec<Operation>,
    entities: EntitySelection,
    clinics: ClinicSelection,
    filter: Filter,
    pub(super) phi: Phi,
}

impl Wanted {
    /// Whether it gets this frame.
    pub(super) fn wants(&self, facts: &Facts) -> bool {
        (self.operations.is_empty() || self.operations.contains(&facts.operation))
            && self.entities.contains(&facts.entity_class)
            && self.clinics.contains(&facts.clinic)
            && self.filter.wants(facts)
    }
}

/// The clinics of the configuration, and their ids at Fullscript as far as they are known.
pub(super) type Clinics = Vec<(ClinicName, Option<String>)>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    event_types: Option<Vec<String>>,
    entity_class: Option<OneOrMore>,
    filter: Option<Value>,
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::More(list) => list,
        }
    }
}

impl Request {
    /// Reads a subscribe frame: iCure's, or ours, which says more.
    pub(super) fn from_json(text: &str, most: usize) -> Result<Self, Refusal> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| {
            // The error's own text may quote what was sent.
            Refusal::Malformed(format!(
                "no subscribe frame at line {}, column {}: a JSON object with any of eventTypes, entityClass, filter and \
                 after is wanted",
                error.line(),
                error.column()
            ))
        })?;
        let filter = raw.filter.filter(|filter| !filter.is_null());
        let filter = filter.map(|filter| Filter::parse(&filter, most));
        Ok(Self {
            operations: operations(raw.event_types.unwrap_or_default())?,
            entities: entities(raw.entity_class.map(OneOrMore::into_list))?,
            filter: filter.transpose()?.unwrap_or(Filter::All),
            after: raw.after.as_deref().map(Start::parse).transpose()?,
        })
    }

    /// Reads query parameters; `others` takes those that are none of the subscription's.
    pub(super) fn from_query(
        query: &str,
        most: usize,
        mut others: impl FnMut(&str, &str) -> Result<bool, Refusal>,
    ) -> Result<Self, Refusal> {
        let mut frame = None;
        let mut raw = Raw {
            event_types: None,
            entity_class: None,
            filter: None,
            after: None,
        };
        let mut simple: Vec<Value> = Vec::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
            let mut add = |kind: &str, key: &str, value: Value| {
                simple.push(serde_json::json!({ "$type": kind, key: value }));
            };
            match &*key {
                "subscribe" => frame = Some(value.to_string()),
                "eventTypes" => raw.event_types = Some(list()),
                "entityClass" => raw.entity_class = Some(OneOrMore::More(list())),
                "filter" => {
                    let filter = serde_json::from_str(&value);
                    raw.filter = Some(filter.map_err(|_| Refusal::malformed("filter is no JSON"))?);
                }
                "after" => raw.after = Some(value.to_string()),
                "ids" => add("ByIdsFilter", "ids", list().into()),
                "clinic" => add("ByClinicFilter", "clinics", list().into()),
                "patient" => add("ByPatientFilter", "patients", list().into()),
                "name" => add("ByNameFilter", "pattern", value.as_ref().into()),
                "token" | "access_token" | "authorization" => {
                    return Err(Refusal::malformed(
                        "a token never stands in an address, which is logged on its way: Authorization: Bearer TOKEN",
                    ));
                }
                other => {
                    if !others(other, &value)? {
                        return Err(Refusal::malformed(
                            "a parameter is none of subscribe, eventTypes, entityClass, filter, ids, clinic, patient, \
                             name, after",
                        ));
                    }
                }
            }
        }
        let alone = raw.event_types.is_none()
            && raw.entity_class.is_none()
            && raw.filter.is_none()
            && simple.is_empty();
        if let Some(frame) = frame {
            if !alone {
                return Err(Refusal::malformed(
                    "either subscribe, a whole frame, or single parameters, not both",
                ));
            }
            let mut request = Self::from_json(&frame, most)?;
            if let Some(after) = raw.after {
                request.after = Some(Start::parse(&after)?);
            }
            return Ok(request);
        }
        if let Some(filter) = &raw.filter {
            simple.push(filter::unwrapped(filter)?.clone());
        }
        let filter = match simple.as_slice() {
            [] => Filter::All,
            [only] => Filter::parse(only, most)?,
            // One filter, so that its limit is for all together.
            all => {
                let all = serde_json::json!({ "$type": "IntersectionFilter", "filters": all });
                Filter::parse(&all, most)?
            }
        };
        Ok(Self {
            operations: operations(raw.event_types.unwrap_or_default())?,
            entities: entities(raw.entity_class.map(OneOrMore::into_list))?,
            filter,
            after: raw.after.as_deref().map(Start::parse).transpose()?,
        })
    }

    /// What a bearer gets of it; refused where it asks for more than it may have, so that nobody takes silence for
    /// nothing having happened.
    /// `digest` makes of an id what frames have in its place.
    pub(super) fn granted(
        &self,
        grant: &Grant,
        clinics: &Clinics,
        digest: &impl Fn(&str) -> String,
    ) -> Result<Wanted, Refusal> {
        let entities = match (&self.entities, &grant.entities) {
            (Entities::Granted, granted) => granted.clone(),
            (Entities::All, EntitySelection::All) => EntitySelection::All,
            (Entities::Named(named), EntitySelection::All) => EntitySelection::Named(named.clone()),
            (Entities::Named(named), EntitySelection::Named(granted))
                if named.is_subset(granted) =>
            {
                EntitySelection::Named(named.clone())
            }
            (Entities::All | Entities::Named(_), EntitySelection::Named(granted)) => {
                let granted: Vec<_> = granted.iter().map(String::as_str).collect();
                return Err(Refusal::Forbidden(format!(
                    "this token may see {}, and nothing else",
                    granted.join(", ")
                )));
            }
        };
        let may_see = |asked: &str| {
            clinics.iter().any(|(name, id)| {
                grant.clinics.contains(name)
                    && (name.as_str() == asked || id.as_deref() == Some(asked))
            })
        };
        if !self.filter.clinics().into_iter().all(may_see) {
            return Err(Refusal::Forbidden(
                "this token may not see a clinic that the filter names, or there is no such clinic"
                    .to_owned(),
            ));
        }
        Ok(Wanted {
            operations: self.operations.clone(),
            entities,
            clinics: grant.clinics.clone(),
            filter: self.filter.clone().granted(grant.phi, digest)?,
            phi: grant.phi,
        })
    }
}

fn operations(words: Vec<String>) -> Result<Vec<Operation>, Refusal> {
    let operation = |word: String| {
        let mut all = Operation::ALL.into_iter();
        all.find(|operation| operation.as_event_type() == word)
            .ok_or_else(|| Refusal::malformed("eventTypes are any of CREATE, UPDATE, DELETE"))
    };
    words.into_iter().map(operation).collect()
}

/// iCure writes `org.taktik.icure.entities.Patient`: what stands before the last dot is of no interest.
fn entities(classes: Option<Vec<String>>) -> Result<Entities, Refusal> {
    let Some(classes) = classes else {
        return Ok(Entities::Granted);
    };
    let last = |class: &String| class.rsplit('.').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = classes.iter().map(last).collect();
    if names.contains("*") && names.len() == 1 {
        return Ok(Entities::All);
    }
    let is_name = |name: &String| {
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.chars().all(|c| c.is_ascii_alphanumeric())
    };
    if names.is_empty() || !names.iter().all(is_name) {
        return Err(Refusal::malformed(
            "entityClass is a name such as \"TreatmentPlan\", a list of them, or \"*\"",
        ));
    }
    Ok(Entities::Named(names))
}

#[cfg(test)]
mod tests;
