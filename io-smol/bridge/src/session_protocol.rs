//! The protocol of one session with its own process: the order of messages, the handshake, pending requests.
//!
//! Knows: JSON-RPC, and of MCP that a session begins with `initialize`, and how a request is cancelled.
//! Does not know: pipes, streams, or a clock; the time is an argument.
//!
//! Theory of operation. Messages of the client go in and lines for the process come out. Posts may overtake each
//! other, so until `initialize` has gone out all other messages are parked, for [`PARK`] at most. If `initialize`
//! does not come, the client has lost its stream, has opened another by itself and goes on without a handshake,
//! which its new process needs. Then the bridge does the handshake: with an integer for an id, because some servers
//! know no other, and with a deadline for the answer. The answer to it is never passed on to the client.
//!
//! ```text
//!            initialize                          PARK over, a request waits
//!  Open ◀──────────────── AwaitingInitialize ───────────────────────────▶ Initializing
//!    ▲                       │ PARK over, no request waits: all is sent        │ answered
//!    ╰── no auto-initialize ─┴────────▶ AwaitingInitialize                     ▼
//!                                                        Open: "initialized", then what was parked
//! ```
//!
//! Each request that is taken is answered once: by the process, with the id as the client spelled it; by the
//! bridge, where the answer of the process cannot be passed on (an answer without an id counts for the only
//! request under way); or by the end of the session. Answers to no pending request are dropped, because one that
//! comes after the bridge's would be a second one. A request of the process that cannot be passed on is answered
//! by the bridge as well.
//!
//! Decision: a request whose id is longer than 4 KiB is refused (-32600), because each id is kept until its
//! answer.

use core::time::Duration;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Instant;

use mcp_sse_core::Frame;
use mcp_sse_core::jsonrpc::{Kind, Message, code, error_body, same_id};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::handshakes::HANDSHAKE_TIMEOUT;
use super::ids::{self, ID_BYTES_MAX};
use super::lines::on_one_line;
use super::printed::Printed;
use super::printed::{LostAnswer, lost_answer_body};

/// How long messages wait for an `initialize` that may have been overtaken.
pub const PARK: Duration = Duration::from_secs(2);
/// While so many messages are parked, no more are taken from the client; the server holds its posts.
pub const PARKED_MAX: usize = 64;
/// While so many bytes are parked, likewise; one larger message alone is parked.
pub const PARKED_BYTES_MAX: usize = 1 << 20;

/// While so many lines wait for the process, its requests are not answered: it does not read.
const ANSWERED_LINES_MAX: usize = 64;

/// How many characters of the reason are told with which a process refuses the handshake.
pub(super) const REASON_CHARS_MAX: usize = 200;

/// The id of the bridge's own `initialize`: an integer that any server can hold, and none that clients
/// begin to count at.
const OWN_ID: &str = "2147483647";
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The state of the protocol between one client and its process.
#[derive(Debug)]
pub struct SessionProtocol {
    /// The params of the `initialize` that the bridge sends where the client leaves it out.
    own_handshake: Option<String>,
    phase: ProtocolPhase,
    /// Lines for the process.
    lines: VecDeque<Vec<u8>>,
    /// Raw ids of requests that were taken from the client and not answered.
    pending: Vec<PendingRequest>,
}

#[derive(Debug)]
enum ProtocolPhase {
    /// `initialize` has not come yet; messages wait until `until`.
    AwaitingInitialize { parked: ParkedMessages, until: Option<Instant> },
    /// The process was sent an `initialize` of the bridge's own.
    Initializing { parked: ParkedMessages, until: Instant },
    /// Every message is passed on.
    Open,
    /// No message is passed on any more, for this reason.
    Failed(String),
}

#[derive(Debug, Default)]
struct ParkedMessages {
    messages: VecDeque<Message>,
    bytes: usize,
}

#[derive(Debug)]
struct PendingRequest {
    id: Box<str>,
    /// It was put among the lines for the process.
    passed_on: bool,
}

