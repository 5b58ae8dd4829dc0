//! Binds every TCP address of a name.
//!
//! Knows: what to do if one of several addresses cannot be bound, and how they share a free port.
//! Does not know: what is served there.
//!
//! Decision: a name that resolves to several addresses is bound at all of them. Clients that connect to the
//! same name differ in the address that they try first: for `localhost` some try `::1`, and others try
//! `127.0.0.1` and never `::1`. The standard library's `bind` stops at the first
//! address that can be bound, so some clients would find no server, or another one. The alternative of one IPv6
//! socket for both families works only for the unspecified address, and not for loopback.

use core::cell::Cell;
use core::net::SocketAddr;
use core::task::Poll;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, ToSocketAddrs};

/// The maximum number of addresses that one server listens on: 16. A name with more addresses is an error.
pub const ADDRESSES_MAX: usize = 16;

/// The number of free ports that are tried for several addresses to share one.
const PORTS_TRIED_MAX: usize = 16;

/// The error number of the operating system for an address family that it does not support. The standard library
/// has no name for it.
const FAMILY_UNSUPPORTED: i32 = if cfg!(windows) {
    10_047
} else if cfg!(any(target_os = "linux", target_os = "android")) {
    97
} else {
    47
};

/// Binds each of `addresses` once. Those with port 0 get the same free port.
pub(super) fn bind_all(addresses: impl ToSocketAddrs) -> io::Result<Vec<TcpListener>> {
    let mut requested: Vec<SocketAddr> = Vec::new();
    for address in addresses.to_socket_addrs()? {
        if requested.contains(&address) {
            continue;
        }
        if requested.len() == ADDRESSES_MAX {
            let text = format!("there are more than {ADDRESSES_MAX} addresses to listen on");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        requested.push(address);
    }
    let bind = |address| {
        let socket = TcpListener::bind(address)?;
        let port = socket.local_addr()?.port();
        Ok((socket, port))
    };
    bind_each(&requested, bind)
}

/// Binds each of `requested` with `bind`, which also returns the port. An address that this machine does not
/// have is skipped if another can be bound; any other error is returned.
fn bind_each<T>(
    requested: &[SocketAddr],
    mut bind: impl FnMut(SocketAddr) -> io::Result<(T, u16)>,
) -> io::Result<Vec<T>> {
    // Sockets at ports that are not free at every address. They stay open, so that the next free port
    // is a different one.
    let mut kept = Vec::new();
    'attempts: loop {
        // `free_port` is the port that the operating system has chosen.
        let (mut bound, mut missing, mut free_port) = (Vec::new(), Vec::new(), None);
        for &address in requested {
            match bind(with_port(address, free_port)) {
                Ok((socket, port)) => {
                    if address.port() == 0 {
                        free_port = Some(port);
                    }
                    bound.push(socket);
                }
                Err(error) if is_missing(&error) => missing.push((address, error)),
                Err(error) => {
                    let taken = error.kind() == ErrorKind::AddrInUse && free_port.is_some();
                    if taken && address.port() == 0 && kept.len() < PORTS_TRIED_MAX {
                        kept.push(bound);
                        continue 'attempts;
                    }
                    return Err(match requested {
                        // A single address is known to the caller.
                        [_] => error,
                        _ => at(with_port(address, free_port), &error),
                    });
                }
            }
        }
        if bound.is_empty() {
            return Err(match missing.pop() {
                Some((_, error)) if missing.is_empty() => error,
                Some((address, error)) => at(address, &error),
                None => io::Error::new(ErrorKind::InvalidInput, "there is no address to listen on"),
            });
        }
        for (address, error) in missing {
            let address = with_port(address, free_port);
            log::info!(
                event = "address_skipped",
                address:% = address,
                error:% = error;
                "not listening on {address}, which this machine does not have: {error}"
            );
        }
        return Ok(bound);
    }
}

/// The address, with `free_port` instead of port 0.
fn with_port(mut address: SocketAddr, free_port: Option<u16>) -> SocketAddr {
    if let (0, Some(port)) = (address.port(), free_port) {
        address.set_port(port);
    }
    address
}

fn at(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// Whether the machine has no such address, or no such family of addresses.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(FAMILY_UNSUPPORTED)
}

/// Polls several listening sockets fairly: each in turn is polled first, so that many connections at one socket do
/// not delay those at the others.
#[derive(Debug, Default)]
pub(super) struct RoundRobin(Cell<usize>);

