//! One integration binary: the real parts, wired as the daemon wires them, against the simulated vendor.
#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests wait for real processes with a limit, and look into the database from outside"
)]

mod bad_input;
mod binary;
mod budget;
mod flow;
mod intake;
mod model;
mod outbox;
mod process;
mod stepped;
mod world;
