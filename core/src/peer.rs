//! The peer of a connection, and whether the connection arrived at a loopback address.
//!
//! The local address itself is not kept: each connection would take 32 bytes more.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

/// The remote address of an accepted connection, whether it arrived at a loopback address, and whether it
/// uses TLS.
/// [`Server::accept`](crate::Server::accept) takes it.
///
/// ```
/// use mcp_sse_core::Peer;
///
/// let peer = Peer::tcp("192.0.2.1:4711".parse()?, "10.0.0.1:443".parse()?).secure();
/// assert_eq!(peer.remote(), Some("192.0.2.1:4711".parse()?));
/// assert!(peer.is_secure() && !peer.arrived_on_loopback());
/// assert_eq!(Peer::local().remote(), None);
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    remote: Option<SocketAddr>,
    loopback: bool,
    secure: bool,
}

impl Peer {
    /// Makes a peer that connected by TCP from `remote` to `local`.
    #[must_use]
    pub const fn tcp(remote: SocketAddr, local: SocketAddr) -> Self {
        let loopback = local.ip().to_canonical().is_loopback();
        Self { remote: Some(remote), loopback, secure: false }
    }

    /// Makes a peer on this machine without an address: a Unix socket, a pipe, a test.
    #[must_use]
    pub const fn local() -> Self {
        Self { remote: None, loopback: true, secure: false }
    }

    /// Marks the connection as TLS. Its request targets have the scheme `https`.
    #[must_use]
    pub const fn secure(self) -> Self {
        Self { secure: true, ..self }
    }

    /// Whether the connection uses TLS.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The address and port of the peer; `None` for [`local`](Self::local).
    #[must_use]
    pub const fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Whether the connection arrived at a loopback address, where only loopback host names are
    /// allowed by default. True for [`local`](Self::local).
    #[must_use]
    pub const fn arrived_on_loopback(&self) -> bool {
        self.loopback
    }

    /// The IP address of the peer in canonical form.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.remote().map(|remote| remote.ip().to_canonical())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote {
            Some(remote) => fmt::Display::fmt(&remote, f),
            None => f.write_str("local"),
        }
    }
}

/// An IPv4 address or an IPv6 /64 network, by which limits per address count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressKey([u8; 16]);

impl AddressKey {
    /// A placeholder where nothing is counted.
    pub(crate) const NONE: Self = Self([0; 16]);

    /// The key of an address; `None` for loopback addresses, from which proxies connect for other
    /// clients.
    pub(crate) fn of(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(ip) => Some(Self(ip.to_ipv6_mapped().octets())),
            // A subscriber usually has a whole /64 and could use a new address for each connection.
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                let network = core::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0);
                Some(Self(network.octets()))
            }
        }
    }

    /// The address, or the first of the network.
    pub(crate) fn network(self) -> IpAddr {
        IpAddr::from(self.0).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn peer(remote: &str, local: &str) -> Peer {
        Peer::tcp(remote.parse().unwrap(), local.parse().unwrap())
    }

    #[test]
    fn arrived_on_loopback_depends_on_the_local_address() {
        assert!(peer("10.0.0.1:1", "127.0.0.1:80").arrived_on_loopback());
        assert!(peer("10.0.0.1:1", "[::ffff:127.0.0.1]:80").arrived_on_loopback());
        assert!(peer("[::1]:1", "[::1]:80").arrived_on_loopback());
        assert!(!peer("127.0.0.1:1", "10.0.0.2:80").arrived_on_loopback());
        assert!(Peer::local().arrived_on_loopback());
    }

    #[test]
    fn address_key_is_the_64_network_and_none_for_loopback() {
        let key = |remote| AddressKey::of(peer(remote, "10.0.0.2:80").ip().unwrap());
        assert_eq!(key("127.0.0.9:5"), None);
        assert_eq!(key("[::ffff:127.0.0.9]:5"), None);
        assert_eq!(key("10.0.0.1:1"), key("10.0.0.1:2"));
        assert_eq!(key("10.0.0.1:1"), key("[::ffff:10.0.0.1]:2"));
        assert_ne!(key("10.0.0.1:1"), key("10.0.0.3:1"));
        assert_eq!(key("[2001:db8::1]:1"), key("[2001:db8::ffff]:1"));
        assert_ne!(key("[2001:db8::1]:1"), key("[2001:db8:0:1::1]:1"));
        assert_eq!(Peer::local().ip(), None);
        let network = |remote| key(remote).unwrap().network().to_string();
        assert_eq!(network("10.0.0.1:1"), "10.0.0.1");
        assert_eq!(network("[2001:db8::1]:1"), "2001:db8::");
    }

    #[test]
    fn secure_changes_only_is_secure() {
        let plain = peer("10.0.0.1:1", "10.0.0.2:80");
        let secure = plain.secure();
        assert!(secure.is_secure() && !plain.is_secure() && !Peer::local().is_secure());
        assert_eq!((secure.remote(), secure.ip()), (plain.remote(), plain.ip()));
    }
}
