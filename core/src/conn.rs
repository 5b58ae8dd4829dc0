//! One connection: its phase, the input that it could not use yet, and the output that waits.
//!
//! Knows: the phases, which of them may follow which, and what each means for the socket. Does not
//! know: other connections, sessions, or requests. `server/lifecycle.rs` moves connections from phase
//! to phase.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::answer::{Reply, ResponseContext};
use crate::arena::Key;
use crate::config::Config;
use crate::event::Interest;
use crate::exchange::ResponseHead;
use crate::http1::{BodyDecoder, HeadScanner, Method};
use crate::jsonrpc::Message;
use crate::limits::{Limits, within};
use crate::outbox::Outbox;
use crate::peer::{AddressKey, Peer};
use crate::policy::cors::CorsOrigin;
use crate::principal::Principal;
use crate::request::{Action, Unread};
use crate::route::Route;
use crate::session_ref::SessionRef;
use crate::time::Time;
use crate::trace_context::TraceParent;

pub(crate) struct Conn {
    pub(crate) peer: Peer,
    pub(crate) phase: ConnPhase,
    pub(crate) scanner: HeadScanner,
    /// The beginning of a head whose end has not arrived.
    pub(crate) partial: Vec<u8>,
    /// Input that the connection could not use yet; what stands before `pending_input_at` has been used.
    pub(crate) pending_input: Vec<u8>,
    pub(crate) pending_input_at: usize,
    pub(crate) outbox: Outbox,
    /// Bytes the peer has taken since its stall timer was armed.
    pub(crate) taken: u64,
    /// How the request at hand is answered.
    pub(crate) reply: Reply,
    /// Which pages may read that answer in a browser.
    pub(crate) cors_origin: CorsOrigin,
    /// The client's address: the peer's, or the one that a trusted proxy names.
    pub(crate) client: Option<IpAddr>,
    /// The request at hand, for the log and the metrics.
    pub(crate) request: RequestInfo,
    /// Since when the connection waits for a request or for its end; while it has a request, since when.
    pub(crate) waiting_since: Time,
    /// When the stall timer was armed; meaningful only while something is queued.
    pub(crate) stalled_since: Time,
    /// How many request bytes are counted for an address, and for which; see `server/bodies.rs`.
    pub(crate) counted: u64,
    pub(crate) counted_for: AddressKey,
    /// The bytes of a post that is on its way to another shard, if they are still counted here.
    pub(crate) forwarded: u64,
    /// The peer has ended its side.
    pub(crate) eof: bool,
    /// A whole request head has arrived: the deadline of a later head runs from that head's first byte.
    pub(crate) served: bool,
    /// The connection is listed for [`Server::poll_wake`](crate::Server::poll_wake).
    pub(crate) woken: bool,
    /// `Some` for a request whose HTTP is spoken elsewhere; in it the head of the answer, once there is one.
    pub(crate) exchange: Option<Box<Option<ResponseHead>>>,
    /// How many tickets were given out for this connection; only the last one is valid.
    pub(crate) tickets: u32,
}

/// What log records show of the request at hand. Without a `method` there is none, or its head could not be
/// read.
#[derive(Debug, Default)]
pub(crate) struct RequestInfo {
    pub(crate) method: Option<Method>,
    pub(crate) route: Option<Route>,
    /// The session of this shard that the request is for, or that it has opened.
    pub(crate) session: Option<Key>,
    pub(crate) principal: Option<Principal>,
    pub(crate) traceparent: Option<TraceParent>,
    /// The length of the body, once all of it has arrived.
    pub(crate) body_bytes: u32,
    /// Whether the request has been received and not been answered.
    pub(crate) unanswered: bool,
}

impl RequestInfo {
    /// Whether the request is a post that has not been answered.
    pub(crate) fn is_unanswered_post(&self) -> bool {
        let is_post = self.method == Some(Method::Post);
        self.unanswered && is_post && matches!(self.route, Some(Route::Message(_)))
    }
}

/// Where a connection is. Every timer of the phase role belongs to one of these.
pub(crate) enum ConnPhase {
    /// Waiting for a request head, or in the middle of one.
    Head,
    /// A request waits for the application's verdict.
    Deciding(Box<Action>),
    /// A post whose body is not read yet waits for another shard to say whether it has the session.
    Locating(Box<Unlocated>),
    /// The body of a post is coming in.
    Body { decoder: BodyDecoder, body: Vec<u8>, target: PostTarget },
    /// A complete post waits for room in its session. Boxed, so that connections are small; the memory formula
    /// has room for one boxed action or message.
    Held { session: Key, message: Box<Message> },
    /// A whole request is acted on: during one call of a method of `Server`, or until its ticket is answered.
    Awaiting,
    /// The rest of a refused request is read and thrown away.
    Discarding { left: u64 },
    /// The response is a session's event stream.
    Streaming { session: Key, chunked: bool, input: u32, ending: bool },
    /// The last answer is leaving; what still comes in is thrown away.
    Closing { discarded: u32 },
    /// The last answer has left. Input is still read and thrown away, so that no reset destroys that answer.
    Lingering { discarded: u32 },
    /// Nothing more is read. Once what is queued has left, the socket is to be closed.
    Ended,
}

