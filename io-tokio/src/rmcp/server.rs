//! A server of the shape that the SDK's own SSE server had.
//!
//! Knows: that shape, and the order in which things stop. Does not know: what sessions say.

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

/// So many sessions may wait for [`SseServer::next_transport`]; further ones end at once.
const SESSIONS_WAITING_MAX: usize = 1_024;

/// One session, under the name that it had in the SDK.
pub type SseServerTransport = SessionTransport;

/// What an [`SseServer`] can be told, with the fields that it had in the SDK.
#[derive(Clone, Debug)]
pub struct SseServerConfig {
    /// The address to listen on; port 0 is any free port, see [`SseServer::local_addr`].
    pub bind: SocketAddr,
    /// Where the event stream is.
    pub sse_path: String,
    /// Where posts go.
    pub post_path: String,
    /// Cancelling it stops the server.
    pub ct: CancellationToken,
    /// The silence after which a stream gets a heartbeat; 15 s if `None`.
    pub sse_keep_alive: Option<Duration>,
}

impl SseServerConfig {
    /// Listens as the configuration has it, and does not serve yet: for what a [`Listener`] can be
    /// told and this cannot, such as who may use it. [`SseServer::from_listener`] serves it.
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
    /// As [`SseServer::serve_with_config`].
    pub fn listen(&self) -> io::Result<Listener> {
        let mut timeouts = Timeouts::default();
        timeouts.heartbeat = self.sse_keep_alive.or(timeouts.heartbeat);
        let core = Config::builder()
            .stream_path(&self.sse_path)
            .message_path(&self.post_path)
            // As it was in the SDK: a proxy may route by it.
            .session_parameter("sessionId")
            .timeouts(timeouts)
            .build()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Listener::bind(self.bind, core)
    }
}

/// A server that listens, and the sessions that are opened on it.
///
/// The sockets are served on a thread of their own, everything else on the tokio runtime on which
/// this was made. Dropping it stops the server, unless one of the `with_` methods has taken it.
#[derive(Debug)]
pub struct SseServer {
    sessions: mpsc::Receiver<Session>,
    handle: Handle,
    local_addr: Option<SocketAddr>,
    ct: CancellationToken,
    stopped: CancellationToken,
}

impl SseServer {
    /// Listens on an address and serves `/sse` and `/message`.
    ///
    /// # Errors
    ///
    /// As [`serve_with_config`](Self::serve_with_config).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
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

    /// Listens, and serves as the configuration has it.
    ///
    /// # Errors
    ///
    /// Those of binding, and [`InvalidInput`](io::ErrorKind::InvalidInput) for settings that make no
    /// sense, such as one path for both purposes.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[expect(clippy::unused_async, reason = "it was async in the SDK")]
    pub async fn serve_with_config(config: SseServerConfig) -> io::Result<Self> {
        Ok(Self::from_listener(config.listen()?, config.ct))
    }

    /// Serves a listener, whose configuration may set everything that there is to set; cancelling
    /// `ct` stops it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
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
                log::error!("the server has ended: {error}");
            }
        });
        server
    }

    /// Serves every session with a service of its own, until the token that this returns is
    /// cancelled, which is the one of the configuration.
    ///
    /// A session that does not begin with a handshake is served without one: see
    /// [the module](super#a-session-without-initialize).
    pub fn with_service<S, F>(self, service_provider: F) -> CancellationToken
    where
        S: Service<RoleServer>,
        F: Fn() -> S + Send + 'static,
    {
        self.each(move |transport, ct| lifecycle::serve(service_provider(), transport, ct))
    }

    /// As [`with_service`](Self::with_service), always without the SDK's handshake: a service gets
    /// whatever comes first, `initialize` among it, as any other request.
    pub fn with_service_directly<S, F>(self, service_provider: F) -> CancellationToken
    where
        S: Service<RoleServer>,
        F: Fn() -> S + Send + 'static,
    {
        self.each(move |transport, ct| {
            let running = serve_directly_with_ct(service_provider(), transport, None, ct);
            async move {
                static FAILED: LogThrottle = LogThrottle::new();
                if let Err(error) = running.waiting().await
                    && let Some(unsaid) = FAILED.tell()
                {
                    log::error!("a session's service has ended: {error}{unsaid}");
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

    /// The next session that a client has opened; `None` once the server has stopped.
    ///
    /// For those who serve sessions themselves, `service.serve(transport)` for one. Cancel-safe.
    pub async fn next_transport(&mut self) -> Option<SseServerTransport> {
        self.sessions.recv().await.map(SessionTransport::new)
    }

    /// Stops the server: services are cancelled and may still answer, then streams end. To cut them
    /// instead, call [`Handle::abort`] on its [`handle`](Self::handle). Either may be called again.
    pub fn cancel(&self) {
        self.ct.cancel();
    }

    /// What stops the server when it is cancelled.
    #[must_use]
    pub const fn cancellation_token(&self) -> &CancellationToken {
        &self.ct
    }

    /// Waits until the server has stopped and its last connection has ended. Ask for it before
    /// [`with_service`](Self::with_service), and await it before the runtime ends, or clients see
    /// their streams break.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stopped.clone().cancelled_owned()
    }

    /// A hold on the server: to reach every session, to look at counters, to stop it at once. Its
    /// [`shutdown`](Handle::shutdown) ends sessions without cancelling services first; see
    /// [`cancel`](Self::cancel).
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The address that clients connect to; `None` if it is not one of TCP.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }
}

/// Serves until cancelled, or until nobody takes sessions any more. The same token cancels services,
/// and the shutdown waits for what they still answer.
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
            log::warn!("a session was ended: {error}{unsaid}");
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
