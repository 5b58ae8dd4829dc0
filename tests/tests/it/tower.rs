//! The transport as a tower service: what differs from a listener. The clients that run against
//! `axum_nest` test the rest.

use core::cell::RefCell;
use core::convert::Infallible;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use http::StatusCode;
use http::request::Builder;
use mcp_sse_core::{Config, Limits, Peer, SessionToken, Timeouts};
use mcp_sse_driver::Session;
use mcp_sse_tests::adapter::{Handler, handler};
use mcp_sse_tests::{finish, handlers, wait_until};
use mcp_sse_tokio::{
    Authorization, Principal, Refusal, SseService, SseServiceBuilder, Verdict, VerdictCache,
};
use tower_service::Service;

const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[7]}"#;

/// An echoing service, and the runtime that it and its callers run on.
struct TowerFixture {
    runtime: tokio::runtime::Runtime,
    service: SseService,
}

impl TowerFixture {
    fn new(config: Config) -> Self {
        Self::build(SseService::builder(config), handlers::echo())
    }

    fn build(builder: SseServiceBuilder, handler: Handler) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handler = move |session: Session| handler(session);
        let service = {
            let _here = runtime.enter();
            builder.build(handler).expect("a thread")
        };
        Self { runtime, service }
    }

    fn wait<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let timeout = async { tokio::time::timeout(mcp_sse_tests::PATIENCE, future).await };
        self.runtime.block_on(timeout).unwrap_or_else(|_| panic!("waited in vain: {what}"))
    }

    fn ask(&self, router: &mut Router, request: Request) -> Response {
        self.wait("an answer", router.call(request))
            .unwrap_or_else(|never: Infallible| match never {})
    }

    /// The next bytes of a response body; `None` at its end.
    fn next(&self, response: &mut Response) -> Option<String> {
        let body = response.body_mut();
        let frame = core::future::poll_fn(|cx| poll_frame(Pin::new(&mut *body), cx));
        let bytes = self.wait("more of the body", frame)?;
        Some(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    fn sessions_open(&self) -> u64 {
        let handle = self.service.handle();
        self.wait("counters", handle.metrics()).expect("it runs").sessions_open()
    }
}

fn poll_frame(body: Pin<&mut Body>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
    http_body::Body::poll_frame(body, cx)
        .map(|frame| frame.map(|frame| frame.expect("no error").into_data().expect("data")))
}

fn request(method: &str, target: &str) -> Builder {
    http::Request::builder().method(method).uri(target).header("host", "localhost")
}

fn get(target: &str) -> Request {
    request("GET", target).body(Body::empty()).expect("a request")
}

fn post(target: &str, body: impl Into<Body>) -> Request {
    let request = request("POST", target).header("content-type", "application/json");
    request.body(body.into()).expect("a request")
}

/// The endpoint in the first event of a stream.
fn endpoint(greeting: &str) -> String {
    let data = greeting.strip_prefix("event: endpoint\ndata: ").expect("an endpoint event");
    data.trim_end().to_owned()
}

/// Requests go to the shards in turn, so these requests meet each session's own shard and the
/// others.
#[test]
fn service_with_several_shards_reaches_every_session() {
    let mut fixture = TowerFixture::new(Config::default());
    let echo = handlers::echo();
    let runtime = fixture.runtime.handle().clone();
    let on_session = move |session| drop(runtime.spawn(echo(session)));
    fixture.service = SseService::with_workers(Config::default(), 3, on_session).expect("threads");
    let mut app = Router::new().nest_service("/a", fixture.service.clone());
    let mut shards = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let mut stream = fixture.ask(&mut app, get("/a/sse"));
        let endpoint = endpoint(&fixture.next(&mut stream).expect("a greeting"));
        let (_, token) = endpoint.split_once('=').expect("a token");
        shards.insert(SessionToken::parse(token.as_bytes()).expect("a token").shard());
        for _ in 0..4 {
            let accepted = fixture.ask(&mut app, post(&endpoint, BODY));
            assert_eq!(accepted.status(), StatusCode::ACCEPTED);
            let answer = fixture.next(&mut stream).expect("an answer");
            assert!(answer.contains("[7]"), "{answer}");
        }
    }
    assert_eq!(shards.len(), 3);
    let handle = fixture.service.handle();
    let metrics = fixture.wait("counters", handle.metrics()).expect("it runs");
    assert_eq!((metrics.sessions_opened, metrics.messages_received), (6, 24));
    for workers in [0, usize::MAX] {
        let none = SseService::with_workers(Config::default(), workers, drop);
        assert_eq!(none.err().map(|e| e.kind()), Some(std::io::ErrorKind::InvalidInput));
    }
}

