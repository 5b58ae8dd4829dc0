//! The types that the core and the application exchange: handles, events, tickets, and their
//! answers.
//!
//! Knows: these types. Does not know: when events occur, or what answers cause.

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
use crate::policy::bearer::bearer_token;
use crate::principal::Principal;
use crate::session_ref::SessionRef;
use crate::time::Time;
use crate::timers::TimerKind;
use crate::token::ShardId;
use crate::trace_context::{self, TraceParent};

macro_rules! handle {
    ($(#[$doc:meta])+ $name:ident $letter:literal) => {
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) Key);

        impl $name {
            /// The index of the slot: a small number that is reused after the connection, session
            /// or post is gone. A driver can use it as an index into tables of its own.
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
    /// Identifies a connection inside the process. 8 bytes, `Copy`; prints as `c4v19`.
    ///
    /// The handle of a connection that is gone never matches a later connection: methods of
    /// [`Server`](crate::Server) then do nothing.
    ConnId "c"
}
handle! {
    /// Identifies a session inside the process. 8 bytes, `Copy`; prints as `s12v7`, and may be
    /// logged.
    ///
    /// The handle of a session that has ended never matches a later session: methods of
    /// [`Server`](crate::Server) then return an error or do nothing. Clients identify a session by
    /// its [`SessionToken`](crate::SessionToken) instead, which is secret.
    SessionId "s"
}

handle! {
    /// Identifies a post of another shard that is held here until its session has room. 8 bytes,
    /// `Copy`; prints as `h3v7`. It is valid until [`Event::Settled`].
    QueuedPostId "h"
}

/// A request that waits for one call of [`Server::authorize`](crate::Server::authorize).
///
/// If the ticket is dropped, the request is refused with 503 at its deadline,
/// [`Timeouts::decision`](crate::Timeouts::decision).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the request is refused with 503 unless the ticket is answered in time"]
pub struct AuthTicket(pub(crate) Ticket);

/// A post to a session of another shard that waits for one call of
/// [`Server::acknowledge`](crate::Server::acknowledge).
///
/// If the ticket is dropped, the post is refused with 503 at its deadline.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the post is refused with 503 unless the ticket is answered in time"]
pub struct PostTicket(pub(crate) Ticket);

/// A post whose body is not read before one call of
/// [`Server::answer_lookup`](crate::Server::answer_lookup).
///
/// If the ticket is dropped, the post is refused with 503 at its deadline,
/// [`Timeouts::decision`](crate::Timeouts::decision).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the post is refused with 503 unless the ticket is answered in time"]
pub struct LookupTicket(pub(crate) Ticket);

/// The connection and the number of a question. A later question of the same connection has another
/// number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) conn: Key,
    pub(crate) number: u32,
}

/// The earliest time at which [`Server::handle_timeout`](crate::Server::handle_timeout) has work to
/// do.
///
/// ```
/// use mcp_sse_core::{Config, Peer, Server, Time, TimerKind};
///
/// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
/// let mut server = Server::new(Config::default(), entropy, Time::ZERO);
/// assert_eq!(server.poll_timeout(), None);
/// server.accept(Peer::local(), Time::ZERO)?;
/// let deadline = server.poll_timeout().expect("the head must arrive in time");
/// assert_eq!((deadline.at, deadline.cause), (Time::from_micros(10_000_000), TimerKind::Head));
/// # Ok::<(), mcp_sse_core::AcceptError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time of the deadline.
    pub at: Time,
    /// The timeout that the deadline belongs to.
    pub cause: TimerKind,
}

