//! `kind = "exec"`.

use std::time::Duration;

use super::super::super::poll::concurrency;
use super::super::super::values::span;
use crate::config::ExecSink;
use crate::config::duration::DAY;
use crate::config::file::{Field, Section};

pub(super) fn read(section: &Section<'_>) -> Option<ExecSink> {
    let command = section.required(
        "command",
        "the program and its arguments, such as [\"/usr/local/bin/import\", \"--quiet\"]",
    );
    let command = command.as_ref().and_then(command_line);
    let timeout = section.or("timeout", Duration::from_mins(1), |f| span(f, DAY));
    let concurrency = section.or("concurrency", 1, concurrency);
    Some(ExecSink {
        command: command?,
        timeout,
        concurrency,
    })
}

fn command_line(field: &Field<'_>) -> Option<Vec<String>> {
    let members = field.list()?;
    let program = members.first()?;
    if !program.text()?.starts_with('/') {
        program
            .refuse::<()>("the absolute path of a program: there is no shell and no search path")?;
    }
    let words: Option<Vec<_>> = members.iter().map(Field::text).collect();
    Some(words?.into_iter().map(str::to_owned).collect())
}