#[test]
fn endpoint_contains_the_nested_mount() {
    let fixture = TowerFixture::new(Config::default());
    let nested = Router::new().nest_service("/b", fixture.service.clone());
    let mut app = Router::new().nest("/a", nested).nest_service("/c", fixture.service.clone());
    for (mount, target) in [("/a/b", "/a/b/sse"), ("/c", "/c/sse"), ("/c", "/c/sse/")] {
        let mut stream = fixture.ask(&mut app, get(target));
        assert_eq!(stream.status(), StatusCode::OK, "{target}");
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert!(!stream.headers().contains_key("connection"), "that is the server's affair");
        let endpoint = endpoint(&fixture.next(&mut stream).expect("a greeting"));
        assert!(endpoint.starts_with(&format!("{mount}/messages?session_id=")), "{endpoint}");

        let mut accepted = fixture.ask(&mut app, post(&endpoint, BODY));
        assert_eq!(accepted.status(), StatusCode::ACCEPTED);
        assert_eq!(fixture.next(&mut accepted).as_deref(), Some("Accepted\n"));
        assert_eq!(fixture.next(&mut accepted), None);
        let answer = fixture.next(&mut stream).expect("an answer");
        assert!(
            answer.starts_with("event: message\ndata: {") && answer.contains("[7]"),
            "{answer}"
        );
    }
}

#[test]
fn configured_mount_is_in_the_endpoint() {
    let fixture = TowerFixture::new(Config::default());
    let service = fixture.service.clone().mounted_at("/else/where");
    let mut app = Router::new().fallback_service(service);
    let mut stream = fixture.ask(&mut app, get("/sse"));
    let endpoint = endpoint(&fixture.next(&mut stream).expect("a greeting"));
    assert!(endpoint.starts_with("/else/where/messages?"), "{endpoint}");
}

#[test]
fn dropped_response_body_ends_its_session() {
    let fixture = TowerFixture::new(Config::default());
    let mut app = Router::new().fallback_service(fixture.service.clone());
    let stream = fixture.ask(&mut app, get("/sse"));
    assert_eq!(fixture.sessions_open(), 1);
    drop(stream);
    wait_until("the session ends", || fixture.sessions_open() == 0);
}

#[test]
fn shutdown_ends_streams() {
    let fixture = TowerFixture::new(Config::default());
    let mut app = Router::new().fallback_service(fixture.service.clone());
    let mut stream = fixture.ask(&mut app, get("/sse"));
    fixture.next(&mut stream).expect("a greeting");
    fixture.service.handle().shutdown();
    assert_eq!(fixture.next(&mut stream), None);
    drop(stream);
    wait_until("the server ends", || {
        fixture.ask(&mut app, get("/health")).status() == StatusCode::SERVICE_UNAVAILABLE
    });
}

