//! `GET /metrics`: who may read it, and what it says.

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use super::*;
use crate::error::{ConfigError, Fault};
use crate::metrics_page::MetricsPage;
use crate::{Authorization, StaticTokens};

const METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// With a page that says how often it was rendered.
fn counting(config: ConfigBuilder) -> Config {
    let times = Arc::new(AtomicU32::new(0));
    let page = MetricsPage::new(move || {
        format!("rendered_total {}\n", times.fetch_add(1, Ordering::Relaxed) + 1)
    });
    let mut config = config.build().unwrap();
    config.serve_metrics(page).unwrap();
    config
}

#[test]
fn metrics_are_404_where_they_are_not_configured() {
    assert_eq!(Bench::new().ask(METRICS).status, 404);
}

#[test]
fn metrics_are_rendered_for_each_request() {
    let mut bench = Bench::of(counting(Config::builder()));
    let conn = bench.connect();
    bench.says(conn, METRICS.repeat(2));
    let answers = bench.answers(conn);
    assert_eq!(answers.len(), 2, "the connection is kept");
    assert_eq!((answers[0].status, &*answers[0].body), (200, "rendered_total 1\n"));
    assert_eq!(answers[0].field("Content-Type"), Some(MetricsPage::CONTENT_TYPE));
    assert_eq!(answers[1].body, "rendered_total 2\n");
    let head = bench.ask(METRICS.replace("GET", "HEAD"));
    assert_eq!((head.status, head.field("Content-Length"), &*head.body), (200, Some("17"), ""));
    assert_eq!(bench.ask(METRICS.replace("GET", "PUT")).field("Allow"), Some("GET, HEAD"));
}

#[test]
fn metrics_are_behind_the_guard() {
    let tokens = StaticTokens::builder().token("alice", "alpha").build().unwrap();
    let config = Config::builder().authorization(Authorization::Static(tokens));
    let mut bench = Bench::of(counting(config));
    assert_eq!(bench.ask(METRICS).status, 401);
    let with = |field: &str| METRICS.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
    assert_eq!(bench.ask(with("Origin: https://evil.example")).status, 403);
    assert_eq!(bench.ask(METRICS.replace("localhost", "evil.example")).status, 403);
    assert_eq!(bench.ask(with("Authorization: Bearer alpha")).body, "rendered_total 1\n");
}

#[test]
fn metrics_without_room_for_their_text_are_503() {
    let mut config = limited(|limits| limits.queues_bytes_max = Some(1_000)).build().unwrap();
    config.serve_metrics(MetricsPage::new(|| "x".repeat(1_001))).unwrap();
    let mut bench = Bench::of(config);
    assert_eq!(bench.ask(METRICS).status, 503);
    assert_eq!(bench.server.metrics().fault(Fault::QueuesFull), 1);
    assert_eq!(bench.server.metrics().posts_refused(Fault::QueuesFull), 0, "it is no post");
}

#[test]
fn path_of_metrics_may_not_be_that_of_another_route() {
    let mut config = Config::builder().stream_path("/metrics").build().unwrap();
    let collides = config.serve_metrics(MetricsPage::new(String::new));
    assert_eq!(collides, Err(ConfigError::PathsCollide { value: "/metrics".into() }));
}

#[test]
fn server_without_sessions_has_metrics_and_probes_and_nothing_else() {
    let mut bench = Bench::of(counting(Config::builder().without_sessions()));
    assert_eq!(bench.ask(METRICS).status, 200);
    assert_eq!(bench.ask(METRICS.replace("/metrics", "/ready")).status, 200);
    let answer = bench.ask(GET);
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("no SSE streams are served here"), "{}", answer.body);
    assert_eq!(bench.ask(post("x", NOTE)).status, 404);
    assert!(bench.events().is_empty());
}
