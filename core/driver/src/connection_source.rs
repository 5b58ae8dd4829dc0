//! The source of a shard's connections: a listening socket of its own, or a queue of accepted sockets.
//!
//! Knows: listening sockets and accepted streams of a [`Runtime`], and how a stream is passed from the thread
//! that accepted it to the thread that serves it. Does not know: when to accept.

use core::net::SocketAddr;
use core::task::{Context, Poll};
use std::io;

use super::accept_queue::{AcceptedSocket, ShardQueue};
use super::addresses::RoundRobin;
use super::listen_socket::ListenSocket;
use super::runtime::Runtime;
#[cfg(unix)]
use super::unix::SocketFile;

/// The source of a shard's connections.
pub(super) enum ConnectionSource<L> {
    /// A listening socket of its own: a [`ListenSocket`], or a [`RuntimeListener`] once it is watched.
    Own(L),
    /// The queue that the acceptor fills, which runs on the thread of one of the shards.
    Queue(ShardQueue),
}

/// Listening sockets that a runtime watches.
pub(super) enum RuntimeListener<R: Runtime> {
    Tcp(Vec<R::TcpListener>, RoundRobin),
    #[cfg(unix)]
    Unix(
        Vec<R::UnixListener>,
        RoundRobin,
        #[expect(dead_code, reason = "they are dropped with the sockets")] Vec<SocketFile>,
    ),
}

/// An accepted stream that a runtime watches.
pub(super) enum AcceptedStream<R: Runtime> {
    Tcp(R::TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(R::UnixStream),
}

impl<R: Runtime> RuntimeListener<R> {
    pub(super) fn new(socket: ListenSocket) -> io::Result<Self> {
        Ok(match socket {
            ListenSocket::Tcp(sockets) => {
                let sockets =
                    sockets.into_iter().map(R::tcp_listener).collect::<io::Result<_>>()?;
                Self::Tcp(sockets, RoundRobin::default())
            }
            #[cfg(unix)]
            ListenSocket::Unix(sockets) => {
                let (sockets, files): (Vec<_>, Vec<_>) =
                    sockets.into_iter().map(|unix| (unix.socket, unix.file)).unzip();
                let sockets =
                    sockets.into_iter().map(R::unix_listener).collect::<io::Result<_>>()?;
                Self::Unix(sockets, RoundRobin::default(), files.into_iter().flatten().collect())
            }
        })
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<AcceptedStream<R>>> {
        match self {
            Self::Tcp(sockets, turns) => turns.poll(sockets, |socket| {
                R::poll_accept_tcp(socket, cx)
                    .map_ok(|(stream, remote)| AcceptedStream::Tcp(stream, remote))
            }),
            #[cfg(unix)]
            Self::Unix(sockets, turns, _) => turns.poll(sockets, |socket| {
                R::poll_accept_unix(socket, cx).map_ok(AcceptedStream::Unix)
            }),
        }
    }
}

impl<R: Runtime> AcceptedStream<R> {
    /// Watches a stream that another thread has accepted.
    fn from_accepted(accepted: AcceptedSocket) -> io::Result<Self> {
        match accepted {
            AcceptedSocket::Tcp(stream, remote) => Ok(Self::Tcp(R::tcp_stream(stream)?, remote)),
            #[cfg(unix)]
            AcceptedSocket::Unix(stream) => R::unix_stream(stream).map(Self::Unix),
        }
    }

    /// Stops watching a stream, so that another thread can serve it.
    pub(super) fn into_accepted(self) -> io::Result<AcceptedSocket> {
        match self {
            Self::Tcp(stream, remote) => Ok(AcceptedSocket::Tcp(R::tcp_into_std(stream)?, remote)),
            #[cfg(unix)]
            Self::Unix(stream) => R::unix_into_std(stream).map(AcceptedSocket::Unix),
        }
    }
}

impl<R: Runtime> ConnectionSource<RuntimeListener<R>> {
    pub(super) fn new(source: ConnectionSource<ListenSocket>) -> io::Result<Self> {
        Ok(match source {
            ConnectionSource::Own(socket) => Self::Own(RuntimeListener::new(socket)?),
            ConnectionSource::Queue(queue) => Self::Queue(queue),
        })
    }

    /// The next connection, for a shard with room for `room` connections.
    pub(super) fn poll_accept(
        &self,
        room: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<AcceptedStream<R>>> {
        match self {
            Self::Own(socket) => socket.poll_accept(cx),
            Self::Queue(queue) => queue.poll_take(room, cx).map(AcceptedStream::from_accepted),
        }
    }

    /// Call this when the shard is full.
    pub(super) fn close(&self) {
        match self {
            // Connections wait in the socket's backlog.
            Self::Own(_) => {}
            Self::Queue(queue) => queue.close(),
        }
    }
}
