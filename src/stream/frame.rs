//! A frame as it is sent: serialised once, shared by all who get it.

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use super::cursor;
use crate::config::Phi;
use crate::domain::{ClinicId, ClinicName, EventBody, EventType, Metadata, Operation};
use crate::format::native;
use crate::ledger::FrameRow;

/// What filters ask of a frame. No health data: ids of patients are digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) event: String,
    pub(super) event_type: EventType,
    pub(super) operation: Operation,
    pub(super) entity_class: String,
    pub(super) names: Vec<String>,
    pub(super) clinic: ClinicName,
    pub(super) clinic_id: Option<String>,
    pub(super) patient: Option<String>,
    pub(super) entity: Option<String>,
    pub(super) created_at: DateTime<Utc>,
}

impl Facts {
    pub(super) fn of(row: &FrameRow) -> Self {
        let event_type = row.event_type.clone();
        Self {
            event: row.event.as_str().to_owned(),
            operation: event_type.operation(),
            entity_class: event_type.entity(),
            names: event_type.names(),
            event_type,
            clinic: row.clinic.clone(),
            clinic_id: row.clinic_id.as_ref().map(|id| id.as_str().to_owned()),
            patient: row.patient.clone(),
            entity: row.entity.clone(),
            created_at: row.created_at,
        }
    }
}

/// A frame for every subscriber: what is asked of it, and both of its texts. May carry health data: no `Debug`.
pub(super) struct Frame {
    pub(super) seq: i64,
    pub(super) facts: Facts,
    ids: Text,
    full: Option<Text>,
}

/// The text of a frame, as an event of SSE; the JSON is a part of the same bytes.
#[derive(Clone)]
pub(super) struct Text {
    bytes: Bytes,
    json: std::ops::Range<usize>,
}

impl Text {
    /// As `text/event-stream` has it.
    pub(super) fn sse(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The JSON alone, on one line.
    pub(super) fn json(&self) -> Bytes {
        self.bytes.slice(self.json.clone())
    }

    fn new(kind: &str, cursor: Option<&str>, wire: &impl Serialize) -> Self {
        // Fails for no value of these types; an empty object would be seen at once.
        let json = serde_json::to_vec(wire).unwrap_or_else(|_| b"{}".to_vec());
        let mut bytes = BytesMut::with_capacity(json.len() + 64);
        if let Some(cursor) = cursor {
            bytes.extend_from_slice(format!("id: {cursor}\n").as_bytes());
        }
        bytes.extend_from_slice(format!("event: {kind}\ndata: ").as_bytes());
        let start = bytes.len();
        // A raw newline can only stand between tokens of what the vendor wrote; in SSE it would end the line.
        bytes.extend(json.iter().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            byte => *byte,
        }));
        let end = bytes.len();
        bytes.extend_from_slice(b"\n\n");
        Self {
            bytes: bytes.freeze(),
            json: start..end,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventWire<'a> {
    r#type: &'static str,
    seq: &'a str,
    event_type: &'static str,
    entity_class: &'a str,
    name: &'a str,
    event_id: &'a str,
    clinic: &'a str,
    clinic_id: Option<&'a str>,
    occurred_at: String,
    replay: bool,
    /// What the configuration says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<&'a RawValue>,
}

impl Frame {
    /// The frame of a row; `body` is its event, where that is kept and wanted.
    pub(super) fn new(
        epoch: &str,
        row: &FrameRow,
        facts: Facts,
        body: Option<&EventBody>,
        metadata: &Metadata,
    ) -> Self {
        let cursor = cursor::written(epoch, row.seq);
        let wire = EventWire {
            r#type: "event",
            seq: &cursor,
            event_type: facts.operation.as_event_type(),
            entity_class: &facts.entity_class,
            name: facts.event_type.as_str(),
            event_id: &facts.event,
            clinic: facts.clinic.as_str(),
            clinic_id: row.clinic_id.as_ref().map(ClinicId::as_str),
            occurred_at: row.created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            replay: row.replay,
            metadata: (!metadata.is_empty()).then_some(metadata),
            entity: None,
        };
        let ids = Text::new("event", Some(&cursor), &wire);
        let entity = body.and_then(|body| native::data(body).ok());
        let entity = entity.and_then(|data| serde_json::from_str::<&RawValue>(data).ok());
        let full = entity.map(|entity| {
            let wire = EventWire {
                entity: Some(entity),
                ..wire
            };
            Text::new("event", Some(&cursor), &wire)
        });
        Self {
            seq: row.seq,
            facts,
            ids,
            full,
        }
    }

    /// One without a row, that says nothing.
    #[cfg(test)]
    pub(super) fn of_ids(seq: i64, facts: Facts) -> Self {
        Self {
            seq,
            facts,
            ids: Text::new("event", None, &()),
            full: None,
        }
    }

    /// Its text for a bearer who may see so much.
    pub(super) fn text(&self, phi: Phi) -> &Text {
        match (phi, &self.full) {
            (Phi::Full, Some(full)) => full,
            (Phi::Full, None) | (Phi::Ids, _) => &self.ids,
        }
    }

    /// How many bytes it takes up, about.
    pub(super) fn size(&self) -> usize {
        let full = self.full.as_ref().map_or(0, |full| full.bytes.len());
        self.ids.bytes.len() + full + 512
    }
}

/// How a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It begins with what is new.
    Connected,
    /// It goes on behind a cursor.
    Reconnected,
    /// All up to its seq was looked at.
    CaughtUp,
    /// It ends; the reason says why.
    Closed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusWire<'a> {
    r#type: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phi: Option<&'static str>,
}

/// The text of a status frame: `phi` with the first, `reason` and `message` with the last. Without a cursor a client that
/// keeps the last seq keeps the one it had.
pub(super) fn status(
    status: Status,
    cursor: Option<&str>,
    phi: Option<Phi>,
    why: Option<(&str, &str)>,
) -> Text {
    let word = match status {
        Status::Connected => "CONNECTED",
        Status::Reconnected => "RECONNECTED",
        Status::CaughtUp => "CAUGHT_UP",
        Status::Closed => "CLOSED",
    };
    let wire = StatusWire {
        r#type: "status",
        status: word,
        reason: why.map(|(reason, _)| reason),
        message: why.map(|(_, message)| message),
        seq: cursor,
        phi: phi.map(Phi::as_str),
    };
    Text::new("status", cursor, &wire)
}
