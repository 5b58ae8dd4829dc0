//! Posts that are held until their session has room, and frames that wait for room in queues.

use super::*;
use crate::error::{Fault, SendError};

/// Posts of which each is on a connection of its own.
fn posts(bench: &mut Bench, client: &Client, bodies: &[&str]) -> Vec<ConnId> {
    let post = |body: &&str| {
        let conn = bench.connect();
        bench.says(conn, post(&client.token, body));
        conn
    };
    bodies.iter().map(post).collect()
}

fn ids(bench: &mut Bench) -> Vec<String> {
    let name = |m: Message| m.id().or(m.method()).unwrap().to_string();
    bench.inbox().into_iter().map(name).collect()
}

#[track_caller]
fn check_held(bench: &Bench, conn: ConnId) {
    assert_eq!(bench.server.interest(conn), Interest::Io { read: false, write: false });
    assert!(bench.heard(conn).is_empty());
}

#[test]
fn posts_without_room_are_held_and_released_in_order() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_messages_max = Some(2)));
    let client = bench.open();
    let bodies = [&call(1), NOTE, &call(3), RESULT, &call(5)];
    let conns = posts(&mut bench, &client, &bodies);
    assert_eq!(bench.statuses(conns[0]), [202]);
    assert_eq!(bench.statuses(conns[1]), [202]);
    for &conn in &conns[2..] {
        check_held(&bench, conn);
    }
    assert_eq!(bench.server.metrics().posts_held, 3);
    assert_eq!(bench.server.session(client.session).unwrap().inbound_messages(), 2);
    assert!(matches!(bench.event(), Some(Event::Message { .. })));
    assert_eq!(bench.statuses(conns[2]), [202], "one more has room");
    check_held(&bench, conns[3]);
    assert_eq!(ids(&mut bench), ["notifications/note", "3", "\"s1\"", "5"]);
    assert!(conns.iter().all(|&conn| bench.statuses(conn) == [202]));
}

#[test]
fn backlog_of_the_application_counts_for_inbound_limits() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_messages_max = Some(3)));
    let client = bench.open();
    bench.server.set_backlog(client.session, 2, 500, bench.now);
    let conns = posts(&mut bench, &client, &[NOTE, NOTE]);
    assert_eq!(bench.statuses(conns[0]), [202]);
    check_held(&bench, conns[1]);
    // It moves from one queue to the other: no room is made.
    bench.server.set_backlog(client.session, 3, 500, bench.now);
    assert!(matches!(bench.event(), Some(Event::Message { .. })));
    check_held(&bench, conns[1]);
    bench.server.set_backlog(client.session, 0, 0, bench.now);
    bench.pump();
    assert_eq!(bench.statuses(conns[1]), [202]);
    assert_eq!(bench.inbox().len(), 1);
}

#[test]
fn inbound_bytes_are_limited_but_one_large_message_passes() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_bytes_max = Some(100)));
    let client = bench.open();
    let large = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(200));
    let conns = posts(&mut bench, &client, &[&large, NOTE, NOTE]);
    assert_eq!(bench.statuses(conns[0]), [202]);
    check_held(&bench, conns[1]);
    bench.event();
    assert_eq!(bench.statuses(conns[1]), [202]);
    assert_eq!(bench.statuses(conns[2]), [202]);
    assert_eq!(bench.inbox().len(), 2);
}

#[test]
fn held_post_whose_client_leaves_releases_those_behind_it() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_bytes_max = Some(150)));
    let client = bench.open();
    let large = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(200));
    let conns = posts(&mut bench, &client, &[NOTE, &large, NOTE]);
    check_held(&bench, conns[1]);
    check_held(&bench, conns[2]);
    bench.reset(conns[1]);
    assert_eq!(bench.statuses(conns[2]), [202], "it had room all along");
    assert_eq!(bench.inbox().len(), 2, "what was not accepted is not executed");
}

