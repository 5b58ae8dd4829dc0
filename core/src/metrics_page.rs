//! The text that `GET /metrics` answers.
//!
//! Knows: that something else renders it. Does not know: its contents, or the format beyond its media
//! type.
//!
//! Decision: the page is a function that the server calls while it handles the request. An event with a
//! ticket, as for authorization, was considered: it would need a deadline, a phase of the connection and
//! a second call of the driver, for a text that is made from counters in memory. A text that the driver
//! renders in advance was considered too, but most of these texts would never be requested.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

/// What renders the answer to `GET /metrics`, for
/// [`Config::serve_metrics`](crate::Config::serve_metrics). Clones render the same.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::{Config, MetricsPage};
///
/// let page = MetricsPage::new(|| "# TYPE up gauge\nup 1\n".into());
/// let mut config = Config::default();
/// config.serve_metrics(page)?;
/// # Ok::<(), mcp_sse_core::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct MetricsPage(Arc<dyn Fn() -> String + Send + Sync>);

impl MetricsPage {
    /// The media type of the page: the text format of Prometheus, version 0.0.4.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Makes a page of what `render` returns.
    ///
    /// `render` is called for each request for the page, by whatever handles the request. It must not
    /// block: while it runs, no other connection is served.
    #[must_use]
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }

    pub(crate) fn text(&self) -> String {
        (self.0)()
    }
}

impl fmt::Debug for MetricsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsPage(..)")
    }
}
