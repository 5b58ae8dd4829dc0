//! A listening socket, and the ways to serve its connections.
//!
//! Knows: the settings of a server before it serves, how a server is split into workers, and where its handlers
//! run. Does not know: any runtime; each adapter names its own in
//! `pub type Listener = mcp_sse_driver::Listener<..>`.
//!
//! Decision: each adapter has an alias of [`Listener`] and not a type that wraps it, because a wrapper would repeat
//! every method and its documentation. The alias has no type parameter, so `Listener::bind(..)` needs no type
//! annotation. The free functions `serve(address, ..)` and `serve_local(address, ..)` are written out in each adapter,
//! because a generic function would need the runtime as an explicit type argument.
//!
//! Decision: `serve` calls its handler under a lock, because a handler is `FnMut` and sessions come from
//! several threads. The future that the handler returns runs where `serve` is awaited (smol) or on that
//! runtime (tokio): on the thread of the sockets, a handler that blocks would stop the server.
//! `serve_on_workers` is for handlers that should run where the session is: they are `Fn + Send + Sync`,
//! and their futures need not be `Send`. `serve_local` serves with one thread, and returns an error if
//! several are configured.

use core::net::SocketAddr;
use core::{fmt, iter};
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;

use mcp_sse_core::{Config, MetricsPage, RequestHead};

use super::accept_queue::accept_queue;
use super::addresses::{ADDRESSES_MAX, bind_all};
use super::connection_source::ConnectionSource;
use super::decisions::Authorizer;
use super::descriptors;
use super::handle::{Handle, ShardControl, shard_control};
use super::handler::HandlerReturn;
use super::listen_socket::ListenSocket;
use super::runtime::Runtime;
use super::serve::{Worker, shared_handler};
use super::served_stream::StartTls;
use super::session::Session;
#[cfg(feature = "tls")]
use super::tls::{Tls, TlsSocket, TlsUpgrade};
#[cfg(unix)]
use super::unix::UnixListenSocket;
use super::verdicts::{Decision, VerdictCache};
use super::worker_count;
use super::workers::{ShutdownOnDrop, run_each};

/// A listening socket with a configuration: a server that does not serve yet.
///
/// `R` is a runtime. Each adapter has an alias of this type, `mcp_sse_smol::Listener` or
/// `mcp_sse_tokio::Listener`, whose page describes the requirements of that runtime. The methods are the same. The
/// examples here use smol.
///
/// One thread owns the sockets and the state of a server, or several with [`workers`](Self::workers).
/// The method that serves determines where the handlers of sessions run:
///
/// | method | threads of the server | handlers run |
/// |---|---|---|
/// | [`serve_local`](Self::serve_local) | the current one | on the current thread |
/// | [`serve`](Self::serve) | one or more of its own | where the application awaits it |
/// | [`serve_on_workers`](Self::serve_on_workers) | one or more of its own | on the thread of their session |
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
///
/// use mcp_sse_smol::{Config, Listener};
///
/// # fn main() -> std::io::Result<()> {
/// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
/// let address = listener.local_addr()?;
///
/// // A client opens the event stream of a session. Its first event is the address for messages.
/// let client = std::thread::spawn(move || -> std::io::Result<String> {
///     let mut stream = TcpStream::connect(address)?;
///     stream.write_all(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
///     let mut received = String::new();
///     stream.read_to_string(&mut received)?;
///     Ok(received)
/// });
///
/// smol::block_on(listener.serve_local(async |mut session| {
///     session.server().shutdown(); // One session is enough for this example.
///     while let Some(message) = session.recv().await {
///         println!("{:?}", message.method());
///     }
/// }))?;
/// assert!(client.join().expect("no panic")?.contains("event: endpoint"));
/// # Ok(())
/// # }
/// ```
pub struct Listener<R: Runtime> {
    socket: ListenSocket,
    /// Whether this crate has bound the sockets, so that their options are known.
    bound_here: bool,
    config: Config,
    controls: ShardControl,
    workers: usize,
    /// Starts TLS on a connection; `None` if connections use plain HTTP.
    start_tls: Option<StartTls<R>>,
}

impl<R: Runtime> Listener<R> {
    fn new(socket: ListenSocket, config: Config) -> Self {
        let (_, controls) = shard_control();
        Self { socket, bound_here: false, config, controls, workers: 1, start_tls: None }
    }

