//! The keys and values of log records, and the way of a `traceparent` into them and to the application.

use log::LevelFilter;

use super::authorize::asking;
use super::*;
use crate::testing::{LogRecord, records_in};
use crate::{
    Authorization, Delivery, Exchange, Outcome, Principal, ServerPhase, ShardId, StaticTokens,
    TraceParent, Verdict,
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn network(remote: &str) -> Peer {
    Peer::tcp(remote.parse().unwrap(), "192.0.2.1:80".parse().unwrap())
}

fn parent() -> Option<TraceParent> {
    TraceParent::parse(PARENT.as_bytes())
}

fn traced() -> String {
    format!("Traceparent: {PARENT}\r\n")
}

/// The events, levels and pairs of records, one a line.
fn written(records: &[LogRecord]) -> Vec<String> {
    records.iter().map(|record| format!("{} {}", record.level, record.pairs())).collect()
}

#[test]
fn session_and_its_requests_have_records_with_stable_keys() {
    let tokens = StaticTokens::builder().token("alice", "alpha").build().unwrap();
    let config = Config::builder().authorization(Authorization::Static(tokens));
    let mut bench = Bench::with(config.trusted_proxy("10.0.0.1"));
    let fields =
        format!("Authorization: Bearer alpha\r\nX-Forwarded-For: 192.0.2.7\r\n{}", traced());
    let records = records_in(LevelFilter::Debug, || {
        let conn = bench.connect_from(network("10.0.0.1:5"));
        bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
        let Some(Event::Opened { session, .. }) = bench.event() else { panic!("no session") };
        let token = bench.stream(conn).token();
        let poster = bench.connect_from(network("10.0.0.1:6"));
        bench.says(poster, post_with(&token, &fields, NOTE));
        bench.says(poster, post_with(&token, &fields, "{}"));
        assert_eq!(bench.inbox().len(), 1);
        bench.send(session, &note("an event"));
        bench.wait(Duration::from_millis(1_500));
        bench.reset(conn);
        bench.reset(poster);
    });
    let tail = format!(r#"principal="alice" traceparent="{PARENT}""#);
    let who = r#"connection="c0v1" peer="10.0.0.1:5" client="192.0.2.7""#;
    let poster = r#"connection="c1v2" peer="10.0.0.1:6" client="192.0.2.7""#;
    let (note_len, event_len) = (NOTE.len(), note("an event").wire_len());
    let answer = |nth: usize| {
        let requests = || records.iter().filter(|record| record.event() == "request");
        requests().nth(nth).expect("a record").value("bytes_out").to_string()
    };
    let expected = [
        r#"DEBUG event="connection_accepted" connection="c0v1" peer="10.0.0.1:5""#.into(),
        format!(
            r#"DEBUG event="request" status=200 method="GET" route="stream" bytes=0 bytes_out={} duration_ms=0 {who} session="s0v1" {tail}"#,
            answer(0)
        ),
        format!(
            r#"DEBUG event="session_opened" session="s0v1" {who} principal="alice" traceparent="{PARENT}""#
        ),
        r#"DEBUG event="connection_accepted" connection="c1v2" peer="10.0.0.1:6""#.into(),
        format!(
            r#"DEBUG event="request" status=202 method="POST" route="message" bytes={note_len} bytes_out={} duration_ms=0 {poster} session="s0v1" {tail}"#,
            answer(1)
        ),
        format!(
            r#"INFO event="refused" reason="not_json_rpc" status=400 method="POST" route="message" {poster} session="s0v1" {tail}"#
        ),
        format!(
            r#"DEBUG event="request" status=400 method="POST" route="message" bytes=2 bytes_out={} duration_ms=0 {poster} session="s0v1" {tail}"#,
            answer(2)
        ),
        format!(
            r#"INFO event="session_ended" reason="peer" duration_ms=1500 messages_in=1 messages_out=1 bytes_in={note_len} bytes_out={event_len} undelivered=0 session="s0v1" {who} {tail}"#
        ),
        r#"DEBUG event="connection_closed" connection="c0v1" peer="10.0.0.1:5""#.into(),
        r#"DEBUG event="connection_closed" connection="c1v2" peer="10.0.0.1:6""#.into(),
    ];
    assert_eq!(written(&records), expected);
    let sentences: Vec<_> = records.iter().map(|record| &*record.sentence).collect();
    assert_eq!(
        sentences,
        [
            "connection c0v1 from 10.0.0.1:5 is accepted",
            "GET of an event stream from 192.0.2.7 through 10.0.0.1:5 was answered 200 after 0 ms",
            "session s0v1 of 192.0.2.7 through 10.0.0.1:5 was opened",
            "connection c1v2 from 10.0.0.1:6 is accepted",
            "POST of a message from 192.0.2.7 through 10.0.0.1:6 was answered 202 after 0 ms",
            "refused POST of a message from 192.0.2.7 through 10.0.0.1:6: Invalid Request (400)",
            "POST of a message from 192.0.2.7 through 10.0.0.1:6 was answered 400 after 0 ms",
            "session s0v1 of 192.0.2.7 through 10.0.0.1:5 ended after 1.5 s, 1 messages in, 1 out, \
             0 undelivered: closed by the client",
            "connection c0v1 from 10.0.0.1:5 is closed",
            "connection c1v2 from 10.0.0.1:6 is closed",
        ]
    );
}

/// The record of the one request in `run`.
#[track_caller]
fn request_in(run: impl FnOnce()) -> LogRecord {
    let records = records_in(LevelFilter::Debug, run);
    let mut requests: Vec<_> =
        records.into_iter().filter(|record| record.event() == "request").collect();
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

#[test]
fn request_record_has_the_route_and_not_the_path() {
    for (request, status, method, route) in [
        ("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "200", "\"GET\"", "\"health\""),
        ("HEAD /ready HTTP/1.1\r\nHost: a\r\n\r\n", "200", "\"HEAD\"", "\"ready\""),
        ("GET /s3cret?s3cret HTTP/1.1\r\nHost: localhost\r\n\r\n", "404", "\"GET\"", "\"unknown\""),
        ("PUT /sse?s3cret HTTP/1.1\r\nHost: localhost\r\n\r\n", "405", "\"PUT\"", "\"stream\""),
        ("GET /sse HTTP/1.1\r\nHost: s3cret\r\n\r\n", "403", "\"GET\"", "\"stream\""),
        ("s3cret\r\n\r\n", "400", "null", "null"),
        ("GET /s3cret HTTP/1.1\r\n\r\n", "400", "null", "null"),
    ] {
        let record = request_in(|| {
            let mut bench = Bench::new();
            bench.ask(request);
        });
        let found = ["status", "method", "route"].map(|key| record.value(key));
        assert_eq!(found, [status, method, route], "{request}");
        assert!(!format!("{record:?}").contains("s3cret"), "{record:?}");
        let timed = record.value("duration_ms") != "null";
        assert_eq!(timed, method != "null", "a head that cannot be read has no beginning");
    }
}

#[test]
fn record_of_a_held_post_has_how_long_it_was_held() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_messages_max = Some(1)));
    let client = bench.open();
    bench.ask(post(&client.token, NOTE));
    let record = request_in(|| {
        let conn = bench.connect();
        bench.wait(secs(3)); // the request comes later than its connection
        bench.says(conn, post_with(&client.token, &traced(), NOTE));
        bench.wait(Duration::from_millis(2_345));
        bench.server.handle_timeout(bench.now); // polling does not tell the time
        let messages = bench.inbox();
        assert_eq!(messages.iter().map(Message::traceparent).collect::<Vec<_>>(), [None, parent()]);
        assert_eq!(bench.statuses(conn), [202]);
    });
    assert_eq!(record.value("duration_ms"), "2345");
    assert_eq!(record.value("traceparent"), format!("{PARENT:?}"));
}

