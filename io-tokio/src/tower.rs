//! The transport as a [`tower_service::Service`], inside an HTTP server that is there already.
//!
//! Knows: the `http` crate's requests and responses, and how a router says where it mounted a service.
//! Does not know: that server, nor its version of HTTP; the machine behind it is the same as behind a
//! socket of its own, with the same guard, limits, deadlines and heartbeats.
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
//! // So that clients' addresses are known: limits per address count by them.
//! let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8000").await?, app).await
//! # }
//! ```
//!
//! A client's address is taken from the [`ConnectInfo`] of its request, which the HTTP server puts there
//! if it is asked to, as above. Without it, and without
//! [`SseServiceBuilder::default_peer`], every request counts as one from this machine: limits per address
//! (`sessions_per_address_max` and the like) do not apply, `trusted_proxy` matches nobody, and with
//! `require_https` every request is refused unless `trust_local_peers` and a forwarded field say that it
//! came by HTTPS. The log warns of that once.

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

/// The transport as a service, cheap to clone: mount it wherever the HTTP server routes.
///
/// The state lives on a thread of its own, or on [several](Self::with_workers), until
/// [`Handle::shutdown`]. Dropping the last clone asks for that as well: it ends what is idle, and what is
/// under way has the grace. Handlers run on the runtime on which the service was made.
///
/// On which address a request arrived a service cannot know, so it takes each for one that arrived on
/// loopback, the strictest: a server that is to be reached by another name needs
/// [`allow_host`](crate::ConfigBuilder::allow_host). Whom a request is from is told by its
/// [`ConnectInfo`], or by [`SseServiceBuilder::default_peer`].
#[derive(Clone)]
pub struct SseService {
    server: Arc<Server>,
    mount: Option<Arc<str>>,
    linger: Linger,
}

/// How much of a refused request's body is read nevertheless, and for how long.
#[derive(Clone, Copy, Debug)]
struct Linger {
    bytes_max: u32,
    time: Option<Duration>,
}

/// What the last clone stops.
struct Server {
    handle: Handle,
    /// Whom requests without an address are from, if that was said.
    default_peer: Option<Peer>,
    /// The log has been told of the first request without an address.
    warned: AtomicBool,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

impl Server {
    /// Whom a request is from, as far as the HTTP server tells.
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
                "requests come without their clients' addresses: limits per address do not apply, and \
                 require_https refuses what no forwarded field says came by HTTPS; serve with \
                 into_make_service_with_connect_info::<SocketAddr>(), or say \
                 SseServiceBuilder::default_peer"
            );
        }
        Peer::local()
    }
}

impl SseService {
    /// Starts the thread, and returns the service that talks to it. `handler` is called once for each
    /// session; what it returns is spawned on the present runtime.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new<H, F>(config: Config, handler: H) -> io::Result<Self>
    where
        H: Fn(Session) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::builder(config).build(handler)
    }

    /// As [`new`](Self::new), for whoever has another place for handlers: see
    /// [`SseServiceBuilder::with_sessions`].
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn with_sessions<Form, R: HandlerReturn<Form>>(
        config: Config,
        handler: impl FnMut(Session) -> R + Send + 'static,
    ) -> io::Result<Self> {
        Self::builder(config).with_sessions(handler)
    }

    /// As [`with_sessions`](Self::with_sessions), with so many shards on a thread each: see
    /// [`SseServiceBuilder::workers`].
    ///
    /// # Errors
    ///
    /// As [`SseServiceBuilder::with_sessions`].
    pub fn with_workers<Form, R: HandlerReturn<Form>>(
        config: Config,
        workers: usize,
        handler: impl FnMut(Session) -> R + Send + 'static,
    ) -> io::Result<Self> {
        Self::builder(config).workers(workers).with_sessions(handler)
    }

    /// Starts to say more of a service than its configuration.
    pub fn builder(config: Config) -> SseServiceBuilder {
        SseServiceBuilder {
            config,
            workers: 1,
            authorizer: None,
            cache: VerdictCache::new(),
            default_peer: None,
        }
    }

    /// Says where the service is mounted, for routers that cut the front of a path off without saying
    /// so: clients are told to post behind it. axum's nested routers need not be helped.
    #[must_use]
    pub fn mounted_at(mut self, mount: &str) -> Self {
        self.mount = Some(mount.into());
        self
    }

    /// A hold on the server: to stop it, to reach every session.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.server.handle.clone()
    }
}

impl fmt::Debug for SseService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseService")
            .field("handle", &self.server.handle)
            .field("mount", &self.mount)
            .finish()
    }
}

