//! Servers on loopback, whichever adapter carries them.
//!
//! Knows: what a server is asked for, and how one on a thread of its own is watched. Does not know: any
//! runtime.

mod ours;

pub use ours::{ALL, SMOL, TOKIO, named, on_tokio};

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::pin::Pin;
use core::time::Duration;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use mcp_sse_core::{Config, Metrics, RequestHead};
use mcp_sse_driver::{Decision, Handle, Session, Tls, VerdictCache};

use crate::client::Stream;
use crate::{PATIENCE, finish, handlers};

/// What a server does with each session.
pub type Handler = Arc<dyn Fn(Session) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Makes a [`Handler`] of a function.
pub fn handler<F>(function: impl Fn(Session) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |session| Box::pin(function(session)))
}

/// Whom a server asks about requests.
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

/// Where handlers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the thread of the sockets: `serve_local`, or `serve_on_workers` where there are several.
    Local,
    /// On threads of their own: `serve`.
    Apart,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Local, Self::Apart];
}

/// Where a server listens, and what it speaks there.
#[derive(Debug)]
pub enum Listen {
    /// A TCP socket that is bound and listening.
    Tcp(TcpListener),
    /// Another one, for TLS.
    Tls(TcpListener, Tls),
    /// A TCP address to be bound by the adapter.
    Bind(SocketAddr),
    /// Several of them; the server's address is the first.
    BindAll(Vec<SocketAddr>, Option<Tls>),
    /// A Unix socket to be bound at this path, with this mode or the default.
    Unix(PathBuf, Option<u32>),
    /// A Unix socket, for TLS.
    UnixTls(PathBuf, Tls),
}

/// One server to be run.
pub struct Job {
    /// Where.
    pub listen: Listen,
    /// With how many workers.
    pub workers: usize,
    /// How to serve.
    pub config: Config,
    /// Whom to ask about requests, and how to remember what is said, if anybody.
    pub authorize: Option<(Authorize, VerdictCache)>,
    /// Whom to give sessions to.
    pub handler: Handler,
    /// Where that runs.
    pub place: Place,
    /// Told before that where the server listens, if it is for the adapter to bind.
    pub bound: mpsc::Sender<SocketAddr>,
    /// Told once, before serving begins.
    pub handle: mpsc::Sender<Handle>,
    /// Says something, or closes, when the future that serves is to be dropped.
    pub dropped: async_channel::Receiver<()>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("place", &self.place).finish_non_exhaustive()
    }
}

/// An adapter under test.
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// Its name, for messages.
    pub name: &'static str,
    /// Runs a server on this thread until it has ended or its future was dropped. Fails for what the
    /// adapter cannot listen on.
    pub run: fn(Job) -> io::Result<()>,
}

/// Runs each session's handler on a thread of its own, with nothing of a runtime on it: what a
/// [`Place::Apart`] is made of.
pub fn on_threads(handler: Handler) -> impl FnMut(Session) + Send + 'static {
    move |session| {
        let handled = handler(session);
        thread::spawn(move || futures_lite::future::block_on(handled));
    }
}

/// A server that runs on a thread of its own; it is stopped when this is dropped.
pub struct Server {
    address: SocketAddr,
    handle: Handle,
    end: mpsc::Receiver<io::Result<()>>,
    drop_future: async_channel::Sender<()>,
    ended: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a server on a free port of 127.0.0.1, its handlers on its own thread.
    #[must_use]
    pub fn start(on: &Adapter, config: Config, handler: Handler) -> Self {
        Self::start_at(on, "127.0.0.1:0", Place::Local, config, handler)
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
        place: Place,
        config: Config,
        handler: Handler,
    ) -> Self {
        let socket = TcpListener::bind(bind).expect("a free port");
        Self::try_start(on, Listen::Tcp(socket), place, config, handler).expect("a server")
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
        place: Place,
        config: Config,
        handler: Handler,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::try_start(on, Listen::Tls(socket, tls), place, config, handler).expect("a server")
    }

