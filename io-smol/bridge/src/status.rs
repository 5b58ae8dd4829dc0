//! What the bridge can tell about its processes: counts, and whether they can be started at all.
//!
//! Knows: numbers. Does not know: who asks for them.

use core::fmt;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::OnceLock;

use mcp_sse_core::HealthExtras;
use mcp_sse_driver::{Handle, LogThrottle};

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
    listener: OnceLock<Box<dyn Fn(HealthExtras) + Send + Sync>>,
    /// Changes that nobody has told of yet. Whoever makes the first tells of all, and the others need
    /// not wait: two who told at once could leave the older report behind.
    untold: AtomicU32,
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
        self.listen(move |report| server.set_health_extras(report));
    }

    pub(super) fn listen(&self, listener: impl Fn(HealthExtras) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
        self.tell();
    }

    /// Tells how things are. What changes meanwhile is told by whoever is telling.
    fn tell(&self) {
        let Some(listener) = self.listener.get() else { return };
        if self.untold.fetch_add(1, AcqRel) > 0 {
            return;
        }
        let mut seen = self.untold.load(Acquire);
        loop {
            listener(self.report());
            match self.untold.compare_exchange(seen, 0, AcqRel, Acquire) {
                Ok(_) => return,
                Err(more) => seen = more,
            }
        }
    }

    fn report(&self) -> HealthExtras {
        let report = HealthExtras::new()
            .gauge("children", self.running().into())
            .gauge("children_started", self.started())
            .gauge("lines_refused", self.lines_refused())
            .gauge("lines_too_long", self.lines_too_long());
        if self.is_ready() { report } else { report.not_ready("no server can be started") }
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
            static UNREADY: LogThrottle = LogThrottle::new();
            if let Some(unsaid) = UNREADY.tell() {
                let why = "servers in a row could not be started";
                log::error!("{FAILURES_MAX} {why}: not ready any more{unsaid}");
            }
            self.tell();
        }
    }

    /// A process has said something that is a message.
    pub fn note_success(&self) {
        if self.failures_in_row.swap(0, Relaxed) >= FAILURES_MAX {
            static READY: LogThrottle = LogThrottle::new();
            if let Some(unsaid) = READY.tell() {
                log::info!("a server could be started: ready again{unsaid}");
            }
            self.tell();
        }
    }

    /// So many lines of a server were no messages.
    pub fn note_lines_refused(&self, lines: u64) {
        self.lines_refused.fetch_add(lines, Relaxed);
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
    fn what_changes_while_it_is_told_is_told_last() {
        use std::sync::{Arc, Mutex};
        let status = Arc::new(Status::default());
        let told = Arc::<Mutex<Vec<HealthExtras>>>::default();
        let (changing, telling) = (Arc::downgrade(&status), told.clone());
        status.listen(move |report| {
            // Another thread, while this report is on its way.
            let status = changing.upgrade().unwrap();
            if status.lines_refused() < 3 {
                std::thread::spawn(move || status.note_lines_refused(1)).join().unwrap();
            }
            telling.lock().unwrap().push(report);
        });
        assert_eq!(told.lock().unwrap().last(), Some(&status.report()));
        status.process_started();
        assert_eq!(told.lock().unwrap().last(), Some(&status.report()));
    }

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
