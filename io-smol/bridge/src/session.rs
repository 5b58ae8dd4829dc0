//! Serves one session with a process of its own.
//!
//! Knows: the two pipes and the stream, who waits for whom, and every way in which it can end.
//! Does not know: what is said (see `conversation`), how a process is ended (see `child`).
//!
//! Theory of operation. Whatever cannot go on stops what feeds it, and nothing is read that has no
//! place: a client that does not take what it is sent stops the reading of its process's stdout, and so
//! in the end that process; a process that does not read stops the taking of its client's messages, and
//! the server holds that client's posts.

use core::cell::RefCell;
use core::future::poll_fn;
use core::ops::ControlFlow::{self, Break, Continue};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use mcp_sse_core::jsonrpc::{Kind, code, error_body};
use mcp_sse_core::{Frame, SendError};
use mcp_sse_driver::{LogThrottle, Session};
use smol::{Timer, future};

use super::child::{Child, Children, Exit};
use super::command::Command;
use super::conversation::{Conversation, Said};
use super::handshakes::{Client, Handshakes};
use super::output::Output;
use super::stderr::printable;

/// When its output has ended or its input is closed, a process has so long to exit before the session
/// ends without knowing how it did.
pub(super) const EXIT: Duration = Duration::from_secs(1);
/// So much is done for one session before others have their turn; or as much as [`READ_BYTES`] of what
/// its process prints.
const MOVES_BATCH: u32 = 64;
/// Bytes read from a process at once, and in one turn: of a pipe full of the shortest lines the others on
/// this thread would notice.
const READ_BYTES: usize = 8 << 10;

thread_local! {
    /// What is read goes through here; no session holds a buffer of its own.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Serves sessions, each with a process of its own that is started at its first message.
#[derive(Clone, Debug)]
pub struct PerSession {
    children: Children,
    command: Command,
    shakes_hands: bool,
    handshakes: Handshakes,
}

/// Why there is no more to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Over {
    ClientGone,
    NotStarted,
    Exited(Exit),
    OutputClosed,
    InputClosed,
    Refused(String),
    /// It has not done in time what it has to, said so that it goes on "MCP server process ..".
    Late(String),
}

impl fmt::Display for Over {
    /// As the client is told.
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
    /// With this command. `shakes_hands` says whether the handshake is made up for where a client
    /// leaves it out, as those do that lost their stream and opened another.
    #[must_use]
    pub fn new(children: Children, command: Command, shakes_hands: bool) -> Self {
        Self { children, command, shakes_hands, handshakes: Handshakes::default() }
    }

    /// What is run for each.
    #[must_use]
    pub const fn command(&self) -> &Command {
        &self.command
    }

    /// The processes.
    #[must_use]
    pub const fn children(&self) -> &Children {
        &self.children
    }

