//! Checks what servers write against the requests and the frames that were sent.
//!
//! Knows: which responses each request may get. Does not know: how the core decides.

use core::time::Duration;

use mcp_sse_core::SessionId;

use super::connection::ConnectionKey;
use super::reader::{Received, field};
use super::request::{Expected, SimRequest};
use super::world::World;

impl World {
    /// Delivers `bytes` to the client of a connection.
    pub fn receive(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let mut received = Vec::new();
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.reader.is_idle() {
            connection.silence = self.now.saturating_since(connection.last_written);
        }
        connection.reader.feed(bytes, &mut received);
        for (at, thing) in received.into_iter().enumerate() {
            self.trace.log(format_args!("{}/{} hears {}", key.0, key.1, shown(&thing)));
            match thing {
                Received::Response { status, head, body } => {
                    self.response(key, status, &head, &body)
                }
                Received::Continue => self.model.coverage.count("continue"),
                Received::StreamBegins { head } => self.stream_begins(key, &head),
                Received::Event { name, data } => self.event(key, &name, &data),
                Received::Heartbeat => self.heartbeat(key, at == 0),
                Received::StreamEnds => {
                    let stream = self.model.streams.get_mut(&key).expect("a stream has begun");
                    stream.ended = true;
                    self.model.coverage.count("streams ended");
                }
            }
        }
    }

    fn next_request(&mut self, key: ConnectionKey, head: &str) -> Option<SimRequest> {
        let connection = self.connections.get_mut(&key)?;
        assert!(!connection.closed_by_answer, "an answer behind the last one: {head}");
        connection.closed_by_answer = field(head, "Connection") == Some("close");
        connection.done |= connection.closed_by_answer;
        connection.answered += 1;
        connection.last_answer = self.now;
        let request = connection.requests.pop_front();
        assert!(request.is_some(), "an answer that nobody asked for: {head}");
        request
    }

    fn stream_begins(&mut self, key: ConnectionKey, head: &str) {
        let Some(request) = self.next_request(key, head) else { return };
        assert_eq!(request.expected, Expected::Stream, "a stream that nobody asked for");
        for (name, value) in
            [("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")]
        {
            assert_eq!(field(head, name), Some(value));
        }
        assert!(!request.credentials.are_invalid(), "a stream for whom nobody knows: {request:?}");
        let stream = self.model.streams.entry(key).or_default();
        assert!(!stream.begun, "a second stream on one connection");
        stream.begun = true;
    }

    fn event(&mut self, key: ConnectionKey, name: &str, data: &str) {
        let endpoint = format!("/messages?session_id={}", self.setup.instance);
        self.model.received(key, name, data, &endpoint);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.token.is_none() {
            let token = self.model.streams.get(&key).and_then(|stream| stream.token.clone());
            connection.token = token.map(|token| (connection.written, token));
        }
    }

    fn heartbeat(&mut self, key: ConnectionKey, first: bool) {
        let stream = self.model.streams.get(&key);
        assert!(stream.is_some_and(|stream| stream.greeted), "8: a heartbeat before the endpoint");
        let interval = self.setup.configs[key.0].timeouts().heartbeat.expect("a heartbeat, off");
        let Some(connection) = self.connections.get(&key) else { return };
        let silence = if first { connection.silence } else { Duration::ZERO };
        assert!(silence >= interval, "a heartbeat after {silence:?} of silence");
        self.shards[key.0].heartbeats += 1;
    }

    fn response(&mut self, key: ConnectionKey, status: u16, head: &str, body: &str) {
        let Some(request) = self.next_request(key, head) else { return };
        self.model.coverage.count(&format!("status {status}"));
        if status == 503 || status == 429 {
            assert!(field(head, "Retry-After").is_some(), "{head}");
        }
        let well = matches!(status, 200 | 202 | 404) && request.expected != Expected::Health;
        assert!(
            !well || !request.credentials.are_invalid(),
            "{status} to whom nobody knows: {request:?}"
        );
        match request.expected {
            Expected::Stream => {
                // A refused request has not opened a session.
                let made = self.model.streams.get(&key).is_some_and(|it| it.session.is_some());
                assert!(!made, "15: {status} to a request for which a session was made");
                if let Some(connection) = self.connections.get_mut(&key) {
                    connection.stream_refused = true;
                }
                let caused = self.has_cause(key, &request, status, body);
                assert!(caused, "{status} to {request:?}: {body}");
            }
            Expected::Health | Expected::Probe => {
                let caused = status == 200 || self.has_cause(key, &request, status, body);
                assert!(caused, "{status} to {request:?}: {body}");
            }
            Expected::Refusal { statuses, last } => {
                // A malformed token may name another shard, which then does not answer.
                let fine =
                    statuses.contains(&status) || self.has_cause(key, &request, status, body);
                assert!(fine, "{status} is not of {statuses:?}: {request:?}: {body}");
                if last && statuses.contains(&status) {
                    assert_eq!(field(head, "Connection"), Some("close"), "{status}");
                }
                if status == 404 && statuses == [404] {
                    self.model.check_unknown_session(head, body);
                }
            }
            Expected::Post(number) => {
                let fine =
                    matches!(status, 202 | 404) || self.has_cause(key, &request, status, body);
                assert!(fine, "{status} to {request:?}: {body}");
                let within = status != 202 || self.is_within_limits(key, &request);
                assert!(within, "202 to more than there may be: {request:?}");
                let alive = self.lives(number);
                self.model.answered(number, status, alive);
                if status == 404 {
                    self.model.check_unknown_session(head, body);
                }
            }
        }
    }

    /// Whether a post's session is open and the post can reach it.
    fn lives(&self, number: u64) -> bool {
        let Some(post) = self.model.posts.get(&number) else { return false };
        let Some(key) = post.session.filter(|_| !post.foreign || self.setup.forwarding) else {
            return false;
        };
        let session = self.model.streams.get(&key).and_then(|stream| stream.session);
        session.is_some_and(|session| self.is_alive(key.0, session))
    }

    /// Whether a session accepts frames and posts.
    pub fn is_alive(&self, shard: usize, session: SessionId) -> bool {
        let view = self.shards[shard].server.session(session);
        view.is_some_and(|view| !view.is_ending())
    }
}

fn shown(received: &Received) -> String {
    match received {
        Received::Response { status, body, .. } => format!("{status} {}", cut(body)),
        Received::Continue => "100".into(),
        Received::StreamBegins { .. } => "a stream begin".into(),
        Received::Event { name, data } => format!("{name} {}", cut(data)),
        Received::Heartbeat => "a heartbeat".into(),
        Received::StreamEnds => "the stream end".into(),
    }
}

fn cut(text: &str) -> &str {
    text.get(..100).unwrap_or(text)
}
