//! Whether the time is known well enough to forget by it. Pure.
//!
//! A clock that jumps forward by forty days makes every id look old; were they forgotten, all that Fullscript still lists
//! would be delivered again. Three clocks must go alike: the wall clock, which anybody may set; the time since the
//! machine was started, which nobody can; and the `Date` of Fullscript's answers, which a proxy may forge or cache. A jump
//! of the first against the second, or a start, begins the watch anew.

use chrono::{DateTime, TimeDelta, Utc};

/// Ours and Fullscript's differ by no more, or do not agree. Also the tolerance of an answer that was long on its way.
const AGREE: TimeDelta = TimeDelta::hours(1);
/// Between two answers the wall clock and the time since the start advance alike but for this: a clock that is corrected
/// by seconds is none that jumps.
const SLACK: TimeDelta = TimeDelta::minutes(2);
/// So long all have to go alike before anything is forgotten.
const WATCHED: TimeDelta = TimeDelta::hours(1);
/// After a longer absence than this, by the ledger,
const ABSENT: TimeDelta = TimeDelta::days(3);
/// they have to go alike for so long: time for a person to see what the log says.
const WATCHED_AFTER_ABSENCE: TimeDelta = TimeDelta::days(1);
/// By so many answers at least.
const LEAST_ANSWERS: u32 = 3;
/// An answer older than this tells nothing of now.
const FRESH: TimeDelta = TimeDelta::hours(2);

/// The clocks at one moment: when an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The wall clock of this machine.
    pub ours: DateTime<Utc>,
    /// The answer's `Date`.
    pub fullscripts: DateTime<Utc>,
    /// Since this machine was started, suspended time included.
    pub since_boot: TimeDelta,
}

/// What was heard since the clocks began to go alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    first: Option<Heard>,
    last: Option<Heard>,
    answers: u32,
    /// The newest reading, whatever it said.
    newest: Option<Heard>,
}

/// Why nothing may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Fullscript has not answered lately.
    NotHeard,
    /// This machine's clock and Fullscript's disagree.
    Disagree(Heard),
    /// They have not gone alike for long enough; so much is missing.
    TooShort(TimeDelta),
}

impl Watch {
    /// An answer has come.
    pub fn hear(&mut self, heard: Heard) {
        let jumped = self.newest.is_some_and(|before| {
            let by_wall = heard.ours - before.ours;
            (by_wall - (heard.since_boot - before.since_boot)).abs() > SLACK
        });
        if jumped {
            *self = Self::default();
        }
        self.newest = Some(heard);
        // One `Date` that is far off is a cache's or a forger's: it proves nothing, and takes nothing back.
        if (heard.ours - heard.fullscripts).abs() <= AGREE {
            self.first = self.first.or(Some(heard));
            self.last = Some(heard);
            self.answers = self.answers.saturating_add(1);
        }
    }
}

