//! A listening socket, and the two ways to serve what it accepts.

use core::future::{Ready, poll_fn};
use core::net::SocketAddr;
use core::task::{Poll, ready};
use std::io;
use std::net::ToSocketAddrs;
#[cfg(unix)]
use std::path::Path;
use std::sync::{Arc, Mutex};

use mcp_sse_core::{Clock, Config, RequestHead};
#[cfg(feature = "tls")]
use mcp_sse_driver::Tls;
use mcp_sse_driver::{
    AcceptTrouble, Authorizer, Bound, Decision, Handle, HandlerReturn, Session, Shard, Turn, Usher,
    VerdictCache, Worker,
};
use tokio::runtime;
use tokio::task::{JoinHandle, LocalSet, spawn_local, unconstrained, yield_now};

use crate::door::{Accepted, Door, Entrance, Opener};
use crate::socket::{Alarm, Stream, system};

/// A listening socket with a configuration: a server that has not begun to serve.
#[derive(Debug)]
pub struct Listener(Bound);

/// Binds `address` and serves on this thread: [`Listener::bind`], then
/// [`Listener::serve_local`].
///
/// # Errors
///
/// As [`Listener::bind`] and [`Listener::serve_local`].
pub async fn serve_local<H, F>(
    address: impl ToSocketAddrs,
    config: Config,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Session) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    Listener::bind(address, config)?.serve_local(handler).await
}

/// Binds `address` and serves on a thread of its own: [`Listener::bind`], then
/// [`Listener::serve`].
///
/// # Errors
///
/// As [`Listener::bind`] and [`Listener::serve`].
pub async fn serve<Form, R: HandlerReturn<Form>>(
    address: impl ToSocketAddrs,
    config: Config,
    handler: impl FnMut(Session) -> R + Send + 'static,
) -> io::Result<()> {
    Listener::bind(address, config)?.serve(handler).await
}

impl Listener {
    /// Binds a TCP address; port 0 is any free port. Needs no runtime yet.
    ///
    /// A name that stands for several addresses is bound at all of them, and so is a slice of several,
    /// [`ADDRESSES_MAX`](crate::ADDRESSES_MAX) at most: "localhost" is `127.0.0.1` with some clients
    /// and `::1` with others. Those with port 0 get the same free port. An address that this machine
    /// does not have is passed over, and the log says so at info, if another can be bound. One server
    /// serves all of them: limits and the [`Handle`] are of all together.
    ///
    /// # Errors
    ///
    /// Those of binding any of them: the address is in use, not this machine's, or not allowed.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for more than `ADDRESSES_MAX`.
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> io::Result<Self> {
        Bound::bind(address, config).map(Self)
    }

    /// Takes a socket that is bound and listening already.
    #[must_use]
    pub fn from_std(socket: std::net::TcpListener, config: Config) -> Self {
        Self(Bound::from_std(socket, config))
    }

    /// Listens on a Unix socket at `path`, for this user alone: the file has mode 0600, and is
    /// removed when the server has ended. A socket there that nobody listens on is replaced; anything
    /// else is left alone. Over it, `Host` is checked as on loopback.
    ///
    /// # Errors
    ///
    /// Those of binding; [`AddrInUse`](io::ErrorKind::AddrInUse) if a server listens there, and
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if what is there is not a socket.
    #[cfg(unix)]
    pub fn bind_unix(path: impl AsRef<Path>, config: Config) -> io::Result<Self> {
        Self::bind_unix_with_mode(path, 0o600, config)
    }

    /// [`bind_unix`](Self::bind_unix) with another mode, whatever the umask: 0660 to let a group in.
    ///
    /// # Errors
    ///
    /// As [`bind_unix`](Self::bind_unix).
    #[cfg(unix)]
    pub fn bind_unix_with_mode(
        path: impl AsRef<Path>,
        mode: u32,
        config: Config,
    ) -> io::Result<Self> {
        Bound::bind_unix(path.as_ref(), mode, config).map(Self)
    }

