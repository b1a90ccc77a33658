//! The judgement: what is wrong, how badly, and what mends it. Pure.
//!
//! One cause is one problem: a clinic that must log in is not also said to be stale, and a stopped daemon does not
//! make every clinic a problem of its own.

mod audit;
mod clinic;
mod sink;

use chrono::{DateTime, TimeDelta, Utc};

use super::super::output::{count, deliveries, span};
use super::snapshot::{AuditLog, Snapshot};
use crate::store::Host;
use crate::token::State;
pub(super) use clinic::{ClinicView, Freshness, Grant};
pub(super) use sink::SinkView;

/// Without a good poll for this long, or five times the pace, something is wrong.
const STALE: TimeDelta = TimeDelta::minutes(15);
/// Fullscript lists 30 days (`fullscript-api.md` §2): from here on events will be lost unless somebody acts.
pub(super) const NEARLY_LOST: TimeDelta = TimeDelta::days(20);

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Worth knowing; passes by itself or was meant.
    Note,
    /// Somebody should look today.
    Warning,
    /// Events do not arrive until somebody acts.
    Critical,
}

impl Severity {
    /// The one word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Something that is wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// How bad it is.
    pub(super) severity: Severity,
    /// The clinic or sink; `None` if it is about everything.
    pub(super) subject: Option<String>,
    /// For the verdict: a few words; the same ones are said once for all subjects.
    pub(super) short: String,
    /// In a sentence.
    pub(super) detail: String,
    /// The command that mends it or tells more.
    pub(super) remedy: Option<String>,
}

/// What all renderings show.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) now: DateTime<Utc>,
    pub(super) directory: String,
    pub(super) running: bool,
    pub(super) audit: Option<AuditLog>,
    /// The machine that the state was used on and this one, where they differ.
    pub(super) elsewhere: Option<(Host, Host)>,
    pub(super) stale_after: TimeDelta,
    /// What concerns everything.
    pub(super) general: Vec<Problem>,
    pub(super) clinics: Vec<ClinicView>,
    pub(super) sinks: Vec<SinkView>,
    /// Whether a configured clinic needs a person to log in.
    pub(super) login_required: bool,
}

impl View {
    /// Judges a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let stale_after = TimeDelta::from_std(snapshot.pace)
            .ok()
            .and_then(|pace| pace.checked_mul(5))
            .map_or(STALE, |five| five.max(STALE));
        let clinics = clinic::all(snapshot, stale_after);
        let wants_login = |c: &ClinicView| {
            c.configured && matches!(c.grant, Grant::None | Grant::LoginRequired { .. })
        };
        Self {
            now: snapshot.now,
            directory: snapshot.directory.clone(),
            running: snapshot.running,
            audit: snapshot.audit.clone(),
            elsewhere: snapshot.elsewhere.clone(),
            stale_after,
            general: general(snapshot),
            login_required: clinics.iter().any(wants_login),
            sinks: sink::all(snapshot, stale_after),
            clinics,
        }
    }

    /// Everything that is wrong, the worst first; notes are not.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let clinics = self.clinics.iter().flat_map(|clinic| &clinic.problems);
        let sinks = self.sinks.iter().flat_map(|sink| &sink.problems);
        let mut all: Vec<&Problem> = self.general.iter().chain(clinics).chain(sinks).collect();
        all.retain(|problem| problem.severity > Severity::Note);
        all.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        all.into_iter()
    }

    /// The worst that there is.
    pub(super) fn severity(&self) -> Severity {
        let worst = self.problems().map(|problem| problem.severity).max();
        worst.unwrap_or(Severity::Note)
    }

    /// Deliveries that are owed.
    pub(super) fn waiting(&self) -> u64 {
        self.sinks.iter().map(|sink| sink.waiting).sum()
    }

    /// The longest that a configured clinic has gone without a good poll; `None` while one never had any.
    pub(super) fn oldest_poll(&self) -> Option<TimeDelta> {
        let configured = self.clinics.iter().filter(|clinic| clinic.configured);
        let ages: Option<Vec<TimeDelta>> = configured
            .map(|clinic| match clinic.freshness {
                Freshness::Polled(at) => Some(self.now - at),
                Freshness::Baseline { .. }
                | Freshness::Never
                | Freshness::Parked
                | Freshness::Not => None,
            })
            .collect();
        ages?.into_iter().max()
    }

    /// All of it in one sentence.
    pub(super) fn verdict(&self) -> String {
        let problems: Vec<&Problem> = self.problems().collect();
        if problems.is_empty() {
            return self.all_is_well();
        }
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for problem in &problems {
            let subject = problem.subject.as_deref();
            match groups.iter_mut().find(|(short, _)| *short == problem.short) {
                Some((_, subjects)) => subjects.extend(subject),
                None => groups.push((&problem.short, subject.into_iter().collect())),
            }
        }
        let rest = groups.len().saturating_sub(MOST_GROUPS);
        let mut words: Vec<String> = groups
            .into_iter()
            .take(MOST_GROUPS)
            .map(|(short, subjects)| match listed(&subjects) {
                Some(subjects) => format!("{short} ({subjects})"),
                None => short.to_owned(),
            })
            .collect();
        if rest > 0 {
            words.push(format!("and {rest} more"));
        }
        format!(
            "{}: {}.",
            count(problems.len() as u64, "problem"),
            words.join("; ")
        )
    }

    fn all_is_well(&self) -> String {
        let clinics = self.clinics.iter().filter(|c| c.configured).count();
        let clinics = count(clinics as u64, "clinic");
        let waiting = match self.waiting() {
            0 => "nothing waiting".to_owned(),
            n => format!("{} on the way", deliveries(n)),
        };
        match self.oldest_poll() {
            Some(age) => {
                let minutes = TimeDelta::minutes((age.num_seconds().max(0) + 59) / 60);
                let within = span(minutes.max(TimeDelta::minutes(1)));
                format!("All is well: {clinics} polled within {within}, {waiting}.")
            }
            None => format!("All is well: the first listing of {clinics} goes on, {waiting}."),
        }
    }
}

