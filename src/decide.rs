//! What an attempt's outcome means for its delivery. Pure: the same facts always give the same decision, so that the
//! whole table can be read, and tested, in one place.
//!
//! Only the receiver's own *no* counts towards `max_attempts`, and not while the receiver as a whole does not work. A
//! receiver that cannot be reached, asks to come later, or leaves us in doubt keeps the event due until
//! `give_up_after`: a week's outage loses nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::OnDoubt;
use crate::domain::{Outcome, Parked};

/// The first wait after a failed attempt; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// No wait of our own is longer.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// No wait that a receiver wishes for is longer.
const LONGEST_WISH: Duration = Duration::from_hours(24);

/// Nothing is set aside before so many attempts: if its receiver did not work, the breaker would be open by then, or
/// opens with the next delivery that is tried.
const TRIED_ENOUGH: u32 = 5;

/// The rules of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// After so many answers of *no* a delivery is dead.
    pub max_attempts: u32,
    /// After so long without a yes a delivery is dead.
    pub give_up_after: Duration,
    /// What becomes of a delivery that may have arrived.
    pub on_doubt: OnDoubt,
    /// So long one delivery may hold back the later ones of its key, where the sink keeps an order.
    pub order_wait: Option<Duration>,
}

/// What the sink's other deliveries say of its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It works, as far as anybody knows.
    Works,
    /// The breaker is open: no failure says anything of the delivery that was tried.
    Down,
}

/// What is known of the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which attempt ended, from 1.
    pub attempt: u32,
    /// How often the receiver had said no before it.
    pub refusals: u32,
    /// Since when it is owed.
    pub issued_at: DateTime<Utc>,
    /// When its first attempt failed.
    pub failing_since: Option<DateTime<Utc>>,
}

/// What becomes of the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It arrived. Final.
    Done,
    /// It is due again.
    Again {
        /// When.
        at: DateTime<Utc>,
        /// How often the receiver has said no by now.
        refusals: u32,
        /// How this attempt ended.
        reason: String,
        /// It may have arrived.
        in_doubt: bool,
    },
    /// A person decides.
    Held {
        /// How this attempt ended.
        reason: String,
        /// It may have arrived.
        in_doubt: bool,
    },
    /// It waits for something outside.
    Parked {
        /// For what.
        why: Parked,
        /// How this attempt ended.
        reason: String,
        /// When that is looked at again.
        until: Option<DateTime<Utc>>,
    },
    /// Never to be handed over.
    Skipped {
        /// Why.
        reason: String,
    },
    /// Given up.
    Dead {
        /// How this attempt ended.
        reason: String,
    },
}

/// Decides. `jitter` is uniform in 0‥1: full jitter, so that a thousand deliveries that failed together do not come
/// back together.
pub fn decide(
    rules: Rules,
    facts: Facts,
    outcome: Outcome,
    standing: Standing,
    now: DateTime<Utc>,
    jitter: f64,
) -> Decision {
    // A receiver that cannot be reached or is no receiver any more says nothing of this delivery.
    let is_its_own = !matches!(outcome, Outcome::NotSent { .. } | Outcome::Gone { .. });
    let in_doubt = matches!(outcome, Outcome::Doubt { .. });
    let counted = u32::from(standing != Standing::Down);
    let give_up_at = after(facts.issued_at, rules.give_up_after);
    let (reason, wish, refusals) = match outcome {
        Outcome::Yes => return Decision::Done,
        Outcome::Skip { reason } => return Decision::Skipped { reason },
        Outcome::Doubt { reason } if rules.on_doubt == OnDoubt::Hold => {
            return Decision::Held {
                reason,
                in_doubt: true,
            };
        }
        Outcome::No {
            reason,
            retry_after,
        } => (reason, retry_after, facts.refusals + counted),
        Outcome::Later {
            reason,
            retry_after,
        } => (reason, retry_after, facts.refusals),
        Outcome::NotSent { reason } | Outcome::Doubt { reason } | Outcome::Gone { reason } => {
            (reason, None, facts.refusals)
        }
        // What was accepted is never given up.
        Outcome::Park { why, reason, .. } if why != Parked::AwaitsResult && now >= give_up_at => {
            return given_up(&reason, rules);
        }
        Outcome::Park { why, reason, until } => return Decision::Parked { why, reason, until },
        Outcome::ClinicRefused { reason } => {
            return Decision::Parked {
                why: Parked::ClinicPaused,
                reason,
                until: None,
            };
        }
    };
    if refusals >= rules.max_attempts {
        let reason = format!("{reason}; refused {refusals} times");
        return Decision::Dead { reason };
    }
    if let (Some(wait), Some(since)) = (rules.order_wait, facts.failing_since)
        && is_its_own
        && standing == Standing::Works
        && facts.attempt >= TRIED_ENOUGH
        && now >= after(since, wait)
    {
        let minutes = wait.as_secs() / 60;
        let reason =
            format!("{reason}; set aside after it held back later events for {minutes} min");
        return Decision::Held { reason, in_doubt };
    }
    let wait = match wish {
        // The breaker says when the receiver is tried again. Behind all others, so that each probe is another one.
        _ if standing == Standing::Down => Duration::ZERO,
        // A wish of no wait at all would be a tight loop, for as long as the receiver wishes it.
        Some(wish) => wish.clamp(FIRST_WAIT / 10, LONGEST_WISH),
        None => back_off(facts.attempt, FIRST_WAIT, LONGEST_WAIT, jitter),
    };
    if now >= give_up_at {
        return given_up(&reason, rules);
    }
    Decision::Again {
        at: after(now, wait).min(give_up_at),
        refusals,
        reason,
        in_doubt,
    }
}

