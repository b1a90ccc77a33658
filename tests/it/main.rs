//! One integration binary: the real parts, wired as the daemon wires them, against the simulated vendor.
#![allow(
    clippy::disallowed_methods,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::match_wild_err_arm,
    clippy::naive_bytecount,
    clippy::print_stderr,
    clippy::unnecessary_debug_formatting,
    clippy::unwrap_used,
    reason = "tests wait for real processes with a limit, write configurations, and look into the database from outside"
)]
#![allow(
    clippy::print_stderr,
    reason = "a run says its seed, its figures, and what it had to skip"
)]
#![allow(
    clippy::unnecessary_debug_formatting,
    reason = "the Debug form of a path is its quoted form in TOML and in shell"
)]

mod backfill;
mod bad_input;
mod binary;
mod budget;
mod canaries;
mod commands;
mod demo;
mod disk;
mod flow;
mod grants;
mod intake;
mod kills;
mod model;
mod oracle;
mod outbox;
mod process;
mod stepped;
mod systemd;
mod world;
