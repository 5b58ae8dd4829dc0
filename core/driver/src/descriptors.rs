//! How many connections the process has descriptors for.
//!
//! Knows: the limit of the process, what it has open, and what a server opens beside its connections.
//! Does not know: what the application opens for its sessions.
//!
//! The core's reserve of connections for posts takes effect only if `connections_max` is reached before
//! the limit of the process is. So a listener lowers `connections_max` to the descriptors that are
//! available when it begins to serve. It never changes the limit of the process: that belongs to the
//! application, and is inherited by the programs that it starts.
//!
//! Decision: descriptors are counted when the server begins to serve. Refusing streams after the first
//! `EMFILE` was considered; by then there is no descriptor left on which a client could be answered.
//!
//! Open descriptors are counted, because an application may have opened hundreds of files before it
//! serves. The application has to plan for those that it opens later: [`SPARE`] is enough for a few,
//! and a lower `connections_max` makes room for more. Several servers in one process do not know of
//! each other.

use mcp_sse_core::Limits;

/// Descriptors that are left to the process beside those of connections: for a log that is opened anew, a
/// name that is looked up.
const SPARE: u64 = 16;
/// What a worker may open, if it needs it: a listening socket, and what its runtime waits by. A
/// connection too many for it, because shares are rounded up, is among them.
const PER_WORKER: u64 = 8;
/// With fewer connections a worker would have none in reserve, so it has as many in any case.
const CONNECTIONS_MIN: u64 = 8;
/// What is taken to be open where that cannot be counted.
#[cfg(unix)]
const OPEN_ASSUMED: u64 = 16;

/// The descriptors of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// How many it may have open: the soft limit `RLIMIT_NOFILE`.
    pub limit: u64,
    /// How many it has open.
    pub open: u64,
}

impl Descriptors {
    /// Asks the system; `None` where there is no limit.
    #[cfg(unix)]
    #[must_use]
    pub fn of_process() -> Option<Self> {
        use rustix::process::{Resource, getrlimit};
        let limit = getrlimit(Resource::Nofile).current?;
        Some(Self { limit, open: count_open().unwrap_or(OPEN_ASSUMED) })
    }

    /// Asks the system; `None`, because there is no limit.
    #[cfg(not(unix))]
    #[must_use]
    pub const fn of_process() -> Option<Self> {
        None
    }

    /// How many there are for the connections of a server with so many workers. Eight for each at least:
    /// where there are not as many, accepting fails now and then.
    #[must_use]
    pub fn for_connections(&self, workers: usize) -> u64 {
        let workers = workers as u64;
        let taken = self.open.saturating_add(SPARE).saturating_add(workers * PER_WORKER);
        self.limit.saturating_sub(taken).max(workers * CONNECTIONS_MIN)
    }
}

/// How many descriptors are open, but for the one that it takes to count them.
#[cfg(unix)]
fn count_open() -> Option<u64> {
    let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let entries = std::fs::read_dir(directory).ok()?.count() as u64;
    entries.checked_sub(1)
}

/// The limits of a server with so many workers that is about to serve in this process.
pub(super) fn fit(limits: &Limits, workers: usize) -> Limits {
    let Some(descriptors) = Descriptors::of_process() else { return limits.clone() };
    let fitting = limits.within_descriptors(descriptors.for_connections(workers), 0);
    if let (before, Some(after)) = (limits.connections_max, fitting.connections_max)
        && before != fitting.connections_max
    {
        let before = before.map_or("unlimited".into(), |before| format!("{before}"));
        let Descriptors { limit, open } = descriptors;
        log::info!(
            "connections_max is {after} instead of {before}: this process may have {limit} descriptors \
             open, and has {open} (ulimit -n)"
        );
    }
    fitting
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn what_is_open_is_not_for_connections() {
        let check = |limit, open, workers, connections| {
            assert_eq!(Descriptors { limit, open }.for_connections(workers), connections);
        };
        check(1_024, 10, 1, 990);
        check(1_024, 500, 1, 500);
        check(1_024, 10, 16, 870);
        check(64, 60, 1, 8);
        check(64, 10, 4, 32);
        check(u64::MAX, 10, 1, u64::MAX - 34);
    }

    #[cfg(unix)]
    #[test]
    fn descriptors_that_are_opened_are_counted() {
        // Other tests open and close some at the same time, but not as many as this.
        let before = count_open().unwrap();
        let held: Vec<_> = (0..100).map(|_| std::io::pipe().unwrap()).collect();
        assert!(count_open().unwrap() >= before + 100);
        drop(held);
        assert!(Descriptors::of_process().is_none_or(|found| found.open < found.limit));
    }

    #[test]
    fn limits_that_fit_stay_as_they_are() {
        let few = Limits { connections_max: Some(8), ..Limits::default() };
        assert_eq!(fit(&few, 1), few);
    }
}
