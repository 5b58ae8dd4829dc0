//! The one who owns the shared process.
//!
//! Knows: pipes, who waits for whom, when to start the process again, whom to close.
//! Does not know: what is said, and on whose behalf (see [`mux`](crate::mux)).

use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_channel::Receiver;
use mcp_sse_core::{Clock, Frame, Time};
use smol::Timer;
use smol::stream::Stream;

use super::Input;
use super::backoff::Backoff;
use super::outbox::Outbox;
use crate::child::{Child, Children, Exit};
use crate::command::Command;
use crate::mux::{Member, Mux, MuxLimits, Output as Said};
use crate::output::{Output, Printed};
use crate::session::EXIT;

/// For so long in all, in each [`SLOW_PERIOD`], a session may keep the process from being read, by not
/// taking what it is sent. Then it is closed.
pub const SLOW_MAX: Duration = Duration::from_secs(1);
/// See [`SLOW_MAX`]; what was spent comes back evenly.
pub const SLOW_PERIOD: Duration = Duration::from_secs(30);
/// So much is done before others have their turn; or as much as [`READ_BYTES`] of what the process
/// prints.
const MOVES_BATCH: u32 = 64;
/// No more is taken from sessions while so many bytes wait for the process.
const WRITING_BYTES_MAX: usize = 64 << 10;
/// With so many bytes of answers that the process asked for and does not read, it is given up. To stop
/// reading instead could leave both waiting for each other for ever.
const ANSWERS_BYTES_MAX: usize = 1 << 20;
/// Bytes read from the process at once, and in one turn: of a pipe full of the shortest lines the others on
/// this thread would notice.
const READ_BYTES: usize = 8 << 10;

/// The time, which stands still in tests until they set it forward.
struct Present {
    clock: Clock,
    #[cfg(test)]
    now: Time,
}

impl Present {
    fn start() -> Self {
        Self {
            clock: Clock::start(),
            #[cfg(test)]
            now: Time::ZERO,
        }
    }

    #[cfg(not(test))]
    fn now(&self) -> Time {
        self.clock.now()
    }

    #[cfg(test)]
    const fn now(&self) -> Time {
        self.now
    }
}

/// The process, if it is there.
enum Server {
    /// Nobody has wanted it yet, or not before this time.
    Away {
        not_before: Time,
    },
    Starting(Pin<Box<dyn Future<Output = io::Result<Child>> + Send>>),
    Running(Box<Running>),
}

struct Running {
    child: Child,
    output: Output,
    since: Time,
    input_closed: bool,
    output_closed: bool,
    /// One of them is so, and it has until then to exit.
    exits_until: Option<Time>,
}

/// What the owner knows of a session.
struct Seat {
    name: String,
    outbox: Outbox,
    /// What is left of [`SLOW_MAX`], and as of when.
    slack: Duration,
    slack_at: Time,
}

impl Seat {
    /// What is left now.
    fn slack(&self, now: Time) -> Duration {
        let ratio = SLOW_PERIOD.as_secs() / SLOW_MAX.as_secs();
        let back = now.saturating_since(self.slack_at) / u32::try_from(ratio).unwrap_or(u32::MAX);
        SLOW_MAX.min(self.slack.saturating_add(back))
    }

    fn spend(&mut self, spent: Duration, now: Time) {
        self.slack = self.slack(now).saturating_sub(spent);
        self.slack_at = now;
    }
}

/// A frame for which there is no room, and since when.
struct Blocked {
    member: Member,
    frame: Frame,
    since: Time,
    until: Time,
}

pub(super) struct Owner {
    children: Children,
    command: Arc<Command>,
    name: String,
    clock: Present,
    mux: Mux,
    seats: BTreeMap<Member, Seat>,
    input: Pin<Box<Receiver<Input>>>,
    departed: Pin<Box<Receiver<Member>>>,
    server: Server,
    backoff: Backoff,
    /// Lines for the process, and how much of them it has.
    writing: Vec<u8>,
    written: usize,
    /// How much of them at most answers what the process asked.
    answers_bytes: usize,
    blocked: Option<Blocked>,
    /// Bytes read from the process in this turn: most of them may have been no messages.
    turn_bytes: usize,
    buffer: Box<[u8]>,
    timer: Timer,
    timer_at: Option<Time>,
}

