//! What the application says of itself to those who probe the server.
//!
//! Knows: figures for `/health`, and whether `/ready` may say so. Does not know: how either is worded.

use alloc::collections::BTreeMap;

/// What the application adds to `/health` and `/ready`: see [`Server::set_health_extras`](crate::Server::set_health_extras).
///
/// # Examples
///
/// ```
/// use mcp_sse_core::HealthExtras;
///
/// let report = HealthExtras::new().gauge("children", 3).not_ready("no child can be started");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a report is something to hand over"]
pub struct HealthExtras {
    /// As many as the program has names for.
    gauges: BTreeMap<&'static str, u64>,
    not_ready: Option<&'static str>,
}

impl HealthExtras {
    /// Nothing to add, and ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more member of what `/health` answers. The last value of a name counts.
    pub fn gauge(mut self, name: &'static str, value: u64) -> Self {
        self.gauges.insert(name, value);
        self
    }

    /// `/ready` is to answer 503 with this as its status, though the server itself could serve.
    pub fn not_ready(mut self, why: &'static str) -> Self {
        self.not_ready = Some(why);
        self
    }

    pub(crate) fn gauges(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.gauges.iter().map(|(&name, &value)| (name, value))
    }

    pub(crate) const fn unready(&self) -> Option<&'static str> {
        self.not_ready
    }
}
