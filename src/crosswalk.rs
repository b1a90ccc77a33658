//! The crosswalk: from Fullscript's id of a patient or a treatment plan to the EMR's own.
//!
//! No event carries it: it is `metadata.id` of the record, which is read with the clinic's own grant and counts against
//! the same budget (`fullscript-api.md` §9). An answer is used for a day; that there is none, for an hour, so that a
//! clinic which adds the id is soon picked up. However many ask about one record at once, Fullscript is asked once.
//!
//! *None* is an answer of Fullscript's, never a failure: a delivery is parked for it. What could not be asked is
//! *unavailable*, and asked again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::api::budget::Share;
use crate::api::{Api, Trouble};
use crate::clock::SharedClock;
use crate::domain::{ClinicName, Subject};
use crate::format::sfs::emr_id;
use crate::ledger::{Ledger, Looked};
use crate::sinks::{self, Crossed};

/// How long the EMR's id is used without asking again.
const FOUND_FOR: TimeDelta = TimeDelta::days(1);
/// How long it is believed that there is none.
const NONE_FOR: TimeDelta = TimeDelta::hours(1);
/// How long after a refusal (403) nothing of that kind is asked for that clinic: a missing scope does not come back by
/// asking, and each delivery would.
const REFUSED_FOR: TimeDelta = TimeDelta::minutes(1);
/// No record is this large, in bytes.
const LARGEST_RECORD: usize = 1 << 20;

/// Asks Fullscript, and remembers.
pub struct Crosswalk {
    api: Arc<Api>,
    ledger: Ledger,
    clock: SharedClock,
    flights: Mutex<HashMap<Key, Flight>>,
    refused: Mutex<HashMap<(ClinicName, Kind), DateTime<Utc>>>,
}

type Key = (ClinicName, Subject);
/// Locked while a record is asked for: who comes meanwhile finds the answer.
type Flight = Arc<tokio::sync::Mutex<()>>;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Patient,
    TreatmentPlan,
}

impl Kind {
    fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Patient(_) => Self::Patient,
            Subject::TreatmentPlan(_) => Self::TreatmentPlan,
        }
    }

    /// The path below the clinic, and the key of the answer.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Patient => ("patients", "patient"),
            Self::TreatmentPlan => ("treatment_plans", "treatment_plan"),
        }
    }

    fn scope(self) -> &'static str {
        match self {
            Self::Patient => "patients:read",
            Self::TreatmentPlan => "patients:treatment_plan_history",
        }
    }

    fn refusal(self) -> String {
        format!(
            "403: Fullscript refuses the EMR's own ids (metadata.id): the scope `{}` is missing; add it in Fullscript's dashboard, \
             then `auth login` again",
            self.scope()
        )
    }
}

impl Crosswalk {
    /// Asks through `api`, remembers in `ledger`.
    pub fn new(api: Arc<Api>, ledger: Ledger, clock: SharedClock) -> Self {
        Self {
            api,
            ledger,
            clock,
            flights: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Of the plan itself, if it has one, else of its patient.
    async fn cross(&self, clinic: &ClinicName, subject: &Subject) -> Result<Crossed, String> {
        let looked = self.look(clinic, subject).await?;
        let emr_id = match (looked.emr_id, looked.patient) {
            (None, Some(patient)) => {
                let patient = Subject::Patient(patient);
                self.look(clinic, &patient).await?.emr_id
            }
            (own, _) => own,
        };
        Ok(emr_id.map_or(Crossed::None, Crossed::Found))
    }

    /// What Fullscript says of one record: what it said lately, or says now.
    async fn look(&self, clinic: &ClinicName, subject: &Subject) -> Result<Looked, String> {
        let key = (clinic.clone(), subject.clone());
        let flight = self.flight(&key);
        let looked = {
            let _asking = flight.lock().await;
            self.look_alone(clinic, subject).await
        };
        drop(flight);
        self.land(&key);
        looked
    }

    async fn look_alone(&self, clinic: &ClinicName, subject: &Subject) -> Result<Looked, String> {
        let now = self.clock.now();
        let known = self.ledger.looked_up(clinic, subject).await;
        if let Some(looked) = known.map_err(|error| error.to_string())?
            && is_fresh(&looked, now)
        {
            return Ok(looked);
        }
        let kind = Kind::of(subject);
        let refused = (clinic.clone(), kind);
        let refused_at = self.refused().get(&refused).copied();
        if refused_at.is_some_and(|at| (now - at).abs() < REFUSED_FOR) {
            return Err(kind.refusal());
        }
        let looked = match self.ask(clinic, subject).await {
            Ok(looked) => looked,
            Err(Trouble::Gone) => none(now),
            Err(Trouble::Forbidden) => {
                self.refused().insert(refused, now);
                return Err(kind.refusal());
            }
            Err(trouble) => return Err(trouble.to_string()),
        };
        let kept = self.ledger.keep_looked(clinic, subject, &looked).await;
        kept.map_err(|error| error.to_string())?;
        Ok(looked)
    }

    async fn ask(&self, clinic: &ClinicName, subject: &Subject) -> Result<Looked, Trouble> {
        let (path, _) = Kind::of(subject).names();
        let (Subject::Patient(id) | Subject::TreatmentPlan(id)) = subject;
        if id.is_empty() || id == "." || id == ".." {
            // No path leads there.
            return Err(Trouble::Gone);
        }
        let url = self.api.url(&["clinic", path, id]);
        let reply = self.api.get(clinic, url, Share::Polling, LARGEST_RECORD);
        let body = reply.await?.body;
        let now = self.clock.now();
        read(&body, subject, now).map_err(|problem| Trouble::Contract(problem.to_owned()))
    }

    fn flight(&self, key: &Key) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(key.clone()).or_default())
    }

