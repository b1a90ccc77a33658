//! Spans of time as the configuration writes them: a whole number and one unit, `"60s"`, `"5m"`, `"1h"`, `"7d"`.

use std::time::Duration;

/// A day, which [`Duration`] has no stable constructor for.
pub(super) const DAY: Duration = Duration::from_hours(24);

/// The units, longest first, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads a span; `None` if it is not one, or is longer than can be counted.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (unit, seconds) = UNITS.iter().find(|(unit, _)| text.ends_with(*unit))?;
    let number = text.strip_suffix(*unit)?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    number.checked_mul(*seconds).map(Duration::from_secs)
}

/// Writes a span with the longest unit that divides it.
pub fn show_duration(span: Duration) -> String {
    let whole = span.as_secs();
    let unit = UNITS
        .iter()
        .find(|(_, seconds)| whole > 0 && whole.is_multiple_of(*seconds));
    match unit {
        Some((unit, seconds)) => format!("{}{unit}", whole / seconds),
        None => format!("{whole}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_whole_number_and_one_unit() {
        for (text, seconds) in [("60s", 60), ("5m", 300), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)));
            assert_eq!(
                parse_duration(&show_duration(Duration::from_secs(seconds))),
                Some(Duration::from_secs(seconds))
            );
        }
        for text in [
            "",
            "60",
            "s",
            "-1s",
            "+1s",
            "1.5h",
            "1h30m",
            "5 m",
            "99999999999999999999d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(300)), "5m");
    }
}
