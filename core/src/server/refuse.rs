//! Refusals: from a fault to an answer, a counter and a line in the log.
//!
//! Knows: which faults close the connection, and how often the log repeats one. Does not know: when
//! something is refused.
//!
//! Every refusal of a request goes through [`Server::refuse`]. `answer` renders the bytes of refusals.

use alloc::borrow::Cow;
use core::fmt;

use super::Server;
use super::records::{Asked, Named, Source, proxied};
use crate::answer::Refused;
use crate::arena::Key;
use crate::config::Config;
use crate::conn::{Conn, ConnPhase};
use crate::error::{AcceptError, Disposition, Fault};
use crate::event::{ConnId, Outcome, ServerPhase, SessionId};
use crate::http1::Persistence;
use crate::line_throttle::SuppressedLines;
use crate::peer::Peer;
use crate::request::Unread;
use crate::route::Route;
use crate::session_ref::ExplainedMisrouting;

impl Server {
    /// Answers a request with a fault, counts it, and writes it into the log.
    pub(super) fn refuse(&mut self, key: Key, refused: impl Into<Refused>, unread: Unread) {
        let mut refused = refused.into();
        let fault = refused.fault;
        if fault.status() == Some(503) && refused.retry_after.is_none() {
            refused.retry_after = Some(self.draw_retry_after());
        }
        let told = if fault.status().is_some() { Told::Answer } else { Told::Closing };
        self.note_refusal(key, &refused, told);
        if self.conns[key].request.is_unanswered_post() {
            self.metrics.count_post_fault(fault);
        }
        if fault.disposition() == Disposition::Close {
            self.conns[key].reply.persistence = Persistence::Close;
        }
        match self.answering(key, unread, |server, to| server.answers.refusal(&refused, to)) {
            Some(answer) => self.answer(key, answer, unread),
            None => self.end_quietly(key),
        }
    }

    /// After how many seconds the client of a request that is answered 503 may repeat it.
    pub(super) fn draw_retry_after(&mut self) -> u64 {
        self.retry_after.draw(self.config.retry_after, &mut *self.entropy)
    }

    /// Refuses what a connection sends, in whatever phase it is. A request that has been answered, or whose
    /// message has been delivered, is not refused; what is behind it is dropped.
    pub(super) fn refuse_wherever(&mut self, key: Key, fault: Fault) {
        let conn = &mut self.conns[key];
        match conn.phase {
            ConnPhase::Awaiting => {
                conn.reply.persistence = Persistence::Close;
                self.note(key, fault);
                self.drop_input(key);
            }
            ConnPhase::Discarding { .. } => {
                self.note(key, fault);
                self.close_after_flush(key);
            }
            ConnPhase::Head
            | ConnPhase::Deciding(_)
            | ConnPhase::Locating(_)
            | ConnPhase::Body { .. }
            | ConnPhase::Held { .. }
            | ConnPhase::Streaming { .. }
            | ConnPhase::Closing { .. }
            | ConnPhase::Lingering { .. }
            | ConnPhase::Ended => {
                self.abandon_post(key);
                self.refuse(key, fault, Unread::Unknown);
            }
        }
    }

    /// The fault of a post whose session has ended since it was found.
    pub(super) const fn no_session(&self) -> Fault {
        match self.phase {
            ServerPhase::Running => Fault::UnknownSession,
            ServerPhase::Draining { .. } | ServerPhase::Drained => Fault::ShuttingDown,
        }
    }

    /// What becomes of a forwarded post whose session is not there.
    pub(super) const fn no_session_outcome(&self) -> Outcome {
        match self.phase {
            ServerPhase::Running => Outcome::UnknownSession,
            // A shutdown ends sessions while posts to them are on their way.
            ServerPhase::Draining { .. } | ServerPhase::Drained => Outcome::Busy,
        }
    }

    /// Counts a refusal, and writes it into the log.
    fn note_refusal(&mut self, key: Key, refused: &Refused, told: Told) {
        let fault = refused.fault;
        // A text of the program itself names the limit; any other repeats what the peer sent, and is not
        // for the log.
        let text = match refused.text {
            Some(Cow::Borrowed(text)) => text,
            Some(Cow::Owned(_)) | None => fault.text(),
        };
        match refused.misrouting {
            Some(misrouting) => {
                let Config { instance_id: own_instance, shard: own_shard, .. } = self.config;
                let explained = ExplainedMisrouting { misrouting, own_instance, own_shard };
                self.note_telling(Some(key), fault, &format_args!("{text}: {explained}"), told);
            }
            None => self.note_telling(Some(key), fault, &text, told),
        }
    }

