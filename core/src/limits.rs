//! All limits and timeouts, with their defaults and the reasons for them.
//!
//! Knows: the numbers, and the memory that they allow ([`Limits::memory_bytes_max`]).
//! Does not know: what happens when a limit is reached. `None` always means unlimited, and zero
//! means zero.
//!
//! Decision: a limit that is divided among shards is rounded up, so that no shard has a limit of
//! zero and refuses everything. All shards together may therefore exceed a limit on a number of
//! things by less than one for each shard. They may exceed a limit on bytes by more, because the
//! share of `bodies_bytes_max` and of `queues_bytes_max` has room for at least one of the longest
//! messages. [`Limits::memory_bytes_max_of`] says how much memory this allows. It also counts the
//! mailboxes between shards. Each of them may hold as many bytes as a shard's budget of bodies, so
//! that a client that posts two large messages at once is not refused.

use core::time::Duration;

use crate::http1::{BodyLimits, FIELDS_CAP, HeadLimits};
use crate::policy::rate::Rate;

/// Defines a struct of settings and its `Default`, with the default of each field beside the field.
macro_rules! settings {
    ($( #[$meta:meta] )+ pub struct $name:ident {
        $( $( #[$doc:meta] )* $visibility:vis $field:ident: $type:ty = $default:expr, )+
    }) => {
        $( #[$meta] )+
        pub struct $name {
            $( $( #[$doc] )* $visibility $field: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }
    };
}
pub(crate) use settings;

settings! {
    /// The limits of a server.
    ///
    /// `None` means unlimited; zero means none at all. Byte counts of queues include
    /// [`SEGMENT_COST`](Self::SEGMENT_COST) for each queued piece, so that many small frames count
    /// for the memory they take. A number in parentheses is the status code with which a request
    /// over the limit is answered.
    ///
    /// A limit applies to the whole server, unless its description names one address, one principal,
    /// one session, one connection or one request. If the server has several shards, the limits on
    /// the server, on an address and on a principal are divided, except rates: each shard has
    /// [its share](Self::share_of).
    ///
    /// Use `..Limits::default()` for the fields that you do not change: a minor release may add
    /// limits, each with a default.
    ///
    /// ```
    /// use mcp_sse_core::{Config, Limits, Timeouts};
    ///
    /// let limits = Limits { sessions_max: Some(10), ..Limits::default() };
    /// let timeouts = Timeouts { idle: None, ..Timeouts::default() };
    /// let config = Config::builder().limits(limits).timeouts(timeouts).build()?;
    /// assert_eq!(config.limits().sessions_max, Some(10));
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Limits {
        /// Open connections of the server. While so many are open, no further connection is
        /// accepted, and one without a request in progress is closed, as
        /// [`connections_reserve`](Self::connections_reserve) describes. Default: 10,240.
        ///
        /// When a listener of an adapter starts to serve, it lowers this to the number of file
        /// descriptors that the process can still open, and leaves a few of them free. It does not
        /// know how many descriptors the application will need for its sessions.
        pub connections_max: Option<u32> = Some(10_240),
        /// Connections that are reserved for requests, so that streams cannot take all of them. It
        /// is never more than an eighth of `connections_max`. Default: 1,024.
        ///
        /// A GET for a stream is answered 503 while streams have all connections but these.
        ///
        /// While `connections_max` connections are open, the connection that has been without a
        /// request in progress for the longest time is closed. Such a connection has sent nothing
        /// or an incomplete head, is between two requests, or is reading and discarding input after
        /// its last answer. It must have been in this state for 1 s, or another connection must
        /// have just been accepted into the last place and nothing may be queued for its peer.
        ///
        /// With zero, with fewer than 8 in `connections_max`, and with unlimited connections, no
        /// connection is reserved, and none is closed to make room.
        // A tenth of all connections.
        pub connections_reserve: u32 = 1_024,
        /// Connections from one address (for IPv6, one /64). Loopback peers and trusted proxies are
        /// exempt. Default: 256.
        pub connections_per_address_max: Option<u32> = Some(256),
        /// Open sessions (503). Default: 8,192.
        pub sessions_max: Option<u32> = Some(8_192),
        /// Sessions of clients at one address (for IPv6, one /64), which is the address of the peer
        /// or the one that a trusted proxy states (503). Loopback addresses and trusted proxies are
        /// exempt. Default: 128.
        pub sessions_per_address_max: Option<u32> = Some(128),
        /// Sessions of one principal (503). Default: 128.
        pub sessions_per_principal_max: Option<u32> = Some(128),
        /// Rate at which clients at one address may open sessions (503), with the exemptions of
        /// `sessions_per_address_max`. Default: `None`, unlimited.
        pub sessions_rate_per_address: Option<Rate> = None,
        /// Rate of posts to one session (429). Some clients send nothing more after a post was
        /// refused. Default: `None`, unlimited.
        pub posts_rate_per_session: Option<Rate> = None,
        /// Rate of posts of one principal, including refused ones (429). Each shard counts
        /// separately. Default: `None`, unlimited.
        pub posts_rate_per_principal: Option<Rate> = None,
        /// Addresses for which `sessions_rate_per_address` is counted, and principals without a
        /// session for which `posts_rate_per_principal` is counted. An address or a principal that
        /// may use its full burst again is removed when there are too many. If none can be removed,
        /// the rate does not apply to further ones. Default: 16,384 of each.
        pub rate_entries_max: Option<u32> = Some(16_384),
        /// Bytes of one request head, from the request line to the blank line (431). Default: 16
        /// KiB.
        pub head_bytes_max: Option<u32> = Some(16 << 10),
        /// Header fields of one request, at most [`FIELDS_CAP`] (431). Default: 100.
        pub fields_max: u32 = 100,
        /// Bytes of one request target (414). Default: 8 KiB.
        pub target_bytes_max: Option<u32> = Some(8 << 10),
        /// Bytes of the body of one post (413). It cannot be above `bodies_bytes_max`: a longer
        /// body could never be received. [`with_body_bytes_max`](Self::with_body_bytes_max) raises
        /// the limits that depend on it as well. Default: 4 MiB.
        // The limit of the servers of the Python and TypeScript SDKs.
        pub body_bytes_max: Option<u64> = Some(4 << 20),
        /// Bytes of all chunk extensions of one body (413). Default: 16 KiB.
        pub extension_bytes_max: Option<u32> = Some(16 << 10),
        /// Bytes of the trailer section of one body (431). Default: 16 KiB.
        pub trailer_bytes_max: Option<u32> = Some(16 << 10),
        /// Request bytes in memory: bodies that are incomplete or that the application has not
        /// taken, pipelined input after them, and heads in events that the application has not
        /// polled (503). Default: 64 MiB.
        pub bodies_bytes_max: Option<u64> = Some(64 << 20),
        /// Request bytes in memory that come from clients at one address, with the exemptions of
        /// `sessions_per_address_max`: incomplete bodies, bodies that are held or forwarded to
        /// another shard, and pipelined input after them (503). A body that arrives complete in one
        /// read does not count unless it is held. One message of `body_bytes_max` is always
        /// allowed. Default: 16 MiB.
        // A quarter of `bodies_bytes_max`: four of the longest bodies.
        pub bodies_bytes_per_address_max: Option<u64> = Some(16 << 20),
        /// Nesting of arrays and objects in one message (400). Default: 128.
        // The default of serde_json.
        pub nesting_max: Option<u32> = Some(128),
        /// Messages of one session that the application has not taken. Further posts are held.
        /// Default: 64.
        pub inbound_messages_max: Option<u32> = Some(64),
        /// Bytes of the messages of one session that the application has not taken. Further posts
        /// are held; a single larger message is allowed. Keep it much smaller than
        /// `bodies_bytes_max`, because all sessions share that limit. Default: 1 MiB.
        // The messages that a slow handler of one session leaves take a sixty-fourth of
        // `bodies_bytes_max`. A single larger message is allowed anyway.
        pub inbound_bytes_max: Option<u64> = Some(1 << 20),
        /// Requests of one session that have not been answered. Further requests are held. Default:
        /// 64.
        pub in_flight_max: Option<u32> = Some(64),
        /// Posts forwarded by other shards that are held here until their sessions have room (503).
        /// Default: 10,240.
        // As many as connections, each of which has one post in progress.
        pub forwarded_max: Option<u32> = Some(10_240),
        /// Bytes queued for the stream of one session. A single larger frame is allowed. Default: 1
        /// MiB.
        pub queue_bytes_max: Option<u64> = Some(1 << 20),
        /// Bytes that each session may queue regardless of other sessions. What it queues beyond
        /// them counts towards `queues_bytes_max`. Default: 16 KiB.
        // As much as the head of a request may take. A connection with a stream stores no head,
        // so the sum of all limits does not grow. Most answers to `tools/call` fit.
        pub queue_reserve_bytes: u64 = 16 << 10,
        /// Bytes queued for all peers together, not counting what `queue_reserve_bytes` allows each
        /// session. Default: 64 MiB.
        ///
        /// A frame larger than the sum of this and `queue_reserve_bytes` can never be sent. To send
        /// an answer as long as the longest post, this sum must be a little more than
        /// `body_bytes_max`. While a frame waits for room, the connections with the largest queues
        /// whose peers take no bytes are closed: see [`Timeouts::stall_when_full`].
        pub queues_bytes_max: Option<u64> = Some(64 << 20),
        /// Bytes that a peer must take to restart the [stall timer](Timeouts::stall) while more
        /// than this is queued for it. A frame counts with its full length until all of it was
        /// sent. While no more than this is queued, any byte restarts the timer. A peer that takes
        /// single bytes can therefore keep only a queue of this size. Default: 1 KiB.
        // 1 KiB in 30 s is slower than any usable link.
        pub stall_bytes_min: u64 = 1 << 10,
        /// Bytes of answers queued on one post connection. While they exceed it, the connection is
        /// not read. Default: 64 KiB.
        pub answers_bytes_max: Option<u64> = Some(64 << 10),
        /// Bytes that a client may send after the GET on a stream's connection. With more, the
        /// connection is closed. Default: 4 KiB.
        pub stream_input_bytes_max: u32 = 4 << 10,
        /// Bytes of the body of a refused request that are read and discarded to keep the
        /// connection. A connection with a longer body is closed. Default: 64 KiB.
        pub discard_bytes_max: u32 = 64 << 10,
        /// Bytes that are read and discarded before a connection is closed, so that a TCP reset
        /// does not destroy the last answer (RFC 9112 §9.6). Default: 16 MiB.
        // Clients send the whole body before they read the answer. With 64 KiB the official
        // SDKs lose the 413 for a post of 5 MiB on loopback. `Timeouts::linger` limits it as
        // well.
        pub linger_bytes_max: u32 = 16 << 20,
        /// Events that the application has not polled. With more, new sessions are answered 503,
        /// and so are requests that need an authorizer's decision, posts that would be forwarded to
        /// another shard, and posts whose session would be looked up there. Messages are limited
        /// for each session, and the event that a session has ended is never refused. Default:
        /// 65,536.
        pub events_max: Option<u32> = Some(65_536),
    }
}

impl Limits {
    /// The cost of one queued piece of output in addition to its bytes: its entry in the queue,
    /// doubled because queues grow by doubling.
    pub const SEGMENT_COST: u64 = 64;

    /// Sets `body_bytes_max`, and raises the limits that would otherwise prevent such a post or an
    /// answer of the same length. `None` means unlimited.
    ///
    /// `bodies_bytes_max` and `queues_bytes_max` are raised to four times the value, so that
    /// several of the longest messages fit, `bodies_bytes_per_address_max` to twice the value, and
    /// `inbound_bytes_max` to a quarter of it. With `None` these four become `None` too. No limit
    /// is lowered except `body_bytes_max`.
    ///
    /// The default limits are those for the default of 4 MiB:
    ///
    /// ```
    /// # use mcp_sse_core::Limits;
    /// let limits = Limits::default();
    /// assert_eq!(limits.clone().with_body_bytes_max(Some(4 << 20)), limits);
    /// let limits = limits.with_body_bytes_max(Some(100 << 20));
    /// assert_eq!(limits.bodies_bytes_max, Some(400 << 20));
    /// ```
    #[must_use]
    pub fn with_body_bytes_max(self, body_bytes_max: Option<u64>) -> Self {
        let raised = |limit: Option<u64>, to: Option<u64>| Some(limit?.max(to?));
        let limits = Self { body_bytes_max, ..self };
        let several = body_bytes_max.map(|bytes| bytes.saturating_mul(4));
        let queues = several.zip(limits.answer_bytes_max()).map(|(several, one)| several.max(one));
        Self {
            bodies_bytes_max: raised(limits.bodies_bytes_max, several),
            queues_bytes_max: raised(limits.queues_bytes_max, queues),
            bodies_bytes_per_address_max: raised(
                limits.bodies_bytes_per_address_max,
                body_bytes_max.map(|bytes| bytes.saturating_mul(2)),
            ),
            inbound_bytes_max: raised(limits.inbound_bytes_max, body_bytes_max.map(|b| b / 4)),
            ..limits
        }
    }

    /// The largest amount of memory that the core can hold, in bytes; [`u64::MAX`] if a limit that
    /// contributes is `None`. It is valid if the application polls events after each call, and if
    /// what it reports with [`set_backlog`](crate::Server::set_backlog) is true.
    ///
    /// The memory of the driver for each connection, the names of principals and the overhead of
    /// the allocator are not included. Long texts of the configuration, such as an index page, are
    /// included in [`Config::memory_bytes_max`](crate::Config::memory_bytes_max).
    ///
    /// ```
    /// # use mcp_sse_core::Limits;
    /// let limits = Limits { connections_max: Some(100), sessions_max: Some(50),
    /// ..Limits::default() };
    /// assert!(limits.memory_bytes_max() < Limits::default().memory_bytes_max());
    /// let unlimited = Limits { connections_max: None, ..limits };
    /// assert_eq!(unlimited.memory_bytes_max(), u64::MAX);
    /// ```
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let connections = or_unlimited(self.connections_max);
        let sessions = or_unlimited(self.sessions_max);
        let mut sum: u64 = 0;
        let mut add = |count: u64, each: u64| sum = sum.saturating_add(count.saturating_mul(each));
        // Its slot, timers, list entries and address count, and a pending decision.
        add(connections, CONN_BYTES);
        // An incomplete head, or a head that waits for a decision.
        let head = or_unlimited(self.head_bytes_max).saturating_add(HEAD_BYTES);
        add(connections, head);
        // A connection with a stream holds no head, but the reserved part of its queue.
        add(sessions, self.queue_reserve_bytes.saturating_sub(head));
        // An answer that is queued regardless of any budget.
        add(connections, ANSWER_BYTES);
        // Its slot, list entries, and the counts of its address and principal.
        add(sessions, SESSION_BYTES);
        // Stored rates.
        for rate in [self.sessions_rate_per_address, self.posts_rate_per_principal] {
            add(rate.map_or(0, |_| or_unlimited(self.rate_entries_max)), RATE_BYTES);
        }
        // The unanswered requests. One list more, because a list grows into a new one.
        let in_flight = or_unlimited(self.in_flight_max);
        add(sessions.saturating_add(1).saturating_mul(in_flight), IN_FLIGHT_BYTES);
        // The slots of posts of other shards, their list entries and their events.
        add(or_unlimited(self.forwarded_max), FORWARD_BYTES);
        // Request bytes: bodies, input after them, heads in events. Then one more body or head,
        // which is copied to larger memory before the smaller is freed.
        add(1, or_unlimited(self.bodies_bytes_max));
        let head = or_unlimited(self.head_bytes_max);
        add(1, or_unlimited(self.body_bytes_max).max(head));
        // Answers and frames that have not been written, including their queue entries.
        add(1, or_unlimited(self.queues_bytes_max));
        // Events that have not been polled: those that `events_max` limits, and for each session
        // its messages up to its own limit, one event that it has room, and one that it has ended.
        add(or_unlimited(self.events_max).saturating_add(1), EVENT_BYTES);
        let own = or_unlimited(self.inbound_messages_max).saturating_add(2);
        add(sessions.saturating_mul(own), EVENT_BYTES);
        sum
    }

    /// The limits of each of `shards` shards that together have these limits. Limits on the whole
    /// server are divided and rounded up; limits on one request or one session stay the same.
    ///
    /// A shard must be able to receive and send a message of the largest length. Its share of
    /// `bodies_bytes_max` is therefore at least the longest post and its head, its share of
    /// `queues_bytes_max` at least an answer of that length, both plus a quarter of the post for
    /// other sessions; but no share is larger than the whole limit. With many shards the shares can
    /// therefore exceed the whole limits: [`memory_bytes_max_of`](Self::memory_bytes_max_of) is
    /// their sum.
    ///
    /// Limits per address and per principal are divided as well. Connections are distributed over
    /// the shards by chance, so one shard can reach its share of such a limit before all shards
    /// together reach the limit; with many shards, long before. Rates are not divided, and each
    /// shard counts them separately.
    ///
    /// ```
    /// # use mcp_sse_core::Limits;
    /// let share = Limits { sessions_max: Some(10), ..Limits::default() }.share_of(4);
    /// assert_eq!(share.sessions_max, Some(3));
    /// assert_eq!(share.body_bytes_max, Limits::default().body_bytes_max);
    /// ```
    #[must_use]
    pub fn share_of(&self, shards: u16) -> Self {
        let shards = shards.max(1);
        let count = |limit: Option<u32>| limit.map(|limit| limit.div_ceil(shards.into()));
        let bytes = |whole: Option<u64>, least: Option<u64>| {
            let (whole, least) = (whole?, least.unwrap_or(u64::MAX));
            Some(whole.div_ceil(shards.into()).max(least).min(whole))
        };
        Self {
            connections_max: count(self.connections_max),
            connections_reserve: self.connections_reserve.div_ceil(shards.into()),
            connections_per_address_max: count(self.connections_per_address_max),
            sessions_max: count(self.sessions_max),
            sessions_per_address_max: count(self.sessions_per_address_max),
            sessions_per_principal_max: count(self.sessions_per_principal_max),
            rate_entries_max: count(self.rate_entries_max),
            forwarded_max: count(self.forwarded_max),
            bodies_bytes_max: bytes(self.bodies_bytes_max, self.request_bytes_max()),
            // One message always fits: see `address_bodies_bytes_max`.
            bodies_bytes_per_address_max: bytes(self.bodies_bytes_per_address_max, Some(0)),
            queues_bytes_max: bytes(self.queues_bytes_max, self.answer_bytes_max()),
            events_max: count(self.events_max),
            ..self.clone()
        }
    }

    /// The largest part of `bodies_bytes_max` that one request can take, plus a quarter of its body
    /// for other requests; `None` if it is unlimited.
    fn request_bytes_max(&self) -> Option<u64> {
        let (body, head) = (self.body_bytes_max?, u64::from(self.head_bytes_max?));
        Some(body.saturating_add(body / 4).saturating_add(head + HEAD_BYTES))
    }

    /// The part of `queues_bytes_max` that an answer as long as the longest post takes, plus a
    /// quarter of it for other answers; `None` if it is unlimited.
    fn answer_bytes_max(&self) -> Option<u64> {
        let body = self.body_bytes_max?;
        Some(body.saturating_add(body / 4).saturating_add(WRAPPING_BYTES))
    }

    /// The largest amount of memory of `shards` shards that each have a [share](Self::share_of) of
    /// these limits, in bytes.
    ///
    /// With several shards it is larger than [`memory_bytes_max`](Self::memory_bytes_max). Each
    /// shard may hold one body beyond its budget, shares are rounded up, and each shard has a
    /// mailbox for posts and lookups of the others. With many shards, the shares of the byte
    /// budgets no longer become smaller, because each has room for one of the longest messages.
    ///
    /// ```
    /// # use mcp_sse_core::Limits;
    /// let limits = Limits::default();
    /// assert_eq!(limits.memory_bytes_max_of(1), limits.memory_bytes_max());
    /// assert!(limits.memory_bytes_max_of(4) > limits.memory_bytes_max());
    /// ```
    #[must_use]
    pub fn memory_bytes_max_of(&self, shards: u16) -> u64 {
        let shards = shards.max(1);
        let share = self.share_of(shards);
        let mut each = share.memory_bytes_max();
        if shards > 1 {
            each = each
                .saturating_add(or_unlimited(share.bodies_bytes_max))
                .saturating_add(or_unlimited(share.body_bytes_max))
                .saturating_add(
                    or_unlimited(share.forwarded_max).saturating_mul(FORWARD_BYTES + LOOKUP_BYTES),
                );
        }
        each.saturating_mul(shards.into())
    }

    /// Lowers the limits of connections and sessions to a number of file descriptors. A connection
    /// takes one descriptor, and a session takes `per_session` in addition to that of its
    /// connection.
    ///
    /// `connections_max` is lowered if necessary. If `per_session` is not zero, `sessions_max` is
    /// lowered as well, so that each session can have a second connection for its posts. No limit
    /// is raised. [`connections_reserve`](Self::connections_reserve) applies to the lowered limit.
    ///
    /// ```
    /// # use mcp_sse_core::Limits;
    /// let limits = Limits::default().within_descriptors(1_000, 0);
    /// assert_eq!((limits.connections_max, limits.sessions_max), (Some(1_000), Some(8_192)));
    /// let limits = Limits::default().within_descriptors(1_200, 4);
    /// assert_eq!((limits.connections_max, limits.sessions_max), (Some(400), Some(200)));
    /// ```
    #[must_use]
    pub fn within_descriptors(&self, descriptors: u64, per_session: u32) -> Self {
        let lowered = |limit: Option<u32>, to: u64| {
            let to = u32::try_from(to).unwrap_or(u32::MAX);
            Some(limit.map_or(to, |limit| limit.min(to)))
        };
        let (each, connections) = (u64::from(per_session), or_unlimited(self.connections_max));
        // There are never more sessions than connections.
        let sessions = or_unlimited(self.sessions_max).min(connections);
        if connections.saturating_add(sessions.saturating_mul(each)) <= descriptors {
            return self.clone();
        }
        let most = if each == 0 { sessions } else { sessions.min(descriptors / (each + 2)) };
        let left = descriptors.saturating_sub(most.saturating_mul(each));
        Self {
            connections_max: lowered(self.connections_max, left),
            sessions_max: if most < sessions {
                lowered(self.sessions_max, most)
            } else {
                self.sessions_max
            },
            ..self.clone()
        }
    }

    /// The number of connections that streams cannot take; 0 if connections are unlimited or fewer
    /// than 8.
    pub(crate) fn reserve(&self) -> u32 {
        self.connections_max.map_or(0, |max| self.connections_reserve.min(max / 8))
    }

    /// The limit of request bytes of one address. It is at least one message of `body_bytes_max`.
    pub(crate) fn address_bodies_bytes_max(&self) -> Option<u64> {
        let body = self.body_bytes_max.unwrap_or(u64::MAX);
        self.bodies_bytes_per_address_max.map(|max| max.max(body))
    }

    pub(crate) fn head(&self) -> HeadLimits {
        HeadLimits {
            head_bytes_max: size(self.head_bytes_max),
            fields_max: (self.fields_max as usize).min(FIELDS_CAP),
            target_bytes_max: size(self.target_bytes_max),
        }
    }

    pub(crate) fn body(&self) -> BodyLimits {
        BodyLimits {
            body_bytes_max: self.body_bytes_max.unwrap_or(u64::MAX),
            extension_bytes_max: size(self.extension_bytes_max),
            trailer_bytes_max: size(self.trailer_bytes_max),
        }
    }
}

/// The slot of a connection with its timers and list entries, doubled because the arena grows by
/// doubling; a boxed action, the path at which an exchange was mounted, and two counts of an
/// address.
const CONN_BYTES: u64 = 2 * 640 + 512 + RATE_BYTES / 2;
/// The memory of a captured head in addition to its octets: the end offsets of its parts, and the
/// struct.
const HEAD_BYTES: u64 = 4 * (1 + 2 * FIELDS_CAP as u64) + 64;
/// The slot and list entries of a session, doubled because they grow by doubling, and its counts.
const SESSION_BYTES: u64 = 2 * 320 + 128;
/// A request that has not been answered. Its list is no longer than `in_flight_max`.
const IN_FLIGHT_BYTES: u64 = 24;
/// The most that encloses the text of an answer as long as the longest post: the JSON-RPC envelope,
/// the event, the chunk, and a queue entry.
const WRAPPING_BYTES: u64 = 64 << 10;
/// An address or a principal with its bucket and count, doubled for half-empty nodes of the map.
const RATE_BYTES: u64 = 2 * 72;
/// A post of another shard with its list entry and timer, doubled because they grow by doubling,
/// and its event.
const FORWARD_BYTES: u64 = 2 * (192 + 64 + 24) + EVENT_BYTES;
/// A lookup of another shard in a mailbox, doubled because the mailbox grows by doubling.
const LOOKUP_BYTES: u64 = 2 * 112;
/// One rendered answer with its queue entry: heads are shorter than 400 bytes, texts shorter than
/// 600.
const ANSWER_BYTES: u64 = 1_280;
/// One event, doubled because the queue grows by doubling.
const EVENT_BYTES: u64 = 2 * 128;

fn or_unlimited<T: Into<u64>>(limit: Option<T>) -> u64 {
    limit.map_or(u64::MAX, T::into)
}

fn size(limit: Option<u32>) -> usize {
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// Whether `value` is within `limit`. Every value is within `None`.
pub(crate) fn within<T: PartialOrd>(limit: Option<T>, value: T) -> bool {
    limit.is_none_or(|limit| value <= limit)
}

/// Whether `count` has reached `limit`, so that one more is too many. `None` allows any number.
pub(crate) fn is_full<T: PartialOrd + From<u32>>(limit: Option<u32>, count: T) -> bool {
    limit.is_some_and(|limit| count >= T::from(limit))
}

settings! {
    /// The timeouts of a server. `None` means that there is no timeout.
    ///
    /// A number in parentheses is the status code with which the request is answered when the time
    /// is over.
    ///
    /// Use `..Timeouts::default()` for the fields that you do not change: a minor release may add
    /// timeouts, each with a default.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mcp_sse_core::{Config, Timeouts};
    /// let session_idle = Some(Duration::from_secs(3600));
    /// let timeouts = Timeouts { session_idle, ..Timeouts::default() };
    /// let config = Config::builder().timeouts(timeouts).build()?;
    /// assert_eq!(config.timeouts().head, Some(Duration::from_secs(10)));
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Timeouts {
        /// Receiving a request head, from the accept or from the first byte of a later request
        /// (408). A connection that has sent no byte is closed without an answer. Default: 10 s.
        pub head: Option<Duration> = Some(Duration::from_secs(10)),
        /// Receiving a request body (408). Default: 30 s.
        pub body: Option<Duration> = Some(Duration::from_secs(30)),
        /// Idle time of a keep-alive connection between two requests, after which it is closed.
        /// Default: 75 s, longer than the 60 s of common load balancers.
        pub idle: Option<Duration> = Some(Duration::from_secs(75)),
        /// Time without output on a stream, after which a heartbeat is sent. Default: 15 s, shorter
        /// than the idle timeouts of known intermediaries (55 s and more).
        pub heartbeat: Option<Duration> = Some(Duration::from_secs(15)),
        /// Time without progress, after which a connection is closed; if it has a stream, its
        /// session ends. The time runs while bytes are queued for the peer. It starts again when
        /// the peer takes bytes and no more than [`Limits::stall_bytes_min`] is still queued, or
        /// when the peer has taken that many bytes since the last start. While a connection is not
        /// read because of [`Limits::answers_bytes_max`], this is its only timeout. Default: 30 s.
        pub stall: Option<Duration> = Some(Duration::from_secs(30)),
        /// Like `stall`, but only while a frame waits because all queues together have reached
        /// [`Limits::queues_bytes_max`]. Connections whose peers have made no progress for this
        /// long are closed, the largest queue first, until the frame has room. The first one is
        /// closed no earlier than an eighth of this time after frames began to wait. With `None`
        /// only `stall` closes connections. Default: 2 s.
        // Less than the 5 s after which the client of the Python SDK gives up.
        pub stall_when_full: Option<Duration> = Some(Duration::from_secs(2)),
        /// Waiting for the application to authorize a request, or for another shard to say whether
        /// it has the session of a post whose body has not been read (503). A post that has been
        /// forwarded to another shard is answered 503 if its outcome is not known after the sum of
        /// `hold` and this time; if one of the two is `None`, it has no timeout here. Default: 4 s.
        pub decision: Option<Duration> = Some(Duration::from_secs(4)),
        /// How long a post is held while its session has no room. When the time is over, a request
        /// is answered with the JSON-RPC error -32000 on the stream, and its post 202. The post of a
        /// response or a notification is answered 503, and so is that of a request whose id is
        /// longer than 4 KiB or whose error has no room in the session's queue. Default: 4 s, less
        /// than the 5 s after which the client of the Python SDK gives up.
        ///
        /// With `None` a post that has been forwarded to another shard has no timeout here either,
        /// because the other shard may hold it. The driver must then answer its ticket in every
        /// case.
        pub hold: Option<Duration> = Some(Duration::from_secs(4)),
        /// Reading and discarding input after the last answer of a connection, before the connection
        /// is closed, so that a TCP reset does not destroy the answer. Default: 2 s.
        pub linger: Option<Duration> = Some(Duration::from_secs(2)),
        /// Time from when a shutdown is asked for until it begins. The server goes on as before, but
        /// `/ready` is answered 503, so that a load balancer can notice and send new clients
        /// elsewhere. `None` and zero begin at once. Default: `None`.
        pub drain_delay: Option<Duration> = None,
        /// Time over which a shutdown spreads the ends of sessions without requests in flight, so
        /// that their clients do not all come back at the same moment. The first ends at once, and
        /// the others follow at equal intervals. Posts are answered 503 meanwhile. It cannot be above
        /// `shutdown_grace`. `None` and zero end all of them at once. Default: `None`.
        pub drain_spread: Option<Duration> = None,
        /// Time from the beginning of a shutdown until all connections are closed. Default: 5 s.
        pub shutdown_grace: Option<Duration> = Some(Duration::from_secs(5)),
        /// Time without a post after which a session is closed. Default: `None`.
        pub session_idle: Option<Duration> = None,
        /// Lifetime of a session, after which it is closed. Default: `None`.
        pub session_lifetime: Option<Duration> = None,
    }
}

impl Timeouts {
    /// The timeout for the outcome of a forwarded post. It is longer than the other shard can hold
    /// the post, so that a post that is refused here is not accepted there afterwards.
    pub(crate) fn forward(&self) -> Option<Duration> {
        Some(self.hold?.saturating_add(self.decision?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_limits_allow_64_to_512_mib() {
        let bytes = Limits::default().memory_bytes_max();
        assert!((64 << 20..512 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn event_is_no_larger_than_the_memory_formula_assumes() {
        assert!(2 * size_of::<crate::Event>() as u64 <= EVENT_BYTES);
    }

    #[test]
    fn forwarded_post_is_no_larger_than_the_memory_formula_assumes() {
        use crate::server::Forward;
        use crate::session::{PostOrigin, WaitingPost};
        assert!(size_of::<Forward>() + 8 <= 192 && size_of::<(PostOrigin, WaitingPost)>() <= 64);
    }

    #[test]
    fn request_in_flight_is_as_large_as_the_memory_formula_assumes() {
        assert_eq!(crate::session::IN_FLIGHT_BYTES, IN_FLIGHT_BYTES);
    }

    #[test]
    fn slots_are_no_larger_than_the_memory_formula_assumes() {
        use crate::request::Action;
        use crate::route::PATH_BYTES_MAX;
        // In addition there are list entries (64 bytes for a held post) and timers.
        assert!(
            size_of::<crate::conn::Conn>() <= 448
                && size_of::<crate::session::SessionState>() <= 256
        );
        assert!(size_of::<Action>() + PATH_BYTES_MAX <= 512 - RATE_BYTES as usize / 2);
    }

    #[test]
    fn every_limit_contributes_to_the_memory_maximum() {
        let bytes = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits.memory_bytes_max()
        };
        let whole = bytes(|_| {});
        assert!(bytes(|limits| limits.inbound_messages_max = Some(0)) < whole);
        assert!(bytes(|limits| limits.head_bytes_max = Some(0)) < whole);
        assert!(bytes(|limits| limits.body_bytes_max = Some(0)) < whole);
        assert!(bytes(|limits| limits.forwarded_max = Some(0)) < whole);
        let head = (16 << 10) + HEAD_BYTES;
        assert_eq!(bytes(|limits| limits.queue_reserve_bytes = (16 << 10) + HEAD_BYTES), whole);
        let more = bytes(|limits| limits.queue_reserve_bytes = (16 << 10) + HEAD_BYTES + 1);
        assert_eq!(more, whole + 8_192, "each session's own, as far as it is more than {head}");
        assert_eq!(bytes(|limits| limits.inbound_messages_max = None), u64::MAX);
    }

    #[test]
    fn shares_of_shards_sum_up_to_the_whole_limit() {
        let whole = Limits { sessions_max: Some(10), events_max: None, ..Limits::default() };
        let share = whole.share_of(4);
        assert_eq!((share.sessions_max, share.events_max), (Some(3), None));
        assert_eq!(share.bodies_bytes_max, Some(16 << 20));
        assert_eq!((share.body_bytes_max, share.in_flight_max), (Some(4 << 20), Some(64)));
        assert_eq!(share.bodies_bytes_per_address_max, Some(4 << 20));
        let small = whole.share_of(100).address_bodies_bytes_max();
        assert_eq!(small, Some(4 << 20), "one whole message at least");
        assert_eq!(whole.share_of(1), whole);
        let whole = Limits::default();
        assert_eq!(whole.memory_bytes_max_of(1), whole.memory_bytes_max());
        let mailboxes = (64 << 20) + 2 * (4 << 20) + 10_240 * (FORWARD_BYTES + LOOKUP_BYTES);
        let two = whole.memory_bytes_max_of(2) - mailboxes;
        assert_eq!(two, 2 * whole.share_of(2).memory_bytes_max());
        assert!(two < whole.memory_bytes_max() + (5 << 20));
    }

    /// A message that one server can receive and send, each of several shards can too.
    #[test]
    fn share_is_never_less_than_one_message() {
        let whole = Limits::default();
        let longest = whole.body_bytes_max.unwrap();
        for shards in [2, 15, 16, 17, 65, 256, u16::MAX] {
            let share = whole.share_of(shards);
            assert!(share.bodies_bytes_max.unwrap() > longest + (16 << 10), "{shards} shards");
            assert!(share.queues_bytes_max.unwrap() > longest + (32 << 10), "{shards} shards");
        }
        assert_eq!(whole.share_of(8).bodies_bytes_max, Some(8 << 20), "there is enough");
        // A limit that is too small for the longest answer is not raised.
        let small = Limits { queues_bytes_max: Some(1 << 20), ..Limits::default() };
        assert_eq!(small.share_of(4).queues_bytes_max, Some(1 << 20));
        let tiny = Limits {
            body_bytes_max: Some(1_000),
            bodies_bytes_max: Some(1_000),
            queues_bytes_max: Some(70_000),
            ..Limits::default()
        };
        let share = tiny.share_of(3);
        assert_eq!((share.bodies_bytes_max, share.queues_bytes_max), (Some(1_000), Some(66_786)));
        let endless = Limits::default().with_body_bytes_max(None);
        assert_eq!((endless.share_of(3).bodies_bytes_max, endless.queues_bytes_max), (None, None));
        let of_others = Limits { queues_bytes_max: Some(9 << 20), ..endless };
        assert_eq!(of_others.share_of(3).queues_bytes_max, Some(9 << 20), "any post's answer");
    }

    #[test]
    fn memory_of_many_shards_counts_a_message_for_each() {
        let whole = Limits::default();
        let most = whole.memory_bytes_max_of(64);
        assert_eq!(most, 64 * (whole.share_of(64).memory_bytes_max() + mailbox(&whole, 64)));
        // At least a body plus a quarter, a body beyond the budget, an answer plus a quarter, and
        // the mailbox.
        assert!(most > 64 * (22 << 20));
    }

    fn mailbox(whole: &Limits, shards: u16) -> u64 {
        let Limits { bodies_bytes_max, body_bytes_max, forwarded_max, .. } = whole.share_of(shards);
        let posts = u64::from(forwarded_max.unwrap()) * (FORWARD_BYTES + LOOKUP_BYTES);
        bodies_bytes_max.unwrap() + body_bytes_max.unwrap() + posts
    }

    #[test]
    fn with_body_bytes_max_raises_dependent_limits() {
        let check = |bytes: Option<u64>, expected: [Option<u64>; 5]| {
            let limits = Limits::default().with_body_bytes_max(bytes);
            let raised = [
                limits.body_bytes_max,
                limits.bodies_bytes_max,
                limits.bodies_bytes_per_address_max,
                limits.queues_bytes_max,
                limits.inbound_bytes_max,
            ];
            assert_eq!(raised, expected);
        };
        let mib = |count: [u64; 5]| count.map(|count| Some(count << 20));
        check(Some(4 << 20), mib([4, 64, 16, 64, 1]));
        check(Some(1 << 20), mib([1, 64, 16, 64, 1]));
        check(Some(100 << 20), mib([100, 400, 200, 400, 25]));
        let all = Some(u64::MAX);
        check(all, [all, all, all, all, Some(u64::MAX / 4)]);
        check(None, [None; 5]);
        // Unlimited limits stay unlimited, and a small budget of queues is raised to fit an answer.
        let other = Limits {
            bodies_bytes_max: None,
            queues_bytes_max: Some(1_000),
            inbound_bytes_max: None,
            ..Limits::default()
        };
        let other = other.with_body_bytes_max(Some(1_000));
        assert_eq!((other.bodies_bytes_max, other.inbound_bytes_max), (None, None));
        assert_eq!(other.queues_bytes_max, Some(1_250 + WRAPPING_BYTES));
    }

    #[test]
    fn within_descriptors_lowers_connections_and_sessions() {
        let limits = |connections, sessions| Limits {
            connections_max: connections,
            sessions_max: sessions,
            ..Limits::default()
        };
        let check = |before: Limits, descriptors, per_session, expected| {
            let after = before.within_descriptors(descriptors, per_session);
            assert_eq!((after.connections_max, after.sessions_max), expected);
        };
        check(limits(Some(100), Some(50)), 100, 0, (Some(100), Some(50)));
        check(limits(Some(101), Some(50)), 100, 0, (Some(100), Some(50)));
        check(limits(None, None), 100, 0, (Some(100), None));
        check(limits(None, None), u64::MAX, 0, (None, None));
        check(limits(Some(100), Some(50)), 300, 4, (Some(100), Some(50)));
        check(limits(Some(100), Some(50)), 299, 4, (Some(100), Some(49)));
        // Fewer sessions leave more descriptors to connections.
        check(limits(None, Some(10)), 600, 4, (Some(560), Some(10)));
        check(limits(None, None), 600, 4, (Some(200), Some(100)));
        check(limits(Some(8), None), 600, 4, (Some(8), None));
        check(limits(Some(10), Some(10)), 0, 4, (Some(0), Some(0)));
    }

    #[test]
    fn rates_contribute_to_the_memory_maximum_if_set() {
        let rate = "10/minute".parse().ok();
        let without = Limits { rate_entries_max: None, ..Limits::default() };
        assert_eq!(without.memory_bytes_max(), Limits::default().memory_bytes_max());
        let with = Limits { sessions_rate_per_address: rate, ..Limits::default() };
        let more = with.memory_bytes_max() - without.memory_bytes_max();
        assert_eq!(more, 16_384 * RATE_BYTES);
        let both = Limits { posts_rate_per_principal: rate, ..with };
        assert_eq!(both.memory_bytes_max() - without.memory_bytes_max(), 2 * more);
    }

    #[test]
    fn connection_reserve_is_at_most_an_eighth() {
        let reserve = |max| Limits { connections_max: max, ..Limits::default() }.reserve();
        assert_eq!([None, Some(7), Some(64), Some(10_240)].map(reserve), [0, 0, 8, 1_024]);
    }

    #[test]
    fn unlimited_limit_makes_the_memory_maximum_unlimited() {
        let limits = Limits { connections_max: None, ..Limits::default() };
        assert_eq!(limits.memory_bytes_max(), u64::MAX);
    }
}