impl Owner {
    pub(super) fn new(
        children: Children,
        command: Arc<Command>,
        name: String,
        input: Receiver<Input>,
        departed: Receiver<Member>,
    ) -> Self {
        let limits = MuxLimits::default();
        // What a client may post at once has to find room, as what the process prints has.
        let parked_bytes_max = limits.parked_bytes_max.max(command.longest_line());
        Self {
            children,
            command,
            name,
            clock: Present::start(),
            mux: Mux::new(MuxLimits { parked_bytes_max, ..limits }),
            seats: BTreeMap::new(),
            input: Box::pin(input),
            departed: Box::pin(departed),
            server: Server::Away { not_before: Time::ZERO },
            backoff: Backoff::default(),
            writing: Vec::new(),
            written: 0,
            answers_bytes: 0,
            blocked: None,
            turn_bytes: 0,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            timer: Timer::never(),
            timer_at: None,
        }
    }

    /// Runs until nobody can come any more.
    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        log::debug!("{}: {:?}", self.name, self.mux);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn_bytes = 0;
        for _ in 0..MOVES_BATCH {
            let Some(moved) = self.poll_sessions(cx) else { return Poll::Ready(()) };
            let moved = moved | self.poll_server(cx) | self.poll_outputs(cx) | self.poll_time(cx);
            if !moved {
                return Poll::Pending;
            }
            if self.turn_bytes >= READ_BYTES {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// From sessions. Whether anything came; `None` if nothing will.
    fn poll_sessions(&mut self, cx: &mut Context<'_>) -> Option<bool> {
        let mut moved = false;
        while let Poll::Ready(departed) = self.departed.as_mut().poll_next(cx) {
            // Nobody is left, and nobody can come: seen here even while nothing is taken below.
            self.leave(departed?);
            moved = true;
        }
        if self.writing.len() >= WRITING_BYTES_MAX || self.blocked.is_some() {
            return Some(moved);
        }
        match self.input.as_mut().poll_next(cx) {
            Poll::Pending => Some(moved),
            Poll::Ready(None) => None,
            Poll::Ready(Some(Input::Join { member, name, outbox })) => {
                // It may have departed before it came, which was said on another way.
                if outbox.is_closed() {
                    return Some(true);
                }
                let now = self.clock.now();
                self.mux.join(member);
                self.seats.insert(member, Seat { name, outbox, slack: SLOW_MAX, slack_at: now });
                Some(true)
            }
            Poll::Ready(Some(Input::Says(member, message))) => {
                self.mux.handle_session(member, message, self.clock.now());
                Some(true)
            }
        }
    }

    fn leave(&mut self, member: Member) {
        self.seats.remove(&member);
        self.mux.leave(member);
        self.blocked.take_if(|blocked| blocked.member == member);
    }

    /// To sessions, and into what is to be written.
    fn poll_outputs(&mut self, cx: &Context<'_>) -> bool {
        let mut moved = false;
        loop {
            if let Some(Blocked { member, frame, since, until }) = self.blocked.take() {
                let now = self.clock.now();
                // Nobody else waits: then only the client's own pace counts.
                let alone = self.seats.len() == 1 && self.input.is_empty();
                let Some(seat) = self.seats.get_mut(&member) else { continue };
                match seat.outbox.poll_put(cx, &frame) {
                    Poll::Pending if now < until || alone => {
                        let until = if now < until { until } else { now.saturating_add(SLOW_MAX) };
                        self.blocked = Some(Blocked { member, frame, since, until });
                        return moved;
                    }
                    Poll::Ready(_) if alone => {}
                    Poll::Pending => self.close(member),
                    // It has gone, and will say so.
                    Poll::Ready(_) => seat.spend(now.saturating_since(since), now),
                }
                moved = true;
            }
            match self.mux.poll_output() {
                None => return moved,
                Some(Said::Server(line)) => self.write_line(&line),
                Some(Said::Answer(line)) => {
                    self.write_line(&line);
                    self.answers_bytes += line.len();
                    if self.answers_bytes > ANSWERS_BYTES_MAX {
                        self.give_up("asks and does not read the answers");
                    }
                }
                Some(Said::Session(member, frame)) => {
                    let Some(seat) = self.seats.get(&member) else { continue };
                    if seat.outbox.poll_put(cx, &frame).is_pending() {
                        let since = self.clock.now();
                        let until = since.saturating_add(seat.slack(since));
                        self.blocked = Some(Blocked { member, frame, since, until });
                    }
                }
                Some(Said::Abandon(why)) => {
                    // Its end is told in its own time, and here at once.
                    self.give_up(&why);
                }
            }
            moved = true;
        }
    }

    fn write_line(&mut self, line: &str) {
        self.writing.extend_from_slice(line.as_bytes());
        self.writing.push(b'\n');
    }

    /// Closes a session that keeps everybody waiting.
    fn close(&mut self, member: Member) {
        if let Some(seat) = self.seats.remove(&member) {
            let frames = seat.outbox.discard() + 1;
            log::warn!(
                "{}: closed, because {} waited for it for {SLOW_MAX:?}; {frames} messages are lost",
                seat.name,
                self.name
            );
        }
        self.mux.leave(member);
    }

    /// The process: its start, its pipes, its end.
    fn poll_server(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.server {
            Server::Away { not_before } => {
                let due = self.clock.now() >= *not_before;
                if !due || !self.mux.wants_server() {
                    return false;
                }
                let (children, command) = (self.children.clone(), self.command.clone());
                let name = self.name.clone();
                self.server = Server::Starting(Box::pin(async move {
                    children.spawn(&command, None, name).await
                }));
                true
            }
            Server::Starting(starting) => {
                let Poll::Ready(started) = starting.as_mut().poll(cx) else { return false };
                match started {
                    Ok(child) => self.started(child),
                    Err(error) => {
                        log::error!("{}: cannot start a process: {error}", self.name);
                        self.children.status().note_failure();
                        self.away("could not be started", Duration::ZERO);
                    }
                }
                true
            }
            Server::Running(running) => {
                // Looked at before its output is: whatever it said last is then there to be read.
                let exit = running.child.poll_exit(cx);
                if exit.is_ready() {
                    // It has: what it said before is read, however long that takes.
                    running.exits_until = None;
                }
                self.poll_write(cx) | self.poll_read(cx)
                    || self.poll_input_closed(cx)
                    || self.handle_exit(exit)
            }
        }
    }

    fn started(&mut self, child: Child) {
        log::debug!("{}: process {} was started", self.name, child.pid());
        let now = self.clock.now();
        self.server = Server::Running(Box::new(Running {
            child,
            output: Output::new(&*self.name, self.children.status().clone())
                .line_bytes_max(self.command.longest_line()),
            since: now,
            input_closed: false,
            output_closed: false,
            exits_until: None,
        }));
        self.mux.handle_started(now);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let Server::Running(running) = &mut self.server else { return false };
        let rest = self.writing.get(self.written..).unwrap_or_default();
        if rest.is_empty() || running.input_closed {
            return false;
        }
        let Poll::Ready(written) = running.child.poll_write(cx, rest) else { return false };
        match written {
            Ok(count) => self.written += count,
            Err(_) => {
                running.input_closed = true;
                running.expect_exit(self.clock.now());
            }
        }
        if self.written == self.writing.len() {
            self.written = 0;
            self.answers_bytes = 0;
            self.writing.clear();
            self.writing.shrink_to(WRITING_BYTES_MAX);
        }
        true
    }

    /// Whether the process was found not to read any more: at once, and not only when it is written to.
    fn poll_input_closed(&mut self, cx: &mut Context<'_>) -> bool {
        let Server::Running(running) = &mut self.server else { return false };
        if running.input_closed || running.child.poll_input_closed(cx).is_pending() {
            return false;
        }
        running.input_closed = true;
        running.expect_exit(self.clock.now());
        true
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let Server::Running(running) = &mut self.server else { return false };
        // Whatever it says has to have a place.
        if self.blocked.is_some() {
            return false;
        }
        if let Some(printed) = running.output.next_printed() {
            let now = self.clock.now();
            match printed {
                Printed::Message(message) => self.mux.handle_server(&message, now),
                Printed::Lost(lost) => self.mux.handle_lost(&lost, now),
                Printed::Unread(unread) => self.mux.handle_unread(&unread),
            }
            return true;
        }
        if running.output_closed {
            return false;
        }
        match running.child.poll_read(cx, &mut self.buffer) {
            Poll::Pending => return false,
            Poll::Ready(Ok(count @ 1..)) => {
                self.turn_bytes += count;
                running.output.feed(self.buffer.get(..count).unwrap_or_default());
            }
            Poll::Ready(Ok(0) | Err(_)) => {
                running.end_output();
                running.expect_exit(self.clock.now());
            }
        }
        true
    }

    /// Only when nothing it said is left.
    fn handle_exit(&mut self, exit: Poll<Exit>) -> bool {
        if self.blocked.is_some() {
            return false;
        }
        let Poll::Ready(exit) = exit else { return false };
        if let Server::Running(running) = &mut self.server
            && !running.output_closed
        {
            // Others may hold its stdout: then this is how its last line ends.
            running.end_output();
            return true;
        }
        let why = if exit.was_not_run() { "could not be started" } else { "exited" };
        self.give_up(&format!("{why} ({exit})"));
        true
    }

    /// The process is of no use any more, whether it has ended or not.
    fn give_up(&mut self, why: &str) {
        let now = self.clock.now();
        let away = Server::Away { not_before: now };
        let Server::Running(running) = core::mem::replace(&mut self.server, away) else { return };
        if !running.output.has_spoken() {
            self.children.status().note_failure();
        }
        let lived = if running.output.has_spoken() {
            now.saturating_since(running.since)
        } else {
            Duration::ZERO
        };
        // Dropping it sees to its end.
        drop(running);
        self.away(why, lived);
    }

    fn away(&mut self, why: &str, lived: Duration) {
        let now = self.clock.now();
        let pause = self.backoff.next(lived);
        log::warn!(
            "{}: MCP server process {why}; {} requests are lost, and it is not started again for {pause:?}",
            self.name,
            self.mux.requests()
        );
        self.server = Server::Away { not_before: now.saturating_add(pause) };
        self.writing = Vec::new();
        self.written = 0;
        self.answers_bytes = 0;
        self.mux.handle_exit(why, now);
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> bool {
        let server = match &self.server {
            Server::Away { not_before } if self.mux.wants_server() => Some(*not_before),
            Server::Away { .. } | Server::Starting(_) => None,
            Server::Running(running) => running.exits_until,
        };
        let blocked = self.blocked.as_ref().map(|blocked| blocked.until);
        let at = [server, blocked, self.mux.poll_timeout()].into_iter().flatten().min();
        if at != self.timer_at {
            self.timer_at = at;
            let instant = at.and_then(|at| self.clock.clock.instant(at));
            self.timer = instant.map_or(Timer::never(), Timer::at);
        }
        if at.is_none() || Pin::new(&mut self.timer).poll(cx).is_pending() {
            return false;
        }
        self.timer_at = None;
        let now = self.clock.now();
        self.mux.handle_timeout(now);
        if let Server::Running(running) = &self.server
            && running.exits_until.is_some_and(|until| now >= until)
        {
            let which = if running.output_closed { "output" } else { "input" };
            self.give_up(&format!("closed its {which}"));
        }
        true
    }
}

impl Running {
    /// Nothing more is read from it. What it said last may have no line end.
    fn end_output(&mut self) {
        self.output_closed = true;
        self.output.end();
    }

    fn expect_exit(&mut self, now: Time) {
        self.exits_until.get_or_insert(now.saturating_add(EXIT));
    }
}

#[cfg(test)]
mod tests {
    use async_channel::{Sender, bounded, unbounded};
    use mcp_sse_core::jsonrpc::Message;
    use smol::future::block_on;

    use super::*;
    use crate::shared::backoff::{FIRST, STABLE};
    use crate::shared::outbox::{BYTES_MAX, Frames, outbox};

    /// An owner that nobody runs, and the ends that sessions have.
    struct Stage {
        owner: Owner,
        inbox: Sender<Input>,
        departures: Sender<Member>,
    }

    impl Stage {
        fn new() -> Self {
            let (inbox, input) = bounded(16);
            let (departures, departed) = unbounded();
            // Run under the name of a guard, this test program runs no test of that name, and ends.
            let command = Command::new("no-test-has-this-name", [""; 0]);
            let children = Children::new().expect("a thread");
            let owner = Owner::new(children, Arc::new(command), "test".into(), input, departed);
            Self { owner, inbox, departures }
        }

        /// A session that has joined.
        fn join(&mut self, member: u64) -> Frames {
            let (outbox, frames) = outbox();
            let join = Input::Join { member: Member(member), name: "s".into(), outbox };
            self.inbox.try_send(join).expect("room");
            self.poll_sessions();
            frames
        }

        fn poll_sessions(&mut self) {
            while block_on(poll_fn(|cx| Poll::Ready(self.owner.poll_sessions(cx) == Some(true)))) {}
        }

        fn poll_outputs(&mut self) {
            block_on(poll_fn(|cx| {
                self.owner.poll_outputs(cx);
                Poll::Ready(())
            }));
        }

        fn wait(&mut self, time: Duration) {
            self.owner.clock.now = self.owner.clock.now.saturating_add(time);
        }

        /// A process runs for so long, having said something, and ends. Returns the pause before the
        /// next, in whole seconds.
        fn pause_after(&mut self, lived: Duration) -> u64 {
            let (children, command) = (self.owner.children.clone(), self.owner.command.clone());
            let child = block_on(children.spawn(&command, None, "test")).expect("a process");
            self.owner.started(child);
            let Server::Running(running) = &mut self.owner.server else { panic!("it runs") };
            running.output.feed(b"{\"jsonrpc\":\"2.0\",\"method\":\"m\"}\n");
            assert!(running.output.next_printed().is_some());
            self.wait(lived);
            let now = self.owner.clock.now();
            self.owner.give_up("exited");
            let Server::Away { not_before } = &self.owner.server else { panic!("it is away") };
            not_before.saturating_since(now).as_secs()
        }

        /// The process says something.
        fn says(&mut self, text: &str) {
            let message = Message::read(text.into(), None).expect("JSON");
            self.owner.mux.handle_server(&message, self.owner.clock.now());
            self.poll_outputs();
        }

        fn has(&self, member: u64) -> bool {
            self.owner.seats.contains_key(&Member(member))
        }
    }

    #[test]
    fn process_that_lived_long_is_started_again_as_after_its_first_end() {
        let mut stage = Stage::new();
        let short = [1, 2, 4].map(|_| stage.pause_after(Duration::ZERO));
        assert_eq!(short, [1, 2, 4].map(|times| FIRST.as_secs() * times));
        assert_eq!(stage.pause_after(STABLE), FIRST.as_secs());
        assert_eq!(stage.pause_after(Duration::ZERO), 2 * FIRST.as_secs());
    }

    #[test]
    fn session_is_closed_when_the_sum_of_its_short_waits_is_too_long() {
        let mut stage = Stage::new();
        let (slow, _other) = (stage.join(1), stage.join(2));
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#;
        let hello = Message::read(hello.into(), None).expect("JSON");
        stage.owner.mux.handle_started(stage.owner.clock.now());
        stage.inbox.try_send(Input::Says(Member(1), hello)).expect("room");
        stage.poll_sessions();
        stage.says(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        let takes = || block_on(smol::future::poll_once(slow.next())).flatten().is_some();
        assert!(takes(), "the answer");
        // Each of these fills its outbox.
        let large = "x".repeat(BYTES_MAX);
        let large = format!(r#"{{"jsonrpc":"2.0","method":"m","params":["{large}"]}}"#);
        for wait in 1..=5 {
            stage.says(&large);
            stage.says(&large);
            assert!(stage.owner.blocked.is_some());
            stage.wait(SLOW_MAX / 4);
            stage.poll_outputs();
            assert_eq!(stage.has(1), wait < 5, "wait {wait}");
            while takes() {
                stage.poll_outputs();
            }
        }
        assert_eq!((stage.owner.mux.sessions(), stage.has(2)), (1, true));
    }

    #[test]
    fn session_that_left_before_it_joined_is_no_member() {
        let mut stage = Stage::new();
        let (outbox, frames) = outbox();
        let member = Member(1);
        stage.inbox.try_send(Input::Join { member, name: "s".into(), outbox }).expect("room");
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#;
        let hello = Message::read(hello.into(), None).expect("JSON");
        stage.inbox.try_send(Input::Says(member, hello)).expect("room");
        // Departures have a way of their own, which is looked at first.
        drop(frames);
        stage.departures.try_send(member).expect("room");
        stage.poll_sessions();
        assert_eq!((stage.owner.mux.sessions(), stage.owner.seats.len()), (0, 0));
        assert!(!stage.owner.mux.wants_server(), "no process is started for nobody");
    }
}
