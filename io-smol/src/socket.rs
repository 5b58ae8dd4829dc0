//! What smol lends the driver: non-blocking streams, one timer, the system's entropy.
//!
//! Whoever waits for a socket tries it each time it is polled, and never goes by what the reactor says
//! alone. `async-io` does not count an event of a wait that was under way when interest was registered:
//! it wakes the task, which then hears from `poll_readable` that nothing has come. While a thread is
//! busy, another one of the process waits in the reactor, nearly every time; a task that believed
//! `poll_readable` read nothing for seconds. What was chosen for reading is to register interest, then
//! to try, and to leave the try out only straight after a read that emptied the socket: interest is
//! level-triggered, so whatever has come since then wakes the task. Considered and not taken: to try
//! first always, which costs a call of the operating system that fails for each request; and to change
//! `async-io`, whose issue 78 and pull request 156 are about this and were not merged.

use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Instant;

use async_io::{Async, Timer};
use mcp_sse_core::EntropyUnavailable;
use mcp_sse_driver as driver;

/// A stream of any kind that is served.
pub(crate) enum Stream {
    Tcp(Plain<TcpStream>),
    #[cfg(unix)]
    Unix(Plain<UnixStream>),
    #[cfg(feature = "tls")]
    Tls(Box<driver::Secured<Plain<TcpStream>>>),
}

impl driver::Socket for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => stream.poll_read(cx, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_read(cx, buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.poll_read(cx, buffer),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => stream.poll_write(cx, pieces),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_write(cx, pieces),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.poll_write(cx, pieces),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.poll_shutdown(cx),
        }
    }
}

/// A stream of the operating system.
pub(crate) struct Plain<T> {
    pub(crate) stream: Async<T>,
    /// The last read took all there was.
    emptied: bool,
}

impl<T> Plain<T> {
    pub(crate) const fn new(stream: Async<T>) -> Self {
        Self { stream, emptied: false }
    }
}

/// A stream whose write side can be shut down.
pub(crate) trait HalfClose {
    fn end_writing(&self) -> io::Result<()>;
}

impl HalfClose for TcpStream {
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

#[cfg(unix)]
impl HalfClose for UnixStream {
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl<T: HalfClose> driver::Socket for Plain<T>
where
    for<'a> &'a T: Read + Write,
{
    /// Registers interest, then tries; see the module's head.
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

    /// Tries first: a socket nearly always takes what it is given.
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
        Poll::Ready(self.stream.get_ref().end_writing())
    }
}

/// Tries until it is done or would block, and only then waits for something to be read.
pub(crate) fn poll_input<T, R>(
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

pub(crate) struct Alarm(pub(crate) Timer);

impl driver::Timer for Alarm {
    fn set(&mut self, at: Instant) {
        self.0.set_at(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(Pin::new(&mut self.0), cx).map(|_fired_at| ())
    }
}

/// The operating system's generator.
pub(crate) fn system(dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
    getrandom::fill(dest).map_err(|_| EntropyUnavailable)
}
