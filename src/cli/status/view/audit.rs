//! The audit log: whether it can be written, and what follows if not.

use super::super::super::output::span;
use super::super::snapshot::Snapshot;
use super::{Problem, Severity};

/// What is wrong with it.
pub(super) fn problem(snapshot: &Snapshot) -> Option<Problem> {
    let audit = snapshot.audit.as_ref()?;
    let (trouble, since) = audit.standing.trouble.as_ref()?;
    let (severity, means) = if audit.required {
        (
            Severity::Critical,
            "It is required, so nothing is delivered until it can be: deliveries wait, and go on by themselves",
        )
    } else {
        (
            Severity::Warning,
            "Deliveries go on, and its records wait in the ledger",
        )
    };
    Some(Problem {
        severity,
        subject: None,
        short: "the audit log cannot be written".to_owned(),
        detail: format!(
            "The audit log cannot be written for {}: {trouble}. {means}.",
            span(snapshot.now - *since)
        ),
        remedy: Some(format!(
            "df -h {directory}; ls -ld {directory}",
            directory = audit.directory
        )),
    })
}
