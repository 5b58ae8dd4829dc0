//! Servers on loopback, on any adapter.
//!
//! Knows: what a test can configure of a server, and how a server runs on its own thread. Does not
//! know: any runtime.

mod ours;

pub use ours::{ALL, SMOL, TOKIO, named, on_tokio};

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::pin::Pin;
use core::time::Duration;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use mcp_sse_core::{Config, Metrics, RequestHead};
use mcp_sse_driver::{Decision, Handle, Session, Tls, VerdictCache};

use crate::client::Stream;
use crate::{PATIENCE, finish, handlers};

/// The handler of a server's sessions.
pub type Handler = Arc<dyn Fn(Session) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Makes a [`Handler`] of a function.
pub fn handler<F>(function: impl Fn(Session) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |session| Box::pin(function(session)))
}

/// The authorizer of a server.
pub type Authorize =
    Arc<dyn Fn(Arc<RequestHead>) -> Pin<Box<dyn Future<Output = Decision>>> + Send + Sync>;

/// Makes an [`Authorize`] of a function.
pub fn authorize<D: Into<Decision>>(
    function: impl AsyncFn(Arc<RequestHead>) -> D + Send + Sync + 'static,
) -> Authorize {
    let function = Arc::new(function);
    Arc::new(move |head| {
        let function = function.clone();
        Box::pin(async move { function(head).await.into() })
    })
}

/// The thread on which session handlers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandlerThread {
    /// The thread of the sockets: `serve_local`, or `serve_on_workers` with several workers.
    Local,
    /// A thread of its own for each session: `serve`.
    Own,
}

impl HandlerThread {
    /// Both variants.
    pub const ALL: [Self; 2] = [Self::Local, Self::Own];
}

/// The socket or addresses on which a server listens, and whether it uses TLS.
#[derive(Debug)]
pub enum Listen {
    /// A TCP socket that is bound and listening.
    Tcp(TcpListener),
    /// A bound and listening TCP socket, for TLS.
    Tls(TcpListener, Tls),
    /// A TCP address that the adapter binds.
    Bind(SocketAddr),
    /// Several TCP addresses that the adapter binds; the server's address is the first.
    BindAll(Vec<SocketAddr>, Option<Tls>),
    /// TCP sockets that are bound and listening.
    Passed(Vec<TcpListener>),
    /// Unix sockets that are bound and listening.
    PassedUnix(Vec<UnixListener>),
    /// A Unix socket that the adapter binds at this path, with this file mode or the default.
    Unix(PathBuf, Option<u32>),
    /// A Unix socket with TLS, which no adapter supports.
    UnixTls(PathBuf, Tls),
}

/// A server that an adapter is to run.
pub struct Job {
    /// Where it listens.
    pub listen: Listen,
    /// The number of workers.
    pub workers: usize,
    /// The configuration.
    pub config: Config,
    /// The authorizer and its cache, if there is one.
    pub authorize: Option<(Authorize, VerdictCache)>,
    /// The handler of sessions.
    pub handler: Handler,
    /// The thread on which the handler runs.
    pub handler_thread: HandlerThread,
    /// Gets the server's address, before `handle`, if the adapter binds it.
    pub bound: mpsc::Sender<SocketAddr>,
    /// Gets the server's handle once, before serving begins.
    pub handle: mpsc::Sender<Handle>,
    /// Receives an item, or is closed, when the serve future is to be dropped.
    pub dropped: async_channel::Receiver<()>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("place", &self.handler_thread).finish_non_exhaustive()
    }
}

/// An adapter under test.
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// Its name in failure messages.
    pub name: &'static str,
    /// Runs a server on this thread until it has ended or its future was dropped. It fails if the
    /// adapter cannot listen.
    pub run: fn(Job) -> io::Result<()>,
}

/// Runs each session's handler on a new thread without a runtime, as [`HandlerThread::Own`]
/// requires.
pub fn on_threads(handler: Handler) -> impl FnMut(Session) + Send + 'static {
    move |session| {
        let handled = handler(session);
        thread::spawn(move || futures_lite::future::block_on(handled));
    }
}

/// A server that runs on its own thread. Dropping this value stops it.
pub struct RunningServer {
    address: SocketAddr,
    handle: Handle,
    end: mpsc::Receiver<io::Result<()>>,
    drop_future: async_channel::Sender<()>,
    ended: bool,
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RunningServer {
    /// Starts a server on a free port of 127.0.0.1, with handlers on the thread of the sockets.
    #[must_use]
    pub fn start(on: &Adapter, config: Config, handler: Handler) -> Self {
        Self::start_at(on, "127.0.0.1:0", HandlerThread::Local, config, handler)
    }

    /// Starts a server.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start_at(
        on: &Adapter,
        bind: &str,
        handler_thread: HandlerThread,
        config: Config,
        handler: Handler,
    ) -> Self {
        let socket = TcpListener::bind(bind).expect("a free port");
        Self::try_start(on, Listen::Tcp(socket), handler_thread, config, handler).expect("a server")
    }

