//! Connections that cannot be held open for nothing: their number is bounded, what the system buffers for each of them
//! is bounded, and one that has not asked in time, or takes nothing for a while, is cut. A connection is for one request:
//! whoever answers says `Connection: close`, else one that was answered could wait for ever.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures_util::FutureExt as _;
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_io_timeout::TimeoutStream;

/// What the system may buffer for one that does not read. It doubles this for its own needs.
const SEND_BUFFER: usize = 64 << 10;
/// After a failure to accept (no file descriptor is left) so long is waited.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Accepts connections while there is room.
pub(crate) struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    greeting: Duration,
    patience: Duration,
}

impl Bounded {
    /// At most so many connections at once. Each is answered within `greeting` of being accepted, or cut: a deadline, which
    /// a client that sends a byte now and then does not move. A write waits for its client no longer than `patience`.
    pub(crate) fn new(
        listener: TcpListener,
        most: usize,
        greeting: Duration,
        patience: Duration,
    ) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(most)),
            greeting,
            patience,
        }
    }
}

/// An accepted connection.
pub(crate) struct Connection {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    /// When it is cut; none once it was answered.
    deadline: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Ok(room) = Arc::clone(&self.room).acquire_owned().await else {
                // It is never closed.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    // Frames are small and shall leave at once. Where either is refused, it only does not help.
                    stream.set_nodelay(true).ok();
                    set_socket_send_buffer_size(&stream, SEND_BUFFER).ok();
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_write_timeout(Some(self.patience));
                    let connection = Connection {
                        stream: Box::pin(stream),
                        deadline: Some(Box::pin(sleep(self.greeting))),
                        _room: room,
                    };
                    return (connection, from);
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection cannot be accepted");
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    /// Whoever is answered has asked: from now on it may be silent.
    fn answered(&mut self) {
        self.deadline = None;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.stream.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answered();
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answered();
        self.stream.as_mut().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
