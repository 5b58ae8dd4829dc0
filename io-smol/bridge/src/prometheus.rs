//! The metrics of a bridge's processes for Prometheus.
//!
//! Knows: the name, the type and the help text of each metric. Does not know: what counts (see `status`), or the
//! metrics of the server, which `mcp_sse_driver::prometheus` has.
//!
//! Decision: exit statuses are counted in five groups ([`ExitKind`]) and not one by one, because each of 256 statuses
//! would be a series of its own.

use core::fmt;
use std::sync::Arc;

use mcp_sse_driver::prometheus::prometheus_client::collector::Collector;
use mcp_sse_driver::prometheus::prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, NoLabelSet,
};
use mcp_sse_driver::prometheus::prometheus_client::metrics::MetricType;
use mcp_sse_driver::prometheus::prometheus_client::metrics::counter::ConstCounter;
use mcp_sse_driver::prometheus::prometheus_client::metrics::gauge::ConstGauge;
use mcp_sse_driver::prometheus::prometheus_client::registry::Unit;

use super::status::{BridgeStatus, ExitKind};

/// The metrics of a bridge's processes, for a registry beside those of the server.
///
/// ```
/// use mcp_sse_bridge::children::Children;
/// use mcp_sse_bridge::prometheus::BridgeCollector;
/// use mcp_sse_driver::prometheus::prometheus_client::registry::Registry;
///
/// let children = Children::new()?;
/// let mut registry = Registry::default();
/// registry.register_collector(Box::new(BridgeCollector::new(children.status().clone())));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BridgeCollector {
    status: Arc<BridgeStatus>,
}

impl BridgeCollector {
    /// Makes a collector of these counters, which [`Children::status`](crate::children::Children::status) returns.
    #[must_use]
    pub const fn new(status: Arc<BridgeStatus>) -> Self {
        Self { status }
    }
}

impl Collector for BridgeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.status;
        let help = "Processes that run, those that are being ended included";
        let family =
            encoder.encode_descriptor("mcp_sse_bridge_children", help, None, MetricType::Gauge)?;
        ConstGauge::new(u64::from(status.running())).encode(family)?;
        for (name, help, value) in [
            ("children_started", "Processes that were started", status.started()),
            (
                "restarts",
                "Shared processes that were started because the one before has ended",
                status.restarts(),
            ),
            ("stderr_lines", "Lines that servers have printed on stderr", status.stderr_lines()),
            ("lines_refused", "Lines of servers that were no messages", status.lines_refused()),
            (
                "lines_too_long",
                "Lines of servers that were longer than allowed",
                status.lines_too_long(),
            ),
        ] {
            let name = format!("mcp_sse_bridge_{name}");
            let family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(family)?;
        }
        let (name, help) =
            ("mcp_sse_bridge_children_exited", "Processes that have ended, by status");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for kind in ExitKind::ALL {
            let labels = [("status", kind.name())];
            ConstCounter::new(status.exited(kind)).encode(family.encode_family(&labels)?)?;
        }
        startups(encoder, status)
    }
}

fn startups(mut encoder: DescriptorEncoder<'_>, status: &BridgeStatus) -> fmt::Result {
    const MICROS: f64 = 1e6;
    let (name, help) =
        ("mcp_sse_bridge_startup", "Time from a process's start to its first message");
    let unit = Some(&Unit::Seconds);
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    let times = status.startups();
    let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |micros| micros as f64 / MICROS);
    let buckets: Vec<_> = times.buckets().map(|(it, count)| (bound(it), count)).collect();
    let sum = times.sum() as f64 / MICROS;
    family.encode_histogram::<NoLabelSet>(sum, times.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use mcp_sse_driver::prometheus::prometheus_client::encoding::prometheus_text;
    use mcp_sse_driver::prometheus::prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn readme_lists_every_metric() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(BridgeCollector::new(Arc::default())));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        let exported = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let exported: Vec<_> = exported.filter_map(|metric| metric.split(' ').next()).collect();
        let readme = include_str!("../README.md");
        for name in &exported {
            assert!(readme.contains(&format!("| `{name}` |")), "{name} is not in the README");
        }
        assert_eq!(readme.matches("| `mcp_sse_bridge_").count(), exported.len());
    }

    #[test]
    fn each_counter_of_the_bridge_is_a_metric() {
        let status = Arc::new(BridgeStatus::default());
        status.process_started();
        status.process_started();
        status.process_ended();
        status.note_exit(None);
        status.note_restart();
        status.note_stderr_line();
        status.note_lines_refused(3);
        status.note_line_too_long();
        status.note_success(Duration::from_millis(1_500));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(BridgeCollector::new(status)));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        for line in [
            "mcp_sse_bridge_children 1",
            "mcp_sse_bridge_children_started_total 2",
            "mcp_sse_bridge_children_exited_total{status=\"unknown\"} 1",
            "mcp_sse_bridge_children_exited_total{status=\"success\"} 0",
            "mcp_sse_bridge_restarts_total 1",
            "mcp_sse_bridge_stderr_lines_total 1",
            "mcp_sse_bridge_lines_refused_total 3",
            "mcp_sse_bridge_lines_too_long_total 1",
            "mcp_sse_bridge_startup_seconds_bucket{le=\"1\"} 0",
            "mcp_sse_bridge_startup_seconds_bucket{le=\"2.5\"} 1",
            "mcp_sse_bridge_startup_seconds_sum 1.5",
            "mcp_sse_bridge_startup_seconds_count 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
