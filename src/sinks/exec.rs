//! A program per event: no shell, the event as JSON on its standard input, ids in its environment, nothing else.
//!
//! The exit code is the answer: 0 yes, 75 (`EX_TEMPFAIL`) later, any other no. A program that was killed may have had
//! its effect, so its event is in doubt. It runs in a process group of its own, and the whole group ends with the
//! attempt's time-out or with this program's shutdown: nothing of it works on behind the ledger's back.

use std::convert::Infallible;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use chrono::{DateTime, Utc};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};

use super::{Delivered, Sink, Stopped};
use crate::config;
use crate::domain::{Outcome, Parcel};
use crate::format::native;

/// Where the program and what it calls are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `EX_TEMPFAIL` of `sysexits.h`.
const LATER: i32 = 75;

/// The sink of `kind = "exec"`.
pub struct ExecSink {
    settings: config::ExecSink,
}

/// Kills a child's process group when an attempt ends before the child does: by time-out, or by being dropped.
struct Group(Option<Pid>);

impl Group {
    /// The child has been waited for: its number may belong to somebody else from now on.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.take() {
            // Fails only if the group is gone, which is what is wanted.
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}

impl ExecSink {
    /// A sink that starts nothing before its first delivery.
    pub fn new(settings: config::ExecSink) -> Self {
        Self { settings }
    }

    async fn attempt(&self, parcel: &Parcel) -> Outcome {
        let body = match native::body(parcel) {
            Ok(body) => body,
            Err(refused) => {
                return Outcome::No {
                    reason: refused.to_string(),
                    retry_after: None,
                };
            }
        };
        let mut child = match self.command(parcel).spawn() {
            Ok(child) => child,
            Err(error) => {
                return Outcome::NotSent {
                    reason: format!("the program cannot be started: {error}"),
                };
            }
        };
        // Declared behind the child and so dropped before it: while the child is not waited for, the number is its.
        let group = Group(
            child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
        );
        let stdin = child.stdin.take();
        let ended = tokio::time::timeout(self.settings.timeout, async {
            tokio::select! {
                status = child.wait() => status,
                never = feed(stdin, &body) => match never {},
            }
        })
        .await;
        if let Ok(status) = ended {
            group.has_ended();
            return verdict(status);
        }
        drop(group);
        // Killed: this only collects it.
        drop(child.wait().await);
        Outcome::Doubt {
            reason: format!("killed after {} s", self.settings.timeout.as_secs_f64()),
        }
    }

    fn command(&self, parcel: &Parcel) -> Command {
        let mut words = self.settings.command.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        command
            .args(words)
            .env_clear()
            .env("PATH", PATH)
            .env("FULLSCRIPT_EVENT_ID", parcel.event.as_str())
            .env("FULLSCRIPT_EVENT_TYPE", parcel.event_type.as_str())
            .env("FULLSCRIPT_CLINIC", parcel.clinic.as_str())
            .env("FULLSCRIPT_DELIVERY", parcel.delivery.to_string())
            .env("FULLSCRIPT_ATTEMPT", parcel.attempt.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Writes the event and closes the pipe. A program that does not read it all is free to: its exit code decides.
async fn feed(stdin: Option<ChildStdin>, body: &[u8]) -> Infallible {
    if let Some(mut stdin) = stdin {
        drop(stdin.write_all(body).await);
    }
    std::future::pending().await
}

fn verdict(status: io::Result<ExitStatus>) -> Outcome {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            return Outcome::Doubt {
                reason: format!("the program's end cannot be learnt: {error}"),
            };
        }
    };
    match status.code() {
        Some(0) => Outcome::Yes,
        Some(LATER) => Outcome::Later {
            reason: format!("exit code {LATER}"),
            retry_after: None,
        },
        Some(code) => Outcome::No {
            reason: format!("exit code {code}"),
            retry_after: None,
        },
        None => Outcome::Doubt {
            reason: format!("killed by signal {}", status.signal().unwrap_or_default()),
        },
    }
}

impl Sink for ExecSink {
    fn batch(&self) -> usize {
        1
    }

    fn concurrency(&self) -> usize {
        self.settings.concurrency
    }

