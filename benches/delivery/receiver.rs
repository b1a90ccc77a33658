//! A receiver that answers at once and keeps what it got, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use bytes::Bytes;

/// The argument by which the benchmark's binary knows that it is the receiver.
pub(crate) const ARGUMENT: &str = "serve-as-receiver";

type Got = Arc<Mutex<Vec<Bytes>>>;

/// The process, seen from outside; ends when dropped.
pub(crate) struct Receiver {
    child: Child,
    pub(crate) url: String,
}

/// The child's side.
pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("http://{}/hook", listener.local_addr().unwrap());
        let take = |State(got): State<Got>| async move {
            let got = std::mem::take(&mut *got.lock().unwrap());
            got.iter()
                .flat_map(|body| [body, &b"\n"[..]].concat())
                .collect::<Vec<u8>>()
        };
        let keep = |State(got): State<Got>, body: Bytes| async move {
            got.lock().unwrap().push(body);
        };
        let app = Router::new()
            .route("/hook", post(keep))
            .route("/got", get(take))
            .with_state(Got::default());
        axum::serve(listener, app).await.unwrap();
    });
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(ARGUMENT)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        Self { child, url }
    }

    /// What has arrived since the last time: so many.
    pub(crate) async fn take(&self, expected: usize) -> Vec<Bytes> {
        let url = self.url.replace("/hook", "/got");
        let said = crate::vendor::client().get(url).send().await.unwrap();
        let text = said.bytes().await.unwrap();
        let bodies: Vec<Bytes> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(Bytes::copy_from_slice)
            .collect();
        assert_eq!(bodies.len(), expected);
        bodies
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
