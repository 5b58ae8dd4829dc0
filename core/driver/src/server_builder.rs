//! A server before it serves: listening sockets and a configuration, and how they are split into workers.
//!
//! Knows: the parts of a server, and the part that each worker gets. Does not know: any runtime, or how a worker
//! serves.

use core::iter;
use std::io;

use mcp_sse_core::{Config, ConfigError};

use super::accept_queue::{Acceptor, accept_queue};
use super::connection_source::ConnectionSource;
use super::descriptors;
use super::handle::{Handle, ShardControl, shard_control};
use super::listen_socket::ListenSocket;
use super::workers::{ShutdownOnDrop, run_each};

/// Listening sockets, a configuration, and the two ends of a [`Handle`].
pub(super) struct ServerBuilder {
    pub(super) socket: ListenSocket,
    /// Whether every connection uses TLS.
    pub(super) tls: bool,
    pub(super) config: Config,
    pub(super) handle: Handle,
    pub(super) controls: ShardControl,
    pub(super) workers: usize,
    /// Whether this crate has bound the sockets, so that their options are known.
    pub(super) bound_here: bool,
}

/// The part of a server that one thread gets, from which it makes a shard.
pub(super) struct Worker {
    /// The source of its connections.
    pub(super) source: ConnectionSource<ListenSocket>,
    /// The socket and the acceptor of all workers, if this worker's thread has to accept for all.
    pub(super) acceptor: Option<(ListenSocket, Acceptor)>,
    /// The configuration of the whole server.
    pub(super) config: Config,
    /// The shard's end of the server's handle.
    pub(super) controls: ShardControl,
}

impl ServerBuilder {
    pub(super) fn new(socket: ListenSocket, config: Config) -> Self {
        let (handle, controls) = shard_control();
        Self { socket, tls: false, config, handle, controls, workers: 1, bound_here: false }
    }

    /// Warns if `require_https` will refuse every request.
    fn warn_of_impossible_https(&self) {
        let on_unix_socket = !matches!(self.socket, ListenSocket::Tcp(_));
        if !self.config.https_can_arrive(self.tls, on_unix_socket) {
            let proxies = if on_unix_socket { "trust_local_peers" } else { "trusted_proxy" };
            log::warn!(
                "require_https refuses every request: this server has no TLS, and trusts no proxy \
                 that could forward https requests (see {proxies})"
            );
        }
    }

    /// The only worker, which the current thread will serve. Fails if several workers are configured.
    pub(super) fn into_worker(self) -> io::Result<Worker> {
        if self.workers > 1 {
            let text = format!("one thread cannot serve with {} workers", self.workers);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.into_workers()?.pop().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The workers, with a listening socket each or with one acceptor for all of them.
    fn into_workers(self) -> io::Result<Vec<Worker>> {
        if self.tls && !matches!(self.socket, ListenSocket::Tcp(_)) {
            let text = "TLS is not possible on a Unix socket";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        self.warn_of_impossible_https();
        let Self { socket, config, controls, workers, bound_here, .. } = self;
        controls.check(&config).map_err(invalid)?;
        let limits = descriptors::fit(config.limits(), workers);
        let config = config.with_limits(limits);
        let (sockets, shared) = socket.listen_sockets(workers, bound_here);
        let (sources, acceptor): (Vec<_>, _) = match shared {
            None => (sockets.into_iter().map(ConnectionSource::Own).collect(), None),
            Some(socket) => {
                let (acceptor, queues) = accept_queue(workers);
                let sources = queues.into_iter().map(ConnectionSource::Queue).collect();
                (sources, Some((socket, acceptor)))
            }
        };
        let acceptors = iter::once(acceptor).chain(iter::repeat_with(|| None));
        let parts = sources.into_iter().zip(acceptors).zip(controls.split(workers));
        let worker = |((source, acceptor), controls)| Worker {
            source,
            acceptor,
            config: config.clone(),
            controls,
        };
        Ok(parts.map(worker).collect())
    }

    /// Runs `serve` for each worker, on a thread of its own, and waits until all threads have ended. The server is
    /// shut down if one of them fails or panics, and if the returned future is dropped.
    pub(super) async fn on_threads(
        self,
        serve: impl Fn(Worker) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let addresses = self.socket.local_addrs().unwrap_or_default();
        let address = addresses.first().map_or("unix".into(), |address| format!("{address}"));
        let handle = self.handle.clone();
        let stop = ShutdownOnDrop { handle: handle.clone(), only_if_panicking: false };
        let threads = run_each(&address, &handle, self.into_workers()?, serve)?;
        threads.wait().await?;
        drop(stop);
        Ok(())
    }
}

/// Converts a mistake in a configuration to the error that a listener returns.
pub(super) fn invalid(error: ConfigError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::bind_all;
    use crate::testing::lines_in;

    #[test]
    fn require_https_that_no_request_can_satisfy_is_logged() {
        let said = |trusted: Option<&str>, require: bool| {
            let config = Config::builder().require_https(require);
            let config =
                trusted.into_iter().fold(config, |config, range| config.trusted_proxy(range));
            let socket = ListenSocket::Tcp(bind_all("127.0.0.1:0").unwrap());
            let server = ServerBuilder::new(socket, config.build().unwrap());
            lines_in(|| drop(server.into_worker().unwrap()))
        };
        let lines = said(None, true);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("WARN require_https refuses every request"), "{lines:?}");
        assert!(lines[0].contains("see trusted_proxy"), "{lines:?}");
        assert!(said(Some("127.0.0.1"), true).is_empty());
        assert!(said(None, false).is_empty());
    }
}
