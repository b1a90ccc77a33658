//! What `tail` understands of a frame, and how it shows one. The line of an event holds ids, names and times: what is in the
//! event is for `--json` alone, where its reader has asked for it.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::super::output::{Paint, Tone};

/// A frame of the stream (`docs/icure.md`). What is not read here is passed on as it came.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Frame {
    /// Something happened.
    Event(Happened),
    /// How the subscription stands.
    Status(Stands),
}

/// Something happened.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Happened {
    name: String,
    event_id: String,
    clinic: String,
    occurred_at: DateTime<Utc>,
    #[serde(default)]
    replay: bool,
}

/// How the subscription stands.
#[derive(Deserialize)]
pub(super) struct Stands {
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    pub(super) phi: Option<String>,
}

impl Frame {
    /// Reads a frame; `None` for what a later version may send.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// Whether it is, or means to be, the frame of an event, also where its fields are not those that are known here.
pub(super) fn is_event(text: &str) -> bool {
    let frame: Option<Value> = serde_json::from_str(text).ok();
    // What is no JSON at all is a frame that was broken on its way.
    frame.is_none_or(|frame| frame.get("type").is_some_and(|kind| kind == "event"))
}

impl Happened {
    /// One line of fixed columns, so that lines that come one by one stand below each other.
    pub(super) fn line(&self, paint: Paint) -> String {
        let at = self.occurred_at.format("%F %H:%M:%S");
        let replayed = if self.replay { "  (again)" } else { "" };
        let name = format!("{:<37}", shown(&self.name));
        format!(
            "{at}  {:<20}  {}  {}{replayed}",
            shown(&self.clinic),
            paint.tint(Tone::Heading, &name),
            shown(&self.event_id)
        )
    }
}

/// The heading of those lines.
pub(super) fn heading(paint: Paint) -> String {
    let heading = format!(
        "{:<19}  {:<20}  {:<37}  EVENT",
        "HAPPENED (UTC)", "CLINIC", "TYPE"
    );
    paint.tint(Tone::Heading, &heading)
}

/// What would move a cursor or colour a terminal is written out: ids and types are the vendor's text.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_without_what_is_in_it() {
        let text = r#"{"type":"event","seq":"0123abcd-7","eventType":"UPDATE","entityClass":"TreatmentPlan","name":"treatment_plan.recommendation.updated",
            "eventId":"e-1","clinic":"oak-street","clinicId":"c","occurredAt":"2026-01-02T03:04:05.678Z","replay":false,
            "entity":{"patient":{"first_name":"Ada"}}}"#;
        let Some(Frame::Event(event)) = Frame::read(text) else {
            panic!()
        };
        let again = Happened {
            replay: true,
            name: "order.placed\u{1b}[2J".to_owned(),
            clinic: "elm".to_owned(),
            event_id: "e-2".to_owned(),
            ..event
        };
        let Some(Frame::Event(event)) = Frame::read(text) else {
            panic!()
        };
        let lines = [
            heading(Paint::Plain),
            event.line(Paint::Plain),
            again.line(Paint::Plain),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        HAPPENED (UTC)       CLINIC                TYPE                                   EVENT
        2026-01-02 03:04:05  oak-street            treatment_plan.recommendation.updated  e-1
        2026-01-02 03:04:05  elm                   order.placed?[2J                       e-2  (again)
        ");
    }

    #[test]
    fn a_status_says_why_and_what_is_unknown_is_no_frame() {
        let text = r#"{"type":"status","status":"CLOSED","reason":"ChannelFull","message":"too slow","seq":"a-1","phi":"ids"}"#;
        let Some(Frame::Status(stands)) = Frame::read(text) else {
            panic!()
        };
        assert_eq!(stands.status, "CLOSED");
        assert_eq!(stands.reason.as_deref(), Some("ChannelFull"));
        assert!(Frame::read(r#"{"type":"weather"}"#).is_none());
        assert!(Frame::read("ping").is_none());
        assert!(!is_event(r#"{"type":"weather"}"#));
        let newer = r#"{"type":"event","seq":"a-2","name":"order.placed","at":7}"#;
        assert!(Frame::read(newer).is_none() && is_event(newer));
        assert!(is_event(r#"{"type":"eve"#));
    }
}
