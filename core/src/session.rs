//! The state of one session: its owner, the messages and requests that it has pending, and the
//! posts that wait for room.
//!
//! Knows: these counts, and when there is room for a post.
//! Does not know: bytes on the wire. The queue of the session's stream is the outbox of its
//! connection.
//!
//! Decision: a post's token is compared in full with the session in its slot, or with a decoy
//! if there is none: secret, service, principal and whether the session is ending. The number
//! of steps depends on the post alone, so the time of an answer does not tell which session
//! tokens exist. Tests count the steps, here and from a post's head to its 404.
//!
//! Decision: requests in flight are remembered as fingerprints of 16 bytes, which are exact for
//! short ids. Ids are strings whose length the client chooses: in 8,192 sessions, 64 long ids
//! each would take gigabytes. The time and the method of each, for the metrics, are stored beside it
//! in 8 bytes: a second list would need as much, and another search.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use crate::arena::Key;
use crate::event::{CloseReason, SessionId};
use crate::jsonrpc::{Kind, Message, fingerprint};
use crate::limits::{Limits, is_full, within};
use crate::metrics::{McpMethod, ReachedLimit};
use crate::peer::AddressKey;
use crate::policy::rate::{Bucket, Rate};
use crate::principal::Principal;
use crate::route::Service;
use crate::server::TokenSerial;
use crate::session_ref::SessionRef;
use crate::time::Time;
use crate::token::Secret;

#[derive(Debug)]
pub(crate) struct SessionState {
    /// The connection of the event stream.
    pub(crate) conn: Key,
    pub(crate) service: Service,
    pub(crate) principal: Option<Principal>,
    /// The static token with which it was opened.
    pub(crate) token: Option<TokenSerial>,
    pub(crate) address: Option<AddressKey>,
    secret: Secret,
    /// The time at which the session was opened.
    pub(crate) opened: Time,
    /// Number of accepted posts, for the log.
    pub(crate) messages_received: u64,
    /// The bytes of their messages, for the log.
    pub(crate) bytes_received: u64,
    /// Number of queued frames, for the log.
    pub(crate) frames_sent: u64,
    /// The bytes of these frames on the wire, for the log.
    pub(crate) bytes_sent: u64,
    /// Set when the session is ending: it takes no more frames and no more posts.
    pub(crate) ending: Option<CloseReason>,
    /// Messages in the event queue that the application has not polled, and their bytes.
    pub(crate) unpolled: MessageTotals,
    /// Messages that the application has polled but not processed, as it reports with
    /// `set_backlog`. Their bytes count towards `bodies_bytes_max`.
    pub(crate) backlog: MessageTotals,
    /// The unanswered requests.
    in_flight: Vec<InFlight>,
    /// Posts that wait for room, in the order in which their bodies were complete or in which other
    /// shards forwarded them.
    held: VecDeque<(PostOrigin, WaitingPost)>,
    /// How many of the waiting posts are not requests.
    pub(crate) held_others: u32,
    /// The cost of a frame that was refused for lack of room, until `Event::Unblocked` is emitted.
    pub(crate) refused_cost: Option<u64>,
    /// Whether the session is in the list of those that wait for room in all queues together.
    pub(crate) waiting_for_budget: bool,
    /// The token bucket of its post rate, after the first post.
    posts: Option<Bucket>,
    /// Whether the log has the warning about a frame over 1 MiB.
    pub(crate) warned_large: bool,
}

/// An unanswered request.
///
/// Ids are strings of any length chosen by a peer, so their fingerprints, which have a fixed size, are
/// stored. Fingerprints of short ids are unique. A collision of two long ids would only make the count
/// of this session wrong.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// The two halves of the fingerprint. A `u128` would make this larger, because it has to be aligned.
    fingerprint: [u64; 2],
    /// When the request was accepted, in microseconds, and in the lowest octet its method. They
    /// overflow after two thousand years.
    accepted: u64,
}

/// The bytes of one request in flight.
#[cfg(test)]
pub(crate) const IN_FLIGHT_BYTES: u64 = size_of::<InFlight>() as u64;

impl InFlight {
    fn new(id: &str, method: McpMethod, now: Time) -> Self {
        let accepted = now.as_micros() << 8 | method as u64;
        Self { fingerprint: halves(fingerprint(id)), accepted }
    }
}

const fn halves(fingerprint: u128) -> [u64; 2] {
    [(fingerprint >> 64) as u64, fingerprint as u64]
}

/// A request that was in flight until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) method: McpMethod,
    pub(crate) accepted: Time,
}

/// Where a waiting post came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostOrigin {
    /// The connection on which the post was received.
    Conn(Key),
    /// Another shard: the key of the forwarded post.
    Forward(Key),
}

