//! Serves one session with a process of its own.
//!
//! Knows: the two pipes and the stream, their backpressure, and every way in which the session can end.
//! Does not know: the order of messages (see `session_protocol`), how a process is ended (see `ending`).
//!
//! Theory of operation: backpressure in both directions. While a client does not read, the process's stdout is not
//! read, so the process blocks when its pipe is full. While a process does not read, its client's messages are not
//! received, and the server holds that client's posts.
//!
//! Decision: the end of a pipe is not yet an exit. The process has 1 s to report how it exited; then its
//! session ends without knowing. A process that cannot be started is known by the statuses 126 and 127, as
//! from a shell. A server that closes its stdin is noticed when the pipe hangs up, and not only at the next
//! write.
//!
//! Decision: the exit is queried before the output is read, and counts only when there was nothing to read,
//! so that the last output of a process is never lost. A turn reads one buffer at most, so that a process
//! that prints without end does not occupy the thread.

use core::cell::RefCell;
use core::future::poll_fn;
use core::ops::ControlFlow::{self, Break, Continue};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;
use std::{fmt, io};

use mcp_sse_core::jsonrpc::{Kind, code, error_body};
use mcp_sse_core::{Frame, SendError};
use mcp_sse_driver::{LogThrottle, Session};
use smol::{Timer, future};

use super::child::{Child, Exit};
use super::children::Children;
use super::command::ServerCommand;
use super::handshakes::{ClientFingerprint, Handshakes};
use super::output::ServerOutput;
use super::printed::Printed;
use super::session_protocol::{ProcessOutput, SessionProtocol};
use super::stderr::printable;

/// How long a process may take to exit after it has closed its stdout or stdin. Then the session ends without the
/// exit status.
pub(super) const EXIT: Duration = Duration::from_secs(1);
/// The most steps that a session takes before it lets other tasks run. It also stops after [`READ_BYTES`] were read.
const STEPS_PER_TURN: u32 = 64;
/// The most bytes that are read from a process at once, and between two turns of other tasks on this thread. A full
/// pipe of short lines would otherwise take long.
const READ_BYTES: usize = 8 << 10;

thread_local! {
    /// The buffer for reads, shared by all sessions on this thread.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Serves sessions, each with a process of its own. The process is started at the session's first message. Cheap to
/// clone.
///
/// The example at the [head of the crate](crate) serves a command with it.
#[derive(Clone, Debug)]
pub struct PerSession {
    children: Children,
    command: ServerCommand,
    auto_initialize: bool,
    handshakes: Handshakes,
}

/// Why a session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SessionEnd {
    ClientGone,
    NotStarted,
    Exited(Exit),
    OutputClosed,
    InputClosed,
    Refused(String),
    /// The process has missed a deadline. The text completes the sentence "MCP server process ..".
    Late(String),
}

impl fmt::Display for SessionEnd {
    /// Writes the reason for the client.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientGone => f.write_str("the client has gone"),
            Self::NotStarted => f.write_str("MCP server process could not be started"),
            Self::Exited(exit) if exit.was_not_run() => {
                write!(f, "MCP server process could not be started ({exit})")
            }
            Self::Exited(exit) => write!(f, "MCP server process exited ({exit})"),
            Self::OutputClosed => f.write_str("MCP server process closed its output"),
            Self::InputClosed => f.write_str("MCP server process closed its input"),
            Self::Refused(why) => write!(f, "MCP server process refused to initialize: {why}"),
            Self::Late(what) => write!(f, "MCP server process {what}"),
        }
    }
}

