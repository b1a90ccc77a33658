//! The judgement of one clinic.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::super::super::output::{count, span};
use super::super::snapshot::Snapshot;
use super::{NEARLY_LOST, Problem, Severity};
use crate::domain::KNOWN_CATEGORIES;
use crate::ledger::LaneRow;
use crate::token::{Overview, State};

/// A clinic as it is shown.
#[derive(Clone, Debug)]
pub(in super::super) struct ClinicView {
    pub(in super::super) name: String,
    pub(in super::super) configured: bool,
    pub(in super::super) grant: Grant,
    pub(in super::super) freshness: Freshness,
    /// Events admitted in the last 24 hours.
    pub(in super::super) new: u64,
    /// Details that are still to be fetched.
    pub(in super::super) owed: u64,
    pub(in super::super) quarantined: u64,
    pub(in super::super) problems: Vec<Problem>,
}

/// A clinic's grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Grant {
    None,
    /// Works; renewed by itself.
    Ok {
        until: DateTime<Utc>,
    },
    /// Fullscript did not answer; tried again by itself.
    Retrying,
    Misconfigured,
    LoginRequired {
        since: DateTime<Utc>,
    },
}

/// How fresh a clinic is: as its lane that is furthest behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Freshness {
    Polled(DateTime<Utc>),
    /// The first whole listing goes on.
    Baseline {
        done: usize,
        of: usize,
    },
    Never,
    /// Every lane is parked.
    Parked,
    /// It is not configured any more.
    Not,
}

/// Every clinic of the configuration, then those that only the ledger knows.
pub(super) fn all(snapshot: &Snapshot, stale_after: TimeDelta) -> Vec<ClinicView> {
    let lanes = snapshot.lanes.iter().map(|lane| lane.clinic.as_str());
    let grants = snapshot.grants.iter().map(|grant| grant.clinic.as_str());
    let former: BTreeSet<&str> = lanes
        .chain(grants)
        .filter(|name| !snapshot.clinics.contains_key(*name))
        .collect();
    let configured = snapshot.clinics.iter();
    let configured = configured
        .map(|(name, categories)| Clinic::find(snapshot, name, categories).judge(stale_after));
    let former = former.into_iter().map(|name| forgotten(snapshot, name));
    configured.chain(former).collect()
}

/// What is known of one clinic.
struct Clinic<'a> {
    snapshot: &'a Snapshot,
    name: &'a str,
    grant: Option<&'a Overview>,
    /// Its lanes that are configured.
    lanes: Vec<&'a LaneRow>,
    /// Categories that the daemon has not seen yet.
    unknown: usize,
}

fn grant_of<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Overview> {
    snapshot.grants.iter().find(|g| g.clinic.as_str() == name)
}

impl<'a> Clinic<'a> {
    fn find(snapshot: &'a Snapshot, name: &'a str, categories: &[String]) -> Self {
        let lanes = snapshot.lanes.iter();
        let lanes: Vec<_> = lanes
            .filter(|lane| lane.clinic == name && categories.contains(&lane.category))
            .collect();
        Self {
            snapshot,
            name,
            grant: grant_of(snapshot, name),
            unknown: categories.len().saturating_sub(lanes.len()),
            lanes,
        }
    }

    fn judge(self, stale_after: TimeDelta) -> ClinicView {
        let grant = grant(self.grant);
        let freshness = freshness(&self.lanes, self.unknown);
        let mut problems: Vec<Problem> = self.login(grant, freshness).into_iter().collect();
        // Without a grant, or with the whole app refused, the lanes fail for that reason only.
        let lanes_tell = match grant {
            Grant::Ok { .. } | Grant::Retrying => true,
            Grant::None | Grant::Misconfigured | Grant::LoginRequired { .. } => false,
        };
        if lanes_tell {
            problems.extend(self.parked());
            problems.extend(self.stale(freshness, stale_after));
            problems.extend(self.not_taken_up());
        }
        problems.extend(self.quarantined());
        if lanes_tell && let Some(trouble) = self.grant.and_then(Overview::trouble) {
            let detail =
                format!("The token was not renewed yet: {trouble}. Tried again by itself.");
            problems.push(self.problem(Severity::Note, "token not renewed", detail, None));
        }
        let sum = |of: fn(&LaneRow) -> u64| self.lanes.iter().map(|lane| of(lane)).sum();
        ClinicView {
            name: self.name.to_owned(),
            configured: true,
            grant,
            freshness,
            new: sum(|lane| lane.new),
            owed: sum(|lane| lane.owed),
            quarantined: sum(|lane| lane.quarantined),
            problems,
        }
    }

