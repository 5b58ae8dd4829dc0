//! Sessions and their streams: opening, sending, ending.
//!
//! Knows: what each does to the session's connection and to the counts, and what the log says about it.
//! Does not know: whether there is room for a session (see `admission`), or how bytes leave.

use super::{Server, TokenSerial};
use crate::answer::{EndpointInfo, Refused, ResponseContext};
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::error::{Fault, SendError};
use crate::event::{CloseReason, ConnId, Event, Reach, ServerPhase, SessionId};
use crate::http1::{Persistence, StreamFraming};
use crate::limits::within;
use crate::line_throttle::LineThrottle;
use crate::outbox::Segment;
use crate::principal::Principal;
use crate::request::StreamPlan;
use crate::session::{SessionState, Settled};
use crate::sse::{Frame, LAST_CHUNK};
use crate::timers::{Role, TimerKind};
use crate::token::{Secret, SessionToken};

/// A larger message makes clients of the Python SDK 2.x end their session.
const LARGE_FRAME_BYTES: usize = 1 << 20;

/// Why a frame was not queued.
pub(super) enum Unqueued {
    /// Its cost does not fit into its session's queue, or, `everywhere`, into all queues together.
    Full { cost: u64, everywhere: bool },
    /// It would not fit into empty queues.
    TooLarge,
    /// The session has ended or is ending.
    Gone,
}

impl Server {
    // ── Opening. ────────────────────────────────────────────────────────────────────────────────

