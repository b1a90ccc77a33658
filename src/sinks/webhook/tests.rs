//! The webhook sink against real receivers on loopback.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::config::{IdempotencyKey, WebhookFormat, WebhookSignature};
use crate::domain::{ClinicName, DeliveryId, EventBody, EventId, EventType, JsonPath, Metadata};
use crate::format::{authorization, cloudevents, healthchain, native, signature};

/// For receivers that answer, however busy this machine is.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For those that do not.
const SHORT: Duration = Duration::from_millis(200);
const EVENT: &str = r#"{"id":"e-7","data":{"a":1.0}}"#;

pub(super) fn settings(url: &str) -> config::WebhookSink {
    config::WebhookSink {
        url: url.parse().unwrap(),
        format: WebhookFormat::Fullscript,
        sfs: None,
        payload: WebhookPayload::default(),
        signature: WebhookSignature::None,
        idempotency_key: IdempotencyKey::None,
        headers: HeaderMap::new(),
        auth: None,
        challenge: None,
        preflight: false,
        probe_url: None,
        timeout: TIMEOUT,
        concurrency: 4,
        ca_file: None,
        client: None,
        allow_nets: Vec::new(),
        insecure_http: false,
    }
}

pub(super) fn impatient(url: &str) -> config::WebhookSink {
    config::WebhookSink {
        timeout: SHORT,
        ..settings(url)
    }
}

pub(super) fn parcel(attempt: u32) -> Parcel {
    Parcel {
        delivery: DeliveryId(7),
        attempt,
        event: EventId::new("e-7").unwrap(),
        event_type: EventType::new("order.placed").unwrap(),
        created_at: DateTime::UNIX_EPOCH,
        clinic: ClinicName::new("oak-street").unwrap(),
        clinic_id: None,
        body: EventBody::from_json(EVENT),
    }
}

pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

/// One attempt of one parcel.
pub(super) async fn attempted(sink: &WebhookSink, parcel: Parcel, now: i64) -> Outcome {
    let delivered = sink.deliver(&[parcel], at(now)).await.unwrap();
    delivered.outcomes.into_iter().next().unwrap()
}

async fn outcome(settings: config::WebhookSink, secrets: Secrets) -> Outcome {
    let sink = WebhookSink::new(settings, secrets, &config::Http::default()).unwrap();
    attempted(&sink, parcel(1), 0).await
}

/// A receiver that reads one whole request and then does `answer` to the connection, byte for byte.
async fn raw_receiver(answer: &'static str, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(EVENT.as_bytes()) && !request.ends_with(b"}}}") {
            stream.read_buf(&mut request).await.unwrap();
        }
        if answer == "hang" {
            std::future::pending::<()>().await;
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    address
}

pub(super) fn kind(outcome: &Outcome) -> (&'static str, Option<u64>) {
    let seconds = |wish: &Option<Duration>| wish.map(|wish| wish.as_secs());
    match outcome {
        Outcome::Yes => ("yes", None),
        Outcome::No { retry_after, .. } => ("no", seconds(retry_after)),
        Outcome::Later { retry_after, .. } => ("later", seconds(retry_after)),
        Outcome::NotSent { .. } => ("not sent", None),
        Outcome::Doubt { .. } => ("doubt", None),
        Outcome::Gone { .. } => ("gone", None),
        Outcome::ClinicRefused { .. } => ("clinic refused", None),
        Outcome::Park { .. } => ("parked", None),
        Outcome::Skip { .. } => ("skipped", None),
    }
}

