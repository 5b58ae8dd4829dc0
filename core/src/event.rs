//! What the core tells the application, and what passes between them.
//!
//! Knows: handles, events, tickets, and the small enums of questions and answers.
//! Does not know: how any of it comes about.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::ops::Add;
use core::time::Duration;

use crate::arena::Key;
use crate::error::Fault;
use crate::http1::{Head, Method, Version};
use crate::jsonrpc::Message;
use crate::policy::bearer::Credentials;
use crate::principal::Principal;
use crate::session_ref::SessionRef;
use crate::time::Time;
use crate::timers::TimerKind;
use crate::token::ShardId;

macro_rules! handle {
    ($(#[$doc:meta])+ $name:ident $letter:literal) => {
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) Key);

        impl $name {
            /// The slot's index: small, and used again once its tenant is gone. For drivers that
            /// keep things of their own beside each tenant.
            #[must_use]
            pub const fn slot(self) -> usize {
                self.0.index() as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

handle! {
    /// Names a connection inside the process: 8 bytes, `Copy`, prints as `c4v19`.
    ///
    /// A stale one misses; it never finds the next tenant.
    ConnId "c"
}
handle! {
    /// Names a session inside the process: 8 bytes, `Copy`, prints as `s12v7`, may be logged.
    ///
    /// A stale one misses; it never finds the next tenant.
    SessionId "s"
}

handle! {
    /// Names a post of another shard that waits here for room in its session: 8 bytes, `Copy`, prints
    /// as `h3v7`. It is good until its [`Event::Settled`].
    QueuedPostId "h"
}

/// A request that waits for [`Server::authorize`](crate::Server::authorize), once.
///
/// Dropping it leaks nothing: the request is refused with 503 when its deadline passes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the request is refused with 503 unless the ticket is answered in time"]
pub struct AuthTicket(pub(crate) Ticket);

/// A post that waits for [`Server::acknowledge`](crate::Server::acknowledge), once.
///
/// Dropping it leaks nothing: the post is refused with 503 when its deadline passes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the post is refused with 503 unless the ticket is answered in time"]
pub struct PostTicket(pub(crate) Ticket);

/// A post whose body waits for [`Server::answer_lookup`](crate::Server::answer_lookup), once.
///
/// Dropping it leaks nothing: the post is refused with 503 when its deadline passes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the post is refused with 503 unless the ticket is answered in time"]
pub struct LookupTicket(pub(crate) Ticket);

/// Which question of which connection; a later question has another number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) conn: Key,
    pub(crate) number: u32,
}

/// The next moment at which [`Server::handle_timeout`](crate::Server::handle_timeout) has work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When.
    pub at: Time,
    /// What for.
    pub cause: TimerKind,
}

/// Something the application is told, in order and once.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// May this request proceed? Only with [`Authorization::Deferred`](crate::Authorization).
    Asked {
        /// Answers the question.
        ticket: AuthTicket,
        /// The request as it came.
        head: Arc<RequestHead>,
    },
    /// A session has begun; its client has been told where to post.
    Opened {
        /// The new session.
        session: SessionId,
        /// The connection that carries its stream.
        conn: ConnId,
        /// On whose behalf, if anybody was asked.
        principal: Option<Principal>,
        /// The GET as it came.
        head: Arc<RequestHead>,
    },
    /// A message has arrived for a session.
    Message {
        /// The session it was posted to.
        session: SessionId,
        /// The message, its envelope already read.
        message: Message,
        /// Only with [`Acknowledgement::Deferred`](crate::Acknowledgement): answers the post.
        ticket: Option<PostTicket>,
    },
    /// A post whose body has not come in whole names a session of another shard: does it exist? Its
    /// body is not read before that is known. Only where [`ConfigBuilder::forwarding`] is on.
    ///
    /// [`ConfigBuilder::forwarding`]: crate::ConfigBuilder::forwarding
    LookedFor {
        /// Whose session it is, as the peer claims: the shard may not exist.
        shard: ShardId,
        /// What to [`look_up`](crate::Server::look_up) there.
        lookup: SessionLookup,
        /// Takes that shard's answer.
        ticket: LookupTicket,
    },
    /// A post names a session of another shard; only where [`ConfigBuilder::forwarding`] is on.
    ///
    /// [`ConfigBuilder::forwarding`]: crate::ConfigBuilder::forwarding
    Foreign {
        /// Where it belongs, as the peer claims: the shard may not exist.
        shard: ShardId,
        /// What to [`deliver`](crate::Server::deliver) there.
        post: ForwardedPost,
        /// Answers the post with that shard's outcome.
        ticket: PostTicket,
    },
    /// What became of a post that was [held](Delivery::Held). Said once for each.
    Settled {
        /// The post; the handle is stale from here on.
        post: QueuedPostId,
        /// What its own shard's [`acknowledge`](crate::Server::acknowledge) is to be told.
        outcome: Outcome,
    },
    /// A session that refused a frame with [`SendError::Full`](crate::SendError::Full) has room.
    Unblocked {
        /// The session.
        session: SessionId,
    },
    /// A session has ended. Nothing follows about it.
    Closed {
        /// The session; the handle is stale from here on.
        session: SessionId,
        /// Why.
        reason: CloseReason,
        /// Frames that were queued and did not leave whole.
        frames_undelivered: u32,
    },
    /// The shutdown is complete: no connection is left. Said once, last.
    Drained,
}

