//! Every limit and every deadline, with its default and the precedent for it.
//!
//! Knows: the numbers, and what they multiply into ([`Limits::memory_bytes_max`]).
//! Does not know: who runs into them. `None` is unlimited, and zero is zero.

use core::time::Duration;

use crate::http1::{BodyLimits, FIELDS_CAP, HeadLimits};
use crate::policy::rate::Rate;

/// How much of everything there may be.
///
/// `None` means unlimited; zero means none at all. Byte counts of queues include
/// [`SEGMENT_COST`](Self::SEGMENT_COST) for each queued piece, so that many small frames cannot hide
/// behind their size.
///
/// Each limit is that of the whole server. Where it has several workers, every one of them gets
/// [its share](Self::share_of).
///
/// Write out those that you change: a minor release may add limits, and each comes with a default.
///
/// ```
/// # use mcp_sse_core::{Config, Limits, Timeouts};
/// let limits = Limits { sessions_max: Some(10), ..Limits::default() };
/// let timeouts = Timeouts { idle: None, ..Timeouts::default() };
/// let config = Config::builder().limits(limits).timeouts(timeouts).build()?;
/// # Ok::<(), mcp_sse_core::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; further ones are not accepted. A listener of an adapter lowers this to
    /// the descriptors that its process may have when it begins to serve, less those that are open and
    /// a few; what the application opens for its sessions is for it to leave room for.
    pub connections_max: Option<u32>,
    /// Connections kept for requests, so that streams cannot have them all and connections that ask
    /// for nothing can be closed in time: never more than an eighth of `connections_max`.
    ///
    /// A GET for another stream is answered 503 while streams have all connections but these. And when
    /// half of these are in use, each further connection closes the one on which no request has been
    /// under way for longest: silent since it came, in the middle of a head, kept alive between two
    /// requests, or about to close.
    pub connections_reserve: u32,
    /// Connections from one address (IPv6: one /64); loopback peers and trusted proxies are exempt.
    pub connections_per_address_max: Option<u32>,
    /// Sessions at once; a further one is answered 503.
    pub sessions_max: Option<u32>,
    /// Sessions of clients at one address (IPv6: one /64), as a trusted proxy names it or as it is;
    /// loopback addresses and trusted proxies are exempt.
    pub sessions_per_address_max: Option<u32>,
    /// Sessions of one principal.
    pub sessions_per_principal_max: Option<u32>,
    /// How often clients at one address may open a session, exempt as above (503); off unless said.
    pub sessions_rate_per_address: Option<Rate>,
    /// How often a session may be posted to (429). Some clients send nothing more after any refusal of
    /// a post. Off unless said.
    pub posts_rate_per_session: Option<Rate>,
    /// How often a principal may post, whatever becomes of its posts (429). Several shards count each
    /// on its own. Off unless said.
    pub posts_rate_per_principal: Option<Rate>,
    /// Addresses whose rate is remembered, and principals without a session whose rate is. When there
    /// are more than this that have not wholly recovered it, the rate does not hold for newcomers.
    pub rate_entries_max: Option<u32>,
    /// The head of one request, request line and blank line included (431).
    pub head_bytes_max: Option<u32>,
    /// Header fields of one request (431); at most [`FIELDS_CAP`].
    pub fields_max: u32,
    /// The target of one request (414).
    pub target_bytes_max: Option<u32>,
    /// The body of one post (413); at most `bodies_bytes_max`, or a body could be within this limit and
    /// never be taken. [`with_body_bytes_max`](Self::with_body_bytes_max) raises what has to be raised
    /// with it.
    pub body_bytes_max: Option<u64>,
    /// Chunk extensions of one body in all (413).
    pub extension_bytes_max: Option<u32>,
    /// The trailer section of one body (431).
    pub trailer_bytes_max: Option<u32>,
    /// Request bytes in memory together: bodies unfinished or not yet taken by the application,
    /// pipelined input behind them, and heads in events that the application has not polled (503).
    pub bodies_bytes_max: Option<u64>,
    /// Of these, bytes that come from clients at one address, exempt as above: bodies unfinished, on
    /// their way to another shard or held, and pipelined input behind them (503). A body that has come
    /// whole in one read does not count while it is not held. One message of `body_bytes_max` is always
    /// allowed.
    pub bodies_bytes_per_address_max: Option<u64>,
    /// Nesting of the JSON of one message (400).
    pub nesting_max: Option<u32>,
    /// Messages of one session that the application has not taken yet; further posts are held.
    pub inbound_messages_max: Option<u32>,
    /// Bytes of such messages; one larger message alone is allowed. Keep it a small part of
    /// `bodies_bytes_max`: what one session's handlers leave lying is refused to all others.
    pub inbound_bytes_max: Option<u64>,
    /// Requests of one session without an answer; further requests are held.
    pub in_flight_max: Option<u32>,
    /// Posts that came by other shards and wait here for room in their sessions; a further one is
    /// answered 503.
    pub forwarded_max: Option<u32>,
    /// Bytes queued for one session's stream; one larger frame alone is allowed.
    pub queue_bytes_max: Option<u64>,
    /// Bytes of each session's queue that are its own: a frame that fits into them never waits for
    /// other sessions' queues. What is queued beyond them counts in `queues_bytes_max`.
    pub queue_reserve_bytes: u64,
    /// Bytes queued for all peers together, without what sessions have of their own
    /// (`queue_reserve_bytes`). No frame can be sent that is larger than this and that reserve; so an
    /// answer as long as the longest post needs a little more than `body_bytes_max`. While a frame waits
    /// for room in it, the largest queues of peers that take nothing are ended: see
    /// [`Timeouts::stall_when_full`].
    pub queues_bytes_max: Option<u64>,
    /// What a peer has to take for the [stall timer](Timeouts::stall) to start anew while more than
    /// this is queued for it (a frame counts whole until all of it has left); while no more is, any
    /// byte will do. So a peer that takes a byte now and then keeps no queue that matters: at most this
    /// much, times the connections.
    pub stall_bytes_min: u64,
    /// Answers queued on one post connection before its pipelined requests have to wait.
    pub answers_bytes_max: Option<u64>,
    /// Bytes a client may send behind the GET on its stream's connection before it is cut.
    pub stream_input_bytes_max: u32,
    /// The body of a refused request that is read and thrown away so that the connection can be
    /// kept; behind a larger one it is closed.
    pub discard_bytes_max: u32,
    /// Bytes read and thrown away before a connection is closed, so that the last answer survives.
    pub linger_bytes_max: u32,
    /// Events the application has not polled before new sessions, questions and forwarded posts are
    /// answered 503. Messages have limits of their own, and every session may end.
    pub events_max: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: Some(10_240),
            // A tenth of all connections.
            connections_reserve: 1_024,
            connections_per_address_max: Some(256),
            sessions_max: Some(8_192),
            sessions_per_address_max: Some(128),
            sessions_per_principal_max: Some(128),
            sessions_rate_per_address: None,
            posts_rate_per_session: None,
            posts_rate_per_principal: None,
            rate_entries_max: Some(16_384),
            head_bytes_max: Some(16 << 10),
            fields_max: 100,
            target_bytes_max: Some(8 << 10),
            // What the Python and TypeScript SDK servers take.
            body_bytes_max: Some(4 << 20),
            extension_bytes_max: Some(16 << 10),
            trailer_bytes_max: Some(16 << 10),
            bodies_bytes_max: Some(64 << 20),
            // A quarter of all, which is four of the largest bodies at once.
            bodies_bytes_per_address_max: Some(16 << 20),
            // serde_json's own default.
            nesting_max: Some(128),
            inbound_messages_max: Some(64),
            // A larger message passes alone; so what a slow handler of one session leaves lying takes
            // a sixty-fourth of `bodies_bytes_max`, and not all of it.
            inbound_bytes_max: Some(1 << 20),
            in_flight_max: Some(64),
            // As many as connections: each has one post under way.
            forwarded_max: Some(10_240),
            queue_bytes_max: Some(1 << 20),
            // As much as a connection may hold of a head: one that carries a stream holds none, so
            // the sum of all limits is no larger for it. Most answers to `tools/call` fit.
            queue_reserve_bytes: 16 << 10,
            queues_bytes_max: Some(64 << 20),
            // 1 KiB in 30 s is slower than any link that is in use.
            stall_bytes_min: 1 << 10,
            answers_bytes_max: Some(64 << 10),
            stream_input_bytes_max: 4 << 10,
            discard_bytes_max: 64 << 10,
            // Clients write a whole body before they look for an answer: with 64 KiB the official
            // SDKs lose the 413 to a 5 MiB post on loopback. Time bounds it as well.
            linger_bytes_max: 16 << 20,
            events_max: Some(65_536),
        }
    }
}