#[test]
fn post_behind_a_held_post_is_held_too() {
    let named = |name: &str, len: usize| {
        let request = format!(r#"{{"jsonrpc":"2.0","id":"{name}","method":""}}"#);
        let filling = "x".repeat(len - request.len());
        request.replace(r#""method":"""#, &format!(r#""method":"{filling}""#))
    };
    let mut bench = Bench::with(limited(|limits| limits.inbound_bytes_max = Some(150)));
    let client = bench.open();
    let bodies = [named("a", 50), named("b", 50), named("large", 120), named("c", 50)];
    let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
    let conns = posts(&mut bench, &client, &bodies);
    check_held(&bench, conns[2]);
    check_held(&bench, conns[3]);
    bench.event();
    // There would be room for the small one.
    check_held(&bench, conns[2]);
    check_held(&bench, conns[3]);
    assert_eq!(ids(&mut bench), ["\"b\"", "\"large\"", "\"c\""]);
}

#[test]
fn notification_passes_while_requests_wait_for_answers() {
    let mut bench = Bench::with(limited(|limits| limits.in_flight_max = Some(2)));
    let client = bench.open();
    let bodies = [&call(1), &call(2), &call(3), RESULT, NOTE, &call(4)];
    let conns = posts(&mut bench, &client, &bodies);
    assert_eq!(ids(&mut bench), ["1", "2", "\"s1\"", "notifications/note"]);
    check_held(&bench, conns[2]);
    check_held(&bench, conns[5]);
    // Only the answer to a request of its own makes room.
    bench.send(client.session, &note("no"));
    bench.send(client.session, &reply(9));
    check_held(&bench, conns[2]);
    bench.send(client.session, &reply(2));
    assert_eq!(ids(&mut bench), ["3"]);
    check_held(&bench, conns[5]);
    bench.send(client.session, &reply(3));
    assert_eq!(ids(&mut bench), ["4"]);
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 2);
}

#[test]
fn error_answer_releases_its_request_as_a_result_does() {
    for answer in [
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}"#,
        r#"{"error":{"code":-32000,"message":"m","data":{"id":9}},"id":1,"jsonrpc":"2.0"}"#,
    ] {
        let frame = Frame::message(answer.as_bytes()).unwrap();
        for broadcast in [false, true] {
            let mut bench = Bench::with(limited(|limits| limits.in_flight_max = Some(1)));
            let client = bench.open();
            let conns = posts(&mut bench, &client, &[&call(1), &call(2)]);
            assert_eq!(ids(&mut bench), ["1"]);
            check_held(&bench, conns[1]);
            if broadcast {
                let reach = bench.server.broadcast([client.session], &frame, bench.now);
                assert_eq!(reach.queued, 1);
                bench.pump();
            } else {
                bench.send(client.session, &frame);
            }
            assert_eq!(bench.messages(client.conn), [answer]);
            assert_eq!(ids(&mut bench), ["2"], "{answer}: the next request has its place");
            assert_eq!(bench.statuses(conns[1]), [202]);
            // A shutdown waits for answers, and an error is one.
            let error = r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32603,"message":"m"}}"#;
            bench.shutdown();
            assert!(bench.is_open(client.conn));
            bench.send(client.session, &Frame::message(error.as_bytes()).unwrap());
            assert!(bench.stream(client.conn).ended, "nothing is left to wait for");
        }
    }
}

#[test]
fn cancelled_request_makes_room_for_a_held_one() {
    let mut bench = Bench::with(limited(|limits| limits.in_flight_max = Some(1)));
    let client = bench.open();
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let conns = posts(&mut bench, &client, &[&call(1), &call(2), cancel]);
    assert_eq!(bench.statuses(conns[1]), [202]);
    assert_eq!(ids(&mut bench), ["1", "notifications/cancelled", "2"]);
}

#[test]
fn cancelled_held_request_does_not_reach_the_application() {
    let mut bench = Bench::with(limited(|limits| limits.in_flight_max = Some(1)));
    let client = bench.open();
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    let conns = posts(&mut bench, &client, &[&call(1), &call(2), &call(3), cancel]);
    assert_eq!(bench.statuses(conns[1]), [202]);
    check_held(&bench, conns[2]);
    assert_eq!(bench.server.metrics().requests_withdrawn, 1);
    assert_eq!(ids(&mut bench), ["1", "notifications/cancelled"]);
    bench.send(client.session, &reply(1));
    assert_eq!(ids(&mut bench), ["3"]);
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 1);
}

