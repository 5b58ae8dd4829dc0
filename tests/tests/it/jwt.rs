//! The example `jwt` of the tokio adapter: which tokens it accepts. The keys in this folder are for
//! these tests only.

#[path = "../../../io-tokio/examples/jwt/tokens.rs"]
mod tokens;

use core::net::SocketAddr;
use std::sync::mpsc;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use mcp_sse_core::{Config, ProtectedResource};
use mcp_sse_driver::VerdictCache;
use mcp_sse_tests::adapter::{HandlerThread, Listen, RunningServer, TOKIO, authorize};
use mcp_sse_tests::client::{Client, Response, Stream, answer, call};
use mcp_sse_tests::{PATIENCE, finish, handlers};
use serde_json::{Value, json};

use tokens::Tokens;

const SECRET: &[u8] = b"a secret of at least 32 bytes, for tests";
const SIGNING: &[u8] = include_bytes!("jwt/signing.pem");
const PUBLIC: &[u8] = include_bytes!("jwt/public.pem");
const ISSUER: &str = "https://login.example.com";

/// Starts the example's server on a free port. Returns it with the sessions that it opens.
fn start(tokens: Tokens) -> (RunningServer, mpsc::Receiver<mcp_sse_driver::Session>) {
    let (sender, sessions) = mpsc::channel();
    let resource = ProtectedResource::new("http://localhost/sse").authorization_server(ISSUER);
    let config = Config::builder().protected_resource(resource).build().expect("good");
    let decide = authorize(async move |head| tokens.decide(&head));
    let server = RunningServer::try_start_authorized(
        &TOKIO,
        Listen::Bind(SocketAddr::from(([127, 0, 0, 1], 0))),
        1,
        HandlerThread::Local,
        config,
        Some((decide, VerdictCache::new())),
        handlers::give(sender),
    );
    (server.expect("a server"), sessions)
}

fn claims() -> Value {
    let exp = get_current_timestamp() + 600;
    json!({"sub": "alice", "iss": ISSUER, "aud": "mcp", "exp": exp})
}

/// Valid claims with one changed; `null` removes it.
fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    let all = claims.as_object_mut().expect("an object");
    if value.is_null() {
        all.remove(name);
    } else {
        all.insert(name.into(), value);
    }
    claims
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).expect("a token")
}

fn secret() -> EncodingKey {
    EncodingKey::from_secret(SECRET)
}

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(SIGNING).expect("a key")
}

fn get(authorization: &str) -> String {
    format!("GET /sse HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n")
}

#[track_caller]
fn refusal(server: &RunningServer, authorization: &str) -> Response {
    let response = Client::connect(server.address()).ask(get(authorization));
    assert_eq!(response.status, 401, "{authorization}: {response:?}");
    response
}

