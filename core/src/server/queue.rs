//! Posts that wait for room in their session: those of this shard's own connections, and forwarded posts,
//! which another shard has received.
//!
//! Knows: how a post is held, released, given up or answered "server busy". Does not know: how a post gets to
//! another shard, or the connection of a forwarded post, which belongs to the shard that has received it.
//!
//! Posts of both kinds wait in one list for each session. They are released in the order in which they came,
//! except that responses and notifications pass requests that wait because of `in_flight_max`.
//!
//! Decision: a post is held by not reading its connection, so TCP slows the client down. At the limit of
//! requests in flight only requests wait: the client's responses must pass, or server and client could wait
//! for each other.
//!
//! Decision: a forwarded post is queued by the shard that owns its session. `deliver` returns `Held`, and one
//! `Event::Settled` tells the outcome. A driver stores the ticket of the post under the post's handle until
//! it has polled that event. The post keeps its slot as long, so that its handle does not refer to another
//! post meanwhile. `forwarded_max` bounds such posts, and their bytes count in the budget of all bodies.
//!
//! Decision: a post that was answered 503 is not accepted afterwards. The ticket of a forwarded post is
//! valid for `hold` and `decision` together. The driver of the owning shard rejects a post that has taken
//! more than half of `decision` to arrive, and a queued post is not released once its time is over, even if
//! room is noticed before the timer. So a post can be both accepted and answered 503 only if a thread is
//! stopped for the other half of `decision`.
//!
//! Decision: a forwarded post is delivered even if its connection has closed. A post that is held by the shard
//! that has received it is dropped when its connection closes, but a close is rarely noticed, because the
//! connection is not read. To tell the other shard of a close would take one more kind of message between
//! shards, which could arrive after the post was accepted.
//!
//! Decision: a held request that is cancelled is answered 202 and dropped. Only requests wait while too
//! many are in flight, so a cancellation can overtake its own request, and nothing would withdraw the
//! request later.
//!
//! Decision: when the time of a held request is over and its id is longer than 4 KiB, the post is answered
//! 503, and the request is not answered on the stream. That answer would repeat the id, which may be as
//! long as a body, outside of any budget.

use alloc::boxed::Box;

use super::Server;
use super::refuse::Told;
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::error::Fault;
use crate::event::{
    ConnId, Delivery, Event, ForwardedPost, Outcome, QueuedPostId, ServerPhase, SessionId,
};
use crate::jsonrpc::{self, Kind, Message};
use crate::limits::is_full;
use crate::metrics::ReachedLimit;
use crate::request::Unread;
use crate::session::{MessageTotals, PostOrigin, WaitingPost};
use crate::sse::Frame;
use crate::timers::{Role, TimerKind};

/// The longest request id, in octets with its quotes, that is answered "server busy" on the stream. The post
/// of a request with a longer one, which may be nearly all of its body, is answered 503.
const ECHOED_ID_BYTES_MAX: usize = (4 << 10) + 2;
/// The most bytes that a session's backlog counts for: so many for each of all sessions still fit in 64 bits.
const BACKLOG_BYTES_MAX: u64 = u32::MAX as u64;

/// A forwarded post that waits for room, or one whose outcome waits to be polled: its handle is not used
/// again before.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(super) session: Key,
    pub(super) message: Option<Message>,
}

impl Forward {
    /// Its message, if it waits for this session.
    pub(super) fn waits_for(&self, session: Key) -> Option<&Message> {
        self.message.as_ref().filter(|_| self.session == session)
    }
}

impl Server {
    // ── Beginning to wait. ──────────────────────────────────────────────────────────────────────

    /// Holds a post of a connection until its session has room.
    pub(super) fn hold(&mut self, key: Key, session: Key, message: Message) {
        self.metrics.posts_held += 1;
        self.metrics.posts_waiting += 1;
        log::debug!(
            event = "post_held",
            connection = ConnId(key),
            session = SessionId(session),
            bytes = message.body().len(),
            traceparent = message.traceparent();
            "a post on connection {} is held, because session {} has no room for it",
            ConnId(key),
            SessionId(session)
        );
        self.sessions[session].hold(PostOrigin::Conn(key), WaitingPost::of(&message));
        self.enter(key, ConnPhase::Held { session, message: Box::new(message) });
        self.arm(TimerKind::Hold, key);
    }

    /// Takes in a post that another shard has received: it goes to its session at once, waits, or is
    /// refused.
    pub(super) fn take_forward(&mut self, post: ForwardedPost) -> Delivery {
        let ForwardedPost { claim, message } = post;
        let session = self.find_session(&claim);
        let (bytes, traceparent) = (message.body().len(), message.traceparent());
        let delivery = match session {
            Some(session) => self.deliver_to(session, message),
            None => Delivery::Done(self.no_session_outcome()),
        };
        let outcome = outcome_label(&delivery);
        log::debug!(
            event = "forwarded_post",
            outcome = outcome,
            bytes = bytes,
            session = session.map(SessionId),
            principal = claim.principal,
            traceparent = traceparent;
            "a post that another shard forwarded: {outcome}"
        );
        delivery
    }

