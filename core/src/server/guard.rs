//! The guard where it needs state: who vouches for a request, rates, the places of connections, and
//! how refusals are told.
//!
//! What can be judged of a head alone is in `request`. Every request, by whatever entry it came, goes
//! through [`Server::authenticate`], and every refusal through [`Server::refuse`].

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use super::Server;
use crate::answer::{Refused, ResponseContext};
use crate::arena::Key;
use crate::config::Authorization;
use crate::conn::{Conn, ConnPhase};
use crate::error::{AcceptError, Disposition, Fault};
use crate::event::{ConnId, Deadline, Event, RequestHead, SessionId};
use crate::http1::{Head, Persistence};
use crate::limits::within;
use crate::peer::Peer;
use crate::policy::bearer::Credentials;
use crate::request::{Action, Unread};
use crate::session_ref::SessionRef;
use crate::timers::TimerKind;
use crate::{AuthTicket, ServerPhase};

/// For how long a connection may be without a request before it has to make room for those that wait
/// outside. One that was accepted into the last place is to have the time to say what it wants.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// The lanes of those that may have to.
const WAITING: [TimerKind; 3] = [TimerKind::Head, TimerKind::Idle, TimerKind::Linger];

impl Server {
    // ── Who vouches for a request. ──────────────────────────────────────────────────────────────

    /// Goes on with a request at once, or asks the application about it first, or refuses it.
    pub(super) fn authenticate(&mut self, key: Key, plan: Action, head: &Head<'_>) {
        let tokens = match &self.config.authorization {
            Authorization::None => return self.proceed(key, plan, None),
            Authorization::Deferred => return self.ask(key, plan, head),
            Authorization::Static(tokens) => tokens,
        };
        let refused = match Credentials::read(head.fields_named("authorization")) {
            Ok(Credentials::Bearer(token)) => match tokens.principal(token) {
                Some(principal) => {
                    let principal = principal.clone();
                    return self.proceed(key, plan, Some(principal));
                }
                None => Refused { invalid_token: true, ..Fault::Unauthorized.into() },
            },
            Ok(Credentials::None) => Fault::Unauthorized.into(),
            Err(fault) => fault.into(),
        };
        self.refuse(key, refused, plan.unread());
    }

    /// Asks the application whether a request may proceed.
    fn ask(&mut self, key: Key, plan: Action, head: &Head<'_>) {
        let captured = match &plan {
            Action::Stream(plan) => plan.head.clone(),
            Action::Post(_) | Action::Index { .. } => {
                let service =
                    plan.service().map_or("", |service| self.config.paths.service(service));
                let client = self.conns.get(key).and_then(|conn| conn.client);
                Arc::new(RequestHead::capture(head, service, client))
            }
        };
        if !within(self.config.limits.events_max, self.events.len() as u32) {
            return self.refuse(key, Fault::EventsFull, Unread::of(head));
        }
        if let Err(fault) = self.admit_head(&captured) {
            return self.refuse(key, fault, Unread::of(head));
        }
        self.enter(key, ConnPhase::Deciding(Box::new(plan)));
        self.arm(TimerKind::Decision, key);
        let Some(ticket) = self.ticket(key) else { return };
        log::trace!("{} waits for a decision", ConnId(key));
        self.metrics.questions_asked += 1;
        self.bodies_bytes += captured.memory_bytes();
        self.events.push_back(Event::Asked { ticket: AuthTicket(ticket), head: captured });
    }

    /// Whether the request still waits for this ticket's answer: [`authorize`](Self::authorize) would
    /// not return [`Expired`](crate::Expired). For a driver that keeps tickets in a queue.
    #[must_use]
    pub fn expects(&self, ticket: &AuthTicket) -> bool {
        self.awaits(&ticket.0)
    }

    /// Counts an answer that a driver gave from its memory, without asking the application
    /// ([`Metrics::verdicts_remembered`](crate::Metrics)).
    pub const fn count_remembered_verdict(&mut self) {
        self.metrics.verdicts_remembered += 1;
    }

    /// Counts a post to a session, or says for how long there may be none.
    pub(super) fn admit_to_session(&mut self, session: Key) -> Result<(), Duration> {
        let Some(rate) = self.config.limits.posts_rate_per_session else { return Ok(()) };
        let Some(found) = self.sessions.get_mut(session) else { return Ok(()) };
        found.post(rate, self.now)
    }

    /// The session that is claimed, if it has this secret, service and principal, and is not ending.
    ///
    /// Every way to miss takes the same steps: a secret is compared, then a principal, each to its end,
    /// and only then is anything said. Where there is no session, decoys are compared. The steps
    /// depend on the claim alone.
    pub(super) fn find_session(&self, claim: &SessionRef) -> Option<Key> {
        let found = self.sessions.at(claim.token.slot());
        let session = found.map(|(_, session)| session);
        let same = crate::session::SessionState::is_claimed(session, claim);
        found.map(|(key, _)| key).filter(|_| same)
    }

    // ── Places for connections. ─────────────────────────────────────────────────────────────────

    pub(super) fn admit_connection(&self, peer: &Peer) -> Result<(), AcceptError> {
        let limits = &self.config.limits;
        if self.phase != ServerPhase::Running {
            return Err(AcceptError::ShuttingDown);
        }
        if !within(limits.connections_max, self.conns.len().saturating_add(1)) {
            return Err(AcceptError::AtCapacity);
        }
        match self.config.address_key(peer.ip()) {
            Some(address)
                if !within(
                    limits.connections_per_address_max.map(u64::from),
                    self.conn_addresses.count(&address).saturating_add(1),
                ) =>
            {
                Err(AcceptError::AddressAtCapacity)
            }
            _ => Ok(()),
        }
    }

