//! One connection that says anything, cut anywhere, beside a session whose name it may know.

use core::fmt;

use mcp_sse_core::http1::{BodyDecoder, BodyLimits, Framing};
use mcp_sse_core::jsonrpc::Kind;
use mcp_sse_core::{
    Config, ConnId, EntropyUnavailable, Event, Frame, Interest, Limits, Peer, Server, Time, sse,
};

use super::cut;

/// The first byte says how the rest is cut. Nothing panics, the books balance, what is said is HTTP
/// and events, and the cuts change nothing.
pub fn bytes(input: &[u8]) {
    let Some((&how, said)) = input.split_first() else { return };
    let whole = Told::by(cut(0, said));
    whole.check();
    let pieces = Told::by(cut(how.max(1), said));
    assert_eq!(whole, pieces, "the cuts changed something");
}

/// Limits that a few hundred bytes can reach.
fn config() -> Config {
    let limits = Limits {
        sessions_max: Some(3),
        head_bytes_max: Some(512),
        fields_max: 8,
        target_bytes_max: Some(128),
        body_bytes_max: Some(192),
        extension_bytes_max: Some(24),
        trailer_bytes_max: Some(48),
        nesting_max: Some(6),
        inbound_messages_max: Some(3),
        in_flight_max: Some(2),
        answers_bytes_max: Some(600),
        discard_bytes_max: 128,
        ..Limits::default()
    };
    Config::builder().limits(limits).build().expect("limits that make sense")
}

/// What everybody was told, and what the application was.
#[derive(Default, PartialEq, Eq)]
struct Told {
    connection: Vec<u8>,
    stream: Vec<u8>,
    events: Vec<String>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connection, stream) = (self.connection.escape_ascii(), self.stream.escape_ascii());
        write!(f, "\n{connection}\n{stream}\n{:#?}", self.events)
    }
}

impl Told {
    fn by<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut draws = 6;
        let entropy = move |dest: &mut [u8]| -> Result<(), EntropyUnavailable> {
            draws += 1;
            dest.fill(draws);
            Ok(())
        };
        let mut now = Time::ZERO;
        let mut told = Self::default();
        let mut server = Server::new(config(), Box::new(entropy), now);
        let stream = server.accept(Peer::local(), now).expect("room");
        server.handle_input(stream, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", now);
        let conn = server.accept(Peer::local(), now).expect("room");
        let mut ended = false;
        loop {
            told.listen(&mut server, stream, conn, now);
            match server.interest(conn) {
                Interest::Close => break,
                Interest::Io { read: true, .. } | Interest::Linger => match pieces.next() {
                    Some(piece) => server.handle_input(conn, piece, now),
                    None if ended => break,
                    None => {
                        ended = true;
                        server.handle_eof(conn, now);
                    }
                },
                Interest::Io { read: false, .. } => match server.poll_timeout() {
                    // The other stream's heartbeats go on for ever, a post is not held that long.
                    Some(deadline) if deadline.at < Time::from_micros(60_000_000) => {
                        now = deadline.at;
                        server.handle_timeout(now);
                    }
                    Some(_) | None => break,
                },
            }
        }
        for gone in [conn, stream] {
            server.handle_disconnect(gone, now);
            server.check();
        }
        assert_eq!((server.connections_open(), server.sessions_open()), (0, 0));
        told
    }

    /// Takes what there is to take, and answers what there is to answer, until nothing follows.
    fn listen(&mut self, server: &mut Server, stream: ConnId, conn: ConnId, now: Time) {
        loop {
            for (who, heard) in [(stream, &mut self.stream), (conn, &mut self.connection)] {
                let before = heard.len();
                server.transmit(who).chunks().for_each(|chunk| heard.extend_from_slice(chunk));
                if heard.len() > before {
                    server.handle_written(who, heard.len() - before, now);
                }
            }
            while server.poll_wake().is_some() {}
            let Some(event) = server.poll_event() else {
                if server.transmit(stream).is_empty() && server.transmit(conn).is_empty() {
                    return server.check();
                }
                continue;
            };
            let Event::Message { session, message, .. } = event else { continue };
            self.events.push(format!("{session} {}", message.text()));
            if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
                let json = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":[{id}]}}"#);
                let frame = Frame::message(json.as_bytes()).expect("an id is JSON");
                // A session that is ending takes none.
                let _ = server.send(session, &frame, now);
            }
        }
    }

    /// What was said is answers, each as long as it says, and what follows the head of a stream is
    /// chunks of events, of which the first names where to post.
    fn check(&self) {
        check_events(answers(&self.stream).expect("the stream's head"));
        if let Some(rest) = answers(&self.connection) {
            check_events(rest);
        }
    }
}

/// Reads answers up to the end, or up to the body of one without a length: a stream.
fn answers(mut heard: &[u8]) -> Option<&[u8]> {
    while !heard.is_empty() {
        let end = heard.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = core::str::from_utf8(&heard[..end]).expect("a head is text");
        heard = &heard[end + 4..];
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status: u16 = status.and_then(|status| status.parse().ok()).expect("a status");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        // What answers a HEAD says how long the body would be. No body begins like an answer.
        let no_body = heard.is_empty() || heard.starts_with(b"HTTP/1.1 ");
        match length {
            _ if no_body || status == 204 || status < 200 => {}
            Some(length) => heard = &heard[length.parse().expect("a length")..],
            None if head.contains("Transfer-Encoding: chunked") => return Some(heard),
            // To an HTTP/1.0 client: bare events up to the end of the connection.
            None => return None,
        }
    }
    None
}

fn check_events(chunks: &[u8]) {
    let limits = BodyLimits { body_bytes_max: u64::MAX, ..BodyLimits::default() };
    let mut events = Vec::new();
    let mut decoder = sse::Decoder::new(usize::MAX);
    let mut feed =
        |bytes: &[u8]| decoder.feed(bytes, &mut |event| events.push(event)).expect("room");
    let read = BodyDecoder::new(Framing::Chunked).decode(chunks, &limits, &mut feed);
    assert_eq!(read.expect("chunks").consumed, chunks.len(), "nothing follows the last chunk");
    let names = events.iter().map(|event| event.name.as_str());
    assert!(
        names.enumerate().all(|(at, name)| name == if at == 0 { "endpoint" } else { "message" })
    );
}