    /// Speaks TLS, and nothing else, with everybody who connects.
    ///
    /// A handshake has to be complete, and a request head behind it, within
    /// [`Timeouts::head`](crate::Timeouts::head) of the accept. Whoever speaks HTTP instead is told
    /// so, in HTTP. TLS is for TCP: a server with both this and a Unix socket fails when it is to
    /// serve.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.0.set_tls(tls);
        self
    }

    /// Asks `authorizer` whether a request may proceed, for each GET and POST of sessions and for the
    /// index page, before anything is looked up or made. It gets the request's head and returns a
    /// [`Verdict`](crate::Verdict), or a [`Decision`](crate::Decision) that says for how long it
    /// holds. It is an `async` closure or function; a plain closure that returns a future has to name
    /// its argument's type, `Arc<RequestHead>`. What is allowed is allowed on behalf of a [`Principal`](crate::Principal), to whom the
    /// session belongs: nobody else's posts reach it.
    ///
    /// By default what is allowed holds for a minute for all requests with the same `Authorization` field:
    /// see [`VerdictCache`](crate::VerdictCache) for what that means, and
    /// [`verdict_cache`](Self::verdict_cache) to change it.
    ///
    /// The function is called, and what it returns is polled, on the thread of the sockets; so it
    /// waits for whatever it waits for without blocking that thread. [`serve`](Self::serve) and
    /// [`serve_on_workers`](Self::serve_on_workers) have runtimes of their own there; to have it done
    /// on the application's, take its [`Handle`](tokio::runtime::Handle) into the closure and spawn. At most
    /// [`DECISIONS_MAX`](crate::DECISIONS_MAX) are worked out at once on each thread, and of one
    /// address [`DECISIONS_PER_ADDRESS_MAX`](crate::DECISIONS_PER_ADDRESS_MAX); further questions
    /// wait. What is not decided within [`Timeouts::decision`](crate::Timeouts::decision)
    /// is dropped, and its requests are answered 503; so are those at which it panics.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), with a [`ConfigError`](crate::ConfigError)
    /// inside, if the configuration has static tokens as well.
    pub fn authorize<D: Into<Decision>>(
        mut self,
        authorizer: impl AsyncFn(Arc<RequestHead>) -> D + Send + Sync + 'static,
    ) -> io::Result<Self> {
        self.0.set_authorizer(Authorizer::new(authorizer))?;
        Ok(self)
    }

    /// For how many credentials, and for how long, the verdicts of an
    /// [authorizer](Self::authorize) hold without asking it again.
    #[must_use]
    pub fn verdict_cache(mut self, cache: VerdictCache) -> Self {
        self.0.set_verdict_cache(cache);
        self
    }

    /// Serves with so many shards, on a thread each, instead of one: for machines with more to do
    /// than one processor can. Whichever of them a connection has come to, its posts reach the session
    /// that they name, and [`Handle`] reaches all. At most [`WORKERS_MAX`](crate::WORKERS_MAX).
    ///
    /// On Linux every shard listens for itself, at the same port, and the system deals connections
    /// out; a port that anybody else has is refused as ever. Elsewhere, on Unix sockets, and on a
    /// socket that [`from_std`](Self::from_std) was given without `SO_REUSEPORT`, one of them accepts
    /// for all in turn.
    ///
    /// [`Limits`](crate::Limits) are those of the whole server: every shard gets
    /// [its share](crate::Limits::share_of), and what connections there are may fall on them a little
    /// unevenly. A post for a session of another shard is held there like one of that shard's own while
    /// its session has no room, for [`Timeouts::hold`](crate::Timeouts::hold) at most; at most
    /// [`Limits::forwarded_max`](crate::Limits::forwarded_max) of them are, and further ones are answered
    /// 503.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for no worker at all, and for too many.
    pub fn workers(mut self, workers: usize) -> io::Result<Self> {
        self.0.set_workers(workers)?;
        Ok(self)
    }

    /// The address that clients connect to; the first, if there are several.
    ///
    /// # Errors
    ///
    /// If the operating system cannot tell, or this is a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Every address that clients connect to: see [`bind`](Self::bind).
    ///
    /// # Errors
    ///
    /// As [`local_addr`](Self::local_addr).
    pub fn local_addrs(&self) -> io::Result<Vec<SocketAddr>> {
        self.0.local_addrs()
    }

    /// A hold on the server that this will be: to stop it, to reach every session.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.handle.clone()
    }

    /// Serves on this thread. `handler` is called once for each session, and what it returns runs
    /// here as well; it is dropped if it still runs when the server has ended.
    ///
    /// Ends after [`Handle::shutdown`], when the last connection has. Dropping the future ends
    /// everything at once. Needs a tokio runtime with I/O and time; the future is not `Send`, so give
    /// it to `block_on` or to a `LocalSet`.
    ///
    /// # Errors
    ///
    /// If the listening socket cannot be made non-blocking, and
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) with several [`workers`](Self::workers), which
    /// are more than this thread: see [`serve_on_workers`](Self::serve_on_workers).
    pub async fn serve_local<H, F>(self, handler: H) -> io::Result<()>
    where
        H: Fn(Session) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        run(self.0.into_worker()?, move |session| drop(spawn_local(handler(session)))).await
    }

    /// Serves on a thread of its own, or on one for each of its [`workers`](Self::workers), and runs the
    /// handlers on the application's runtime.
    ///
    /// `handler` is called once for each session, by one thread at a time. It is one of two:
    ///
    /// - an async closure or function. What it returns is spawned on the runtime that runs this future,
    ///   so a handler that blocks its thread keeps nobody waiting but its neighbours on that runtime:
    ///
    ///   ```no_run
    ///   # use mcp_sse_tokio::{Config, Listener};
    ///   #[tokio::main]
    ///   async fn main() -> std::io::Result<()> {
    ///       let listener = Listener::bind("127.0.0.1:8000", Config::default())?;
    ///       listener.serve(async |mut session| {
    ///           while let Some(message) = session.recv().await {
    ///               println!("{:?}", message.method());
    ///           }
    ///       }).await
    ///   }
    ///   ```
    ///
    /// - a closure that hands the session on, and returns `()` or the
    ///   [`JoinHandle`](tokio::task::JoinHandle) of a task. It is called on the thread of the sockets, so
    ///   it must not block; the runtime that runs this future is [entered](tokio::runtime::Handle::enter)
    ///   meanwhile:
    ///
    ///   ```no_run
    ///   # use mcp_sse_tokio::{Config, Listener, Session};
    ///   # async fn serve_one(session: Session) {}
    ///   # #[tokio::main]
    ///   # async fn main() -> std::io::Result<()> {
    ///   let listener = Listener::bind("127.0.0.1:8000", Config::default())?;
    ///   listener.serve(|session| {
    ///       println!("{}", session.id());
    ///       tokio::spawn(serve_one(session)) // On the runtime of `main`.
    ///   }).await
    ///   # }
    ///   ```
    ///
    /// If this future runs on no tokio runtime, as under another executor's `block_on`, either happens on
    /// the runtime of the thread of the sockets: then handlers must not block.
    ///
    /// Ends after [`Handle::shutdown`], when the last connection has. Dropping the future shuts the
    /// server down. If one worker fails, the others are shut down first.
    ///
    /// # Errors
    ///
    /// If a thread or its runtime cannot be started, or the listening socket cannot be made
    /// non-blocking.
    ///
    /// # Panics
    ///
    /// If `handler` itself does, when all threads have ended. A panic of what it returned or spawned ends
    /// that session alone.
    pub async fn serve<Form, R: HandlerReturn<Form>>(
        self,
        handler: impl FnMut(Session) -> R + Send + 'static,
    ) -> io::Result<()> {
        let handing = Handing::new(handler);
        self.0
            .on_threads(move |worker| {
                let handing = handing.clone();
                block_on(run(worker, move |session| handing.hand(session)))
            })
            .await
    }

    /// Serves on a thread for each of its [`workers`](Self::workers), and runs the handlers there:
    /// `handler` is called once for each session, on the thread that has its connection, and what it
    /// returns runs there as well; it is dropped if it still runs when that shard has ended. With one
    /// worker this is [`serve_local`](Self::serve_local) on a thread of its own. Each thread has a
    /// current-thread runtime.
    ///
    /// Ends as [`serve`](Self::serve) does.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    ///
    /// # Panics
    ///
    /// If `handler` does, when all threads have ended.
    pub async fn serve_on_workers<H, F>(self, handler: H) -> io::Result<()>
    where
        H: Fn(Session) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        let handler = Arc::new(handler);
        self.0
            .on_threads(move |worker| {
                let handler = handler.clone();
                block_on(run(worker, move |session| drop(spawn_local(handler(session)))))
            })
            .await
    }
}

