//! What a handle asks of a shard, beside what it says in the shard's mailbox.

use async_channel::Sender;
use mcp_sse_core::{Metrics, Peer, Reach, sse::Frame};

use super::exchange::{ExchangeRequest, ExchangeSocket};

/// One request of a handle, with the way for what it hears back.
pub(super) enum Control {
    Broadcast(Frame, Sender<Reach>),
    Metrics(Sender<Metrics>),
    Exchange(ExchangeRequest, Peer, ExchangeSocket),
}
