//! Admission: whether there is room for one more connection, session, post or event, and whether a rate
//! allows it.
//!
//! Knows: places and the reserve of connections, limits by address and principal, rates, and which session
//! a post is for. Does not know: how a refusal is told.

use alloc::boxed::Box;
use core::time::Duration;

use super::Server;
use crate::answer::Refused;
use crate::arena::Key;
use crate::conn::{Conn, PostTarget};
use crate::error::{AcceptError, Fault};
use crate::event::{ConnId, Deadline, RequestHead, ServerPhase};
use crate::limits::within;
use crate::peer::{AddressKey, Peer};
use crate::principal::Principal;
use crate::route::Service;
use crate::session::SessionState;
use crate::session_ref::SessionRef;
use crate::timers::TimerKind;
use crate::token::{SessionToken, TokenError};

/// A connection without a request is closed to make room only once it has waited for this long: one that
/// was accepted into the last place is to have the time to send its request.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// The timers of connections that may be closed to make room.
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
        log::debug!("{} from {peer}", ConnId(key));
        self.make_room(Some(key));
        Ok(key)
    }

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
        } else if let Err(fault) = self.admit_event() {
            Err(fault)
        } else if self.queues_full() && limits.queue_reserve_bytes == 0 {
            // It could be told nothing; otherwise it has room of its own.
            Err(Fault::QueuesFull)
        } else {
            Ok(())
        }
    }

    /// Whether one more stream leaves the reserve of connections to requests.
    pub(super) fn has_place_for_stream(&self) -> bool {
        let limits = &self.config.limits;
        let streams_max = limits.connections_max.map(|max| max - limits.reserve());
        within(streams_max, self.sessions.len().saturating_add(1))
    }

    pub(super) fn readiness(&self) -> Result<(), &str> {
        let limits = &self.config.limits;
        if self.phase != ServerPhase::Running {
            Err("draining")
        } else if !within(limits.sessions_max, self.sessions.len().saturating_add(1))
            || !self.has_place_for_stream()
        {
            Err("full")
        } else if let Some(why) = self.health_extras.unready() {
            Err(why)
        } else {
            Ok(())
        }
    }

    // ── Posts. ──────────────────────────────────────────────────────────────────────────────────

    /// Whether the body of a post may be read, and for which session it is.
    pub(super) fn admit_post(
        &mut self,
        key: Key,
        refusal: Option<Refused>,
        token: Result<SessionToken, TokenError>,
        service: Service,
        principal: Option<Principal>,
    ) -> Result<PostTarget, Refused> {
        // Before anything else is said, so that bad posts and guesses at sessions are limited as well,
        // and the answer tells nothing of them.
        if let Some(principal) = &principal {
            let late = |wait| Refused::limited(Fault::RateLimited, Some(PRINCIPAL_RATE), wait);
            self.principals.post(principal, self.now).map_err(late)?;
        }
        if let Some(refused) = refusal {
            return Err(refused);
        }
        if self.phase != ServerPhase::Running {
            return Err(Fault::ShuttingDown.into());
        }
        let target = self.target(token, service, principal)?;
        if let PostTarget::Here(session) = target {
            self.conns[key].session = Some(session);
            self.admit_to_session(session).map_err(session_rate)?;
        }
        Ok(target)
    }

    /// Counts a post to a session, or says for how long there may be none.
    pub(super) fn admit_to_session(&mut self, session: Key) -> Result<(), Duration> {
        let Some(rate) = self.config.limits.posts_rate_per_session else { return Ok(()) };
        self.sessions[session].post(rate, self.now)
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
                self.find_session(&SessionRef { token: SessionToken::NOBODYS, service, principal });
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

    /// The session that is claimed, if it has this secret, service and principal, and is not ending.
    ///
    /// Every way to miss takes the same steps: a secret is compared, then a principal, each to its end,
    /// and only then is anything said. Where there is no session, decoys are compared. The steps
    /// depend on the claim alone.
    pub(super) fn find_session(&self, claim: &SessionRef) -> Option<Key> {
        let found = self.sessions.at(claim.token.slot());
        let session = found.map(|(_, session)| session);
        let same = SessionState::is_claimed(session, claim);
        found.map(|(key, _)| key).filter(|_| same)
    }

    // ── Events. ─────────────────────────────────────────────────────────────────────────────────

    /// Whether the application may be given one more thing to look at.
    pub(super) fn admit_event(&self) -> Result<(), Fault> {
        let room = within(self.config.limits.events_max, self.events.len() as u32);
        if room { Ok(()) } else { Err(Fault::EventsFull) }
    }

    /// Whether an event may carry this head.
    pub(super) fn admit_head(&self, head: &RequestHead) -> Result<(), Fault> {
        if self.bodies_take(head.memory_bytes()) { Ok(()) } else { Err(Fault::BodiesFull) }
    }
}
