//! Listening sockets of the standard library, and one for each shard of a server.
//!
//! Knows: when the operating system distributes connections among several sockets at one address. Does not
//! know: how a socket is bound (`addresses.rs`, `unix.rs`), or how a runtime accepts.
//!
//! Decision: a port is bound without `SO_REUSEPORT`, and shared afterwards. If it were bound with this
//! option, a second server of the same user could bind the port as well, and would silently get half of
//! the connections. So the first socket is bound without the option, which fails if the port is in use,
//! and then gets the option for the sockets that follow; Linux looks at the option, and not at when it was
//! set. If a port cannot be shared, as with a socket that this program has not bound, one acceptor
//! distributes the connections (`accept_queue`).

use core::iter;
use core::net::SocketAddr;
use std::io;
use std::net::TcpListener;

#[cfg(unix)]
use super::unix::UnixListenSocket;

/// The most connections in the backlog of each of several listening sockets. The standard library uses the same
/// number.
#[cfg(target_os = "linux")]
const BACKLOG: i32 = 128;

/// The listening sockets of a server: all are of one kind.
#[derive(Debug)]
pub(super) enum ListenSocket {
    /// TCP sockets, at least one.
    Tcp(Vec<TcpListener>),
    /// Unix sockets, at least one.
    #[cfg(unix)]
    Unix(Vec<UnixListenSocket>),
}

impl ListenSocket {
    /// The addresses that clients connect to.
    pub(super) fn local_addrs(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Tcp(sockets) => sockets.iter().map(TcpListener::local_addr).collect(),
            #[cfg(unix)]
            Self::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a Unix socket has no address, only a path",
            )),
        }
    }

    /// Makes listening sockets for each of `shards` shards, at the same addresses. If that is not possible,
    /// `self` is returned as the error, and one acceptor has to serve all shards.
    pub(super) fn listen_sockets(self, shards: usize, bound_here: bool) -> Result<Vec<Self>, Self> {
        if shards == 1 {
            return Ok(vec![self]);
        }
        match self {
            Self::Tcp(firsts) => match siblings(&firsts, shards - 1, bound_here) {
                Ok(siblings) => Ok(iter::once(firsts).chain(siblings).map(Self::Tcp).collect()),
                Err(error) => {
                    log::info!(
                        event = "acceptor_shared",
                        workers = shards,
                        error:% = error;
                        "one acceptor serves {shards} workers, because the system cannot distribute \
                         connections: {error}"
                    );
                    Err(Self::Tcp(firsts))
                }
            },
            #[cfg(unix)]
            socket @ Self::Unix(_) => Err(socket),
        }
    }
}

/// Makes listening sockets for `shards` further shards at the addresses of `firsts`. The operating system
/// distributes connections among all of them.
///
/// With `SO_REUSEPORT`, a user's process can bind a port that another of its processes has bound with the same
/// option. So a socket is first bound without the option, which fails if any process uses the port,
/// and gets the option afterwards. A second server then gets an error, instead of silently getting half of the
/// connections.
#[cfg(target_os = "linux")]
fn siblings(
    firsts: &[TcpListener],
    shards: usize,
    bound_here: bool,
) -> io::Result<Vec<Vec<TcpListener>>> {
    use socket2::{SockRef, Socket};

    let before: Vec<bool> =
        firsts.iter().map(|first| SockRef::from(first).reuse_port()).collect::<io::Result<_>>()?;
    if !bound_here && before.contains(&false) {
        let text = "the socket was bound without SO_REUSEPORT";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    for first in firsts {
        SockRef::from(first).set_reuse_port(true)?;
    }
    // No socket listens before all are bound. If one cannot be bound, the others are closed, and connections in their
    // backlogs would be closed with them.
    let bound: io::Result<Vec<Vec<Socket>>> =
        (0..shards).map(|_| firsts.iter().map(sibling).collect()).collect();
    let listening = bound.and_then(|shards| {
        let listen = |socket: Socket| socket.listen(BACKLOG).map(|()| socket.into());
        shards.into_iter().map(|sockets| sockets.into_iter().map(listen).collect()).collect()
    });
    if listening.is_err() {
        for (first, before) in firsts.iter().zip(before) {
            SockRef::from(first).set_reuse_port(before)?;
        }
    }
    listening
}

/// Binds a socket to the address of `first`. It does not listen yet.
#[cfg(target_os = "linux")]
fn sibling(first: &TcpListener) -> io::Result<socket2::Socket> {
    use socket2::{Domain, SockRef, Socket, Type};

    let address = first.local_addr()?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(SockRef::from(first).only_v6()?)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Other systems do not have such an option, or give all connections to one of the sockets.
#[cfg(not(target_os = "linux"))]
fn siblings(_: &[TcpListener], _: usize, _: bool) -> io::Result<Vec<Vec<TcpListener>>> {
    let text = "this system does not distribute connections among several sockets";
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}
