//! The multiplexer of a shared process: many sessions over one server on stdio, without I/O.
//!
//! Knows: which session an answer belongs to; the parts of MCP that belong to one connection and have to be divided
//! among sessions (the handshake, ids, progress tokens, cancellations, subscriptions); and what happens to messages
//! while there is no server. Does not know: processes, sockets, tasks, or a clock: the time is an argument.
//!
//! Theory of operation. For the server, the bridge is one client. Each request is sent to the server under a number
//! that was never used before. The answer goes to the session that sent the request, with the session's own id in
//! its original spelling. The number is also the progress token, so one table serves both. The first `initialize` is
//! passed on, and its result is stored as the answer for all later sessions. Because this handshake is shared by all
//! sessions, it offers no capabilities, and requests of the server are refused by the bridge. Messages that cannot be
//! passed on yet are parked:
//!
//! ```text
//!  Down ──started──▶ Uninitialized ──initialize──▶ Initializing ──result──▶ Ready
//!   ▲                  ▲     parked too long ─▶      │   │ error              │
//!   │                  ╰─────────────────────────────┼───╯                    │
//!   ╰────────────── exited ──────────────────────────┴────────────────────────╯
//! ```
//!
//! After each call of a `handle_` method, call [`poll_output`](Mux::poll_output) until it returns `None`, and then
//! read the next deadline with [`poll_timeout`](Mux::poll_timeout).
//!
//! Decision: `notifications/initialized` is sent as soon as `initialize` is answered, because the client
//! that should send it might leave. An `initialize` that the server refuses concerns its sender only, and
//! the next one is tried.
//!
//! Decision: requests wait for a process that has ended for 5 s, because the first restart comes after 1 s.
//! Later requests are refused at once until a process has completed its handshake; otherwise a process that
//! crashes in its handshake would keep them for ever. Without sessions no process is started.

mod from_server;
mod from_sessions;
mod subscriptions;
mod text;

use core::fmt;
use core::mem;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mcp_sse_core::jsonrpc::{self, Kind, Message, code};
use mcp_sse_core::{Frame, Time};
use mcp_sse_driver::LogThrottle;

use super::handshakes::{HANDSHAKE_TIMEOUT, unknown_client};
use super::ids::{self, ID_BYTES_MAX};
use super::printed::{LostAnswer, UnreadableRequest, lost_answer_body};
use subscriptions::Subscriptions;
use text::Ambiguous;

/// The limits and timeouts of a [`Mux`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MuxLimits {
    /// The most unanswered requests of all sessions together. 65,536 by default.
    pub(crate) requests_max: usize,
    /// The longest id or progress token, in bytes of JSON. 4 KiB by default. A request with a longer one is refused,
    /// because each is stored until the answer.
    pub(crate) id_bytes_max: usize,
    /// The most bytes of ids and progress tokens of all unanswered requests together. 16 MiB by default.
    pub(crate) ids_bytes_max: usize,
    /// The most bytes of ids and progress tokens of one session's unanswered requests. 256 KiB by default.
    pub(crate) session_ids_bytes_max: usize,
    /// The most parked messages of all sessions together. 4,096 by default.
    pub(crate) parked_max: usize,
    /// The most bytes of parked messages of all sessions together. 16 MiB by default.
    pub(crate) parked_bytes_max: usize,
    /// The most parked messages of one session. 64 by default.
    pub(crate) session_parked_max: usize,
    /// How long messages wait for a session's `initialize` before the bridge sends its own. 2 s by default.
    pub(crate) park: Duration,
    /// How long after the end of a server requests wait for the next one. 5 s by default. Later requests are refused
    /// immediately until there is a server again.
    pub(crate) outage: Duration,
    /// How long the server may take to answer a session's `initialize`. 120 s by default, because the first start may
    /// install the server.
    pub(crate) initialize_timeout: Duration,
    /// How long the server may take to answer the bridge's own `initialize`. 60 s by default.
    pub(crate) own_initialize_timeout: Duration,
    /// The most bytes of the URIs that one session is subscribed to, plus
    /// [`SUBSCRIPTION_BYTES`](Self::SUBSCRIPTION_BYTES) for each. 512 KiB by default.
    pub(crate) session_subscriptions_bytes_max: usize,
    /// The most bytes of the URIs that all sessions together are subscribed to, plus
    /// [`SUBSCRIPTION_BYTES`](Self::SUBSCRIPTION_BYTES) for each. 16 MiB by default.
    pub(crate) subscriptions_bytes_max: usize,
}

