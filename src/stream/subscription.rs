//! One subscription: what it says next, whatever the wire.
//!
//! It stands at a position. While the ring does not reach back to it, it reads pages of the ledger, as fast as its
//! client takes them; then it follows the ring. A follower that the ring has left behind is closed with `ChannelFull`
//! and resumes from where it was: nothing is skipped for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::cursor;
use super::frame::{self, Facts, Frame, Status, Text};
use super::hub::{Behind, Follower, Hub, PAGE};
use super::presence::Presence;
use super::subscribe::Wanted;
use crate::ledger::FrameRow;

/// How many frames of the ring are looked at together.
const SHARE: usize = 64;

/// Why a subscription ends from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client is too slow for what happens.
    ChannelFull,
    /// The client is silent.
    Silent,
    /// The daemon stops.
    Shutdown,
    /// What comes next was forgotten before it was read.
    Expired {
        /// All up to here is gone.
        floor: i64,
    },
    /// The ledger cannot be read.
    Unavailable,
}

impl Ending {
    /// Its word in the last status frame.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::ChannelFull => "ChannelFull",
            Self::Silent => "Silent",
            Self::Shutdown => "Shutdown",
            Self::Expired { .. } => "Expired",
            Self::Unavailable => "Unavailable",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::ChannelFull => {
                "more has happened than this connection took: resume behind the last seq"
            }
            Self::Silent => "nothing was heard of this client: resume behind the last seq",
            Self::Shutdown => "the daemon stops: resume behind the last seq",
            Self::Expired { .. } => {
                "what comes next was forgotten before it was read: begin with after=oldest"
            }
            Self::Unavailable => {
                "the ledger cannot be read at the moment: resume behind the last seq"
            }
        }
    }

    /// The code that a WebSocket is closed with.
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::ChannelFull | Self::Silent => 4408,
            Self::Shutdown => 1001,
            Self::Expired { .. } => 4410,
            Self::Unavailable => 1013,
        }
    }
}

/// What is said next.
pub(super) enum Said {
    /// An event or a status.
    Text(Text),
    /// A sign of life.
    Ping,
    /// The last status; nothing follows.
    Last(Text, Ending),
}

/// One subscription.
pub(super) struct Subscription {
    hub: Arc<Hub>,
    wanted: Wanted,
    /// All frames up to here were looked at.
    position: i64,
    /// The position that the client knows.
    told: i64,
    follows: bool,
    /// What is said up to.
    said: i64,
    /// What waits to be said, and the position that it brings the client to.
    waiting: VecDeque<(i64, Text)>,
    follower: Follower,
    pings: Interval,
    stop: CancellationToken,
    presence: Presence,
}

impl Subscription {
    /// A subscription behind `position`.
    pub(super) fn new(
        hub: &Arc<Hub>,
        wanted: Wanted,
        (position, first): (i64, Status),
        ping: Duration,
        stop: &CancellationToken,
        presence: Presence,
    ) -> Self {
        let mut pings = interval(ping);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        pings.reset();
        let cursor = cursor::written(&hub.epoch, position);
        let phi = Some(wanted.phi);
        Self {
            hub: Arc::clone(hub),
            wanted,
            position,
            told: position,
            said: position,
            follows: false,
            waiting: VecDeque::from([(position, frame::status(first, Some(&cursor), phi, None))]),
            follower: hub.follow(),
            pings,
            stop: stop.clone(),
            presence,
        }
    }

    /// What is said next. Safe to be dropped: nothing is lost, and nothing is said twice.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            if self.stop.is_cancelled() {
                return self.end(Ending::Shutdown);
            }
            // However much happens, a sign of life is due.
            if self.pings.tick().now_or_never().is_some() {
                self.tell_position();
                return Said::Ping;
            }
            if let Some((position, text)) = self.waiting.pop_front() {
                self.said = position;
                self.presence.said(position);
                return Said::Text(text);
            }
            match self.follower.after(self.position, SHARE) {
                Ok(frames) if frames.is_empty() && self.follows => {
                    tokio::select! {
                        () = self.follower.news() => {}
                        () = self.stop.cancelled() => {}
                        _ = self.pings.tick() => {
                            self.tell_position();
                            return Said::Ping;
                        }
                    }
                }
                Ok(frames) => self.take(&frames),
                Err(Behind) if self.follows => return self.end(Ending::ChannelFull),
                Err(Behind) => {
                    if let Err(ending) = self.read().await {
                        return self.end(ending);
                    }
                }
            }
        }
    }

    /// Frames of the ring. The first time there are no more it has caught up.
    fn take(&mut self, frames: &[Arc<Frame>]) {
        for frame in frames {
            self.position = frame.seq;
            if self.wanted.wants(&frame.facts) {
                let text = frame.text(self.wanted.phi).clone();
                self.waiting.push_back((frame.seq, text));
                self.told = frame.seq;
            }
        }
        if !self.follows && frames.len() < SHARE {
            self.follows = true;
            self.told = -1;
            self.tell_position();
        }
    }

    /// A page of the ledger.
    async fn read(&mut self) -> Result<(), Ending> {
        let page = self.hub.log.after(self.position, PAGE).await;
        let page = page.map_err(|_| Ending::Unavailable)?;
        if page.extent.floor > self.position {
            return Err(Ending::Expired {
                floor: page.extent.floor,
            });
        }
        if page.frames.is_empty() {
            self.position = self.position.max(page.extent.head);
        }
        for row in &page.frames {
            self.position = row.seq;
            if let Some(text) = text_of(&self.hub, row, &self.wanted) {
                self.waiting.push_back((row.seq, text));
                self.told = row.seq;
            }
        }
        Ok(())
    }

    /// A client whose filter lets little through must know how far it is all the same: else its cursor grows too old.
    fn tell_position(&mut self) {
        if self.told != self.position {
            self.told = self.position;
            let cursor = cursor::written(&self.hub.epoch, self.position);
            let status = frame::status(Status::CaughtUp, Some(&cursor), None, None);
            self.waiting.push_back((self.position, status));
        }
    }

    /// The last words: the position they name is that of the last frame that was said; or the oldest that is good, where
    /// that one is not.
    pub(super) fn end(&mut self, ending: Ending) -> Said {
        let why = Some((ending.reason(), ending.message()));
        // What still waits was not said.
        let said = if let Ending::Expired { floor } = ending {
            floor
        } else if self.waiting.is_empty() {
            self.position
        } else {
            self.said
        };
        let cursor = cursor::written(&self.hub.epoch, said);
        Said::Last(
            frame::status(Status::Closed, Some(&cursor), None, why),
            ending,
        )
    }
}

/// The text of a row, if it is wanted. What is not wanted, or may not be seen, is not even opened.
pub(super) fn text_of(hub: &Hub, row: &FrameRow, wanted: &Wanted) -> Option<Text> {
    let facts = Facts::of(row);
    if !wanted.wants(&facts) {
        return None;
    }
    let body = match wanted.phi {
        crate::config::Phi::Full => hub.log.body(row),
        crate::config::Phi::Ids => None,
    };
    let frame = hub.frame(row, facts, body.as_ref());
    Some(frame.text(wanted.phi).clone())
}
