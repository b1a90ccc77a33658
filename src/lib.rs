//! Fullscript webhooks without a public endpoint, and with a memory.
//!
//! The tour, in the order of an event's way: [`schedule`] says which sweep of a lane is due; [`token`] has a bearer that
//! works and is on disk; [`api`] asks under one budget; [`list`] reads a page; [`route`] names the sinks; [`ledger`]
//! admits each id once; [`fetch`] brings the detail; [`deliver`] hands it to one of the [`sinks`]; [`decide`] says what
//! the outcome means; the ledger settles it. [`pipeline`] alone knows that order, [`app`] puts the parts together, and
//! [`cli`] is what people type; [`stream`] tells subscribers. [`simulator`] plays Fullscript for all of it.
//!
//! `ARCHITECTURE.md` has the picture, the numbered invariants and four walks through the code.

pub mod api;
pub mod app;
pub mod audit;
pub mod breaker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod crosswalk;
pub mod decide;
pub mod deliver;
pub mod domain;
pub mod fetch;
pub mod format;
pub mod http;
pub mod late;
pub mod ledger;
pub mod lifecycle;
pub mod list;
mod listener;
pub mod observe;
pub mod pipeline;
pub mod route;
pub mod schedule;
pub mod simulator;
pub mod sinks;
pub mod store;
pub mod stream;
pub mod token;
