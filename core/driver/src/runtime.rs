//! What the driver needs of an asynchronous runtime.
//!
//! Knows: the types and functions that a runtime provides. Does not know: any runtime.
//!
//! Decision: one trait has all of them, so that one `impl` is a whole runtime and its author sees at once
//! what is missing. One trait each for listening sockets, streams and executors was considered, but no
//! type of a runtime is of use here without the others. Readiness of any descriptor as the only primitive
//! was considered as well; tokio's streams remember which read emptied a socket, and the driver would
//! have to do that again.
//!
//! Decision: TLS is a trait of its own, for the TCP stream, and not a feature of this one. With a feature, an
//! adapter without TLS would not compile in a program in which another crate enables the driver's feature
//! `tls`.

use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::net::{TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use super::socket::Socket;

/// An asynchronous runtime, as a [`Listener`](crate::Listener) uses it.
///
/// The type itself is a name: nothing is ever made of it. A server's sockets, timer and tasks stay on one
/// thread, so none of them has to be `Send`; only [`Handlers`](Self::Handlers) is shared by threads.
///
/// Every method that the driver calls with a [`Context`] either does its work now or arranges for the
/// task of that context to be woken when it may be worth trying again. The [crate's page](crate) has a
/// complete implementation.
pub trait Runtime: Sized + 'static {
    /// A listening TCP socket that this runtime watches.
    type TcpListener: 'static;
    /// A TCP stream that this runtime watches. `Listener` has the method `tls` if TLS can be started on it,
    /// which is what `TlsUpgrade` says.
    type TcpStream: Socket + 'static;
    /// A listening Unix socket that this runtime watches.
    #[cfg(unix)]
    type UnixListener: 'static;
    /// A Unix stream that this runtime watches.
    #[cfg(unix)]
    type UnixStream: Socket + 'static;
    /// A timer. The default value is one that is not set.
    type Timer: Timer + Default + 'static;
    /// Spawns tasks on the thread of [`run_tasks`](Self::run_tasks).
    type Tasks: Clone + 'static;
    /// Spawns futures of handlers where the application awaits [`run_handlers`](Self::run_handlers).
    type Handlers: Clone + Send + Sync + 'static;

    /// Runs `future` on this thread, which has no runtime yet.
    ///
    /// # Errors
    ///
    /// Those of starting a runtime, and the error that `future` returns.
    fn block_on(future: impl Future<Output = io::Result<()>>) -> io::Result<()>;

    /// Runs the future that `main` returns, as a task, and the tasks that it [spawns](Self::spawn) by what
    /// `main` is given. Ends when that future ends, or panics if it does; tasks that still run are dropped.
    ///
    /// The future has to be a task of its own, which is polled when it was woken and at no other time: it
    /// writes to all sockets of a server, once for all of the reads that woke it.
    fn run_tasks<F: Future<Output = ()> + 'static>(
        main: impl FnOnce(Self::Tasks) -> F,
    ) -> impl Future<Output = ()>;

    /// Runs `task` as a task of its own on the thread of [`run_tasks`](Self::run_tasks). A panic of `task`
    /// ends that task alone.
    fn spawn(tasks: &Self::Tasks, task: impl Future<Output = ()> + 'static);

    /// Runs the future that `main` returns. What `main` is given [runs handlers](Self::run_handler) until
    /// the returned future is dropped.
    fn run_handlers(
        main: ServeFunction<Self::Handlers>,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Calls `handler` on this thread, and runs the future that it returns, if any, where the application
    /// awaits [`run_handlers`](Self::run_handlers). A panic of that future ends it alone.
    fn run_handler<F: Future<Output = ()> + Send + 'static>(
        handlers: &Self::Handlers,
        handler: impl FnOnce() -> Option<F>,
    );

    /// Lets the other tasks of this thread run. By default it wakes its own task, and is pending once.
    fn yield_now() -> impl Future<Output = ()> {
        let mut yielded = false;
        core::future::poll_fn(move |cx| {
            if core::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Watches a listening TCP socket. It may be in blocking mode, which has to be left.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made non-blocking or cannot be watched.
    fn tcp_listener(socket: TcpListener) -> io::Result<Self::TcpListener>;

    /// Accepts a TCP connection, and returns it with the address of its peer.
    ///
    /// # Errors
    ///
    /// The error of accepting; the driver logs it and tries again after a pause.
    fn poll_accept_tcp(
        listener: &Self::TcpListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::TcpStream, SocketAddr)>>;

    /// Watches a TCP stream that another thread has accepted.
    ///
    /// # Errors
    ///
    /// If the stream cannot be watched.
    fn tcp_stream(stream: TcpStream) -> io::Result<Self::TcpStream>;

    /// Stops watching a TCP stream that another thread is to serve.
    ///
    /// # Errors
    ///
    /// If the runtime cannot give the stream up.
    fn tcp_into_std(stream: Self::TcpStream) -> io::Result<TcpStream>;

    /// Sets `TCP_NODELAY`, and returns the address at which the stream arrived.
    ///
    /// # Errors
    ///
    /// Those of the operating system: the peer may have left already.
    fn tcp_setup(stream: &Self::TcpStream) -> io::Result<SocketAddr>;

    /// Watches a listening Unix socket, as [`tcp_listener`](Self::tcp_listener) does.
    ///
    /// # Errors
    ///
    /// As [`tcp_listener`](Self::tcp_listener).
    #[cfg(unix)]
    fn unix_listener(socket: UnixListener) -> io::Result<Self::UnixListener>;

    /// Accepts a connection at a Unix socket.
    ///
    /// # Errors
    ///
    /// As [`poll_accept_tcp`](Self::poll_accept_tcp).
    #[cfg(unix)]
    fn poll_accept_unix(
        listener: &Self::UnixListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::UnixStream>>;

    /// Watches a Unix stream that another thread has accepted.
    ///
    /// # Errors
    ///
    /// If the stream cannot be watched.
    #[cfg(unix)]
    fn unix_stream(stream: UnixStream) -> io::Result<Self::UnixStream>;

    /// Stops watching a Unix stream that another thread is to serve.
    ///
    /// # Errors
    ///
    /// If the runtime cannot give the stream up.
    #[cfg(unix)]
    fn unix_into_std(stream: Self::UnixStream) -> io::Result<UnixStream>;
}

/// A server that is about to serve: it is called with what runs its handlers.
///
/// It is boxed, once for each server: the compiler cannot show that a future is `Send` if it comes from
/// a trait's generic method and has closures in its type.
pub type ServeFunction<Handlers> = Box<dyn FnOnce(Handlers) -> ServeFuture + Send>;

/// A server that serves.
pub type ServeFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A timer of a [`Runtime`]. Each thread of a server has one for all of its deadlines.
pub trait Timer {
    /// Fires at `at`, and no longer at the time that was set before.
    fn set(&mut self, at: Instant);

    /// Ready once the timer has fired. Until then the task of `cx` is woken when it fires.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
