//! A program per event: no shell, the event as JSON on its standard input, ids in its environment, nothing else.
//!
//! The exit code is the answer: 0 yes, 75 (`EX_TEMPFAIL`) later, any other no. A program that was killed may have had
//! its effect, so its event is in doubt. It runs in a process group of its own, and the whole group ends with the
//! attempt's time-out or with this program's shutdown: nothing of it works on behind the ledger's back.
//!
//! Only a daemon that is killed itself leaves programs behind. The next start finds them by their pipes (`pipe`), waits
//! for each until its time is over, and only then says what it found: no attempt begins beside another of its delivery.
//!
//! What a program says is recorded, sealed, wherever its answer was not yes; of one that runs for longer also
//! meanwhile, once a second, so that a crash leaves what it said until then. It may repeat health data: it goes to the
//! [`Recorder`](super::Recorder) and nowhere else.

mod pipe;

use std::convert::Infallible;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use command_fds::CommandFdExt;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::{Checkpoint, Delivered, Doubtful, Orphan, Resumed, SharedRecorder, Sink, Stopped};
use crate::config::{self, Enrich};
use crate::domain::{DeliveryId, Outcome, Output, Parcel, SinkName};
use crate::format::native;

use pipe::{Ends, Found, Leader, Pipe};

/// Where the program and what it calls are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `EX_TEMPFAIL` of `sysexits.h`.
const LATER: i32 = 75;
/// Where the pipes are, in the state directory.
const PIPES: &str = "exec";
/// How often what a program has said so far is recorded. One that ends sooner costs no write.
const RECORDED_EVERY: Duration = Duration::from_secs(1);
/// A group that was killed is gone after this time, or it cannot be killed.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// The sink of `kind = "exec"`.
pub struct ExecSink {
    name: SinkName,
    settings: config::ExecSink,
    /// Where the pipes are.
    directory: PathBuf,
    recorder: SharedRecorder,
    recorded_every: Duration,
    enrich: Arc<Enrich>,
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

/// What an attempt has said so far. Shared by who listens and who records, which must not wait for each other: else a
/// slow disk would hold the program back.
#[derive(Default)]
struct Heard(Mutex<Output>);

impl Heard {
    fn push(&self, said: &[u8]) {
        self.with(|output| output.push(said));
    }

