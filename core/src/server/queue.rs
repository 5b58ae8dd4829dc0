//! Posts that wait for room in their session: posts of this shard's own connections, and forwarded posts,
//! which came by other shards.
//!
//! Knows: how a post is held, goes on, is given up or told that the server is busy; both kinds wait in one
//! line, in the order in which they came. Does not know: the way between shards; the connection of a
//! forwarded post is another shard's, and so is the answer.
//!
//! While a post of its own connection is held, that connection is not read, and TCP does the rest.

use super::Server;
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::error::Fault;
use crate::event::{
    ConnId, Delivery, Event, ForwardedPost, Outcome, QueuedPostId, ServerPhase, SessionId,
};
use crate::jsonrpc::{self, Kind, Message};
use crate::limits::within;
use crate::request::Unread;
use crate::session::{PostOrigin, Waiting};
use crate::sse::Frame;
use crate::timers::{Role, TimerKind};

/// The longest id, in octets with its quotes, that "server busy" is said to on the stream; the post of a
/// longer one, which may be all of its body, is answered 503.
const ECHOED_ID_BYTES_MAX: usize = (4 << 10) + 2;
/// The most that a session's backlog counts for: as much for every session that there can be still adds up.
const BACKLOG_BYTES_MAX: u64 = u32::MAX as u64;

