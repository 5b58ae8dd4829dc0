//! The pause before a server that has ended is started again.

use core::time::Duration;

/// The first pause: 1 s. Each further pause is twice as long, up to [`PAUSE_MAX`].
pub(super) const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause: 30 s.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(30);
/// After a server that has run for this time (30 s), the next pause is [`PAUSE_FIRST`] again.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The sequence of pauses between starts.
#[derive(Debug, Default)]
pub(super) struct RestartBackoff {
    last: Option<Duration>,
}

impl RestartBackoff {
    /// The pause after a server that has run for `lived`; zero if it could not be started.
    pub(super) fn next(&mut self, lived: Duration) -> Duration {
        let before = self.last.filter(|_| lived < STABLE_AFTER);
        let next = before.map_or(PAUSE_FIRST, |before| PAUSE_MAX.min(before * 2));
        self.last = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_pauses_double_to_a_bound_and_reset_after_a_stable_time() {
        let mut backoff = RestartBackoff::default();
        let short = STABLE_AFTER - Duration::from_millis(1);
        let pauses: Vec<u64> = (0..7).map(|_| backoff.next(short).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.next(STABLE_AFTER).as_secs(), 1);
        assert_eq!(backoff.next(Duration::ZERO).as_secs(), 2);
    }
}