/// A phase without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Head,
    Deciding,
    Locating,
    Body,
    Held,
    Awaiting,
    Discarding,
    Streaming,
    Closing,
    Lingering,
    Ended,
}

impl Stage {
    /// The stages that may follow this one; the server asserts it at every change. `conn/phases.md` and
    /// ARCHITECTURE.md have this as a table, and tests keep the three the same.
    pub(crate) const fn followers(self) -> &'static [Self] {
        use Stage::{
            Awaiting, Body, Closing, Deciding, Discarding, Ended, Head, Held, Lingering, Locating,
            Streaming,
        };
        match self {
            Head => &[Head, Deciding, Locating, Body, Discarding, Streaming, Closing, Ended],
            Deciding => &[Awaiting, Head, Discarding, Closing, Ended],
            Locating => &[Awaiting, Head, Discarding, Closing, Ended],
            Body => &[Awaiting, Closing, Ended],
            Held => &[Awaiting],
            Awaiting => {
                &[Head, Locating, Body, Held, Awaiting, Discarding, Streaming, Closing, Ended]
            }
            Discarding => &[Head, Closing, Ended],
            Streaming => &[Ended],
            Closing => &[Lingering, Ended],
            Lingering => &[Ended],
            Ended => &[Ended],
        }
    }
}

impl ConnPhase {
    pub(crate) const fn stage(&self) -> Stage {
        match self {
            Self::Head => Stage::Head,
            Self::Deciding(_) => Stage::Deciding,
            Self::Locating(_) => Stage::Locating,
            Self::Body { .. } => Stage::Body,
            Self::Held { .. } => Stage::Held,
            Self::Awaiting => Stage::Awaiting,
            Self::Discarding { .. } => Stage::Discarding,
            Self::Streaming { .. } => Stage::Streaming,
            Self::Closing { .. } => Stage::Closing,
            Self::Lingering { .. } => Stage::Lingering,
            Self::Ended => Stage::Ended,
        }
    }
}

impl ConnPhase {
    /// The decoder of a post's body, as long as its session's shard has not been asked about it.
    pub(crate) const fn unasked(&self) -> Option<&BodyDecoder> {
        let Self::Body { decoder, target, .. } = self else { return None };
        let unasked = matches!(target, PostTarget::Elsewhere { asked: false, .. });
        if unasked { Some(decoder) } else { None }
    }
}

/// The session that a post is for.
#[derive(Debug)]
pub(crate) enum PostTarget {
    /// A session of this shard.
    Here(Key),
    /// A session of another shard, and whether that shard has been asked whether it has the session; see
    /// `server/lookup.rs`.
    Elsewhere { claim: Box<SessionRef>, asked: bool },
}

/// A post whose body is not read until another shard has said that it has the session.
#[derive(Debug)]
pub(crate) struct Unlocated {
    pub(crate) claim: Box<SessionRef>,
    pub(crate) decoder: BodyDecoder,
    pub(crate) unread: Unread,
    pub(crate) expects_continue: bool,
}

