//! A randomized test with a server that prints invalid output. Each request must still be answered exactly once, with
//! valid JSON.
//!
//! Knows: the mistakes that real servers make in their answers, and random bytes.
//! Does not know: pipes, processes.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use mcp_sse_core::jsonrpc::{Kind, Message};
use mcp_sse_core::{Frame, Time};
use serde_json::Value;

use super::mux::walk::Random;
use super::mux::{Mux, MuxLimits, MuxOutput, SessionKey};
use super::output::ServerOutput;
use super::printed::Printed;
use super::session_protocol::{ProcessOutput, SessionProtocol};
use super::status::BridgeStatus;

/// A server that answers requests in random order and with random mistakes.
struct GarbageServer {
    random: Random,
    /// Raw ids of requests that it has not answered.
    asked: Vec<String>,
}

impl GarbageServer {
    fn hears(&mut self, line: &str) {
        assert!(
            !line.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']),
            "one line: {line:?}"
        );
        let message = Message::read(line.into(), None).expect("a message");
        if message.kind() == Kind::Request {
            self.asked.push(message.id().expect("an id").to_owned());
        }
    }

    fn prints(&mut self) -> Vec<u8> {
        let at = self.random.below(self.asked.len() + 1);
        if at == self.asked.len() {
            return self.chatters();
        }
        let id = self.asked.swap_remove(at);
        let id = &*id;
        let good = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":["x"]}}}}"#);
        let text = match self.random.below(22) {
            0 => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"m"}}}}"#),
            1 => {
                let (before, behind) = good.split_once('x').expect("a letter");
                return [before.as_bytes(), b"\xb0\xff\xe2\x80", behind.as_bytes(), b"\n"].concat();
            }
            2 => good.replace("\"x\"", "NaN,-Infinity"),
            3 => good.replace('x', "\t\u{1}"),
            4 => good.replace(r#","result""#, r#","error":null,"result""#),
            5 => good.replace(r#""result""#, r#""result":null,"error""#),
            6 => good
                .replace(&format!(r#""id":{id}"#), &format!(r#""id":{}.0"#, id.trim_matches('"'))),
            7 => {
                let other = if id.starts_with('"') {
                    id.trim_matches('"').into()
                } else {
                    format!("\"{id}\"")
                };
                good.replace(&format!(r#""id":{id}"#), &format!(r#""id":{other}"#))
            }
            8 => format!("{good}{{\"jsonrpc\":\"2.0\",\"method\":\"m\"}}"),
            9 => good[..self.random.below(good.len())].to_owned(),
            10 => good.replace(&format!(r#""id":{id}"#), r#""id":[1]"#),
            11 => good.replace(&format!(r#""id":{id},"#), ""),
            12 => good.replace("\"2.0\"", "2.0"),
            13 => good.replace('{', "{\n ").replace(',', ",\n "),
            14 => format!("{good}\n{good}"),
            15 => {
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"id"}}"#.to_owned()
            }
            16 => format!("[{good}]"),
            17 => good.replace("\"x\"", "\"x\n\""),
            18 => String::new(),
            19..=20 => {
                let mut bytes = good.into_bytes();
                for _ in 0..=self.random.below(3) {
                    let at = self.random.below(bytes.len());
                    bytes[at] = self.random.next() as u8;
                }
                bytes.push(b'\n');
                return bytes;
            }
            _ => good,
        };
        format!("{text}\n").into_bytes()
    }

    /// Prints something that is not an answer.
    fn chatters(&mut self) -> Vec<u8> {
        match self.random.below(8) {
            0 => b"[INFO] {\n".to_vec(),
            6 => b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":{\"a\n".to_vec(),
            7 => "{\"jsonrpc\":\"2.0\",\"id\":\"\u{2029}\",\"method\":7}\n".into(),
            1 => b"{ config = {\n".to_vec(),
            2 => "{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"m\u{2028}\"}\n".into(),
            3 => b"{\"level\":\"info\",\"id\":1,\"error\":null}\n".to_vec(),
            4 => b"Listening\n\n".to_vec(),
            _ => (0..self.random.below(40)).map(|_| self.random.next() as u8).collect(),
        }
    }
}

/// A client, with the raw ids of its requests that were not answered.
#[derive(Default)]
struct GarbageClient {
    open: Vec<String>,
    /// Requests that the client has cancelled. They may still be answered.
    cancelled: Vec<String>,
    next: u32,
    answered: u32,
    failed: u32,
}

impl GarbageClient {
    /// A request with an id that is not in use.
    fn asks(&mut self, random: &mut Random) -> Message {
        self.next += 1;
        let number = self.next;
        let id = match random.below(6) {
            0 => format!("\"{number}\""),
            1 => format!("\"\\u0061\u{2028}{number}\""),
            2 => format!("-{number}"),
            _ => number.to_string(),
        };
        let text = format!("{{\"jsonrpc\":\"2.0\",\n\"id\":{id},\"method\":\"m\u{2029}\"}}");
        self.open.push(id);
        Message::read(text.into(), None).expect("a message")
    }

    fn cancels(&mut self, random: &mut Random) -> Option<Message> {
        if self.open.is_empty() {
            return None;
        }
        let id = self.open.swap_remove(random.below(self.open.len()));
        let params = format!(r#"{{"requestId":{id}}}"#);
        self.cancelled.push(id);
        let text =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#);
        Message::read(text.into(), None).ok()
    }

    fn hears(&mut self, frame: &Frame) {
        let event = core::str::from_utf8(frame.bare()).expect("UTF-8");
        let text = event.strip_prefix("event: message\ndata: ").expect("a message");
        assert!(!text.trim_end().contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']));
        let heard: Value = serde_json::from_str(text).expect("JSON");
        if heard.get("method").is_some() {
            return assert_ne!(heard.get("id"), Some(&Value::Null));
        }
        // The id comes back as it was sent, except that line separators are escaped.
        let id = frame.answered_id().expect("an answer").replace("\\u2028", "\u{2028}");
        if let Some(at) = self.cancelled.iter().position(|cancelled| *cancelled == id) {
            self.cancelled.swap_remove(at);
            return;
        }
        let at = self.open.iter().position(|open| *open == id);
        let at = at.unwrap_or_else(|| panic!("answered once: {text} {:?}", self.open));
        self.open.swap_remove(at);
        if heard.get("result").is_some() { self.answered += 1 } else { self.failed += 1 }
    }
}

fn session(seed: u64) -> (u32, u32) {
    let mut random = Random(seed);
    let mut child = GarbageServer { random: Random(!seed), asked: Vec::new() };
    let mut output = ServerOutput::new("garbage", Arc::new(BridgeStatus::default()));
    let (mut protocol, mut client) = (SessionProtocol::new(None), GarbageClient::default());
    let now = Instant::now();
    let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#;
    client.open.push("0".into());
    assert!(
        protocol.handle_message(Message::read(hello.into(), None).expect("JSON"), now).is_none()
    );
    let hear =
        |output: &mut ServerOutput, protocol: &mut SessionProtocol, client: &mut GarbageClient| {
            while let Some(printed) = output.next_printed() {
                match protocol.handle_printed(printed) {
                    ProcessOutput::ForClient(message) => {
                        client.hears(&Frame::message(message.body()).expect("an object"));
                    }
                    ProcessOutput::Unsolicited | ProcessOutput::Consumed => {}
                    other @ ProcessOutput::HandshakeRefused(_) => panic!("{other:?}"),
                }
            }
        };
    for _ in 0..400 {
        if random.below(2) == 0 && client.open.len() < 8 {
            let message = client.asks(&mut random);
            assert!(protocol.handle_message(message, now).is_none());
        } else if random.below(12) == 0
            && let Some(message) = client.cancels(&mut random)
        {
            assert!(protocol.handle_message(message, now).is_none());
        }
        while let Some(line) = protocol.poll_line() {
            child.hears(core::str::from_utf8(&line).expect("UTF-8").trim_end());
        }
        let printed = child.prints();
        for piece in printed.chunks(1 + random.below(64)) {
            output.feed(piece);
            hear(&mut output, &mut protocol, &mut client);
        }
        if client.open.len() >= 8 && child.asked.is_empty() {
            break;
        }
    }
    output.end();
    hear(&mut output, &mut protocol, &mut client);
    // The end of the session answers every request that is still open.
    protocol.abandon("it is gone").iter().for_each(|frame| client.hears(frame));
    assert_eq!(client.open, [""; 0]);
    (client.answered, client.failed)
}

#[test]
fn every_request_of_a_session_is_answered_once_whatever_its_server_prints() {
    let mut sums = (0, 0);
    for seed in 0..400 {
        let (answered, failed) = session(seed);
        sums = (sums.0 + answered, sums.1 + failed);
    }
    assert!(sums.0 > 2_000 && sums.1 > 2_000, "{sums:?}");
}

fn shared(seed: u64) -> (u32, u32) {
    let mut random = Random(seed);
    let mut child = GarbageServer { random: Random(!seed), asked: Vec::new() };
    let mut output = ServerOutput::new("garbage", Arc::new(BridgeStatus::default()));
    let mut mux = Mux::new(MuxLimits::default());
    let mut clients: Vec<GarbageClient> = (0..4).map(|_| GarbageClient::default()).collect();
    let mut now = Time::ZERO;
    (0..4).for_each(|key| mux.join(SessionKey(key)));
    mux.handle_started(now);
    let mut up = true;
    for step in 0..1_200 {
        let by = random.below(clients.len());
        let client = &mut clients[by];
        now = now.saturating_add(Duration::from_millis(100));
        mux.handle_timeout(now);
        if step >= 1_000 {
            // No more requests are sent, and enough time passes for each restart of the process.
            now = now.saturating_add(Duration::from_secs(20));
            mux.handle_timeout(now);
        } else if client.open.len() < 8 && random.below(2) == 0 {
            mux.handle_session(SessionKey(by as u64), client.asks(&mut random), now);
        } else if random.below(12) == 0
            && let Some(message) = client.cancels(&mut random)
        {
            mux.handle_session(SessionKey(by as u64), message, now);
        }
        if random.below(200) == 0 || step == 1_100 {
            output.end();
            up = false;
        } else {
            let printed = child.prints();
            output.feed(&printed);
        }
        loop {
            while let Some(put) = mux.poll_output() {
                match put {
                    MuxOutput::Server(line) | MuxOutput::Answer(line) => child.hears(&line),
                    MuxOutput::Session(SessionKey(key), frame) => {
                        clients[key as usize].hears(&frame)
                    }
                    MuxOutput::Abandon(_) => up = false,
                }
            }
            match output.next_printed() {
                Some(Printed::Message(message)) => mux.handle_server(&message, now),
                Some(Printed::LostAnswer(lost)) => mux.handle_lost_answer(&lost, now),
                Some(Printed::UnreadableRequest(unread)) => mux.handle_unreadable_request(&unread),
                None => break,
            }
        }
        if !up {
            mux.handle_exit("is gone", now);
            child.asked.clear();
            output = ServerOutput::new("garbage", Arc::new(BridgeStatus::default()));
            mux.handle_started(now);
            up = true;
        }
    }
    let mut sums = (0, 0);
    mux.handle_exit("is gone", now);
    mux.handle_timeout(now.saturating_add(Duration::from_secs(60)));
    while let Some(put) = mux.poll_output() {
        if let MuxOutput::Session(SessionKey(key), frame) = put {
            clients[key as usize].hears(&frame);
        }
    }
    for client in clients {
        assert_eq!(client.open, [""; 0]);
        sums = (sums.0 + client.answered, sums.1 + client.failed);
    }
    assert_eq!(mux.requests(), 0);
    sums
}

#[test]
fn every_request_of_all_sessions_is_answered_once_whatever_their_server_prints() {
    let mut sums = (0, 0);
    for seed in 0..100 {
        let (answered, failed) = shared(seed);
        sums = (sums.0 + answered, sums.1 + failed);
    }
    assert!(sums.0 > 2_000 && sums.1 > 2_000, "{sums:?}");
}