/// The properties of a waiting post that decide when it may proceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingPost {
    kind: Kind,
    /// The length of its body.
    len: u64,
    /// The fingerprint of the id, if the post is a request. It is stored because ids can be long,
    /// and because a client can send many cancellations of requests that do not exist.
    request_id: Option<u128>,
}

impl WaitingPost {
    pub(crate) fn of(message: &Message) -> Self {
        let kind = message.kind();
        let request_id = message.id().filter(|_| kind == Kind::Request).map(fingerprint);
        Self { kind, len: message.body().len() as u64, request_id }
    }

    /// Whether these properties could be those of `message`. The id is not compared.
    pub(crate) fn is_of(&self, message: &Message) -> bool {
        let (kind, len) = (message.kind(), message.body().len() as u64);
        (kind, len) == (self.kind, self.len) && self.request_id.is_some() == (kind == Kind::Request)
    }
}

/// A number of messages, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageTotals {
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

impl SessionState {
    pub(crate) fn new(
        conn: Key,
        secret: Secret,
        service: Service,
        principal: Option<Principal>,
        address: Option<AddressKey>,
        opened: Time,
    ) -> Self {
        Self {
            conn,
            service,
            principal,
            token: None,
            address,
            secret,
            opened,
            messages_received: 0,
            bytes_received: 0,
            frames_sent: 0,
            bytes_sent: 0,
            ending: None,
            unpolled: MessageTotals::default(),
            backlog: MessageTotals::default(),
            in_flight: Vec::new(),
            held: VecDeque::new(),
            held_others: 0,
            refused_cost: None,
            waiting_for_budget: false,
            posts: None,
            warned_large: false,
        }
    }

    /// Whether `session` is the one that `claim` names, and takes posts. If `session` is `None`,
    /// the claim is compared with a decoy, so that the time depends only on the claim.
    pub(crate) fn is_claimed(session: Option<&Self>, claim: &SessionRef) -> bool {
        let decoy = (&Secret::DECOY, None, claim.service, true);
        let (secret, principal, service, ending) = session.map_or(decoy, |session| {
            let ending = session.ending.is_some();
            (&session.secret, session.principal.as_ref(), session.service, ending)
        });
        let secret = secret.matches(claim.token.secret());
        let principal = Principal::same(principal, claim.principal.as_ref());
        // `&` rather than `&&`, so that all comparisons are made.
        secret & principal & (service == claim.service) & !ending
    }

    /// Counts a post. If the rate is exceeded, returns the time until the next post is allowed.
    pub(crate) fn post(&mut self, rate: Rate, now: Time) -> Result<(), Duration> {
        self.posts.get_or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }

    /// Whether a post may be queued for the application now, if no post of its kind waits before
    /// it.
    pub(crate) fn admits(&self, kind: Kind, len: u64, limits: &Limits) -> bool {
        self.has_inbound_room(len, limits)
            && (kind != Kind::Request || self.has_request_room(limits))
    }

    /// Whether a post that is complete now may be queued for the application.
    ///
    /// While the queue is full, all posts wait, in order. While too many requests are unanswered,
    /// only requests wait: the client's responses to the server's own requests must get through, or
    /// both sides could wait for each other.
    pub(crate) fn admits_new(&self, kind: Kind, len: u64, limits: &Limits) -> bool {
        self.admits(kind, len, limits)
            && (self.held.is_empty() || (kind != Kind::Request && self.held_others == 0))
    }

    fn has_inbound_room(&self, len: u64, limits: &Limits) -> bool {
        let MessageTotals { messages, bytes } = self.inbound();
        !is_full(limits.inbound_messages_max, messages)
            && (messages == 0 || within(limits.inbound_bytes_max, bytes.saturating_add(len)))
    }

    fn has_request_room(&self, limits: &Limits) -> bool {
        !is_full(limits.in_flight_max, self.requests_in_flight())
    }

    fn inbound(&self) -> MessageTotals {
        MessageTotals {
            messages: self.unpolled.messages.saturating_add(self.backlog.messages),
            bytes: self.unpolled.bytes.saturating_add(self.backlog.bytes),
        }
    }

    /// Records that a message was put into the event queue.
    pub(crate) fn admitted(&mut self, len: u64) {
        self.messages_received += 1;
        self.bytes_received += len;
        self.unpolled.messages += 1;
        self.unpolled.bytes += len;
    }

    /// Records that a message was polled.
    pub(crate) fn polled(&mut self, len: u64) {
        self.unpolled.messages -= 1;
        self.unpolled.bytes -= len;
    }