/// A post that waits for room; or one whose outcome waits to be polled, so that its handle stays its own
/// until then.
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
    // ── Into the line. ──────────────────────────────────────────────────────────────────────────

    /// Holds a post of a connection until its session has room.
    pub(super) fn hold(&mut self, key: Key, session: Key, message: Message) {
        self.metrics.posts_held += 1;
        log::debug!("{} is held: {} has no room", ConnId(key), SessionId(session));
        self.sessions[session].hold(PostOrigin::Conn(key), Waiting::of(&message));
        self.enter(key, ConnPhase::Held { session, message });
        self.arm(TimerKind::Hold, key);
    }

    /// A post came by another shard: it goes to its session at once, or waits, or is refused.
    pub(super) fn take_forward(&mut self, post: ForwardedPost) -> Delivery {
        let ForwardedPost { claim, message } = post;
        let Some(session) = self.find_session(&claim) else {
            return Delivery::Done(self.no_session_outcome());
        };
        if let Err(retry_after) = self.admit_to_session(session) {
            Delivery::Done(Outcome::RateLimited { retry_after })
        } else if self.phase != ServerPhase::Running || !self.bodies_take(message.memory_bytes()) {
            Delivery::Done(Outcome::Busy)
        } else if self.session_takes(session, &message) {
            self.record(session, message);
            Delivery::Done(Outcome::Accepted)
        } else {
            self.queue_forward(session, message)
        }
    }

    fn queue_forward(&mut self, session: Key, message: Message) -> Delivery {
        if !within(self.config.limits.forwarded_max, self.forwards.len().saturating_add(1)) {
            return Delivery::Done(Outcome::Busy);
        }
        self.bodies_bytes += message.memory_bytes();
        let waiting = Waiting::of(&message);
        let forward = self.forwards.insert(Forward { session, message: Some(message) });
        self.sessions[session].hold(PostOrigin::Forward(forward), waiting);
        let timeouts = &self.config.timeouts;
        self.timers.arm(TimerKind::HoldForwarded, forward.index(), self.now, timeouts);
        self.metrics.posts_held += 1;
        Delivery::Held(QueuedPostId(forward))
    }

    // ── Out of it. ──────────────────────────────────────────────────────────────────────────────

    /// A message of `len` bytes was polled.
    pub(super) fn message_polled(&mut self, session: Key, len: u64) {
        if let Some(found) = self.sessions.find_mut(session) {
            found.polled(len);
            self.releasable.push_back(session);
        }
    }

    /// The application's own queue of a session's messages is this long.
    pub(super) fn take_backlog(&mut self, session: Key, messages: u32, bytes: u64) {
        let Some(found) = self.sessions.find_mut(session) else { return };
        let bytes = bytes.min(BACKLOG_BYTES_MAX);
        self.bodies_bytes = self.bodies_bytes - found.backlog_bytes() + bytes;
        found.set_backlog(messages, bytes);
        self.releasable.push_back(session);
    }

    /// Lets held posts of a session go on, as far as there is room now.
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

    /// There is room for a forwarded post.
    pub(super) fn release_forward(&mut self, forward: Key) {
        // If this comes late, its shard may have stopped waiting: then it must not be taken in.
        let late =
            self.timers.due(Role::Forward, forward.index()).is_some_and(|due| due < self.now);
        if late {
            return self.forward_hold_is_over(forward);
        }
        let (session, message) = self.unqueue_forward(forward);
        self.record(session, message);
        self.settle_forward(forward, Outcome::Accepted);
    }

    /// A request was cancelled that is still held: the cancellation has overtaken it, so nobody would
    /// take it back later. Its post is answered like any other, and its message goes nowhere.
    pub(super) fn withdraw_held(&mut self, session: Key, id: &str) {
        let Some(post) = self.sessions[session].held_request(id) else { return };
        self.metrics.requests_withdrawn += 1;
        log::debug!("{}: a held request was cancelled", SessionId(session));
        match post {
            PostOrigin::Conn(conn) => {
                self.unhold(conn);
                self.accepted(conn);
            }
            PostOrigin::Forward(forward) => {
                self.dismiss(forward, Outcome::Accepted);
            }
        }
        self.releasable.push_back(session);
    }

    /// A connection that may hold a post is given up.
    pub(super) fn abandon_post(&mut self, key: Key) {
        if matches!(self.conns[key].phase, ConnPhase::Held { .. }) {
            let (session, _) = self.unhold(key);
            // Those behind it may have room where it had none.
            self.releasable.push_back(session);
        }
    }

    /// A post was held for as long as its client can be made to wait. A request is then answered
    /// like any other, on the stream: an error status would make some clients give up altogether.
    pub(super) fn hold_is_over(&mut self, key: Key) {
        let (session, message) = self.unhold(key);
        if self.tell_busy(session, &message) {
            self.note(Some(key), Fault::Busy);
            self.accepted(key);
        } else {
            self.refuse(key, Fault::Busy, Unread::Known(0));
        }
        self.releasable.push_back(session);
    }

    /// A forwarded post was held for as long as its client can be made to wait.
    pub(super) fn forward_hold_is_over(&mut self, forward: Key) {
        let (session, message) = self.unqueue_forward(forward);
        let told = self.tell_busy(session, &message);
        if told {
            self.note(None, Fault::Busy);
        }
        // Where it could not be told, its shard refuses it, and counts that.
        self.settle_forward(forward, if told { Outcome::Accepted } else { Outcome::Busy });
        self.releasable.push_back(session);
    }

    /// Answers a request on the stream that the server is busy. Says whether that could be done.
    pub(super) fn tell_busy(&mut self, session: Key, message: &Message) -> bool {
        let echoed = message.id().map_or(0, str::len) <= ECHOED_ID_BYTES_MAX;
        let told = message.kind() == Kind::Request
            && echoed
            && Frame::message(&jsonrpc::error_body(
                message.id(),
                jsonrpc::code::SERVER_BUSY,
                "server busy",
            ))
            .is_ok_and(|frame| self.queue_frame(session, &frame).is_ok());
        if told {
            log::debug!("{}: a request was answered \"server busy\"", SessionId(session));
        }
        told
    }

    /// The session that held posts wait for is gone.
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

    /// Takes a held message off its connection and out of its session's list; what happens to the
    /// connection is for the caller to say.
    fn unhold(&mut self, key: Key) -> (Key, Message) {
        let (session, message) = self.take_held(key);
        self.sessions[session].unhold(PostOrigin::Conn(key));
        (session, message)
    }

    fn take_held(&mut self, key: Key) -> (Key, Message) {
        self.disarm(Role::Phase, key);
        let ConnPhase::Held { session, message } = self.enter(key, ConnPhase::Awaiting) else {
            unreachable!("invariant: a connection that its session lists holds a post");
        };
        (session, message)
    }

    /// A forwarded post's message goes nowhere.
    pub(super) fn dismiss(&mut self, forward: Key, outcome: Outcome) {
        self.unqueue_forward(forward);
        self.settle_forward(forward, outcome);
    }

    /// Takes the message of a forwarded post that waits, and the session it is for.
    fn unqueue_forward(&mut self, forward: Key) -> (Key, Message) {
        let Forward { session, message } = &mut self.forwards[forward];
        let message = message.take().expect("invariant: it has waited until now");
        let session = *session;
        self.bodies_bytes -= message.memory_bytes();
        self.timers.disarm(Role::Forward, forward.index());
        // The session may have ended, and given up its list.
        if let Some(found) = self.sessions.find_mut(session) {
            found.unhold(PostOrigin::Forward(forward));
        }
        (session, message)
    }

    fn settle_forward(&mut self, forward: Key, outcome: Outcome) {
        self.events.push_back(Event::Settled { post: QueuedPostId(forward), outcome });
    }
}
