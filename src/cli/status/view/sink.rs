//! The judgement of one sink.

use chrono::{DateTime, TimeDelta, Utc};

use super::super::super::output::{span, utc};
use super::super::snapshot::Snapshot;
use super::{Problem, Severity};
use crate::domain::{DeliveryState, Parked};
use crate::ledger::{Mode, SinkRow};

/// A sink as it is shown.
#[derive(Clone, Debug)]
pub(in super::super) struct SinkView {
    pub(in super::super) name: String,
    pub(in super::super) configured: bool,
    /// Queued and claimed.
    pub(in super::super) waiting: u64,
    /// Since when the longest of them waits.
    pub(in super::super) waiting_since: Option<DateTime<Utc>>,
    pub(in super::super) held: u64,
    /// They wait for something outside.
    pub(in super::super) parked: u64,
    pub(in super::super) dead: u64,
    pub(in super::super) done: u64,
    pub(in super::super) problems: Vec<Problem>,
}

/// Every sink of the configuration, then those that only the ledger knows.
pub(super) fn all(snapshot: &Snapshot, stale_after: TimeDelta) -> Vec<SinkView> {
    let known = |name: &str| snapshot.sink_rows.iter().find(|row| row.name == name);
    let configured = snapshot.sinks.iter();
    let configured = configured.map(|name| match known(name) {
        Some(row) => judge(snapshot, row, stale_after),
        None => unknown(snapshot, name),
    });
    let former = snapshot.sink_rows.iter();
    let former = former.filter(|row| !snapshot.sinks.contains(&row.name));
    configured
        .chain(former.map(|row| former_sink(snapshot, row)))
        .collect()
}

fn view(row: &SinkRow, problems: Vec<Problem>) -> SinkView {
    SinkView {
        name: row.name.clone(),
        configured: true,
        waiting: row.waiting(),
        waiting_since: row.waiting_since,
        held: row.count(DeliveryState::Held),
        parked: row.count(DeliveryState::Parked),
        dead: row.count(DeliveryState::Dead),
        done: row.count(DeliveryState::Done),
        problems,
    }
}

fn judge(snapshot: &Snapshot, row: &SinkRow, stale_after: TimeDelta) -> SinkView {
    let name = &row.name;
    let mut view = view(row, Vec::new());
    let mut say = |severity, short: &str, detail: String, command: Option<String>| {
        view.problems.push(Problem {
            severity,
            subject: Some(name.clone()),
            short: short.to_owned(),
            detail,
            remedy: command.map(|command| format!("{} {command}", snapshot.program)),
        });
    };
    let age = row.waiting_since.map(|since| snapshot.now - since);
    let late = age.filter(|age| *age > stale_after);
    let trouble = row.trouble.as_deref();
    match row.mode {
        Mode::Open => {}
        Mode::Paused => {
            let why = row.mode_why.as_deref().unwrap_or("by a person");
            say(
                Severity::Warning,
                "sink paused",
                format!("Paused ({why}): its events wait."),
                Some(format!("sinks resume {name}")),
            );
        }
        Mode::Draining => say(
            Severity::Note,
            "draining",
            "Draining: what waits is delivered, and it gets nothing new.".to_owned(),
            None,
        ),
    }
    if let Some(outage) = row.outage {
        say(
            Severity::Warning,
            "receiver does not work",
            format!(
                "Its receiver has not worked for {}{}. Its events wait; one is tried at {}.",
                span(snapshot.now - outage.since),
                trouble.map_or(String::new(), |trouble| format!(": {trouble}")),
                utc(outage.probe_at)
            ),
            Some(format!("sinks test {name}")),
        );
    }
    let late = late.filter(|_| row.mode != Mode::Paused && row.outage.is_none());
    let trouble = trouble.filter(|_| row.outage.is_none());
    match (&row.stopped, late, trouble) {
        (Some(why), _, _) => {
            // The sink itself says whether accepting its file is what it waits for.
            let accept = format!("sinks accept {name}");
            say(
                Severity::Critical,
                "sink stopped",
                format!("Stopped, its events wait: {why}"),
                why.contains(&accept).then_some(accept),
            );
        }
        // A stopped daemon is said once, above.
        (None, Some(age), _) if snapshot.running => {
            let why = trouble.map_or(String::new(), |trouble| format!(": {trouble}"));
            say(
                Severity::Warning,
                "deliveries are late",
                format!("Deliveries have waited for {}{why}.", span(age)),
                Some(format!("events list --sink {name} --state queued")),
            );
        }
        (None, _, Some(trouble)) => say(
            Severity::Note,
            "retrying",
            format!("An attempt failed: {trouble}. Tried again by itself."),
            None,
        ),
        (None, _, None) => {}
    }
    for (short, detail, command) in unsettled(row) {
        say(Severity::Warning, short, detail, Some(command));
    }
    view
}