#[test]
fn refusals_have_the_statuses_of_the_contract() {
    let limits = Limits { body_bytes_max: Some(1_000), ..Limits::default() };
    let config = Config::builder().limits(limits).build().expect("good");
    let fixture = TowerFixture::new(config);
    let mut app = Router::new().fallback_service(fixture.service.clone());
    let mut stream = fixture.ask(&mut app, get("/sse"));
    let endpoint = endpoint(&fixture.next(&mut stream).expect("a greeting"));
    let check = |app: &mut Router, request: Request, status: u16| {
        let what = format!("{} {}", request.method(), request.uri().path());
        assert_eq!(fixture.ask(app, request).status().as_u16(), status, "{what}");
    };
    check(&mut app, get("/other"), 404);
    check(&mut app, post("/sse", BODY), 405);
    check(&mut app, post("/messages?session_id=x", BODY), 404);
    check(&mut app, post(&endpoint, "{"), 400);
    check(&mut app, post(&endpoint, "x".repeat(1_001)), 413);
    // HTTP/2 requests have an authority instead of `Host`, with the same rule.
    for (target, status) in [("http://localhost/sse", 200), ("http://evil.example/sse", 403)] {
        let request = http::Request::builder().uri(target).body(Body::empty());
        check(&mut app, request.expect("a request"), status);
    }
    // The session was not disturbed by any of this.
    check(&mut app, post(&endpoint, BODY), 202);
    assert!(fixture.next(&mut stream).is_some_and(|answer| answer.contains("[7]")));
}

/// With one worker and with two. The authorizer uses the runtime's timers.
#[test]
fn authorizer_decides_who_is_served() {
    for workers in [1, 2] {
        let (sender, names) = std::sync::mpsc::channel();
        let echo = handlers::echo();
        let noting = handler(move |session: Session| {
            let name = session.principal().map(|principal| principal.name().to_owned());
            sender.send(name).expect("the test goes on");
            echo(session)
        });
        let builder = SseService::builder(Config::default())
            .workers(workers)
            .verdict_cache(VerdictCache::new().lifetime(None))
            .authorize(async |head| {
                tokio::time::sleep(core::time::Duration::from_millis(1)).await;
                match head.bearer_token() {
                    None => Verdict::Refuse(Refusal::Unauthenticated),
                    Some("bad") => Verdict::Refuse(Refusal::Forbidden),
                    Some(name) => Verdict::Allow(Principal::new(name)),
                }
            });
        let fixture = TowerFixture::build(builder, noting);
        let mut app = Router::new().fallback_service(fixture.service.clone());
        let by = |token: &str, mut request: Request| {
            let value = format!("Bearer {token}").parse().expect("a field");
            request.headers_mut().insert("authorization", value);
            request
        };
        let refused = fixture.ask(&mut app, get("/sse"));
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        assert_eq!(fixture.ask(&mut app, by("bad", get("/sse"))).status(), StatusCode::FORBIDDEN);
        let mut stream = fixture.ask(&mut app, by("alice", get("/sse")));
        let endpoint = endpoint(&fixture.next(&mut stream).expect("a greeting"));
        assert_eq!(
            names.recv_timeout(mcp_sse_tests::PATIENCE).expect("a session").as_deref(),
            Some("alice")
        );
        for (token, status) in [("alice", 202), ("bob", 404), ("bad", 403), ("alice", 202)] {
            let answer = fixture.ask(&mut app, by(token, post(&endpoint, BODY)));
            assert_eq!(answer.status().as_u16(), status, "{token}");
        }
        assert!(fixture.next(&mut stream).is_some_and(|answer| answer.contains("[7]")));
    }
}

#[test]
fn missing_or_second_authorizer_is_an_error() {
    let tokens = mcp_sse_tokio::StaticTokens::builder().token("a", "t").build().expect("good");
    let build = |mode: Authorization, asks: bool| {
        let config = Config::builder().authorization(mode).build().expect("good");
        let builder = SseService::builder(config);
        let verdict = Verdict::Refuse(Refusal::Forbidden);
        let builder =
            if asks { builder.authorize(async move |_| verdict.clone()) } else { builder };
        builder.with_sessions(drop).map(drop).map_err(|error| error.kind())
    };
    let invalid = Err(std::io::ErrorKind::InvalidInput);
    assert_eq!(build(Authorization::Deferred, false), invalid);
    assert_eq!(build(Authorization::Static(tokens), true), invalid);
    assert_eq!(build(Authorization::Deferred, true), Ok(()));
}

