//! Whom the application lets in: `authorize`, on every adapter and below every way to serve.

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
use mcp_sse_tests::adapter::{Adapter, Authorize, Listen, Place, Server, authorize, handler};
use mcp_sse_tests::client::{Client, Stream, answer, call};
use mcp_sse_tests::{PATIENCE, for_each_adapter, handlers, limits, timeouts, wait_until};

for_each_adapter!(
    who_gets_in,
    nobody_decides,
    a_panic_is_a_503,
    another_principals_session_is_an_unknown_one,
    a_verdict_is_remembered,
    a_thousand_questions,
    it_waits_on_the_runtime_of_the_shard,
    several_workers,
    what_cannot_be,
);

/// `Bearer NAME` is that principal's credential, with some exceptions.
fn judge(head: &RequestHead) -> Verdict {
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

/// A judge that counts how often it is asked.
fn counting() -> (Authorize, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let judge = authorize(async move |head| {
        count.fetch_add(1, Ordering::Relaxed);
        judge(&head)
    });
    (judge, asked)
}

struct Desk {
    on: Adapter,
    place: Place,
    workers: usize,
    cache: VerdictCache,
}

impl Desk {
    fn new(on: &Adapter) -> Self {
        Self { on: *on, place: Place::Local, workers: 1, cache: VerdictCache::new() }
    }

    #[track_caller]
    fn start(&self, config: ConfigBuilder, authorize: Authorize) -> Server {
        self.start_with(config, authorize, handlers::echo())
    }

    #[track_caller]
    fn start_with(
        &self,
        config: ConfigBuilder,
        authorize: Authorize,
        handler: mcp_sse_tests::adapter::Handler,
    ) -> Server {
        let listen = Listen::Bind(([127, 0, 0, 1], 0).into());
        let asks = Some((authorize, self.cache.clone()));
        let config = config.build().expect("good");
        let (on, workers, place) = (&self.on, self.workers, self.place);
        Server::try_start_authorized(on, listen, workers, place, config, asks, handler)
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
fn open(server: &Server, token: &str) -> Stream {
    Stream::open_with(server.address(), &get(token))
}

const CHALLENGE: &str = "Bearer";

fn who_gets_in(on: &Adapter) {
    for place in Place::ALL {
        let (sender, principals) = mpsc::channel();
        let sender = Mutex::new(sender);
        let echo = handlers::echo();
        let noting = handler(move |session| {
            let name = session.principal().map(|principal| principal.name().to_owned());
            sender.lock().expect("no panic").send(name).expect("the test goes on");
            echo(session)
        });
        let desk = Desk { place, ..Desk::new(on) };
        let server = desk.start_with(Config::builder(), counting().0, noting);
        for (token, status, challenge) in [
            ("", 401, Some(CHALLENGE)),
            ("invalid", 401, Some(r#"Bearer error="invalid_token""#)),
            ("forbidden", 403, None),
            ("unavailable", 503, None),
        ] {
            // Twice: the second time it may be remembered.
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

/// A closure that never answers: 503 when its time is over, and others are let in meanwhile.
fn nobody_decides(on: &Adapter) {
    for place in Place::ALL {
        let desk = Desk { place, ..Desk::new(on) };
        let config = timeouts(|t| t.decision = Some(Duration::from_millis(300)));
        let server = desk.start(
            config,
            authorize(async move |head| {
                if head.field("authorization") == Some(b"Bearer never") {
                    core::future::pending::<()>().await;
                }
                judge(&head)
            }),
        );
        let mut undecided = Client::connect(server.address());
        undecided.send(get("never"));
        let stream = open(&server, "alice");
        let response = undecided.response();
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.field("retry-after").is_some(), "{response:?}");
        drop(stream);
        // More than there are places for: they become free, and nobody waits for ever.
        let mut many: Vec<_> =
            (0..DECISIONS_MAX + 5).map(|_| Client::connect(server.address())).collect();
        for (n, client) in many.iter_mut().enumerate() {
            client.send(get("never").replace("Host", &format!("X-N: {n}\r\nHost")));
        }
        assert!(many.iter_mut().all(|client| client.response().status == 503));
        open(&server, "bob");
    }
}

fn a_panic_is_a_503(on: &Adapter) {
    let server = Desk::new(on).start(
        Config::builder(),
        authorize(async move |head: Arc<RequestHead>| {
            assert_ne!(head.field("x-stumble"), Some(&b"1"[..]), "stumbled, as it was told to");
            judge(&head)
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

fn another_principals_session_is_an_unknown_one(on: &Adapter) {
    let desk = Desk { workers: 2, ..Desk::new(on) };
    let server = desk.start(Config::builder(), counting().0);
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

fn a_verdict_is_remembered(on: &Adapter) {
    let (judge, asked) = counting();
    let desk = Desk::new(on);
    let server = desk.start(Config::builder(), judge);
    let posts = |server: &Server, stream: &mut Stream, count: usize| {
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

    // For as long as was said, and then it is asked about again.
    let (judge, asked) = counting();
    let short = VerdictCache::new().lifetime(Some(Duration::from_millis(200)));
    let server = Desk { cache: short, ..Desk::new(on) }.start(Config::builder(), judge);
    let mut stream = open(&server, "alice");
    wait_until("it is asked about again", || {
        posts(&server, &mut stream, 1);
        asked.load(Ordering::Relaxed) >= 3
    });

    // Not at all.
    let off = || VerdictCache::new().lifetime(None);
    let (judge, asked) = counting();
    let server = Desk { cache: off(), ..Desk::new(on) }.start(Config::builder(), judge);
    let mut stream = open(&server, "alice");
    posts(&server, &mut stream, 10);
    assert_eq!(asked.load(Ordering::Relaxed), 11);
    let (judge, asked) = counting();
    let never = authorize(async move |head| -> Decision {
        judge(head).await;
        Decision::new(Verdict::Allow(Principal::new("x"))).valid_for(Duration::ZERO)
    });
    let server = Desk::new(on).start(Config::builder(), never);
    let mut stream = open(&server, "alice");
    posts(&server, &mut stream, 10);
    assert_eq!(asked.load(Ordering::Relaxed), 11);
}

/// More questions at once than there are places, and decisions that take their time.
fn a_thousand_questions(on: &Adapter) {
    let (gate, opened) = async_channel::bounded::<()>(1);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let asked = Arc::new(AtomicUsize::new(0));
    let slow = {
        let (now, most, asked) = (now.clone(), most.clone(), asked.clone());
        authorize(async move |head: Arc<RequestHead>| {
            asked.fetch_add(1, Ordering::Relaxed);
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            // Closed, it lets everybody through.
            let _ = opened.recv().await;
            now.fetch_sub(1, Ordering::Relaxed);
            judge(&head)
        })
    };
    let limits = Limits { connections_max: Some(2_000), ..Limits::default() };
    let config = timeouts(|t| t.decision = Some(Duration::from_secs(60))).limits(limits);
    let server = Desk::new(on).start(config, slow);
    let mut clients: Vec<_> = (0..1_000).map(|_| Client::connect(server.address())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        // Every third has a credential of its own.
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

/// A decision may wait for the runtime's own timers, and for another thread.
fn it_waits_on_the_runtime_of_the_shard(on: &Adapter) {
    for place in Place::ALL {
        let tokio = on.name == "tokio";
        let waiting = authorize(async move |head| {
            let short = Duration::from_millis(20);
            if tokio {
                ::tokio::time::sleep(short).await;
            } else {
                async_io::Timer::after(short).await;
            }
            let (sender, receiver) = async_channel::bounded(1);
            std::thread::spawn(move || sender.send_blocking(judge(&head)));
            receiver.recv().await.unwrap_or(Verdict::Refuse(Refusal::Unavailable))
        });
        let desk = Desk { place, cache: VerdictCache::new().lifetime(None), ..Desk::new(on) };
        let server = desk.start(Config::builder(), waiting);
        let mut stream = open(&server, "alice");
        let response =
            Client::connect(server.address()).ask(post(&stream.endpoint, "alice", &call(1, "[]")));
        assert_eq!((response.status, stream.message()), (202, answer(1, "[]")));
        assert_eq!(Client::connect(server.address()).ask(get("forbidden")).status, 403);
    }
}

fn several_workers(on: &Adapter) {
    for place in Place::ALL {
        let (judge, asked) = counting();
        let desk = Desk { workers: 2, place, ..Desk::new(on) };
        let server = desk.start(Config::builder(), judge);
        let mut stream = open(&server, "alice");
        for n in 0..60 {
            let mut client = Client::connect(server.address());
            let response = client.ask(post(&stream.endpoint, "alice", &call(n, "[]")));
            assert_eq!((response.status, stream.message()), (202, answer(n, "[]")));
            let response = client.ask(post(&stream.endpoint, "bob", &call(n, "[]")));
            assert_eq!(response.status, 404);
        }
        // Each of the two asks for itself, about each of the two.
        let asked = asked.load(Ordering::Relaxed);
        assert!((2..=4).contains(&asked), "{asked}");
    }
}

fn what_cannot_be(on: &Adapter) {
    let start = |config: ConfigBuilder, asks| {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let config = config.build().expect("good");
        let listen = Listen::Tcp(socket);
        let started = Server::try_start_authorized(
            on,
            listen,
            1,
            Place::Local,
            config,
            asks,
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
    let asks = Some((counting().0, VerdictCache::new()));
    assert_eq!(start(tokens, asks), Some(ConfigError::TwoAuthorizers));
    let deferred = limits(|_| {}).authorization(Authorization::Deferred);
    assert_eq!(start(deferred, None), Some(ConfigError::NoAuthorizer));
}
