//! Who is subscribed: a place that is taken, and the one point where a subscription begins and ends for whoever keeps
//! account of it.

use tokio::sync::OwnedSemaphorePermit;

/// A subscriber's place; dropping it ends the subscription.
pub(super) struct Presence {
    name: String,
    wire: &'static str,
    _place: OwnedSemaphorePermit,
}

impl Presence {
    /// A subscription begins: `name` is its token's name.
    pub(super) fn begin(name: &str, wire: &'static str, place: OwnedSemaphorePermit) -> Self {
        tracing::info!(token = name, wire, "a subscription began");
        Self {
            name: name.to_owned(),
            wire,
            _place: place,
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        tracing::info!(token = %self.name, wire = self.wire, "a subscription ended");
    }
}