#[test]
fn held_cancellation_does_not_withdraw_its_request() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_messages_max = Some(1)));
    let client = bench.open();
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
    posts(&mut bench, &client, &[NOTE, &call(2), cancel]);
    assert_eq!(ids(&mut bench), ["notifications/note", "2", "notifications/cancelled"]);
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 0);
}

#[test]
fn held_request_is_answered_server_busy_on_the_stream_at_its_deadline() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_messages_max = Some(1)));
    let client = bench.open();
    let request = r#"{"jsonrpc":"2.0","id":"a\"b","method":"m"}"#;
    let conns = posts(&mut bench, &client, &[NOTE, request, NOTE, RESULT]);
    bench.wait(secs(4) - Duration::from_micros(1));
    check_held(&bench, conns[1]);
    bench.wait(Duration::from_micros(1));
    assert_eq!(bench.statuses(conns[1]), [202]);
    assert_eq!(
        bench.messages(client.conn),
        [r#"{"jsonrpc":"2.0","id":"a\"b","error":{"code":-32000,"message":"server busy"}}"#]
    );
    for &conn in &conns[2..] {
        let answer = bench.answers(conn).remove(0);
        assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
        assert!(bench.is_open(conn) && !answer.closes());
    }
    assert_eq!(bench.server.metrics().fault(Fault::Busy), 3);
    assert_eq!(ids(&mut bench), ["notifications/note"], "nothing of them was executed");
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 0);
}

#[test]
fn held_post_at_its_deadline_releases_those_behind_it() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_bytes_max = Some(150)));
    let client = bench.open();
    let large = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(200));
    let first = posts(&mut bench, &client, &[NOTE, &large]);
    bench.wait(secs(1));
    let last = posts(&mut bench, &client, &[NOTE])[0];
    check_held(&bench, last);
    bench.wait(secs(3));
    assert_eq!(bench.statuses(first[1]), [503]);
    assert_eq!(bench.statuses(last), [202], "it had room all along");
    assert_eq!(bench.inbox().len(), 2);
}

#[test]
fn held_request_is_503_at_its_deadline_if_the_stream_is_full() {
    let mut bench = Bench::with(limited(|limits| {
        limits.inbound_messages_max = Some(1);
        limits.queue_bytes_max = Some(100);
    }));
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("in the way"));
    let conns = posts(&mut bench, &client, &[NOTE, &call(1)]);
    bench.wait(secs(4));
    assert_eq!(bench.statuses(conns[1]), [503]);
}

#[test]
fn held_post_of_a_half_closed_connection_is_answered() {
    let mut bench = Bench::with(limited(|limits| limits.inbound_messages_max = Some(1)));
    let client = bench.open();
    let conns = posts(&mut bench, &client, &[NOTE, NOTE]);
    // The end is not even read while the post is held; one that was read before changes nothing.
    bench.fin(conns[1]);
    bench.server.handle_eof(conns[1], bench.now);
    bench.pump();
    assert!(bench.is_open(conns[1]) && bench.heard(conns[1]).is_empty());
    assert_eq!(bench.inbox().len(), 2);
    assert_eq!(bench.statuses(conns[1]), [202]);
    assert!(!bench.is_open(conns[1]));
}

#[test]
fn held_posts_are_404_when_their_session_ends() {
    for close in [false, true] {
        let mut bench = Bench::with(limited(|limits| limits.inbound_messages_max = Some(1)));
        let client = bench.open();
        let conns = posts(&mut bench, &client, &[NOTE, &call(1), NOTE]);
        if close {
            bench.server.close(client.session, bench.now);
            bench.pump();
        } else {
            bench.reset(client.conn);
        }
        assert_eq!(bench.statuses(conns[1]), [404]);
        assert_eq!(bench.statuses(conns[2]), [404]);
    }
}

