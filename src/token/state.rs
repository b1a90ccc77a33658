//! What a grant's state is, what is to be done with it now, and what an answer of the token endpoint makes of it. Pure:
//! values and `now` in, a value out.
//!
//! It prevents the two costly mistakes: taking a passing failure for a revocation (a clinic is logged out although
//! its token lives), and taking a wrong client secret for a wave of revocations (every clinic is asked to log in
//! again, in vain; `fullscript-api.md` §4).

use chrono::{DateTime, TimeDelta, Utc};

/// A grant is refreshed at the latest this long after the last time, however long its token lives.
const KEEP_ALIVE: TimeDelta = TimeDelta::hours(10);
/// How long before its expiry an access token is no longer handed out.
const EXPIRY_MARGIN: TimeDelta = TimeDelta::seconds(30);
/// A pair younger than this that is rejected is not refreshed again: that would be a loop.
const TOO_YOUNG_TO_REFRESH: TimeDelta = TimeDelta::minutes(1);
/// The first wait after a token call without an answer; it doubles from there.
const FIRST_RETRY: TimeDelta = TimeDelta::seconds(15);
/// The longest wait after token calls without an answer.
const LONGEST_RETRY: TimeDelta = TimeDelta::minutes(15);
/// How often a grant is tried while the configuration seems wrong.
const PROBE: TimeDelta = TimeDelta::hours(1);

/// Why a grant gives no new tokens, if so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All is well.
    Active,
    /// The last token calls had no answer; the next one is due later.
    Retrying {
        /// Calls without an answer, in a row.
        failures: u32,
        /// The next one is not before this.
        retry_at: DateTime<Utc>,
        /// What happened, in words.
        trouble: String,
    },
    /// The app's credentials seem wrong: it is tried again every hour.
    Misconfigured {
        /// Since when.
        since: DateTime<Utc>,
        /// The next try.
        probe_at: DateTime<Utc>,
        /// What happened, in words.
        trouble: String,
    },
    /// Fullscript refused every token this grant has: a person must log in.
    LoginRequired {
        /// Since when.
        since: DateTime<Utc>,
        /// What happened, in words.
        trouble: String,
    },
}

/// The times of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_field_names,
    reason = "every time of this crate ends in `_at`"
)]
pub struct Times {
    /// When it was asked for.
    pub issued_at: DateTime<Utc>,
    /// When its access token expires.
    pub expires_at: DateTime<Utc>,
    /// When it is to be replaced.
    pub refresh_at: DateTime<Utc>,
}

impl Times {
    /// The times of a pair that was asked for at `issued_at` and lives for `life`; `jitter` is in `0.0..1.0`.
    ///
    /// It is replaced at 70 to 80 % of its life, so that the grants of many clinics drift apart.
    pub fn of(issued_at: DateTime<Utc>, life: TimeDelta, jitter: f64) -> Self {
        let wait = scaled(life, 0.70 + 0.10 * jitter).min(scaled(KEEP_ALIVE, 0.9 + 0.1 * jitter));
        Self {
            issued_at,
            expires_at: saturating(issued_at, life),
            refresh_at: saturating(issued_at, wait),
        }
    }

    /// Whether its access token may still be used.
    pub fn usable(&self, now: DateTime<Utc>) -> bool {
        now + EXPIRY_MARGIN < self.expires_at
    }
}

/// Why a bearer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// For a request, or because it is time.
    Working,
    /// Because Fullscript rejected the access token of this generation (401).
    NewerThan(i64),
}

/// What is to be done for somebody who wants a bearer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Hand out the current pair.
    HandOut,
    /// Get a new pair first.
    Refresh,
    /// Nothing before this time.
    Wait(DateTime<Utc>),
    /// Nothing until the configuration is mended.
    Mend,
    /// Nothing until a person logs in.
    LogIn,
}