/// What the application learns from the core, in order, each event once.
/// [`Server::poll_event`](crate::Server::poll_event) returns it.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::{Config, Event, Peer, Server, Time};
///
/// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
/// let mut server = Server::new(Config::default(), entropy, Time::ZERO);
/// let conn = server.accept(Peer::local(), Time::ZERO)?;
/// server.handle_input(conn, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", Time::ZERO);
/// let Some(Event::Opened { head, principal, .. }) = server.poll_event() else { panic!() };
/// assert_eq!((head.path(), principal), ("/sse", None));
/// # Ok::<(), mcp_sse_core::AcceptError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A request must be authorized before it proceeds. Occurs only with
    /// [`Authorization::Deferred`](crate::Authorization::Deferred).
    Asked {
        /// Identifies the request in [`Server::authorize`](crate::Server::authorize).
        ticket: AuthTicket,
        /// The head of the request.
        head: Arc<RequestHead>,
    },
    /// A session was opened. The endpoint event, which tells its client where to post, has been
    /// queued.
    Opened {
        /// The new session.
        session: SessionId,
        /// The connection of its event stream.
        conn: ConnId,
        /// The principal that opened it; `None` without authorization.
        principal: Option<Principal>,
        /// The head of the GET request that opened it.
        head: Arc<RequestHead>,
    },
    /// A message was posted to a session.
    Message {
        /// The session.
        session: SessionId,
        /// The message. Its envelope has been parsed.
        message: Message,
    },
    /// A post whose body has not arrived completely names a session of another shard. Its body is
    /// not read before it is known whether that session exists. Occurs only if
    /// [`ConfigBuilder::forwarding`] is on.
    ///
    /// [`ConfigBuilder::forwarding`]: crate::ConfigBuilder::forwarding
    LookedFor {
        /// The shard that the token names. It may not exist, because the client could have made up
        /// the token.
        shard: ShardId,
        /// What to pass to [`look_up`](crate::Server::look_up) of that shard.
        lookup: SessionLookup,
        /// Identifies the post in [`Server::answer_lookup`](crate::Server::answer_lookup).
        ticket: LookupTicket,
    },
    /// A post names a session of another shard. Occurs only if [`ConfigBuilder::forwarding`] is on.
    ///
    /// [`ConfigBuilder::forwarding`]: crate::ConfigBuilder::forwarding
    Foreign {
        /// The shard that the token names. It may not exist, because the client could have made up
        /// the token.
        shard: ShardId,
        /// What to pass to [`deliver`](crate::Server::deliver) of that shard.
        post: ForwardedPost,
        /// Identifies the post in [`Server::acknowledge`](crate::Server::acknowledge), which takes
        /// that shard's outcome.
        ticket: PostTicket,
    },
    /// The outcome of a forwarded post that was [held](Delivery::Held) here. Occurs once for each.
    Settled {
        /// The post. The handle is invalid from now on.
        post: QueuedPostId,
        /// What to pass to [`acknowledge`](crate::Server::acknowledge) of the shard that forwarded
        /// it.
        outcome: Outcome,
    },
    /// A session to which a frame could not be sent because of
    /// [`SendError::Full`](crate::SendError::Full) has room again.
    Unblocked {
        /// The session.
        session: SessionId,
    },
    /// A session has ended. This is its last event.
    Closed {
        /// The session. The handle is invalid from now on.
        session: SessionId,
        /// Why it ended.
        reason: CloseReason,
        /// Number of queued frames that were not written completely.
        frames_undelivered: u32,
    },
    /// The shutdown is complete: no connection is open. This is the last event, and it occurs once.
    Drained,
}

/// What a driver has to do with a socket. [`Server::interest`](crate::Server::interest) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Read from the socket if `read`, and write the bytes of [`transmit`](crate::Server::transmit)
    /// if `write`.
    Io {
        /// Whether the core accepts input.
        read: bool,
        /// Whether there are bytes to write.
        write: bool,
    },
    /// Shut down the write side, and continue to read until the end of input.
    Linger,
    /// Close the socket and call [`handle_disconnect`](crate::Server::handle_disconnect).
    Close,
}

/// The answer to [`Event::Asked`], for [`Server::authorize`](crate::Server::authorize).
///
/// ```
/// use mcp_sse_core::{Principal, Refusal, Verdict};
///
/// fn authenticate(token: Option<&str>) -> Verdict {
///     match token {
///         Some("s3cr3t") => Verdict::Allow(Principal::new("alice")),
///         Some(_) => Verdict::Refuse(Refusal::InvalidToken),
///         None => Verdict::Refuse(Refusal::Unauthenticated),
///     }
/// }
/// assert_eq!(authenticate(Some("s3cr3t")), Verdict::Allow(Principal::new("alice")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may proceed on behalf of this principal.
    Allow(Principal),
    /// The request is refused.
    Refuse(Refusal),
}

/// How an authorizer refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// 401: the request has no credentials.
    Unauthenticated,
    /// 401 with `error="invalid_token"`: the credentials are invalid (RFC 6750 §3.1).
    InvalidToken,
    /// 403: valid credentials without permission.
    Forbidden,
    /// 503: the authorizer cannot decide at present.
    Unavailable,
}

/// The outcome of a post, for [`Server::acknowledge`](crate::Server::acknowledge).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 202: the message was accepted.
    Accepted,
    /// 404: the session does not exist.
    UnknownSession,
    /// 503 with `Retry-After`: the session has no room.
    Busy,
    /// 429: the rate of posts to the session or of its principal was exceeded.
    RateLimited {
        /// The time until the next post is allowed. It is sent in whole seconds, rounded up.
        retry_after: Duration,
    },
}

/// What [`Server::deliver`](crate::Server::deliver) did with a forwarded post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The post was processed, with this outcome.
    Done(Outcome),
    /// The session has no room. The post is held for at most [`Timeouts::hold`], like other posts
    /// of the session, and [`Event::Settled`] reports its outcome.
    ///
    /// [`Timeouts::hold`]: crate::Timeouts::hold
    Held(QueuedPostId),
}

