//! Services of the official SDK, tested with a plain client.

use core::net::SocketAddr;
use std::io;
use std::sync::mpsc;

use futures_lite::future::{block_on, poll_once};
use mcp_sse_core::Config;
use mcp_sse_tests::client::{Client, Stream, health};
use mcp_sse_tests::sdk::Toolbox;
use mcp_sse_tests::{PATIENCE, finish, timeouts, wait_until};
use mcp_sse_tokio::rmcp::{
    CancellationToken, SessionTransport, SseServer, SseServerConfig, Transport, TransportError,
};
use mcp_sse_tokio::{Listener, Principal, Refusal, TraceParent, Verdict};
use rmcp::model::{GetExtensions, GetMeta, JsonRpcMessage};
use rmcp::transport::IntoTransport;
use rmcp::{RoleServer, ServiceExt};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::limits;

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn listener(config: Config) -> Listener {
    Listener::bind("127.0.0.1:0", config).expect("a free port")
}

/// A served toolbox. Dropping this value shuts the server down.
pub(crate) struct ServedToolbox {
    pub(crate) address: SocketAddr,
    toolbox: Toolbox,
    ct: CancellationToken,
    stopped: mpsc::Receiver<()>,
    /// The last field, so that it is dropped last.
    _runtime: Runtime,
}

impl ServedToolbox {
    pub(crate) fn start() -> Self {
        Self::with(Config::default(), |server, toolbox| {
            server.with_service(move || toolbox.clone())
        })
    }

    fn with(config: Config, serve: impl FnOnce(SseServer, Toolbox) -> CancellationToken) -> Self {
        let runtime = runtime();
        let inside = runtime.enter();
        let server = SseServer::from_listener(listener(config), CancellationToken::new());
        let address = server.local_addr().expect("an address");
        let stopped = when_stopped(&server);
        let toolbox = Toolbox::default();
        let ct = serve(server, toolbox.clone());
        drop(inside);
        Self { address, toolbox, ct, stopped, _runtime: runtime }
    }

    #[track_caller]
    fn wait_for_stop(&self) {
        self.stopped.recv_timeout(PATIENCE).expect("the server stops");
    }
}

impl Drop for ServedToolbox {
    fn drop(&mut self) {
        self.ct.cancel();
        if !std::thread::panicking() {
            // The channel is closed if the test has waited already.
            let stopped = self.stopped.recv_timeout(PATIENCE);
            assert_ne!(stopped, Err(mpsc::RecvTimeoutError::Timeout), "the server stops");
        }
    }
}

/// Returns a channel that gets an item when the server has stopped.
fn when_stopped(server: &SseServer) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    let stopped = server.stopped();
    tokio::spawn(async move {
        stopped.await;
        let _ = sender.send(());
    });
    receiver
}

