//! One session's conversation with its own process: order, the handshake, and who waits for what.
//!
//! Knows: JSON-RPC, and of MCP that a session begins with `initialize`, and how a request is taken
//! back. Does not know: pipes, streams, or a clock; the time is an argument.
//!
//! Theory of operation. Messages of the client go in and lines for the process come out. Posts may
//! overtake each other, so until `initialize` has gone out everything else is parked, for as long as
//! [`PARK`]. If it does not come, the client is one that lost its stream, opened another by itself and
//! goes on as if nothing had happened; its new process knows nothing of it. Then the handshake is ours:
//! with an integer for an id, as some servers know no other, and with an end to the waiting for its
//! answer. What is answered to it is never the client's.
//!
//! ```text
//!            initialize                        PARK over, a request waits
//!  Open ◀──────────────── Parking ────────────────────────────▶ Shaking hands
//!    ▲                       │ PARK over, none does (flushed)          │ answered
//!    ╰── not to shake hands ─┴──────────▶ Parking                      ▼
//!                                                        Open: "initialized", then what was parked
//! ```
//!
//! Each request that is taken is answered once: by the process, with the id as the client spelled it; by
//! the bridge, where the process has answered with what cannot be passed on (to the request whose id it
//! has, or to the only one under way if it has none); or by the end of the session. Answers that nobody
//! waits for are dropped, or one that comes after the bridge's would be a second one. A request of the
//! process's own that cannot be passed on is answered by the bridge as well.

use core::time::Duration;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Instant;

use mcp_sse_core::Frame;
use mcp_sse_core::jsonrpc::{Kind, Message, code, error_body, same_id};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::handshakes::HANDSHAKE;
use super::ids::{self, ID_BYTES_MAX};
use super::lenient::{Lost, lost_body};
use super::lines::on_one_line;
use super::output::Printed;

/// For how long messages wait for an `initialize` that may have been overtaken.
pub const PARK: Duration = Duration::from_secs(2);
/// With so many messages parked no more are taken from the client, who notices by its posts being
/// held.
pub const PARKED_MAX: usize = 64;
/// With so many bytes parked likewise; one larger message alone is parked.
pub const PARKED_BYTES_MAX: usize = 1 << 20;

/// With so many lines waiting for the process, what it asks is not answered: it does not read.
const ANSWERED_LINES_MAX: usize = 64;

/// So much of the reason for which a process refuses the handshake is told.
pub(super) const REASON_CHARS_MAX: usize = 200;

/// The id of the bridge's own `initialize`: an integer that any server can hold, and none that clients
/// begin to count at.
const OWN_ID: &str = "2147483647";
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// One session's side of its process.
#[derive(Debug)]
pub struct Conversation {
    /// The params of the handshake that is made up for a client that leaves it out, if it is.
    own_handshake: Option<String>,
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
    ShakingHands { parked: Parked, until: Instant },
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
    /// It was for the bridge, which has done what there is to do.
    Ours,
    /// It is an answer that nobody waits for, any more or at all.
    Unasked,
    /// The process has refused the handshake, and said why. Nothing can be done with it.
    Refused(String),
}

impl Conversation {
    /// With a process that has just been started. `own_handshake` has the params of the `initialize`
    /// that is made up for where the client leaves it out, as JSON; `None` if none is.
    #[must_use]
    pub fn new(own_handshake: Option<String>) -> Self {
        let phase = Phase::Parking { parked: Parked::default(), until: None };
        Self { own_handshake, phase, lines: VecDeque::new(), waiting: Vec::new() }
    }