impl Limits {
    /// What one queued piece of output costs beside its bytes: its place in the queue, twice over
    /// because queues grow by doubling.
    pub const SEGMENT_COST: u64 = 64;

    /// These limits for posts of up to `body_bytes_max` bytes, and for answers as long; without end if
    /// it is `None`.
    ///
    /// Sets `body_bytes_max`, and raises what would stop such a body or its answer elsewhere:
    /// `bodies_bytes_max` and `queues_bytes_max` to four times as much, so that a few of the longest
    /// messages are there at once, `bodies_bytes_per_address_max` to twice as much, and
    /// `inbound_bytes_max` to a quarter of it. With `None` these four become `None` as well. Nothing is
    /// lowered but `body_bytes_max`.
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

    /// The most memory the core can hold, in bytes, as a sum that can be read; [`u64::MAX`] where a
    /// term is unlimited. It takes for granted that events are polled after each call, as they should
    /// be, and what an application's own words say to be true
    /// ([`set_backlog`](crate::Server::set_backlog)).
    ///
    /// What the driver holds for each connection comes on top, and so do the names of principals, and
    /// what an allocator rounds up to. Long texts of a configuration, as an index page, are counted by
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max).
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let connections = terms(self.connections_max);
        let sessions = terms(self.sessions_max);
        let mut sum: u64 = 0;
        let mut add = |count: u64, each: u64| sum = sum.saturating_add(count.saturating_mul(each));
        // The slot, its timers, its places in lists, its address's count, what is being decided.
        add(connections, CONN_BYTES);
        // A head that is incomplete, or one that somebody decides about.
        let head = terms(self.head_bytes_max).saturating_add(HEAD_BYTES);
        add(connections, head);
        // A connection that carries a stream holds no head, but what its queue has of its own.
        add(sessions, self.queue_reserve_bytes.saturating_sub(head));
        // An answer past any budget.
        add(connections, ANSWER_BYTES);
        // The slot, its places in lists, its address's and principal's counts.
        add(sessions, SESSION_BYTES);
        // Whose rates are remembered.
        for rate in [self.sessions_rate_per_address, self.posts_rate_per_principal] {
            add(rate.map_or(0, |_| terms(self.rate_entries_max)), RATE_BYTES);
        }
        // The ids of requests in flight, doubled because the list grows by doubling.
        add(sessions.saturating_mul(terms(self.in_flight_max)), 2 * 16);
        // The slots of posts of other shards, their places in lists, and their events.
        add(terms(self.forwarded_max), GUEST_BYTES);
        // Request bytes: bodies, input behind them, heads in events; then those of one body or head
        // more, which grows into new memory before the old is given back.
        add(1, self.bodies_bytes_max.unwrap_or(u64::MAX));
        let head = self.head_bytes_max.map_or(u64::MAX, u64::from);
        add(1, self.body_bytes_max.unwrap_or(u64::MAX).max(head));
        // Answers and frames not yet written, places in queues included.
        add(1, self.queues_bytes_max.unwrap_or(u64::MAX));
        // Events not polled: those that `events_max` stops; behind them, of each session the messages
        // that its own limit stops, and that it has room and that it has ended.
        add(terms(self.events_max).saturating_add(1), EVENT_BYTES);
        let own = terms(self.inbound_messages_max).saturating_add(2);
        add(sessions.saturating_mul(own), EVENT_BYTES);
        sum
    }

    /// The limits of each of `shards` servers that together are to have these: what is counted over a
    /// whole server is divided, rounded up, and what is counted for one peer's request or one session
    /// stays.
    ///
    /// A message is not divided. So no share of `bodies_bytes_max` is less than the longest post and a
    /// head take, and none of `queues_bytes_max` less than an answer as long, with a quarter of the
    /// post on top for what others have there; or than the whole, if that is less. With more shards
    /// than there is room for such messages, the shares are more than the whole together:
    /// [`memory_bytes_max_of`](Self::memory_bytes_max_of) says what they add up to.
    ///
    /// The limits of an address and of a principal are divided as well. So where connections fall on
    /// shards by chance, a limit may be reached on one of them a little before the whole has come to
    /// it. Rates stay as they are, and each shard keeps them by itself.
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
            // One message fits in any case: see `address_bodies_bytes_max`.
            bodies_bytes_per_address_max: bytes(self.bodies_bytes_per_address_max, Some(0)),
            queues_bytes_max: bytes(self.queues_bytes_max, self.answer_bytes_max()),
            events_max: count(self.events_max),
            ..self.clone()
        }
    }

    /// What one request takes of `bodies_bytes_max` at most, and a quarter of its body for what others
    /// have there; `None` if there is no end to it.
    fn request_bytes_max(&self) -> Option<u64> {
        let (body, head) = (self.body_bytes_max?, u64::from(self.head_bytes_max?));
        Some(body.saturating_add(body / 4).saturating_add(head + HEAD_BYTES))
    }

    /// What an answer as long as the longest post takes of `queues_bytes_max`, and a quarter likewise.
    fn answer_bytes_max(&self) -> Option<u64> {
        let body = self.body_bytes_max?;
        Some(body.saturating_add(body / 4).saturating_add(WRAPPING_BYTES))
    }

    /// [`memory_bytes_max`](Self::memory_bytes_max) of `shards` servers that have a
    /// [share](Self::share_of) of these limits each: a little more than that of one which has them all,
    /// because each may have one body more than its budget, and shares are rounded up; and with so many
    /// of them that a share would be less than one message, several messages for each. Where there are
    /// several, each has a mailbox for the others' posts, which takes as many as it may hold and as
    /// many bytes as its budget of bodies, and as many questions about sessions.
    #[must_use]
    pub fn memory_bytes_max_of(&self, shards: u16) -> u64 {
        let shards = shards.max(1);
        let share = self.share_of(shards);
        let mut each = share.memory_bytes_max();
        if shards > 1 {
            let mailbox = |bytes: Option<u64>| bytes.unwrap_or(u64::MAX);
            each = each
                .saturating_add(mailbox(share.bodies_bytes_max))
                .saturating_add(mailbox(share.body_bytes_max))
                .saturating_add(
                    terms(share.forwarded_max).saturating_mul(GUEST_BYTES + LOOKUP_BYTES),
                );
        }
        each.saturating_mul(shards.into())
    }

    /// These limits with no more connections and sessions than there are descriptors for: `descriptors`
    /// of them, of which a connection takes one, and a session `per_session` beside its connection.
    ///
    /// `connections_max` is lowered if it has to be, and where sessions take some as well,
    /// `sessions_max`: so far that each session finds a second connection to post on. Nothing is raised.
    /// [`connections_reserve`](Self::connections_reserve) holds for what is left, so that streams
    /// never have all descriptors.
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
        let (each, connections) = (u64::from(per_session), terms(self.connections_max));
        // There are never more sessions than connections.
        let sessions = terms(self.sessions_max).min(connections);
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

    /// Connections that streams never have; zero where there are too few for a reserve, or no end of
    /// them.
    pub(crate) fn reserve(&self) -> u32 {
        self.connections_max.map_or(0, |max| self.connections_reserve.min(max / 8))
    }

    /// The most request bytes of one address: never less than one whole message.
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

