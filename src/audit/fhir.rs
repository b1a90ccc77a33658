//! A row as an `AuditEvent` of FHIR R4 (<https://hl7.org/fhir/R4/auditevent.html>).
//!
//! One resource a line (NDJSON, as FHIR's own bulk data): a log of years is read and written without holding it, which a
//! Bundle would need.

use serde_json::{Value, json};

use super::chain::Row;
use super::record::Action;

const DICOM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const TYPES: &str = "http://terminology.hl7.org/CodeSystem/audit-event-type";
const INTERACTIONS: &str = "http://hl7.org/fhir/restful-interaction";
/// Our own words, such as `deliver`.
const OURS: &str = "urn:fullscript-events:audit-action";

fn coding(system: &str, code: &str, display: &str) -> Value {
    json!({ "system": system, "code": code, "display": display })
}

/// The `type`, a standard `subtype` if there is one, and the `action`.
fn kind(action: Action) -> (Value, Option<Value>, &'static str) {
    let rest = || coding(TYPES, "rest", "RESTful Operation");
    let login = || coding(DICOM, "110114", "User Authentication");
    match action {
        Action::Poll => (
            rest(),
            Some(coding(INTERACTIONS, "search-type", "search-type")),
            "E",
        ),
        Action::Fetch => (rest(), Some(coding(INTERACTIONS, "read", "read")), "R"),
        // Whoever gets an event is outside this system from now on.
        Action::Deliver => (coding(DICOM, "110106", "Export"), None, "R"),
        Action::Read => (coding(DICOM, "110110", "Patient Record"), None, "R"),
        Action::Resend => (coding(DICOM, "110106", "Export"), None, "E"),
        Action::StreamOpen => (login(), Some(coding(DICOM, "110122", "Login")), "E"),
        Action::StreamClose => (login(), Some(coding(DICOM, "110123", "Logout")), "E"),
        Action::Config => (
            coding(DICOM, "110113", "Security Alert"),
            Some(coding(DICOM, "110131", "Software Configuration")),
            "U",
        ),
        Action::Token => (
            coding(DICOM, "110113", "Security Alert"),
            Some(coding(DICOM, "110129", "Security Configuration")),
            "U",
        ),
    }
}

/// FHIR's outcome: 0 success, 4 minor failure (tried again), 8 serious failure.
fn outcome(row: &Row) -> &'static str {
    let record = &row.record;
    // What is parked was accepted, or not even sent.
    let accepted = record.status_code.is_some_and(|code| code < 300);
    let polls_failed = record.noted("failed").is_some_and(|failed| failed != "0");
    match (record.noted("outcome"), record.noted("what")) {
        (Some("parked"), _) if accepted => "0",
        (Some("later" | "not_sent" | "doubt" | "parked" | "skipped"), _)
        | (_, Some("refresh_unanswered")) => "4",
        (None, None) if polls_failed => "4",
        (Some("no" | "gone" | "clinic_refused"), _)
        | (_, Some("refresh_refused" | "refresh_wrong_client" | "records_lost")) => "8",
        _ => "0",
    }
}

/// The resource of a row.
pub fn audit_event(row: &Row) -> Value {
    let record = &row.record;
    let (kind, standard, action) = kind(record.action);
    let ours = coding(OURS, record.action.as_str(), record.action.as_str());
    let subtype: Vec<Value> = standard.into_iter().chain([ours]).collect();
    let is_program = record.actor == "daemon";
    let mut agents = vec![json!({
        "type": { "coding": [if is_program {
            coding(DICOM, "110150", "Application")
        } else {
            coding("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "AUT", "author (originator)")
        }] },
        "who": { "display": record.actor },
        "requestor": true,
    })];
    if let Some(sink) = &record.sink {
        agents.push(json!({
            "type": { "coding": [coding(DICOM, "110152", "Destination Role ID")] },
            "who": { "display": sink },
            "requestor": false,
        }));
    }
    let details = [
        ("method", record.method.clone()),
        ("path", record.path.clone()),
        (
            "status_code",
            record.status_code.map(|code| code.to_string()),
        ),
        ("duration_ms", record.duration_ms.map(|ms| ms.to_string())),
        ("request_id", record.request_id.clone()),
        ("payload_digest", record.payload_digest.clone()),
        ("seq", Some(row.link.seq.to_string())),
        ("hash", Some(row.link.hash.clone())),
    ];
    let details: Vec<Value> = details
        .into_iter()
        // An empty string is no value in FHIR.
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .map(|(name, value)| json!({ "type": name, "valueString": value }))
        .collect();
    let what = match &record.event_id {
        Some(id) => json!({ "identifier": { "system": "urn:fullscript:event", "value": id } }),
        None => json!({ "display": "fullscript-events" }),
    };
    let mut entities = vec![json!({
        "what": what,
        "type": coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "2", "System Object"),
        "detail": details,
    })];
    if let Some(clinic) = &record.clinic {
        entities.push(json!({
            "what": { "identifier": { "system": "urn:fullscript-events:clinic", "value": clinic } },
            "type": coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "3", "Organization"),
        }));
    }
    json!({
        "resourceType": "AuditEvent",
        "id": row.link.seq.to_string(),
        "type": kind,
        "subtype": subtype,
        "action": action,
        "recorded": record.timestamp,
        "outcome": outcome(row),
        "agent": agents,
        "source": {
            "observer": { "display": "fullscript-events" },
            "type": [coding("http://terminology.hl7.org/CodeSystem/security-source-type", "4", "Application Server")],
        },
        "entity": entities,
    })
}