    /// Whether a message of the client can be taken in. Not while what came before waits.
    #[must_use]
    pub fn takes_message(&self) -> bool {
        let room = match &self.phase {
            Phase::Parking { parked, .. } | Phase::ShakingHands { parked, .. } => {
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
            Phase::ShakingHands { parked, .. } => parked.add(message),
            Phase::Open => self.pass_on(message),
            Phase::Failed(_) => {}
        }
        None
    }

    /// The process has printed this.
    pub fn handle_printed(&mut self, printed: Printed) -> Said {
        match printed {
            Printed::Message(message) if message.kind() == Kind::Response => {
                self.handle_response(message)
            }
            Printed::Message(message) => Said::ForClient(message),
            Printed::Lost(lost) => self.handle_lost(&lost),
            Printed::Unread(unread) => {
                self.answer_process(unread.answer());
                Said::Ours
            }
        }
    }

    /// A request of the process's, with this raw id, cannot be passed on for this reason.
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

    fn handle_response(&mut self, message: Message) -> Said {
        let answered = message.id().unwrap_or_default();
        if self.is_own(answered) {
            return self.handle_hand(&message);
        }
        let Some(id) = self.settle(answered) else { return Said::Unasked };
        if *id == *answered {
            return Said::ForClient(message);
        }
        // It spells the id in another way than the client.
        let body = with_id(&message, &id);
        Message::read(body, None).map_or(Said::Unasked, Said::ForClient)
    }

    /// An answer that cannot be passed on.
    fn handle_lost(&mut self, Lost { id, why, error }: &Lost) -> Said {
        let own = match id {
            Some(id) => self.is_own(id),
            None => matches!(self.phase, Phase::ShakingHands { .. }),
        };
        if own {
            return self.refused(error.as_deref().unwrap_or(why));
        }
        let asked = match id {
            Some(id) => self.settle(id),
            None => self.settle_only(),
        };
        let Some(id) = asked else { return Said::Unasked };
        let body = lost_body(&id, why, error.as_deref());
        Message::read(body, None).map_or(Said::Unasked, Said::ForClient)
    }

    /// Whether this id is that of our own `initialize`, and that has not been answered.
    fn is_own(&self, id: &str) -> bool {
        matches!(self.phase, Phase::ShakingHands { .. })
            && ids::find([OWN_ID].into_iter(), id).is_some()
    }

    /// The request that is answered under this id waits no more. Returns the id as the client spelled it.
    fn settle(&mut self, answered: &str) -> Option<Box<str>> {
        // What the process was not asked it does not answer.
        let asked = self.waiting.iter().filter(|waiting| waiting.passed_on);
        let at = ids::find(asked.map(|waiting| &*waiting.id), answered)?;
        self.settle_nth(at)
    }

    /// The same, if there is but one under way.
    fn settle_only(&mut self) -> Option<Box<str>> {
        let under_way = self.waiting.iter().filter(|waiting| waiting.passed_on).count();
        if under_way == 1 { self.settle_nth(0) } else { None }
    }

    /// The same, for the one that is under way behind so many others.
    fn settle_nth(&mut self, nth: usize) -> Option<Box<str>> {
        let mut asked = self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.passed_on);
        let (at, _) = asked.nth(nth)?;
        Some(self.waiting.remove(at).id)
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
            Phase::ShakingHands { until, .. } => Some(*until),
            Phase::Open | Phase::Failed(_) => None,
        }
    }

    /// `initialize` may have had its time, or the answer to ours. Returns why the process is of no use,
    /// if it is.
    #[must_use]
    pub fn handle_timeout(&mut self, now: Instant) -> Option<String> {
        if self.poll_timeout().is_none_or(|until| now < until) {
            return None;
        }
        let Phase::Parking { parked, until } = &mut self.phase else {
            let why = format!("did not answer initialize within {HANDSHAKE:?}");
            self.phase = Phase::Failed(why.clone());
            return Some(why);
        };
        *until = None;
        let asks = parked.messages.iter().any(|message| message.kind() == Kind::Request);
        if !asks {
            // No request yet: which is what says whether the client has forgotten the handshake.
            let parked = core::mem::take(parked);
            parked.messages.into_iter().for_each(|message| self.pass_on(message));
        } else if let Some(params) = &self.own_handshake {
            let parked = core::mem::take(parked);
            self.lines.push_back(own_initialize(params));
            self.phase = Phase::ShakingHands { parked, until: now + HANDSHAKE };
        } else {
            self.open();
        }
        None
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
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#
            );
            words.extend_from_slice(on_one_line(&text).as_bytes());
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
        if let Phase::Parking { parked, .. } | Phase::ShakingHands { parked, .. } = phase {
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
        self.lines.push_back(line(message));
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
