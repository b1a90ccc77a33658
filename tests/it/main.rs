//! One integration binary: the real parts, wired as the daemon wires them, against the simulated vendor.
#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests wait for real processes with a limit, and look into the database from outside"
)]
#![allow(
    clippy::print_stderr,
    reason = "a run says its seed, its figures, and what it had to skip"
)]
#![allow(
    clippy::unnecessary_debug_formatting,
    reason = "the Debug form of a path is its quoted form in TOML and in shell"
)]

mod binary;
mod canaries;
mod disk;
mod flow;
mod grants;
mod kills;
mod oracle;
mod process;
mod world;
