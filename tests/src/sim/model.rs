//! The model: what every session must have received, and what the application must have been told.
//!
//! Knows: which frames went to which session in which order; which posts were sent, how they were
//! answered, and whether they reached the application.
//! Does not know: how the core does any of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use mcp_sse_core::{CloseReason, Fault, SessionId};

use super::connection::ConnectionKey;

/// Whether a post carries a request or another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    Request,
    Other,
}

/// A post, from its sending until it is accounted for.
#[derive(Debug)]
pub struct ModelPost {
    pub text: String,
    pub kind: BodyKind,
    /// The id of a request.
    pub id: Option<String>,
    pub cancels: Option<String>,
    /// A cancellation of the request has reached the application.
    pub cancelled: bool,
    pub connection: ConnectionKey,
    /// Its position among the requests of the connection.
    pub place: u64,
    /// The session of its token, by the connection of the session's stream.
    pub session: Option<ConnectionKey>,
    /// It must not be accepted, because it is hidden in another request or names no session.
    pub forbidden: bool,
    /// It was sent to another shard than its session's.
    pub foreign: bool,
    /// The principal that the application allowed, if it was asked.
    pub principal: Option<usize>,
    pub status: Option<u16>,
    pub delivered: bool,
    /// A "server busy" error was sent on the stream.
    pub busy: bool,
    /// Only a full session can delay it.
    pub direct: bool,
    /// The call with which it was completed, if nothing was before it on its connection.
    pub completed: Option<u64>,
    /// Its connection ended before it was answered.
    pub abandoned: bool,
}

/// How the client reads its output at the end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerReads {
    /// It reads everything.
    #[default]
    All,
    /// It does not read now. If that lasts too long, there is a fault `Stalled`.
    Little,
    /// It has disconnected, or has ended its input.
    Nothing,
}

/// A stream, from its request until it is accounted for.
#[derive(Debug, Default)]
pub struct ModelStream {
    pub session: Option<SessionId>,
    pub token: Option<String>,
    pub principal: Option<usize>,
    /// Frames that were queued and not received yet.
    pub sent: VecDeque<Rc<str>>,
    pub received: u64,
    pub begun: bool,
    pub greeted: bool,
    pub ended: bool,
    /// A send returned `Full`, and no `Unblocked` followed yet.
    pub blocked: bool,
    /// How many sends returned `Full` without an `Unblocked` yet.
    pub refusals: u64,
    pub closed: Option<(CloseReason, u32)>,
    /// The application has closed it.
    pub closed_by_application: bool,
    pub gone: bool,
    /// How its client read when the connection ended.
    peer: PeerReads,
    /// Posts to it that are not accounted for yet.
    pub pending: BTreeSet<u64>,
    /// The position of the last delivered post of each connection.
    places: BTreeMap<ConnectionKey, u64>,
    /// The call that completed the last delivered request, and other message.
    completed: [u64; 2],
}

/// Counts by name of what happened, to see what runs cover.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    pub counts: BTreeMap<String, u64>,
}

impl Coverage {
    /// Counts one more of `what`.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// Counts `more` of `what`.
    pub fn add(&mut self, what: &str, more: u64) {
        match self.counts.get_mut(what) {
            Some(count) => *count += more,
            None => drop(self.counts.insert(what.into(), more)),
        }
    }

    /// Adds the counts of another run.
    pub fn join(&mut self, other: &Self) {
        for (what, &more) in &other.counts {
            self.add(what, more);
        }
    }

    /// The count of `what`.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

/// The model of a run.
#[derive(Debug, Default)]
pub struct Model {
    pub posts: BTreeMap<u64, ModelPost>,
    pub streams: BTreeMap<ConnectionKey, ModelStream>,
    pub sessions: BTreeMap<(usize, SessionId), ConnectionKey>,
    /// "Server busy" answers that were queued and did not arrive, by stream.
    pub busy_lost: BTreeMap<ConnectionKey, u64>,
    /// Sessions to which corrupted posts were sent, so that their messages cannot be predicted.
    pub unpredictable: Vec<ConnectionKey>,
    /// The first 404 to an unknown session, without `Date` and `Connection`.
    pub unknown_session_response: Option<String>,
    /// How many counted faults were used as the cause of a loss or a close, by shard and fault.
    pub used_causes: BTreeMap<(usize, Fault), u64>,
    pub messages: u64,
    pub coverage: Coverage,
}

impl Model {
    // ── Frames: 9. ──────────────────────────────────────────────────────────────────────────────

