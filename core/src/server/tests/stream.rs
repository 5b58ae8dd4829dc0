//! Streams.

use super::*;
use crate::error::{Fault, SendError};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n\
    Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn get_opens_a_session_and_sends_the_endpoint_in_one_write() {
    let mut bench = Bench::new();
    let Client { conn, session, token } = bench.open();
    assert_eq!(bench.writes(conn).len(), 1, "head and endpoint event leave together");
    let event = format!("event: endpoint\ndata: /messages?session_id={token}\n\n");
    assert_eq!(token.len(), 32);
    assert_eq!(bench.text(conn), format!("{HEAD}{:x}\r\n{event}\r\n", event.len()));
    assert_eq!(bench.server.sessions_open(), 1);
    let view = bench.server.session(session).unwrap();
    assert_eq!((view.id(), view.principal(), view.is_ending()), (session, None, false));
    assert!(bench.is_open(conn));
}

#[test]
fn opened_event_has_the_head_and_the_connection() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, "GET /sse/?q=1 HTTP/1.1\r\nHost: localhost\r\nX-Name: v\r\n\r\n");
    match bench.events().as_slice() {
        [Event::Opened { conn: of, head, .. }] => {
            assert_eq!((*of, head.path()), (conn, "/sse/"));
            assert_eq!(head.field("x-name"), Some(&b"v"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn stream_head_has_a_date_once_the_wall_clock_is_known() {
    let mut bench = Bench::new();
    bench.server.handle_wall_clock(784_111_777);
    let client = bench.open();
    let head = bench.stream(client.conn).head;
    assert!(head.contains("\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), "{head}");
}

#[test]
fn endpoint_has_the_configured_paths() {
    let config = Config::builder()
        .message_path("/in/box")
        .public_path_prefix("/mcp")
        .session_parameter("sessionId")
        .instance_id("a1")
        .retry(secs(3)..=secs(3));
    let mut bench = Bench::with(config);
    let conn = bench.connect();
    bench.says(conn, GET);
    let body = String::from_utf8(bench.stream(conn).body).unwrap();
    let token = &bench.stream(conn).token()[3..];
    let event = format!("data: /mcp/in/box?sessionId=a1.{token}\n");
    assert!(body.contains(&event) && body.contains("retry: 3000\n"), "{body}");
    assert_eq!(token.len(), 32);
}

#[test]
fn http_1_0_stream_ends_with_the_connection() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, "GET /sse HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let stream = bench.stream(conn);
    assert!(stream.head.contains("\r\nConnection: close\r\n"), "{}", stream.head);
    assert!(!stream.head.contains("Transfer-Encoding"), "{}", stream.head);
    let Some(Event::Opened { session, .. }) = bench.event() else { panic!("no session") };
    bench.send(session, &note("x"));
    assert_eq!(bench.messages(conn).len(), 1);
    bench.wait(secs(15));
    assert!(bench.heard(conn).ends_with(b"\n\n:\n"), "a bare heartbeat");
    bench.server.close(session, bench.now);
    bench.pump();
    assert!(!bench.is_open(conn), "closing is what ends it");
    assert_eq!(bench.closed(), [(session, CloseReason::Application, 0)]);
}

#[test]
fn get_with_connection_close_gets_its_stream() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, "GET /sse HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let head = bench.stream(conn).head;
    assert!(head.contains("Connection: close\r\nTransfer-Encoding: chunked\r\n"), "{head}");
}

#[test]
fn head_request_has_the_same_head_and_no_session() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, "HEAD /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(bench.text(conn), HEAD);
    assert_eq!((bench.server.sessions_open(), bench.events().len()), (0, 0));
    bench.says(conn, "HEAD /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(bench.text(conn), format!("{HEAD}{HEAD}"), "the connection goes on");
}

#[test]
fn head_request_whose_answer_says_close_is_closed() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, "HEAD /sse HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(bench.text(conn).contains("Connection: close"));
    assert_eq!(bench.server.interest(conn), Interest::Linger);
}

#[track_caller]
fn check_accept(field: &str, status: u16) {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, format!("GET /sse HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"));
    assert!(bench.text(conn).starts_with(&format!("HTTP/1.1 {status} ")), "{field}");
    assert_eq!(bench.server.sessions_open(), u32::from(status == 200), "{field}");
}

#[test]
fn accept_without_event_stream_is_406() {
    check_accept("", 200);
    check_accept("Accept: text/event-stream\r\n", 200);
    check_accept("Accept: text/*\r\n", 200);
    check_accept("Accept: */*\r\n", 200);
    check_accept("Accept: application/json, text/event-stream\r\n", 200);
    check_accept("Accept: application/json\r\nAccept: text/event-stream\r\n", 200);
    check_accept("Accept: application/json\r\n", 406);
    check_accept("Accept: text/event-stream;q=0\r\n", 406);
}

#[track_caller]
fn check_method(method: &str, status: u16, allow: Option<&str>) {
    let mut bench = Bench::new();
    // The body does not come, and nobody waits for it.
    let answer = bench.ask(format!(
        "{method} /sse HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n"
    ));
    assert_eq!((answer.status, answer.field("Allow")), (status, allow), "{method}");
    assert_eq!(answer.field("Content-Type"), Some("text/plain; charset=utf-8"));
    assert!(!answer.body.contains("jsonrpc"), "{method}");
}

#[test]
fn other_methods_on_the_stream_path_are_405() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        check_method(method, 405, Some("GET, HEAD"));
    }
    for method in ["CONNECT", "TRACE"] {
        check_method(method, 405, Some("GET, HEAD, POST"));
    }
    for method in ["get", "BREW", "Post"] {
        check_method(method, 501, None);
    }
}

