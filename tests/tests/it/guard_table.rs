//! The table of the guard, on the bare server: by bytes on a connection, and by the exchange entry.

use mcp_sse_core::{ConnId, Entropy, EntropyUnavailable, Event, Exchange, Peer, Server, Time};
use mcp_sse_tests::guard_table::{self, Door, OWNER, Request, Told};

struct Counter(u64);

impl Entropy for Counter {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self.0 += 1;
        dest.fill(1);
        for (to, from) in dest.iter_mut().zip(self.0.to_le_bytes()) {
            *to = from;
        }
        Ok(())
    }
}

/// A server without a driver.
struct Bare {
    server: Server,
    now: Time,
    /// By [`Server::exchange`] instead of bytes.
    exchanges: bool,
}

impl Bare {
    fn new(exchanges: bool) -> Self {
        let config = guard_table::config().build().expect("good");
        let server = Server::new(config, Box::new(Counter(0)), Time::ZERO);
        Self { server, now: Time::ZERO, exchanges }
    }

    fn send(&mut self, request: &Request) -> ConnId {
        self.now = Time::from_micros(self.now.as_micros() + 1);
        let peer = Peer::tcp(([127, 0, 0, 1], 5).into(), ([127, 0, 0, 1], 80).into());
        if !self.exchanges {
            let conn = self.server.accept(peer, self.now).expect("a place");
            self.server.handle_input(conn, &request.bytes(), self.now);
            return conn;
        }
        let fields: Vec<(&str, &[u8])> =
            request.fields.iter().map(|&(name, value)| (name, value.as_bytes())).collect();
        let exchange = Exchange {
            method: request.method,
            target: &request.target,
            fields: &fields,
            mount: "",
        };
        let conn = self.server.exchange(exchange, peer, self.now).expect("a place");
        self.server.handle_input(conn, request.body.as_bytes(), self.now);
        self.server.handle_eof(conn, self.now);
        conn
    }

    fn heard(&self, conn: ConnId) -> String {
        let bytes = self.server.transmit(conn).chunks().collect::<Vec<_>>().concat();
        String::from_utf8(bytes).expect("text")
    }
}

impl Door for Bare {
    fn open(&mut self) -> String {
        let fields = vec![("Host", "localhost"), ("Authorization", OWNER)];
        let conn = self.send(&Request { method: "GET", target: "/sse".into(), fields, body: "" });
        let heard = self.heard(conn);
        let (_, token) = heard.split_once("session_id=").expect("an endpoint");
        token[..32].to_owned()
    }

    fn ask(&mut self, request: &Request) -> u16 {
        let conn = self.send(request);
        let status = match self.server.response(conn) {
            Some(head) => head.status(),
            None => self.heard(conn)[9..12].parse().expect("a status"),
        };
        self.server.handle_disconnect(conn, self.now);
        status
    }

    fn told(&mut self, _: Told) -> Told {
        let mut told = Told::default();
        while let Some(event) = self.server.poll_event() {
            told.sessions += usize::from(matches!(event, Event::Opened { .. }));
            told.messages += usize::from(matches!(event, Event::Message { .. }));
            assert!(!matches!(event, Event::Asked { .. } | Event::Foreign { .. }), "{event:?}");
        }
        while self.server.poll_wake().is_some() {}
        assert_eq!(self.server.sessions_open(), 1, "only the one that is posted to");
        told
    }
}

#[test]
fn by_bytes() {
    guard_table::check(&mut Bare::new(false), 1);
}

#[test]
fn by_exchange() {
    guard_table::check(&mut Bare::new(true), 1);
}
