//! What servers write, held against what was asked and what was sent.
//!
//! Knows: which answers each request may get. Does not know: how they come about.

use core::time::Duration;

use mcp_sse_core::SessionId;

use super::ask::{Ask, Wanted};
use super::link::LinkKey;
use super::reader::{Heard, field};
use super::world::World;

impl World {
    /// A connection's peer is brought `bytes`.
    pub fn hear(&mut self, key: LinkKey, bytes: &[u8]) {
        let mut heard = Vec::new();
        let Some(link) = self.links.get_mut(&key) else { return };
        if link.reader.is_between() {
            link.silence = self.now.saturating_since(link.last_written);
        }
        link.reader.feed(bytes, &mut heard);
        for (at, thing) in heard.into_iter().enumerate() {
            self.trace.say(format_args!("{}/{} hears {}", key.0, key.1, shown(&thing)));
            match thing {
                Heard::Response { status, head, body } => self.response(key, status, &head, &body),
                Heard::Continue => self.model.tour.count("continue"),
                Heard::StreamBegins { head } => self.stream_begins(key, &head),
                Heard::Event { name, data } => self.event(key, &name, &data),
                Heard::Heartbeat => self.heartbeat(key, at == 0),
                Heard::StreamEnds => {
                    let stream = self.model.streams.get_mut(&key).expect("a stream has begun");
                    stream.ended = true;
                    self.model.tour.count("streams ended");
                }
            }
        }
    }

    fn next_ask(&mut self, key: LinkKey, head: &str) -> Option<Ask> {
        let link = self.links.get_mut(&key)?;
        assert!(!link.closed_by_answer, "an answer behind the last one: {head}");
        link.closed_by_answer = field(head, "Connection") == Some("close");
        link.done |= link.closed_by_answer;
        link.answered += 1;
        link.last_answer = self.now;
        let ask = link.asks.pop_front();
        assert!(ask.is_some(), "an answer that nobody asked for: {head}");
        ask
    }

    fn stream_begins(&mut self, key: LinkKey, head: &str) {
        let Some(ask) = self.next_ask(key, head) else { return };
        assert_eq!(ask.wanted, Wanted::Stream, "a stream that nobody asked for");
        for (name, value) in
            [("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")]
        {
            assert_eq!(field(head, name), Some(value));
        }
        assert!(!ask.credentials.are_bad(), "a stream for whom nobody knows: {ask:?}");
        let stream = self.model.streams.entry(key).or_default();
        assert!(!stream.begun, "a second stream on one connection");
        stream.begun = true;
    }

    fn event(&mut self, key: LinkKey, name: &str, data: &str) {
        let endpoint = format!("/messages?session_id={}", self.setup.instance);
        self.model.received(key, name, data, &endpoint);
        let Some(link) = self.links.get_mut(&key) else { return };
        if link.token.is_none() {
            let token = self.model.streams.get(&key).and_then(|stream| stream.token.clone());
            link.token = token.map(|token| (link.written, token));
        }
    }

    fn heartbeat(&mut self, key: LinkKey, first: bool) {
        let stream = self.model.streams.get(&key);
        assert!(stream.is_some_and(|stream| stream.greeted), "8: a heartbeat before the endpoint");
        let interval = self.setup.configs[key.0].timeouts().heartbeat.expect("a heartbeat, off");
        let Some(link) = self.links.get(&key) else { return };
        let silence = if first { link.silence } else { Duration::ZERO };
        assert!(silence >= interval, "a heartbeat after {silence:?} of silence");
        self.shards[key.0].beats += 1;
    }

    fn response(&mut self, key: LinkKey, status: u16, head: &str, body: &str) {
        let Some(ask) = self.next_ask(key, head) else { return };
        self.model.tour.count(&format!("status {status}"));
        if status == 503 || status == 429 {
            assert!(field(head, "Retry-After").is_some(), "{head}");
        }
        let well = matches!(status, 200 | 202 | 404) && ask.wanted != Wanted::Health;
        assert!(!well || !ask.credentials.are_bad(), "{status} to whom nobody knows: {ask:?}");
        match ask.wanted {
            Wanted::Stream => {
                // What was refused has made nothing.
                let made = self.model.streams.get(&key).is_some_and(|it| it.session.is_some());
                assert!(!made, "15: {status} to a request for which a session was made");
                if let Some(link) = self.links.get_mut(&key) {
                    link.stream_refused = true;
                }
                let caused = self.has_cause(key, &ask, status, body);
                assert!(caused, "{status} to {ask:?}: {body}");
            }
            Wanted::Health | Wanted::Probe => {
                let caused = status == 200 || self.has_cause(key, &ask, status, body);
                assert!(caused, "{status} to {ask:?}: {body}");
            }
            Wanted::Refusal { statuses, last } => {
                // A token may seem to be another shard's, which then does not answer.
                let fine = statuses.contains(&status) || self.has_cause(key, &ask, status, body);
                assert!(fine, "{status} is not of {statuses:?}: {ask:?}: {body}");
                if last && statuses.contains(&status) {
                    assert_eq!(field(head, "Connection"), Some("close"), "{status}");
                }
                if status == 404 && statuses == [404] {
                    self.model.missed(head, body);
                }
            }
            Wanted::Post(number) => {
                let fine = matches!(status, 202 | 404) || self.has_cause(key, &ask, status, body);
                assert!(fine, "{status} to {ask:?}: {body}");
                let within = status != 202 || self.is_within_limits(key, &ask);
                assert!(within, "202 to more than there may be: {ask:?}");
                let alive = self.lives(number);
                self.model.answered(number, status, alive);
                if status == 404 {
                    self.model.missed(head, body);
                }
            }
        }
    }

    /// Whether a post's session lives, and nothing keeps the post from it.
    fn lives(&self, number: u64) -> bool {
        let Some(post) = self.model.posts.get(&number) else { return false };
        let Some(key) = post.session.filter(|_| !post.foreign || self.setup.forwarding) else {
            return false;
        };
        let session = self.model.streams.get(&key).and_then(|stream| stream.session);
        session.is_some_and(|session| self.is_alive(key.0, session))
    }

    /// Whether a session takes frames and posts.
    pub fn is_alive(&self, shard: usize, session: SessionId) -> bool {
        let view = self.shards[shard].server.session(session);
        view.is_some_and(|view| !view.is_ending())
    }
}

fn shown(heard: &Heard) -> String {
    match heard {
        Heard::Response { status, body, .. } => format!("{status} {}", cut(body)),
        Heard::Continue => "100".into(),
        Heard::StreamBegins { .. } => "a stream begin".into(),
        Heard::Event { name, data } => format!("{name} {}", cut(data)),
        Heard::Heartbeat => "a heartbeat".into(),
        Heard::StreamEnds => "the stream end".into(),
    }
}

fn cut(text: &str) -> &str {
    text.get(..100).unwrap_or(text)
}