    async fn deliver(&self, parcels: &[Parcel], _now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        let mut outcomes = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            outcomes.push(self.attempt(parcel).await);
        }
        Ok(Delivered {
            outcomes,
            checkpoint: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::unix::pipe;

    use super::*;
    use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType};

    fn sink(command: &[&str], timeout: Duration) -> ExecSink {
        ExecSink::new(config::ExecSink {
            command: command.iter().map(ToString::to_string).collect(),
            timeout,
            concurrency: 1,
        })
    }

    fn parcel(data: &str) -> Parcel {
        Parcel {
            delivery: DeliveryId(7),
            attempt: 2,
            event: EventId::new("e-7").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            created_at: DateTime::UNIX_EPOCH,
            clinic: ClinicName::new("oak-street").unwrap(),
            clinic_id: None,
            body: EventBody::from_json(format!(r#"{{"data":{data}}}"#)),
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_exit_code_is_the_answer() {
        for (script, expected) in [
            ("exit 0", "Yes"),
            ("cat >/dev/null", "Yes"),
            (
                "exit 75",
                "Later { reason: \"exit code 75\", retry_after: None }",
            ),
            (
                "exit 1",
                "No { reason: \"exit code 1\", retry_after: None }",
            ),
            ("kill -9 $$", "Doubt { reason: \"killed by signal 9\" }"),
        ] {
            let outcome = sink(&["/bin/sh", "-c", script], LONG)
                .attempt(&parcel("{}"))
                .await;
            assert_eq!(format!("{outcome:?}"), expected, "{script}");
        }
        let missing = sink(&["/nonexistent/program"], LONG)
            .attempt(&parcel("{}"))
            .await;
        assert!(matches!(missing, Outcome::NotSent { .. }), "{missing:?}");
    }

    #[tokio::test]
    async fn a_program_gets_the_event_on_stdin_and_only_ids_in_its_environment() {
        let dir = tempfile::TempDir::new().unwrap();
        let kept = dir.path().join("kept");
        let script = "cat >\"$0\"; echo >>\"$0\"; env >>\"$0\"";
        let parcel = parcel(r#"{"name":"Ada"}"#);
        let outcome = sink(&["/bin/sh", "-c", script, kept.to_str().unwrap()], LONG)
            .attempt(&parcel)
            .await;
        assert_eq!(outcome, Outcome::Yes);
        let text = std::fs::read_to_string(kept).unwrap();
        let (body, environment) = text.split_once('\n').unwrap();
        assert_eq!(body.as_bytes(), native::body(&parcel).unwrap());
        let mut names: Vec<_> = environment
            .lines()
            .filter_map(|line| line.split('=').next())
            // The shell's own.
            .filter(|name| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"))
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "FULLSCRIPT_ATTEMPT",
                "FULLSCRIPT_CLINIC",
                "FULLSCRIPT_DELIVERY",
                "FULLSCRIPT_EVENT_ID",
                "FULLSCRIPT_EVENT_TYPE",
                "PATH"
            ]
        );
        assert!(!environment.contains("Ada"));
    }

    #[tokio::test]
    async fn a_body_longer_than_a_pipe_holds_does_not_hang_on_a_program_that_ignores_it() {
        let long = format!("\"{}\"", "x".repeat(1 << 20));
        let outcome = sink(&["/bin/sh", "-c", "exit 0"], LONG)
            .attempt(&parcel(&long))
            .await;
        assert_eq!(outcome, Outcome::Yes);
    }

    /// A script whose grandchild holds a named pipe open: the pipe's end is the end of the whole group.
    fn grandchild(fifo: &Path) -> (pipe::Receiver, [String; 4]) {
        let made = std::process::Command::new("mkfifo")
            .arg(fifo)
            .status()
            .unwrap();
        assert!(made.success());
        let held = pipe::OpenOptions::new().open_receiver(fifo).unwrap();
        let script = "(exec >\"$0\"; echo here; sleep 600) & wait";
        let fifo = fifo.to_str().unwrap();
        (held, ["/bin/sh", "-c", script, fifo].map(str::to_owned))
    }

    /// Returns when nobody holds the pipe any more; fails when that takes too long.
    async fn all_gone(mut held: pipe::Receiver) {
        let mut text = String::new();
        let reading = held.read_to_string(&mut text);
        tokio::time::timeout(LONG, reading).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_time_out_kills_the_grandchildren_too_and_leaves_a_doubt() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut held, command) = grandchild(&dir.path().join("fifo"));
        let command = command.each_ref().map(String::as_str);
        let sink = sink(&command, Duration::from_millis(500));
        let parcel = parcel("{}");
        let (outcome, started) = tokio::join!(sink.attempt(&parcel), held.read_u8());
        started.unwrap();
        assert!(matches!(outcome, Outcome::Doubt { .. }), "{outcome:?}");
        all_gone(held).await;
    }

    #[tokio::test]
    async fn an_attempt_that_is_dropped_leaves_no_process_behind() {
        let dir = tempfile::TempDir::new().unwrap();
        let (mut held, command) = grandchild(&dir.path().join("fifo"));
        let command = command.each_ref().map(String::as_str);
        let sink = sink(&command, LONG * 10);
        let parcel = parcel("{}");
        tokio::select! {
            outcome = sink.attempt(&parcel) => panic!("ended by itself: {outcome:?}"),
            started = held.read_u8() => drop(started.unwrap()),
        }
        all_gone(held).await;
    }
}