/// A connection's slot with its timers and list entries, doubled for the growth of the arena; and a
/// boxed plan, the path where an exchange was mounted, and two counts of an address.
const CONN_BYTES: u64 = 2 * 640 + 512 + RATE_BYTES / 2;
/// What a captured head holds beside its octets: the ends of target, names and values, and itself.
const HEAD_BYTES: u64 = 4 * (1 + 2 * FIELDS_CAP as u64) + 64;
/// A session's slot and list entries, doubled likewise, and its counts.
const SESSION_BYTES: u64 = 2 * 320 + 128;
/// What an answer may have around a text that is as long as the longest post: its envelope, the event, the
/// chunk, and a place in a queue.
const WRAPPING_BYTES: u64 = 64 << 10;
/// An address or a principal with its bucket and counts, doubled for half-empty nodes of the map.
const RATE_BYTES: u64 = 2 * 72;
/// A post of another shard, a place in its session's list and a timer, doubled likewise, and an event.
const GUEST_BYTES: u64 = 2 * (192 + 64 + 24) + EVENT_BYTES;
/// A question of another shard in a mailbox, doubled likewise.
const LOOKUP_BYTES: u64 = 2 * 112;
/// One rendered answer with its place in a queue: heads are under 400 bytes, texts under 600.
const ANSWER_BYTES: u64 = 1_280;
/// One event, doubled likewise.
const EVENT_BYTES: u64 = 2 * 128;

