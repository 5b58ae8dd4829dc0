//! Where connections come in.

use core::net::SocketAddr;
use core::task::{Context, Poll};
use std::io;

use mcp_sse_core::Peer;
use mcp_sse_driver::{self as driver, Arrival};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use crate::socket::{Plain, Stream};

/// Listening sockets that the runtime knows.
pub(crate) enum Door {
    Tcp(Vec<TcpListener>, driver::RoundRobin),
    #[cfg(unix)]
    Unix(UnixListener, #[expect(dead_code, reason = "goes when this does")] driver::SocketFile),
}

/// A connection that was accepted, and nothing more.
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Door {
    pub(crate) fn new(door: driver::Door) -> io::Result<Self> {
        Ok(match door {
            driver::Door::Tcp(sockets) => {
                let known = |socket: std::net::TcpListener| {
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket)
                };
                let sockets = sockets.into_iter().map(known).collect::<io::Result<_>>()?;
                Self::Tcp(sockets, driver::RoundRobin::default())
            }
            #[cfg(unix)]
            driver::Door::Unix(door) => {
                door.socket.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(door.socket)?, door.file)
            }
        })
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(sockets, turns) => turns.poll(sockets, |socket| {
                socket.poll_accept(cx).map_ok(|(stream, remote)| Accepted::Tcp(stream, remote))
            }),
            #[cfg(unix)]
            Self::Unix(socket, _) => {
                socket.poll_accept(cx).map_ok(|(stream, _)| Accepted::Unix(stream))
            }
        }
    }
}

impl Accepted {
    /// Leaves this thread's runtime.
    pub(crate) fn leave(self) -> io::Result<Arrival> {
        match self {
            Self::Tcp(stream, remote) => Ok(Arrival::Tcp(stream.into_std()?, remote)),
            #[cfg(unix)]
            Self::Unix(stream) => stream.into_std().map(Arrival::Unix),
        }
    }

    /// Comes to this thread's runtime from another.
    fn enter(arrival: Arrival) -> io::Result<Self> {
        match arrival {
            Arrival::Tcp(stream, remote) => Ok(Self::Tcp(TcpStream::from_std(stream)?, remote)),
            #[cfg(unix)]
            Arrival::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
        }
    }
}

/// Where the connections of one shard come from.
pub(crate) enum Entrance {
    Door(Door),
    Seat(driver::Seat),
}

impl Entrance {
    pub(crate) fn new(entrance: driver::Entrance) -> io::Result<Self> {
        Ok(match entrance {
            driver::Entrance::Door(door) => Self::Door(Door::new(door)?),
            driver::Entrance::Seat(seat) => Self::Seat(seat),
        })
    }

    /// The next connection, for a shard with room for so many.
    pub(crate) fn poll_accept(
        &self,
        room: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Door(door) => door.poll_accept(cx),
            Self::Seat(seat) => seat.poll_take(room, cx).map(Accepted::enter),
        }
    }

    /// There is no room for a connection at the moment.
    pub(crate) fn close(&self) {
        match self {
            // They wait in its backlog.
            Self::Door(_) => {}
            Self::Seat(seat) => seat.close(),
        }
    }
}

/// Makes what has come in ready to be served.
pub(crate) struct Opener {
    #[cfg(feature = "tls")]
    tls: Option<driver::Tls>,
}

impl Opener {
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "it has nothing to tell"))]
    pub(crate) fn of(worker: &driver::Worker) -> Self {
        Self {
            #[cfg(feature = "tls")]
            tls: worker.tls.clone(),
        }
    }

    /// Who it is, and the stream ready to be served. Fails if the peer is gone already.
    pub(crate) fn open(&self, accepted: Accepted) -> io::Result<(Stream, Peer)> {
        match accepted {
            Accepted::Tcp(stream, remote) => {
                stream.set_nodelay(true)?;
                let peer = Peer::tcp(remote, stream.local_addr()?);
                let stream = Plain(stream);
                #[cfg(feature = "tls")]
                if let Some(tls) = &self.tls {
                    let peer = peer.secure();
                    let stream = driver::Secured::new(stream, tls, peer);
                    return Ok((Stream::Tls(Box::new(stream)), peer));
                }
                Ok((Stream::Tcp(stream), peer))
            }
            #[cfg(unix)]
            Accepted::Unix(stream) => Ok((Stream::Unix(Plain(stream)), Peer::local())),
        }
    }
}
