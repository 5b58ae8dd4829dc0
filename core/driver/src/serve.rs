//! The tasks of one thread of a server.
//!
//! Knows: which tasks there are, when to accept, and how long to pause when accepting fails.
//! Does not know: any runtime, or the steps of a turn.
//!
//! Each thread runs three kinds of tasks:
//!
//! - one that accepts, while [`Shard::poll_accepting`] is true, and gives each stream to [`Shard::accept`];
//! - one for each connection, which polls [`Shard::poll_connection`]: it reads;
//! - one that polls [`Shard::poll_turn`]: it handles deadlines, moves messages between the core and the handles, and
//!   writes. The tasks that read only wake it, so that one turn writes the results of many reads: answers and events
//!   for one socket are written together.
//!
//! Where the operating system does not distribute connections, one of the threads also runs a task that
//! accepts for all of them.
//!
//! Decision: a task accepts at most [`ACCEPTED_MAX`] connections before the thread's other tasks run. A
//! client that connects as fast as connections are accepted would otherwise occupy the thread.

use core::future::poll_fn;
use core::task::{Poll, ready};
use core::time::Duration;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mcp_sse_core::{Config, EntropyUnavailable};

use super::accept_queue::Acceptor;
use super::connection_source::{AcceptedStream, ConnectionSource, RuntimeListener};
use super::decisions::Authorizer;
use super::handle::{Handle, ShardControl, shard_control};
use super::handler::HandlerReturn;
use super::listen_socket::ListenSocket;
use super::log_throttle::LogThrottle;
use super::runtime::{Runtime, Timer};
use super::served_stream::{ServedStream, StartTls};
use super::session::Session;
use super::shard::Shard;
use super::turn::Turn;
use super::verdicts::VerdictCache;
use super::worker_count;
use super::workers::run_each;

/// The most connections that one task accepts before the other tasks of its thread run. Without this bound, a peer
/// that connects as fast as connections are accepted would keep the other tasks from running.
const ACCEPTED_MAX: u8 = 16;
/// The pause after an error of accepting that is likely to occur again, such as having no descriptor left.
const BACKOFF: Duration = Duration::from_millis(100);

/// The part of a server that one thread gets, from which it makes a shard.
pub(super) struct Worker<R: Runtime> {
    /// The source of its connections; `None` if all requests come from [`Handle::exchange`].
    pub(super) source: Option<ConnectionSource<ListenSocket>>,
    /// The socket and the acceptor of all workers, if this worker's thread has to accept for all.
    pub(super) acceptor: Option<(ListenSocket, Acceptor)>,
    /// The configuration of the whole server.
    pub(super) config: Config,
    /// The shard's end of the server's handle.
    pub(super) controls: ShardControl,
    pub(super) start_tls: Option<StartTls<R>>,
}

impl<R: Runtime> Worker<R> {
    /// Serves a share of a server on this thread, until the server has been shut down.
    pub(super) async fn serve(
        self,
        on_session: impl FnMut(Session, &R::Tasks) + 'static,
    ) -> io::Result<()> {
        let Self { source, acceptor, config, controls, start_tls } = self;
        let source = source.map(ConnectionSource::<RuntimeListener<R>>::new).transpose()?;
        let acceptor = acceptor
            .map(|(socket, acceptor)| RuntimeListener::<R>::new(socket).map(|it| (it, acceptor)))
            .transpose()?;
        let system = |dest: &mut [u8]| getrandom::fill(dest).map_err(|_| EntropyUnavailable);
        let shard = Rc::new(Shard::new(config, Box::new(system), controls));
        R::run_tasks(move |tasks| {
            if let Some((listener, acceptor)) = acceptor {
                R::spawn(&tasks, accept_for_all(listener, acceptor));
            }
            if let Some(source) = source {
                R::spawn(&tasks, accept(source, start_tls, shard.clone()));
            }
            take_turns::<R>(shard, tasks, on_session)
        })
        .await;
        Ok(())
    }
}

/// Starts threads that serve requests whose HTTP another server has parsed. The requests come from
/// [`Handle::exchange`]. The threads end after [`Handle::shutdown`].
///
/// Each of the `workers` threads has a shard of the server, as with
/// [`Listener::workers`](crate::Listener::workers). `authorizer` and `cache` have the meaning of
/// [`Listener::authorize`](crate::Listener::authorize) and
/// [`Listener::verdict_cache`](crate::Listener::verdict_cache). `handler` is called once for each
/// session, on the session's thread, by one thread at a time. If it returns a future, `handlers` runs that future.
///
/// # Errors
///
/// Returns an error if a thread cannot be started, and [`InvalidInput`](io::ErrorKind::InvalidInput) for 0 workers,
/// for more than [`WORKERS_MAX`](crate::WORKERS_MAX), for an authorizer together with static tokens, and for a
/// configuration that needs an authorizer if there is none.
pub fn serve_exchanges<R: Runtime, Form, Returned: HandlerReturn<Form>>(
    mut config: Config,
    workers: usize,
    authorizer: Option<Authorizer>,
    cache: VerdictCache,
    handlers: R::Handlers,
    handler: impl FnMut(Session) -> Returned + Send + 'static,
) -> io::Result<Handle> {
    let workers = worker_count::check(workers)?;
    let (handle, mut controls) = shard_control();
    controls.cache = cache;
    if let Some(authorizer) = authorizer {
        controls.authorize(&mut config, authorizer)?;
    }
    controls.check(&config)?;
    let on_session = shared_handler::<R, _, _>(handlers, handler);
    let serve = move |controls| {
        let (source, acceptor, config, start_tls) = (None, None, config.clone(), None);
        let worker = Worker::<R> { source, acceptor, config, controls, start_tls };
        R::block_on(worker.serve(on_session.clone())).inspect_err(|error| {
            log::error!(
                event = "service_failed",
                error:% = error;
                "the service cannot run: {error}"
            );
        })
    };
    // No task waits for the threads. They end after the shutdown.
    drop(run_each("service", &handle, controls.split(workers), serve)?);
    Ok(handle)
}