    fn with<T>(&self, what: impl FnOnce(&mut Output) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ExecSink {
    /// A sink that starts nothing before its first delivery. `state` is the state directory.
    pub fn new(
        name: SinkName,
        settings: config::ExecSink,
        state: &Path,
        recorder: SharedRecorder,
    ) -> Self {
        Self {
            name,
            settings,
            directory: state.join(PIPES),
            recorder,
            recorded_every: RECORDED_EVERY,
            enrich: Arc::default(),
        }
    }

    /// The same, with what the operator says of events.
    #[must_use]
    pub fn enriched(self, enrich: Arc<Enrich>) -> Self {
        Self { enrich, ..self }
    }

    async fn attempt(&self, parcel: &Parcel) -> Outcome {
        let metadata = self.enrich.metadata_for(&parcel.event_type, &parcel.clinic);
        let body = match native::body(parcel, &metadata) {
            Ok(body) => body,
            Err(refused) => {
                return Outcome::No {
                    reason: refused.to_string(),
                    retry_after: None,
                };
            }
        };
        // Without its pipe a program could not be found after a crash: better not started.
        let made = Pipe::make(&self.directory, parcel.delivery, parcel.attempt);
        let (mut pipe, ends) = match made {
            Ok(made) => made,
            Err(error) => {
                return Outcome::NotSent {
                    reason: format!(
                        "the program was not started: no pipe can be made in {}: {error}",
                        self.directory.display()
                    ),
                };
            }
        };
        let mut child = match self.start(parcel, ends) {
            Ok(child) => child,
            Err(error) => {
                return Outcome::NotSent {
                    reason: format!("the program cannot be started: {error}"),
                };
            }
        };
        // Declared behind the child and so dropped before it: while the child is not waited for, the number is its.
        let process = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let group = Group(process);
        if let Some(leader) = process.and_then(Leader::of) {
            pipe.is_led_by(leader);
        }
        let stdin = child.stdin.take();
        let heard = Heard::default();
        let ended = tokio::time::timeout(self.settings.timeout, async {
            tokio::select! {
                status = child.wait() => status,
                never = feed(stdin, &body) => match never {},
                never = self.record(parcel.delivery, parcel.attempt, &heard) => match never {},
                never = async {
                    pipe::hear(pipe.reader(), |said| heard.push(said)).await;
                    // It has closed its ends, and may run on.
                    std::future::pending::<Infallible>().await
                } => match never {},
            }
        })
        .await;
        let outcome = if let Ok(status) = ended {
            group.has_ended();
            verdict(status)
        } else {
            drop(group);
            // Killed: this only collects it.
            drop(child.wait().await);
            Outcome::Doubt {
                reason: format!("killed after {} s", self.settings.timeout.as_secs_f64()),
            }
        };
        if outcome != Outcome::Yes {
            let output = heard.with(|output| {
                pipe.last_words(output);
                std::mem::take(output)
            });
            self.recorder
                .record(parcel.delivery, parcel.attempt, output)
                .await;
        }
        outcome
    }

    /// Starts the program. Its ends of the pipe are closed here afterwards: they are the command's, which is dropped.
    fn start(&self, parcel: &Parcel, ends: Ends) -> io::Result<Child> {
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
            .stdout(Stdio::from(ends.out))
            .stderr(Stdio::from(ends.err))
            // Inherited by this child alone: the flag that closes it elsewhere is taken away after the fork.
            .preserved_fds(vec![ends.held])
            .process_group(0)
            .kill_on_drop(true);
        command.spawn()
    }

    /// Records now and then, where there is news.
    async fn record(&self, delivery: DeliveryId, attempt: u32, heard: &Heard) -> Infallible {
        let mut recorded = 0;
        loop {
            tokio::time::sleep(self.recorded_every).await;
            let news = heard.with(|output| (output.said() > recorded).then(|| output.clone()));
            if let Some(output) = news {
                recorded = output.said();
                self.recorder.record(delivery, attempt, output).await;
            }
        }
    }

    /// What became of an attempt whose daemon is gone. Waits for whoever of it still runs, as long as its own daemon
    /// would have.
    async fn outlived(&self, orphan: &Orphan) -> Doubtful {
        let (delivery, attempt) = (orphan.delivery, orphan.attempt);
        let because = |reason: String| Doubtful { delivery, reason };
        let found = Found::find(&self.directory, delivery, attempt);
        let Some(found) = found else {
            return because(Doubtful::STOPPED.to_owned());
        };
        let mut output = self.recorder.recorded(delivery, attempt).await;
        let opened = found.open(&mut output);
        let end = match opened {
            Ok(None) if found.leader.is_none() => "it may not have been started".to_owned(),
            Ok(None) => "it has ended since; how, nobody knows".to_owned(),
            Ok(Some(mut reader)) => {
                let heard = Heard(Mutex::new(output));
                let end = self.wait_for(orphan, &found, &mut reader, &heard).await;
                let output = heard.with(std::mem::take);
                self.recorder.record(delivery, attempt, output).await;
                end
            }
            Err(error) => format!("whether it still runs cannot be learnt: {error}"),
        };
        found.remove();
        because(format!("the daemon ended while the program ran; {end}"))
    }

    /// Waits for a program that still runs, and kills it when its time is over. Gives how it ended.
    async fn wait_for(
        &self,
        orphan: &Orphan,
        found: &Found,
        reader: &mut tokio::net::unix::pipe::Receiver,
        heard: &Heard,
    ) -> String {
        let limit = self.settings.timeout;
        let gone_by = found.leader.map(Leader::running_for).unwrap_or_default();
        let left = limit.saturating_sub(gone_by);
        tracing::warn!(
            sink = %self.name, event = %orphan.event, delivery = %orphan.delivery, attempt = orphan.attempt,
            "the program still runs that was at work when the daemon ended: waiting for it, for {:.0} s at most",
            left.as_secs_f64()
        );
        let begun = tokio::time::Instant::now();
        let hear = pipe::hear(reader, |said| heard.push(said));
        tokio::pin!(hear);
        let in_time = tokio::select! {
            () = &mut hear => true,
            () = tokio::time::sleep(left) => false,
            never = self.record(orphan.delivery, orphan.attempt, heard) => match never {},
        };
        if in_time {
            let waited = begun.elapsed().as_secs();
            return format!("it ended {waited} s after the next start; how, nobody knows");
        }
        let limit = limit.as_secs_f64();
        let killed = found.leader.is_some_and(Leader::kill_group);
        if killed && tokio::time::timeout(KILLED_WITHIN, hear).await.is_ok() {
            return format!("it was killed after its {limit} s");
        }
        format!(
            "after its {limit} s some of it still runs, and was left alone: whose processes they are cannot be told for sure"
        )
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

    async fn resume(
        &self,
        _checkpoint: Option<Checkpoint>,
        orphans: Vec<Orphan>,
    ) -> Result<Resumed, Stopped> {
        let doubtful = join_all(orphans.iter().map(|orphan| self.outlived(orphan))).await;
        Ok(Resumed {
            adopted: Vec::new(),
            absent: Vec::new(),
            doubtful,
            checkpoint: None,
        })
    }

    async fn deliver(&self, parcels: &[Parcel], _now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        let mut outcomes = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            outcomes.push(self.attempt(parcel).await);
        }
        Ok(Delivered {
            status_codes: Vec::new(),
            outcomes,
            checkpoint: None,
        })
    }
}

#[cfg(test)]
mod tests;
