//! A webhook receiver on loopback that answers as a test says, and writes down what arrived.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the receiver answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    Status(u16),
    /// Not before it is told something else.
    Hang,
}

/// One request that arrived.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) event: String,
    pub(crate) attempt: String,
    pub(crate) body: Bytes,
}

/// A webhook receiver on loopback.
pub(crate) struct Receiver {
    pub(crate) url: String,
    inside: Inside,
    _server: JoinSet<()>,
}

#[derive(Clone)]
struct Inside {
    answer: Arc<watch::Sender<Answer>>,
    got: Arc<Mutex<Vec<Got>>>,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub(crate) async fn start(answer: Answer) -> Self {
        let inside = Inside {
            answer: Arc::new(watch::Sender::new(answer)),
            got: Arc::default(),
            refused: Arc::default(),
        };
        let app = Router::new().fallback(receive).with_state(inside.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            inside,
            _server: server,
        }
    }

    pub(crate) fn answers(&self, answer: Answer) {
        self.inside.answer.send_replace(answer);
    }

    /// From now on this event is refused, whatever others are told.
    pub(crate) fn refuses(&self, event: &str) {
        self.inside.refused.lock().unwrap().push(event.to_owned());
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.inside.got.lock().unwrap().clone()
    }

    /// A sink `hook` that posts here, with further settings.
    pub(crate) fn sink(&self, more: &str) -> String {
        format!(
            "[[sinks]]\nname = \"hook\"\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = {:?}\nsignature = \"none\"\n{more}\n",
            self.url
        )
    }
}

async fn receive(State(inside): State<Inside>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name| headers[name].to_str().unwrap().to_owned();
    inside.got.lock().unwrap().push(Got {
        event: header("x-event-id"),
        attempt: header("x-delivery-attempt"),
        body,
    });
    let event = header("x-event-id");
    if inside.refused.lock().unwrap().contains(&event) {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    let mut answer = inside.answer.subscribe();
    let told = *answer
        .wait_for(|answer| *answer != Answer::Hang)
        .await
        .unwrap();
    match told {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap(),
        Answer::Hang => unreachable!(),
    }
}
