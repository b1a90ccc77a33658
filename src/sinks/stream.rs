//! The live subscription as a sink: each delivery becomes one frame that the stream may serve and replay.
//!
//! Exact: a frame is keyed by its delivery, so what a crash leaves claimed is there or it is not. The sink sees no
//! ledger and no client: it hands frames over ([`Frames`]) and rings.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{Checkpoint, Delivered, Orphan, Resumed, Sink, Stopped};
use crate::config;
use crate::domain::{
    ClinicId, ClinicName, DeliveryId, EventBody, EventId, EventType, Outcome, Parcel, entity_of,
    patient_of,
};

/// What is made of one delivery. May carry health data: no `Debug`.
#[derive(Clone)]
pub struct NewFrame {
    /// Its key: a delivery has one frame, however often it is attempted.
    pub delivery: DeliveryId,
    /// The event's id.
    pub event: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// When it happened, by the vendor's clock.
    pub created_at: DateTime<Utc>,
    /// The clinic by its name in the configuration.
    pub clinic: ClinicName,
    /// The clinic by Fullscript's id, where the event has one.
    pub clinic_id: Option<ClinicId>,
    /// The patient's id. Whoever keeps it keeps a keyed digest only.
    pub patient: Option<String>,
    /// The id of what it happened to, likewise.
    pub entity: Option<String>,
    /// The event object, where it is kept.
    pub body: Option<EventBody>,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// When it is forgotten.
    pub kept_until: DateTime<Utc>,
}

/// Keeps frames. Whoever makes it has the ledger, and seals; the sink only hands over.
pub trait Frames: Send + Sync + 'static {
    /// Makes frames durable, in this order; returns when they can be served. One whose delivery has a frame already
    /// changes nothing. `Err` tells why not, in words for a person: then it is unknown which of them are there.
    fn append(&self, frames: Vec<NewFrame>) -> BoxFuture<'_, Result<(), String>>;

    /// Which of these deliveries have a frame.
    fn shown(
        &self,
        deliveries: Vec<DeliveryId>,
    ) -> BoxFuture<'_, Result<HashSet<DeliveryId>, String>>;
}

/// The frames as the sink shares them.
pub type SharedFrames = Arc<dyn Frames>;

/// The sink of `[stream]`.
pub struct StreamSink {
    settings: config::StreamSink,
    frames: SharedFrames,
    bell: Arc<Notify>,
}

impl StreamSink {
    /// A sink that keeps its frames there.
    pub fn new(settings: config::StreamSink, frames: SharedFrames) -> Self {
        Self {
            settings,
            frames,
            bell: Arc::default(),
        }
    }

    /// Rung when frames became servable.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    fn frame(&self, parcel: &Parcel, now: DateTime<Utc>) -> NewFrame {
        let retain = TimeDelta::from_std(self.settings.retain).unwrap_or(TimeDelta::MAX);
        NewFrame {
            delivery: parcel.delivery,
            event: parcel.event.clone(),
            event_type: parcel.event_type.clone(),
            created_at: parcel.created_at,
            clinic: parcel.clinic.clone(),
            clinic_id: parcel.clinic_id.clone(),
            patient: patient_of(&parcel.event_type, &parcel.body),
            entity: entity_of(&parcel.event_type, &parcel.body),
            body: self.settings.keeps_bodies.then(|| parcel.body.clone()),
            made_at: now,
            kept_until: now
                .checked_add_signed(retain)
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }
}

impl Sink for StreamSink {
    fn batch(&self) -> usize {
        512
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn is_exact(&self) -> bool {
        true
    }

    async fn resume(
        &self,
        _: Option<Checkpoint>,
        orphans: Vec<Orphan>,
    ) -> Result<Resumed, Stopped> {
        let deliveries: Vec<DeliveryId> = orphans.iter().map(|orphan| orphan.delivery).collect();
        let shown = self.frames.shown(deliveries.clone()).await;
        let shown = shown.map_err(Stopped)?;
        let (adopted, absent) = deliveries.into_iter().partition(|d| shown.contains(d));
        // Those that are adopted may never have been told of.
        self.bell.notify_one();
        Ok(Resumed {
            adopted,
            absent,
            doubtful: Vec::new(),
            checkpoint: None,
        })
    }

    async fn deliver(&self, parcels: &[Parcel], now: DateTime<Utc>) -> Result<Delivered, Stopped> {
        let frames = parcels.iter().map(|parcel| self.frame(parcel, now));
        self.frames
            .append(frames.collect())
            .await
            .map_err(Stopped)?;
        crate::crash::point("stream.appended");
        self.bell.notify_one();
        Ok(Delivered {
            outcomes: vec![Outcome::Yes; parcels.len()],
            checkpoint: None,
            status_codes: Vec::new(),
        })
    }
}
