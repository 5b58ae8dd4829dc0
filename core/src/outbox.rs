//! What waits to be written to one peer: a queue of segments and how much of the first has left.
//!
//! Knows: static and shared bytes, vectored views of them, and how to advance.
//! Does not know: HTTP, events, or limits; it only counts what others limit.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::limits::Limits;
use crate::sse::Frame;

/// Bytes to write, owned jointly with whoever else writes the same.
#[derive(Clone)]
pub(crate) enum Segment {
    /// Bytes of the program itself.
    Static(&'static [u8]),
    /// A rendered answer, or the head and first event of a stream.
    Answer(Arc<[u8]>),
    /// An SSE event, as a range of a frame; counted, because an undelivered one is reported.
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

    /// What the segment counts for against limits: its bytes and its place in the queue.
    pub(crate) fn cost(&self) -> u64 {
        self.as_slice().len() as u64 + Limits::SEGMENT_COST
    }
}

impl fmt::Debug for Segment {
    // Length only: payloads and session ids are in here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes)", self.as_slice().len())
    }
}

/// A queue this long has had a burst; when it is empty again its memory is given back.
const CAPACITY_KEPT: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// How much of the first segment has been written.
    offset: u32,
    frames: u32,
    cost: u64,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The sum of [`Segment::cost`] over everything that has not wholly left.
    pub(crate) const fn cost(&self) -> u64 {
        self.cost
    }

    /// Events that have not wholly left.
    pub(crate) const fn frames(&self) -> u32 {
        self.frames
    }

    pub(crate) fn push(&mut self, segment: Segment) {
        debug_assert!(!segment.as_slice().is_empty(), "an empty segment would never be written");
        self.cost += segment.cost();
        self.frames += u32::from(segment.is_frame());
        self.segments.push_back(segment);
    }

    /// `count` bytes have left. Returns how many events have now wholly left.
    ///
    /// # Panics
    ///
    /// If `count` is more than there was.
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

    /// Forgets everything, for a peer that will read no more.
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

/// A view of the bytes that wait for one peer, lent by
/// [`Server::transmit`](crate::Server::transmit).
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    outbox: Option<&'a Outbox>,
}

impl<'a> Transmit<'a> {
    pub(crate) const fn new(outbox: Option<&'a Outbox>) -> Self {
        Self { outbox }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks().map(<[u8]>::len).sum()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outbox.is_none_or(Outbox::is_empty)
    }

    /// The bytes, in order, in the pieces they are held in; no piece is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let offset = self.outbox.map_or(0, |outbox| outbox.offset as usize);
        self.outbox.into_iter().flat_map(|outbox| outbox.segments.iter()).enumerate().map(
            move |(at, segment)| {
                let bytes = segment.as_slice();
                if at == 0 { bytes.get(offset..).unwrap_or_default() } else { bytes }
            },
        )
    }

    /// Fills `slices` from the front for a vectored write, and returns how many were filled.
    #[cfg(feature = "std")]
    pub fn fill(&self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, bytes) in slices.iter_mut().zip(self.chunks()) {
            *slot = std::io::IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Offers everything to `sink` in one vectored write (of up to 64 pieces) and returns how many
    /// bytes it took. Tell the core with [`handle_written`](crate::Server::handle_written).
    ///
    /// # Errors
    ///
    /// Whatever `sink` reports, `WouldBlock` among it; nothing has changed then.
    #[cfg(feature = "std")]
    pub fn write_to(&self, sink: &mut impl std::io::Write) -> std::io::Result<usize> {
        let mut slices = [std::io::IoSlice::new(&[]); 64];
        let filled = self.fill(&mut slices);
        sink.write_vectored(slices.get(..filled).unwrap_or_default())
    }

    /// Takes shares in the first `bytes_max` bytes or more, rounded up to whole pieces, so that they
    /// can outlive this borrow: for completion-based I/O. They stay queued until
    /// [`handle_written`](crate::Server::handle_written) says that they left, or until the connection
    /// is cut: then the shares stay valid, their write may complete or be cancelled, and what is said
    /// of it is ignored. Do not detach again before the last shares are accounted for: the same bytes
    /// would be sent twice.
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

/// Shares in bytes to write that borrow nothing; see [`Transmit::detach`].
#[derive(Clone, Debug)]
pub struct Detached {
    segments: Vec<Segment>,
    offset: u32,
    len: usize,
}

impl Detached {
    /// How many bytes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, in order; their addresses stay the same for as long as `self` lives.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().enumerate().map(|(at, segment)| {
            let bytes = segment.as_slice();
            if at == 0 { bytes.get(self.offset as usize..).unwrap_or_default() } else { bytes }
        })
    }
}

#[cfg(test)]
mod tests;
