//! The `traceparent` of a GET and of each POST, from a client to the handler, over sockets and through axum, to sessions
//! of the shard that has the request and of the other one.

use core::net::SocketAddr;

use axum::Router;
use mcp_sse_core::{Config, SessionToken, TraceParent};
use mcp_sse_driver::Session;
use mcp_sse_tests::adapter::{Adapter, Handler, HandlerThread, Listen, RunningServer, handler};
use mcp_sse_tests::client::{Client, Stream, answer, call};
use mcp_sse_tests::{finish, for_each_adapter, handlers, limited};
use mcp_sse_tokio::SseService;

for_each_adapter!(handler_knows_the_trace_of_each_request,);

/// Enough connections to have some on either of two shards, however the system distributes them.
const CONNECTIONS: u32 = 20;

/// Answers each request with the `traceparent` of its post, and that of the session's GET.
fn tracer() -> Handler {
    handler(|mut session: Session| async move {
        let text = |parent: Option<TraceParent>| parent.map(|parent| parent.to_string());
        let opened = text(session.head().traceparent());
        while let Some(message) = session.recv().await {
            let Some(id) = message.id() else { continue };
            let result = serde_json::json!([text(message.traceparent()), opened]).to_string();
            let _gone = session.send(handlers::response(id, &result)).await;
        }
    })
}

fn parent(span: u32) -> String {
    format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span:016x}-01")
}

fn field(value: &str) -> String {
    format!("traceparent: {value}\r\n")
}

/// Opens streams until either shard has one, and posts to each of them on every connection.
#[track_caller]
fn check(address: SocketAddr, path: &str) {
    let opened = parent(0xffff);
    let get = format!("GET {path}/sse HTTP/1.1\r\nHost: localhost\r\n{}\r\n", field(&opened));
    let mut streams: [Option<Stream>; 2] = [None, None];
    for _ in 0..20 * CONNECTIONS {
        let stream = Stream::open_with(address, &get);
        let shard = SessionToken::parse(stream.token().as_bytes()).expect("a token");
        streams[usize::from(shard.shard().0)].get_or_insert(stream);
        if streams.iter().all(Option::is_some) {
            break;
        }
    }
    let mut streams: Vec<Stream> = streams.into_iter().flatten().collect();
    assert_eq!(streams.len(), 2, "either shard has a stream");
    for (n, mut poster) in
        (1..=CONNECTIONS).zip(core::iter::repeat_with(|| Client::connect(address)))
    {
        for stream in &mut streams {
            for (fields, expected) in [
                (field(&parent(n)), Some(parent(n))),
                (String::new(), None),
                (field(&parent(n)).repeat(2), None),
                (field(&parent(n).to_uppercase()), None),
            ] {
                let request = String::from_utf8(stream.post_request(&call(n, "[]"))).expect("text");
                let request = request.replacen("\r\n", &format!("\r\n{fields}"), 1);
                assert_eq!(poster.ask(&request).status, 202, "{request}");
                let result = serde_json::json!([expected, opened]).to_string();
                assert_eq!(stream.message(), answer(n, &result));
            }
        }
    }
}

fn handler_knows_the_trace_of_each_request(on: &Adapter) {
    let listen = Listen::Bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    let config = Config::default();
    let server =
        RunningServer::try_start_workers(on, listen, 2, HandlerThread::Local, config, tracer());
    let server = server.expect("a server");
    check(server.address(), "");
}

/// Requests go to the shards in turn, so half of the posts are forwarded.
#[test]
fn handler_behind_axum_knows_the_trace_of_each_request() {
    limited(|| {
        let runtime = crate::sdk::runtime();
        let inside = runtime.enter();
        let (tasks, trace) = (runtime.handle().clone(), tracer());
        let on_session = move |session| drop(tasks.spawn(trace(session)));
        let service = SseService::with_workers(Config::default(), 2, on_session).expect("threads");
        let handle = service.handle();
        let app = Router::new().nest_service("/api", service);
        let listener = finish("a port", ::tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move { axum::serve(listener, app).await });
        drop(inside);
        check(address, "/api");
        let metrics = finish("counters", handle.metrics()).expect("it runs");
        assert_eq!(metrics.messages_received, u64::from(CONNECTIONS) * 8);
        handle.shutdown();
    });
}
