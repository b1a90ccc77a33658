//! What a list request asks for, and which rows answer it (`fullscript-api.md` §2 and §8). Pure.
//!
//! Values that make no sense are ignored, as the contract assumes: a client that relies on a 4xx for a bad filter
//! would read the wrong window without noticing.

use std::ops::Range;

use chrono::{Days, NaiveDate, NaiveTime, TimeDelta, TimeZone as _};
use chrono_tz::Tz;

/// Which days a `created_at` filter takes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Bounds {
    /// `<` and `>` exclude the day they name, a range includes both ends.
    #[default]
    Usual,
    /// Every day that is named is included.
    Inclusive,
    /// No day that is named is included.
    Exclusive,
}

/// How many rows a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizes {
    /// Where the request names none.
    pub default: u32,
    /// At most; more is clamped.
    pub max: u32,
}

impl Default for PageSizes {
    fn default() -> Self {
        Self {
            default: 25,
            max: 100,
        }
    }
}

/// The day filter as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DayFilter {
    Before(NaiveDate),
    After(NaiveDate),
    Between(NaiveDate, NaiveDate),
}

impl DayFilter {
    /// Reads `<yyyy-mm-dd`, `>yyyy-mm-dd` or `yyyy-mm-dd..yyyy-mm-dd`.
    fn parse(text: &str) -> Option<Self> {
        let day = |text: &str| NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d").ok();
        if let Some(rest) = text.strip_prefix('<') {
            day(rest).map(Self::Before)
        } else if let Some(rest) = text.strip_prefix('>') {
            day(rest).map(Self::After)
        } else {
            let (from, to) = text.split_once("..")?;
            Some(Self::Between(day(from)?, day(to)?))
        }
    }

    /// The moments it takes in, as Unix seconds.
    pub(super) fn span(self, zone: Tz, bounds: Bounds) -> Range<i64> {
        let start = |day: NaiveDate| start_of_day(day, zone);
        let end =
            |day: NaiveDate| start_of_day(day.checked_add_days(Days::new(1)).unwrap_or(day), zone);
        match (self, bounds) {
            (Self::Before(day), Bounds::Usual | Bounds::Exclusive) => i64::MIN..start(day),
            (Self::Before(day), Bounds::Inclusive) => i64::MIN..end(day),
            (Self::After(day), Bounds::Usual | Bounds::Exclusive) => end(day)..i64::MAX,
            (Self::After(day), Bounds::Inclusive) => start(day)..i64::MAX,
            (Self::Between(from, to), Bounds::Usual | Bounds::Inclusive) => start(from)..end(to),
            (Self::Between(from, to), Bounds::Exclusive) => end(from)..start(to),
        }
    }
}

/// The first moment of a day; where midnight is skipped by a clock change, the first that exists.
fn start_of_day(day: NaiveDate, zone: Tz) -> i64 {
    let midnight = day.and_time(NaiveTime::MIN);
    (0..4)
        .find_map(|hour| {
            zone.from_local_datetime(&(midnight + TimeDelta::hours(hour)))
                .earliest()
        })
        .map_or_else(|| midnight.and_utc().timestamp(), |at| at.timestamp())
}

/// `sort_by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    CreatedAt,
    EventType,
}

/// `order_by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

/// One list request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) days: Option<DayFilter>,
    pub(super) event_type: Option<String>,
    pub(super) sort_by: SortBy,
    pub(super) order: Order,
    pub(super) page: usize,
    pub(super) size: usize,
}

impl Query {
    /// Reads a raw query string.
    pub(super) fn parse(raw: &str, sizes: PageSizes) -> Self {
        let mut query = Self {
            days: None,
            event_type: None,
            sort_by: SortBy::CreatedAt,
            order: Order::Ascending,
            page: 1,
            size: sizes.default as usize,
        };
        for (key, value) in url::form_urlencoded::parse(raw.as_bytes()) {
            match key.as_ref() {
                "created_at" => query.days = DayFilter::parse(&value),
                "event_type" if !value.is_empty() => query.event_type = Some(value.into_owned()),
                "sort_by" if value == "event_type" => query.sort_by = SortBy::EventType,
                "order_by" if value.eq_ignore_ascii_case("desc") => query.order = Order::Descending,
                "page[number]" => query.page = positive(&value).unwrap_or(1),
                "page[size]" => {
                    query.size = positive(&value)
                        .unwrap_or(sizes.default as usize)
                        .min(sizes.max as usize);
                }
                _ => {}
            }
        }
        query
    }
}

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&n| n > 0)
}

/// `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Meta {
    pub(super) current_page: usize,
    pub(super) next_page: Option<usize>,
    pub(super) prev_page: Option<usize>,
    pub(super) total_pages: usize,
    pub(super) total_count: usize,
}

