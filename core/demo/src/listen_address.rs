//! Where a server listens.

use core::net::{IpAddr, SocketAddr};
use std::fmt;
use std::path::Path;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// At a TCP address.
    Tcp(SocketAddr),
    /// At every TCP address of a name.
    Named(Named<'a>),
    /// At a Unix socket.
    Unix(&'a Path),
}

/// A name and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// The name, as in `localhost`.
    pub name: &'a str,
    /// Its addresses.
    pub ips: &'a [IpAddr],
    /// The port at all of them.
    pub port: u16,
}

impl<'a> Place<'a> {
    /// Every TCP address of it; none of a Unix socket.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match *self {
            Self::Tcp(address) => vec![address],
            Self::Named(Named { ips, port, .. }) => {
                ips.iter().map(|&ip| SocketAddr::new(ip, port)).collect()
            }
            Self::Unix(_) => Vec::new(),
        }
    }

    /// The same place, once a server has these addresses of it, all at `port`: the port may have been
    /// for the system to choose, and an address missing.
    #[must_use]
    pub const fn bound(self, ips: &'a [IpAddr], port: u16) -> Self {
        match (self, ips) {
            (Self::Tcp(_), &[ip, ..]) => Self::Tcp(SocketAddr::new(ip, port)),
            (Self::Named(Named { name, .. }), _) => Self::Named(Named { name, ips, port }),
            (Self::Tcp(_) | Self::Unix(_), _) => self,
        }
    }

    /// An address at which other machines can connect, if there is one.
    #[must_use]
    pub fn exposed(&self) -> Option<SocketAddr> {
        self.addresses().into_iter().find(|address| !address.ip().is_loopback())
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Named(Named { name, port, .. }) => write!(f, "{name}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
