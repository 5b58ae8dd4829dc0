//! `Listener::authorize`, on every adapter and with every way to serve.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, mpsc};

use mcp_sse_core::{
    Authorization, Config, ConfigBuilder, ConfigError, Limits, Principal, Refusal, RequestHead,
    StaticTokens, Verdict,
};
use mcp_sse_driver::{DECISIONS_MAX, Decision, VerdictCache};
use mcp_sse_tests::adapter::{
    Adapter, Authorize, HandlerThread, Listen, RunningServer, authorize, handler,
};
use mcp_sse_tests::client::{Client, Stream, answer, call};
use mcp_sse_tests::{PATIENCE, for_each_adapter, handlers, limits, timeouts, wait_until};

for_each_adapter!(
    verdicts_decide_who_is_served,
    undecided_request_is_503_and_frees_its_slot,
    authorizer_panic_is_503,
    other_principals_session_is_404,
    verdicts_are_cached_for_their_lifetime,
    thousand_requests_share_decision_slots,
    authorizer_awaits_runtime_timers_and_threads,
    each_worker_caches_its_own_verdicts,
    missing_or_second_authorizer_is_an_error,
);

/// The verdict of the tests: `Bearer NAME` is the credential of the principal `NAME`, with some
/// exceptions.
fn decide(head: &RequestHead) -> Verdict {
    match head.field("authorization").map(|value| value.strip_prefix(b"Bearer ")) {
        None => Verdict::Refuse(Refusal::Unauthenticated),
        Some(Some(b"forbidden")) => Verdict::Refuse(Refusal::Forbidden),
        Some(Some(b"unavailable")) => Verdict::Refuse(Refusal::Unavailable),
        Some(None | Some(b"invalid")) => Verdict::Refuse(Refusal::InvalidToken),
        Some(Some(name)) => {
            Verdict::Allow(Principal::new(core::str::from_utf8(name).expect("a name")))
        }
    }
}

/// Makes an authorizer that counts its calls.
fn counting() -> (Authorize, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let decide = authorize(async move |head| {
        count.fetch_add(1, Ordering::Relaxed);
        decide(&head)
    });
    (decide, asked)
}

struct AuthorizedServer {
    on: Adapter,
    handler_thread: HandlerThread,
    workers: usize,
    cache: VerdictCache,
}

impl AuthorizedServer {
    fn new(on: &Adapter) -> Self {
        Self {
            on: *on,
            handler_thread: HandlerThread::Local,
            workers: 1,
            cache: VerdictCache::new(),
        }
    }

    #[track_caller]
    fn start(&self, config: ConfigBuilder, authorize: Authorize) -> RunningServer {
        self.start_with(config, authorize, handlers::echo())
    }

    #[track_caller]
    fn start_with(
        &self,
        config: ConfigBuilder,
        authorize: Authorize,
        handler: mcp_sse_tests::adapter::Handler,
    ) -> RunningServer {
        let listen = Listen::Bind(([127, 0, 0, 1], 0).into());
        let authorizer = Some((authorize, self.cache.clone()));
        let config = config.build().expect("good");
        let (on, workers, handler_thread) = (&self.on, self.workers, self.handler_thread);
        RunningServer::try_start_authorized(
            on,
            listen,
            workers,
            handler_thread,
            config,
            authorizer,
            handler,
        )
        .expect("a server")
    }
}

fn credentials(token: &str) -> String {
    if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") }
}

fn get(token: &str) -> String {
    format!("GET /sse HTTP/1.1\r\nHost: localhost\r\n{}\r\n", credentials(token))
}

fn post(endpoint: &str, token: &str, body: &str) -> String {
    format!(
        "POST {endpoint} HTTP/1.1\r\nHost: localhost\r\n{}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        credentials(token),
        body.len()
    )
}

#[track_caller]
fn open(server: &RunningServer, token: &str) -> Stream {
    Stream::open_with(server.address(), &get(token))
}

const CHALLENGE: &str = "Bearer";

