//! Posts: from an acceptable head, through body and envelope, to the application; and the answer.
//!
//! The order of messages: those of one session reach the application in the order in which their
//! bodies were complete. Where the session has no room the post is *held*: its connection is not
//! read, TCP does the rest, and the message goes on when there is room or the hold time is over.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::Server;
use crate::answer::{Refused, Reply, ResponseContext};
use crate::arena::Key;
use crate::conn::{ConnPhase, PostTarget, Unlocated};
use crate::error::{Expired, Fault};
use crate::event::{
    AuthTicket, ConnId, Event, ForwardedPost, Outcome, PostTicket, Refusal, ServerPhase, SessionId,
    Ticket, Verdict,
};
use crate::http1::{self, CONTINUE};
use crate::jsonrpc::{self, Invalid, Kind, Message};
use crate::limits::within;
use crate::outbox::Segment;
use crate::principal::Principal;
use crate::request::{Action, PostPlan, Unread, body_too_large};
use crate::route::Service;
use crate::session::{PostOrigin, WaitingPost};
use crate::session_ref::SessionRef;
use crate::sse::Frame;
use crate::time::Time;
use crate::timers::{Role, TimerKind};
use crate::token::{SessionToken, TokenError};

/// The longest id, in octets with its quotes, that "server busy" is said to on the stream; the post of a
/// longer one, which may be all of its body, is answered 503.
const ECHOED_ID_BYTES_MAX: usize = (4 << 10) + 2;
/// The most that a session's backlog counts for: as much for every session that there can be still adds up.
const BACKLOG_BYTES_MAX: u64 = u32::MAX as u64;
const SESSION_RATE: &str = "too many posts to this session (limit posts_rate_per_session)";
const PRINCIPAL_RATE: &str = "too many posts of this principal (limit posts_rate_per_principal)";

impl Server {
    // ── The application's verbs about posts. ────────────────────────────────────────────────────

    /// Answers [`Event::Asked`].
    ///
    /// # Errors
    ///
    /// [`Expired`] if the request has been refused meanwhile, or its connection is gone.
    pub fn authorize(
        &mut self,
        ticket: AuthTicket,
        verdict: Verdict,
        now: Time,
    ) -> Result<(), Expired> {
        self.advance(now);
        let Ok(key) = self.redeem(ticket.0) else {
            self.metrics.verdicts_late += 1;
            return Err(Expired);
        };
        let Some(ConnPhase::Deciding(plan)) = self.enter(key, ConnPhase::Awaiting) else {
            return Err(Expired);
        };
        match verdict {
            Verdict::Allow(principal) => self.proceed(key, *plan, Some(principal)),
            Verdict::Refuse(refusal) => {
                let mut refused = Refused::from(match refusal {
                    Refusal::Unauthenticated | Refusal::InvalidToken => Fault::Unauthorized,
                    Refusal::Forbidden => Fault::Forbidden,
                    Refusal::Unavailable => Fault::Undecided,
                });
                refused.invalid_token = refusal == Refusal::InvalidToken;
                self.refuse(key, refused, plan.unread());
            }
        }
        self.settle();
        Ok(())
    }

    /// Answers a post whose ticket came with [`Event::Foreign`].
    ///
    /// # Errors
    ///
    /// [`Expired`] if the post has been refused meanwhile, or its connection is gone.
    pub fn acknowledge(
        &mut self,
        ticket: PostTicket,
        outcome: Outcome,
        now: Time,
    ) -> Result<(), Expired> {
        self.advance(now);
        let key = self.redeem(ticket.0)?;
        match outcome {
            Outcome::Accepted => self.accepted(key),
            Outcome::UnknownSession => self.refuse(key, Fault::UnknownSession, Unread::Known(0)),
            Outcome::Busy => self.refuse(key, Fault::Busy, Unread::Known(0)),
            Outcome::RateLimited { retry_after } => {
                let refused = Refused::limited(Fault::RateLimited, Some(SESSION_RATE), retry_after);
                self.refuse(key, refused, Unread::Known(0));
            }
        }
        self.settle();
        Ok(())
    }

