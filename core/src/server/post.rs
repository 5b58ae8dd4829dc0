//! Posts: from an authorized head, through body and envelope, to the application or to another shard.
//!
//! Knows: how a body is read, and what a message changes in its session's counts.
//! Does not know: how a post waits for room in its session (see `queue`).
//!
//! The messages of one session reach the application in the order in which their bodies were complete, or in
//! which other shards forwarded them, with one exception. While a session has `in_flight_max` unanswered
//! requests, further requests are held, and responses and notifications pass them.
//!
//! Decision: the rate of the principal is applied before a post is checked in any other way. So posts with a
//! bad head and guesses at session tokens are limited as well, and a 429 does not tell the client whether its
//! head or its token was right.
//!
//! Decision: an accepted message is delivered even if its session has ended before the application polls it,
//! because the client was told 202. `Event::Closed` follows the message.

use alloc::string::String;
use alloc::vec::Vec;

use super::Server;
use super::admission::session_rate;
use super::bodies::reserve;
use crate::answer::Refused;
use crate::arena::Key;
use crate::conn::{ConnPhase, PostTarget, Unlocated};
use crate::error::Fault;
use crate::event::{ConnId, Event, ForwardedPost, Outcome, PostTicket, SessionId};
use crate::http1::{self, BodyDecoder, CONTINUE};
use crate::jsonrpc::{Invalid, Kind, Message};
use crate::metrics::{McpMethod, ReachedLimit};
use crate::outbox::Segment;
use crate::principal::Principal;
use crate::request::{PostPlan, Unread, body_too_large};
use crate::timers::{Role, TimerKind};

impl Server {
    /// Begins to read the body of an authorized post, or refuses it.
    pub(super) fn begin_post(&mut self, key: Key, plan: PostPlan, principal: Option<Principal>) {
        let PostPlan { refusal, unread, token, service, decoder, expects_continue } = plan;
        match self.admit_post(key, refusal, token, service, principal) {
            Err(refused) => self.refuse(key, refused, unread),
            Ok(PostTarget::Elsewhere { claim, .. }) if expects_continue => {
                self.locate(key, Unlocated { claim, decoder, unread, expects_continue });
            }
            Ok(PostTarget::Elsewhere { claim, .. }) => {
                // Input that arrived with the head is looked at first. If it contains the whole body, the
                // post is forwarded without a lookup. See `must_be_located`.
                self.resumable.push_back(key);
                let target = PostTarget::Elsewhere { claim, asked: false };
                self.begin_body(key, decoder, target, false);
            }
            Ok(target) => self.begin_body(key, decoder, target, expects_continue),
        }
    }

    /// Makes the connection read the body of a post, which may be empty.
    pub(super) fn begin_body(
        &mut self,
        key: Key,
        decoder: BodyDecoder,
        target: PostTarget,
        expects_continue: bool,
    ) {
        if expects_continue {
            self.push(key, Segment::Static(CONTINUE));
        }
        let empty = decoder.is_done();
        self.enter(key, ConnPhase::Body { decoder, body: Vec::new(), target });
        self.arm(TimerKind::Body, key);
        if empty {
            self.finish_body(key);
        }
    }

    /// Uses input that continues a body. Returns how much was used.
    pub(super) fn run_body(&mut self, key: Key, input: &[u8]) -> usize {
        if self.must_be_located(key, input) {
            self.locate_unread(key);
            return 0;
        }
        let ConnPhase::Body { decoder, body, .. } = &mut self.conns[key].phase else {
            unreachable!("invariant: only a connection that reads a body is given some");
        };
        let before = body.capacity();
        let longest = decoder.declared().or(self.config.limits.body_bytes_max).unwrap_or(u64::MAX);
        reserve(body, input.len(), usize::try_from(longest).unwrap_or(usize::MAX));
        let sink = &mut |piece: &[u8]| body.extend_from_slice(piece);
        let decoded = decoder.decode(input, &self.body_limits, sink);
        self.bodies_bytes += (body.capacity() - before) as u64;
        let refused = match decoded {
            Ok(progress) if self.bodies_have_room_for(0) => {
                if progress.done {
                    self.finish_body(key);
                }
                return progress.consumed;
            }
            Ok(_) => Fault::BodiesFull.into(),
            Err(http1::Error::BodyTooLarge) => body_too_large(&self.config),
            Err(fault) => fault.into(),
        };
        self.refuse(key, refused, Unread::Unknown);
        input.len()
    }

