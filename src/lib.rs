//! Fullscript webhooks without a public endpoint, and with a memory.

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod decide;
pub mod deliver;
pub mod domain;
pub mod fetch;
pub mod format;
pub mod http;
pub mod ledger;
pub mod lifecycle;
pub mod list;
pub mod observe;
pub mod pipeline;
pub mod route;
pub mod schedule;
pub mod simulator;
pub mod sinks;
pub mod store;
pub mod token;
