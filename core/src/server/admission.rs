//! Admission: whether there is room for one more connection, session, post or event, and whether a rate
//! allows it.
//!
//! Knows: the limits on connections, sessions and posts, for the server, by address and by principal;
//! rates; and which session a post is for. Does not know: how a refusal is answered.
//!
//! Decision: `connections_reserve` connections, at most an eighth of all, are kept from streams. When all
//! places are taken, the connection that has been without a request for longest is closed, so that a
//! client with a session can connect for its next post. It is a connection without a complete head,
//! between two requests, or about to close; never a stream, and never one whose request is in progress.
//! Until its socket is closed, the next connection waits in the backlog of the listening socket. It was
//! considered to close such connections as soon as less than half of the reserve is free. The next connection
//! would not wait then, but one more count would have to be kept.
//!
//! Decision: finished messages count in the budget of bodies, and a post that finds it full is refused and
//! not held. Holding would need a second queue, across sessions and in front of bodies that are still
//! arriving. Instead, the finished messages of one session may take `inbound_bytes_max`, by default a
//! sixty-fourth of the budget, and one larger message only if it is alone. Posts that are arriving or held
//! are bounded in time by `body`, `stall` and `hold`, and in bytes by `bodies_bytes_per_address_max`.
//! Messages that the application has not taken count for no address, so a client that may open more than
//! 64 sessions can fill the budget if handlers are slow.

use alloc::boxed::Box;
use core::time::Duration;

use super::Server;
use super::records::Named;
use crate::answer::Refused;
use crate::arena::Key;
use crate::conn::{Conn, PostTarget};
use crate::error::{AcceptError, Fault};
use crate::event::{ConnId, Deadline, RequestHead, ServerPhase};
use crate::limits::{is_full, within};
use crate::metrics::ReachedLimit;
use crate::peer::{AddressKey, Peer};
use crate::principal::Principal;
use crate::route::Service;
use crate::session::SessionState;
use crate::session_ref::{Misrouting, SessionRef};
use crate::timers::TimerKind;
use crate::token::{SessionToken, TokenError};

/// A connection without a request is closed to make room only once it has waited for this long: one that
/// was accepted into the last place is to have the time to send its request.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// What a connection that may be closed to make room waits for: a request, or its end.
const WAITING: [TimerKind; 3] = [TimerKind::Head, TimerKind::Idle, TimerKind::Linger];

const SESSION_RATE: &str = "too many posts to this session (limit posts_rate_per_session)";
const PRINCIPAL_RATE: &str = "too many posts of this principal (limit posts_rate_per_principal)";

/// The refusal of a post whose session has had too many.
pub(super) fn session_rate(wait: Duration) -> Refused {
    Refused::limited(Fault::RateLimited, Some(SESSION_RATE), wait)
}

impl Server {
    // ── Connections. ────────────────────────────────────────────────────────────────────────────

    /// Takes in a connection, if there is a place for it.
    pub(super) fn connect(&mut self, peer: Peer) -> Result<Key, AcceptError> {
        if let Err(error) = self.admit_connection(&peer) {
            self.note_unaccepted(error, &peer);
            return Err(error);
        }
        if let Some(address) = self.config.address_key(peer.ip()) {
            self.conn_addresses.add(address);
        }
        let key = self.conns.insert(Conn::new(peer));
        self.metrics.connections_accepted += 1;
        self.arm(TimerKind::Head, key);
        log::debug!(
            event = "connection_accepted",
            connection = ConnId(key),
            peer = peer;
            "connection {} from {} is accepted", ConnId(key), Named(&peer)
        );
        self.make_room(Some(key));
        Ok(key)
    }

    /// Whether there is a place for a connection from `peer`.
    pub(super) fn admit_connection(&self, peer: &Peer) -> Result<(), AcceptError> {
        let limits = &self.config.limits;
        let address = self.config.address_key(peer.ip());
        let of_address = address.map_or(0, |address| self.conn_addresses.count(&address));
        if self.phase != ServerPhase::Running {
            Err(AcceptError::ShuttingDown)
        } else if is_full(limits.connections_max, self.conns.len()) {
            Err(AcceptError::AtCapacity)
        } else if address.is_some() && is_full(limits.connections_per_address_max, of_address) {
            Err(AcceptError::AddressAtCapacity)
        } else {
            Ok(())
        }
    }

