//! The log's records about requests and sessions: one for each request at level debug, and one for each session
//! when it ends.
//!
//! Knows: their sentences, keys and values. Does not know: when something is refused (see `refuse`), or which
//! lines other parts write. The list of all records is in `guide::logs` of the adapters.
//!
//! No record here contains a token, a query, a path that a client chose, or a part of a message. The key `route`
//! takes the place of the path.
//!
//! Decision: a request's record is written when its answer is queued, and not when the answer has been written to
//! the socket. Otherwise an answer that is still queued when the connection is cut would have no record. The
//! `traceparent` of a forwarded post is in the records of both shards, which can be joined by its value.

use core::fmt;
use core::net::IpAddr;

use log::kv::{ToValue, Value};

use super::Server;
use crate::arena::Key;
use crate::conn::{Conn, ConnPhase, RequestInfo};
use crate::event::{CloseReason, ConnId, SessionId};
use crate::line_throttle::SESSION_LINES_PER_SECOND;
use crate::peer::Peer;
use crate::route::{Route, Service};
use crate::session::SessionState;
use crate::time::Time;

impl Server {
    /// Notes that the request at hand has been answered.
    pub(super) fn note_answer(&mut self, key: Key, status: u16, bytes_out: usize) {
        self.conns[key].request.unanswered = false;
        if log::log_enabled!(log::Level::Debug) {
            self.log_request(key, Some(status), bytes_out);
        }
    }

    /// Notes that the request at hand, if there is one, will not be answered.
    pub(super) fn note_unanswered(&mut self, key: Key) {
        let request = &mut self.conns[key].request;
        self.metrics.posts_unanswered += u64::from(request.is_unanswered_post());
        let pending = core::mem::take(&mut request.unanswered);
        if pending && log::log_enabled!(log::Level::Debug) {
            self.log_request(key, None, 0);
        }
    }

    #[cold]
    fn log_request(&self, key: Key, status: Option<u16>, bytes_out: usize) {
        let conn = &self.conns[key];
        let request = &conn.request;
        let bytes = match &conn.phase {
            ConnPhase::Body { body, .. } => body.len() as u64,
            ConnPhase::Head
            | ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Held { .. }
            | ConnPhase::Awaiting
            | ConnPhase::Discarding { .. }
            | ConnPhase::Streaming { .. }
            | ConnPhase::Closing { .. }
            | ConnPhase::Lingering { .. }
            | ConnPhase::Ended => u64::from(request.body_bytes),
        };
        let duration_ms = request.method.map(|_| millis(conn.waiting_since, self.now));
        let answered = Answered { status, duration_ms };
        log::debug!(
            event = "request",
            status = status,
            method = request.method,
            route = request.route.map(Route::name),
            service = self.service_of(request),
            bytes = bytes,
            bytes_out = bytes_out,
            duration_ms = duration_ms,
            connection = ConnId(key),
            peer = conn.peer,
            client = proxied(conn).as_ref(),
            session = request.session.map(SessionId),
            principal = request.principal,
            traceparent = request.traceparent;
            "{} from {} {answered}", Asked(request), Source(conn)
        );
    }

    /// Writes into the log that a session was opened.
    pub(super) fn note_opening(&self, key: Key) {
        let session = &self.sessions[key];
        let conn = &self.conns[session.conn];
        log::debug!(
            event = "session_opened",
            session = SessionId(key),
            connection = ConnId(session.conn),
            peer = conn.peer,
            client = proxied(conn).as_ref(),
            principal = session.principal,
            service = self.service_path(session.service),
            traceparent = conn.request.traceparent;
            "session {} of {} was opened", SessionId(key), Source(conn)
        );
    }

