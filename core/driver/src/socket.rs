//! The stream of one connection, as an adapter provides it: bytes in and out, without blocking.

use core::task::{Context, Poll};
use std::io::{self, IoSlice};

/// A non-blocking byte stream.
///
/// Each method either does its work now or arranges for the task of `cx` to be woken when it may be worth
/// trying again.
pub trait Socket {
    /// Reads bytes into `buffer` and returns their number. Zero means that the peer has shut its side down.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes the first bytes of `pieces`, with one call of the operating system, and returns their number.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Shuts the write side down, so that the peer reads the end of the stream.
    ///
    /// # Errors
    ///
    /// Any error ends the connection.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