/// The session that a post names, for the shard that owns the session.
#[derive(Debug)]
pub struct SessionLookup {
    pub(crate) claim: SessionRef,
}

/// The result of [`Server::look_up`](crate::Server::look_up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupAnswer {
    /// The session exists and takes posts, so the body of the post is read.
    Found,
    /// 404: the client has no such session.
    UnknownSession,
    /// 503 with `Retry-After`: the shard takes no posts, or cannot be reached.
    Unavailable,
}

/// The phase of a server's life. [`Server::phase`](crate::Server::phase) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerPhase {
    /// The server accepts connections and requests. A shutdown may have been asked for and wait for
    /// [`Timeouts::drain_delay`](crate::Timeouts::drain_delay).
    Running,
    /// The server is shutting down: requests in progress may finish, and remaining connections are
    /// closed at `until`.
    Draining {
        /// The end of the grace period; `None` if
        /// [`Timeouts::shutdown_grace`](crate::Timeouts::shutdown_grace) is `None`.
        until: Option<Time>,
    },
    /// The shutdown is complete: no connection is open.
    Drained,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed its stream, or the connection was lost.
    Peer,
    /// The application closed the session.
    Application,
    /// The client took none of the queued bytes for too long
    /// ([`Timeouts::stall`](crate::Timeouts::stall)).
    Stalled,
    /// The client sent no post for too long
    /// ([`Timeouts::session_idle`](crate::Timeouts::session_idle)).
    Idle,
    /// The session's lifetime is over
    /// ([`Timeouts::session_lifetime`](crate::Timeouts::session_lifetime)).
    Expired,
    /// The token with which the session was opened is no longer valid
    /// ([`Server::replace_tokens`](crate::Server::replace_tokens)).
    TokenRemoved,
    /// The server is shutting down.
    Shutdown,
    /// The client violated the protocol on its stream.
    Fault(Fault),
}

impl Event {
    /// The bytes that the event counts towards `bodies_bytes_max` until it is polled.
    pub(crate) fn body_bytes(&self) -> u64 {
        match self {
            Self::Asked { head, .. } | Self::Opened { head, .. } => head.memory_bytes(),
            Self::Message { message, .. } => message.memory_bytes(),
            Self::Foreign { post, .. } => post.message.memory_bytes(),
            // A lookup has no memory besides the event.
            Self::LookedFor { .. }
            | Self::Settled { .. }
            | Self::Unblocked { .. }
            | Self::Closed { .. }
            | Self::Drained => 0,
        }
    }
}

impl CloseReason {
    /// The name of the variant in `snake_case`, for log records and for labels of metrics. That of
    /// [`Fault`](Self::Fault) is the [label of the fault](Fault::label).
    ///
    /// ```
    /// # use mcp_sse_core::{CloseReason, Fault};
    /// assert_eq!(CloseReason::Peer.label(), "peer");
    /// assert_eq!(CloseReason::Fault(Fault::StreamInput).label(), "stream_input");
    /// ```
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Application => "application",
            Self::Stalled => "stalled",
            Self::Idle => "idle",
            Self::Expired => "expired",
            Self::TokenRemoved => "token_removed",
            Self::Shutdown => "shutdown",
            Self::Fault(fault) => fault.label(),
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
            Self::TokenRemoved => f.write_str("its token was removed"),
            Self::Shutdown => f.write_str("shutting down"),
            Self::Fault(fault) => fmt::Display::fmt(fault, f),
        }
    }
}

/// A complete post for a session of another shard. Pass it to
/// [`Server::deliver`](crate::Server::deliver) of that shard.
#[derive(Debug)]
pub struct ForwardedPost {
    /// Boxed, so that an event is small. The connection that waits for the outcome has no boxed action, so
    /// the memory formula has room for it.
    pub(crate) claim: Box<SessionRef>,
    pub(crate) message: Message,
}

impl ForwardedPost {
    /// The shard that the session token names. It may not exist.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.claim.token.shard()
    }

    /// The memory of the post in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.message.memory_bytes()
    }
}

/// How many sessions a [`Server::broadcast`](crate::Server::broadcast) reached. Add the values of
/// several shards with `+`.
///
/// ```
/// # use mcp_sse_core::Reach;
/// let one = Reach { queued: 3, full: 1, ..Reach::default() };
/// let two = Reach { queued: 2, gone: 1, ..Reach::default() };
/// assert_eq!(one + two, Reach { queued: 5, full: 1, too_large: 0, gone: 1 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Sessions in whose queue the frame was put.
    pub queued: u32,
    /// Sessions whose queue was full. [`Event::Unblocked`] follows for each.
    pub full: u32,
    /// Sessions for which the frame is larger than a queue can ever be
    /// ([`SendError::TooLarge`](crate::SendError::TooLarge)).
    pub too_large: u32,
    /// Sessions that have ended or are ending.
    pub gone: u32,
}

