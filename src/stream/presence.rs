//! Who is subscribed: a place that is taken, and the one point where a subscription begins and ends for whoever keeps
//! account of it. Where the audit log is on, nobody gets a frame of whom it does not know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;

use super::cursor;
use super::refusal::Refusal;
use super::subscribe::Grant;
use crate::audit::{Action, Actor, Audit, Record};
use crate::clock::SharedClock;
use crate::config::{ClinicSelection, STREAM};
use crate::domain::ClinicName;

/// How many clinics of a token a record names.
const MOST_CLINICS: usize = 16;

/// Over which wire somebody is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Sse,
    WebSocket,
}

impl Wire {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::WebSocket => "websocket",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Sse => "/v1/stream",
            Self::WebSocket => "/v1/subscribe",
        }
    }
}

/// Keeps account of who is told what.
#[derive(Clone)]
pub(super) struct Attendance {
    audit: Audit,
    clock: SharedClock,
    /// Of the cursors: without it a number would say nothing once a ledger was restored.
    epoch: String,
    /// Records of subscriptions that have ended: the server waits for them.
    ended: TaskTracker,
    /// Who is subscribed: at the end some clients cannot be waited for, and their ends are recorded all the same.
    present: Arc<Mutex<Present>>,
}

#[derive(Default)]
struct Present {
    next: u64,
    spans: HashMap<u64, Span>,
}

/// What one subscription was told.
struct Span {
    name: String,
    wire: Wire,
    from: i64,
    upto: i64,
}

impl Attendance {
    pub(super) fn new(audit: Audit, clock: SharedClock, epoch: String, ended: TaskTracker) -> Self {
        Self {
            audit,
            clock,
            epoch,
            ended,
            present: Arc::default(),
        }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self, span: &Span) -> Record {
        let closed = self.entry(&span.name, Action::StreamClose, span.wire.path());
        let closed = closed.note("after", self.cursor(span.from));
        closed.note("upto", self.cursor(span.upto))
    }

    /// Records that all end who are still subscribed.
    pub(super) async fn close(&self) {
        let spans = std::mem::take(&mut self.present().spans);
        let closed: Vec<Record> = spans.values().map(|span| self.closed(span)).collect();
        if !closed.is_empty() && self.audit.is_on() {
            written(self.audit.record(closed).await);
        }
    }

    fn entry(&self, name: &str, action: Action, path: &str) -> Record {
        let actor = Actor::Stream(name.to_owned());
        Record::new(&actor, action, self.clock.now())
            .sink(STREAM)
            .at("GET", path)
    }

    fn cursor(&self, position: i64) -> String {
        cursor::written(&self.epoch, position)
    }

    /// A subscription begins behind `position`.
    pub(super) async fn open(
        &self,
        grant: &Grant,
        (wire, place): (Wire, OwnedSemaphorePermit),
        position: i64,
    ) -> Result<Presence, Refusal> {
        let name = grant.name.as_str();
        let opened = self.entry(name, Action::StreamOpen, wire.path());
        let opened = opened.note("after", self.cursor(position));
        self.keep(reach(opened, grant)).await?;
        tracing::info!(token = name, wire = wire.as_str(), "a subscription began");
        let span = Span {
            name: name.to_owned(),
            wire,
            from: position,
            upto: position,
        };
        let mut present = self.present();
        present.next += 1;
        let number = present.next;
        present.spans.insert(number, span);
        drop(present);
        Ok(Presence {
            attendance: self.clone(),
            number,
            _place: place,
        })
    }

    /// Frames are about to be read over plain HTTP.
    pub(super) async fn read(
        &self,
        grant: &Grant,
        (from, upto): (i64, i64),
        count: usize,
    ) -> Result<(), Refusal> {
        let read = self.entry(&grant.name, Action::Read, "/v1/events");
        let read = read.note("after", self.cursor(from));
        let read = read.note("upto", self.cursor(upto)).note("frames", count);
        self.keep(reach(read, grant)).await
    }

    async fn keep(&self, record: Record) -> Result<(), Refusal> {
        if self.audit.holds_back() {
            return Err(Refusal::Unaudited);
        }
        let kept = self.audit.record(vec![record]).await;
        kept.map_err(|_| Refusal::Unaudited)
    }
}

/// Notes how far a token reaches: how much of an event, and of which clinics.
fn reach(record: Record, grant: &Grant) -> Record {
    let clinics = match &grant.clinics {
        // The name of no clinic.
        ClinicSelection::All => ":all".to_owned(),
        ClinicSelection::Named(named) => {
            let mut names: Vec<&str> = named.iter().map(ClinicName::as_str).collect();
            if names.len() > MOST_CLINICS {
                names.truncate(MOST_CLINICS);
                names.push(":more");
            }
            names.join(".")
        }
    };
    record
        .note("phi", grant.phi.as_str())
        .note("clinics", clinics)
}

/// A subscriber's place; dropping it ends the subscription.
pub(super) struct Presence {
    attendance: Attendance,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Presence {
    /// All that is wanted up to here was said.
    pub(super) fn said(&mut self, position: i64) {
        if let Some(span) = self.attendance.present().spans.get_mut(&self.number) {
            span.upto = span.upto.max(position);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let attendance = &self.attendance;
        // Its end may be recorded already.
        let Some(span) = attendance.present().spans.remove(&self.number) else {
            return;
        };
        let (name, wire) = (&span.name, span.wire.as_str());
        tracing::info!(token = %name, wire, "a subscription ended");
        if !attendance.audit.is_on() {
            return;
        }
        let closed = attendance.closed(&span);
        let audit = attendance.audit.clone();
        attendance
            .ended
            .spawn(async move { written(audit.record(vec![closed]).await) });
    }
}

fn written<E: std::fmt::Display>(kept: Result<(), E>) {
    if let Err(error) = kept {
        tracing::error!("the end of a subscription is not in the audit log: {error}");
    }
}