/// A request with the remote address as axum provides it.
fn from(remote: &str, mut request: Request) -> Request {
    let remote: SocketAddr = remote.parse().expect("an address");
    request.extensions_mut().insert(ConnectInfo(remote));
    request
}

const ELSEWHERE: &str = "198.51.100.1:1";

fn proxy() -> Peer {
    let remote = "192.0.2.7:1".parse().expect("an address");
    Peer::tcp(remote, SocketAddr::from(([127, 0, 0, 1], 0)))
}

#[test]
fn limits_per_address_count_by_connect_info_or_by_the_default_peer() {
    let limits = Limits { sessions_per_address_max: Some(1), ..Limits::default() };
    // The status of the second of two stream requests.
    let second = |default: Option<Peer>, known: bool| {
        let config = Config::builder().limits(limits.clone()).build().expect("good");
        let builder = SseService::builder(config);
        let builder = match default {
            Some(peer) => builder.default_peer(peer),
            None => builder,
        };
        let fixture = TowerFixture::build(builder, handlers::echo());
        let mut app = Router::new().fallback_service(fixture.service.clone());
        let ask = || if known { from(ELSEWHERE, get("/sse")) } else { get("/sse") };
        let first = fixture.ask(&mut app, ask());
        assert_eq!(first.status(), StatusCode::OK);
        fixture.ask(&mut app, ask()).status().as_u16()
    };
    assert_eq!(second(None, true), 503);
    assert_eq!(second(Some(Peer::local()), true), 503);
    assert_eq!(second(Some(proxy()), false), 503);
    // A client without an address is not counted.
    assert_eq!(second(None, false), 200);
    assert_eq!(second(Some(Peer::local()), false), 200);
}

#[test]
fn https_is_met_by_a_secure_default_peer_with_and_without_connect_info() {
    for (peer, status) in
        [(None, 403), (Some(Peer::local()), 403), (Some(Peer::local().secure()), 200)]
    {
        let config = Config::builder().require_https(true).build().expect("good");
        let builder = SseService::builder(config);
        let builder = match peer {
            Some(peer) => builder.default_peer(peer),
            None => builder,
        };
        let fixture = TowerFixture::build(builder, handlers::echo());
        let mut app = Router::new().fallback_service(fixture.service.clone());
        for request in [get("/sse"), from(ELSEWHERE, get("/sse"))] {
            assert_eq!(fixture.ask(&mut app, request).status().as_u16(), status, "{peer:?}");
        }
    }
}

#[test]
fn forwarded_fields_of_a_default_peer_that_is_a_trusted_proxy_count() {
    let config = Config::builder().require_https(true).trusted_proxy("192.0.2.7");
    let config = config.build().expect("good");
    let fixture =
        TowerFixture::build(SseService::builder(config).default_peer(proxy()), handlers::echo());
    let mut app = Router::new().fallback_service(fixture.service.clone());
    assert_eq!(fixture.ask(&mut app, get("/sse")).status().as_u16(), 403);
    let mut request = get("/sse");
    request.headers_mut().insert("x-forwarded-proto", "https".parse().expect("a field"));
    request.headers_mut().insert("x-forwarded-for", "203.0.113.9".parse().expect("a field"));
    assert_eq!(fixture.ask(&mut app, request).status().as_u16(), 200);
}

thread_local! {
    /// The warnings that this thread has logged.
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // It fails on a thread that is ending, whose storage is gone.
            let note =
                |all: &RefCell<Vec<String>>| all.borrow_mut().push(record.args().to_string());
            let _ = WARNINGS.try_with(note);
        }
    }

    fn flush(&self) {}
}