impl Add for Reach {
    type Output = Self;

    /// Adds the counts of two shards.
    fn add(self, other: Self) -> Self {
        Self {
            queued: self.queued + other.queued,
            full: self.full + other.full,
            too_large: self.too_large + other.too_large,
            gone: self.gone + other.gone,
        }
    }
}

/// An owned copy of a request's head, without the query of its target.
///
/// ```
/// use mcp_sse_core::{Config, Event, Peer, Server, Time};
///
/// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
/// let mut server = Server::new(Config::default(), entropy, Time::ZERO);
/// let conn = server.accept(Peer::local(), Time::ZERO)?;
/// let get = b"GET /sse?x=y HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t1\r\n\r\n";
/// server.handle_input(conn, get, Time::ZERO);
/// let Some(Event::Opened { head, .. }) = server.poll_event() else { panic!() };
/// assert_eq!(head.path(), "/sse");
/// assert_eq!(head.field("host"), Some(&b"localhost"[..]));
/// assert_eq!(head.bearer_token(), Some("t1"));
/// # Ok::<(), mcp_sse_core::AcceptError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    method: Method,
    version: Version,
    client: Option<IpAddr>,
    /// The length of the part of the path that names the service.
    service_len: u32,
    /// The path, then the name and the value of each field, without separators.
    octets: Box<[u8]>,
    /// The end offset of each of those parts in `octets`.
    ends: Box<[u32]>,
}

impl RequestHead {
    /// Copies the head of a request to `service`, the first part of its path.
    pub(crate) fn capture(head: &Head<'_>, service: &str, client: Option<IpAddr>) -> Self {
        let mut octets = Vec::new();
        let mut ends = Vec::new();
        let mut add = |part: &[u8]| {
            octets.extend_from_slice(part);
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

    /// The bytes that the copy counts towards `bodies_bytes_max` while its event waits.
    pub(crate) const fn memory_bytes(&self) -> u64 {
        (self.octets.len() + self.ends.len() * size_of::<u32>()) as u64
    }

    /// The request method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The HTTP version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The address of the client: the peer of the connection, or the address that a [trusted
    /// proxy](crate::ConfigBuilder::trusted_proxy) states. `None` if there is no address, as on a
    /// Unix socket, or if the proxy hides it.
    #[must_use]
    pub const fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The path of the request target. The query is omitted, because it may contain a session
    /// token.
    #[must_use]
    pub fn path(&self) -> &str {
        core::str::from_utf8(self.part(0)).unwrap_or_default()
    }

    /// The path of the service that the request is for, as set by
    /// [`ConfigBuilder::service_path`](crate::ConfigBuilder::service_path). Empty if there is only
    /// the service at the root.
    #[must_use]
    pub fn service_path(&self) -> &str {
        self.path().get(..self.service_len as usize).unwrap_or_default()
    }

    /// The names and values of all fields, in order. Names are spelled as they were sent; values
    /// have no surrounding white space.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        (1..self.ends.len())
            .step_by(2)
            .map(|at| (core::str::from_utf8(self.part(at)).unwrap_or_default(), self.part(at + 1)))
    }

    /// The value of the first field called `name`, or `None`. Names are compared
    /// case-insensitively.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The token in `Authorization: Bearer <token>` (RFC 6750 §2.1); the scheme is compared
    /// case-insensitively. `None` if the field is missing, occurs more than once, or has another
    /// scheme. Whether the text has the form of a token is not checked.
    #[must_use]
    pub fn bearer_token(&self) -> Option<&str> {
        let fields = self.fields().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let token = bearer_token(fields.map(|(_, value)| value)).ok()??;
        core::str::from_utf8(token).ok()
    }

    /// The position of the request in a distributed trace: the value of its field `traceparent`.
    /// `None` if there is no such field, more than one, or an invalid one.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        let named = |(name, value): (&str, _)| {
            name.eq_ignore_ascii_case(trace_context::FIELD).then_some(value)
        };
        TraceParent::of_fields(self.fields().filter_map(named))
    }

    fn part(&self, at: usize) -> &[u8] {
        let end = |at: usize| self.ends.get(at).map_or(0, |&end| end as usize);
        let start = at.checked_sub(1).map_or(0, end);
        self.octets.get(start..end(at)).unwrap_or_default()
    }
}

impl fmt::Debug for RequestHead {
    // Prints names only, because values may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [", self.method, self.path())?;
        for (at, (name, _)) in self.fields().enumerate() {
            write!(f, "{}{name}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
