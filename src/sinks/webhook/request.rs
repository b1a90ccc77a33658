//! The request of one attempt: its body, which is the same on every attempt, and its headers, of which the attempt's
//! number and the signature are its own.

use chrono::{DateTime, Utc};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::RequestBuilder;

use super::{Signing, WebhookSink};
use crate::config::{IdempotencyKey, WebhookFormat};
use crate::domain::Parcel;
use crate::format::{NoBody, cloudevents, fullscript, healthchain, native, signature, standard};

/// The header that tells a repeat to receivers and gateways which know nothing of webhooks.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What the headers of an attempt say.
#[derive(Clone, Copy)]
pub(super) struct Stamp<'a> {
    /// The event, or what stands for several.
    pub(super) event: &'a str,
    /// Which attempt it is, from 1.
    pub(super) attempt: u32,
    /// The message's id: the same on every attempt.
    pub(super) id: &'a str,
}

impl WebhookSink {
    pub(super) fn body(&self, parcel: &Parcel) -> Result<Vec<u8>, NoBody> {
        let data = || self.payload.data(&parcel.body);
        let event = || self.payload.event(parcel);
        let metadata = || {
            let (event_type, clinic) = (&parcel.event_type, &parcel.clinic);
            self.enrich.metadata_for(event_type, clinic)
        };
        let body = match self.settings.format {
            WebhookFormat::Fullscript => fullscript::body(&event()?),
            WebhookFormat::EventPayload => fullscript::wrapped(&fullscript::body(&event()?)),
            WebhookFormat::Native => native::body_with(parcel, &metadata(), data()?.as_deref())?,
            WebhookFormat::HealthChain => {
                healthchain::body(parcel, &metadata(), &event()?, data()?.as_deref())?
            }
            WebhookFormat::CloudEvents => {
                cloudevents::body_with(parcel, &metadata(), data()?.as_deref())?
            }
        };
        Ok(body)
    }

    fn content_type(&self) -> &'static str {
        match self.settings.format {
            WebhookFormat::Fullscript
            | WebhookFormat::EventPayload
            | WebhookFormat::Native
            | WebhookFormat::HealthChain => "application/json",
            WebhookFormat::CloudEvents => cloudevents::CONTENT_TYPE,
        }
    }

    /// With what every request to the receiver carries.
    pub(super) fn introduced(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.headers(self.settings.headers.clone());
        match &self.secrets.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization.clone()),
            None => request,
        }
    }

    /// The attempt, ready to be sent.
    pub(super) fn post(
        &self,
        parcel: &Parcel,
        body: Vec<u8>,
        now: DateTime<Utc>,
    ) -> RequestBuilder {
        let stamp = Stamp {
            event: parcel.event.as_str(),
            attempt: parcel.attempt,
            // Of the delivery, and of this instance: another one counts its deliveries from 1 too.
            id: &standard::id(parcel.delivery, &parcel.event),
        };
        self.stamped(stamp, self.content_type(), body, now)
    }

    /// A post with all that is said in its headers.
    pub(super) fn stamped(
        &self,
        stamp: Stamp<'_>,
        content_type: &'static str,
        body: Vec<u8>,
        now: DateTime<Utc>,
    ) -> RequestBuilder {
        let Stamp { event, attempt, id } = stamp;
        let request = self
            .introduced(self.client.post(self.settings.url.clone()))
            .header(CONTENT_TYPE, content_type)
            // As bytes: an id of the vendor may be more than ASCII.
            .header("x-event-id", event.as_bytes())
            .header("x-delivery-attempt", attempt);
        let request = match self.settings.idempotency_key {
            IdempotencyKey::None => request,
            IdempotencyKey::Quoted => request.header(IDEMPOTENCY_KEY, format!("\"{id}\"")),
            IdempotencyKey::Bare => request.header(IDEMPOTENCY_KEY, id),
        };
        self.signed(request, id, body, now)
    }

    /// With its body and what proves that both are ours.
    pub(super) fn signed(
        &self,
        request: RequestBuilder,
        id: &str,
        body: Vec<u8>,
        now: DateTime<Utc>,
    ) -> RequestBuilder {
        let request = match &self.secrets.signing {
            Signing::None => request,
            Signing::Fullscript(secret) => {
                request.header(signature::HEADER, signature::fullscript(secret, now, &body))
            }
            Signing::Standard(keys) => {
                let signatures = standard::signatures(keys, id, now, &body);
                request
                    .header(standard::ID, id)
                    .header(standard::TIMESTAMP, now.timestamp())
                    .header(standard::SIGNATURE, signatures)
            }
        };
        request.body(body)
    }
}