/// How many different problems the verdict names.
const MOST_GROUPS: usize = 3;

/// At most three names, and how many more there are.
fn listed(names: &[&str]) -> Option<String> {
    let shown: Vec<&str> = names.iter().take(3).copied().collect();
    let rest = names.len() - shown.len();
    match (shown.is_empty(), rest) {
        (true, _) => None,
        (false, 0) => Some(shown.join(", ")),
        (false, rest) => Some(format!("{} and {rest} more", shown.join(", "))),
    }
}

fn general(snapshot: &Snapshot) -> Vec<Problem> {
    let mut problems = Vec::new();
    let waits = snapshot.bound && snapshot.elsewhere.is_some();
    if let Some((home, here)) = &snapshot.elsewhere {
        let (severity, means) = if waits {
            (
                Severity::Critical,
                "bind_host is on: nothing is polled, refreshed or delivered here",
            )
        } else {
            (
                Severity::Warning,
                "if it runs there too, every event is delivered twice and each ends the other's logins",
            )
        };
        problems.push(Problem {
            severity,
            subject: None,
            short: "the state is another machine's".to_owned(),
            detail: format!(
                "The state directory was used on {home}, this is {here}: {means}. If it does not run there any more, take it over."
            ),
            remedy: Some(format!("{} auth takeover --yes", snapshot.program)),
        });
    }
    // A daemon that waits for the takeover owns nothing.
    if !snapshot.running && !waits {
        problems.push(Problem {
            severity: Severity::Critical,
            subject: None,
            short: "the daemon is not running".to_owned(),
            detail: "The daemon is not running: nothing is polled or delivered.".to_owned(),
            remedy: Some(format!(
                "systemctl start fullscript-events  # or: {} run",
                snapshot.program
            )),
        });
    }
    problems.extend(audit::problem(snapshot));
    let fault = snapshot
        .grants
        .iter()
        .filter_map(|grant| match &grant.state {
            State::Misconfigured { since, .. } => Some(*since),
            State::Active | State::Retrying { .. } | State::LoginRequired { .. } => None,
        });
    if let Some(since) = fault.min() {
        problems.push(Problem {
            severity: Severity::Critical,
            subject: None,
            short: "Fullscript refuses this app".to_owned(),
            detail: format!(
                "Fullscript has refused this app for {}: check client_id, client_secret and environment under [app]. No clinic needs to log in again for this.",
                span(snapshot.now - since)
            ),
            remedy: Some(format!("{} config check", snapshot.program)),
        });
    }
    problems
}