/// What a socket should be doing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Read when `read`, write what [`transmit`](crate::Server::transmit) shows when `write`.
    Io {
        /// Whether input is welcome.
        read: bool,
        /// Whether there is output.
        write: bool,
    },
    /// Shut the write side down, and go on reading until the end.
    Linger,
    /// Close the socket and say [`handle_disconnect`](crate::Server::handle_disconnect).
    Close,
}

/// An answer to [`Event::Asked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Proceed on behalf of this principal.
    Allow(Principal),
    /// Refuse, in one of the ways a refusal may look.
    Refuse(Refusal),
}

/// How a request is refused by an authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// 401: there were no credentials.
    Unauthenticated,
    /// 401 with `error="invalid_token"`: there were bad ones.
    InvalidToken,
    /// 403: they were good, and not good enough.
    Forbidden,
    /// 503: nobody can tell at the moment.
    Unavailable,
}

/// What became of a post: the answer to a [`PostTicket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 202.
    Accepted,
    /// 404.
    UnknownSession,
    /// 503 with `Retry-After`.
    Busy,
    /// 429: the session is posted to too often.
    RateLimited {
        /// When it may be tried again; told in whole seconds.
        retry_after: Duration,
    },
}

/// What [`Server::deliver`](crate::Server::deliver) has done with a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// This is what has become of it.
    Done(Outcome),
    /// Its session has no room. It waits like the session's other posts, for [`Timeouts::hold`] at
    /// most; then, or before, [`Event::Settled`] says what has become of it.
    ///
    /// [`Timeouts::hold`]: crate::Timeouts::hold
    Held(QueuedPostId),
}

/// What a post says of its session, for the shard that owns the session to look up.
#[derive(Debug)]
pub struct SessionLookup {
    pub(crate) claim: SessionRef,
}

/// What [`Server::look_up`](crate::Server::look_up) has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupAnswer {
    /// The session exists and may be posted to: the body is read.
    Found,
    /// 404: there is no such session for whoever asks.
    UnknownSession,
    /// 503 with `Retry-After`: the shard takes no posts, or cannot be asked.
    Unavailable,
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerPhase {
    /// Serving.
    Running,
    /// Finishing what is under way, and cutting the rest at `until`.
    Draining {
        /// The end of the grace; `None` if it has none.
        until: Option<Time>,
    },
    /// Empty.
    Drained,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed its stream, or the connection broke.
    Peer,
    /// The application closed it.
    Application,
    /// Frames were queued and the client took nothing, or next to nothing, for too long.
    Stalled,
    /// No post came for too long.
    Idle,
    /// The session's lifetime was over.
    Expired,
    /// The server is shutting down.
    Shutdown,
    /// The client broke the protocol on its stream.
    Fault(Fault),
}

impl Event {
    /// What it counts for in the budget of bodies while it waits to be polled.
    pub(crate) fn body_bytes(&self) -> u64 {
        match self {
            Self::Asked { head, .. } | Self::Opened { head, .. } => head.memory_bytes(),
            Self::Message { message, .. } => message.memory_bytes(),
            Self::Foreign { post, .. } => post.message.memory_bytes(),
            // A lookup is as small as its event.
            Self::LookedFor { .. }
            | Self::Settled { .. }
            | Self::Unblocked { .. }
            | Self::Closed { .. }
            | Self::Drained => 0,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("closed by the client"),
            Self::Application => f.write_str("closed by the application"),
            Self::Stalled => f.write_str("the client takes no bytes"),
            Self::Idle => f.write_str("idle for too long"),
            Self::Expired => f.write_str("its lifetime is over"),
            Self::Shutdown => f.write_str("shutting down"),
            Self::Fault(fault) => fmt::Display::fmt(fault, f),
        }
    }
}