fn terms(limit: Option<u32>) -> u64 {
    limit.map_or(u64::MAX, u64::from)
}

fn size(limit: Option<u32>) -> usize {
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// Whether `value` is within `limit`; anything is within `None`.
pub(crate) fn within<T: PartialOrd>(limit: Option<T>, value: T) -> bool {
    limit.is_none_or(|limit| value <= limit)
}

/// How long things may take. `None` is for ever.
///
/// Write out those that you change, as with [`Limits`]: a minor release may add deadlines, and each
/// comes with a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A request head, from accept or from the first byte of a later request (408, or silence if
    /// no byte came).
    pub head: Option<Duration>,
    /// A request body (408).
    pub body: Option<Duration>,
    /// A keep-alive connection on which nothing is asked; longer than a balancer's own 60 s.
    pub idle: Option<Duration>,
    /// Silence on a stream before a heartbeat; shorter than every idle limit known (55 s and up).
    pub heartbeat: Option<Duration>,
    /// Bytes are queued and the peer takes none, or fewer than [`Limits::stall_bytes_min`] of many. While
    /// its answers are too many for it to be read ([`Limits::answers_bytes_max`]), this is its only
    /// deadline: with `None` there is none.
    pub stall: Option<Duration>,
    /// As `stall`, while a frame of another session waits for room in all queues together
    /// ([`Limits::queues_bytes_max`]): of the peers that have taken nothing for this long, or fewer
    /// than [`Limits::stall_bytes_min`] of many, those with the largest queues lose their connections,
    /// until there is room. The frame waits for an eighth of this before the first of them does. With
    /// `None` nobody does before `stall`.
    pub stall_when_full: Option<Duration>,
    /// A decision made elsewhere: authorization, deferred acknowledgement, whether another shard has the
    /// session of a post whose body is not read yet (503). What another shard makes of a post may take
    /// this on top of `hold`, as long as it may be held there.
    pub decision: Option<Duration>,
    /// A post held because its session has no room; under the 5 s after which the Python SDK's
    /// client gives up. With `None` a forwarded post has no deadline either, because its own shard may
    /// hold it: its ticket has to be answered.
    pub hold: Option<Duration>,
    /// Reading on behind a refusal, so that the answer is not destroyed by a reset.
    pub linger: Option<Duration>,
    /// From the first request to stop until everything is cut.
    pub shutdown_grace: Option<Duration>,
    /// A session without a post.
    pub session_idle: Option<Duration>,
    /// A session as a whole.
    pub session_lifetime: Option<Duration>,
}

