//! Each counter, gauge and histogram moves when its thing happens, and no other does.

use super::authorize::{allow, asking};
use super::*;
use crate::ShardId;
use crate::error::{Expired, Fault};
use crate::event::{Delivery, Outcome};
use crate::metrics::Metrics;
use crate::policy::bearer::StaticTokens;
use crate::{Authorization, DurationHistogram};

/// The numbers that have several names, as a test names them.
#[track_caller]
fn number(metrics: &Metrics, name: &str) -> u64 {
    let ended = metrics.sessions_ended().find(|(reason, _)| *reason == name);
    let limit = metrics.limit_refusals().into_iter().find(|(limit, _)| *limit == name);
    let requests = metrics.request_times().find(|(method, _)| *method == name);
    let requests = requests.map(|(_, times)| times.count());
    let numbers = [ended.map(|it| it.1), limit.map(|it| it.1), requests];
    numbers.into_iter().flatten().next().unwrap_or_else(|| panic!("nothing is called {name}"))
}

#[test]
fn request_counts_from_its_202_until_its_answer_is_queued() {
    let mut bench = Bench::new();
    let client = bench.open();
    let start = bench.server.metrics().clone();
    let body = call(1);
    assert_eq!(bench.ask(post(&client.token, &body)).status, 202);
    let metrics = bench.server.metrics();
    assert_eq!((metrics.posts_accepted, metrics.requests_in_flight), (1, 1));
    assert_eq!(
        (metrics.received_sizes.count(), metrics.received_sizes.sum()),
        (1, body.len() as u64)
    );
    assert_eq!(number(metrics, "tools/call"), 0, "it has no answer yet");
    bench.wait(secs(2));
    bench.send(client.session, &reply(1));
    let metrics = bench.server.metrics();
    assert_eq!(metrics.requests_in_flight, 0);
    let (_, times) = metrics.request_times().find(|(method, _)| *method == "tools/call").unwrap();
    assert_eq!((times.count(), times.sum()), (1, 2_000_000));
    assert_eq!(metrics.sent_sizes.sum(), reply(1).wire_len() as u64);
    assert_eq!(metrics.frames_queued - start.frames_queued, 1);
    let all: u64 = metrics.request_times().map(|(_, times)| times.count()).sum();
    assert_eq!(all, 1, "it is counted for one method");
}

#[test]
fn request_with_an_unknown_method_is_counted_as_other() {
    let mut bench = Bench::new();
    let client = bench.open();
    let odd = r#"{"jsonrpc":"2.0","id":1,"method":"sessions/steal"}"#;
    bench.ask(post(&client.token, odd));
    bench.send(client.session, &reply(1));
    let metrics = bench.server.metrics();
    assert_eq!(number(metrics, "other"), 1);
    assert!(metrics.request_times().all(|(name, _)| name != "sessions/steal"));
}

#[test]
fn request_that_is_cancelled_or_whose_session_ends_is_not_in_flight_and_has_no_time() {
    let mut bench = Bench::new();
    let (one, two) = (bench.open(), bench.open());
    bench.ask(post(&one.token, &call(1)));
    bench.ask(post(&two.token, &call(2)));
    assert_eq!(bench.server.metrics().requests_in_flight, 2);
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    bench.ask(post(&one.token, cancel));
    assert_eq!(bench.server.metrics().requests_in_flight, 1);
    bench.reset(two.conn);
    let metrics = bench.server.metrics();
    assert_eq!((metrics.requests_in_flight, number(metrics, "tools/call")), (0, 0));
    assert_eq!(number(metrics, "peer"), 1);
}

