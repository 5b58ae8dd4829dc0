//! The transport as a [`tower_service::Service`] inside another HTTP server.
//!
//! Knows: the requests and responses of the crate `http`, and how axum's router passes the path at which a service is
//! mounted. Does not know: the HTTP server, or its version of HTTP. Checks, limits, deadlines and heartbeats are the
//! same as with a [`Listener`](crate::Listener).
//!
//! ```no_run
//! use axum::Router;
//! use mcp_sse_tokio::{Config, SseService};
//!
//! # async fn run() -> std::io::Result<()> {
//! let mcp = SseService::new(Config::default(), async |mut session| {
//!     while let Some(message) = session.recv().await {
//!         println!("{:?}", message.method());
//!     }
//! })?;
//! let app = Router::new().nest_service("/api", mcp); // clients connect to /api/sse
//! // Passes the clients' addresses to the service, which needs them for limits per address.
//! let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8000").await?, app).await
//! # }
//! ```
//!
//! A client's address is read from the [`ConnectInfo`] of its request, which axum adds with
//! `into_make_service_with_connect_info`. For requests without it,
//! [`SseServiceBuilder::default_peer`] sets the peer. Without either, every request counts as one from this machine:
//! limits per address (such as `sessions_per_address_max`) do not apply, and `trusted_proxy` matches no request. With
//! `require_https`, such a request is refused, except if `trust_local_peers` is set and a forwarded field says that
//! the request arrived by HTTPS. The log contains one warning about missing addresses.

use core::convert::Infallible;
use core::fmt;
use core::future::poll_fn;
use core::net::SocketAddr;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use mcp_sse_core::{Config, Peer, RequestHead, ResponseHead};
use mcp_sse_driver::{
    Authorizer, Decision, ExchangeClient, ExchangeRequest, Handle, HandlerReturn, Session,
    VerdictCache, serve_exchanges,
};

use crate::runtime::Tokio;

/// The transport as a service for a router. Cheap to clone: clones share the server.
///
/// The server runs on a thread of its own, or on [several](Self::with_workers), until [`Handle::shutdown`]. Dropping
/// the last clone shuts it down as well: idle sessions end, and requests in flight get
/// [`Timeouts::shutdown_grace`](crate::Timeouts::shutdown_grace). Handlers run on the runtime on which the service
/// was created.
///
/// A service does not know at which address a request arrived, so it assumes a loopback address, which has the
/// strictest check of `Host`: a server with another name needs
/// [`allow_host`](crate::ConfigBuilder::allow_host). The peer of a request is read from its
/// [`ConnectInfo`], or set by [`SseServiceBuilder::default_peer`].
///
/// ```
/// use axum::Router;
/// use mcp_sse_tokio::{Config, SseService};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let mcp = SseService::new(Config::default(), async |mut session| {
///     while let Some(message) = session.recv().await {
///         println!("{:?}", message.method());
///     }
/// })?;
/// let app: Router = Router::new().nest_service("/api", mcp.clone());
/// # drop(app);
/// mcp.handle().shutdown();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SseService {
    shared: Arc<ServiceShared>,
    mount: Option<Arc<str>>,
    linger: Linger,
}

/// How much of the rest of a refused request's body is read, and for how long.
#[derive(Clone, Copy, Debug)]
struct Linger {
    bytes_max: u32,
    time: Option<Duration>,
}

/// The state that all clones of a service share. Dropping it shuts the server down.
struct ServiceShared {
    handle: Handle,
    /// The peer of requests without an address, if one was set.
    default_peer: Option<Peer>,
    /// Whether the first request without an address was logged.
    warned: AtomicBool,
}

impl Drop for ServiceShared {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

impl ServiceShared {
    /// The peer of a request, from the extensions that the HTTP server has added.
    fn peer(&self, parts: &http::request::Parts) -> Peer {
        let Some(ConnectInfo(remote)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
            return self.default_peer.unwrap_or_else(|| self.unknown_peer());
        };
        let peer = Peer::tcp(*remote, SocketAddr::from(([127, 0, 0, 1], 0)));
        if self.default_peer.is_some_and(|peer| peer.is_secure()) { peer.secure() } else { peer }
    }