/// The time to forget by, at `since_boot`, or why there is none. `agreed_at` is the last time that was found so.
pub(super) fn judge(
    watch: &Watch,
    since_boot: TimeDelta,
    agreed_at: Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>, Doubt> {
    let fresh = |heard: &Heard| since_boot - heard.since_boot <= FRESH;
    let (Some(first), Some(last)) = (watch.first, watch.last.filter(fresh)) else {
        return Err(watch
            .newest
            .filter(fresh)
            .map_or(Doubt::NotHeard, Doubt::Disagree));
    };
    let earlier = last.ours.min(last.fullscripts);
    let needed = match agreed_at {
        Some(agreed_at) if earlier - agreed_at > ABSENT => WATCHED_AFTER_ABSENCE,
        Some(_) | None => WATCHED,
    };
    let left = needed - (last.since_boot - first.since_boot);
    if left > TimeDelta::zero() || watch.answers < LEAST_ANSWERS {
        return Err(Doubt::TooShort(left.max(TimeDelta::zero())));
    }
    Ok(earlier)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> DateTime<Utc> {
        "2026-03-20T12:00:00Z".parse().unwrap()
    }

    /// Answers at these minutes, each with what wall clock and `Date` are wrong by, in minutes; judged at the last one,
    /// ten minutes later.
    fn judged(answers: &[(i64, i64, i64)], absent: Option<TimeDelta>) -> Result<i64, Doubt> {
        let mut watch = Watch::default();
        for (minute, wall, date) in answers {
            let at = start() + TimeDelta::minutes(*minute);
            watch.hear(Heard {
                ours: at + TimeDelta::minutes(*wall),
                fullscripts: at + TimeDelta::minutes(*date),
                since_boot: TimeDelta::minutes(*minute),
            });
        }
        let last = answers.last().map_or(0, |answer| answer.0);
        let agreed_at = absent.map(|absent| start() - absent);
        let at = judge(&watch, TimeDelta::minutes(last + 10), agreed_at)?;
        Ok((at - start()).num_minutes())
    }

    #[test]
    fn nothing_is_forgotten_until_all_clocks_have_gone_alike() {
        const DAYS: i64 = 40 * 24 * 60;
        let short = |minutes| Err(Doubt::TooShort(TimeDelta::minutes(minutes)));
        for (what, answers, expected) in [
            ("nothing was heard", &[][..], Err(Doubt::NotHeard)),
            (
                "just started",
                &[(0, 0, 0), (1, 0, 0), (2, 0, 0)],
                short(58),
            ),
            (
                "an hour alike",
                &[(0, 0, 0), (30, 0, 0), (60, 0, 0)],
                Ok(60),
            ),
            ("by two answers only", &[(0, 0, 0), (60, 0, 0)], short(0)),
            (
                "Fullscript's is behind, within the tolerance",
                &[(0, 0, -20), (30, 0, -20), (60, 0, -20)],
                Ok(40),
            ),
            (
                "the wall clock jumps, and a proxy's Date with it",
                &[(0, 0, 0), (30, 0, 0), (60, 0, 0), (61, DAYS, DAYS)],
                short(60),
            ),
            (
                "it jumps, and Fullscript says otherwise",
                &[(0, 0, 0), (30, 0, 0), (60, 0, 0), (61, DAYS, 0)],
                Err(Doubt::Disagree(Heard {
                    ours: start() + TimeDelta::minutes(61 + DAYS),
                    fullscripts: start() + TimeDelta::minutes(61),
                    since_boot: TimeDelta::minutes(61),
                })),
            ),
            (
                "it jumps and jumps back",
                &[(0, 0, 0), (30, 0, 0), (60, DAYS, 0), (61, 0, 0)],
                short(60),
            ),
            (
                "it is corrected by seconds",
                &[(0, 0, 0), (30, 1, 0), (60, 0, 0)],
                Ok(60),
            ),
            (
                "a cache answers once with an old Date",
                &[(0, 0, 0), (30, 0, 0), (45, 0, -DAYS), (60, 0, 0)],
                Ok(60),
            ),
            (
                "a cache answers last with an old Date",
                &[(0, 0, 0), (30, 0, 0), (60, 0, 0), (65, 0, -DAYS)],
                Ok(60),
            ),
            (
                "nothing but a cache has answered for hours",
                &[(0, 0, 0), (30, 0, 0), (60, 0, 0), (200, 0, -200)],
                Err(Doubt::Disagree(Heard {
                    ours: start() + TimeDelta::minutes(200),
                    fullscripts: start(),
                    since_boot: TimeDelta::minutes(200),
                })),
            ),
            (
                "started with a wrong clock, which is set soon after",
                &[(0, -DAYS, 0), (5, 0, 0), (30, 0, 0), (65, 0, 0)],
                Ok(65),
            ),
        ] {
            assert_eq!(judged(answers, None), expected, "{what}");
        }
    }

    #[test]
    fn an_answer_of_hours_ago_tells_nothing_of_now() {
        let mut watch = Watch::default();
        for minute in [0, 30, 60] {
            let at = start() + TimeDelta::minutes(minute);
            watch.hear(Heard {
                ours: at,
                fullscripts: at,
                since_boot: TimeDelta::minutes(minute),
            });
        }
        let later = |minutes| judge(&watch, TimeDelta::minutes(minutes), None).is_ok();
        assert!(later(180));
        assert!(!later(181));
    }

    #[test]
    fn after_days_of_absence_they_have_to_go_alike_for_a_day() {
        let hour = [(0, 0, 0), (30, 0, 0), (60, 0, 0)];
        let day = [(0, 0, 0), (30, 0, 0), (60, 0, 0), (24 * 60, 0, 0)];
        let absent = Some(TimeDelta::days(40));
        assert_eq!(judged(&hour, Some(TimeDelta::days(2))), Ok(60));
        assert_eq!(
            judged(&hour, absent),
            Err(Doubt::TooShort(TimeDelta::hours(23)))
        );
        assert_eq!(judged(&day, absent), Ok(24 * 60));
    }
}
