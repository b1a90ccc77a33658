//! `status --check`: one line as the Monitoring Plugins guidelines have it, for Nagios, Icinga, Zabbix and their kin.

use super::super::Exit;
use super::view::{NEARLY_LOST, Severity, View};

/// The line, and the exit code that says the same.
pub(super) fn line(view: &View) -> (String, Exit) {
    let (word, exit) = match view.severity() {
        Severity::Note => ("OK", Exit::Done),
        // Plugins have exit codes of their own; these two are 1 and 2.
        Severity::Warning => ("WARNING", Exit::Unexpected),
        Severity::Critical => ("CRITICAL", Exit::Usage),
    };
    let verdict = view.verdict();
    let words = verdict.strip_prefix("All is well: ").unwrap_or(&verdict);
    let line = format!("{word} - {}|{}\n", one_line(words), performance(view));
    (line, exit)
}

/// Nothing could be read.
pub(super) fn unknown(message: &str) -> (String, Exit) {
    // 3 by the plugins' table.
    (format!("UNKNOWN - {}\n", one_line(message)), Exit::Partial)
}

/// A bar begins the performance data, a line end ends the message.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "/")
}

/// `label=value[unit];[warn];[crit]`. While a clinic has never been polled its age is unknown (`U`).
fn performance(view: &View) -> String {
    let oldest = view.oldest_poll().map_or("U".to_owned(), |age| {
        format!("{}s", age.num_seconds().max(0))
    });
    let sum = |of: fn(&super::view::SinkView) -> u64| view.sinks.iter().map(of).sum::<u64>();
    let new: u64 = view.clinics.iter().map(|clinic| clinic.new).sum();
    format!(
        "oldest_poll={oldest};{};{} waiting={} held={};0 dead={};0 new_24h={new}",
        view.stale_after.num_seconds(),
        NEARLY_LOST.num_seconds(),
        view.waiting(),
        sum(|sink| sink.held),
        sum(|sink| sink.dead),
    )
}