    fn unknown_peer(&self) -> Peer {
        if !self.warned.swap(true, Ordering::Relaxed) {
            log::warn!(
                event = "peer_unknown";
                "requests have no client address: limits per address do not apply, and require_https \
                 refuses requests without a forwarded field that says https; serve with \
                 into_make_service_with_connect_info::<SocketAddr>(), or set \
                 SseServiceBuilder::default_peer"
            );
        }
        Peer::local()
    }
}

impl SseService {
    /// Starts the server's thread, and returns its service. `handler` is called once for each
    /// session, and the future that it returns is spawned on the current runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started, and [`InvalidInput`](io::ErrorKind::InvalidInput) if the
    /// configuration needs an authorizer.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    ///
    /// ```
    /// use mcp_sse_tokio::{Config, SseService};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::new(Config::default(), async |mut session| {
    ///     while session.recv().await.is_some() {}
    /// })?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new<H, F>(config: Config, handler: H) -> io::Result<Self>
    where
        H: Fn(Session) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::builder(config).build(handler)
    }

    /// Starts the server's thread like [`new`](Self::new), with a handler that decides where a session is served: see
    /// [`SseServiceBuilder::with_sessions`].
    ///
    /// # Errors
    ///
    /// Returns the errors of [`new`](Self::new).
    ///
    /// ```
    /// use mcp_sse_tokio::{Config, SseService};
    ///
    /// let (sender, sessions) = std::sync::mpsc::channel();
    /// let mcp = SseService::with_sessions(Config::default(), move |session| {
    ///     let _ = sender.send(session); // The receiver serves the session.
    /// })?;
    /// # drop((mcp, sessions));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_sessions<Form, R: HandlerReturn<Form>>(
        config: Config,
        handler: impl FnMut(Session) -> R + Send + 'static,
    ) -> io::Result<Self> {
        Self::builder(config).with_sessions(handler)
    }

    /// Starts a server with `workers` threads, with a handler as for [`with_sessions`](Self::with_sessions): see
    /// [`SseServiceBuilder::workers`].
    ///
    /// # Errors
    ///
    /// Returns the errors of [`SseServiceBuilder::with_sessions`].
    ///
    /// ```
    /// use mcp_sse_tokio::{Config, SseService};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::with_workers(Config::default(), 2, |session| {
    ///     tokio::spawn(async move { println!("{}", session.id()) })
    /// })?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_workers<Form, R: HandlerReturn<Form>>(
        config: Config,
        workers: usize,
        handler: impl FnMut(Session) -> R + Send + 'static,
    ) -> io::Result<Self> {
        Self::builder(config).workers(workers).with_sessions(handler)
    }

    /// Returns a builder for a service with this configuration and further settings.
    ///
    /// ```
    /// use mcp_sse_tokio::{Config, SseService};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::builder(Config::default())
    ///     .workers(2)
    ///     .build(async |session| println!("{}", session.id()))?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(config: Config) -> SseServiceBuilder {
        SseServiceBuilder {
            config,
            workers: 1,
            authorizer: None,
            cache: VerdictCache::new(),
            default_peer: None,
        }
    }

    /// Sets the path at which the service is mounted. The path that clients post to then begins with it.
    ///
    /// This is for routers that remove the mount path from a request without a record. axum's nested routers record
    /// the original path, so they do not need this.
    ///
    /// ```
    /// # use mcp_sse_tokio::{Config, SseService};
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::new(Config::default(), async |_session| ())?.mounted_at("/api");
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn mounted_at(mut self, mount: &str) -> Self {
        self.mount = Some(mount.into());
        self
    }

    /// A handle to the server, which shuts it down and sends to every session.
    ///
    /// ```
    /// # use mcp_sse_tokio::{Config, SseService};
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::new(Config::default(), async |_session| ())?;
    /// mcp.handle().shutdown();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.shared.handle.clone()
    }
}

impl fmt::Debug for SseService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseService")
            .field("handle", &self.shared.handle)
            .field("mount", &self.mount)
            .finish()
    }
}

/// Builds an [`SseService`]: see [`SseService::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct SseServiceBuilder {
    config: Config,
    workers: usize,
    authorizer: Option<Authorizer>,
    cache: VerdictCache,
    default_peer: Option<Peer>,
}