#[test]
fn thousand_pipelined_posts_are_answered_in_order() {
    let mut bench = Bench::with(timed(|timeouts| timeouts.heartbeat = None));
    let client = bench.open();
    let conn = bench.connect();
    let all: String = (0..1_000).map(|id| post(&client.token, &call(id))).collect();
    bench.says_in_pieces(conn, &all.as_bytes().chunks(16 << 10).collect::<Vec<_>>());
    let mut asked = 0;
    while let Some(event) = bench.event() {
        let Event::Message { message, .. } = event else { panic!("{event:?}") };
        assert_eq!(message.id(), Some(asked.to_string().as_str()));
        // Answers come late: a batch when as many as possible are in flight.
        asked += 1;
        if bench.server.session(client.session).unwrap().requests_in_flight() == 64 {
            for id in asked - 64.min(asked)..asked {
                bench.send(client.session, &reply(id));
            }
        }
    }
    assert_eq!(asked, 1_000);
    assert_eq!(bench.statuses(conn), [202; 1_000]);
    assert!(bench.server.metrics().posts_held > 0, "or it has shown nothing");
}

// ── Outbound. ───────────────────────────────────────────────────────────────────────────────────

/// How many events say that a session has room.
fn unblocked(bench: &mut Bench) -> usize {
    let events = bench.events();
    assert!(events.iter().all(|event| matches!(event, Event::Unblocked { .. })), "{events:?}");
    events.len()
}

#[test]
fn full_queue_refuses_a_frame_and_unblocks_once() {
    let mut bench = Bench::with(limited(|limits| limits.queue_bytes_max = Some(1_000)));
    let client = bench.open();
    bench.set_reading(client.conn, false);
    let mut sent = 0;
    while bench.server.send(client.session, &note("0123456789"), bench.now).is_ok() {
        sent += 1;
    }
    let refused = bench.server.send(client.session, &note("0123456789"), bench.now);
    assert_eq!(refused, Err(SendError::Full));
    assert!((3..10).contains(&sent), "{sent}");
    assert_eq!(bench.server.session(client.session).unwrap().frames_queued(), sent);
    assert_eq!(unblocked(&mut bench), 0);
    bench.takes(client.conn, 100);
    assert_eq!(unblocked(&mut bench), 0, "not for every small write");
    bench.set_reading(client.conn, true);
    assert_eq!(unblocked(&mut bench), 1);
    bench.wait(secs(20));
    assert_eq!(unblocked(&mut bench), 0);
    assert_eq!(bench.messages(client.conn).len() as u32, sent, "nothing was dropped");
    bench.send(client.session, &note("more"));
    assert_eq!(unblocked(&mut bench), 0);
}

#[test]
fn frame_larger_than_the_queue_is_sent_alone() {
    let mut bench = Bench::with(limited(|limits| limits.queue_bytes_max = Some(1_000)));
    let client = bench.open();
    let large = note(&"x".repeat(5_000));
    bench.set_reading(client.conn, false);
    bench.send(client.session, &large);
    assert_eq!(bench.server.send(client.session, &note("x"), bench.now), Err(SendError::Full));
    bench.takes(client.conn, 4_500);
    assert_eq!(unblocked(&mut bench), 0);
    bench.set_reading(client.conn, true);
    assert_eq!(unblocked(&mut bench), 1);
    // Behind anything at all it has to wait until there is nothing.
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("x"));
    assert_eq!(bench.server.send(client.session, &large, bench.now), Err(SendError::Full));
    bench.set_reading(client.conn, true);
    assert_eq!(unblocked(&mut bench), 1);
    bench.send(client.session, &large);
}

#[test]
fn frame_that_never_fits_is_too_large() {
    let mut bench = Bench::with(limited(|limits| limits.queues_bytes_max = Some(1_000)));
    let client = bench.open();
    let sent = bench.server.send(client.session, &note(&"x".repeat(1_000)), bench.now);
    assert_eq!(sent, Err(SendError::TooLarge));
    bench.wait(secs(20));
    assert_eq!(unblocked(&mut bench), 0);
}

