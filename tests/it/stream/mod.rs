//! The live subscription, over the wire.

mod basics;
mod client;
mod refusals;
mod resume;
mod setting;
