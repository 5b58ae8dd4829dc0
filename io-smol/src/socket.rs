//! What smol lends the driver: non-blocking TCP streams, one timer, the system's entropy.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use async_io::{Async, Timer};
use mcp_sse_core::driver;
use mcp_sse_core::{Entropy, EntropyUnavailable};

pub(crate) struct Tcp(pub(crate) Async<TcpStream>);

impl Tcp {
    /// Waits for the reactor to report readiness, then tries once. Trying first would cost a failed
    /// call of the operating system for each request.
    fn read_when_ready(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_readable(cx))?;
            match self.0.get_ref().read(buffer) {
                Err(error) if transient(&error) => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl driver::Socket for Tcp {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read_when_ready(cx, buffer)
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
        Poll::Ready(self.0.get_ref().shutdown(Shutdown::Write))
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
pub(crate) struct System;

impl Entropy for System {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        getrandom::fill(dest).map_err(|_| EntropyUnavailable)
    }
}
