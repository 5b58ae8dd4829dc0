//! A server with the interface of the SDK's former SSE server.
//!
//! Knows: that interface, and the order of a shutdown. Does not know: the messages of sessions.

use core::net::SocketAddr;
use core::pin::pin;
use core::time::Duration;
use std::io;

use mcp_sse_core::{Config, Timeouts};
use mcp_sse_driver::{Handle, LogThrottle, Session};
use rmcp::service::serve_directly_with_ct;
use rmcp::{RoleServer, Service};
use tokio::sync::mpsc;

use super::{CancellationToken, SessionTransport, lifecycle};
use crate::Listener;

/// The most sessions that wait for [`SseServer::next_transport`]. Further sessions end immediately.
const SESSIONS_WAITING_MAX: usize = 1_024;

/// One session as a transport, under the name that the SDK had for it.
pub type SseServerTransport = SessionTransport;

/// The settings of an [`SseServer`], with the fields that the SDK had.
///
/// ```
/// use mcp_sse_tokio::rmcp::{CancellationToken, SseServer, SseServerConfig};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let config = SseServerConfig {
///     bind: ([127, 0, 0, 1], 0).into(),
///     sse_path: "/sse".into(),
///     post_path: "/message".into(),
///     ct: CancellationToken::new(),
///     sse_keep_alive: None,
/// };
/// let server = SseServer::serve_with_config(config).await?;
/// assert!(server.local_addr().is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SseServerConfig {
    /// The address to listen on. Port 0 stands for any free port: see [`SseServer::local_addr`].
    pub bind: SocketAddr,
    /// The path of the event stream.
    pub sse_path: String,
    /// The path that messages are posted to.
    pub post_path: String,
    /// The token that stops the server when it is cancelled.
    pub ct: CancellationToken,
    /// The time without an event after which a heartbeat is sent on a stream. `None` means the default, 15 s.
    pub sse_keep_alive: Option<Duration>,
}

impl SseServerConfig {
    /// Binds the address and returns a [`Listener`] that does not serve yet, for settings that `SseServerConfig` does
    /// not have, such as an authorizer. Then call [`SseServer::from_listener`].
    ///
    /// ```no_run
    /// # use mcp_sse_tokio::rmcp::{SseServer, SseServerConfig};
    /// # use mcp_sse_tokio::{Principal, Refusal, Verdict};
    /// # fn run(config: SseServerConfig) -> std::io::Result<()> {
    /// let listener = config.listen()?.authorize(async |head| match head.field("authorization") {
    ///     Some(b"Bearer open-sesame") => Verdict::Allow(Principal::new("ali")),
    ///     Some(_) => Verdict::Refuse(Refusal::InvalidToken),
    ///     None => Verdict::Refuse(Refusal::Unauthenticated),
    /// })?;
    /// let server = SseServer::from_listener(listener, config.ct);
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`SseServer::serve_with_config`].
    pub fn listen(&self) -> io::Result<Listener> {
        let mut timeouts = Timeouts::default();
        timeouts.heartbeat = self.sse_keep_alive.or(timeouts.heartbeat);
        let core = Config::builder()
            .stream_path(&self.sse_path)
            .message_path(&self.post_path)
            // The SDK had this name, and a proxy may route by it.
            .session_parameter("sessionId")
            .timeouts(timeouts)
            .build()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Listener::bind(self.bind, core)
    }
}

/// A running server, from which services get their sessions.
///
/// The sockets are served on a thread of their own, and services run on the tokio runtime on which this was created.
/// Dropping this value stops the server; the `with_` methods consume it without stopping the server.
///
/// ```
/// use mcp_sse_tokio::rmcp::SseServer;
/// # #[derive(Clone)]
/// # struct Counter;
/// # impl rmcp::ServerHandler for Counter {}
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let server = SseServer::serve(([127, 0, 0, 1], 0).into()).await?;
/// let stopped = server.stopped();
/// let ct = server.with_service(|| Counter);
/// ct.cancel(); // For example after `tokio::signal::ctrl_c()`.
/// stopped.await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SseServer {
    sessions: mpsc::Receiver<Session>,
    handle: Handle,
    local_addr: Option<SocketAddr>,
    ct: CancellationToken,
    stopped: CancellationToken,
}

impl SseServer {
    /// Listens at the address `bind`, and serves the stream at `/sse` and posts at `/message`.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`serve_with_config`](Self::serve_with_config).
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub async fn serve(bind: SocketAddr) -> io::Result<Self> {
        Self::serve_with_config(SseServerConfig {
            bind,
            sse_path: "/sse".into(),
            post_path: "/message".into(),
            ct: CancellationToken::new(),
            sse_keep_alive: None,
        })
        .await
    }

    /// Listens and serves with this configuration.
    ///
    /// # Errors
    ///
    /// Returns the error of binding the address, and [`InvalidInput`](io::ErrorKind::InvalidInput) for invalid
    /// settings, such as the same path for the stream and for posts.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[expect(clippy::unused_async, reason = "it was async in the SDK")]
    pub async fn serve_with_config(config: SseServerConfig) -> io::Result<Self> {
        Ok(Self::from_listener(config.listen()?, config.ct))
    }

