//! Who is at the other end of a connection, and by which door it came in.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

/// The two addresses of an accepted connection, and whether it is TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    addresses: Option<(SocketAddr, SocketAddr)>,
    secure: bool,
}

impl Peer {
    /// A TCP connection from `remote` that was accepted on `local`.
    #[must_use]
    pub const fn tcp(remote: SocketAddr, local: SocketAddr) -> Self {
        Self { addresses: Some((remote, local)), secure: false }
    }

    /// A peer on this machine that has no address: a Unix socket, a pipe, a test.
    #[must_use]
    pub const fn local() -> Self {
        Self { addresses: None, secure: false }
    }

    /// The same peer, by TLS: its bytes were encrypted, and its targets are `https`.
    #[must_use]
    pub const fn secure(self) -> Self {
        Self { secure: true, ..self }
    }

    /// Whether the connection is TLS.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// The peer's own address.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        self.addresses.map(|(remote, _)| remote)
    }

    /// Whether the connection arrived on a loopback address, where only loopback names may be used.
    #[must_use]
    pub fn arrived_on_loopback(&self) -> bool {
        self.addresses.is_none_or(|(_, local)| local.ip().to_canonical().is_loopback())
    }

    /// The peer's own IP address.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.remote().map(|remote| remote.ip().to_canonical())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addresses {
            Some((remote, _)) => fmt::Display::fmt(&remote, f),
            None => f.write_str("local"),
        }
    }
}

/// An IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressKey([u8; 16]);

impl AddressKey {
    /// The key of no address, where nothing is counted.
    pub(crate) const NOBODYS: Self = Self([0; 16]);

    /// What limits per address count by: `None` for loopback addresses, which speak for others.
    pub(crate) fn of(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(ip) => Some(Self(ip.to_ipv6_mapped().octets())),
            // A /64 is one subscriber; counting single addresses would count nothing.
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
    fn doors() {
        assert!(peer("10.0.0.1:1", "127.0.0.1:80").arrived_on_loopback());
        assert!(peer("10.0.0.1:1", "[::ffff:127.0.0.1]:80").arrived_on_loopback());
        assert!(peer("[::1]:1", "[::1]:80").arrived_on_loopback());
        assert!(!peer("127.0.0.1:1", "10.0.0.2:80").arrived_on_loopback());
        assert!(Peer::local().arrived_on_loopback());
    }

    #[test]
    fn addresses_are_counted_by_subscriber_and_loopback_not_at_all() {
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
    fn tls_changes_nothing_else() {
        let plain = peer("10.0.0.1:1", "10.0.0.2:80");
        let secure = plain.secure();
        assert!(secure.is_secure() && !plain.is_secure() && !Peer::local().is_secure());
        assert_eq!((secure.remote(), secure.ip()), (plain.remote(), plain.ip()));
    }
}
