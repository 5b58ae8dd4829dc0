//! Listening sockets with a configuration: what an adapter's listener is before it serves.

use core::iter;
use core::net::SocketAddr;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};

use mcp_sse_core::{Config, ConfigError};

use super::addresses::bind_all;
use super::decisions::Authorizer;
use super::handle::{Handle, ShardControl, shard_control};
#[cfg(feature = "tls")]
use super::tls::Tls;
#[cfg(unix)]
use super::unix::UnixDoor;
use super::verdicts::VerdictCache;
use super::worker_count;

/// Connections that may wait for each of several listening sockets; what the standard library says for
/// one.
#[cfg(target_os = "linux")]
const BACKLOG: i32 = 128;

/// Listening sockets, a configuration, and the two ends of a [`Handle`].
#[derive(Debug)]
pub struct Bound {
    /// The listening sockets.
    pub door: Door,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    /// The configuration to serve with.
    pub config: Config,
    /// What the application holds.
    pub handle: Handle,
    /// What the shard is given.
    pub controls: ShardControl,
    pub(super) workers: usize,
    /// Whether the sockets were bound here, with options that are known.
    pub(super) bound_here: bool,
}

/// Listening sockets of one kind.
#[derive(Debug)]
pub enum Door {
    /// TCP sockets, one at least; [`RoundRobin`](super::RoundRobin) says which is polled first.
    Tcp(Vec<TcpListener>),
    /// A Unix socket, with its file.
    #[cfg(unix)]
    Unix(UnixDoor),
}

impl Bound {
    /// Binds every TCP address that `address` stands for, [`ADDRESSES_MAX`](super::ADDRESSES_MAX) at
    /// most. Those with port 0 get the same free port. An address that this machine does not have is
    /// passed over, and the log says so, if another can be bound.
    ///
    /// # Errors
    ///
    /// Those of binding, for any of them.
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        let bound = Self::new(Door::Tcp(bind_all(address)?), config);
        Ok(Self { bound_here: true, ..bound })
    }

    /// Binds a Unix socket, as [`UnixDoor::bind`] does.
    ///
    /// # Errors
    ///
    /// As [`UnixDoor::bind`].
    #[cfg(unix)]
    pub fn bind_unix(path: &std::path::Path, mode: u32, config: Config) -> io::Result<Self> {
        Ok(Self::new(Door::Unix(UnixDoor::bind(path, mode)?), config))
    }

    /// Takes a socket that is bound and listening already.
    #[must_use]
    pub fn from_std(socket: TcpListener, config: Config) -> Self {
        Self::new(Door::Tcp(vec![socket]), config)
    }

    fn new(door: Door, config: Config) -> Self {
        let (handle, controls) = shard_control();
        Self {
            door,
            #[cfg(feature = "tls")]
            tls: None,
            config,
            handle,
            controls,
            workers: 1,
            bound_here: false,
        }
    }

    /// Has TLS spoken, and nothing else, by whoever comes in.
    #[cfg(feature = "tls")]
    pub fn set_tls(&mut self, tls: Tls) {
        self.tls = Some(tls);
    }

    /// The TLS to be spoken, for an adapter that begins to serve.
    ///
    /// # Errors
    ///
    /// If there is to be TLS, and this is not a TCP socket.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> io::Result<Option<Tls>> {
        if self.tls.is_some() && !matches!(self.door, Door::Tcp(_)) {
            let text = "TLS is for TCP, and not for a Unix socket";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(self.tls.clone())
    }

    /// Says so if every request will be refused for want of https.
    pub(super) fn warn_of_impossible_https(&self) {
        #[cfg(feature = "tls")]
        let tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let tls = false;
        let on_unix_socket = !matches!(self.door, Door::Tcp(_));
        if !self.config.https_can_arrive(tls, on_unix_socket) {
            let proxies = if on_unix_socket { "trust_local_peers" } else { "trusted_proxy" };
            log::warn!(
                "require_https refuses every request: this server speaks no TLS, and trusts no proxy \
                 that could say of a request that it came by https (see {proxies})"
            );
        }
    }

    /// Has `authorizer` decide about each request.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), with a
    /// [`ConfigError`](mcp_sse_core::ConfigError) inside, if the configuration has static tokens.
    pub fn set_authorizer(&mut self, authorizer: Authorizer) -> io::Result<()> {
        let cache = self.controls.cache.clone();
        self.controls.authorize(&mut self.config, authorizer, cache).map_err(invalid)
    }

    /// How an authorizer's verdicts are remembered.
    pub fn set_verdict_cache(&mut self, cache: VerdictCache) {
        self.controls.cache = cache;
    }

    /// The address that clients connect to; the first, if there are several.
    ///
    /// # Errors
    ///
    /// If the operating system cannot tell, or this is a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addrs()?.into_iter().next().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Every address that clients connect to.
    ///
    /// # Errors
    ///
    /// As [`local_addr`](Self::local_addr).
    pub fn local_addrs(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.door {
            Door::Tcp(sockets) => sockets.iter().map(TcpListener::local_addr).collect(),
            #[cfg(unix)]
            Door::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a Unix socket has a path, and no address",
            )),
        }
    }

    /// Has the server run in so many shards, on a thread each.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for none, and for more than
    /// [`WORKERS_MAX`](super::WORKERS_MAX).
    pub fn set_workers(&mut self, workers: usize) -> io::Result<()> {
        self.workers = worker_count::check(workers)?;
        Ok(())
    }
}