/// Gives sessions to a handler that all threads of a server share, on the runtime that the application
/// had when this was made.
pub(crate) struct Handing<H> {
    handler: Arc<Mutex<H>>,
    /// Without one, what is spawned runs on the thread that hands the session on.
    runtime: Option<runtime::Handle>,
}

impl<H> Clone for Handing<H> {
    fn clone(&self) -> Self {
        Self { handler: self.handler.clone(), runtime: self.runtime.clone() }
    }
}

impl<H> Handing<H> {
    pub(crate) fn new(handler: H) -> Self {
        let runtime = runtime::Handle::try_current().ok();
        Self { handler: Arc::new(Mutex::new(handler)), runtime }
    }

    pub(crate) fn hand<Form, R: HandlerReturn<Form>>(&self, session: Session)
    where
        H: FnMut(Session) -> R,
    {
        let _entered = self.runtime.as_ref().map(runtime::Handle::enter);
        // Behind a panic there is nobody who takes sessions.
        let Ok(mut handler) = self.handler.lock() else { return };
        if let Some(serving) = handler(session).serving() {
            drop(tokio::spawn(serving));
        }
    }
}

/// The [form](HandlerReturn) of a handler that has spawned a task for its session and returns its
/// [`JoinHandle`], which nobody waits for.
#[derive(Debug)]
pub enum ReturnsJoinHandle {}

