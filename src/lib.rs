//! Fullscript webhooks without a public endpoint, and with a memory.

pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod format;
pub mod http;
pub mod simulator;
pub mod sinks;
