//! `[poll]` and `[poll.budget]`, and lists of categories.

use std::time::Duration;

use super::app::Servers;
use super::values::span;
use crate::config::duration::{DAY, parse_duration};
use crate::config::file::{Field, Section};
use crate::config::problem::resembling;
use crate::config::{Budget, FirstRun, Poll};
use crate::domain::{Category, KNOWN_CATEGORIES};

/// How far back Fullscript lists events (`fullscript-api.md` §2).
const EDGE: Duration = Duration::from_hours(30 * 24);
/// What Fullscript allows per window (`fullscript-api.md` §5).
const REQUESTS: u32 = 5_000;
/// Its rolling window.
const WINDOW: Duration = Duration::from_mins(5);

pub(super) fn read(section: &Section<'_>, servers: Servers) -> Poll {
    let poll = Poll {
        interval: section.or("interval", Duration::from_mins(1), |f| span(f, DAY)),
        deep_interval: section.or("deep_interval", Duration::from_hours(1), |f| {
            span(f, 3 * DAY)
        }),
        reconcile_interval: section.or("reconcile_interval", DAY, |f| span(f, EDGE)),
        first_run: section.or("first_run", FirstRun::Baseline, first_run),
        categories: section.or("categories", defaults(servers), |f| categories(f, servers)),
        budget: budget(&section.section("budget"), servers),
        concurrency: section.or("concurrency", 4, concurrency),
    };
    section.finish();
    poll
}

/// How many at once: 1 to 1024.
pub(super) fn concurrency(field: &Field<'_>) -> Option<usize> {
    field.number(1..1025).and_then(|n| usize::try_from(n).ok())
}

fn first_run(field: &Field<'_>) -> Option<FirstRun> {
    let text = field.text()?;
    if text == "baseline" {
        return Some(FirstRun::Baseline);
    }
    match parse_duration(text) {
        Some(span) if !span.is_zero() && span <= EDGE => Some(FirstRun::Since(span)),
        _ => {
            field.place.problem_like(
                field.shown(),
                "\"baseline\", or a span such as \"7d\", at most 30d: Fullscript lists no older events",
                resembling(text, ["baseline"]),
            );
            None
        }
    }
}

fn defaults(servers: Servers) -> Vec<Category> {
    KNOWN_CATEGORIES
        .iter()
        .filter(|row| servers != Servers::Canadian || !row.us_only)
        .filter_map(|row| Category::new(row.name).ok())
        .collect()
}

/// A list of categories. One that this program does not know is polled too, with a warning: Fullscript adds some.
pub(super) fn categories(field: &Field<'_>, servers: Servers) -> Option<Vec<Category>> {
    let mut categories: Vec<Category> = Vec::new();
    for member in field.list()? {
        let Some(text) = member.text() else { continue };
        let Ok(category) = Category::new(text) else {
            member.refuse::<()>("the name of a category: letters, digits, _ and -");
            continue;
        };
        if categories.contains(&category) {
            member.refuse::<()>("each category once");
            continue;
        }
        match category.known() {
            None => member.place.warning(
                member.shown(),
                "a category that this program knows; it is polled all the same",
                resembling(text, KNOWN_CATEGORIES.iter().map(|row| row.name)),
            ),
            Some(row) if row.us_only && servers == Servers::Canadian => member.place.warning(
                member.shown(),
                "a category that the Canadian servers have; it is polled all the same",
                None,
            ),
            Some(_) => {}
        }
        categories.push(category);
    }
    Some(categories)
}

fn budget(section: &Section<'_>, servers: Servers) -> Budget {
    let bounded = servers != Servers::Loopback;
    let requests = section.or("requests", REQUESTS, |field| {
        if bounded {
            at_most_what_fullscript_allows(field)
        } else {
            field.number(1..u32::MAX)
        }
    });
    let window = section.or("window", WINDOW, |field| {
        let window = span(field, DAY)?;
        if bounded && window < WINDOW {
            return field.refuse(
                "5m or longer: Fullscript counts over 5 minutes (shorter is for a loopback app.api_base only)",
            );
        }
        Some(window)
    });
    // The defaults shrink with a small budget, so that lowering `requests` alone stays good.
    let share = |key, default: u32| {
        section.or(key, default.min(requests / 2), |field: &Field<'_>| {
            field.number(0..requests)
        })
    };
    let reserve = share("reserve", 500);
    let backfill = share("backfill", 2_000);
    if u64::from(reserve) + u64::from(backfill) > u64::from(requests) {
        section.place.problem(
            format_args!("reserve {reserve} and backfill {backfill}, of {requests} requests"),
            "reserve and backfill that together are at most requests",
        );
    }
    section.finish();
    Budget {
        requests,
        window,
        reserve,
        backfill,
    }
}

fn at_most_what_fullscript_allows(field: &Field<'_>) -> Option<u32> {
    let requests = field.number(1..u32::MAX)?;
    if requests > REQUESTS {
        return field.refuse(
            "at most 5000, which is what Fullscript allows (more is for a loopback app.api_base only)",
        );
    }
    Some(requests)
}
