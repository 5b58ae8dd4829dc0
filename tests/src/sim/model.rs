//! What every session must have received, and what the application must have been told.
//!
//! Knows: which frames went to which session in which order; which posts were sent, how they were
//! answered, and whether they reached the application.
//! Does not know: how the core does any of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use mcp_sse_core::{CloseReason, Fault, SessionId};

use super::link::LinkKey;

/// What a post carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    Request,
    Other,
}

/// A post, from when it was sent until it is accounted for.
#[derive(Debug)]
pub struct Post {
    pub text: String,
    pub carries: Carries,
    /// The id of a request; the id that a cancellation names.
    pub id: Option<String>,
    pub cancels: Option<String>,
    /// A cancellation of it has reached the application.
    pub cancelled: bool,
    pub link: LinkKey,
    /// Which of that connection's requests it is.
    pub place: u64,
    /// The session that its token names, by the connection of its stream.
    pub session: Option<LinkKey>,
    /// It must not be taken in, because it is hidden in something else or names no session.
    pub forbidden: bool,
    /// It came to another shard than its session's.
    pub foreign: bool,
    /// On whose behalf it was sent, if somebody was asked and has said.
    pub principal: Option<usize>,
    pub status: Option<u16>,
    pub delivered: bool,
    /// It was answered "server busy" on the stream.
    pub busy: bool,
    /// Whether nothing but room in its session can hold it up.
    pub direct: bool,
    /// The call with which it was completed, if nothing was before it on its connection.
    pub completed: Option<u64>,
    /// Its connection was gone before it was answered.
    pub abandoned: bool,
}

/// What a peer does with what is queued for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taking {
    /// It takes what comes.
    #[default]
    All,
    /// It takes nothing now. It may do so for too long, and then there is a mishap of that name.
    Little,
    /// It has gone, or has said that it will.
    Nothing,
}

/// A stream, from its request until it is accounted for.
#[derive(Debug, Default)]
pub struct Stream {
    pub session: Option<SessionId>,
    pub token: Option<String>,
    pub principal: Option<usize>,
    /// Frames that have not come.
    pub sent: VecDeque<Rc<str>>,
    pub received: u64,
    pub begun: bool,
    pub greeted: bool,
    pub ended: bool,
    /// The application was told that it is full, and not yet that there is room.
    pub blocked: bool,
    /// How often it was told so for which it may still be told that there is room.
    pub refusals: u64,
    pub closed: Option<(CloseReason, u32)>,
    /// The application has closed it.
    pub told_to_end: bool,
    pub gone: bool,
    /// How its peer was when the connection went.
    peer: Taking,
    /// Posts to it that are not accounted for.
    pub pending: BTreeSet<u64>,
    /// The last post that each connection brought to it.
    places: BTreeMap<LinkKey, u64>,
    /// The last completion of a request and of anything else.
    completed: [u64; 2],
}

/// Counts, to see where runs have been.
#[derive(Clone, Debug, Default)]
pub struct Tour {
    pub counts: BTreeMap<String, u64>,
}

impl Tour {
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

    /// Adds what another run has seen.
    pub fn join(&mut self, other: &Self) {
        for (what, &more) in &other.counts {
            self.add(what, more);
        }
    }

    /// How many there were.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

/// The whole of it.
#[derive(Debug, Default)]
pub struct Model {
    pub posts: BTreeMap<u64, Post>,
    pub streams: BTreeMap<LinkKey, Stream>,
    pub sessions: BTreeMap<(usize, SessionId), LinkKey>,
    /// "Server busy" answers that were queued and did not arrive, by stream.
    pub busy_lost: BTreeMap<LinkKey, u64>,
    /// Sessions that have been told things nobody can predict.
    pub meddled: Vec<LinkKey>,
    /// The answer to a wrong token, without what differs by connection and time.
    pub miss: Option<String>,
    /// Mishaps that have explained why something was owed or lost, each once, by shard.
    pub mishaps: BTreeMap<(usize, Fault), u64>,
    pub messages: u64,
    pub tour: Tour,
}

impl Model {
    // ── Frames: 9. ──────────────────────────────────────────────────────────────────────────────