fn request(id: impl serde::Serialize, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

fn call(id: u32, tool: &str, arguments: &Value) -> String {
    request(id, "tools/call", &json!({ "name": tool, "arguments": arguments }))
}

fn initialize(id: u32, version: &str) -> String {
    let client = json!({ "name": "test", "version": "0" });
    let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": client });
    request(id, "initialize", &params)
}

#[track_caller]
fn post(stream: &mut Stream, body: &str) {
    assert_eq!(stream.post(body).status, 202, "{body}");
}

#[track_caller]
fn answer(stream: &mut Stream) -> Value {
    serde_json::from_str(&stream.message()).expect("JSON")
}

#[track_caller]
fn ask(stream: &mut Stream, body: &str) -> Value {
    post(stream, body);
    answer(stream)
}

/// The text of a tool's result, or the code of the error.
#[track_caller]
fn outcome(answer: &Value, id: u32) -> String {
    assert_eq!(answer["id"], id, "{answer}");
    match (&answer["result"]["content"][0]["text"], &answer["error"]["code"]) {
        (Value::String(text), _) => text.clone(),
        (_, code) => code.to_string(),
    }
}

#[track_caller]
fn check_add(stream: &mut Stream, id: u32) {
    let sum = ask(stream, &call(id, "add", &json!({ "a": 2, "b": 3 })));
    assert_eq!(outcome(&sum, id), "5", "{sum}");
}

#[test]
fn handshake_and_call_are_answered() {
    let served = ServedToolbox::start();
    let mut stream = Stream::open(served.address);
    for (id, version) in [(1, "2024-11-05"), (2, "2025-11-25")] {
        let greeting = ask(&mut stream, &initialize(id, version));
        assert_eq!(greeting["result"]["protocolVersion"], version, "{greeting}");
        assert_eq!(greeting["result"]["serverInfo"]["name"], "toolbox", "{greeting}");
    }
    post(&mut stream, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    check_add(&mut stream, 3);
}

/// The first message of a session may be any that a client sends after it has reconnected.
#[test]
fn session_without_initialize_is_served() {
    let served = ServedToolbox::start();
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    let stale = [
        r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":8,"error":{"code":-1,"message":"no"}}"#,
    ];
    let ping = request("p", "ping", &json!({}));
    for (case, first) in [
        ("a call", vec![]),
        ("a notification", vec![notification]),
        ("stale answers", stale.to_vec()),
        ("a ping", vec![&*ping]),
        ("all of it", [&[&*ping][..], &stale, &[notification]].concat()),
    ] {
        let mut stream = Stream::open(served.address);
        for body in first {
            post(&mut stream, body);
            if body == ping {
                let pong = answer(&mut stream);
                assert_eq!(pong, json!({ "jsonrpc": "2.0", "id": "p", "result": {} }), "{case}");
            }
        }
        check_add(&mut stream, 1);
        // A late `initialize` is answered too.
        let greeting = ask(&mut stream, &initialize(2, "2025-06-18"));
        assert_eq!(greeting["result"]["protocolVersion"], "2025-06-18", "{case}: {greeting}");
        check_add(&mut stream, 3);
    }
}

#[test]
fn ping_before_initialize_is_answered() {
    let served = ServedToolbox::start();
    let mut stream = Stream::open(served.address);
    for id in 1..4 {
        let pong = ask(&mut stream, &request(id, "ping", &json!({})));
        assert_eq!(pong, json!({ "jsonrpc": "2.0", "id": id, "result": {} }));
    }
    let greeting = ask(&mut stream, &initialize(4, "2025-03-26"));
    assert_eq!(greeting["result"]["protocolVersion"], "2025-03-26", "{greeting}");
    check_add(&mut stream, 5);
}

/// The SDK itself handles the revision of MCP that has no `initialize`.
#[test]
fn session_of_revision_without_initialize_is_served() {
    let served = ServedToolbox::start();
    let mut stream = Stream::open(served.address);
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "0" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let discovered = ask(&mut stream, &request(1, "server/discover", &json!({ "_meta": meta })));
    assert!(discovered["result"]["supportedVersions"].is_array(), "{discovered}");
    let mut params = json!({ "name": "add", "arguments": { "a": 2, "b": 3 }, "_meta": meta });
    let sum = ask(&mut stream, &request(2, "tools/call", &params));
    assert_eq!(outcome(&sum, 2), "5", "{sum}");
    // A tool call may be the first message.
    let mut other = Stream::open(served.address);
    let sum = ask(&mut other, &request(3, "tools/call", &params));
    assert_eq!(outcome(&sum, 3), "5", "{sum}");
    // This would be answered if the sessions had been served directly.
    params["_meta"] = json!({});
    for stream in [&mut stream, &mut other] {
        let sum = ask(stream, &request(4, "tools/call", &params));
        assert_eq!(outcome(&sum, 4), "-32602", "{sum}");
    }
}

#[test]
fn service_served_directly_needs_no_initialize() {
    let served = ServedToolbox::with(Config::default(), |server, toolbox| {
        server.with_service_directly(move || toolbox.clone())
    });
    let mut stream = Stream::open(served.address);
    check_add(&mut stream, 1);
    let greeting = ask(&mut stream, &initialize(2, "2025-06-18"));
    assert_eq!(greeting["result"]["protocolVersion"], "2025-06-18", "{greeting}");
    drop(stream);
}

#[test]
fn handlers_see_the_get_request() {
    let served = ServedToolbox::start();
    let get = "GET /sse?secret HTTP/1.1\r\nHost: localhost\r\nX-Who: me\r\nx-who: too\r\n\r\n";
    let mut stream = Stream::open_with(served.address, get);
    let field = ask(&mut stream, &call(1, "field", &json!({ "text": "x-who" })));
    assert_eq!(outcome(&field, 1), "GET /sse me");
    let field = ask(&mut stream, &call(2, "field", &json!({ "text": "x-other" })));
    assert_eq!(outcome(&field, 2), "GET /sse none");
}

#[test]
fn unreadable_messages_are_answered_or_ignored() {
    let served = ServedToolbox::start();
    let mut stream = Stream::open(served.address);
    check_add(&mut stream, 1);
    // An id that JSON-RPC allows and the SDK does not is returned unchanged.
    post(&mut stream, r#"{"jsonrpc":"2.0","id":18446744073709551615,"method":"tools/list"}"#);
    let text = stream.message();
    assert!(text.contains(r#""id":18446744073709551615,"error":{"code":-32600,"#), "{text}");
    check_add(&mut stream, 2);
    // The service refuses unknown methods.
    let unknown = ask(&mut stream, &request(3, "no/such", &json!({})));
    assert_eq!(outcome(&unknown, 3), "-32601", "{unknown}");
    // Invalid notifications have no effect.
    for body in [
        r#"{"jsonrpc":"2.0","method":"no/such","params":{}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":7}"#,
        r#"{"jsonrpc":"2.0","id":99,"error":7}"#,
        r#"{"jsonrpc":"2.0","id":18446744073709551615,"error":7}"#,
    ] {
        post(&mut stream, body);
        check_add(&mut stream, 4);
    }
    // An unreadable response to a request of the server ends the wait with an error.
    post(&mut stream, &call(5, "ask", &json!({ "text": "well?" })));
    let question = answer(&mut stream);
    assert_eq!(question["method"], "sampling/createMessage", "{question}");
    let id = &question["id"];
    let failed = ask(&mut stream, &format!(r#"{{"jsonrpc":"2.0","id":{id},"error":"what?"}}"#));
    assert_eq!(outcome(&failed, 5), "-32603", "{failed}");
    check_add(&mut stream, 6);
}

#[test]
fn result_too_large_for_any_queue_is_an_internal_error() {
    let config = limits(|limits| limits.queues_bytes_max = Some(64 << 10)).build().expect("valid");
    let served =
        ServedToolbox::with(config, |server, toolbox| server.with_service(move || toolbox.clone()));
    let mut stream = Stream::open(served.address);
    let filled = ask(&mut stream, &call(1, "fill", &json!({ "count": 100_000 })));
    assert_eq!(outcome(&filled, 1), "-32603", "{filled}");
    let filled = ask(&mut stream, &call(2, "fill", &json!({ "count": 10_000 })));
    assert_eq!(outcome(&filled, 2).len(), 10_000);
}

#[test]
fn cancelled_call_is_not_answered() {
    let served = ServedToolbox::start();
    let mut stream = Stream::open(served.address);
    post(&mut stream, &call(1, "wait", &json!({})));
    wait_until("a call that waits", || served.toolbox.waiting() == 1);
    let params = json!({ "requestId": 1 });
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
    post(&mut stream, &cancel.to_string());
    wait_until("a cancelled call", || served.toolbox.cancelled() == 1);
    check_add(&mut stream, 2);
}

#[test]
fn client_disconnect_ends_its_session() {
    let served = ServedToolbox::start();
    let mut stream = Stream::open(served.address);
    check_add(&mut stream, 1);
    drop(stream);
    wait_until("a session less", || health(served.address).sessions == 0);
}

/// Running calls are cancelled and may answer; then every stream ends in order, and the port is
/// free.
#[test]
fn cancel_ends_sessions_in_order() {
    let served = ServedToolbox::start();
    let mut idle = Stream::open(served.address);
    let mut undecided = Stream::open(served.address);
    let mut waiting = Stream::open(served.address);
    check_add(&mut idle, 1);
    assert_eq!(ask(&mut undecided, &request(1, "ping", &json!({})))["id"], 1);
    post(&mut waiting, &call(1, "wait", &json!({})));
    wait_until("a call that waits", || served.toolbox.waiting() == 1);
    served.ct.cancel();
    assert_eq!(outcome(&answer(&mut waiting), 1), "cancelled");
    for stream in [&mut waiting, &mut undecided, &mut idle] {
        stream.expect_end();
    }
    served.wait_for_stop();
    Listener::bind(served.address, Config::default()).expect("a free port");
}

/// A second shutdown cuts nothing; an abort cuts a running call.
#[test]
fn second_shutdown_waits_and_abort_ends_the_server() {
    for abort in [false, true] {
        let config = timeouts(|t| t.shutdown_grace = None).build().expect("valid");
        let mut handle = None;
        let served = ServedToolbox::with(config, |server, toolbox| {
            handle = Some(server.handle());
            server.with_service(move || toolbox.clone())
        });
        let handle = handle.expect("a server");
        let mut waiting = Stream::open(served.address);
        let mut idle = Stream::open(served.address);
        check_add(&mut idle, 1);
        post(&mut waiting, &call(1, "wait", &json!({})));
        wait_until("a call that waits", || served.toolbox.waiting() == 1);
        handle.shutdown();
        idle.expect_end();
        handle.shutdown();
        let counters = finish("counters", handle.metrics()).expect("it runs");
        assert_eq!(counters.sessions_open(), 1, "a call is under way");
        if abort {
            handle.abort();
            waiting.client.wait_for_end();
        } else {
            served.ct.cancel();
            served.ct.cancel();
            assert_eq!(outcome(&answer(&mut waiting), 1), "cancelled");
            waiting.expect_end();
        }
        served.wait_for_stop();
    }
}

#[test]
fn server_dropped_before_serving_stops() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let server = SseServer::from_listener(listener(Config::default()), CancellationToken::new());
    let stopped = when_stopped(&server);
    let mut stream = Stream::open(server.local_addr().expect("an address"));
    drop(server);
    stream.expect_end();
    stopped.recv_timeout(PATIENCE).expect("the server stops");
}

#[test]
fn config_paths_and_keep_alive_are_used() {
    let runtime = runtime();
    let config = |bind: &str, sse_path: &str, post_path: &str| SseServerConfig {
        bind: bind.parse().expect("an address"),
        sse_path: sse_path.into(),
        post_path: post_path.into(),
        ct: CancellationToken::new(),
        sse_keep_alive: Some(core::time::Duration::from_millis(20)),
    };
    let _inside = runtime.enter();
    let serve = |config| finish("a server", SseServer::serve_with_config(config));
    let said = config("127.0.0.1:0", "/events", "/in");
    let ct = said.ct.clone();
    let mut server = serve(said).expect("it starts");
    let address = server.local_addr().expect("an address");
    let get = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stream = Stream::open_with(address, get);
    assert!(stream.endpoint.starts_with("/in?sessionId="), "{}", stream.endpoint);
    assert_eq!(stream.chunk().as_deref(), Some(&b":\n"[..]), "a heartbeat");
    // Sessions can be accepted one at a time.
    let transport = finish("a session", server.next_transport()).expect("a session");
    assert_eq!(transport.session().head().path(), "/events");
    drop(runtime.spawn(serve_alone(transport)));
    let greeting = ask(&mut stream, &initialize(1, "2024-11-05"));
    assert_eq!(greeting["result"]["serverInfo"]["name"], "toolbox", "{greeting}");

    let taken = serve(config(&address.to_string(), "/sse", "/message")).map(drop);
    assert_eq!(taken.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
    let collide = serve(config("127.0.0.1:0", "/sse", "/sse")).map(drop);
    assert_eq!(collide.map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));

    ct.cancel();
    stream.expect_end();
    assert!(finish("the end", server.next_transport()).is_none());
}

async fn serve_alone<A>(session: impl IntoTransport<RoleServer, TransportError, A>) {
    let running = Toolbox::default().serve(session).await.expect("a handshake");
    running.waiting().await.expect("no panic");
}

#[test]
fn authorizer_decides_who_uses_a_service() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let config = SseServerConfig {
        bind: "127.0.0.1:0".parse().expect("an address"),
        sse_path: "/sse".into(),
        post_path: "/message".into(),
        ct: CancellationToken::new(),
        sse_keep_alive: None,
    };
    let listener = config.listen().expect("a free port").authorize(async |head| {
        head.bearer_token().map_or(Verdict::Refuse(Refusal::Unauthenticated), |name| {
            Verdict::Allow(Principal::new(name))
        })
    });
    let mut server = SseServer::from_listener(listener.expect("nobody else decides"), config.ct);
    let address = server.local_addr().expect("an address");
    let stopped = server.stopped();
    let get = |fields: &str| format!("GET /sse HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    assert_eq!(Client::connect(address).ask(get("")).status, 401);
    let stream = Stream::open_with(address, &get("Authorization: Bearer alice\r\n"));
    assert!(stream.endpoint.starts_with("/message?sessionId="), "{}", stream.endpoint);
    let transport = finish("a session", server.next_transport()).expect("a session");
    let principal = transport.session().principal().map(Principal::name);
    assert_eq!(principal, Some("alice"));
    drop(transport);
    server.cancel();
    finish("the end", stopped);
}

/// A session of a plain listener is a transport too.
#[test]
fn session_converts_into_a_transport() {
    let runtime = runtime();
    let listener = listener(Config::default());
    let (address, handle) = (listener.local_addr().expect("an address"), listener.handle());
    let tasks = runtime.handle().clone();
    let served = runtime.spawn(listener.serve(move |session| {
        drop(tasks.spawn(serve_alone(session)));
    }));
    let mut stream = Stream::open(address);
    ask(&mut stream, &initialize(1, "2024-11-05"));
    check_add(&mut stream, 2);
    handle.shutdown();
    stream.expect_end();
    finish("the end", served).expect("no panic").expect("the server ends well");
}

/// A message has the `TraceParent` of its post among its extensions, and its `_meta` is as the client sent it.
#[test]
fn trace_of_a_post_is_an_extension_of_its_message() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let runtime = runtime();
    let listener = listener(Config::default());
    let (address, handle) = (listener.local_addr().expect("an address"), listener.handle());
    let (sender, sessions) = mpsc::channel();
    let served = runtime.spawn(listener.serve(move |session| drop(sender.send(session))));
    let stream = Stream::open(address);
    let session = sessions.recv_timeout(PATIENCE).expect("a session");
    let mut transport = SessionTransport::new(session);
    for (fields, expected) in
        [(format!("traceparent: {PARENT}\r\n"), Some(PARENT)), (String::new(), None)]
    {
        let ping =
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"traceparent":"x"}}}"#;
        let request = String::from_utf8(stream.post_request(ping)).expect("text");
        let request = request.replacen("\r\n", &format!("\r\n{fields}"), 1);
        assert_eq!(Client::connect(address).ask(request).status, 202);
        let message = finish("a message", transport.receive()).expect("a message");
        let JsonRpcMessage::Request(request) = message else { panic!("{message:?}") };
        let request = request.request;
        let found = request.extensions().get::<TraceParent>().map(ToString::to_string);
        assert_eq!(found.as_deref(), expected);
        let meta = request.get_meta();
        assert_eq!(meta.get("traceparent"), Some(&json!("x")));
    }
    handle.shutdown();
    finish("the end", served).expect("no panic").expect("the server ends well");
}

/// Nothing is lost when `receive` is dropped while it waits: for messages, or for room for the
/// answer to an unreadable message.
#[test]
fn receive_is_cancel_safe() {
    const MESSAGES: u32 = 30;
    let runtime = runtime();
    let listener = listener(Config::default());
    let (address, handle) = (listener.local_addr().expect("an address"), listener.handle());
    let (sender, sessions) = mpsc::channel();
    let (go_on, stand_still) = mpsc::channel::<()>();
    let served = runtime.spawn(listener.serve(move |session| {
        // The second session blocks the thread of the sockets.
        if sender.send(session).is_err() {
            stand_still.recv_timeout(PATIENCE).expect("it goes on");
        }
    }));
    let mut stream = Stream::open(address);
    let session = sessions.recv_timeout(PATIENCE).expect("a session");
    drop(sessions);
    let mut transport = SessionTransport::new(session);
    for _ in 0..MESSAGES {
        post(&mut stream, r#"{"jsonrpc":"2.0","id":18446744073709551615,"method":"ping"}"#);
        post(&mut stream, r#"{"jsonrpc":"2.0","method":"x"}"#);
    }
    let _other = Stream::open(address);
    let mut received = 0;
    let mut receive = || {
        let receive = block_on(poll_once(transport.receive()));
        assert!(
            matches!(receive, None | Some(Some(JsonRpcMessage::Notification(_)))),
            "{receive:?}"
        );
        received += u32::from(receive.is_some());
        received
    };
    // There are more calls than messages, so the answers fill the queue.
    let blocked = (0..2 * MESSAGES).map(|_| receive()).max();
    assert!(blocked < Some(MESSAGES), "{blocked:?}");
    go_on.send(()).expect("it waits");
    wait_until("all messages", || receive() == MESSAGES);
    for number in 0..MESSAGES {
        assert_eq!(answer(&mut stream)["error"]["code"], -32600, "{number}");
    }
    finish("the end", transport.close()).expect("it closes");
    stream.expect_end();
    handle.shutdown();
    finish("the end", served).expect("no panic").expect("the server ends well");
}
