//! The nouns that every step speaks of: clinics, categories, lanes, events, deliveries. No I/O, and no import of any
//! other module of this crate, so that a noun can be read without knowing how it is stored or moved.

mod category;
mod delivery;
mod event;
mod ids;
mod json_path;
mod metadata;
mod names;
mod note_text;
mod order;
mod output;
mod pattern;
mod subject;
mod sweep;

pub use category::{Category, KNOWN_CATEGORIES, KnownCategory};
pub use delivery::{DeliveryId, DeliveryState, Outcome, Parcel, Parked};
pub use event::{EventBody, EventType, Reference};
pub use ids::{ClinicId, ClinicName, EventId, IdError, Lane, SinkName};
pub use json_path::{JsonPath, JsonPathError, Step};
pub use metadata::Metadata;
pub use names::Operation;
pub use note_text::{NoteField, NoteText, NoteTextError};
pub use order::{OrderBy, entity_of, patient_of};
pub use output::Output;
pub use pattern::{Judgement, Pattern, PatternError, Patterns};
pub use subject::Subject;
pub use sweep::{ListDigest, Sweep};