impl PerSession {
    /// Creates a handler that runs `command` for each session.
    ///
    /// If `auto_initialize` is true, the bridge initializes the server when a client omits the handshake. Clients
    /// that have lost their stream and open another one do that.
    ///
    /// ```
    /// use mcp_sse_bridge::PerSession;
    /// use mcp_sse_bridge::children::Children;
    /// use mcp_sse_bridge::command::ServerCommand;
    ///
    /// let sessions = PerSession::new(Children::new()?, ServerCommand::shell("my-server"), true);
    /// assert_eq!(sessions.command().to_string(), "sh -c my-server");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn new(children: Children, command: ServerCommand, auto_initialize: bool) -> Self {
        Self { children, command, auto_initialize, handshakes: Handshakes::default() }
    }

    /// The command that is run for each session.
    #[must_use]
    pub const fn command(&self) -> &ServerCommand {
        &self.command
    }

    /// The processes of the bridge, including those of other commands.
    #[must_use]
    pub const fn children(&self) -> &Children {
        &self.children
    }

    /// Serves one session until its client leaves or its process ends. When the process ends, the client's unanswered
    /// requests are answered with an error.
    pub async fn serve(&self, mut session: Session) {
        // The process starts with the first message, because clients open streams that they never use.
        let Some(first) = session.recv().await else { return };
        let client = self.handshakes.client(session.head());
        let own_handshake = self.auto_initialize.then(|| self.handshakes.params(client));
        self.handshakes.note(client, &first);
        let mut protocol = SessionProtocol::new(own_handshake);
        let outgoing = protocol.handle_message(first, Instant::now()).into_iter().collect();
        let Some(child) = self.start_process(&mut session).await else { return };
        let name = session.id().to_string();
        let output = ServerOutput::new(&*name, self.children.status().clone())
            .line_bytes_max(self.command.longest_line());
        let mut relay = SessionRelay {
            session,
            client,
            handshakes: self.handshakes.clone(),
            child: child.ok(),
            protocol,
            output,
            turn_bytes: 0,
            writing: Vec::new(),
            written: 0,
            outgoing,
            sending: None,
            timer: Timer::never(),
            timer_at: None,
            input_closed: false,
            output_closed: false,
            exits_until: None,
        };
        let end = match relay.child {
            Some(_) => poll_fn(|cx| relay.poll(cx)).await,
            None => SessionEnd::NotStarted,
        };
        if end == SessionEnd::ClientGone {
            return;
        }
        // The reason may contain text of the process.
        static OVER: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = OVER.tell() {
            let reason = printable(end.to_string().as_bytes());
            log::warn!(
                event = "session_failed",
                session = relay.session.id(),
                reason = reason,
                traceparent = relay.session.head().traceparent(),
                suppressed = unsaid;
                "session {name} is ended: {reason}{unsaid}"
            );
        }
        if !relay.output.has_spoken() {
            self.children.status().note_failure();
        }
        relay.answer_abandoned(&end.to_string()).await;
    }

    /// Starts the process of a session when a slot is free. Returns `None` if the client leaves before. An error has
    /// been logged.
    async fn start_process(&self, session: &mut Session) -> Option<io::Result<Child>> {
        let name = session.id().to_string();
        let head = session.head().clone();
        let gone = async {
            poll_fn(|cx| session.poll_closed(cx)).await;
            None
        };
        let slot = future::or(async { Some(self.children.slot().await) }, gone).await?;
        let spawned = self.children.spawn_in(slot, &self.command, Some(&head), &*name).await;
        match &spawned {
            Ok(child) => log::debug!(
                event = "process_started",
                owner = name,
                pid = child.pid();
                "{name}: server process {} was started",
                child.pid()
            ),
            Err(error) => {
                static UNSTARTED: LogThrottle = LogThrottle::new();
                if let Some(unsaid) = UNSTARTED.tell() {
                    log::error!(
                        event = "process_unstarted",
                        owner = name,
                        error:% = error,
                        suppressed = unsaid;
                        "{name}: cannot start the server process: {error}{unsaid}"
                    );
                }
            }
        }
        Some(spawned)
    }
}

