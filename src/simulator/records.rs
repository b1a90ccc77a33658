//! The patients and treatment plans that events are about, as `GET /clinic/patients/{id}` and
//! `GET /clinic/treatment_plans/{id}` show them (`fullscript-api.md` §9): the only place where the EMR's own id
//! (`metadata.id`) can be read.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::data;
use super::faults::Endpoint;
use super::world::World;
use super::{EmrIds, Options};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A patient.
    Patient,
    /// A treatment plan.
    TreatmentPlan,
}

impl RecordKind {
    /// The key in the answer.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::TreatmentPlan => "treatment_plan",
        }
    }

    /// The scope that it is read with.
    pub(super) fn scope(self) -> &'static str {
        match self {
            Self::Patient => "patients:read",
            Self::TreatmentPlan => "patients:treatment_plan_history",
        }
    }

    /// What faults call it.
    pub(super) fn endpoint(self) -> Endpoint {
        match self {
            Self::Patient => Endpoint::Patient,
            Self::TreatmentPlan => Endpoint::TreatmentPlan,
        }
    }
}

/// What is known of records beside the events.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The event that made each plan.
    plans: HashMap<String, u32>,
    /// Events before this one have been looked through for plans.
    seen: u32,
    /// The EMR's own ids that were set; `None`: taken away.
    emr_ids: HashMap<(u32, RecordKind, String), Option<String>>,
}

impl Records {
    pub(super) fn set_emr_id(
        &mut self,
        clinic: u32,
        kind: RecordKind,
        id: &str,
        emr_id: Option<&str>,
    ) {
        let key = (clinic, kind, id.to_owned());
        self.emr_ids.insert(key, emr_id.map(str::to_owned));
    }

    fn emr_id(
        &self,
        options: &Options,
        (clinic, kind): (u32, RecordKind),
        id: &str,
    ) -> Option<String> {
        let set = self.emr_ids.get(&(clinic, kind, id.to_owned()));
        let made = || match (options.emr_ids, kind) {
            (EmrIds::OfPatients, RecordKind::Patient) => Some(format!("emr-{id}")),
            (EmrIds::OfPatients, RecordKind::TreatmentPlan) | (EmrIds::None, _) => None,
        };
        set.cloned().unwrap_or_else(made)
    }
}

impl World {
    /// The whole answer about a record of a clinic.
    pub(super) fn record(
        &mut self,
        options: &Options,
        clinic: u32,
        kind: RecordKind,
        id: &str,
    ) -> Option<String> {
        let mut record = match kind {
            RecordKind::Patient => {
                let clinic_id = &self.clinic(clinic)?.clinic_id;
                data::patient_of(options.seed, clinic_id, options.patients, id)?
            }
            RecordKind::TreatmentPlan => self.plan(options, clinic, id)?,
        };
        let emr_id = self.records.emr_id(options, (clinic, kind), id);
        let metadata = json!({ "id": emr_id });
        record
            .as_object_mut()?
            .insert("metadata".to_owned(), metadata);
        Some(json!({ kind.key(): record }).to_string())
    }

    /// A plan, as the event told of it that made it.
    fn plan(&mut self, options: &Options, clinic: u32, id: &str) -> Option<Value> {
        let count = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        for index in self.records.seen..count {
            if let Some(plan) = self.plan_of(options, index)
                && let Some(id) = plan.get("id").and_then(Value::as_str)
            {
                self.records.plans.insert(id.to_owned(), index);
            }
        }
        self.records.seen = count;
        let index = *self.records.plans.get(id)?;
        let is_its = self.events.get(index)?.clinic == Some(clinic);
        is_its.then(|| self.plan_of(options, index)).flatten()
    }

    fn plan_of(&self, options: &Options, index: u32) -> Option<Value> {
        let record = self.events.get(index)?;
        if !self.events.type_of(record).starts_with("treatment_plan.") {
            return None;
        }
        let mut reply: Value = serde_json::from_str(&self.reply_for(options, index)?).ok()?;
        reply
            .pointer_mut("/event/data/treatment_plan")
            .map(Value::take)
    }
}
