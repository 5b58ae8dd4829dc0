//! Runs short scenarios with two servers, an application and clients, and one chosen failure.
//!
//! Knows: what each client sent and received, what the application did, and how all of that must
//! fit together at the end, whatever has failed.
//! Does not know: which scenario runs.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mcp_sse_core::jsonrpc::Kind;
use mcp_sse_core::{
    ConfigBuilder, ConnId, Delivery, EntropyUnavailable, Event, Exchange, ForwardedPost, Frame,
    Interest, Outcome, Peer, PostTicket, Principal, QueuedPostId, Server, SessionId, ShardId, Time,
    Verdict,
};
use mcp_sse_tests::sim::meter;
use mcp_sse_tests::sim::model::number_in;
use mcp_sse_tests::sim::reader::{Reader, Received, field};

/// The operation that fails; by default none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FailurePoint {
    /// The draw of entropy with this number fails.
    pub(crate) entropy: Option<u64>,
    /// The connection breaks after this byte of all input.
    pub(crate) input: Option<u64>,
    /// The client shuts down its side after this byte of all input.
    pub(crate) fin: Option<u64>,
    /// The connection breaks after this byte of all output.
    pub(crate) output: Option<u64>,
}

/// How many operations there were that can fail.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) draws: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

pub(crate) type ConnectionKey = (usize, ConnId);

/// The client's side of a connection.
#[derive(Debug, Default)]
struct ScenarioClient {
    reader: Reader,
    received: Vec<Received>,
    /// The numbers of its posts, in order.
    posts: Vec<u64>,
    /// For an exchange: whether the head of the response was received.
    exchange: Option<bool>,
    /// The chosen failure happened on this connection.
    broken: bool,
    closed: bool,
}

/// A post and its result.
#[derive(Debug)]
struct ScenarioPost {
    kind: Kind,
    /// The server has received all of it.
    whole: bool,
    status: Option<u16>,
    delivered: u32,
    /// How many "busy" errors for it were received on the stream.
    busy: u32,
}

/// A session, as its client knows it.
#[derive(Clone)]
pub(crate) struct OpenedSession {
    pub(crate) shard: usize,
    pub(crate) session: Option<SessionId>,
    pub(crate) token: String,
}

pub(crate) struct ScenarioRun {
    servers: Vec<Server>,
    now: Time,
    failure: FailurePoint,
    draws: Arc<AtomicU64>,
    totals: Totals,
    clients: BTreeMap<ConnectionKey, ScenarioClient>,
    ended_clients: Vec<(ConnectionKey, ScenarioClient)>,
    /// The open sessions, by the connection of the stream.
    open: BTreeMap<ConnectionKey, SessionId>,
    /// The connections of the streams of all sessions, ended ones included.
    streams: BTreeMap<(usize, SessionId), ConnectionKey>,
    /// The frames that each session queued, and how many of them were reported lost.
    sent: BTreeMap<ConnectionKey, Vec<String>>,
    lost: BTreeMap<ConnectionKey, u32>,
    posts: BTreeMap<u64, ScenarioPost>,
    /// Whether the application answers requests.
    pub(crate) answers: bool,
    /// The verdict of the application about requests.
    pub(crate) verdict: Verdict,
    /// The outcome of posts to the other shard, in place of a delivery.
    pub(crate) declines: Option<Outcome>,
    /// How many waiting requests the application has refused.
    refusals: u32,
    foreign: VecDeque<(usize, ForwardedPost, PostTicket)>,
    /// Posts that are queued in the other shard, by that shard's id of them.
    held: BTreeMap<(usize, QueuedPostId), (usize, PostTicket)>,
    events: u64,
    /// The server was aborted, so requests may have no response.
    pub(crate) cut: bool,
}

