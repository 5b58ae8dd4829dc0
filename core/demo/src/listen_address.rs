//! The address at which a server listens.

use core::net::{IpAddr, SocketAddr};
use std::fmt;
use std::path::{Path, PathBuf};

/// The address at which a server listens or should listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress<'a> {
    /// A TCP address.
    Tcp(SocketAddr),
    /// All TCP addresses of a name.
    Named(NamedAddress<'a>),
    /// The addresses of TCP sockets that the service manager has bound.
    Passed(&'a [SocketAddr]),
    /// The path of a Unix socket.
    Unix(&'a Path),
}

/// The addresses of listening sockets that the service manager has bound and passed to the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedAddresses {
    /// TCP sockets, at least one.
    Tcp(Vec<SocketAddr>),
    /// Unix sockets.
    Unix {
        /// The path of the first one, or its name if it is not in the file system, with `@` in front.
        path: PathBuf,
        /// The mode of its file.
        mode: u32,
    },
}

/// A name and the addresses that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedAddress<'a> {
    /// The name, as in `localhost`.
    pub name: &'a str,
    /// The name's IP addresses.
    pub ips: &'a [IpAddr],
    /// The port, which is the same at all addresses.
    pub port: u16,
}

impl<'a> ListenAddress<'a> {
    /// The TCP addresses; none for a Unix socket.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match *self {
            Self::Tcp(address) => vec![address],
            Self::Named(NamedAddress { ips, port, .. }) => {
                ips.iter().map(|&ip| SocketAddr::new(ip, port)).collect()
            }
            Self::Passed(addresses) => addresses.to_vec(),
            Self::Unix(_) => Vec::new(),
        }
    }

    /// The same address with the IP addresses and the port that were bound. They may differ, because the operating
    /// system chooses the port if it is 0, and because the machine may lack one of the IP addresses.
    #[must_use]
    pub const fn bound(self, ips: &'a [IpAddr], port: u16) -> Self {
        match (self, ips) {
            (Self::Tcp(_), &[ip, ..]) => Self::Tcp(SocketAddr::new(ip, port)),
            (Self::Named(NamedAddress { name, .. }), _) => {
                Self::Named(NamedAddress { name, ips, port })
            }
            (Self::Tcp(_) | Self::Passed(_) | Self::Unix(_), _) => self,
        }
    }

    /// The first address at which other machines can connect, if there is one.
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
            Self::Passed(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                f.write_str(&addresses.join(" and "))
            }
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
