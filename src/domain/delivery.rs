//! A delivery: one event owed to one sink, what an attempt of it carries, and how an attempt can end.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{ClinicId, ClinicName, EventBody, EventId, EventType};

/// The ledger's number of a delivery: one event, one sink, one ordinal. Stable over all attempts; a person's resend
/// is a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub i64);

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where a delivery stands (`ARCHITECTURE.md`, "The ledger's invariants").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryState {
    /// Owed: waits for its body, its due time or its turn.
    Queued,
    /// Handed to a sink; the record of it was on disk before.
    Claimed,
    /// Whether it arrived is unknown, and this sink's `on_doubt` is `hold`: a person decides.
    Held,
    /// It waits for something outside of this program: see [`Parked`]. Its body is kept.
    Parked,
    /// Given up: the receiver said no too often, or for too long.
    Dead,
    /// The sink said yes. Final.
    Done,
    /// Never to be handed over; the reason stands beside it.
    Skipped,
}

impl DeliveryState {
    /// Every state, in the order people read them.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Claimed,
        Self::Held,
        Self::Parked,
        Self::Dead,
        Self::Done,
        Self::Skipped,
    ];

    /// The one word for it in the ledger, in logs and in commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Held => "held",
            Self::Parked => "parked",
            Self::Dead => "dead",
            Self::Done => "done",
            Self::Skipped => "skipped",
        }
    }

    /// The state that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a parked delivery waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parked {
    /// The receiver's own id of the patient or plan, which Fullscript does not know yet. Asked again now and then.
    NoCrosswalk,
    /// Its clinic: the receiver refuses all that is of it, until a person resumes it.
    ClinicPaused,
    /// The receiver's result: it has accepted the event and works on it. Done when the result, or its deadline, comes.
    AwaitsResult,
}

impl Parked {
    /// Every reason, in the order people read them.
    pub const ALL: [Self; 3] = [Self::NoCrosswalk, Self::ClinicPaused, Self::AwaitsResult];

    /// The one word for it in the ledger and in commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCrosswalk => "no_crosswalk",
            Self::ClinicPaused => "clinic_paused",
            Self::AwaitsResult => "awaits_result",
        }
    }

    /// The reason that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.as_str() == word)
    }
}

/// Everything a sink needs for one attempt. Carries health data: no `Debug`.
#[derive(Clone)]
pub struct Parcel {
    /// The delivery that this is an attempt of.
    pub delivery: DeliveryId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The event's id.
    pub event: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// When it happened, by the vendor's clock.
    pub created_at: DateTime<Utc>,
    /// The clinic by its name in the configuration.
    pub clinic: ClinicName,
    /// The clinic by Fullscript's id, where the event has one.
    pub clinic_id: Option<ClinicId>,
    /// The event object as the vendor sent it.
    pub body: EventBody,
}

/// How one attempt ended. Reasons hold status codes and kinds of failure, never a receiver's text: that may repeat
/// health data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sink said yes, durably.
    Yes,
    /// The receiver's own answer is no: counts towards `max_attempts`.
    No {
        /// For logs and `events show`.
        reason: String,
        /// The receiver's wish for when to come again (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The receiver asks to come later (408, 425, 429, exit code 75): never counts towards `max_attempts`.
    Later {
        /// For logs and `events show`.
        reason: String,
        /// The receiver's wish for when to come again (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// Nothing has left the machine (DNS, refused, TLS): due again, never counts towards `max_attempts`.
    NotSent {
        /// For logs and `events show`.
        reason: String,
    },
    /// It may or may not have arrived: time-out or reset after the request was written, 502, 504.
    Doubt {
        /// For logs and `events show`.
        reason: String,
    },
    /// The receiver says that it is no receiver any more (410): the sink is paused until a person resumes it.
    Gone {
        /// For logs and `events show`.
        reason: String,
    },
    /// The receiver refuses all that is of this clinic (a key that it does not know, say), and nothing else: the clinic's
    /// deliveries to this sink are parked until a person resumes them.
    ClinicRefused {
        /// For logs and `sinks list`.
        reason: String,
    },
    /// There is nothing in it for this receiver, and never will be: it is skipped.
    Skip {
        /// For `deliveries show`.
        reason: String,
    },
    /// It waits for something outside, and is not attempted meanwhile.
    Park {
        /// For what.
        why: Parked,
        /// For logs and `deliveries show`.
        reason: String,
        /// When that is looked at again: what has no crosswalk is attempted again, what awaits a result is done without
        /// one. `None`: not by itself.
        until: Option<DateTime<Utc>>,
    },
}
