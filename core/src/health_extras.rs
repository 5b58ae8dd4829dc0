//! The application's part of the answers to `/health` and `/ready`.
//!
//! Knows: gauges for `/health`, and whether `/ready` is to report that the server is not ready.
//! Does not know: the format of either answer.

use alloc::collections::BTreeMap;

/// The application's part of the answers to `/health` and `/ready`, for
/// [`Server::set_health_extras`](crate::Server::set_health_extras).
///
/// # Examples
///
/// ```
/// use mcp_sse_core::HealthExtras;
///
/// let extras = HealthExtras::new().gauge("children", 3).not_ready("no child process");
/// assert_ne!(extras, HealthExtras::new());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it has no effect until it is given to a server"]
pub struct HealthExtras {
    /// The names are literals of the program, so their number is bounded.
    pub(crate) gauges: BTreeMap<&'static str, u64>,
    pub(crate) not_ready: Option<&'static str>,
}

impl HealthExtras {
    /// Makes a value that adds nothing to `/health` and leaves `/ready` as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member to the JSON object that answers `/health`. If a name is added twice, the last
    /// value is used.
    pub fn gauge(mut self, name: &'static str, value: u64) -> Self {
        self.gauges.insert(name, value);
        self
    }

    /// Makes `/ready` answer 503 with `why` as the member `status` of its JSON. If the server
    /// itself is full or shutting down, the answer names that reason instead.
    pub fn not_ready(mut self, why: &'static str) -> Self {
        self.not_ready = Some(why);
        self
    }
}