impl MuxLimits {
    /// The bytes that a subscription counts besides its URI.
    pub(crate) const SUBSCRIPTION_BYTES: usize = 256;
}

impl Default for MuxLimits {
    fn default() -> Self {
        Self {
            requests_max: 65_536,
            id_bytes_max: ID_BYTES_MAX,
            ids_bytes_max: 16 << 20,
            session_ids_bytes_max: 256 << 10,
            parked_max: 4_096,
            parked_bytes_max: 16 << 20,
            session_parked_max: 64,
            park: Duration::from_secs(2),
            outage: Duration::from_secs(5),
            initialize_timeout: Duration::from_secs(120),
            own_initialize_timeout: HANDSHAKE_TIMEOUT,
            session_subscriptions_bytes_max: 512 << 10,
            subscriptions_bytes_max: 16 << 20,
        }
    }
}

/// The key of one session: a number that no other session of the same [`Mux`] ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey(pub(crate) u64);

/// What the caller of a [`Mux`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MuxOutput {
    /// Write this line to the server, followed by a line feed.
    Server(String),
    /// Write this line to the server, followed by a line feed. It answers a request of the server, so the server
    /// determines how many such lines there are.
    Answer(String),
    /// Send this frame to a session.
    Session(SessionKey, Frame),
    /// End the server for this reason, and then call [`Mux::handle_exit`].
    Abandon(String),
}

/// Counters of dropped and refused messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MuxCounts {
    /// Answers of the server that belong to no pending request. Answers to the bridge's own `resources/subscribe` and
    /// `resources/unsubscribe` are counted here as well.
    pub(crate) answers_dropped: u64,
    /// Progress notifications of the server that belong to no pending request.
    pub(crate) progress_dropped: u64,
    /// Notifications of sessions that concern that session alone, or for which there was no room.
    pub(crate) notifications_dropped: u64,
    /// Cancellations by a session or by the server that belong to no pending request.
    pub(crate) cancellations_dropped: u64,
    /// Responses of sessions. No session is sent a request, so every response is dropped.
    pub(crate) responses_dropped: u64,
    /// Requests of the server that were answered with an error.
    pub(crate) server_requests_refused: u64,
    /// Requests of sessions that were answered with an error because there was no room for them.
    pub(crate) requests_refused: u64,
}

/// A session's request that the server has not answered.
struct SharedRequest {
    by: SessionKey,
    /// The raw id in the session's spelling.
    id: Box<str>,
    token: Option<Box<str>>,
    /// The URI, if the request is `resources/subscribe`.
    subscribes: Option<Arc<str>>,
}

impl SharedRequest {
    fn bytes(&self) -> usize {
        self.id.len() + self.token.as_deref().map_or(0, str::len)
    }
}

#[derive(Default)]
struct MuxSession {
    /// Whether the server's notifications are sent to this session: it has had its handshake, or has sent other
    /// messages without one.
    receives_notifications: bool,
    /// The numbers of the session's unanswered requests.
    pending: Vec<u64>,
    ids_bytes: usize,
    parked: usize,
    /// The URIs that the session is subscribed to, and their bytes.
    subscribed: BTreeSet<Arc<str>>,
    subscribed_bytes: usize,
}

enum MuxPhase {
    /// No server is running, for this reason.
    Down { why: Box<str> },
    /// A server is running, and `initialize` was not sent to it.
    Uninitialized { parked_since: Option<Time> },
    /// `initialize` was sent under this number, for the request of a session (`requester`) or for the bridge itself.
    Initializing {
        number: u64,
        params: Box<str>,
        requester: Option<(SessionKey, Box<str>)>,
        limit: Duration,
        until: Time,
    },
    /// The server has answered `initialize`.
    Ready,
}