#[test]
fn first_request_without_connect_info_warns_once_unless_default_peer_is_set() {
    // A process has one logger, and this is the only test here that sets it.
    log::set_logger(&Warnings).expect("no other");
    log::set_max_level(log::LevelFilter::Warn);
    let warnings = |builder: SseServiceBuilder, known: bool| {
        let fixture = TowerFixture::build(builder, handlers::echo());
        let mut app = Router::new().fallback_service(fixture.service.clone());
        WARNINGS.take();
        for _ in 0..3 {
            let request = get("/health");
            let request = if known { from(ELSEWHERE, request) } else { request };
            assert_eq!(fixture.ask(&mut app, request).status(), StatusCode::OK);
        }
        WARNINGS.take()
    };
    let builder = || SseService::builder(Config::default());
    let told = warnings(builder(), false);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("default_peer") && told[0].contains("connect_info"), "{told:?}");
    assert_eq!(warnings(builder(), true), [""; 0]);
    assert_eq!(warnings(builder().default_peer(Peer::local()), false), [""; 0]);
}

/// The callback is called on the service's thread; tasks that it spawns run on the runtime that
/// made the service.
#[test]
fn spawned_sessions_run_on_the_runtime_that_made_the_service() {
    let (sender, runtimes) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let here = runtime.handle().id();
    let services = {
        let _here = runtime.enter();
        let (first, second) = (sender.clone(), sender);
        let spawns = SseService::with_sessions(Config::default(), move |session| {
            let sender = first.clone();
            tokio::spawn(async move {
                drop(session);
                sender.send(tokio::runtime::Handle::current().id())
            })
        });
        let returns = SseService::with_sessions(Config::default(), move |session| {
            let sender = second.clone();
            async move {
                drop(session);
                sender.send(tokio::runtime::Handle::current().id()).expect("the test goes on");
            }
        });
        [spawns, returns]
    };
    for service in services {
        let mut app = Router::new().fallback_service(service.expect("a thread"));
        let asked = async { app.call(get("/sse")).await.map(drop) };
        let _inside = runtime.enter();
        let asked = finish("an answer", asked);
        asked.unwrap_or_else(|never| match never {});
        let told = runtimes.recv_timeout(mcp_sse_tests::PATIENCE).expect("a session");
        assert_eq!(told, here);
    }
}

#[test]
fn service_dropped_after_shutdown_keeps_the_grace() {
    let (sender, sessions) = std::sync::mpsc::channel();
    let timeouts = Timeouts { shutdown_grace: None, ..Timeouts::default() };
    let config = Config::builder().timeouts(timeouts).build().expect("good");
    let fixture = TowerFixture::build(SseService::builder(config), handlers::give(sender));
    let mut app = Router::new().fallback_service(fixture.service.clone());
    let mut stream = fixture.ask(&mut app, get("/sse"));
    let endpoint = endpoint(&fixture.next(&mut stream).expect("a greeting"));
    let mut session = sessions.recv_timeout(mcp_sse_tests::PATIENCE).expect("a session");
    assert_eq!(fixture.ask(&mut app, post(&endpoint, BODY)).status(), StatusCode::ACCEPTED);
    let request = fixture.wait("a request", session.recv()).expect("a request");
    let handle = fixture.service.handle();
    handle.shutdown();
    handle.shutdown();
    let TowerFixture { runtime: _runtime, service } = fixture;
    drop((app, service));
    let metrics = finish("counters", handle.metrics()).expect("it runs");
    assert_eq!(metrics.sessions_open(), 1, "a request is in flight");
    let answer = handlers::echoed(&request).expect("a request");
    finish("room", session.send(answer)).expect("a stream");
    let body = stream.body_mut();
    let frame = core::future::poll_fn(|cx| poll_frame(Pin::new(&mut *body), cx));
    let told = finish("an answer", frame).expect("an answer");
    assert!(told.windows(3).any(|three| three == b"[7]"), "{told:?}");
    wait_until("the server has ended", || finish("counters", handle.metrics()).is_err());
}
