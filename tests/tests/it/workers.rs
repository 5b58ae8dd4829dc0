//! Servers with several shards, each on its own thread: clients see one server, whichever shard
//! gets their connection.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::mpsc;

use mcp_sse_core::{CloseReason, Config, Frame, HealthExtras, SessionToken, Timeouts};
use mcp_sse_driver::WORKERS_MAX;
use mcp_sse_tests::adapter::{Adapter, Handler, HandlerThread, Listen, RunningServer, handler};
use mcp_sse_tests::certificate::Certificate;
use mcp_sse_tests::client::{Client, Response, ServerAddress, Stream, answer, call, post_request};
use mcp_sse_tests::scratch::Scratch;
use mcp_sse_tests::{PATIENCE, finish, for_each_adapter, handlers, limits, timeouts, wait_until};

for_each_adapter!(
    posts_reach_sessions_of_every_shard,
    unknown_sessions_get_the_same_404_from_every_shard,
    broadcasts_reach_every_shard,
    health_counts_all_shards,
    shutdown_ends_every_shard,
    delayed_shutdown_makes_every_shard_not_ready,
    shutdown_before_serve_ends_every_shard,
    dropped_serve_future_ends_every_shard,
    handler_panic_ends_every_shard,
    port_in_use_by_another_server_is_an_error,
    unix_socket_serves_every_shard,
    tls_serves_every_shard,
    full_shard_is_skipped_by_the_acceptor,
    posts_to_full_session_wait_in_order,
    posts_waiting_beyond_hold_are_told_busy,
    health_extras_reach_every_shard,
    worker_count_out_of_range_is_an_error,
);

/// The result of a future that is ready now.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    futures_lite::future::block_on(futures_lite::future::poll_once(future))
}

const SHARDS: u16 = 3;

/// Enough connections to reach every shard, however the system distributes them: the probability
/// that one of three shards gets none of forty is below one in a million.
const CONNECTIONS: usize = 40;

/// Runs a test for both ways of distributing connections: a socket for each shard, and one
/// acceptor.
fn for_each_listening(on: &Adapter, config: &Config, what: &Handler, test: impl Fn(RunningServer)) {
    let any: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 0));
    for handler_thread in HandlerThread::ALL {
        let socket_each = Listen::Bind(any);
        let one_socket = Listen::Tcp(TcpListener::bind(any).expect("a free port"));
        for listen in [socket_each, one_socket] {
            test(start(on, listen, handler_thread, config.clone(), what.clone()));
        }
    }
}

fn start(
    on: &Adapter,
    listen: Listen,
    handler_thread: HandlerThread,
    config: Config,
    what: Handler,
) -> RunningServer {
    let workers = SHARDS.into();
    RunningServer::try_start_workers(on, listen, workers, handler_thread, config, what)
        .expect("a server")
}

fn shard_of(stream: &Stream) -> usize {
    let token = SessionToken::parse(stream.token().as_bytes()).expect("a token");
    token.shard().0.into()
}

/// Opens a stream on every shard; returns them in the order of the shards.
#[track_caller]
fn streams(address: &ServerAddress) -> Vec<Stream> {
    let mut found: Vec<Option<Stream>> = (0..SHARDS).map(|_| None).collect();
    for _ in 0..10 * CONNECTIONS {
        let stream = Stream::open(address);
        let shard = shard_of(&stream);
        found[shard].get_or_insert(stream);
        if found.iter().all(Option::is_some) {
            return found.into_iter().flatten().collect();
        }
    }
    panic!("not every shard was hit: {found:?}")
}

fn connections(address: &ServerAddress) -> Vec<Client> {
    (0..CONNECTIONS).map(|_| Client::connect(address)).collect()
}

