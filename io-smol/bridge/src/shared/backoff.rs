//! How long to wait before a server that has ended is started again.

use core::time::Duration;

/// The pause after the first end; it doubles with each further one.
pub const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(30);
/// A server that was of use for so long begins anew.
pub const STABLE: Duration = Duration::from_secs(30);

/// Pauses between starts.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The pause after a server that lived so long; not at all if it could not be started.
    pub(super) fn next(&mut self, lived: Duration) -> Duration {
        let before = self.last.filter(|_| lived < STABLE);
        let next = before.map_or(FIRST, |before| LONGEST.min(before * 2));
        self.last = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_behind_a_stable_time() {
        let mut backoff = Backoff::default();
        let short = STABLE - Duration::from_millis(1);
        let pauses: Vec<u64> = (0..7).map(|_| backoff.next(short).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.next(STABLE).as_secs(), 1);
        assert_eq!(backoff.next(Duration::ZERO).as_secs(), 2);
    }
}