    /// If every place is taken and none is about to become free, closes the connection that has been
    /// without a request for longest. When a connection has just taken the last place, that is any other
    /// one whose answer has left; later, one that has waited for [`EVICTION_GRACE`].
    pub(super) fn make_room(&mut self, accepted: Option<Key>) {
        if !self.wants_room() {
            return;
        }
        let has_had_its_grace =
            |conn: &Conn| self.now.saturating_since(conn.waiting_since) >= EVICTION_GRACE;
        let oldest = WAITING
            .into_iter()
            .filter_map(|kind| self.conns.at(self.timers.oldest(kind)?))
            .filter(|&(key, conn)| {
                let may = accepted.is_some_and(|accepted| accepted != key);
                (may && conn.outbox.is_empty()) || has_had_its_grace(conn)
            })
            .min_by_key(|(_, conn)| conn.waiting_since);
        if let Some((key, _)) = oldest {
            self.note(key, Fault::ConnectionEvicted);
            self.evicted = Some(key);
            self.cut(key);
        }
    }

    /// When [`make_room`](Self::make_room) will find a connection to close, if nothing else happens. No
    /// connection is accepted before, so no other input would bring the server to look.
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

    /// Whether every place is taken and none is about to become free.
    fn wants_room(&self) -> bool {
        let limits = &self.config.limits;
        let full = is_full(limits.connections_max, self.conns.len());
        full && self.evicted.is_none() && self.phase == ServerPhase::Running && limits.reserve() > 0
    }

    // ── Sessions. ───────────────────────────────────────────────────────────────────────────────

    /// Whether a session may be opened. The rate comes last, because asking is counting.
    pub(super) fn admit_stream(
        &mut self,
        head: &RequestHead,
        address: Option<AddressKey>,
        principal: Option<&Principal>,
    ) -> Result<(), Refused> {
        self.admit_session(address.as_ref(), principal)?;
        self.admit_head(head)?;
        if let Some(address) = address {
            let late = |wait| Refused::limited(Fault::SessionRateLimited, None, wait);
            self.session_rates.take(address, self.now).map_err(late)?;
        }
        Ok(())
    }

    fn admit_session(
        &self,
        address: Option<&AddressKey>,
        principal: Option<&Principal>,
    ) -> Result<(), Fault> {
        let limits = &self.config.limits;
        self.has_place_for_session()?;
        if address.is_some_and(|address| {
            is_full(limits.sessions_per_address_max, self.session_addresses.count(address))
        }) {
            Err(Fault::SessionsPerAddressFull)
        } else if principal.is_some_and(|principal| {
            is_full(limits.sessions_per_principal_max, self.principals.sessions(principal))
        }) {
            Err(Fault::SessionsPerPrincipalFull)
        } else if self.queues_full() && limits.queue_reserve_bytes == 0 {
            // Nothing could be sent to it; where sessions have a reserve, that is room of its own.
            self.admit_event().and(Err(Fault::QueuesFull))
        } else {
            self.admit_event()
        }
    }

    /// Whether there may be one more session, and whether its stream leaves the reserve of connections to
    /// requests. What depends on the client is not looked at.
    fn has_place_for_session(&self) -> Result<(), Fault> {
        let limits = &self.config.limits;
        let streams_max = limits.connections_max.map(|max| max - limits.reserve());
        if self.phase != ServerPhase::Running {
            Err(Fault::ShuttingDown)
        } else if is_full(limits.sessions_max, self.sessions.len()) {
            Err(Fault::SessionsFull)
        } else if is_full(streams_max, self.sessions.len()) {
            Err(Fault::StreamsFull)
        } else {
            Ok(())
        }
    }

    /// What `/ready` says: whether a session could be opened, and if not, the word for why.
    pub(super) fn readiness(&self) -> Result<(), &str> {
        if self.is_stopping() {
            return Err("draining");
        }
        match self.has_place_for_session() {
            Err(_) => Err("full"),
            Ok(()) => self.health_extras.not_ready.map_or(Ok(()), Err),
        }
    }

