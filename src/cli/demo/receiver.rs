//! The receiver of the demonstration: what an EHR's engineer would write against the vendor's documentation
//! (`fullscript-api.md` §6), and nothing of this program's own signing code, so that it can contradict it.
//!
//! Of an event it keeps the id and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use ring::hmac;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clock::SharedClock;

/// How far `t` may be from the receiver's clock, in seconds.
const TOLERANCE_S: u64 = 300;
/// So many deliveries are taken before one is refused, to show a retry.
const BEFORE_REFUSAL: usize = 40;

/// What was received so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// How often each event was accepted, by its id.
    pub(super) accepted: BTreeMap<String, u64>,
    /// Requests whose signature was missing, wrong or too old, or whose body named no event.
    pub(super) bad: u64,
    /// Requests that were answered 500 on purpose.
    pub(super) refused: u64,
}

impl Book {
    /// How many different events were accepted.
    pub(super) fn verified(&self) -> usize {
        self.accepted.len()
    }

    /// How often an event was accepted that had been accepted before.
    pub(super) fn duplicates(&self) -> u64 {
        self.accepted.values().map(|times| times - 1).sum()
    }
}

/// A running receiver; dropping it ends it.
pub(super) struct Receiver {
    address: SocketAddr,
    desk: Desk,
    _server: JoinSet<()>,
}

#[derive(Clone)]
struct Desk {
    key: Arc<hmac::Key>,
    clock: SharedClock,
    book: Arc<Mutex<Book>>,
}

impl Receiver {
    /// Listens on a free port of this machine, and expects signatures made with `secret`.
    pub(super) async fn start(secret: &str, clock: SharedClock) -> io::Result<Self> {
        let desk = Desk {
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
            clock,
            book: Arc::default(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/fullscript", post(take))
            .with_state(desk.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            // Accepting goes on after every error that a connection has; nothing else comes back.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self {
            address,
            desk,
            _server: server,
        })
    }

    /// Where events are to be posted.
    pub(super) fn url(&self) -> String {
        format!("http://{}/fullscript", self.address)
    }

    /// What was received so far.
    pub(super) fn book(&self) -> Book {
        self.desk.with_book(|book| book.clone())
    }
}

impl Desk {
    fn with_book<T>(&self, read: impl FnOnce(&mut Book) -> T) -> T {
        read(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The one thing that is read of a body.
#[derive(Deserialize)]
struct Body {
    event: Named,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> Response {
    let signature = headers
        .get("fullscript-signature")
        .and_then(|value| value.to_str().ok());
    let genuine = signature.is_some_and(|text| verifies(&desk.key, text, &body, desk.clock.now()));
    if !genuine {
        desk.with_book(|book| book.bad += 1);
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(Body { event }) = serde_json::from_slice(&body) else {
        desk.with_book(|book| book.bad += 1);
        return StatusCode::BAD_REQUEST.into_response();
    };
    desk.with_book(|book| {
        if book.refused == 0 && book.verified() >= BEFORE_REFUSAL {
            book.refused += 1;
            let later = [("retry-after", "2")];
            return (StatusCode::INTERNAL_SERVER_ERROR, later).into_response();
        }
        *book.accepted.entry(event.id).or_default() += 1;
        StatusCode::OK.into_response()
    })
}

/// Whether `t=<unix seconds>,v1=<hex>` is the HMAC-SHA256 over `<t>.<body>`, made within the tolerance.
fn verifies(key: &hmac::Key, signature: &str, body: &[u8], now: DateTime<Utc>) -> bool {
    let part = |name: &str| {
        signature
            .split(',')
            .filter_map(|part| part.trim().split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    };
    let (Some(t), Some(v1)) = (part("t"), part("v1")) else {
        return false;
    };
    let (Ok(at), Ok(mac)) = (t.parse::<i64>(), hex::decode(v1)) else {
        return false;
    };
    let signed = [t.as_bytes(), b".", body].concat();
    at.abs_diff(now.timestamp()) <= TOLERANCE_S && hmac::verify(key, &signed, &mac).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fresh_signature_of_exactly_this_body_is_genuine() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let now = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        let signed = |t: i64, body: &str| {
            let mac = hmac::sign(&key, format!("{t}.{body}").as_bytes());
            format!("t={t},v1={}", hex::encode(mac))
        };
        let t = now.timestamp();
        assert!(verifies(&key, &signed(t, "{}"), b"{}", now));
        assert!(verifies(&key, &signed(t - 300, "{}"), b"{}", now));
        for (bad, body) in [
            (signed(t, "{}"), "{ }"),
            (signed(t - 301, "{}"), "{}"),
            (signed(t + 301, "{}"), "{}"),
            (signed(t, "{}").replace("v1=", "v0="), "{}"),
            (format!("t={t},v1="), "{}"),
            (String::new(), "{}"),
        ] {
            assert!(!verifies(&key, &bad, body.as_bytes(), now), "{bad}");
        }
    }
}
