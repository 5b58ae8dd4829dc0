//! The protocol of one session with its own process: the order of messages, the handshake, pending requests.
//!
//! Knows: JSON-RPC, and of MCP that a session begins with `initialize`, and how a request is cancelled.
//! Does not know: pipes, streams, or a clock; the time is an argument.
//!
//! Theory of operation. Messages of the client go in, and lines for the process come out. Posts on several
//! connections may overtake each other, so all other messages are parked until `initialize` has arrived, for at most
//! [`PARK`]. If no `initialize` arrives, the client has probably lost its stream and has opened another one without a
//! handshake. Its new process needs one, so the bridge sends `initialize` itself. The id is an integer, because some
//! servers accept no other, and the answer has a deadline and is not passed on to the client.
//!
//! ```text
//! state               input                                    next state
//! AwaitingInitialize  the client's `initialize`                Open: it is sent, then what was parked
//! AwaitingInitialize  PARK is over, no request is parked       AwaitingInitialize: what was parked is sent
//! AwaitingInitialize  PARK is over, a request is parked        Initializing: the bridge's `initialize` is sent
//! AwaitingInitialize  the same, without auto-initialize        Open: what was parked is sent
//! Initializing        the server's result                      Open: `initialized` is sent, then what was parked
//! Initializing        the server's error, or no answer in 60 s Failed: the session ends
//! ```
//!
//! Each request of the client is answered exactly once: by the process, with the id in the client's spelling; by the
//! bridge, if the process's answer cannot be passed on (an answer without an id belongs to the only request in
//! flight); or by the bridge at the end of the session. Answers to no pending request are dropped, because the bridge
//! may have answered that request before. A request of the process that cannot be passed on is answered by the
//! bridge.
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

/// How long other messages wait for an `initialize` that they may have overtaken: 2 s.
pub(crate) const PARK: Duration = Duration::from_secs(2);
/// The most parked messages. At this number, no message of the client is received, and the server holds its posts.
pub(crate) const PARKED_MAX: usize = 64;
/// The most bytes of parked messages: 1 MiB, or one larger message. At this number, no message of the client is
/// received.
pub(crate) const PARKED_BYTES_MAX: usize = 1 << 20;

/// While this many lines wait for the process, its requests are not answered, because it does not read.
const ANSWERED_LINES_MAX: usize = 64;

/// The most characters of a process's reason for refusing the handshake that are passed on.
pub(super) const REASON_CHARS_MAX: usize = 200;

/// The id of the bridge's own `initialize`: an integer of 32 bits that no client is likely to use.
const OWN_ID: &str = "2147483647";
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The state of the protocol between one client and its process, without I/O.
#[derive(Debug)]
pub(crate) struct SessionProtocol {
    /// The params of the `initialize` that the bridge sends when the client omits it.
    own_handshake: Option<String>,
    phase: ProtocolPhase,
    /// Lines for the process.
    lines: VecDeque<Vec<u8>>,
    /// The client's requests that were not answered.
    pending: Vec<SessionRequest>,
}

#[derive(Debug)]
enum ProtocolPhase {
    /// `initialize` has not arrived yet. Messages are parked until `until`.
    AwaitingInitialize { parked: ParkedMessages, until: Option<Instant> },
    /// The bridge has sent its own `initialize`. The answer is due at `until`.
    Initializing { parked: ParkedMessages, until: Instant },
    /// Every message is passed on.
    Open,
    /// The process has ended or cannot be used, for this reason. No message is passed on.
    Failed(String),
}

#[derive(Debug, Default)]
struct ParkedMessages {
    messages: VecDeque<Message>,
    bytes: usize,
}

/// A client's request that was not answered.
#[derive(Debug)]
struct SessionRequest {
    /// The raw id in the client's spelling.
    id: Box<str>,
    /// Whether the request was added to the lines for the process.
    passed_on: bool,
}

