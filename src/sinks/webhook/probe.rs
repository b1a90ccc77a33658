//! The probe: a GET that asks the receiver whether it has an event, so that a doubt need not be settled by guessing or by
//! a person.
//!
//! Its word is believed only where it is plain: 200 or 204, it has it; 404, it has it not. Anything else leaves the doubt.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::StatusCode;

use super::WebhookSink;
use crate::config::IdUrl;
use crate::domain::{DeliveryId, EventId, Outcome};
use crate::format::standard;
use crate::sinks::{Orphan, Resumed};

/// How long one question may take, if the sink's time-out is not shorter.
const ONE: Duration = Duration::from_secs(10);
/// How long all questions about orphans may take together: a receiver that is down must not keep the sink from resuming.
const ALL: Duration = Duration::from_secs(30);

/// What the receiver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has it.
    Yes,
    /// It has it not.
    No,
    /// Nothing that can be relied upon.
    Unknown,
}

impl WebhookSink {
    /// Whether the receiver has an event. Unknown where it cannot be asked.
    pub(super) async fn seen(&self, delivery: DeliveryId, event: &EventId) -> Seen {
        let Some(probe) = &self.settings.probe_url else {
            return Seen::Unknown;
        };
        self.ask(probe, delivery, event).await
    }

    async fn ask(&self, probe: &IdUrl, delivery: DeliveryId, event: &EventId) -> Seen {
        let id = standard::id(delivery, event);
        let url = probe.of(event.as_str(), &id);
        let Some(url) = url.filter(|url| self.check_literal(url).is_ok()) else {
            return Seen::Unknown;
        };
        let request = self.introduced(self.client.get(url));
        match request.timeout(ONE.min(self.settings.timeout)).send().await {
            Ok(response) => match response.status() {
                StatusCode::OK | StatusCode::NO_CONTENT => Seen::Yes,
                StatusCode::NOT_FOUND => Seen::No,
                _ => Seen::Unknown,
            },
            Err(_) => Seen::Unknown,
        }
    }

    /// What a doubt becomes when the receiver was asked.
    pub(super) async fn settled(
        &self,
        doubt: String,
        delivery: DeliveryId,
        event: &EventId,
    ) -> Outcome {
        match self.seen(delivery, event).await {
            Seen::Yes => Outcome::Yes,
            Seen::No => Outcome::Later {
                reason: format!("{doubt}; by its probe_url the receiver has it not"),
                retry_after: None,
            },
            Seen::Unknown => Outcome::Doubt { reason: doubt },
        }
    }

