//! What goes wrong on request: rules that say which requests meet which fault, and for how long.

use serde::{Deserialize, Serialize};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `GET /events/<category>`.
    List,
    /// `GET /events/{id}`.
    Retrieve,
    /// `POST /oauth/token`.
    Token,
    /// `POST /oauth/revoke`.
    Revoke,
    /// `GET /clinic`.
    Clinic,
    /// `GET /clinic/patients/{id}`.
    Patient,
    /// `GET /clinic/treatment_plans/{id}`.
    TreatmentPlan,
}

/// The body of an answer that is no success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBody {
    /// `{"error": …}`.
    #[default]
    Json,
    /// A page, as a proxy answers.
    Html,
    /// Nothing.
    Empty,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// This status instead of an answer; the request is not processed.
    Status {
        /// 4xx or 5xx.
        status: u16,
        /// What comes with it.
        #[serde(default)]
        body: ErrorBody,
    },
    /// 200 with a page of HTML; the request is not processed.
    Html,
    /// No answer at all until the client gives up; the request is not processed.
    Hang,
    /// 200 with ten gibibytes of JSON whitespace; the request is not processed.
    EndlessBody,
    /// The right answer, one byte per interval.
    DripFed {
        /// Milliseconds between two bytes.
        every_ms: u64,
    },
    /// This status with `Retry-After` in seconds; the request is not processed.
    Throttled {
        /// 429 or 503.
        status: u16,
        /// What the header says.
        retry_after_s: u64,
    },
    /// The right answer, whatever it is, late.
    Slow {
        /// Milliseconds before it starts.
        ms: u64,
    },
    /// The first half of the right answer, then the connection is closed.
    CutOff,
    /// The request is processed and the connection closed without a byte of the answer. On the token endpoint: the
    /// rotation has happened.
    ReplyLost,
    /// The right answer without its last byte: no JSON.
    MalformedJson,
    /// A list without `meta`.
    MissingMeta,
    /// A list whose `next_page` is the page itself.
    LoopingNextPage,
    /// A list, or an event, whose id holds a newline.
    IdWithNewline,
    /// A list, or an event, whose id is one mebibyte long.
    HugeId,
    /// An event under another id than was asked for.
    WrongId,
    /// A list, or an event, that names another clinic.
    WrongClinic,
}

/// Which requests meet a fault. What is absent matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What goes wrong.
    pub fault: Fault,
    /// The kind of request.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// The clinic's id.
    #[serde(default)]
    pub clinic_id: Option<String>,
    /// The category of a list.
    #[serde(default)]
    pub category: Option<String>,
    /// So many matching requests pass unharmed first.
    #[serde(default)]
    pub after: u32,
    /// For so many requests; until cleared if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

impl FaultRule {
    /// The next `times` requests of this kind.
    pub fn next(times: u32, endpoint: Endpoint, fault: Fault) -> Self {
        Self {
            times: Some(times),
            ..Self::always(endpoint, fault)
        }
    }

    /// Every request of this kind, until cleared.
    pub fn always(endpoint: Endpoint, fault: Fault) -> Self {
        Self {
            fault,
            endpoint: Some(endpoint),
            clinic_id: None,
            category: None,
            after: 0,
            times: None,
        }
    }

    /// Only those of this clinic.
    #[must_use]
    pub fn of_clinic(mut self, clinic_id: &str) -> Self {
        self.clinic_id = Some(clinic_id.to_owned());
        self
    }

    /// Only lists of this category.
    #[must_use]
    pub fn in_category(mut self, category: &str) -> Self {
        self.category = Some(category.to_owned());
        self
    }
}

/// A request, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) clinic_id: Option<&'a str>,
    pub(super) category: Option<&'a str>,
}

/// The rules in force; the first that matches decides.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<FaultRule>);

impl Faults {
    pub(super) fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault that this request meets; counts it down.
    pub(super) fn take(&mut self, request: Request<'_>) -> Option<Fault> {
        let rule = self.0.iter_mut().find(|rule| {
            rule.times != Some(0)
                && rule.endpoint.is_none_or(|is| is == request.endpoint)
                && matches(rule.clinic_id.as_deref(), request.clinic_id)
                && matches(rule.category.as_deref(), request.category)
        })?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        rule.times = rule.times.map(|times| times - 1);
        Some(rule.fault)
    }
}

fn matches(wanted: Option<&str>, found: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| found == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_hits_the_requests_it_names_and_runs_out() {
        let mut faults = Faults::default();
        faults.add(FaultRule {
            after: 1,
            ..FaultRule::next(2, Endpoint::List, Fault::Html).of_clinic("a")
        });
        let list = |clinic| Request {
            endpoint: Endpoint::List,
            clinic_id: Some(clinic),
            category: Some("orders"),
        };
        assert_eq!(faults.take(list("b")), None);
        let hits: Vec<_> = (0..4).map(|_| faults.take(list("a")).is_some()).collect();
        assert_eq!(hits, [false, true, true, false]);
    }
}