    /// The application holds this many of a session's messages, of so many bytes in all, in a queue
    /// of its own, in front of whoever will handle them.
    ///
    /// They count against the session's inbound limits as if they had not been polled, so a slow
    /// handler slows its client down. An application that handles messages as it polls them need
    /// never say this. The figures replace those said before; 4 GiB and more count as 4 GiB.
    pub fn set_backlog(&mut self, session: SessionId, messages: u32, bytes: u64, now: Time) {
        self.advance(now);
        let Some(found) = self.sessions.get_mut(session.0) else { return };
        self.bodies_bytes -= found.backlog_bytes();
        let bytes = bytes.min(BACKLOG_BYTES_MAX);
        found.set_backlog(messages, bytes);
        self.bodies_bytes += bytes;
        self.releasable.push_back(session.0);
        self.settle();
    }

    // ── Tickets. ────────────────────────────────────────────────────────────────────────────────

    pub(super) fn ticket(&mut self, key: Key) -> Option<Ticket> {
        let conn = self.conns.get_mut(key)?;
        conn.tickets = conn.tickets.wrapping_add(1);
        Some(Ticket { conn: key, number: conn.tickets })
    }

    /// The connection that a ticket was given out for, if it still waits for exactly this one.
    pub(super) fn redeem(&self, ticket: Ticket) -> Result<Key, Expired> {
        if self.awaits(&ticket) { Ok(ticket.conn) } else { Err(Expired) }
    }

    /// Whether a ticket's question is still open.
    pub(super) fn awaits(&self, ticket: &Ticket) -> bool {
        self.conns.get(ticket.conn).is_some_and(|conn| {
            let waits = matches!(
                conn.phase,
                ConnPhase::Deciding(_) | ConnPhase::Locating(_) | ConnPhase::Awaiting
            );
            waits && conn.tickets == ticket.number
        })
    }

    // ── From the head to the body. ──────────────────────────────────────────────────────────────

