//! The bytes that wait to be written to one peer: a queue of segments, and how much of the first
//! segment has been written.
//!
//! Knows: static and shared bytes, vectored views of them, and how to advance.
//! Does not know: HTTP, events or limits. It counts what other modules limit.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::limits::Limits;
use crate::sse::Frame;

/// One piece of output. The bytes may be shared with the queues of other peers.
#[derive(Clone)]
pub(crate) enum Segment {
    /// A constant of the program.
    Static(&'static [u8]),
    /// A rendered answer, or the head and the first event of a stream.
    Answer(Arc<[u8]>),
    /// An SSE event, as a range of a frame. Frames are counted, because frames that were not
    /// delivered are reported.
    Frame { bytes: Arc<[u8]>, start: u32, end: u32 },
}

impl Segment {
    pub(crate) fn frame(frame: &Frame, chunked: bool) -> Self {
        let (bytes, start, end) = frame.shared(chunked);
        Self::Frame { bytes, start, end }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Answer(bytes) => bytes,
            Self::Frame { bytes, start, end } => {
                bytes.get(*start as usize..*end as usize).unwrap_or_default()
            }
        }
    }

    const fn is_frame(&self) -> bool {
        matches!(self, Self::Frame { .. })
    }

    /// The cost of the segment against limits: its length and its queue entry.
    pub(crate) fn cost(&self) -> u64 {
        self.as_slice().len() as u64 + Limits::SEGMENT_COST
    }
}

impl fmt::Debug for Segment {
    // Prints the length only, because payloads and session tokens are confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes)", self.as_slice().len())
    }
}

/// The largest capacity that an empty queue keeps. A larger allocation is freed.
const CAPACITY_KEPT: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// How many bytes of the first segment have been written.
    offset: u32,
    frames: u32,
    cost: u64,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The sum of [`Segment::cost`] over all segments that have not been written completely.
    pub(crate) const fn cost(&self) -> u64 {
        self.cost
    }

    /// The number of events that have not been written completely.
    pub(crate) const fn frames(&self) -> u32 {
        self.frames
    }

    pub(crate) fn push(&mut self, segment: Segment) {
        debug_assert!(!segment.as_slice().is_empty(), "an empty segment would never be written");
        self.cost += segment.cost();
        self.frames += u32::from(segment.is_frame());
        self.segments.push_back(segment);
    }

    /// Removes `count` written bytes. Returns how many events have now been written completely.
    ///
    /// # Panics
    ///
    /// If `count` is more than the number of queued bytes.
    pub(crate) fn advance(&mut self, count: usize) -> u32 {
        let before = self.frames;
        let mut left = count as u64 + u64::from(self.offset);
        self.offset = 0;
        while left > 0 {
            let first = self.segments.front().expect("more bytes written than were offered");
            let len = first.as_slice().len() as u64;
            if left < len {
                self.offset = left as u32; // Below a segment's length, which is below 2^32.
                break;
            }
            left -= len;
            self.cost -= first.cost();
            self.frames -= u32::from(first.is_frame());
            self.segments.pop_front();
        }
        if self.segments.is_empty() && self.segments.capacity() > CAPACITY_KEPT {
            self.segments = VecDeque::new();
        }
        before - self.frames
    }

    /// Discards all bytes, for a peer that reads no more.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Asserts that the counts are the sums of their parts.
    pub(crate) fn check(&self) {
        assert_eq!(self.cost, self.segments.iter().map(Segment::cost).sum::<u64>());
        assert_eq!(self.frames as usize, self.segments.iter().filter(|s| s.is_frame()).count());
        let first = self.segments.front().map_or(1, |s| s.as_slice().len());
        assert!((self.offset as usize) < first, "a finished segment is still queued");
    }
}

/// A view of the bytes that wait to be written to one peer, returned by
/// [`Server::transmit`](crate::Server::transmit).
///
/// A driver writes the bytes in one of three ways: with [`write_to`](Self::write_to) to an
/// `std::io::Write`, with [`fill`](Self::fill) in its own vectored write, or with
/// [`detach`](Self::detach) for completion-based I/O. Afterwards it calls
/// [`Server::handle_written`](crate::Server::handle_written).
///
/// ```
/// use mcp_sse_core::{Config, Peer, Server, Time};
///
/// # let mut seed = 0;
/// # let entropy = Box::new(move |dest: &mut [u8]| {
/// #     dest.fill_with(|| { seed += 1; seed });
/// #     Ok(())
/// # });
/// let mut server = Server::new(Config::default(), entropy, Time::ZERO);
/// let conn = server.accept(Peer::local(), Time::ZERO)?;
/// server.handle_input(conn, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", Time::ZERO);
///
/// let mut socket = Vec::new(); // anything that is `std::io::Write`
/// let count = server.transmit(conn).write_to(&mut socket)?;
/// server.handle_written(conn, count, Time::ZERO);
/// assert!(socket.starts_with(b"HTTP/1.1 404 Not Found\r\n"));
/// assert!(server.transmit(conn).is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    outbox: Option<&'a Outbox>,
}

