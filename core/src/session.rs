//! One session: who opened it, what it was sent and has not taken, what it asked and was not told.
//!
//! Knows: its own accounting, and when there is room for what.
//! Does not know: bytes on the wire; its stream's queue is the outbox of its connection.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use crate::arena::Key;
use crate::event::{CloseReason, SessionId};
use crate::jsonrpc::{Kind, Message, fingerprint};
use crate::limits::{Limits, within};
use crate::peer::AddressKey;
use crate::policy::rate::{Bucket, Rate};
use crate::principal::Principal;
use crate::route::Service;
use crate::session_ref::SessionRef;
use crate::time::Time;
use crate::token::Secret;

#[derive(Debug)]
pub(crate) struct SessionState {
    /// The connection that carries the stream.
    pub(crate) conn: Key,
    pub(crate) service: Service,
    pub(crate) principal: Option<Principal>,
    pub(crate) address: Option<AddressKey>,
    secret: Secret,
    /// When it was opened.
    pub(crate) opened: Time,
    /// Posts that were accepted, for the log.
    pub(crate) messages_received: u64,
    /// Frames that were queued, for the log.
    pub(crate) frames_sent: u64,
    /// Set once the stream is ending: no more frames, no more posts.
    pub(crate) ending: Option<CloseReason>,
    /// Messages in the event queue that the application has not polled, and their bytes.
    unpolled: MessageTotals,
    /// Messages that the application has polled and put into a queue of its own.
    backlog: MessageTotals,
    in_flight: InFlight,
    /// Posts that wait for room, in the order in which their bodies were complete, or came.
    held: VecDeque<(PostOrigin, Waiting)>,
    /// How many of them are not requests.
    held_others: u32,
    /// The cost of a frame that was refused for want of room, until the application is told.
    pub(crate) refused_cost: Option<u64>,
    /// Listed among the sessions that wait for room in all queues together.
    pub(crate) waiting_for_budget: bool,
    /// What it has used of its rate, once it has.
    posts: Option<Bucket>,
    /// A frame over 1 MiB was sent, and the log has said so.
    pub(crate) warned_large: bool,
}

/// Where a post waits for room in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostOrigin {
    /// On the connection that it came by.
    Conn(Key),
    /// Among the forwarded posts: it came by another shard.
    Forward(Key),
}

/// What decides when a post that waits for room may go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    kind: Kind,
    /// Of its body.
    len: u64,
    /// What the id of a request spells. Kept, because ids may be as long as bodies, and a client may
    /// cancel many times what it never asked.
    asks: Option<u128>,
}

impl Waiting {
    pub(crate) fn of(message: &Message) -> Self {
        let kind = message.kind();
        let asks = message.id().filter(|_| kind == Kind::Request).map(fingerprint);
        Self { kind, len: message.body().len() as u64, asks }
    }

