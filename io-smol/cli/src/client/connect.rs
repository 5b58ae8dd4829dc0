//! Connections to a server: name, TCP or Unix socket, and TLS.
//!
//! Knows: in which step a connection failed. Does not know: what is sent on it.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Instant;

use smol::net::TcpStream;

use super::connection::{Connection, until};
use super::target::Target;
#[cfg(feature = "tls")]
use super::tls::{TlsFault, Trust};

/// The most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectFault {
    /// The resolver does not know the name, for this reason.
    NameNotFound(io::Error),
    /// The resolver has not answered in time.
    NameTimedOut,
    /// The machine refuses connections at this port.
    Refused,
    /// The machine has not answered in time.
    TimedOut,
    /// Another error of the system, for example that there is no route.
    Failed(io::Error),
    /// The TLS handshake failed.
    #[cfg(feature = "tls")]
    Tls(TlsFault),
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameNotFound(error) => write!(f, "the name cannot be resolved: {error}"),
            Self::NameTimedOut => f.write_str("the name was not resolved in time"),
            Self::Refused => f.write_str("nothing accepts connections there"),
            Self::TimedOut => f.write_str("nothing answers there in time"),
            Self::Failed(error) => write!(f, "cannot connect: {error}"),
            #[cfg(feature = "tls")]
            Self::Tls(fault) => fault.fmt(f),
        }
    }
}

/// The addresses of the target's name, at most [`ADDRESSES_MAX`].
pub(crate) async fn resolve(
    target: &Target,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, ConnectFault> {
    let resolving = smol::net::resolve((target.host(), target.port()));
    let found = until(deadline, resolving).await.ok_or(ConnectFault::NameTimedOut)?;
    let mut addresses = found.map_err(ConnectFault::NameNotFound)?;
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(ConnectFault::NameNotFound(error));
    }
    Ok(addresses)
}

/// Connects to the first address that accepts. Each address gets an equal part of the time that is left.
pub(crate) async fn connect_tcp(
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), ConnectFault> {
    let mut fault = ConnectFault::TimedOut;
    for (at, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - at).unwrap_or(1);
        let next = match until(Instant::now() + share, TcpStream::connect(address)).await {
            Some(Ok(stream)) => {
                // A request is one write, so nothing is gained by waiting for more.
                let _ = stream.set_nodelay(true);
                return Ok((stream, *address));
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                ConnectFault::Refused
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => ConnectFault::TimedOut,
            Some(Err(error)) => ConnectFault::Failed(error),
            None => ConnectFault::TimedOut,
        };
        // If addresses fail differently, the first silence explains more than a refusal or a missing route.
        if at == 0 || !matches!(fault, ConnectFault::TimedOut) {
            fault = next;
        }
    }
    Err(fault)
}

/// Where a server listens.
#[derive(Clone, Debug)]
enum Place {
    Tcp(Vec<SocketAddr>),
    #[cfg(unix)]
    Unix(PathBuf),
}

/// Opens connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    place: Place,
    #[cfg(feature = "tls")]
    tls: Option<(Trust, String)>,
}

impl Dialer {
    /// A dialer for the addresses of the target. Certificates are checked by `trust`.
    pub(crate) fn new(
        target: &Target,
        addresses: Vec<SocketAddr>,
        #[cfg(feature = "tls")] trust: Option<&Trust>,
    ) -> Self {
        #[cfg(not(feature = "tls"))]
        let _ = target;
        Self {
            place: Place::Tcp(addresses),
            #[cfg(feature = "tls")]
            tls: trust
                .filter(|_| target.is_https())
                .map(|trust| (trust.clone(), target.host().to_owned())),
        }
    }

    /// A dialer for a Unix socket, without TLS.
    #[cfg(unix)]
    pub(crate) fn unix(path: PathBuf) -> Self {
        Self {
            place: Place::Unix(path),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The addresses that are connected to.
    #[cfg(feature = "tls")]
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        match &self.place {
            Place::Tcp(addresses) => addresses,
            #[cfg(unix)]
            Place::Unix(_) => &[],
        }
    }

    /// Opens a connection, with TLS if the target's scheme is `https`.
    pub(crate) async fn dial(&self, timeout: Duration) -> Result<Connection, ConnectFault> {
        let deadline = Instant::now() + timeout;
        match &self.place {
            Place::Tcp(addresses) => {
                let (stream, _) = connect_tcp(addresses, deadline).await?;
                #[cfg(feature = "tls")]
                if let Some((trust, host)) = &self.tls {
                    let (stream, _) =
                        trust.handshake(stream, host, deadline).await.map_err(ConnectFault::Tls)?;
                    return Ok(stream);
                }
                Ok(Box::pin(stream))
            }
            #[cfg(unix)]
            Place::Unix(path) => {
                let connecting = smol::net::unix::UnixStream::connect(path);
                match until(deadline, connecting).await {
                    Some(Ok(stream)) => Ok(Box::pin(stream)),
                    Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        Err(ConnectFault::Refused)
                    }
                    Some(Err(error)) => Err(ConnectFault::Failed(error)),
                    None => Err(ConnectFault::TimedOut),
                }
            }
        }
    }
}
