//! Posts: whom they are for, what they carry, and how they are put.
//!
//! Knows: tokens, good ones and others; messages; framings.
//! Does not know: who posts when ([`super::peer`]).

use mcp_sse_core::Exchange;

use super::ask::{Credentials, Size, Wanted};
use super::link::{Fin, LinkKey};
use super::model::{Carries, Post};
use super::peer::Manner;
use super::world::World;

/// A message.
#[derive(Clone, Debug)]
pub struct Words {
    pub text: String,
    pub carries: Carries,
    /// A request's id.
    pub id: Option<String>,
    /// The id of the request that it takes back.
    pub cancels: Option<String>,
}

impl Words {
    /// One that wants no answer.
    #[must_use]
    pub const fn other(text: String) -> Self {
        Self { text, carries: Carries::Other, id: None, cancels: None }
    }

    /// One that takes the request with this id back.
    fn cancelling(number: u64, id: &str) -> Self {
        let params = format!(r#"{{"post":{number},"requestId":{id}}}"#);
        let method = "notifications/cancelled";
        let text = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        Self { cancels: Some(id.into()), ..Self::other(text) }
    }
}

impl World {
    /// A token to post to, and the session that it names, unless it names none.
    fn some_token(&mut self, at: usize) -> Option<(Option<LinkKey>, String)> {
        match self.chance.below(24) {
            21 => {
                // A neighbour's: on whose behalf somebody posts is for the application to say.
                let other = self.chance.below(self.parties.len());
                self.own_token(other).map(|(key, token)| (Some(key), token))
            }
            22 => self.old_tokens.back().map(|token| (None, token.clone())),
            23 => {
                let (_, token) = self.own_token(at)?;
                let at = self.chance.below(token.len());
                let mut octets = token.into_bytes();
                octets[at] = if octets[at] == b'A' { b'B' } else { b'A' };
                String::from_utf8(octets).ok().map(|token| (None, token))
            }
            _ => self.own_token(at).map(|(key, token)| (Some(key), token)),
        }
    }

