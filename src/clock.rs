//! The only source of `now`.
//!
//! Every due time, expiry and age in this crate is computed from a [`Clock`], so that a test can step through thirty
//! days without waiting and a wrong wall clock can be seen in one place. I/O time-outs are tokio's and do not pass
//! through here: a paused clock beside a real socket runs away.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// The longest single sleep of the system clock: after it the wall clock is read again, so that a machine that was
/// suspended or whose clock was set notices within this time.
const LONGEST_NAP: Duration = Duration::from_mins(1);

/// A future that a trait object can return.
pub type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Tells the time and waits for it.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time: what is written to disk and compared with the vendor's.
    fn now(&self) -> DateTime<Utc>;

    /// Time since an arbitrary origin that never goes backwards: what rate windows are measured with.
    fn monotonic(&self) -> Duration;

    /// Time since this machine was started, suspended time included. Nobody can set it: a wall clock that jumps is told
    /// by it.
    fn since_boot(&self) -> TimeDelta;

    /// Returns when [`Clock::now`] has reached `at`; at once if it already has.
    fn sleep_until(&self, at: DateTime<Utc>) -> Sleep<'_>;
}

/// A clock that can be handed to every task.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic origin is this moment.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clock"
    )]
    pub fn start() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clock"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    fn since_boot(&self) -> TimeDelta {
        // Elsewhere the monotonic clock is the next best: a machine that slept seems to have jumped, and is watched anew.
        #[cfg(target_os = "linux")]
        let clock = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = ClockId::Monotonic;
        TimeDelta::seconds(clock_gettime(clock).tv_sec)
    }

    fn sleep_until(&self, at: DateTime<Utc>) -> Sleep<'_> {
        Box::pin(async move {
            while let Ok(left) = (at - self.now()).to_std() {
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LONGEST_NAP)).await;
            }
        })
    }
}

#[derive(Debug)]
struct Standing {
    wall: DateTime<Utc>,
    monotonic: Duration,
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<Standing>,
    moved: watch::Sender<()>,
}

impl ManualClock {
    /// A clock that stands at `at`.
    pub fn standing_at(at: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Standing {
                wall: at,
                monotonic: Duration::ZERO,
            }),
            moved: watch::Sender::new(()),
        })
    }

    /// Moves all time forward together and wakes whoever has become due.
    pub fn advance(&self, by: Duration) {
        {
            let mut state = self.standing();
            state.wall += by;
            state.monotonic += by;
        }
        self.moved.send_replace(());
    }

    /// Somebody sets the wall clock.
    pub fn jump(&self, by: TimeDelta) {
        self.standing().wall += by;
        self.moved.send_replace(());
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.standing().wall
    }

    fn monotonic(&self) -> Duration {
        self.standing().monotonic
    }

    fn since_boot(&self) -> TimeDelta {
        TimeDelta::from_std(self.monotonic()).unwrap_or(TimeDelta::MAX)
    }

    fn sleep_until(&self, at: DateTime<Utc>) -> Sleep<'_> {
        let mut moved = self.moved.subscribe();
        Box::pin(async move {
            while self.now() < at {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_a_sleeper_only_when_its_time_has_come() {
        let clock = ManualClock::standing_at(DateTime::UNIX_EPOCH);
        let due = DateTime::UNIX_EPOCH + Duration::from_secs(10);
        let mut sleeper = clock.sleep_until(due);
        clock.advance(Duration::from_secs(9));
        assert!(futures_util::FutureExt::now_or_never(&mut sleeper).is_none());
        clock.advance(Duration::from_secs(1));
        sleeper.await;
        assert_eq!(clock.now(), due);
    }
}
