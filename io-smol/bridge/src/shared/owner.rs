//! The task that owns the shared process.
//!
//! Knows: the queues from and to sessions, which session keeps the others waiting, and the deadlines.
//! Does not know: the content of messages, or which session they belong to (see [`mux`](crate::mux)).
//!
//! Decision: a process that sends requests and does not read the answers is ended when 1 MiB of answers
//! wait. To stop reading its output instead could leave both waiting for ever.

mod process;

use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::collections::BTreeMap;
use std::sync::Arc;

use async_channel::Receiver;
use mcp_sse_core::{Clock, Frame, Time};
use smol::Timer;
use smol::stream::Stream;

use super::SessionInput;
use super::joined_session::{JoinedSession, SLOW_MAX};
use super::restart_backoff::RestartBackoff;
use crate::children::Children;
use crate::command::ServerCommand;
use crate::mux::{Mux, MuxLimits, MuxOutput, SessionKey};
use process::ProcessState;

/// The most steps before other tasks run. The task also stops after [`READ_BYTES`] were read.
const STEPS_PER_TURN: u32 = 64;
/// While this many bytes wait for the process, no message is received from sessions.
const WRITING_BYTES_MAX: usize = 64 << 10;
/// The process is abandoned when this many bytes of answers to its own requests wait for it. If the bridge stopped
/// reading instead, the bridge and the process could wait for each other forever.
const ANSWERS_BYTES_MAX: usize = 1 << 20;
/// The most bytes that are read from the process at once, and between two turns of other tasks on this thread. A full
/// pipe of short lines would otherwise take long.
const READ_BYTES: usize = 8 << 10;

/// The clock of the owner. In tests the time changes only when the test sets it.
struct OwnerClock {
    clock: Clock,
    #[cfg(test)]
    now: Time,
}