    /// The core accepted a frame for a session.
    pub fn sent(&mut self, stream: ConnectionKey, json: Rc<str>) {
        let stream = self.streams.get_mut(&stream).expect("only open sessions take frames");
        assert!(stream.closed.is_none(), "9: a session that was closed took a frame");
        stream.sent.push_back(json);
        self.coverage.count("frames sent");
    }

    /// A client received an event.
    pub fn received(&mut self, key: ConnectionKey, name: &str, data: &str, endpoint: &str) {
        let stream = self.streams.get_mut(&key).expect("a stream has begun");
        if !stream.greeted {
            assert_eq!(name, "endpoint", "8: the first event is the endpoint");
            let token = data.strip_prefix(endpoint).expect("8: where to post, and the parameter");
            assert_eq!(token.len(), 32, "8: {token}");
            stream.greeted = true;
            stream.token = Some(token.into());
            return;
        }
        assert_eq!(name, "message", "8: there is one endpoint event");
        if data.contains("\"code\":-32000") {
            return self.busy_received(key, data);
        }
        let expected = stream.sent.pop_front();
        assert_eq!(expected.as_deref(), Some(data), "9: in order, whole, at most once, its own");
        stream.received += 1;
        self.messages += 1;
        self.coverage.count("frames received");
    }

    fn busy_received(&mut self, key: ConnectionKey, data: &str) {
        let id = data.split_once("\"id\":").and_then(|(_, rest)| rest.split_once(",\"error\""));
        let number = id.and_then(|(id, _)| id.trim_matches('"').parse::<u64>().ok());
        let number = number.expect("the id of a request");
        let post = self.posts.get_mut(&number).expect("9: busy for a post that is accounted for");
        assert!(!post.busy && !post.delivered, "9: busy, and delivered or busy twice");
        assert_eq!((post.kind, post.session), (BodyKind::Request, Some(key)), "9: another's");
        post.busy = true;
        self.coverage.count("told busy");
        self.settle_post(number);
    }

    // ── Posts: each that is accepted arrives once, in order. ────────────────────────────────────

    /// The application received a message.
    pub fn delivered(&mut self, shard: usize, session: SessionId, text: &str) {
        let &key = self.sessions.get(&(shard, session)).expect("10: a message after the end");
        let number = number_in(text);
        let known = number.and_then(|number| self.posts.get_mut(&number));
        let Some(post) = known.filter(|post| post.text == text && !post.forbidden) else {
            // A corrupted post may still be a message.
            assert!(self.unpredictable.contains(&key), "nobody has sent {text} to {session}");
            return self.coverage.count("broken messages");
        };
        assert!(!post.delivered, "a post was delivered twice: {text}");
        assert!(!post.busy, "a post was delivered although it was answered busy: {text}");
        assert_eq!(post.session, Some(key), "a post was delivered to another session: {text}");
        let refused = post.status.is_some_and(|status| status != 202);
        assert!(!refused || post.foreign, "a refused post was delivered: {text}");
        post.delivered = true;
        let cancels = post.cancels.clone();
        let stream = self.streams.get_mut(&key).expect("a session has a stream");
        assert_eq!(stream.principal, post.principal, "a post of somebody else was delivered");
        if !post.foreign {
            let last = stream.places.insert(post.connection, post.place);
            assert!(last < Some(post.place), "posts of one connection changed places: {text}");
        }
        if let Some(completed) = post.completed {
            let last = &mut stream.completed[usize::from(post.kind == BodyKind::Request)];
            assert!(*last < completed, "posts overtook one another: {text}");
            *last = completed;
        }
        let pending = stream.pending.clone();
        if let Some(id) = cancels {
            self.cancel(&id, &pending);
        }
        self.messages += 1;
        self.coverage.count("messages delivered");
        if let Some(number) = number {
            self.settle_post(number);
        }
    }

