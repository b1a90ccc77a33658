//! `[audit]`.

use std::path::Path;
use std::time::Duration;

use super::values;
use crate::config::Audit;
use crate::config::duration::DAY;
use crate::config::file::{Field, Section};

/// Six years, with two leap days: what HIPAA asks for (45 CFR 164.316).
const KEEP: Duration = Duration::from_hours(2192 * 24);
/// A hundred years.
const LONGEST: Duration = Duration::from_hours(36_525 * 24);

/// Reads the section, if the file has it.
pub(super) fn read(root: &Section<'_>, state: Option<&Path>) -> Option<Audit> {
    let is_on = root.field("audit").is_some();
    let section = root.section("audit");
    let directory = section.field("directory").as_ref().and_then(values::path);
    let keep = section.or("keep", KEEP, |field| {
        let keep = values::span(field, LONGEST)?;
        if keep < DAY {
            return field.refuse("at least \"1d\": whole days are kept");
        }
        Some(keep)
    });
    let required = section.or("required", false, Field::boolean);
    section.finish();
    is_on.then(|| Audit {
        directory: directory.unwrap_or_else(|| state.unwrap_or(Path::new("/")).join("audit")),
        keep,
        required,
    })
}
