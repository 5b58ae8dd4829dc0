//! Requests of a [`Handle`](super::Handle) to a shard that carry a value or need a reply. A stop and
//! health extras go through the shard's mailbox instead, because they must never wait.

use async_channel::Sender;
use mcp_sse_core::{Metrics, NoStaticTokens, Peer, Reach, sse::Frame};

use super::exchange::{ExchangeRequest, ExchangeSocket};

/// One request of a handle, with the sender of its reply.
pub(super) enum Control {
    Broadcast(Frame, Sender<Reach>),
    Metrics(Sender<Metrics>),
    /// To take the tokens that the handle has now.
    ReplaceTokens(Sender<Result<(), NoStaticTokens>>),
    Exchange(ExchangeRequest, Peer, ExchangeSocket),
}