/// What the caller has to do with a value that the process has printed.
#[derive(Debug)]
pub(crate) enum ProcessOutput {
    /// Send this message to the client.
    ForClient(Message),
    /// Nothing: the value was for the bridge.
    Consumed,
    /// Nothing: the value is an answer to no pending request.
    Unsolicited,
    /// End the session: the process has refused the handshake, for this reason.
    HandshakeRefused(String),
}

impl SessionProtocol {
    /// Creates the protocol for a process that has just been started.
    ///
    /// `own_handshake` has the params, as JSON, of the `initialize` that the bridge sends when the client omits it.
    /// With `None`, the bridge sends none: after [`PARK`], parked messages are passed on without a handshake.
    #[must_use]
    pub(crate) fn new(own_handshake: Option<String>) -> Self {
        let phase =
            ProtocolPhase::AwaitingInitialize { parked: ParkedMessages::default(), until: None };
        Self { own_handshake, phase, lines: VecDeque::new(), pending: Vec::new() }
    }

    /// Whether [`handle_message`](Self::handle_message) may be called now: too few messages are parked, and no line
    /// waits for the process.
    #[must_use]
    pub(crate) fn takes_message(&self) -> bool {
        let room = match &self.phase {
            ProtocolPhase::AwaitingInitialize { parked, .. }
            | ProtocolPhase::Initializing { parked, .. } => {
                parked.messages.len() < PARKED_MAX && parked.bytes < PARKED_BYTES_MAX
            }
            ProtocolPhase::Open | ProtocolPhase::Failed(_) => true,
        };
        room && self.lines.is_empty()
    }

