//! Named crash points: where a test makes the real binary die as by `kill -9`.
//!
//! `FULLSCRIPT_EVENTS_CRASH_AT=<name>` kills the process when it passes the point of that name. Release builds have
//! no crash points at all.

/// Dies here if the environment names this point. Does nothing in a release build.
#[inline]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("FULLSCRIPT_EVENTS_CRASH_AT").is_some_and(|wanted| wanted == name) {
        let killed =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        debug_assert!(killed.is_ok(), "a process may kill itself");
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