/// A post with a body that is not JSON, one with a wrong method, and others.
#[test]
fn posts_are_counted_by_the_fault_with_which_they_are_refused() {
    let mut bench = Bench::new();
    let client = bench.open();
    let cases: &[(String, Fault)] = &[
        (post(&client.token, "{"), Fault::NotJson),
        (post(&client.token, "[]"), Fault::NotJsonRpc),
        (post("x", NOTE), Fault::UnknownSession),
        (
            post(&client.token, NOTE).replace("application/json", "text/html"),
            Fault::UnsupportedMediaType,
        ),
        (post(&client.token, NOTE).replace("localhost", "evil.example"), Fault::HostNotAllowed),
    ];
    for (request, fault) in cases {
        bench.ask(request);
        let metrics = bench.server.metrics();
        assert_eq!((metrics.posts_refused(*fault), metrics.fault(*fault)), (1, 1), "{fault:?}");
    }
    // Neither of these is a post.
    bench.ask(post(&client.token, NOTE).replace("POST", "DELETE"));
    bench.ask("GET /nowhere HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    // One that ends early is answered by nothing.
    let conn = bench.connect();
    bench.says(conn, post_with(&client.token, "", NOTE).trim_end_matches('}'));
    bench.fin(conn);
    let metrics = bench.server.metrics();
    assert_eq!(metrics.posts_refused(Fault::Truncated), 1);
    assert_eq!(
        (metrics.fault(Fault::MethodNotAllowed), metrics.fault(Fault::HostNotAllowed)),
        (1, 2)
    );
    let refused: u64 = Fault::ALL.iter().map(|&fault| metrics.posts_refused(fault)).sum();
    assert_eq!((refused, metrics.posts_accepted), (cases.len() as u64 + 1, 0));
}

#[test]
fn post_whose_refused_body_ends_early_is_counted_once() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    // The answer is queued, and the rest of the body is to be discarded.
    bench.says(conn, post("x", NOTE).trim_end_matches('}'));
    assert_eq!(bench.statuses(conn), [404]);
    bench.fin(conn);
    let metrics = bench.server.metrics();
    assert_eq!((metrics.fault(Fault::Truncated), metrics.posts_refused(Fault::Truncated)), (1, 0));
    assert_eq!(metrics.posts_refused(Fault::UnknownSession), 1);
}

/// However its connection ends, a post is in one of three counters.
#[test]
fn post_whose_connection_ends_before_its_answer_is_counted_once() {
    let mut bench = Bench::with(limited(|limits| limits.in_flight_max = Some(1)));
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    let (whole, held) = (post(&client.token, NOTE), post(&client.token, &call(2)));
    let part = whole.trim_end_matches('}');
    let unanswered = |bench: &Bench| bench.server.metrics().posts_unanswered;
    for (count, (request, end)) in [
        (part, Bench::fin as fn(&mut Bench, ConnId)),
        (part, Bench::reset),
        (&*held, Bench::reset),
        (part, |bench, _| bench.abort()),
    ]
    .into_iter()
    .enumerate()
    {
        let conn = bench.connect();
        bench.says(conn, request);
        assert_eq!(unanswered(&bench), count as u64, "it may still be answered");
        end(&mut bench, conn);
        assert_eq!(unanswered(&bench), count as u64 + 1);
    }
    let metrics = bench.server.metrics();
    assert_eq!((metrics.posts_accepted, metrics.posts_refused(Fault::Truncated)), (1, 1));
    let refused: u64 = Fault::ALL.iter().map(|&fault| metrics.posts_refused(fault)).sum();
    assert_eq!(refused, 1, "the one that its client cut short");
}

#[test]
fn answered_posts_and_other_requests_are_not_unanswered() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    bench.says(conn, post(&client.token, NOTE));
    bench.reset(conn);
    let conn = bench.connect();
    bench.says(conn, "GET /health HTTP/1.1\r\n");
    bench.reset(conn);
    bench.reset(client.conn);
    assert_eq!(bench.server.metrics().posts_unanswered, 0);
}

