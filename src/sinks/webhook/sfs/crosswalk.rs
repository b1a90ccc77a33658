//! The crosswalk: from Fullscript's id of a patient or plan to the EMR's own.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::domain::{ClinicName, Subject};

/// What the crosswalk says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crossed {
    /// The EMR's own id.
    Found(String),
    /// Fullscript knows none.
    None,
    /// It cannot be asked now. The text says why, for logs: no health data.
    Unavailable(String),
}

/// Finds the EMR's own id of a visit. Whoever makes it has Fullscript's API, and a cache; a sink only asks.
pub trait Crosswalk: Send + Sync + 'static {
    /// The EMR's id of what a clinic's event is about.
    fn hospitalization_id<'a>(
        &'a self,
        clinic: &'a ClinicName,
        subject: Subject,
    ) -> BoxFuture<'a, Crossed>;
}

/// A crosswalk that all sinks share.
pub type SharedCrosswalk = Arc<dyn Crosswalk>;

/// Knows nothing and cannot be asked: for an attempt beside the daemon.
pub struct Uncrossed;

impl Crosswalk for Uncrossed {
    fn hospitalization_id<'a>(&'a self, _: &'a ClinicName, _: Subject) -> BoxFuture<'a, Crossed> {
        let why = "the EMR's own ids are not known here".to_owned();
        Box::pin(std::future::ready(Crossed::Unavailable(why)))
    }
}
