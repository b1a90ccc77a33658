//! One attempt: hands claimed deliveries to a sink, and gives each claim back with its outcome. Never retries.

use chrono::{DateTime, Utc};

use crate::domain::{Outcome, Parcel};
use crate::ledger::Claim;
use crate::sinks::{AnySink, Checkpoint, Sink, Stopped};

/// How a batch ended.
pub struct Attempted {
    /// Every claim with its outcome.
    pub outcomes: Vec<(Claim, Outcome)>,
    /// What the sink has made durable.
    pub checkpoint: Option<Checkpoint>,
}

/// Attempts each claim once. On `Err` the claims stay claimed: what was shown of them is found out when the sink
/// resumes.
pub async fn attempt(
    sink: &AnySink,
    claims: Vec<Claim>,
    now: DateTime<Utc>,
) -> Result<Attempted, Stopped> {
    let parcels: Vec<Parcel> = claims.iter().map(|claim| claim.parcel.clone()).collect();
    let delivered = sink.deliver(&parcels, now).await?;
    debug_assert_eq!(
        delivered.outcomes.len(),
        claims.len(),
        "one outcome per parcel"
    );
    Ok(Attempted {
        outcomes: claims.into_iter().zip(delivered.outcomes).collect(),
        checkpoint: delivered.checkpoint,
    })
}