fn note(n: usize) -> Frame {
    let text = format!(r#"{{"jsonrpc":"2.0","method":"n","params":[{n}]}}"#);
    Frame::message(text.as_bytes()).expect("JSON")
}

/// Posts to a session of every shard on every connection, and expects each response once and in
/// order.
#[track_caller]
fn check_posts(address: &ServerAddress, messages: impl Fn() -> u64) {
    let mut streams = streams(address);
    let before = messages();
    let mut posters = connections(address);
    for (n, poster) in posters.iter_mut().enumerate() {
        for stream in &streams {
            let response = poster.ask(stream.post_request(&call(n, "[]")));
            assert_eq!(
                (response.status, response.text()),
                (202, "Accepted\n"),
                "{n}: {response:?}"
            );
        }
    }
    for stream in &mut streams {
        for n in 0..posters.len() {
            assert_eq!(stream.message(), answer(n, "[]"));
        }
    }
    assert_eq!(messages() - before, (streams.len() * posters.len()) as u64);
}

fn posts_reach_sessions_of_every_shard(on: &Adapter) {
    for_each_listening(on, &Config::default(), &handlers::echo(), |server| {
        check_posts(&server.address().into(), || server.metrics().messages_received);
    });
}

fn unknown_sessions_get_the_same_404_from_every_shard(on: &Adapter) {
    for_each_listening(on, &Config::default(), &handlers::echo(), |server| {
        let address = ServerAddress::from(server.address());
        let ended: Vec<String> =
            streams(&address).iter().map(|stream| stream.endpoint.clone()).collect();
        wait_until("they have ended", || server.metrics().sessions_open() == 0);
        let mut endpoints = ended.clone();
        // A wrong secret, a shard that does not exist, and a text that is no token.
        endpoints
            .extend(ended.iter().map(|endpoint| format!("{}x", &endpoint[..endpoint.len() - 1])));
        let (path, token) = ended[0].split_once('=').expect("a token");
        endpoints.push(format!("{path}=__{}", &token[2..]));
        endpoints.push(format!("{path}=nonsense"));
        let mut first: Option<Response> = None;
        for mut poster in connections(&address) {
            for endpoint in &endpoints {
                let response = poster.ask(post_request(endpoint, &call(1, "[]"))).without_date();
                assert_eq!(response.status, 404, "{response:?}");
                assert_eq!(&response, first.get_or_insert_with(|| response.clone()));
            }
        }
    });
}

fn broadcasts_reach_every_shard(on: &Adapter) {
    for_each_listening(on, &Config::default(), &handlers::silent(), |server| {
        let mut streams = streams(&server.address().into());
        wait_until("the others have left", || server.metrics().sessions_open() == 3);
        for n in 0..20 {
            let reach = finish("a broadcast", server.handle().broadcast(note(n))).expect("it runs");
            assert_eq!((reach.queued, reach.full, reach.gone), (3, 0, 0));
        }
        for stream in &mut streams {
            for n in 0..20 {
                assert!(stream.message().ends_with(&format!("[{n}]}}")));
            }
        }
    });
}

fn health_counts_all_shards(on: &Adapter) {
    for_each_listening(on, &Config::default(), &handlers::silent(), |server| {
        let address = ServerAddress::from(server.address());
        let streams = streams(&address);
        let mut clients = connections(&address);
        let all = (streams.len() + clients.len()) as u64;
        wait_until("all are there, and no others", || {
            let metrics = server.metrics();
            (metrics.connections_open(), metrics.sessions_open()) == (all, u64::from(SHARDS))
        });
        for client in &mut clients {
            let said = client.ask("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
            let body: serde_json::Value = serde_json::from_slice(&said.body).expect("JSON");
            assert_eq!(body["active_sessions"], u64::from(SHARDS), "{body}");
            assert_eq!(body["active_connections"], all, "{body}");
        }
        // Every shard counts a session before its client has the endpoint.
        for (n, client) in clients.iter_mut().enumerate().take(12) {
            let more = Stream::open(&address);
            let said = client.ask("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
            let body: serde_json::Value = serde_json::from_slice(&said.body).expect("JSON");
            assert_eq!(body["active_sessions"], u64::from(SHARDS) + 1, "{n}: {body}");
            drop(more);
            wait_until("it has left", || server.metrics().sessions_open() == u64::from(SHARDS));
        }
    });
}

fn shutdown_ends_every_shard(on: &Adapter) {
    let config = timeouts(|t| t.shutdown_grace = Some(Duration::from_secs(3_600)));
    for_each_listening(on, &config.build().expect("good"), &handlers::silent(), |mut server| {
        let address = ServerAddress::from(server.address());
        let mut streams = streams(&address);
        let mut idle = connections(&address);
        wait_until("all are there", || {
            server.metrics().connections_open() == (streams.len() + idle.len()) as u64
        });
        // One shard has a request in flight and goes on; the counters of the ended shards remain in
        // the sum.
        let mut busy = streams.remove(1);
        assert_eq!(busy.post(&call(1, "[]")).status, 202);
        let opened = server.metrics().sessions_opened;
        server.shutdown();
        streams.iter_mut().for_each(Stream::expect_end);
        idle.iter_mut().for_each(Client::expect_end);
        wait_until("one is left", || server.metrics().sessions_open() == 1);
        assert_eq!(server.metrics().sessions_opened, opened);
        assert!(!server.has_ended());
        server.shutdown();
        assert_eq!(server.metrics().sessions_open(), 1, "a second request changes nothing");
        server.abort();
        busy.client.wait_for_end();
        server.wait_for_end();
        assert!(std::net::TcpStream::connect_timeout(&server.address(), PATIENCE).is_err());
        assert!(finish("an answer", server.handle().metrics()).is_err());
    });
}

fn delayed_shutdown_makes_every_shard_not_ready(on: &Adapter) {
    let config = timeouts(|t| t.drain_delay = Some(Duration::from_secs(3_600)));
    let config = config.instance_id("a1").build().expect("good");
    for_each_listening(on, &config, &handlers::echo(), |mut server| {
        let address = ServerAddress::from(server.address());
        let mut clients = connections(&address);
        let ask = |client: &mut Client, path: &str| {
            client.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        };
        assert!(clients.iter_mut().all(|client| ask(client, "/ready").status == 200));
        server.shutdown();
        for client in &mut clients {
            wait_until("its shard is not ready", || ask(client, "/ready").status == 503);
            let health = ask(client, "/health");
            assert!(health.text().contains("\"draining\""), "{health:?}");
            assert!(health.text().contains("\"instance_id\":\"a1\""), "{health:?}");
        }
        // Posts still reach sessions of every shard. The sessions' ids have the same instance.
        for _ in 0..10 {
            let mut stream = Stream::open(&address);
            assert!(stream.token().starts_with("a1."), "{}", stream.token());
            stream.check_alive("a new stream");
        }
        server.abort();
        server.wait_for_end();
    });
}

fn shutdown_before_serve_ends_every_shard(on: &Adapter) {
    // The handle is older than the workers; its shutdown must reach every shard.
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    for _ in 0..5 {
        let listen = Listen::Bind(address);
        let mut server = start(on, listen, HandlerThread::Own, Config::default(), handlers::echo());
        server.shutdown();
        server.wait_for_end();
    }
}

fn dropped_serve_future_ends_every_shard(on: &Adapter) {
    let config = timeouts(|t| t.shutdown_grace = Some(Duration::from_millis(200)));
    let (sender, sessions) = mpsc::channel();
    let give = handlers::give(sender);
    for_each_listening(on, &config.build().expect("good"), &give, |mut server| {
        let mut streams = streams(&server.address().into());
        assert_eq!(streams[2].post(&call(1, "[]")).status, 202);
        server.drop_future();
        server.wait_for_end();
        streams.iter_mut().for_each(|stream| stream.client.wait_for_end());
        wait_until("it has stopped", || finish("an answer", server.handle().metrics()).is_err());
        while let Ok(session) = sessions.try_recv() {
            wait_until("its end is known", || session.closed().is_some());
        }
    });
}

fn handler_panic_ends_every_shard(on: &Adapter) {
    let (sender, sessions) = mpsc::channel();
    let give = handlers::give(sender);
    let panicking = handler(move |session| {
        assert!(session.head().field("x-stumble").is_none(), "stumbled, as it was told to");
        give(session)
    });
    for_each_listening(on, &Config::default(), &panicking, |server| {
        let mut streams = streams(&server.address().into());
        // After the panic no session is given to the handler.
        let opened = server.metrics().sessions_opened;
        let held: Vec<_> =
            (0..opened).map(|_| sessions.recv_timeout(PATIENCE).expect("a session")).collect();
        let mut panics = Client::connect(server.address());
        panics.send("GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Stumble: 1\r\n\r\n");
        panics.wait_for_end();
        streams.iter_mut().for_each(|stream| stream.client.wait_for_end());
        server.expect_panic();
        let ended = held.iter().filter(|session| {
            wait_until("its end is known", || session.closed().is_some());
            session.closed().is_some_and(|closed| closed.reason == CloseReason::Shutdown)
        });
        assert_eq!(ended.count(), usize::from(SHARDS));
    });
}

fn port_in_use_by_another_server_is_an_error(on: &Adapter) {
    use socket2::{Domain, Socket, Type};
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let try_at = |address, workers| {
        let listen = Listen::Bind(address);
        let server = RunningServer::try_start_workers(
            on,
            listen,
            workers,
            HandlerThread::Local,
            Config::default(),
            handlers::echo(),
        );
        server.err().map(|error| error.kind())
    };
    let server =
        start(on, Listen::Bind(any), HandlerThread::Local, Config::default(), handlers::echo());
    // Every shard is running.
    drop(streams(&server.address().into()));
    assert_eq!(try_at(server.address(), 2), Some(ErrorKind::AddrInUse));
    assert_eq!(try_at(server.address(), 1), Some(ErrorKind::AddrInUse));
    // A port of another server is not shared, even if that server would share it.
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    other.set_reuse_port(true).expect("an option");
    other.bind(&any.into()).expect("a free port");
    other.listen(1).expect("a socket");
    let theirs = other.local_addr().expect("an address").as_socket().expect("of TCP");
    assert_eq!(try_at(theirs, 2), Some(ErrorKind::AddrInUse));
    drop(other);
    assert_eq!(try_at(theirs, 2), None);
}

fn unix_socket_serves_every_shard(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        let listen = Listen::Unix(path.clone(), None);
        let mut server = start(on, listen, handler_thread, Config::default(), handlers::echo());
        check_posts(&ServerAddress::Unix(path.clone()), || server.metrics().messages_received);
        server.shutdown();
        server.wait_for_end();
        wait_until("the file is gone", || !path.exists());
    }
}

fn tls_serves_every_shard(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let certificate = Certificate::new();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listen = Listen::Tls(socket, certificate.tls());
        let server = start(on, listen, handler_thread, Config::default(), handlers::echo());
        let address = ServerAddress::Tls(server.address(), certificate.client(&[]));
        check_posts(&address, || server.metrics().messages_received);
    }
}

/// With one acceptor, the connection limit is exact.
fn full_shard_is_skipped_by_the_acceptor(on: &Adapter) {
    let config = limits(|l| l.connections_max = Some(6)).build().expect("good");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = Listen::Tcp(socket);
    let server = start(on, listen, HandlerThread::Local, config, handlers::echo());
    drop(streams(&server.address().into()));
    wait_until("they have left", || server.metrics().connections_open() == 0);
    let mut open: Vec<Stream> = (0..6).map(|_| Stream::open(server.address())).collect();
    let mut shards: Vec<usize> = open.iter().map(shard_of).collect();
    shards.sort_unstable();
    assert_eq!(shards, [0, 0, 1, 1, 2, 2]);
    let mut late = Client::connect(server.address());
    late.send("GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let reach = finish("a broadcast", server.handle().broadcast(note(1))).expect("it runs");
    assert_eq!(reach.queued, 6);
    assert!(!late.has_input());
    let leaves = open.remove(3);
    let shard = shard_of(&leaves);
    drop(leaves);
    assert_eq!(late.response().status, 200);
    late.expect_end();
    assert_eq!(shard_of(&Stream::open(server.address())), shard);
}

/// A thousand requests, pipelined on connections of every shard, to a session whose handler begins
/// when at least one post of each connection is queued.
fn posts_to_full_session_wait_in_order(on: &Adapter) {
    const EACH: usize = 1_000 / CONNECTIONS;
    let patient = Timeouts { hold: None, decision: None, ..Timeouts::default() };
    let config = limits(|l| {
        l.inbound_messages_max = Some(4);
        l.in_flight_max = Some(8);
    });
    let config = config.timeouts(patient).build().expect("good");
    let (sender, sessions) = mpsc::channel();
    for_each_listening(on, &config, &handlers::give(sender), |server| {
        let address = ServerAddress::from(server.address());
        // Every shard accepts connections now.
        drop(streams(&address));
        wait_until("they have left", || server.metrics().sessions_open() == 0);
        sessions.try_iter().for_each(drop);
        let mut stream = Stream::open(&address);
        let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
        let before = server.metrics().messages_received;
        let mut posters = connections(&address);
        for (n, poster) in posters.iter_mut().enumerate() {
            let posts = (0..EACH).map(|at| stream.post_request(&call(n * EACH + at, "[]")));
            poster.send(posts.collect::<Vec<_>>().concat());
        }
        wait_until("posts wait", || server.metrics().posts_held >= CONNECTIONS as u64);
        let mut next = [0; CONNECTIONS];
        for at in 0..CONNECTIONS * EACH {
            let message = finish("a message", session.recv()).expect("a message");
            let frame = handlers::echoed(&message).expect("a request");
            let id: usize = message.id().and_then(|id| id.parse().ok()).expect("a number");
            let (poster, number) = (id / EACH, id % EACH);
            assert_eq!(number, next[poster], "{at}: in order and once");
            next[poster] += 1;
            finish("room", session.send(frame)).expect("the session is open");
            assert_eq!(stream.message(), answer(id, "[]"));
        }
        for poster in &mut posters {
            for _ in 0..EACH {
                assert_eq!(poster.response().status, 202);
            }
        }
        assert_eq!(server.metrics().messages_received - before, (CONNECTIONS * EACH) as u64);
        assert!(poll_once(session.recv()).is_none(), "each came once");
    });
}

/// The session makes no room before `hold` ends, on connections of every shard.
fn posts_waiting_beyond_hold_are_told_busy(on: &Adapter) {
    let brief = Timeouts { hold: Some(Duration::from_millis(50)), ..Timeouts::default() };
    let config = limits(|l| l.inbound_messages_max = Some(2)).timeouts(brief).build();
    let (sender, sessions) = mpsc::channel();
    for_each_listening(on, &config.expect("good"), &handlers::give(sender), |server| {
        let address = ServerAddress::from(server.address());
        drop(streams(&address));
        wait_until("they have left", || server.metrics().sessions_open() == 0);
        sessions.try_iter().for_each(drop);
        let mut stream = Stream::open(&address);
        let mut session = sessions.recv_timeout(PATIENCE).expect("a session");
        // No message is received, so all but the first few requests are answered "busy" on the
        // stream.
        let mut posters = connections(&address);
        for (n, poster) in posters.iter_mut().enumerate() {
            assert_eq!(poster.ask(stream.post_request(&call(n, "[]"))).status, 202);
        }
        let mut taken = 0;
        while poll_once(session.recv()).is_some() {
            taken += 1;
        }
        assert!((1..CONNECTIONS / 2).contains(&taken), "{taken}");
        for n in taken..CONNECTIONS {
            let told = stream.message();
            assert!(told.contains("-32000") && told.contains(&format!(r#""id":{n},"#)), "{told}");
        }
    });
}

fn health_extras_reach_every_shard(on: &Adapter) {
    for_each_listening(on, &Config::default(), &handlers::silent(), |server| {
        let address = ServerAddress::from(server.address());
        drop(streams(&address));
        let mut clients = connections(&address);
        for children in [3, 5] {
            server.handle().set_health_extras(
                HealthExtras::new().gauge("children", children).not_ready("no child"),
            );
            for client in &mut clients {
                wait_until("its shard knows", || {
                    let said = client.ask("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
                    let body: serde_json::Value = serde_json::from_slice(&said.body).expect("JSON");
                    body["children"] == children
                });
                assert_eq!(client.ask("GET /ready HTTP/1.1\r\nHost: a\r\n\r\n").status, 503);
            }
        }
    });
}

fn worker_count_out_of_range_is_an_error(on: &Adapter) {
    let try_with = |workers| {
        let listen = Listen::Bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (config, what) = (Config::default(), handlers::echo());
        RunningServer::try_start_workers(on, listen, workers, HandlerThread::Local, config, what)
            .expect_err("too few, or too many")
    };
    for workers in [0, WORKERS_MAX + 1, usize::MAX] {
        let error = try_with(workers);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{workers}: {error}");
        assert!(error.to_string().contains("at most 256"), "{error}");
    }
}

/// `serve_local` runs on one thread only.
#[test]
fn serve_local_with_several_workers_is_an_error() {
    let any = "127.0.0.1:0";
    let listener = mcp_sse_smol::Listener::bind(any, Config::default()).expect("a free port");
    let served = listener.workers(2).expect("good").serve_local(async |_| {});
    let error = finish("an error", served).expect_err("two");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let listener = mcp_sse_tokio::Listener::bind(any, Config::default()).expect("a free port");
    let served = listener.workers(2).expect("good").serve_local(async |_| {});
    let runtime = ::tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("one");
    let _inside = runtime.enter();
    let error = finish("an error", served).expect_err("two");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// Handlers run on tokio's threads, and sockets on threads of the workers.
#[test]
fn workers_serve_inside_a_multi_thread_runtime() {
    let runtime = ::tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("one");
    let listener = mcp_sse_tokio::Listener::bind("127.0.0.1:0", Config::default());
    let listener = listener.and_then(|listener| listener.workers(SHARDS.into())).expect("good");
    let (address, handle) = (listener.local_addr().expect("an address"), listener.handle());
    let spawner = runtime.handle().clone();
    let echo = handlers::echo();
    let served = runtime.spawn(listener.serve(move |session| drop(spawner.spawn(echo(session)))));
    check_posts(&address.into(), || {
        finish("counters", handle.metrics()).expect("it runs").messages_received
    });
    handle.shutdown();
    finish("its end", served).expect("no panic").expect("a good end");
}
