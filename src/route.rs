//! Which sinks want an event. Pure, and decided from what the *listing* tells (type and clinic), so that what no sink
//! wants is never fetched.

use std::collections::BTreeMap;

use crate::config;
use crate::domain::{ClinicName, EventType, SinkName};
use crate::ledger::SinkId;

/// The routes of a configuration.
#[derive(Clone, Debug)]
pub struct Routes(Vec<(SinkId, config::Sink)>);

impl Routes {
    /// The routes to the sinks of the configuration, by the ledger's number of each.
    pub fn new(sinks: &[config::Sink], ids: &BTreeMap<SinkName, SinkId>) -> Self {
        Self(
            sinks
                .iter()
                .filter_map(|sink| Some((*ids.get(&sink.name)?, sink.clone())))
                .collect(),
        )
    }

    /// The sinks that want an event of this type from this clinic; each at most once.
    pub fn sinks_for(&self, clinic: &ClinicName, event_type: &EventType) -> Vec<SinkId> {
        self.0
            .iter()
            .filter(|(_, sink)| {
                sink.clinics.contains(clinic) && sink.matches.matches(event_type.as_str())
            })
            .map(|(id, _)| *id)
            .collect()
    }
}
