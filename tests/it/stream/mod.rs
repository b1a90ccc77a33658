//! The live subscription, over the wire.

mod basics;
mod client;
mod expired;
mod health_data;
mod life;
mod many;
mod refusals;
mod resume;
pub(crate) mod setting;
