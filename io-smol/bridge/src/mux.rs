//! Many sessions over one server on stdio: the rules, without I/O.
//!
//! Knows: whose request an answer belongs to, what of MCP is a matter of one connection (the
//! handshake, ids, progress tokens, cancellations, subscriptions) and therefore has to be shared out,
//! and what becomes of everything while the server is away.
//! Does not know: processes, sockets, tasks, or the clock: time is told.
//!
//! Theory of operation. The server sees one client, this one. Each request gets a number that was never
//! used before; the answer to it goes to who asked, with the id put back as it was spelled. The number
//! is the progress token too, so one table serves both. The first `initialize` is passed on and its
//! result kept for everybody who comes later; as it speaks for all, it offers no capabilities, and what
//! the server asks all the same is refused here. What cannot be passed on yet is parked:
//!
//! ```text
//!  Down ──started──▶ Fresh ──initialize──▶ Greeting ──result──▶ Ready
//!   ▲                  ▲ parked too long ─▶ │   │error            │
//!   │                  ╰────────────────────┼───╯                 │
//!   ╰────────────── exited ─────────────────┴─────────────────────╯
//! ```
//!
//! Call a `handle_` verb, then [`poll_output`](Mux::poll_output) until there is nothing, then look at
//! [`poll_timeout`](Mux::poll_timeout).

mod inward;
mod outward;
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

use super::handshakes::{HANDSHAKE, unknown_client};
use super::ids::{self, ID_BYTES_MAX};
use super::lenient::{Lost, Unread, lost_body};
use subscriptions::Subscriptions;
use text::Ambiguous;

/// What bounds a [`Mux`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MuxLimits {
    /// Requests that the server has not answered, of all sessions together.
    pub requests_max: usize,
    /// Bytes of one id or progress token, as JSON. Longer ones are refused: each is kept until the
    /// answer.
    pub id_bytes_max: usize,
    /// Bytes of ids and progress tokens that are kept to be put back, of all sessions together.
    pub ids_bytes_max: usize,
    /// The same, of one session.
    pub session_ids_bytes_max: usize,
    /// Messages that wait for the server to be ready, of all sessions together.
    pub parked_max: usize,
    /// Bytes of them.
    pub parked_bytes_max: usize,
    /// Messages of one session that wait for the server to be ready.
    pub session_parked_max: usize,
    /// For how long other messages wait for an `initialize` before the handshake is made without one.
    pub park: Duration,
    /// For how long requests wait for a server that is away, from its end on; later ones are refused at
    /// once.
    pub outage: Duration,
    /// For how long the server may take to answer the `initialize` of a session. Long, because a first
    /// start may install the server.
    pub greeting: Duration,
    /// For how long the server may take to answer an `initialize` that is no session's own.
    pub own_greeting: Duration,
    /// Bytes of the URIs that one session subscribes to, each with
    /// [`SUBSCRIPTION_BYTES`](Self::SUBSCRIPTION_BYTES).
    pub session_subscriptions_bytes_max: usize,
    /// The same, of all sessions together.
    pub subscriptions_bytes_max: usize,
}

impl MuxLimits {
    /// What a subscription counts for besides its URI, in bytes.
    pub const SUBSCRIPTION_BYTES: usize = 256;
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
            greeting: Duration::from_secs(120),
            own_greeting: HANDSHAKE,
            session_subscriptions_bytes_max: 512 << 10,
            subscriptions_bytes_max: 16 << 20,
        }
    }
}

/// One session, by a number that no other has or will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub u64);

/// What has to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this line, without its end, to the server.
    Server(String),
    /// The same; it answers what the server asked, so that the server decides how many there are.
    Answer(String),
    /// Send this to a session.
    Session(Member, Frame),
    /// End the server: it is of no use, for this reason. Its exit is told as any other.
    Abandon(String),
}

/// What happened that nobody was told. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MuxCounts {
    /// Answers to requests that nobody waits for any more, or that nobody made, or that this has made
    /// itself: subscriptions that are undone, and those that are made again with a new server.
    pub answers_dropped: u64,
    /// Progress of requests that nobody waits for any more, or that nobody made.
    pub progress_dropped: u64,
    /// Notifications of a session that concern itself alone, or came when there was no room.
    pub notifications_dropped: u64,
    /// Cancellations, by either side, of requests that are not in flight.
    pub cancellations_dropped: u64,
    /// Responses of a session, which was asked nothing.
    pub responses_dropped: u64,
    /// Requests of the server, answered here.
    pub server_requests_refused: u64,
    /// Requests answered that there is no room for them.
    pub requests_refused: u64,
}

