//! TLS on tokio, by `tokio-rustls`. What is decided about it is the driver's; this only lends it.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;
use std::sync::Arc;

use mcp_sse_driver as driver;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{ServerConfig, ServerConnection};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::socket::Plain;

impl driver::Upgrade for Plain<TcpStream> {
    type Handshake = Handshake;
    type Secure = Secure;

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

pub(crate) struct Handshake(Accept<TcpStream>);

impl Future for Handshake {
    type Output = io::Result<Secure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Secure>> {
        Pin::new(&mut self.0).poll(cx).map_ok(Secure)
    }
}

pub(crate) struct Secure(TlsStream<TcpStream>);

impl driver::Secure for Secure {
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
