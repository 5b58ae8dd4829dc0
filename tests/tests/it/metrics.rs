//! The metrics of a running server for Prometheus: each moves when its thing happens.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use mcp_sse_core::{Config, Frame, Limits, MetricsPage, Principal, Timeouts, Verdict};
use mcp_sse_driver::VerdictCache;
use mcp_sse_driver::prometheus::MetricsCollector;
use mcp_sse_driver::prometheus::prometheus_client::encoding::prometheus_text;
use mcp_sse_driver::prometheus::prometheus_client::registry::Registry;
use mcp_sse_tests::adapter::{
    Adapter, Authorize, Handler, HandlerThread, Listen, RunningServer, authorize, handler,
};
use mcp_sse_tests::client::{Client, Stream, call, post_request};
use mcp_sse_tests::{for_each_adapter, handlers, limits, wait_until};

for_each_adapter!(
    each_metric_moves_when_its_thing_happens,
    metrics_of_all_workers_are_added,
    text_of_a_client_is_never_a_label,
    evictions_stalls_and_ends_are_counted,
    decisions_and_principals_are_counted,
    metrics_of_an_ended_server_are_its_last,
    page_is_served_to_clients_that_may_open_a_stream,
);

/// A server whose metrics are collected.
struct Watched {
    server: RunningServer,
    registry: Registry,
}

type Series = BTreeMap<String, f64>;

impl Watched {
    fn start(on: &Adapter, workers: usize, config: Config, handler: Handler) -> Self {
        Self::start_authorized(on, workers, config, None, handler)
    }

    fn start_authorized(
        on: &Adapter,
        workers: usize,
        config: Config,
        authorize: Option<(Authorize, VerdictCache)>,
        handler: Handler,
    ) -> Self {
        let listen = Listen::Bind(([127, 0, 0, 1], 0).into());
        let server = RunningServer::try_start_authorized(
            on,
            listen,
            workers,
            HandlerThread::Local,
            config,
            authorize,
            handler,
        );
        let server = server.expect("a server");
        let mut registry = Registry::default();
        let collector = MetricsCollector::new(server.handle()).with_principals(1);
        registry.register_collector(Box::new(collector));
        Self { server, registry }
    }

    /// All series, as a scrape reads them.
    #[track_caller]
    fn scrape(&self) -> Series {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("a text");
        read(&text)
    }

    /// Waits until each of these series has grown by so much since `before`.
    #[track_caller]
    fn expect_growth(&self, before: &Series, expected: &[(&str, f64)]) {
        for &(name, growth) in expected {
            let value = |series: &Series| {
                let value = series.get(name);
                *value.unwrap_or_else(|| panic!("{name} is missing"))
            };
            let from = value(before);
            wait_until(name, || {
                let now = value(&self.scrape());
                (now - from - growth).abs() < 1e-9
            });
        }
    }
}

/// Reads the text format: a line that is no comment is a name with labels, a space and a number.
#[track_caller]
fn read(text: &str) -> Series {
    let mut series = Series::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert_eq!(series.insert(name.into(), value), None, "{name} occurs twice");
    }
    series
}

/// Answers each request with its params, except for the method "wait".
fn echo_unless_asked_to_wait() -> Handler {
    handler(|mut session| async move {
        while let Some(message) = session.recv().await {
            if message.method() != Some("wait")
                && let Some(frame) = handlers::echoed(&message)
            {
                let _gone = session.send(frame).await;
            }
        }
    })
}

fn request(id: u32, method: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{}}}}"#)
}

const CANCEL_1: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;

/// A configuration in which things happen soon.
fn hasty() -> Config {
    let timeouts = Timeouts {
        heartbeat: Some(Duration::from_millis(100)),
        hold: Some(Duration::from_millis(100)),
        ..Timeouts::default()
    };
    limits(|limits| limits.in_flight_max = Some(1)).timeouts(timeouts).build().expect("valid")
}

