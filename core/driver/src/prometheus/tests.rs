//! The text of the metrics, without a server that serves. `tests/tests/it/metrics.rs` has the numbers.

use super::*;
use crate::handle::shard_control;

/// The text of a server that has not served yet.
fn text(collector: MetricsCollector) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector));
    let mut text = String::new();
    prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn every_metric_has_a_help_text_and_a_type_and_a_name_of_its_kind() {
    let (handle, _controls) = shard_control();
    let text = text(MetricsCollector::new(&handle).with_principals(1));
    let (mut described, mut typed) = (BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(described.insert(name), "{name} is described twice");
            assert!(help.starts_with(|first: char| first.is_ascii_uppercase()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(described.contains(name), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            typed.insert(name, kind);
        } else {
            let end = line.find(['{', ' ']).expect("a name");
            let name = &line[..end];
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| typed.get(family) == Some(&"histogram"));
            assert!(typed.contains_key(family.unwrap_or(name)), "{line}");
            assert!(name.starts_with("mcp_sse_"), "{line}");
        }
    }
    assert_eq!(described.len(), typed.len());
}

#[test]
fn every_series_occurs_once_and_is_zero_before_anything_happens() {
    let (handle, _controls) = shard_control();
    let text = text(MetricsCollector::new(&handle));
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        assert!(series.insert(name), "{name} occurs twice");
        let expected = if name.starts_with("mcp_sse_build_info") { 1.0 } else { 0.0 };
        assert_eq!(value.parse(), Ok(expected), "{line}");
    }
    let version = env!("CARGO_PKG_VERSION");
    for name in [
        &*format!("mcp_sse_build_info{{version=\"{version}\"}}"),
        "mcp_sse_sessions",
        "mcp_sse_sessions_ended_total{reason=\"expired\"}",
        "mcp_sse_posts_total{status=\"202\"}",
        "mcp_sse_posts_total{status=\"none\"}",
        "mcp_sse_refusals_total{cause=\"host_not_allowed\"}",
        "mcp_sse_limit_refusals_total{limit=\"in_flight_max\"}",
        "mcp_sse_received_bytes_total",
        "mcp_sse_queue_high_bytes",
        "mcp_sse_request_seconds_bucket{method=\"tools/call\",le=\"0.005\"}",
        "mcp_sse_request_seconds_bucket{method=\"other\",le=\"+Inf\"}",
        "mcp_sse_message_sent_bytes_sum",
        "mcp_sse_decision_seconds_count",
    ] {
        assert!(series.contains(name), "{name} is missing in\n{text}");
    }
    assert!(!text.contains("principal="), "principals have to be asked for");
}

#[test]
fn guide_lists_every_metric_with_its_type_and_no_other() {
    let (handle, _controls) = shard_control();
    let text = text(MetricsCollector::new(&handle).with_principals(1));
    let exported = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let exported: BTreeSet<(&str, &str)> =
        exported.filter_map(|metric| metric.split_once(' ')).collect();
    let rows = include_str!("../guide/metrics.md").lines();
    let rows = rows.filter_map(|line| line.strip_prefix("| `mcp_sse_"));
    let listed = rows.map(|row| {
        let (name, rest) = row.split_once("` | ").expect("a type");
        (format!("mcp_sse_{name}"), rest.split([',', ' ']).next().expect("a type"))
    });
    let listed: BTreeSet<(String, &str)> = listed.collect();
    let exported = exported.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
    assert_eq!(listed, exported);
}

#[test]
fn principals_beyond_the_limit_are_counted_together() {
    let sessions = |names: &[&str]| names.iter().map(|name| (Principal::new(name), 1)).collect();
    let principals = KnownPrincipals { most: 2, known: Mutex::default() };
    #[track_caller]
    fn check(counts: BTreeMap<String, u64>, expected: &[(&str, u64)]) {
        let expected = expected.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(counts, expected);
    }
    check(principals.count(sessions(&[])), &[("other", 0)]);
    check(principals.count(sessions(&["other", "a", "a"])), &[("a", 2), ("other", 1)]);
    check(principals.count(sessions(&["c", "a", "b"])), &[("a", 1), ("c", 1), ("other", 1)]);
    // Those that are known stay, also without a session.
    check(principals.count(sessions(&["b", "d"])), &[("a", 0), ("c", 0), ("other", 2)]);
}

#[test]
fn page_is_the_text_of_the_registry() {
    let (handle, _controls) = shard_control();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(MetricsCollector::new(&handle)));
    let mut config = mcp_sse_core::Config::default();
    config.serve_metrics(metrics_page(registry)).unwrap();
    let random = Box::new(crate::testing::Random::seeded(1));
    let now = mcp_sse_core::Time::ZERO;
    let mut server = mcp_sse_core::Server::new(config, random, now);
    let conn = server.accept(mcp_sse_core::Peer::local(), now).unwrap();
    server.handle_input(conn, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", now);
    let answer = server.transmit(conn).chunks().collect::<Vec<_>>().concat();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("# TYPE mcp_sse_sessions gauge\nmcp_sse_sessions 0\n"), "{answer}");
}
