//! The nth failure: a scenario for each verb, in which the first, the second, the nth draw of entropy fails,
//! slots or places in queues run out, or a connection is cut after each byte of input and of output.
//!
//! Whatever fails, the books balance after each call, every session that was opened is closed once, and when
//! everybody has gone nothing is left.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use mcp_sse_core::jsonrpc::Kind;
use mcp_sse_core::{
    Acknowledgement, Authorization, Config, ConfigBuilder, ConnId, Delivery, EntropyUnavailable,
    Event, Exchange, ForwardedPost, Frame, HeldPost, Interest, Limits, Outcome, Peer, PostTicket,
    Principal, Server, SessionId, Shard, Time, Verdict,
};
use mcp_sse_tests::sim::meter;

/// What goes wrong, and where.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    /// This draw of entropy fails.
    entropy: Option<u64>,
    /// The connection that brings this byte of input breaks behind it.
    input: Option<u64>,
    /// So, but its peer ends its side in order.
    fin: Option<u64>,
    /// The connection that this byte of output leaves by breaks behind it.
    output: Option<u64>,
}

/// How much there was of everything that may fail.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    draws: u64,
    input: u64,
    output: u64,
}

struct Stage {
    servers: Vec<Server>,
    now: Time,
    plan: Plan,
    draws: Arc<AtomicU64>,
    extent: Extent,
    /// What each connection has heard; what is not here is gone.
    heard: BTreeMap<(usize, ConnId), Vec<u8>>,
    open: BTreeSet<(usize, SessionId)>,
    /// The application answers requests, or lets them lie.
    answers: bool,
    foreign: VecDeque<(usize, ForwardedPost, PostTicket)>,
    /// Posts that wait at the other shard, by its name for them.
    held: BTreeMap<(usize, HeldPost), (usize, PostTicket)>,
    messages: u64,
}

/// A session as its client knows it.
#[derive(Clone)]
struct Client {
    shard: usize,
    session: Option<SessionId>,
    token: String,
}

impl Stage {
    fn new(config: &ConfigBuilder, plan: Plan) -> Self {
        let draws = Arc::new(AtomicU64::new(0));
        let server = |shard| {
            let draws = draws.clone();
            let entropy = move |dest: &mut [u8]| {
                let draw = draws.fetch_add(1, Ordering::Relaxed);
                if plan.entropy == Some(draw) {
                    return Err(EntropyUnavailable);
                }
                dest.fill(draw as u8 + 1);
                Ok(())
            };
            let config = config.clone().shard(Shard(shard)).build().unwrap();
            meter::inside(|| Server::new(config.clone(), Box::new(entropy), Time::ZERO))
        };
        Self {
            servers: vec![server(0), server(1)],
            now: Time::ZERO,
            plan,
            draws: draws.clone(),
            extent: Extent::default(),
            heard: BTreeMap::new(),
            open: BTreeSet::new(),
            answers: true,
            foreign: VecDeque::new(),
            held: BTreeMap::new(),
            messages: 0,
        }
    }

    fn call<T>(&mut self, shard: usize, verb: impl FnOnce(&mut Server, Time) -> T) -> T {
        let (server, now) = (&mut self.servers[shard], self.now);
        let result = meter::inside(|| verb(server, now));
        server.check();
        result
    }

    fn gone(&mut self, key: (usize, ConnId)) {
        if self.heard.remove(&key).is_some() {
            self.call(key.0, |server, now| server.handle_disconnect(key.1, now));
        }
    }

    fn connect(&mut self, shard: usize, address: u8) -> Option<ConnId> {
        let remote = core::net::SocketAddr::from(([10, 0, 0, address], 5));
        let peer = Peer::tcp(remote, core::net::SocketAddr::from(([127, 0, 0, 1], 80)));
        let conn = self.call(shard, |server, now| server.accept(peer, now)).ok()?;
        self.heard.insert((shard, conn), Vec::new());
        Some(conn)
    }

    /// Says something, up to where the plan cuts.
    fn says(&mut self, shard: usize, conn: ConnId, bytes: &[u8]) {
        let from = self.extent.input;
        self.extent.input += bytes.len() as u64;
        let within = |at: Option<u64>| at.filter(|&at| at >= from && at < self.extent.input);
        let cut = within(self.plan.input).map(|at| (at, false));
        let cut = cut.or_else(|| within(self.plan.fin).map(|at| (at, true)));
        let most = cut.map_or(bytes.len(), |(at, _)| (at - from) as usize + 1);
        self.call(shard, |server, now| server.handle_input(conn, &bytes[..most], now));
        match cut {
            Some((_, true)) => self.call(shard, |server, now| server.handle_eof(conn, now)),
            Some((_, false)) => self.gone((shard, conn)),
            None => {}
        }
        self.pump();
    }

