//! Fullscript webhooks without a public endpoint, and with a memory.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod decide;
pub mod domain;
pub mod format;
pub mod http;
pub mod ledger;
pub mod route;
pub mod simulator;
pub mod sinks;
pub mod store;
pub mod token;