fn verdicts_decide_who_is_served(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let (sender, principals) = mpsc::channel();
        let sender = Mutex::new(sender);
        let echo = handlers::echo();
        let noting = handler(move |session| {
            let name = session.principal().map(|principal| principal.name().to_owned());
            sender.lock().expect("no panic").send(name).expect("the test goes on");
            echo(session)
        });
        let setup = AuthorizedServer { handler_thread, ..AuthorizedServer::new(on) };
        let server = setup.start_with(Config::builder(), counting().0, noting);
        for (token, status, challenge) in [
            ("", 401, Some(CHALLENGE)),
            ("invalid", 401, Some(r#"Bearer error="invalid_token""#)),
            ("forbidden", 403, None),
            ("unavailable", 503, None),
        ] {
            // Twice, because the second verdict may come from the cache.
            for _ in 0..2 {
                for request in [get(token), post("/messages?session_id=x", token, "{}")] {
                    let response = Client::connect(server.address()).ask(&request);
                    assert_eq!(response.status, status, "{request}: {response:?}");
                    let said = response.field("www-authenticate").unwrap_or_default();
                    match challenge {
                        Some(challenge) => assert!(said.starts_with(challenge), "{response:?}"),
                        None => assert!(status != 401, "{response:?}"),
                    }
                    assert_eq!(said.contains("invalid_token"), token == "invalid");
                }
            }
        }
        let mut stream = open(&server, "alice");
        let name = principals.recv_timeout(PATIENCE).expect("a session");
        assert_eq!(name.as_deref(), Some("alice"));
        let response =
            Client::connect(server.address()).ask(post(&stream.endpoint, "alice", &call(1, "[]")));
        assert_eq!(response.status, 202);
        assert_eq!(stream.message(), answer(1, "[]"));
        assert_eq!(server.metrics().sessions_opened, 1);
    }
}

/// An authorizer that never decides about one credential: its request gets a 503 at the deadline,
/// and others are served meanwhile.
fn undecided_request_is_503_and_frees_its_slot(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let setup = AuthorizedServer { handler_thread, ..AuthorizedServer::new(on) };
        let config = timeouts(|t| t.decision = Some(Duration::from_millis(300)));
        let server = setup.start(
            config,
            authorize(async move |head| {
                if head.field("authorization") == Some(b"Bearer never") {
                    core::future::pending::<()>().await;
                }
                decide(&head)
            }),
        );
        let mut undecided = Client::connect(server.address());
        undecided.send(get("never"));
        let stream = open(&server, "alice");
        let response = undecided.response();
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.field("retry-after").is_some(), "{response:?}");
        drop(stream);
        // More requests than decision slots: the slots become free, and every request is answered.
        let mut many: Vec<_> =
            (0..DECISIONS_MAX + 5).map(|_| Client::connect(server.address())).collect();
        for (n, client) in many.iter_mut().enumerate() {
            client.send(get("never").replace("Host", &format!("X-N: {n}\r\nHost")));
        }
        assert!(many.iter_mut().all(|client| client.response().status == 503));
        open(&server, "bob");
    }
}

fn authorizer_panic_is_503(on: &Adapter) {
    let server = AuthorizedServer::new(on).start(
        Config::builder(),
        authorize(async move |head: Arc<RequestHead>| {
            assert_ne!(head.field("x-stumble"), Some(&b"1"[..]), "stumbled, as it was told to");
            decide(&head)
        }),
    );
    let mut stream = open(&server, "alice");
    let request = get("mallory").replace("Host", "X-Stumble: 1\r\nHost");
    assert_eq!(Client::connect(server.address()).ask(request).status, 503);
    let response =
        Client::connect(server.address()).ask(post(&stream.endpoint, "alice", &call(1, "[]")));
    assert_eq!((response.status, stream.message()), (202, answer(1, "[]")));
    open(&server, "bob");
}