    /// Whether this is kept of the message, as far as can be told without reading its id again.
    pub(crate) fn is_of(&self, message: &Message) -> bool {
        let (kind, len) = (message.kind(), message.body().len() as u64);
        (kind, len) == (self.kind, self.len) && self.asks.is_some() == (kind == Kind::Request)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct MessageTotals {
    messages: u32,
    bytes: u64,
}

impl SessionState {
    pub(crate) fn new(
        conn: Key,
        secret: Secret,
        service: Service,
        principal: Option<Principal>,
        address: Option<AddressKey>,
        opened: Time,
    ) -> Self {
        Self {
            conn,
            service,
            principal,
            address,
            secret,
            opened,
            messages_received: 0,
            frames_sent: 0,
            ending: None,
            unpolled: MessageTotals::default(),
            backlog: MessageTotals::default(),
            in_flight: InFlight::default(),
            held: VecDeque::new(),
            held_others: 0,
            refused_cost: None,
            waiting_for_budget: false,
            posts: None,
            warned_large: false,
        }
    }

    /// Whether this is the session that is claimed, and takes posts. Where there is none, what is
    /// claimed is compared all the same, with what nobody has: how long it takes depends on the claim
    /// alone.
    pub(crate) fn is_claimed(session: Option<&Self>, claim: &SessionRef) -> bool {
        let decoy = (&Secret::DECOY, None, claim.service, true);
        let (secret, principal, service, ending) = session.map_or(decoy, |session| {
            let ending = session.ending.is_some();
            (&session.secret, session.principal.as_ref(), session.service, ending)
        });
        let secret = secret.matches(claim.token.secret());
        let principal = Principal::same(principal, claim.principal.as_ref());
        // No `&&`: everything is looked at.
        secret & principal & (service == claim.service) & !ending
    }

    /// Counts a post, or says for how long there may be none.
    pub(crate) fn post(&mut self, rate: Rate, now: Time) -> Result<(), Duration> {
        self.posts.get_or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }

    /// Whether a post may go to the application now, given that nothing of its kind waits before it.
    pub(crate) fn admits(&self, kind: Kind, len: u64, limits: &Limits) -> bool {
        self.has_inbound_room(len, limits) && (kind != Kind::Request || self.may_ask(limits))
    }

    /// Whether a post that has just been completed may go to the application now.
    ///
    /// While the queue is full everything waits, in order. While only too many requests are in
    /// flight, only requests wait: the client's answers to the server must get through, or both
    /// sides would wait for each other.
    pub(crate) fn admits_new(&self, kind: Kind, len: u64, limits: &Limits) -> bool {
        self.admits(kind, len, limits)
            && (self.held.is_empty() || (kind != Kind::Request && self.held_others == 0))
    }

    fn has_inbound_room(&self, len: u64, limits: &Limits) -> bool {
        let MessageTotals { messages, bytes } = self.inbound();
        within(limits.inbound_messages_max, messages.saturating_add(1))
            && (messages == 0 || within(limits.inbound_bytes_max, bytes.saturating_add(len)))
    }

    fn may_ask(&self, limits: &Limits) -> bool {
        within(limits.in_flight_max, self.in_flight.len().saturating_add(1))
    }

    fn inbound(&self) -> MessageTotals {
        MessageTotals {
            messages: self.unpolled.messages.saturating_add(self.backlog.messages),
            bytes: self.unpolled.bytes.saturating_add(self.backlog.bytes),
        }
    }

    pub(crate) fn inbound_messages(&self) -> u32 {
        self.inbound().messages
    }

    /// What the application said of its own queue: the session's part of the server's budget for
    /// request bodies.
    pub(crate) const fn backlog_bytes(&self) -> u64 {
        self.backlog.bytes
    }

    /// What of it is in the event queue: messages and bytes.
    pub(crate) const fn unpolled(&self) -> (u32, u64) {
        (self.unpolled.messages, self.unpolled.bytes)
    }

    /// A message has been put into the event queue.
    pub(crate) fn admitted(&mut self, len: u64) {
        self.messages_received += 1;
        self.unpolled.messages += 1;
        self.unpolled.bytes += len;
    }

    /// A message has been polled.
    pub(crate) fn polled(&mut self, len: u64) {
        self.unpolled.messages -= 1;
        self.unpolled.bytes -= len;
    }

    pub(crate) fn set_backlog(&mut self, messages: u32, bytes: u64) {
        self.backlog = MessageTotals { messages, bytes };
    }

    pub(crate) fn asked(&mut self, id: &str) {
        self.in_flight.add(id);
    }

    /// A request has been answered, or will not be. Says whether it was known.
    pub(crate) fn settled(&mut self, id: &str) -> bool {
        self.in_flight.remove(id)
    }

    pub(crate) fn requests_in_flight(&self) -> u32 {
        self.in_flight.len()
    }

    pub(crate) fn hold(&mut self, post: PostOrigin, waiting: Waiting) {
        self.held.push_back((post, waiting));
        self.held_others += u32::from(waiting.kind != Kind::Request);
    }

    /// Takes a post out of the waiting ones.
    pub(crate) fn unhold(&mut self, post: PostOrigin) {
        let at = self.held().position(|waiting| waiting == post);
        if let Some((_, waiting)) = at.and_then(|at| self.held.remove(at)) {
            self.held_others -= u32::from(waiting.kind != Kind::Request);
            // Those who wait are counted by connection, wherever they wait next.
            if self.held.len() <= self.held.capacity() / 4 {
                self.held.shrink_to(2 * self.held.len());
            }
        }
    }

    /// The first of the waiting posts that may go on.
    /// Nobody overtakes a post that waits for room in the queue; only requests wait for answers.
    pub(crate) fn next_admissible(&self, limits: &Limits) -> Option<PostOrigin> {
        let may_ask = self.may_ask(limits);
        if !may_ask && self.held_others == 0 {
            return None;
        }
        for (post, waiting) in &self.held {
            if !self.has_inbound_room(waiting.len, limits) {
                return None;
            }
            if waiting.kind != Kind::Request || may_ask {
                return Some(*post);
            }
        }
        None
    }

    /// The waiting request with this id, if there is one.
    pub(crate) fn held_request(&self, id: &str) -> Option<PostOrigin> {
        let wanted = Some(fingerprint(id));
        self.held.iter().find(|(_, waiting)| waiting.asks == wanted).map(|(post, _)| *post)
    }

    pub(crate) fn take_held(&mut self) -> impl Iterator<Item = PostOrigin> + use<> {
        self.held_others = 0;
        core::mem::take(&mut self.held).into_iter().map(|(post, _)| post)
    }

    /// The posts that wait for room.
    pub(crate) fn held(&self) -> impl Iterator<Item = PostOrigin> {
        self.held.iter().map(|(post, _)| *post)
    }

    /// They, and what is kept of each.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (PostOrigin, Waiting)> {
        self.held.iter().copied()
    }

    /// How many of them are not requests.
    pub(crate) const fn held_others(&self) -> u32 {
        self.held_others
    }

    pub(crate) fn is_waited_for_by(&self, post: PostOrigin) -> bool {
        self.held().any(|waiting| waiting == post)
    }
}

/// The requests of a session that have no answer yet, by what their ids spell.
///
/// Ids are a peer's strings of any length, so fixed-size fingerprints stand for them: exact for the
/// short ones that clients use. Two long ids of one session that collide would only confuse the
/// count of that session.
#[derive(Debug, Default)]
struct InFlight {
    fingerprints: Vec<u128>,
}

impl InFlight {
    fn len(&self) -> u32 {
        self.fingerprints.len() as u32
    }

