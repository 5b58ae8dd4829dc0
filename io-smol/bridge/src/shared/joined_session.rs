//! A session that has joined, as the owner of the shared process has it.
//!
//! Knows: how long a session may still keep the process from being read.
//! Does not know: why it does.

use core::time::Duration;

use mcp_sse_core::Time;

use super::frame_queue::FrameSender;

/// How long in all, in each [`SLOW_PERIOD`], a session may keep the process from being read, by not taking what
/// it is sent. Then it is closed.
pub const SLOW_MAX: Duration = Duration::from_secs(1);
/// See [`SLOW_MAX`]; what was spent comes back evenly.
pub const SLOW_PERIOD: Duration = Duration::from_secs(30);

/// What the owner knows of a session.
pub(super) struct JoinedSession {
    pub(super) name: String,
    pub(super) frames: FrameSender,
    /// What is left of [`SLOW_MAX`], and as of when.
    slack: Duration,
    slack_at: Time,
}

impl JoinedSession {
    /// A session that has joined now.
    pub(super) const fn new(name: String, frames: FrameSender, now: Time) -> Self {
        Self { name, frames, slack: SLOW_MAX, slack_at: now }
    }

    /// What is left now.
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