    /// Forgets a flight that nobody waits for.
    fn land(&self, key: &Key) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights
            .get(key)
            .is_some_and(|flight| Arc::strong_count(flight) == 1)
        {
            flights.remove(key);
        }
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, HashMap<(ClinicName, Kind), DateTime<Utc>>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl sinks::Crosswalk for Crosswalk {
    fn hospitalization_id<'a>(
        &'a self,
        clinic: &'a ClinicName,
        subject: Subject,
    ) -> BoxFuture<'a, Crossed> {
        Box::pin(async move {
            let crossed = self.cross(clinic, &subject).await;
            crossed.unwrap_or_else(Crossed::Unavailable)
        })
    }
}

fn none(now: DateTime<Utc>) -> Looked {
    Looked {
        emr_id: None,
        patient: None,
        looked_at: now,
        is_stale: false,
    }
}

/// Whether an answer is used without asking again. One from the future was written by a clock that was wrong.
fn is_fresh(looked: &Looked, now: DateTime<Utc>) -> bool {
    let age = now - looked.looked_at;
    let longest = if looked.emr_id.is_some() {
        FOUND_FOR
    } else {
        NONE_FOR
    };
    !looked.is_stale && age >= TimeDelta::zero() && age < longest
}

/// Reads a record. Errors never repeat the body: it is health data.
fn read(body: &[u8], subject: &Subject, now: DateTime<Utc>) -> Result<Looked, &'static str> {
    const NO_RECORD: &str = "the answer is not the patient or plan that the contract describes";
    let kind = Kind::of(subject);
    let answer: Value = serde_json::from_slice(body).map_err(|_| NO_RECORD)?;
    let record = answer
        .get(kind.names().1)
        .filter(|record| record.is_object());
    let record = record.ok_or(NO_RECORD)?;
    let (Subject::Patient(asked) | Subject::TreatmentPlan(asked)) = subject;
    if record.get("id").and_then(Value::as_str) != Some(asked) {
        return Err("the answer is about another patient or plan than the one asked for");
    }
    let metadata_id = record
        .get("metadata")
        .and_then(|metadata| metadata.get("id"));
    let patient = record.get("patient").and_then(|patient| patient.get("id"));
    let patient = patient.and_then(Value::as_str).map(str::to_owned);
    Ok(Looked {
        emr_id: metadata_id.and_then(emr_id),
        patient: patient.filter(|_| kind == Kind::TreatmentPlan),
        ..none(now)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> Subject {
        Subject::TreatmentPlan("p1".to_owned())
    }

    #[test]
    fn the_id_is_the_metadatas_and_what_is_no_id_is_none() {
        let long = "x".repeat(256);
        for (metadata, found) in [
            (json!({ "id": "visit-7" }), Some("visit-7")),
            (json!({ "id": " visit-7 " }), Some("visit-7")),
            (json!({ "id": 12 }), Some("12")),
            (json!({ "id": null }), None),
            (json!({ "id": "" }), None),
            (json!({ "id": "a\nb" }), None),
            (json!({ "id": long }), None),
            (json!({ "id": {} }), None),
            (json!({}), None),
            (json!(null), None),
            (json!("visit-7"), None),
        ] {
            let body = json!({ "treatment_plan": {
                "id": "p1", "metadata": metadata, "patient": { "id": "q1", "metadata": { "id": "never" } },
            }});
            let looked = read(body.to_string().as_bytes(), &plan(), DateTime::UNIX_EPOCH);
            let looked = looked.ok().unwrap();
            assert_eq!(looked.emr_id.as_deref(), found, "{metadata}");
            assert_eq!(looked.patient.as_deref(), Some("q1"));
        }
    }

    #[test]
    fn an_answer_about_something_else_is_refused_without_repeating_it() {
        for body in [
            r#"{"treatment_plan":{"id":"p2","metadata":{"id":"Jane"}}}"#,
            r#"{"treatment_plan":{"metadata":{"id":"Jane"}}}"#,
            r#"{"treatment_plan":"Jane"}"#,
            r#"{"patient":{"id":"p1","metadata":{"id":"Jane"}}}"#,
            "<html>Jane",
        ] {
            let error = read(body.as_bytes(), &plan(), DateTime::UNIX_EPOCH);
            assert!(!error.err().unwrap().contains("Jane"), "{body}");
        }
    }

    #[test]
    fn an_id_is_used_for_a_day_none_for_an_hour_and_neither_from_the_future() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(100);
        let fresh = |emr_id: Option<&str>, age: TimeDelta, is_stale: bool| {
            let emr_id = emr_id.map(str::to_owned);
            let looked_at = now - age;
            is_fresh(
                &Looked {
                    emr_id,
                    looked_at,
                    is_stale,
                    ..none(now)
                },
                now,
            )
        };
        let second = TimeDelta::seconds(1);
        for (emr_id, longest) in [(Some("v"), TimeDelta::days(1)), (None, TimeDelta::hours(1))] {
            assert!(fresh(emr_id, TimeDelta::zero(), false));
            assert!(fresh(emr_id, longest - second, false));
            assert!(!fresh(emr_id, longest, false));
            assert!(!fresh(emr_id, second, true));
            assert!(!fresh(emr_id, -second, false));
        }
    }
}