    /// Starts a server, or not.
    ///
    /// # Errors
    ///
    /// Why it does not bind or serve, if that is known at once.
    ///
    /// # Panics
    ///
    /// If it neither starts nor fails.
    pub fn try_start(
        on: &Adapter,
        listen: Listen,
        place: Place,
        config: Config,
        handler: Handler,
    ) -> io::Result<Self> {
        Self::try_start_workers(on, listen, 1, place, config, handler)
    }

    /// Starts a server with so many workers, or not.
    ///
    /// # Errors
    ///
    /// As [`try_start`](Self::try_start).
    ///
    /// # Panics
    ///
    /// If it neither starts nor fails.
    pub fn try_start_workers(
        on: &Adapter,
        listen: Listen,
        workers: usize,
        place: Place,
        config: Config,
        handler: Handler,
    ) -> io::Result<Self> {
        Self::try_start_authorized(on, listen, workers, place, config, None, handler)
    }

    /// Starts a server with so many workers that asks somebody about requests, or not.
    ///
    /// # Errors
    ///
    /// As [`try_start`](Self::try_start).
    ///
    /// # Panics
    ///
    /// If it neither starts nor fails.
    pub fn try_start_authorized(
        on: &Adapter,
        listen: Listen,
        workers: usize,
        place: Place,
        config: Config,
        authorize: Option<(Authorize, VerdictCache)>,
        handler: Handler,
    ) -> io::Result<Self> {
        let known = match &listen {
            Listen::Tcp(socket) | Listen::Tls(socket, _) => Some(socket.local_addr()?),
            Listen::Bind(_) | Listen::BindAll(..) | Listen::Unix(..) | Listen::UnixTls(..) => None,
        };
        let (handle_sender, handle) = mpsc::channel();
        let (bound_sender, bound) = mpsc::channel();
        let (end_sender, end) = mpsc::channel();
        let (drop_future, dropped) = async_channel::bounded(1);
        let run = on.run;
        thread::spawn(move || {
            let (bound, handle) = (bound_sender, handle_sender);
            let job =
                Job { listen, workers, config, authorize, handler, place, bound, handle, dropped };
            // Nobody listens any more if the test has failed.
            let _ = end_sender.send(run(job));
        });
        match handle.recv_timeout(PATIENCE) {
            Ok(handle) => {
                // A Unix socket has no address, and nobody can connect to this one.
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

    /// The hold on it.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A copy of its counters.
    #[track_caller]
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        finish("counters", self.handle.metrics()).expect("the server runs")
    }

    /// Asks it to stop in order.
    pub fn shutdown(&self) {
        self.handle.shutdown();
    }

    /// Asks it to stop at once.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Drops the future that serves.
    pub fn drop_future(&self) {
        let _ = self.drop_future.try_send(());
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        if !self.ended
            && let Ok(served) = self.end.try_recv()
        {
            served.expect("the server ends well");
            self.ended = true;
        }
        self.ended
    }

    /// Waits for it to fail.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn expect_failure(mut self) -> io::Error {
        let served = self.end.recv_timeout(PATIENCE).expect("the server ends");
        self.ended = true;
        served.expect_err("a failure")
    }

    /// Waits for it to panic.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn expect_panic(mut self) {
        let end = self.end.recv_timeout(PATIENCE);
        self.ended = true;
        assert!(matches!(end, Err(mpsc::RecvTimeoutError::Disconnected)), "a panic: {end:?}");
    }

    /// Waits for its end. Returns how long that took.
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
}

impl Drop for Server {
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

/// A server that echoes, and on it a session that must not notice what its neighbours do.
#[derive(Debug)]
pub struct Room {
    /// The server.
    pub server: Server,
    /// The session.
    pub bystander: Stream,
}

impl Room {
    /// Starts the server and opens the session.
    ///
    /// # Panics
    ///
    /// If one of them fails.
    #[must_use]
    pub fn new(on: &Adapter, config: Config) -> Self {
        let server = Server::start(on, config, handlers::echo());
        let bystander = Stream::open(server.address());
        Self { server, bystander }
    }
}
