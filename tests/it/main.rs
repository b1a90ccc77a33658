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
    reason = "tests wait for real processes with a limit, write configurations, say what they skip, and look into the \
              database from outside"
)]

mod audit;
mod backfill;
mod bad_input;
mod behaviours;
mod binary;
mod bodies;
mod budget;
mod canaries;
mod commands;
mod crosswalk;
mod demo;
mod disk;
mod enrich;
mod flow;
mod grants;
mod guards;
mod healthchain;
mod intake;
mod kills;
mod late;
mod model;
mod names;
mod oracle;
mod order;
mod outage;
mod outbox;
mod power;
mod process;
mod programs;
mod receiver;
mod sfs;
mod sfs_emr;
mod sinks;
mod sqlite;
mod standard;
mod stepped;
mod stream;
mod systemd;
mod tail;
mod webhook;
mod witnesses;
mod world;
