//! One attempt: hands claimed deliveries to a sink, and gives each claim back with its outcome. Never retries.

use chrono::{DateTime, Utc};

use crate::domain::{Outcome, Parcel};
use crate::ledger::{Claim, Ticket};
use crate::sinks::{AnySink, Checkpoint, Sink, Stopped};

/// How a batch ended.
pub struct Attempted {
    /// Every claim with its outcome, and with the HTTP status of the answer, if there was one.
    pub outcomes: Vec<(Claim, Outcome, Option<u16>)>,
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
    let (parcels, tickets): (Vec<Parcel>, Vec<Ticket>) = claims
        .into_iter()
        .map(|claim| (claim.parcel, claim.ticket))
        .unzip();
    let delivered = sink.deliver(&parcels, now).await?;
    debug_assert_eq!(
        delivered.outcomes.len(),
        parcels.len(),
        "one outcome per parcel"
    );
    let claims = parcels
        .into_iter()
        .zip(tickets)
        .map(|(parcel, ticket)| Claim { parcel, ticket });
    let mut codes = delivered.status_codes.into_iter();
    let ended = claims.zip(delivered.outcomes);
    let ended = ended.map(|(claim, outcome)| (claim, outcome, codes.next().flatten()));
    Ok(Attempted {
        outcomes: ended.collect(),
        checkpoint: delivered.checkpoint,
    })
}
