//! What leaves and what comes back, as bytes: bodies, signatures, headers. Pure: no I/O, and `now` is an argument.
//!
//! A body is a function of the event and its delivery alone, never of the attempt, so that a receiver sees the same
//! bytes however often it is tried.

pub mod authorization;
pub mod cloudevents;
pub mod fullscript;
pub mod healthchain;
pub mod minimum;
pub mod native;
mod payload;
mod retry_after;
pub mod sfs;
pub mod signature;
pub mod standard;

pub use native::NotAnEvent;
pub use payload::{NoBody, Payload};
pub use retry_after::retry_after;