/// What is to be done with what the process has printed.
#[derive(Debug)]
pub enum ProcessOutput {
    /// It is to be sent to the client.
    ForClient(Message),
    /// It was for the bridge, and there is nothing left to do.
    Consumed,
    /// It is an answer to no pending request.
    Unsolicited,
    /// The process has refused the handshake, for this reason; it is of no use.
    HandshakeRefused(String),
}

impl SessionProtocol {
    /// The protocol with a process that has just been started. `own_handshake` has the params of the `initialize`
    /// that is sent where the client leaves it out, as JSON; `None` if none is to be sent.
    #[must_use]
    pub fn new(own_handshake: Option<String>) -> Self {
        let phase =
            ProtocolPhase::AwaitingInitialize { parked: ParkedMessages::default(), until: None };
        Self { own_handshake, phase, lines: VecDeque::new(), pending: Vec::new() }
    }

    /// Whether a message of the client can be taken in. It cannot while lines wait for the process.
    #[must_use]
    pub fn takes_message(&self) -> bool {
        let room = match &self.phase {
            ProtocolPhase::AwaitingInitialize { parked, .. }
            | ProtocolPhase::Initializing { parked, .. } => {
                parked.messages.len() < PARKED_MAX && parked.bytes < PARKED_BYTES_MAX
            }
            ProtocolPhase::Open | ProtocolPhase::Failed(_) => true,
        };
        room && self.lines.is_empty()
    }