    /// Handles a message of the client. Returns an error response for the client if the message is refused.
    pub(crate) fn handle_message(&mut self, message: Message, now: Instant) -> Option<Frame> {
        if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
            if id.len() > ID_BYTES_MAX {
                let why = format!("the id is longer than {ID_BYTES_MAX} bytes");
                return frame(&error_body(Some(id), code::INVALID_REQUEST, &why));
            }
            if let ProtocolPhase::Failed(why) = &self.phase {
                return frame(&error_body(Some(id), code::INTERNAL_ERROR, why));
            }
            self.pending.push(SessionRequest { id: id.into(), passed_on: false });
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

    /// Handles a value that the process has printed.
    pub(crate) fn handle_printed(&mut self, printed: Printed) -> ProcessOutput {
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

    /// Answers the process's request with the raw id `id` with an error, because the request cannot be passed on for
    /// the reason `why`. A request with an id of more than 4 KiB is not answered.
    pub(crate) fn refuse_process(&mut self, id: &str, why: &str) {
        // The answer contains the id, so its length is limited.
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
        // The process has changed the spelling of the id: restore the client's spelling.
        let body = with_id(&message, &id);
        Message::read(body, None).map_or(ProcessOutput::Unsolicited, ProcessOutput::ForClient)
    }

    /// Handles an answer of the process that cannot be passed on.
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

    /// Whether `id` is the id of the bridge's own `initialize`, which has not been answered.
    fn is_own(&self, id: &str) -> bool {
        matches!(self.phase, ProtocolPhase::Initializing { .. })
            && ids::find([OWN_ID].into_iter(), id).is_some()
    }

    /// Removes the pending request that an answer with the id `answered` belongs to. Returns its id in the client's
    /// spelling.
    fn finish_request(&mut self, answered: &str) -> Option<Box<str>> {
        // Only requests that were passed on can be answered.
        let request = self.pending.iter().filter(|pending| pending.passed_on);
        let at = ids::find(request.map(|pending| &*pending.id), answered)?;
        self.finish_nth_request(at)
    }

    /// Removes the only request in flight, if there is exactly one. Returns its id.
    fn finish_only_request(&mut self) -> Option<Box<str>> {
        let under_way = self.pending.iter().filter(|pending| pending.passed_on).count();
        if under_way == 1 { self.finish_nth_request(0) } else { None }
    }

    /// Removes the request in flight at position `nth`. Returns its id.
    fn finish_nth_request(&mut self, nth: usize) -> Option<Box<str>> {
        let mut request = self.pending.iter().enumerate().filter(|(_, pending)| pending.passed_on);
        let (at, _) = request.nth(nth)?;
        Some(self.pending.remove(at).id)
    }

    /// Handles the answer to the bridge's own `initialize`.
    fn handle_initialize_response(&mut self, answer: &Message) -> ProcessOutput {
        #[derive(Deserialize)]
        struct InitializeResponse<'m> {
            #[serde(borrow)]
            error: Option<&'m RawValue>,
        }
        match serde_json::from_str(answer.text()) {
            Ok(InitializeResponse { error: None }) => {
                self.lines.push_back(format!("{INITIALIZED}\n").into_bytes());
                self.open();
                ProcessOutput::Consumed
            }
            Ok(InitializeResponse { error: Some(error) }) => self.handle_refusal(error.get()),
            Err(error) => self.handle_refusal(&error.to_string()),
        }
    }

    fn handle_refusal(&mut self, why: &str) -> ProcessOutput {
        let why: String = why.chars().take(REASON_CHARS_MAX).collect();
        self.phase = ProtocolPhase::Failed(why.clone());
        ProcessOutput::HandshakeRefused(why)
    }

    /// The next deadline, at which [`handle_timeout`](Self::handle_timeout) has to be called.
    #[must_use]
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            ProtocolPhase::AwaitingInitialize { until, .. } => *until,
            ProtocolPhase::Initializing { until, .. } => Some(*until),
            ProtocolPhase::Open | ProtocolPhase::Failed(_) => None,
        }
    }

    /// Handles the deadline of [`poll_timeout`](Self::poll_timeout), if it has passed: the end of the wait for the
    /// client's `initialize`, or for the answer to the bridge's own. In the second case the session must end, and the
    /// reason is returned; it completes the sentence "MCP server process ..".
    #[must_use]
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<String> {
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
            // Only a request shows that the client omits the handshake.
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

    /// The next line for the process, with its line feed.
    pub(crate) fn poll_line(&mut self) -> Option<Vec<u8>> {
        self.lines.pop_front()
    }

    /// The last lines for the process when the client has left: those that still wait, and a cancellation for each
    /// request in flight.
    #[must_use]
    pub(crate) fn last_words(&self) -> Vec<u8> {
        let mut words: Vec<u8> = self.lines.iter().flatten().copied().collect();
        for SessionRequest { id, .. } in self.pending.iter().filter(|pending| pending.passed_on) {
            let params = format!(r#"{{"requestId":{id},"reason":"the client has gone"}}"#);
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#
            );
            words.extend_from_slice(on_one_line(&text).as_bytes());
            words.push(b'\n');
        }
        words
    }

    /// Ends the protocol because the process has ended, for the reason `why`. Returns an error response for each
    /// pending request, in the order of the requests.
    pub(crate) fn abandon(&mut self, why: &str) -> Vec<Frame> {
        self.phase = ProtocolPhase::Failed(why.to_owned());
        self.lines.clear();
        let pending = core::mem::take(&mut self.pending);
        let answer =
            |SessionRequest { id, .. }| frame(&error_body(Some(&id), code::INTERNAL_ERROR, why));
        pending.into_iter().filter_map(answer).collect()
    }

    /// Passes on the parked messages, and every message from now on.
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

/// A message as one line, with its line feed.
fn line(message: Message) -> Vec<u8> {
    let mut line = match on_one_line(message.text()) {
        Cow::Owned(line) => line.into_bytes(),
        Cow::Borrowed(_) => message.into_body(),
    };
    line.push(b'\n');
    line
}

/// The response `message` with the id `id` instead of its own.
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
    // Only a body of more than 4 GiB could fail, and the lengths of ids and reasons are limited.
    Frame::message(body).ok()
}

#[cfg(test)]
mod tests;
