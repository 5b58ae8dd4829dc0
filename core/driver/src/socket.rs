//! What an adapter lends for each connection: a byte stream that never blocks.

use core::task::{Context, Poll};
use std::io::{self, IoSlice};

/// A non-blocking byte stream, as an adapter has it.
///
/// Each method either does something now or arranges for the task of `cx` to be woken when it may be
/// worth trying again.
pub trait Socket {
    /// Reads some bytes; zero of them means that the peer has shut its side down.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of the bytes, in one call of the operating system.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Shuts this side down, so that the peer reads an end.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