    /// Serves a listener, which may have any configuration. Cancelling `ct` stops the server.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    ///
    /// ```
    /// use mcp_sse_tokio::rmcp::{CancellationToken, SseServer};
    /// use mcp_sse_tokio::{Config, Listener};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config::builder().allow_host("mcp.example").build()?;
    /// let listener = Listener::bind("127.0.0.1:0", config)?;
    /// let server = SseServer::from_listener(listener, CancellationToken::new());
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "dropping it stops the server"]
    pub fn from_listener(listener: Listener, ct: CancellationToken) -> Self {
        let (sender, sessions) = mpsc::channel(SESSIONS_WAITING_MAX);
        let server = Self {
            sessions,
            handle: listener.handle(),
            local_addr: listener.local_addr().ok(),
            ct,
            stopped: CancellationToken::new(),
        };
        let run = run(listener, sender, server.ct.clone());
        let stopped = server.stopped.clone().drop_guard();
        tokio::spawn(async move {
            let _stopped = stopped;
            if let Err(error) = run.await {
                log::error!(
                    event = "server_failed",
                    error:% = error;
                    "the server has ended: {error}"
                );
            }
        });
        server
    }

    /// Serves every session with a service of its own, which `service_provider` creates. Returns the cancellation
    /// token of the configuration, which stops the server.
    ///
    /// A session that does not begin with a handshake is served without one: see
    /// [the module's documentation](super#a-session-without-initialize).
    pub fn with_service<S, F>(self, service_provider: F) -> CancellationToken
    where
        S: Service<RoleServer>,
        F: Fn() -> S + Send + 'static,
    {
        self.each(move |transport, ct| lifecycle::serve(service_provider(), transport, ct))
    }

    /// Serves every session like [`with_service`](Self::with_service), but always without the SDK's handshake: the
    /// service gets the first message, also `initialize`, like any other message.
    pub fn with_service_directly<S, F>(self, service_provider: F) -> CancellationToken
    where
        S: Service<RoleServer>,
        F: Fn() -> S + Send + 'static,
    {
        self.each(move |transport, ct| {
            let id = transport.session().id();
            let running = serve_directly_with_ct(service_provider(), transport, None, ct);
            async move {
                if let Err(error) = running.waiting().await {
                    lifecycle::log_failed_service(id, &error);
                }
            }
        })
    }

    /// Serves each session in a task of its own.
    fn each<F>(
        mut self,
        serve: impl Fn(SessionTransport, CancellationToken) -> F + Send + 'static,
    ) -> CancellationToken
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let ct = self.ct.clone();
        tokio::spawn(async move {
            while let Some(transport) = self.next_transport().await {
                tokio::spawn(serve(transport, self.ct.child_token()));
            }
        });
        ct
    }

    /// Waits for the next session; `None` once the server has stopped. Cancel-safe.
    ///
    /// Use it instead of [`with_service`](Self::with_service) to serve sessions yourself, for example with
    /// `service.serve(transport)`.
    pub async fn next_transport(&mut self) -> Option<SseServerTransport> {
        self.sessions.recv().await.map(SessionTransport::new)
    }

    /// Stops the server: services are cancelled but may still answer, and then streams end. To end streams
    /// immediately, call [`Handle::abort`] of the [`handle`](Self::handle). Both may be called more than once.
    pub fn cancel(&self) {
        self.ct.cancel();
    }

    /// The token that stops the server when it is cancelled.
    #[must_use]
    pub const fn cancellation_token(&self) -> &CancellationToken {
        &self.ct
    }

    /// Returns a future that waits until the server has stopped and its last connection has ended. Call this before
    /// [`with_service`](Self::with_service), which consumes the server, and await the future before the runtime ends;
    /// otherwise streams are aborted.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stopped.clone().cancelled_owned()
    }

    /// A handle to the server, which sends to every session, reads counters, and aborts the server. Its
    /// [`shutdown`](Handle::shutdown) ends sessions without cancelling their services before, unlike
    /// [`cancel`](Self::cancel).
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The address that clients connect to; `None` if the server listens on a Unix socket.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }
}

/// Serves until `ct` is cancelled, or until the receiver of sessions is dropped. `ct` also cancels services, and the
/// shutdown waits for their answers.
async fn run(
    listener: Listener,
    sender: mpsc::Sender<Session>,
    ct: CancellationToken,
) -> io::Result<()> {
    let handle = listener.handle();
    let taken = sender.clone();
    let mut served = pin!(listener.serve(move |session| {
        // Dropping the session ends it.
        static ENDED: LogThrottle = LogThrottle::new();
        if let Err(error) = sender.try_send(session)
            && let Some(unsaid) = ENDED.tell()
        {
            log::warn!(
                event = "session_not_served",
                error:% = error,
                suppressed = unsaid;
                "a session was ended, because it was not taken in time: {error}{unsaid}"
            );
        }
    }));
    tokio::select! {
        ended = &mut served => return ended,
        () = ct.cancelled() => {}
        () = taken.closed() => {}
    }
    handle.shutdown();
    served.await
}