impl RoundRobin {
    /// Polls `all` until one is ready, beginning after the one that was ready last.
    pub(super) fn poll<T, R>(&self, all: &[T], mut poll: impl FnMut(&T) -> Poll<R>) -> Poll<R> {
        let (last, first) = all.split_at(self.0.get().min(all.len()));
        for (turn, item) in first.iter().chain(last).enumerate() {
            if let Poll::Ready(ready) = poll(item) {
                self.0.set((self.0.get() + turn) % all.len() + 1);
                return Poll::Ready(ready);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    const V4: &str = "127.0.0.1:0";
    const V6: &str = "[::1]:0";

    /// Binds an address if `free` returns `Ok`. The first free port is 9, and each further one is one more.
    fn check(
        requested: &[&str],
        mut free: impl FnMut(SocketAddr) -> Result<(), ErrorKind>,
    ) -> Result<Vec<String>, String> {
        let requested: Vec<SocketAddr> =
            requested.iter().map(|text| text.parse().unwrap()).collect();
        let mut next = 9;
        let bound = bind_each(&requested, |mut address| {
            if address.port() == 0 {
                address.set_port(next);
                next += 1;
            }
            free(address)?;
            Ok((format!("{address}"), address.port()))
        });
        bound.map_err(|error| format!("{error}"))
    }

    #[test]
    fn all_are_bound_at_one_port() {
        assert_eq!(check(&[V4, V6], |_| Ok(())).unwrap(), ["127.0.0.1:9", "[::1]:9"]);
        let fixed = ["127.0.0.1:80", "[::1]:81"];
        assert_eq!(check(&fixed, |_| Ok(())).unwrap(), fixed);
        assert!(check(&[], |_| Ok(())).is_err());
    }

    #[test]
    fn port_that_is_not_free_in_one_family_is_skipped() {
        let busy = |below: u16| {
            move |address: SocketAddr| {
                let taken = address.is_ipv6() && address.port() < below;
                if taken { Err(ErrorKind::AddrInUse) } else { Ok(()) }
            }
        };
        assert_eq!(check(&[V4, V6], busy(12)).unwrap(), ["127.0.0.1:12", "[::1]:12"]);
        let mut tries = 0;
        let never = check(&[V4, V6], |address| {
            tries += usize::from(address.is_ipv6());
            if address.is_ipv6() { Err(ErrorKind::AddrInUse) } else { Ok(()) }
        });
        assert!(never.unwrap_err().contains("[::1]:"));
        assert_eq!(tries, PORTS_TRIED_MAX + 1);
        // A requested port is not replaced by another one.
        let said = check(&["127.0.0.1:11", "[::1]:11"], busy(12)).unwrap_err();
        assert!(said.contains("[::1]:11: "), "{said}");
    }

    #[test]
    fn family_that_is_missing_is_skipped() {
        let missing = |address: SocketAddr| match address.is_ipv6() {
            true => Err(ErrorKind::AddrNotAvailable),
            false => Ok(()),
        };
        assert_eq!(check(&[V4, V6], missing).unwrap(), ["127.0.0.1:9"]);
        assert_eq!(check(&[V6, V4], missing).unwrap(), ["127.0.0.1:10"]);
        assert!(check(&[V6], missing).is_err());
        assert!(check(&[V6, "[::2]:0"], missing).unwrap_err().contains("[::2]:0: "));
        assert!(is_missing(&io::Error::from_raw_os_error(FAMILY_UNSUPPORTED)));
        assert!(!is_missing(&ErrorKind::AddrInUse.into()));
    }

    #[test]
    fn addresses_are_bound_once_and_counted() {
        let twice = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
        assert_eq!(bind_all(&twice[..]).unwrap().len(), 1);
        let many: Vec<_> = (1..=17).map(|last| SocketAddr::from(([127, 0, 0, last], 0))).collect();
        let error = bind_all(&many[..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(format!("{error}").contains("more than 16"), "{error}");
    }

    #[test]
    fn each_is_first_in_turn() {
        let turns = RoundRobin::default();
        let next = |ready: [bool; 3]| {
            let all = [0, 1, 2];
            match turns.poll(&all, |&n| if ready[n] { Poll::Ready(n) } else { Poll::Pending }) {
                Poll::Ready(n) => n,
                Poll::Pending => 9,
            }
        };
        let all = [true; 3];
        assert_eq!([next(all), next(all), next(all), next(all)], [0, 1, 2, 0]);
        assert_eq!(next([false; 3]), 9);
        assert_eq!([next([true, false, true]), next(all), next([false, true, false])], [2, 0, 1]);
    }
}
