//! Nothing that prints shows a token, a credential or a payload.

use super::*;
use crate::Shard;

const SECRET: &str = "hunter2";

#[track_caller]
fn check(text: &str, token: &str) {
    let secret_part = &token[token.len() - 24..];
    let octets = |text: &str| format!("{:?}", text.as_bytes()).replace(['[', ']'], "");
    for hidden in [secret_part, SECRET] {
        assert!(!text.contains(hidden), "{text}");
        assert!(!text.contains(&octets(hidden)), "{text}");
    }
}

#[test]
fn nothing_printable_holds_a_secret() {
    let config = limited(|limits| limits.inbound_messages_max = Some(1)).forwarding(true);
    let mut bench = Bench::with(config);
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(
        conn,
        format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: {SECRET}\r\n\r\n"),
    );
    let text = bench.server.transmit(conn).chunks().flatten().copied().collect::<Vec<_>>();
    let token = read_stream(&text).token();
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":"{SECRET}"}}"#);
    let request = post(&token, &body);

    // In every phase that holds something: half a head, half a body, an event, held, and stashed.
    let conns: Vec<_> = (0..4).map(|_| bench.connect()).collect();
    bench.says(conns[0], &request[..100]);
    bench.says(conns[1], &request[..request.len() - 1]);
    bench.says(conns[2], &request);
    bench.says(conns[3], request.repeat(2));
    let foreign = bench.connect();
    bench.says(foreign, post(&format!("AAE{}", &token[3..]), &body));
    for (key, conn) in bench.server.conns.iter() {
        check(&format!("{key:?} {conn:?} {conn:#?}"), &token);
    }
    for (_, session) in bench.server.sessions.iter() {
        check(&format!("{session:?}"), &token);
    }
    for view in bench.server.sessions() {
        check(&format!("{view:?}"), &token);
    }
    check(&format!("{:?}", bench.server), &token);
    check(&format!("{:?}", bench.server.transmit(conn)), &token);
    check(&format!("{:?}", bench.server.transmit(conn).detach(1 << 20)), &token);
    check(&format!("{:?}", bench.server.config()), &token);
    check(&format!("{:?}", bench.server.metrics()), &token);
    let frame = Frame::message(body.as_bytes()).unwrap();
    check(&format!("{frame:?}"), &token);
    let mut foreigners = 0;
    for event in bench.events() {
        check(&format!("{event:?} {event:#?}"), &token);
        if let Event::Foreign { shard, .. } = event {
            assert_eq!(shard, Shard(1));
            foreigners += 1;
        }
    }
    assert_eq!(foreigners, 1);
}

#[test]
fn handles_print_well() {
    let mut bench = Bench::new();
    let client = bench.open();
    assert_eq!(format!("{} {:?}", client.conn, client.session), "c0v1 s0v1");
}
