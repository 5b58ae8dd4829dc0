//! One session's conversation with its own process: order, the handshake, and who waits for what.
//!
//! Knows: JSON-RPC, and of MCP that a session begins with `initialize`, and how a request is taken
//! back. Does not know: pipes, streams, or a clock; the time is an argument.
//!
//! Theory of operation. Messages of the client go in and lines for the process come out. Posts may
//! overtake each other, so until `initialize` has gone out everything else is parked, for as long as
//! [`PARK`]. If it does not come, the client is one that lost its stream, opened another by itself and
//! goes on as if nothing had happened; its new process knows nothing of it. Then the handshake is ours.
//!
//! ```text
//!            initialize                        PARK over, a request waits
//!  Open ◀──────────────── Parking ────────────────────────────▶ Shaking hands
//!    ▲                       │ PARK over, none does (flushed)          │ answered
//!    ╰── not to shake hands ─┴──────────▶ Parking                      ▼
//!                                                        Open: "initialized", then what was parked
//! ```

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use mcp_sse_core::Frame;
use mcp_sse_core::jsonrpc::{Kind, Message, code, error_body, same_id};
use serde::Deserialize;
use serde_json::value::RawValue;

/// For how long messages wait for an `initialize` that may have been overtaken.
pub const PARK: Duration = Duration::from_secs(2);
/// With so many messages parked no more are taken from the client, who notices by its posts being
/// held.
pub const PARKED_MAX: usize = 64;
/// With so many bytes parked likewise; one larger message alone is parked.
pub const PARKED_BYTES_MAX: usize = 1 << 20;
/// The longest id of a request that is passed on, as JSON: it is kept until the answer.
pub const ID_BYTES_MAX: usize = 4 << 10;

/// So much of the reason for which a process refuses the handshake is told.
const REASON_CHARS_MAX: usize = 200;

/// The id of the bridge's own `initialize`.
const OWN_ID: &str = r#""mcp-sse-bridge:initialize""#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// One session's side of its process.
#[derive(Debug)]
pub struct Conversation {
    shakes_hands: bool,
    phase: Phase,
    /// Lines for the process.
    lines: VecDeque<Vec<u8>>,
    /// Raw ids of requests that were taken from the client and not answered.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
enum Phase {
    /// `initialize` has not come yet; messages wait until `until`.
    Parking { parked: Parked, until: Option<Instant> },
    /// The process was sent an `initialize` of our own.
    ShakingHands { parked: Parked },
    /// Everything passes.
    Open,
    /// Nothing does any more, for this reason.
    Failed(String),
}

#[derive(Debug, Default)]
struct Parked {
    messages: VecDeque<Message>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    id: Box<str>,
    /// The process knows of it, or will.
    passed_on: bool,
}

/// What becomes of a message of the process.
#[derive(Debug)]
pub enum Said {
    /// It is the client's.
    ForClient(Message),
    /// It was ours.
    Ours,
    /// The process has refused the handshake, and said why. Nothing can be done with it.
    Refused(String),
}

impl Conversation {
    /// With a process that has just been started. `shakes_hands` says whether the handshake is made up
    /// for where the client leaves it out.
    #[must_use]
    pub fn new(shakes_hands: bool) -> Self {
        let phase = Phase::Parking { parked: Parked::default(), until: None };
        Self { shakes_hands, phase, lines: VecDeque::new(), waiting: Vec::new() }
    }

    /// Whether a message of the client can be taken in. Not while what came before waits.
    #[must_use]
    pub fn takes_message(&self) -> bool {
        let room = match &self.phase {
            Phase::Parking { parked, .. } | Phase::ShakingHands { parked } => {
                parked.messages.len() < PARKED_MAX && parked.bytes < PARKED_BYTES_MAX
            }
            Phase::Open | Phase::Failed(_) => true,
        };
        room && self.lines.is_empty()
    }

    /// The client has said this. Returns what it is answered with at once, if anything is wrong.
    pub fn handle_message(&mut self, message: Message, now: Instant) -> Option<Frame> {
        if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
            if id.len() > ID_BYTES_MAX {
                let why = format!("the id is longer than {ID_BYTES_MAX} bytes");
                return frame(&error_body(Some(id), code::INVALID_REQUEST, &why));
            }
            if let Phase::Failed(why) = &self.phase {
                return frame(&error_body(Some(id), code::INTERNAL_ERROR, why));
            }
            self.waiting.push(Waiting { id: id.into(), passed_on: false });
        }
        match &mut self.phase {
            Phase::Parking { .. } if is_initialize(&message) => {
                self.pass_on(message);
                self.open();
            }
            Phase::Parking { parked, until } => {
                until.get_or_insert(now + PARK);
                parked.add(message);
            }
            Phase::ShakingHands { parked } => parked.add(message),
            Phase::Open => self.pass_on(message),
            Phase::Failed(_) => {}
        }
        None
    }