impl<'a> Transmit<'a> {
    pub(crate) const fn new(outbox: Option<&'a Outbox>) -> Self {
        Self { outbox }
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks().map(<[u8]>::len).sum()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outbox.is_none_or(Outbox::is_empty)
    }

    /// The bytes in order, in the pieces in which they are stored. No piece is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let offset = self.outbox.map_or(0, |outbox| outbox.offset as usize);
        self.outbox.into_iter().flat_map(|outbox| outbox.segments.iter()).enumerate().map(
            move |(at, segment)| {
                let bytes = segment.as_slice();
                if at == 0 { bytes.get(offset..).unwrap_or_default() } else { bytes }
            },
        )
    }

    /// Fills `slices` from the front for a vectored write, and returns how many were filled. If
    /// there are more pieces than slices, the rest is left for the next write.
    #[cfg(feature = "std")]
    pub fn fill(&self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, bytes) in slices.iter_mut().zip(self.chunks()) {
            *slot = std::io::IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Writes the bytes to `sink` in one vectored write of up to 64 pieces, and returns how many
    /// bytes `sink` took. Then call [`handle_written`](crate::Server::handle_written).
    ///
    /// # Errors
    ///
    /// The error of `sink`, which includes `WouldBlock`. Nothing was written then.
    #[cfg(feature = "std")]
    pub fn write_to(&self, sink: &mut impl std::io::Write) -> std::io::Result<usize> {
        let mut slices = [std::io::IoSlice::new(&[]); 64];
        let filled = self.fill(&mut slices);
        sink.write_vectored(slices.get(..filled).unwrap_or_default())
    }

    /// Takes shared ownership of the first `bytes_max` bytes, rounded up to whole pieces, so that
    /// they outlive this borrow. It is for completion-based I/O.
    ///
    /// The bytes stay queued until [`handle_written`](crate::Server::handle_written) confirms them
    /// or the connection is closed. After a close the shares stay valid, so the write may complete
    /// or be cancelled, and its result is ignored. Do not detach again before the write has been
    /// confirmed: the same bytes would be sent twice.
    ///
    /// ```
    /// # use mcp_sse_core::{Config, Peer, Server, Time};
    /// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
    /// # let mut server = Server::new(Config::default(), entropy, Time::ZERO);
    /// # let conn = server.accept(Peer::local(), Time::ZERO)?;
    /// # server.handle_input(conn, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n",
    /// Time::ZERO);
    /// let write = server.transmit(conn).detach(64 * 1024);
    /// server.handle_written(conn, write.len(), Time::ZERO); // when the operation is complete
    /// let first = write.chunks().next().expect("an answer"); // still valid
    /// assert!(first.starts_with(b"HTTP/1.1 404 Not Found\r\n"));
    /// # Ok::<(), mcp_sse_core::AcceptError>(())
    /// ```
    #[must_use]
    pub fn detach(&self, bytes_max: usize) -> Detached {
        let mut segments = Vec::new();
        let mut len = 0;
        if let Some(outbox) = self.outbox {
            for (segment, bytes) in outbox.segments.iter().zip(self.chunks()) {
                if len >= bytes_max {
                    break;
                }
                len += bytes.len();
                segments.push(segment.clone());
            }
        }
        Detached { segments, offset: self.outbox.map_or(0, |outbox| outbox.offset), len }
    }
}

/// Shared ownership of bytes to write, which borrows nothing. [`Transmit::detach`] makes it.
#[derive(Clone, Debug)]
pub struct Detached {
    segments: Vec<Segment>,
    offset: u32,
    len: usize,
}

impl Detached {
    /// The number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in order. Their addresses do not change while `self` lives.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().enumerate().map(|(at, segment)| {
            let bytes = segment.as_slice();
            if at == 0 { bytes.get(self.offset as usize..).unwrap_or_default() } else { bytes }
        })
    }
}

#[cfg(test)]
mod tests;