impl ScenarioRun {
    pub(crate) fn new(config: &ConfigBuilder, failure: FailurePoint) -> Self {
        let draws = Arc::new(AtomicU64::new(0));
        let server = |shard| {
            let draws = draws.clone();
            let entropy = move |dest: &mut [u8]| {
                let draw = draws.fetch_add(1, Ordering::Relaxed);
                if failure.entropy == Some(draw) {
                    return Err(EntropyUnavailable);
                }
                dest.fill(draw as u8 + 1);
                Ok(())
            };
            let config = config.clone().shard(ShardId(shard)).build().unwrap();
            meter::inside(|| Server::new(config.clone(), Box::new(entropy), Time::ZERO))
        };
        Self {
            servers: vec![server(0), server(1)],
            now: Time::ZERO,
            failure,
            draws: draws.clone(),
            totals: Totals::default(),
            clients: BTreeMap::new(),
            ended_clients: Vec::new(),
            open: BTreeMap::new(),
            streams: BTreeMap::new(),
            sent: BTreeMap::new(),
            lost: BTreeMap::new(),
            posts: BTreeMap::new(),
            answers: true,
            verdict: Verdict::Allow(Principal::new("p")),
            declines: None,
            refusals: 0,
            foreign: VecDeque::new(),
            held: BTreeMap::new(),
            events: 0,
            cut: false,
        }
    }

    pub(crate) fn call<T>(&mut self, shard: usize, verb: impl FnOnce(&mut Server, Time) -> T) -> T {
        let (server, now) = (&mut self.servers[shard], self.now);
        let result = meter::inside(|| verb(server, now));
        server.check();
        result
    }

    fn disconnect(&mut self, key: ConnectionKey) {
        if let Some(client) = self.clients.remove(&key) {
            self.ended_clients.push((key, client));
            self.call(key.0, |server, now| server.handle_disconnect(key.1, now));
        }
    }

