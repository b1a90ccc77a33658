//! Stopping: signals, a soft stop that lets what is in flight finish, a hard stop when it takes too long, and the
//! words that systemd wants to hear.
//!
//! Every task is spawned on the one tracker, so that no effect outlives the record of it because nobody waited.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a soft stop waits before it becomes a hard one; shorter than the unit's `TimeoutStopSec`.
const PATIENCE: Duration = Duration::from_secs(40);

/// The life of the process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Lifecycle {
    tracker: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Lifecycle {
    /// A life that nothing has ended.
    pub fn begin() -> Self {
        Self::default()
    }

    /// Where tasks are spawned.
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Cancelled when nothing new shall begin.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when what is in flight is dropped.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Spawns a task that is dropped at the hard stop.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let hard = self.hard.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = hard.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Turns SIGTERM and SIGINT into a soft stop, and a second one, or the end of patience, into a hard stop.
    pub fn listen(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (soft, hard) = (self.soft.clone(), self.hard.clone());
        self.tracker.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = soft.cancelled() => {}
                () = hard.cancelled() => return,
            }
            soft.cancel();
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = tokio::time::sleep(PATIENCE) => {
                    tracing::warn!("what was in flight did not end in {} s: it is taken up at the next start", PATIENCE.as_secs());
                }
                () = hard.cancelled() => {}
            }
            hard.cancel();
        });
        Ok(())
    }

    /// Begins the soft stop, if nobody has, and waits until every task has ended, or until the hard stop ends them.
    pub async fn finish(&self) {
        self.soft.cancel();
        self.tracker.close();
        // The listener for signals is a task too: it ends with the hard token, which nothing else waits for.
        let others = async {
            while self.tracker.len() > 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = others => {}
            () = self.hard.cancelled() => {}
        }
        self.hard.cancel();
        self.tracker.wait().await;
    }
}

/// Tells systemd; does nothing where there is none.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
