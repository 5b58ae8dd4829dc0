//! Where connections come in.

use core::net::SocketAddr;
use core::task::{Context, Poll, ready};
use std::io;
use std::net::{TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};

use async_io::Async;
use mcp_sse_core::Peer;
use mcp_sse_core::driver;

use crate::socket::{Plain, Stream, transient};

/// A listening socket that the reactor knows, and what is spoken behind it.
pub(crate) struct Door {
    socket: Socket,
    #[cfg(feature = "tls")]
    tls: Option<driver::Tls>,
}

enum Socket {
    Tcp(Async<TcpListener>),
    #[cfg(unix)]
    Unix(
        Async<UnixListener>,
        #[expect(dead_code, reason = "goes when this does")] driver::SocketFile,
    ),
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
            driver::Door::Tcp(socket) => Socket::Tcp(Async::new(socket)?),
            #[cfg(unix)]
            driver::Door::Unix(door) => Socket::Unix(Async::new(door.socket)?, door.file),
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
            Socket::Tcp(socket) => poll_accept(socket, cx, |socket| {
                socket.accept().map(|(stream, remote)| Accepted::Tcp(stream, remote))
            }),
            #[cfg(unix)]
            Socket::Unix(socket, _) => poll_accept(socket, cx, |socket| {
                socket.accept().map(|(stream, _)| Accepted::Unix(stream))
            }),
        }
    }

    /// Who it is, and the stream ready to be served. Fails if the peer is gone already.
    pub(crate) fn open(&self, accepted: Accepted) -> io::Result<(Stream, Peer)> {
        match accepted {
            Accepted::Tcp(stream, remote) => {
                stream.set_nodelay(true)?;
                let peer = Peer::tcp(remote, stream.local_addr()?);
                let stream = Plain(Async::new(stream)?);
                #[cfg(feature = "tls")]
                if let Some(tls) = &self.tls {
                    let peer = peer.secure();
                    let stream = driver::Secured::new(stream, tls, peer);
                    return Ok((Stream::Tls(Box::new(stream)), peer));
                }
                Ok((Stream::Tcp(stream), peer))
            }
            #[cfg(unix)]
            Accepted::Unix(stream) => Ok((Stream::Unix(Plain(Async::new(stream)?)), Peer::local())),
        }
    }
}

fn poll_accept<T>(
    socket: &Async<T>,
    cx: &mut Context<'_>,
    accept: impl Fn(&T) -> io::Result<Accepted>,
) -> Poll<io::Result<Accepted>> {
    loop {
        match accept(socket.get_ref()) {
            Err(error) if transient(&error) => {}
            done => return Poll::Ready(done),
        }
        ready!(socket.poll_readable(cx))?;
    }
}