impl Timeouts {
    /// For another shard's answer: later than it can hold the post, so that what is refused here is
    /// not taken in there afterwards.
    pub(crate) fn forward(&self) -> Option<Duration> {
        Some(self.hold?.saturating_add(self.decision?))
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Some(Duration::from_secs(10)),
            body: Some(Duration::from_secs(30)),
            idle: Some(Duration::from_secs(75)),
            heartbeat: Some(Duration::from_secs(15)),
            stall: Some(Duration::from_secs(30)),
            // Less than the 5 s after which the Python SDK's client gives up.
            stall_when_full: Some(Duration::from_secs(2)),
            decision: Some(Duration::from_secs(4)),
            hold: Some(Duration::from_secs(4)),
            linger: Some(Duration::from_secs(2)),
            shutdown_grace: Some(Duration::from_secs(5)),
            session_idle: None,
            session_lifetime: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_multiply_into_a_number_one_can_plan_with() {
        let bytes = Limits::default().memory_bytes_max();
        assert!((64 << 20..512 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn an_event_is_as_small_as_the_formula_says() {
        assert!(2 * size_of::<crate::Event>() as u64 <= EVENT_BYTES);
    }

    #[test]
    fn forward_is_as_small_as_the_formula_says() {
        use crate::server::Forward;
        use crate::session::{PostOrigin, Waiting};
        assert!(size_of::<Forward>() + 8 <= 192 && size_of::<(PostOrigin, Waiting)>() <= 64);
    }

    #[test]
    fn slots_are_as_small_as_the_formula_says() {
        use crate::request::Action;
        use crate::route::PATH_BYTES_MAX;
        // Beside them: list entries (64 bytes for a held post), and timers.
        assert!(
            size_of::<crate::conn::Conn>() <= 448
                && size_of::<crate::session::SessionState>() <= 256
        );
        assert!(size_of::<Action>() + PATH_BYTES_MAX <= 512 - RATE_BYTES as usize / 2);
    }

    #[test]
    fn every_term_counts() {
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
    fn shares_add_up() {
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
        let mailboxes = (64 << 20) + 2 * (4 << 20) + 10_240 * (GUEST_BYTES + LOOKUP_BYTES);
        let two = whole.memory_bytes_max_of(2) - mailboxes;
        assert_eq!(two, 2 * whole.share_of(2).memory_bytes_max());
        assert!(two < whole.memory_bytes_max() + (5 << 20));
    }

    /// The longest body, and the longest frame that one server or each of several takes.
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
        // What one server takes, each of several takes.
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
        // A body and some more, a body beyond the budget, an answer and some more; and the mailbox.
        assert!(most > 64 * (22 << 20));
    }

    fn mailbox(whole: &Limits, shards: u16) -> u64 {
        let Limits { bodies_bytes_max, body_bytes_max, forwarded_max, .. } = whole.share_of(shards);
        let posts = u64::from(forwarded_max.unwrap()) * (GUEST_BYTES + LOOKUP_BYTES);
        bodies_bytes_max.unwrap() + body_bytes_max.unwrap() + posts
    }

    #[test]
    fn body_limit_carries_what_it_implies() {
        let check = |bytes: Option<u64>, expected: [Option<u64>; 5]| {
            let limits = Limits::default().with_body_bytes_max(bytes);
            let carried = [
                limits.body_bytes_max,
                limits.bodies_bytes_max,
                limits.bodies_bytes_per_address_max,
                limits.queues_bytes_max,
                limits.inbound_bytes_max,
            ];
            assert_eq!(carried, expected);
        };
        let mib = |count: [u64; 5]| count.map(|count| Some(count << 20));
        check(Some(4 << 20), mib([4, 64, 16, 64, 1]));
        check(Some(1 << 20), mib([1, 64, 16, 64, 1]));
        check(Some(100 << 20), mib([100, 400, 200, 400, 25]));
        let all = Some(u64::MAX);
        check(all, [all, all, all, all, Some(u64::MAX / 4)]);
        check(None, [None; 5]);
        // What had no limit keeps none, and a small budget fits an answer with what is around it.
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
    fn descriptors_bound_connections_and_what_sessions_take() {
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
        // A few sessions leave more to connections.
        check(limits(None, Some(10)), 600, 4, (Some(560), Some(10)));
        check(limits(None, None), 600, 4, (Some(200), Some(100)));
        check(limits(Some(8), None), 600, 4, (Some(8), None));
        check(limits(Some(10), Some(10)), 0, 4, (Some(0), Some(0)));
    }

    #[test]
    fn rates_count_where_there_are_any() {
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
    fn the_reserve_is_never_more_than_an_eighth() {
        let reserve = |max| Limits { connections_max: max, ..Limits::default() }.reserve();
        assert_eq!([None, Some(7), Some(64), Some(10_240)].map(reserve), [0, 0, 8, 1_024]);
    }

    #[test]
    fn an_unlimited_term_makes_the_sum_unlimited() {
        let limits = Limits { connections_max: None, ..Limits::default() };
        assert_eq!(limits.memory_bytes_max(), u64::MAX);
    }
}
