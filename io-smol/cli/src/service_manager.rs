//! The service manager: the sockets that it passes to this program, and the notifications that this program sends.
//!
//! Knows: the protocols of systemd for socket activation (`LISTEN_FDS`), notifications (`NOTIFY_SOCKET`) and the
//! watchdog (`WATCHDOG_USEC`), which other service managers and container engines also speak.
//! Does not know: what is served, or when.
//!
//! Decision: sockets are taken with the crate `listenfd`, which checks each descriptor and turns it into a listener
//! without unsafe code here. `sd-notify` and `sd-listen-fds` return numbers of descriptors, which only unsafe code can
//! use.
//!
//! Decision: notifications are sent with the standard library. `sd-notify` does not support sockets with
//! abstract names, and a notification is one datagram, which takes little code.
//!
//! Decision: if sockets were passed, flags for an address on the command line are an error, because they would have
//! no effect. Variables for an address are ignored, because `PORT` and others may be set for all programs.
//!
//! Decision: `WATCHDOG=1` is sent only while every shard answers. A shard whose thread hangs serves none of
//! its sessions, and only a restart helps. A thread that sent notifications without asking the shards would not
//! notice that.

use core::net::SocketAddr;
use core::time::Duration;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::{env, fs, io, process, thread};

use listenfd::ListenFd;
use mcp_sse_demo::options::PassedAddresses;
use mcp_sse_smol::{Config, Handle, Listener};
use rustix::net::sockopt::socket_acceptconn;
use rustix::time::{ClockId, clock_gettime};
use smol::{Timer, future};

/// The number of the first descriptor that is passed.
const FIRST_DESCRIPTOR: usize = 3;
/// The longest wait for a service manager whose socket is full. Without a limit, one that reads nothing would keep the
/// server from stopping.
const NOTIFY_WAIT_MAX: Duration = Duration::from_secs(1);

/// The listening sockets that the service manager has passed: all are of one kind.
#[derive(Debug)]
pub(crate) enum PassedSockets {
    None,
    Tcp(Vec<TcpListener>),
    Unix(Vec<UnixListener>),
}

impl PassedSockets {
    /// Takes the sockets, and removes the variables about them from the environment. Call this before the program has
    /// other threads, because threads may read the environment.
    ///
    /// # Errors
    ///
    /// Returns a message if a descriptor is not a listening socket, or if there are sockets of both kinds.
    pub(crate) fn take() -> Result<Self, String> {
        let mut passed = ListenFd::from_env();
        let (mut tcp, mut unix) = (Vec::new(), Vec::new());
        for index in 0..passed.len() {
            let wrong = |what: &str| {
                let number = FIRST_DESCRIPTOR + index;
                format!("descriptor {number}, which the service manager has passed, is {what}")
            };
            let listens = if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
                let listens = socket_acceptconn(&socket);
                tcp.push(socket);
                listens
            } else if let Ok(Some(socket)) = passed.take_unix_listener(index) {
                let listens = socket_acceptconn(&socket);
                unix.push(socket);
                listens
            } else {
                return Err(wrong("no TCP socket and no Unix stream socket"));
            };
            if !listens.unwrap_or(false) {
                return Err(wrong("not listening; a socket unit needs Accept=no"));
            }
        }
        match (tcp.is_empty(), unix.is_empty()) {
            (true, true) => Ok(Self::None),
            (false, true) => Ok(Self::Tcp(tcp)),
            (true, false) => Ok(Self::Unix(unix)),
            (false, false) => Err("the service manager has passed TCP sockets and Unix sockets; \
                                   a server listens on sockets of one kind"
                .into()),
        }
    }

    pub(crate) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The addresses of the sockets, if there are any.
    ///
    /// # Errors
    ///
    /// Returns the error of the operating system.
    pub(crate) fn addresses(&self) -> io::Result<Option<PassedAddresses>> {
        Ok(match self {
            Self::None => None,
            Self::Tcp(sockets) => {
                let addresses: io::Result<Vec<SocketAddr>> =
                    sockets.iter().map(TcpListener::local_addr).collect();
                Some(PassedAddresses::Tcp(addresses?))
            }
            Self::Unix(sockets) => {
                let address = sockets.first().map(UnixListener::local_addr).transpose()?;
                let path = address.as_ref().and_then(|address| address.as_pathname());
                let mode = path.and_then(|path| fs::metadata(path).ok());
                // Every user can connect to a socket that is not in the file system.
                let mode = mode.map_or(0o666, |data| data.permissions().mode() & 0o777);
                let path = path.map_or_else(|| abstract_path(address.as_ref()), Path::to_owned);
                Some(PassedAddresses::Unix { path, mode })
            }
        })
    }

    /// The listener on these sockets; `None` if there are none.
    pub(crate) fn listener(self, config: Config) -> Option<io::Result<Listener>> {
        match self {
            Self::None => None,
            Self::Tcp(sockets) => Some(Listener::from_std_sockets(sockets, config)),
            Self::Unix(sockets) => Some(Listener::from_std_unix_sockets(sockets, config)),
        }
    }
}

