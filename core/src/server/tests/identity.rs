//! Principals: tokens, challenges, and sessions that belong to a principal.

use super::*;
use crate::error::Fault;
use crate::event::Verdict;
use crate::exchange::Exchange;
use crate::route::Service;
use crate::session_ref::SessionRef;
use crate::testing::steps_in;
use crate::{Authorization, Principal, ProtectedResource, SessionToken, ShardId, StaticTokens};

fn tokens() -> Authorization {
    let tokens = StaticTokens::builder().token("alice", "alpha").token("bob", "beta");
    Authorization::Static(tokens.build().unwrap())
}

pub(super) fn locked() -> ConfigBuilder {
    Config::builder().authorization(tokens())
}

impl Bench {
    /// Opens a session with these fields in the GET.
    pub(super) fn open_with(&mut self, fields: &str) -> Client {
        let conn = self.connect();
        self.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
        match self.events().as_slice() {
            &[Event::Opened { session, .. }] => {
                Client { conn, session, token: self.stream(conn).token() }
            }
            other => panic!("expected a new session: {other:?}"),
        }
    }
}

pub(super) const ALICE: &str = "Authorization: Bearer alpha\r\n";
pub(super) const BOB: &str = "Authorization: bearer  beta\r\n";

/// What GET and POST alike are answered, and nothing comes of it.
#[track_caller]
fn check(config: &ConfigBuilder, fields: &str, status: u16, challenge: Option<&str>, error: &str) {
    let mut bench = Bench::with(config.clone());
    for request in ["GET /sse", "HEAD /sse", "POST /messages?session_id=x"] {
        let answer = bench.ask(format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {fields}Content-Length: 0\r\n\r\n"
        ));
        assert_eq!(answer.status, status, "{request} {fields}");
        assert_eq!(answer.field("WWW-Authenticate"), challenge, "{request} {fields}");
        assert_eq!(answer.field("Content-Type"), Some("application/json"), "{request}");
        if !request.starts_with("HEAD") {
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(body["error"], error, "{request} {fields}");
            assert!(body["error_description"].is_string(), "{request} {fields}");
        }
        assert!(!answer.closes(), "{request} {fields}");
    }
    assert_eq!(bench.server.sessions_open(), 0);
    assert!(bench.events().is_empty());
}

#[test]
fn unauthorized_request_is_challenged() {
    let bad = Some("Bearer error=\"invalid_token\"");
    check(&locked(), "", 401, Some("Bearer"), "unauthorized");
    check(&locked(), "Authorization: Basic YWxwaGE=\r\n", 401, Some("Bearer"), "unauthorized");
    check(&locked(), "Authorization: alpha\r\n", 401, Some("Bearer"), "unauthorized");
    for token in ["gamma", "Alpha", "alph", "alphaa", "alpha beta", "", "alpha,", "=", "\"alpha\""]
    {
        let fields = format!("Authorization: Bearer {token}\r\n");
        check(&locked(), &fields, 401, bad, "invalid_token");
    }
    let twice = Some("Bearer error=\"invalid_request\"");
    check(&locked(), &ALICE.repeat(2), 400, twice, "invalid_request");

    let resource = ProtectedResource::new("https://mcp.example/sse");
    let config = locked().protected_resource(resource);
    let at = "resource_metadata=\"https://mcp.example/.well-known/oauth-protected-resource/sse\"";
    check(&config, "", 401, Some(&format!("Bearer {at}")), "unauthorized");
    let bad = format!("Bearer error=\"invalid_token\", {at}");
    check(&config, "Authorization: Bearer gamma\r\n", 401, Some(&bad), "invalid_token");
}

#[test]
fn refusal_by_an_authorizer_reads_like_one_by_static_tokens() {
    let resource = ProtectedResource::new("https://mcp.example");
    let config = |builder: ConfigBuilder| builder.protected_resource(resource.clone());
    let ask = |config: ConfigBuilder, fields: &str, refusal| {
        let mut bench = Bench::with(config);
        let conn = bench.connect();
        bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
        if let Some(Event::Asked { ticket, .. }) = bench.event() {
            bench.server.authorize(ticket, Verdict::Refuse(refusal), bench.now).unwrap();
            bench.pump();
        }
        bench.text(conn)
    };
    for (fields, refusal) in [
        ("", crate::Refusal::Unauthenticated),
        ("Authorization: Bearer x\r\n", crate::Refusal::InvalidToken),
    ] {
        let deferred = config(Config::builder()).authorization(Authorization::Deferred);
        let told = ask(deferred, fields, refusal);
        assert!(told.starts_with("HTTP/1.1 401 "), "{told}");
        assert_eq!(told, ask(config(locked()), fields, refusal));
    }
}

