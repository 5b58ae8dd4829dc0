//! The metrics of a server for Prometheus, through the crate [`prometheus_client`].
//!
//! Knows: the name, the type, the help text and the labels of each metric. Does not know: when a counter changes, or
//! which program scrapes.
//!
//! [`MetricsCollector`] is registered in a registry, which may also contain metrics of the application.
//! [`metrics_page`] makes from a registry the page that
//! [`Listener::serve_metrics`](crate::Listener::serve_metrics) serves. The guide [metrics](crate::guide::metrics) lists
//! all metrics.
//!
//! Decision: a collector reads the core's counters when the registry is encoded. Counters of `prometheus-client` that
//! are changed at each event were considered, but the core would have to know an exposition format, and its counters
//! would need atomics or locks. The numbers that the collector reads are at most 0.25 s old (see [`MetricsWatch`]).
//!
//! Decision: every label has a fixed set of values, and every series exists from the start. The exception is the
//! label `principal`, which the caller has to switch on and to bound. Paths, methods that MCP does not define, ids,
//! addresses and texts of clients are never labels, because a client could create any number of series.
//!
//! Decision: the fault of a request is counted in one metric with the label `cause`, and the limit that was reached,
//! if there was one, in another metric with the label `limit`. One metric with both labels was considered, but one
//! shard knows the cause of a forwarded post's refusal, and another one knows the limit.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use mcp_sse_core::{DurationHistogram, Fault, Metrics, MetricsPage, Principal, SizeHistogram};
/// The crate whose registry takes the collector.
pub use prometheus_client;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::handle::Handle;
use super::metrics_watch::MetricsWatch;

/// The value of the label `principal` for all principals beyond the limit.
const OTHER: &str = "other";

/// The metrics of a server, for a registry of [`prometheus_client`].
///
/// Encoding never waits for the server, so a registry can be encoded on any thread, also on one of the server's own.
///
/// # Examples
///
/// ```
/// use mcp_sse_smol::prometheus::prometheus_client::registry::Registry;
/// use mcp_sse_smol::prometheus::{MetricsCollector, metrics_page};
/// use mcp_sse_smol::{Config, Listener};
///
/// # fn main() -> std::io::Result<()> {
/// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
/// let mut registry = Registry::default();
/// registry.register_collector(Box::new(MetricsCollector::new(&listener.handle())));
/// // Clients that may open a stream can read the metrics at `/metrics`.
/// let listener = listener.serve_metrics(metrics_page(registry))?;
/// # drop(listener);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MetricsCollector {
    watch: MetricsWatch,
    principals: Option<KnownPrincipals>,
}

impl MetricsCollector {
    /// Makes a collector of the metrics of the server of `server`. It may be made before or while the server serves.
    #[must_use]
    pub fn new(server: &Handle) -> Self {
        Self { watch: MetricsWatch::new(server), principals: None }
    }

    /// Adds the number of open sessions of each principal, `mcp_sse_principal_sessions`. By default there is no such
    /// metric.
    ///
    /// The first `most` principals that have a session are values of the label `principal` for as long as the
    /// collector exists. All others are counted together as `other`. Whoever reads the metrics learns these names.
    #[must_use]
    pub fn with_principals(self, most: usize) -> Self {
        let principals = KnownPrincipals { most, known: Mutex::default() };
        Self { watch: self.watch.with_principals(), principals: Some(principals) }
    }
}

/// Makes a page for [`Listener::serve_metrics`](crate::Listener::serve_metrics) of all metrics in a registry.
///
/// The registry is encoded for each request, in the text format of Prometheus, version 0.0.4.
#[must_use]
pub fn metrics_page(registry: impl Into<Arc<Registry>>) -> MetricsPage {
    let registry = registry.into();
    MetricsPage::new(move || {
        let mut text = String::new();
        if prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).is_err() {
            log::error!(event = "metrics_not_encoded"; "the metrics cannot be encoded");
            text.clear();
        }
        text
    })
}

impl Collector for MetricsCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.watch.metrics();
        let mut families = Families(encoder);
        families.build()?;
        families.sessions_and_connections(&metrics)?;
        families.posts_and_refusals(&metrics)?;
        families.messages(&metrics)?;
        families.requests_and_decisions(&metrics)?;
        match &self.principals {
            Some(principals) => families.gauges(
                "mcp_sse_principal_sessions",
                "Open sessions, by principal",
                "principal",
                principals.count(self.watch.principals()),
            ),
            None => Ok(()),
        }
    }
}

/// The principals that are values of a label.
#[derive(Debug)]
struct KnownPrincipals {
    most: usize,
    known: Mutex<BTreeSet<Principal>>,
}