#[test]
fn event_is_one_chunk_in_one_write() {
    let mut bench = Bench::new();
    let client = bench.open();
    for text in ["one", "two"] {
        bench.send(client.session, &note(text));
        let json = format!(r#"{{"jsonrpc":"2.0","method":"note","params":"{text}"}}"#);
        let event = format!("event: message\ndata: {json}\n\n");
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        assert_eq!(bench.writes(client.conn).last().unwrap(), chunk.as_bytes());
    }
    assert_eq!(bench.server.metrics().frames_sent, 2);
}

#[test]
fn broadcast_reaches_open_sessions() {
    let mut bench = Bench::with(limited(|limits| limits.queue_bytes_max = Some(200)));
    let (a, b, c) = (bench.open(), bench.open(), bench.open());
    bench.reset(b.conn);
    bench.set_reading(c.conn, false);
    bench.send(c.session, &note("in the way"));
    let to = [a.session, b.session, c.session];
    let reach = bench.server.broadcast(to, &note("all"), bench.now);
    bench.pump();
    assert_eq!((reach.queued, reach.gone, reach.full), (1, 1, 1));
    assert_eq!(bench.messages(a.conn).len(), 1);
}

#[test]
fn closed_session_ends_after_its_queue() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("last"));
    bench.server.close(client.session, bench.now);
    assert!(bench.server.session(client.session).unwrap().is_ending());
    assert_eq!(bench.server.send(client.session, &note("no"), bench.now), Err(SendError::Gone));
    assert!(bench.events().is_empty(), "it is not over yet");
    let request = post(&client.token, NOTE);
    let head = request.strip_suffix(NOTE).unwrap();
    assert_eq!(bench.ask(head).status, 404, "before its body has come");
    bench.set_reading(client.conn, true);
    assert_eq!(bench.messages(client.conn).len(), 1);
    assert!(bench.stream(client.conn).ended, "the terminating chunk");
    assert!(!bench.is_open(client.conn));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Application, 0)]);
}

#[test]
fn client_end_of_input_ends_the_session() {
    for by_reset in [false, true] {
        let mut bench = Bench::new();
        let client = bench.open();
        bench.set_reading(client.conn, false);
        bench.send(client.session, &note("lost"));
        if by_reset {
            bench.reset(client.conn);
        } else {
            bench.fin(client.conn);
        }
        assert_eq!(bench.closed(), [(client.session, CloseReason::Peer, 1)]);
        assert!(!bench.is_open(client.conn));
        assert_eq!(bench.server.sessions_open(), 0);
        assert_eq!(bench.server.metrics().frames_undelivered, 1);
        assert_eq!(bench.ask(post(&client.token, NOTE)).status, 404);
    }
}