#[track_caller]
fn check_refused(server: &RunningServer, why: &str, token: &str) {
    let response = refusal(server, &format!("Authorization: Bearer {token}\r\n"));
    let challenge = response.field("www-authenticate").expect("a challenge");
    assert!(challenge.contains(r#"error="invalid_token""#), "{why}: {challenge}");
}

/// The same payload with a header for no algorithm, and without a signature.
fn unsigned(token: &str) -> String {
    let payload = token.split('.').nth(1).expect("a payload");
    // {"alg":"none","typ":"JWT"}
    format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.")
}

/// Checks that invalid tokens are refused, for any algorithm.
fn check(server: &RunningServer, sign: impl Fn(&Value) -> String) {
    let now = get_current_timestamp();
    for (name, value) in [
        ("exp", json!(now - 3_600)),
        ("exp", json!("never")),
        ("exp", json!(null)),
        ("nbf", json!(now + 3_600)),
        ("aud", json!("another")),
        ("aud", json!(["another", "third"])),
        ("aud", json!(null)),
        ("iss", json!("https://login.example.com.evil.example")),
        ("iss", json!(null)),
        ("sub", json!(7)),
        ("sub", json!(null)),
    ] {
        check_refused(
            server,
            &format!("{name}: {value}"),
            &sign(&claims_with(name, value.clone())),
        );
    }
    let good = sign(&claims());
    check_refused(server, "no signature", &unsigned(&good));
    check_refused(server, "an empty signature", &good[..=good.rfind('.').expect("three parts")]);
    let mallory = sign(&claims_with("sub", json!("mallory")));
    let (mut parts, other) = (good.split('.').collect::<Vec<_>>(), mallory);
    parts[1] = other.split('.').nth(1).expect("a payload");
    check_refused(server, "another's claims", &parts.join("."));
    for token in ["x", "a.b.c", "..", ""] {
        check_refused(server, "no token at all", token);
    }
    for authorization in ["", "Authorization: Basic YTpi\r\n"] {
        let response = refusal(server, authorization);
        let challenge = response.field("www-authenticate").expect("a challenge");
        let metadata = "http://localhost/.well-known/oauth-protected-resource/sse";
        assert_eq!(challenge, format!("Bearer resource_metadata=\"{metadata}\""));
    }
    assert_eq!(server.metrics().sessions_opened, 0);
}

/// Checks that valid tokens are accepted.
fn check_good(
    server: &RunningServer,
    sessions: &mpsc::Receiver<mcp_sse_driver::Session>,
    sign: impl Fn(&Value) -> String,
) {
    for claims in [claims(), claims_with("aud", json!(["other", "mcp"]))] {
        let authorization = format!("Authorization: Bearer {}\r\n", sign(&claims));
        let stream = Stream::open_with(server.address(), &get(&authorization));
        let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
        assert_eq!(session.principal().map(|principal| principal.name()), Some("alice"));
        let request = String::from_utf8(stream.post_request(&call(1, "[]"))).expect("text");
        let posted = |authorization: &str| {
            let request = request.replacen("Host", &format!("{authorization}Host"), 1);
            Client::connect(server.address()).ask(request).status
        };
        assert_eq!(posted(&authorization), 202);
        let message = finish("a message", session.recv()).expect("a message");
        assert_eq!(message.method(), Some("echo"), "{}", answer(1, "[]"));
        assert_eq!(posted(""), 401);
        let bob = sign(&claims_with("sub", json!("bob")));
        assert_eq!(posted(&format!("Authorization: Bearer {bob}\r\n")), 404);
    }
    let mut client = Client::connect(server.address());
    let path = "/.well-known/oauth-protected-resource/sse";
    let said = client.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let said: Value = serde_json::from_slice(&said.body).expect("JSON");
    assert_eq!(said["authorization_servers"], json!([ISSUER]));
}

#[test]
fn hs256_tokens_are_verified() {
    let (server, sessions) = start(Tokens::hs256(SECRET, ISSUER, "mcp").expect("a secret"));
    let sign = |claims: &Value| sign(Algorithm::HS256, &secret(), claims);
    check(&server, sign);
    let other = EncodingKey::from_secret(b"another secret of at least 32 bytes");
    check_refused(&server, "secret", &super::jwt::sign(Algorithm::HS256, &other, &claims()));
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        check_refused(&server, "strength", &super::jwt::sign(algorithm, &secret(), &claims()));
    }
    check_refused(&server, "kind", &super::jwt::sign(Algorithm::RS256, &rsa(), &claims()));
    check_good(&server, &sessions, sign);
}

#[test]
fn rs256_tokens_are_verified() {
    let (server, sessions) = start(Tokens::rs256(PUBLIC, ISSUER, "mcp").expect("a key"));
    let sign = |claims: &Value| sign(Algorithm::RS256, &rsa(), claims);
    check(&server, sign);
    // The public key is not secret; it must not be accepted as an HMAC secret.
    let text = core::str::from_utf8(PUBLIC).expect("PEM");
    for confused in [PUBLIC, text.trim_end().as_bytes()] {
        let confused = EncodingKey::from_secret(confused);
        let token = super::jwt::sign(Algorithm::HS256, &confused, &claims());
        check_refused(&server, "the public key as a secret", &token);
    }
    check_refused(&server, "kind", &super::jwt::sign(Algorithm::PS256, &rsa(), &claims()));
    check_good(&server, &sessions, sign);
}

#[test]
fn invalid_keys_are_errors() {
    assert!(Tokens::hs256(&SECRET[..31], ISSUER, "mcp").is_err());
    for pem in [&b"nonsense"[..], SECRET, b""] {
        assert!(Tokens::rs256(pem, ISSUER, "mcp").is_err());
    }
}