    /// Starts a server that speaks TLS on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start_tls(
        on: &Adapter,
        tls: Tls,
        handler_thread: HandlerThread,
        config: Config,
        handler: Handler,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::try_start(on, Listen::Tls(socket, tls), handler_thread, config, handler)
            .expect("a server")
    }

    /// Starts a server that listens on `listen`.
    ///
    /// # Errors
    ///
    /// The error of the adapter, if the server does not bind or serve.
    ///
    /// # Panics
    ///
    /// If the server neither starts nor fails in time.
    pub fn try_start(
        on: &Adapter,
        listen: Listen,
        handler_thread: HandlerThread,
        config: Config,
        handler: Handler,
    ) -> io::Result<Self> {
        Self::try_start_workers(on, listen, 1, handler_thread, config, handler)
    }

    /// Starts a server with `workers` workers.
    ///
    /// # Errors
    ///
    /// As [`try_start`](Self::try_start).
    ///
    /// # Panics
    ///
    /// If the server neither starts nor fails in time.
    pub fn try_start_workers(
        on: &Adapter,
        listen: Listen,
        workers: usize,
        handler_thread: HandlerThread,
        config: Config,
        handler: Handler,
    ) -> io::Result<Self> {
        Self::try_start_authorized(on, listen, workers, handler_thread, config, None, handler)
    }

    /// Starts a server with workers and an authorizer.
    ///
    /// # Errors
    ///
    /// As [`try_start`](Self::try_start).
    ///
    /// # Panics
    ///
    /// If the server neither starts nor fails in time.
    pub fn try_start_authorized(
        on: &Adapter,
        listen: Listen,
        workers: usize,
        handler_thread: HandlerThread,
        config: Config,
        authorize: Option<(Authorize, VerdictCache)>,
        handler: Handler,
    ) -> io::Result<Self> {
        let known = match &listen {
            Listen::Tcp(socket) | Listen::Tls(socket, _) => Some(socket.local_addr()?),
            Listen::Passed(sockets) => sockets.iter().find_map(|socket| socket.local_addr().ok()),
            Listen::Bind(_)
            | Listen::BindAll(..)
            | Listen::PassedUnix(_)
            | Listen::Unix(..)
            | Listen::UnixTls(..) => None,
        };
        let (handle_sender, handle) = mpsc::channel();
        let (bound_sender, bound) = mpsc::channel();
        let (end_sender, end) = mpsc::channel();
        let (drop_future, dropped) = async_channel::bounded(1);
        let run = on.run;
        thread::spawn(move || {
            let (bound, handle) = (bound_sender, handle_sender);
            let job = Job {
                listen,
                workers,
                config,
                authorize,
                handler,
                handler_thread,
                bound,
                handle,
                dropped,
            };
            // The send fails if the test has failed already.
            let _ = end_sender.send(run(job));
        });
        match handle.recv_timeout(PATIENCE) {
            Ok(handle) => {
                // A server on a Unix socket has no address; no client can connect to this one.
                let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
                let mut address = known.or_else(|| bound.try_recv().ok()).unwrap_or(nowhere);
                if address.ip().is_unspecified() {
                    address.set_ip(Ipv4Addr::LOCALHOST.into());
                }
                Ok(Self { address, handle, end, drop_future, ended: false })
            }
            Err(_) => match end.recv_timeout(PATIENCE).expect("the server starts, or fails") {
                Err(error) => Err(error),
                Ok(()) => panic!("the server ended before it began"),
            },
        }
    }

    /// Where clients connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's handle.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The server's counters.
    #[track_caller]
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        finish("counters", self.handle.metrics()).expect("the server runs")
    }

    /// Shuts the server down in order.
    pub fn shutdown(&self) {
        self.handle.shutdown();
    }

    /// Stops the server at once.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Drops the serve future.
    pub fn drop_future(&self) {
        let _ = self.drop_future.try_send(());
    }

    /// Whether the server has ended.
    pub fn has_ended(&mut self) -> bool {
        if !self.ended
            && let Ok(served) = self.end.try_recv()
        {
            served.expect("the server ends well");
            self.ended = true;
        }
        self.ended
    }

    /// Waits until the server fails, and returns the error.
    ///
    /// # Panics
    ///
    /// If it does not in time.
    #[track_caller]
    pub fn expect_failure(mut self) -> io::Error {
        let served = self.end.recv_timeout(PATIENCE).expect("the server ends");
        self.ended = true;
        served.expect_err("a failure")
    }

    /// Waits until the server panics.
    ///
    /// # Panics
    ///
    /// If it does not in time.
    #[track_caller]
    pub fn expect_panic(mut self) {
        let end = self.end.recv_timeout(PATIENCE);
        self.ended = true;
        assert!(matches!(end, Err(mpsc::RecvTimeoutError::Disconnected)), "a panic: {end:?}");
    }

    /// Waits until the server has ended. Returns how long that took.
    ///
    /// # Panics
    ///
    /// If it does not end in time, or ends in an error.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Duration {
        let start = Instant::now();
        if !self.ended {
            let served = self.end.recv_timeout(PATIENCE).expect("the server ends");
            served.expect("the server ends well");
            self.ended = true;
        }
        start.elapsed()
    }

    /// Waits until the server has ended, however long that takes: for a process whose parent stops
    /// it.
    ///
    /// # Panics
    ///
    /// If it ends in an error.
    pub fn run_to_end(mut self) {
        let served = self.end.recv().expect("the server ends");
        self.ended = true;
        served.expect("the server ends well");
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.handle.abort();
        let end = self.end.recv_timeout(PATIENCE);
        if !thread::panicking() {
            end.expect("the server ends").expect("the server ends well");
        }
    }
}

/// An echoing server, with a session that other connections must not disturb.
#[derive(Debug)]
pub struct Fixture {
    /// The server.
    pub server: RunningServer,
    /// The session that must not be disturbed.
    pub other_session: Stream,
}

impl Fixture {
    /// Starts the server and opens the session.
    ///
    /// # Panics
    ///
    /// If one of them fails.
    #[must_use]
    pub fn new(on: &Adapter, config: Config) -> Self {
        let server = RunningServer::start(on, config, handlers::echo());
        let other_session = Stream::open(server.address());
        Self { server, other_session }
    }
}
