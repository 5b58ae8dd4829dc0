//! Binds every TCP address that a name stands for.
//!
//! Knows: what to do if one of several addresses cannot be bound, and how they share a free port.
//! Does not know: what is served there.
//!
//! Decision: a name that resolves to several addresses is bound at all of them. Clients resolve the
//! same name, and which address they try first differs: for `localhost` it is `::1` with some, and
//! `127.0.0.1` with others that never try the second. The standard library's `bind` stops at the first
//! address that can be bound, so half of those clients would find no server, or another one. One IPv6
//! socket for both families was considered as well: it serves the wildcard address only, not loopback.

use core::cell::Cell;
use core::net::SocketAddr;
use core::task::Poll;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, ToSocketAddrs};

/// The maximum number of addresses that one server listens on. A name with more addresses is refused.
pub const ADDRESSES_MAX: usize = 16;

/// The number of free ports that are tried for several addresses to share one.
const PORTS_TRIED_MAX: usize = 16;

/// The operating system's error for a family of addresses that it does not have. The standard library
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
    let mut wanted: Vec<SocketAddr> = Vec::new();
    for address in addresses.to_socket_addrs()? {
        if wanted.contains(&address) {
            continue;
        }
        if wanted.len() == ADDRESSES_MAX {
            let text = format!("there are more than {ADDRESSES_MAX} addresses to listen on");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        wanted.push(address);
    }
    let bind = |address| {
        let socket = TcpListener::bind(address)?;
        let port = socket.local_addr()?.port();
        Ok((socket, port))
    };
    bind_each(&wanted, bind)
}

/// Binds each of `wanted` by `bind`, which also returns the port. An address that this machine does not
/// have is passed over if another can be bound; any other error is returned.
fn bind_each<T>(
    wanted: &[SocketAddr],
    mut bind: impl FnMut(SocketAddr) -> io::Result<(T, u16)>,
) -> io::Result<Vec<T>> {
    // Sockets at ports that are not free at every address: they are kept open, so that the next free port
    // is another one.
    let mut kept = Vec::new();
    'attempts: loop {
        // `free_port` is the one that the system has picked.
        let (mut bound, mut missing, mut free_port) = (Vec::new(), Vec::new(), None);
        for &address in wanted {
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
                    return Err(match wanted {
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
            log::info!("not listening on {address}, which is no address here: {error}");
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

/// Polls several listening sockets fairly: each in turn is polled first, so that a socket with an endless
/// supply of connections does not delay those at the others.
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

    /// Binds where `free` says that it can be done; port 0 is 9 at first, and then one more each time.
    fn check(
        wanted: &[&str],
        mut free: impl FnMut(SocketAddr) -> Result<(), ErrorKind>,
    ) -> Result<Vec<String>, String> {
        let wanted: Vec<SocketAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let mut next = 9;
        let bound = bind_each(&wanted, |mut address| {
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
    fn port_that_one_family_has_not_free_is_passed_over() {
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
        // A port that was asked for is that one or none.
        let said = check(&["127.0.0.1:11", "[::1]:11"], busy(12)).unwrap_err();
        assert!(said.contains("[::1]:11: "), "{said}");
    }

    #[test]
    fn family_that_is_missing_is_passed_over() {
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
