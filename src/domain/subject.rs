//! Whose id of the receiver's is asked for: the Fullscript object that an EMR knows by an id of its own.

/// An object of Fullscript's that may carry the EMR's own id (`metadata.id`, `fullscript-api.md` §9).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A patient, by Fullscript's id.
    Patient(String),
    /// A treatment plan, by Fullscript's id.
    TreatmentPlan(String),
}
