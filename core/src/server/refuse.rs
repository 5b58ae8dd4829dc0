//! Refusals: from a fault to an answer, a counter and a line in the log.
//!
//! Knows: which faults close the connection, and how often the log repeats one. Does not know: when
//! something is refused.
//!
//! Every refusal of a request goes through [`Server::refuse`]. `answer` renders the bytes of refusals.

use alloc::borrow::Cow;
use core::fmt;

use super::Server;
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
use crate::session_ref::ExplainedMisrouting;

impl Server {
    /// Answers a request with a fault, counts it, and writes it into the log.
    pub(super) fn refuse(&mut self, key: Key, refused: impl Into<Refused>, unread: Unread) {
        let refused = refused.into();
        let fault = refused.fault;
        self.note_refusal(key, &refused);
        if fault.disposition() == Disposition::Close {
            self.conns[key].reply.persistence = Persistence::Close;
        }
        match self.answering(key, unread, |server, to| server.answers.refusal(&refused, to)) {
            Some(answer) => self.answer(key, answer, unread),
            None => self.end_quietly(key),
        }
    }

    /// Refuses what a connection sends, in whatever phase it is. A request that has been answered, or whose
    /// message has been delivered, is not refused; what is behind it is dropped.
    pub(super) fn refuse_wherever(&mut self, key: Key, fault: Fault) {
        let conn = &mut self.conns[key];
        match conn.phase {
            ConnPhase::Awaiting => {
                conn.reply.persistence = Persistence::Close;
                self.note(Some(key), fault);
                self.drop_input(key);
            }
            ConnPhase::Discarding { .. } => {
                self.note(Some(key), fault);
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
    fn note_refusal(&mut self, key: Key, refused: &Refused) {
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
                let misrouting = ExplainedMisrouting { misrouting, own_instance, own_shard };
                self.note_saying(Some(key), fault, format_args!("{text}: {misrouting}"));
            }
            None => self.note_saying(Some(key), fault, text),
        }
    }

    /// Counts a fault, and writes it into the log, each at most once a second.
    pub(super) fn note(&mut self, key: Option<Key>, fault: Fault) {
        self.note_saying(key, fault, fault.text());
    }

    /// Like [`note`](Self::note), with another text for the log.
    pub(super) fn note_saying(&mut self, key: Option<Key>, fault: Fault, text: impl fmt::Display) {
        self.metrics.count_fault(fault);
        // Ends that the peer or the network caused are not refusals.
        let mishap = matches!(fault, Fault::ConnectionIdle | Fault::Stalled | Fault::Truncated);
        let level = if mishap { log::Level::Debug } else { log::Level::Info };
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let Some(suppressed) = self.fault_line(fault) else { return };
        let context = LogContext { server: self, key };
        log::log!(level, "{}{context}: {text}{suppressed}", fault.name());
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
            log::info!("{} from {peer}: {}{suppressed}", fault.name(), fault.text());
        }
    }
}

/// What the log says about a refused request: connection, peer, route and session; no tokens, no payloads,
/// no query.
struct LogContext<'a> {
    server: &'a Server,
    key: Option<Key>,
}

impl fmt::Display for LogContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(key) = self.key else { return Ok(()) };
        let conn = &self.server.conns[key];
        write!(f, " to {}", ConnId(key))?;
        write!(f, " from {}", Source(conn))?;
        if let Some(route) = conn.route {
            write!(f, ", {}", route.name())?;
        }
        match conn.session {
            Some(session) => write!(f, ", {}", SessionId(session)),
            None => Ok(()),
        }
    }
}

/// Where a connection's requests come from.
pub(super) struct Source<'a>(pub(super) &'a Conn);

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conn { client, peer, .. } = self.0;
        match client {
            Some(client) if peer.ip() != Some(*client) => write!(f, "{client} by {peer}"),
            _ => write!(f, "{peer}"),
        }
    }
}