    /// Whether one more stream leaves the reserve of connections to requests.
    pub(super) fn has_place_for_stream(&self) -> bool {
        let limits = &self.config.limits;
        let streams_max = limits.connections_max.map(|max| max - limits.reserve());
        within(streams_max, self.sessions.len().saturating_add(1))
    }

    /// Where every place is taken and none is about to become free, closes the connection that has been
    /// without a request for longest. Where a `newcomer` has taken the last place, that is any other
    /// whose answer has left; later, one that has had [`EVICTION_GRACE`].
    pub(super) fn make_room(&mut self, newcomer: Option<Key>) {
        if !self.wants_room() {
            return;
        }
        let has_had_its_grace =
            |conn: &Conn| self.now.saturating_since(conn.waiting_since) >= EVICTION_GRACE;
        let oldest = WAITING
            .into_iter()
            .filter_map(|kind| self.conns.at(self.timers.oldest(kind)?))
            .filter(|&(key, conn)| {
                let may = newcomer.is_some_and(|newcomer| newcomer != key);
                (may && conn.outbox.is_empty()) || has_had_its_grace(conn)
            })
            .min_by_key(|(_, conn)| conn.waiting_since);
        if let Some((key, _)) = oldest {
            self.note(Some(key), Fault::ConnectionEvicted);
            self.evicted = Some(key);
            self.cut(key);
        }
    }

    /// When there will be one, if nothing else happens. Nobody is accepted before, so nobody else would say.
    pub(super) fn room_deadline(&self) -> Option<Deadline> {
        if !self.wants_room() {
            return None;
        }
        let since = |kind| {
            let (_, conn) = self.conns.at(self.timers.oldest(kind)?)?;
            Some(Deadline { at: conn.waiting_since.saturating_add(EVICTION_GRACE), cause: kind })
        };
        WAITING.into_iter().filter_map(since).min_by_key(|deadline| deadline.at)
    }

    fn wants_room(&self) -> bool {
        let limits = &self.config.limits;
        let full = limits.connections_max.is_some_and(|max| self.conns.len() >= max);
        full && self.evicted.is_none() && self.phase == ServerPhase::Running && limits.reserve() > 0
    }

    // ── FaultLogThrottle. ───────────────────────────────────────────────────────────────────────────────

    /// Answers a request with a fault, counts it, and says it in the log.
    pub(super) fn refuse(&mut self, key: Key, refused: impl Into<Refused>, unread: Unread) {
        let refused = refused.into();
        let fault = refused.fault;
        // Words of our own name the limit; others repeat what the peer said.
        let text = match refused.text {
            Some(Cow::Borrowed(text)) => text,
            Some(Cow::Owned(_)) | None => fault.text(),
        };
        self.note_saying(Some(key), fault, text);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if fault.disposition() == Disposition::Close {
            conn.reply.persistence = Persistence::Close;
        }
        let rendered =
            self.answering(key, unread, |server, to| server.answers.refusal(&refused, to));
        match rendered.flatten() {
            Some(bytes) => self.answer(key, bytes, unread),
            None => self.end_quietly(key),
        }
    }

    /// Renders an answer, knowing whom it is for and what will be left unread of the request.
    pub(super) fn answering<T>(
        &mut self,
        key: Key,
        unread: Unread,
        render: impl FnOnce(&Self, &ResponseContext<'_>) -> T,
    ) -> Option<T> {
        let reply = self.reply_before(key, unread);
        let cors_origin = &self.conns.get(key)?.cors_origin;
        Some(render(self, &ResponseContext { reply, cors_origin, config: &self.config }))
    }

    /// Counts a fault, and tells the log, at most once a second of each.
    pub(super) fn note(&mut self, key: Option<Key>, fault: Fault) {
        self.note_saying(key, fault, fault.text());
    }

    pub(super) fn note_saying(&mut self, key: Option<Key>, fault: Fault, text: &str) {
        self.metrics.count_fault(fault);
        // What happens to peers by themselves is no refusal.
        let mishap = matches!(fault, Fault::ConnectionIdle | Fault::Stalled | Fault::Truncated);
        let level = if mishap { log::Level::Debug } else { log::Level::Info };
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let Some(unsaid) = self.refusals.tell(fault, self.now) else { return };
        let who = LogContext { server: self, key };
        log::log!(level, "{}{who}: {text}{unsaid}", fault.name());
    }

    /// A connection was not taken in.
    pub(super) fn note_unaccepted(&mut self, error: AcceptError, peer: &Peer) {
        let fault = error.fault();
        self.metrics.connections_refused += 1;
        self.metrics.count_fault(fault);
        if log::log_enabled!(log::Level::Info)
            && let Some(unsaid) = self.refusals.tell(fault, self.now)
        {
            log::info!("{} from {peer}: {}{unsaid}", fault.name(), fault.text());
        }
    }
}

/// Who was refused what, as the log has it: no tokens, no payloads, no query.
struct LogContext<'a> {
    server: &'a Server,
    key: Option<Key>,
}

impl fmt::Display for LogContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(key) = self.key else { return Ok(()) };
        let Some(conn) = self.server.conns.get(key) else { return Ok(()) };
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