/// A mistake of the application's, as an adapter reports it.
pub(super) fn invalid(error: ConfigError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

impl Door {
    /// Makes listening sockets for each of so many shards, at the same addresses; or gives these
    /// back, for one acceptor to serve all of them.
    pub(super) fn multiply(self, shards: usize, bound_here: bool) -> (Vec<Self>, Option<Self>) {
        if shards == 1 {
            return (vec![self], None);
        }
        match self {
            Self::Tcp(firsts) => match siblings(&firsts, shards - 1, bound_here) {
                Ok(siblings) => {
                    let all = iter::once(firsts).chain(siblings).map(Self::Tcp);
                    (all.collect(), None)
                }
                Err(error) => {
                    log::info!("one acceptor for {shards} workers: {error}");
                    (Vec::new(), Some(Self::Tcp(firsts)))
                }
            },
            #[cfg(unix)]
            door @ Self::Unix(_) => (Vec::new(), Some(door)),
        }
    }
}

/// Further sockets for so many shards, that listen where `firsts` do, among which the system deals
/// connections out.
///
/// `SO_REUSEPORT` lets every server of a user have a port of which another has said the same. So what
/// is bound here is bound without it, which fails where anybody has the port, and only then is it
/// said: a second server that does likewise is refused, and is not given half of the connections.
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
        let text = "the socket was not bound for several";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    for first in firsts {
        SockRef::from(first).set_reuse_port(true)?;
    }
    // None listens before all are bound: a connection that it took would be lost with it.
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

/// A socket at the same address, which does not listen yet.
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

/// Elsewhere the option is missing, or lets several listen and gives all connections to one.
#[cfg(not(target_os = "linux"))]
fn siblings(_: &[TcpListener], _: usize, _: bool) -> io::Result<Vec<Vec<TcpListener>>> {
    let text = "this system does not deal connections out to several sockets";
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lines_in;

    #[test]
    fn https_that_is_required_and_cannot_arrive_is_warned_of() {
        let said = |trusted: Option<&str>, require: bool| {
            let config = Config::builder().require_https(require);
            let config =
                trusted.into_iter().fold(config, |config, range| config.trusted_proxy(range));
            let bound = Bound::bind("127.0.0.1:0", config.build().unwrap()).unwrap();
            lines_in(|| drop(bound.into_worker().unwrap()))
        };
        let lines = said(None, true);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("WARN require_https refuses every request"), "{lines:?}");
        assert!(lines[0].contains("see trusted_proxy"), "{lines:?}");
        assert!(said(Some("127.0.0.1"), true).is_empty());
        assert!(said(None, false).is_empty());
    }
}