#[tokio::test]
async fn every_answer_has_its_outcome_and_none_repeats_the_receivers_text() {
    let secret = "Ada Example";
    let mut tasks = JoinSet::new();
    for (answer, expected) in [
        ("200 OK", ("yes", None)),
        ("201 Created", ("yes", None)),
        ("202 Accepted", ("yes", None)),
        ("204 No Content", ("yes", None)),
        ("301 Moved\r\nlocation: http://127.0.0.1:1/", ("no", None)),
        ("400 Ada Example", ("no", None)),
        ("401 X", ("no", None)),
        ("404 X", ("no", None)),
        ("408 X", ("later", None)),
        ("410 X", ("gone", None)),
        ("413 X\r\nretry-after: 5", ("no", Some(5))),
        ("425 X", ("later", None)),
        ("429 X\r\nretry-after: 7", ("later", Some(7))),
        ("429 X\r\nretry-after: Ada Example", ("later", None)),
        ("500 X", ("no", None)),
        ("502 X", ("doubt", None)),
        (
            "503 X\r\nretry-after: Thu, 01 Jan 1970 00:00:09 GMT",
            ("no", Some(9)),
        ),
        ("504 X", ("doubt", None)),
        ("599 X", ("no", None)),
    ] {
        let head: &'static str =
            format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").leak();
        let address = raw_receiver(head, &mut tasks).await;
        let outcome = outcome(settings(&format!("http://{address}/")), Secrets::default()).await;
        assert_eq!(kind(&outcome), expected, "{answer}");
        assert!(!format!("{outcome:?}").contains(secret), "{outcome:?}");
    }
}

#[tokio::test]
async fn silence_after_the_request_is_a_doubt() {
    let mut tasks = JoinSet::new();
    for answer in ["hang", "", "HTTP/1.1 20", "nonsense\r\n\r\n"] {
        let address = raw_receiver(answer, &mut tasks).await;
        let outcome = outcome(impatient(&format!("http://{address}/")), Secrets::default()).await;
        assert_eq!(kind(&outcome), ("doubt", None), "{answer:?} {outcome:?}");
    }
}

#[tokio::test]
async fn what_fails_while_connecting_was_not_sent() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    // Speaks no TLS, and one that never answers the handshake.
    let mut tasks = JoinSet::new();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let not_tls = format!("https://{}/", plain.local_addr().unwrap());
    tasks.spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 X\r\n\r\n").await.unwrap();
    });
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_tls = format!("https://{}/", mute.local_addr().unwrap());
    for (url, word) in [
        (refused.as_str(), "refused"),
        (not_tls.as_str(), ""),
        (mute_tls.as_str(), ""),
        ("http://receiver.invalid/", ""),
        ("http://10.9.8.7/", "allow_nets"),
        ("http://[fd12::1]/", "allow_nets"),
        ("http://169.254.169.254/", "never"),
    ] {
        let outcome = outcome(impatient(url), Secrets::default()).await;
        assert_eq!(kind(&outcome), ("not sent", None), "{url} {outcome:?}");
        assert!(format!("{outcome:?}").contains(word), "{outcome:?}");
    }
    drop(mute);
}

