//! An event: the reference that a listing gives, and the body that a retrieve gives.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::ids::checked;
use super::{ClinicId, EventId, IdError};

/// The type of an event, such as `patient.created`. Text, because the vendor adds types (`fullscript-api.md` §2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(String);

impl EventType {
    /// Takes any text that could stand as an id.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        checked(text.into()).map(Self)
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listing tells of an event (`fullscript-api.md` §2): enough to route it, and no health data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The key of the memory.
    pub id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// When, by the vendor's clock.
    pub created_at: DateTime<Utc>,
    /// At which clinic; product events have none.
    pub clinic_id: Option<ClinicId>,
}

/// The `event` object of a retrieve, byte for byte as the vendor sent it: `{"id":…,"type":…,"created_at":…,
/// "clinic_id":…,"data":…}`. Health data: no `Debug`, and it leaves memory only sealed or through a sink.
#[derive(Clone)]
pub struct EventBody {
    json: Arc<str>,
    /// Where `data` stands, if whoever read the text has seen it.
    data: Option<Range<usize>>,
}

impl EventBody {
    /// Takes the raw JSON text of the `event` object. The caller has checked that it is one.
    pub fn from_json(json: impl Into<Arc<str>>) -> Self {
        Self {
            json: json.into(),
            data: None,
        }
    }

    /// The same, with the part of `json` that is the value of its `data`.
    pub fn from_parts(json: &str, data: Option<&str>) -> Self {
        let place = |data: &str| {
            let start = (data.as_ptr() as usize).checked_sub(json.as_ptr() as usize)?;
            let end = start + data.len();
            (end <= json.len()).then_some(start..end)
        };
        let data = data.and_then(place);
        Self {
            json: json.into(),
            data,
        }
    }

    /// The raw JSON text.
    pub fn as_json(&self) -> &str {
        &self.json
    }

    /// How much memory it takes up, in KiB, rounded up: what is bounded is counted in this.
    pub fn kib(&self) -> usize {
        self.json.len() / 1024 + 1
    }

    /// The raw JSON text of `data`, if it is known where it stands.
    pub fn data(&self) -> Option<&str> {
        self.json.get(self.data.clone()?)
    }
}
