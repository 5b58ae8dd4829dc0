//! The status of a bridge's processes: counters, and whether processes can be started.
//!
//! Knows: the numbers, and when `/health` and `/ready` change. Does not know: how those are served.

use core::fmt;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicU32, AtomicU64};
use core::time::Duration;
use std::sync::{Mutex, OnceLock, PoisonError};

use mcp_sse_core::{DurationHistogram, HealthExtras};
use mcp_sse_driver::{Handle, LogThrottle};

use super::child::Exit;

/// The bridge is not ready after this many processes in a row could not be started: 3.
pub const FAILURES_MAX: u32 = 3;

/// How a process has ended.
///
/// Exit statuses are counted in these groups, because a server may exit with any of 256 statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitKind {
    /// It exited with status 0.
    Success,
    /// It exited with another status.
    Failure,
    /// The program could not be run: status 126 or 127.
    NotRun,
    /// It was ended by a signal, or its guard reports status 128 or above, which stands for a signal.
    Signal,
    /// Its status is not known.
    Unknown,
}

impl ExitKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::Failure, Self::NotRun, Self::Signal, Self::Unknown];

    /// The name of the kind in lower case, for logs and for labels of metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::NotRun => "not_run",
            Self::Signal => "signal",
            Self::Unknown => "unknown",
        }
    }

    fn of(exit: Exit) -> Self {
        match exit.code() {
            Some(0) => Self::Success,
            Some(_) if exit.was_not_run() => Self::NotRun,
            Some(1..=127) => Self::Failure,
            Some(_) | None => Self::Signal,
        }
    }
}

/// Counters of a bridge's processes. They can be read by any thread.
#[derive(Default)]
pub struct BridgeStatus {
    running: AtomicU32,
    started: AtomicU64,
    failures_in_row: AtomicU32,
    lines_refused: AtomicU64,
    lines_too_long: AtomicU64,
    exited: [AtomicU64; ExitKind::ALL.len()],
    restarts: AtomicU64,
    stderr_lines: AtomicU64,
    startups: Mutex<DurationHistogram>,
    /// Called whenever `/health` or `/ready` change.
    listener: OnceLock<Box<dyn Fn(HealthExtras) + Send + Sync>>,
    /// The number of changes that were not reported yet. The thread that makes the first change reports all of them;
    /// if two threads reported at once, the older report could arrive last.
    unreported: AtomicU32,
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
    /// Reports the status to `/health` and `/ready` of this server from now on. Only the first call has an effect.
    pub fn report_to(&self, server: Handle) {
        self.listen(move |report| server.set_health_extras(report));
    }

    pub(super) fn listen(&self, listener: impl Fn(HealthExtras) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
        self.report_change();
    }

    /// Reports a change to the listener. If another thread is reporting, it reports this change too.
    fn report_change(&self) {
        let Some(listener) = self.listener.get() else { return };
        if self.unreported.fetch_add(1, AcqRel) > 0 {
            return;
        }
        let mut seen = self.unreported.load(Acquire);
        loop {
            listener(self.report());
            match self.unreported.compare_exchange(seen, 0, AcqRel, Acquire) {
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

    /// The number of running processes, including those that are being ended.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.load(Relaxed)
    }

    /// The number of processes that were started so far.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started.load(Relaxed)
    }

    /// The number of consecutive processes that could not be started, or exited before they had printed a message.
    /// The first message of a process resets it to 0.
    #[must_use]
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row.load(Relaxed)
    }