    /// Asks about each orphan, several at a time, for as long as that may take.
    pub(super) async fn resumed(&self, orphans: Vec<Orphan>) -> Resumed {
        let Some(probe) = &self.settings.probe_url else {
            return Resumed::all_doubtful(orphans);
        };
        // Begun only when there is a place for it.
        let mut questions = Vec::with_capacity(orphans.len());
        for orphan in &orphans {
            questions.push(async move {
                let seen = self.ask(probe, orphan.delivery, &orphan.event).await;
                (orphan.delivery, seen)
            });
        }
        let answers: HashMap<_, _> = stream::iter(questions)
            .buffer_unordered(self.settings.concurrency)
            .take_until(tokio::time::sleep(ALL))
            .collect()
            .await;
        let (mut adopted, mut absent, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for orphan in orphans {
            match answers.get(&orphan.delivery) {
                Some(Seen::Yes) => adopted.push(orphan.delivery),
                Some(Seen::No) => absent.push(orphan.delivery),
                Some(Seen::Unknown) | None => unknown.push(orphan),
            }
        }
        Resumed {
            adopted,
            absent,
            ..Resumed::all_doubtful(unknown)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, Method};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::super::Secrets;
    use super::super::tests::{Asked, answering, attempted, impatient, kind, parcel, settings};
    use super::*;
    use crate::config::{self, WebhookFormat};
    use crate::format::authorization;
    use crate::sinks::Sink as _;

    fn sink(url: &str, probe: Option<&str>) -> WebhookSink {
        let settings = config::WebhookSink {
            probe_url: probe.map(|probe| IdUrl::new(probe).unwrap()),
            headers: HeaderMap::from_iter([("x-tenant".parse().unwrap(), "t".parse().unwrap())]),
            format: WebhookFormat::Native,
            ..settings(url)
        };
        let secrets = Secrets {
            authorization: authorization::bearer(&"token".into()).ok(),
            ..Secrets::default()
        };
        WebhookSink::new(settings, secrets, &config::Http::default()).unwrap()
    }

    fn orphans(ids: &[i64]) -> Vec<Orphan> {
        let orphan = |id: &i64| Orphan {
            delivery: DeliveryId(*id),
            attempt: 1,
            event: EventId::new(format!("e-{id}")).unwrap(),
        };
        ids.iter().map(orphan).collect()
    }

    /// Every POST ends in doubt, and a GET is answered by the last part of its path.
    fn doubtful(asked: &Asked, _: usize) -> (u16, &'static str) {
        if asked.method == Method::POST {
            return (504, "");
        }
        let last = asked.path.rsplit('/').next().unwrap();
        (last.parse().unwrap_or(200), "")
    }

    #[tokio::test]
    async fn a_doubt_is_settled_by_the_receivers_word_where_it_is_plain() {
        let mut tasks = JoinSet::new();
        let (url, book) = answering(doubtful, &mut tasks).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = format!("http://{}/{{id}}", closed.local_addr().unwrap());
        drop(closed);
        let of = |status: u16| Some(format!("{url}/seen/{{id}}/{{delivery}}/{status}"));
        for (probe, expected) in [
            (of(200), "yes"),
            (of(204), "yes"),
            (of(404), "later"),
            (of(201), "doubt"),
            (of(302), "doubt"),
            (of(401), "doubt"),
            (of(410), "doubt"),
            (of(500), "doubt"),
            (Some(refused), "doubt"),
            (Some("http://10.9.8.7/{id}".to_owned()), "doubt"),
            (None, "doubt"),
        ] {
            let sink = sink(&url, probe.as_deref());
            let outcome = attempted(&sink, parcel(1), 0).await;
            assert_eq!(kind(&outcome).0, expected, "{probe:?} {outcome:?}");
        }
        let book = book.lock().unwrap();
        let probes: Vec<_> = book
            .iter()
            .filter(|asked| asked.method == Method::GET)
            .collect();
        assert_eq!(probes.len(), 8, "no redirect was followed");
        for asked in probes {
            let id = standard::id(DeliveryId(7), &EventId::new("e-7").unwrap());
            assert!(
                asked.path.starts_with(&format!("/seen/e-7/{id}/")),
                "{}",
                asked.path
            );
            assert_eq!(asked.headers["authorization"], "Bearer token");
            assert_eq!(asked.headers["x-tenant"], "t");
            assert!(asked.body.is_empty());
        }
    }

    #[tokio::test]
    async fn what_an_earlier_attempt_brought_is_not_posted_again() {
        let mut tasks = JoinSet::new();
        for (attempt, status, expected) in [
            (1, 200, &["POST"][..]),
            (2, 200, &["GET"]),
            (2, 404, &["GET", "POST"]),
            (2, 500, &["GET", "POST"]),
        ] {
            let answer = move |asked: &Asked, _: usize| {
                let is_get = asked.method == Method::GET;
                (if is_get { status } else { 200 }, "")
            };
            let (url, book) = answering(answer, &mut tasks).await;
            let sink = sink(&url, Some(&format!("{url}/seen/{{id}}")));
            let outcome = attempted(&sink, parcel(attempt), 0).await;
            assert_eq!(outcome, Outcome::Yes, "{attempt} {status}");
            let book = book.lock().unwrap();
            let methods: Vec<_> = book.iter().map(|asked| asked.method.as_str()).collect();
            assert_eq!(methods, expected);
        }
    }

    #[tokio::test]
    async fn orphans_are_asked_about_and_what_stays_unknown_is_doubtful() {
        let mut tasks = JoinSet::new();
        let answer = |asked: &Asked, _: usize| match asked.path.as_str() {
            "/seen/e-1" | "/seen/e-4" => (200, ""),
            "/seen/e-2" => (404, ""),
            _ => (503, ""),
        };
        let (url, _) = answering(answer, &mut tasks).await;
        let ids = |ids: &[i64]| ids.iter().copied().map(DeliveryId).collect::<Vec<_>>();
        let asking = sink(&url, Some(&format!("{url}/seen/{{id}}")));
        let resumed = asking.resume(None, orphans(&[1, 2, 3, 4])).await.unwrap();
        assert_eq!(resumed.adopted, ids(&[1, 4]));
        assert_eq!(resumed.absent, ids(&[2]));
        let unknown = Resumed::all_doubtful(orphans(&[3])).doubtful;
        assert_eq!(resumed.doubtful, unknown);
        let mute = sink(&url, None)
            .resume(None, orphans(&[1, 2]))
            .await
            .unwrap();
        assert_eq!(mute, Resumed::all_doubtful(orphans(&[1, 2])));
    }

    #[tokio::test]
    async fn a_receiver_that_says_nothing_leaves_all_in_doubt_and_holds_nothing_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let settings = config::WebhookSink {
            probe_url: IdUrl::new(&format!("{url}/{{id}}")).ok(),
            ..impatient(&url)
        };
        let sink = WebhookSink::new(settings, Secrets::default(), &config::Http::default());
        let many: Vec<i64> = (1..=20).collect();
        let resumed = sink.unwrap().resume(None, orphans(&many)).await.unwrap();
        assert_eq!(resumed, Resumed::all_doubtful(orphans(&many)));
    }
}