/// Makes of `handler` what all threads of a server call with their sessions.
pub(super) fn shared_handler<R: Runtime, Form, Returned: HandlerReturn<Form>>(
    handlers: R::Handlers,
    handler: impl FnMut(Session) -> Returned + Send + 'static,
) -> impl Fn(Session, &R::Tasks) + Clone + Send + Sync + 'static {
    let handler = Arc::new(Mutex::new(handler));
    move |session, _: &R::Tasks| {
        R::run_handler(&handlers, || {
            // The lock is poisoned if the handler has panicked. The server then ends.
            let mut handler = handler.lock().ok()?;
            handler(session).serving()
        });
    }
}

/// Takes a shard's turns, and gives each of its connections a task, until the shard has been shut down.
async fn take_turns<R: Runtime>(
    shard: Rc<Shard<ServedStream<R>>>,
    tasks: R::Tasks,
    mut on_session: impl FnMut(Session, &R::Tasks),
) {
    let mut timer = R::Timer::default();
    loop {
        match poll_fn(|cx| shard.poll_turn(cx, &mut timer)).await {
            Turn::Opened(session) => on_session(session, &tasks),
            Turn::Accepted(conn) => {
                let shard = shard.clone();
                R::spawn(&tasks, poll_fn(move |cx| shard.poll_connection(conn, cx)));
            }
            Turn::Drained => return,
        }
    }
}

/// Accepts for a shard until it stops.
async fn accept<R: Runtime>(
    source: ConnectionSource<RuntimeListener<R>>,
    start_tls: Option<StartTls<R>>,
    shard: Rc<Shard<ServedStream<R>>>,
) {
    let mut pace = AcceptBackoff::<R>::new();
    loop {
        pace.yield_now().await;
        let accepted = poll_fn(|cx| match shard.poll_accepting(cx) {
            Poll::Ready(true) => source.poll_accept(shard.room(), cx).map(Some),
            Poll::Ready(false) => Poll::Ready(None),
            Poll::Pending => {
                source.close();
                Poll::Pending
            }
        });
        let open = |stream| ServedStream::open(stream, start_tls.as_ref());
        match accepted.await.map(|accepted| accepted.map(open)) {
            None => return,
            Some(Ok(Ok((stream, peer)))) => shard.accept(stream, peer),
            Some(Ok(Err(error))) => {
                log::debug!(
                    event = "connection_unserved",
                    error:% = error;
                    "a connection ended before it was served: {error}"
                );
            }
            Some(Err(error)) => pace.pause_after(&error).await,
        }
    }
}

/// Accepts for all shards until all have ended.
async fn accept_for_all<R: Runtime>(listener: RuntimeListener<R>, acceptor: Acceptor) {
    let mut pace = AcceptBackoff::<R>::new();
    let mut waiting = None;
    loop {
        pace.yield_now().await;
        let accepted = poll_fn(|cx| {
            if !ready!(acceptor.poll_accepting(cx)) {
                return Poll::Ready(None);
            }
            match waiting.take() {
                Some(accepted) => Poll::Ready(Some(Ok(accepted))),
                None => listener
                    .poll_accept(cx)
                    .map(|accepted| Some(accepted.and_then(AcceptedStream::into_accepted))),
            }
        });
        match accepted.await {
            None => return,
            // If every shard has become full meanwhile, the connection waits here.
            Some(Ok(accepted)) => waiting = acceptor.give(accepted).err(),
            Some(Err(error)) => pace.pause_after(&error).await,
        }
    }
}

/// Slows an accepting task down: other tasks run between connections, and it pauses when accepting fails.
struct AcceptBackoff<R: Runtime> {
    accepted: u8,
    timer: R::Timer,
    throttle: LogThrottle,
}

impl<R: Runtime> AcceptBackoff<R> {
    fn new() -> Self {
        Self { accepted: 0, timer: R::Timer::default(), throttle: LogThrottle::new() }
    }

    /// Lets other tasks run after [`ACCEPTED_MAX`] calls. Call it before each connection.
    async fn yield_now(&mut self) {
        self.accepted += 1;
        if self.accepted > ACCEPTED_MAX {
            self.accepted = 1;
            R::yield_now().await;
        }
    }

    /// Pauses after `error`, which is logged at most once a second.
    async fn pause_after(&mut self, error: &io::Error) {
        let now = Instant::now();
        if let Some(suppressed) = self.throttle.tell() {
            log::warn!(
                event = "accept_failed",
                error:% = error,
                suppressed = suppressed;
                "cannot accept a connection: {error}{suppressed}"
            );
        }
        // If the peer has left before its connection was accepted, the next accept may succeed: no pause.
        let left =
            matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted);
        self.timer.set(if left { now } else { now + BACKOFF });
        poll_fn(|cx| self.timer.poll(cx)).await;
    }
}
