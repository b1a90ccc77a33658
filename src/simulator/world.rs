//! Everything that changes, behind one lock.

use std::collections::HashSet;

use super::Options;
use super::counters::Counters;
use super::data::{self, Facts};
use super::events::{Events, Record, created_at};
use super::faults::{Endpoint, Fault, Faults, Request};
use super::limiter::Limiter;
use super::records::Records;
use super::seeded::Seeded;
use super::tokens::Tokens;

/// A clinic of the simulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimClinic {
    /// Its id, as in `clinic_id` and `GET /clinic`.
    pub clinic_id: String,
    /// Its name.
    pub name: String,
    pub(super) number: u32,
}

/// One event, as an oracle needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeEvent {
    /// Its id.
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// The list it is found in.
    pub category: String,
    /// `None` for an event that every clinic may retrieve.
    pub clinic_id: Option<String>,
    /// As Fullscript writes it.
    pub created_at: String,
    /// From when on it is shown.
    pub visible_at: String,
    /// How often it was retrieved with a 200.
    pub retrieved: u32,
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct World {
    pub(super) events: Events,
    pub(super) tokens: Tokens,
    pub(super) clinics: Vec<SimClinic>,
    pub(super) limiter: Limiter,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    pub(super) records: Records,
    pub(super) scopes: Vec<String>,
    /// Events that read otherwise than they did.
    pub(super) rewritten: HashSet<u32>,
    pub(super) random: Seeded,
    /// Apart from `random`, so that ids and delays do not depend on how many requests came first.
    pub(super) request_ids: Seeded,
}

impl World {
    pub(super) fn clinic(&self, number: u32) -> Option<&SimClinic> {
        self.clinics.get(usize::try_from(number).ok()?)
    }

    /// The number of the clinic with this id.
    pub(super) fn number_of(&self, clinic_id: &str) -> Option<u32> {
        self.clinics
            .iter()
            .find(|clinic| clinic.clinic_id == clinic_id)
            .map(|clinic| clinic.number)
    }

    /// The fault that a request with this access or refresh token meets.
    pub(super) fn fault_for(
        &mut self,
        endpoint: Endpoint,
        token: Option<&str>,
        category: Option<&str>,
    ) -> Option<Fault> {
        let number = token.and_then(|token| self.tokens.clinic_of(token));
        let clinic_id = number
            .and_then(|number| self.clinic(number))
            .map(|clinic| clinic.clinic_id.clone());
        let fault = self.faults.take(Request {
            endpoint,
            clinic_id: clinic_id.as_deref(),
            category,
        });
        self.counters.faults += u64::from(fault.is_some());
        fault
    }

    /// The whole answer of a retrieve.
    pub(super) fn reply_for(&self, options: &Options, index: u32) -> Option<String> {
        let record = self.events.get(index)?;
        Some(data::reply(&Facts {
            seed: options.seed ^ u64::from(self.rewritten.contains(&index)),
            index,
            id: &self.events.id(index),
            event_type: self.events.type_of(record),
            created: record.created,
            clinic_id: self.clinic_id_of(record),
            patients: options.patients,
        }))
    }

    /// The clinic id that an event names, if it belongs to one.
    pub(super) fn clinic_id_of(&self, record: &Record) -> Option<&str> {
        let clinic = record.clinic.and_then(|number| self.clinic(number));
        clinic.map(|clinic| clinic.clinic_id.as_str())
    }

    /// One event, for an oracle.
    pub(super) fn made_event(&self, index: u32) -> Option<MadeEvent> {
        let record = self.events.get(index)?;
        Some(MadeEvent {
            id: self.events.id(index),
            event_type: self.events.type_of(record).to_owned(),
            category: self.events.category_of(record).to_owned(),
            clinic_id: self.clinic_id_of(record).map(str::to_owned),
            created_at: created_at(record.created),
            visible_at: created_at(record.visible),
            retrieved: record.retrieved,
        })
    }
}
