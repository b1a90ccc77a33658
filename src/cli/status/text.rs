//! `status` for people: the verdict, then a row per clinic and per sink, and below a row what is wrong with it.

use super::super::output::{Paint, Tone, ago, aligned, cells, wrapped};
use super::view::{ClinicView, Freshness, Grant, Problem, Severity, SinkView, View};

/// How long a line of a problem's sentence may be. Commands are never broken: they are copied.
const WIDTH: usize = 90;

/// The whole screen.
pub(super) fn render(view: &View, paint: Paint) -> String {
    let mut lines = vec![paint.tint(tone(view.severity()), &view.verdict())];
    lines.extend(view.general.iter().flat_map(|problem| told(problem, paint)));
    let header = cells(["CLINIC", "TOKEN", "POLLED", "NEW IN 24 H"]);
    let rows = view
        .clinics
        .iter()
        .map(|clinic| (clinic_row(clinic, view), &clinic.problems));
    lines.extend(table(header, rows, paint));
    let header = cells(["SINK", "WAITING", "OLDEST", "HELD", "DEAD", "DONE"]);
    let rows = view
        .sinks
        .iter()
        .map(|sink| (sink_row(sink, view), &sink.problems));
    lines.extend(table(header, rows, paint));
    let daemon = if view.running {
        "running"
    } else {
        "not running"
    };
    lines.push(String::new());
    lines.push(paint.tint(
        Tone::Note,
        &format!("daemon {daemon}, state in {}", view.directory),
    ));
    lines.join("\n") + "\n"
}

fn table<'a>(
    header: Vec<String>,
    rows: impl Iterator<Item = (Vec<String>, &'a Vec<Problem>)>,
    paint: Paint,
) -> Vec<String> {
    let mut all = vec![header];
    let mut problems: Vec<&[Problem]> = vec![&[]];
    for (row, wrong) in rows {
        all.push(row);
        problems.push(wrong);
    }
    if all.len() == 1 {
        return Vec::new();
    }
    let mut lines = vec![String::new()];
    for (index, (line, wrong)) in aligned(&all).into_iter().zip(problems).enumerate() {
        lines.push(if index == 0 {
            paint.tint(Tone::Heading, &line)
        } else {
            line
        });
        lines.extend(wrong.iter().flat_map(|problem| told(problem, paint)));
    }
    lines
}

/// The sentence, and the command on a line of its own, ready to be copied.
fn told(problem: &Problem, paint: Paint) -> Vec<String> {
    let mark = match problem.severity {
        Severity::Note => "-",
        Severity::Warning => "!",
        Severity::Critical => "!!",
    };
    let tone = tone_of_line(problem.severity);
    let words = wrapped(&problem.detail, WIDTH).into_iter().enumerate();
    let mut lines: Vec<String> = words
        .map(|(index, words)| {
            let mark = if index == 0 { mark } else { "" };
            paint.tint(tone, &format!("  {mark:<2} {words}"))
        })
        .collect();
    lines.extend(
        problem
            .remedy
            .iter()
            .map(|command| format!("       {command}")),
    );
    lines
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Note => Tone::Good,
        Severity::Warning => Tone::Warning,
        Severity::Critical => Tone::Critical,
    }
}

fn tone_of_line(severity: Severity) -> Tone {
    match severity {
        Severity::Note => Tone::Note,
        Severity::Warning | Severity::Critical => tone(severity),
    }
}

fn clinic_row(clinic: &ClinicView, view: &View) -> Vec<String> {
    let token = match clinic.grant {
        Grant::None => "no grant".to_owned(),
        Grant::Ok { until } if until > view.now => {
            format!("ok until {}", until.format("%H:%M UTC"))
        }
        Grant::Ok { .. } => "ok, renewal due".to_owned(),
        Grant::Retrying => "ok, retrying".to_owned(),
        Grant::Misconfigured => "configuration fault".to_owned(),
        Grant::LoginRequired { .. } => "login required".to_owned(),
    };
    let polled = match clinic.freshness {
        Freshness::Polled(at) => ago(at, view.now),
        Freshness::Baseline { done, of } => format!("first listing, {done} of {of}"),
        Freshness::Never => "never".to_owned(),
        Freshness::Parked => "parked".to_owned(),
        Freshness::Not => "-".to_owned(),
    };
    cells([&clinic.name, &token, &polled, &clinic.new.to_string()])
}

fn sink_row(sink: &SinkView, view: &View) -> Vec<String> {
    let oldest = sink
        .waiting_since
        .map_or("-".to_owned(), |since| ago(since, view.now));
    cells([
        &sink.name,
        &sink.waiting.to_string(),
        &oldest,
        &sink.held.to_string(),
        &sink.dead.to_string(),
        &sink.done.to_string(),
    ])
}
