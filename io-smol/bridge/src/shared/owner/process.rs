//! The shared process, as its owner has it: its start, its pipes, its end.
//!
//! Knows: when the process is started, what is written to it and read from it, when it is given up.
//! Does not know: sessions, and what becomes of messages (see [`mux`](crate::mux)).

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

/// What the process is doing.
pub(super) enum ProcessState {
    /// There is none. It is started for a session, and not before this time.
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
    /// When the process is to have exited, if its input or its output is closed.
    pub(super) exits_until: Option<Time>,
}

impl RunningProcess {
    /// Nothing more is read from the process. What it has printed last may have no line end.
    fn end_output(&mut self) {
        self.output_closed = true;
        self.output.end();
    }

    fn expect_exit(&mut self, now: Time) {
        self.exits_until.get_or_insert(now.saturating_add(EXIT));
    }
}

impl ProcessOwner {
    /// Starts the process, serves its pipes and takes in its end. Returns whether anything was done.
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
                        log::error!("{}: cannot start a process: {error}", self.name);
                        self.children.status().note_failure();
                        self.handle_stop("could not be started", Duration::ZERO);
                    }
                }
                true
            }
            ProcessState::Running(running) => {
                // The exit is looked at before the output: what the process has printed last can then be read.
                let exit = running.child.poll_exit(cx);
                if exit.is_ready() {
                    // What the process has printed before is read, however long that takes.
                    running.exits_until = None;
                }
                self.poll_write(cx) | self.poll_read(cx)
                    || self.poll_input_closed(cx)
                    || self.handle_exit(exit)
            }
        }
    }

    pub(super) fn started(&mut self, child: Child) {
        log::debug!("{}: process {} was started", self.name, child.pid());
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

    /// Whether the process was found to have closed its stdin. It is noticed at once, not only by a write.
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
        // Nothing is read for which there is no room.
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

    /// Takes in the exit, once nothing is left that the process has printed.
    fn handle_exit(&mut self, exit: Poll<Exit>) -> bool {
        if self.blocked.is_some() {
            return false;
        }
        let Poll::Ready(exit) = exit else { return false };
        if let ProcessState::Running(running) = &mut self.server
            && !running.output_closed
        {
            // Other processes may hold its stdout: then its last line ends here.
            running.end_output();
            return true;
        }
        let why = if exit.was_not_run() { "could not be started" } else { "exited" };
        self.give_up(&format!("{why} ({exit})"));
        true
    }

    /// Gives the process up, whether it has ended or not. `why` goes on after "MCP server process".
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
        // Dropping the child brings about its end.
        drop(running);
        self.handle_stop(why, lived);
    }

    /// Tells sessions that the process is gone, which has been of use for so long, and sets the next start.
    fn handle_stop(&mut self, why: &str, lived: Duration) {
        let now = self.clock.now();
        let pause = self.backoff.next(lived);
        log::warn!(
            "{}: MCP server process {why}; {} requests are lost, and it is not started again for {pause:?}",
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
