//! A receiver byte for byte: it listens, or does not, and then follows a script, until it is mended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What every receiver answers when it works; the challenge harms nobody who asks for none.
pub(super) const MENDED: &str =
    "HTTP/1.1 200 OK\r\ncontent-length: 21\r\nconnection: close\r\n\r\n{\"challenge\":\"token\"}";
/// So many connections wait to be accepted.
const QUEUE: u32 = 16;
/// Between two pieces of what never ends: often enough to look alive, and no load.
const DRIP: Duration = Duration::from_millis(50);

/// What a receiver does with a connection, in order; at the end it closes.
#[derive(Clone)]
pub(super) enum Step {
    /// Reads the request's head.
    Head,
    /// Reads the rest of the request and writes it down.
    Rest,
    /// Writes this.
    Say(Vec<u8>),
    /// Writes this every moment, until the sender has had enough.
    Drip(&'static str),
    /// Writes this as fast as it goes, until the sender has had enough.
    Pour(Vec<u8>),
    /// Does nothing until the sender has had enough.
    Hang,
    /// Ends the connection by a reset.
    Reset,
}

/// How a receiver takes connections before it is mended.
#[derive(Clone)]
pub(super) enum Door {
    /// Nothing listens.
    Closed,
    /// No connection is completed: others fill the queue.
    Full,
    /// The system completes connections that nobody accepts.
    Unattended,
    /// Connections are accepted.
    Open,
    /// And spoken to in TLS.
    Tls(TlsAcceptor),
}

/// One whole request that arrived.
#[derive(Clone)]
pub(super) struct Got {
    pub(super) sink: &'static str,
    pub(super) event: String,
    pub(super) attempt: String,
    pub(super) body: Bytes,
}

/// What the receivers of a world saw, in the order of its happening.
#[derive(Clone)]
pub(super) enum Seen {
    Got(Got),
    /// The sender has had enough of this sink's receiver.
    GivenUp(&'static str),
}

/// All that was seen.
#[derive(Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<Seen>>>);

impl Journal {
    fn write(&self, seen: Seen) {
        self.0.lock().unwrap().push(seen);
    }

    pub(super) fn read(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    /// The requests from the `from`th entry on.
    pub(super) fn got_from(&self, from: usize) -> Vec<Got> {
        let later = self.read().into_iter().skip(from);
        let got = later.filter_map(|seen| match seen {
            Seen::Got(got) => Some(got),
            Seen::GivenUp(_) => None,
        });
        got.collect()
    }
}

/// What it does until it is mended, and with what it speaks TLS afterwards.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) door: Door,
    pub(super) script: Vec<Step>,
    pub(super) tls_when_mended: Option<TlsAcceptor>,
}

/// A receiver on loopback.
pub(super) struct Receiver {
    pub(super) port: u16,
    connections: Arc<Connections>,
    waiting: Option<Waiting>,
    tasks: JoinSet<()>,
}

/// What is not listened to yet.
enum Waiting {
    Socket(TcpSocket),
    Listener(TcpListener, Vec<TcpStream>),
}

struct Connections {
    sink: &'static str,
    manner: Manner,
    is_mended: AtomicBool,
    journal: Journal,
}

impl Receiver {
    pub(super) async fn start(sink: &'static str, manner: Manner, journal: &Journal) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let connections = Arc::new(Connections {
            sink,
            manner,
            is_mended: AtomicBool::new(false),
            journal: journal.clone(),
        });
        let waiting = match connections.manner.door {
            Door::Closed => Some(Waiting::Socket(socket)),
            Door::Full => {
                let listener = socket.listen(QUEUE).unwrap();
                let mut filling = Vec::new();
                // Linux takes one more than it was told.
                for _ in 0..=QUEUE {
                    filling.push(TcpStream::connect(address).await.unwrap());
                }
                Some(Waiting::Listener(listener, filling))
            }
            Door::Unattended => Some(Waiting::Listener(socket.listen(QUEUE).unwrap(), Vec::new())),
            Door::Open | Door::Tls(_) => {
                tasks.spawn(Arc::clone(&connections).attend(socket.listen(QUEUE).unwrap()));
                None
            }
        };
        Self {
            port: address.port(),
            connections,
            waiting,
            tasks,
        }
    }

