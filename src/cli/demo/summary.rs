//! What came of it, counted in three places that know nothing of each other. Pure.

use std::fmt;

use super::Ending;
use crate::cli::Exit;

/// The figures, each counted where it is named.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// At the simulator: what it lists.
    pub(super) listed: u64,
    /// In the ledger: deliveries to the webhook.
    pub(super) issued: u64,
    /// In the ledger: those of them that are done.
    pub(super) done: u64,
    /// In the ledger: deliveries to the file that are done.
    pub(super) file_done: u64,
    /// At the receiver: different events with a good signature.
    pub(super) verified: u64,
    /// At the receiver: events that came again after they had been accepted.
    pub(super) duplicates: u64,
    /// At the receiver: requests with a bad signature.
    pub(super) bad: u64,
    /// At the receiver: refused once on purpose.
    pub(super) refused: u64,
    /// In the file.
    pub(super) lines: u64,
    /// At the simulator: requests.
    pub(super) requests: u64,
    /// At the simulator: answers of 429.
    pub(super) throttled: u64,
    /// At the simulator: refreshes, without the imports.
    pub(super) refreshes: u64,
}

/// The figures, and how the demonstration ended.
pub(super) struct Summary {
    pub(super) figures: Figures,
    pub(super) ending: Ending,
}

impl Summary {
    /// Nothing came twice, everything was signed, and who delivered agrees with who received.
    fn is_sound(&self) -> bool {
        let Figures {
            done,
            file_done,
            verified,
            duplicates,
            bad,
            lines,
            ..
        } = self.figures;
        done == verified && file_done == lines && duplicates == 0 && bad == 0
    }

    fn is_complete(&self) -> bool {
        let Figures {
            listed,
            issued,
            done,
            lines,
            ..
        } = self.figures;
        listed == issued && listed == done && listed == lines
    }

    /// 0 only if everything that is listed arrived once; 3 if it was stopped before that.
    pub(super) fn exit(&self) -> Exit {
        match (self.is_sound(), self.is_complete(), self.ending) {
            (true, true, _) => Exit::Done,
            (true, false, Ending::Interrupted) => Exit::Partial,
            (true, false, Ending::Played | Ending::TooSlow) | (false, ..) => Exit::Unexpected,
        }
    }

    fn verdict(&self) -> String {
        let Figures {
            listed,
            done,
            verified,
            duplicates,
            bad,
            ..
        } = self.figures;
        match (self.exit(), self.ending) {
            (Exit::Done, _) => format!("listed = delivered = verified: {listed}, 0 duplicates"),
            (Exit::Partial, _) => format!(
                "stopped early: {verified} of {listed} delivered and verified, 0 duplicates; {} were still pending\n\
                 (a real daemon goes on with them at its next start)",
                listed.saturating_sub(verified)
            ),
            (_, Ending::TooSlow) if self.is_sound() => format!(
                "NOT FINISHED in time: {verified} of {listed} delivered and verified; is this machine very busy?"
            ),
            _ => format!(
                "THE FIGURES DISAGREE: listed {listed}, delivered {done}, verified {verified}, {duplicates} duplicates, \
                 {bad} bad signatures. This is a defect: please report it"
            ),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        let ledger = format!("{} / {}", figures.issued, figures.done);
        for (what, figure, note) in [
            (
                "listed by Fullscript (simulator)",
                figures.listed.to_string(),
                "",
            ),
            ("in the ledger: issued / done", ledger, ""),
            ("received and verified", figures.verified.to_string(), ""),
            ("lines in the file sink", figures.lines.to_string(), ""),
            ("duplicates", figures.duplicates.to_string(), ""),
            ("bad signatures", figures.bad.to_string(), ""),
            (
                "refused by the receiver",
                figures.refused.to_string(),
                "a 500 on purpose, delivered later",
            ),
            ("requests made", figures.requests.to_string(), ""),
            (
                "answered 429",
                figures.throttled.to_string(),
                "on purpose, asked again later",
            ),
            (
                "token refreshes",
                figures.refreshes.to_string(),
                "access tokens live for seconds here",
            ),
        ] {
            let note = if figure == "0" { "" } else { note };
            let line = format!("  {what:<34}{figure:>11}  {note}");
            writeln!(f, "{}", line.trim_end())?;
        }
        writeln!(f, "\n{}", self.verdict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(ending: Ending, change: impl FnOnce(&mut Figures)) -> Summary {
        let mut figures = Figures {
            listed: 412,
            issued: 412,
            done: 412,
            file_done: 412,
            verified: 412,
            lines: 412,
            ..Figures::default()
        };
        change(&mut figures);
        Summary { figures, ending }
    }

    #[test]
    fn only_figures_that_agree_are_a_success() {
        let good = summary(Ending::Played, |_| {});
        assert_eq!(good.exit(), Exit::Done);
        let text = good.to_string();
        assert!(text.contains("listed = delivered = verified: 412, 0 duplicates"));
        assert!(text.contains("  in the ledger: issued / done        412 / 412\n"));
        for change in [
            |f: &mut Figures| f.listed += 1,
            |f: &mut Figures| f.issued += 1,
            |f: &mut Figures| f.done -= 1,
            |f: &mut Figures| f.verified -= 1,
            |f: &mut Figures| f.lines += 1,
            |f: &mut Figures| f.duplicates += 1,
            |f: &mut Figures| f.bad += 1,
        ] {
            assert_eq!(summary(Ending::Played, change).exit(), Exit::Unexpected);
        }
    }

    #[test]
    fn an_interruption_excuses_what_is_pending_and_nothing_else() {
        let pending = |f: &mut Figures| (f.done, f.verified, f.file_done, f.lines) = (5, 5, 4, 4);
        let stopped = summary(Ending::Interrupted, pending);
        assert_eq!(stopped.exit(), Exit::Partial);
        assert!(stopped.to_string().contains("407 were still pending"));
        assert_eq!(
            summary(Ending::Interrupted, |f| f.duplicates = 1).exit(),
            Exit::Unexpected
        );
        assert_eq!(
            summary(Ending::Interrupted, |f| f.verified = 1).exit(),
            Exit::Unexpected
        );
        assert_eq!(summary(Ending::TooSlow, pending).exit(), Exit::Unexpected);
    }
}
