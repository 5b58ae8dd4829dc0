//! Sessions: how they are opened, what is sent on their streams, and the ways they end.

use super::Server;
use super::guard::Source;
use crate::answer::{EndpointInfo, Refused, ResponseContext};
use crate::arena::Key;
use crate::conn::ConnPhase;
use crate::error::{Fault, SendError};
use crate::event::{CloseReason, ConnId, Event, Reach, RequestHead, ServerPhase, SessionId};
use crate::http1::{Persistence, StreamFraming};
use crate::limits::within;
use crate::line_throttle::{LineThrottle, SESSION_LINES_PER_SECOND};
use crate::outbox::Segment;
use crate::principal::Principal;
use crate::request::{StreamPlan, Unread};
use crate::route::Service;
use crate::session::SessionState;
use crate::sse::{Frame, LAST_CHUNK};
use crate::time::Time;
use crate::timers::{Role, TimerKind};
use crate::token::{Secret, SessionToken};

/// A larger message makes clients of the Python SDK 2.x end their session.
const LARGE_FRAME_BYTES: usize = 1 << 20;

/// Why a frame was not queued.
pub(super) enum Unqueued {
    /// Of this cost, it does not fit into its session's queue, or into all queues together.
    Full {
        cost: u64,
        everywhere: bool,
    },
    TooLarge,
    Gone,
}

impl Server {
    // ── The application's verbs about sessions. ─────────────────────────────────────────────────

    /// Queues an event for a session's stream. Nothing is encoded or copied.
    ///
    /// A response releases the request that it answers.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`]: wait for [`Event::Unblocked`], then send again. [`SendError::TooLarge`]:
    /// it never will fit. [`SendError::Gone`]: the session has ended or is ending.
    pub fn send(&mut self, session: SessionId, frame: &Frame, now: Time) -> Result<(), SendError> {
        self.advance(now);
        self.offer(session.0, frame)?;
        if let Some(id) = frame.answered_id() {
            self.settle_request(session.0, id);
        }
        self.settle();
        Ok(())
    }

    /// Queues one event for many sessions. It is encoded once and shared by all of them. A response
    /// releases the request that it answers in each.
    pub fn broadcast(
        &mut self,
        to: impl IntoIterator<Item = SessionId>,
        frame: &Frame,
        now: Time,
    ) -> Reach {
        self.advance(now);
        let mut reach = Reach::default();
        for session in to {
            match self.offer(session.0, frame) {
                Ok(()) => {
                    reach.queued += 1;
                    if let Some(id) = frame.answered_id() {
                        self.settle_request(session.0, id);
                    }
                }
                Err(SendError::Gone) => reach.gone += 1,
                Err(SendError::Full) => reach.full += 1,
                Err(SendError::TooLarge) => reach.too_large += 1,
            }
        }
        self.settle();
        reach
    }

    /// Ends a session in order: what is queued still leaves, then the stream ends. Posts are answered
    /// like those to an unknown session from now on. [`Event::Closed`] follows when it is over.
    pub fn close(&mut self, session: SessionId, now: Time) {
        self.advance(now);
        self.begin_end(session.0, CloseReason::Application);
        self.settle();
    }

    // ── Opening. ────────────────────────────────────────────────────────────────────────────────

