//! The pre-flight: an empty POST that Fullscript tests an address with before it uses it (`fullscript-api.md` §6). Until
//! the receiver has answered one with the challenge, no event goes there: an address that is wrong, or not ready, gets no
//! health data, and no event is counted as refused by it.
//!
//! The address is the configuration's, which is read when the program starts: so once after each start is also once
//! after each change of it.

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use super::{WebhookSink, verdict};
use crate::domain::Outcome;

/// After a failure it is not repeated for so long, however many deliveries wait for it.
const PAUSE: TimeDelta = TimeDelta::seconds(10);

/// What is known of the receiver.
#[derive(Default)]
pub(super) struct Preflight(Mutex<State>);

#[derive(Default)]
enum State {
    /// Nobody has asked.
    #[default]
    Unknown,
    /// It has answered with the challenge.
    Passed,
    /// It has not, at this time.
    Failed { at: DateTime<Utc>, outcome: Outcome },
}

impl WebhookSink {
    /// Makes sure that the receiver has passed the pre-flight, if it must. `Err`: how the attempt ends that waited for
    /// it. One at a time asks; the others have its answer.
    pub(super) async fn cleared(&self, now: DateTime<Utc>) -> Result<(), Outcome> {
        if !self.settings.preflight {
            return Ok(());
        }
        let mut state = self.preflight.0.lock().await;
        match &*state {
            State::Passed => return Ok(()),
            State::Failed { at, outcome } if *at <= now && now < *at + PAUSE => {
                return Err(outcome.clone());
            }
            State::Unknown | State::Failed { .. } => {}
        }
        let outcome = match self.fly(now).await {
            Outcome::Yes => {
                *state = State::Passed;
                return Ok(());
            }
            // Its own word about all deliveries: it asks for time, or is no receiver any more.
            word @ (Outcome::Later { .. }
            | Outcome::Gone { .. }
            | Outcome::ClinicRefused { .. }) => word,
            // Whatever became of the empty request: of the event, nothing was sent.
            Outcome::No { reason, .. }
            | Outcome::NotSent { reason }
            | Outcome::Doubt { reason }
            | Outcome::Skip { reason }
            | Outcome::Park { reason, .. } => Outcome::NotSent {
                reason: format!("the pre-flight failed: {reason}"),
            },
        };
        *state = State::Failed {
            at: now,
            outcome: outcome.clone(),
        };
        Err(outcome)
    }

    async fn fly(&self, now: DateTime<Utc>) -> Outcome {
        let request = self.introduced(self.client.post(self.settings.url.clone()));
        // Signed as an event is, for receivers that look at nothing before they have verified it.
        let id = format!("preflight_{}", now.timestamp());
        match self.signed(request, &id, Vec::new(), now).send().await {
            Ok(response) => verdict::answered(response, self.secrets.challenge.as_ref(), now).await,
            Err(error) => verdict::unanswered(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::super::tests::{Asked, answering, attempted, impatient, kind, parcel, settings};
    use super::super::{Secrets, Signing};
    use super::*;
    use crate::config;
    use crate::format::signature;

    const ECHO: (u16, &str) = (200, r#"{"challenge":"token"}"#);

    fn sink(settings: config::WebhookSink) -> WebhookSink {
        let settings = config::WebhookSink {
            preflight: true,
            ..settings
        };
        let secrets = Secrets {
            signing: Signing::Fullscript("key".into()),
            challenge: Some("token".into()),
            ..Secrets::default()
        };
        WebhookSink::new(settings, secrets, &config::Http::default()).unwrap()
    }

    #[tokio::test]
    async fn no_event_goes_out_before_an_empty_post_was_answered_with_the_challenge() {
        let mut tasks = JoinSet::new();
        let answer = |_: &Asked, before: usize| match before {
            0 => (200, ""),
            1 => (404, ""),
            2 => (500, r#"{"challenge":"token"}"#),
            3 => (429, ""),
            4 => (410, ""),
            _ => ECHO,
        };
        let (url, book) = answering(answer, &mut tasks).await;
        let first = sink(settings(&url));
        let mut steps = Vec::new();
        for now in [0, 9, 10, 20, 30, 40, 50, 51] {
            let outcome = attempted(&first, parcel(1), now).await;
            let asked = book.lock().unwrap().len();
            steps.push((now, kind(&outcome).0, asked));
        }
        assert_eq!(
            steps,
            [
                (0, "not sent", 1),
                // Not asked again so soon.
                (9, "not sent", 1),
                (10, "not sent", 2),
                (20, "not sent", 3),
                (30, "later", 4),
                (40, "gone", 5),
                (50, "yes", 7),
                (51, "yes", 8),
            ]
        );
        // Once more after each start.
        assert_eq!(
            attempted(&sink(settings(&url)), parcel(1), 60).await,
            Outcome::Yes
        );
        let book = book.lock().unwrap();
        let empty: Vec<_> = book.iter().map(|asked| asked.body.is_empty()).collect();
        assert_eq!(
            empty,
            [
                true, true, true, true, true, true, false, false, true, false
            ]
        );
        for (asked, at) in book.iter().zip([0, 10, 20, 30, 40, 50]) {
            let signed = signature::fullscript(&"key".into(), super::super::tests::at(at), b"");
            assert_eq!(asked.headers[signature::HEADER], signed);
            assert!(!asked.headers.contains_key("x-event-id"));
        }
    }

    #[tokio::test]
    async fn deliveries_that_wait_for_the_pre_flight_share_one() {
        let mut tasks = JoinSet::new();
        for (status, sent) in [(500, 0), (200, 8)] {
            let answer = move |_: &Asked, _: usize| (status, ECHO.1);
            let (url, book) = answering(answer, &mut tasks).await;
            let sink = sink(settings(&url));
            let attempts = (0..8).map(|_| attempted(&sink, parcel(1), 0));
            let outcomes = join_all(attempts).await;
            let yes = outcomes.iter().filter(|outcome| **outcome == Outcome::Yes);
            assert_eq!(yes.count(), sent);
            assert_eq!(book.lock().unwrap().len(), 1 + sent);
        }
    }

    #[tokio::test]
    async fn a_receiver_that_cannot_be_reached_or_is_silent_was_sent_nothing() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        // Takes the connection and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for url in [refused, format!("http://{}", silent.local_addr().unwrap())] {
            let outcome = attempted(&sink(impatient(&url)), parcel(1), 0).await;
            assert_eq!(kind(&outcome).0, "not sent", "{outcome:?}");
        }
    }
}
