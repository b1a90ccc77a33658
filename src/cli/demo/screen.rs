//! What one sees while the demonstration runs: a few lines that stay in place on a terminal, plain lines elsewhere.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Plain lines tell of progress every so many events.
const EVERY: usize = 100;

/// Prints a line. A reader that has gone, as with `| head`, must not keep the directory from being removed.
pub(super) fn line(words: impl Display) {
    drop(writeln!(io::stdout(), "{words}"));
}

/// How far things are.
pub(super) struct Progress {
    /// By clinic: its name, what Fullscript lists, what of it the receiver has.
    pub(super) clinics: Vec<(String, usize, usize)>,
    /// Events listed, over all clinics.
    pub(super) listed: usize,
    /// Events that the receiver accepted.
    pub(super) verified: usize,
    /// Whether every sink has everything that is listed, and the ledger says so.
    pub(super) settled: bool,
    /// Requests that Fullscript saw.
    pub(super) requests: u64,
    /// Requests that it allows per window.
    pub(super) budget: u32,
    /// The window.
    pub(super) window: Duration,
}

/// Where it is shown.
pub(super) enum Screen {
    /// On a terminal.
    Live {
        all: MultiProgress,
        clinics: Vec<ProgressBar>,
        foot: ProgressBar,
    },
    /// Anywhere else: told so far.
    Plain(usize),
}

impl Screen {
    /// A view for these clinics; plain unless standard output is a terminal that can do more.
    pub(super) fn open(clinics: &[&str]) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        if all.is_hidden() {
            return Self::Plain(0);
        }
        let add = |template: &str| {
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━━─");
            all.add(ProgressBar::no_length().with_style(style))
        };
        let rows = clinics.iter().map(|name| {
            let row = add("  {prefix:<12} {bar:30.green/white} {pos:>4} of {len} delivered");
            row.set_prefix((*name).to_owned());
            row
        });
        let rows = rows.collect();
        let foot = add("  {msg}");
        Self::Live {
            clinics: rows,
            foot,
            all,
        }
    }

    /// Says a line, above what stays in place.
    pub(super) fn say(&self, words: &str) {
        match self {
            // Fails only where there is nobody to read it.
            Self::Live { all, .. } => drop(all.println(words)),
            Self::Plain(_) => line(words),
        }
    }

    /// Shows how far things are.
    pub(super) fn show(&mut self, progress: &Progress) {
        match self {
            Self::Live { clinics, foot, .. } => {
                for (row, (_, listed, arrived)) in clinics.iter().zip(&progress.clinics) {
                    row.set_length(*listed as u64);
                    row.set_position(*arrived as u64);
                }
                foot.set_message(format!(
                    "{} signatures verified · {} requests of {} per {} min",
                    progress.verified,
                    progress.requests,
                    progress.budget,
                    progress.window.as_secs() / 60
                ));
            }
            Self::Plain(told) => {
                let now = progress.verified / EVERY;
                if now > *told {
                    *told = now;
                    line(format_args!(
                        "  {} of {} delivered and verified, {} requests",
                        progress.verified, progress.listed, progress.requests
                    ));
                }
            }
        }
    }

    /// Shows the last state and leaves it where it is.
    pub(super) fn close(&mut self, last: &Progress) {
        self.show(last);
        self.leave();
    }

    /// Draws nothing any more: a terminal echoes `^C` into the last line, and what is drawn after it is torn.
    pub(super) fn freeze(&self) {
        if let Self::Live { all, .. } = self {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        self.leave();
    }

    fn leave(&self) {
        if let Self::Live { clinics, foot, .. } = self {
            clinics.iter().for_each(ProgressBar::abandon);
            foot.abandon();
            // The last of them ends without a newline.
            line("");
        }
    }
}
