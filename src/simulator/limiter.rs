//! The rolling request limit (`fullscript-api.md` §5), and the most requests that any window has seen.
//!
//! The peak is measured whether or not the limit is on, so that a test can assert that the client kept its budget.

use std::collections::VecDeque;
use std::time::Duration;

/// The form of a `Retry-After` header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RetryAfter {
    /// There is none.
    None,
    /// Whole seconds.
    #[default]
    Seconds,
    /// An HTTP date.
    Date,
}

/// What the limit is and how a request over it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per window; `None` only measures.
    pub requests: Option<u32>,
    /// The rolling window.
    pub window: Duration,
    /// The status over the limit: 429 or 503.
    pub status: u16,
    /// What the answer says of when to come back.
    pub retry_after: RetryAfter,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            requests: Some(5000),
            window: Duration::from_mins(5),
            status: 429,
            retry_after: RetryAfter::default(),
        }
    }
}

/// The requests of the last window.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: RateLimit,
    arrived: VecDeque<Duration>,
    admitted: VecDeque<Duration>,
    most: usize,
}

impl Limiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            arrived: VecDeque::new(),
            admitted: VecDeque::new(),
            most: 0,
        }
    }

    /// Counts a request that arrives at `now` of a monotonic clock; `Err` says in how long one would be admitted.
    pub(super) fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        forget(&mut self.arrived, now, self.limit.window);
        self.arrived.push_back(now);
        self.most = self.most.max(self.arrived.len());
        let Some(requests) = self.limit.requests else {
            return Ok(());
        };
        forget(&mut self.admitted, now, self.limit.window);
        if self.admitted.len() < requests as usize {
            self.admitted.push_back(now);
            return Ok(());
        }
        let oldest = self.admitted.front().copied().unwrap_or(now);
        Err((oldest + self.limit.window).saturating_sub(now))
    }

    /// The most requests, refused ones included, in any rolling window so far.
    pub(super) fn most_in_window(&self) -> usize {
        self.most
    }
}

fn forget(times: &mut VecDeque<Duration>, now: Duration, window: Duration) {
    while times.front().is_some_and(|&at| at + window <= now) {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_rolls_and_says_when_to_come_back() {
        let mut limiter = Limiter::new(RateLimit {
            requests: Some(2),
            window: Duration::from_secs(10),
            ..RateLimit::default()
        });
        let at = Duration::from_secs;
        assert_eq!(limiter.admit(at(0)), Ok(()));
        assert_eq!(limiter.admit(at(4)), Ok(()));
        assert_eq!(limiter.admit(at(5)), Err(at(5)));
        assert_eq!(limiter.admit(at(10)), Ok(()));
        assert_eq!(limiter.admit(at(11)), Err(at(3)));
        assert_eq!(limiter.most_in_window(), 4);
    }
}