/// What is neither on its way nor settled, and who has to do something about it: short, in a sentence, and the command.
fn unsettled(row: &SinkRow) -> Vec<(&'static str, String, String)> {
    let name = &row.name;
    let mut said = Vec::new();
    for paused in &row.paused_clinics {
        let (clinic, since, why) = (&paused.clinic, utc(paused.since), &paused.why);
        said.push((
            "clinic paused",
            format!(
                "Paused for {clinic} since {since} ({why}): its events wait, other clinics go on."
            ),
            format!("sinks resume {name} --clinic {clinic}"),
        ));
    }
    let uncrossed = row.parked(Parked::NoCrosswalk);
    if uncrossed > 0 {
        said.push((
            "no crosswalk",
            format!("{uncrossed} parked: Fullscript does not know the receiver's id of their patient or plan. Asked again by itself."),
            "crosswalk check".to_owned(),
        ));
    }
    if row.count(DeliveryState::Held) > 0 {
        said.push((
            "held deliveries",
            "Held: they may have arrived. Look at the receiver, then settle them: `deliveries done`, `retry` or `drop`.".to_owned(),
            format!("deliveries list --sink {name} --state held"),
        ));
    }
    if row.count(DeliveryState::Dead) > 0 {
        said.push((
            "dead deliveries",
            "Dead: refused too often, or for good. When the receiver is mended, send them again."
                .to_owned(),
            format!("deliveries retry --state dead --sink {name} --yes"),
        ));
    }
    said
}

fn unknown(snapshot: &Snapshot, name: &str) -> SinkView {
    SinkView {
        name: name.to_owned(),
        configured: true,
        waiting: 0,
        waiting_since: None,
        held: 0,
        parked: 0,
        dead: 0,
        done: 0,
        problems: vec![Problem {
            severity: if snapshot.running {
                Severity::Warning
            } else {
                Severity::Note
            },
            subject: Some(name.to_owned()),
            short: "not in use yet".to_owned(),
            detail: "The daemon has not been started since it was configured.".to_owned(),
            remedy: snapshot
                .running
                .then(|| "systemctl restart fullscript-events".to_owned()),
        }],
    }
}

fn former_sink(snapshot: &Snapshot, row: &SinkRow) -> SinkView {
    let mut view = view(row, Vec::new());
    view.configured = false;
    let (severity, detail, remedy) = if view.waiting > 0 {
        (
            Severity::Warning,
            "No longer in the configuration, and deliveries wait for it: the daemon will not start again before you say what becomes of them. Renamed? Then",
            Some(format!(
                "{} sinks reassign {} NEW-NAME",
                snapshot.program, row.name
            )),
        )
    } else {
        (Severity::Note, "No longer in the configuration.", None)
    };
    view.problems.push(Problem {
        severity,
        subject: Some(row.name.clone()),
        short: "not configured".to_owned(),
        detail: detail.to_owned(),
        remedy,
    });
    view
}