/// The abstract name of a Unix socket, with `@` in front.
fn abstract_path(address: Option<&std::os::unix::net::SocketAddr>) -> PathBuf {
    #[cfg(target_os = "linux")]
    if let Some(name) = address.and_then(std::os::linux::net::SocketAddrExt::as_abstract_name) {
        return format!("@{}", name.escape_ascii()).into();
    }
    let _ = address;
    PathBuf::from("@")
}

/// Tells the service manager about this program, if there is one that wants to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceManager {
    notify_socket: Option<OsString>,
    /// The program is considered to hang if the service manager hears nothing for so long.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The service manager that the environment names.
    pub(crate) fn from_env() -> Self {
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let own = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| own && *micros > 0);
        let notify_socket = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        Self { notify_socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// The program listens at `address`.
    pub(crate) fn ready(&self, address: &str) {
        self.notify(&format!("READY=1\nSTATUS=Listening on {address}"));
    }

    /// The program begins to stop.
    pub(crate) fn stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=Stopping");
    }

    /// The program reads its files again.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000;
        self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The program has read its files again.
    pub(crate) fn reloaded(&self) {
        self.notify("READY=1");
    }

    /// Reports on a thread of its own that the program is alive, as long as every shard of `server` answers.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub(crate) fn watch(&self, server: Handle) -> io::Result<()> {
        let Some(interval) = self.watchdog.filter(|_| self.notify_socket.is_some()) else {
            return Ok(());
        };
        let manager = self.clone();
        let alive = move || manager.notify("WATCHDOG=1");
        // An answer that takes this long, after a pause as long, is still in time.
        let pause = interval / 3;
        thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || smol::block_on(while_answering(&server, pause, alive)))?;
        Ok(())
    }

    fn notify(&self, text: &str) {
        let Some(name) = &self.notify_socket else { return };
        if let Err(error) = send(name.as_bytes(), text.as_bytes()) {
            log::warn!(
                event = "service_manager_not_notified",
                error:% = error;
                "the service manager at {} cannot be notified: {error}",
                name.display()
            );
        }
    }
}

/// Calls `alive` every `interval` while all shards answer within that time. Ends when the server has ended.
async fn while_answering(server: &Handle, interval: Duration, alive: impl Fn()) {
    loop {
        let late = async {
            Timer::after(interval).await;
            None
        };
        match future::or(async { Some(server.metrics().await) }, late).await {
            Some(Ok(_)) => alive(),
            // The server has ended.
            Some(Err(_)) => return,
            None => {
                log::error!(
                    event = "worker_hangs";
                    "a worker does not answer; the service manager's watchdog is not notified"
                );
                continue;
            }
        }
        Timer::after(interval).await;
    }
}

/// Sends a datagram to a Unix socket: at a path, or at an abstract name if the first character is `@`.
fn send(name: &[u8], datagram: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(NOTIFY_WAIT_MAX))?;
    match name.split_first() {
        Some((b'/', _)) => {
            socket.send_to(datagram, Path::new(std::ffi::OsStr::from_bytes(name)))?
        }
        #[cfg(target_os = "linux")]
        Some((b'@', name)) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(datagram, &address)?
        }
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "expected a path or @name")),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A server that does not serve yet does not answer, just like one whose thread hangs.
    #[test]
    fn watchdog_is_notified_only_while_the_server_answers() {
        const INTERVAL: Duration = Duration::from_millis(10);
        let listener = Listener::bind("127.0.0.1:0", Config::default()).unwrap();
        let handle = listener.handle();
        let (sender, alive) = mpsc::channel();
        let watched = handle.clone();
        let watchdog = thread::spawn(move || {
            let alive = move || sender.send(()).unwrap_or_default();
            smol::block_on(while_answering(&watched, INTERVAL, alive));
        });
        assert!(alive.recv_timeout(10 * INTERVAL).is_err(), "nobody answers");
        let server = thread::spawn(|| smol::block_on(listener.serve_local(async |_| {})));
        for _ in 0..3 {
            alive.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        handle.shutdown();
        server.join().unwrap().unwrap();
        watchdog.join().unwrap();
    }
}
