//! The implementation of the driver's `Runtime` for tokio: sockets, a timer and tasks.
//!
//! Knows: tokio's sockets, timers, tasks and runtimes. Does not know: HTTP, sessions, or what the tasks do.
//!
//! The runtime is [`Tokio`]. An application uses it only as a part of the type [`Listener`](crate::Listener).

use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice};
use std::panic::resume_unwind;
use std::time::Instant;

use mcp_sse_driver as driver;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime;
use tokio::task::{self, LocalSet, spawn_local, unconstrained};
use tokio::time::Sleep;

#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "tls")]
pub use tls::{Handshake, TlsStream};

/// The runtime of this crate.
///
/// A server's own threads have a current-thread runtime each. With `serve_local` a server runs on the
/// application's runtime, within a `LocalSet` of its own.
#[derive(Debug)]
pub enum Tokio {}

impl driver::Runtime for Tokio {
    type TcpListener = TcpListener;
    type TcpStream = PlainStream<TcpStream>;
    #[cfg(unix)]
    type UnixListener = UnixListener;
    #[cfg(unix)]
    type UnixStream = PlainStream<UnixStream>;
    type Timer = Timer;
    // No handle is necessary, because `spawn_local` uses the running `LocalSet`.
    type Tasks = ();
    // The runtime of the application. If the application has none, this is `None`, and handlers run on the threads of
    // the server.
    type Handlers = Option<runtime::Handle>;

    fn block_on(future: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
    }

    async fn run_tasks<F: Future<Output = ()> + 'static>(main: impl FnOnce(Self::Tasks) -> F) {
        // The driver limits the work of a turn itself. With tokio's budget, a turn could write to about a hundred
        // sockets only.
        let run = async { spawn_local(unconstrained(main(()))).await };
        if let Err(error) = LocalSet::new().run_until(run).await
            && error.is_panic()
        {
            resume_unwind(error.into_panic());
        }
    }

    fn spawn((): &Self::Tasks, task: impl Future<Output = ()> + 'static) {
        drop(spawn_local(task));
    }

    async fn run_handlers(main: driver::ServeFunction<Self::Handlers>) -> io::Result<()> {
        main(runtime::Handle::try_current().ok()).await
    }

    fn run_handler<F: Future<Output = ()> + Send + 'static>(
        handlers: &Self::Handlers,
        handler: impl FnOnce() -> Option<F>,
    ) {
        let _entered = handlers.as_ref().map(runtime::Handle::enter);
        if let Some(serving) = handler() {
            drop(tokio::spawn(serving));
        }
    }

    /// Uses tokio's function. Tokio polls a task that only wakes itself many times before it checks the sockets again.
    fn yield_now() -> impl Future<Output = ()> {
        task::yield_now()
    }

    fn tcp_listener(socket: std::net::TcpListener) -> io::Result<Self::TcpListener> {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    }

    fn poll_accept_tcp(
        listener: &Self::TcpListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::TcpStream, SocketAddr)>> {
        listener.poll_accept(cx).map_ok(|(stream, remote)| (PlainStream(stream), remote))
    }

    fn tcp_stream(stream: std::net::TcpStream) -> io::Result<Self::TcpStream> {
        TcpStream::from_std(stream).map(PlainStream)
    }

    fn tcp_into_std(stream: Self::TcpStream) -> io::Result<std::net::TcpStream> {
        stream.0.into_std()
    }

    fn tcp_setup(stream: &Self::TcpStream) -> io::Result<SocketAddr> {
        stream.0.set_nodelay(true)?;
        stream.0.local_addr()
    }

    #[cfg(unix)]
    fn unix_listener(socket: std::os::unix::net::UnixListener) -> io::Result<Self::UnixListener> {
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    }

    #[cfg(unix)]
    fn poll_accept_unix(
        listener: &Self::UnixListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::UnixStream>> {
        listener.poll_accept(cx).map_ok(|(stream, _)| PlainStream(stream))
    }

    #[cfg(unix)]
    fn unix_stream(stream: std::os::unix::net::UnixStream) -> io::Result<Self::UnixStream> {
        UnixStream::from_std(stream).map(PlainStream)
    }

    #[cfg(unix)]
    fn unix_into_std(stream: Self::UnixStream) -> io::Result<std::os::unix::net::UnixStream> {
        stream.0.into_std()
    }
}

/// A stream of the operating system, without TLS.
#[derive(Debug)]
pub struct PlainStream<T>(T);

impl<T: AsyncRead + AsyncWrite + Unpin> driver::Socket for PlainStream<T> {
    /// Uses tokio's `poll_read`, which remembers that a short read has emptied the socket. Waiting for
    /// readiness and then reading would cost one failed system call for each request.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The timer of a thread. Tokio's timer is created when the time is first set, because that needs a running runtime.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl driver::Timer for Timer {
    fn set(&mut self, at: Instant) {
        match &mut self.0 {
            Some(sleep) => sleep.as_mut().reset(at.into()),
            empty => *empty = Some(Box::pin(tokio::time::sleep_until(at.into()))),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