    /// Gives a forwarded post to its session, holds it, or refuses it.
    fn deliver_to(&mut self, session: Key, message: Message) -> Delivery {
        if let Err(retry_after) = self.admit_to_session(session) {
            Delivery::Done(Outcome::RateLimited { retry_after })
        } else if self.phase != ServerPhase::Running || self.lacks_room_for_forward(&message) {
            Delivery::Done(Outcome::Busy)
        } else if self.session_has_room_for(session, &message) {
            self.record(session, message);
            Delivery::Done(Outcome::Accepted)
        } else {
            self.queue_forward(session, message)
        }
    }

    /// Whether the budget of request bytes has no room for a forwarded post, which is then counted.
    fn lacks_room_for_forward(&mut self, message: &Message) -> bool {
        let full = !self.bodies_have_room_for(message.memory_bytes());
        if full {
            self.metrics.count_limit(ReachedLimit::ForwardedBodies);
        }
        full
    }

    /// Holds a forwarded post until its session has room.
    fn queue_forward(&mut self, session: Key, message: Message) -> Delivery {
        if is_full(self.config.limits.forwarded_max, self.forwards.len()) {
            self.metrics.count_limit(ReachedLimit::Forwarded);
            return Delivery::Done(Outcome::Busy);
        }
        self.bodies_bytes += message.memory_bytes();
        let waiting = WaitingPost::of(&message);
        let forward = self.forwards.insert(Forward { session, message: Some(message) });
        self.sessions[session].hold(PostOrigin::Forward(forward), waiting);
        let timeouts = &self.config.timeouts;
        self.timers.arm(TimerKind::HoldForwarded, forward.index(), self.now, timeouts);
        self.metrics.posts_held += 1;
        self.metrics.posts_waiting += 1;
        Delivery::Held(QueuedPostId(forward))
    }

    // ── Room. ───────────────────────────────────────────────────────────────────────────────────

    /// The application has polled a message of `len` bytes.
    pub(super) fn message_polled(&mut self, session: Key, len: u64) {
        if let Some(found) = self.sessions.find_mut(session) {
            found.polled(len);
            self.releasable.push_back(session);
        }
    }

    /// Sets how long the application's own queue of a session's messages is.
    pub(super) fn take_backlog(&mut self, session: Key, messages: u32, bytes: u64) {
        let Some(found) = self.sessions.find_mut(session) else { return };
        let bytes = bytes.min(BACKLOG_BYTES_MAX);
        self.bodies_bytes = self.bodies_bytes - found.backlog.bytes + bytes;
        found.backlog = MessageTotals { messages, bytes };
        self.releasable.push_back(session);
    }

    /// Releases held posts of a session, as far as there is room now.
    pub(super) fn release_held(&mut self, session: Key) {
        while let Some(found) = self.sessions.find(session) {
            match found.next_admissible(&self.config.limits) {
                None => return,
                Some(PostOrigin::Forward(forward)) => self.release_forward(forward),
                Some(PostOrigin::Conn(conn)) => {
                    let (_, message) = self.unhold(conn);
                    self.record(session, message);
                    self.accepted(conn);
                }
            }
        }
    }

    /// Releases a forwarded post.
    fn release_forward(&mut self, forward: Key) {
        // Past its deadline the other shard may have refused it: then it must not reach the application.
        let late =
            self.timers.due(Role::ReceivedPost, forward.index()).is_some_and(|due| due < self.now);
        if late {
            return self.forward_hold_is_over(forward);
        }
        let (session, message) = self.unqueue_forward(forward);
        self.record(session, message);
        self.settle_forward(forward, Outcome::Accepted);
    }

    // ── Without room. ───────────────────────────────────────────────────────────────────────────

    /// Withdraws a held request that has been cancelled: the cancellation has overtaken it, so it would not
    /// be cancelled later. Its post is answered 202, and its message is dropped.
    pub(super) fn withdraw_held(&mut self, session: Key, id: &str) {
        let Some(post) = self.sessions[session].held_request(id) else { return };
        self.metrics.requests_withdrawn += 1;
        log::debug!(
            event = "held_request_cancelled",
            session = SessionId(session);
            "a held request of session {} was cancelled", SessionId(session)
        );
        match post {
            PostOrigin::Conn(conn) => {
                self.unhold(conn);
                self.accepted(conn);
            }
            PostOrigin::Forward(forward) => self.dismiss(forward, Outcome::Accepted),
        }
        self.releasable.push_back(session);
    }

    /// Drops the post that a connection holds, if it holds one.
    pub(super) fn abandon_post(&mut self, key: Key) {
        if matches!(self.conns[key].phase, ConnPhase::Held { .. }) {
            let (session, _) = self.unhold(key);
            // There may be room for posts that waited behind it.
            self.releasable.push_back(session);
        }
    }