fn other_principals_session_is_404(on: &Adapter) {
    let setup = AuthorizedServer { workers: 2, ..AuthorizedServer::new(on) };
    let server = setup.start(Config::builder(), counting().0);
    let mut stream = open(&server, "alice");
    let token = stream.token().to_owned();
    let unknown = stream.endpoint.replace(&token, &format!("{}AAAA", &token[..token.len() - 4]));
    let ask = |endpoint: &str, token: &str| {
        let mut client = Client::connect(server.address());
        client.ask(post(endpoint, token, &call(1, "[]"))).without_date()
    };
    let expected = ask(&unknown, "alice");
    assert_eq!(expected.status, 404);
    for _ in 0..20 {
        assert_eq!(ask(&stream.endpoint, "bob"), expected);
        assert_eq!(ask(&unknown, "bob"), expected);
    }
    assert_eq!(ask(&stream.endpoint, "alice").status, 202);
    assert_eq!(stream.message(), answer(1, "[]"));
}

fn verdicts_are_cached_for_their_lifetime(on: &Adapter) {
    let (decide, asked) = counting();
    let setup = AuthorizedServer::new(on);
    let server = setup.start(Config::builder(), decide);
    let posts = |server: &RunningServer, stream: &mut Stream, count: usize| {
        let mut client = Client::connect(server.address());
        for n in 0..count {
            let response = client.ask(post(&stream.endpoint, "alice", &call(n, "[]")));
            assert_eq!((response.status, stream.message()), (202, answer(n, "[]")));
        }
    };
    let mut stream = open(&server, "alice");
    posts(&server, &mut stream, 100);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let metrics = server.metrics();
    assert_eq!((metrics.questions_asked, metrics.verdicts_remembered), (101, 100));
    open(&server, "bob");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    for (who, status) in [("forbidden", 403), ("unavailable", 503)] {
        let before = asked.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(Client::connect(server.address()).ask(get(who)).status, status);
        }
        assert_eq!(asked.load(Ordering::Relaxed) - before, 3, "a refusal is not");
    }

    // After the lifetime, the authorizer is called again.
    let (decide, asked) = counting();
    let short = VerdictCache::new().lifetime(Some(Duration::from_millis(200)));
    let server = AuthorizedServer { cache: short, ..AuthorizedServer::new(on) }
        .start(Config::builder(), decide);
    let mut stream = open(&server, "alice");
    wait_until("it is asked about again", || {
        posts(&server, &mut stream, 1);
        asked.load(Ordering::Relaxed) >= 3
    });

    // Without a cache, and with decisions that are not cached.
    let off = || VerdictCache::new().lifetime(None);
    let (decide, asked) = counting();
    let server = AuthorizedServer { cache: off(), ..AuthorizedServer::new(on) }
        .start(Config::builder(), decide);
    let mut stream = open(&server, "alice");
    posts(&server, &mut stream, 10);
    assert_eq!(asked.load(Ordering::Relaxed), 11);
    let (decide, asked) = counting();
    let never = authorize(async move |head| -> Decision {
        decide(head).await;
        Decision::new(Verdict::Allow(Principal::new("x"))).valid_for(Duration::ZERO)
    });
    let server = AuthorizedServer::new(on).start(Config::builder(), never);
    let mut stream = open(&server, "alice");
    posts(&server, &mut stream, 10);
    assert_eq!(asked.load(Ordering::Relaxed), 11);
}