    /// Marks the request with this id as cancelled. If it was queued, it is not delivered.
    fn cancel(&mut self, id: &str, among: &BTreeSet<u64>) {
        for number in among {
            if let Some(post) = self.posts.get_mut(number)
                && post.id.as_deref() == Some(id)
                && !post.delivered
            {
                post.cancelled = true;
            }
        }
    }

    /// A post was answered. `alive` is whether its session is open and reachable.
    pub fn answered(&mut self, number: u64, status: u16, alive: bool) {
        let post = self.posts.get_mut(&number).expect("an answer to a post");
        assert_eq!(post.status, None, "a post was answered twice");
        post.status = Some(status);
        let whose = post.session.and_then(|key| self.streams.get(&key));
        let theirs = whose.is_some_and(|stream| stream.principal == post.principal);
        if status == 202 {
            assert!(!post.forbidden, "202 to a post that names no session: {}", post.text);
            assert!(whose.is_none() || theirs, "202 to somebody else's post: {}", post.text);
        }
        assert!(
            status == 202 || !post.delivered || post.foreign,
            "a refused post had been delivered: {status} {}",
            post.text
        );
        if status == 404 {
            let legitimate = alive && theirs && !post.forbidden;
            assert!(!legitimate, "404 to a post to a living session: {}", post.text);
        }
        self.coverage.count("posts answered");
        self.settle_post(number);
    }

    /// Forgets a post that is accounted for.
    pub fn settle_post(&mut self, number: u64) {
        let Some(post) = self.posts.get(&number) else { return };
        let over = post.session.is_none_or(|key| !self.streams.contains_key(&key));
        let settled = match post.status {
            Some(202) => post.delivered || post.busy,
            // A forwarded message may still be delivered although the client has its response.
            Some(_) => over || !post.foreign,
            None => post.abandoned && (post.delivered || over),
        };
        if settled {
            self.forget(number);
        }
    }

    /// Forgets a post.
    pub fn forget(&mut self, number: u64) {
        let Some(post) = self.posts.remove(&number) else { return };
        if let Some(stream) = post.session.and_then(|key| self.streams.get_mut(&key)) {
            stream.pending.remove(&number);
        }
    }

    /// A post was sent.
    pub fn posted(&mut self, number: u64, post: ModelPost) {
        if let Some(stream) = post.session.and_then(|key| self.streams.get_mut(&key)) {
            stream.pending.insert(number);
        }
        self.posts.insert(number, post);
    }

    /// Invariant 12: all unknown sessions get the same response.
    pub fn check_unknown_session(&mut self, head: &str, body: &str) {
        let own = |line: &&str| !line.starts_with("Date: ") && !line.starts_with("Connection: ");
        let text = head.split("\r\n").skip(1).filter(own).collect::<Vec<_>>().join("\n") + body;
        match &self.unknown_session_response {
            Some(first) => assert_eq!(first, &text, "12: wrong tokens can be told apart"),
            None => self.unknown_session_response = Some(text),
        }
    }

    // ── Sessions: 10. ───────────────────────────────────────────────────────────────────────────

    /// The application was told that a session began.
    pub fn opened(&mut self, key: ConnectionKey, session: SessionId, principal: Option<usize>) {
        assert!(self.sessions.insert((key.0, session), key).is_none(), "10: opened twice");
        let stream = self.streams.entry(key).or_default();
        assert_eq!(stream.session.replace(session), None, "10: two sessions of one connection");
        stream.principal = principal;
        self.coverage.count("sessions");
    }

    /// The application was told that a session ended.
    pub fn closed(&mut self, shard: usize, session: SessionId, reason: CloseReason, lost: u32) {
        let key = self.sessions.remove(&(shard, session)).expect("10: closed once, after opened");
        let stream = self.streams.get_mut(&key).expect("a session has a stream");
        assert_eq!(stream.closed.replace((reason, lost)), None, "10: closed twice");
        self.coverage.count(&format!("closed: {reason}"));
        self.settle_stream(key);
    }

