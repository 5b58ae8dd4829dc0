//! The byte stream of a connection, which each adapter implements for its runtime's sockets.

use core::task::{Context, Poll};
use std::io::{self, IoSlice};

/// A non-blocking byte stream: the connection's socket, as an adapter's runtime provides it.
///
/// Each method either makes progress now, or returns `Pending` and arranges for the task of `cx` to be
/// woken when it may be worth trying again.
///
/// ```
/// use core::task::{Context, Poll};
/// use std::io::{self, IoSlice, Read, Write};
/// use std::net::{Shutdown, TcpStream};
///
/// use mcp_sse_driver::Socket;
///
/// /// A socket for a runtime that polls its tasks all the time.
/// struct BusySocket(TcpStream);
///
/// /// Makes `WouldBlock` of a non-blocking socket `Pending`, and wakes the task.
/// fn poll<T>(cx: &mut Context<'_>, done: io::Result<T>) -> Poll<io::Result<T>> {
///     if matches!(&done, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
///         cx.waker().wake_by_ref();
///         return Poll::Pending;
///     }
///     Poll::Ready(done)
/// }
///
/// impl Socket for BusySocket {
///     fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
///         poll(cx, self.0.read(buffer))
///     }
///
///     fn poll_write(
///         &mut self,
///         cx: &mut Context<'_>,
///         pieces: &[IoSlice<'_>],
///     ) -> Poll<io::Result<usize>> {
///         poll(cx, self.0.write_vectored(pieces))
///     }
///
///     fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
///         poll(cx, self.0.shutdown(Shutdown::Write))
///     }
/// }
/// ```
pub trait Socket {
    /// Reads bytes to the front of `buffer` and returns how many; zero means that the peer has shut
    /// down its side.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of the bytes of `pieces`, in order, by one system call. Returns how many; zero ends
    /// the connection.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Shuts down the write side, so that the peer reads the end of the stream. It is called after the
    /// last write; reads may follow.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