fn each_metric_moves_when_its_thing_happens(on: &Adapter) {
    let watched = Watched::start(on, 2, hasty(), echo_unless_asked_to_wait());
    let address = watched.server.address();
    let start = watched.scrape();
    let mut stream = Stream::open(address);
    watched.expect_growth(
        &start,
        &[
            ("mcp_sse_sessions", 1.0),
            ("mcp_sse_sessions_opened_total", 1.0),
            ("mcp_sse_connections", 1.0),
            ("mcp_sse_connections_accepted_total", 1.0),
        ],
    );
    wait_until("heartbeats", || watched.scrape()["mcp_sse_heartbeats_total"] >= 2.0);

    let body = request(1, "tools/call");
    assert_eq!(stream.post(&body).status, 202);
    let answer = stream.message();
    watched.expect_growth(
        &start,
        &[
            ("mcp_sse_posts_total{status=\"202\"}", 1.0),
            ("mcp_sse_messages_received_total", 1.0),
            ("mcp_sse_frames_queued_total", 1.0),
            ("mcp_sse_frames_sent_total", 1.0),
            ("mcp_sse_requests_in_flight", 0.0),
            ("mcp_sse_request_seconds_count{method=\"tools/call\"}", 1.0),
            ("mcp_sse_request_seconds_count{method=\"other\"}", 0.0),
            ("mcp_sse_request_seconds_bucket{method=\"tools/call\",le=\"+Inf\"}", 1.0),
            ("mcp_sse_message_received_bytes_count", 1.0),
            ("mcp_sse_message_received_bytes_sum", body.len() as f64),
            ("mcp_sse_message_received_bytes_bucket{le=\"256\"}", 1.0),
            ("mcp_sse_message_sent_bytes_count", 1.0),
            ("mcp_sse_queue_bytes", 0.0),
        ],
    );
    let now = watched.scrape();
    let (received, sent) = (now["mcp_sse_received_bytes_total"], now["mcp_sse_sent_bytes_total"]);
    assert!(received > body.len() as f64 && sent > answer.len() as f64, "{received}, {sent}");
    assert!(now["mcp_sse_queue_high_bytes"] > answer.len() as f64);

    // One request in flight, and one that waits in vain.
    let before = watched.scrape();
    assert_eq!(stream.post(&request(1, "wait")).status, 202);
    watched.expect_growth(&before, &[("mcp_sse_requests_in_flight", 1.0)]);
    assert_eq!(stream.post(&request(2, "ping")).status, 202);
    watched.expect_growth(
        &before,
        &[
            ("mcp_sse_posts_held_total", 1.0),
            ("mcp_sse_posts_waiting", 0.0),
            ("mcp_sse_refusals_total{cause=\"busy\"}", 1.0),
            ("mcp_sse_limit_refusals_total{limit=\"in_flight_max\"}", 1.0),
            ("mcp_sse_request_seconds_count{method=\"ping\"}", 0.0),
        ],
    );
    assert_eq!(stream.post(CANCEL_1).status, 202);
    watched.expect_growth(&before, &[("mcp_sse_requests_in_flight", 0.0)]);
    refusals_are_counted(&watched, &stream);
    let before = watched.scrape();
    drop(stream);
    watched.expect_growth(
        &before,
        &[("mcp_sse_sessions", -1.0), ("mcp_sse_sessions_ended_total{reason=\"peer\"}", 1.0)],
    );
}

