//! Clients: server-sent events, WebSocket, plain catch-up.

use std::time::Duration;

use fullscript_events::http;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::setting::Streaming;
use crate::binary::LIMIT;

fn http_client() -> reqwest::Client {
    http::builder(&fullscript_events::config::Http::default(), LIMIT)
        .unwrap()
        .timeout(Duration::from_mins(5))
        .build()
        .unwrap()
}

/// A subscriber by SSE.
pub(crate) struct Sse {
    response: reqwest::Response,
    buffer: String,
    /// Everything that came, as it came.
    pub(crate) raw: String,
    /// The last id, as a browser keeps it.
    pub(crate) last_id: Option<String>,
}

pub(crate) enum Got {
    Frame(Value),
    Comment,
}

impl Streaming {
    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> reqwest::Response {
        self.try_get(path, token).await.unwrap()
    }

    pub(crate) async fn try_get(
        &self,
        path: &str,
        token: Option<&str>,
    ) -> Option<reqwest::Response> {
        let mut request = http_client().get(self.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.ok()
    }

    /// Status and body of an answer; of a stream the status alone.
    pub(crate) async fn answer(&self, path: &str, token: Option<&str>) -> (u16, Value) {
        let response = self.get(path, token).await;
        let status = response.status().as_u16();
        if response.headers()["content-type"] == "text/event-stream" {
            // It has no end.
            return (status, Value::Null);
        }
        let text = response.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    pub(crate) async fn sse(&self, query: &str, token: &str, last_id: Option<&str>) -> Sse {
        self.try_sse(query, token, last_id).await.unwrap()
    }

    /// `None`: nobody listens.
    pub(crate) async fn try_sse(
        &self,
        query: &str,
        token: &str,
        last_id: Option<&str>,
    ) -> Option<Sse> {
        let mut request = http_client()
            .get(self.url(&format!("/v1/stream{query}")))
            .bearer_auth(token);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.ok()?;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Some(Sse {
            response,
            buffer: String::new(),
            raw: String::new(),
            last_id: last_id.map(str::to_owned),
        })
    }

    pub(crate) async fn socket(&self, token: &str, first: &str) -> Socket {
        self.try_socket(token, first).await.unwrap()
    }

    /// `None`: nobody listens.
    pub(crate) async fn try_socket(&self, token: &str, first: &str) -> Option<Socket> {
        let mut request = format!("ws://{}/v1/subscribe", self.address)
            .into_client_request()
            .unwrap();
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let (mut socket, _) = connect_async(request).await.ok()?;
        socket.send(Message::text(first)).await.ok()?;
        Some(Socket {
            wire: socket,
            raw: String::new(),
            pings: 0,
        })
    }
}

impl Sse {
    /// The next frame or comment; `None` at the end, however it came.
    pub(crate) async fn next(&mut self) -> Option<Got> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                if block.starts_with(':') {
                    return Some(Got::Comment);
                }
                let field = |name: &str| {
                    let lines = block.lines();
                    let mut lines = lines;
                    lines.find_map(|line| line.strip_prefix(name))
                };
                self.last_id = field("id: ").map(str::to_owned);
                let frame: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
                assert_eq!(frame["type"].as_str(), field("event: "));
                assert_eq!(frame["seq"].as_str(), field("id: "));
                return Some(Got::Frame(frame));
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk());
            let chunk = chunk.await.unwrap().ok().flatten()?;
            let text = std::str::from_utf8(&chunk).unwrap();
            self.buffer += text;
            self.raw += text;
        }
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Option<Value> {
        loop {
            match self.next().await? {
                Got::Frame(frame) => return Some(frame),
                Got::Comment => {}
            }
        }
    }

    /// The next event; fails if it ends before.
    pub(crate) async fn event(&mut self) -> Value {
        loop {
            let frame = self.frame().await.unwrap();
            if frame["type"] == "event" {
                return frame;
            }
        }
    }

    /// Reads until this status; gives it.
    pub(crate) async fn status(&mut self, status: &str) -> Value {
        loop {
            let frame = self.frame().await.unwrap();
            if frame["status"] == status {
                return frame;
            }
        }
    }
}

/// A subscriber by WebSocket.
pub(crate) struct Socket {
    pub(crate) wire: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) raw: String,
    pub(crate) pings: usize,
}

pub(crate) enum Heard {
    Frame(Value),
    /// With this code and reason; 0 without.
    Closed(u16, String),
}

impl Socket {
    /// The next frame. Pings are answered and counted.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            let message = tokio::time::timeout(LIMIT, self.wire.next()).await;
            match message.unwrap() {
                Some(Ok(Message::Text(text))) if text.as_str() == "ping" => {
                    self.pings += 1;
                    // It may be closing.
                    self.wire.send(Message::text("pong")).await.ok();
                }
                Some(Ok(Message::Text(text))) => {
                    self.raw += text.as_str();
                    if text.as_str() != "pong" {
                        return Heard::Frame(serde_json::from_str(text.as_str()).unwrap());
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Heard::Closed(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => {
                    return Heard::Closed(0, String::new());
                }
                Some(Ok(_)) => {}
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> Value {
        match self.next().await {
            Heard::Frame(frame) => frame,
            Heard::Closed(code, reason) => panic!("closed: {code} {reason}"),
        }
    }

    pub(crate) async fn event(&mut self) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == "event" {
                return frame;
            }
        }
    }

    /// The code that it is closed with, and the last frame before.
    pub(crate) async fn closed(&mut self) -> (u16, Value) {
        let mut last = Value::Null;
        loop {
            match self.next().await {
                Heard::Frame(frame) => last = frame,
                Heard::Closed(code, _) => return (code, last),
            }
        }
    }
}

/// A subscriber that has hardly any buffer of its own, and reads only when it is told to. HTTP/1.0: what follows the
/// head is what was said, without chunks.
pub(crate) struct Bare {
    wire: TcpStream,
    buffer: Vec<u8>,
}

impl Bare {
    pub(crate) async fn subscribe(
        streaming: &Streaming,
        token: &str,
        after: &str,
        receive_buffer: Option<u32>,
    ) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size).unwrap();
        }
        let mut wire = socket.connect(streaming.address).await.unwrap();
        let request = format!(
            "GET /v1/stream?after={after} HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        wire.write_all(request.as_bytes()).await.unwrap();
        let mut bare = Self {
            wire,
            buffer: Vec::new(),
        };
        let head = bare.block("\r\n\r\n").await.unwrap();
        assert!(head.contains(" 200 "), "{head}");
        bare
    }

    /// What comes next, up to this end.
    pub(crate) async fn block(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self
                .buffer
                .windows(end.len())
                .position(|it| it == end.as_bytes());
            if let Some(at) = found {
                let rest = self.buffer.split_off(at + end.len());
                let block = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8(block).unwrap());
            }
            let mut more = [0; 8192];
            let read = tokio::time::timeout(LIMIT, self.wire.read(&mut more)).await;
            match read.unwrap() {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.buffer.extend_from_slice(&more[..read]),
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> Option<Value> {
        loop {
            let block = self.block("\n\n").await?;
            if let Some((_, json)) = block.split_once("data: ") {
                return Some(serde_json::from_str(json).unwrap());
            }
        }
    }
}

pub(crate) fn text<'a>(frame: &'a Value, key: &str) -> &'a str {
    frame[key]
        .as_str()
        .unwrap_or_else(|| panic!("{frame}: no {key}"))
}
