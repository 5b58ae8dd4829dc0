//! Servers on loopback, whichever adapter carries them.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::pin::Pin;
use core::time::Duration;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use mcp_sse_core::driver::{Handle, Session};
use mcp_sse_core::{Config, Metrics};

use crate::{PATIENCE, finish};

/// What a server does with each session.
pub type Handler = Arc<dyn Fn(Session) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Makes a [`Handler`] of a function.
pub fn handler<F>(function: impl Fn(Session) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |session| Box::pin(function(session)))
}

/// Where handlers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the thread of the sockets: `serve_local`.
    Local,
    /// On threads of their own: `serve`.
    Apart,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Local, Self::Apart];
}

/// One server to be run.
pub struct Job {
    /// Bound and listening.
    pub socket: TcpListener,
    /// How to serve.
    pub config: Config,
    /// Whom to give sessions to.
    pub handler: Handler,
    /// Where that runs.
    pub place: Place,
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
    /// Runs a server on this thread until it has ended or its future was dropped.
    pub run: fn(Job) -> io::Result<()>,
}

/// Every adapter there is.
pub const ALL: [Adapter; 2] = [SMOL, TOKIO];

/// The adapter of that name.
#[must_use]
pub fn named(name: &str) -> Option<Adapter> {
    ALL.into_iter().find(|adapter| adapter.name == name)
}

/// `mcp-sse-smol`.
pub const SMOL: Adapter = Adapter { name: "smol", run: run_smol };

fn run_smol(job: Job) -> io::Result<()> {
    let Job { socket, config, handler, place, handle, dropped } = job;
    let listener = mcp_sse_smol::Listener::from_std(socket, config);
    // Whoever started the server waits for it.
    let _ = handle.send(listener.handle());
    let served = async {
        match place {
            Place::Local => listener.serve_local(move |session| handler(session)).await,
            Place::Apart => listener.serve(on_threads(handler)).await,
        }
    };
    let drop = async {
        let _ = dropped.recv().await;
        Ok(())
    };
    async_io::block_on(futures_lite::future::or(served, drop))
}

/// `mcp-sse-tokio`.
pub const TOKIO: Adapter = Adapter { name: "tokio", run: run_tokio };

fn run_tokio(job: Job) -> io::Result<()> {
    let Job { socket, config, handler, place, handle, dropped } = job;
    let listener = mcp_sse_tokio::Listener::from_std(socket, config);
    // Whoever started the server waits for it.
    let _ = handle.send(listener.handle());
    let served = async {
        match place {
            Place::Local => listener.serve_local(move |session| handler(session)).await,
            Place::Apart => listener.serve(on_threads(handler)).await,
        }
    };
    let drop = async {
        let _ = dropped.recv().await;
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(futures_lite::future::or(served, drop))
}

/// Runs each session's handler on a thread of its own, with nothing of a runtime on it.
fn on_threads(handler: Handler) -> impl FnMut(Session) + Send + 'static {
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
        let mut address = socket.local_addr().expect("an address");
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let (handle_sender, handle) = mpsc::channel();
        let (end_sender, end) = mpsc::channel();
        let (drop_future, dropped) = async_channel::bounded(1);
        let run = on.run;
        thread::spawn(move || {
            let job = Job { socket, config, handler, place, handle: handle_sender, dropped };
            // Nobody listens any more if the test has failed.
            let _ = end_sender.send(run(job));
        });
        let handle = handle.recv_timeout(PATIENCE).expect("the server starts");
        Self { address, handle, end, drop_future, ended: false }
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

    /// Asks it to stop.
    pub fn shutdown(&self) {
        self.handle.shutdown();
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
        self.handle.shutdown();
        self.handle.shutdown();
        let end = self.end.recv_timeout(PATIENCE);
        if !thread::panicking() {
            end.expect("the server ends").expect("the server ends well");
        }
    }
}
