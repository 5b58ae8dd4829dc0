//! Whether the time of an answer tells anything about sessions: medians of samples, taken in turn.
//!
//! That the comparison takes the same steps is shown exactly, in the crate's own tests
//! (`every_way_to_miss_takes_the_same_steps`). This one looks at the whole way of a post from its head
//! to its 404, on a machine that does other things as well: it allows for noise, and fails for what
//! an attacker could see, such as an early exit in front of work.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "the clock is what it is about")]

use std::time::Instant;

use mcp_sse_core::{
    Authorization, Config, ConnId, Entropy, EntropyUnavailable, Event, Peer, Server, SessionId,
    StaticTokens, Time,
};

const SAMPLES: usize = 1_000;
/// Posts in one sample, so that the clock's own grain does not matter.
const POSTS: usize = 4;
/// How much longer the median of one kind may be than that of another.
const RATIO: f64 = 1.5;
/// How often the whole may be measured before it counts: noise only ever looks like a difference.
const ATTEMPTS: usize = 5;

struct Counter(u64);

impl Entropy for Counter {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        for byte in dest {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            *byte = (self.0 >> 56) as u8;
        }
        Ok(())
    }
}

fn open(server: &mut Server, token: &str) -> (ConnId, SessionId, String) {
    let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
    let get =
        format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    server.handle_input(conn, get.as_bytes(), Time::ZERO);
    let heard = flush(server, conn);
    let (_, token) = heard.split_once("session_id=").expect("an endpoint");
    let Some(Event::Opened { session, .. }) = server.poll_event() else { panic!("a session") };
    (conn, session, token[..32].to_owned())
}

fn flush(server: &mut Server, conn: ConnId) -> String {
    let bytes = server.transmit(conn).chunks().collect::<Vec<_>>().concat();
    server.handle_written(conn, bytes.len(), Time::ZERO);
    while server.poll_wake().is_some() {}
    String::from_utf8(bytes).unwrap()
}

fn post(token: &str) -> String {
    format!(
        "POST /messages?session_id={token} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nAuthorization: Bearer beta\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The medians for each request, in nanoseconds.
fn medians(server: &mut Server, requests: &[String]) -> Vec<f64> {
    let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
    let mut times = vec![Vec::with_capacity(SAMPLES); requests.len()];
    for round in 0..SAMPLES {
        // In turn, and beginning with another each time, so that all see the same noise.
        for at in 0..requests.len() {
            let at = (at + round) % requests.len();
            let start = Instant::now();
            for _ in 0..POSTS {
                server.handle_input(conn, requests[at].as_bytes(), Time::ZERO);
                let len = server.transmit(conn).len();
                server.handle_written(conn, len, Time::ZERO);
                while server.poll_wake().is_some() {}
            }
            times[at].push(start.elapsed().as_nanos() as f64);
        }
    }
    server.handle_disconnect(conn, Time::ZERO);
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

#[test]
fn a_miss_takes_as_long_as_any_other() {
    let tokens = StaticTokens::builder().token("alice", "alpha").token("bob", "beta");
    let tokens = Authorization::Static(tokens.build().unwrap());
    let config = Config::builder().authorization(tokens).build().unwrap();
    let mut server = Server::new(config, Box::new(Counter(1)), Time::ZERO);
    let (conn, _, ended) = open(&mut server, "beta");
    let (placeholder, ..) = open(&mut server, "beta");
    let (_, _, others) = open(&mut server, "alpha");
    for conn in [conn, placeholder] {
        server.handle_disconnect(conn, Time::ZERO);
    }
    while server.poll_event().is_some() {}
    let unknown = format!("{}AAAA", &others[..28]);
    let malformed = format!("{}$", &others[..31]);
    let requests = [others, ended, unknown, malformed].map(|token| post(&token));

    let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
    for request in &requests {
        server.handle_input(conn, request.as_bytes(), Time::ZERO);
        assert!(flush(&mut server, conn).starts_with("HTTP/1.1 404 "), "{request}");
    }
    let mut measured = Vec::new();
    for _ in 0..ATTEMPTS {
        let medians = medians(&mut server, &requests);
        let longest = medians.iter().copied().fold(0.0, f64::max);
        let shortest = medians.iter().copied().fold(f64::MAX, f64::min);
        if longest < shortest * RATIO {
            return;
        }
        measured.push(medians);
    }
    panic!("another's, ended, unknown and malformed take different times: {measured:?}");
}