/// A complete post on its way to the shard that owns its session.
#[derive(Debug)]
pub struct ForwardedPost {
    pub(crate) claim: SessionRef,
    pub(crate) message: Message,
}

impl ForwardedPost {
    /// The shard that owns the session, if it exists.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.claim.token.shard()
    }

    /// What it holds in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.message.memory_bytes()
    }
}

/// What [`Server::broadcast`](crate::Server::broadcast) reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Sessions whose queue took the frame.
    pub queued: u32,
    /// Sessions whose queue was full; each is told when it has room.
    pub full: u32,
    /// Sessions that the frame would never fit into
    /// ([`SendError::TooLarge`](crate::SendError::TooLarge)).
    pub too_large: u32,
    /// Sessions that were gone.
    pub gone: u32,
}

impl Add for Reach {
    type Output = Self;

    /// What two shards reached, together.
    fn add(self, other: Self) -> Self {
        Self {
            queued: self.queued + other.queued,
            full: self.full + other.full,
            too_large: self.too_large + other.too_large,
            gone: self.gone + other.gone,
        }
    }
}

/// An owned copy of a request's head: what outlives the read buffer it came in.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    method: Method,
    version: Version,
    client: Option<IpAddr>,
    /// How much of the path names the service.
    service_len: u32,
    /// Target, then name and value of each field, end to end.
    octets: Box<[u8]>,
    /// The end of each of those pieces in `octets`.
    ends: Box<[u32]>,
}

impl RequestHead {
    /// The head of a request below `service`, which its path begins with.
    pub(crate) fn capture(head: &Head<'_>, service: &str, client: Option<IpAddr>) -> Self {
        let mut octets = Vec::new();
        let mut ends = Vec::new();
        let mut add = |piece: &[u8]| {
            octets.extend_from_slice(piece);
            ends.push(octets.len() as u32); // A head is far below 2^32 octets.
        };
        add(head.target().path.as_bytes());
        for (name, value) in head.fields() {
            add(name.as_bytes());
            add(value);
        }
        Self {
            method: head.method(),
            version: head.version(),
            client,
            service_len: service.len() as u32, // Part of the path.
            octets: octets.into_boxed_slice(),
            ends: ends.into_boxed_slice(),
        }
    }

    /// Bytes that it holds: what it counts for in the budget of bodies while its event waits.
    pub(crate) const fn memory_bytes(&self) -> u64 {
        (self.octets.len() + self.ends.len() * size_of::<u32>()) as u64
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The address of who asks: the connection's own, or the one that a
    /// [trusted proxy](crate::ConfigBuilder::trusted_proxy) names. `None` where there is none, as on a
    /// Unix socket, and where a proxy hides it.
    #[must_use]
    pub const fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The request target without its query, which may hold a session id.
    #[must_use]
    pub fn path(&self) -> &str {
        core::str::from_utf8(self.piece(0)).unwrap_or_default()
    }

    /// The service that is asked for: see
    /// [`ConfigBuilder::service_path`](crate::ConfigBuilder::service_path). Empty if there is but the
    /// one at the root.
    #[must_use]
    pub fn service_path(&self) -> &str {
        self.path().get(..self.service_len as usize).unwrap_or_default()
    }

    /// Every field, in order: name as it came, value without surrounding white space.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        (1..self.ends.len()).step_by(2).map(|at| {
            (core::str::from_utf8(self.piece(at)).unwrap_or_default(), self.piece(at + 1))
        })
    }

    /// The first field of that name, in any case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The token in `Authorization: Bearer <token>` (RFC 6750 section 2.1), the scheme in any case.
    /// `None` without that field, with several of them, and for any other scheme. Whether it has the
    /// form of a token is for whoever judges it to say.
    #[must_use]
    pub fn bearer_token(&self) -> Option<&str> {
        let fields = self.fields().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        match Credentials::read(fields.map(|(_, value)| value)) {
            Ok(Credentials::Bearer(token)) => core::str::from_utf8(token).ok(),
            Ok(Credentials::None) | Err(_) => None,
        }
    }

    fn piece(&self, at: usize) -> &[u8] {
        let end = |at: usize| self.ends.get(at).map_or(0, |&end| end as usize);
        let start = at.checked_sub(1).map_or(0, end);
        self.octets.get(start..end(at)).unwrap_or_default()
    }
}

impl fmt::Debug for RequestHead {
    // Names only: values hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [", self.method, self.path())?;
        for (at, (name, _)) in self.fields().enumerate() {
            write!(f, "{}{name}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
