//! What tokio lends the driver: streams, one timer, the system's entropy.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice};
use std::time::Instant;

use mcp_sse_core::EntropyUnavailable;
use mcp_sse_driver as driver;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::time::Sleep;

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
pub(crate) struct Plain<T>(pub(crate) T);

impl<T: AsyncRead + AsyncWrite + Unpin> driver::Socket for Plain<T> {
    /// By `poll_read`, which remembers that a short read has emptied the socket: waiting for
    /// readiness and then reading costs a failed call of the operating system for each request.
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

/// Made when it is first set: making one needs a running timer.
#[derive(Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl driver::Timer for Alarm {
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

/// The operating system's generator.
pub(crate) fn system(dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
    getrandom::fill(dest).map_err(|_| EntropyUnavailable)
}
