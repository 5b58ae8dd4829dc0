//! Where connections come in.

use core::task::{Context, Poll};
use std::io;
use std::net::TcpListener;
#[cfg(unix)]
use std::os::unix::net::UnixListener;

use async_io::Async;
use mcp_sse_core::Peer;
use mcp_sse_driver::{self as driver, Arrival};

use crate::socket::{Plain, Stream, poll_input};

/// Listening sockets that the reactor knows.
pub(crate) enum Door {
    Tcp(Vec<Async<TcpListener>>, driver::RoundRobin),
    #[cfg(unix)]
    Unix(
        Async<UnixListener>,
        #[expect(dead_code, reason = "goes when this does")] driver::SocketFile,
    ),
}

impl Door {
    pub(crate) fn new(door: driver::Door) -> io::Result<Self> {
        Ok(match door {
            driver::Door::Tcp(sockets) => {
                let sockets = sockets.into_iter().map(Async::new).collect::<io::Result<_>>()?;
                Self::Tcp(sockets, driver::RoundRobin::default())
            }
            #[cfg(unix)]
            driver::Door::Unix(door) => Self::Unix(Async::new(door.socket)?, door.file),
        })
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        match self {
            Self::Tcp(sockets, turns) => turns.poll(sockets, |socket| {
                poll_input(socket, cx, |socket| {
                    socket.accept().map(|(stream, remote)| Arrival::Tcp(stream, remote))
                })
            }),
            #[cfg(unix)]
            Self::Unix(socket, _) => poll_input(socket, cx, |socket| {
                socket.accept().map(|(stream, _)| Arrival::Unix(stream))
            }),
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
    pub(crate) fn poll_accept(&self, room: u32, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        match self {
            Self::Door(door) => door.poll_accept(cx),
            Self::Seat(seat) => seat.poll_take(room, cx).map(Ok),
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
    pub(crate) fn open(&self, arrival: Arrival) -> io::Result<(Stream, Peer)> {
        match arrival {
            Arrival::Tcp(stream, remote) => {
                stream.set_nodelay(true)?;
                let peer = Peer::tcp(remote, stream.local_addr()?);
                let stream = Plain::new(Async::new(stream)?);
                #[cfg(feature = "tls")]
                if let Some(tls) = &self.tls {
                    let peer = peer.secure();
                    let stream = driver::Secured::new(stream, tls, peer);
                    return Ok((Stream::Tls(Box::new(stream)), peer));
                }
                Ok((Stream::Tcp(stream), peer))
            }
            #[cfg(unix)]
            Arrival::Unix(stream) => {
                Ok((Stream::Unix(Plain::new(Async::new(stream)?)), Peer::local()))
            }
        }
    }
}