    // ── Posts. ──────────────────────────────────────────────────────────────────────────────────

    /// Whether the body of a post may be read, and whose session it is for. `refusal` is what is wrong
    /// with the request's head.
    pub(super) fn admit_post(
        &mut self,
        key: Key,
        refusal: Option<Refused>,
        token: Result<SessionToken, TokenError>,
        service: Service,
        principal: Option<Principal>,
    ) -> Result<PostTarget, Refused> {
        // The rate of the principal is applied first: see the head of `server/post.rs`.
        if let Some(principal) = &principal {
            self.principals.post(principal, self.now).map_err(|wait| {
                self.metrics.count_limit(ReachedLimit::PrincipalRate);
                Refused::limited(Fault::RateLimited, Some(PRINCIPAL_RATE), wait)
            })?;
        }
        if let Some(refused) = refusal {
            return Err(refused);
        }
        if self.phase != ServerPhase::Running {
            return Err(Fault::ShuttingDown.into());
        }
        let target = self.target(token, service, principal)?;
        if let PostTarget::Here(session) = target {
            self.conns[key].request.session = Some(session);
            self.admit_to_session(session).map_err(session_rate)?;
        }
        Ok(target)
    }

    /// Counts a post to a session, or says for how long there may be none.
    pub(super) fn admit_to_session(&mut self, session: Key) -> Result<(), Duration> {
        let Some(rate) = self.config.limits.posts_rate_per_session else { return Ok(()) };
        let admitted = self.sessions[session].post(rate, self.now);
        admitted.inspect_err(|_| self.metrics.count_limit(ReachedLimit::SessionRate))
    }

    /// The session that a post names: of this shard, or of another one.
    fn target(
        &self,
        token: Result<SessionToken, TokenError>,
        service: Service,
        principal: Option<Principal>,
    ) -> Result<PostTarget, Refused> {
        let token = match token {
            Ok(token) => token,
            Err(error) => {
                // A malformed token takes as long as any other miss.
                self.find_session(&SessionRef { token: SessionToken::UNUSED, service, principal });
                return Err(match error {
                    TokenError::Malformed => Fault::UnknownSession.into(),
                    TokenError::OtherInstance(named) => {
                        Refused::misrouted(Misrouting::Instance(named))
                    }
                });
            }
        };
        let shard = token.shard();
        let claim = SessionRef { token, service, principal };
        if shard == self.config.shard {
            self.find_session(&claim).map(PostTarget::Here).ok_or(Fault::UnknownSession.into())
        } else if self.config.forwarding {
            Ok(PostTarget::Elsewhere { claim: Box::new(claim), asked: false })
        } else {
            Err(Refused::misrouted(Misrouting::Shard(shard)))
        }
    }

    /// The session that is claimed, if it has this secret, service and principal, and is not ending.
    ///
    /// Every miss takes the same steps: a secret is compared, then a principal, each to its end, and only
    /// then is the result looked at. Where there is no session, decoys are compared. So the time that a
    /// miss takes depends on the claim alone, and tells nothing about other sessions.
    pub(super) fn find_session(&self, claim: &SessionRef) -> Option<Key> {
        let found = self.sessions.at(claim.token.slot());
        let session = found.map(|(_, session)| session);
        let same = SessionState::is_claimed(session, claim);
        found.map(|(key, _)| key).filter(|_| same)
    }

    // ── Events. ─────────────────────────────────────────────────────────────────────────────────

    /// Whether one more question may wait for the application to poll it.
    pub(super) fn admit_event(&self) -> Result<(), Fault> {
        let room = within(self.config.limits.events_max, self.events.len() as u32);
        if room { Ok(()) } else { Err(Fault::EventsFull) }
    }

    /// Whether the budget of request bytes has room for a head that an event carries.
    pub(super) fn admit_head(&self, head: &RequestHead) -> Result<(), Fault> {
        if self.bodies_have_room_for(head.memory_bytes()) { Ok(()) } else { Err(Fault::BodiesFull) }
    }
}
