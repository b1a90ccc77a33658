//! Where a subscriber stands: `<epoch>-<number>`, opaque to clients.
//!
//! The epoch is what a restore changes: without it a cursor of before would point somewhere into what came after, and
//! whatever lies between would be skipped in silence.

use super::frame::Status;
use super::refusal::Refusal;
use crate::ledger::Extent;

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With what becomes servable from now on.
    Now,
    /// With the oldest frame that is kept.
    Oldest,
    /// Behind this frame.
    After {
        /// Which count of frames it was.
        epoch: String,
        /// Its number.
        seq: i64,
    },
}

impl Start {
    /// Reads `after` or `Last-Event-ID`.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let cursor = |text: &str| {
            let (epoch, seq) = text.rsplit_once('-')?;
            let known = epoch.len() == 8 && epoch.bytes().all(|b| b.is_ascii_hexdigit());
            let plain = !seq.is_empty() && seq.bytes().all(|b| b.is_ascii_digit());
            (known && plain).then(|| {
                Some(Self::After {
                    epoch: epoch.to_owned(),
                    seq: seq.parse().ok()?,
                })
            })?
        };
        match text {
            "now" => Ok(Self::Now),
            "oldest" => Ok(Self::Oldest),
            text => cursor(text).ok_or_else(|| {
                Refusal::malformed("after is the seq of a frame, \"oldest\" or \"now\"")
            }),
        }
    }

    /// The number behind which frames are wanted; refused where some of them are gone.
    pub(super) fn position(&self, extent: &Extent) -> Result<i64, Refusal> {
        match self {
            Self::Now => Ok(extent.head),
            Self::Oldest => Ok(extent.floor),
            Self::After { epoch, seq }
                if *epoch == extent.epoch && (extent.floor..=extent.head).contains(seq) =>
            {
                Ok(*seq)
            }
            Self::After { .. } => Err(Refusal::Expired {
                oldest: written(&extent.epoch, extent.floor),
            }),
        }
    }
}

/// Where a subscription begins, and with which status. `last_event_id` goes before `after`: a browser that reconnects says
/// in the header where it was, and the address still says where it first began.
pub(super) fn begin(
    after: Option<&Start>,
    last_event_id: Option<&str>,
    extent: &Extent,
) -> Result<(i64, Status), Refusal> {
    let last = last_event_id.map(Start::parse).transpose()?;
    let start = last.as_ref().or(after).unwrap_or(&Start::Now);
    let first = match start {
        Start::After { .. } => Status::Reconnected,
        Start::Now | Start::Oldest => Status::Connected,
    };
    Ok((start.position(extent)?, first))
}

/// A cursor as it is sent.
pub(super) fn written(epoch: &str, seq: i64) -> String {
    format!("{epoch}-{seq}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent() -> Extent {
        Extent {
            epoch: "0123abcd".to_owned(),
            floor: 10,
            head: 20,
        }
    }

    #[test]
    fn a_cursor_is_good_from_the_floor_to_the_head_of_its_own_epoch() {
        for (text, position) in [
            ("0123abcd-10", Some(10)),
            ("0123abcd-20", Some(20)),
            ("oldest", Some(10)),
            ("now", Some(20)),
            ("0123abcd-9", None),
            ("0123abcd-21", None),
            ("0123abce-15", None),
        ] {
            let found = Start::parse(text).unwrap().position(&extent());
            assert_eq!(found.ok(), position, "{text}");
        }
        let expired = Start::parse("0123abcd-9").unwrap().position(&extent());
        assert!(matches!(expired, Err(Refusal::Expired { oldest }) if oldest == "0123abcd-10"));
    }

    #[test]
    fn a_browser_that_reconnects_goes_on_where_it_was() {
        let first = Start::parse("0123abcd-12").unwrap();
        for (after, last, expected) in [
            (None, None, (20, Status::Connected)),
            (Some(&Start::Oldest), None, (10, Status::Connected)),
            (Some(&first), None, (12, Status::Reconnected)),
            (Some(&first), Some("0123abcd-17"), (17, Status::Reconnected)),
        ] {
            assert_eq!(begin(after, last, &extent()), Ok(expected));
        }
        assert!(begin(Some(&first), Some("0123abcd-3"), &extent()).is_err());
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in [
            "",
            "15",
            "0123abcd",
            "0123abcd-",
            "0123abcd--1",
            "0123abcd-1x",
            "xyz-1",
            "0123abcd-99999999999999999999",
        ] {
            assert!(
                matches!(Start::parse(text), Err(Refusal::Malformed(_))),
                "{text}"
            );
        }
    }
}