impl Conn {
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            peer,
            phase: ConnPhase::Head,
            scanner: HeadScanner::new(),
            partial: Vec::new(),
            pending_input: Vec::new(),
            pending_input_at: 0,
            outbox: Outbox::default(),
            taken: 0,
            reply: Reply::CLOSE,
            cors_origin: CorsOrigin::Off,
            client: peer.ip(),
            request: RequestInfo::default(),
            waiting_since: Time::ZERO,
            stalled_since: Time::ZERO,
            counted: 0,
            counted_for: AddressKey::NONE,
            forwarded: 0,
            eof: false,
            served: false,
            woken: false,
            exchange: None,
            tickets: 0,
        }
    }

    /// What the answer to the request at hand depends on.
    pub(crate) fn response_context<'a>(&'a self, config: &'a Config) -> ResponseContext<'a> {
        let exchange = self.exchange.is_some();
        ResponseContext { reply: self.reply, exchange, cors_origin: &self.cors_origin, config }
    }

    /// Input that waits until the connection can use it.
    pub(crate) fn pending(&self) -> &[u8] {
        self.pending_input.get(self.pending_input_at..).unwrap_or_default()
    }

    /// Whether the connection can use input now. Input that arrives while it cannot is kept as pending.
    ///
    /// `queues_full` is whether all queues together have reached their limit. A connection with nothing
    /// queued may have one answer all the same.
    pub(crate) fn takes_input(&self, limits: &Limits, queues_full: bool) -> bool {
        match self.phase {
            ConnPhase::Head | ConnPhase::Body { .. } | ConnPhase::Discarding { .. } => {
                self.outbox.is_empty()
                    || (!queues_full && within(limits.answers_bytes_max, self.outbox.cost()))
            }
            ConnPhase::Streaming { .. }
            | ConnPhase::Closing { .. }
            | ConnPhase::Lingering { .. }
            | ConnPhase::Ended => true,
            ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Held { .. }
            | ConnPhase::Awaiting => false,
        }
    }

    pub(crate) fn interest(&self, limits: &Limits, queues_full: bool) -> Interest {
        let write = !self.outbox.is_empty();
        let read = !self.eof && self.takes_input(limits, queues_full) && self.pending().is_empty();
        match self.phase {
            ConnPhase::Ended if !write => Interest::Close,
            ConnPhase::Ended => Interest::Io { read: false, write },
            ConnPhase::Lingering { .. } => Interest::Linger,
            ConnPhase::Closing { discarded } => {
                Interest::Io { read: read && discarded < limits.linger_bytes_max, write }
            }
            ConnPhase::Streaming { input, .. } => {
                Interest::Io { read: read && input <= limits.stream_input_bytes_max, write }
            }
            ConnPhase::Head
            | ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Body { .. }
            | ConnPhase::Held { .. }
            | ConnPhase::Awaiting
            | ConnPhase::Discarding { .. } => Interest::Io { read, write },
        }
    }

    /// The session whose stream this connection carries.
    pub(crate) const fn streamed_session(&self) -> Option<Key> {
        if let ConnPhase::Streaming { session, .. } = self.phase { Some(session) } else { None }
    }

    /// Whether the connection waits for a request, has no byte of one, and has nothing queued.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, ConnPhase::Head)
            && self.scanner.is_idle()
            && self.outbox.is_empty()
            && self.pending().is_empty()
    }

    /// What a queue of this cost counts for in the budget of all queues: of a stream, the part above its
    /// session's reserve.
    const fn shared(&self, queued: u64, limits: &Limits) -> u64 {
        let own = matches!(self.phase, ConnPhase::Streaming { .. });
        queued.saturating_sub(if own { limits.queue_reserve_bytes } else { 0 })
    }

    /// What the connection's queue counts for in the budget of all queues.
    pub(crate) const fn queue_shared(&self, limits: &Limits) -> u64 {
        self.shared(self.outbox.cost(), limits)
    }

    /// What `cost` more would count for there.
    pub(crate) const fn queue_shared_by(&self, cost: u64, limits: &Limits) -> u64 {
        let queued = self.outbox.cost().saturating_add(cost);
        self.shared(queued, limits) - self.queue_shared(limits)
    }

    /// Bytes of request bodies and pending input that this connection holds: its part of the budget of
    /// request bytes.
    pub(crate) fn body_bytes(&self) -> u64 {
        let body = match &self.phase {
            ConnPhase::Body { body, .. } => body.capacity(),
            ConnPhase::Held { message, .. } => message.memory_bytes() as usize,
            ConnPhase::Head
            | ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Awaiting
            | ConnPhase::Discarding { .. }
            | ConnPhase::Streaming { .. }
            | ConnPhase::Closing { .. }
            | ConnPhase::Lingering { .. }
            | ConnPhase::Ended => 0,
        };
        (body + self.pending_input.capacity()) as u64
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use core::fmt::Write;

    use super::*;

    const STAGES: [Stage; 11] = [
        Stage::Head,
        Stage::Deciding,
        Stage::Locating,
        Stage::Body,
        Stage::Held,
        Stage::Awaiting,
        Stage::Discarding,
        Stage::Streaming,
        Stage::Closing,
        Stage::Lingering,
        Stage::Ended,
    ];

    /// The table is also in ARCHITECTURE.md, which is not part of this package: a test of the package
    /// `mcp-sse-tests` compares the two.
    #[test]
    fn written_phase_table_is_that_of_followers() {
        let mut table = String::from("| from \\ to |");
        for to in STAGES {
            write!(table, " {to:?} |").unwrap();
        }
        table.push_str("\n|---|");
        table.push_str(&"---|".repeat(STAGES.len()));
        for from in STAGES {
            write!(table, "\n| {from:?} |").unwrap();
            for to in STAGES {
                table.push_str(if from.followers().contains(&to) { " ● |" } else { "  |" });
            }
        }
        table.push('\n');
        let written = include_str!("conn/phases.md");
        assert!(written == table, "the table in core/src/conn/phases.md should be\n{table}");
    }

    #[test]
    fn an_idle_connection_is_small() {
        // The figure in `limits` must cover it: slot, serial, five timer nodes, a wake entry, and a
        // place among the held.
        let bytes = size_of::<Conn>() + 8 + 5 * 24 + 8 + 64;
        assert!(bytes <= 640, "{bytes}");
    }
}