/// Many sessions over one server on stdio, as a state machine without I/O.
pub(crate) struct Mux {
    limits: MuxLimits,
    phase: MuxPhase,
    sessions: BTreeMap<SessionKey, MuxSession>,
    pending: BTreeMap<u64, SharedRequest>,
    ids_bytes: usize,
    subscriptions: Subscriptions,
    parked: VecDeque<(SessionKey, Message)>,
    parked_bytes: usize,
    /// The number of the last request to the server.
    last_number: u64,
    /// The time of the last server's end, until a server has answered `initialize` again.
    away_since: Option<Time>,
    /// The params of `initialize` for the next server, and the last server's result.
    initialize_params: Option<Box<str>>,
    initialize_result: Box<str>,
    output: VecDeque<MuxOutput>,
    counts: MuxCounts,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux")
            .field("ready", &self.is_ready())
            .field("sessions", &self.sessions())
            .field("requests", &self.requests())
            .field("parked", &self.parked.len())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

const BUSY: &str = "server busy";

impl Mux {
    /// Creates a multiplexer without sessions and without a server.
    #[must_use]
    pub(crate) fn new(limits: MuxLimits) -> Self {
        Self {
            limits,
            phase: MuxPhase::Down { why: "is not running".into() },
            sessions: BTreeMap::new(),
            pending: BTreeMap::new(),
            ids_bytes: 0,
            subscriptions: Subscriptions::default(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            last_number: 0,
            away_since: None,
            initialize_params: None,
            initialize_result: Box::default(),
            output: VecDeque::new(),
            counts: MuxCounts::default(),
        }
    }

    /// Adds a session. The caller must limit the number of sessions.
    ///
    /// # Panics
    ///
    /// Panics if there is a session with this key.
    pub(crate) fn join(&mut self, key: SessionKey) {
        let known = self.sessions.insert(key, MuxSession::default());
        assert!(known.is_none(), "invariant: session keys are numbered");
    }

    /// Removes a session that has ended. Its requests are cancelled, and their answers will be dropped. Further
    /// messages of the session are ignored.
    pub(crate) fn leave(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(&key) else { return };
        for uri in &session.subscribed {
            self.unsubscribe_departed(key, uri);
        }
        for number in session.pending {
            if let Some(pending) = self.pending.remove(&number) {
                self.ids_bytes -= pending.bytes();
                self.cancel(number);
            }
        }
        if session.parked > 0 {
            let parked = mem::take(&mut self.parked);
            let (gone, kept) = parked.into_iter().partition(|(by, _)| *by == key);
            self.parked = kept;
            let gone: VecDeque<(SessionKey, Message)> = gone;
            self.parked_bytes -=
                gone.iter().map(|(_, message)| message.body().len()).sum::<usize>();
        }
        if let MuxPhase::Initializing { requester, .. } = &mut self.phase {
            requester.take_if(|(by, _)| *by == key);
        }
    }

    /// Handles a message of a session's client.
    pub(crate) fn handle_session(&mut self, key: SessionKey, message: Message, now: Time) {
        if self.sessions.contains_key(&key) {
            self.handle_message(key, message, now);
        }
    }

    /// Call this when the server was started.
    pub(crate) fn handle_started(&mut self, now: Time) {
        self.phase = MuxPhase::Uninitialized { parked_since: None };
        match self.initialize_params.clone() {
            Some(params) => self.initialize(params, None, now),
            None => self.unpark(now),
        }
    }

    /// Handles a message of the server.
    pub(crate) fn handle_server(&mut self, message: &Message, now: Time) {
        match message.kind() {
            Kind::Response => self.handle_response(message, now),
            Kind::Request => self.refuse_server(message),
            Kind::Notification => self.handle_notification(message),
        }
    }

    /// Handles an answer of the server that cannot be passed on: the session that waits for it gets an error. An
    /// answer without an id belongs to the pending request if there is exactly one.
    pub(crate) fn handle_lost_answer(&mut self, lost: &LostAnswer, now: Time) {
        let (number, error) = match (&lost.id, &self.phase) {
            (Some(id), _) => (ids::number(id), None),
            (None, MuxPhase::Initializing { number, .. }) => (Some(*number), lost.error.as_deref()),
            // The error is not passed on: it may be about a request of another session that has left.
            (None, _) if self.pending.len() == 1 => (self.pending.keys().next().copied(), None),
            (None, _) => (None, None),
        };
        let Some(number) = number else { return self.counts.answers_dropped += 1 };
        let body = lost_answer_body(&number.to_string(), &lost.why, error);
        match Message::read(body, None) {
            Ok(message) => self.handle_response(&message, now),
            Err((why, _)) => log_unsendable(&why),
        }
    }

    /// Answers a request of the server that cannot be passed on.
    pub(crate) fn handle_unreadable_request(&mut self, unread: &UnreadableRequest) {
        self.counts.server_requests_refused += 1;
        self.answer_server(unread.answer());
    }

    /// Call this when the server has ended or could not be started. `why` completes the sentence "MCP server process
    /// ..". Every pending request is answered with an error.
    pub(crate) fn handle_exit(&mut self, why: &str, now: Time) {
        self.away_since.get_or_insert(now);
        // Lines for the server that has ended must not reach the next one.
        self.output.retain(|output| matches!(output, MuxOutput::Session(..)));
        let before = mem::replace(&mut self.phase, MuxPhase::Down { why: why.into() });
        for (number, pending) in mem::take(&mut self.pending) {
            if let Some(uri) = &pending.subscribes {
                self.subscribe_failed(pending.by, uri, number);
            }
            self.answer_process_error(pending.by, &pending.id, why);
        }
        self.subscriptions.handle_exit();
        self.ids_bytes = 0;
        for session in self.sessions.values_mut() {
            session.pending.clear();
            session.ids_bytes = 0;
        }
        if let MuxPhase::Initializing { requester: Some((by, id)), .. } = before {
            self.answer_process_error(by, &id, why);
        }
        self.handle_timeout(now);
    }

    /// Handles the deadline of [`poll_timeout`](Self::poll_timeout), if it has passed.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.phase {
            MuxPhase::Down { why } => {
                let why = why.clone();
                self.fail_parked(&why);
            }
            MuxPhase::Uninitialized { .. } => self.initialize(unknown_client().into(), None, now),
            MuxPhase::Initializing { until, limit, .. } => {
                // No second deadline: the exit that follows changes the phase.
                *until = Time::MAX;
                let why = format!("did not answer initialize within {limit:?}");
                self.output.push_back(MuxOutput::Abandon(why));
            }
            MuxPhase::Ready => {}
        }
    }