    /// Writes into the log how a session ended, and what was exchanged. The number of such lines is limited.
    pub(super) fn note_end(
        &mut self,
        key: Key,
        session: &SessionState,
        reason: CloseReason,
        undelivered: u32,
    ) {
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let unused = session.messages_received == 0 && session.frames_sent == 0;
        let suppressed = if unused {
            self.session_lines.unused.tell(self.now)
        } else {
            self.session_lines.used.tell_some(SESSION_LINES_PER_SECOND, self.now)
        };
        let Some(suppressed) = suppressed else { return };
        let conn = &self.conns[session.conn];
        let duration_ms = millis(session.opened, self.now);
        let exchanged = Exchanged { session, undelivered };
        log::info!(
            event = "session_ended",
            reason = reason.label(),
            duration_ms = duration_ms,
            messages_in = session.messages_received,
            messages_out = session.frames_sent,
            bytes_in = session.bytes_received,
            bytes_out = session.bytes_sent,
            undelivered = undelivered,
            session = SessionId(key),
            connection = ConnId(session.conn),
            peer = conn.peer,
            client = proxied(conn).as_ref(),
            principal = session.principal,
            service = self.service_path(session.service),
            traceparent = conn.request.traceparent,
            suppressed = suppressed;
            "session {} of {} ended after {}.{} s{exchanged}: {reason}{suppressed}",
            SessionId(key),
            Source(conn),
            duration_ms / 1_000,
            duration_ms % 1_000 / 100
        );
    }

    /// The service that a request is for, unless there is only the one at the root.
    pub(super) fn service_of(&self, request: &RequestInfo) -> Option<&str> {
        match request.route? {
            Route::Stream(service) | Route::Message(service) => self.service_path(service),
            Route::Index
            | Route::Metrics
            | Route::Metadata
            | Route::Health
            | Route::Ready
            | Route::Unknown => None,
        }
    }

    fn service_path(&self, service: Service) -> Option<&str> {
        Some(self.config.paths.service(service)).filter(|path| !path.is_empty())
    }
}

fn millis(since: Time, now: Time) -> u64 {
    now.saturating_since(since).as_millis() as u64
}

/// The client's address, if a proxy has stated another one than the peer's.
pub(super) fn proxied(conn: &Conn) -> Option<impl ToValue> {
    conn.client.filter(|&client| conn.peer.ip() != Some(client)).map(Address)
}

struct Address(IpAddr);

impl ToValue for Address {
    fn to_value(&self) -> Value<'_> {
        Value::from_display(&self.0)
    }
}

/// Where a connection's requests come from, in a sentence.
pub(super) struct Source<'a>(pub(super) &'a Conn);

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conn { client, peer, .. } = self.0;
        match client {
            Some(client) if peer.ip() != Some(*client) => {
                write!(f, "{client} through {}", Named(peer))
            }
            _ => Named(peer).fmt(f),
        }
    }
}

/// A peer in a sentence.
pub(super) struct Named<'a>(pub(super) &'a Peer);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.remote() {
            Some(remote) => remote.fmt(f),
            None => f.write_str("a local peer"),
        }
    }
}

/// What a request asks for, in a sentence.
pub(super) struct Asked<'a>(pub(super) &'a RequestInfo);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.method, self.0.route) {
            (Some(method), Some(route)) => write!(f, "{method} of {}", route.noun()),
            _ => f.write_str("a request"),
        }
    }
}

/// How a request was answered, in a sentence.
struct Answered {
    status: Option<u16>,
    duration_ms: Option<u64>,
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(status) = self.status else { return f.write_str("was not answered") };
        write!(f, "was answered {status}")?;
        self.duration_ms.map_or(Ok(()), |millis| write!(f, " after {millis} ms"))
    }
}

/// What was exchanged in a session, in a sentence.
struct Exchanged<'a> {
    session: &'a SessionState,
    undelivered: u32,
}

impl fmt::Display for Exchanged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SessionState { messages_received: received, frames_sent: sent, .. } = self.session;
        if (*received, *sent) == (0, 0) {
            return f.write_str(" without a message");
        }
        write!(f, ", {received} messages in, {sent} out, {} undelivered", self.undelivered)
    }
}
