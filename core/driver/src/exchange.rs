//! Exchanges: requests that another HTTP server has read, and their responses.
//!
//! Knows: the bytes of the request body, the head and the bytes of the response, and which task waits
//! for which. Does not know: any HTTP library.

use core::fmt;
use core::mem;
use core::task::{Context, Poll, Waker, ready};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use mcp_sse_core::ResponseHead;

use super::shared::Shared;
use super::socket::Socket;

/// How many bytes may wait in one direction; the task that brings more of them waits.
const BYTES_MAX: usize = 64 << 10;

/// The head of a request that another HTTP server has read, for [`Handle::exchange`](crate::Handle::exchange).
///
/// It is the owned form of the core's [`Exchange`](mcp_sse_core::Exchange).
///
/// ```
/// use mcp_sse_driver::ExchangeRequest;
///
/// // A request for `/api/sse` on a server whose router mounts this one at `/api`.
/// let request = ExchangeRequest {
///     method: "GET".into(),
///     target: "/sse".into(),
///     fields: vec![("host".into(), b"localhost".to_vec())],
///     mount: "/api".into(),
/// };
/// # drop(request);
/// ```
#[derive(Clone)]
pub struct ExchangeRequest {
    /// The method, as in `GET`.
    pub method: String,
    /// The path and query, without [`mount`](Self::mount).
    pub target: String,
    /// The header fields, in order: names and values. `host` must be among them; for HTTP/2 it is the
    /// value of `:authority`. Fields about the connection, and `expect`, are ignored.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The path prefix that the caller's router removed, as in `/api`; clients are told to post below
    /// it. Empty if none was removed.
    pub mount: String,
}

impl fmt::Debug for ExchangeRequest {
    // The query and the values of fields are secrets, so neither is printed.
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
    /// The shard has dropped its side: no more output comes, and no input is wanted.
    output_ended: bool,
    /// The HTTP side was dropped: its client has gone.
    abandoned: bool,
    /// The shard's task.
    shard: Option<Waker>,
    /// The task of the HTTP side.
    client: Option<Waker>,
}

type SharedExchange = Arc<Shared<ExchangeState>>;

/// One request and its response, on the side of the HTTP server that read the request.
///
/// [`Handle::exchange`](crate::Handle::exchange) returns it. Dropping it tells the MCP server that the
/// client has disconnected. In both directions at most 64 KiB wait: [`poll_input`](Self::poll_input)
/// is pending while the server has not taken the input, and the server waits while the output is not
/// taken.
///
/// ```
/// use core::future::poll_fn;
/// use mcp_sse_driver::ExchangeClient;
///
/// /// Sends a whole body and collects the response: its status and its body.
/// async fn send(mut client: ExchangeClient, body: Vec<u8>) -> Option<(u16, Vec<u8>)> {
///     poll_fn(|cx| client.poll_input(cx)).await;
///     client.input(body);
///     client.end_input();
///     let head = poll_fn(|cx| client.poll_head(cx)).await?;
///     let mut received = Vec::new();
///     while let Some(bytes) = poll_fn(|cx| client.poll_output(cx)).await {
///         received.extend(bytes);
///     }
///     Some((head.status(), received))
/// }
/// ```
pub struct ExchangeClient(SharedExchange);

/// The shard's side of an exchange: the socket of its connection.
pub(super) struct ExchangeSocket(SharedExchange);

pub(super) fn exchange_pair() -> (ExchangeClient, ExchangeSocket) {
    let shared = SharedExchange::default();
    (ExchangeClient(shared.clone()), ExchangeSocket(shared))
}

impl ExchangeClient {
    /// Waits until there is room for more of the request body. It is also ready once the server has
    /// ended the exchange; input is then discarded.
    pub fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.input_bytes < BYTES_MAX || state.output_ended {
            return Poll::Ready(());
        }
        state.client = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Passes some bytes of the request body to the server. Call it when
    /// [`poll_input`](Self::poll_input) is ready; bytes beyond that are queued without a limit.
    pub fn input(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.0.change(|state| {
                state.input_bytes += bytes.len();
                state.input.push_back(bytes);
                ((), state.shard.take())
            });
        }
    }

    /// Tells the server that the request body has ended. A request without a body needs it too.
    pub fn end_input(&mut self) {
        self.0.change(|state| {
            state.input_ended = true;
            ((), state.shard.take())
        });
    }

    /// Waits for the head of the response, which is returned once. `None` means that there is no
    /// response, because the server has no room for a connection or has ended.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<ResponseHead>> {
        let mut state = self.0.lock();
        if let Some(head) = state.head.take() {
            return Poll::Ready(Some(head));
        }
        if state.output_ended {
            return Poll::Ready(None);
        }
        state.client = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits for the next bytes of the response body; `None` at its end.
    pub fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.0.change(|state| {
            if let Some(bytes) = state.output.pop_front() {
                state.output_bytes -= bytes.len();
                return (Poll::Ready(Some(bytes)), state.shard.take());
            }
            if state.output_ended {
                return (Poll::Ready(None), None);
            }
            state.client = Some(cx.waker().clone());
            (Poll::Pending, None)
        })
    }
}

impl Drop for ExchangeClient {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.abandoned = true;
            state.input = VecDeque::new();
            state.output = VecDeque::new();
            ((), state.shard.take())
        });
    }
}

impl fmt::Debug for ExchangeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("ExchangeClient")
            .field("input_ended", &state.input_ended)
            .field("output_ended", &state.output_ended)
            .finish_non_exhaustive()
    }
}

impl ExchangeSocket {
    pub(super) fn respond(&self, head: ResponseHead) {
        self.0.change(|state| {
            state.head = Some(head);
            ((), state.client.take())
        });
    }

    /// Ready once the HTTP side was dropped.
    pub(super) fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.abandoned {
            return Poll::Ready(());
        }
        state.shard = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Socket for ExchangeSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.0.change(|state| {
            if let Some(bytes) = state.input.front_mut() {
                let rest = bytes.split_off(bytes.len().min(buffer.len()));
                let read = mem::replace(bytes, rest);
                if bytes.is_empty() {
                    state.input.pop_front();
                }
                state.input_bytes -= read.len();
                return (Poll::Ready(read), state.client.take());
            }
            if state.input_ended {
                return (Poll::Ready(Vec::new()), None);
            }
            state.shard = Some(cx.waker().clone());
            (Poll::Pending, None)
        });
        let read = ready!(read);
        if let Some(target) = buffer.get_mut(..read.len()) {
            target.copy_from_slice(&read);
        }
        Poll::Ready(Ok(read.len()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.change(|state| {
            if state.abandoned {
                return (Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())), None);
            }
            if state.output_bytes >= BYTES_MAX {
                state.shard = Some(cx.waker().clone());
                return (Poll::Pending, None);
            }
            let mut bytes = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
            pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
            let count = bytes.len();
            state.output_bytes += count;
            state.output.push_back(bytes);
            (Poll::Ready(Ok(count)), state.client.take())
        })
    }

    fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for ExchangeSocket {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.output_ended = true;
            ((), state.client.take())
        });
    }
}
