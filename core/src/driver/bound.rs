//! A listening socket with a configuration: what an adapter's listener is before it serves.
#![expect(clippy::disallowed_types, reason = "held for an adapter, which accepts on it")]

use alloc::format;
use core::net::SocketAddr;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::thread;

use async_channel::bounded;

use super::handle::{Controls, Handle, controls};
use crate::config::Config;

/// A listening socket, a configuration, and the two ends of a [`Handle`].
#[derive(Debug)]
pub struct Bound {
    /// The listening socket.
    pub socket: TcpListener,
    /// The configuration to serve with.
    pub config: Config,
    /// What the application holds.
    pub handle: Handle,
    /// What the shard is given.
    pub controls: Controls,
}

impl Bound {
    /// Binds a TCP address.
    ///
    /// # Errors
    ///
    /// Those of binding.
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        Ok(Self::from_std(TcpListener::bind(address)?, config))
    }

    /// Takes a socket that is bound and listening already.
    #[must_use]
    pub fn from_std(socket: TcpListener, config: Config) -> Self {
        let (handle, controls) = controls();
        Self { socket, config, handle, controls }
    }

    /// The address that clients connect to.
    ///
    /// # Errors
    ///
    /// If the operating system cannot tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
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