#[test]
fn half_closed_stream_lives_on_where_allowed() {
    let mut bench = Bench::with(Config::builder().allow_half_close(true));
    let client = bench.open();
    bench.fin(client.conn);
    bench.send(client.session, &note("still here"));
    assert_eq!(bench.messages(client.conn).len(), 1);
    bench.server.close(client.session, bench.now);
    bench.pump();
    assert_eq!(bench.closed(), [(client.session, CloseReason::Application, 0)]);
    assert!(!bench.is_open(client.conn));
}

#[test]
fn bytes_after_the_get_end_the_session_over_the_limit() {
    let mut bench = Bench::with(limited(|limits| limits.stream_input_bytes_max = 100));
    let client = bench.open();
    bench.says(client.conn, post(&client.token, NOTE).get(..60).unwrap());
    bench.says(client.conn, [b'x'; 40]);
    assert!(bench.events().is_empty() && bench.is_open(client.conn));
    bench.send(client.session, &note("goes on"));
    bench.says(client.conn, "x");
    assert_eq!(bench.closed(), [(client.session, CloseReason::Fault(Fault::StreamInput), 0)]);
    assert!(bench.stream(client.conn).ended && !bench.is_open(client.conn));
    assert_eq!(bench.server.metrics().fault(Fault::StreamInput), 1);
}

#[test]
fn stream_over_its_input_limit_is_not_read() {
    let mut bench = Bench::with(limited(|limits| limits.stream_input_bytes_max = 100));
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("in the way"));
    for _ in 0..5 {
        bench.says(client.conn, [b'x'; 101]);
    }
    assert_eq!(bench.unread(client.conn), 4);
    bench.wait(secs(30));
    let fault = CloseReason::Fault(Fault::StreamInput);
    assert_eq!(bench.closed(), [(client.session, fault, 1)]);
    assert_eq!(bench.server.metrics().fault(Fault::StreamInput), 1);
}

#[test]
fn reconnecting_client_gets_a_new_session() {
    let mut bench = Bench::new();
    let (first, second) = (bench.open(), bench.open());
    assert_ne!(first.token, second.token);
    assert_eq!(bench.ask(post(&first.token, NOTE)).status, 202);
    assert_eq!(bench.ask(post(&second.token, NOTE)).status, 202);
    let sessions: Vec<_> = bench.server.sessions().map(|view| view.id()).collect();
    assert_eq!(sessions, [first.session, second.session]);
}

#[test]
fn reused_slot_is_another_session() {
    let mut bench = Bench::new();
    let first = bench.open();
    bench.reset(first.conn);
    bench.events();
    let second = bench.open();
    assert_eq!(first.session.slot(), second.session.slot());
    assert_eq!(first.conn.slot(), second.conn.slot());
    assert_eq!(bench.ask(post(&first.token, NOTE)).status, 404);
    assert_eq!(bench.server.send(first.session, &note("x"), bench.now), Err(SendError::Gone));
    bench.server.close(first.session, bench.now);
    bench.server.set_backlog(first.session, 1_000, 1, bench.now);
    bench.server.handle_input(first.conn, b"x", bench.now);
    bench.server.handle_eof(first.conn, bench.now);
    bench.server.handle_written(first.conn, 5, bench.now);
    bench.server.handle_disconnect(first.conn, bench.now);
    assert_eq!(bench.server.interest(first.conn), Interest::Close);
    assert!(bench.server.transmit(first.conn).is_empty());
    assert!(bench.server.session(first.session).is_none());
    assert_eq!(bench.ask(post(&second.token, NOTE)).status, 202);
    assert!(bench.is_open(second.conn));
}

#[test]
fn stream_may_follow_posts_on_one_connection() {
    let mut bench = Bench::new();
    let other = bench.open();
    let conn = bench.connect();
    bench.says(conn, post(&other.token, NOTE) + GET);
    let text = bench.text(conn);
    let (_, stream) = text.rsplit_once("Accepted\n").unwrap();
    assert!(read_stream(stream.as_bytes()).token().len() == 32);
}
