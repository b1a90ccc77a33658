//! An EMR as one that is in use reads events: the JSON as a stream, in the order of its members, in silence about what it
//! does not understand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::Utc;
use fullscript_events::ledger::Ledger;
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How it answers a post, which it has worked on before or not.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Does its work, and says so.
    Works,
    /// Does its work, and never answers.
    WorksAndHangs,
    /// Does nothing, and says this.
    Says(u16, &'static [(&'static str, &'static str)]),
}

/// One post.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) key: String,
    pub(crate) event_type: String,
    pub(crate) object: Value,
}

impl Post {
    /// The things in it.
    pub(crate) fn items(&self) -> Vec<Value> {
        let kind = self.object["objectType"].as_str().unwrap();
        let several = self.object[kind].as_array();
        several
            .cloned()
            .unwrap_or_else(|| vec![self.object.clone()])
    }

    /// What each of them is found by.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.items().iter().map(id).collect()
    }
}

fn id(item: &Value) -> String {
    let names = ["eventId", "noteGuid", "treatmentGuid"];
    let id = names.iter().find_map(|name| item[name].as_str());
    id.unwrap().to_owned()
}

#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) script: VecDeque<Answer>,
    /// What is in no inventory: a post with one of these in it is refused whole.
    pub(crate) unknown: BTreeSet<String>,
    /// Keys that it does not know.
    pub(crate) strangers: BTreeSet<String>,
    pub(crate) posts: Vec<Post>,
    /// Posts that were dropped in silence.
    pub(crate) dropped: usize,
    /// What was filed, in its order.
    pub(crate) filed: Vec<String>,
    /// The most items that it takes in one post, if that is bounded.
    pub(crate) most: Option<usize>,
    /// Where it says, before it answers, that the first treatment of all is refused and the others are entered.
    pub(crate) results: Option<Ledger>,
    /// Orders of each treatment, and the quantity they come to.
    pub(crate) orders: BTreeMap<String, (usize, i64)>,
}

/// The EMR.
#[derive(Clone)]
pub(crate) struct Emr {
    pub(crate) url: String,
    pub(crate) inside: Arc<Mutex<Inside>>,
    /// Rung when it has worked and does not answer.
    pub(crate) worked: Arc<Notify>,
    _server: Arc<JoinSet<()>>,
}

impl Emr {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sfs", listener.local_addr().unwrap());
        let inside: Arc<Mutex<Inside>> = Arc::default();
        let worked: Arc<Notify> = Arc::default();
        let state = (Arc::clone(&inside), Arc::clone(&worked));
        let app = Router::new().fallback(receive).with_state(state);
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            inside,
            worked,
            _server: Arc::new(server),
        }
    }

    pub(crate) fn answers(&self, script: impl IntoIterator<Item = Answer>) {
        self.inside.lock().unwrap().script.extend(script);
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.inside.lock().unwrap().posts.clone()
    }

    pub(crate) fn filed(&self) -> Vec<String> {
        self.inside.lock().unwrap().filed.clone()
    }

    pub(crate) fn orders(&self) -> BTreeMap<String, (usize, i64)> {
        self.inside.lock().unwrap().orders.clone()
    }
}

/// What such a parser has when it comes to the end.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) key: Option<String>,
    pub(crate) event_type: Option<String>,
    /// The last member whose value is an object, if the type was known by then.
    pub(crate) object: Option<Value>,
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Read, A::Error> {
        let mut read = Read::default();
        while let Some((name, value)) = members.next_entry::<String, Value>()? {
            match (name.as_str(), value) {
                ("clinicApiKey", Value::String(key)) => read.key = Some(key),
                ("eventType", Value::String(of)) => read.event_type = Some(of),
                (_, object @ Value::Object(_)) if read.event_type.is_some() => {
                    read.object = Some(object);
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

pub(crate) fn read(body: &[u8]) -> Read {
    let mut json = serde_json::Deserializer::from_slice(body);
    json.deserialize_map(InOrder).unwrap()
}

async fn receive(
    State((inside, worked)): State<(Arc<Mutex<Inside>>, Arc<Notify>)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = take(&mut inside.lock().unwrap(), headers, &body);
    let (results, post) = {
        let inside = inside.lock().unwrap();
        (inside.results.clone(), inside.posts.last().cloned())
    };
    let is_taken = answer.as_ref().is_ok_and(|said| said.status().is_success());
    if let (Some(ledger), Some(post), true) = (results, post, is_taken) {
        let is_first = inside.lock().unwrap().filed.len() == 1;
        call_back(&ledger, &post, is_first).await;
    }
    if let Ok(response) = answer {
        return response;
    }
    worked.notify_one();
    std::future::pending().await
}

/// The result of a post of one treatment: the first of all is refused, the others are entered.
async fn call_back(ledger: &Ledger, post: &Post, is_first: bool) {
    let batch = post.object["id"].as_str().unwrap().to_owned();
    let guid = post.ids().remove(0);
    let now = Utc::now();
    if is_first {
        let words = "Inventory item not found, of Ada Canary".to_owned();
        ledger.reject(batch, guid, words, now).await.unwrap();
    } else {
        ledger.confirm(batch, vec![guid], now).await.unwrap();
    }
}

struct Hangs;

fn take(inside: &mut Inside, headers: HeaderMap, body: &[u8]) -> Result<Response, Hangs> {
    let read = read(body);
    let (Some(key), Some(event_type), Some(object)) = (read.key, read.event_type, read.object)
    else {
        inside.dropped += 1;
        return Ok(StatusCode::OK.into_response());
    };
    let post = Post {
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
        key,
        event_type,
        object,
    };
    inside.posts.push(post.clone());
    if inside.strangers.contains(&post.key) {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    }
    let answer = inside.script.pop_front().unwrap_or(Answer::Works);
    if let Answer::Says(status, headers) = answer {
        let status = StatusCode::from_u16(status).unwrap();
        let mut response = status.into_response();
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        return Ok(response);
    }
    if inside.most.is_some_and(|most| post.items().len() > most) {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    }
    if let Some(unknown) = post.ids().iter().find(|id| inside.unknown.contains(*id)) {
        let message =
            json!({ "Message": format!("Inventory item not found: {unknown} of Ada Canary") });
        return Ok((StatusCode::BAD_REQUEST, axum::Json(message)).into_response());
    }
    for item in post.items() {
        inside.filed.push(id(&item));
        if item["objectType"] == "treatment" {
            enter(inside, &item);
        }
    }
    if matches!(answer, Answer::WorksAndHangs) {
        return Err(Hangs);
    }
    Ok(StatusCode::OK.into_response())
}

/// A second `added` is a second order; `changed` makes one what it says.
fn enter(inside: &mut Inside, item: &Value) {
    assert!(item["billed"].is_boolean());
    let quantity = item["qty"].as_i64().unwrap();
    let (orders, sum) = inside.orders.entry(id(item)).or_default();
    if item["status"] == "added" {
        *orders += 1;
        *sum += quantity;
    } else {
        *orders = (*orders).max(1);
        *sum = quantity;
    }
}
