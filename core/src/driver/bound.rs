//! A listening socket with a configuration: what an adapter's listener is before it serves.
#![expect(clippy::disallowed_types, reason = "held for an adapter, which accepts on it")]

use alloc::format;
use core::net::SocketAddr;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::thread;

use async_channel::bounded;

use super::handle::{Controls, Handle, controls};
#[cfg(feature = "tls")]
use super::tls::Tls;
#[cfg(unix)]
use super::unix::UnixDoor;
use crate::config::Config;

/// A listening socket, a configuration, and the two ends of a [`Handle`].
#[derive(Debug)]
pub struct Bound {
    /// The listening socket.
    pub door: Door,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    /// The configuration to serve with.
    pub config: Config,
    /// What the application holds.
    pub handle: Handle,
    /// What the shard is given.
    pub controls: Controls,
}

/// A listening socket.
#[derive(Debug)]
pub enum Door {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket, with its file.
    #[cfg(unix)]
    Unix(UnixDoor),
}

impl Bound {
    /// Binds a TCP address.
    ///
    /// # Errors
    ///
    /// Those of binding.
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        Ok(Self::new(Door::Tcp(TcpListener::bind(address)?), config))
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
        Self::new(Door::Tcp(socket), config)
    }

    fn new(door: Door, config: Config) -> Self {
        let (handle, controls) = controls();
        Self {
            door,
            #[cfg(feature = "tls")]
            tls: None,
            config,
            handle,
            controls,
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

    /// The address that clients connect to.
    ///
    /// # Errors
    ///
    /// If the operating system cannot tell, or this is a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.door {
            Door::Tcp(socket) => socket.local_addr(),
            #[cfg(unix)]
            Door::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a Unix socket has a path, and no address",
            )),
        }
    }

    /// Runs `serve` on a thread of its own and waits for its end. If the future is dropped before
    /// that, the server is shut down, and the thread ends when it has.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started, and what `serve` returns.
    ///
    /// # Panics
    ///
    /// If `serve` does.
    pub async fn on_a_thread(
        self,
        serve: impl FnOnce(Self) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        struct Stop(Handle);
        impl Drop for Stop {
            fn drop(&mut self) {
                self.0.shutdown();
            }
        }
        let stop = Stop(self.handle.clone());
        let (ended, end) = bounded(1);
        let name =
            self.local_addr().map_or("mcp-sse".into(), |address| format!("mcp-sse {address}"));
        let thread = thread::Builder::new().name(name).spawn(move || {
            // Nobody may be waiting any more.
            let _ = ended.try_send(serve(self));
        })?;
        let served = end.recv().await;
        drop(stop);
        match (served, thread.join()) {
            (Ok(served), _) => served,
            (Err(_), Err(panic)) => std::panic::resume_unwind(panic),
            (Err(_), Ok(())) => Ok(()),
        }
    }
}
