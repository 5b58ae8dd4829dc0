//! Nothing that prints shows a token, a credential or a payload.

use super::*;
use crate::{
    Authorization, Exchange, Interest, Outcome, Peer, Principal, ProtectedResource, Refusal,
    SessionToken, ShardId, StaticTokens, Verdict,
};

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
fn debug_output_holds_no_secret() {
    let tokens = StaticTokens::builder().token("alice", SECRET);
    check(&format!("{tokens:?} {tokens:#?}"), "no session token is in there");
    let tokens = tokens.build().unwrap();
    check(&format!("{tokens:?} {tokens:#?}"), "no session token is in there");
    let rate = "100/second".parse().ok();
    let config = limited(|limits| {
        limits.inbound_messages_max = Some(1);
        limits.posts_rate_per_session = rate;
        limits.posts_rate_per_principal = rate;
    });
    let config = config
        .forwarding(true)
        .authorization(Authorization::Static(tokens))
        .cors_origin("https://app.example")
        .trusted_proxy("10.0.0.0/8")
        .protected_resource(ProtectedResource::new("https://mcp.example/sse"));
    check(&format!("{config:?} {config:#?}"), "no session token is in there");
    let mut bench = Bench::with(config);
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(
        conn,
        format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n\r\n"),
    );
    let text = bench.server.transmit(conn).chunks().flatten().copied().collect::<Vec<_>>();
    let token = read_stream(&text).token();
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":"{SECRET}"}}"#);
    let credentials = format!("Authorization: Bearer {SECRET}\r\n");
    let request = post_with(&token, &credentials, &body);

    // In every phase that holds something: half a head, half a body, an event, held, and stashed.
    let conns: Vec<_> = (0..4).map(|_| bench.connect()).collect();
    bench.says(conns[0], &request[..100]);
    bench.says(conns[1], &request[..request.len() - 1]);
    bench.says(conns[2], &request);
    bench.says(conns[3], request.repeat(2));
    let foreign = bench.connect();
    bench.says(foreign, post_with(&format!("AAE{}", &token[3..]), &credentials, &body));
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
            assert_eq!(shard, ShardId(1));
            foreigners += 1;
        }
    }
    assert_eq!(foreigners, 1);
}

/// The public types that hold nothing of a peer's, and the ones that could and must not.
#[test]
fn debug_output_of_public_types_holds_no_secret() {
    let secret = crate::token::Secret::draw(&mut Random::seeded(9)).unwrap();
    let token = SessionToken::new(ShardId(3), 4, secret);
    let text = String::from_utf8(token.encode().to_vec()).unwrap();
    check(&format!("{token:?} {token:#?}"), &text);

    let mut bench = Bench::with(Config::builder().authorization(Authorization::Deferred));
    let conn = bench.connect();
    bench.says(
        conn,
        format!(
            "GET /sse?token={SECRET} HTTP/1.1\r\nHost: localhost\r\nCookie: {SECRET}\r\n\
             Authorization: Bearer {SECRET}\r\n\r\n"
        ),
    );
    let Some(Event::Asked { ticket, head }) = bench.event() else { panic!("a question") };
    check(&format!("{ticket:?} {head:?} {head:#?}"), &text);
    let verdict = Verdict::Allow(Principal::new("alice"));
    check(&format!("{verdict:?} {:?}", Verdict::Refuse(Refusal::InvalidToken)), &text);
    bench.server.authorize(ticket, verdict, bench.now).unwrap();
    for event in bench.events() {
        check(&format!("{event:?} {event:#?}"), &text);
    }
    let target = format!("/messages?session_id={text}");
    let fields: &[(&str, &[u8])] = &[("authorization", SECRET.as_bytes()), ("host", b"localhost")];
    let exchange = Exchange { method: "POST", target: &target, fields, mount: "" };
    check(&format!("{exchange:?} {exchange:#?}"), &text);
    let conn = bench.server.exchange(exchange, Peer::local(), bench.now).unwrap();
    check(&format!("{:?} {:?}", bench.server.response(conn), bench.server.interest(conn)), &text);
    let outcome = Outcome::RateLimited { retry_after: secs(1) };
    check(&format!("{outcome:?} {:?} {:?}", Interest::Linger, Peer::local()), &text);
}

#[test]
fn handles_print_slot_and_serial() {
    let mut bench = Bench::new();
    let client = bench.open();
    assert_eq!(format!("{} {:?}", client.conn, client.session), "c0v1 s0v1");
}