/// More requests at once than decision slots, with slow decisions.
fn thousand_requests_share_decision_slots(on: &Adapter) {
    let (gate, opened) = async_channel::bounded::<()>(1);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let asked = Arc::new(AtomicUsize::new(0));
    let slow = {
        let (now, most, asked) = (now.clone(), most.clone(), asked.clone());
        authorize(async move |head: Arc<RequestHead>| {
            asked.fetch_add(1, Ordering::Relaxed);
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            // Closing the channel lets every decision continue.
            let _ = opened.recv().await;
            now.fetch_sub(1, Ordering::Relaxed);
            decide(&head)
        })
    };
    let limits = Limits { connections_max: Some(2_000), ..Limits::default() };
    let config = timeouts(|t| t.decision = Some(Duration::from_secs(60))).limits(limits);
    let server = AuthorizedServer::new(on).start(config, slow);
    let mut clients: Vec<_> = (0..1_000).map(|_| Client::connect(server.address())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        // Three requests each share a credential.
        let request = post("/messages?session_id=x", &format!("t{}", n / 3 * 3), "{}");
        client.send(request);
    }
    wait_until("all have asked", || server.metrics().questions_asked == 1_000);
    wait_until("places are full", || asked.load(Ordering::Relaxed) == DECISIONS_MAX);
    drop(gate);
    for client in &mut clients {
        assert_eq!(client.response().status, 404);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 334);
    assert_eq!(now.load(Ordering::Relaxed), 0);
    assert_eq!(most.load(Ordering::Relaxed), DECISIONS_MAX);
}

/// An authorizer may await the runtime's timers, and another thread.
fn authorizer_awaits_runtime_timers_and_threads(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let tokio = on.name == "tokio";
        let waiting = authorize(async move |head| {
            let short = Duration::from_millis(20);
            if tokio {
                ::tokio::time::sleep(short).await;
            } else {
                async_io::Timer::after(short).await;
            }
            let (sender, receiver) = async_channel::bounded(1);
            std::thread::spawn(move || sender.send_blocking(decide(&head)));
            receiver.recv().await.unwrap_or(Verdict::Refuse(Refusal::Unavailable))
        });
        let setup = AuthorizedServer {
            handler_thread,
            cache: VerdictCache::new().lifetime(None),
            ..AuthorizedServer::new(on)
        };
        let server = setup.start(Config::builder(), waiting);
        let mut stream = open(&server, "alice");
        let response =
            Client::connect(server.address()).ask(post(&stream.endpoint, "alice", &call(1, "[]")));
        assert_eq!((response.status, stream.message()), (202, answer(1, "[]")));
        assert_eq!(Client::connect(server.address()).ask(get("forbidden")).status, 403);
    }
}

fn each_worker_caches_its_own_verdicts(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let (decide, asked) = counting();
        let setup = AuthorizedServer { workers: 2, handler_thread, ..AuthorizedServer::new(on) };
        let server = setup.start(Config::builder(), decide);
        let mut stream = open(&server, "alice");
        for n in 0..60 {
            let mut client = Client::connect(server.address());
            let response = client.ask(post(&stream.endpoint, "alice", &call(n, "[]")));
            assert_eq!((response.status, stream.message()), (202, answer(n, "[]")));
            let response = client.ask(post(&stream.endpoint, "bob", &call(n, "[]")));
            assert_eq!(response.status, 404);
        }
        // Each of the two workers calls the authorizer for each of the two credentials.
        let asked = asked.load(Ordering::Relaxed);
        assert!((2..=4).contains(&asked), "{asked}");
    }
}

fn missing_or_second_authorizer_is_an_error(on: &Adapter) {
    let start = |config: ConfigBuilder, authorizer| {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let config = config.build().expect("good");
        let listen = Listen::Tcp(socket);
        let started = RunningServer::try_start_authorized(
            on,
            listen,
            1,
            HandlerThread::Local,
            config,
            authorizer,
            handlers::echo(),
        );
        let error = match started {
            Ok(server) => server.expect_failure(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.into_inner().and_then(|e| e.downcast::<ConfigError>().ok()).map(|e| *e)
    };
    let tokens = StaticTokens::builder().token("a", "t").build().expect("good");
    let tokens = Config::builder().authorization(Authorization::Static(tokens));
    let authorizer = Some((counting().0, VerdictCache::new()));
    assert_eq!(start(tokens, authorizer), Some(ConfigError::TwoAuthorizers));
    let deferred = limits(|_| {}).authorization(Authorization::Deferred);
    assert_eq!(start(deferred, None), Some(ConfigError::NoAuthorizer));
}
