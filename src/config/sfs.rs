//! What a webhook with `format = "sfs"` has for itself (`docs/smart-flow-sheet.md`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::SecretRef;
use crate::domain::{ClinicName, NoteText};

/// A sink's `sfs`.
#[derive(Clone, Debug)]
pub struct Sfs {
    /// What an event becomes.
    pub mode: SfsMode,
    /// How many events one post carries at most; with 1, each is an event of its own.
    pub batch: usize,
    /// What the receiver knows each clinic by.
    pub clinic_keys: BTreeMap<ClinicName, SecretRef>,
}

/// What an event becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SfsMode {
    /// Itself, in an envelope.
    Native,
    /// A note of the visit.
    Notes {
        /// Its text.
        text: NoteText,
    },
    /// A treatment for each recommendation or line.
    Treatments {
        /// Whether the receiver may bill them.
        billed: bool,
        /// How long its result is waited for; not at all if absent.
        late_results: Option<Duration>,
    },
}

impl SfsMode {
    /// What the configuration calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Notes { .. } => "notes",
            Self::Treatments { .. } => "treatments",
        }
    }

    /// Whether an event of this type may become something. What becomes nothing is skipped.
    pub fn has_something_for(&self, event_type: &str) -> bool {
        let kind = event_type.split('.').next().unwrap_or_default();
        match self {
            Self::Native => true,
            // Of whoever has a visit.
            Self::Notes { .. } => {
                matches!(kind, "patient" | "treatment_plan" | "order" | "lab_order")
            }
            // What has recommendations or lines.
            Self::Treatments { .. } => matches!(kind, "treatment_plan" | "order"),
        }
    }
}
