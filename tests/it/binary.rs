//! The real binary as a process: started on a world's configuration, waited for by what it says, killed at will.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::world::World;

/// The longest that any of this may take before a test fails.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
/// Where the binary looks for the crash point at which it is to die (`src/crash.rs`).
pub(crate) const CRASH_AT: &str = "FULLSCRIPT_EVENTS_CRASH_AT";

/// A command of the real binary on a configuration, with nothing inherited from the environment but `PATH`.
pub(crate) fn command(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fullscript-events"));
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .arg("--config")
        .arg(config)
        .args(args)
        .stdin(Stdio::null());
    command
}

/// A running binary; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// The daemon at log level `debug`.
pub(crate) const DAEMON: [&str; 3] = ["--log-level", "debug", "run"];

/// The names of all crash points in the sources, so that a new one is tried without being listed anywhere.
pub(crate) fn crash_points() -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let calls = text.split("crash::point(\"").skip(1);
            names.extend(calls.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    names.into_iter().collect()
}

impl World {
    /// A command of the real binary on this world's configuration.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command(&self.config_path(), args)
    }

    /// Runs a command of the real binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that dies where it passes a crash point.
    pub(crate) fn run_dying_at(&self, point: &str, args: &[&str]) -> Output {
        let mut command = self.command(args);
        command.env(CRASH_AT, point).output().unwrap()
    }

    /// Starts the daemon at log level `debug`.
    pub(crate) fn daemon(&self) -> Running {
        Running::start(&mut self.command(&DAEMON))
    }

    /// Starts the daemon, which dies where it passes a crash point.
    pub(crate) fn daemon_dying_at(&self, point: &str) -> Running {
        Running::start(self.command(&DAEMON).env(CRASH_AT, point))
    }
}

/// Whether it was `kill -9` that ended a process.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(rustix::process::Signal::KILL.as_raw())
}

impl Running {
    /// Starts a command and listens to its standard error.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        Self::listen(child, stderr)
    }

    /// Starts a command and listens to its standard output.
    pub(crate) fn start_aloud(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        Self::listen(child, stdout)
    }

    fn listen(child: Child, voice: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(voice).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    /// Waits until the process has said a line that contains `words`.
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!(
                    "it never said {words:?}; it said:\n{}",
                    self.said.join("\n")
                ),
            }
        }
    }

    /// Lets it run until it has said `lines` more lines, until `limit` has passed, or until it has ended; gives how,
    /// if it has.
    pub(crate) fn let_run(&mut self, lines: usize, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        for _ in 0..lines {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(self.wait()),
            }
        }
        None
    }

    /// Lets it run until it says `words`, until `limit` has passed, or until it has ended; gives how, if it has.
    pub(crate) fn let_run_to(&mut self, words: &str, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let before = self.said.len();
            let ended = self.let_run(1, left);
            let last = self.said.get(before);
            if ended.is_some() || last.is_none_or(|line| line.contains(words)) {
                return ended;
            }
        }
    }

    /// Lets it run until `done` says so, which is asked a few times a second.
    pub(crate) fn let_run_until(&mut self, limit: Duration, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + limit;
        while !done() {
            let ended = self.let_run(usize::MAX, Duration::from_millis(200));
            assert!(
                ended.is_none() && Instant::now() < end,
                "it ended ({ended:?}) or took too long; it said at last:\n{}",
                self.last_words()
            );
        }
    }

    /// The last lines that it said.
    pub(crate) fn last_words(&mut self) -> String {
        let said = self.said();
        said[said.len().saturating_sub(60)..].join("\n")
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and wait.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM. It may have ended already.
    pub(crate) fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // Not waited for yet: its number is nobody else's.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    }

    /// SIGTERM, and wait for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait()
    }

    /// SIGTERM; gives everything it said until its end.
    pub(crate) fn stop_and_listen(mut self) -> String {
        self.ask_to_stop();
        let ended = self.let_run(usize::MAX, LIMIT);
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        self.said.join("\n")
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it never ended");
            std::thread::yield_now();
        }
    }

    /// Everything it has said so far.
    pub(crate) fn said(&mut self) -> Vec<String> {
        self.said.extend(self.lines.try_iter());
        self.said.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