    /// Serves one session until its client leaves or its process ends.
    pub async fn serve(&self, mut session: Session) {
        // Clients open streams that they never use: those cost no process.
        let Some(first) = session.recv().await else { return };
        let name = session.id().to_string();
        let head = session.head().clone();
        let client = self.handshakes.client(&head);
        let own_handshake = self.shakes_hands.then(|| self.handshakes.params(client));
        self.handshakes.note(client, &first);
        let mut talk = Conversation::new(own_handshake);
        let mut outgoing = VecDeque::new();
        outgoing.extend(talk.handle_message(first, Instant::now()));
        let gone = async {
            poll_fn(|cx| session.poll_closed(cx)).await;
            None
        };
        // Whoever leaves while there are as many processes as there may be waits for none.
        let place = future::or(async { Some(self.children.place().await) }, gone).await;
        let Some(place) = place else { return };
        let spawned = self.children.spawn_in(place, &self.command, Some(&head), &*name).await;
        let child = match spawned {
            Ok(child) => {
                log::debug!("{name}: process {} was started", child.pid());
                Some(child)
            }
            Err(error) => {
                static UNSTARTED: LogThrottle = LogThrottle::new();
                if let Some(unsaid) = UNSTARTED.tell() {
                    log::error!("{name}: cannot start a process: {error}{unsaid}");
                }
                None
            }
        };
        let output = Output::new(&*name, self.children.status().clone())
            .line_bytes_max(self.command.longest_line());
        let mut relay = Relay {
            session,
            client,
            handshakes: self.handshakes.clone(),
            child,
            talk,
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
        let over = match relay.child {
            Some(_) => poll_fn(|cx| relay.poll(cx)).await,
            None => Over::NotStarted,
        };
        if over == Over::ClientGone {
            return;
        }
        // The reason may be in the words of the process.
        static OVER: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = OVER.tell() {
            log::warn!("{name}: {}{unsaid}", printable(over.to_string().as_bytes()));
        }
        if !relay.output.has_spoken() {
            self.children.status().note_failure();
        }
        relay.apologize(&over.to_string()).await;
    }
}

/// One session and its process.
struct Relay {
    session: Session,
    client: Client,
    handshakes: Handshakes,
    child: Option<Child>,
    talk: Conversation,
    output: Output,
    /// Bytes read from the process in this turn: most of them may have been no messages.
    turn_bytes: usize,
    /// The line that is being written, and how much of it has been.
    writing: Vec<u8>,
    written: usize,
    /// What the client is told besides what the process says.
    outgoing: VecDeque<Frame>,
    /// A frame that waits for room.
    sending: Option<Sending>,
    timer: Timer,
    timer_at: Option<Instant>,
    /// The process does not read any more; it does not write any more.
    input_closed: bool,
    output_closed: bool,
    /// One of them is so, and it has until then to exit.
    exits_until: Option<Instant>,
}

type Sending = Pin<Box<dyn Future<Output = Result<(), SendError>>>>;

/// Whether anything could be done; or it is over.
type Moved = ControlFlow<Over, bool>;

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        self.turn_bytes = 0;
        for _ in 0..MOVES_BATCH {
            match self.poll_once(cx) {
                Break(over) => return Poll::Ready(over),
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

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Moved {
        // Looked at before its output is: whatever it said last is then there to be read.
        let exit = self.child.as_mut().map(|child| child.poll_exit(cx));
        if matches!(exit, Some(Poll::Ready(_))) {
            // It has: what it said before takes the time that its client takes.
            self.exits_until = None;
        }
        let up = self.poll_up(cx)?;
        let down = self.poll_down(cx)?;
        let time = self.poll_time(cx)?;
        if up || down || time || self.poll_input_closed(cx) {
            return Continue(true);
        }
        // Only when nothing it said is left.
        match exit {
            Some(Poll::Ready(_)) if self.is_sending() => Continue(false),
            // Others may hold its stdout: then this is how its last line ends.
            Some(Poll::Ready(_)) if !self.output_closed => {
                self.output_closed = true;
                self.output.end();
                Continue(true)
            }
            Some(Poll::Ready(exit)) => Break(Over::Exited(exit)),
            Some(Poll::Pending) | None => Continue(false),
        }
    }

    fn is_sending(&self) -> bool {
        self.sending.is_some() || !self.outgoing.is_empty()
    }

    /// From the client to the process.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Moved {
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
        } else if let Some(line) = self.talk.poll_line() {
            self.writing = line;
            self.written = 0;
            return Continue(true);
        }
        let room = self.talk.takes_message() && self.outgoing.is_empty();
        if room && self.written == self.writing.len() {
            match self.session.poll_recv(cx) {
                Poll::Ready(Some(message)) => {
                    self.handshakes.note(self.client, &message);
                    self.outgoing.extend(self.talk.handle_message(message, Instant::now()));
                    return Continue(true);
                }
                Poll::Ready(None) => return Break(Over::ClientGone),
                Poll::Pending => {}
            }
        } else if self.session.poll_closed(cx).is_ready() {
            return Break(Over::ClientGone);
        }
        Continue(false)
    }