impl<T> HandlerReturn<ReturnsJoinHandle> for JoinHandle<T> {
    type Serving = Ready<()>;

    fn serving(self) -> Option<Ready<()>> {
        None
    }
}

fn block_on(served: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(served)
}

/// Runs one shard on this thread.
async fn run(worker: Worker, on_session: impl FnMut(Session) + 'static) -> io::Result<()> {
    let opener = Opener::of(&worker);
    let Worker { entrance, usher, config, controls, .. } = worker;
    let entrance = Entrance::new(entrance)?;
    let usher = match usher {
        Some((door, usher)) => Some((Door::new(door)?, usher)),
        None => None,
    };
    let shard = Shard::new(config, Box::new(system), controls);
    LocalSet::new()
        .run_until(async move {
            if let Some((door, usher)) = usher {
                drop(spawn_local(accept_for_all(door, usher)));
            }
            drop(spawn_local(accept(entrance, opener, shard.clone())));
            run_turns(shard, on_session).await;
        })
        .await;
    Ok(())
}

/// Runs a shard's turns, and gives each of its connections a task, until it has been shut down. Within
/// a `LocalSet`.
pub(crate) async fn run_turns(shard: Shard<Stream>, mut on_session: impl FnMut(Session) + 'static) {
    // A task of its own: a turn is to come once, behind the reads that want it.
    let turns = spawn_local(async move {
        let mut alarm = Alarm::default();
        loop {
            // A turn bounds itself; under tokio's budget it would write only a hundred sockets.
            match unconstrained(poll_fn(|cx| shard.poll_turn(cx, &mut alarm))).await {
                Turn::Opened(session) => on_session(session),
                Turn::Accepted(conn) => drop(spawn_local(shard.clone().connection(conn))),
                Turn::Drained => return,
            }
        }
    });
    if let Err(error) = turns.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Accepts for a shard until it stops.
async fn accept(entrance: Entrance, opener: Opener, shard: Shard<Stream>) {
    let mut pause = Pause::new();
    let mut turns = Turns::default();
    loop {
        turns.leave_some().await;
        let accepted = poll_fn(|cx| match shard.poll_accepting(cx) {
            Poll::Ready(true) => entrance.poll_accept(shard.room(), cx).map(Some),
            Poll::Ready(false) => Poll::Ready(None),
            Poll::Pending => {
                entrance.close();
                Poll::Pending
            }
        });
        let accepted = match accepted.await {
            None => return,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                pause.after(&error).await;
                continue;
            }
        };
        match opener.open(accepted) {
            Ok((stream, peer)) => shard.accept(stream, peer),
            // Gone already.
            Err(error) => log::debug!("a connection was gone before it was served: {error}"),
        }
    }
}

/// Accepts for all shards until all stop.
async fn accept_for_all(door: Door, usher: Usher) {
    let mut pause = Pause::new();
    let mut waiting = None;
    let mut turns = Turns::default();
    loop {
        turns.leave_some().await;
        let accepted = poll_fn(|cx| {
            if !ready!(usher.poll_accepting(cx)) {
                return Poll::Ready(None);
            }
            match waiting.take() {
                Some(arrival) => Poll::Ready(Some(Ok(arrival))),
                None => {
                    door.poll_accept(cx).map(|accepted| Some(accepted.and_then(Accepted::leave)))
                }
            }
        });
        match accepted.await {
            None => return,
            // If the last shard that had room has none any more, it waits.
            Some(Ok(arrival)) => waiting = usher.give(arrival).err(),
            Some(Err(error)) => pause.after(&error).await,
        }
    }
}

/// Leaves turns to the thread's other tasks. Without that whoever connects as fast as connections are
/// accepted would have the thread alone.
#[derive(Default)]
struct Turns {
    accepted: u8,
}

impl Turns {
    /// So many connections may be accepted before others have a turn.
    const ACCEPTED_MAX: u8 = 16;

    /// Counts one more.
    async fn leave_some(&mut self) {
        self.accepted += 1;
        if self.accepted > Self::ACCEPTED_MAX {
            self.accepted = 1;
            yield_now().await;
        }
    }
}

/// Leaves a listener alone that cannot accept.
struct Pause(Clock, AcceptTrouble);

impl Pause {
    fn new() -> Self {
        Self(Clock::start(), AcceptTrouble::default())
    }

    async fn after(&mut self, error: &io::Error) {
        tokio::time::sleep(self.1.pause(error, &self.0)).await;
    }
}
