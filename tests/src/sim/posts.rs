//! Posts: their session, their message, and their encoding.
//!
//! Knows: valid and invalid tokens, messages, and framings. Does not know: who posts when
//! ([`super::client`]).

use mcp_sse_core::Exchange;

use super::client::Behaviour;
use super::connection::{ConnectionKey, Fin};
use super::model::{BodyKind, ModelPost};
use super::request::{Credentials, Expected, RequestSize};
use super::world::World;

/// A message.
#[derive(Clone, Debug)]
pub struct PostBody {
    pub text: String,
    pub kind: BodyKind,
    /// A request's id.
    pub id: Option<String>,
    /// The id of the request that it cancels.
    pub cancels: Option<String>,
}

impl PostBody {
    /// Makes a message that gets no response.
    #[must_use]
    pub const fn other(text: String) -> Self {
        Self { text, kind: BodyKind::Other, id: None, cancels: None }
    }

    /// Makes the cancellation of the request with this id.
    fn cancelling(number: u64, id: &str) -> Self {
        let params = format!(r#"{{"post":{number},"requestId":{id}}}"#);
        let method = "notifications/cancelled";
        let text = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        Self { cancels: Some(id.into()), ..Self::other(text) }
    }
}

impl World {
    /// Draws a token to post to, and its session if it names one.
    fn draw_token(&mut self, at: usize) -> Option<(Option<ConnectionKey>, String)> {
        match self.random.below(24) {
            21 => {
                // Another client's: whose posts a session accepts is the application's decision.
                let other = self.random.below(self.clients.len());
                self.own_token(other).map(|(key, token)| (Some(key), token))
            }
            22 => self.old_tokens.back().map(|token| (None, token.clone())),
            23 => {
                let (_, token) = self.own_token(at)?;
                let at = self.random.below(token.len());
                let mut octets = token.into_bytes();
                octets[at] = if octets[at] == b'A' { b'B' } else { b'A' };
                String::from_utf8(octets).ok().map(|token| (None, token))
            }
            _ => self.own_token(at).map(|(key, token)| (Some(key), token)),
        }
    }