    /// The process has said this.
    pub fn handle_said(&mut self, message: Message) -> Said {
        if message.kind() == Kind::Response {
            if matches!(self.phase, Phase::ShakingHands { .. })
                && message.id().is_some_and(|id| same_id(id, OWN_ID))
            {
                return self.handle_hand(&message);
            }
            // It may spell the id in another way.
            let id = message.id().unwrap_or_default();
            if let Some(at) = self.waiting.iter().position(|waiting| same_id(&waiting.id, id)) {
                self.waiting.remove(at);
            }
        }
        Said::ForClient(message)
    }

    /// The process has answered our own `initialize`.
    fn handle_hand(&mut self, answer: &Message) -> Said {
        #[derive(Deserialize)]
        struct Answer<'m> {
            #[serde(borrow)]
            error: Option<&'m RawValue>,
        }
        match serde_json::from_str(answer.text()) {
            Ok(Answer { error: None }) => {
                self.lines.push_back(format!("{INITIALIZED}\n").into_bytes());
                self.open();
                Said::Ours
            }
            Ok(Answer { error: Some(error) }) => self.refused(error.get()),
            Err(error) => self.refused(&error.to_string()),
        }
    }

    fn refused(&mut self, why: &str) -> Said {
        let why: String = why.chars().take(REASON_CHARS_MAX).collect();
        self.phase = Phase::Failed(why.clone());
        Said::Refused(why)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Parking { until, .. } => *until,
            Phase::ShakingHands { .. } | Phase::Open | Phase::Failed(_) => None,
        }
    }

    /// `initialize` may have had its time.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Phase::Parking { parked, until } = &mut self.phase else { return };
        if until.is_none_or(|until| now < until) {
            return;
        }
        *until = None;
        let asks = parked.messages.iter().any(|message| message.kind() == Kind::Request);
        if asks && self.shakes_hands {
            let parked = core::mem::take(parked);
            self.lines.push_back(own_initialize());
            self.phase = Phase::ShakingHands { parked };
        } else if asks {
            self.open();
        } else {
            // No request yet: which is what says whether the client has forgotten the handshake.
            let parked = core::mem::take(parked);
            parked.messages.into_iter().for_each(|message| self.pass_on(message));
        }
    }

    /// The next line for the process, its line feed included.
    pub fn poll_line(&mut self) -> Option<Vec<u8>> {
        self.lines.pop_front()
    }

    /// What the process is told when the client has gone: that each request it works at is taken back.
    #[must_use]
    pub fn last_words(&self) -> Vec<u8> {
        let mut words: Vec<u8> = self.lines.iter().flatten().copied().collect();
        for Waiting { id, .. } in self.waiting.iter().filter(|waiting| waiting.passed_on) {
            let params = format!(r#"{{"requestId":{id},"reason":"the client has gone"}}"#);
            words.extend(
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#
                )
                .into_bytes(),
            );
            words.push(b'\n');
        }
        words
    }

    /// What the client is told when the process has gone: an error for each request without an answer,
    /// in the order in which they came.
    pub fn abandon(&mut self, why: &str) -> Vec<Frame> {
        self.phase = Phase::Failed(why.to_owned());
        self.lines.clear();
        let waiting = core::mem::take(&mut self.waiting);
        let answer = |Waiting { id, .. }| frame(&error_body(Some(&id), code::INTERNAL_ERROR, why));
        waiting.into_iter().filter_map(answer).collect()
    }

    /// Lets everything pass, what was parked first.
    fn open(&mut self) {
        let phase = core::mem::replace(&mut self.phase, Phase::Open);
        if let Phase::Parking { parked, .. } | Phase::ShakingHands { parked } = phase {
            parked.messages.into_iter().for_each(|message| self.pass_on(message));
        }
    }

    fn pass_on(&mut self, message: Message) {
        if let Some(cancelled) = message.cancelled_id() {
            // No answer will follow.
            self.waiting.retain(|waiting| !same_id(&waiting.id, cancelled));
        }
        if message.kind() == Kind::Request
            && let Some(id) = message.id()
            && let Some(waiting) =
                self.waiting.iter_mut().find(|waiting| !waiting.passed_on && &*waiting.id == id)
        {
            waiting.passed_on = true;
        }
        self.lines.push_back(line(message.into_body()));
    }
}

impl Parked {
    fn add(&mut self, message: Message) {
        self.bytes += message.body().len();
        self.messages.push_back(message);
    }
}

fn is_initialize(message: &Message) -> bool {
    message.kind() == Kind::Request && message.method() == Some("initialize")
}

/// The body of a message as one line: JSON has line ends between tokens only.
fn line(mut body: Vec<u8>) -> Vec<u8> {
    if memchr::memchr2(b'\n', b'\r', &body).is_some() {
        body.retain(|byte| !matches!(byte, b'\n' | b'\r'));
    }
    body.push(b'\n');
    body
}

fn own_initialize() -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{OWN_ID},\"method\":\"initialize\",\"params\":{{\
         \"protocolVersion\":\"2024-11-05\",\"capabilities\":{{}},\
         \"clientInfo\":{{\"name\":\"mcp-sse-bridge\",\"version\":\"{version}\"}}}}}}\n"
    )
    .into_bytes()
}

fn frame(body: &[u8]) -> Option<Frame> {
    // Too long an id is the one thing that could make it fail.
    Frame::message(body).ok()
}

#[cfg(test)]
mod tests;