    fn problem(
        &self,
        severity: Severity,
        short: &str,
        detail: String,
        remedy: Option<&str>,
    ) -> Problem {
        Problem {
            severity,
            subject: Some(self.name.to_owned()),
            short: short.to_owned(),
            detail,
            remedy: remedy.map(|command| {
                if command.starts_with("systemctl") || command.starts_with("journalctl") {
                    command.to_owned()
                } else {
                    format!("{} {command}", self.snapshot.program)
                }
            }),
        }
    }

    fn login(&self, grant: Grant, freshness: Freshness) -> Option<Problem> {
        let command = format!("auth login {}", self.name);
        match grant {
            Grant::None => Some(self.problem(
                Severity::Critical,
                "login required",
                "Nobody has given access to this clinic yet.".to_owned(),
                Some(&command),
            )),
            Grant::LoginRequired { since } => {
                let now = self.snapshot.now;
                let mut detail = format!(
                    "Fullscript has refused its tokens for {}.",
                    span(now - since)
                );
                if let Freshness::Polled(at) = freshness
                    && now - at > NEARLY_LOST
                {
                    detail += &nearly_lost(now - at);
                }
                Some(self.problem(Severity::Critical, "login required", detail, Some(&command)))
            }
            Grant::Ok { .. } | Grant::Retrying | Grant::Misconfigured => None,
        }
    }

    /// One problem per scope that is missing.
    fn parked(&self) -> Vec<Problem> {
        let mut by_cause: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for lane in self.lanes.iter().filter(|lane| lane.parked_at.is_some()) {
            let trouble = lane.trouble.as_deref().unwrap_or("refused");
            let known = KNOWN_CATEGORIES
                .iter()
                .find(|known| known.name == lane.category);
            let cause = match known.and_then(|known| known.scope) {
                Some(scope) if trouble.starts_with("scope_missing") => format!(
                    "the scope {scope} is missing. Tick it in Fullscript's developer dashboard, then log in again; or take the category out of the configuration."
                ),
                _ => trouble.to_owned(),
            };
            by_cause.entry(cause).or_default().push(&lane.category);
        }
        let command = format!("auth login {}", self.name);
        by_cause
            .into_iter()
            .map(|(cause, categories)| {
                let remedy = cause.contains("log in again").then_some(command.as_str());
                let detail = format!("Not polled: {}: {cause}", categories.join(", "));
                self.problem(Severity::Warning, "not all is polled", detail, remedy)
            })
            .collect()
    }

    fn stale(&self, freshness: Freshness, stale_after: TimeDelta) -> Option<Problem> {
        const LOG: Option<&str> = Some("journalctl -u fullscript-events -n 50");
        let failing = self
            .lanes
            .iter()
            .filter(|lane| lane.parked_at.is_none())
            .filter_map(|lane| Some((lane.polled_at, lane.trouble.as_deref()?)))
            .min();
        let why = failing.map_or(String::new(), |(_, trouble)| format!(": {trouble}"));
        let note = || {
            let (_, trouble) = failing?;
            let detail = format!("The last poll failed: {trouble}. Tried again by itself.");
            Some(self.problem(Severity::Note, "poll failed", detail, None))
        };
        let Freshness::Polled(at) = freshness else {
            let never = failing.is_some_and(|(polled_at, _)| polled_at.is_none());
            return if never {
                let detail = format!("Its first poll fails{why}.");
                Some(self.problem(Severity::Warning, "not polled yet", detail, LOG))
            } else {
                note()
            };
        };
        let age = self.snapshot.now - at;
        if age > NEARLY_LOST {
            let detail = format!("No good poll for {}{why}.{}", span(age), nearly_lost(age));
            Some(self.problem(
                Severity::Critical,
                "events are about to be lost",
                detail,
                LOG,
            ))
        } else if age > stale_after && self.snapshot.running {
            let detail = format!("No good poll for {}{why}.", span(age));
            Some(self.problem(Severity::Warning, "no good poll lately", detail, LOG))
        } else {
            note()
        }
    }

