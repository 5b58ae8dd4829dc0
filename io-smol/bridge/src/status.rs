//! What the bridge reports of its processes: counts, and whether they can be started at all.
//!
//! Knows: numbers, and when `/health` and `/ready` change. Does not know: how they are served.

use core::fmt;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::OnceLock;

use mcp_sse_core::HealthExtras;
use mcp_sse_driver::{Handle, LogThrottle};

/// When so many processes in a row could not be started, the bridge is not ready.
pub const FAILURES_MAX: u32 = 3;

/// Counts that are kept as things happen, and can be looked at from any thread.
#[derive(Default)]
pub struct BridgeStatus {
    running: AtomicU32,
    started: AtomicU64,
    failures_in_row: AtomicU32,
    lines_refused: AtomicU64,
    lines_too_long: AtomicU64,
    /// Called whenever `/health` or `/ready` change.
    listener: OnceLock<Box<dyn Fn(HealthExtras) + Send + Sync>>,
    /// Changes that were not reported yet. The thread that makes the first one reports all of them, and the others need
    /// not wait: if two reported at once, the older report could be the last.
    untold: AtomicU32,
}

impl fmt::Debug for BridgeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeStatus")
            .field("running", &self.running())
            .field("started", &self.started())
            .field("failures_in_row", &self.failures_in_row())
            .field("lines_refused", &self.lines_refused())
            .field("lines_too_long", &self.lines_too_long())
            .finish()
    }
}

impl BridgeStatus {
    /// Reports to this server from now on, for its `/health` and `/ready`. Only the first server is reported to.
    pub fn report_to(&self, server: Handle) {
        self.listen(move |report| server.set_health_extras(report));
    }

    pub(super) fn listen(&self, listener: impl Fn(HealthExtras) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
        self.report_change();
    }

    /// Reports to the listener. What changes meanwhile is reported by the thread that is reporting.
    fn report_change(&self) {
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

    /// How many processes in a row could not be started, or ended by themselves before they had printed a message. It
    /// is 0 again after the first message.
    #[must_use]
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row.load(Relaxed)
    }

    /// Whether clients should be sent here.
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
        self.report_change();
    }

    pub(super) fn process_ended(&self) {
        self.running.fetch_sub(1, Relaxed);
        self.report_change();
    }

    /// Counts a process that could not be started, or ended by itself before it had printed a message.
    pub fn note_failure(&self) {
        let before = self.failures_in_row.fetch_add(1, Relaxed);
        if before + 1 == FAILURES_MAX {
            static UNREADY: LogThrottle = LogThrottle::new();
            if let Some(unsaid) = UNREADY.tell() {
                let why = "servers in a row could not be started";
                log::error!("{FAILURES_MAX} {why}: not ready any more{unsaid}");
            }
            self.report_change();
        }
    }

    /// Notes that a process has printed its first message.
    pub fn note_success(&self) {
        if self.failures_in_row.swap(0, Relaxed) >= FAILURES_MAX {
            static READY: LogThrottle = LogThrottle::new();
            if let Some(unsaid) = READY.tell() {
                log::info!("a server could be started: ready again{unsaid}");
            }
            self.report_change();
        }
    }

    /// Counts lines of a server that were no messages.
    pub fn note_lines_refused(&self, lines: u64) {
        self.lines_refused.fetch_add(lines, Relaxed);
        self.report_change();
    }

    /// Counts a line of a server that was longer than allowed.
    pub fn note_line_too_long(&self) {
        self.lines_too_long.fetch_add(1, Relaxed);
        self.report_change();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_changed_while_reporting_is_reported_last() {
        use std::sync::{Arc, Mutex};
        let status = Arc::new(BridgeStatus::default());
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
    fn three_start_failures_in_a_row_are_not_ready() {
        let status = BridgeStatus::default();
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