    /// Whether `/ready` reports that this bridge can serve clients: fewer than [`FAILURES_MAX`] consecutive failures.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.failures_in_row() < FAILURES_MAX
    }

    /// The number of lines of servers that were not messages.
    #[must_use]
    pub fn lines_refused(&self) -> u64 {
        self.lines_refused.load(Relaxed)
    }

    /// The number of lines of servers that were longer than allowed.
    #[must_use]
    pub fn lines_too_long(&self) -> u64 {
        self.lines_too_long.load(Relaxed)
    }

    /// The number of processes that have ended in this way.
    #[must_use]
    pub fn exited(&self, kind: ExitKind) -> u64 {
        self.exited.get(kind as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// The number of shared processes that were started because the one before has ended.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Relaxed)
    }

    /// The number of lines that servers have printed on stderr, whether or not they were logged.
    #[must_use]
    pub fn stderr_lines(&self) -> u64 {
        self.stderr_lines.load(Relaxed)
    }

    /// How long processes took from their start to their first message. One that ended before is not counted.
    #[must_use]
    pub fn startups(&self) -> DurationHistogram {
        self.startups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the end of a process. `exit` is its status, if it is known.
    pub(super) fn note_exit(&self, exit: Option<Exit>) {
        let kind = exit.map_or(ExitKind::Unknown, ExitKind::of);
        if let Some(count) = self.exited.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn note_restart(&self) {
        self.restarts.fetch_add(1, Relaxed);
    }

    pub(super) fn note_stderr_line(&self) {
        self.stderr_lines.fetch_add(1, Relaxed);
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

    /// Counts a process that could not be started, or that exited before it had printed a message.
    pub(super) fn note_failure(&self) {
        let before = self.failures_in_row.fetch_add(1, Relaxed);
        if before + 1 == FAILURES_MAX {
            static UNREADY: LogThrottle = LogThrottle::new();
            if let Some(unsaid) = UNREADY.tell() {
                let why = "servers in a row could not be started";
                log::error!(
                    event = "bridge_not_ready",
                    failures = FAILURES_MAX,
                    suppressed = unsaid;
                    "{FAILURES_MAX} {why}: not ready any more{unsaid}"
                );
            }
            self.report_change();
        }
    }

    /// Notes that a process has printed its first message, so long after its start.
    pub(super) fn note_success(&self, took: Duration) {
        self.startups.lock().unwrap_or_else(PoisonError::into_inner).observe(took);
        if self.failures_in_row.swap(0, Relaxed) >= FAILURES_MAX {
            static READY: LogThrottle = LogThrottle::new();
            if let Some(unsaid) = READY.tell() {
                log::info!(
                    event = "bridge_ready",
                    suppressed = unsaid;
                    "a server could be started: ready again{unsaid}"
                );
            }
            self.report_change();
        }
    }

    /// Counts lines of a server that were not messages.
    pub(super) fn note_lines_refused(&self, lines: u64) {
        self.lines_refused.fetch_add(lines, Relaxed);
        self.report_change();
    }

    /// Counts a line of a server that was longer than allowed.
    pub(super) fn note_line_too_long(&self) {
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
            // Another thread changes the status during this report.
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
    fn exits_are_counted_by_kind() {
        use std::os::unix::process::ExitStatusExt;
        use std::process::ExitStatus;
        let status = BridgeStatus::default();
        let check = |exit: Option<i32>, kind: ExitKind| {
            let before = status.exited(kind);
            status.note_exit(exit.map(|raw| Exit(ExitStatus::from_raw(raw))));
            assert_eq!(status.exited(kind), before + 1, "{exit:?}");
        };
        check(Some(0), ExitKind::Success);
        check(Some(1 << 8), ExitKind::Failure);
        check(Some(125 << 8), ExitKind::Failure);
        check(Some(126 << 8), ExitKind::NotRun);
        check(Some(127 << 8), ExitKind::NotRun);
        check(Some(137 << 8), ExitKind::Signal);
        check(Some(9), ExitKind::Signal);
        check(None, ExitKind::Unknown);
        let all: u64 = ExitKind::ALL.into_iter().map(|kind| status.exited(kind)).sum();
        assert_eq!(all, 8);
    }

    #[test]
    fn three_start_failures_in_a_row_are_not_ready() {
        let status = BridgeStatus::default();
        status.note_failure();
        status.note_failure();
        status.note_success(Duration::ZERO);
        status.note_failure();
        status.note_failure();
        assert!(status.is_ready());
        status.note_failure();
        assert!(!status.is_ready());
        status.note_success(Duration::ZERO);
        assert!(status.is_ready());
    }
}