impl SseServiceBuilder {
    /// Sets the number of shards, each of which has a thread of its own. The default is 1, and the maximum is
    /// [`WORKERS_MAX`](crate::WORKERS_MAX).
    ///
    /// Requests are distributed among the shards in turn. A post reaches its session also if another shard has the
    /// request. Each shard gets its share of the limits: see [`Listener::workers`](crate::Listener::workers).
    ///
    /// ```
    /// # use mcp_sse_tokio::{Config, SseService};
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::builder(Config::default()).workers(4).build(async |_session| ())?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets a function that decides whether a request may proceed: see
    /// [`Listener::authorize`](crate::Listener::authorize). By default, every request may. The function runs on the
    /// server's threads, each of which has a current-thread runtime.
    ///
    /// ```
    /// use mcp_sse_tokio::{Config, Principal, Refusal, SseService, Verdict};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::builder(Config::default())
    ///     .authorize(async |head| match head.bearer_token() {
    ///         Some("open-sesame") => Verdict::Allow(Principal::new("ali")),
    ///         Some(_) => Verdict::Refuse(Refusal::InvalidToken),
    ///         None => Verdict::Refuse(Refusal::Unauthenticated),
    ///     })
    ///     .build(async |_session| ())?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub fn authorize<D: Into<Decision>>(
        mut self,
        authorizer: impl AsyncFn(Arc<RequestHead>) -> D + Send + Sync + 'static,
    ) -> Self {
        self.authorizer = Some(Authorizer::new(authorizer));
        self
    }

    /// Sets the cache of the authorizer's verdicts. The default is [`VerdictCache::new`]. See
    /// [`Listener::verdict_cache`](crate::Listener::verdict_cache).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mcp_sse_tokio::{Config, Refusal, SseService, Verdict, VerdictCache};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::builder(Config::default())
    ///     .verdict_cache(VerdictCache::new().lifetime(Some(Duration::from_secs(10))))
    ///     .authorize(async |_head| Verdict::Refuse(Refusal::Forbidden))
    ///     .build(async |_session| ())?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub fn verdict_cache(mut self, cache: VerdictCache) -> Self {
        self.cache = cache;
        self
    }

    /// Sets the peer of requests without [`ConnectInfo<SocketAddr>`](ConnectInfo). The default is
    /// [`Peer::local`], with a warning in the log at the first such request.
    ///
    /// - Set `Peer::local()` if clients have no addresses, for example on a Unix socket. There is no warning then.
    /// - Set `Peer::tcp(..)` with the address of a proxy if all requests arrive through that proxy, so that
    ///   `trusted_proxy` can name it.
    /// - Set a [`secure`](Peer::secure) peer if the HTTP server speaks only TLS. Every request then counts as one
    ///   that arrived by TLS, also those with an address. Otherwise `require_https` would refuse them.
    ///
    /// ```
    /// # use mcp_sse_tokio::{Config, Peer, SseService};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config::builder().require_https(true).build()?;
    /// let mcp = SseService::builder(config)
    ///     .default_peer(Peer::local().secure()) // The HTTP server speaks only TLS.
    ///     .build(async |session| println!("{}", session.id()))?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn default_peer(mut self, peer: Peer) -> Self {
        self.default_peer = Some(peer);
        self
    }

    /// Starts the server's threads, and returns its service. `handler` is called once for
    /// each session, and the future that it returns is spawned on the current runtime.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`with_sessions`](Self::with_sessions).
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    ///
    /// ```
    /// # use mcp_sse_tokio::{Config, SseService};
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let mcp = SseService::builder(Config::default()).build(async |mut session| {
    ///     while let Some(message) = session.recv().await {
    ///         println!("{:?}", message.method());
    ///     }
    /// })?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub fn build<H, F>(self, handler: H) -> io::Result<SseService>
    where
        H: Fn(Session) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Handle::current();
        self.with_sessions(move |session| drop(runtime.spawn(handler(session))))
    }

    /// Starts the server's threads like [`build`](Self::build), with a handler that may pass a session to another
    /// task or thread and return `()`, as for [`Listener::serve`](crate::Listener::serve).
    ///
    /// `handler` is called on the server's threads, by one thread at a time, and must not block. The runtime on which
    /// this method was called is entered during the call, so the handler can spawn tasks on it. If this method was
    /// called outside a runtime, tasks that the handler spawns and futures that it returns run on the server's
    /// threads.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread cannot be started, and [`InvalidInput`](io::ErrorKind::InvalidInput) for 0
    /// workers, for more than [`WORKERS_MAX`](crate::WORKERS_MAX), for an authorizer together with static tokens, and
    /// for a configuration that needs an authorizer if there is none.
    ///
    /// ```
    /// # use mcp_sse_tokio::{Config, SseService};
    /// # #[tokio::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let (sender, mut sessions) = tokio::sync::mpsc::unbounded_channel();
    /// let mcp = SseService::builder(Config::default()).with_sessions(move |session| {
    ///     let _ = sender.send(session); // If the receiver was dropped, the session ends.
    /// })?;
    /// mcp.handle().shutdown();
    /// assert!(sessions.recv().await.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_sessions<Form, R: HandlerReturn<Form>>(
        self,
        handler: impl FnMut(Session) -> R + Send + 'static,
    ) -> io::Result<SseService> {
        let Self { config, workers, authorizer, cache, default_peer } = self;
        let linger =
            Linger { bytes_max: config.limits().linger_bytes_max, time: config.timeouts().linger };
        let handlers = tokio::runtime::Handle::try_current().ok();
        let handle =
            serve_exchanges::<Tokio, _, _>(config, workers, authorizer, cache, handlers, handler)?;
        let warned = AtomicBool::new(false);
        let shared = Arc::new(ServiceShared { handle, default_peer, warned });
        Ok(SseService { shared, mount: None, linger })
    }
}