    /// Opens a session on a connection. Everything that can fail comes first, so a failure changes
    /// nothing.
    pub(super) fn open(
        &mut self,
        key: Key,
        plan: StreamPlan,
        principal: Option<Principal>,
        token: Option<TokenSerial>,
    ) -> Result<(), Refused> {
        if plan.head_only {
            self.answer_head(key, &plan);
            return Ok(());
        }
        let address = self.config.address_key(plan.client);
        self.admit_stream(&plan.head, address, principal.as_ref())?;
        let secret = Secret::draw(&mut *self.entropy).map_err(|_| Fault::EntropyUnavailable)?;
        let retry = self.config.retry.map(|range| range.draw(&mut *self.entropy)).transpose();
        let retry_ms = retry.map_err(|_| Fault::EntropyUnavailable)?;
        // Nothing below this line can fail.
        let session_token =
            SessionToken::new(self.config.shard, self.sessions.vacant_index(), secret.clone());
        let service = plan.service;
        let endpoint =
            EndpointInfo { token: &session_token, mount: &plan.mount, service, retry_ms };
        let greet = |server: &Self, to: &ResponseContext<'_>| {
            server.answers.stream(plan.framing, Some(endpoint), to)
        };
        let greeting = self.answering(key, plan.unread, greet);
        if let Some(address) = address {
            self.session_addresses.add(address);
        }
        if let Some(principal) = principal.clone() {
            self.principals.opened(&principal, self.now);
        }
        let mut session =
            SessionState::new(key, secret, service, principal.clone(), address, self.now);
        session.token = token;
        let session = self.sessions.insert(session);
        let chunked = plan.framing != StreamFraming::UntilClose;
        self.enter(key, ConnPhase::Streaming { session, chunked, input: 0, ending: false });
        self.disarm(Role::Phase, key);
        self.arm(TimerKind::SessionIdle, key);
        self.arm(TimerKind::SessionLifetime, key);
        self.conns[key].request.session = Some(session);
        self.note_answer(key, greeting.status, greeting.bytes.len());
        self.push_answer(key, greeting);
        self.metrics.sessions_opened += 1;
        self.note_opening(session);
        self.bodies_bytes += plan.head.memory_bytes();
        self.events.push_back(Event::Opened {
            session: SessionId(session),
            conn: ConnId(key),
            principal,
            head: plan.head,
        });
        Ok(())
    }

    /// Answers a HEAD with the head that a GET would be answered with.
    fn answer_head(&mut self, key: Key, plan: &StreamPlan) {
        let keeps = self.reply_before(key, plan.unread).persistence != Persistence::Close;
        let framing = match plan.framing {
            StreamFraming::Chunked if !keeps => StreamFraming::ChunkedThenClose,
            StreamFraming::Chunked
            | StreamFraming::ChunkedThenClose
            | StreamFraming::UntilClose => plan.framing,
        };
        if framing != StreamFraming::Chunked {
            self.conns[key].reply.persistence = Persistence::Close;
        }
        let head =
            self.answering(key, plan.unread, |server, to| server.answers.stream(framing, None, to));
        self.answer(key, head, plan.unread);
    }

    // ── Sending. ────────────────────────────────────────────────────────────────────────────────

    /// Queues a frame from the application. A response releases the request that it answers.
    pub(super) fn send_frame(&mut self, key: Key, frame: &Frame) -> Result<(), SendError> {
        self.offer(key, frame)?;
        if let Some(id) = frame.answered_id()
            && let Some(Settled { method, accepted }) = self.settle_request(key, id)
        {
            self.metrics.count_answer(method, self.now.saturating_since(accepted));
        }
        Ok(())
    }

    /// Queues one frame for many sessions.
    pub(super) fn send_to_all(
        &mut self,
        sessions: impl IntoIterator<Item = SessionId>,
        frame: &Frame,
    ) -> Reach {
        let mut reach = Reach::default();
        for session in sessions {
            *match self.send_frame(session.0, frame) {
                Ok(()) => &mut reach.queued,
                Err(SendError::Gone) => &mut reach.gone,
                Err(SendError::Full) => &mut reach.full,
                Err(SendError::TooLarge) => &mut reach.too_large,
            } += 1;
        }
        reach
    }

    /// Queues a frame from the application. If there is no room, the application is told once there is.
    fn offer(&mut self, key: Key, frame: &Frame) -> Result<(), SendError> {
        self.queue_frame(key, frame).map_err(|refused| match refused {
            Unqueued::Full { cost, everywhere } => {
                self.sessions[key].refused_cost = Some(cost);
                if everywhere {
                    self.wait_for_budget(key);
                }
                SendError::Full
            }
            Unqueued::TooLarge => SendError::TooLarge,
            Unqueued::Gone => SendError::Gone,
        })
    }

    /// Queues a frame if there is room for it now.
    pub(super) fn queue_frame(&mut self, key: Key, frame: &Frame) -> Result<(), Unqueued> {
        let limits = &self.config.limits;
        let session = self.sessions.find(key).filter(|found| found.ending.is_none());
        let stream = session.ok_or(Unqueued::Gone)?.conn;
        let conn = &self.conns[stream];
        let chunked = matches!(conn.phase, ConnPhase::Streaming { chunked: true, .. });
        let segment = Segment::frame(frame, chunked);
        let cost = segment.cost();
        if !within(limits.queues_bytes_max, cost.saturating_sub(limits.queue_reserve_bytes)) {
            return Err(Unqueued::TooLarge);
        }
        let queued = conn.outbox.cost();
        if queued > 0 && !within(limits.queue_bytes_max, queued.saturating_add(cost)) {
            return Err(Unqueued::Full { cost, everywhere: false });
        }
        if !self.queues_have_room_for(conn.queue_shared_by(cost, limits)) {
            return Err(Unqueued::Full { cost, everywhere: true });
        }
        let session = &mut self.sessions[key];
        session.frames_sent += 1;
        session.bytes_sent += frame.wire_len() as u64;
        if frame.wire_len() > LARGE_FRAME_BYTES
            && !core::mem::replace(&mut session.warned_large, true)
            && log::log_enabled!(log::Level::Warn)
            && let Some(suppressed) = self.session_lines.large.tell(self.now)
        {
            log::warn!(
                event = "large_message",
                session = SessionId(key),
                bytes = frame.wire_len(),
                suppressed = suppressed;
                "session {} is sent a message of {} bytes, and some clients give up on messages over \
                 1 MiB{suppressed}",
                SessionId(key),
                frame.wire_len()
            );
        }
        log::trace!(
            event = "message_queued",
            session = SessionId(key),
            bytes = frame.wire_len();
            "a message of {} bytes is queued for session {}", frame.wire_len(), SessionId(key)
        );
        self.push(stream, segment);
        self.metrics.frames_queued += 1;
        self.metrics.sent_sizes.observe(frame.wire_len());
        Ok(())
    }

    /// Removes a request of the session from those in flight. Returns it, if it was one of them.
    pub(super) fn settle_request(&mut self, key: Key, id: &str) -> Option<Settled> {
        let session = &mut self.sessions[key];
        let settled = session.settled(id)?;
        self.metrics.requests_in_flight -= 1;
        let last = session.requests_in_flight() == 0;
        self.releasable.push_back(key);
        if last && self.phase != ServerPhase::Running {
            self.begin_end(key, CloseReason::Shutdown);
        }
        Some(settled)
    }

    // ── Ending. ─────────────────────────────────────────────────────────────────────────────────

    /// Begins to end a session in order: it takes no more frames and no more posts, and ends when its queue
    /// has left. For one that has ended or is ending, nothing happens.
    pub(super) fn begin_end(&mut self, key: Key, reason: CloseReason) {
        let Some(session) = self.sessions.find_mut(key) else { return };
        if session.ending.is_some() {
            return;
        }
        session.ending = Some(reason);
        session.refused_cost = None;
        let stream = session.conn;
        let held = session.take_held();
        self.refuse_held(held);
        let ConnPhase::Streaming { chunked, ending, .. } = &mut self.conns[stream].phase else {
            unreachable!("invariant: a session's connection streams");
        };
        *ending = true;
        if *chunked {
            self.push(stream, Segment::Static(LAST_CHUNK));
        }
        for role in [Role::Heartbeat, Role::SessionIdle, Role::SessionLifetime] {
            self.disarm(role, stream);
        }
        self.wake(stream);
        self.after_flush(stream);
    }

    /// Ends a session at once, and cuts its connection. Queued frames are dropped and counted. A session
    /// that was ending already keeps its reason.
    pub(super) fn end_session(&mut self, key: Key, reason: CloseReason) {
        let mut session = self.sessions.remove(key);
        let reason = session.ending.unwrap_or(reason);
        if session.waiting_for_budget {
            self.waiting_for_budget.retain(|&waiting| waiting != key);
        }
        let frames_undelivered = self.clear_outbox(session.conn);
        self.note_end(key, &session, reason, frames_undelivered);
        self.cut(session.conn);
        self.bodies_bytes -= session.backlog.bytes;
        if let Some(address) = &session.address {
            self.session_addresses.subtract(address);
        }
        if let Some(principal) = &session.principal {
            self.principals.closed(principal, self.now);
        }
        self.metrics.requests_in_flight -= u64::from(session.requests_in_flight());
        self.metrics.count_end(reason);
        self.events.push_back(Event::Closed {
            session: SessionId(key),
            reason,
            frames_undelivered,
        });
        self.refuse_held(session.take_held());
    }
}

/// How often the log has lines about sessions; each kind of line is limited on its own.
#[derive(Debug)]
pub(super) struct SessionLines {
    /// Ends of sessions without a message.
    pub(super) unused: LineThrottle,
    /// Ends of the others.
    pub(super) used: LineThrottle,
    /// Messages that are too large for some clients.
    large: LineThrottle,
}

impl SessionLines {
    pub(super) const fn new() -> Self {
        let [unused, used, large] = [LineThrottle::new(); 3];
        Self { unused, used, large }
    }
}