    // ── Clients. ────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn connect(&mut self, shard: usize, address: u8) -> Option<ConnId> {
        let remote = core::net::SocketAddr::from(([10, 0, 0, address], 5));
        let peer = Peer::tcp(remote, core::net::SocketAddr::from(([127, 0, 0, 1], 80)));
        let conn = self.call(shard, |server, now| server.accept(peer, now)).ok()?;
        self.clients.insert((shard, conn), ScenarioClient::default());
        Some(conn)
    }

    /// Opens a connection for an exchange.
    pub(crate) fn exchange(&mut self, shard: usize, exchange: Exchange<'_>) -> Option<ConnId> {
        let conn = self.call(shard, |server, now| server.exchange(exchange, Peer::local(), now));
        let conn = conn.ok()?;
        let client = ScenarioClient { exchange: Some(false), ..ScenarioClient::default() };
        self.clients.insert((shard, conn), client);
        Some(conn)
    }

    /// Makes a post. Returns its number and its body.
    pub(crate) fn new_post(&mut self, kind: Kind) -> (u64, String) {
        let number = self.posts.len() as u64;
        let post = ScenarioPost { kind, whole: false, status: None, delivered: 0, busy: 0 };
        self.posts.insert(number, post);
        let id = if kind == Kind::Request { format!(r#""id":{number},"#) } else { String::new() };
        let params = format!(r#""params":{{"post":{number}}}"#);
        (number, format!(r#"{{"jsonrpc":"2.0",{id}"method":"do",{params}}}"#))
    }

    /// Sends a request that is no post, up to the chosen cut.
    pub(crate) fn send(&mut self, shard: usize, conn: ConnId, text: &str) {
        self.send_requests(shard, conn, &[(None, text.into())]);
    }

    /// Sends requests in one slice, up to the chosen cut. Posts have a number.
    pub(crate) fn send_requests(
        &mut self,
        shard: usize,
        conn: ConnId,
        all: &[(Option<u64>, String)],
    ) {
        let from = self.totals.input;
        let bytes: String = all.iter().map(|(_, text)| text.as_str()).collect();
        self.totals.input += bytes.len() as u64;
        let within = |at: Option<u64>| at.filter(|&at| at >= from && at < self.totals.input);
        let cut = within(self.failure.input).map(|at| (at, false));
        let cut = cut.or_else(|| within(self.failure.fin).map(|at| (at, true)));
        let most = cut.map_or(bytes.len(), |(at, _)| (at - from) as usize + 1);
        let Some(client) = self.clients.get_mut(&(shard, conn)) else { return };
        client.broken |= cut.is_some();
        let mut end = 0;
        for (number, text) in all {
            end += text.len();
            if let Some(number) = number {
                client.posts.push(*number);
                self.posts.get_mut(number).unwrap().whole = end <= most;
            }
        }
        let bytes = &bytes.as_bytes()[..most];
        self.call(shard, |server, now| server.handle_input(conn, bytes, now));
        match cut {
            Some((_, true)) => self.call(shard, |server, now| server.handle_eof(conn, now)),
            Some((_, false)) => self.disconnect((shard, conn)),
            None => {}
        }
        self.pump();
    }

    /// Opens a session; `None` if the chosen failure prevents it.
    pub(crate) fn open_session(&mut self, shard: usize, address: u8) -> Option<OpenedSession> {
        let conn = self.connect(shard, address)?;
        self.send(shard, conn, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let received = &self.clients.get(&(shard, conn))?.received;
        let token = received.iter().find_map(|thing| {
            if let Received::Event { data, .. } = thing {
                data.split_once("session_id=")
            } else {
                None
            }
        });
        let token = token?.1.get(..32)?.to_owned();
        Some(OpenedSession { shard, session: self.open.get(&(shard, conn)).copied(), token })
    }

    /// Posts to a session on a new connection.
    pub(crate) fn post(&mut self, shard: usize, to: &OpenedSession, kind: Kind) -> Option<ConnId> {
        let conn = self.connect(shard, 9)?;
        let (number, text) = self.new_post(kind);
        let post = post_head(to, &format!("Content-Length: {}\r\n", text.len())) + &text;
        self.send_requests(shard, conn, &[(Some(number), post)]);
        Some(conn)
    }

    pub(crate) fn wait(&mut self, interval: Duration) {
        let end = self.now.saturating_add(interval);
        for _ in 0..1_000 {
            let next =
                self.servers.iter().filter_map(|server| server.poll_timeout()).min_by_key(|d| d.at);
            let Some(next) = next.filter(|next| next.at <= end) else { break };
            self.now = self.now.max(next.at);
            for shard in 0..2 {
                self.call(shard, Server::handle_timeout);
            }
            self.pump();
        }
        self.now = end;
    }

    // ── The driver. ─────────────────────────────────────────────────────────────────────────────

    pub(crate) fn pump(&mut self) {
        loop {
            let before = (self.totals.output, self.events, self.clients.len());
            for key in self.clients.keys().copied().collect::<Vec<_>>() {
                self.serve(key);
            }
            for shard in 0..2 {
                while let Some(event) = self.call(shard, |server, _| server.poll_event()) {
                    self.events += 1;
                    self.handle_event(shard, event);
                }
                while self.servers[shard].poll_wake().is_some() {}
            }
            if before == (self.totals.output, self.events, self.clients.len()) {
                return;
            }
        }
    }

    fn serve(&mut self, key: ConnectionKey) {
        let (shard, conn) = key;
        let Some(client) = self.clients.get_mut(&key) else { return };
        if let (Some(false), Some(head)) = (client.exchange, self.servers[shard].response(conn)) {
            client.exchange = Some(true);
            let mut text = format!("HTTP/1.1 {} Elsewhere\r\n", head.status());
            for (name, value) in head.fields() {
                text += &format!("{name}: {value}\r\n");
            }
            client.reader.feed((text + "\r\n").as_bytes(), &mut client.received);
        }
        match self.servers[shard].interest(conn) {
            Interest::Close | Interest::Linger => {
                client.closed = true;
                self.disconnect(key);
            }
            Interest::Io { write: false, .. } => {}
            Interest::Io { write: true, .. } => {
                let mut bytes: Vec<u8> =
                    self.servers[shard].transmit(conn).chunks().flatten().copied().collect();
                let from = self.totals.output;
                let end = from + bytes.len() as u64;
                let cut = self.failure.output.filter(|&at| at >= from && at < end);
                if let Some(at) = cut {
                    bytes.truncate((at - from) as usize + 1);
                }
                self.totals.output += bytes.len() as u64;
                client.broken |= cut.is_some();
                client.reader.feed(&bytes, &mut client.received);
                let count = bytes.len();
                self.call(shard, |server, now| server.handle_written(conn, count, now));
                if cut.is_some() {
                    self.disconnect(key);
                }
            }
        }
    }

    // ── The application. ────────────────────────────────────────────────────────────────────────

    fn handle_event(&mut self, shard: usize, event: Event) {
        match event {
            Event::Asked { ticket, .. } => {
                let verdict = self.verdict.clone();
                let refused = matches!(verdict, Verdict::Refuse(_));
                let said = self.call(shard, |server, now| server.authorize(ticket, verdict, now));
                self.refusals += u32::from(refused && said.is_ok());
            }
            Event::Opened { session, conn, .. } => {
                assert!(self.open.insert((shard, conn), session).is_none(), "10: opened twice");
                self.streams.insert((shard, session), (shard, conn));
            }
            Event::Message { session, message } => {
                let stream = self.streams[&(shard, session)];
                assert!(self.open.contains_key(&stream), "10: a message of no session");
                let number = number_in(message.text()).expect("a post of ours");
                let post = self.posts.get_mut(&number).expect("a post of ours");
                post.delivered += 1;
                assert_eq!(message.kind(), post.kind);
                if let Some(id) = message.id().filter(|_| self.answers) {
                    let json = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
                    self.send_frame(shard, session, &json);
                }
            }
            Event::LookedFor { lookup, ticket, .. } => {
                let answer = self.call(1 - shard, |server, _| server.look_up(&lookup));
                let _ = self.call(shard, |server, now| server.answer_lookup(ticket, answer, now));
            }
            Event::Foreign { post, ticket, .. } => self.foreign.push_back((shard, post, ticket)),
            Event::Closed { session, frames_undelivered, .. } => {
                let stream = self.streams[&(shard, session)];
                let known = self.open.remove(&stream);
                assert_eq!(known, Some(session), "10: closed twice, or never opened");
                self.lost.insert(stream, frames_undelivered);
            }
            Event::Settled { post, outcome } => {
                let known = self.held.remove(&(shard, post));
                let (from, ticket) = known.expect("10: a post is settled once");
                let _ = self.call(from, |server, now| server.acknowledge(ticket, outcome, now));
            }
            Event::Unblocked { .. } | Event::Drained => {}
            other => panic!("{other:?}"),
        }
        if let Some((from, post, ticket)) = self.foreign.pop_front() {
            let delivery = match self.declines {
                Some(outcome) => Delivery::Done(outcome),
                None => self.call(1 - from, |server, now| server.deliver(post, now)),
            };
            match delivery {
                Delivery::Done(outcome) => {
                    let _ = self.call(from, |server, now| server.acknowledge(ticket, outcome, now));
                }
                Delivery::Held(post) => drop(self.held.insert((1 - from, post), (from, ticket))),
            }
        }
    }

    pub(crate) fn send_frame(&mut self, shard: usize, session: SessionId, json: &str) {
        let frame = meter::inside(|| Frame::message(json.as_bytes()).unwrap());
        if self.call(shard, |server, now| server.send(session, &frame, now)).is_ok() {
            self.record_sent(shard, session, json);
        }
    }

    /// Records a frame that a session queued.
    pub(crate) fn record_sent(&mut self, shard: usize, session: SessionId, json: &str) {
        let stream = self.streams[&(shard, session)];
        self.sent.entry(stream).or_default().push(json.into());
    }

    // ── The end. ────────────────────────────────────────────────────────────────────────────────

    /// Disconnects all clients, and checks that nothing is left and everything is accounted for.
    pub(crate) fn finish(mut self) -> Totals {
        self.pump();
        // Long enough for every queued post to time out, one after the other.
        self.wait(Duration::from_secs(40));
        for client in self.clients.values().filter(|client| !client.broken) {
            let answered = client.responses().count();
            let whole = client.posts.iter().filter(|number| self.posts[number].whole).count();
            assert_eq!(answered.min(whole), whole, "posts that have no answer: {client:?}");
        }
        for key in self.clients.keys().copied().collect::<Vec<_>>() {
            self.disconnect(key);
        }
        self.pump();
        assert!(self.open.is_empty(), "10: never closed: {:?}", self.open);
        for server in &self.servers {
            let metrics = server.metrics();
            assert_eq!((metrics.connections_open(), metrics.sessions_open()), (0, 0), "11");
            assert_eq!(metrics.frames_queued, metrics.frames_sent + metrics.frames_undelivered);
            assert_eq!(server.poll_timeout(), None, "13");
            server.check();
        }
        let ended_clients = core::mem::take(&mut self.ended_clients);
        for (key, client) in &ended_clients {
            self.check_client(*key, client);
        }
        self.check_posts();
        self.totals.draws = self.draws.load(Ordering::Relaxed);
        self.totals
    }

    /// Checks what a client received against its requests and the frames of its session.
    fn check_client(&mut self, key: ConnectionKey, client: &ScenarioClient) {
        assert!(client.broken || client.reader.is_idle(), "9: half of something: {client:?}");
        let closes = client.responses().any(|(_, head)| field(head, "Connection") == Some("close"));
        for ((status, _), number) in client.responses().zip(&client.posts) {
            self.posts.get_mut(number).unwrap().status = Some(status);
        }
        let unanswered = client.posts.len().saturating_sub(client.responses().count());
        let excused = client.broken || closes || self.cut || client.exchange.is_some();
        assert!(unanswered == 0 || excused, "{unanswered} posts were not answered: {client:?}");

        let mut messages = Vec::new();
        let mut events = client.received.iter().filter_map(|thing| {
            if let Received::Event { name, data } = thing {
                Some((name.as_str(), data))
            } else {
                None
            }
        });
        if let Some((name, _)) = events.next() {
            assert_eq!(name, "endpoint", "8: the first event");
        }
        for (name, data) in events {
            assert_eq!(name, "message", "8: an event behind the first");
            if data.contains(r#""code":-32000"#) {
                let id = data.split_once(r#""id":"#).and_then(|(_, rest)| rest.split_once(','));
                let number: u64 = id.expect("an id").0.parse().expect("a request of ours");
                self.posts.get_mut(&number).expect("a request of ours").busy += 1;
            } else {
                messages.push(data);
            }
        }
        let sent = self.sent.remove(&key).unwrap_or_default();
        assert!(messages.len() <= sent.len() && messages.iter().zip(&sent).all(|(a, b)| *a == b));
        let lost = self.lost.get(&key).copied().unwrap_or_default() as usize;
        assert!(messages.len() + lost >= sent.len(), "9: {sent:?} and {lost} lost: {client:?}");
    }

    /// Checks that each post has the right status, and was delivered if it was accepted.
    fn check_posts(&self) {
        // A lost frame may be a "busy" error for any request.
        let mut lost: u32 = self.lost.values().sum();
        let mut refused = 0;
        for post in self.posts.values() {
            let arrived = post.delivered + post.busy;
            assert!(arrived <= 1, "arrived twice: {post:?}");
            assert!(post.whole || arrived == 0, "arrived, and was never sent whole: {post:?}");
            refused += u32::from(matches!(post.status, Some(401 | 403)));
            match post.status {
                None => {}
                Some(202) if arrived == 1 => {}
                Some(202) => {
                    assert!(post.kind == Kind::Request && lost > 0, "accepted and lost: {post:?}");
                    lost -= 1;
                }
                Some(_) => assert_eq!(arrived, 0, "refused and arrived: {post:?}"),
            }
        }
        assert!(refused <= self.refusals, "{refused} were refused");
    }

    /// How many posts were answered with `status`.
    pub(crate) fn answered(&self, status: u16) -> usize {
        let clients =
            self.clients.values().chain(self.ended_clients.iter().map(|(_, client)| client));
        let statuses = clients.flat_map(|client| client.responses().zip(&client.posts));
        statuses.filter(|((found, _), _)| *found == status).count()
    }
}

impl ScenarioClient {
    fn responses(&self) -> impl Iterator<Item = (u16, &str)> {
        self.received.iter().filter_map(|thing| {
            if let Received::Response { status, head, .. } = thing {
                Some((*status, head.as_str()))
            } else {
                None
            }
        })
    }
}

/// The head of a post to a session.
pub(crate) fn post_head(to: &OpenedSession, fields: &str) -> String {
    format!(
        "POST /messages?session_id={} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\n{fields}\r\n",
        to.token
    )
}
