//! TLS on tokio with `tokio-rustls`. The driver (`mcp-sse-driver`) has the settings of TLS and the handling of
//! errors.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;
use std::sync::Arc;

use mcp_sse_driver as driver;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{ServerConfig, ServerConnection};
use tokio_rustls::{Accept, TlsAcceptor, server};

use super::PlainStream;

impl driver::TlsUpgrade for PlainStream<TcpStream> {
    type Handshake = Handshake;
    type TlsStream = TlsStream;

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>> {
        let mut first = [0];
        let mut buffer = ReadBuf::new(&mut first);
        let count = ready!(self.0.poll_peek(cx, &mut buffer))?;
        Poll::Ready(Ok((count > 0).then_some(first[0])))
    }

    fn handshake(self, config: Arc<ServerConfig>) -> Handshake {
        Handshake(TlsAcceptor::from(config).accept(self.0))
    }
}

/// The future of a TLS handshake.
pub struct Handshake(Accept<TcpStream>);

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
pub struct TlsStream(server::TlsStream<TcpStream>);

impl driver::TlsStream for TlsStream {
    fn connection(&mut self) -> &mut ServerConnection {
        self.0.get_mut().1
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