/// A request that the server has not answered.
struct Asked {
    by: Member,
    /// As the session spelled it.
    id: Box<str>,
    token: Option<Box<str>>,
    /// What it subscribes to.
    subscribes: Option<Arc<str>>,
}

impl Asked {
    fn bytes(&self) -> usize {
        self.id.len() + self.token.as_deref().map_or(0, str::len)
    }
}

#[derive(Default)]
struct Session {
    /// It has had its handshake, or goes on without one: notifications are for it too.
    attends: bool,
    asked: Vec<u64>,
    ids_bytes: usize,
    parked: usize,
    /// What it has subscribed to, and bytes of that.
    subscribed: BTreeSet<Arc<str>>,
    subscribed_bytes: usize,
}

enum Phase {
    /// There is no server, or none yet.
    Down { why: Box<str> },
    /// There is one, and nobody has greeted it.
    Fresh { parked_since: Option<Time> },
    /// It was sent `initialize` under this number, on behalf of this session and its id.
    Greeting {
        number: u64,
        params: Box<str>,
        asker: Option<(Member, Box<str>)>,
        limit: Duration,
        until: Time,
    },
    /// It has answered.
    Ready,
}

/// Many sessions over one server.
pub struct Mux {
    limits: MuxLimits,
    phase: Phase,
    sessions: BTreeMap<Member, Session>,
    asked: BTreeMap<u64, Asked>,
    ids_bytes: usize,
    subscriptions: Subscriptions,
    parked: VecDeque<(Member, Message)>,
    parked_bytes: usize,
    /// The number before the next.
    numbered: u64,
    /// Since when there is no server, or none that has shaken hands; `None` also before the first.
    away_since: Option<Time>,
    /// How to greet the next server, and what the last one said to it.
    greeting: Option<Box<str>>,
    welcome: Box<str>,
    output: VecDeque<Output>,
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
    /// One without sessions, whose server has not been started.
    #[must_use]
    pub fn new(limits: MuxLimits) -> Self {
        Self {
            limits,
            phase: Phase::Down { why: "is not running".into() },
            sessions: BTreeMap::new(),
            asked: BTreeMap::new(),
            ids_bytes: 0,
            subscriptions: Subscriptions::default(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            numbered: 0,
            away_since: None,
            greeting: None,
            welcome: Box::default(),
            output: VecDeque::new(),
            counts: MuxCounts::default(),
        }
    }

    /// Takes in a session. The caller bounds how many there are.
    ///
    /// # Panics
    ///
    /// If it is there already: two sessions would be one.
    pub fn join(&mut self, member: Member) {
        let known = self.sessions.insert(member, Session::default());
        assert!(known.is_none(), "invariant: members are numbered");
    }

    /// The session has ended: what it asked is cancelled, and answers to it will be dropped. Of one that
    /// has left nothing is taken any more.
    pub fn leave(&mut self, member: Member) {
        let Some(session) = self.sessions.remove(&member) else { return };
        for uri in &session.subscribed {
            self.unsubscribe_departed(member, uri);
        }
        for number in session.asked {
            if let Some(asked) = self.asked.remove(&number) {
                self.ids_bytes -= asked.bytes();
                self.cancel(number);
            }
        }
        if session.parked > 0 {
            let parked = mem::take(&mut self.parked);
            let (gone, kept) = parked.into_iter().partition(|(by, _)| *by == member);
            self.parked = kept;
            let gone: VecDeque<(Member, Message)> = gone;
            self.parked_bytes -=
                gone.iter().map(|(_, message)| message.body().len()).sum::<usize>();
        }
        if let Phase::Greeting { asker, .. } = &mut self.phase {
            asker.take_if(|(by, _)| *by == member);
        }
    }

    /// A session's client said something.
    pub fn handle_session(&mut self, member: Member, message: Message, now: Time) {
        if self.sessions.contains_key(&member) {
            self.take(member, message, now);
        }
    }

    /// The server was started.
    pub fn handle_started(&mut self, now: Time) {
        self.phase = Phase::Fresh { parked_since: None };
        match self.greeting.clone() {
            Some(params) => self.greet(params, None, now),
            None => self.unpark(now),
        }
    }

    /// The server said something.
    pub fn handle_server(&mut self, message: &Message, now: Time) {
        match message.kind() {
            Kind::Response => self.handle_response(message, now),
            Kind::Request => self.refuse_server(message),
            Kind::Notification => self.handle_notification(message),
        }
    }

    /// The server has answered with what cannot be passed on. It was for the request whose number it has;
    /// if it has none, for the only one that there is.
    pub fn handle_lost(&mut self, lost: &Lost, now: Time) {
        let (number, error) = match (&lost.id, &self.phase) {
            (Some(id), _) => (ids::number(id), None),
            (None, Phase::Greeting { number, .. }) => (Some(*number), lost.error.as_deref()),
            // What it says may be about a request of another session, which has left.
            (None, _) if self.asked.len() == 1 => (self.asked.keys().next().copied(), None),
            (None, _) => (None, None),
        };
        let Some(number) = number else { return self.counts.answers_dropped += 1 };
        let body = lost_body(&number.to_string(), &lost.why, error);
        match Message::read(body, None) {
            Ok(message) => self.handle_response(&message, now),
            Err((why, _)) => unsendable(&why),
        }
    }

    /// The server has asked what cannot be passed on, and is told so.
    pub fn handle_unread(&mut self, unread: &Unread) {
        self.counts.server_requests_refused += 1;
        self.answer_server(unread.answer());
    }

    /// The server is gone, or could not be started. `why` goes on "MCP server process ..".
    pub fn handle_exit(&mut self, why: &str, now: Time) {
        self.away_since.get_or_insert(now);
        // Nobody is left to take these; the next server must not.
        self.output.retain(|output| matches!(output, Output::Session(..)));
        let before = mem::replace(&mut self.phase, Phase::Down { why: why.into() });
        for (number, asked) in mem::take(&mut self.asked) {
            if let Some(uri) = &asked.subscribes {
                self.subscribe_failed(asked.by, uri, number);
            }
            self.fail(asked.by, &asked.id, why);
        }
        self.subscriptions.handle_exit();
        self.ids_bytes = 0;
        for session in self.sessions.values_mut() {
            session.asked.clear();
            session.ids_bytes = 0;
        }
        if let Phase::Greeting { asker: Some((by, id)), .. } = before {
            self.fail(by, &id, why);
        }
        self.handle_timeout(now);
    }

    /// It is [`poll_timeout`](Self::poll_timeout), or any other time.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.phase {
            Phase::Down { why } => {
                let why = why.clone();
                self.fail_parked(&why);
            }
            Phase::Fresh { .. } => self.greet(unknown_client().into(), None, now),
            Phase::Greeting { until, limit, .. } => {
                // Said once: the exit that follows changes the phase.
                *until = Time::MAX;
                let why = format!("did not answer initialize within {limit:?}");
                self.output.push_back(Output::Abandon(why));
            }
            Phase::Ready => {}
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.phase {
            Phase::Down { .. } if self.parked.is_empty() => None,
            Phase::Down { .. } => self.outage_over(),
            Phase::Fresh { parked_since } => {
                Some(parked_since.as_ref()?.saturating_add(self.limits.park))
            }
            Phase::Greeting { until, .. } => Some(*until).filter(|at| *at < Time::MAX),
            Phase::Ready => None,
        }
    }

