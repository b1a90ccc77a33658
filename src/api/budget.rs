//! The request budget that all clinics share.

use crate::store::Unavailable;

/// Whose account a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Sweeps, details, tokens.
    Polling,
    /// A backfill: capped, so that it never starves polling.
    Backfill,
}

/// The budget. Cheap to clone.
#[derive(Clone)]
pub struct Budget;

impl Budget {
    /// Waits until one more request may go out, and spends it.
    #[allow(clippy::unused_async, reason = "stub")]
    pub async fn spend(&self, _share: Share) -> Result<(), Unavailable> {
        Ok(())
    }
}