    /// Counts a fault because of which a connection is closed without an answer, and writes it into the log.
    pub(super) fn note(&mut self, key: Key, fault: Fault) {
        self.note_telling(Some(key), fault, &fault.text(), Told::Closing);
    }

    /// Counts a fault, and writes it into the log with this text, each fault at most once a second. `key` is
    /// the connection of the request, unless another shard has it.
    pub(super) fn note_telling(
        &mut self,
        key: Option<Key>,
        fault: Fault,
        text: &dyn fmt::Display,
        told: Told,
    ) {
        self.metrics.count_fault(fault);
        // Ends that the peer or the network caused are not refusals.
        let mishap = matches!(fault, Fault::ConnectionIdle | Fault::Stalled | Fault::Truncated);
        let level = if mishap { log::Level::Debug } else { log::Level::Info };
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let Some(suppressed) = self.fault_line(fault) else { return };
        let conn = key.map(|key| &self.conns[key]);
        let request = conn.map(|conn| &conn.request);
        let sentence = RefusalText { conn, fault, text, told };
        if told == Told::Closing {
            return log::log!(
                level,
                event = "connection_fault",
                reason = fault.label(),
                connection = key.map(ConnId),
                peer = conn.map(|conn| conn.peer),
                client = conn.and_then(proxied).as_ref(),
                session = request.and_then(|request| request.session.map(SessionId)),
                principal = request.and_then(|request| request.principal.as_ref()),
                traceparent = request.and_then(|request| request.traceparent),
                suppressed = suppressed;
                "{sentence}{suppressed}"
            );
        }
        log::info!(
            event = "refused",
            reason = fault.label(),
            status = fault.status().filter(|_| told == Told::Answer),
            method = request.and_then(|request| request.method),
            route = request.and_then(|request| request.route.map(Route::name)),
            service = request.and_then(|request| self.service_of(request)),
            connection = key.map(ConnId),
            peer = conn.map(|conn| conn.peer),
            client = conn.and_then(proxied).as_ref(),
            session = request.and_then(|request| request.session.map(SessionId)),
            principal = request.and_then(|request| request.principal.as_ref()),
            traceparent = request.and_then(|request| request.traceparent),
            suppressed = suppressed;
            "{sentence}{suppressed}"
        );
    }

    /// Whether a line about this fault is due, as `LineThrottle::tell` says.
    fn fault_line(&mut self, fault: Fault) -> Option<SuppressedLines> {
        self.fault_lines.get_mut(fault as usize)?.tell(self.now)
    }

    /// Counts a connection that was not accepted, and writes it into the log.
    pub(super) fn note_unaccepted(&mut self, error: AcceptError, peer: &Peer) {
        let fault = error.fault();
        self.metrics.connections_refused += 1;
        self.metrics.count_fault(fault);
        if log::log_enabled!(log::Level::Info)
            && let Some(suppressed) = self.fault_line(fault)
        {
            log::info!(
                event = "connection_refused",
                reason = fault.label(),
                peer = *peer,
                suppressed = suppressed;
                "refused a connection from {}: {}{suppressed}", Named(peer), fault.text()
            );
        }
    }
}

/// How a peer learns of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The request is answered with the fault's status.
    Answer,
    /// The request's post is answered 202, and the request itself with an error on its session's stream.
    Stream,
    /// The connection is closed without an answer to a request, or the session ends.
    Closing,
}

/// The sentence about a fault: no tokens, no payloads, no paths, no query.
struct RefusalText<'a> {
    conn: Option<&'a Conn>,
    fault: Fault,
    text: &'a dyn fmt::Display,
    told: Told,
}

impl fmt::Display for RefusalText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(conn) = self.conn else {
            return write!(f, "refused a forwarded request on its stream: {}", self.text);
        };
        let (asked, source, text) = (Asked(&conn.request), Source(conn), self.text);
        match (self.told, self.fault.status()) {
            (Told::Answer, Some(status)) => {
                write!(f, "refused {asked} from {source}: {text} ({status})")
            }
            (Told::Stream, _) => {
                write!(f, "refused a request from {source} on its stream: {text}")
            }
            (Told::Answer, None) | (Told::Closing, _) => {
                write!(f, "closed the connection from {source}: {text}")
            }
        }
    }
}
