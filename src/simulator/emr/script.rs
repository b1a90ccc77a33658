//! Scripted answers: which events are answered otherwise than the rules of the EMR say, and how. Pure.

use serde::{Deserialize, Serialize};

/// One scripted answer. What is absent of the first group matches every event; without a second group the event is taken
/// as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Rule {
    /// Events with this treatment or note in them.
    pub guid: Option<String>,
    /// Events with this `X-Event-Id`, or whose object has this `id`.
    pub event_id: Option<String>,
    /// Events of this clinic, by its name.
    pub clinic: Option<String>,
    /// Events of this type.
    pub event_type: Option<String>,
    /// For so many events; for every one if absent.
    pub times: Option<u32>,

    /// The status of the answer; 200 if absent.
    pub status: Option<u16>,
    /// Its `Message`.
    pub message: Option<String>,
    /// Its `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// So long nothing is answered.
    pub delay_ms: u64,
    /// There is no answer at all: the sender has to give up.
    pub hang: bool,
    /// Whether the event takes effect; if absent, with a status of 200 only (or with none, when it hangs).
    pub book: Option<bool>,
}

impl Rule {
    /// Takes effect, and is never answered: what a time-out after the booking looks like.
    pub fn booked_then_hang(times: u32) -> Self {
        Self {
            times: Some(times),
            hang: true,
            ..Self::default()
        }
    }

    /// This status for the next so many events; they take no effect.
    pub fn status(times: u32, status: u16) -> Self {
        Self {
            times: Some(times),
            status: Some(status),
            ..Self::default()
        }
    }

    /// 400 with this message for every event that holds this treatment or note.
    pub fn refuse(guid: &str, message: &str) -> Self {
        Self {
            guid: Some(guid.to_owned()),
            status: Some(400),
            message: Some(message.to_owned()),
            ..Self::default()
        }
    }

    /// Whether the event takes effect.
    pub(super) fn books(&self) -> bool {
        self.book
            .unwrap_or_else(|| self.status.is_none_or(|status| status == 200))
    }

    fn fits(&self, event: &Facts<'_>) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let named = |wanted: &Option<String>, found: &[String]| {
            wanted.as_ref().is_none_or(|wanted| found.contains(wanted))
        };
        self.times != Some(0)
            && is(&self.clinic, Some(event.clinic))
            && is(&self.event_type, event.event_type)
            && named(&self.guid, event.guids)
            && named(&self.event_id, event.ids)
    }
}

/// What rules look at.
pub(super) struct Facts<'a> {
    pub(super) clinic: &'a str,
    pub(super) event_type: Option<&'a str>,
    pub(super) guids: &'a [String],
    pub(super) ids: &'a [String],
}

/// The rules in force; the first that fits decides.
#[derive(Default)]
pub(super) struct Script(Vec<Rule>);

impl Script {
    pub(super) fn add(&mut self, rule: Rule) {
        self.0.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The rule for this event, counted down.
    pub(super) fn take(&mut self, event: &Facts<'_>) -> Option<Rule> {
        let rule = self.0.iter_mut().find(|rule| rule.fits(event))?;
        rule.times = rule.times.map(|times| times - 1);
        Some(rule.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_hits_the_events_it_names_and_runs_out() {
        let mut script = Script::default();
        script.add(Rule {
            times: Some(1),
            ..Rule::refuse("g2", "no")
        });
        let guids = ["g1".to_owned(), "g2".to_owned()];
        let event = |guids| Facts {
            clinic: "oak",
            event_type: None,
            guids,
            ids: &[],
        };
        assert_eq!(script.take(&event(&guids[..1])), None);
        assert!(!script.take(&event(&guids)).unwrap().books());
        assert_eq!(script.take(&event(&guids)), None);
        assert!(Rule::booked_then_hang(1).books());
    }
}
