//! Requests whose HTTP is spoken elsewhere, between the task that speaks it and the shard.
//!
//! Knows: bytes of the request on their way in, the answer's head and bytes on their way out, and who
//! waits for which. Does not know: any HTTP library.

use core::fmt;
use core::mem;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mcp_sse_core::ResponseHead;

use super::socket::Socket;

/// Bytes on their way in one direction before whoever brings them waits.
const BYTES_MAX: usize = 64 << 10;

/// A request that another HTTP server has read: see [`Exchange`](mcp_sse_core::Exchange), whose fields
/// these are.
#[derive(Clone)]
pub struct ExchangeRequest {
    /// The method.
    pub method: String,
    /// Path and query, without what [`mount`](Self::mount) says.
    pub target: String,
    /// The fields, in order; `host` must be among them.
    pub fields: Vec<(String, Vec<u8>)>,
    /// What was cut off the front of the path.
    pub mount: String,
}

impl fmt::Debug for ExchangeRequest {
    // Neither the query nor the fields' values: both hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "ExchangeRequest({} {path})", self.method)
    }
}

#[derive(Default)]
struct ExchangeState {
    input: VecDeque<Vec<u8>>,
    input_bytes: usize,
    input_ended: bool,
    head: Option<ResponseHead>,
    output: VecDeque<Vec<u8>>,
    output_bytes: usize,
    /// The shard is done with it.
    output_ended: bool,
    /// The speaker is gone, and its client with it.
    abandoned: bool,
    shard: Option<Waker>,
    speaker: Option<Waker>,
}

type SharedExchange = Arc<Mutex<ExchangeState>>;

fn lock(shared: &SharedExchange) -> MutexGuard<'_, ExchangeState> {
    // Nothing in here panics half-way.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes the state, then wakes whom `waiting` picks.
fn change(
    shared: &SharedExchange,
    waiting: impl FnOnce(&mut ExchangeState) -> &mut Option<Waker>,
    change: impl FnOnce(&mut ExchangeState),
) {
    let mut state = lock(shared);
    change(&mut state);
    let waker = waiting(&mut state).take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// One request and its answer, on the side that speaks HTTP. Dropping it tells the server that the
/// client has gone.
pub struct ExchangeClient(SharedExchange);

/// The same on the shard's side: a socket whose HTTP is somebody else's.
pub(super) struct ExchangeSocket(SharedExchange);

pub(super) fn exchange_pair() -> (ExchangeClient, ExchangeSocket) {
    let shared = SharedExchange::default();
    (ExchangeClient(shared.clone()), ExchangeSocket(shared))
}

impl ExchangeClient {
    /// Waits until there is room for more of the request's body; also ready once nobody wants it any
    /// more.
    pub fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.input_bytes < BYTES_MAX || state.output_ended {
            return Poll::Ready(());
        }
        state.speaker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Hands over some of the request's body.
    pub fn input(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            change(
                &self.0,
                |s| &mut s.shard,
                |state| {
                    state.input_bytes += bytes.len();
                    state.input.push_back(bytes);
                },
            );
        }
    }

    /// The request's body has ended.
    pub fn end_input(&mut self) {
        change(&self.0, |s| &mut s.shard, |state| state.input_ended = true);
    }

    /// The head of the answer; `None` if there will be none, because the server takes no more.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<ResponseHead>> {
        let mut state = lock(&self.0);
        if let Some(head) = state.head.take() {
            return Poll::Ready(Some(head));
        }
        if state.output_ended {
            return Poll::Ready(None);
        }
        state.speaker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next bytes of the answer's body; `None` at its end.
    pub fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let mut state = lock(&self.0);
        if let Some(bytes) = state.output.pop_front() {
            state.output_bytes -= bytes.len();
            let shard = state.shard.take();
            drop(state);
            if let Some(shard) = shard {
                shard.wake();
            }
            return Poll::Ready(Some(bytes));
        }
        if state.output_ended {
            return Poll::Ready(None);
        }
        state.speaker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for ExchangeClient {
    fn drop(&mut self) {
        change(
            &self.0,
            |s| &mut s.shard,
            |state| {
                state.abandoned = true;
                state.input = VecDeque::new();
                state.output = VecDeque::new();
            },
        );
    }
}

impl fmt::Debug for ExchangeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0);
        f.debug_struct("ExchangeClient")
            .field("input_ended", &state.input_ended)
            .field("output_ended", &state.output_ended)
            .finish_non_exhaustive()
    }
}

impl ExchangeSocket {
    pub(super) fn respond(&self, head: ResponseHead) {
        change(&self.0, |s| &mut s.speaker, |state| state.head = Some(head));
    }

    /// Ready once the client has gone.
    pub(super) fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.abandoned {
            return Poll::Ready(());
        }
        state.shard = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Socket for ExchangeSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if let Some(bytes) = state.input.front_mut() {
            let count = bytes.len().min(buffer.len());
            let rest = bytes.split_off(count);
            let now = mem::replace(bytes, rest);
            if bytes.is_empty() {
                state.input.pop_front();
            }
            state.input_bytes -= count;
            let speaker = state.speaker.take();
            drop(state);
            if let Some(place) = buffer.get_mut(..count) {
                place.copy_from_slice(&now);
            }
            if let Some(speaker) = speaker {
                speaker.wake();
            }
            return Poll::Ready(Ok(count));
        }
        if state.input_ended {
            return Poll::Ready(Ok(0));
        }
        state.shard = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if state.abandoned {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.output_bytes >= BYTES_MAX {
            state.shard = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        let count = bytes.len();
        state.output_bytes += count;
        state.output.push_back(bytes);
        let speaker = state.speaker.take();
        drop(state);
        if let Some(speaker) = speaker {
            speaker.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for ExchangeSocket {
    fn drop(&mut self) {
        change(&self.0, |s| &mut s.speaker, |state| state.output_ended = true);
    }
}