fn refusals_are_counted(watched: &Watched, stream: &Stream) {
    let before = watched.scrape();
    let mut client = Client::connect(watched.server.address());
    let wrong = "/messages?session_id=00000000000000000000000000000000";
    assert_eq!(client.ask(post_request(wrong, CANCEL_1)).status, 404);
    assert_eq!(client.ask(stream.post_request("[")).status, 400);
    assert_eq!(client.ask(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").status, 403);
    client.send("POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-");
    client.end();
    watched.expect_growth(
        &before,
        &[
            ("mcp_sse_posts_total{status=\"404\"}", 1.0),
            ("mcp_sse_posts_total{status=\"400\"}", 1.0),
            ("mcp_sse_posts_total{status=\"403\"}", 0.0),
            ("mcp_sse_refusals_total{cause=\"unknown_session\"}", 1.0),
            ("mcp_sse_refusals_total{cause=\"not_json\"}", 1.0),
            ("mcp_sse_refusals_total{cause=\"host_not_allowed\"}", 1.0),
            ("mcp_sse_requests_truncated_total", 1.0),
        ],
    );
}

fn metrics_of_all_workers_are_added(on: &Adapter) {
    const STREAMS: usize = 20;
    let watched = Watched::start(on, 2, Config::default(), handlers::echo());
    let start = watched.scrape();
    let mut streams: Vec<_> =
        (0..STREAMS).map(|_| Stream::open(watched.server.address())).collect();
    let count = STREAMS as f64;
    watched.expect_growth(&start, &[("mcp_sse_sessions", count), ("mcp_sse_connections", count)]);
    for stream in &mut streams {
        stream.check_alive("a session of any worker");
    }
    watched.expect_growth(
        &start,
        &[
            ("mcp_sse_posts_total{status=\"202\"}", count),
            ("mcp_sse_request_seconds_count{method=\"other\"}", count),
            ("mcp_sse_posts_waiting", 0.0),
        ],
    );
    // Each post has a connection of its own, which the system gives to either worker.
    let mut posts = 0;
    while watched.server.metrics().posts_forwarded == 0 {
        assert!(posts < 1_000, "no post came to the other worker");
        let mut poster = Client::connect(watched.server.address());
        assert_eq!(poster.ask(streams[0].post_request(&call(posts, "[]"))).status, 202);
        posts += 1;
    }
    wait_until("forwarded posts", || watched.scrape()["mcp_sse_posts_forwarded_total"] >= 1.0);
}

fn text_of_a_client_is_never_a_label(on: &Adapter) {
    let watched = Watched::start(on, 2, Config::default(), handlers::echo());
    let before: Vec<String> = watched.scrape().into_keys().collect();
    let mut stream = Stream::open(watched.server.address());
    assert_eq!(stream.post(&request(7, "intruder/method")).status, 202);
    stream.message();
    let mut client = Client::connect(watched.server.address());
    for request in [
        "GET /intruder HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "GET /sse HTTP/1.1\r\nHost: intruder.example\r\n\r\n".into(),
        "GET /sse HTTP/1.1\r\nHost: localhost\r\nOrigin: https://intruder.example\r\n\r\n".into(),
        post_request("/messages?session_id=intruder", "{}"),
    ] as [Vec<u8>; 4]
    {
        assert!(client.ask(request).status >= 400);
    }
    wait_until("four refusals", || {
        let series = watched.scrape();
        let refusals = series.iter().filter(|(name, _)| name.starts_with("mcp_sse_refusals_total"));
        refusals.map(|(_, count)| count).sum::<f64>() >= 4.0
    });
    let after: Vec<String> = watched.scrape().into_keys().collect();
    assert_eq!(before, after, "nothing that a client does makes a series");
    assert!(!after.concat().contains("intruder"));
}

fn evictions_stalls_and_ends_are_counted(on: &Adapter) {
    let limits = Limits { connections_max: Some(8), ..Limits::default() };
    let timeouts = Timeouts { stall: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let config = Config::builder().limits(limits).timeouts(timeouts).build().expect("valid");
    let large = Frame::notification("notifications/message", &"x".repeat(60_000)).expect("JSON");
    let flood = handler(move |mut session| {
        let large = large.clone();
        async move {
            // Until it is told, or its client does not read.
            while session.recv().await.is_some() {
                while session.send(large.clone()).await.is_ok() {}
            }
        }
    });
    let watched = Watched::start(on, 1, config, flood);
    let address = watched.server.address();
    let start = watched.scrape();
    let mut silent = Client::connect_with_receive_buffer(address, 4 << 10);
    silent.send("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut text = String::new();
    while !text.contains("session_id=") || !text.ends_with("\r\n") {
        text.push_str(&String::from_utf8(silent.read_once()).expect("text"));
    }
    let endpoint = text.split("data: ").nth(1).and_then(|rest| rest.lines().next());
    let mut poster = Client::connect(address);
    assert_eq!(
        poster.ask(post_request(endpoint.expect("an endpoint"), &call(1, "[]"))).status,
        202
    );
    watched.expect_growth(
        &start,
        &[
            ("mcp_sse_stalls_total", 1.0),
            ("mcp_sse_sessions_ended_total{reason=\"stalled\"}", 1.0),
            ("mcp_sse_requests_in_flight", 0.0),
            ("mcp_sse_queue_bytes", 0.0),
        ],
    );
    assert!(watched.scrape()["mcp_sse_frames_undelivered_total"] >= 1.0);
    let idle: Vec<_> = (0..8).map(|_| Client::connect(address)).collect();
    wait_until("an eviction", || watched.scrape()["mcp_sse_evictions_total"] >= 1.0);
    drop(idle);
}

fn decisions_and_principals_are_counted(on: &Adapter) {
    let authorizer = authorize(async |head| {
        let name = head.bearer_token().unwrap_or("nobody").to_owned();
        Verdict::Allow(Principal::new(&name))
    });
    let authorizer = Some((authorizer, VerdictCache::new()));
    let watched = Watched::start_authorized(on, 1, Config::default(), authorizer, handlers::echo());
    let start = watched.scrape();
    let open = |name: &str| {
        let get =
            format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {name}\r\n\r\n");
        Stream::open_with(watched.server.address(), &get)
    };
    let first = open("alice");
    watched.expect_growth(
        &start,
        &[("mcp_sse_decisions_asked_total", 1.0), ("mcp_sse_decision_seconds_count", 1.0)],
    );
    let alice = "mcp_sse_principal_sessions{principal=\"alice\"}";
    wait_until("a principal", || watched.scrape().get(alice) == Some(&1.0));
    let others = [open("bob"), open("carol")];
    let _again = open("alice");
    watched.expect_growth(
        &start,
        &[
            ("mcp_sse_principal_sessions{principal=\"other\"}", 2.0),
            ("mcp_sse_decisions_cached_total", 1.0),
            ("mcp_sse_decisions_late_total", 0.0),
            ("mcp_sse_decision_seconds_count", 4.0),
        ],
    );
    assert_eq!(watched.scrape()[alice], 2.0);
    drop((first, others));
    wait_until("two have left", || {
        let series = watched.scrape();
        series[alice] == 1.0 && series["mcp_sse_principal_sessions{principal=\"other\"}"] == 0.0
    });
}

fn metrics_of_an_ended_server_are_its_last(on: &Adapter) {
    let mut watched = Watched::start(on, 2, Config::default(), handlers::echo());
    let mut stream = Stream::open(watched.server.address());
    stream.check_alive("before the end");
    watched.server.shutdown();
    watched.server.wait_for_end();
    let last = watched.scrape();
    assert_eq!(last["mcp_sse_sessions"], 0.0);
    assert_eq!(last["mcp_sse_sessions_ended_total{reason=\"shutdown\"}"], 1.0);
    assert_eq!(last["mcp_sse_posts_total{status=\"202\"}"], 1.0);
    assert_eq!(last["mcp_sse_connections"], 0.0);
}

fn page_is_served_to_clients_that_may_open_a_stream(on: &Adapter) {
    // The handle is there only when the server runs, so the page looks for the registry when it is asked.
    let registry = Arc::new(OnceLock::<Registry>::new());
    let mut config = Config::default();
    let late = registry.clone();
    let page = MetricsPage::new(move || {
        let mut text = String::new();
        if let Some(registry) = late.get() {
            prometheus_text::encode(&mut text, registry).expect("a text");
        }
        text
    });
    config.serve_metrics(page).expect("no other path is /metrics");
    let watched = Watched::start(on, 2, config, handlers::echo());
    let mut own = Registry::default();
    own.register_collector(Box::new(MetricsCollector::new(watched.server.handle())));
    assert!(registry.set(own).is_ok());
    let _stream = Stream::open(watched.server.address());
    let mut client = Client::connect(watched.server.address());
    let mut get = |host: &str| client.ask(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let response = get("localhost");
    assert_eq!(response.status, 200);
    let content_type = Some("text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(response.field("Content-Type"), content_type);
    wait_until("one session", || read(get("localhost").text())["mcp_sse_sessions"] == 1.0);
    assert_eq!(get("evil.example").status, 403);
}