#[test]
fn broadcast_counts_too_large_and_full_sessions() {
    let mut bench = Bench::with(limited(|limits| limits.queues_bytes_max = Some(2_000)));
    let (a, b) = (bench.open(), bench.open());
    let all = [a.session, b.session];
    let reach = bench.server.broadcast(all, &note(&"x".repeat(2_000)), bench.now);
    assert_eq!((reach.queued, reach.full, reach.too_large, reach.gone), (0, 0, 2, 0));
    bench.set_reading(a.conn, false);
    bench.set_reading(b.conn, false);
    let reach = bench.server.broadcast(all, &note(&"x".repeat(1_200)), bench.now);
    assert_eq!((reach.queued, reach.full, reach.too_large, reach.gone), (1, 1, 0, 0));
    bench.set_reading(a.conn, true);
    assert_eq!(unblocked(&mut bench), 1);
}

#[test]
fn broadcast_answer_releases_its_request_in_each_session() {
    let mut bench = Bench::new();
    let clients = [bench.open(), bench.open()];
    for client in &clients {
        posts(&mut bench, client, &[&call(1)]);
    }
    bench.inbox();
    bench.server.broadcast(clients.each_ref().map(|c| c.session), &reply(1), bench.now);
    bench.pump();
    for client in &clients {
        assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 0);
    }
}

#[test]
fn session_without_a_refused_frame_is_not_unblocked() {
    let mut bench = Bench::with(limited(|limits| {
        limits.in_flight_max = Some(1);
        limits.queue_bytes_max = Some(400);
    }));
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note(&"x".repeat(250)));
    let conns = posts(&mut bench, &client, &[&call(1), &call(2)]);
    assert_eq!(ids(&mut bench), ["1"]);
    bench.wait(secs(5));
    assert_eq!(bench.statuses(conns[1]), [503], "busy, and there is no room to say so");
    bench.set_reading(client.conn, true);
    assert_eq!(unblocked(&mut bench), 0);
}

#[test]
fn answer_that_was_refused_leaves_its_request_in_flight() {
    let mut bench = Bench::with(limited(|limits| limits.queue_bytes_max = Some(100)));
    let client = bench.open();
    posts(&mut bench, &client, &[&call(1)]);
    bench.events();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("in the way"));
    assert_eq!(bench.server.send(client.session, &reply(1), bench.now), Err(SendError::Full));
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 1);
    bench.set_reading(client.conn, true);
    bench.events();
    bench.send(client.session, &reply(1));
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 0);
}

#[test]
fn queues_limit_reached_wakes_waiting_sessions_in_turn() {
    let mut bench = Bench::with(limited(|limits| limits.queues_bytes_max = Some(3_000)));
    let (hog, a, b) = (bench.open(), bench.open(), bench.open());
    bench.set_reading(hog.conn, false);
    bench.send(hog.session, &note(&"x".repeat(2_700)));
    let frame = note(&"y".repeat(500));
    for client in [&a, &b] {
        let sent = bench.server.send(client.session, &frame, bench.now);
        assert_eq!(sent, Err(SendError::Full));
    }
    assert_eq!(unblocked(&mut bench), 0);
    bench.set_reading(hog.conn, true);
    let told: Vec<_> = bench
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Unblocked { session } => session,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [a.session, b.session]);
    for client in [a, b] {
        bench.send(client.session, &frame);
        assert_eq!(bench.messages(client.conn).len(), 1);
    }
}

