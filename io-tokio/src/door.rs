//! Where connections come in.

use core::net::SocketAddr;
use core::task::{Context, Poll};
use std::io;

use mcp_sse_core::Peer;
use mcp_sse_core::driver;
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use crate::socket::{Plain, Stream};

/// A listening socket that the runtime knows, and what is spoken behind it.
pub(crate) struct Door {
    socket: Socket,
    #[cfg(feature = "tls")]
    tls: Option<driver::Tls>,
}

enum Socket {
    Tcp(TcpListener),
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
        let socket = match door {
            driver::Door::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(socket)?)
            }
            #[cfg(unix)]
            driver::Door::Unix(door) => {
                door.socket.set_nonblocking(true)?;
                Socket::Unix(UnixListener::from_std(door.socket)?, door.file)
            }
        };
        Ok(Self {
            socket,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }

    /// Speaks TLS with everybody who comes by TCP, if there is what that takes.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(self, tls: Option<driver::Tls>) -> Self {
        Self { tls, ..self }
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match &self.socket {
            Socket::Tcp(socket) => {
                socket.poll_accept(cx).map_ok(|(stream, remote)| Accepted::Tcp(stream, remote))
            }
            #[cfg(unix)]
            Socket::Unix(socket, _) => {
                socket.poll_accept(cx).map_ok(|(stream, _)| Accepted::Unix(stream))
            }
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
