//! The owner's record of a session that uses the shared process.
//!
//! Knows: for how long the session may still block the reading of the process.
//! Does not know: why it blocks it.

use core::time::Duration;

use mcp_sse_core::Time;

use super::frame_queue::FrameSender;

/// How long a session's full queue may block the reading of the process in each [`SLOW_PERIOD`]: 1 s. Then the
/// session is closed.
pub(super) const SLOW_MAX: Duration = Duration::from_secs(1);
/// The time in which a session that does not block the process regains all of [`SLOW_MAX`], at a constant rate: 30 s.
pub(super) const SLOW_PERIOD: Duration = Duration::from_secs(30);

/// The owner's record of one session.
pub(super) struct JoinedSession {
    pub(super) name: String,
    pub(super) frames: FrameSender,
    /// What was left of [`SLOW_MAX`] at `slack_at`.
    slack: Duration,
    slack_at: Time,
}

impl JoinedSession {
    /// Creates the record of a session that joins at `now`.
    pub(super) const fn new(name: String, frames: FrameSender, now: Time) -> Self {
        Self { name, frames, slack: SLOW_MAX, slack_at: now }
    }

    /// What is left of [`SLOW_MAX`] at `now`.
    pub(super) fn slack(&self, now: Time) -> Duration {
        let ratio = SLOW_PERIOD.as_secs() / SLOW_MAX.as_secs();
        let back = now.saturating_since(self.slack_at) / u32::try_from(ratio).unwrap_or(u32::MAX);
        SLOW_MAX.min(self.slack.saturating_add(back))
    }

    pub(super) fn spend(&mut self, spent: Duration, now: Time) {
        self.slack = self.slack(now).saturating_sub(spent);
        self.slack_at = now;
    }
}