#[test]
fn held_posts_are_counted_while_they_wait_and_by_the_limit_that_made_them() {
    for (limit, change) in [
        ("in_flight_max", (|limits| limits.in_flight_max = Some(1)) as fn(&mut Limits)),
        ("inbound_messages_max", |limits| limits.inbound_messages_max = Some(1)),
        ("inbound_bytes_max", |limits| limits.inbound_bytes_max = Some(100)),
    ] {
        let mut bench = Bench::with(limited(change));
        let client = bench.open();
        let conn = bench.connect();
        bench.says(conn, post(&client.token, &call(1)));
        bench.says(conn, post(&client.token, &call(2)));
        let metrics = bench.server.metrics();
        assert_eq!((metrics.posts_held, metrics.posts_waiting), (1, 1), "{limit}");
        bench.wait(secs(5));
        let metrics = bench.server.metrics();
        assert_eq!((metrics.posts_held, metrics.posts_waiting), (1, 0), "{limit}");
        assert_eq!((metrics.fault(Fault::Busy), number(metrics, limit)), (1, 1), "{limit}");
        let all: u64 = metrics.limit_refusals().iter().map(|(_, count)| count).sum();
        assert_eq!(all, 1, "{limit}");
        assert_eq!(metrics.posts_accepted, 2, "the request was answered on the stream");
    }
}

#[test]
fn rates_are_counted_by_the_limit() {
    let rate = "1/minute".parse().ok();
    let tokens = StaticTokens::builder().token("alice", "alpha").build().unwrap();
    let alice = "Authorization: Bearer alpha\r\n";
    for (limit, change) in [
        ("posts_rate_per_session", limited(|limits| limits.posts_rate_per_session = rate)),
        ("posts_rate_per_principal", limited(|limits| limits.posts_rate_per_principal = rate)),
    ] {
        let mut bench = Bench::with(change.authorization(Authorization::Static(tokens.clone())));
        let conn = bench.connect();
        bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{alice}\r\n")));
        let token = bench.stream(conn).token();
        let statuses = [202, 429].map(|_| bench.ask(post_with(&token, alice, NOTE)).status);
        assert_eq!(statuses, [202, 429]);
        let metrics = bench.server.metrics();
        assert_eq!((number(metrics, limit), metrics.posts_refused(Fault::RateLimited)), (1, 1));
    }
}

#[test]
fn message_that_is_nested_too_deep_is_counted_for_the_limit() {
    let mut bench = Bench::with(limited(|limits| limits.nesting_max = Some(2)));
    let client = bench.open();
    bench.ask(post(&client.token, "{"));
    assert_eq!(number(bench.server.metrics(), "nesting_max"), 0);
    let deep = r#"{"jsonrpc":"2.0","method":"n","params":{"a":[]}}"#;
    assert_eq!(bench.ask(post(&client.token, deep)).status, 400);
    let metrics = bench.server.metrics();
    assert_eq!((number(metrics, "nesting_max"), metrics.fault(Fault::NotJson)), (1, 2));
}

#[test]
fn forwarded_posts_are_counted_where_they_came_and_limits_where_they_were_reached() {
    let mut here = Bench::with(Config::builder().shard(ShardId(1)).forwarding(true));
    let there = limited(|limits| (limits.in_flight_max, limits.forwarded_max) = (Some(1), Some(1)));
    let mut there = Bench::with(there.shard(ShardId(2)).forwarding(true));
    let client = there.open();
    let mut deliver = |id| {
        let conn = here.connect();
        here.says(conn, post(&client.token, &call(id)));
        let Some(Event::Foreign { post, ticket, .. }) = here.event() else { panic!("no post") };
        let delivery = there.server.deliver(post, there.now);
        if let Delivery::Done(outcome) = delivery {
            here.acknowledge(ticket, outcome).unwrap();
        }
        delivery
    };
    assert_eq!(deliver(1), Delivery::Done(Outcome::Accepted));
    assert!(matches!(deliver(2), Delivery::Held(_)));
    assert_eq!(deliver(3), Delivery::Done(Outcome::Busy));
    let metrics = here.server.metrics();
    assert_eq!((metrics.posts_forwarded, metrics.posts_accepted, metrics.posts_waiting), (3, 1, 0));
    assert_eq!(metrics.posts_refused(Fault::Busy), 1);
    assert!(metrics.limit_refusals().iter().all(|(_, count)| *count == 0));
    let metrics = there.server.metrics();
    assert_eq!((metrics.posts_held, metrics.posts_waiting, metrics.posts_accepted), (1, 1, 0));
    assert_eq!((number(metrics, "forwarded_max"), metrics.fault(Fault::Busy)), (1, 0));
    there.reset(client.conn);
    assert_eq!(there.server.metrics().posts_waiting, 0);
}