    /// Records that a request was put into the event queue. The list of requests grows by doubling, but
    /// not beyond `in_flight_max`, so that its memory is that of the requests it may have.
    pub(crate) fn asked(
        &mut self,
        id: &str,
        method: McpMethod,
        now: Time,
        in_flight_max: Option<u32>,
    ) {
        let len = self.in_flight.len();
        if len == self.in_flight.capacity() {
            let most = in_flight_max.map_or(usize::MAX, |max| max as usize);
            let room = len.saturating_mul(2).max(4).min(most).max(len + 1);
            self.in_flight.reserve_exact(room - len);
        }
        self.in_flight.push(InFlight::new(id, method, now));
    }

    /// Records that a request was answered or cancelled. Returns what is known of the request, if it was
    /// in flight.
    pub(crate) fn settled(&mut self, id: &str) -> Option<Settled> {
        let wanted = halves(fingerprint(id));
        // The search starts at the front, because answers come roughly in the order of requests.
        let at = self.in_flight.iter().position(|known| known.fingerprint == wanted)?;
        let InFlight { accepted, .. } = self.in_flight.remove(at);
        let method = McpMethod::numbered(accepted as u8);
        Some(Settled { method, accepted: Time::from_micros(accepted >> 8) })
    }

    pub(crate) fn requests_in_flight(&self) -> u32 {
        self.in_flight.len() as u32
    }

    pub(crate) fn hold(&mut self, post: PostOrigin, waiting: WaitingPost) {
        self.held.push_back((post, waiting));
        self.held_others += u32::from(waiting.kind != Kind::Request);
    }

    /// Removes a post from the waiting posts.
    pub(crate) fn unhold(&mut self, post: PostOrigin) {
        let at = self.held().position(|waiting| waiting == post);
        if let Some((_, waiting)) = at.and_then(|at| self.held.remove(at)) {
            self.held_others -= u32::from(waiting.kind != Kind::Request);
            // The number of waiting posts is limited per connection, not per session, so their
            // memory is freed.
            if self.held.len() <= self.held.capacity() / 4 {
                self.held.shrink_to(2 * self.held.len());
            }
        }
    }

    /// The limit because of which a post that waits has no room.
    pub(crate) fn lacks(&self, message: &Message, limits: &Limits) -> ReachedLimit {
        if is_full(limits.inbound_messages_max, self.inbound().messages) {
            ReachedLimit::InboundMessages
        } else if self.has_inbound_room(message.body().len() as u64, limits) {
            // It waits for this, or behind a post that does.
            ReachedLimit::InFlight
        } else {
            ReachedLimit::InboundBytes
        }
    }

    /// The first waiting post that may proceed. No post overtakes a post that waits for room in the
    /// queue; only requests wait for unanswered requests.
    pub(crate) fn next_admissible(&self, limits: &Limits) -> Option<PostOrigin> {
        let has_request_room = self.has_request_room(limits);
        if !has_request_room && self.held_others == 0 {
            return None;
        }
        for (post, waiting) in &self.held {
            if !self.has_inbound_room(waiting.len, limits) {
                return None;
            }
            if waiting.kind != Kind::Request || has_request_room {
                return Some(*post);
            }
        }
        None
    }

    /// The waiting request with this id, if there is one.
    pub(crate) fn held_request(&self, id: &str) -> Option<PostOrigin> {
        let wanted = Some(fingerprint(id));
        self.held.iter().find(|(_, waiting)| waiting.request_id == wanted).map(|(post, _)| *post)
    }

    pub(crate) fn take_held(&mut self) -> impl Iterator<Item = PostOrigin> + use<> {
        self.held_others = 0;
        core::mem::take(&mut self.held).into_iter().map(|(post, _)| post)
    }

    /// The posts that wait for room.
    pub(crate) fn held(&self) -> impl Iterator<Item = PostOrigin> {
        self.held.iter().map(|(post, _)| *post)
    }

    /// The waiting posts and their properties.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (PostOrigin, WaitingPost)> {
        self.held.iter().copied()
    }

    pub(crate) fn is_waited_for_by(&self, post: PostOrigin) -> bool {
        self.held().any(|waiting| waiting == post)
    }
}

/// A view of a session, returned by [`Server::session`](crate::Server::session).
///
/// ```
/// use mcp_sse_core::{Config, Event, Frame, Peer, Server, Time};
///
/// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
/// let mut server = Server::new(Config::default(), entropy, Time::ZERO);
/// let conn = server.accept(Peer::local(), Time::ZERO)?;
/// server.handle_input(conn, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", Time::ZERO);
/// let Some(Event::Opened { session, .. }) = server.poll_event() else { panic!() };
/// let ping = Frame::message(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)?;
/// server.send(session, &ping, Time::ZERO)?;
///
/// let view = server.session(session).expect("the session is open");
/// assert_eq!((view.id(), view.requests_in_flight()), (session, 0));
/// assert_eq!(view.frames_queued(), 1); // the endpoint event is not counted
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SessionView<'a> {
    pub(crate) id: SessionId,
    pub(crate) session: &'a SessionState,
    pub(crate) queued_frames: u32,
}