    /// Goes on with a request that somebody has vouched for, or that needs nobody to.
    pub(super) fn proceed(&mut self, key: Key, plan: Action, principal: Option<Principal>) {
        match plan {
            Action::Stream(plan) => {
                let unread = plan.unread;
                if let Err(fault) = self.open(key, plan, principal) {
                    self.refuse(key, fault, unread);
                }
            }
            Action::Post(plan) => self.begin_post(key, plan, principal),
            Action::Index { unread } => {
                let page = |server: &Self, to: &ResponseContext<'_>| {
                    let text = server.config.index_page.as_deref().unwrap_or_default();
                    server.answers.page(text, to)
                };
                if let Some(bytes) = self.answering(key, unread, page) {
                    self.answer(key, bytes, unread);
                }
            }
        }
    }

    fn begin_post(&mut self, key: Key, plan: PostPlan, principal: Option<Principal>) {
        // Before anything else is said, so that bad posts and guesses at sessions are limited as well,
        // and the answer tells nothing of them.
        if let Some(Err(wait)) = principal.as_ref().map(|who| self.principals.post(who, self.now)) {
            let refused = Refused::limited(Fault::RateLimited, Some(PRINCIPAL_RATE), wait);
            return self.refuse(key, refused, plan.unread);
        }
        if let Some(refused) = plan.refusal {
            return self.refuse(key, refused, plan.unread);
        }
        if self.phase != ServerPhase::Running {
            return self.refuse(key, Fault::ShuttingDown, plan.unread);
        }
        let target = match self.target(plan.token, plan.service, principal) {
            Ok(target) => target,
            Err(fault) => return self.refuse(key, fault, plan.unread),
        };
        if let PostTarget::Here(session) = target {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.session = Some(session);
            }
            if let Err(wait) = self.admit_to_session(session) {
                let refused = Refused::limited(Fault::RateLimited, Some(SESSION_RATE), wait);
                return self.refuse(key, refused, plan.unread);
            }
        }
        let decoder = plan.decoder;
        let target = match target {
            PostTarget::Elsewhere { claim, .. } if plan.expects_continue => {
                let unread = plan.unread;
                return self
                    .locate(key, Unlocated { claim, decoder, unread, expects_continue: true });
            }
            PostTarget::Elsewhere { claim, .. } => {
                // What has come with the head is looked at first, then what has not is asked for.
                self.resumable.push_back(key);
                PostTarget::Elsewhere { claim, unasked: Some(plan.unread) }
            }
            PostTarget::Here(_) => target,
        };
        if plan.expects_continue {
            self.push(key, Segment::Static(CONTINUE));
        }
        let empty = decoder.is_done();
        self.enter(key, ConnPhase::Body { decoder, body: Default::default(), target });
        self.arm(TimerKind::Body, key);
        if empty {
            self.finish_body(key);
        }
    }

    fn target(
        &self,
        token: Result<SessionToken, TokenError>,
        service: Service,
        principal: Option<Principal>,
    ) -> Result<PostTarget, Fault> {
        let token = match token {
            Ok(token) => token,
            Err(error) => {
                // As long as for any other miss.
                self.find_session(&SessionRef { token: SessionToken::UNUSED, service, principal });
                return Err(match error {
                    TokenError::Malformed => Fault::UnknownSession,
                    TokenError::OtherInstance => Fault::Misrouted,
                });
            }
        };
        let shard = token.shard();
        let claim = SessionRef { token, service, principal };
        if shard == self.config.shard {
            self.find_session(&claim).map(PostTarget::Here).ok_or(Fault::UnknownSession)
        } else if self.config.forwarding {
            Ok(PostTarget::Elsewhere { claim: Box::new(claim), unasked: None })
        } else {
            log::debug!("a post for shard {shard} came to shard {}", self.config.shard);
            Err(Fault::Misrouted)
        }
    }

    // ── From the body to the application. ───────────────────────────────────────────────────────

    pub(super) fn run_body(&mut self, key: Key, input: &[u8]) -> usize {
        if self.must_be_located(key, input) {
            self.locate_unread(key);
            return 0;
        }
        let Some(conn) = self.conns.get_mut(key) else { return input.len() };
        let ConnPhase::Body { decoder, body, .. } = &mut conn.phase else { return 0 };
        let before = body.capacity();
        let longest = decoder.declared().or(self.config.limits.body_bytes_max).unwrap_or(u64::MAX);
        make_room(body, input.len(), usize::try_from(longest).unwrap_or(usize::MAX));
        let sink = &mut |piece: &[u8]| body.extend_from_slice(piece);
        let decoded = decoder.decode(input, &self.body_limits, sink);
        self.bodies_bytes += (body.capacity() - before) as u64;
        let within_budget = within(self.config.limits.bodies_bytes_max, self.bodies_bytes);
        match decoded {
            Err(http1::Error::BodyTooLarge) => {
                self.refuse(key, body_too_large(&self.config), Unread::Unknown);
                input.len()
            }
            Err(fault) => {
                self.refuse(key, fault, Unread::Unknown);
                input.len()
            }
            Ok(_) if !within_budget => {
                self.refuse(key, Fault::BodiesFull, Unread::Unknown);
                input.len()
            }
            Ok(progress) => {
                if progress.done {
                    self.finish_body(key);
                }
                progress.consumed
            }
        }
    }

    /// A body is complete: reads its envelope and passes the message on.
    pub(super) fn finish_body(&mut self, key: Key) {
        self.disarm(Role::Phase, key);
        let waited = self.conns.get(key).is_some_and(|conn| conn.counted > 0);
        let Some(ConnPhase::Body { mut body, target, .. }) = self.enter(key, ConnPhase::Awaiting)
        else {
            return;
        };
        // What is kept is what counts; only a chunked body has more.
        body.shrink_to_fit();
        let nesting_max = self.config.limits.nesting_max.map(|max| max as usize);
        let message = match Message::read(body, nesting_max) {
            Ok(message) => message,
            Err((invalid, _)) => {
                let fault = match invalid {
                    Invalid::Parse(_) => Fault::NotJson,
                    Invalid::Request(_) => Fault::NotJsonRpc,
                };
                let text = alloc::format!("{}: {}", fault.text(), invalid.reason());
                return self.refuse(key, Refused::saying(fault, text), Unread::Known(0));
            }
        };
        log::trace!("{} posts {}", ConnId(key), message.text());
        match target {
            PostTarget::Here(session) => self.submit(key, session, message),
            PostTarget::Elsewhere { claim, .. } => {
                if let Some(conn) = self.conns.get_mut(key).filter(|_| waited) {
                    conn.forwarded = message.memory_bytes();
                    self.recount_bodies(key);
                }
                self.forward(key, ForwardedPost { claim: *claim, message });
            }
        }
    }

    /// Gives a message to its session, or holds its post until there is room.
    fn submit(&mut self, key: Key, session: Key, message: Message) {
        let open = self.sessions.get(session).is_some_and(|found| found.ending.is_none());
        if !open {
            return self.refuse(key, self.no_session(), Unread::Known(0));
        }
        if self.session_takes(session, &message) {
            return self.admit(key, session, message);
        }
        self.metrics.posts_held += 1;
        log::debug!("{} is held: {} has no room", ConnId(key), SessionId(session));
        if let Some(found) = self.sessions.get_mut(session) {
            found.hold(PostOrigin::Conn(key), WaitingPost::of(&message));
        }
        self.enter(key, ConnPhase::Held { session, message });
        self.arm(TimerKind::Hold, key);
    }

    /// What a post is told whose session has ended since it was found.
    const fn no_session(&self) -> Fault {
        match self.phase {
            ServerPhase::Running => Fault::UnknownSession,
            ServerPhase::Draining { .. } | ServerPhase::Drained => Fault::ShuttingDown,
        }
    }

    pub(super) fn session_takes(&self, session: Key, message: &Message) -> bool {
        let len = message.body().len() as u64;
        self.sessions
            .get(session)
            .is_some_and(|found| found.admits_new(message.kind(), len, &self.config.limits))
    }

    /// A message goes to the application, and its post is answered.
    fn admit(&mut self, key: Key, session: Key, message: Message) {
        self.record(session, message);
        self.accepted(key);
    }

    fn accepted(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let reply = Reply { head_only: false, ..conn.reply };
        let to = ResponseContext { reply, cors_origin: &conn.cors_origin, config: &self.config };
        let bytes = self.answers.accepted(&to);
        self.answer(key, bytes, Unread::Known(0));
    }

    /// Puts a message into the event queue, and into its session's books.
    pub(super) fn record(&mut self, session: Key, message: Message) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        let len = message.body().len() as u64;
        found.admitted(len);
        if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
            found.asked(id);
        }
        self.bodies_bytes += message.memory_bytes();
        self.metrics.messages_received += 1;
        let conn = found.conn;
        self.arm(TimerKind::SessionIdle, conn);
        let cancelled = message.cancelled_id().map(String::from);
        self.events.push_back(Event::Message { session: SessionId(session), message });
        // MCP says that a cancelled request gets no answer. Without this, requests that a client
        // gave up would stay in flight for ever and in the end block the session.
        if let Some(id) = cancelled
            && !self.settle_request(session, &id)
        {
            self.withdraw_held(session, &id);
        }
    }

    fn forward(&mut self, key: Key, post: ForwardedPost) {
        if !within(self.config.limits.events_max, self.events.len() as u32) {
            return self.refuse(key, Fault::EventsFull, Unread::Known(0));
        }
        self.arm(TimerKind::Forward, key);
        let Some(ticket) = self.ticket(key) else { return };
        let ticket = PostTicket(ticket);
        self.bodies_bytes += post.message.memory_bytes();
        self.events.push_back(Event::Foreign { shard: post.shard(), post, ticket });
    }

    // ── Held posts. ─────────────────────────────────────────────────────────────────────────────

    /// A message of `len` bytes was polled.
    pub(super) fn message_polled(&mut self, session: Key, len: u64) {
        if let Some(found) = self.sessions.get_mut(session) {
            found.polled(len);
            self.releasable.push_back(session);
        }
    }

    /// Lets held posts of a session go on, as far as there is room now.
    pub(super) fn release_held(&mut self, session: Key) {
        while let Some(found) = self.sessions.get(session) {
            match found.next_admissible(&self.config.limits) {
                None => return,
                Some(PostOrigin::Forward(forward)) => self.release_forward(forward),
                Some(PostOrigin::Conn(conn)) => {
                    let Some(message) = self.unhold(conn) else { return };
                    self.admit(conn, session, message);
                }
            }
        }
    }

    /// Takes a held message off its connection; what happens to that is for the caller to say.
    fn unhold(&mut self, key: Key) -> Option<Message> {
        let held = matches!(self.conns.get(key)?.phase, ConnPhase::Held { .. });
        if !held {
            return None;
        }
        self.disarm(Role::Phase, key);
        let Some(ConnPhase::Held { session, message }) = self.enter(key, ConnPhase::Awaiting)
        else {
            return None;
        };
        if let Some(found) = self.sessions.get_mut(session) {
            found.unhold(PostOrigin::Conn(key));
        }
        Some(message)
    }

    /// A request was cancelled that is still held: the cancellation has overtaken it, so nobody would
    /// take it back later. Its post is answered like any other, and its message goes nowhere.
    fn withdraw_held(&mut self, session: Key, id: &str) {
        let found = self.sessions.get(session).and_then(|found| found.held_request(id));
        let Some(post) = found else { return };
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
        let Some(&ConnPhase::Held { session, .. }) = self.conns.get(key).map(|conn| &conn.phase)
        else {
            return;
        };
        self.unhold(key);
        // Those behind it may have room where it had none.
        self.releasable.push_back(session);
    }

    /// A post was held for as long as its client can be made to wait. A request is then answered
    /// like any other, on the stream: an error status would make some clients give up altogether.
    pub(super) fn hold_is_over(&mut self, key: Key) {
        let Some(ConnPhase::Held { session, .. }) = self.conns.get(key).map(|conn| &conn.phase)
        else {
            return;
        };
        let session = *session;
        let Some(message) = self.unhold(key) else { return };
        if self.tell_busy(session, &message) {
            self.note(Some(key), Fault::Busy);
            self.accepted(key);
        } else {
            self.refuse(key, Fault::Busy, Unread::Known(0));
        }
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
            let key = match post {
                PostOrigin::Conn(conn) => conn,
                PostOrigin::Forward(forward) => {
                    self.dismiss(forward, self.no_session_outcome());
                    continue;
                }
            };
            let waiting =
                self.conns.get(key).is_some_and(|c| matches!(c.phase, ConnPhase::Held { .. }));
            if waiting {
                self.disarm(Role::Phase, key);
                self.enter(key, ConnPhase::Awaiting);
                self.refuse(key, self.no_session(), Unread::Known(0));
            }
        }
    }
}

/// Makes room in a body or a head of a declared or limited length for `more` bytes that have arrived:
/// for twice what there was, so that it is copied a few times at most, but never for more than the
/// `longest` that it may become.
pub(super) fn make_room(body: &mut Vec<u8>, more: usize, longest: usize) {
    let needed = body.len().saturating_add(more).min(longest);
    if needed > body.capacity() {
        let room = needed.max(body.capacity().saturating_mul(2)).min(longest);
        body.reserve_exact(room - body.len());
    }
}