fn given_up(reason: &str, rules: Rules) -> Decision {
    let days = rules.give_up_after.as_secs() / 86_400;
    let reason = format!("{reason}; given up after {days} days");
    Decision::Dead { reason }
}

/// The wait before attempt `attempt + 1`: doubles from `first` to `longest`, with full jitter (0‥1) but never less
/// than a tenth, so that a retry is never immediate.
pub fn back_off(attempt: u32, first: Duration, longest: Duration, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1_u32 << attempt.saturating_sub(1).min(20));
    doubled.min(longest).mul_f64(jitter.clamp(0.1, 1.0))
}

fn after(at: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(wait)
        .ok()
        .and_then(|wait| at.checked_add_signed(wait))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn rules(on_doubt: OnDoubt) -> Rules {
        Rules {
            max_attempts: 3,
            give_up_after: 30 * DAY,
            on_doubt,
            order_wait: None,
        }
    }

    fn decided(
        on_doubt: OnDoubt,
        attempt: u32,
        refusals: u32,
        age: Duration,
        outcome: Outcome,
    ) -> Decision {
        let issued_at = DateTime::UNIX_EPOCH;
        let facts = Facts {
            attempt,
            refusals,
            issued_at,
            failing_since: None,
        };
        let (rules, standing) = (rules(on_doubt), Standing::Works);
        decide(rules, facts, outcome, standing, issued_at + age, 1.0)
    }

    fn no() -> Outcome {
        Outcome::No {
            reason: "500".into(),
            retry_after: None,
        }
    }

    fn not_sent() -> Outcome {
        Outcome::NotSent {
            reason: "refused".into(),
        }
    }

    fn doubt() -> Outcome {
        Outcome::Doubt {
            reason: "time-out".into(),
        }
    }

    #[test]
    fn a_yes_is_final() {
        assert_eq!(
            decided(OnDoubt::Hold, 1, 0, DAY, Outcome::Yes),
            Decision::Done
        );
    }

    #[test]
    fn only_an_answer_of_no_counts_towards_max_attempts() {
        let Decision::Again { refusals, .. } = decided(OnDoubt::Hold, 1, 1, DAY, no()) else {
            panic!()
        };
        assert_eq!(refusals, 2);
        assert!(matches!(
            decided(OnDoubt::Hold, 3, 2, DAY, no()),
            Decision::Dead { .. }
        ));
        for outcome in [
            not_sent(),
            Outcome::Later {
                reason: "429".into(),
                retry_after: None,
            },
        ] {
            let Decision::Again { refusals, .. } = decided(OnDoubt::Hold, 900, 2, DAY, outcome)
            else {
                panic!()
            };
            assert_eq!(refusals, 2);
        }
    }

    #[test]
    fn a_week_of_outage_loses_nothing_and_a_month_gives_up() {
        assert!(matches!(
            decided(OnDoubt::Hold, 99, 0, 7 * DAY, not_sent()),
            Decision::Again { .. }
        ));
        assert!(matches!(
            decided(OnDoubt::Hold, 99, 0, 30 * DAY, not_sent()),
            Decision::Dead { .. }
        ));
    }

    #[test]
    fn what_waits_for_something_outside_is_parked_and_only_what_was_accepted_for_ever() {
        let park = |why| Outcome::Park {
            why,
            reason: "waits".into(),
            until: None,
        };
        for why in Parked::ALL {
            let parked = decided(OnDoubt::Hold, 900, 2, DAY, park(why));
            assert!(matches!(parked, Decision::Parked { why: found, .. } if found == why));
            let late = decided(OnDoubt::Hold, 1, 0, 31 * DAY, park(why));
            let is_dead = matches!(late, Decision::Dead { .. });
            assert_eq!(is_dead, why != Parked::AwaitsResult, "{why:?}");
        }
        let reason = "401".to_owned();
        assert_eq!(
            decided(OnDoubt::Hold, 1, 0, DAY, Outcome::ClinicRefused { reason }),
            Decision::Parked {
                why: Parked::ClinicPaused,
                reason: "401".into(),
                until: None
            }
        );
    }

    #[test]
    fn doubt_is_held_or_sent_again_as_the_sink_says() {
        assert!(matches!(
            decided(OnDoubt::Hold, 1, 0, DAY, doubt()),
            Decision::Held { .. }
        ));
        assert!(matches!(
            decided(OnDoubt::Resend, 1, 0, DAY, doubt()),
            Decision::Again { .. }
        ));
    }

    #[test]
    fn what_holds_back_others_for_too_long_is_set_aside_unless_it_may_be_the_receiver() {
        let hour = Duration::from_hours(1);
        let rules = Rules {
            order_wait: Some(hour),
            max_attempts: 100,
            ..rules(OnDoubt::Resend)
        };
        let facts = Facts {
            attempt: 5,
            refusals: 4,
            issued_at: DateTime::UNIX_EPOCH,
            failing_since: Some(DateTime::UNIX_EPOCH),
        };
        let is_held = |facts, outcome, standing, age| {
            let now = DateTime::UNIX_EPOCH + age;
            let decision = decide(rules, facts, outcome, standing, now, 1.0);
            matches!(decision, Decision::Held { .. })
        };
        assert!(is_held(facts, no(), Standing::Works, hour));
        assert!(is_held(facts, doubt(), Standing::Works, hour));
        assert!(!is_held(facts, no(), Standing::Works, hour / 2));
        assert!(!is_held(facts, not_sent(), Standing::Works, hour));
        assert!(!is_held(facts, no(), Standing::Down, hour));
        let early = Facts {
            attempt: 4,
            ..facts
        };
        assert!(!is_held(early, no(), Standing::Works, hour));
    }

    #[test]
    fn while_its_receiver_does_not_work_no_refusal_counts_and_nothing_waits_by_itself() {
        let facts = Facts {
            attempt: 9,
            refusals: 2,
            issued_at: DateTime::UNIX_EPOCH,
            failing_since: None,
        };
        let now = DateTime::UNIX_EPOCH + DAY;
        let decision = decide(rules(OnDoubt::Hold), facts, no(), Standing::Down, now, 1.0);
        let Decision::Again { at, refusals, .. } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!((at, refusals), (now, 2));
    }

    #[test]
    fn a_receivers_wish_is_followed_within_reason() {
        let wish = |secs| Outcome::Later {
            reason: "429".into(),
            retry_after: Some(Duration::from_secs(secs)),
        };
        let Decision::Again { at, .. } = decided(OnDoubt::Hold, 1, 0, DAY, wish(90)) else {
            panic!()
        };
        assert_eq!(at, DateTime::UNIX_EPOCH + DAY + Duration::from_secs(90));
        let Decision::Again { at, .. } = decided(OnDoubt::Hold, 1, 0, DAY, wish(u64::MAX / 4))
        else {
            panic!()
        };
        assert_eq!(at, DateTime::UNIX_EPOCH + DAY + DAY);
    }

    #[test]
    fn waits_double_up_to_an_hour_and_are_never_immediate() {
        let wait = |attempt, jitter| back_off(attempt, FIRST_WAIT, LONGEST_WAIT, jitter).as_secs();
        assert_eq!(
            [1, 2, 3, 40].map(|attempt| wait(attempt, 1.0)),
            [10, 20, 40, 3600]
        );
        assert_eq!(wait(1, 0.0), 1);
    }
}