impl<B> tower_service::Service<Request<B>> for SseService
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    type Response = Response<SseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    /// Always ready: a request for which there is no room is answered 503.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

impl SseService {
    async fn answer<B: Body>(&self, request: Request<B>) -> Response<SseBody> {
        let (parts, body) = request.into_parts();
        let mount = self.mount.as_deref().map_or_else(|| mount(&parts), str::to_owned);
        let peer = self.shared.peer(&parts);
        let exchange = self.shared.handle.exchange(exchange_request(&parts, mount), peer);
        let Ok(mut exchange) = exchange.await else { return unavailable() };
        let mut body = pin!(body);
        let mut ended = false;
        let head = poll_fn(|cx| {
            while !ended && exchange.poll_input(cx).is_ready() {
                match body.as_mut().poll_frame(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(mut data) = frame.into_data() {
                            exchange.input(data.copy_to_bytes(data.remaining()).into());
                        }
                    }
                    Poll::Ready(None) => {
                        exchange.end_input();
                        ended = true;
                    }
                    // The client has closed its connection, which the HTTP server handles.
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(None),
                }
            }
            exchange.poll_head(cx)
        })
        .await;
        if !ended {
            self.linger.discard(body).await;
        }
        match head {
            Some(head) => response(&head, SseBody(Some(exchange))),
            None => unavailable(),
        }
    }
}

impl Linger {
    /// Reads and discards the rest of a body. If an HTTP server closes a connection with unread bytes, the kernel
    /// sends a reset, which can destroy the answer (RFC 9112 section 9.6).
    async fn discard<B: Body>(self, mut body: Pin<&mut B>) {
        let mut discarded = 0;
        let rest = poll_fn(|cx| {
            loop {
                match ready!(body.as_mut().poll_frame(cx)) {
                    Some(Ok(frame)) => discarded += frame.data_ref().map_or(0, Buf::remaining),
                    Some(Err(_)) | None => return Poll::Ready(()),
                }
                if discarded > self.bytes_max as usize {
                    return Poll::Ready(());
                }
            }
        });
        match self.time {
            // It does not matter whether the body or the time has ended.
            Some(time) => drop(tokio::time::timeout(time, rest).await),
            None => rest.await,
        }
    }
}

fn exchange_request(parts: &http::request::Parts, mount: String) -> ExchangeRequest {
    let mut fields: Vec<(String, Vec<u8>)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    // An HTTP/2 request has no `Host`. Its target has the authority instead.
    if !parts.headers.contains_key(http::header::HOST)
        && let Some(authority) = parts.uri.authority()
    {
        fields.push(("host".to_owned(), authority.as_str().into()));
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    ExchangeRequest {
        method: parts.method.as_str().to_owned(),
        target: target.to_owned(),
        fields,
        mount,
    }
}

/// The part at the beginning of the path that axum's router has removed.
fn mount(parts: &http::request::Parts) -> String {
    let original = parts.extensions.get::<axum::extract::OriginalUri>();
    let cut = original.and_then(|uri| uri.0.path().strip_suffix(parts.uri.path()));
    cut.unwrap_or_default().to_owned()
}

fn response(head: &ResponseHead, body: SseBody) -> Response<SseBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(head.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in head.fields() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// The answer if the server has ended or has no room for one more request.
fn unavailable() -> Response<SseBody> {
    let mut response = Response::new(SseBody(None));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The body of a response: an event stream, or a short text. Dropping the body of an event stream ends its session.
#[derive(Debug)]
pub struct SseBody(Option<ExchangeClient>);

impl Body for SseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(exchange) = &mut self.0 else { return Poll::Ready(None) };
        exchange.poll_output(cx).map(|bytes| Some(Ok(Frame::data(bytes?.into()))))
    }
}
