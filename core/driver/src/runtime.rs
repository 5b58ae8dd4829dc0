//! The trait that an asynchronous runtime has to implement.
//!
//! Knows: the types and functions that a runtime provides. Does not know: any runtime.
//!
//! Decision: one trait has all types and functions, so that one `impl` is a complete runtime, and the compiler
//! lists what is missing. The alternatives were separate traits for listening sockets, streams and executors, but
//! none of them is useful without the others; and readiness of a descriptor as the only primitive, but tokio's
//! streams already remember which read has emptied a socket, and the driver would have to repeat that.
//!
//! TLS is a trait of its own (`TlsUpgrade`) for the TCP stream, and `Runtime` does not depend on the feature `tls`.
//! Otherwise an adapter without TLS would not compile in a program in which another crate enables that feature of
//! the driver.

use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::net::{TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use super::socket::Socket;

/// An asynchronous runtime that a [`Listener`](crate::Listener) can use.
///
/// The implementing type is only a name: no value of it is ever created. A server's sockets, timer and tasks stay on
/// one thread, so they need not be `Send`; only [`Handlers`](Self::Handlers) is shared by threads.
///
/// A method with a [`Context`] either completes now, or returns `Pending` and wakes the task of that context when
/// another call may complete. The [crate's page](crate) has a complete implementation.
pub trait Runtime: Sized + 'static {
    /// A listening TCP socket that this runtime watches.
    type TcpListener: 'static;
    /// A TCP stream that this runtime watches. `Listener` has the method `tls` if this type implements
    /// `TlsUpgrade`.
    type TcpStream: Socket + 'static;
    /// A listening Unix socket that this runtime watches.
    #[cfg(unix)]
    type UnixListener: 'static;
    /// A Unix stream that this runtime watches.
    #[cfg(unix)]
    type UnixStream: Socket + 'static;
    /// A timer. The default value is a timer that is not set.
    type Timer: Timer + Default + 'static;
    /// A handle by which tasks are spawned on the thread of [`run_tasks`](Self::run_tasks).
    type Tasks: Clone + 'static;
    /// A handle by which futures of handlers are spawned where the application awaits
    /// [`run_handlers`](Self::run_handlers).
    type Handlers: Clone + Send + Sync + 'static;

    /// Runs `future` on this thread, which has no runtime yet, until it is ready.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot be started, and the error that `future` returns.
    fn block_on(future: impl Future<Output = io::Result<()>>) -> io::Result<()>;

    /// Calls `main` with a handle for [`spawn`](Self::spawn), and runs the future that `main` returns and all spawned
    /// tasks. Ends when that future ends, and panics if it panics. Tasks that still run are then dropped.
    ///
    /// The future should be a task of its own that is polled only when it was woken. It writes to all sockets of a
    /// server, once for all reads that have woken it. To poll it more often is correct but slower.
    fn run_tasks<F: Future<Output = ()> + 'static>(
        main: impl FnOnce(Self::Tasks) -> F,
    ) -> impl Future<Output = ()>;

    /// Runs `task` as a task of its own on the thread of [`run_tasks`](Self::run_tasks). A panic of `task`
    /// ends only that task.
    fn spawn(tasks: &Self::Tasks, task: impl Future<Output = ()> + 'static);

    /// Calls `main` with a handle for [`run_handler`](Self::run_handler), and runs the future that `main` returns.
    /// The handle works until the returned future is dropped.
    fn run_handlers(
        main: ServeFunction<Self::Handlers>,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Calls `handler` on this thread. If it returns a future, that future runs where the application awaits
    /// [`run_handlers`](Self::run_handlers) if there is an executor, and otherwise wherever the implementation spawns
    /// it. A panic of that future ends only that future.
    fn run_handler<F: Future<Output = ()> + Send + 'static>(
        handlers: &Self::Handlers,
        handler: impl FnOnce() -> Option<F>,
    );

    /// Lets the other tasks of this thread run. The default implementation wakes its own task and returns `Pending`
    /// once.
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

    /// Watches a listening TCP socket. The implementation makes it non-blocking if it is in blocking mode.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket cannot be made non-blocking or cannot be watched.
    fn tcp_listener(socket: TcpListener) -> io::Result<Self::TcpListener>;

    /// Accepts a TCP connection, and returns it with the address of its peer.
    ///
    /// # Errors
    ///
    /// Returns the error of accepting. The driver logs it and tries again after a pause.
    fn poll_accept_tcp(
        listener: &Self::TcpListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::TcpStream, SocketAddr)>>;

    /// Watches a TCP stream that another thread has accepted.
    ///
    /// # Errors
    ///
    /// Returns an error if the stream cannot be watched.
    fn tcp_stream(stream: TcpStream) -> io::Result<Self::TcpStream>;

    /// Stops watching a TCP stream, so that another thread can serve it.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot release the stream.
    fn tcp_into_std(stream: Self::TcpStream) -> io::Result<TcpStream>;

    /// Sets `TCP_NODELAY`, and returns the local address of the stream.
    ///
    /// # Errors
    ///
    /// Returns the error of the operating system, for example if the peer has left already.
    fn tcp_setup(stream: &Self::TcpStream) -> io::Result<SocketAddr>;

    /// Watches a listening Unix socket, as [`tcp_listener`](Self::tcp_listener) does.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`tcp_listener`](Self::tcp_listener).
    #[cfg(unix)]
    fn unix_listener(socket: UnixListener) -> io::Result<Self::UnixListener>;

    /// Accepts a connection at a Unix socket.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`poll_accept_tcp`](Self::poll_accept_tcp).
    #[cfg(unix)]
    fn poll_accept_unix(
        listener: &Self::UnixListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::UnixStream>>;

    /// Watches a Unix stream that another thread has accepted.
    ///
    /// # Errors
    ///
    /// Returns an error if the stream cannot be watched.
    #[cfg(unix)]
    fn unix_stream(stream: UnixStream) -> io::Result<Self::UnixStream>;

    /// Stops watching a Unix stream, so that another thread can serve it.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot release the stream.
    #[cfg(unix)]
    fn unix_into_std(stream: Self::UnixStream) -> io::Result<UnixStream>;
}

/// A function that serves. It is called with the handle by which the futures of handlers are spawned.
///
/// It is boxed, once for each server, because the compiler cannot prove that a future is `Send` if a trait's generic
/// method returns it and its type contains closures.
pub type ServeFunction<Handlers> = Box<dyn FnOnce(Handlers) -> ServeFuture + Send>;

/// The future of a server that serves.
pub type ServeFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A timer of a [`Runtime`]. Each thread of a server has one for all of its deadlines.
pub trait Timer {
    /// Sets the time at which the timer fires to `at`, instead of the time that was set before.
    fn set(&mut self, at: Instant);

    /// Returns `Ready` once the timer has fired. Until then it returns `Pending`, and wakes the task of `cx` when the
    /// timer fires.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
