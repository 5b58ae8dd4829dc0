//! The implementation of the driver's `Runtime` for smol: sockets, a timer and two executors.
//!
//! The runtime is [`Smol`]. An application uses it only as a part of the type [`Listener`](crate::Listener).
//!
//! Decision: a task that waits for a socket tries to read it each time it is polled, and does not rely on
//! `poll_readable` alone. `async-io` ignores an event of a wait that was already in progress when interest was
//! registered: it wakes the task, but `poll_readable` then reports that the socket is not readable. While one thread
//! is busy, another thread of the process nearly always waits in the reactor, so a task that relied on
//! `poll_readable` read nothing for seconds. So a read first registers interest and then tries. It does not try
//! directly after a read that has emptied the socket: interest is level-triggered, so bytes that have arrived since
//! then wake the task. The alternatives were to always try first, which costs one failed system call for each
//! request; and to change `async-io`, whose issue 78 and pull request 156 are about this and were not merged.

use core::mem;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::{self, Rc};
use std::sync::{self, Arc};
use std::time::Instant;

use async_executor::{Executor, LocalExecutor};
use async_io::Async;
use mcp_sse_driver as driver;

#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "tls")]
pub use tls::{Handshake, TlsStream};

/// The runtime of this crate: `async-io` and `async-executor`, which are parts of smol.
///
/// Besides the threads of a server, there is only the thread of `async-io`, which waits for sockets while
/// no thread that runs futures waits for them.
#[derive(Debug)]
pub enum Smol {}

impl driver::Runtime for Smol {
    type TcpListener = Async<TcpListener>;
    type TcpStream = PlainStream<TcpStream>;
    #[cfg(unix)]
    type UnixListener = Async<UnixListener>;
    #[cfg(unix)]
    type UnixStream = PlainStream<UnixStream>;
    type Timer = Timer;
    // The handles are weak, because an executor owns its tasks: a task that owned its executor would never be
    // dropped.
    type Tasks = rc::Weak<LocalExecutor<'static>>;
    type Handlers = sync::Weak<Executor<'static>>;

    fn block_on(future: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        async_io::block_on(future)
    }

    async fn run_tasks<F: Future<Output = ()> + 'static>(main: impl FnOnce(Self::Tasks) -> F) {
        let executor = Rc::new(LocalExecutor::new());
        let main = main(Rc::downgrade(&executor));
        executor.run(executor.spawn(main)).await;
    }

    fn spawn(tasks: &Self::Tasks, task: impl Future<Output = ()> + 'static) {
        if let Some(executor) = tasks.upgrade() {
            executor.spawn(task).detach();
        }
    }

    async fn run_handlers(main: driver::ServeFunction<Self::Handlers>) -> io::Result<()> {
        let executor = Arc::new(Executor::new());
        executor.run(main(Arc::downgrade(&executor))).await
    }

    fn run_handler<F: Future<Output = ()> + Send + 'static>(
        handlers: &Self::Handlers,
        handler: impl FnOnce() -> Option<F>,
    ) {
        if let Some(serving) = handler()
            && let Some(executor) = handlers.upgrade()
        {
            executor.spawn(serving).detach();
        }
    }

    fn tcp_listener(socket: TcpListener) -> io::Result<Self::TcpListener> {
        Async::new(socket)
    }

    fn poll_accept_tcp(
        listener: &Self::TcpListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::TcpStream, SocketAddr)>> {
        let (stream, remote) = ready!(poll_input(listener, cx, TcpListener::accept))?;
        Poll::Ready(Ok((Self::tcp_stream(stream)?, remote)))
    }

    fn tcp_stream(stream: TcpStream) -> io::Result<Self::TcpStream> {
        Async::new(stream).map(PlainStream::new)
    }

    fn tcp_into_std(stream: Self::TcpStream) -> io::Result<TcpStream> {
        stream.stream.into_inner()
    }

    fn tcp_setup(stream: &Self::TcpStream) -> io::Result<SocketAddr> {
        let stream = stream.stream.get_ref();
        stream.set_nodelay(true)?;
        stream.local_addr()
    }

    #[cfg(unix)]
    fn unix_listener(socket: UnixListener) -> io::Result<Self::UnixListener> {
        Async::new(socket)
    }

    #[cfg(unix)]
    fn poll_accept_unix(
        listener: &Self::UnixListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::UnixStream>> {
        let (stream, _) = ready!(poll_input(listener, cx, UnixListener::accept))?;
        Poll::Ready(Self::unix_stream(stream))
    }

    #[cfg(unix)]
    fn unix_stream(stream: UnixStream) -> io::Result<Self::UnixStream> {
        Async::new(stream).map(PlainStream::new)
    }

    #[cfg(unix)]
    fn unix_into_std(stream: Self::UnixStream) -> io::Result<UnixStream> {
        stream.stream.into_inner()
    }
}

/// A stream of the operating system, without TLS.
#[derive(Debug)]
pub struct PlainStream<T> {
    stream: Async<T>,
    /// Whether the last read has emptied the socket.
    emptied: bool,
}

impl<T> PlainStream<T> {
    const fn new(stream: Async<T>) -> Self {
        Self { stream, emptied: false }
    }
}

/// A stream whose write side can be shut down.
trait ShutdownWrite {
    fn shutdown_write(&self) -> io::Result<()>;
}

impl ShutdownWrite for TcpStream {
    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

#[cfg(unix)]
impl ShutdownWrite for UnixStream {
    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl<T: ShutdownWrite> driver::Socket for PlainStream<T>
where
    for<'a> &'a T: Read + Write,
{
    /// Registers interest, and then tries to read: see the module's documentation.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let registered = self.stream.poll_readable(cx)?.is_pending();
            if mem::take(&mut self.emptied) && registered {
                return Poll::Pending;
            }
            match self.stream.get_ref().read(buffer) {
                Ok(count) => {
                    self.emptied = count < buffer.len();
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if registered {
                        return Poll::Pending;
                    }
                    self.emptied = true;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Tries to write first, because a socket nearly always accepts bytes.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.get_ref().write_vectored(pieces) {
                Err(error) if transient(&error) => {}
                done => return Poll::Ready(done),
            }
            ready!(self.stream.poll_writable(cx))?;
        }
    }

    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown_write())
    }
}

/// Calls `attempt`. If it would block, waits until the socket is readable and calls it again.
fn poll_input<T, R>(
    socket: &Async<T>,
    cx: &mut Context<'_>,
    attempt: impl Fn(&T) -> io::Result<R>,
) -> Poll<io::Result<R>> {
    loop {
        match attempt(socket.get_ref()) {
            Err(error) if transient(&error) => {}
            done => return Poll::Ready(done),
        }
        ready!(socket.poll_readable(cx))?;
    }
}

fn transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The timer of a thread.
#[derive(Debug)]
pub struct Timer(async_io::Timer);

impl Default for Timer {
    fn default() -> Self {
        Self(async_io::Timer::never())
    }
}

impl driver::Timer for Timer {
    fn set(&mut self, at: Instant) {
        self.0.set_at(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(Pin::new(&mut self.0), cx).map(|_fired_at| ())
    }
}
