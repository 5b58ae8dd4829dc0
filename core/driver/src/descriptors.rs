//! The number of connections for which the process has file descriptors.
//!
//! Knows: the limit of the process, its open descriptors, and those that a server needs besides its connections.
//! Does not know: the descriptors that the application opens for its sessions.
//!
//! The core reserves connections for posts, which works only if `connections_max` is reached before the limit of the
//! operating system. So a listener lowers `connections_max` to the number of available descriptors when it begins to
//! serve. It never changes the limit of the process, which belongs to the application and is inherited by the
//! programs that it starts. The alternative, to refuse streams after the first `EMFILE`, is too late: no descriptor
//! is left then on which a refusal could be sent.
//!
//! Open descriptors are counted, because an application may have opened hundreds of files before it serves. 16
//! descriptors ([`SPARE`]) are kept free for files that it opens later; an application that needs more has to set
//! `connections_max`.
//! Several servers in one process do not know of each other.

use mcp_sse_core::Limits;

/// Descriptors that are not used for connections, for example for reopening a log file or resolving a name.
const SPARE: u64 = 16;
/// Descriptors of a worker besides those of its connections: its listening sockets and its runtime's poller. One is
/// for an additional connection, because the workers' shares of the connections are rounded up.
const PER_WORKER: u64 = 8;
/// The fewest connections of a worker. With fewer, none would be reserved for posts.
const CONNECTIONS_MIN: u64 = 8;
/// The assumed number of open descriptors if they cannot be counted.
#[cfg(unix)]
const OPEN_ASSUMED: u64 = 16;

/// The file descriptors of this process.
///
/// ```
/// use mcp_sse_driver::Descriptors;
///
/// let descriptors = Descriptors { limit: 1_024, open: 10 };
/// assert_eq!(descriptors.for_connections(1), 990);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The most descriptors that the process may have open: the soft limit `RLIMIT_NOFILE`.
    pub limit: u64,
    /// The number of open descriptors.
    pub open: u64,
}

impl Descriptors {
    /// The limit and the open descriptors of this process; `None` if there is no limit.
    #[cfg(unix)]
    #[must_use]
    pub fn of_process() -> Option<Self> {
        use rustix::process::{Resource, getrlimit};
        let limit = getrlimit(Resource::Nofile).current?;
        Some(Self { limit, open: count_open().unwrap_or(OPEN_ASSUMED) })
    }

    /// Returns `None`, because this system has no limit on descriptors.
    #[cfg(not(unix))]
    #[must_use]
    pub const fn of_process() -> Option<Self> {
        None
    }

    /// The number of descriptors for the connections of a server with this number of workers: at least eight for each
    /// worker. If the process does not have as many, accepting sometimes fails.
    #[must_use]
    pub fn for_connections(&self, workers: usize) -> u64 {
        let workers = workers as u64;
        let taken = self.open.saturating_add(SPARE).saturating_add(workers * PER_WORKER);
        self.limit.saturating_sub(taken).max(workers * CONNECTIONS_MIN)
    }
}

/// The number of open descriptors, without the one that is open for counting.
#[cfg(unix)]
fn count_open() -> Option<u64> {
    let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let entries = std::fs::read_dir(directory).ok()?.count() as u64;
    entries.checked_sub(1)
}

/// Lowers `connections_max` to the available descriptors, for a server with this number of workers.
pub(super) fn fit(limits: &Limits, workers: usize) -> Limits {
    let Some(descriptors) = Descriptors::of_process() else { return limits.clone() };
    let fitting = limits.within_descriptors(descriptors.for_connections(workers), 0);
    if let (before, Some(after)) = (limits.connections_max, fitting.connections_max)
        && before != fitting.connections_max
    {
        let before = before.map_or("unlimited".into(), |before| format!("{before}"));
        let Descriptors { limit, open } = descriptors;
        log::info!(
            event = "connections_max_lowered",
            connections_max = after,
            descriptors_max = limit,
            descriptors_open = open;
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
    fn open_descriptors_are_not_available_for_connections() {
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
        // Other tests open and close descriptors at the same time, but fewer than this.
        let before = count_open().unwrap();
        let pipes: Vec<_> = (0..100).map(|_| std::io::pipe().unwrap()).collect();
        assert!(count_open().unwrap() >= before + 100);
        drop(pipes);
        assert!(Descriptors::of_process().is_none_or(|found| found.open < found.limit));
    }

    #[test]
    fn limits_that_fit_stay_as_they_are() {
        let few = Limits { connections_max: Some(8), ..Limits::default() };
        assert_eq!(fit(&few, 1), few);
    }
}