    fn not_taken_up(&self) -> Option<Problem> {
        (self.unknown > 0 && self.snapshot.running).then(|| {
            self.problem(
                Severity::Warning,
                "not polled yet",
                "The running daemon does not know it, or a category of it: it was configured later.".to_owned(),
                Some("systemctl restart fullscript-events"),
            )
        })
    }

    fn quarantined(&self) -> Option<Problem> {
        let events: u64 = self.lanes.iter().map(|lane| lane.quarantined).sum();
        (events > 0).then(|| {
            self.problem(
                Severity::Warning,
                "events of another clinic",
                format!(
                    "{} quarantined, never delivered: another clinic is named in them than this grant belongs to.",
                    count(events, "event")
                ),
                Some("auth list"),
            )
        })
    }
}

fn nearly_lost(age: TimeDelta) -> String {
    let left = (TimeDelta::days(30) - age).num_days();
    if left > 0 {
        format!(
            " Fullscript lists events for 30 days: they are lost in {}.",
            count(left.unsigned_abs(), "day")
        )
    } else {
        " Fullscript lists events for 30 days: some are lost already.".to_owned()
    }
}

fn forgotten(snapshot: &Snapshot, name: &str) -> ClinicView {
    let overview = grant_of(snapshot, name);
    let lanes = snapshot.lanes.iter().filter(|lane| lane.clinic == name);
    let remedy = overview.map(|_| format!("{} auth revoke {name}", snapshot.program));
    let kept = if overview.is_some() {
        ", its grant is kept until it is revoked"
    } else {
        ""
    };
    ClinicView {
        name: name.to_owned(),
        configured: false,
        grant: grant(overview),
        freshness: Freshness::Not,
        new: lanes.map(|lane| lane.new).sum(),
        owed: 0,
        quarantined: 0,
        problems: vec![Problem {
            severity: Severity::Note,
            subject: Some(name.to_owned()),
            short: "not configured".to_owned(),
            detail: format!("No longer in the configuration: not polled{kept}."),
            remedy,
        }],
    }
}

fn grant(overview: Option<&Overview>) -> Grant {
    match overview.map(|grant| (&grant.state, grant.expires_at)) {
        None => Grant::None,
        Some((State::Active, until)) => Grant::Ok { until },
        Some((State::Retrying { .. }, _)) => Grant::Retrying,
        Some((State::Misconfigured { .. }, _)) => Grant::Misconfigured,
        Some((State::LoginRequired { since, .. }, _)) => Grant::LoginRequired { since: *since },
    }
}

fn freshness(lanes: &[&LaneRow], unknown: usize) -> Freshness {
    let polled = lanes.iter().filter(|lane| lane.parked_at.is_none());
    let of = polled.clone().count() + unknown;
    let done = polled.clone().filter(|lane| lane.baseline_done).count();
    let oldest = polled.clone().map(|lane| lane.polled_at).min().flatten();
    let begun = polled.clone().any(|lane| lane.polled_at.is_some());
    match oldest {
        _ if of == 0 => Freshness::Parked,
        Some(at) if done == of => Freshness::Polled(at),
        Some(_) | None if begun || done > 0 => Freshness::Baseline { done, of },
        Some(_) | None => Freshness::Never,
    }
}
