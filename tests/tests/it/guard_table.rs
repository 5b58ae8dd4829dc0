//! The table of the guard, on the core's `Server`: by bytes on a connection, and by
//! `Server::exchange`.

use mcp_sse_core::{ConnId, Entropy, EntropyUnavailable, Event, Exchange, Peer, Server, Time};
use mcp_sse_tests::guard_table::{self, AppEvents, GuardRequest, GuardedServer, OWNER};

struct CountingEntropy(u64);

impl Entropy for CountingEntropy {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self.0 += 1;
        dest.fill(1);
        for (to, from) in dest.iter_mut().zip(self.0.to_le_bytes()) {
            *to = from;
        }
        Ok(())
    }
}

/// A core server without a driver.
struct CoreServer {
    server: Server,
    now: Time,
    /// Whether requests are sent by [`Server::exchange`] instead of bytes.
    exchanges: bool,
}

impl CoreServer {
    fn new(exchanges: bool) -> Self {
        let config = guard_table::config().build().expect("good");
        let server = Server::new(config, Box::new(CountingEntropy(0)), Time::ZERO);
        Self { server, now: Time::ZERO, exchanges }
    }

    fn send(&mut self, request: &GuardRequest) -> ConnId {
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

    fn output(&self, conn: ConnId) -> String {
        let bytes = self.server.transmit(conn).chunks().collect::<Vec<_>>().concat();
        String::from_utf8(bytes).expect("text")
    }
}

impl GuardedServer for CoreServer {
    fn open(&mut self) -> String {
        let fields = vec![("Host", "localhost"), ("Authorization", OWNER)];
        let conn =
            self.send(&GuardRequest { method: "GET", target: "/sse".into(), fields, body: "" });
        let output = self.output(conn);
        let (_, token) = output.split_once("session_id=").expect("an endpoint");
        token[..32].to_owned()
    }

    fn ask(&mut self, request: &GuardRequest) -> u16 {
        let conn = self.send(request);
        let status = match self.server.response(conn) {
            Some(head) => head.status(),
            None => self.output(conn)[9..12].parse().expect("a status"),
        };
        self.server.handle_disconnect(conn, self.now);
        status
    }

    fn app_events(&mut self, _: AppEvents) -> AppEvents {
        let mut app_events = AppEvents::default();
        while let Some(event) = self.server.poll_event() {
            app_events.sessions += usize::from(matches!(event, Event::Opened { .. }));
            app_events.messages += usize::from(matches!(event, Event::Message { .. }));
            assert!(!matches!(event, Event::Asked { .. } | Event::Foreign { .. }), "{event:?}");
        }
        while self.server.poll_wake().is_some() {}
        assert_eq!(self.server.sessions_open(), 1, "only the one that is posted to");
        app_events
    }
}

#[test]
fn guard_answers_connections_as_modelled() {
    guard_table::check(&mut CoreServer::new(false), 1);
}

#[test]
fn guard_answers_exchanges_as_modelled() {
    guard_table::check(&mut CoreServer::new(true), 1);
}