impl State {
    /// What is to be done now for somebody who wants a bearer, when the current pair is of this generation and times.
    pub fn need(&self, want: Want, generation: i64, times: &Times, now: DateTime<Utc>) -> Need {
        let rejected = want == Want::NewerThan(generation);
        let usable = times.usable(now) && !rejected;
        match self {
            Self::LoginRequired { .. } => Need::LogIn,
            Self::Active if rejected && now < times.issued_at + TOO_YOUNG_TO_REFRESH => {
                Need::HandOut
            }
            Self::Active if !rejected && now < times.refresh_at && usable => Need::HandOut,
            Self::Active => Need::Refresh,
            Self::Retrying { retry_at, .. } if now >= *retry_at => Need::Refresh,
            Self::Misconfigured { probe_at, .. } if now >= *probe_at => Need::Refresh,
            // An access token outlives a wrong client secret.
            Self::Retrying { .. } | Self::Misconfigured { .. } if usable => Need::HandOut,
            Self::Retrying { retry_at, .. } => Need::Wait(*retry_at),
            Self::Misconfigured { .. } => Need::Mend,
        }
    }

    /// When this grant is to be refreshed although nobody asks; `None`: only a person can bring it back.
    pub fn due_at(&self, times: &Times) -> Option<DateTime<Utc>> {
        match self {
            Self::Active => Some(times.refresh_at),
            Self::Retrying { retry_at, .. } => Some((*retry_at).max(times.refresh_at)),
            Self::Misconfigured { probe_at, .. } => Some(*probe_at),
            Self::LoginRequired { .. } => None,
        }
    }

    /// What becomes of the grant when a refresh gave no pair. `jitter` is in `0.0..1.0`.
    pub fn after(self, failure: &Failure, peers: Peers, now: DateTime<Utc>, jitter: f64) -> Change {
        let quiet = |state| Change {
            state,
            alert: Alert::None,
        };
        match (failure, self) {
            (_, state @ Self::LoginRequired { .. }) => quiet(state),
            (Failure::Unavailable { .. }, Self::Misconfigured { since, trouble, .. }) => {
                quiet(Self::Misconfigured {
                    since,
                    probe_at: now + PROBE,
                    trouble,
                })
            }
            (Failure::Unavailable { why, retry_after }, state) => {
                let failures = match state {
                    Self::Retrying { failures, .. } => failures.saturating_add(1),
                    Self::Active | Self::Misconfigured { .. } | Self::LoginRequired { .. } => 1,
                };
                let wait = backoff(failures, jitter).max(retry_after.unwrap_or_default());
                quiet(Self::Retrying {
                    failures,
                    retry_at: saturating(now, wait.min(LONGEST_RETRY)),
                    trouble: why.clone(),
                })
            }
            (Failure::WrongClient, state) => Change {
                alert: if peers.misconfigured == 0 && state.is_misconfigured().is_none() {
                    Alert::ConfigurationFault
                } else {
                    Alert::None
                },
                state: Self::misconfigured(&state, now, WRONG_CLIENT),
            },
            (Failure::Refused, state) if peers.refused == 0 => Change {
                state: Self::LoginRequired {
                    since: state.is_misconfigured().unwrap_or(now),
                    trouble: REFUSED.to_owned(),
                },
                alert: Alert::LoginRequired,
            },
            (Failure::Refused, state) => Change {
                alert: if peers.refused == peers.others && state.is_misconfigured().is_none() {
                    Alert::ConfigurationFault
                } else {
                    Alert::None
                },
                state: Self::misconfigured(&state, now, ALL_REFUSED),
            },
        }
    }

    fn misconfigured(before: &Self, now: DateTime<Utc>, trouble: &str) -> Self {
        Self::Misconfigured {
            since: before.is_misconfigured().unwrap_or(now),
            probe_at: now + PROBE,
            trouble: trouble.to_owned(),
        }
    }

    /// Since when the configuration seems wrong.
    fn is_misconfigured(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Misconfigured { since, .. } => Some(*since),
            Self::Active | Self::Retrying { .. } | Self::LoginRequired { .. } => None,
        }
    }
}

