//! Random walks over the whole API: nothing panics, `check` holds after every method, all counts are zero in
//! the end, and the same seed is the same run.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::event::{
    AuthTicket, Delivery, LookupAnswer, LookupTicket, Outcome, PostTicket, QueuedPostId, Refusal,
    Verdict,
};
use crate::{Authorization, Principal, ShardId};

const STEPS: usize = 3_000;
const CONNECTIONS_MAX: usize = 12;

struct Walk {
    random: Random,
    bench: Bench,
    conns: Vec<ConnId>,
    tokens: Vec<String>,
    questions: Vec<AuthTicket>,
    posts: Vec<PostTicket>,
    lookups: Vec<LookupTicket>,
    /// Another shard, and what it has brought that is held.
    other: Bench,
    held: BTreeSet<QueuedPostId>,
    /// By session: its stream, and the numbers of the frames that it took.
    open: BTreeMap<SessionId, (ConnId, Vec<u64>)>,
    requests: Vec<(SessionId, String)>,
    frames: u64,
    told: Vec<String>,
}

fn config(random: &mut Random) -> ConfigBuilder {
    let mut config = limited(|limits| {
        limits.sessions_max = Some(4);
        limits.inbound_messages_max = Some(2);
        limits.in_flight_max = Some(2);
        limits.queue_bytes_max = Some(1_000);
        limits.queues_bytes_max = Some(3_000);
        limits.queue_reserve_bytes = [0, 400][random.below(2)];
        limits.bodies_bytes_max = Some(5_000);
        limits.body_bytes_max = Some(2_000);
        limits.bodies_bytes_per_address_max = Some(0);
        limits.answers_bytes_max = Some([1, 400][random.below(2)]);
        limits.stream_input_bytes_max = 300;
        limits.discard_bytes_max = 100;
        limits.linger_bytes_max = 500;
        limits.events_max = Some(6);
        limits.forwarded_max = Some(3);
    });
    if random.below(2) == 0 {
        config = config.authorization(Authorization::Deferred);
    }
    let config = config.trusted_proxy("10.0.0.0/8");
    config.forwarding(random.below(2) == 0).allow_half_close(random.below(4) == 0)
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let bench = Bench::with(config(&mut random));
        Self {
            random,
            bench,
            conns: Vec::new(),
            tokens: Vec::new(),
            questions: Vec::new(),
            posts: Vec::new(),
            lookups: Vec::new(),
            other: Bench::with(Config::builder().shard(ShardId(1)).forwarding(true)),
            held: BTreeSet::new(),
            open: BTreeMap::new(),
            requests: Vec::new(),
            frames: 0,
            told: Vec::new(),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())].clone()) }
    }

    fn session(&mut self) -> Option<SessionId> {
        let sessions: Vec<_> = self.open.keys().copied().collect();
        self.pick(&sessions)
    }

    fn fragment(&mut self) -> Vec<u8> {
        let recent = self.tokens.len().saturating_sub(5);
        let tokens = self.tokens[recent..].to_vec();
        let token = self.pick(&tokens).unwrap_or_else(|| "x".repeat(32));
        let id = self.below(5) as u32;
        let cancel = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
        );
        let text = match self.below(20) {
            0..=2 => GET.into(),
            3 => "HEAD /sse HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            4 => "GET /sse HTTP/1.0\r\n\r\n".into(),
            5..=8 => post(&token, &call(id)),
            9 => post(&token, NOTE),
            10 => post(&token, RESULT),
            11 => post(&token, &cancel),
            12 => post_with(&token, "Expect: 100-continue\r\n", NOTE),
            13 => {
                post(&token, NOTE).replace("Content-Length: 47", "Transfer-Encoding: chunked")
                    + "2f\r\n"
                    + NOTE
                    + "\r\n0\r\n\r\n"
            }
            14 => post(&format!("AAE{}", &token[3..]), NOTE),
            15 => post(&token, &"x".repeat(self.below(3_000))),
            16 => {
                "GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12345".into()
            }
            17 => post_with(&token, "Connection: close\r\n", &call(id)),
            18 => "\r\n".into(),
            _ => "PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n".into(),
        };
        let times = if self.below(6) == 0 { 4 } else { 1 };
        let mut text = text.repeat(times);
        // Which proxies are believed, and other peers are not.
        if self.below(2) == 0 {
            let client = ["203.0.113.1", "203.0.113.2", "unknown"][self.below(3)];
            let fields = format!("Host: localhost\r\nX-Forwarded-For: {client}\r\n");
            text = text.replace("Host: localhost\r\n", &fields);
        }
        let mut bytes = text.into_bytes();
        match self.below(12) {
            0 => bytes.truncate(self.below(bytes.len())),
            1 => {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(8);
            }
            _ => {}
        }
        bytes
    }

    fn step(&mut self) {
        let conns = self.conns.clone();
        let conn = self.pick(&conns);
        self.bench.now = self.bench.now.saturating_add(Duration::from_millis(1));
        match (self.below(40), conn) {
            (0..=3, _) if self.conns.len() < CONNECTIONS_MAX => {
                let local = "10.0.0.2:80".parse().unwrap();
                let peer = match self.below(4) {
                    0 => Peer::tcp("10.0.0.9:5".parse().unwrap(), local),
                    1 => Peer::tcp("192.0.2.1:5".parse().unwrap(), local),
                    _ => Peer::local(),
                };
                self.conns.push(self.bench.connect_from(peer));
            }
            (4..=15, Some(conn)) => {
                // A stream that is talked to does not live long.
                let streams = self.open.values().any(|(stream, _)| *stream == conn);
                if streams && self.below(20) > 0 {
                    return;
                }
                let bytes = self.fragment();
                let (early, late) = bytes.split_at(self.below(bytes.len() + 1));
                self.bench.says_in_pieces(conn, &[early, late]);
            }
            (16, Some(conn)) if self.below(3) == 0 => self.bench.fin(conn),
            (17, Some(conn)) if self.below(3) == 0 => self.bench.reset(conn),
            (18 | 19, Some(conn)) => {
                let reading = self.below(4) > 0;
                self.bench.set_reading(conn, reading);
            }
            (20, Some(conn)) => {
                let most = self.bench.server.transmit(conn).len();
                let count = self.below(most + 1);
                self.bench.takes(conn, count);
            }
            (21, _) => {
                let micros = self.random.below(6_000_000) as u64;
                self.bench.wait(Duration::from_micros(micros));
            }
            (22..=26, _) => {
                for _ in 0..self.below(8) {
                    self.poll();
                }
            }
            (27..=29, _) => self.answer(),
            (30 | 31, _) => self.note(),
            (32, _) => {
                if let Some(session) = self.session().filter(|_| self.random.below(4) == 0) {
                    self.bench.server.close(session, self.bench.now);
                }
            }
            (33, _) => {
                if let Some(session) = self.session() {
                    let messages = self.random.below(3) as u32;
                    self.bench.server.set_backlog(session, messages, 100, self.bench.now);
                }
            }
            (34..=36, _) => {
                if let Some(ticket) = self.questions.pop() {
                    let name = if self.below(4) == 0 { "b" } else { "a" };
                    let verdict = match self.below(6) {
                        0 => Verdict::Refuse(Refusal::Forbidden),
                        _ => Verdict::Allow(Principal::new(name)),
                    };
                    let _ = self.bench.server.authorize(ticket, verdict, self.bench.now);
                }
            }
            (37 | 38, _) if !self.lookups.is_empty() => {
                if let Some(ticket) = self.lookups.pop() {
                    use LookupAnswer::{Found, Unavailable, UnknownSession};
                    let answer = [Found, Found, UnknownSession, Unavailable][self.below(4)];
                    let _ = self.bench.server.answer_lookup(ticket, answer, self.bench.now);
                }
            }
            (37 | 38, _) => {
                if let Some(ticket) = self.posts.pop() {
                    let outcomes = [Outcome::Accepted, Outcome::UnknownSession, Outcome::Busy];
                    let outcome = outcomes[self.below(3)];
                    let _ = self.bench.server.acknowledge(ticket, outcome, self.bench.now);
                }
            }
            (39, _) => {
                for _ in 0..self.below(5) {
                    self.deliver();
                }
            }
            _ => {}
        }
        self.bench.pump();
        let bench = &self.bench;
        self.conns.retain(|&conn| bench.is_open(conn));
    }

    /// Brings a post from the other shard.
    fn deliver(&mut self) {
        let recent = self.tokens[self.tokens.len().saturating_sub(5)..].to_vec();
        let Some(token) = self.pick(&recent) else { return };
        let id = self.below(5) as u32;
        let body = [call(id), NOTE.into(), RESULT.into()];
        let body = self.pick(&body).unwrap();
        let conn = self.other.connect();
        self.other.says(conn, post(&token, &body));
        let Some(Event::Foreign { post, .. }) = self.other.event() else {
            return self.other.reset(conn);
        };
        let delivery = self.bench.server.deliver(post, self.bench.now);
        self.told.push(format!("{delivery:?}"));
        if let Delivery::Held(post) = delivery {
            assert!(self.held.insert(post), "{post} is somebody else's");
        }
        self.other.reset(conn);
    }

    fn poll(&mut self) {
        let Some(event) = self.bench.event() else { return };
        self.told.push(format!("{event:?}"));
        match event {
            Event::Asked { ticket, .. } => self.questions.push(ticket),
            Event::Opened { session, conn, .. } => {
                assert!(self.open.insert(session, (conn, Vec::new())).is_none());
                let text = String::from_utf8_lossy(&self.bench.heard(conn)).into_owned();
                let token = text.rsplit_once("session_id=").and_then(|(_, rest)| rest.get(..32));
                self.tokens.extend(token.map(String::from));
            }
            Event::Message { session, message } => {
                assert!(self.open.contains_key(&session), "a message of no session");
                if message.kind() == crate::jsonrpc::Kind::Request {
                    self.requests.push((session, message.id().unwrap().into()));
                }
            }
            Event::LookedFor { shard, ticket, .. } => {
                assert_ne!(shard, ShardId(0));
                self.lookups.push(ticket);
            }
            Event::Foreign { shard, ticket, .. } => {
                assert_ne!(shard, ShardId(0));
                self.posts.push(ticket);
            }
            Event::Settled { post, .. } => {
                assert!(self.held.remove(&post), "{post} is settled once")
            }
            Event::Unblocked { session } => assert!(self.open.contains_key(&session)),
            Event::Closed { session, frames_undelivered, .. } => {
                let (conn, sent) = self.open.remove(&session).expect("ended once");
                self.check_stream(conn, &sent, frames_undelivered as usize);
            }
            Event::Drained => assert_eq!(self.bench.server.connections_open(), 0),
        }
    }

    /// The peer got what was sent, in order and whole, but for the end of it.
    fn check_stream(&self, conn: ConnId, sent: &[u64], undelivered: usize) {
        let heard = self.bench.heard(conn);
        let stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream";
        let Some(at) = heard.windows(stream.len()).rposition(|part| part == stream) else {
            return assert!(sent.len() <= undelivered);
        };
        let rest = &heard[at..];
        let head = rest.windows(4).position(|four| four == b"\r\n\r\n");
        // A HEAD may have been answered before, and nothing of the GET has left.
        if head.is_none_or(|end| rest[end + 4..].starts_with(b"HTTP/")) {
            return assert!(sent.len() <= undelivered);
        }
        let events = read_stream(rest).events;
        let numbers = events.iter().filter(|event| event.name == "message").filter_map(|event| {
            event.data.split_once("number ")?.1.split('"').next()?.parse::<u64>().ok()
        });
        let numbers: Vec<_> = numbers.collect();
        assert!(events.is_empty() || events[0].name == "endpoint");
        // Some of the undelivered ones may be the server's own, "server busy".
        assert!(sent.len() <= numbers.len() + undelivered, "{sent:?} {numbers:?} {undelivered}");
        assert_eq!(numbers, sent[..numbers.len()]);
    }

    fn numbered(&mut self, session: SessionId, json: &str) {
        self.frames += 1;
        let json = json.replace('#', &format!("number {}", self.frames));
        let frame = Frame::message(json.as_bytes()).unwrap();
        if self.bench.server.send(session, &frame, self.bench.now).is_ok()
            && let Some((_, sent)) = self.open.get_mut(&session)
        {
            sent.push(self.frames);
        }
    }

    fn note(&mut self) {
        let Some(session) = self.session() else { return };
        let filling = "x".repeat(self.below(400));
        let json = format!(r##"{{"jsonrpc":"2.0","method":"n","params":["{filling}","#"]}}"##);
        self.numbered(session, &json);
    }

    fn answer(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let at = self.below(self.requests.len());
        let (session, id) = self.requests.swap_remove(at);
        self.numbered(session, &format!(r##"{{"jsonrpc":"2.0","id":{id},"result":["#"]}}"##));
    }

    fn finish(mut self) -> (Vec<String>, Vec<Vec<u8>>) {
        let (begin, abort) = (self.below(200), self.below(400));
        for step in 0..200 {
            if step == begin {
                self.bench.shutdown();
            }
            if step == abort {
                self.bench.server.abort(self.bench.now);
            }
            self.step_quietly();
        }
        self.bench.wait(secs(10));
        while self.bench.server.poll_timeout().is_some() {
            self.bench.wait(secs(10));
        }
        for _ in 0..1_000 {
            self.poll();
        }
        let server = &self.bench.server;
        assert_eq!(server.phase(), crate::event::ServerPhase::Drained);
        assert_eq!(self.told.last().map(String::as_str), Some("Drained"));
        assert!(self.open.is_empty(), "every session has ended");
        assert!(self.held.is_empty(), "every held post has an outcome");
        assert_eq!((server.queues_cost, server.bodies_bytes), (0, 0));
        assert_eq!((server.connections_open(), server.sessions_open()), (0, 0));
        assert_eq!(server.conn_addresses.total() + server.principals.check(), 0);
        assert_eq!(server.body_addresses.total(), 0);
        let heard = self.bench.wires.values().map(|wire| wire.writes.concat()).collect();
        (self.told, heard)
    }

    fn step_quietly(&mut self) {
        match self.below(3) {
            0 => self.poll(),
            1 => self.answer(),
            _ => {
                let conns = self.conns.clone();
                if let Some(conn) = self.pick(&conns) {
                    let bytes = self.fragment();
                    self.bench.says(conn, bytes);
                }
            }
        }
        self.bench.pump();
        let bench = &self.bench;
        self.conns.retain(|&conn| bench.is_open(conn));
    }
}

fn walk(seed: u64) -> (Vec<String>, Vec<Vec<u8>>) {
    let mut walk = Walk::new(seed);
    for _ in 0..STEPS {
        walk.step();
    }
    let (frames, told) = (walk.frames, walk.told.len());
    assert!(frames > 20 && told > 50, "seed {seed} went nowhere: {frames} {told}");
    walk.finish()
}

#[test]
fn random_walks_keep_every_invariant() {
    for seed in 0..8 {
        let (once, again) = (walk(seed), walk(seed));
        assert!(once == again, "seed {seed} went another way the second time");
    }
}