    /// When requests stop waiting for a server that is away.
    fn outage_over(&self) -> Option<Time> {
        Some(self.away_since?.saturating_add(self.limits.outage))
    }

    /// What has to be done next, in this order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// Whether a server should be running: there is somebody to serve.
    #[must_use]
    pub fn wants_server(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Whether the server has shaken hands.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many requests the server has not answered, a session's `initialize` included.
    #[must_use]
    pub fn requests(&self) -> usize {
        let greets = matches!(self.phase, Phase::Greeting { asker: Some(_), .. });
        self.asked.len() + usize::from(greets)
    }

    /// What nobody was told.
    #[must_use]
    pub const fn counts(&self) -> &MuxCounts {
        &self.counts
    }

    /// Asserts that the sums are those of their parts, and that nothing belongs to nobody.
    #[cfg(test)]
    fn check(&self) {
        let parked = || self.parked.iter().map(|(by, message)| (by, message.body().len()));
        assert_eq!(self.parked_bytes, parked().map(|(_, bytes)| bytes).sum::<usize>());
        assert_eq!(self.ids_bytes, self.asked.values().map(Asked::bytes).sum::<usize>());
        let listed: usize = self.sessions.values().map(|session| session.asked.len()).sum();
        assert_eq!(listed, self.asked.len());
        for (member, session) in &self.sessions {
            let asked: Vec<&Asked> = session.asked.iter().map(|n| &self.asked[n]).collect();
            assert!(asked.iter().all(|asked| asked.by == *member));
            assert_eq!(session.ids_bytes, asked.iter().map(|asked| asked.bytes()).sum::<usize>());
            assert_eq!(session.parked, parked().filter(|(by, _)| *by == member).count());
        }
        assert!(parked().all(|(by, _)| self.sessions.contains_key(by)));
        assert!(self.is_ready() || self.asked.is_empty(), "asked of nobody");
        assert!(!self.is_ready() || self.parked.is_empty(), "parked for no reason");
        assert!(self.parked.len() <= self.limits.parked_max);
        assert!(self.parked_bytes <= self.limits.parked_bytes_max);
        assert!(self.asked.len() <= self.limits.requests_max);
        self.check_subscriptions();
    }

    /// A request has been answered or taken back.
    fn settle(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        self.ids_bytes -= asked.bytes();
        if let Some(session) = self.sessions.get_mut(&asked.by) {
            session.asked.retain(|known| *known != number);
            session.ids_bytes -= asked.bytes();
        }
        Some(asked)
    }

    fn cancel(&mut self, number: u64) {
        self.say(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the session has ended"}}}}"#
        ));
    }