    /// Opens a session on a connection. Everything that can fail comes first; a failure leaves no
    /// trace.
    pub(super) fn open(
        &mut self,
        key: Key,
        plan: StreamPlan,
        principal: Option<Principal>,
    ) -> Result<(), Refused> {
        if plan.head_only {
            self.answer_head(key, &plan);
            return Ok(());
        }
        let address = self.config.address_key(plan.client);
        self.admit_session(address.as_ref(), principal.as_ref())?;
        self.admit_head(&plan.head)?;
        // The last but one, because asking is counting.
        if let Some(address) = address {
            let late = |wait| Refused::limited(Fault::SessionRateLimited, None, wait);
            self.session_rates.take(address, self.now).map_err(late)?;
        }
        let secret = Secret::draw(&mut *self.entropy).map_err(|_| Fault::EntropyUnavailable)?;
        // Nothing below this line can fail.
        let token =
            SessionToken::new(self.config.shard, self.sessions.vacant_index(), secret.clone());
        let service = plan.service;
        let endpoint = EndpointInfo { token: &token, mount: &plan.mount, service };
        let greet = |server: &Self, to: &ResponseContext<'_>| {
            server.answers.stream(plan.framing, Some(endpoint), to)
        };
        let Some(greeting) = self.answering(key, plan.unread, greet) else { return Ok(()) };
        if let Some(address) = address {
            self.session_addresses.add(address);
        }
        if let Some(principal) = principal.clone() {
            self.principals.opened(&principal, self.now);
        }
        let session = SessionState::new(key, secret, service, principal.clone(), address, self.now);
        let session = self.sessions.insert(session);
        let chunked = plan.framing != StreamFraming::UntilClose;
        self.enter(key, ConnPhase::Streaming { session, chunked, input: 0, ending: false });
        self.disarm(Role::Phase, key);
        self.arm(TimerKind::SessionIdle, key);
        self.arm(TimerKind::SessionLifetime, key);
        self.push_answer(key, greeting);
        self.metrics.sessions_opened += 1;
        log::debug!("{} opened on {}", SessionId(session), ConnId(key));
        self.bodies_bytes += plan.head.memory_bytes();
        self.events.push_back(Event::Opened {
            session: SessionId(session),
            conn: ConnId(key),
            principal,
            head: plan.head,
        });
        Ok(())
    }

    /// Answers a HEAD as the GET would be answered, and then does what the answer says.
    fn answer_head(&mut self, key: Key, plan: &StreamPlan) {
        let keeps = self.reply_before(key, plan.unread).persistence != Persistence::Close;
        let framing = match plan.framing {
            StreamFraming::Chunked if !keeps => StreamFraming::ChunkedThenClose,
            StreamFraming::Chunked
            | StreamFraming::ChunkedThenClose
            | StreamFraming::UntilClose => plan.framing,
        };
        if framing != StreamFraming::Chunked
            && let Some(conn) = self.conns.get_mut(key)
        {
            conn.reply.persistence = Persistence::Close;
        }
        let head =
            self.answering(key, plan.unread, |server, to| server.answers.stream(framing, None, to));
        if let Some(head) = head {
            self.answer(key, head, plan.unread);
        }
    }

    fn admit_session(
        &self,
        address: Option<&crate::peer::AddressKey>,
        principal: Option<&Principal>,
    ) -> Result<(), Fault> {
        let limits = &self.config.limits;
        let more = |count: u32| count.saturating_add(1);
        if self.phase != ServerPhase::Running {
            Err(Fault::ShuttingDown)
        } else if !within(limits.sessions_max, more(self.sessions.len())) {
            Err(Fault::SessionsFull)
        } else if !self.has_place_for_stream() {
            Err(Fault::StreamsFull)
        } else if address.is_some_and(|address| {
            let count = self.session_addresses.count(address).saturating_add(1);
            !within(limits.sessions_per_address_max.map(u64::from), count)
        }) {
            Err(Fault::SessionsPerAddressFull)
        } else if principal.is_some_and(|principal| {
            let count = self.principals.sessions(principal);
            !within(limits.sessions_per_principal_max, more(count))
        }) {
            Err(Fault::SessionsPerPrincipalFull)
        } else if !within(limits.events_max, self.events.len() as u32) {
            Err(Fault::EventsFull)
        } else if self.queues_full() && limits.queue_reserve_bytes == 0 {
            // It could be told nothing; otherwise it has room of its own.
            Err(Fault::QueuesFull)
        } else {
            Ok(())
        }
    }

    /// Whether an event may carry this head.
    pub(super) fn admit_head(&self, head: &RequestHead) -> Result<(), Fault> {
        let bytes = self.bodies_bytes.saturating_add(head.memory_bytes());
        if within(self.config.limits.bodies_bytes_max, bytes) {
            Ok(())
        } else {
            Err(Fault::BodiesFull)
        }
    }

    // ── Sending. ────────────────────────────────────────────────────────────────────────────────

    /// Queues a frame of the application's; where it finds no room, it will be told when there is.
    fn offer(&mut self, key: Key, frame: &Frame) -> Result<(), SendError> {
        let refused = match self.queue_frame(key, frame) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        match refused {
            Unqueued::Full { cost, everywhere } => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.refused_cost = Some(cost);
                }
                if everywhere {
                    self.wait_for_budget(key);
                }
                Err(SendError::Full)
            }
            Unqueued::TooLarge => Err(SendError::TooLarge),
            Unqueued::Gone => Err(SendError::Gone),
        }
    }

    /// A session waits for room in all queues together, for the frame that was refused last.
    fn wait_for_budget(&mut self, key: Key) {
        if self.waiting_for_budget.is_empty() {
            self.expect_queue_room();
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !core::mem::replace(&mut session.waiting_for_budget, true) {
            self.waiting_for_budget.push_back(key);
        }
    }

    /// Queues a frame if there is room for it now.
    pub(super) fn queue_frame(&mut self, key: Key, frame: &Frame) -> Result<(), Unqueued> {
        let limits = &self.config.limits;
        let session = self.sessions.get(key).filter(|found| found.ending.is_none());
        let stream = session.ok_or(Unqueued::Gone)?.conn;
        let conn = self.conns.get(stream).ok_or(Unqueued::Gone)?;
        let ConnPhase::Streaming { chunked, .. } = conn.phase else { return Err(Unqueued::Gone) };
        let segment = Segment::frame(frame, chunked);
        let cost = segment.cost();
        if !within(limits.queues_bytes_max, cost.saturating_sub(limits.queue_reserve_bytes)) {
            return Err(Unqueued::TooLarge);
        }
        let queued = conn.outbox.cost();
        if queued > 0 && !within(limits.queue_bytes_max, queued.saturating_add(cost)) {
            return Err(Unqueued::Full { cost, everywhere: false });
        }
        if !self.queues_take(conn.queue_shared_by(cost, limits)) {
            return Err(Unqueued::Full { cost, everywhere: true });
        }
        let Some(session) = self.sessions.get_mut(key) else { return Err(Unqueued::Gone) };
        session.frames_sent += 1;
        if frame.wire_len() > LARGE_FRAME_BYTES
            && !core::mem::replace(&mut session.warned_large, true)
            && log::log_enabled!(log::Level::Warn)
            && let Some(unsaid) = self.session_lines.large.tell(self.now)
        {
            log::warn!(
                "{}: a message of {} bytes; some clients give up on messages over 1 MiB{unsaid}",
                SessionId(key),
                frame.wire_len()
            );
        }
        log::trace!("{} is sent {} bytes", SessionId(key), frame.wire_len());
        self.push(stream, segment);
        self.metrics.frames_queued += 1;
        Ok(())
    }

    /// A request of the session has its answer. Says whether it was known.
    pub(super) fn settle_request(&mut self, key: Key, id: &str) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        if !session.settled(id) {
            return false;
        }
        let last = session.requests_in_flight() == 0;
        self.releasable.push_back(key);
        if last && self.phase != ServerPhase::Running {
            self.begin_end(key, CloseReason::Shutdown);
        }
        true
    }

    /// Tells the application that a session it could not send to has room. Says whether it did.
    pub(super) fn unblock(&mut self, key: Key) -> bool {
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get(key) else { return false };
        let Some(cost) = session.refused_cost else { return false };
        let Some(conn) = self.conns.get(session.conn) else { return false };
        let shared = conn.queue_shared_by(cost, limits);
        let queued = conn.outbox.cost();
        // Below half, so that a full queue is not announced as free for every small write.
        let low = queued == 0
            || (within(limits.queue_bytes_max, queued.saturating_add(cost))
                && within(limits.queue_bytes_max, queued.saturating_mul(2)));
        if !low {
            return false;
        }
        if !self.queues_take(shared) {
            // Its own queue has room, so from here on it waits for others to make some.
            self.wait_for_budget(key);
            return false;
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.refused_cost = None;
        }
        self.events.push_back(Event::Unblocked { session: SessionId(key) });
        true
    }

    // ── Ending. ─────────────────────────────────────────────────────────────────────────────────

    /// Ends a session in order: no more frames, no more posts, and when the queue has left, the end.
    pub(super) fn begin_end(&mut self, key: Key, reason: CloseReason) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.ending.is_some() {
            return;
        }
        session.ending = Some(reason);
        session.refused_cost = None;
        let stream = session.conn;
        let held = session.take_held();
        self.refuse_held(held);
        let Some(conn) = self.conns.get_mut(stream) else { return };
        let ConnPhase::Streaming { chunked, ending, .. } = &mut conn.phase else { return };
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

    /// Everything has left: the session is over, and its connection with it.
    pub(super) fn finish_session(&mut self, key: Key) {
        self.end_session(key, CloseReason::Application);
    }

    /// Ends a session at once. What is queued is lost, and counted. A session that was ending anyway
    /// keeps the reason it had.
    pub(super) fn end_session(&mut self, key: Key, reason: CloseReason) {
        let Some(mut session) = self.sessions.remove(key) else { return };
        let reason = session.ending.unwrap_or(reason);
        if session.waiting_for_budget {
            self.waiting_for_budget.retain(|&waiting_for_budget| waiting_for_budget != key);
        }
        let frames_undelivered = self.clear_outbox(session.conn);
        self.note_end(key, &session, reason, frames_undelivered);
        self.cut(session.conn);
        self.bodies_bytes -= session.backlog_bytes();
        if let Some(address) = &session.address {
            self.session_addresses.subtract(address);
        }
        if let Some(principal) = &session.principal {
            self.principals.closed(principal, self.now);
        }
        self.metrics.sessions_closed += 1;
        self.events.push_back(Event::Closed {
            session: SessionId(key),
            reason,
            frames_undelivered,
        });
        self.refuse_held(session.take_held());
    }

    /// Says in the log how a session ended, and whether it was of use: see `line_throttle` for how many such
    /// lines there are.
    fn note_end(
        &mut self,
        key: Key,
        session: &SessionState,
        reason: CloseReason,
        undelivered: u32,
    ) {
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let (received, sent) = (session.messages_received, session.frames_sent);
        let unused = received == 0 && sent == 0;
        let SessionLines { unused: without, used, .. } = &mut self.session_lines;
        let unsaid = if unused {
            without.tell(self.now)
        } else {
            used.tell_some(SESSION_LINES_PER_SECOND, self.now)
        };
        let (Some(unsaid), Some(conn)) = (unsaid, self.conns.get(session.conn)) else { return };
        let (id, source) = (SessionId(key), Source(conn));
        let tenths = self.now.saturating_since(session.opened).as_millis() / 100;
        let (seconds, tenths) = (tenths / 10, tenths % 10);
        if unused {
            log::info!(
                "{id} from {source} ended after {seconds}.{tenths} s, without a message: \
                 {reason}{unsaid}"
            );
        } else {
            log::info!(
                "{id} from {source} ended after {seconds}.{tenths} s, {received} messages in, \
                 {sent} out, {undelivered} undelivered: {reason}{unsaid}"
            );
        }
    }
}

/// What the log says about sessions: each of these is a cause of its own.
#[derive(Debug)]
pub(super) struct SessionLines {
    /// Ends of sessions without a message.
    unused: LineThrottle,
    /// Ends of the others.
    used: LineThrottle,
    /// Messages that some clients cannot take.
    large: LineThrottle,
}

impl SessionLines {
    pub(super) const fn new() -> Self {
        let [unused, used, large] = [LineThrottle::new(); 3];
        Self { unused, used, large }
    }
}

impl crate::request::Action {
    /// What is left to read of the request if it is refused.
    pub(super) const fn unread(&self) -> Unread {
        match self {
            Self::Stream(plan) => plan.unread,
            Self::Post(plan) => plan.unread,
            Self::Index { unread } => *unread,
        }
    }

    /// The service that is asked for, if it is one.
    pub(super) const fn service(&self) -> Option<Service> {
        match self {
            Self::Stream(plan) => Some(plan.service),
            Self::Post(plan) => Some(plan.service),
            Self::Index { .. } => None,
        }
    }
}