/// Said of a grant whose tokens were all refused.
const REFUSED: &str = "Fullscript refused every token that is stored for it (invalid_grant)";
/// Said of grants that were refused together.
pub(super) const ALL_REFUSED: &str = "Fullscript refused its tokens together with other clinics' (invalid_grant): \
     client_id, client_secret or environment do not fit, or every clinic disconnected the app";
/// Said of a grant whose refresh ended with `invalid_client`.
const WRONG_CLIENT: &str = "Fullscript refused client_id and client_secret (invalid_client)";

/// How a refresh ended without a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `invalid_grant` for every token that is stored.
    Refused,
    /// `invalid_client`: the app's own credentials.
    WrongClient,
    /// No verdict: the network, 429, 5xx, an answer that is not the endpoint's.
    Unavailable {
        /// What happened, in words; no part of the answer's body.
        why: String,
        /// What the server asked for.
        retry_after: Option<TimeDelta>,
    },
}

/// The other grants of the same app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// How many there are, without those that needed a login before.
    pub others: u32,
    /// How many of them were refused since any grant of the app was last refreshed.
    pub refused: u32,
    /// How many of them are misconfigured.
    pub misconfigured: u32,
}

/// A grant's new state, and what a person is told, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The new state.
    pub state: State,
    /// What a person is told.
    pub alert: Alert,
}

/// What a person is told when a state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Nothing.
    None,
    /// This clinic must log in.
    LoginRequired,
    /// The app's credentials are wrong; the grants are not to blame.
    ConfigurationFault,
}

fn backoff(failures: u32, jitter: f64) -> TimeDelta {
    let doubled = FIRST_RETRY * 2_i32.pow(failures.saturating_sub(1).min(8));
    scaled(doubled.min(LONGEST_RETRY), 0.5 + 0.5 * jitter)
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a wait needs no precision"
)]
fn scaled(by: TimeDelta, factor: f64) -> TimeDelta {
    TimeDelta::milliseconds((by.num_milliseconds() as f64 * factor) as i64)
}

