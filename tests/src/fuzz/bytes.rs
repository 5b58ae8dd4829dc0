//! Any bytes on one connection, cut anywhere, beside a session whose token the bytes may contain.

use core::fmt;

use mcp_sse_core::jsonrpc::Kind;
use mcp_sse_core::{
    Config, ConnId, EntropyUnavailable, Event, Frame, Interest, Limits, Peer, Server, Time,
};

use super::cut;
use super::transcript::check;

/// The token of the session.
pub(super) const TOKEN: &str = "AAAAAAAABwcHBwcHBwcHBwcHBwcHBwcH";

/// The frame that is sent to a session which the input opens.
pub(super) const WORDS: &str = r#"{"jsonrpc":"2.0","method":"say"}"#;

/// How long nothing may happen while the server does not read: longer than it queues a post.
const PATIENCE_MICROS: u64 = 10_000_000;

/// The first byte decides how the rest is cut, and from 128 on that the application answers no
/// requests. Checks that nothing panics, counters balance, each request has the right response,
/// accepted messages are delivered, the output is valid HTTP and events, and the cuts change
/// nothing.
pub fn bytes(input: &[u8]) {
    let Some((&how, said)) = input.split_first() else { return };
    let answers = how < 128;
    let whole = Transcript::by(cut(0, said), answers);
    check(said, &whole);
    let pieces = Transcript::by(cut((how & 127).max(1), said), answers);
    assert_eq!(whole, pieces, "the cuts changed something");
}

/// Limits that an input of a few hundred bytes can reach.
pub(super) fn limits() -> Limits {
    Limits {
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
    }
}

/// The output of both connections, and the messages of the application.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Transcript {
    pub(super) connection: Vec<u8>,
    pub(super) stream: Vec<u8>,
    /// The messages that the application received.
    pub(super) messages: Vec<String>,
    /// The responses that the application sent.
    pub(super) answers: Vec<String>,
    /// How many requests were cancelled before they were delivered.
    pub(super) withdrawn: u64,
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connection, stream) = (self.connection.escape_ascii(), self.stream.escape_ascii());
        write!(f, "\n{connection}\n{stream}\n{:#?}\n{:#?}", self.messages, self.answers)
    }
}

impl Transcript {
    fn by<'a>(mut pieces: impl Iterator<Item = &'a [u8]>, answers: bool) -> Self {
        let mut draws = 6;
        let entropy = move |dest: &mut [u8]| -> Result<(), EntropyUnavailable> {
            draws += 1;
            dest.fill(draws);
            Ok(())
        };
        let (mut now, mut moved) = (Time::ZERO, Time::ZERO);
        let mut transcript = Self::default();
        let config = Config::builder().limits(limits()).build().expect("limits that make sense");
        let mut server = Server::new(config, Box::new(entropy), now);
        let stream = server.accept(Peer::local(), now).expect("room");
        server.handle_input(stream, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", now);
        let conn = server.accept(Peer::local(), now).expect("room");
        let mut ended = false;
        loop {
            if transcript.serve(&mut server, stream, conn, answers, now) {
                moved = now;
            }
            match server.interest(conn) {
                Interest::Close => break,
                Interest::Io { read: true, .. } | Interest::Linger => {
                    assert!(!ended, "it reads on although there is no more");
                    moved = now;
                    match pieces.next() {
                        Some(piece) => server.handle_input(conn, piece, now),
                        None => {
                            ended = true;
                            server.handle_eof(conn, now);
                        }
                    }
                }
                Interest::Io { read: false, .. } => {
                    let deadline = server.poll_timeout().expect("it waits for something").at;
                    let waited = deadline.as_micros() - moved.as_micros();
                    assert!(waited <= PATIENCE_MICROS, "it hangs: {transcript:?}");
                    now = deadline;
                    server.handle_timeout(now);
                }
            }
        }
        transcript.withdrawn = server.metrics().requests_withdrawn;
        assert_eq!(server.metrics().messages_received, transcript.messages.len() as u64);
        for gone in [conn, stream] {
            server.handle_disconnect(gone, now);
            server.check();
        }
        assert_eq!((server.connections_open(), server.sessions_open()), (0, 0));
        transcript
    }

    /// Writes output and handles events until nothing follows. Returns whether the connection got
    /// output.
    fn serve(
        &mut self,
        server: &mut Server,
        stream: ConnId,
        conn: ConnId,
        answers: bool,
        now: Time,
    ) -> bool {
        let received_before = self.connection.len();
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
                    server.check();
                    return self.connection.len() > received_before;
                }
                continue;
            };
            if let Event::Opened { session, conn: opened, .. } = &event
                && *opened == conn
            {
                let frame = Frame::message(WORDS.as_bytes()).expect("JSON");
                server.send(*session, &frame, now).expect("a new session takes words");
            }
            let Event::Message { session, message, .. } = event else { continue };
            self.messages.push(message.text().to_owned());
            if let (Kind::Request, Some(id), true) = (message.kind(), message.id(), answers) {
                let json = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":[{id}]}}"#);
                let frame = Frame::message(json.as_bytes()).expect("an id is JSON");
                server.send(session, &frame, now).expect("the session takes answers");
                self.answers.push(json);
            }
        }
    }
}