#[test]
fn request_that_is_not_answered_has_a_record_without_a_status() {
    let mut bench = Bench::new();
    let client = bench.open();
    let record = request_in(|| {
        let conn = bench.connect();
        let request = post(&client.token, NOTE);
        bench.says(conn, &request[..request.len() - 3]);
        bench.fin(conn);
    });
    assert_eq!(record.value("status"), "null");
    assert_eq!(record.value("bytes"), (NOTE.len() - 3).to_string());
    assert_eq!(record.sentence, "POST of a message from a local peer was not answered");
    // Nor one that waits for a verdict when its connection breaks.
    let record = request_in(|| {
        let mut bench = Bench::with(Config::builder().authorization(Authorization::Deferred));
        let conn = bench.connect();
        bench.says(conn, GET);
        bench.reset(conn);
    });
    assert_eq!((record.value("status"), record.value("route")), ("null", "\"stream\""));
}

#[test]
fn next_request_on_a_connection_has_nothing_of_the_last() {
    let (mut bench, client) = asking_client();
    let conn = bench.connect();
    let asked = |bench: &mut Bench, request: &str| {
        request_in(|| {
            bench.says(conn, request);
            allow(bench);
            bench.inbox();
        })
    };
    let first = asked(&mut bench, &post_with(&client.token, &traced(), NOTE));
    assert_eq!(first.value("principal"), "\"alice\"");
    assert_eq!(first.value("traceparent"), format!("{PARENT:?}"));
    let second = request_in(|| bench.says(conn, "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    for key in ["session", "principal", "traceparent", "client"] {
        assert_eq!(second.value(key), "null", "{key}");
    }
    assert_eq!(second.value("bytes"), "0");
    let malformed = request_in(|| bench.says(conn, "nonsense\r\n\r\n"));
    for key in ["method", "route", "duration_ms", "session", "principal", "traceparent"] {
        assert_eq!(malformed.value(key), "null", "{key}");
    }
}

/// Lets the request that is asked about proceed.
#[track_caller]
fn allow(bench: &mut Bench) {
    let ticket = bench.asked();
    bench.authorize(ticket, Verdict::Allow(Principal::new("alice"))).unwrap();
}

/// A server that asks about each request, with a session of alice's.
fn asking_client() -> (Bench, Client) {
    let mut bench = Bench::with(asking());
    let conn = bench.connect();
    bench.says(conn, GET);
    allow(&mut bench);
    let Some(Event::Opened { session, .. }) = bench.event() else { panic!("no session") };
    let token = bench.stream(conn).token();
    (bench, Client { conn, session, token })
}

#[test]
fn service_is_named_where_there_are_several() {
    let config = Config::builder().service_path("/files").service_path("/web");
    let record = request_in(|| {
        let mut bench = Bench::with(config);
        let conn = bench.connect();
        bench.says(conn, GET.replace("/sse", "/web/sse"));
    });
    assert_eq!(record.value("service"), "\"/web\"");
}

#[test]
fn connection_without_a_request_has_records_of_its_faults() {
    let records = records_in(LevelFilter::Debug, || {
        let mut bench = Bench::with(limited(|limits| limits.connections_max = Some(1)));
        let conn = bench.connect_from(network("192.0.2.7:5"));
        for _ in 0..2 {
            assert!(bench.server.accept(network("192.0.2.8:6"), bench.now).is_err());
        }
        bench.wait(secs(11));
        assert!(!bench.is_open(conn));
        assert_eq!(bench.server.phase(), ServerPhase::Running);
        bench.connect_from(network("192.0.2.7:6"));
        assert!(bench.server.accept(network("192.0.2.8:7"), bench.now).is_err());
    });
    let found = written(&records);
    assert_eq!(
        found[1..4],
        [
            r#"INFO event="connection_refused" reason="connections_full" peer="192.0.2.8:6""#,
            r#"DEBUG event="connection_fault" reason="connection_idle" connection="c0v1" peer="192.0.2.7:5""#,
            r#"DEBUG event="connection_closed" connection="c0v1" peer="192.0.2.7:5""#,
        ]
    );
    assert_eq!(
        found[5],
        r#"INFO event="connection_refused" reason="connections_full" peer="192.0.2.8:7" suppressed=1"#
    );
    assert_eq!(records[2].sentence, "closed the connection from 192.0.2.7:5: connection idle");
}

#[test]
fn request_that_is_answered_busy_on_its_stream_has_no_status_of_a_refusal() {
    let mut bench = Bench::with(limited(|limits| limits.in_flight_max = Some(1)));
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    let records = records_in(LevelFilter::Debug, || {
        let conn = bench.connect();
        bench.says(conn, post(&client.token, &call(2)));
        bench.wait(secs(5));
        assert_eq!(bench.statuses(conn), [202]);
    });
    let of = |event: &str| {
        let found = records.iter().find(|record| record.event() == event);
        found.unwrap_or_else(|| panic!("no {event}: {records:?}"))
    };
    assert_eq!(
        (of("refused").value("reason"), of("refused").value("status")),
        ("\"busy\"", "null")
    );
    assert_eq!(
        of("refused").sentence,
        "refused a request from a local peer on its stream: server busy"
    );
    assert_eq!(
        (of("request").value("status"), of("request").value("duration_ms")),
        ("202", "4000")
    );
    assert_eq!(of("post_held").value("session"), "\"s0v1\"");
    assert_eq!(of("answered_busy").value("session"), "\"s0v1\"");
}

// ── The trace. ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn traceparent_reaches_the_head_and_each_message() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{}\r\n", traced())));
    let Some(Event::Opened { head, .. }) = bench.event() else { panic!("no session") };
    assert_eq!(head.traceparent(), parent());
    let token = bench.stream(conn).token();
    let child = PARENT.replace("00f0", "11f0");
    for (fields, expected) in [
        (traced(), parent()),
        (String::new(), None),
        (format!("TRACEPARENT:\t{child} \r\n"), TraceParent::parse(child.as_bytes())),
        (format!("traceparent: {}\r\n", PARENT.to_uppercase()), None),
        (format!("traceparent: {PARENT}, {PARENT}\r\n"), None),
        (traced() + &traced(), None),
        (format!("{}traceparent: {child}\r\n", traced()), None),
        ("traceparent:\r\n".into(), None),
        (format!("tracestate: a=b\r\n{}", traced()), parent()),
    ] {
        assert_eq!(bench.ask(post_with(&token, &fields, NOTE)).status, 202, "{fields}");
        let messages = bench.inbox();
        let found: Vec<_> = messages.iter().map(Message::traceparent).collect();
        assert_eq!(found, [expected], "{fields}");
    }
}

