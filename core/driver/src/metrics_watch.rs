//! The counters of a running server, for readers that must not block.
//!
//! Knows: the snapshots that each shard publishes. Does not know: when a shard publishes (see `published`), or what
//! a reader does with the numbers.

use core::fmt;

use mcp_sse_core::{Metrics, Principal};

use super::handle::Handle;
use super::published::Wanted;

/// A view of a server's counters that never waits, for collectors of metrics.
///
/// The numbers are those of up to a quarter of a second ago. Before the server serves they are zero, and after it
/// has ended they are the last ones. [`Handle::metrics`] returns the numbers of this moment instead, but waits for
/// every thread of the server.
///
/// While there has been a `MetricsWatch`, each thread of the server copies its counters up to four times a second, if
/// they have changed. Dropping it does not end that.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
/// # use mcp_sse_driver::{Handle, MetricsWatch};
/// fn watch(server: &Handle) -> impl Fn() -> u64 + use<> {
///     let watch = MetricsWatch::new(server);
///     move || watch.metrics().sessions_open()
/// }
/// # fn main() -> std::io::Result<()> {
/// # serve_client(&[], async |session| {
/// #     assert!(watch(session.server())() <= 1);
/// # })?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MetricsWatch {
    server: Handle,
}

impl MetricsWatch {
    /// Begins to watch the counters of a server.
    #[must_use]
    pub fn new(server: &Handle) -> Self {
        server.want(Wanted::Metrics);
        Self { server: server.clone() }
    }

    /// Watches the [`principals`](Self::principals) as well.
    ///
    /// Each copy then contains a reference to the name of every principal that has an open session.
    #[must_use]
    pub fn with_principals(self) -> Self {
        self.server.want(Wanted::Principals);
        self
    }

    /// The counters, summed over all shards.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let mut sum = Metrics::default();
        for shard in self.server.shards().iter() {
            if let Some(last) = shard.last_metrics() {
                sum += last;
            } else if let Some(snapshot) = &*shard.published.lock() {
                sum += &snapshot.metrics;
            }
        }
        sum
    }

    /// The principals that have open sessions, with the number of their sessions at each shard: a principal that has
    /// sessions at several shards occurs several times. Empty unless they are [watched](Self::with_principals).
    #[must_use]
    pub fn principals(&self) -> Vec<(Principal, u32)> {
        let mut all = Vec::new();
        for shard in self.server.shards().iter().filter(|shard| shard.last_metrics().is_none()) {
            if let Some(snapshot) = &*shard.published.lock() {
                all.extend_from_slice(&snapshot.principals);
            }
        }
        all
    }
}

impl fmt::Debug for MetricsWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MetricsWatch").field(&self.server).finish()
    }
}