    /// The next deadline, at which [`handle_timeout`](Self::handle_timeout) has to be called.
    #[must_use]
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match &self.phase {
            MuxPhase::Down { .. } if self.parked.is_empty() => None,
            MuxPhase::Down { .. } => self.outage_over(),
            MuxPhase::Uninitialized { parked_since } => {
                Some(parked_since.as_ref()?.saturating_add(self.limits.park))
            }
            MuxPhase::Initializing { until, .. } => Some(*until).filter(|at| *at < Time::MAX),
            MuxPhase::Ready => None,
        }
    }

    /// When requests stop waiting for the next server.
    fn outage_over(&self) -> Option<Time> {
        Some(self.away_since?.saturating_add(self.limits.outage))
    }

    /// The next thing that the caller has to do. Do all of them in this order.
    pub(crate) fn poll_output(&mut self) -> Option<MuxOutput> {
        self.output.pop_front()
    }

    /// Whether a server should be running: there are sessions.
    #[must_use]
    pub(crate) fn wants_server(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Whether the server has answered `initialize`.
    #[must_use]
    pub(crate) const fn is_ready(&self) -> bool {
        matches!(self.phase, MuxPhase::Ready)
    }

    /// The number of sessions.
    #[must_use]
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The number of sessions' requests that the server has not answered, `initialize` included.
    #[must_use]
    pub(crate) fn requests(&self) -> usize {
        let initializes = matches!(self.phase, MuxPhase::Initializing { requester: Some(_), .. });
        self.pending.len() + usize::from(initializes)
    }

    /// Asserts that each sum equals the sum of its parts, and that every request and message belongs to a session.
    #[cfg(test)]
    fn check(&self) {
        let parked = || self.parked.iter().map(|(by, message)| (by, message.body().len()));
        assert_eq!(self.parked_bytes, parked().map(|(_, bytes)| bytes).sum::<usize>());
        assert_eq!(self.ids_bytes, self.pending.values().map(SharedRequest::bytes).sum::<usize>());
        let listed: usize = self.sessions.values().map(|session| session.pending.len()).sum();
        assert_eq!(listed, self.pending.len());
        for (key, session) in &self.sessions {
            let pending: Vec<&SharedRequest> =
                session.pending.iter().map(|n| &self.pending[n]).collect();
            assert!(pending.iter().all(|pending| pending.by == *key));
            assert_eq!(
                session.ids_bytes,
                pending.iter().map(|pending| pending.bytes()).sum::<usize>()
            );
            assert_eq!(session.parked, parked().filter(|(by, _)| *by == key).count());
        }
        assert!(parked().all(|(by, _)| self.sessions.contains_key(by)));
        assert!(self.is_ready() || self.pending.is_empty(), "requests without a server");
        assert!(!self.is_ready() || self.parked.is_empty(), "parked although the server is ready");
        assert!(self.parked.len() <= self.limits.parked_max);
        assert!(self.parked_bytes <= self.limits.parked_bytes_max);
        assert!(self.pending.len() <= self.limits.requests_max);
        self.check_subscriptions();
    }

    /// Removes a request that has been answered or cancelled.
    fn finish_request(&mut self, number: u64) -> Option<SharedRequest> {
        let pending = self.pending.remove(&number)?;
        self.ids_bytes -= pending.bytes();
        if let Some(session) = self.sessions.get_mut(&pending.by) {
            session.pending.retain(|known| *known != number);
            session.ids_bytes -= pending.bytes();
        }
        Some(pending)
    }

    fn cancel(&mut self, number: u64) {
        self.send_to_server(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the session has ended"}}}}"#
        ));
    }

    fn send_to_server(&mut self, text: String) {
        self.output.push_back(MuxOutput::Server(text::on_one_line(text)));
    }

    /// Sends the server a request of the bridge itself. The answer will be dropped.
    fn ask_server(&mut self, method: &str, uri: &str) {
        self.last_number += 1;
        let number = self.last_number;
        let uri = serde_json::to_string(uri).expect("invariant: any text is a JSON string");
        self.send_to_server(format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{{"uri":{uri}}}}}"#
        ));
    }

    /// Sends a session `text`, which is the answer to its request with the raw id `id`.
    fn send_answer(&mut self, key: SessionKey, id: &str, text: &str) {
        match Frame::message(text.as_bytes()) {
            Ok(frame) => self.output.push_back(MuxOutput::Session(key, frame)),
            Err(error) => {
                log_unsendable(&error);
                let why = format!("the answer cannot be sent: {error}");
                self.answer_error(key, id, code::INTERNAL_ERROR, &why);
            }
        }
    }

    fn answer_process_error(&mut self, key: SessionKey, id: &str, why: &str) {
        self.answer_error(key, id, code::INTERNAL_ERROR, &format!("MCP server process {why}"));
    }

    fn refuse_busy(&mut self, key: SessionKey, id: &str) {
        self.counts.requests_refused += 1;
        self.answer_error(key, id, code::SERVER_BUSY, BUSY);
    }

    fn refuse_params(&mut self, key: SessionKey, message: &Message, why: Ambiguous) {
        let id = message.id().unwrap_or_default();
        self.answer_error(key, id, code::INVALID_PARAMS, &why.to_string());
    }

    fn answer_error(&mut self, key: SessionKey, id: &str, code: i32, message: &str) {
        match Frame::message(&jsonrpc::error_body(Some(id), code, message)) {
            Ok(frame) => self.output.push_back(MuxOutput::Session(key, frame)),
            Err(error) => log_unsendable(&error),
        }
    }
}

/// Logs that a message of the server cannot be sent.
fn log_unsendable(error: &dyn fmt::Display) {
    static UNSENDABLE: LogThrottle = LogThrottle::new();
    if let Some(unsaid) = UNSENDABLE.tell() {
        log::error!(
            event = "message_unsendable",
            error:% = error,
            suppressed = unsaid;
            "a message of a server cannot be sent: {error}{unsaid}"
        );
    }
}

/// Replaces `slice`, which must be a slice of `text`, by `instead`.
pub(super) fn replaced(text: &str, slice: &str, instead: &str) -> String {
    text::replaced(text, [(slice, instead)])
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod walk;