impl KnownPrincipals {
    /// How many sessions each known principal has, and all others together.
    fn count(&self, sessions: Vec<(Principal, u32)>) -> BTreeMap<String, u64> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = BTreeMap::from([(OTHER.to_owned(), 0)]);
        counts.extend(known.iter().map(|principal| (principal.name().to_owned(), 0)));
        for (principal, count) in sessions {
            let is_known = known.contains(&principal);
            // A principal whose name is "other" is one of the others.
            let name = if is_known || (known.len() < self.most && principal.name() != OTHER) {
                principal.name().to_owned()
            } else {
                OTHER.to_owned()
            };
            *counts.entry(name.clone()).or_default() += u64::from(count);
            if !is_known && name != OTHER {
                known.insert(principal);
            }
        }
        counts
    }
}

/// An encoder, with a method for each kind of metric.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn build(&mut self) -> fmt::Result {
        let mut info =
            self.family("mcp_sse_build", "The version of mcp-sse", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn sessions_and_connections(&mut self, metrics: &Metrics) -> fmt::Result {
        self.gauge("mcp_sse_sessions", "Open sessions", None, metrics.sessions_open())?;
        let opened = metrics.sessions_opened;
        self.counter("mcp_sse_sessions_opened", "Sessions that were opened", None, opened)?;
        self.counters(
            "mcp_sse_sessions_ended",
            "Sessions that have ended, by reason",
            "reason",
            metrics.sessions_ended(),
        )?;
        self.gauge("mcp_sse_connections", "Open connections", None, metrics.connections_open())?;
        let fault = |fault| metrics.fault(fault);
        for (name, help, value) in [
            ("accepted", "Connections that were accepted", metrics.connections_accepted),
            (
                "refused",
                "Connections that were not accepted, because of a limit or of a shutdown",
                metrics.connections_refused,
            ),
            (
                "idle",
                "Connections that were closed because they were idle",
                fault(Fault::ConnectionIdle),
            ),
        ] {
            self.counter(&format!("mcp_sse_connections_{name}"), help, None, value)?;
        }
        for (name, help, value) in [
            (
                "evictions",
                "Connections without a request that were closed to make room for others",
                fault(Fault::ConnectionEvicted),
            ),
            (
                "stalls",
                "Connections that were closed because the peer took no bytes",
                fault(Fault::Stalled),
            ),
            (
                "requests_truncated",
                "Requests whose connection ended before they were complete",
                fault(Fault::Truncated),
            ),
            ("heartbeats", "Heartbeats that were queued", metrics.heartbeats),
            (
                "clock_backsteps",
                "How many times the clock of the server went back",
                metrics.clock_backsteps,
            ),
        ] {
            self.counter(&format!("mcp_sse_{name}"), help, None, value)?;
        }
        Ok(())
    }

    fn posts_and_refusals(&mut self, metrics: &Metrics) -> fmt::Result {
        self.counters(
            "mcp_sse_posts",
            "Posts, by the status of their answer; with the status none the connection ended before",
            "status",
            posts_by_status(metrics),
        )?;
        let waiting = metrics.posts_waiting;
        let help = "Posts that are held now because their session has no room";
        self.gauge("mcp_sse_posts_waiting", help, None, waiting)?;
        for (name, help, value) in [
            ("held", "Posts that were held because their session had no room", metrics.posts_held),
            (
                "forwarded",
                "Posts that were passed to the worker that has their session",
                metrics.posts_forwarded,
            ),
            (
                "misrouted",
                "Posts for a session of another instance",
                metrics.fault(Fault::Misrouted),
            ),
        ] {
            self.counter(&format!("mcp_sse_posts_{name}"), help, None, value)?;
        }
        let refusals = Fault::ALL.iter().filter(|fault| is_refusal(**fault));
        self.counters(
            "mcp_sse_refusals",
            "Requests and connections that were refused, by cause",
            "cause",
            refusals.map(|fault| (fault.label(), metrics.fault(*fault))),
        )?;
        self.counters(
            "mcp_sse_limit_refusals",
            "Requests, connections and sessions that were refused or ended because of a limit, by limit",
            "limit",
            metrics.limit_refusals(),
        )
    }

    fn messages(&mut self, metrics: &Metrics) -> fmt::Result {
        for (name, help, value) in [
            (
                "messages_received",
                "Messages that were queued for the application",
                metrics.messages_received,
            ),
            ("frames_queued", "Messages that were queued for streams", metrics.frames_queued),
            ("frames_sent", "Messages that were written completely", metrics.frames_sent),
            (
                "frames_undelivered",
                "Messages that were still queued when their stream ended",
                metrics.frames_undelivered,
            ),
        ] {
            self.counter(&format!("mcp_sse_{name}"), help, None, value)?;
        }
        let bytes = Some(&Unit::Bytes);
        let (received, sent) = (metrics.bytes_received, metrics.bytes_sent);
        self.counter("mcp_sse_received", "Bytes read from connections", bytes, received)?;
        self.counter("mcp_sse_sent", "Bytes written to connections", bytes, sent)?;
        let help = "Sizes of messages that were queued for the application";
        self.sizes("mcp_sse_message_received", help, &metrics.received_sizes)?;
        let help = "Sizes of events that were queued for streams";
        self.sizes("mcp_sse_message_sent", help, &metrics.sent_sizes)?;
        let help = "Bytes that are queued for clients now, with the queue entries";
        self.gauge("mcp_sse_queue", help, bytes, metrics.queue_bytes)?;
        let help = "The most bytes that were queued for clients, summed over workers";
        self.gauge("mcp_sse_queue_high", help, bytes, metrics.queue_bytes_high)
    }

    fn requests_and_decisions(&mut self, metrics: &Metrics) -> fmt::Result {
        let help = "Requests of clients that have not been answered";
        self.gauge("mcp_sse_requests_in_flight", help, None, metrics.requests_in_flight)?;
        let help = "Requests that were cancelled while their post was held";
        self.counter("mcp_sse_requests_withdrawn", help, None, metrics.requests_withdrawn)?;
        let help = "Time from an accepted request until its answer was queued, by method";
        let seconds = Some(&Unit::Seconds);
        let mut family = self.family("mcp_sse_request", help, seconds, MetricType::Histogram)?;
        for (method, times) in metrics.request_times() {
            durations(family.encode_family(&[("method", method)])?, times)?;
        }
        let help = "Time that requests have waited for the authorizer";
        let family = self.family("mcp_sse_decision", help, seconds, MetricType::Histogram)?;
        durations(family, &metrics.decision_times)?;
        for (name, help, value) in [
            ("asked", "Questions to the authorizer", metrics.questions_asked),
            (
                "cached",
                "Questions to the authorizer that were answered from its cache",
                metrics.verdicts_remembered,
            ),
            ("late", "Verdicts of the authorizer that came too late", metrics.verdicts_late),
        ] {
            self.counter(&format!("mcp_sse_decisions_{name}"), help, None, value)?;
        }
        Ok(())
    }

    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.family(name, help, unit, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.family(name, help, unit, MetricType::Gauge)?)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        rows: impl IntoIterator<Item = (impl AsRef<str>, u64)>,
    ) -> fmt::Result {
        self.labelled(name, help, MetricType::Counter, label, rows, |count, encoder| {
            ConstCounter::new(count).encode(encoder)
        })
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        rows: impl IntoIterator<Item = (impl AsRef<str>, u64)>,
    ) -> fmt::Result {
        self.labelled(name, help, MetricType::Gauge, label, rows, |count, encoder| {
            ConstGauge::new(count).encode(encoder)
        })
    }

    /// A family with one series for each row: the value of the label, and the number.
    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        label: &str,
        rows: impl IntoIterator<Item = (impl AsRef<str>, u64)>,
        encode: impl Fn(u64, MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.family(name, help, None, kind)?;
        for (value, count) in rows {
            encode(count, family.encode_family(&[(label, value.as_ref())])?)?;
        }
        Ok(())
    }

    fn sizes(&mut self, name: &str, help: &str, sizes: &SizeHistogram) -> fmt::Result {
        let mut family = self.family(name, help, Some(&Unit::Bytes), MetricType::Histogram)?;
        let buckets = sizes.buckets().map(|(bound, count)| (bound_in(bound, 1.0), count));
        let buckets: Vec<_> = buckets.collect();
        family.encode_histogram::<NoLabelSet>(sizes.sum() as f64, sizes.count(), &buckets, None)
    }
}