/// A service before it runs.
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
    /// Has so many shards, on a thread each, take turns at requests; 1 unless said. Whichever of them
    /// a request has come to, posts reach the session that they name. See
    /// [`Listener::workers`](crate::Listener::workers) for what becomes of limits.
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Asks `authorizer` whether a request may proceed: see
    /// [`Listener::authorize`](crate::Listener::authorize). It runs on the service's threads, each of
    /// which has a current-thread runtime.
    pub fn authorize<D: Into<Decision>>(
        mut self,
        authorizer: impl AsyncFn(Arc<RequestHead>) -> D + Send + Sync + 'static,
    ) -> Self {
        self.authorizer = Some(Authorizer::new(authorizer));
        self
    }

    /// How its verdicts are remembered: see
    /// [`Listener::verdict_cache`](crate::Listener::verdict_cache).
    pub fn verdict_cache(mut self, cache: VerdictCache) -> Self {
        self.cache = cache;
        self
    }

    /// Whom a request without [`ConnectInfo<SocketAddr>`](ConnectInfo) is from. Unless said, it is
    /// [`Peer::local`], and the log warns of the first such request.
    ///
    /// Say `Peer::local()` where clients have no addresses, as behind a Unix socket, to be spared the
    /// warning; say `Peer::tcp(..)` with the address of the one proxy that everything comes by, so that
    /// `trusted_proxy` can name it. If `peer` is [`secure`](Peer::secure), every request came by TLS,
    /// those with an address too: say it where the HTTP server speaks TLS, or `require_https` refuses
    /// them.
    ///
    /// ```no_run
    /// # use mcp_sse_tokio::{Config, Peer, SseService};
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config::builder().require_https(true).build()?;
    /// let mcp = SseService::builder(config)
    ///     .default_peer(Peer::local().secure()) // Served by TLS alone.
    ///     .build(async |session| println!("{}", session.id()))?;
    /// # drop(mcp);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn default_peer(mut self, peer: Peer) -> Self {
        self.default_peer = Some(peer);
        self
    }

    /// Starts the threads, and returns the service that talks to them. `handler` is called once for
    /// each session; what it returns is spawned on the present runtime.
    ///
    /// # Errors
    ///
    /// As [`with_sessions`](Self::with_sessions).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build<H, F>(self, handler: H) -> io::Result<SseService>
    where
        H: Fn(Session) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Handle::current();
        self.with_sessions(move |session| drop(runtime.spawn(handler(session))))
    }

    /// As [`build`](Self::build), for whoever has another place for handlers: `handler` may as well hand
    /// the session on and return `()`, as for [`Listener::serve`](crate::Listener::serve). It is called
    /// on the service's threads, by one at a time, and must not block; the present runtime is entered
    /// meanwhile. Outside a runtime what it spawns or returns runs on those threads.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started; and [`InvalidInput`](io::ErrorKind::InvalidInput) for no worker
    /// at all, for more than [`WORKERS_MAX`](crate::WORKERS_MAX), for an authorizer beside static
    /// tokens, and for one that the configuration counts on and that is not there.
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
        let server = Arc::new(Server { handle, default_peer, warned: AtomicBool::new(false) });
        Ok(SseService { server, mount: None, linger })
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

    /// Always ready: what there is no room for is answered 503.
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
        let peer = self.server.peer(&parts);
        let exchange = self.server.handle.exchange(exchange_request(&parts, mount), peer);
        let Ok(mut conversation) = exchange.await else { return unavailable() };
        let mut body = pin!(body);
        let mut ended = false;
        let head = poll_fn(|cx| {
            while !ended && conversation.poll_input(cx).is_ready() {
                match body.as_mut().poll_frame(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(mut data) = frame.into_data() {
                            conversation.input(data.copy_to_bytes(data.remaining()).into());
                        }
                    }
                    Poll::Ready(None) => {
                        conversation.end_input();
                        ended = true;
                    }
                    // The client broke off: whoever speaks HTTP to it sees to the rest.
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(None),
                }
            }
            conversation.poll_head(cx)
        })
        .await;
        if !ended {
            self.linger.discard(body).await;
        }
        match head {
            Some(head) => response(&head, SseBody(Some(conversation))),
            None => unavailable(),
        }
    }
}

impl Linger {
    /// Reads the rest of a body that nobody wants. An HTTP server that answers and closes with bytes
    /// unread makes the kernel send a reset, which can destroy the answer (RFC 9112 section 9.6).
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
            // Whether it came to its end or its time was over is all the same.
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
    // HTTP/2 has no Host, and says the same in the target.
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

/// What axum cut off the front of the path.
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

/// The server has ended, or has no room for one more connection.
fn unavailable() -> Response<SseBody> {
    let mut response = Response::new(SseBody(None));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The body of an answer: an event stream, or a few words. Dropping it ends the session whose stream
/// it is.
#[derive(Debug)]
pub struct SseBody(Option<ExchangeClient>);

impl Body for SseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(conversation) = &mut self.0 else { return Poll::Ready(None) };
        conversation.poll_output(cx).map(|bytes| Some(Ok(Frame::data(bytes?.into()))))
    }
}