    /// Reads the envelope of a complete body, and passes the message on.
    pub(super) fn finish_body(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        let was_counted = self.conns[key].counted > 0;
        let ConnPhase::Body { mut body, target, .. } = self.enter(key, ConnPhase::Awaiting) else {
            unreachable!("invariant: only a connection that reads a body finishes one");
        };
        // The capacity is what counts in the budget; only a chunked body has some to spare.
        body.shrink_to_fit();
        let nesting_max = self.config.limits.nesting_max.map(|max| max as usize);
        let request = &mut self.conns[key].request;
        request.body_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let traceparent = request.traceparent;
        let message = match Message::read_traced(body, nesting_max, traceparent) {
            Ok(message) => message,
            Err((invalid, _)) => {
                let fault = match invalid {
                    Invalid::Parse(_) => Fault::NotJson,
                    Invalid::Request(_) => Fault::NotJsonRpc,
                };
                if invalid.is_too_deep() {
                    self.metrics.count_limit(ReachedLimit::Nesting);
                }
                let text = alloc::format!("{}: {}", fault.text(), invalid.reason());
                return self.refuse(key, Refused::saying(fault, text), Unread::Known(0));
            }
        };
        log::trace!(
            event = "message_received",
            connection = ConnId(key),
            bytes = message.body().len(),
            traceparent = traceparent;
            "connection {} posts {}", ConnId(key), message.text()
        );
        match target {
            PostTarget::Here(session) => self.submit(key, session, message),
            PostTarget::Elsewhere { claim, .. } => {
                if was_counted {
                    self.conns[key].forwarded = message.memory_bytes();
                    self.count_bodies(key);
                }
                self.forward(key, ForwardedPost { claim, message });
            }
        }
    }

    /// Gives a message to its session, or holds its post until there is room.
    fn submit(&mut self, key: Key, session: Key, message: Message) {
        let open = self.sessions.find(session).is_some_and(|found| found.ending.is_none());
        if !open {
            return self.refuse(key, self.no_session(), Unread::Known(0));
        }
        if self.session_has_room_for(session, &message) {
            self.record(session, message);
            self.accepted(key);
        } else {
            self.hold(key, session, message);
        }
    }

    /// Whether a session has room for a message that has just arrived.
    pub(super) fn session_has_room_for(&self, session: Key, message: &Message) -> bool {
        let len = message.body().len() as u64;
        self.sessions[session].admits_new(message.kind(), len, &self.config.limits)
    }

    /// Puts a message into the event queue, and counts it for its session.
    pub(super) fn record(&mut self, session: Key, message: Message) {
        let found = &mut self.sessions[session];
        let len = message.body().len() as u64;
        found.admitted(len);
        if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
            let method = McpMethod::of(message.method().unwrap_or_default());
            found.asked(id, method, self.now, self.config.limits.in_flight_max);
            self.metrics.requests_in_flight += 1;
        }
        self.bodies_bytes += message.memory_bytes();
        self.metrics.messages_received += 1;
        self.metrics.received_sizes.observe(message.body().len());
        let conn = found.conn;
        self.arm(TimerKind::SessionIdle, conn);
        let cancelled = message.cancelled_id().map(String::from);
        self.events.push_back(Event::Message { session: SessionId(session), message });
        // MCP says that a cancelled request gets no answer. Without this, cancelled requests would stay
        // in flight for ever and in the end block the session.
        if let Some(id) = cancelled
            && self.settle_request(session, &id).is_none()
        {
            self.withdraw_held(session, &id);
        }
    }

    /// Asks the driver to take a post to the shard of its session.
    fn forward(&mut self, key: Key, post: ForwardedPost) {
        if let Err(fault) = self.admit_event() {
            return self.refuse(key, fault, Unread::Known(0));
        }
        self.arm(TimerKind::Forward, key);
        self.metrics.posts_forwarded += 1;
        let ticket = PostTicket(self.ticket(key));
        self.bodies_bytes += post.message.memory_bytes();
        self.events.push_back(Event::Foreign { shard: post.shard(), post, ticket });
    }

    /// Answers a forwarded post with what became of it on the other shard.
    pub(super) fn take_outcome(&mut self, key: Key, outcome: Outcome) {
        let refused = match outcome {
            Outcome::Accepted => return self.accepted(key),
            Outcome::UnknownSession => Fault::UnknownSession.into(),
            Outcome::Busy => Fault::Busy.into(),
            // The other shard has counted the limit.
            Outcome::RateLimited { retry_after } => session_rate(retry_after),
        };
        self.refuse(key, refused, Unread::Known(0));
    }
}