    fn words(&mut self, number: u64) -> Words {
        let len = match self.chance.below(16) {
            14 => self.chance.below(300),
            15 => self.chance.below(4_000),
            _ => self.chance.below(16),
        };
        let fill = ".".repeat(len);
        let params = format!(r#"{{"post":{number},"fill":"{fill}"}}"#);
        match self.chance.below(12) {
            kind @ 0..=5 => {
                let id = if kind == 5 { format!("\"{number}\"") } else { number.to_string() };
                let text =
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"do","params":{params}}}"#);
                Words { text, carries: Carries::Request, id: Some(id), cancels: None }
            }
            6 => {
                let of = number.saturating_sub(1 + self.chance.below(4) as u64);
                Words::cancelling(number, &of.to_string())
            }
            7 => Words::other(format!(r#"{{"jsonrpc":"2.0","id":"s","result":{params}}}"#)),
            _ => Words::other(format!(r#"{{"jsonrpc":"2.0","method":"say","params":{params}}}"#)),
        }
    }

    /// The id of a request that a party has put, and that has no answer.
    fn waits_for(&self, at: usize) -> Option<String> {
        let ask = self.links.get(&self.parties[at].poster?)?.asks.front()?;
        ask.whole?;
        self.model.posts.get(&ask.post()?)?.id.clone()
    }

    /// What a party's next request says of who asks, and the fields that say it.
    pub fn credentials(&mut self, at: usize) -> (Credentials, &'static str) {
        const OF: [&str; 3] = [
            "Authorization: Bearer secret0\r\n",
            "Authorization: bearer secret1\r\n",
            "Authorization: BEARER secret2\r\n",
        ];
        if !self.setup.tokens {
            return (Credentials::Needless, "");
        }
        match self.chance.below(24) {
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

    /// The request that was sent last has these.
    pub fn vouch(&mut self, key: LinkKey, credentials: Credentials) {
        let Some(ask) = self.links.get_mut(&key).and_then(|link| link.asks.back_mut()) else {
            return;
        };
        ask.credentials = credentials;
        let principal = credentials.principal();
        if let Some(post) = ask.post().and_then(|number| self.model.posts.get_mut(&number)) {
            post.principal = principal;
        }
        if ask.wanted == Wanted::Stream && principal.is_some() {
            self.model.streams.entry(key).or_default().principal = principal;
        }
    }

    /// Posts something.
    pub fn posts(&mut self, at: usize) {
        let Some((session, token)) = self.some_token(at) else { return };
        self.asks += 1;
        let number = self.asks;
        let mut words = self.words(number);
        if self.parties[at].manner == Manner::Elsewhere && self.chance.one_in(2) {
            return self.posts_elsewhere(at, number, session, &token, words);
        }
        let mut key = None;
        // Who waits for something may take it back, by another way than that on which it waits.
        if let Some(id) = self.waits_for(at).filter(|_| self.chance.one_in(2)) {
            words = Words::cancelling(number, &id);
            key = self.connect(at, None);
        }
        let Some(key) = key.or_else(|| self.poster(at)) else { return };
        let (credentials, fields) = self.credentials(at);
        let (bytes, last, direct) = self.request(number, &token, fields, &words.text);
        self.record(key, number, session, words, direct);
        self.ask(key, number, &bytes, Wanted::Post(number), false);
        self.vouch(key, credentials);
        if let Some(link) = self.links.get_mut(&key) {
            link.done |= last;
        }
        self.model.tour.count("posts");
    }

    /// Sends the beginning of a post, and no more; nothing of it is to be executed.
    pub fn says_half(&mut self, at: usize) {
        let Some((session, token)) = self.some_token(at) else { return };
        let Some(key) = self.poster(at) else { return };
        self.asks += 1;
        let number = self.asks;
        let words = self.words(number);
        let (bytes, _, _) = self.request(number, &token, "", &words.text);
        self.record_hidden(key, number, session, words);
        let most = 1 + self.chance.below(bytes.len() - 1);
        self.send(key, &bytes[..most]);
        if let Some(link) = self.links.get_mut(&key) {
            // It may be told that it took too long, if nobody looks for its end before.
            link.reader.expect_anything();
            (link.fin, link.done) = (Fin::Sent, true);
        }
        self.model.tour.count("half requests");
    }

    /// What the model has to know of a post.
    pub fn record(
        &mut self,
        key: LinkKey,
        number: u64,
        session: Option<LinkKey>,
        words: Words,
        direct: bool,
    ) {
        let Words { text, carries, id, cancels } = words;
        let foreign = session.is_some_and(|session| session.0 != key.0);
        let place = self.links.get(&key).map_or(0, |link| link.asked);
        let post = Post {
            text,
            carries,
            id,
            cancels,
            cancelled: false,
            link: key,
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

    /// So, but nothing of it may be executed.
    pub fn record_hidden(
        &mut self,
        key: LinkKey,
        number: u64,
        session: Option<LinkKey>,
        words: Words,
    ) {
        self.record(key, number, session, words, false);
        if let Some(post) = self.model.posts.get_mut(&number) {
            post.forbidden = true;
        }
        if let Some(link) = self.links.get_mut(&key) {
            link.hidden.push(number);
        }
    }

    /// A post's bytes; whether it is the last on its connection; whether nothing holds it up.
    pub fn request(
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
        match self.chance.below(12) {
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
                    let (chunk, tail) = rest.split_at(1 + self.chance.below(rest.len()));
                    let extension = if self.chance.one_in(2) { ";a=b" } else { "" };
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

    /// Posts where HTTP is spoken elsewhere.
    fn posts_elsewhere(
        &mut self,
        at: usize,
        number: u64,
        session: Option<LinkKey>,
        token: &str,
        words: Words,
    ) {
        let text = words.text.clone();
        let target = format!("/messages?session_id={}{token}", self.setup.instance);
        let (ask, len) = (number.to_string(), text.len().to_string());
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("Host", b"localhost"),
            ("Content-Type", b"application/json"),
            ("X-Ask", ask.as_bytes()),
        ];
        let (credentials, authorization) = self.credentials(at);
        for line in authorization.lines() {
            fields.extend(line.split_once(": ").map(|(name, value)| (name, value.as_bytes())));
        }
        let known = self.chance.one_in(2);
        if known {
            fields.push(("Content-Length", len.as_bytes()));
        }
        let exchange = Exchange { method: "POST", target: &target, fields: &fields, mount: "" };
        let Some(key) = self.connect(at, Some(exchange)) else { return };
        self.record(key, number, session, words, known);
        self.ask(key, number, text.as_bytes(), Wanted::Post(number), false);
        let now = self.now;
        let mut head = format!("POST {target} HTTP/1.1\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value)));
        }
        let size = Size::of((head + "\r\n" + &text).as_bytes());
        if let Some(link) = self.links.get_mut(&key) {
            (link.fin, link.done) = (Fin::Sent, true);
            if let Some(ask) = link.asks.back_mut() {
                (ask.size, ask.begun) = (size, Some(now));
            }
        }
        self.vouch(key, credentials);
        self.model.tour.count("posts elsewhere");
    }
}
