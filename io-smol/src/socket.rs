//! What smol lends the driver: non-blocking streams, one timer, the system's entropy.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Instant;

use async_io::{Async, Timer};
use mcp_sse_core::EntropyUnavailable;
use mcp_sse_core::driver;

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
pub(crate) struct Plain<T>(pub(crate) Async<T>);

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
    /// Waits for the reactor to report readiness, then tries once. Trying first would cost a failed
    /// call of the operating system for each request.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_readable(cx))?;
            match self.0.get_ref().read(buffer) {
                Err(error) if transient(&error) => {}
                done => return Poll::Ready(done),
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
            match self.0.get_ref().write_vectored(pieces) {
                Err(error) if transient(&error) => {}
                done => return Poll::Ready(done),
            }
            ready!(self.0.poll_writable(cx))?;
        }
    }

    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().end_writing())
    }
}

pub(crate) fn transient(error: &io::Error) -> bool {
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