impl OwnerClock {
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

/// A frame that does not fit into its session's queue.
struct BlockedFrame {
    key: SessionKey,
    frame: Frame,
    since: Time,
    /// When the session is closed because of it.
    until: Time,
}

pub(super) struct ProcessOwner {
    children: Children,
    command: Arc<ServerCommand>,
    name: String,
    clock: OwnerClock,
    mux: Mux,
    sessions: BTreeMap<SessionKey, JoinedSession>,
    input: Pin<Box<Receiver<SessionInput>>>,
    departed: Pin<Box<Receiver<SessionKey>>>,
    server: ProcessState,
    /// Whether a process was started before.
    was_started: bool,
    backoff: RestartBackoff,
    /// Lines for the process, and the number of bytes written.
    writing: Vec<u8>,
    written: usize,
    /// The bytes in `writing` that answer requests of the process, or an upper bound of them.
    answers_bytes: usize,
    blocked: Option<BlockedFrame>,
    /// The bytes read from the process in this turn.
    turn_bytes: usize,
    buffer: Box<[u8]>,
    timer: Timer,
    timer_at: Option<Time>,
}

impl ProcessOwner {
    pub(super) fn new(
        children: Children,
        command: Arc<ServerCommand>,
        name: String,
        input: Receiver<SessionInput>,
        departed: Receiver<SessionKey>,
    ) -> Self {
        let limits = MuxLimits::default();
        // The largest message must fit among the parked messages.
        let parked_bytes_max = limits.parked_bytes_max.max(command.longest_line());
        Self {
            children,
            command,
            name,
            clock: OwnerClock::start(),
            mux: Mux::new(MuxLimits { parked_bytes_max, ..limits }),
            sessions: BTreeMap::new(),
            input: Box::pin(input),
            departed: Box::pin(departed),
            server: ProcessState::Stopped { not_before: Time::ZERO },
            was_started: false,
            backoff: RestartBackoff::default(),
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

    /// Runs until no session is left and no handle exists that could add one.
    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        log::debug!(
            event = "server_unused",
            owner = self.name;
            "{}: no session is left and none can come: {:?}",
            self.name,
            self.mux
        );
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn_bytes = 0;
        for _ in 0..STEPS_PER_TURN {
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

    /// Receives from sessions. Returns whether there was progress; `None` if no session is left and none can be
    /// added.
    fn poll_sessions(&mut self, cx: &mut Context<'_>) -> Option<bool> {
        let mut moved = false;
        while let Poll::Ready(departed) = self.departed.as_mut().poll_next(cx) {
            // `None`: no session is left and none can be added. This is checked here because `input` may not be
            // polled below.
            self.leave(departed?);
            moved = true;
        }
        if self.writing.len() >= WRITING_BYTES_MAX || self.blocked.is_some() {
            return Some(moved);
        }
        match self.input.as_mut().poll_next(cx) {
            Poll::Pending => Some(moved),
            Poll::Ready(None) => None,
            Poll::Ready(Some(SessionInput::Join { key, name, frames })) => {
                // The departure of a session may be received before its `Join`, because it has another channel.
                if frames.is_closed() {
                    return Some(true);
                }
                let now = self.clock.now();
                self.mux.join(key);
                self.sessions.insert(key, JoinedSession::new(name, frames, now));
                Some(true)
            }
            Poll::Ready(Some(SessionInput::Message(key, message))) => {
                self.mux.handle_session(key, message, self.clock.now());
                Some(true)
            }
        }
    }

    fn leave(&mut self, key: SessionKey) {
        self.sessions.remove(&key);
        self.mux.leave(key);
        self.blocked.take_if(|blocked| blocked.key == key);
    }

    /// Passes the outputs of the mux on to sessions and to the process. Returns whether there was progress.
    fn poll_outputs(&mut self, cx: &Context<'_>) -> bool {
        let mut moved = false;
        loop {
            if let Some(BlockedFrame { key, frame, since, until }) = self.blocked.take() {
                let now = self.clock.now();
                // If no other session waits, this one may be slow.
                let alone = self.sessions.len() == 1 && self.input.is_empty();
                let Some(session) = self.sessions.get_mut(&key) else { continue };
                match session.frames.poll_send(cx, &frame) {
                    Poll::Pending if now < until || alone => {
                        let until = if now < until { until } else { now.saturating_add(SLOW_MAX) };
                        self.blocked = Some(BlockedFrame { key, frame, since, until });
                        return moved;
                    }
                    Poll::Ready(_) if alone => {}
                    Poll::Pending => self.close(key),
                    Poll::Ready(_) => session.spend(now.saturating_since(since), now),
                }
                moved = true;
            }
            match self.mux.poll_output() {
                None => return moved,
                Some(MuxOutput::Server(line)) => self.write_line(&line),
                Some(MuxOutput::Answer(line)) => {
                    self.write_line(&line);
                    self.answers_bytes += line.len();
                    if self.answers_bytes > ANSWERS_BYTES_MAX {
                        self.give_up("sends requests and does not read the answers");
                    }
                }
                Some(MuxOutput::Session(key, frame)) => {
                    let Some(session) = self.sessions.get(&key) else { continue };
                    if session.frames.poll_send(cx, &frame).is_pending() {
                        let since = self.clock.now();
                        let until = since.saturating_add(session.slack(since));
                        self.blocked = Some(BlockedFrame { key, frame, since, until });
                    }
                }
                Some(MuxOutput::Abandon(why)) => {
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

    /// Closes a session that has kept the others waiting for too long.
    fn close(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.remove(&key) {
            let frames = session.frames.discard() + 1;
            log::warn!(
                event = "session_too_slow",
                owner = self.name,
                session = session.name,
                messages = frames;
                "{}: closed, because {} waited for it for {SLOW_MAX:?}; {frames} messages are lost",
                session.name,
                self.name
            );
        }
        self.mux.leave(key);
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> bool {
        let server = match &self.server {
            ProcessState::Stopped { not_before } if self.mux.wants_server() => Some(*not_before),
            ProcessState::Stopped { .. } | ProcessState::Starting(_) => None,
            ProcessState::Running(running) => running.exits_until,
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
        if let ProcessState::Running(running) = &self.server
            && running.exits_until.is_some_and(|until| now >= until)
        {
            let which = if running.output_closed { "output" } else { "input" };
            self.give_up(&format!("closed its {which}"));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use async_channel::{Sender, bounded, unbounded};
    use mcp_sse_core::jsonrpc::Message;
    use smol::future::block_on;

    use super::*;
    use crate::shared::frame_queue::{BYTES_MAX, FrameReceiver, frame_queue};
    use crate::shared::restart_backoff::{PAUSE_FIRST, STABLE_AFTER};

    /// An owner that is polled by the test, and the sessions' ends of its channels.
    struct OwnerTest {
        owner: ProcessOwner,
        input: Sender<SessionInput>,
        departures: Sender<SessionKey>,
    }

    impl OwnerTest {
        fn new() -> Self {
            let (sender, input) = bounded(16);
            let (departures, departed) = unbounded();
            // The guard is this test executable. It finds no test of this name, and exits.
            let command = ServerCommand::new("no-test-has-this-name", [""; 0]);
            let children = Children::new().expect("a thread");
            let owner =
                ProcessOwner::new(children, Arc::new(command), "test".into(), input, departed);
            Self { owner, input: sender, departures }
        }

        /// Adds a session.
        fn join(&mut self, key: u64) -> FrameReceiver {
            let (sender, frames) = frame_queue();
            let join =
                SessionInput::Join { key: SessionKey(key), name: "s".into(), frames: sender };
            self.input.try_send(join).expect("room");
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

        /// Runs a process that prints a message and ends after `lived`. Returns the pause before the next start, in
        /// whole seconds.
        fn pause_after(&mut self, lived: Duration) -> u64 {
            let (children, command) = (self.owner.children.clone(), self.owner.command.clone());
            let child = block_on(children.spawn(&command, None, "test")).expect("a process");
            self.owner.started(child);
            let ProcessState::Running(running) = &mut self.owner.server else { panic!("it runs") };
            running.output.feed(b"{\"jsonrpc\":\"2.0\",\"method\":\"m\"}\n");
            assert!(running.output.next_printed().is_some());
            self.wait(lived);
            let now = self.owner.clock.now();
            self.owner.give_up("exited");
            let ProcessState::Stopped { not_before } = &self.owner.server else {
                panic!("it is stopped")
            };
            not_before.saturating_since(now).as_secs()
        }

        /// The process prints a message.
        fn says(&mut self, text: &str) {
            let message = Message::read(text.into(), None).expect("JSON");
            self.owner.mux.handle_server(&message, self.owner.clock.now());
            self.poll_outputs();
        }

        fn has(&self, key: u64) -> bool {
            self.owner.sessions.contains_key(&SessionKey(key))
        }
    }

    #[test]
    fn restart_after_a_long_life_uses_the_first_pause() {
        let mut test = OwnerTest::new();
        let short = [1, 2, 4].map(|_| test.pause_after(Duration::ZERO));
        assert_eq!(short, [1, 2, 4].map(|times| PAUSE_FIRST.as_secs() * times));
        assert_eq!(test.pause_after(STABLE_AFTER), PAUSE_FIRST.as_secs());
        assert_eq!(test.pause_after(Duration::ZERO), 2 * PAUSE_FIRST.as_secs());
    }

    #[test]
    fn slow_session_is_closed_when_its_waits_add_up() {
        let mut test = OwnerTest::new();
        let (slow, _other) = (test.join(1), test.join(2));
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#;
        let hello = Message::read(hello.into(), None).expect("JSON");
        test.owner.mux.handle_started(test.owner.clock.now());
        test.input.try_send(SessionInput::Message(SessionKey(1), hello)).expect("room");
        test.poll_sessions();
        test.says(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        let takes = || block_on(smol::future::poll_once(slow.next())).flatten().is_some();
        assert!(takes(), "the answer");
        // One such message fills the queue.
        let large = "x".repeat(BYTES_MAX);
        let large = format!(r#"{{"jsonrpc":"2.0","method":"m","params":["{large}"]}}"#);
        for wait in 1..=5 {
            test.says(&large);
            test.says(&large);
            assert!(test.owner.blocked.is_some());
            test.wait(SLOW_MAX / 4);
            test.poll_outputs();
            assert_eq!(test.has(1), wait < 5, "wait {wait}");
            while takes() {
                test.poll_outputs();
            }
        }
        assert_eq!((test.owner.mux.sessions(), test.has(2)), (1, true));
    }

    #[test]
    fn session_that_left_before_joining_does_not_join() {
        let mut test = OwnerTest::new();
        let (sender, frames) = frame_queue();
        let key = SessionKey(1);
        test.input
            .try_send(SessionInput::Join { key, name: "s".into(), frames: sender })
            .expect("room");
        let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#;
        let hello = Message::read(hello.into(), None).expect("JSON");
        test.input.try_send(SessionInput::Message(key, hello)).expect("room");
        // Departures have their own channel, which is received first.
        drop(frames);
        test.departures.try_send(key).expect("room");
        test.poll_sessions();
        assert_eq!((test.owner.mux.sessions(), test.owner.sessions.len()), (0, 0));
        assert!(!test.owner.mux.wants_server(), "no process is started without a session");
    }
}