#[test]
fn session_that_waits_for_both_limits_is_unblocked_when_both_have_room() {
    let mut bench = Bench::with(limited(|limits| {
        limits.queues_bytes_max = Some(3_000);
        limits.queue_bytes_max = Some(1_000);
    }));
    let (hog, a) = (bench.open(), bench.open());
    bench.set_reading(a.conn, false);
    bench.send(a.session, &note(&"y".repeat(700)));
    bench.set_reading(hog.conn, false);
    bench.send(hog.session, &note(&"x".repeat(1_700)));
    // First its own queue is full; when that has room, all together are.
    let frame = note(&"y".repeat(500));
    assert_eq!(bench.server.send(a.session, &frame, bench.now), Err(SendError::Full));
    let more = bench.open();
    bench.set_reading(more.conn, false);
    bench.set_reading(a.conn, true);
    bench.send(more.session, &note(&"z".repeat(900)));
    bench.events();
    assert_eq!(bench.server.send(a.session, &frame, bench.now), Err(SendError::Full));
    bench.set_reading(hog.conn, true);
    assert_eq!(unblocked(&mut bench), 1);
    bench.send(a.session, &frame);
}

#[test]
fn session_with_room_waits_while_all_queues_are_full() {
    let mut bench = Bench::with(limited(|limits| {
        limits.queues_bytes_max = Some(2_400);
        limits.queue_bytes_max = Some(2_000);
    }));
    let (a, hogs) = (bench.open(), [bench.open(), bench.open()]);
    for conn in [a.conn, hogs[0].conn, hogs[1].conn] {
        bench.set_reading(conn, false);
    }
    let (small, large) = (note(&"y".repeat(400)), note(&"y".repeat(800)));
    for _ in 0..3 {
        bench.send(a.session, &small);
    }
    assert_eq!(bench.server.send(a.session, &large, bench.now), Err(SendError::Full));
    // What `a` gives up bit by bit, others take.
    let frame = bench.server.transmit(a.conn).len() / 3;
    bench.takes(a.conn, frame);
    bench.send(hogs[0].session, &large);
    bench.takes(a.conn, frame);
    bench.send(hogs[1].session, &small);
    bench.takes(a.conn, frame);
    assert!(bench.server.transmit(a.conn).is_empty());
    assert_eq!(unblocked(&mut bench), 0);
    bench.set_reading(hogs[0].conn, true);
    assert_eq!(unblocked(&mut bench), 1, "the promise is kept");
    bench.send(a.session, &large);
}

#[test]
fn write_that_completes_after_the_connection_was_cut_is_ignored() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("x"));
    let shares = bench.server.transmit(client.conn).detach(usize::MAX);
    bench.server.handle_eof(client.conn, bench.now);
    let bytes_sent = bench.server.metrics().bytes_sent;
    bench.server.handle_written(client.conn, shares.len(), bench.now);
    assert_eq!(bench.server.metrics().bytes_sent, bytes_sent);
    assert_eq!(bench.server.interest(client.conn), Interest::Close);
}

#[test]
#[should_panic(expected = "more bytes written than were offered")]
fn written_count_above_what_was_queued_panics() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.server.handle_written(client.conn, 1, bench.now);
}

#[test]
fn ending_session_is_not_unblocked() {
    let mut bench = Bench::with(limited(|limits| limits.queues_bytes_max = Some(3_000)));
    let (hog, client) = (bench.open(), bench.open());
    bench.set_reading(hog.conn, false);
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("first"));
    bench.send(hog.session, &note(&"x".repeat(2_300)));
    let refused = bench.server.send(client.session, &note(&"y".repeat(500)), bench.now);
    assert_eq!(refused, Err(SendError::Full));
    bench.server.close(client.session, bench.now);
    // There is room for it now, and the session is still there.
    bench.set_reading(hog.conn, true);
    bench.takes(client.conn, 20);
    assert!(bench.server.session(client.session).unwrap().is_ending());
    assert_eq!(unblocked(&mut bench), 0);
    bench.set_reading(client.conn, true);
    assert_eq!(bench.closed(), [(client.session, CloseReason::Application, 0)]);
}

#[test]
fn completed_write_wakes_its_connection() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("x"));
    let len = bench.server.transmit(client.conn).len();
    bench.server.handle_written(client.conn, len, bench.now);
    assert_eq!(bench.server.poll_wake(), Some(client.conn));
    assert_eq!(bench.server.poll_wake(), None);
}
