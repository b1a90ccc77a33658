//! A sweep: one way of going through a lane's list.

use std::fmt;

/// How far back a sweep looks. They feed one set of ids; the wider ones find what became visible late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sweep {
    /// The newest pages, down to the lane's *complete-to* mark.
    Fast,
    /// Three days.
    Deep,
    /// All thirty days. The first one of a lane is its baseline.
    Reconcile,
}

impl Sweep {
    /// The one word for it in the ledger, in logs and in commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Deep => "deep",
            Self::Reconcile => "reconcile",
        }
    }

    /// The sweep that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Fast, Self::Deep, Self::Reconcile]
            .into_iter()
            .find(|sweep| sweep.as_str() == word)
    }
}

/// What a lane's whole list was when all of it had been admitted: one page, to the byte, on one day, asked for with
/// the grant of one clinic. While it is the same there is nothing in it to admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListDigest(pub [u8; 32]);

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