    /// Binds a TCP address. Port 0 stands for any free port.
    ///
    /// A name with several addresses is bound at all of them, because "localhost" is `127.0.0.1` for some clients and
    /// `::1` for others. A slice of several addresses is bound at all of them as well. There may be at most
    /// [`ADDRESSES_MAX`](crate::ADDRESSES_MAX). Addresses with port 0 get the same free port. An address that this
    /// machine does not have is skipped if another can be bound, which is logged at level info. One server serves all
    /// addresses: they share its limits and its [`Handle`]. Looking up a name blocks this thread.
    ///
    /// # Errors
    ///
    /// Returns the error of looking up a name, or of binding an address: it is in use, does not belong to this
    /// machine, or is not permitted. Returns [`InvalidInput`](io::ErrorKind::InvalidInput) for more than
    /// `ADDRESSES_MAX` addresses, and for none.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
    /// println!("listening on http://{}/sse", listener.local_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        let listener = Self::new(ListenSocket::Tcp(bind_all(address)?), config);
        Ok(Self { bound_here: true, ..listener })
    }

    /// Uses a TCP socket that is already bound and listening, for example one from a process manager. The methods that
    /// serve make it non-blocking. With several [`workers`](Self::workers), one thread accepts for all of them if the
    /// socket was bound without `SO_REUSEPORT`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    ///
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let socket = TcpListener::bind("127.0.0.1:0")?;
    /// let address = socket.local_addr()?;
    /// let listener = Listener::from_std(socket, Config::default());
    /// assert_eq!(listener.local_addr()?, address);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn from_std(socket: TcpListener, config: Config) -> Self {
        Self::new(ListenSocket::Tcp(vec![socket]), config)
    }

    /// Uses several TCP sockets that are already bound and listening, like [`from_std`](Self::from_std): for example
    /// all sockets that a service manager has passed. One server serves all of them.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](io::ErrorKind::InvalidInput) for no socket, and for more than
    /// [`ADDRESSES_MAX`](crate::ADDRESSES_MAX).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    ///
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sockets = vec![TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    /// let listener = Listener::from_std_sockets(sockets, Config::default())?;
    /// assert_eq!(listener.local_addrs()?.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_std_sockets(sockets: Vec<TcpListener>, config: Config) -> io::Result<Self> {
        check_number(sockets.len())?;
        Ok(Self::new(ListenSocket::Tcp(sockets), config))
    }

    /// Uses Unix sockets that are already bound and listening, for example those that a service manager has passed.
    /// The methods that serve make them non-blocking. Their files are not removed when the server has ended, because
    /// they belong to the program that has bound them. `Host` is checked as on a loopback address.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](io::ErrorKind::InvalidInput) for no socket, and for more than
    /// [`ADDRESSES_MAX`](crate::ADDRESSES_MAX).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixListener;
    ///
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let path = std::env::temp_dir().join(format!("example-passed-{}.sock", std::process::id()));
    /// let socket = UnixListener::bind(&path)?;
    /// let listener = Listener::from_std_unix_sockets(vec![socket], Config::default())?;
    /// drop(listener);
    /// assert!(path.exists());
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(unix)]
    pub fn from_std_unix_sockets(sockets: Vec<UnixListener>, config: Config) -> io::Result<Self> {
        check_number(sockets.len())?;
        let sockets = sockets.into_iter().map(UnixListenSocket::bound_elsewhere).collect();
        Ok(Self::new(ListenSocket::Unix(sockets), config))
    }

    /// Listens on a Unix socket at `path`. The file has mode 0600, so only the current user can connect.
    ///
    /// The file is removed when the server has ended. An existing socket file on which no process listens is
    /// replaced; any other file is not touched. `Host` is checked as on a loopback address.
    ///
    /// # Errors
    ///
    /// Returns the error of binding: [`AddrInUse`](io::ErrorKind::AddrInUse) if a server listens at `path`, and
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the file is not a socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let path = std::env::temp_dir().join(format!("example-{}.sock", std::process::id()));
    /// let listener = Listener::bind_unix(&path, Config::default())?;
    /// assert!(path.exists());
    /// drop(listener);
    /// assert!(!path.exists());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(unix)]
    pub fn bind_unix(path: impl AsRef<Path>, config: Config) -> io::Result<Self> {
        Self::bind_unix_with_mode(path, 0o600, config)
    }

    /// Listens on a Unix socket like [`bind_unix`](Self::bind_unix), with another mode of its file. With 0660, the
    /// file's group can connect as well. The umask has no effect on the mode.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`bind_unix`](Self::bind_unix).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let path = std::env::temp_dir().join(format!("example-660-{}.sock", std::process::id()));
    /// let listener = Listener::bind_unix_with_mode(&path, 0o660, Config::default())?;
    /// assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o660);
    /// # drop(listener);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(unix)]
    pub fn bind_unix_with_mode(
        path: impl AsRef<Path>,
        mode: u32,
        config: Config,
    ) -> io::Result<Self> {
        let socket = UnixListenSocket::bind(path.as_ref(), mode)?;
        Ok(Self::new(ListenSocket::Unix(vec![socket]), config))
    }

    /// Sets a function that decides whether a request may proceed. It is called for each GET of a stream, for each GET
    /// of the index page, and for each POST of a message, before any session is looked up or created.
    ///
    /// `authorizer` gets the request's head and returns a [`Verdict`](mcp_sse_core::Verdict), or a
    /// [`Decision`], which limits how long the verdict is cached. It is an `async` closure or function; a plain
    /// closure that returns a future has to name its argument's type, `Arc<RequestHead>`. A verdict
    /// allows a request on behalf of a [`Principal`](mcp_sse_core::Principal). A session belongs to the principal
    /// that opened it: no post of another principal reaches it.
    ///
    /// By default a verdict that allows a request is cached for a minute, for all requests with the same
    /// `Authorization` field. See [`VerdictCache`] for the consequences, and
    /// [`verdict_cache`](Self::verdict_cache) to change it.
    ///
    /// The closure is called, and its future is polled, on a thread of the server, so it must not block. At most
    /// [`DECISIONS_MAX`](crate::DECISIONS_MAX) calls are in progress on each thread, at most
    /// [`DECISIONS_PER_ADDRESS_MAX`](crate::DECISIONS_PER_ADDRESS_MAX) of them for one address, and further requests
    /// wait. A call that takes longer than [`Timeouts::decision`](mcp_sse_core::Timeouts::decision) is dropped, and
    /// its requests are answered 503. Requests for which the closure or its future panics are answered 503 as well.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](io::ErrorKind::InvalidInput), with a [`ConfigError`](mcp_sse_core::ConfigError)
    /// inside, if the configuration also has static tokens.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener, Principal, Refusal, Verdict};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?.authorize(async |head| {
    ///     match head.field("authorization") {
    ///         Some(b"Bearer open-sesame") => Verdict::Allow(Principal::new("ali")),
    ///         Some(_) => Verdict::Refuse(Refusal::InvalidToken),
    ///         None => Verdict::Refuse(Refusal::Unauthenticated),
    ///     }
    /// })?;
    /// # drop(listener);
    /// # Ok(())
    /// # }
    /// ```
    pub fn authorize<D: Into<Decision>>(
        mut self,
        authorizer: impl AsyncFn(Arc<RequestHead>) -> D + Send + Sync + 'static,
    ) -> io::Result<Self> {
        self.controls.authorize(&mut self.config, Authorizer::new(authorizer))?;
        Ok(self)
    }

    /// Sets the cache of the [authorizer](Self::authorize)'s verdicts: for how many credentials, and for how long.
    /// The default is [`VerdictCache::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mcp_sse_smol::{Config, Listener, Refusal, Verdict, VerdictCache};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = VerdictCache::new().lifetime(Some(Duration::from_secs(10)));
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?
    ///     .verdict_cache(cache)
    ///     .authorize(async |_head| Verdict::Refuse(Refusal::Forbidden))?;
    /// # drop(listener);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn verdict_cache(mut self, cache: VerdictCache) -> Self {
        self.controls.cache = cache;
        self
    }

    /// Serves `page` at `/metrics`, to clients that may open a stream. By default there is no such path.
    ///
    /// With the feature `prometheus`, the module `prometheus` makes a page of this server's metrics, and its
    /// documentation says how to serve one at an address of its own.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](io::ErrorKind::InvalidInput), with a [`ConfigError`](mcp_sse_core::ConfigError)
    /// inside, if another route has this path.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener, MetricsPage};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let page = MetricsPage::new(|| "# TYPE up gauge\nup 1\n".into());
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?.serve_metrics(page)?;
    /// # drop(listener);
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_metrics(mut self, page: MetricsPage) -> io::Result<Self> {
        self.config
            .serve_metrics(page)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(self)
    }

    /// Sets the number of shards, each of which has a thread of its own. The default is 1, and the maximum is
    /// [`WORKERS_MAX`](crate::WORKERS_MAX). Use several when one processor is not enough. A post
    /// reaches its session also if another shard has its connection, and the [`Handle`] reaches all shards.
    ///
    /// On Linux each shard has a listening socket of its own at the same port, and the operating system
    /// distributes connections. Binding a port that another process uses is still an error. On other systems,
    /// on Unix sockets, and on a socket without `SO_REUSEPORT` from [`from_std`](Self::from_std), one thread accepts
    /// for all shards in turn.
    ///
    /// [`Limits`](mcp_sse_core::Limits) are those of the whole server. Each shard gets [its
    /// share](mcp_sse_core::Limits::share_of), although connections may be distributed a little unevenly.
    /// A post that another shard has forwarded waits while its session has no room, for at most
    /// [`Timeouts::hold`](mcp_sse_core::Timeouts::hold), like a post at the session's own shard. At most
    /// [`Limits::forwarded_max`](mcp_sse_core::Limits::forwarded_max) forwarded posts wait; further ones
    /// are answered 503.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](io::ErrorKind::InvalidInput) for 0 workers, and for more than the maximum.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let workers = std::thread::available_parallelism()?.get().min(mcp_sse_smol::WORKERS_MAX);
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?.workers(workers)?;
    /// # drop(listener);
    /// # Ok(())
    /// # }
    /// ```
    pub fn workers(mut self, workers: usize) -> io::Result<Self> {
        self.workers = worker_count::check(workers)?;
        Ok(self)
    }

    /// The address that clients connect to; the first one if there are several.
    ///
    /// # Errors
    ///
    /// Returns an error for a Unix socket, and if the operating system does not know the address.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
    /// assert_ne!(listener.local_addr()?.port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addrs()?.into_iter().next().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// All addresses that clients connect to: see [`bind`](Self::bind).
    ///
    /// # Errors
    ///
    /// Returns the errors of [`local_addr`](Self::local_addr).
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("localhost:0", Config::default())?;
    /// for address in listener.local_addrs()? {
    ///     println!("listening on http://{address}/sse");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn local_addrs(&self) -> io::Result<Vec<SocketAddr>> {
        self.socket.local_addrs()
    }

    /// A handle to the server, which shuts the server down and sends to every session. Call this before the methods
    /// that serve, because they consume the listener.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
    /// let handle = listener.handle();
    /// let server = std::thread::spawn(|| {
    ///     smol::block_on(listener.serve_local(async |session| println!("{}", session.id())))
    /// });
    /// handle.shutdown();
    /// server.join().expect("no panic")?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.controls.handle.clone()
    }

    /// Serves on this thread. `handler` is called once for each session, and the future that it returns
    /// runs on this thread as well. If that future still runs when the server has ended, it is dropped.
    ///
    /// Ends after [`Handle::shutdown`], when the last connection has ended. If the returned future is dropped,
    /// the server ends immediately.
    ///
    /// # Errors
    ///
    /// Returns an error if the listening socket cannot be made non-blocking. Returns
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) with several [`workers`](Self::workers), for which
    /// [`serve_on_workers`](Self::serve_on_workers) has to be used, and, with a
    /// [`ConfigError`](mcp_sse_core::ConfigError) inside, for
    /// [`Authorization::Deferred`](mcp_sse_core::Authorization::Deferred) without an [authorizer](Self::authorize).
    /// Returns [`Unsupported`](io::ErrorKind::Unsupported) for TLS on a Unix socket.
    ///
    /// # Panics
    ///
    /// Panics if `handler` panics. A panic of the future that it returned ends only that session.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
    /// # listener.handle().shutdown(); // So that this example ends.
    /// smol::block_on(listener.serve_local(async |mut session| {
    ///     while let Some(message) = session.recv().await {
    ///         println!("{:?}", message.method());
    ///     }
    /// }))?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve_local<H, F>(self, handler: H) -> io::Result<()>
    where
        H: Fn(Session) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let on_session = move |session, tasks: &_| R::spawn(tasks, handler(session));
        self.into_worker()?.serve(on_session).await
    }

    /// Serves on a thread of its own, or on one for each of its [`workers`](Self::workers), and runs
    /// the handlers on other threads.
    ///
    /// `handler` is called once for each session, by one thread at a time. It is one of two kinds:
    ///
    /// - an async closure or function. The future that it returns runs where the future of `serve` runs: on smol
    ///   as a part of it, and on tokio as a task of the runtime that runs it. So a handler that blocks
    ///   its thread delays only other handlers. On smol, a future that still runs when the server
    ///   has ended, or when the future of `serve` is dropped, is dropped.
    /// - a closure that passes the session to a task on any executor, and returns `()` or, on tokio, a
    ///   `JoinHandle`. It is called on a thread of the server, so it must not block.
    ///
    /// Ends after [`Handle::shutdown`], when the last connection has ended. If the returned future is dropped,
    /// the server is shut down. If one worker fails, the others are shut down, and then the error is returned.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread or its runtime cannot be started, or if the listening socket cannot be made
    /// non-blocking. Returns [`InvalidInput`](io::ErrorKind::InvalidInput), with a
    /// [`ConfigError`](mcp_sse_core::ConfigError) inside, for
    /// [`Authorization::Deferred`](mcp_sse_core::Authorization::Deferred) without an [authorizer](Self::authorize).
    /// Returns [`Unsupported`](io::ErrorKind::Unsupported) for TLS on a Unix socket.
    ///
    /// # Panics
    ///
    /// Panics if `handler` has panicked, after all threads have ended. A panic of the future that it returned, or of
    /// a task that it spawned, ends only that session.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
    /// # listener.handle().shutdown(); // So that this example ends.
    /// smol::block_on(listener.serve(async |mut session| {
    ///     while let Some(message) = session.recv().await {
    ///         println!("{:?}", message.method());
    ///     }
    /// }))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// With an executor of the application:
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener, Session};
    ///
    /// static EXECUTOR: smol::Executor<'static> = smol::Executor::new(); // Run it on any number of threads.
    ///
    /// async fn serve_one(session: Session) {
    ///     println!("{}", session.id());
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # std::thread::spawn(|| smol::block_on(EXECUTOR.run(core::future::pending::<()>())));
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
    /// # listener.handle().shutdown(); // So that this example ends.
    /// smol::block_on(listener.serve(|session| EXECUTOR.spawn(serve_one(session)).detach()))
    /// # }
    /// ```
    pub async fn serve<Form, Returned: HandlerReturn<Form>>(
        self,
        handler: impl FnMut(Session) -> Returned + Send + 'static,
    ) -> io::Result<()> {
        R::run_handlers(Box::new(move |handlers| {
            Box::pin(self.on_threads(shared_handler::<R, _, _>(handlers, handler)))
        }))
        .await
    }

    /// Serves on a thread for each of its [`workers`](Self::workers), and runs the handlers on these threads.
    /// `handler` is called once for each session, on the thread of the session's connection, and the
    /// future that it returns runs on that thread as well. If that future still runs when the shard has
    /// ended, it is dropped. With one worker this is [`serve_local`](Self::serve_local) on a thread of
    /// its own.
    ///
    /// Ends after [`Handle::shutdown`], when the last connection has ended. If the returned future is dropped,
    /// the server is shut down. If one worker fails, the others are shut down, and then the error is returned.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`serve`](Self::serve).
    ///
    /// # Panics
    ///
    /// Panics if `handler` has panicked, after all threads have ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?.workers(2)?;
    /// # listener.handle().shutdown(); // So that this example ends.
    /// smol::block_on(listener.serve_on_workers(async |mut session| {
    ///     while let Some(message) = session.recv().await {
    ///         println!("{:?}", message.method());
    ///     }
    /// }))?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve_on_workers<H, F>(self, handler: H) -> io::Result<()>
    where
        H: Fn(Session) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        let handler = Arc::new(handler);
        self.on_threads(move |session, tasks: &_| R::spawn(tasks, handler(session))).await
    }

    /// Serves each worker on a thread of its own, and waits until all threads have ended. The server is shut down
    /// if one of them fails or panics, and if the returned future is dropped.
    async fn on_threads(
        self,
        on_session: impl Fn(Session, &R::Tasks) + Clone + Send + Sync + 'static,
    ) -> io::Result<()> {
        let address = self.local_addr().map_or("unix".into(), |address| format!("{address}"));
        let handle = self.handle();
        let _stop = ShutdownOnDrop(handle.clone());
        let serve = move |worker: Worker<R>| R::block_on(worker.serve(on_session.clone()));
        run_each(&address, &handle, self.into_workers()?, serve)?.await
    }

    /// The only worker, which the current thread will serve. Fails if several workers are configured.
    fn into_worker(self) -> io::Result<Worker<R>> {
        if self.workers > 1 {
            let text = format!("one thread cannot serve with {} workers", self.workers);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.into_workers()?.pop().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The workers, with a listening socket each or with one acceptor for all of them.
    fn into_workers(self) -> io::Result<Vec<Worker<R>>> {
        let Self { socket, bound_here, config, controls, workers, start_tls } = self;
        let on_unix_socket = !matches!(socket, ListenSocket::Tcp(_));
        if start_tls.is_some() && on_unix_socket {
            let text = "TLS is not possible on a Unix socket";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        warn_of_impossible_https(&config, start_tls.is_some(), on_unix_socket);
        controls.check(&config)?;
        let limits = descriptors::fit(config.limits(), workers);
        let config = config.with_limits(limits);
        let (sources, acceptor): (Vec<_>, _) = match socket.listen_sockets(workers, bound_here) {
            Ok(sockets) => (sockets.into_iter().map(ConnectionSource::Own).collect(), None),
            Err(socket) => {
                let (acceptor, queues) = accept_queue(workers);
                let sources = queues.into_iter().map(ConnectionSource::Queue).collect();
                (sources, Some((socket, acceptor)))
            }
        };
        let acceptors = iter::once(acceptor).chain(iter::repeat_with(|| None));
        let parts = sources.into_iter().zip(acceptors).zip(controls.split(workers));
        let worker = |((source, acceptor), controls)| {
            let (source, config, start_tls) = (Some(source), config.clone(), start_tls.clone());
            Worker { source, acceptor, config, controls, start_tls }
        };
        Ok(parts.map(worker).collect())
    }
}

/// Fails if this is not a number of sockets on which one server can listen.
fn check_number(sockets: usize) -> io::Result<()> {
    if (1..=ADDRESSES_MAX).contains(&sockets) {
        return Ok(());
    }
    let text =
        format!("expected 1 to {ADDRESSES_MAX} sockets to listen on, and there are {sockets}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Warns if `require_https` will refuse every request.
fn warn_of_impossible_https(config: &Config, tls: bool, on_unix_socket: bool) {
    if !config.https_can_arrive(tls, on_unix_socket) {
        let proxies = if on_unix_socket { "trust_local_peers" } else { "trusted_proxy" };
        log::warn!(
            event = "https_impossible",
            setting = proxies;
            "require_https refuses every request: this server has no TLS, and trusts no proxy that \
             could forward https requests (see {proxies})"
        );
    }
}

#[cfg(feature = "tls")]
impl<R: Runtime<TcpStream: TlsUpgrade>> Listener<R> {
    /// Uses TLS on every connection. By default, a server speaks plain HTTP. This method needs the feature `tls` of
    /// the adapter.
    ///
    /// The handshake and the first request head have to be complete within
    /// [`Timeouts::head`](mcp_sse_core::Timeouts::head) after the accept. A client that speaks plain HTTP is answered
    /// 400 in plain HTTP. TLS is not possible on a Unix socket: the methods that serve then return an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_smol::{Config, Listener, Tls};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = std::env::temp_dir().join(format!("example-tls-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// # let (cert_path, key_path) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # std::fs::write(&cert_path, pair.cert.pem())?;
    /// # std::fs::write(&key_path, pair.signing_key.serialize_pem())?;
    /// let tls = Tls::from_pem_files(&cert_path, &key_path)?;
    /// let listener = Listener::bind("127.0.0.1:0", Config::default())?.tls(tls);
    /// # std::fs::remove_dir_all(&folder)?;
    /// # drop(listener);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.start_tls =
            Some(Arc::new(move |stream, peer| Box::new(TlsSocket::new(stream, &tls, peer))));
        self
    }
}

impl<R: Runtime> fmt::Debug for Listener<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("socket", &self.socket)
            .field("handle", &self.controls.handle)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lines_in;

    #[test]
    fn require_https_that_no_request_can_satisfy_is_logged() {
        let said = |trusted: Option<&str>, require: bool| {
            let config = Config::builder().require_https(require);
            let config =
                trusted.into_iter().fold(config, |config, range| config.trusted_proxy(range));
            let config = config.build().unwrap();
            lines_in(|| warn_of_impossible_https(&config, false, false))
        };
        let lines = said(None, true);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("WARN require_https refuses every request"), "{lines:?}");
        assert!(lines[0].contains("see trusted_proxy"), "{lines:?}");
        assert!(said(Some("127.0.0.1"), true).is_empty());
        assert!(said(None, false).is_empty());
    }
}