/// One session and its process.
struct SessionRelay {
    session: Session,
    client: ClientFingerprint,
    handshakes: Handshakes,
    child: Option<Child>,
    protocol: SessionProtocol,
    output: ServerOutput,
    /// The bytes read from the process in this turn.
    turn_bytes: usize,
    /// The line that is being written to the process, and the number of bytes written.
    writing: Vec<u8>,
    written: usize,
    /// Frames for the client that the bridge itself has made.
    outgoing: VecDeque<Frame>,
    /// A frame that waits for room in the session's queue.
    sending: Option<PendingSend>,
    timer: Timer,
    timer_at: Option<Instant>,
    /// Whether the process has closed its stdin, and its stdout.
    input_closed: bool,
    output_closed: bool,
    /// The deadline for the exit of the process, once one of them is closed.
    exits_until: Option<Instant>,
}

type PendingSend = Pin<Box<dyn Future<Output = Result<(), SendError>>>>;

/// Whether the step made progress, or how the session has ended.
type RelayStep = ControlFlow<SessionEnd, bool>;

impl SessionRelay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        self.turn_bytes = 0;
        for _ in 0..STEPS_PER_TURN {
            match self.poll_once(cx) {
                Break(end) => return Poll::Ready(end),
                Continue(false) => return Poll::Pending,
                Continue(true) => {}
            }
            if self.turn_bytes >= READ_BYTES {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> RelayStep {
        // The exit is polled before the output, so that everything printed before the exit is read.
        let exit = self.child.as_mut().map(|child| child.poll_exit(cx));
        if matches!(exit, Some(Poll::Ready(_))) {
            // The rest of the output is delivered without a deadline, at the speed of the client.
            self.exits_until = None;
        }
        let up = self.poll_client_to_process(cx)?;
        let down = self.poll_process_to_client(cx)?;
        let time = self.poll_time(cx)?;
        if up || down || time || self.poll_input_closed(cx) {
            return Continue(true);
        }
        // The exit is handled when all output has been delivered.
        match exit {
            Some(Poll::Ready(_)) if self.is_sending() => Continue(false),
            // Another process may hold its stdout open. The output ends here nevertheless.
            Some(Poll::Ready(_)) if !self.output_closed => {
                self.output_closed = true;
                self.output.end();
                Continue(true)
            }
            Some(Poll::Ready(exit)) => Break(SessionEnd::Exited(exit)),
            Some(Poll::Pending) | None => Continue(false),
        }
    }

    fn is_sending(&self) -> bool {
        self.sending.is_some() || !self.outgoing.is_empty()
    }

    /// Passes messages of the client to the process.
    fn poll_client_to_process(&mut self, cx: &mut Context<'_>) -> RelayStep {
        if self.written < self.writing.len() {
            let rest = self.writing.get(self.written..).unwrap_or_default();
            if !self.input_closed
                && let Some(child) = &mut self.child
                && let Poll::Ready(written) = child.poll_write(cx, rest)
            {
                match written {
                    Ok(count) => self.written += count,
                    Err(_) => {
                        self.input_closed = true;
                        self.expect_exit();
                    }
                }
                return Continue(true);
            }
        } else if let Some(line) = self.protocol.poll_line() {
            self.writing = line;
            self.written = 0;
            return Continue(true);
        }
        let room = self.protocol.takes_message() && self.outgoing.is_empty();
        if room && self.written == self.writing.len() {
            match self.session.poll_recv(cx) {
                Poll::Ready(Some(message)) => {
                    self.handshakes.note(self.client, &message);
                    self.outgoing.extend(self.protocol.handle_message(message, Instant::now()));
                    return Continue(true);
                }
                Poll::Ready(None) => return Break(SessionEnd::ClientGone),
                Poll::Pending => {}
            }
        } else if self.session.poll_closed(cx).is_ready() {
            return Break(SessionEnd::ClientGone);
        }
        Continue(false)
    }

    /// Passes output of the process to the client.
    fn poll_process_to_client(&mut self, cx: &mut Context<'_>) -> RelayStep {
        if let Some(sending) = &mut self.sending {
            let Poll::Ready(sent) = sending.as_mut().poll(cx) else { return Continue(false) };
            self.sending = None;
            return if sent.is_ok() { Continue(true) } else { Break(SessionEnd::ClientGone) };
        }
        if let Some(frame) = self.outgoing.pop_front() {
            return self.send(frame, None);
        }
        if let Some(printed) = self.output.next_printed() {
            return self.relay_printed(printed);
        }
        let Some(child) = self.child.as_mut().filter(|_| !self.output_closed) else {
            return Continue(false);
        };
        let read = BUFFER.with_borrow_mut(|buffer| {
            let read = child.poll_read(cx, buffer);
            if let Poll::Ready(Ok(count)) = read {
                self.output.feed(buffer.get(..count).unwrap_or_default());
            }
            read
        });
        match read {
            Poll::Pending => return Continue(false),
            Poll::Ready(Ok(count @ 1..)) => self.turn_bytes += count,
            Poll::Ready(Ok(0) | Err(_)) => {
                self.output_closed = true;
                self.output.end();
                self.expect_exit();
            }
        }
        Continue(true)
    }

    /// Passes on one value that the process has printed.
    fn relay_printed(&mut self, printed: Printed) -> RelayStep {
        match self.protocol.handle_printed(printed) {
            ProcessOutput::ForClient(message) => {
                let answered = message.id().filter(|_| message.kind() == Kind::Response);
                let asked = message.id().filter(|_| message.kind() == Kind::Request);
                match Frame::message(message.body()) {
                    Ok(frame) => self.send(frame, asked),
                    // The only possible error is a message of more than 4 GiB.
                    Err(_) => {
                        self.refuse_large(message.body().len(), answered, asked);
                        Continue(true)
                    }
                }
            }
            ProcessOutput::Consumed => Continue(true),
            ProcessOutput::Unsolicited => {
                log::debug!(
                    event = "answer_unexpected",
                    session = self.session.id();
                    "session {}: an answer to no pending request is dropped",
                    self.session.id()
                );
                Continue(true)
            }
            ProcessOutput::HandshakeRefused(why) => Break(SessionEnd::Refused(why)),
        }
    }

    /// Sends the client a frame. `asked` is the raw id of the request, if the frame is a request of the process.
    fn send(&mut self, frame: Frame, asked: Option<&str>) -> RelayStep {
        match self.session.try_send(frame.clone()) {
            Ok(()) => Continue(true),
            Err(SendError::Gone) => Break(SessionEnd::ClientGone),
            Err(SendError::TooLarge) => {
                self.refuse_large(frame.wire_len(), frame.answered_id(), asked);
                Continue(true)
            }
            Err(_) => {
                let sender = self.session.sender();
                self.sending = Some(Box::pin(async move { sender.send(frame).await }));
                Continue(true)
            }
        }
    }

    /// Handles a message of the process that is too large for the client's queue. If it is an answer, the client gets
    /// an error; if it is a request, the process gets one.
    fn refuse_large(&mut self, length: usize, answered: Option<&str>, asked: Option<&str>) {
        static TOO_LARGE: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = TOO_LARGE.tell() {
            log::error!(
                event = "message_too_large",
                session = self.session.id(),
                bytes = length,
                suppressed = unsaid;
                "session {}: a message of {length} bytes is too large for the client's queue{unsaid}",
                self.session.id()
            );
        }
        if let Some(id) = answered {
            let why = "the answer is larger than any queue";
            let answer = error_body(Some(id), code::INTERNAL_ERROR, why);
            self.outgoing.extend(Frame::message(&answer).ok());
        }
        if let Some(id) = asked {
            self.protocol.refuse_process(id, "the request is larger than the queue of any client");
        }
    }

    /// Checks whether the process has closed its stdin, which is noticed here without a write. Returns true if it
    /// has.
    fn poll_input_closed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(child) = self.child.as_mut().filter(|_| !self.input_closed) else { return false };
        if child.poll_input_closed(cx).is_pending() {
            return false;
        }
        self.input_closed = true;
        self.expect_exit();
        true
    }

    fn expect_exit(&mut self) {
        self.exits_until.get_or_insert(Instant::now() + EXIT);
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> RelayStep {
        let at = self.protocol.poll_timeout().into_iter().chain(self.exits_until).min();
        if at != self.timer_at {
            self.timer_at = at;
            self.timer = at.map_or(Timer::never(), Timer::at);
        }
        if at.is_none() || Pin::new(&mut self.timer).poll(cx).is_pending() {
            return Continue(false);
        }
        self.timer_at = None;
        let now = Instant::now();
        if self.exits_until.is_some_and(|until| now >= until) {
            return Break(if self.output_closed {
                SessionEnd::OutputClosed
            } else {
                SessionEnd::InputClosed
            });
        }
        match self.protocol.handle_timeout(now) {
            Some(why) => Break(SessionEnd::Late(why)),
            None => Continue(true),
        }
    }

    /// Answers every unanswered request of the client with an error, until the client has left.
    async fn answer_abandoned(mut self, why: &str) {
        // The end of the process begins now, because the client may not read for a long time.
        drop(self.child.take());
        if let Some(sending) = self.sending.take() {
            let _gone = sending.await;
        }
        let mut frames = core::mem::take(&mut self.outgoing);
        frames.extend(self.protocol.abandon(why));
        // Messages that were accepted before and not received yet.
        let now = Instant::now();
        while let Some(Some(message)) = future::poll_once(self.session.recv()).await {
            frames.extend(self.protocol.handle_message(message, now));
        }
        for frame in frames {
            if self.session.send(frame).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for SessionRelay {
    /// Cancels the requests in flight at the process, and begins to end the process.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let mut last_words = self.writing.split_off(self.written);
            last_words.extend(self.protocol.last_words());
            child.end(last_words);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use mcp_sse_core::Config;
    use mcp_sse_core::jsonrpc::Message;
    use mcp_sse_tests::adapter::{RunningServer, SMOL, handler};
    use mcp_sse_tests::client::Stream;
    use mcp_sse_tests::{PATIENCE, finish};

    use super::*;
    use crate::handshakes::HANDSHAKE_TIMEOUT;
    use crate::session_protocol::PARK;

    /// The deadline of the handshake is in the past, so the test does not wait for it.
    #[test]
    fn handshake_deadline_missed_ends_the_session_with_answers() {
        let (sender, sessions) = mpsc::channel();
        let keeps = handler(move |session| {
            let sent = sender.send(session);
            async move { sent.expect("the test waits") }
        });
        let server = RunningServer::start(&SMOL, Config::default(), keeps);
        let mut stream = Stream::open(server.address());
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        let mut protocol = SessionProtocol::new(Some("{}".into()));
        let begun = Instant::now().checked_sub(PARK + HANDSHAKE_TIMEOUT).expect("a time");
        let request = r#"{"jsonrpc":"2.0","id":7,"method":"m"}"#;
        let request = Message::read(request.into(), None).expect("JSON");
        assert!(protocol.handle_message(request, begun).is_none());
        assert_eq!(protocol.handle_timeout(begun + PARK), None);
        let handshakes = Handshakes::default();
        let mut relay = SessionRelay {
            client: handshakes.client(session.head()),
            session,
            handshakes,
            child: None,
            protocol,
            output: ServerOutput::new("test", Default::default()),
            turn_bytes: 0,
            writing: Vec::new(),
            written: 0,
            outgoing: VecDeque::new(),
            sending: None,
            timer: Timer::never(),
            timer_at: None,
            input_closed: false,
            output_closed: false,
            exits_until: None,
        };
        let end = finish("its end", poll_fn(|cx| relay.poll(cx)));
        let why = "MCP server process did not answer initialize within 60s";
        assert_eq!(end.to_string(), why);
        finish("its answers", relay.answer_abandoned(why));
        let error = format!(r#"{{"code":-32603,"message":"{why}"}}"#);
        assert_eq!(stream.message(), format!(r#"{{"jsonrpc":"2.0","id":7,"error":{error}}}"#));
    }
}