/// Which of `total` rows a page shows, and its `meta`. A page beyond the end is empty.
pub(super) fn page(total: usize, number: usize, size: usize) -> (Range<usize>, Meta) {
    let total_pages = total.div_ceil(size.max(1));
    let from = number.saturating_sub(1).saturating_mul(size).min(total);
    let to = from.saturating_add(size).min(total);
    let meta = Meta {
        current_page: number,
        next_page: (number < total_pages).then(|| number + 1),
        prev_page: (1 < number && number <= total_pages).then(|| number - 1),
        total_pages,
        total_count: total,
    };
    (from..to, meta)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn takes_in(filter: &str, zone: Tz, bounds: Bounds, at: &str) -> bool {
        let at = DateTime::parse_from_rfc3339(at).unwrap().timestamp();
        DayFilter::parse(filter)
            .unwrap()
            .span(zone, bounds)
            .contains(&at)
    }

    #[test]
    fn the_day_filter_cuts_where_its_zone_and_bounds_say() {
        let eastern = chrono_tz::America::New_York;
        let (usual, inclusive, exclusive) = (Bounds::Usual, Bounds::Inclusive, Bounds::Exclusive);
        for (filter, zone, bounds, at, expected) in [
            (">2026-03-02", eastern, usual, "2026-03-03T04:59:59Z", false),
            (">2026-03-02", eastern, usual, "2026-03-03T05:00:00Z", true),
            (">2026-03-02", Tz::UTC, usual, "2026-03-03T00:00:00Z", true),
            (
                ">2026-03-02",
                eastern,
                inclusive,
                "2026-03-02T05:00:00Z",
                true,
            ),
            (
                ">2026-03-02",
                eastern,
                inclusive,
                "2026-03-02T04:59:59Z",
                false,
            ),
            ("<2026-03-02", eastern, usual, "2026-03-02T04:59:59Z", true),
            ("<2026-03-02", eastern, usual, "2026-03-02T05:00:00Z", false),
            (
                "<2026-03-02",
                eastern,
                inclusive,
                "2026-03-03T04:59:59Z",
                true,
            ),
            (
                "2026-03-01..2026-03-02",
                eastern,
                usual,
                "2026-03-01T05:00:00Z",
                true,
            ),
            (
                "2026-03-01..2026-03-02",
                eastern,
                usual,
                "2026-03-03T04:59:59Z",
                true,
            ),
            (
                "2026-03-01..2026-03-02",
                eastern,
                usual,
                "2026-03-03T05:00:00Z",
                false,
            ),
            (
                "2026-03-01..2026-03-03",
                eastern,
                exclusive,
                "2026-03-02T05:00:00Z",
                true,
            ),
            (
                "2026-03-01..2026-03-03",
                eastern,
                exclusive,
                "2026-03-03T05:00:00Z",
                false,
            ),
            // The day the clocks go forward is 23 hours long.
            (
                "2026-03-08..2026-03-08",
                eastern,
                usual,
                "2026-03-09T04:00:00Z",
                false,
            ),
            (
                "2026-03-08..2026-03-08",
                eastern,
                usual,
                "2026-03-09T03:59:59Z",
                true,
            ),
        ] {
            assert_eq!(
                takes_in(filter, zone, bounds, at),
                expected,
                "{filter} {zone} {bounds:?} {at}"
            );
        }
    }

    #[test]
    fn bad_values_are_ignored_and_sizes_clamped() {
        let parse = |raw| Query::parse(raw, PageSizes::default());
        assert_eq!(parse("").size, 25);
        assert_eq!(parse("page%5Bsize%5D=101").size, 100);
        assert_eq!(parse("page[size]=0&page[number]=-3").page, 1);
        assert_eq!(parse("page[size]=0").size, 25);
        assert_eq!(parse("created_at=yesterday").days, None);
        assert_eq!(parse("created_at=%3C2026-13-45").days, None);
        assert_eq!(parse("order_by=DESC").order, Order::Descending);
        assert_eq!(parse("order_by=up&sort_by=colour").order, Order::Ascending);
    }

    #[test]
    fn pages_end_and_a_page_beyond_the_end_is_empty() {
        let (rows, meta) = page(250, 3, 100);
        assert_eq!(
            (rows, meta.next_page, meta.prev_page),
            (200..250, None, Some(2))
        );
        let (rows, meta) = page(250, 4, 100);
        assert_eq!(
            (rows.len(), meta.next_page, meta.prev_page),
            (0, None, None)
        );
        assert_eq!(page(0, 1, 100).1.total_pages, 0);
        assert_eq!(page(100, 1, 100).1.next_page, None);
        assert_eq!(page(1, usize::MAX, 100).0.len(), 0);
    }
}
