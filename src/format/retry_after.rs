//! `Retry-After`: when a server wishes to be asked again, in seconds or as a date.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The longest wish that is granted: a receiver's wrong clock must not silence it for a year.
const LONGEST: Duration = Duration::from_hours(24);

/// The wish, at most a day; `None` where there is none, it is unreadable, or its date has passed.
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wish = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds is still a number of seconds, and longer than the longest.
        text.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        let at = DateTime::parse_from_rfc2822(text).ok()?;
        (at.with_timezone(&Utc) - now).to_std().ok()?
    };
    Some(wish.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_in_both_forms_and_never_believed_beyond_a_day() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let seconds = |n| Some(Duration::from_secs(n));
        for (text, expected) in [
            ("0", seconds(0)),
            ("120", seconds(120)),
            (" 7 ", seconds(7)),
            ("86401", seconds(86_400)),
            ("99999999999999999999999999", seconds(86_400)),
            ("Thu, 01 Jan 2026 00:01:00 GMT", seconds(60)),
            ("Fri, 01 Jan 2027 00:00:00 GMT", seconds(86_400)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
