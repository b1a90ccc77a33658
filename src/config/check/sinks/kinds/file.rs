//! `kind = "file"`.

use super::super::super::values;
use crate::config::FileSink;
use crate::config::file::{Field, Section};

pub(super) fn read(section: &Section<'_>) -> Option<FileSink> {
    let path = section.required(
        "path",
        "the file that events are appended to, such as \"/srv/ehr/events.jsonl\"",
    );
    let path = path.as_ref().and_then(values::path);
    let mode = section.or("mode", 0o640, mode);
    let group = section.field("group").as_ref().and_then(values::words);
    let rotate_daily = section.or("rotate_daily", false, Field::boolean);
    Some(FileSink {
        path: path?,
        mode,
        group,
        rotate_daily,
    })
}

/// Permissions of a file that events are written to.
pub(super) fn mode(field: &Field<'_>) -> Option<u32> {
    let text = field.text()?;
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
    let Some(mode) = mode else {
        return field
            .refuse("permissions in octal which let the owner read and write, such as \"0640\"");
    };
    if mode & 0o007 != 0 {
        field.place.warning(
            field.shown(),
            "a last digit of 0: events are health data, and every user of this machine could read them",
            None,
        );
    }
    Some(mode)
}
