//! A stream of any kind that is served.
//!
//! Knows: the peer of a stream, and which streams use TLS. Does not know: the steps of a handshake (`tls.rs`).

use core::task::{Context, Poll};
use std::io::{self, IoSlice};
use std::sync::Arc;

use mcp_sse_core::Peer;

use super::connection_source::AcceptedStream;
use super::runtime::Runtime;
use super::socket::Socket;

/// Starts TLS on an accepted TCP stream. It is a function pointer, called once for each connection, so that
/// only `Listener::tls` needs a runtime with TLS.
pub(super) type StartTls<R> =
    Arc<dyn Fn(<R as Runtime>::TcpStream, Peer) -> Box<dyn Socket> + Send + Sync>;

/// A stream of any kind that a shard serves.
pub(super) enum ServedStream<R: Runtime> {
    Tcp(R::TcpStream),
    #[cfg(unix)]
    Unix(R::UnixStream),
    Tls(Box<dyn Socket>),
}

impl<R: Runtime> ServedStream<R> {
    /// Makes a stream ready to be served, and returns it with its peer. Fails if the peer has left already.
    pub(super) fn open(
        accepted: AcceptedStream<R>,
        start_tls: Option<&StartTls<R>>,
    ) -> io::Result<(Self, Peer)> {
        match accepted {
            AcceptedStream::Tcp(stream, remote) => {
                let peer = Peer::tcp(remote, R::tcp_setup(&stream)?);
                Ok(match start_tls {
                    Some(start_tls) => {
                        let peer = peer.secure();
                        (Self::Tls(start_tls(stream, peer)), peer)
                    }
                    None => (Self::Tcp(stream), peer),
                })
            }
            #[cfg(unix)]
            AcceptedStream::Unix(stream) => Ok((Self::Unix(stream), Peer::local())),
        }
    }
}

impl<R: Runtime> Socket for ServedStream<R> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => stream.poll_read(cx, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_read(cx, buffer),
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
            Self::Tls(stream) => stream.poll_write(cx, pieces),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_shutdown(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
        }
    }
}
