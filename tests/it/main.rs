//! One integration binary: the real parts, wired as the daemon wires them, against the simulated vendor.
#![allow(
    clippy::disallowed_methods,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::match_wild_err_arm,
    clippy::unnecessary_debug_formatting,
    clippy::unwrap_used,
    reason = "tests wait for real processes with a limit, write configurations, and look into the database from outside"
)]

mod backfill;
mod binary;
mod flow;
mod process;
mod systemd;
mod world;
