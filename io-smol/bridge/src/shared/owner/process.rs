//! The owner's part that handles the shared process: its start, its pipes and its end.
//!
//! Knows: when the process is started, written to, read, and abandoned.
//! Does not know: sessions, or where messages go (see [`mux`](crate::mux)).

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;

use mcp_sse_core::Time;

use super::{ProcessOwner, WRITING_BYTES_MAX};
use crate::child::{Child, Exit};
use crate::output::ServerOutput;
use crate::printed::Printed;
use crate::session::EXIT;

/// The state of the shared process.
pub(super) enum ProcessState {
    /// There is no process. It is started when there is a session, but not before `not_before`.
    Stopped {
        not_before: Time,
    },
    Starting(Pin<Box<dyn Future<Output = io::Result<Child>> + Send>>),
    Running(Box<RunningProcess>),
}

pub(super) struct RunningProcess {
    pub(super) child: Child,
    pub(super) output: ServerOutput,
    pub(super) since: Time,
    pub(super) input_closed: bool,
    pub(super) output_closed: bool,
    /// The deadline for the exit, once the process has closed its stdin or stdout.
    pub(super) exits_until: Option<Time>,
}

impl RunningProcess {
    /// Ends the output. Nothing more is read from the process; its last line may have no line feed.
    fn end_output(&mut self) {
        self.output_closed = true;
        self.output.end();
    }

    fn expect_exit(&mut self, now: Time) {
        self.exits_until.get_or_insert(now.saturating_add(EXIT));
    }
}

impl ProcessOwner {
    /// Starts the process, reads and writes its pipes, and handles its exit. Returns whether there was progress.
    pub(super) fn poll_server(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.server {
            ProcessState::Stopped { not_before } => {
                let due = self.clock.now() >= *not_before;
                if !due || !self.mux.wants_server() {
                    return false;
                }
                let (children, command) = (self.children.clone(), self.command.clone());
                let name = self.name.clone();
                self.server = ProcessState::Starting(Box::pin(async move {
                    children.spawn(&command, None, name).await
                }));
                true
            }
            ProcessState::Starting(starting) => {
                let Poll::Ready(started) = starting.as_mut().poll(cx) else { return false };
                match started {
                    Ok(child) => self.started(child),
                    Err(error) => {
                        log::error!(
                            event = "process_unstarted",
                            owner = self.name,
                            error:% = error,
                            // The pause before the next start limits these lines.
                            suppressed = None::<u64>;
                            "{}: cannot start the server process: {error}",
                            self.name
                        );
                        self.children.status().note_failure();
                        self.handle_stop("could not be started", Duration::ZERO);
                    }
                }
                true
            }
            ProcessState::Running(running) => {
                // The exit is polled before the output, so that everything printed before the exit is read.
                let exit = running.child.poll_exit(cx);
                if exit.is_ready() {
                    // The rest of the output is read without a deadline.
                    running.exits_until = None;
                }
                self.poll_write(cx) | self.poll_read(cx)
                    || self.poll_input_closed(cx)
                    || self.handle_exit(exit)
            }
        }
    }

    pub(super) fn started(&mut self, child: Child) {
        log::debug!(
            event = "process_started",
            owner = self.name,
            pid = child.pid();
            "{}: server process {} was started",
            self.name,
            child.pid()
        );
        if core::mem::replace(&mut self.was_started, true) {
            self.children.status().note_restart();
        }
        let now = self.clock.now();
        self.server = ProcessState::Running(Box::new(RunningProcess {
            child,
            output: ServerOutput::new(&*self.name, self.children.status().clone())
                .line_bytes_max(self.command.longest_line()),
            since: now,
            input_closed: false,
            output_closed: false,
            exits_until: None,
        }));
        self.mux.handle_started(now);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let ProcessState::Running(running) = &mut self.server else { return false };
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

    /// Checks whether the process has closed its stdin, which is noticed here without a write. Returns true if it
    /// has.
    fn poll_input_closed(&mut self, cx: &mut Context<'_>) -> bool {
        let ProcessState::Running(running) = &mut self.server else { return false };
        if running.input_closed || running.child.poll_input_closed(cx).is_pending() {
            return false;
        }
        running.input_closed = true;
        running.expect_exit(self.clock.now());
        true
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let ProcessState::Running(running) = &mut self.server else { return false };
        // While a frame waits for room in a session's queue, the process is not read.
        if self.blocked.is_some() {
            return false;
        }
        if let Some(printed) = running.output.next_printed() {
            let now = self.clock.now();
            match printed {
                Printed::Message(message) => self.mux.handle_server(&message, now),
                Printed::LostAnswer(lost) => self.mux.handle_lost_answer(&lost, now),
                Printed::UnreadableRequest(unread) => self.mux.handle_unreadable_request(&unread),
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

    /// Handles the exit when all output of the process has been handled.
    fn handle_exit(&mut self, exit: Poll<Exit>) -> bool {
        if self.blocked.is_some() {
            return false;
        }
        let Poll::Ready(exit) = exit else { return false };
        if let ProcessState::Running(running) = &mut self.server
            && !running.output_closed
        {
            // Another process may hold its stdout open. The output ends here nevertheless.
            running.end_output();
            return true;
        }
        let why = if exit.was_not_run() { "could not be started" } else { "exited" };
        self.give_up(&format!("{why} ({exit})"));
        true
    }

    /// Abandons the process, which may still run: it is ended, and sessions get errors. `why` completes the sentence
    /// "MCP server process ..".
    pub(super) fn give_up(&mut self, why: &str) {
        let now = self.clock.now();
        let stopped = ProcessState::Stopped { not_before: now };
        let ProcessState::Running(running) = core::mem::replace(&mut self.server, stopped) else {
            return;
        };
        if !running.output.has_spoken() {
            self.children.status().note_failure();
        }
        let lived = if running.output.has_spoken() {
            now.saturating_since(running.since)
        } else {
            Duration::ZERO
        };
        // Dropping the child begins the end of the process.
        drop(running);
        self.handle_stop(why, lived);
    }

    /// Answers pending requests with an error, and sets the time of the next start. `lived` is how long the process
    /// has run; zero if it was not usable.
    fn handle_stop(&mut self, why: &str, lived: Duration) {
        let now = self.clock.now();
        let pause = self.backoff.next(lived);
        log::warn!(
            event = "server_stopped",
            owner = self.name,
            reason = why,
            requests = self.mux.requests(),
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            "{}: MCP server process {why}; {} requests are lost; the next start is in {pause:?}",
            self.name,
            self.mux.requests()
        );
        self.server = ProcessState::Stopped { not_before: now.saturating_add(pause) };
        self.writing = Vec::new();
        self.written = 0;
        self.answers_bytes = 0;
        self.mux.handle_exit(why, now);
    }
}