    /// Takes in a message of the client. Returns its answer if anything is wrong with it.
    pub fn handle_message(&mut self, message: Message, now: Instant) -> Option<Frame> {
        if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
            if id.len() > ID_BYTES_MAX {
                let why = format!("the id is longer than {ID_BYTES_MAX} bytes");
                return frame(&error_body(Some(id), code::INVALID_REQUEST, &why));
            }
            if let ProtocolPhase::Failed(why) = &self.phase {
                return frame(&error_body(Some(id), code::INTERNAL_ERROR, why));
            }
            self.pending.push(PendingRequest { id: id.into(), passed_on: false });
        }
        match &mut self.phase {
            ProtocolPhase::AwaitingInitialize { .. } if is_initialize(&message) => {
                self.pass_on(message);
                self.open();
            }
            ProtocolPhase::AwaitingInitialize { parked, until } => {
                until.get_or_insert(now + PARK);
                parked.add(message);
            }
            ProtocolPhase::Initializing { parked, .. } => parked.add(message),
            ProtocolPhase::Open => self.pass_on(message),
            ProtocolPhase::Failed(_) => {}
        }
        None
    }

    /// Takes in what the process has printed.
    pub fn handle_printed(&mut self, printed: Printed) -> ProcessOutput {
        match printed {
            Printed::Message(message) if message.kind() == Kind::Response => {
                self.handle_response(message)
            }
            Printed::Message(message) => ProcessOutput::ForClient(message),
            Printed::LostAnswer(lost) => self.handle_lost_answer(&lost),
            Printed::UnreadableRequest(unread) => {
                self.answer_process(unread.answer());
                ProcessOutput::Consumed
            }
        }
    }

    /// Answers a request of the process, with this raw id, that it cannot be passed on, and why.
    pub fn refuse_process(&mut self, id: &str, why: &str) {
        // The answer repeats it.
        if id.len() <= ID_BYTES_MAX {
            self.answer_process(error_body(Some(id), code::INTERNAL_ERROR, why));
        }
    }

    fn answer_process(&mut self, body: Vec<u8>) {
        if self.lines.len() < ANSWERED_LINES_MAX
            && let Ok(message) = Message::read(body, None)
        {
            self.lines.push_back(line(message));
        }
    }

    fn handle_response(&mut self, message: Message) -> ProcessOutput {
        let answered = message.id().unwrap_or_default();
        if self.is_own(answered) {
            return self.handle_initialize_response(&message);
        }
        let Some(id) = self.finish_request(answered) else { return ProcessOutput::Unsolicited };
        if *id == *answered {
            return ProcessOutput::ForClient(message);
        }
        // The process spells the id in another way than the client.
        let body = with_id(&message, &id);
        Message::read(body, None).map_or(ProcessOutput::Unsolicited, ProcessOutput::ForClient)
    }

    /// An answer that cannot be passed on.
    fn handle_lost_answer(&mut self, LostAnswer { id, why, error }: &LostAnswer) -> ProcessOutput {
        let own = match id {
            Some(id) => self.is_own(id),
            None => matches!(self.phase, ProtocolPhase::Initializing { .. }),
        };
        if own {
            return self.handle_refusal(error.as_deref().unwrap_or(why));
        }
        let request = match id {
            Some(id) => self.finish_request(id),
            None => self.finish_only_request(),
        };
        let Some(id) = request else { return ProcessOutput::Unsolicited };
        let body = lost_answer_body(&id, why, error.as_deref());
        Message::read(body, None).map_or(ProcessOutput::Unsolicited, ProcessOutput::ForClient)
    }

    /// Whether this id is that of the bridge's own `initialize`, and that has not been answered.
    fn is_own(&self, id: &str) -> bool {
        matches!(self.phase, ProtocolPhase::Initializing { .. })
            && ids::find([OWN_ID].into_iter(), id).is_some()
    }

    /// Removes the pending request that is answered under this id. Returns the id as the client spelled it.
    fn finish_request(&mut self, answered: &str) -> Option<Box<str>> {
        // The process answers only what it was sent.
        let request = self.pending.iter().filter(|pending| pending.passed_on);
        let at = ids::find(request.map(|pending| &*pending.id), answered)?;
        self.finish_nth_request(at)
    }

    /// The same for the only request under way, if there is one.
    fn finish_only_request(&mut self) -> Option<Box<str>> {
        let under_way = self.pending.iter().filter(|pending| pending.passed_on).count();
        if under_way == 1 { self.finish_nth_request(0) } else { None }
    }

    /// The same for the request that is under way behind so many others.
    fn finish_nth_request(&mut self, nth: usize) -> Option<Box<str>> {
        let mut request = self.pending.iter().enumerate().filter(|(_, pending)| pending.passed_on);
        let (at, _) = request.nth(nth)?;
        Some(self.pending.remove(at).id)
    }

    /// The process has answered the bridge's own `initialize`.
    fn handle_initialize_response(&mut self, answer: &Message) -> ProcessOutput {
        #[derive(Deserialize)]
        struct Answer<'m> {
            #[serde(borrow)]
            error: Option<&'m RawValue>,
        }
        match serde_json::from_str(answer.text()) {
            Ok(Answer { error: None }) => {
                self.lines.push_back(format!("{INITIALIZED}\n").into_bytes());
                self.open();
                ProcessOutput::Consumed
            }
            Ok(Answer { error: Some(error) }) => self.handle_refusal(error.get()),
            Err(error) => self.handle_refusal(&error.to_string()),
        }
    }

    fn handle_refusal(&mut self, why: &str) -> ProcessOutput {
        let why: String = why.chars().take(REASON_CHARS_MAX).collect();
        self.phase = ProtocolPhase::Failed(why.clone());
        ProcessOutput::HandshakeRefused(why)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            ProtocolPhase::AwaitingInitialize { until, .. } => *until,
            ProtocolPhase::Initializing { until, .. } => Some(*until),
            ProtocolPhase::Open | ProtocolPhase::Failed(_) => None,
        }
    }

    /// Ends the wait for `initialize`, or for the answer to the bridge's own. Returns why the process is of no use,
    /// if it has not answered.
    #[must_use]
    pub fn handle_timeout(&mut self, now: Instant) -> Option<String> {
        if self.poll_timeout().is_none_or(|until| now < until) {
            return None;
        }
        let ProtocolPhase::AwaitingInitialize { parked, until } = &mut self.phase else {
            let why = format!("did not answer initialize within {HANDSHAKE_TIMEOUT:?}");
            self.phase = ProtocolPhase::Failed(why.clone());
            return Some(why);
        };
        *until = None;
        let asks = parked.messages.iter().any(|message| message.kind() == Kind::Request);
        if !asks {
            // Only a request says that the client goes on without a handshake.
            let parked = core::mem::take(parked);
            parked.messages.into_iter().for_each(|message| self.pass_on(message));
        } else if let Some(params) = &self.own_handshake {
            let parked = core::mem::take(parked);
            self.lines.push_back(own_initialize(params));
            self.phase = ProtocolPhase::Initializing { parked, until: now + HANDSHAKE_TIMEOUT };
        } else {
            self.open();
        }
        None
    }

    /// The next line for the process, its line feed included.
    pub fn poll_line(&mut self) -> Option<Vec<u8>> {
        self.lines.pop_front()
    }

    /// What the process is told when the client has gone: that each request under way is cancelled.
    #[must_use]
    pub fn last_words(&self) -> Vec<u8> {
        let mut words: Vec<u8> = self.lines.iter().flatten().copied().collect();
        for PendingRequest { id, .. } in self.pending.iter().filter(|pending| pending.passed_on) {
            let params = format!(r#"{{"requestId":{id},"reason":"the client has gone"}}"#);
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#
            );
            words.extend_from_slice(on_one_line(&text).as_bytes());
            words.push(b'\n');
        }
        words
    }

    /// Ends the protocol because the process has gone. Returns an error for each pending request, in the order in
    /// which they came.
    pub fn abandon(&mut self, why: &str) -> Vec<Frame> {
        self.phase = ProtocolPhase::Failed(why.to_owned());
        self.lines.clear();
        let pending = core::mem::take(&mut self.pending);
        let answer =
            |PendingRequest { id, .. }| frame(&error_body(Some(&id), code::INTERNAL_ERROR, why));
        pending.into_iter().filter_map(answer).collect()
    }

    /// Passes every message on from now on, what was parked first.
    fn open(&mut self) {
        let phase = core::mem::replace(&mut self.phase, ProtocolPhase::Open);
        if let ProtocolPhase::AwaitingInitialize { parked, .. }
        | ProtocolPhase::Initializing { parked, .. } = phase
        {
            parked.messages.into_iter().for_each(|message| self.pass_on(message));
        }
    }

    fn pass_on(&mut self, message: Message) {
        if let Some(cancelled) = message.cancelled_id() {
            // No answer will follow.
            self.pending.retain(|pending| !same_id(&pending.id, cancelled));
        }
        if message.kind() == Kind::Request
            && let Some(id) = message.id()
            && let Some(pending) =
                self.pending.iter_mut().find(|pending| !pending.passed_on && &*pending.id == id)
        {
            pending.passed_on = true;
        }
        self.lines.push_back(line(message));
    }
}

impl ParkedMessages {
    fn add(&mut self, message: Message) {
        self.bytes += message.body().len();
        self.messages.push_back(message);
    }
}

fn is_initialize(message: &Message) -> bool {
    message.kind() == Kind::Request && message.method() == Some("initialize")
}

/// A message as one line, its line feed included.
fn line(message: Message) -> Vec<u8> {
    let mut line = match on_one_line(message.text()) {
        Cow::Owned(line) => line.into_bytes(),
        Cow::Borrowed(_) => message.into_body(),
    };
    line.push(b'\n');
    line
}

/// The response `message` with another id.
fn with_id(message: &Message, id: &str) -> Vec<u8> {
    let old = message.id().unwrap_or_default();
    super::mux::replaced(message.text(), old, id).into_bytes()
}

fn own_initialize(params: &str) -> Vec<u8> {
    let text =
        format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"method":"initialize","params":{params}}}"#);
    let mut line = on_one_line(&text).into_owned().into_bytes();
    line.push(b'\n');
    line
}

fn frame(body: &[u8]) -> Option<Frame> {
    // Too long an id is the one thing that could make it fail.
    Frame::message(body).ok()
}

#[cfg(test)]
mod tests;
