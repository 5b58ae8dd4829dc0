//! Compares `memory_bytes_max` with a counting allocator, while clients fill everything that has a
//! limit.
//!
//! The simulator compares the two after every call. Here are the cases that it rarely reaches:
//! everything full at once, and the memory of one more connection or session.

use core::time::Duration;

use mcp_sse_core::{
    Authorization, Config, ConnId, Delivery, Event, Frame, Interest, Limits, Outcome, Peer,
    Principal, Server, SessionId, ShardId, Time, Verdict,
};
use mcp_sse_tests::sim::meter;
use mcp_sse_tests::sim::random::SeededEntropy;

const NOW: Time = Time::ZERO;
const GET: &[u8] = b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server, its memory limit, and the memory that was in use before it.
struct MeteredServer {
    server: Server,
    most: u64,
    base: i64,
}

impl MeteredServer {
    fn new(limits: &Limits, authorization: Authorization) -> Self {
        let config = Config::builder().limits(limits.clone()).authorization(authorization);
        Self::with(config.build().unwrap())
    }

    fn with(config: Config) -> Self {
        let most = config.memory_bytes_max();
        let _ = meter::take_peak();
        let base = meter::live();
        let tokens = SeededEntropy::new(1, false);
        let server = meter::inside(|| Server::new(config.clone(), Box::new(tokens), NOW));
        Self { server, most, base }
    }

    fn call<T>(&mut self, verb: impl FnOnce(&mut Server) -> T) -> T {
        let result = meter::inside(|| verb(&mut self.server));
        let (peak, most) = (meter::take_peak() - self.base, self.most);
        assert!(peak as u64 <= most, "6: {peak} bytes of {most}");
        result
    }

    fn held(&self) -> i64 {
        meter::live() - self.base
    }

    fn connect(&mut self, at: u32) -> Option<ConnId> {
        // Each connection has its own address, so that each address has an entry.
        let [_, b, c, d] = at.to_be_bytes();
        let remote = core::net::SocketAddr::from(([10, b, c, d], 5));
        let peer = Peer::tcp(remote, core::net::SocketAddr::from(([127, 0, 0, 1], 80)));
        self.call(|server| server.accept(peer, NOW)).ok()
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        // Like a driver, it passes input only while the core has interest in it.
        for piece in bytes.chunks(4_096) {
            if matches!(self.server.interest(conn), Interest::Io { read: true, .. }) {
                self.call(|server| server.handle_input(conn, piece, NOW));
            }
        }
    }

    /// Writes a connection's output, and returns it.
    fn read_output(&mut self, conn: ConnId) -> String {
        let bytes: Vec<u8> = self.server.transmit(conn).chunks().flatten().copied().collect();
        self.call(|server| server.handle_written(conn, bytes.len(), NOW));
        String::from_utf8(bytes).unwrap()
    }

    /// Opens a session, and does not poll its event.
    fn open_session(&mut self, at: u32) -> Option<(ConnId, String)> {
        let conn = self.connect(at)?;
        self.send(conn, GET);
        let text = self.read_output(conn);
        let token = text.split_once("session_id=").and_then(|(_, rest)| rest.get(..32));
        token.map(|token| (conn, token.to_string()))
    }

    fn post(token: &str, len: usize, more: usize) -> String {
        format!(
            "POST /messages?session_id={token} HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            len + more
        )
    }
}

