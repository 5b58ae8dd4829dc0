//! TLS on smol with `futures-rustls`. The driver (`mcp-sse-driver`) has the settings of TLS and the handling of
//! errors.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use async_io::Async;
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_rustls::rustls::{ServerConfig, ServerConnection};
use futures_rustls::{Accept, TlsAcceptor, server};
use mcp_sse_driver as driver;

use super::{PlainStream, ShutdownWrite, poll_input};

impl driver::TlsUpgrade for PlainStream<TcpStream> {
    type Handshake = Handshake;
    type TlsStream = TlsStream;

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>> {
        poll_input(&self.stream, cx, |stream| {
            let mut first = [0];
            let count = stream.peek(&mut first)?;
            Ok((count > 0).then_some(first[0]))
        })
    }

    fn handshake(self, config: Arc<ServerConfig>) -> Handshake {
        Handshake(TlsAcceptor::from(config).accept(self.stream))
    }
}

/// The future of a TLS handshake.
pub struct Handshake(Accept<Async<TcpStream>>);

impl Future for Handshake {
    type Output = io::Result<TlsStream>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(TlsStream)
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// A TLS stream after its handshake.
#[derive(Debug)]
pub struct TlsStream(server::TlsStream<Async<TcpStream>>);

impl driver::TlsStream for TlsStream {
    fn connection(&mut self) -> &mut ServerConnection {
        self.0.get_mut().1
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `poll_close` of an `Async` only flushes it, so the write side is shut down here.
        ready!(Pin::new(&mut self.0).poll_close(cx))?;
        Poll::Ready(self.0.get_ref().0.get_ref().shutdown_write())
    }
}
