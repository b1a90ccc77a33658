//! The real binary as a process: started on a world's configuration, waited for by what it says, killed at will.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::world::World;

/// The longest that any of this may take before a test fails.
const LIMIT: Duration = Duration::from_mins(1);

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

impl World {
    /// Runs a command of the real binary to its end.
    pub(crate) fn run(&self, args: &[&str]) -> std::process::Output {
        command(&self.config_path(), args).output().unwrap()
    }

    /// Starts the daemon at log level `debug`.
    pub(crate) fn daemon(&self) -> Running {
        Running::start(&mut command(
            &self.config_path(),
            &["--log-level", "debug", "run"],
        ))
    }
}

impl Running {
    /// Starts a command and listens to its standard error.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
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
                Err(_) => panic!(
                    "it never said {words:?}; it said:\n{}",
                    self.said.join("\n")
                ),
            }
        }
    }

    /// SIGKILL, and wait.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and wait for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait()
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
