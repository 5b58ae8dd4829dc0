//! Where a server listens.

use core::net::{IpAddr, SocketAddr};
use std::fmt;
use std::path::Path;

/// Where a server listens, or is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress<'a> {
    /// At a TCP address.
    Tcp(SocketAddr),
    /// At every TCP address of a name.
    Named(NamedAddress<'a>),
    /// At a Unix socket.
    Unix(&'a Path),
}

/// A name and its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedAddress<'a> {
    /// The name, as in `localhost`.
    pub name: &'a str,
    /// Its addresses.
    pub ips: &'a [IpAddr],
    /// The port at all of them.
    pub port: u16,
}

impl<'a> ListenAddress<'a> {
    /// Its TCP addresses; a Unix socket has none.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match *self {
            Self::Tcp(address) => vec![address],
            Self::Named(NamedAddress { ips, port, .. }) => {
                ips.iter().map(|&ip| SocketAddr::new(ip, port)).collect()
            }
            Self::Unix(_) => Vec::new(),
        }
    }

    /// The address with the IP addresses and the port that a server has bound: the system may have chosen the port, and
    /// the machine may lack an address.
    #[must_use]
    pub const fn bound(self, ips: &'a [IpAddr], port: u16) -> Self {
        match (self, ips) {
            (Self::Tcp(_), &[ip, ..]) => Self::Tcp(SocketAddr::new(ip, port)),
            (Self::Named(NamedAddress { name, .. }), _) => {
                Self::Named(NamedAddress { name, ips, port })
            }
            (Self::Tcp(_) | Self::Unix(_), _) => self,
        }
    }

    /// An address at which other machines can connect, if there is one.
    #[must_use]
    pub fn exposed(&self) -> Option<SocketAddr> {
        self.addresses().into_iter().find(|address| !address.ip().is_loopback())
    }
}

impl fmt::Display for ListenAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Named(NamedAddress { name, port, .. }) => write!(f, "{name}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