    /// The core took a frame for a session.
    pub fn sent(&mut self, stream: LinkKey, json: Rc<str>) {
        let stream = self.streams.get_mut(&stream).expect("only open sessions take frames");
        assert!(stream.closed.is_none(), "9: a session that was closed took a frame");
        stream.sent.push_back(json);
        self.tour.count("frames sent");
    }

    /// An event came whole.
    pub fn received(&mut self, key: LinkKey, name: &str, data: &str, endpoint: &str) {
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
            return self.told_busy(key, data);
        }
        let expected = stream.sent.pop_front();
        assert_eq!(expected.as_deref(), Some(data), "9: in order, whole, at most once, its own");
        stream.received += 1;
        self.messages += 1;
        self.tour.count("frames received");
    }

    fn told_busy(&mut self, key: LinkKey, data: &str) {
        let id = data.split_once("\"id\":").and_then(|(_, rest)| rest.split_once(",\"error\""));
        let number = id.and_then(|(id, _)| id.trim_matches('"').parse::<u64>().ok());
        let number = number.expect("the id of a request");
        let post = self.posts.get_mut(&number).expect("9: busy for a post that is accounted for");
        assert!(!post.busy && !post.delivered, "9: busy, and delivered or busy twice");
        assert_eq!((post.carries, post.session), (Carries::Request, Some(key)), "9: another's");
        post.busy = true;
        self.tour.count("told busy");
        self.settle_post(number);
    }

    // ── Posts: each that is accepted arrives once, in order. ────────────────────────────────────

    /// The application got a message.
    pub fn delivered(&mut self, shard: usize, session: SessionId, text: &str) {
        let &key = self.sessions.get(&(shard, session)).expect("10: a message after the end");
        let number = number_in(text);
        let known = number.and_then(|number| self.posts.get_mut(&number));
        let Some(post) = known.filter(|post| post.text == text && !post.forbidden) else {
            // Something that was broken on its way may still be a message, to whom it was sent.
            assert!(self.meddled.contains(&key), "nobody has sent {text} to {session}");
            return self.tour.count("broken messages");
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
            let last = stream.places.insert(post.link, post.place);
            assert!(last < Some(post.place), "posts of one connection changed places: {text}");
        }
        if let Some(completed) = post.completed {
            let last = &mut stream.completed[usize::from(post.carries == Carries::Request)];
            assert!(*last < completed, "posts overtook one another: {text}");
            *last = completed;
        }
        let pending = stream.pending.clone();
        if let Some(id) = cancels {
            self.cancel(&id, &pending);
        }
        self.messages += 1;
        self.tour.count("messages delivered");
        if let Some(number) = number {
            self.settle_post(number);
        }
    }

    /// A request with this id was cancelled. If it was held, it has gone nowhere.
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