#[tokio::test]
async fn with_a_challenge_only_its_echo_in_a_200_or_201_is_a_yes() {
    let long: &'static str = " ".repeat(70_000).leak();
    let mut tasks = JoinSet::new();
    for (status, body, expected) in [
        (200, r#"{"challenge":"token"}"#, "yes"),
        (201, r#"{"challenge":"token","more":1}"#, "yes"),
        (202, r#"{"challenge":"token"}"#, "no"),
        (200, r#"{"challenge":"toke"}"#, "no"),
        (200, "token", "no"),
        (200, "", "no"),
        (200, long, "no"),
    ] {
        let answer: &'static str = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .leak();
        let address = raw_receiver(answer, &mut tasks).await;
        let secrets = Secrets {
            challenge: Some("token".into()),
            ..Secrets::default()
        };
        let outcome = outcome(settings(&format!("http://{address}/")), secrets).await;
        assert_eq!(kind(&outcome).0, expected, "{status} {outcome:?}");
    }
    let cut_off = raw_receiver("HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n{", &mut tasks).await;
    let secrets = Secrets {
        challenge: Some("token".into()),
        ..Secrets::default()
    };
    let outcome = outcome(settings(&format!("http://{cut_off}/")), secrets).await;
    assert_eq!(kind(&outcome).0, "doubt");
}

/// One request as it arrived.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) type Book = Arc<Mutex<Vec<Asked>>>;

/// A receiver that answers by what it was asked, and by how often it was asked before: its URL, and what it was asked.
pub(super) async fn answering(
    answer: impl Fn(&Asked, usize) -> (u16, &'static str) + Clone + Send + Sync + 'static,
    tasks: &mut JoinSet<()>,
) -> (String, Book) {
    let book = Book::default();
    let kept = Arc::clone(&book);
    let router = Router::new().fallback(
        move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let path = uri.path().to_owned();
            let asked = Asked {
                method,
                path,
                headers,
                body,
            };
            let mut book = kept.lock().unwrap();
            let (status, text) = answer(&asked, book.len());
            book.push(asked);
            // Somewhere that would say yes.
            let location = [("location", "/yes")];
            (StatusCode::from_u16(status).unwrap(), location, text)
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, book)
}

type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A receiver that keeps what it is sent: its URL.
async fn keeping_receiver(seen: &Seen, tasks: &mut JoinSet<()>) -> String {
    let kept = Arc::clone(seen);
    let router = Router::new().fallback(move |headers: HeaderMap, body: Bytes| async move {
        let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((headers, body));
        StatusCode::OK
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://localhost:{}/hook",
        listener.local_addr().unwrap().port()
    );
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn each_attempt_has_the_same_bytes_and_a_signature_of_its_own_time() {
    let seen = Seen::default();
    let mut tasks = JoinSet::new();
    let url = keeping_receiver(&seen, &mut tasks).await;
    for format in [
        WebhookFormat::Fullscript,
        WebhookFormat::EventPayload,
        WebhookFormat::Native,
        WebhookFormat::HealthChain,
        WebhookFormat::CloudEvents,
    ] {
        let secrets = Secrets {
            signing: Signing::Fullscript("key".into()),
            ..Secrets::default()
        };
        let settings = config::WebhookSink {
            format,
            ..settings(&url)
        };
        let sink = WebhookSink::new(settings, secrets, &config::Http::default()).unwrap();
        for attempt in 1..=2 {
            let delivered = sink.deliver(&[parcel(attempt)], at(attempt.into())).await;
            assert_eq!(delivered.unwrap().outcomes, [Outcome::Yes]);
        }
    }
    let seen = seen.lock().unwrap();
    let bodies: Vec<_> = seen.iter().map(|(_, body)| body.as_ref()).collect();
    let fullscript = format!("{{\"event\":{EVENT}}}").into_bytes();
    let wrapped = format!("{{\"event_payload\":{{\"event\":{EVENT}}}}}").into_bytes();
    let native = native::body(&parcel(1), &Metadata::default()).unwrap();
    let chain = healthchain::body(&parcel(1), &Metadata::default(), EVENT.as_bytes(), None);
    let chain = chain.unwrap();
    let cloud = cloudevents::body(&parcel(1), &Metadata::default()).unwrap();
    assert_eq!(
        bodies,
        [&fullscript, &wrapped, &native, &chain, &cloud]
            .map(|body| [body, body])
            .concat()
    );
    for (n, (headers, body)) in seen.iter().enumerate() {
        let attempt = i64::try_from(n % 2 + 1).unwrap();
        let json = if n < 8 {
            "application/json"
        } else {
            "application/cloudevents+json; charset=utf-8"
        };
        assert_eq!(headers["content-type"], json);
        assert_eq!(headers["x-event-id"], "e-7");
        assert_eq!(headers["x-delivery-attempt"], attempt.to_string());
        assert_eq!(
            headers["fullscript-signature"],
            signature::fullscript(&"key".into(), at(attempt), body)
        );
    }
}

#[tokio::test]
async fn a_standard_webhook_has_one_id_and_on_each_attempt_its_time_and_a_signature_by_each_key() {
    let seen = Seen::default();
    let mut tasks = JoinSet::new();
    let url = keeping_receiver(&seen, &mut tasks).await;
    let keys = || {
        let secrets = [
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "b2xkIGtleSBvZiB0d2VudHktZm91ciBi",
        ]
        .into_iter();
        let keys = secrets.map(|secret| standard::Key::parse(&secret.into()).ok().unwrap());
        keys.collect::<Vec<_>>()
    };
    let secrets = Secrets {
        signing: Signing::Standard(keys()),
        ..Secrets::default()
    };
    let settings = config::WebhookSink { ..settings(&url) };
    let sink = WebhookSink::new(settings, secrets, &config::Http::default()).unwrap();
    for attempt in 1..=2 {
        let delivered = sink.deliver(&[parcel(attempt)], at(attempt.into())).await;
        assert_eq!(delivered.unwrap().outcomes, [Outcome::Yes]);
    }
    let id = standard::id(DeliveryId(7), &EventId::new("e-7").unwrap());
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    for ((headers, body), attempt) in seen.iter().zip(1..) {
        assert_eq!(headers["x-event-id"], "e-7");
        assert_eq!(headers["webhook-id"], id);
        assert_eq!(headers["webhook-timestamp"], attempt.to_string());
        let signatures = standard::signatures(&keys(), &id, at(attempt), body);
        assert_eq!(headers["webhook-signature"], signatures);
        assert!(!headers.contains_key(signature::HEADER));
    }
}

#[tokio::test]
async fn a_payload_is_cut_down_in_every_format_and_the_same_on_each_attempt() {
    const WHOLE: &str = r#"{"id":"e-7","patient":"Ada-0","data":{"patient":{"id":"p-1","email":"Ada-1","discount":1.10,"e\u006dail":"Ada-2"},"note":"Ada-3"}}"#;
    let path = |text| vec![JsonPath::new(text).unwrap()];
    let cut = WebhookPayload::Data {
        only: path("$.patient"),
        redact: path("$..email"),
    };
    let data = r#","data":{"patient":{"id":"p-1","discount":1.10}}}"#;
    let deeper = format!("{data}}}");
    let mut tasks = JoinSet::new();
    for (format, payload, end) in [
        (WebhookFormat::Fullscript, cut.clone(), deeper.as_str()),
        (
            WebhookFormat::EventPayload,
            WebhookPayload::Ids,
            ".000Z\"}}}",
        ),
        (WebhookFormat::Native, cut.clone(), data),
        (
            WebhookFormat::HealthChain,
            cut.clone(),
            r#","data":{"patient":{"id":"p-1","discount":1.10}}}},"metadata":{"event_id":"e-7","delivery":"7","clinic":"oak-street","clinic_id":null}}"#,
        ),
        (WebhookFormat::CloudEvents, cut, data),
        (WebhookFormat::Fullscript, WebhookPayload::Ids, ".000Z\"}}"),
        (
            WebhookFormat::Native,
            WebhookPayload::Ids,
            "\"clinic_id\":null}",
        ),
        (
            WebhookFormat::CloudEvents,
            WebhookPayload::Ids,
            "\"delivery\":\"7\"}",
        ),
    ] {
        let seen = Seen::default();
        let settings = config::WebhookSink {
            format,
            payload,
            ..settings(&keeping_receiver(&seen, &mut tasks).await)
        };
        let sink =
            WebhookSink::new(settings, Secrets::default(), &config::Http::default()).unwrap();
        for attempt in 1..=2 {
            let parcel = Parcel {
                body: EventBody::from_json(WHOLE),
                ..parcel(attempt)
            };
            let delivered = sink.deliver(&[parcel], at(0)).await.unwrap();
            assert_eq!(delivered.outcomes, [Outcome::Yes]);
        }
        let seen = seen.lock().unwrap();
        let [(_, first), (_, second)] = &seen[..] else {
            panic!("{} requests", seen.len())
        };
        let text = std::str::from_utf8(first).unwrap();
        assert!(text.ends_with(end), "{text}");
        assert!(!text.contains("Ada"), "{text}");
        assert!(text.contains("\"id\":\"e-7\"") && text.contains("order.placed"));
        assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
        assert_eq!(first, second);
    }
}

#[tokio::test]
async fn data_that_cannot_be_cut_down_is_not_sent_at_all() {
    let seen = Seen::default();
    let mut tasks = JoinSet::new();
    let settings = config::WebhookSink {
        payload: WebhookPayload::Data {
            only: Vec::new(),
            redact: vec![JsonPath::new("$..email").unwrap()],
        },
        ..settings(&keeping_receiver(&seen, &mut tasks).await)
    };
    let sink = WebhookSink::new(settings, Secrets::default(), &config::Http::default()).unwrap();
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let parcel = Parcel {
        body: EventBody::from_json(format!("{{\"data\":{deep}}}")),
        ..parcel(1)
    };
    let outcome = sink
        .deliver(&[parcel], at(0))
        .await
        .unwrap()
        .outcomes
        .remove(0);
    assert_eq!(kind(&outcome), ("no", None));
    assert!(format!("{outcome:?}").contains("deeper"), "{outcome:?}");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_receivers_own_headers_and_who_is_asking_go_with_every_attempt() {
    let seen = Seen::default();
    let mut tasks = JoinSet::new();
    let name = |text: &str| text.parse::<http::HeaderName>().unwrap();
    let settings = config::WebhookSink {
        headers: HeaderMap::from_iter([
            (name("x-tenant"), "clinic-7".parse().unwrap()),
            (name("accept"), "text/plain".parse().unwrap()),
        ]),
        ..settings(&keeping_receiver(&seen, &mut tasks).await)
    };
    let secrets = Secrets {
        authorization: authorization::basic("relay", &"pass".into()).ok(),
        ..Secrets::default()
    };
    let sink = WebhookSink::new(settings, secrets, &config::Http::default()).unwrap();
    for attempt in 1..=2 {
        let delivered = sink.deliver(&[parcel(attempt)], at(0)).await.unwrap();
        assert_eq!(delivered.outcomes, [Outcome::Yes]);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    for (headers, _) in seen.iter() {
        assert_eq!(headers["x-tenant"], "clinic-7");
        assert_eq!(headers.get_all("accept").iter().count(), 1);
        assert_eq!(headers["accept"], "text/plain");
        assert_eq!(headers["authorization"], "Basic cmVsYXk6cGFzcw==");
    }
}

#[tokio::test]
async fn an_idempotency_key_is_the_deliverys_on_every_attempt_and_another_instances_is_another() {
    let seen = Seen::default();
    let mut tasks = JoinSet::new();
    let url = keeping_receiver(&seen, &mut tasks).await;
    for idempotency_key in [
        IdempotencyKey::None,
        IdempotencyKey::Quoted,
        IdempotencyKey::Bare,
    ] {
        let settings = config::WebhookSink {
            idempotency_key,
            ..settings(&url)
        };
        let sink =
            WebhookSink::new(settings, Secrets::default(), &config::Http::default()).unwrap();
        // The same number of another event is what another instance would send.
        let other = Parcel {
            event: EventId::new("e-8").unwrap(),
            ..parcel(1)
        };
        let delivered = sink.deliver(&[parcel(1), parcel(2), other], at(0)).await;
        assert_eq!(delivered.unwrap().outcomes.len(), 3);
    }
    let seen = seen.lock().unwrap();
    let keys: Vec<_> = seen
        .iter()
        .filter_map(|(headers, _)| headers.get("idempotency-key")?.to_str().ok())
        .collect();
    let [first, second, other, bare, again, bare_other] = keys[..] else {
        panic!("{keys:?}")
    };
    let id = standard::id(DeliveryId(7), &EventId::new("e-7").unwrap());
    assert_eq!((first, second), (format!("\"{id}\"").as_str(), first));
    assert_eq!((bare, again), (id.as_str(), id.as_str()));
    assert_ne!(other, first);
    assert_ne!(bare_other, bare);
}