#[test]
fn token_in_the_query_is_ignored() {
    let mut bench = Bench::with(locked());
    for name in ["access_token", "token", "authorization"] {
        let answer =
            bench.ask(format!("GET /sse?{name}=alpha HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(answer.status, 401, "{name}");
    }
}

#[test]
fn probes_and_unknown_paths_need_no_token() {
    let mut bench = Bench::with(locked());
    for (request, status) in [
        ("GET /health", 200),
        ("GET /ready", 200),
        ("GET /nothing", 404),
        ("GET /.well-known/oauth-authorization-server", 404),
        ("POST /register", 404),
        // Newer clients probe with it, and need the 405 to fall back.
        ("POST /sse", 405),
        ("GET /messages", 405),
    ] {
        let answer = bench.ask(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(answer.status, status, "{request}");
    }
}

#[test]
fn opened_event_carries_the_principal() {
    let mut bench = Bench::with(locked());
    let conn = bench.connect();
    bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{BOB}\r\n")));
    let [Event::Opened { principal: Some(principal), session, .. }] = &bench.events()[..] else {
        panic!("a session")
    };
    assert_eq!(principal.name(), "bob");
    let view = bench.server.session(*session).unwrap();
    assert_eq!(view.principal().map(Principal::name), Some("bob"));
}

/// The targets of four posts that all miss: another's session, one that has ended, one that never
/// was, and what is no session token.
pub(super) fn misses(bench: &mut Bench) -> [String; 4] {
    let ended = bench.open_with(BOB);
    bench.reset(ended.conn);
    bench.events();
    // In a slot of its own, so that the ended one's is empty.
    let placeholder = bench.open_with(BOB);
    let others = bench.open_with(ALICE);
    bench.reset(placeholder.conn);
    bench.events();
    let unknown = format!("{}AAAA", &others.token[..28]);
    [others.token, ended.token, unknown, "no-session-id".into()]
}

#[test]
fn foreign_ended_unknown_and_malformed_ids_are_answered_with_the_same_bytes() {
    let mut bench = Bench::with(locked());
    let misses = misses(&mut bench);
    let mut told = Vec::new();
    for token in &misses {
        let conn = bench.connect();
        bench.says(conn, post_with(token, BOB, NOTE));
        told.push(bench.text(conn));

        let target = format!("/messages?session_id={token}");
        let fields: &[(&str, &[u8])] = &[
            ("host", b"localhost"),
            ("content-type", b"application/json"),
            ("authorization", b"Bearer beta"),
        ];
        let exchange = Exchange { method: "POST", target: &target, fields, mount: "" };
        let conn = bench.server.exchange(exchange, Peer::local(), bench.now).unwrap();
        bench.server.handle_eof(conn, bench.now);
        let head = format!("{:?}", bench.server.response(conn).expect("an answer"));
        let body = bench.server.transmit(conn).chunks().collect::<Vec<_>>().concat();
        told.push(head + core::str::from_utf8(&body).unwrap());
        bench.server.handle_disconnect(conn, bench.now);
    }
    assert!(told[0].starts_with("HTTP/1.1 404 ") && told[1].contains("404"), "{told:?}");
    for pair in told.chunks(2) {
        assert_eq!(pair, &told[..2]);
    }
    assert!(bench.events().is_empty());
    assert_eq!(bench.server.metrics().fault(Fault::UnknownSession), 8);
    // Who opened it can post to it.
    assert_eq!(bench.ask(post_with(&misses[0], ALICE, NOTE)).status, 202);
}

#[test]
fn every_miss_takes_the_same_steps() {
    let mut bench = Bench::with(locked());
    let [others, ended, unknown, _] = misses(&mut bench);
    let known = bench.open_with(BOB);
    let steps = |text: Option<&str>, name: Option<&str>| {
        let token =
            text.map_or(SessionToken::UNUSED, |text| SessionToken::parse(text.as_bytes()).unwrap());
        let claim =
            SessionRef { token, service: Service::ROOT, principal: name.map(Principal::new) };
        steps_in(|| bench.server.find_session(&claim).is_some())
    };
    let beyond = SessionToken::new(ShardId(0), 77, crate::token::Secret::DECOY).encode();
    let beyond = core::str::from_utf8(&beyond).unwrap();
    // 18 octets of a secret and those of the name of whoever asks.
    for (name, count) in [(None, 18), (Some(""), 18), (Some("bob"), 21), (Some("bobby-tables"), 30)]
    {
        for text in [Some(&*others), Some(&ended), Some(&unknown), Some(beyond), None] {
            assert_eq!(steps(text, name), (count, false), "{name:?} {text:?}");
        }
        assert_eq!(steps(Some(&known.token), name), (count, name == Some("bob")), "{name:?}");
    }
}

#[test]
fn principals_are_compared_whole() {
    let principal = |name: Option<&str>| name.map(Principal::new);
    let names =
        [None, Some(""), Some("a"), Some("b"), Some("ab"), Some("aa"), Some("\0"), Some("a\0")];
    for a in names {
        for b in names {
            let same = Principal::same(principal(a).as_ref(), principal(b).as_ref());
            assert_eq!(same, a == b, "{a:?} {b:?}");
        }
    }
}

#[test]
fn resource_metadata_is_served() {
    let resource = ProtectedResource::new("https://mcp.example/sse")
        .authorization_server("https://login.example");
    let mut bench = Bench::with(locked().protected_resource(resource));
    let base = "/.well-known/oauth-protected-resource";
    for path in [base.into(), format!("{base}/sse"), format!("{base}/sse/")] {
        let answer = bench.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(json["resource"], "https://mcp.example/sse");
        assert_eq!(json["authorization_servers"][0], "https://login.example");
        let answer = bench.ask(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((answer.status, answer.field("Allow")), (405, Some("GET, HEAD")));
        let answer = bench.ask(format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n"));
        assert_eq!(answer.status, 403, "the guard stands in front of it");
    }
    for path in [format!("{base}/other"), "/.well-known/openid-configuration".into()] {
        let answer = bench.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(answer.status, 404);
        assert!(answer.body.starts_with(r#"{"error":"not found","#), "{answer:?}");
    }
}