    /// Gives up a post that was held for [`Timeouts::hold`](crate::Timeouts::hold). A request is answered on
    /// the stream if that can be done, and its post 202: an error status makes some clients end their session.
    pub(super) fn hold_is_over(&mut self, key: Key) {
        let (session, message) = self.unhold(key);
        self.count_lack(session, &message);
        if self.tell_busy(session, &message) {
            self.note_telling(Some(key), Fault::Busy, &Fault::Busy.text(), Told::Stream);
            self.accepted(key);
        } else {
            self.refuse(key, Fault::Busy, Unread::Known(0));
        }
        self.releasable.push_back(session);
    }

    /// Gives up a forwarded post that was held for as long.
    pub(super) fn forward_hold_is_over(&mut self, forward: Key) {
        let (session, message) = self.unqueue_forward(forward);
        self.count_lack(session, &message);
        let told = self.tell_busy(session, &message);
        if told {
            self.note_telling(None, Fault::Busy, &Fault::Busy.text(), Told::Stream);
        }
        // Where the client could not be told, the other shard refuses the post, and counts the refusal.
        self.settle_forward(forward, if told { Outcome::Accepted } else { Outcome::Busy });
        self.releasable.push_back(session);
    }

    /// Counts the limit because of which a post has waited in vain.
    fn count_lack(&mut self, session: Key, message: &Message) {
        let lacking = self.sessions[session].lacks(message, &self.config.limits);
        self.metrics.count_limit(lacking);
    }

    /// Answers a request "server busy" on the stream. Says whether that could be done.
    fn tell_busy(&mut self, session: Key, message: &Message) -> bool {
        let id = message.id();
        let answerable =
            message.kind() == Kind::Request && id.map_or(0, str::len) <= ECHOED_ID_BYTES_MAX;
        let body = || jsonrpc::error_body(id, jsonrpc::code::SERVER_BUSY, "server busy");
        let told = answerable
            && Frame::message(&body()).is_ok_and(|frame| self.queue_frame(session, &frame).is_ok());
        if told {
            log::debug!(
                event = "answered_busy",
                session = SessionId(session),
                bytes = message.body().len(),
                traceparent = message.traceparent();
                "a request of session {} was answered \"server busy\" on its stream",
                SessionId(session)
            );
        }
        told
    }

    /// Refuses posts that waited for a session that has ended or is ending.
    pub(super) fn refuse_held(&mut self, held: impl IntoIterator<Item = PostOrigin>) {
        for post in held {
            match post {
                PostOrigin::Conn(conn) => {
                    self.take_held(conn);
                    self.refuse(conn, self.no_session(), Unread::Known(0));
                }
                PostOrigin::Forward(forward) => self.dismiss(forward, self.no_session_outcome()),
            }
        }
    }

    /// Takes a held message off its connection and out of its session's list, and returns the session and
    /// the message. The caller answers the connection.
    fn unhold(&mut self, key: Key) -> (Key, Message) {
        let (session, message) = self.take_held(key);
        self.sessions[session].unhold(PostOrigin::Conn(key));
        (session, message)
    }

    /// Takes a held message off its connection.
    fn take_held(&mut self, key: Key) -> (Key, Message) {
        self.disarm(Role::Phase, key);
        let ConnPhase::Held { session, message } = self.enter(key, ConnPhase::Awaiting) else {
            unreachable!("invariant: a connection that a session lists holds a post");
        };
        self.metrics.posts_waiting -= 1;
        (session, *message)
    }

    /// Drops the message of a forwarded post.
    fn dismiss(&mut self, forward: Key, outcome: Outcome) {
        self.unqueue_forward(forward);
        self.settle_forward(forward, outcome);
    }

    /// Ends the waiting of a forwarded post, and returns its session and its message.
    fn unqueue_forward(&mut self, forward: Key) -> (Key, Message) {
        let Forward { session, message } = &mut self.forwards[forward];
        let message =
            message.take().expect("invariant: a forwarded post that waits has its message");
        let session = *session;
        self.metrics.posts_waiting -= 1;
        self.bodies_bytes -= message.memory_bytes();
        self.timers.disarm(Role::ReceivedPost, forward.index());
        // A session that has ended has no list any more.
        if let Some(found) = self.sessions.find_mut(session) {
            found.unhold(PostOrigin::Forward(forward));
        }
        (session, message)
    }

    /// Tells the driver what became of a forwarded post.
    fn settle_forward(&mut self, forward: Key, outcome: Outcome) {
        self.events.push_back(Event::Settled { post: QueuedPostId(forward), outcome });
    }
}

/// What was done with a forwarded post, for the log.
const fn outcome_label(delivery: &Delivery) -> &'static str {
    match delivery {
        Delivery::Held(_) => "held",
        Delivery::Done(Outcome::Accepted) => "accepted",
        Delivery::Done(Outcome::UnknownSession) => "unknown_session",
        Delivery::Done(Outcome::Busy) => "busy",
        Delivery::Done(Outcome::RateLimited { .. }) => "rate_limited",
    }
}