    fn draw_body(&mut self, number: u64) -> PostBody {
        let len = match self.random.below(16) {
            14 => self.random.below(300),
            15 => self.random.below(4_000),
            _ => self.random.below(16),
        };
        let padding = ".".repeat(len);
        let params = format!(r#"{{"post":{number},"fill":"{padding}"}}"#);
        match self.random.below(12) {
            kind @ 0..=5 => {
                let id = if kind == 5 { format!("\"{number}\"") } else { number.to_string() };
                let text =
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"do","params":{params}}}"#);
                PostBody { text, kind: BodyKind::Request, id: Some(id), cancels: None }
            }
            6 => {
                let of = number.saturating_sub(1 + self.random.below(4) as u64);
                PostBody::cancelling(number, &of.to_string())
            }
            7 => PostBody::other(format!(r#"{{"jsonrpc":"2.0","id":"s","result":{params}}}"#)),
            _ => {
                PostBody::other(format!(r#"{{"jsonrpc":"2.0","method":"say","params":{params}}}"#))
            }
        }
    }

    /// The id of a request of a client that is complete and has no response.
    fn pending_request_id(&self, at: usize) -> Option<String> {
        let request = self.connections.get(&self.clients[at].poster?)?.requests.front()?;
        request.whole?;
        self.model.posts.get(&request.post()?)?.id.clone()
    }

    /// Draws the credentials of a client's next request, and their fields.
    pub fn credentials(&mut self, at: usize) -> (Credentials, &'static str) {
        const OF: [&str; 3] = [
            "Authorization: Bearer secret0\r\n",
            "Authorization: bearer secret1\r\n",
            "Authorization: BEARER secret2\r\n",
        ];
        if !self.setup.tokens {
            return (Credentials::NotNeeded, "");
        }
        match self.random.below(24) {
            20 => (Credentials::Wrong, ""),
            21 => (Credentials::Wrong, "Authorization: Bearer secret\r\n"),
            22 => (Credentials::Wrong, "Authorization: Basic secret0\r\n"),
            23 => (
                Credentials::Twice,
                "Authorization: Bearer secret0\r\nAuthorization: Bearer secret0\r\n",
            ),
            _ => (Credentials::Of(at % OF.len()), OF[at % OF.len()]),
        }
    }

    /// Records the credentials of the request that was sent last.
    pub fn set_credentials(&mut self, key: ConnectionKey, credentials: Credentials) {
        let Some(request) =
            self.connections.get_mut(&key).and_then(|connection| connection.requests.back_mut())
        else {
            return;
        };
        request.credentials = credentials;
        let principal = credentials.principal();
        if let Some(post) = request.post().and_then(|number| self.model.posts.get_mut(&number)) {
            post.principal = principal;
        }
        if request.expected == Expected::Stream && principal.is_some() {
            self.model.streams.entry(key).or_default().principal = principal;
        }
    }

    /// Sends a post.
    pub fn send_post(&mut self, at: usize) {
        let Some((session, token)) = self.draw_token(at) else { return };
        self.requests_sent += 1;
        let number = self.requests_sent;
        let mut body = self.draw_body(number);
        if self.clients[at].behaviour == Behaviour::Exchanging && self.random.one_in(2) {
            return self.post_by_exchange(at, number, session, &token, body);
        }
        let mut key = None;
        // A client may cancel a waiting request, on another connection.
        if let Some(id) = self.pending_request_id(at).filter(|_| self.random.one_in(2)) {
            body = PostBody::cancelling(number, &id);
            key = self.connect(at, None);
        }
        let Some(key) = key.or_else(|| self.poster(at)) else { return };
        let (credentials, fields) = self.credentials(at);
        let (bytes, last, direct) = self.encode_post(number, &token, fields, &body.text);
        self.record(key, number, session, body, direct);
        self.send_request(key, number, &bytes, Expected::Post(number), false);
        self.set_credentials(key, credentials);
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.done |= last;
        }
        self.model.coverage.count("posts");
    }

    /// Sends the beginning of a post and no more. It must not be executed.
    pub fn send_half_post(&mut self, at: usize) {
        let Some((session, token)) = self.draw_token(at) else { return };
        let Some(key) = self.poster(at) else { return };
        self.requests_sent += 1;
        let number = self.requests_sent;
        let body = self.draw_body(number);
        let (bytes, _, _) = self.encode_post(number, &token, "", &body.text);
        self.record_hidden(key, number, session, body);
        let most = 1 + self.random.below(bytes.len() - 1);
        self.send(key, &bytes[..most]);
        if let Some(connection) = self.connections.get_mut(&key) {
            // The response may be a 408, if the server does not read the end of the input before.
            connection.reader.expect_anything();
            (connection.fin, connection.done) = (Fin::Sent, true);
        }
        self.model.coverage.count("half requests");
    }

    /// Records a post in the model.
    pub fn record(
        &mut self,
        key: ConnectionKey,
        number: u64,
        session: Option<ConnectionKey>,
        body: PostBody,
        direct: bool,
    ) {
        let PostBody { text, kind, id, cancels } = body;
        let foreign = session.is_some_and(|session| session.0 != key.0);
        let place = self.connections.get(&key).map_or(0, |connection| connection.asked);
        let post = ModelPost {
            text,
            kind,
            id,
            cancels,
            cancelled: false,
            connection: key,
            place,
            session,
            forbidden: session.is_none(),
            foreign,
            principal: None,
            status: None,
            delivered: false,
            busy: false,
            direct: direct && !foreign,
            completed: None,
            abandoned: false,
        };
        self.model.posted(number, post);
    }

    /// Records a post that must not be executed.
    pub fn record_hidden(
        &mut self,
        key: ConnectionKey,
        number: u64,
        session: Option<ConnectionKey>,
        body: PostBody,
    ) {
        self.record(key, number, session, body, false);
        if let Some(post) = self.model.posts.get_mut(&number) {
            post.forbidden = true;
        }
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.hidden.push(number);
        }
    }

    /// Encodes a post. Returns its bytes, whether it is the last on its connection, and whether
    /// only a full session can delay it.
    pub fn encode_post(
        &mut self,
        number: u64,
        token: &str,
        credentials: &str,
        text: &str,
    ) -> (Vec<u8>, bool, bool) {
        let instance = self.setup.instance;
        let head = |version: &str, fields: &str| {
            format!(
                "POST /messages?session_id={instance}{token} HTTP/{version}\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nX-Ask: {number}\r\n\
                 {credentials}{fields}\r\n"
            )
        };
        let length = format!("Content-Length: {}\r\n", text.len());
        match self.random.below(12) {
            7 => {
                ((head("1.1", &(length + "Connection: close\r\n")) + text).into_bytes(), true, true)
            }
            8 => ((head("1.0", &length) + text).into_bytes(), true, true),
            9 => {
                let keep = length + "Connection: keep-alive\r\n";
                ((head("1.0", &keep) + text).into_bytes(), false, true)
            }
            10 => {
                let expect = length + "Expect: 100-continue\r\n";
                ((head("1.1", &expect) + text).into_bytes(), false, false)
            }
            11 => {
                let mut bytes = head("1.1", "Transfer-Encoding: chunked\r\n").into_bytes();
                let mut rest = text;
                while !rest.is_empty() {
                    let (chunk, tail) = rest.split_at(1 + self.random.below(rest.len()));
                    let extension = if self.random.one_in(2) { ";a=b" } else { "" };
                    let chunk = format!("{:x}{extension}\r\n{chunk}\r\n", chunk.len());
                    bytes.extend_from_slice(chunk.as_bytes());
                    rest = tail;
                }
                bytes.extend_from_slice(b"0\r\nX-Trailer: t\r\n\r\n");
                (bytes, false, true)
            }
            _ => ((head("1.1", &length) + text).into_bytes(), false, true),
        }
    }

    /// Sends a post as an exchange.
    fn post_by_exchange(
        &mut self,
        at: usize,
        number: u64,
        session: Option<ConnectionKey>,
        token: &str,
        body: PostBody,
    ) {
        let text = body.text.clone();
        let target = format!("/messages?session_id={}{token}", self.setup.instance);
        let (request, len) = (number.to_string(), text.len().to_string());
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("Host", b"localhost"),
            ("Content-Type", b"application/json"),
            ("X-Ask", request.as_bytes()),
        ];
        let (credentials, authorization) = self.credentials(at);
        for line in authorization.lines() {
            fields.extend(line.split_once(": ").map(|(name, value)| (name, value.as_bytes())));
        }
        let known = self.random.one_in(2);
        if known {
            fields.push(("Content-Length", len.as_bytes()));
        }
        let exchange = Exchange { method: "POST", target: &target, fields: &fields, mount: "" };
        let Some(key) = self.connect(at, Some(exchange)) else { return };
        self.record(key, number, session, body, known);
        self.send_request(key, number, text.as_bytes(), Expected::Post(number), false);
        let now = self.now;
        let mut head = format!("POST {target} HTTP/1.1\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value)));
        }
        let size = RequestSize::of((head + "\r\n" + &text).as_bytes());
        if let Some(connection) = self.connections.get_mut(&key) {
            (connection.fin, connection.done) = (Fin::Sent, true);
            if let Some(request) = connection.requests.back_mut() {
                (request.size, request.begun) = (size, Some(now));
            }
        }
        self.set_credentials(key, credentials);
        self.model.coverage.count("posts elsewhere");
    }
}