#[test]
fn queue_bytes_are_those_that_wait_and_the_most_is_remembered() {
    let mut bench = Bench::new();
    let client = bench.open();
    assert_eq!(bench.server.metrics().queue_bytes, 0, "the greeting has left");
    let greeting = bench.server.metrics().queue_bytes_high;
    assert!(greeting > 64);
    bench.set_reading(client.conn, false);
    let frame = note(&"x".repeat(1_000));
    bench.send(client.session, &frame);
    bench.send(client.session, &frame);
    let both = 2 * (frame.wire_len() as u64 + Limits::SEGMENT_COST);
    let metrics = bench.server.metrics();
    assert_eq!((metrics.queue_bytes, metrics.queue_bytes_high), (both, both));
    bench.set_reading(client.conn, true);
    let metrics = bench.server.metrics();
    assert_eq!((metrics.queue_bytes, metrics.queue_bytes_high), (0, both));
    // What is queued for a peer that goes away is gone as well.
    bench.set_reading(client.conn, false);
    bench.send(client.session, &frame);
    bench.reset(client.conn);
    assert_eq!(bench.server.metrics().queue_bytes, 0);
}

#[test]
fn decisions_are_timed_however_they_come_about() {
    let mut bench = Bench::with(asking());
    let waits = |bench: &mut Bench, seconds| {
        let conn = bench.connect();
        bench.says(conn, GET);
        let ticket = bench.asked();
        bench.wait(secs(seconds));
        (conn, ticket)
    };
    let times = |bench: &Bench| {
        let times: &DurationHistogram = &bench.server.metrics().decision_times;
        (times.count(), times.sum())
    };
    let (_, ticket) = waits(&mut bench, 1);
    assert_eq!(times(&bench), (0, 0));
    bench.authorize(ticket, allow("ali")).unwrap();
    assert_eq!(times(&bench), (1, 1_000_000));
    assert!(matches!(bench.events()[..], [Event::Opened { .. }]));
    let (_, expired) = waits(&mut bench, 5);
    assert_eq!(bench.authorize(expired, allow("ali")), Err(Expired));
    assert_eq!(times(&bench), (2, 5_000_000), "the question expires after 4 s");
    let (conn, _) = waits(&mut bench, 2);
    bench.reset(conn);
    assert_eq!(times(&bench), (3, 7_000_000));
}

#[test]
fn sessions_are_counted_by_the_reason_of_their_end() {
    let mut bench = Bench::with(timed(|timeouts| timeouts.session_idle = Some(secs(60))));
    let clients = [(); 4].map(|()| bench.open());
    bench.reset(clients[0].conn);
    bench.server.close(clients[1].session, bench.now);
    bench.pump();
    bench.says(clients[2].conn, "x".repeat(5_000));
    bench.wait(secs(61));
    let expected = [
        ("peer", 1),
        ("application", 1),
        ("fault", 1),
        ("idle", 1),
        ("stalled", 0),
        ("shutdown", 0),
    ];
    for (reason, count) in expected {
        assert_eq!(number(bench.server.metrics(), reason), count, "{reason}");
    }
    assert_eq!(bench.closed().len(), 4);
    bench.open();
    bench.shutdown();
    assert_eq!(number(bench.server.metrics(), "shutdown"), 1);
}

#[test]
fn principals_are_listed_with_their_open_sessions() {
    let mut bench = Bench::with(asking());
    let (one, _, _) = (bench.open_for("ali"), bench.open_for("ali"), bench.open_for("bo"));
    let listed = |bench: &Bench| {
        let listed = bench.server.principals();
        listed.map(|(name, sessions)| (String::from(name.name()), sessions)).collect::<Vec<_>>()
    };
    assert_eq!(listed(&bench), [("ali".into(), 2), ("bo".into(), 1)]);
    bench.reset(one.conn);
    assert_eq!(listed(&bench), [("ali".into(), 1), ("bo".into(), 1)]);
}
