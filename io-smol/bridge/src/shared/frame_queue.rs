//! A bounded queue of frames from the task that owns the process to the task of one session.
//!
//! Knows: its bounds, and the wakers of both ends. Does not know: sessions.
//!
//! It exists because a channel of `async-channel` is bounded by messages only, and this queue also by bytes.

use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_sse_core::Frame;

/// The most frames in the queue of one session: 4,096.
pub(super) const FRAMES_MAX: usize = 4_096;
/// The most bytes of frames in the queue of one session: 4 MiB, or one larger frame.
pub(super) const BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct QueueState {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
    /// The waker of a sender that waits for room.
    sender_waker: Option<Waker>,
    /// The waker of a receiver that waits for a frame.
    receiver_waker: Option<Waker>,
}

impl QueueState {
    fn has_room(&self, frame: &Frame) -> bool {
        let fits = self.bytes + frame.wire_len() <= BYTES_MAX && self.frames.len() < FRAMES_MAX;
        fits || self.frames.is_empty()
    }
}

/// The sending end. Dropping it closes the queue; frames in the queue can still be received.
pub(super) struct FrameSender(Arc<Mutex<QueueState>>);

/// The receiving end. Dropping it closes the queue; frames in the queue are lost.
pub(super) struct FrameReceiver(Arc<Mutex<QueueState>>);

/// The receiver was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiverGone;

/// Creates an empty queue.
pub(super) fn frame_queue() -> (FrameSender, FrameReceiver) {
    let state = Arc::<Mutex<QueueState>>::default();
    (FrameSender(state.clone()), FrameReceiver(state))
}

fn lock(state: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    // No code panics while it has this lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FrameSender {
    /// Adds a frame. Returns `Pending` while there is no room; then call it again with the same frame.
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
            // Dropping a waker runs foreign code, so the lock is released before.
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

    /// Whether the receiver was dropped.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }

    /// Closes the queue and drops its frames. Returns the number of dropped frames.
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
    /// Waits for the next frame; `None` when the queue is closed and empty.
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

    /// Adds a frame; `None` if there is no room.
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
        // The end of the receiver wakes a waiting sender.
        put(&frame_queue, &large);
        let waits = poll_fn(|cx| frame_queue.poll_send(cx, &small));
        let goes = async { drop(frames) };
        assert_eq!(finish("both", smol::future::zip(waits, goes)).0, Err(ReceiverGone));
    }
}
