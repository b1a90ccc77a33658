//! The live subscription, over the wire.

mod basics;
mod client;
mod health_data;
mod refusals;
mod resume;
mod setting;