    fn pump(&mut self) {
        loop {
            let before = (self.extent.output, self.messages, self.heard.len());
            for key in self.heard.keys().copied().collect::<Vec<_>>() {
                self.serve(key);
            }
            for shard in 0..2 {
                while let Some(event) = self.call(shard, |server, _| server.poll_event()) {
                    self.told(shard, event);
                }
                while self.servers[shard].poll_wake().is_some() {}
            }
            if before == (self.extent.output, self.messages, self.heard.len()) {
                return;
            }
        }
    }

    fn serve(&mut self, key: (usize, ConnId)) {
        let (shard, conn) = key;
        match self.servers[shard].interest(conn) {
            Interest::Close => self.gone(key),
            Interest::Linger => self.gone(key),
            Interest::Io { write: false, .. } => {}
            Interest::Io { write: true, .. } => {
                let mut bytes: Vec<u8> =
                    self.servers[shard].transmit(conn).chunks().flatten().copied().collect();
                let from = self.extent.output;
                let end = from + bytes.len() as u64;
                let cut = self.plan.output.filter(|&at| at >= from && at < end);
                if let Some(at) = cut {
                    bytes.truncate((at - from) as usize + 1);
                }
                self.extent.output += bytes.len() as u64;
                let count = bytes.len();
                self.call(shard, |server, now| server.handle_written(conn, count, now));
                self.heard.entry(key).or_default().extend_from_slice(&bytes);
                if cut.is_some() {
                    self.gone(key);
                }
            }
        }
    }