    /// From now on it works.
    pub(super) fn mend(&mut self) {
        self.connections.is_mended.store(true, Ordering::SeqCst);
        let listener = match self.waiting.take() {
            None => return,
            Some(Waiting::Socket(socket)) => socket.listen(QUEUE).unwrap(),
            Some(Waiting::Listener(listener, filling)) => {
                drop(filling);
                // Nobody waits any more for an answer to what lies in the queue.
                let listener = listener.into_std().unwrap();
                while listener.accept().is_ok() {}
                TcpListener::from_std(listener).unwrap()
            }
        };
        let connections = Arc::clone(&self.connections);
        self.tasks.spawn(connections.attend(listener));
    }
}

impl Connections {
    async fn attend(self: Arc<Self>, listener: TcpListener) {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.spawn(Arc::clone(&self).serve(stream));
        }
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mended = [
            Step::Head,
            Step::Rest,
            Step::Say(MENDED.as_bytes().to_vec()),
        ];
        let (tls, script) = if self.is_mended.load(Ordering::SeqCst) {
            (self.manner.tls_when_mended.as_ref(), &mended[..])
        } else {
            let tls = match &self.manner.door {
                Door::Tls(acceptor) => Some(acceptor),
                Door::Closed | Door::Full | Door::Unattended | Door::Open => None,
            };
            (tls, &self.manner.script[..])
        };
        let Some(acceptor) = tls else {
            if self.act(&mut stream, script).await == Some(Step::Reset) {
                stream.set_zero_linger().unwrap();
            }
            return;
        };
        match acceptor.accept(stream).into_fallible().await {
            Ok(mut stream) => {
                if self.act(&mut stream, script).await == Some(Step::Reset) {
                    stream.get_ref().0.set_zero_linger().unwrap();
                }
            }
            // Reads to the end, so that the alert is not overtaken by a reset.
            Err((_, mut stream)) => drop(stream.read_to_end(&mut Vec::new()).await),
        }
    }

    /// Follows the script; gives the step that could not be followed, or that is left to who holds the connection.
    async fn act<S>(&self, stream: &mut S, script: &[Step]) -> Option<Step>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = Vec::new();
        for step in script {
            let followed = match step {
                Step::Head => read(stream, &mut request, |r| end_of_head(r).is_some()).await,
                Step::Rest => {
                    let is_whole = read(stream, &mut request, is_whole).await;
                    if is_whole {
                        self.journal.write(Seen::Got(self.parsed(&request)));
                    }
                    is_whole
                }
                Step::Say(bytes) => {
                    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
                }
                Step::Drip(text) => {
                    while stream.write_all(text.as_bytes()).await.is_ok()
                        && stream.flush().await.is_ok()
                    {
                        tokio::time::sleep(DRIP).await;
                    }
                    self.journal.write(Seen::GivenUp(self.sink));
                    false
                }
                Step::Pour(bytes) => {
                    while stream.write_all(bytes).await.is_ok() {}
                    false
                }
                Step::Hang => {
                    // What it reads it does not look at.
                    drop(stream.read_to_end(&mut Vec::new()).await);
                    self.journal.write(Seen::GivenUp(self.sink));
                    false
                }
                Step::Reset => false,
            };
            if !followed {
                return Some(step.clone());
            }
        }
        drop(stream.shutdown().await);
        None
    }

    fn parsed(&self, request: &[u8]) -> Got {
        let end = end_of_head(request).unwrap();
        let header = |name| header(&request[..end], name).unwrap();
        Got {
            sink: self.sink,
            event: header("x-event-id"),
            attempt: header("x-delivery-attempt"),
            body: Bytes::copy_from_slice(&request[end..]),
        }
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Reads on until it is enough; gives whether it was.
async fn read<S>(stream: &mut S, request: &mut Vec<u8>, is_enough: impl Fn(&[u8]) -> bool) -> bool
where
    S: AsyncRead + Unpin,
{
    while !is_enough(request) {
        if !matches!(stream.read_buf(request).await, Ok(1..)) {
            return false;
        }
    }
    true
}

fn end_of_head(request: &[u8]) -> Option<usize> {
    let at = request.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(at + 4)
}

fn is_whole(request: &[u8]) -> bool {
    end_of_head(request).is_some_and(|end| {
        let length = header(&request[..end], "content-length").unwrap();
        request.len() >= end + length.parse::<usize>().unwrap()
    })
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let head = std::str::from_utf8(head).unwrap();
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|(found, _)| found.eq_ignore_ascii_case(name))?;
    Some(found.1.to_owned())
}