    fn add(&mut self, id: &str) {
        self.fingerprints.push(fingerprint(id));
    }

    fn remove(&mut self, id: &str) -> bool {
        let wanted = fingerprint(id);
        // From the front: answers come roughly in the order of the questions.
        let found = self.fingerprints.iter().position(|&known| known == wanted);
        if let Some(at) = found {
            self.fingerprints.remove(at);
        }
        found.is_some()
    }
}

/// A look at a session, lent by [`Server::session`](crate::Server::session).
#[derive(Clone, Copy, Debug)]
pub struct SessionView<'a> {
    pub(crate) id: SessionId,
    pub(crate) session: &'a SessionState,
    pub(crate) queued_frames: u32,
}

impl SessionView<'_> {
    /// Its handle.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// On whose behalf it was opened, if anybody was asked.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.session.principal.as_ref()
    }

    /// Messages that were accepted and that the application has not taken.
    #[must_use]
    pub fn inbound_messages(&self) -> u32 {
        self.session.inbound_messages()
    }

    /// Requests without an answer.
    #[must_use]
    pub fn requests_in_flight(&self) -> u32 {
        self.session.requests_in_flight()
    }

    /// Frames that have not wholly left.
    #[must_use]
    pub const fn frames_queued(&self) -> u32 {
        self.queued_frames
    }

    /// Whether it is ending: it takes no more frames and no more posts.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.session.ending.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;
    use crate::testing::Random;

    fn session() -> (SessionState, Key) {
        let conn = Arena::new().insert(());
        let secret = Secret::draw(&mut Random::seeded(1)).unwrap();
        (SessionState::new(conn, secret, Service::ROOT, None, None, Time::ZERO), conn)
    }

    fn limits() -> Limits {
        Limits {
            inbound_messages_max: Some(2),
            inbound_bytes_max: Some(100),
            in_flight_max: Some(1),
            ..Limits::default()
        }
    }

    #[test]
    fn the_queue_is_limited_by_messages_and_by_bytes_and_one_large_message_may_pass() {
        let (mut session, _) = session();
        let admits = |s: &SessionState, len| s.admits(Kind::Notification, len, &limits());
        assert!(admits(&session, 5_000));
        session.admitted(60);
        assert!(admits(&session, 40) && !admits(&session, 41));
        session.admitted(0);
        assert!(!admits(&session, 0));
        session.polled(60);
        assert!(admits(&session, 100));
        session.set_backlog(1, 1);
        assert!(!admits(&session, 0));
    }

    #[test]
    fn only_requests_wait_for_answers() {
        let (mut session, conn) = session();
        session.asked("1");
        assert!(!session.admits(Kind::Request, 1, &limits()));
        assert!(session.admits(Kind::Response, 1, &limits()));
        let post = PostOrigin::Conn(conn);
        let request = Waiting { kind: Kind::Request, len: 1, asks: Some(fingerprint("2")) };
        session.hold(post, request);
        assert!(session.admits_new(Kind::Response, 1, &limits()));
        assert_eq!(session.next_admissible(&limits()), None);
        assert!(session.settled("1") && !session.settled("1"));
        assert_eq!(session.next_admissible(&limits()), Some(post));
        assert_eq!((session.held_request("2"), session.held_request("1")), (Some(post), None));
        assert!(!session.admits_new(Kind::Request, 1, &limits()), "another was there first");
        // A forwarded post in a slot of the same number is another.
        session.unhold(PostOrigin::Forward(conn));
        assert!(!session.admits_new(Kind::Request, 1, &limits()));
        session.unhold(post);
        assert!(session.admits_new(Kind::Request, 1, &limits()));
        // Who does not wait is not taken out.
        session.hold(post, Waiting { kind: Kind::Response, asks: None, ..request });
        let mut others = Arena::new();
        others.insert(());
        session.unhold(PostOrigin::Conn(others.insert(())));
        assert_eq!(session.held_others, 1);
    }

    #[test]
    fn an_answer_may_spell_the_id_differently() {
        let (mut session, _) = session();
        session.asked(r#""\u0061\u00e9""#);
        assert!(!session.settled("\"a\""));
        assert!(session.settled("\"aé\""));
    }

    #[test]
    fn a_session_is_small() {
        let bytes = size_of::<SessionState>() + 8 + 2 * 8;
        assert!(bytes <= 320, "{bytes}");
    }
}