/// Encodes a histogram of durations, in seconds.
fn durations(mut family: MetricEncoder<'_>, times: &DurationHistogram) -> fmt::Result {
    const MICROS: f64 = 1e6;
    let buckets = times.buckets().map(|(bound, count)| (bound_in(bound, MICROS), count));
    let buckets: Vec<_> = buckets.collect();
    let sum = times.sum() as f64 / MICROS;
    family.encode_histogram::<NoLabelSet>(sum, times.count(), &buckets, None)
}

/// The bound of a bucket in a unit that has so many of the histogram's units.
fn bound_in(bound: Option<u64>, unit: f64) -> f64 {
    bound.map_or(f64::INFINITY, |bound| bound as f64 / unit)
}

/// How many posts were answered with each status, and how many were not answered.
fn posts_by_status(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut posts = BTreeMap::from([
        ("202".to_owned(), metrics.posts_accepted),
        ("none".to_owned(), metrics.posts_unanswered),
    ]);
    for &fault in Fault::ALL {
        if let Some(status) = fault.status() {
            *posts.entry(status.to_string()).or_default() += metrics.posts_refused(fault);
        }
    }
    posts
}

/// Whether a fault is a refusal. The others are ends of connections and of sessions, and have metrics of their own.
fn is_refusal(fault: Fault) -> bool {
    let ends = [
        Fault::ConnectionIdle,
        Fault::ConnectionEvicted,
        Fault::Stalled,
        Fault::StreamInput,
        Fault::Truncated,
    ];
    !ends.contains(&fault)
}

#[cfg(test)]
mod tests;
