//! What the bridge can tell about its processes: counts, and whether they can be started at all.
//!
//! Knows: numbers. Does not know: who asks for them.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::OnceLock;

use mcp_sse_core::Report;
use mcp_sse_core::driver::Handle;

/// After so many processes in a row that could not be started, the bridge is not ready.
pub const FAILURES_MAX: u32 = 3;

/// Counts that are kept as things happen, and can be looked at from any thread.
#[derive(Default)]
pub struct Status {
    running: AtomicU32,
    started: AtomicU64,
    failures_in_row: AtomicU32,
    lines_refused: AtomicU64,
    lines_too_long: AtomicU64,
    /// Told whenever `/health` or `/ready` would say something new.
    server: OnceLock<Handle>,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("running", &self.running())
            .field("started", &self.started())
            .field("failures_in_row", &self.failures_in_row())
            .field("lines_refused", &self.lines_refused())
            .field("lines_too_long", &self.lines_too_long())
            .finish()
    }
}

impl Status {
    /// Tells this server from now on what `/health` and `/ready` are to say. Only the first one that
    /// is said here is told.
    pub fn report_to(&self, server: Handle) {
        let _ = self.server.set(server);
        self.tell();
    }

    fn tell(&self) {
        let Some(server) = self.server.get() else { return };
        let report = Report::new()
            .gauge("children", self.running().into())
            .gauge("children_started", self.started())
            .gauge("lines_refused", self.lines_refused())
            .gauge("lines_too_long", self.lines_too_long());
        let ready = self.is_ready();
        server.report(if ready { report } else { report.not_ready("no server can be started") });
    }

    /// Processes that run now, those that are being ended among them.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.load(Relaxed)
    }

    /// Processes that were started since the beginning.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started.load(Relaxed)
    }

    /// How many processes in a row could not be started, or ended by themselves before they had said
    /// anything; 0 again with the first that speaks.
    #[must_use]
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row.load(Relaxed)
    }

    /// Whether it makes sense to send clients here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.failures_in_row() < FAILURES_MAX
    }

    /// Lines of servers that were no messages.
    #[must_use]
    pub fn lines_refused(&self) -> u64 {
        self.lines_refused.load(Relaxed)
    }

    /// Lines of servers that were longer than allowed.
    #[must_use]
    pub fn lines_too_long(&self) -> u64 {
        self.lines_too_long.load(Relaxed)
    }

    pub(super) fn process_started(&self) {
        self.running.fetch_add(1, Relaxed);
        self.started.fetch_add(1, Relaxed);
        self.tell();
    }

    pub(super) fn process_ended(&self) {
        self.running.fetch_sub(1, Relaxed);
        self.tell();
    }

    /// A process could not be started, or ended by itself before it had said anything.
    pub fn note_failure(&self) {
        let before = self.failures_in_row.fetch_add(1, Relaxed);
        if before + 1 == FAILURES_MAX {
            log::error!("{FAILURES_MAX} servers in a row could not be started: not ready any more");
            self.tell();
        }
    }

    /// A process has said something that is a message.
    pub fn note_success(&self) {
        if self.failures_in_row.swap(0, Relaxed) >= FAILURES_MAX {
            log::info!("a server could be started: ready again");
            self.tell();
        }
    }

    /// A line of a server was no message.
    pub fn note_line_refused(&self) {
        self.lines_refused.fetch_add(1, Relaxed);
        self.tell();
    }

    /// A line of a server was longer than allowed.
    pub fn note_line_too_long(&self) {
        self.lines_too_long.fetch_add(1, Relaxed);
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_and_not_ready() {
        let status = Status::default();
        status.note_failure();
        status.note_failure();
        status.note_success();
        status.note_failure();
        status.note_failure();
        assert!(status.is_ready());
        status.note_failure();
        assert!(!status.is_ready());
        status.note_success();
        assert!(status.is_ready());
    }
}