    /// A post was answered. `alive` is whether its session lives, if that is known.
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
        self.tour.count("posts answered");
        self.settle_post(number);
    }

    /// Forgets a post that is accounted for.
    pub fn settle_post(&mut self, number: u64) {
        let Some(post) = self.posts.get(&number) else { return };
        let over = post.session.is_none_or(|key| !self.streams.contains_key(&key));
        let settled = match post.status {
            Some(202) => post.delivered || post.busy,
            // A forwarded message may be on its way although nobody waits any more.
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

    /// A post is on its way.
    pub fn posted(&mut self, number: u64, post: Post) {
        if let Some(stream) = post.session.and_then(|key| self.streams.get_mut(&key)) {
            stream.pending.insert(number);
        }
        self.posts.insert(number, post);
    }

    /// Invariant 12: wrong tokens are answered alike, whatever is wrong with them.
    pub fn missed(&mut self, head: &str, body: &str) {
        let own = |line: &&str| !line.starts_with("Date: ") && !line.starts_with("Connection: ");
        let text = head.split("\r\n").skip(1).filter(own).collect::<Vec<_>>().join("\n") + body;
        match &self.miss {
            Some(first) => assert_eq!(first, &text, "12: wrong tokens can be told apart"),
            None => self.miss = Some(text),
        }
    }

    // ── Sessions: 10. ───────────────────────────────────────────────────────────────────────────

    /// The application was told that a session began.
    pub fn opened(&mut self, key: LinkKey, session: SessionId, principal: Option<usize>) {
        assert!(self.sessions.insert((key.0, session), key).is_none(), "10: opened twice");
        let stream = self.streams.entry(key).or_default();
        assert_eq!(stream.session.replace(session), None, "10: two sessions of one connection");
        stream.principal = principal;
        self.tour.count("sessions");
    }

    /// The application was told that a session ended.
    pub fn closed(&mut self, shard: usize, session: SessionId, reason: CloseReason, lost: u32) {
        let key = self.sessions.remove(&(shard, session)).expect("10: closed once, after opened");
        let stream = self.streams.get_mut(&key).expect("a session has a stream");
        assert_eq!(stream.closed.replace((reason, lost)), None, "10: closed twice");
        self.tour.count(&format!("closed: {reason}"));
        self.settle_stream(key);
    }

    /// A connection is gone; nothing more comes of it. `peer` is how that was. These of its posts were not answered; of each, whether the server was given all of it.
    pub fn gone(
        &mut self,
        key: LinkKey,
        unanswered: impl Iterator<Item = (u64, bool)>,
        peer: Taking,
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

    /// Invariants 9 and 11: what was sent has come, or is reported as undelivered.
    fn settle_stream(&mut self, key: LinkKey) {
        let Some(stream) = self.streams.get(&key) else { return };
        let Some((reason, lost)) = stream.closed.filter(|_| stream.gone) else { return };
        let missing = stream.sent.len() as u64;
        let lost = u64::from(lost);
        assert!(missing <= lost, "9: {missing} frames are missing, {lost} reported: {reason}");
        if stream.peer == Taking::All {
            assert_eq!(lost, 0, "9: its client took all there was, and frames were lost: {reason}");
            assert_ne!(reason, CloseReason::Stalled, "10: its client takes what comes");
        }
        if stream.peer != Taking::Nothing {
            assert_ne!(reason, CloseReason::Peer, "10: its client has not left");
        }
        let stalled = stream.peer == Taking::Little && (lost > 0 || reason == CloseReason::Stalled);
        if reason == CloseReason::Application {
            assert!(stream.told_to_end, "10: the application has not closed it");
        }
        if stream.ended {
            assert_eq!(lost, 0, "8: the stream ended in order, and frames were lost");
        }
        if missing < lost {
            // What is reported beside them are the core's own words about requests.
            let words = stream.pending.len() as u64;
            assert!(lost - missing <= words, "9: frames reported lost that were never sent");
            self.busy_lost.insert(key, lost - missing);
        }
        if stalled {
            *self.mishaps.entry((key.0, Fault::Stalled)).or_default() += 1;
        }
        self.tour.add("frames undelivered", lost);
        self.meddled.retain(|&meddled| meddled != key);
        let pending = self.streams.remove(&key).map(|stream| stream.pending).unwrap_or_default();
        for number in pending {
            self.settle_post(number);
        }
    }

    /// The run is over and the application has been told everything. So many held requests were withdrawn.
    pub fn finish(&mut self, withdrawn: u64) {
        assert!(self.sessions.is_empty(), "10: sessions never ended: {:?}", self.sessions);
        assert!(self.streams.values().all(|stream| !stream.begun), "10: {:?}", self.streams);
        let mut lost: BTreeMap<LinkKey, Vec<&Post>> = BTreeMap::new();
        for post in self.posts.values().filter(|post| !post.delivered && !post.busy) {
            if let Some(session) = post.session.filter(|_| post.status == Some(202)) {
                assert_eq!(post.carries, Carries::Request, "an accepted post was lost: {post:?}");
                lost.entry(session).or_default().push(post);
            }
        }
        let mut cancelled = 0;
        for (session, posts) in lost {
            // Those that were told busy were told in vain; the others have been withdrawn.
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
        self.tour.add("cancelled while held", cancelled);
    }
}

/// The number that a text of ours carries.
pub fn number_in(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("\"post\":")?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}
