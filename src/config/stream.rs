//! `[stream]`: the live subscription, as a checked value.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::{ClinicSelection, SecretRef};

/// The name of the sink that `[stream]` is to the ledger, to `status` and to every command.
pub const STREAM: &str = "stream";

/// `[stream]`.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Where it listens. Not loopback only where that was said aloud.
    pub listen: SocketAddr,
    /// Whether frames carry the event, or ids only.
    pub keeps_bodies: bool,
    /// Subscribers at once.
    pub max_connections: usize,
    /// Nodes of one filter.
    pub max_filter: usize,
    /// Frames that a subscriber may be behind.
    pub buffer: usize,
    /// Origins whose pages may read.
    pub allow_origins: Vec<String>,
    /// Who may subscribe, and to what.
    pub tokens: Vec<StreamToken>,
}

/// What the stream is as a sink.
#[derive(Clone, Debug)]
pub struct StreamSink {
    /// How long a frame can be replayed.
    pub retain: Duration,
    /// Whether the event is kept with it, sealed.
    pub keeps_bodies: bool,
}

/// `[[stream.tokens]]`.
#[derive(Clone, Debug)]
pub struct StreamToken {
    /// What logs call its bearer.
    pub name: String,
    /// The token.
    pub token: SecretRef,
    /// Whose events it may see.
    pub clinics: ClinicSelection,
    /// Of which entities.
    pub entities: EntitySelection,
    /// How much of them.
    pub phi: Phi,
}

/// A token's `entities`, such as `Patient` and `TreatmentPlan`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntitySelection {
    /// `["*"]`, or nothing said.
    All,
    /// These.
    Named(BTreeSet<String>),
}

impl EntitySelection {
    /// Whether events of an entity may be seen.
    pub fn contains(&self, entity: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(entity),
        }
    }
}

/// How much of an event a bearer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phi {
    /// All of it.
    Full,
    /// That it happened: ids, type and time.
    Ids,
}

impl Phi {
    /// The one word for it in the configuration and in frames.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ids => "ids",
        }
    }
}
