//! What the audit log is told of each step: who was read, and to whom it was handed.

use std::time::Duration;

use super::{OpenSink, Pipeline};
use crate::audit::{Action, Attested, Record};
use crate::domain::{ClinicName, EventId, Outcome};
use crate::fetch::Fetched;
use crate::ledger::Claim;

/// How a sink is reached, for the log: no query, no host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The HTTP method; of other sinks, their kind.
    pub method: &'static str,
    /// The path of the URL; of other sinks nothing.
    pub path: String,
}

/// How an attempt ended, in one word.
fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Yes => "yes",
        Outcome::No { .. } => "no",
        Outcome::Later { .. } => "later",
        Outcome::NotSent { .. } => "not_sent",
        Outcome::Doubt { .. } => "doubt",
        Outcome::Gone { .. } => "gone",
        Outcome::Skip { .. } => "skipped",
        Outcome::Park { .. } => "parked",
        Outcome::ClinicRefused { .. } => "clinic_refused",
    }
}

fn millis(took: Duration) -> Option<u64> {
    u64::try_from(took.as_millis()).ok()
}

impl Pipeline {
    /// The record of an attempt that has ended; nothing where nothing is audited.
    pub(super) fn attempted(
        &self,
        sink: &OpenSink,
        claim: &Claim,
        outcome: &Outcome,
        (took, status_code): (Duration, Option<u16>),
    ) -> Option<Record> {
        if !self.audit.is_on() {
            return None;
        }
        let parcel = &claim.parcel;
        let record = self
            .audit
            .entry(Action::Deliver, self.now())
            .clinic(parcel.clinic.as_str())
            .event(parcel.event.as_str())
            .sink(sink.name.as_str())
            .at(sink.target.method, &sink.target.path)
            .note("outcome", word(outcome))
            .note("delivery", parcel.delivery)
            .note("attempt", parcel.attempt);
        Some(Record {
            status_code,
            duration_ms: millis(took),
            payload_digest: self.audit.digest(parcel.body.as_json().as_bytes()),
            ..record
        })
    }

    /// The record of a detail that was read.
    pub(super) fn read(
        &self,
        clinic: &ClinicName,
        event: &EventId,
        fetched: &Fetched,
        took: Duration,
    ) -> Attested {
        self.audit.attest(|| {
            let record = self
                .audit
                .entry(Action::Fetch, self.now())
                .clinic(clinic.as_str())
                .event(event.as_str())
                .at("GET", "/api/events/{id}")
                .request(fetched.request_id.as_deref());
            vec![Record {
                status_code: Some(200),
                duration_ms: millis(took),
                payload_digest: self.audit.digest(fetched.body.as_json().as_bytes()),
                ..record
            }]
        })
    }
}
