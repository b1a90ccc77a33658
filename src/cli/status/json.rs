//! `status --json`: the same judgement for programs. Keys are only added within a schema version.

use serde_json::{Value, json};

use super::super::output::iso;
use super::snapshot::AuditLog;
use super::view::{ClinicView, Freshness, Grant, Problem, SinkView, View};

/// The version of what is printed.
const SCHEMA: u32 = 1;

/// One JSON object.
pub(super) fn render(view: &View) -> String {
    let object = json!({
        "schema": SCHEMA,
        "at": iso(view.now),
        "ok": view.problems().next().is_none(),
        "verdict": view.verdict(),
        "running": view.running,
        "login_required": view.login_required,
        "state_directory": view.directory,
        "other_host": view.elsewhere.as_ref().map(|(home, here)| json!({
            "used_on": home.to_string(),
            "this_is": here.to_string(),
        })),
        "clinics": view.clinics.iter().map(clinic).collect::<Vec<_>>(),
        "sinks": view.sinks.iter().map(sink).collect::<Vec<_>>(),
        "audit": view.audit.as_ref().map(audit),
        "problems": view.problems().map(problem).collect::<Vec<_>>(),
    });
    format!("{object:#}\n")
}

fn audit(audit: &AuditLog) -> Value {
    let trouble = audit.standing.trouble.as_ref();
    json!({
        "directory": audit.directory,
        "required": audit.required,
        "rows": audit.standing.head.as_ref().map_or(0, |head| head.end.seq),
        "waiting": audit.standing.waiting,
        "trouble": trouble.map(|(trouble, _)| trouble),
        "trouble_since": trouble.map(|(_, since)| iso(*since)),
    })
}

fn clinic(clinic: &ClinicView) -> Value {
    let (grant, until) = match clinic.grant {
        Grant::None => ("none", None),
        Grant::Ok { until } => ("ok", Some(iso(until))),
        Grant::Retrying => ("retrying", None),
        Grant::Misconfigured => ("configuration_fault", None),
        Grant::LoginRequired { .. } => ("login_required", None),
    };
    let (polled, at) = match clinic.freshness {
        Freshness::Polled(at) => ("polled", Some(iso(at))),
        Freshness::Baseline { .. } => ("first_listing", None),
        Freshness::Never => ("never", None),
        Freshness::Parked => ("parked", None),
        Freshness::Not => ("not_configured", None),
    };
    json!({
        "name": clinic.name,
        "configured": clinic.configured,
        "grant": grant,
        "token_expires_at": until,
        "polling": polled,
        "polled_at": at,
        "new_24h": clinic.new,
        "details_owed": clinic.owed,
        "quarantined": clinic.quarantined,
    })
}

fn sink(sink: &SinkView) -> Value {
    json!({
        "name": sink.name,
        "configured": sink.configured,
        "waiting": sink.waiting,
        "waiting_since": sink.waiting_since.map(iso),
        "held": sink.held,
        "parked": sink.parked,
        "dead": sink.dead,
        "done": sink.done,
    })
}

fn problem(problem: &Problem) -> Value {
    json!({
        "severity": problem.severity.as_str(),
        "subject": problem.subject,
        "problem": problem.short,
        "detail": problem.detail,
        "remedy": problem.remedy,
    })
}