fn saturating(at: DateTime<Utc>, by: TimeDelta) -> DateTime<Utc> {
    at.checked_add_signed(by)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn times() -> Times {
        Times::of(NOW, TimeDelta::hours(2), 0.5)
    }

    fn retrying() -> State {
        State::Retrying {
            failures: 3,
            retry_at: NOW + TimeDelta::minutes(100),
            trouble: "503".into(),
        }
    }

    fn misconfigured() -> State {
        State::Misconfigured {
            since: NOW,
            probe_at: NOW + TimeDelta::minutes(60),
            trouble: String::new(),
        }
    }

    fn login_required() -> State {
        State::LoginRequired {
            since: NOW,
            trouble: String::new(),
        }
    }

    #[test]
    fn a_pair_is_replaced_at_three_quarters_of_its_life_and_at_least_twice_a_day() {
        assert_eq!(times().refresh_at, NOW + TimeDelta::minutes(90));
        for jitter in [0.0, 0.999] {
            let minutes =
                (Times::of(NOW, TimeDelta::hours(2), jitter).refresh_at - NOW).num_minutes();
            assert!((84..=96).contains(&minutes), "{minutes}");
            let long = Times::of(NOW, TimeDelta::days(365), jitter);
            assert!(long.refresh_at <= NOW + TimeDelta::hours(12));
            assert!(long.usable(NOW + TimeDelta::days(364)));
        }
        let absurd = Times::of(NOW, TimeDelta::MAX, 0.0);
        assert!(absurd.refresh_at <= NOW + TimeDelta::hours(12));
    }

    #[test]
    fn what_is_needed_follows_from_state_age_and_rejection() {
        let (old, current) = (Want::NewerThan(6), Want::NewerThan(7));
        let table = [
            (State::Active, Want::Working, 0, Need::HandOut),
            (State::Active, Want::Working, 91, Need::Refresh),
            (State::Active, Want::Working, 500, Need::Refresh),
            // A 401 for an older generation: try the current one.
            (State::Active, old, 5, Need::HandOut),
            (State::Active, current, 5, Need::Refresh),
            // Fresh and still rejected: no loop.
            (State::Active, current, 0, Need::HandOut),
            (retrying(), Want::Working, 95, Need::HandOut),
            (
                retrying(),
                current,
                95,
                Need::Wait(NOW + TimeDelta::minutes(100)),
            ),
            (retrying(), Want::Working, 100, Need::Refresh),
            (misconfigured(), Want::Working, 30, Need::HandOut),
            (misconfigured(), current, 30, Need::Mend),
            (misconfigured(), current, 60, Need::Refresh),
            (login_required(), Want::Working, 0, Need::LogIn),
            (login_required(), Want::Working, 9000, Need::LogIn),
        ];
        for (state, want, minute, expected) in table {
            let at = NOW + TimeDelta::minutes(minute);
            assert_eq!(
                state.need(want, 7, &times(), at),
                expected,
                "{state:?} {want:?} at minute {minute}"
            );
        }
    }

    #[test]
    fn no_passing_failure_is_a_verdict_and_the_pace_slows_down() {
        let mut state = State::Active;
        let mut waits = Vec::new();
        for _ in 0..12 {
            let failure = Failure::Unavailable {
                why: "503".into(),
                retry_after: None,
            };
            let peers = Peers {
                others: 1,
                refused: 1,
                misconfigured: 1,
            };
            let change = state.after(&failure, peers, NOW, 1.0);
            assert_eq!(change.alert, Alert::None);
            let State::Retrying { retry_at, .. } = &change.state else {
                panic!("{:?}", change.state)
            };
            waits.push((*retry_at - NOW).num_seconds());
            state = change.state;
        }
        assert_eq!(waits[..4], [15, 30, 60, 120]);
        assert_eq!(waits.last(), Some(&900));
    }

    #[test]
    fn a_refusal_alone_asks_for_a_login_and_refusals_of_all_blame_the_configuration() {
        let refused = |state: State, others, refused, misconfigured| {
            let peers = Peers {
                others,
                refused,
                misconfigured,
            };
            let change = state.after(&Failure::Refused, peers, NOW, 0.0);
            let word = match change.state {
                State::LoginRequired { .. } => "login",
                State::Misconfigured { .. } => "configuration",
                State::Active | State::Retrying { .. } => "none",
            };
            (word, change.alert)
        };
        assert_eq!(
            refused(State::Active, 0, 0, 0),
            ("login", Alert::LoginRequired)
        );
        assert_eq!(
            refused(retrying(), 4, 0, 0),
            ("login", Alert::LoginRequired)
        );
        assert_eq!(
            refused(State::Active, 4, 1, 0),
            ("configuration", Alert::None)
        );
        assert_eq!(
            refused(State::Active, 4, 4, 3),
            ("configuration", Alert::ConfigurationFault)
        );
        // Probed again while nothing has changed: said once.
        assert_eq!(
            refused(misconfigured(), 4, 4, 4),
            ("configuration", Alert::None)
        );
        // Another clinic's refresh has worked since: it is this grant after all.
        assert_eq!(
            refused(misconfigured(), 4, 0, 1),
            ("login", Alert::LoginRequired)
        );
        assert_eq!(refused(login_required(), 1, 1, 1), ("login", Alert::None));
    }

    #[test]
    fn a_refused_client_is_told_once_for_all_grants() {
        let alert = |state: State, misconfigured| {
            let peers = Peers {
                others: 3,
                refused: 0,
                misconfigured,
            };
            state.after(&Failure::WrongClient, peers, NOW, 0.0).alert
        };
        assert_eq!(alert(State::Active, 0), Alert::ConfigurationFault);
        assert_eq!(alert(State::Active, 1), Alert::None);
        assert_eq!(alert(misconfigured(), 0), Alert::None);
    }
}
