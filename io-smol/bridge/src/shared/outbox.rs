//! What one session still has to be sent, between the one who serves all and the task of that session.
//!
//! Knows: how much it holds, and who waits for what. Does not know: what a session is.

use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_sse_core::Frame;

/// So many frames wait for one session at most,
pub const FRAMES_MAX: usize = 4_096;
/// or so many bytes of them; one larger frame alone is taken.
pub const BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
    /// Who puts frames in, and waits for room.
    filler: Option<Waker>,
    /// Who takes them out, and waits for one.
    taker: Option<Waker>,
}

impl State {
    fn has_room(&self, frame: &Frame) -> bool {
        let fits = self.bytes + frame.wire_len() <= BYTES_MAX && self.frames.len() < FRAMES_MAX;
        fits || self.frames.is_empty()
    }
}

/// The filling end. Dropping it closes the outbox: what is in it still comes out.
pub(super) struct Outbox(Arc<Mutex<State>>);

/// The taking end. Dropping it closes the outbox, and what is in it is lost.
pub(super) struct Frames(Arc<Mutex<State>>);

/// Nobody takes frames any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// An empty outbox.
pub(super) fn outbox() -> (Outbox, Frames) {
    let state = Arc::<Mutex<State>>::default();
    (Outbox(state.clone()), Frames(state))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics while it is held.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Puts a frame in, or waits for room: then it is to be tried again with the same frame.
    pub(super) fn poll_put(&self, cx: &Context<'_>, frame: &Frame) -> Poll<Result<(), Gone>> {
        let mut state = lock(&self.0);
        if state.closed {
            return Poll::Ready(Err(Gone));
        }
        if !state.has_room(frame) {
            let old = state.filler.replace(cx.waker().clone());
            // A waker is somebody else's code, even when it is dropped: not under our lock.
            drop(state);
            drop(old);
            return Poll::Pending;
        }
        state.bytes += frame.wire_len();
        state.frames.push_back(frame.clone());
        let taker = state.taker.take();
        drop(state);
        taker.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    /// Whether nobody takes frames any more.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }

    /// Closes it, and throws away what is in it. Returns how much that was, in frames.
    pub(super) fn discard(self) -> usize {
        core::mem::take(&mut lock(&self.0).frames).len()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        close(&self.0);
    }
}

impl Frames {
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
            let old = state.taker.replace(cx.waker().clone());
            drop(state);
            drop(old);
            return Poll::Pending;
        };
        state.bytes -= frame.wire_len();
        let filler = state.filler.take();
        drop(state);
        filler.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(frame))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close(state: &Mutex<State>) {
    let mut state = lock(state);
    state.closed = true;
    let wakers = [state.filler.take(), state.taker.take()];
    drop(state);
    wakers.into_iter().flatten().for_each(Waker::wake);
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0);
        f.debug_struct("Outbox")
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
    fn put(outbox: &Outbox, frame: &Frame) -> Option<Result<(), Gone>> {
        block_on(poll_once(poll_fn(|cx| outbox.poll_put(cx, frame))))
    }

    fn next(frames: &Frames) -> Option<Option<Frame>> {
        block_on(poll_once(frames.next()))
    }

    #[test]
    fn frames_come_out_in_order_until_both_are_gone() {
        let (outbox, frames) = outbox();
        assert_eq!(next(&frames), None);
        for len in 0..3 {
            assert_eq!(put(&outbox, &frame(len)), Some(Ok(())));
        }
        assert_eq!(next(&frames), Some(Some(frame(0))));
        drop(outbox);
        assert_eq!(next(&frames), Some(Some(frame(1))));
        assert_eq!(next(&frames), Some(Some(frame(2))));
        assert_eq!(next(&frames), Some(None));
    }

    #[test]
    fn there_is_room_for_so_much_or_one_frame() {
        let (outbox, frames) = outbox();
        let large = frame(BYTES_MAX);
        assert_eq!(put(&outbox, &large), Some(Ok(())));
        assert_eq!(put(&outbox, &frame(0)), None);
        assert_eq!(next(&frames), Some(Some(large.clone())));
        for _ in 0..FRAMES_MAX {
            assert_eq!(put(&outbox, &frame(0)), Some(Ok(())));
        }
        assert_eq!(put(&outbox, &frame(0)), None);
        assert_eq!(next(&frames), Some(Some(frame(0))));
        assert_eq!(put(&outbox, &large), None, "too many bytes");
        assert_eq!(put(&outbox, &frame(0)), Some(Ok(())));
        assert_eq!(outbox.discard(), FRAMES_MAX);
        assert_eq!(next(&frames), Some(None));
    }

    #[test]
    fn who_waits_is_woken() {
        let (outbox, frames) = outbox();
        let (small, large) = (frame(0), frame(BYTES_MAX));
        let filling = async {
            for frame in [&small, &large, &small] {
                poll_fn(|cx| outbox.poll_put(cx, frame)).await.expect("taken");
            }
        };
        let taking = async {
            for _ in 0..3 {
                frames.next().await.expect("a frame");
            }
        };
        finish("both", smol::future::zip(taking, filling));
        // Also of the end.
        put(&outbox, &large);
        let waits = poll_fn(|cx| outbox.poll_put(cx, &small));
        let goes = async { drop(frames) };
        assert_eq!(finish("both", smol::future::zip(waits, goes)).0, Err(Gone));
    }
}