    /// From the process to the client.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Moved {
        if let Some(sending) = &mut self.sending {
            let Poll::Ready(sent) = sending.as_mut().poll(cx) else { return Continue(false) };
            self.sending = None;
            return if sent.is_ok() { Continue(true) } else { Break(Over::ClientGone) };
        }
        if let Some(frame) = self.outgoing.pop_front() {
            return self.send(frame, None);
        }
        if let Some(printed) = self.output.next_printed() {
            return match self.talk.handle_printed(printed) {
                Said::ForClient(message) => {
                    let answered = message.id().filter(|_| message.kind() == Kind::Response);
                    let asked = message.id().filter(|_| message.kind() == Kind::Request);
                    match Frame::message(message.body()) {
                        Ok(frame) => self.send(frame, asked),
                        // 4 GiB are the one thing that a message can have too much of.
                        Err(_) => {
                            self.refuse_large(message.body().len(), answered, asked);
                            Continue(true)
                        }
                    }
                }
                Said::Ours => Continue(true),
                Said::Unasked => {
                    log::debug!("{}: an answer that nobody waits for", self.session.id());
                    Continue(true)
                }
                Said::Refused(why) => Break(Over::Refused(why)),
            };
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

    /// Sends the client a frame. `asked` is the raw id of the process's request, if it is one.
    fn send(&mut self, frame: Frame, asked: Option<&str>) -> Moved {
        match self.session.try_send(frame.clone()) {
            Ok(()) => Continue(true),
            Err(SendError::Gone) => Break(Over::ClientGone),
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

    /// Something is too large for the client's queue. Whoever waits for it, or for its answer, is told.
    fn refuse_large(&mut self, length: usize, answered: Option<&str>, asked: Option<&str>) {
        static TOO_LARGE: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = TOO_LARGE.tell() {
            log::error!(
                "{}: {length} bytes are too many for the client{unsaid}",
                self.session.id()
            );
        }
        if let Some(id) = answered {
            let why = "the answer is larger than any queue";
            let answer = error_body(Some(id), code::INTERNAL_ERROR, why);
            self.outgoing.extend(Frame::message(&answer).ok());
        }
        if let Some(id) = asked {
            self.talk.refuse_process(id, "the request is larger than the queue of any client");
        }
    }

    /// Whether the process was found not to read any more: at once, and not only when it is written to.
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

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Moved {
        let at = self.talk.poll_timeout().into_iter().chain(self.exits_until).min();
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
            return Break(if self.output_closed { Over::OutputClosed } else { Over::InputClosed });
        }
        match self.talk.handle_timeout(now) {
            Some(why) => Break(Over::Late(why)),
            None => Continue(true),
        }
    }

    /// Tells the client what became of its requests, as far as it listens. The session ends behind it.
    async fn apologize(mut self, why: &str) {
        // Its end begins now, and does not wait for a client that does not read.
        drop(self.child.take());
        if let Some(sending) = self.sending.take() {
            let _gone = sending.await;
        }
        let mut frames = core::mem::take(&mut self.outgoing);
        frames.extend(self.talk.abandon(why));
        // Accepted before, and not looked at yet.
        let now = Instant::now();
        while let Some(Some(message)) = future::poll_once(self.session.recv()).await {
            frames.extend(self.talk.handle_message(message, now));
        }
        for frame in frames {
            if self.session.send(frame).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Relay {
    /// Whatever the reason, the process learns that its client has gone, and then that its input has
    /// ended.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let mut last_words = self.writing.split_off(self.written);
            last_words.extend(self.talk.last_words());
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
    use crate::conversation::PARK;
    use crate::handshakes::HANDSHAKE;

    /// The time of the handshake has passed already, as nobody wants to wait for it here.
    #[test]
    fn session_whose_process_is_late_with_the_handshake_is_over() {
        let (sender, sessions) = mpsc::channel();
        let keeps = handler(move |session| {
            let sent = sender.send(session);
            async move { sent.expect("the test waits") }
        });
        let server = RunningServer::start(&SMOL, Config::default(), keeps);
        let mut stream = Stream::open(server.address());
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        let mut talk = Conversation::new(Some("{}".into()));
        let begun = Instant::now().checked_sub(PARK + HANDSHAKE).expect("a time");
        let request = r#"{"jsonrpc":"2.0","id":7,"method":"m"}"#;
        let request = Message::read(request.into(), None).expect("JSON");
        assert!(talk.handle_message(request, begun).is_none());
        assert_eq!(talk.handle_timeout(begun + PARK), None);
        let handshakes = Handshakes::default();
        let mut relay = Relay {
            client: handshakes.client(session.head()),
            session,
            handshakes,
            child: None,
            talk,
            output: Output::new("test", Default::default()),
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
        let over = finish("its end", poll_fn(|cx| relay.poll(cx)));
        let why = "MCP server process did not answer initialize within 60s";
        assert_eq!(over.to_string(), why);
        finish("its answers", relay.apologize(why));
        let error = format!(r#"{{"code":-32603,"message":"{why}"}}"#);
        assert_eq!(stream.message(), format!(r#"{{"jsonrpc":"2.0","id":7,"error":{error}}}"#));
    }
}
