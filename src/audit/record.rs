//! What one row of the log says. Ids, names and numbers only: no health data, no query string, no receiver's text.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// The longest id of a request that is taken over from an answer.
const LONGEST_ID: usize = 128;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A lane was listed: one summary an hour.
    Poll,
    /// An event's detail was read from Fullscript.
    Fetch,
    /// An attempt to hand an event to a sink has ended.
    Deliver,
    /// A person was shown records.
    Read,
    /// A person had something delivered again, or settled it.
    Resend,
    /// A live subscription was opened.
    StreamOpen,
    /// It was closed.
    StreamClose,
    /// The program began with another configuration.
    Config,
    /// A grant was given, refreshed, refused or revoked.
    Token,
}

impl Action {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Fetch => "fetch",
            Self::Deliver => "deliver",
            Self::Read => "read",
            Self::Resend => "resend",
            Self::StreamOpen => "stream_open",
            Self::StreamClose => "stream_close",
            Self::Config => "config",
            Self::Token => "token",
        }
    }
}

/// Who did it, as far as this program knows. Fullscript does not say who caused an event: nobody is named for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The daemon, by itself.
    Daemon,
    /// The system's user who ran a command.
    User(String),
    /// Whoever holds the stream token of this name.
    Stream(String),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => f.write_str("daemon"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Stream(name) => write!(f, "stream:{name}"),
        }
    }
}

/// One record, before it has its place in the chain. What has no field of its own stands behind a `#` in `path`
/// ([`Record::note`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was done, RFC 3339 in UTC with milliseconds.
    pub timestamp: String,
    /// Who: `daemon`, `user:NAME`, `stream:TOKEN`.
    pub actor: String,
    /// What.
    pub action: Action,
    /// The clinic's name in the configuration.
    pub clinic: Option<String>,
    /// Fullscript's id of the event.
    pub event_id: Option<String>,
    /// The sink's name.
    pub sink: Option<String>,
    /// The HTTP method; of a command, `command`; of a sink without HTTP, its kind.
    pub method: Option<String>,
    /// The path of the URL without its query, or the command; then the notes.
    pub path: Option<String>,
    /// The HTTP status that was answered, if one was.
    pub status_code: Option<u16>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Fullscript's `X-Request-Id`.
    pub request_id: Option<String>,
    /// A keyed digest of the event as Fullscript sent it: tells whether two rows are about the same bytes.
    pub payload_digest: Option<String>,
}

impl Record {
    /// A record of what was done now.
    pub fn new(actor: &Actor, action: Action, now: DateTime<Utc>) -> Self {
        Self {
            timestamp: now.to_rfc3339_opts(SecondsFormat::Millis, true),
            actor: actor.to_string(),
            action,
            clinic: None,
            event_id: None,
            sink: None,
            method: None,
            path: None,
            status_code: None,
            duration_ms: None,
            request_id: None,
            payload_digest: None,
        }
    }

    /// Of a clinic.
    #[must_use]
    pub fn clinic(self, clinic: impl Into<String>) -> Self {
        Self {
            clinic: Some(clinic.into()),
            ..self
        }
    }

    /// About an event.
    #[must_use]
    pub fn event(self, id: impl Into<String>) -> Self {
        Self {
            event_id: Some(id.into()),
            ..self
        }
    }

    /// To a sink.
    #[must_use]
    pub fn sink(self, name: impl Into<String>) -> Self {
        Self {
            sink: Some(name.into()),
            ..self
        }
    }

    /// By this method at this path. Whatever follows a `?` or `#` is left out.
    #[must_use]
    pub fn at(self, method: &str, path: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Self {
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
            ..self
        }
    }

    /// What has no field of its own: `key=value` behind the path. Never a text from outside; what is not plain becomes
    /// `_`.
    #[must_use]
    pub fn note(self, key: &str, value: impl fmt::Display) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        let value: String = value
            .to_string()
            .chars()
            .map(|c| if plain(c) { c } else { '_' })
            .collect();
        let mut path = self.path.unwrap_or_default();
        let mark = if path.contains('#') { ';' } else { '#' };
        path.push(mark);
        path.push_str(key);
        path.push('=');
        path.push_str(&value);
        Self {
            path: Some(path),
            ..self
        }
    }

    /// The value of a note.
    pub fn noted(&self, key: &str) -> Option<&str> {
        let (_, notes) = self.path.as_deref()?.split_once('#')?;
        let mut notes = notes.split(';').filter_map(|note| note.split_once('='));
        notes
            .find(|(noted, _)| *noted == key)
            .map(|(_, value)| value)
    }

    /// With the id that an answer carried, if it is one.
    #[must_use]
    pub fn request(self, id: Option<&str>) -> Self {
        let is_id = |id: &&str| id.len() <= LONGEST_ID && id.bytes().all(|b| b.is_ascii_graphic());
        Self {
            request_id: id.filter(is_id).map(str::to_owned),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_field_stands_behind_the_path_and_a_query_never_does() {
        let record = Record::new(&Actor::Daemon, Action::Deliver, DateTime::UNIX_EPOCH)
            .at("POST", "/hook?token=x#y")
            .note("outcome", "no")
            .note("attempt", 2)
            .request(Some("a b"));
        assert_eq!(record.path.as_deref(), Some("/hook#outcome=no;attempt=2"));
        assert_eq!(record.noted("attempt"), Some("2"));
        assert_eq!(record.noted("outcom"), None);
        assert_eq!(record.request_id, None);
        assert_eq!(record.timestamp, "1970-01-01T00:00:00.000Z");
        let forged = record.note("why", "a;b=c#\n");
        assert_eq!(forged.noted("why"), Some("a_b_c__"));
    }
}
