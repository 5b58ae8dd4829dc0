//! A bounded queue of frames, from the task that owns the process to the task of one session.
//!
//! Knows: its bounds, and which end waits. Does not know: what a session is.
//!
//! A channel of `async-channel` is bounded by messages; this one is bounded by bytes too.

use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_sse_core::Frame;

/// The most frames that wait for one session.
pub const FRAMES_MAX: usize = 4_096;
/// The most bytes of frames that wait for one session; one larger frame alone is taken.
pub const BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct QueueState {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
    /// The sender waits for room.
    sender_waker: Option<Waker>,
    /// The receiver waits for a frame.
    receiver_waker: Option<Waker>,
}

impl QueueState {
    fn has_room(&self, frame: &Frame) -> bool {
        let fits = self.bytes + frame.wire_len() <= BYTES_MAX && self.frames.len() < FRAMES_MAX;
        fits || self.frames.is_empty()
    }
}

/// The sending end. Dropping it closes the queue: what is in it still comes out.
pub(super) struct FrameSender(Arc<Mutex<QueueState>>);

/// The receiving end. Dropping it closes the queue, and what is in it is lost.
pub(super) struct FrameReceiver(Arc<Mutex<QueueState>>);

/// The receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiverGone;

/// An empty queue.
pub(super) fn frame_queue() -> (FrameSender, FrameReceiver) {
    let state = Arc::<Mutex<QueueState>>::default();
    (FrameSender(state.clone()), FrameReceiver(state))
}

fn lock(state: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    // Nothing panics while it is held.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FrameSender {
    /// Puts a frame in. While it is pending there is no room: it is to be called again with the same frame.
    pub(super) fn poll_send(
        &self,
        cx: &Context<'_>,
        frame: &Frame,
    ) -> Poll<Result<(), ReceiverGone>> {
        let mut state = lock(&self.0);
        if state.closed {
            return Poll::Ready(Err(ReceiverGone));
        }
        if !state.has_room(frame) {
            let old = state.sender_waker.replace(cx.waker().clone());
            // A waker is foreign code, even when it is dropped: not under the lock.
            drop(state);
            drop(old);
            return Poll::Pending;
        }
        state.bytes += frame.wire_len();
        state.frames.push_back(frame.clone());
        let receiver_waker = state.receiver_waker.take();
        drop(state);
        receiver_waker.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    /// Whether the receiver is gone.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }

    /// Closes the queue and drops what is in it. Returns how many frames that were.
    pub(super) fn discard(self) -> usize {
        core::mem::take(&mut lock(&self.0).frames).len()
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        close(&self.0);
    }
}

impl FrameReceiver {
    /// The next frame; `None` when there will be none.
    pub(super) async fn next(&self) -> Option<Frame> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Frame>> {
        let mut state = lock(&self.0);
        let Some(frame) = state.frames.pop_front() else {
            if state.closed {
                return Poll::Ready(None);
            }
            let old = state.receiver_waker.replace(cx.waker().clone());
            drop(state);
            drop(old);
            return Poll::Pending;
        };
        state.bytes -= frame.wire_len();
        let sender_waker = state.sender_waker.take();
        drop(state);
        sender_waker.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(frame))
    }
}

impl Drop for FrameReceiver {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close(state: &Mutex<QueueState>) {
    let mut state = lock(state);
    state.closed = true;
    let wakers = [state.sender_waker.take(), state.receiver_waker.take()];
    drop(state);
    wakers.into_iter().flatten().for_each(Waker::wake);
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0);
        f.debug_struct("FrameSender")
            .field("frames", &state.frames.len())
            .field("bytes", &state.bytes)
            .field("closed", &state.closed)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use mcp_sse_tests::finish;
    use smol::future::{block_on, poll_once};

    use super::*;

    fn frame(len: usize) -> Frame {
        Frame::message(format!(r#"{{"x":"{}"}}"#, "x".repeat(len)).as_bytes()).expect("JSON")
    }

    /// Whether a frame was taken; `None` where it has to wait.
    fn put(frame_queue: &FrameSender, frame: &Frame) -> Option<Result<(), ReceiverGone>> {
        block_on(poll_once(poll_fn(|cx| frame_queue.poll_send(cx, frame))))
    }

    fn next(frames: &FrameReceiver) -> Option<Option<Frame>> {
        block_on(poll_once(frames.next()))
    }

    #[test]
    fn queue_returns_frames_in_order_until_its_end() {
        let (frame_queue, frames) = frame_queue();
        assert_eq!(next(&frames), None);
        for len in 0..3 {
            assert_eq!(put(&frame_queue, &frame(len)), Some(Ok(())));
        }
        assert_eq!(next(&frames), Some(Some(frame(0))));
        drop(frame_queue);
        assert_eq!(next(&frames), Some(Some(frame(1))));
        assert_eq!(next(&frames), Some(Some(frame(2))));
        assert_eq!(next(&frames), Some(None));
    }

    #[test]
    fn queue_takes_bytes_up_to_its_bound_or_one_frame() {
        let (frame_queue, frames) = frame_queue();
        let large = frame(BYTES_MAX);
        assert_eq!(put(&frame_queue, &large), Some(Ok(())));
        assert_eq!(put(&frame_queue, &frame(0)), None);
        assert_eq!(next(&frames), Some(Some(large.clone())));
        for _ in 0..FRAMES_MAX {
            assert_eq!(put(&frame_queue, &frame(0)), Some(Ok(())));
        }
        assert_eq!(put(&frame_queue, &frame(0)), None);
        assert_eq!(next(&frames), Some(Some(frame(0))));
        assert_eq!(put(&frame_queue, &large), None, "too many bytes");
        assert_eq!(put(&frame_queue, &frame(0)), Some(Ok(())));
        assert_eq!(frame_queue.discard(), FRAMES_MAX);
        assert_eq!(next(&frames), Some(None));
    }

    #[test]
    fn queue_wakes_the_waiting_end() {
        let (frame_queue, frames) = frame_queue();
        let (small, large) = (frame(0), frame(BYTES_MAX));
        let filling = async {
            for frame in [&small, &large, &small] {
                poll_fn(|cx| frame_queue.poll_send(cx, frame)).await.expect("taken");
            }
        };
        let taking = async {
            for _ in 0..3 {
                frames.next().await.expect("a frame");
            }
        };
        finish("both", smol::future::zip(taking, filling));
        // Also of the end.
        put(&frame_queue, &large);
        let waits = poll_fn(|cx| frame_queue.poll_send(cx, &small));
        let goes = async { drop(frames) };
        assert_eq!(finish("both", smol::future::zip(waits, goes)).0, Err(ReceiverGone));
    }
}