    fn told(&mut self, shard: usize, event: Event) {
        match event {
            Event::Asked { ticket, .. } => {
                let verdict = Verdict::Allow(Principal::new("p"));
                let _ = self.call(shard, |server, now| server.authorize(ticket, verdict, now));
            }
            Event::Opened { session, .. } => {
                assert!(self.open.insert((shard, session)), "10: opened twice");
            }
            Event::Message { session, message, ticket } => {
                self.messages += 1;
                assert!(self.open.contains(&(shard, session)), "10: a message of no session");
                if let Some(id) = message.id().filter(|_| message.kind() == Kind::Request)
                    && self.answers
                {
                    let json = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
                    self.sends(shard, session, &json);
                }
                if let Some(ticket) = ticket {
                    let outcome = Outcome::Accepted;
                    let _ =
                        self.call(shard, |server, now| server.acknowledge(ticket, outcome, now));
                }
            }
            Event::Foreign { post, ticket, .. } => self.foreign.push_back((shard, post, ticket)),
            Event::Closed { session, .. } => {
                assert!(self.open.remove(&(shard, session)), "10: closed twice, or never opened");
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
            match self.call(1 - from, |server, now| server.deliver(post, now)) {
                Delivery::Done(outcome) => {
                    let _ = self.call(from, |server, now| server.acknowledge(ticket, outcome, now));
                }
                Delivery::Held(post) => drop(self.held.insert((1 - from, post), (from, ticket))),
            }
        }
    }

    fn sends(&mut self, shard: usize, session: SessionId, json: &str) {
        let frame = meter::inside(|| Frame::message(json.as_bytes()).unwrap());
        let _ = self.call(shard, |server, now| server.send(session, &frame, now));
    }

    /// Opens a session, if nothing is in the way.
    fn opens(&mut self, shard: usize, address: u8) -> Option<Client> {
        let conn = self.connect(shard, address)?;
        self.says(shard, conn, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let text = String::from_utf8(self.heard.get(&(shard, conn))?.clone()).unwrap();
        let token = text.split_once("session_id=")?.1.get(..32)?.to_string();
        let session = self.open.iter().rfind(|(at, _)| *at == shard).map(|&(_, session)| session);
        Some(Client { shard, session, token })
    }

    /// Posts to a session, on a connection of its own.
    fn posts(&mut self, shard: usize, client: &Client, text: &str) -> Option<ConnId> {
        let conn = self.connect(shard, 9)?;
        let head = format!(
            "POST /messages?session_id={} HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            client.token,
            text.len()
        );
        self.says(shard, conn, (head + text).as_bytes());
        Some(conn)
    }

    fn waits(&mut self, interval: Duration) {
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

    /// Everybody goes; nothing is left.
    fn ends(mut self) -> Extent {
        self.pump();
        for key in self.heard.keys().copied().collect::<Vec<_>>() {
            self.gone(key);
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
        self.extent.draws = self.draws.load(Ordering::Relaxed);
        self.extent
    }
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"do"}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"say"}"#;

// ── One scenario for each verb. ─────────────────────────────────────────────────────────────────

fn opening(stage: &mut Stage) {
    stage.opens(0, 1);
    stage.opens(0, 1);
    stage.opens(0, 2);
}

fn posting(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    stage.posts(0, &client, CALL);
    stage.posts(0, &client, NOTE);
}

/// Two posts in one slice, and one in chunks behind an interim answer.
fn pipelining(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    let Some(conn) = stage.posts(0, &client, CALL) else { return };
    let head = |fields: &str| {
        format!(
            "POST /messages?session_id={} HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\n{fields}\r\n",
            client.token
        )
    };
    let length = head(&format!("Content-Length: {}\r\n", NOTE.len()));
    let chunked = head("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n");
    let chunks = format!("{:x};a=b\r\n{NOTE}\r\n0\r\nT: t\r\n\r\n", NOTE.len());
    stage.says(0, conn, format!("{length}{NOTE}{length}{NOTE}{chunked}{chunks}").as_bytes());
}

fn sending(stage: &mut Stage) {
    let clients = [stage.opens(0, 1), stage.opens(0, 2)];
    let sessions: Vec<SessionId> =
        clients.iter().flatten().filter_map(|client| client.session).collect();
    for &session in &sessions {
        for _ in 0..3 {
            stage.sends(0, session, NOTE);
        }
    }
    let frame = meter::inside(|| Frame::message(NOTE.as_bytes()).unwrap());
    stage.call(0, |server, now| server.broadcast(sessions, &frame, now));
    drop(frame);
    stage.pump();
}

fn closing(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    stage.opens(0, 2);
    if let Some(session) = client.session {
        stage.sends(0, session, NOTE);
        stage.call(0, |server, now| server.close(session, now));
    }
    stage.posts(0, &client, CALL);
}

/// A post is held, and goes on, or is answered busy.
fn holding(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    let Some(session) = client.session else { return };
    stage.call(0, |server, now| server.set_backlog(session, 64, 10, now));
    stage.posts(0, &client, CALL);
    stage.posts(0, &client, NOTE);
    stage.call(0, |server, now| server.set_backlog(session, 63, 10, now));
    stage.pump();
    stage.call(0, |server, now| server.set_backlog(session, 64, 10, now));
    stage.posts(0, &client, CALL);
    stage.waits(Duration::from_secs(5));
}

fn forwarding(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    stage.posts(1 - client.shard, &client, CALL);
    stage.posts(1 - client.shard, &client, NOTE);
}

fn exchanging(stage: &mut Stage) {
    let Some(client) = stage.opens(0, 1) else { return };
    let target = format!("/messages?session_id={}", client.token);
    let fields: &[(&str, &[u8])] = &[("Host", b"localhost"), ("Content-Type", b"application/json")];
    for (method, target, body) in [("GET", "/sse", ""), ("POST", &*target, CALL)] {
        let exchange = Exchange { method, target, fields, mount: "" };
        let conn = stage.call(0, |server, now| server.exchange(exchange, Peer::local(), now));
        let Ok(conn) = conn else { continue };
        stage.heard.insert((0, conn), Vec::new());
        stage.says(0, conn, body.as_bytes());
        stage.call(0, |server, now| server.handle_eof(conn, now));
        stage.pump();
    }
}

fn waiting(stage: &mut Stage) {
    stage.answers = false;
    let Some(client) = stage.opens(0, 1) else { return };
    stage.posts(0, &client, CALL);
    stage.connect(0, 3);
    stage.waits(Duration::from_secs(100));
}

fn stopping(stage: &mut Stage) {
    stage.answers = false;
    let Some(client) = stage.opens(0, 1) else { return };
    stage.opens(0, 2);
    stage.posts(0, &client, CALL);
    stage.connect(0, 3);
    stage.call(0, Server::shutdown);
    stage.pump();
    stage.posts(0, &client, CALL);
    stage.waits(Duration::from_secs(2));
    stage.call(0, Server::shutdown);
    stage.pump();
}

/// With the first of the configurations after each byte; with the others, which differ from it in a few
/// places, after some.
const STEPS: [usize; 3] = [1, 7, 7];

type Scenario = fn(&mut Stage);

const SCENARIOS: [(&str, Scenario); 10] = [
    ("opening", opening),
    ("posting", posting),
    ("pipelining", pipelining),
    ("sending", sending),
    ("closing", closing),
    ("holding", holding),
    ("forwarding", forwarding),
    ("exchanging", exchanging),
    ("waiting", waiting),
    ("stopping", stopping),
];

/// Nobody is asked; somebody is asked about requests; somebody is asked about posts.
fn configs() -> [ConfigBuilder; 3] {
    let config = || Config::builder().forwarding(true);
    [
        config(),
        config().authorization(Authorization::Deferred),
        config().acknowledgement(Acknowledgement::Deferred),
    ]
}

fn play(name: &str, scenario: Scenario, config: &ConfigBuilder, plan: Plan) -> Extent {
    struct Say<'a>(&'a str, Plan, Rc<Cell<bool>>);
    impl Drop for Say<'_> {
        fn drop(&mut self) {
            if !self.2.get() {
                eprintln!("── {} with {:?} ──", self.0, self.1);
            }
        }
    }
    let done = Rc::new(Cell::new(false));
    let _say = Say(name, plan, done.clone());
    let before = meter::live();
    let mut stage = Stage::new(config, plan);
    scenario(&mut stage);
    let extent = stage.ends();
    assert_eq!(meter::live(), before, "6: memory is left");
    done.set(true);
    extent
}

#[test]
fn the_nth_draw_of_entropy() {
    for (name, scenario) in SCENARIOS {
        for config in configs() {
            let whole = play(name, scenario, &config, Plan::default());
            assert!(whole.draws > 0 && whole.input > 0 && whole.output > 0, "{name}: {whole:?}");
            for n in 0..whole.draws {
                play(name, scenario, &config, Plan { entropy: Some(n), ..Plan::default() });
            }
        }
    }
}

#[test]
fn a_cut_after_each_byte_of_input() {
    for (name, scenario) in SCENARIOS {
        for (config, step) in configs().iter().zip(STEPS) {
            let whole = play(name, scenario, config, Plan::default());
            for n in (0..whole.input).step_by(step) {
                play(name, scenario, config, Plan { input: Some(n), ..Plan::default() });
                play(name, scenario, config, Plan { fin: Some(n), ..Plan::default() });
            }
        }
    }
}

#[test]
fn a_cut_after_each_byte_of_output() {
    for (name, scenario) in SCENARIOS {
        for (config, step) in configs().iter().zip(STEPS) {
            let whole = play(name, scenario, config, Plan::default());
            for n in (0..whole.output).step_by(step) {
                play(name, scenario, config, Plan { output: Some(n), ..Plan::default() });
            }
        }
    }
}

/// Slots and places in queues: each limit at each size, up to where it no longer matters.
#[test]
fn the_nth_slot_and_place() {
    type Set = fn(&mut Limits, u64);
    const LIMITS: &[(u64, usize, Set)] = &[
        (5, 1, |limits, n| limits.connections_max = Some(n as u32)),
        (3, 1, |limits, n| limits.connections_per_address_max = Some(n as u32)),
        (4, 1, |limits, n| limits.sessions_max = Some(n as u32)),
        (3, 1, |limits, n| limits.sessions_per_address_max = Some(n as u32)),
        (4, 1, |limits, n| limits.sessions_per_principal_max = Some(n as u32)),
        (4, 1, |limits, n| limits.events_max = Some(n as u32)),
        (4, 1, |limits, n| limits.inbound_messages_max = Some(n as u32)),
        (4, 1, |limits, n| limits.in_flight_max = Some(n as u32)),
        (80, 1, |limits, n| limits.inbound_bytes_max = Some(n)),
        (80, 1, |limits, n| limits.body_bytes_max = Some(n)),
        (600, 5, |limits, n| limits.bodies_bytes_max = Some(n)),
        (200, 7, |limits, n| limits.head_bytes_max = Some(n as u32)),
        (700, 11, |limits, n| limits.queue_bytes_max = Some(n)),
        (1_500, 11, |limits, n| limits.queues_bytes_max = Some(n)),
        (600, 19, |limits, n| limits.answers_bytes_max = Some(n)),
        (60, 7, |limits, n| limits.discard_bytes_max = n as u32),
        (60, 7, |limits, n| limits.stream_input_bytes_max = n as u32),
    ];
    for (name, scenario) in SCENARIOS {
        for (config, sparse) in configs().iter().zip(STEPS) {
            for &(most, step, set) in LIMITS {
                let step = if most > 5 { step * sparse } else { step };
                for n in (0..=most).step_by(step) {
                    let mut limits = Limits::default();
                    set(&mut limits, n);
                    play(name, scenario, &config.clone().limits(limits), Plan::default());
                }
            }
        }
    }
}