impl SessionView<'_> {
    /// The handle of the session.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The principal that opened the session; `None` without authorization.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.session.principal.as_ref()
    }

    /// The number of accepted messages that the application has not taken.
    #[must_use]
    pub fn inbound_messages(&self) -> u32 {
        self.session.inbound().messages
    }

    /// The number of requests of the client that have not been answered.
    #[must_use]
    pub fn requests_in_flight(&self) -> u32 {
        self.session.requests_in_flight()
    }

    /// The number of frames of the application that have not been written completely.
    #[must_use]
    pub const fn frames_queued(&self) -> u32 {
        self.queued_frames
    }

    /// Whether the session is ending: it takes no more frames and no more posts.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.session.ending.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::arena::Arena;
    use crate::testing::Random;

    fn session() -> (SessionState, Key) {
        let conn = Arena::new().insert(());
        let secret = Secret::draw(&mut Random::seeded(1)).unwrap();
        (SessionState::new(conn, secret, Service::ROOT, None, None, Time::ZERO), conn)
    }

    fn limits() -> Limits {
        Limits {
            inbound_messages_max: Some(2),
            inbound_bytes_max: Some(100),
            in_flight_max: Some(1),
            ..Limits::default()
        }
    }

    #[test]
    fn queue_is_limited_by_messages_and_bytes_but_admits_one_large_message() {
        let (mut session, _) = session();
        let admits = |s: &SessionState, len| s.admits(Kind::Notification, len, &limits());
        assert!(admits(&session, 5_000));
        session.admitted(60);
        assert!(admits(&session, 40) && !admits(&session, 41));
        session.admitted(0);
        assert!(!admits(&session, 0));
        session.polled(60);
        assert!(admits(&session, 100));
        session.backlog = MessageTotals { messages: 1, bytes: 1 };
        assert!(!admits(&session, 0));
    }

    #[test]
    fn post_other_than_a_request_is_admitted_while_requests_wait() {
        let (mut session, conn) = session();
        session.asked("1", McpMethod::Other, Time::ZERO, Some(1));
        assert!(!session.admits(Kind::Request, 1, &limits()));
        assert!(session.admits(Kind::Response, 1, &limits()));
        let post = PostOrigin::Conn(conn);
        let request =
            WaitingPost { kind: Kind::Request, len: 1, request_id: Some(fingerprint("2")) };
        session.hold(post, request);
        assert!(session.admits_new(Kind::Response, 1, &limits()));
        assert_eq!(session.next_admissible(&limits()), None);
        assert!(session.settled("1").is_some() && session.settled("1").is_none());
        assert_eq!(session.next_admissible(&limits()), Some(post));
        assert_eq!((session.held_request("2"), session.held_request("1")), (Some(post), None));
        assert!(!session.admits_new(Kind::Request, 1, &limits()), "another was there first");
        // A forwarded post whose slot has the same number is a different post.
        session.unhold(PostOrigin::Forward(conn));
        assert!(!session.admits_new(Kind::Request, 1, &limits()));
        session.unhold(post);
        assert!(session.admits_new(Kind::Request, 1, &limits()));
        // A post that does not wait is not removed.
        session.hold(post, WaitingPost { kind: Kind::Response, request_id: None, ..request });
        let mut others = Arena::new();
        others.insert(());
        session.unhold(PostOrigin::Conn(others.insert(())));
        assert_eq!(session.held_others, 1);
    }

    #[test]
    fn answer_with_differently_escaped_id_settles_the_request() {
        let (mut session, _) = session();
        let accepted = Time::from_micros(1 << 40);
        session.asked(r#""\u0061\u00e9""#, McpMethod::ToolsCall, accepted, None);
        assert_eq!(session.settled("\"a\""), None);
        let settled = session.settled("\"aé\"");
        assert_eq!(settled, Some(Settled { method: McpMethod::ToolsCall, accepted }));
    }

    #[test]
    fn list_of_requests_is_never_longer_than_the_limit() {
        for most in [1, 3, 4, 64, 100] {
            let (mut session, _) = session();
            for id in 0..most {
                session.asked(&id.to_string(), McpMethod::Other, Time::ZERO, Some(most));
                let capacity = session.in_flight.capacity();
                assert!(capacity <= most as usize, "{capacity} of {most}");
            }
            assert_eq!(session.requests_in_flight(), most);
        }
        let (mut session, _) = session();
        (0..1_000_u32)
            .for_each(|id| session.asked(&id.to_string(), McpMethod::Other, Time::ZERO, None));
        assert_eq!(session.in_flight.capacity(), 1_024);
    }

    #[test]
    fn session_is_at_most_320_bytes() {
        let bytes = size_of::<SessionState>() + 8 + 2 * 8;
        assert!(bytes <= 320, "{bytes}");
    }
}