#[test]
fn traceparent_of_a_deferred_post_survives_the_decision() {
    let (mut bench, client) = asking_client();
    let conn = bench.connect();
    let request = post_with(&client.token, &traced(), NOTE);
    let (head, body) = request.split_at(request.len() - NOTE.len());
    bench.says(conn, head);
    allow(&mut bench);
    bench.says(conn, body);
    assert_eq!(bench.inbox()[0].traceparent(), parent());
}

#[test]
fn traceparent_of_a_forwarded_post_is_that_of_its_message_whether_it_is_held_or_not() {
    let shard = |number| Config::builder().shard(ShardId(number)).forwarding(true);
    let mut here = Bench::with(shard(1));
    let narrow = limited(|limits| limits.inbound_messages_max = Some(1));
    let mut there = Bench::with(narrow.shard(ShardId(2)).forwarding(true));
    let client = there.open();
    for expected in ["accepted", "held"] {
        let conn = here.connect();
        here.says(conn, post_with(&client.token, &traced(), NOTE));
        let Some(Event::Foreign { post, ticket, .. }) = here.event() else { panic!("no post") };
        let records = records_in(LevelFilter::Debug, || {
            let held = match there.server.deliver(post, there.now) {
                Delivery::Held(_) => "held",
                Delivery::Done(_) => "accepted",
            };
            assert_eq!(held, expected);
        });
        assert_eq!(records.last().map(LogRecord::event), Some("forwarded_post"));
        let record = records.last().expect("a record");
        assert_eq!(
            record.pairs(),
            format!(
                r#"event="forwarded_post" outcome="{expected}" bytes={} session="{}" traceparent="{PARENT}""#,
                NOTE.len(),
                client.session
            )
        );
        let record =
            request_in(|| here.server.acknowledge(ticket, Outcome::Accepted, here.now).unwrap());
        assert_eq!(record.value("traceparent"), format!("{PARENT:?}"));
        assert_eq!(record.value("session"), "null", "it is another shard's");
    }
    let events = there.events();
    let messages = events.iter().filter_map(|event| match event {
        Event::Message { message, .. } => Some(message.traceparent()),
        _ => None,
    });
    assert_eq!(messages.collect::<Vec<_>>(), [parent(), parent()]);
}

#[test]
fn traceparent_of_an_exchange_is_that_of_its_fields() {
    let mut bench = Bench::new();
    let client = bench.open();
    let target = format!("/messages?session_id={}", client.token);
    let fields: &[(&str, &[u8])] = &[
        ("host", b"localhost"),
        ("content-type", b"application/json"),
        ("traceparent", PARENT.as_bytes()),
    ];
    let exchange = Exchange { method: "POST", target: &target, fields, mount: "" };
    let conn = bench.server.exchange(exchange, Peer::local(), bench.now).unwrap();
    bench.server.handle_input(conn, NOTE.as_bytes(), bench.now);
    let record = request_in(|| bench.server.handle_eof(conn, bench.now));
    assert_eq!(record.value("traceparent"), format!("{PARENT:?}"));
    let Some(Event::Message { message, .. }) = bench.server.poll_event() else {
        panic!("no message")
    };
    assert_eq!(message.traceparent(), parent());
}