fn request(id: usize, fill: usize) -> String {
    let fill = "x".repeat(fill);
    format!(r#"{{"jsonrpc":"2.0","id":"{id}-{fill}","method":"m"}}"#)
}

/// Fills everything that clients can make the server keep, and what the application does not poll.
fn fill(limits: &Limits) -> (i64, u64) {
    let mut metered = MeteredServer::new(limits, Authorization::None);
    let mut at = 0;
    let mut next = || {
        at += 1;
        at
    };
    let mut sessions = Vec::new();
    while let Some(opened) = metered.open_session(next()) {
        sessions.push(opened);
        if sessions.len() as u32 == limits.sessions_max.unwrap() {
            break;
        }
    }
    let ids: Vec<SessionId> = metered.server.sessions().map(|view| view.id()).collect();
    let spare = limits.connections_max.unwrap() - sessions.len() as u32;
    for turn in 0..spare {
        let Some(conn) = metered.connect(next()) else { break };
        let (_, token) = &sessions[turn as usize % sessions.len()];
        let fill = limits.body_bytes_max.unwrap().min(20_000) as usize;
        match turn % 4 {
            // Messages that are not polled, then a queued post, and pipelined requests behind it.
            0 => {
                for id in 0..200 {
                    let text = request(id, 10);
                    metered
                        .send(conn, (MeteredServer::post(token, text.len(), 0) + &text).as_bytes());
                }
            }
            1 => {
                let head = "x".repeat(limits.head_bytes_max.unwrap() as usize - 40);
                metered.send(conn, format!("GET /sse HTTP/1.1\r\nX: {head}").as_bytes());
            }
            2 => {
                let half = "x".repeat(fill / 2);
                metered.send(
                    conn,
                    (MeteredServer::post(token, fill / 2, fill / 2) + &half).as_bytes(),
                );
            }
            // Responses that are not read.
            _ => {
                for _ in 0..200 {
                    metered.send(conn, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
                }
            }
        }
    }
    for &session in &ids {
        for id in 0..2_000 {
            let json = format!(r#"{{"jsonrpc":"2.0","method":"m","params":[{id}]}}"#);
            let frame = meter::inside(|| Frame::message(json.as_bytes()).unwrap());
            let sent = metered.call(|server| server.send(session, &frame, NOW));
            if sent.is_err() {
                break;
            }
        }
    }
    let held = metered.held();
    // All clients disconnect, and no event is polled.
    for (conn, _) in sessions {
        metered.call(|server| server.handle_disconnect(conn, NOW));
    }
    (held, metered.most)
}

#[test]
fn full_server_stays_within_memory_max() {
    let small = Limits {
        connections_max: Some(16),
        sessions_max: Some(4),
        head_bytes_max: Some(400),
        body_bytes_max: Some(1_000),
        bodies_bytes_max: Some(4_000),
        inbound_messages_max: Some(3),
        inbound_bytes_max: Some(300),
        in_flight_max: Some(3),
        queue_bytes_max: Some(1_000),
        queues_bytes_max: Some(4_000),
        answers_bytes_max: Some(500),
        events_max: Some(4),
        // Nothing is forwarded in this test.
        forwarded_max: Some(0),
        ..Limits::default()
    };
    let medium = Limits {
        connections_max: Some(400),
        sessions_max: Some(100),
        bodies_bytes_max: Some(1 << 20),
        body_bytes_max: Some(64 << 10),
        queues_bytes_max: Some(1 << 20),
        events_max: Some(1_000),
        forwarded_max: Some(0),
        ..Limits::default()
    };
    let one = Limits { connections_max: Some(1), sessions_max: Some(1), ..small.clone() };
    for limits in [one, small, medium] {
        let (held, most) = fill(&limits);
        println!("{held} of {most} bytes");
        // A limit that is never approached would be of no use.
        assert!(held as u64 * 8 >= most, "{held} of {most}");
    }
}

/// How much `more` of something adds to the sum.
fn term(change: impl Fn(&mut Limits, u32), more: u32) -> u64 {
    let with = |count| {
        let mut limits =
            Limits { connections_max: Some(0), sessions_max: Some(0), ..Limits::default() };
        change(&mut limits, count);
        limits.memory_bytes_max()
    };
    with(more) - with(0)
}

/// One more than a power of two: lists have just grown, and nearly half of each is empty.
const COUNT: u32 = 1_025;

#[test]
fn silent_connection_stays_within_its_memory_term() {
    let most = term(|limits, count| limits.connections_max = Some(count), COUNT);
    let limits = Limits { connections_per_address_max: None, ..Limits::default() };
    let mut metered = MeteredServer::new(&limits, Authorization::None);
    for at in 0..COUNT {
        metered.connect(at).expect("room");
    }
    let silent = metered.held() / i64::from(COUNT);
    println!("a silent connection: {silent} bytes; with half a head at most {}", most / 1_000);
    assert!(metered.held() as u64 <= most);
    assert!(silent <= 2 * 640 + 512, "{silent} bytes for a silent connection");
}

/// Heads arrive in pieces and stop before their end. The buffer must not grow beyond the head
/// limit.
#[test]
fn incomplete_heads_stay_within_their_memory_term() {
    const HEADS: u32 = 20;
    // Not a power of two, because buffers would grow to one anyway.
    let limits = Limits { head_bytes_max: Some(40_000), ..Limits::default() };
    let set = |limits: &mut Limits, count| {
        limits.head_bytes_max = Some(40_000);
        limits.connections_max = Some(count);
    };
    let most = term(set, HEADS);
    let mut metered = MeteredServer::new(&limits, Authorization::None);
    let head = format!("GET /sse HTTP/1.1\r\nX: {}", "x".repeat(39_900));
    for at in 0..HEADS {
        let conn = metered.connect(at).expect("room");
        for piece in head.as_bytes().chunks(100) {
            metered.send(conn, piece);
        }
    }
    println!(
        "half a head: {} bytes of {}",
        metered.held() / i64::from(HEADS),
        most / u64::from(HEADS)
    );
    assert!(metered.held() as u64 <= most, "{} of {most}", metered.held());
}

/// Every client sends all but the last byte of a body, and some are refused.
#[test]
fn unfinished_bodies_stay_within_memory_max() {
    let limits = Limits {
        connections_max: Some(100),
        sessions_max: Some(1),
        head_bytes_max: Some(300),
        body_bytes_max: Some(64 << 10),
        bodies_bytes_max: Some(256 << 10),
        queues_bytes_max: Some(64 << 10),
        events_max: Some(4),
        forwarded_max: Some(0),
        ..Limits::default()
    };
    let mut metered = MeteredServer::new(&limits, Authorization::None);
    let (_, token) = metered.open_session(0).expect("room");
    let body = vec![b'x'; (64 << 10) - 1];
    let (mut most, mut refused) = (0, 0);
    for at in 1..90 {
        let conn = metered.connect(at).expect("room");
        metered.send(conn, MeteredServer::post(&token, body.len(), 1).as_bytes());
        metered.send(conn, &body);
        most = most.max(metered.held());
        refused += u32::from(metered.read_output(conn).starts_with("HTTP/1.1 503 "));
    }
    println!("unfinished bodies: {most} of {} bytes, {refused} refused", limits.memory_bytes_max());
    assert!(most > 256 << 10 && refused > 80, "{most} bytes, {refused} refused");
}

/// Queues that were full and were read give back their memory.
#[test]
fn emptied_queues_give_back_their_memory() {
    const SESSIONS: u32 = 40;
    /// The slots that an empty queue may keep, and their size.
    const KEPT: i64 = 8 * 32;
    let budget = Some(64 << 10);
    let limits = Limits { queue_bytes_max: budget, queues_bytes_max: budget, ..Limits::default() };
    let mut metered = MeteredServer::new(&limits, Authorization::None);
    let conns: Vec<ConnId> =
        (0..SESSIONS).map(|at| metered.open_session(at).expect("room").0).collect();
    let mut sessions = Vec::new();
    while let Some(event) = metered.call(Server::poll_event) {
        let Event::Opened { session, .. } = event else { panic!("{event:?}") };
        sessions.push(session);
    }
    let before = metered.held();
    for (&conn, &session) in conns.iter().zip(&sessions) {
        let mut frames = 0;
        loop {
            let frame = meter::inside(|| Frame::message(b"{}").unwrap());
            if metered.call(|server| server.send(session, &frame, NOW)).is_err() {
                break;
            }
            frames += 1;
        }
        assert!(frames > 400, "a burst, and not {frames}");
        metered.read_output(conn);
        while metered.call(Server::poll_event).is_some() {}
    }
    let left = (metered.held() - before) / i64::from(SESSIONS);
    println!("a burst leaves {left} bytes");
    assert!(left <= KEPT, "{left} bytes of each burst are left");
}

#[test]
fn idle_session_stays_within_its_memory_term() {
    let conns = term(|limits, count| limits.connections_max = Some(count), COUNT);
    let sessions = term(|limits, count| limits.sessions_max = Some(count), COUNT);
    let mut metered = MeteredServer::new(&Limits::default(), Authorization::Deferred);
    for at in 0..COUNT {
        let conn = metered.connect(at).expect("room");
        metered.send(conn, GET);
        let name = at.to_string();
        let Some(Event::Asked { ticket, head }) = metered.call(Server::poll_event) else {
            panic!("a question")
        };
        drop(head);
        // The memory of the name belongs to the application.
        let verdict = Verdict::Allow(Principal::new(&name));
        metered.call(|server| server.authorize(ticket, verdict, NOW)).expect("in time");
        metered.read_output(conn);
        let opened = metered.call(Server::poll_event);
        assert!(matches!(opened, Some(Event::Opened { .. })));
    }
    let held = metered.held();
    println!("an idle stream: {} bytes", held / i64::from(COUNT));
    assert!(held as u64 <= conns + sessions);
    assert!(held / i64::from(COUNT) <= 2 * (640 + 320) + 512 + 128, "{held}");
}

/// Bodies without a declared length grow as they arrive, into a new buffer while the old one still
/// exists.
#[test]
fn growing_bodies_stay_within_memory_max() {
    const BODY: u64 = 1 << 20;
    let limits = Limits {
        connections_max: Some(17),
        sessions_max: Some(1),
        head_bytes_max: Some(400),
        body_bytes_max: Some(BODY),
        bodies_bytes_max: Some(16 * BODY),
        queues_bytes_max: Some(10_000),
        events_max: Some(4),
        forwarded_max: Some(0),
        ..Limits::default()
    };
    for piece in [4_000, 512_500, BODY as usize] {
        let mut metered = MeteredServer::new(&limits, Authorization::None);
        let (_, token) = metered.open_session(0).expect("room");
        let conns: Vec<_> = (1..17).map(|at| metered.connect(at).expect("room")).collect();
        let head = format!(
            "POST /messages?session_id={token} HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{BODY:x}\r\n"
        );
        for &conn in &conns {
            metered.send(conn, head.as_bytes());
        }
        let blanks = vec![b' '; piece];
        let rounds = (0..BODY as usize / piece).map(|_| &blanks[..]);
        // One more octet doubles a full buffer.
        for part in rounds.chain((!(BODY as usize).is_multiple_of(piece)).then_some(&b" "[..])) {
            for &conn in &conns {
                metered.call(|server| server.handle_input(conn, part, NOW));
            }
        }
        let held = metered.held() as u64;
        println!("in pieces of {piece}: {held} of {} bytes", metered.most);
        assert!(held > 12 * BODY, "{held}");
    }
}

/// Forwarded posts wait in the queues of full sessions, and as many have outcomes that are not
/// polled.
#[test]
fn queued_forwarded_posts_stay_within_memory_max() {
    const COUNT: u32 = 200;
    let limits = |forwarded| Limits {
        connections_max: Some(4),
        sessions_max: Some(2),
        head_bytes_max: Some(400),
        body_bytes_max: Some(100),
        bodies_bytes_max: Some(u64::from(COUNT) * 100),
        inbound_messages_max: Some(1),
        in_flight_max: Some(1),
        queues_bytes_max: Some(4_000),
        events_max: Some(4),
        forwarded_max: Some(forwarded),
        ..Limits::default()
    };
    let mut metered = MeteredServer::new(&limits(COUNT), Authorization::None);
    let (_, token) = metered.open_session(0).expect("room");
    let elsewhere = Config::builder().shard(ShardId(1)).forwarding(true).build().unwrap();
    let mut other = Server::new(elsewhere, Box::new(SeededEntropy::new(2, false)), NOW);
    let mut held = 0;
    for id in 0..=COUNT + 1 {
        let text = request(id as usize, 20);
        let conn = other.accept(Peer::local(), NOW).unwrap();
        other.handle_input(
            conn,
            (MeteredServer::post(&token, text.len(), 0) + &text).as_bytes(),
            NOW,
        );
        let Some(Event::Foreign { post, .. }) = other.poll_event() else { panic!("another's") };
        match metered.call(|server| server.deliver(post, NOW)) {
            Delivery::Held(_) => held += 1,
            Delivery::Done(outcome) => {
                let full = if id == 0 { Outcome::Accepted } else { Outcome::Busy };
                assert_eq!((id == 0 || held == COUNT, outcome), (true, full), "{id}");
            }
        }
    }
    assert_eq!(held, COUNT);
    // Each outcome is `Busy`, and none is polled.
    metered.call(|server| server.handle_timeout(NOW.saturating_add(Duration::from_secs(4))));
    let (grew, most) = (metered.held() as u64, metered.most);
    let part = most - limits(0).memory_bytes_max();
    println!("{COUNT} guests: {grew} of {most} bytes, of which {part} are theirs");
    assert!(grew * 4 >= most, "{grew} of {most}");
}

/// Every connection waits for a verdict, with as much pipelined input as is allowed.
#[test]
fn pending_decisions_stay_within_memory_max() {
    const COUNT: u32 = 200;
    let limits = Limits {
        connections_max: Some(COUNT),
        sessions_max: Some(1),
        head_bytes_max: Some(1_000),
        body_bytes_max: Some(1_000),
        bodies_bytes_max: Some(300_000),
        inbound_messages_max: Some(1),
        in_flight_max: Some(1),
        queues_bytes_max: Some(4_000),
        events_max: Some(COUNT),
        forwarded_max: Some(0),
        ..Limits::default()
    };
    let mut metered = MeteredServer::new(&limits, Authorization::Deferred);
    let field = "f".repeat(800);
    let mut conns = Vec::new();
    for at in 0..COUNT {
        let conn = metered.connect(at).expect("room");
        let get = format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Long: {field}\r\n\r\n");
        metered.call(|server| server.handle_input(conn, get.as_bytes(), NOW));
        conns.push(conn);
    }
    // One more slice may arrive although the interest in reading has ended.
    for &conn in &conns {
        metered.call(|server| server.handle_input(conn, &[b'x'; 900], NOW));
    }
    let (asked, most) = (metered.held() as u64, metered.most);
    println!("{COUNT} questions: {asked} of {most} bytes");
    assert!(asked * 3 >= most, "{asked} of {most}");
    // No verdict comes.
    metered.call(|server| server.handle_timeout(NOW.saturating_add(Duration::from_secs(4))));
    for conn in conns {
        metered.call(|server| server.handle_disconnect(conn, NOW));
    }
}

/// Every response is long because of the configuration or a trusted proxy, and all are decided
/// about after all have asked, when no budget can refuse them.
#[test]
fn long_configured_texts_stay_within_memory_max() {
    const COUNT: u32 = 60;
    let config = || {
        let limits = Limits {
            connections_max: Some(COUNT),
            sessions_max: Some(COUNT),
            head_bytes_max: Some(900),
            bodies_bytes_max: Some(64 << 10),
            body_bytes_max: Some(1 << 10),
            queues_bytes_max: Some(1 << 10),
            queue_reserve_bytes: 0,
            inbound_messages_max: Some(1),
            in_flight_max: Some(1),
            events_max: Some(COUNT),
            forwarded_max: Some(0),
            ..Limits::default()
        };
        let origin = format!("https://{}.example", "o".repeat(300));
        Config::builder()
            .limits(limits)
            .authorization(Authorization::Deferred)
            .trusted_proxy("10.0.0.0/8")
            .cors_origin(&origin)
            .message_path(&format!("/{}", "m".repeat(250)))
            .session_parameter(&"p".repeat(2_000))
    };
    let prefix = format!("X-Forwarded-Prefix: /{}\r\n", "x".repeat(250));
    let from = format!("Origin: https://{}.example\r\n", "o".repeat(300));
    let page = config().index_page(&"i".repeat(20_000)).build().unwrap();
    for (config, path) in [(config().build().unwrap(), "/sse"), (page, "/")] {
        let without = config.limits().memory_bytes_max();
        let mut metered = MeteredServer::with(config);
        let mut tickets = Vec::new();
        for at in 0..COUNT {
            let conn = metered.connect(at).expect("room");
            let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{prefix}{from}\r\n");
            metered.send(conn, get.as_bytes());
            let asked = metered.call(Server::poll_event);
            let Some(Event::Asked { ticket, .. }) = asked else { panic!("a question: {asked:?}") };
            tickets.push(ticket);
        }
        for ticket in tickets {
            let verdict = Verdict::Allow(Principal::new("a"));
            metered.call(|server| server.authorize(ticket, verdict, NOW)).expect("in time");
        }
        let (held, most) = (metered.held() as u64, metered.most);
        println!("GET {path}: {held} of {most} bytes; {without} without texts");
        // Streams are refused while queues are full; pages are not.
        assert!(path == "/sse" || held > without, "{held}, and {without} would have done");
    }
}

/// Every session's queue has all of its own reserve and a part of the shared budget, and no client
/// reads.
#[test]
fn unread_queues_stay_within_memory_max() {
    const SESSIONS: u32 = 50;
    const RESERVE: u64 = 8_000;
    let limits = Limits {
        connections_max: Some(SESSIONS),
        sessions_max: Some(SESSIONS),
        connections_reserve: 0,
        head_bytes_max: Some(400),
        body_bytes_max: Some(1_000),
        bodies_bytes_max: Some(64 << 10),
        inbound_messages_max: Some(1),
        in_flight_max: Some(1),
        queue_reserve_bytes: RESERVE,
        queue_bytes_max: Some(12_000),
        queues_bytes_max: Some(64 << 10),
        events_max: Some(SESSIONS),
        forwarded_max: Some(0),
        ..Limits::default()
    };
    let mut metered = MeteredServer::new(&limits, Authorization::None);
    for at in 0..SESSIONS {
        metered.open_session(at).expect("room");
    }
    let sessions: Vec<SessionId> = metered.server.sessions().map(|view| view.id()).collect();
    for fill in [900, 200, 0] {
        let json = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "m".repeat(fill));
        for &session in &sessions {
            loop {
                let frame = meter::inside(|| Frame::message(json.as_bytes()).unwrap());
                if metered.call(|server| server.send(session, &frame, NOW)).is_err() {
                    break;
                }
            }
        }
    }
    let (held, own) = (metered.held() as u64, u64::from(SESSIONS) * RESERVE);
    println!("queues: {held} of {} bytes", metered.most);
    assert!(held > own + (48 << 10), "{held} bytes, and {own} of them are the sessions' own");
}

/// Posts wait for room in one session after the other; no session keeps the memory of its list.
#[test]
fn ended_waiting_posts_give_back_their_memory() {
    let limits = Limits {
        connections_max: Some(200),
        inbound_messages_max: Some(0),
        forwarded_max: Some(0),
        ..Limits::default()
    };
    let mut metered = MeteredServer::new(&limits, Authorization::None);
    let sessions: Vec<_> = (0..50).map(|at| metered.open_session(at).expect("room")).collect();
    let text = r#"{"jsonrpc":"2.0","method":"m"}"#;
    let mut held = Vec::new();
    for (_, token) in &sessions {
        let conns: Vec<_> = (100..200).map(|at| metered.connect(at).expect("room")).collect();
        for &conn in &conns {
            metered.send(conn, (MeteredServer::post(token, text.len(), 0) + text).as_bytes());
        }
        for conn in conns {
            metered.call(|server| server.handle_disconnect(conn, NOW));
        }
        while metered.call(Server::poll_wake).is_some() {}
        held.push(metered.held());
    }
    assert_eq!(metered.server.metrics().posts_held, 5_000);
    let left = held[49] - held[0];
    assert!(left < 50 * 512, "{left} bytes of 50 lines that nobody waits in");
}