    fn say(&mut self, text: String) {
        self.output.push_back(Output::Server(text::on_one_line(text)));
    }

    /// Asks the server something on nobody's behalf. What it answers is dropped.
    fn ask_server(&mut self, method: &str, uri: &str) {
        self.numbered += 1;
        let number = self.numbered;
        let uri = serde_json::to_string(uri).expect("invariant: any text is a JSON string");
        self.say(format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{{"uri":{uri}}}}}"#
        ));
    }

    /// Sends what answers the request with this raw id.
    fn send_answer(&mut self, member: Member, id: &str, text: &str) {
        match Frame::message(text.as_bytes()) {
            Ok(frame) => self.output.push_back(Output::Session(member, frame)),
            Err(error) => {
                unsendable(&error);
                let why = format!("the answer cannot be sent: {error}");
                self.answer_error(member, id, code::INTERNAL_ERROR, &why);
            }
        }
    }

    fn fail(&mut self, member: Member, id: &str, why: &str) {
        self.answer_error(member, id, code::INTERNAL_ERROR, &format!("MCP server process {why}"));
    }

    fn refuse_busy(&mut self, member: Member, id: &str) {
        self.counts.requests_refused += 1;
        self.answer_error(member, id, code::SERVER_BUSY, BUSY);
    }

    fn refuse_params(&mut self, member: Member, message: &Message, why: Ambiguous) {
        let id = message.id().unwrap_or_default();
        self.answer_error(member, id, code::INVALID_PARAMS, &why.to_string());
    }

    fn answer_error(&mut self, member: Member, id: &str, code: i32, message: &str) {
        match Frame::message(&jsonrpc::error_body(Some(id), code, message)) {
            Ok(frame) => self.output.push_back(Output::Session(member, frame)),
            Err(error) => unsendable(&error),
        }
    }
}

/// Says that something of the server's cannot be sent.
fn unsendable(error: &dyn fmt::Display) {
    static UNSENDABLE: LogThrottle = LogThrottle::new();
    if let Some(unsaid) = UNSENDABLE.tell() {
        log::error!("a message of a server cannot be sent: {error}{unsaid}");
    }
}

/// `text` with `slice`, which is a slice of it, replaced.
pub(super) fn replaced(text: &str, slice: &str, instead: &str) -> String {
    text::replaced(text, [(slice, instead)])
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod walk;