    /// A connection has ended. `unanswered` are its posts without a response, each with whether the
    /// server received all of it; `peer` is how its client read.
    pub fn gone(
        &mut self,
        key: ConnectionKey,
        unanswered: impl Iterator<Item = (u64, bool)>,
        peer: PeerReads,
    ) {
        for (number, whole) in unanswered {
            let Some(post) = self.posts.get_mut(&number) else { continue };
            post.abandoned = true;
            if whole {
                self.settle_post(number);
            } else {
                self.forget(number);
            }
        }
        if let Some(stream) = self.streams.get_mut(&key) {
            (stream.gone, stream.peer) = (true, peer);
            self.settle_stream(key);
        }
    }

    /// Invariants 9 and 11: every frame was received or reported as undelivered.
    fn settle_stream(&mut self, key: ConnectionKey) {
        let Some(stream) = self.streams.get(&key) else { return };
        let Some((reason, lost)) = stream.closed.filter(|_| stream.gone) else { return };
        let missing = stream.sent.len() as u64;
        let lost = u64::from(lost);
        assert!(missing <= lost, "9: {missing} frames are missing, {lost} reported: {reason}");
        if stream.peer == PeerReads::All {
            assert_eq!(lost, 0, "9: its client took all there was, and frames were lost: {reason}");
            assert_ne!(reason, CloseReason::Stalled, "10: its client takes what comes");
        }
        if stream.peer != PeerReads::Nothing {
            assert_ne!(reason, CloseReason::Peer, "10: its client has not left");
        }
        let stalled =
            stream.peer == PeerReads::Little && (lost > 0 || reason == CloseReason::Stalled);
        if reason == CloseReason::Application {
            assert!(stream.closed_by_application, "10: the application has not closed it");
        }
        if stream.ended {
            assert_eq!(lost, 0, "8: the stream ended in order, and frames were lost");
        }
        if missing < lost {
            // The other undelivered frames are the core's own "busy" errors.
            let body = stream.pending.len() as u64;
            assert!(lost - missing <= body, "9: frames reported lost that were never sent");
            self.busy_lost.insert(key, lost - missing);
        }
        if stalled {
            *self.used_causes.entry((key.0, Fault::Stalled)).or_default() += 1;
        }
        self.coverage.add("frames undelivered", lost);
        self.unpredictable.retain(|&unpredictable| unpredictable != key);
        let pending = self.streams.remove(&key).map(|stream| stream.pending).unwrap_or_default();
        for number in pending {
            self.settle_post(number);
        }
    }

    /// Checks the model at the end of a run. `withdrawn` is how many queued requests were
    /// cancelled.
    pub fn finish(&mut self, withdrawn: u64) {
        assert!(self.sessions.is_empty(), "10: sessions never ended: {:?}", self.sessions);
        assert!(self.streams.values().all(|stream| !stream.begun), "10: {:?}", self.streams);
        let mut lost: BTreeMap<ConnectionKey, Vec<&ModelPost>> = BTreeMap::new();
        for post in self.posts.values().filter(|post| !post.delivered && !post.busy) {
            if let Some(session) = post.session.filter(|_| post.status == Some(202)) {
                assert_eq!(post.kind, BodyKind::Request, "an accepted post was lost: {post:?}");
                lost.entry(session).or_default().push(post);
            }
        }
        let mut cancelled = 0;
        for (session, posts) in lost {
            // Some got a "busy" error that was lost; the others were cancelled while queued.
            let told = self.busy_lost.get(&session).copied().unwrap_or(0);
            let others = (posts.len() as u64).saturating_sub(told);
            let taken_back = posts.iter().filter(|post| post.cancelled).count() as u64;
            assert!(others <= taken_back, "accepted posts were lost, {told} told busy: {posts:?}");
            cancelled += others;
        }
        assert!(
            cancelled <= withdrawn,
            "{cancelled} accepted posts were lost, {withdrawn} withdrawn"
        );
        self.coverage.add("cancelled while held", cancelled);
    }
}

/// The number in a message that the simulator made.
pub fn number_in(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("\"post\":")?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}
