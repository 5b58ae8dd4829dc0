//! The process's limit on file descriptors (`RLIMIT_NOFILE`), and how many connections and sessions it allows.
//!
//! Knows: the limit, and how many descriptors each session takes besides its connection.
//! Does not know: what the descriptors are used for.
//!
//! The soft limit is raised to the hard limit, as the runtimes of Go and of the JVM do. Most systems set the soft
//! limit to 1,024 for programs that use `select`, which this program does not. A bridged server may use `select`, or
//! may close every descriptor up to the limit, so it gets the limit that this program was started with
//! ([`before_raise`]). If the hard limit is too low for the configured limits, the limits on connections and sessions
//! are lowered, and the log says so with the numbers.

use std::sync::OnceLock;

use mcp_sse_core::Limits;
use mcp_sse_driver::Descriptors;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are opened after counting or only briefly: the listener, those that wait for signals, the pipes
/// of a process during its start.
const SPARE: u64 = 16;

static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises the process's soft limit on descriptors to the hard limit. If the system does not allow that, the limit
/// stays as it is, which is logged at level debug.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let Some(before) = limit.current.filter(|_| limit.current != limit.maximum) else { return };
    // macOS reports no hard limit, but accepts no soft limit above this.
    const MOST: u64 = 10_240;
    for to in [limit.maximum, limit.maximum.map_or(Some(MOST), |maximum| Some(maximum.min(MOST)))] {
        let raises = to.is_none_or(|to| to > before);
        if raises && setrlimit(Resource::Nofile, Rlimit { current: to, ..limit }).is_ok() {
            let _ = BEFORE.set(before);
            let to = to.map_or("no limit".into(), |to| to.to_string());
            return log::debug!(
                event = "descriptors_raised",
                before = before,
                after = to;
                "the soft limit on descriptors is raised from {before} to {to}"
            );
        }
    }
    log::debug!(
        event = "descriptors_not_raised",
        before = before;
        "the soft limit on descriptors stays at {before}: the system does not raise it"
    );
}

/// The soft limit before [`raise`] raised it; `None` if it was not raised.
#[must_use]
pub fn before_raise() -> Option<u64> {
    BEFORE.get().copied()
}

/// Sets the soft limit of this process to `before`: the limit of its parent process before [`raise`].
pub fn restore(before: u64) {
    let limit = getrlimit(Resource::Nofile);
    // Lowering the limit is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(before), ..limit });
}

/// The number of descriptors that a service needs besides those of its connections. Both numbers are 0 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservedDescriptors {
    /// Descriptors of the whole service.
    pub once: u64,
    /// Descriptors of each session.
    pub per_session: u32,
}

/// Lowers `connections_max` and `sessions_max` of `limits` to what the process's limit on descriptors allows.
///
/// `workers` is the number of threads that serve. Returns the new limits and, if any was lowered, a line for the log.
#[must_use]
pub fn fit(
    limits: &Limits,
    workers: usize,
    reserved: ReservedDescriptors,
) -> (Limits, Option<String>) {
    let Some(descriptors) = Descriptors::of_process() else { return (limits.clone(), None) };
    let fitting = fit_to(limits, descriptors, workers, reserved);
    let lowered = (fitting != *limits).then(|| say(limits, &fitting, descriptors));
    (fitting, lowered)
}

fn say(before: &Limits, after: &Limits, descriptors: Descriptors) -> String {
    let shown = |limit: Option<u32>| limit.map_or("unlimited".into(), |it| it.to_string());
    let change = |before, after| {
        let changed = format!(" instead of {}", shown(before));
        format!("{}{}", shown(after), if before == after { "" } else { &changed })
    };
    format!(
        "connections_max is {} and sessions_max {}: this process may have {} descriptors open \
         (ulimit -n), and has {}",
        change(before.connections_max, after.connections_max),
        change(before.sessions_max, after.sessions_max),
        descriptors.limit,
        descriptors.open,
    )
}

fn fit_to(
    limits: &Limits,
    descriptors: Descriptors,
    workers: usize,
    reserved: ReservedDescriptors,
) -> Limits {
    let ReservedDescriptors { once, per_session } = reserved;
    // Each worker's share of the sessions is rounded up, so there may be one more session for each worker.
    let rounded = u64::from(per_session) * workers as u64;
    let open = descriptors.open.saturating_add(once).saturating_add(rounded).saturating_add(SPARE);
    let left = Descriptors { open, ..descriptors }.for_connections(workers);
    limits.within_descriptors(left, per_session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowered_limits_are_reported_with_numbers() {
        let descriptors = Descriptors { limit: 1_024, open: 10 };
        let told = |per_session| {
            let before = Limits::default();
            let reserved = ReservedDescriptors { once: 0, per_session };
            say(&before, &fit_to(&before, descriptors, 1, reserved), descriptors)
        };
        let why = "this process may have 1024 descriptors open (ulimit -n), and has 10";
        let limits = "connections_max is 974 instead of 10240 and sessions_max 8192";
        assert_eq!(told(0), format!("{limits}: {why}"));
        let limits = "connections_max is 326 instead of 10240 and sessions_max 161 instead of 8192";
        assert_eq!(told(4), format!("{limits}: {why}"));
    }

    #[test]
    fn limits_are_lowered_to_the_descriptors_available() {
        let check = |limit, workers, (once, per_session), expected| {
            let descriptors = Descriptors { limit, open: 10 };
            let reserved = ReservedDescriptors { once, per_session };
            let fitting = fit_to(&Limits::default(), descriptors, workers, reserved);
            assert_eq!((fitting.connections_max, fitting.sessions_max), expected);
        };
        check(1 << 20, 1, (0, 4), (Some(10_240), Some(8_192)));
        check(1_024, 1, (0, 0), (Some(974), Some(8_192)));
        check(1_024, 1, (8, 0), (Some(966), Some(8_192)));
        check(1_024, 1, (0, 4), (Some(326), Some(161)));
        check(1_024, 4, (0, 4), (Some(314), Some(155)));
        check(64, 1, (0, 0), (Some(14), Some(8_192)));
    }
}
