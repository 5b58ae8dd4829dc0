//! Tests with the client of the official SDK's release 0.10, the last release with this transport.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::{io, thread};

use mcp_sse_core::Config;
use mcp_sse_tests::PATIENCE;
use mcp_sse_tests::adapter::{Adapter, RunningServer, SMOL, TOKIO, handler};
use mcp_sse_tokio::Handle;
use rmcp_0_10::model::{CallToolRequestParam, LoggingMessageNotificationParam};
use rmcp_0_10::service::{NotificationContext, RunningService, ServiceError};
use rmcp_0_10::transport::SseClientTransport;
use rmcp_0_10::{ClientHandler, RoleClient, ServiceExt};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::sdk::{ServedToolbox, runtime};

#[path = "../../../io-tokio/examples/axum_nest/app.rs"]
mod application;

macro_rules! for_each_server {
    ($($test:ident),+ $(,)?) => {
        mod smol_demo {
            $(
                #[test]
                fn $test() {
                    let server = super::serve_demo(&super::SMOL);
                    super::finish(super::$test(server.address(), "/sse"));
                }
            )+
        }

        mod tokio_demo {
            $(
                #[test]
                fn $test() {
                    let server = super::serve_demo(&super::TOKIO);
                    super::finish(super::$test(server.address(), "/sse"));
                }
            )+
        }

        mod sdk {
            $(
                #[test]
                fn $test() {
                    let server = super::ServedToolbox::start();
                    super::finish(super::$test(server.address, "/sse"));
                }
            )+
        }

        mod axum_nest {
            $(
                #[test]
                fn $test() {
                    let server = super::NestedApp::start();
                    super::finish(super::$test(server.address, "/api/sse"));
                }
            )+
        }
    };
}

for_each_server!(
    client_initializes_lists_and_calls,
    notifications_reach_the_client,
    sequential_clients_are_served,
    concurrent_clients_are_served,
    client_reconnects_after_a_cut_stream,
);

fn serve_demo(on: &Adapter) -> RunningServer {
    let reach = Arc::new(OnceLock::new());
    let handle = reach.clone();
    let server = RunningServer::start(
        on,
        Config::default(),
        handler(move |session| {
            let handle = handle.clone();
            async move {
                let handle = handle.get().cloned().expect("set before anybody connects");
                mcp_sse_demo::serve(session, handle).await;
            }
        }),
    );
    reach.set(server.handle().clone()).expect("set once");
    server
}

/// The application of the example `axum_nest`. Dropping this value shuts it down.
struct NestedApp {
    address: SocketAddr,
    handle: Handle,
    served: Option<JoinHandle<io::Result<()>>>,
    runtime: Runtime,
}

impl NestedApp {
    fn start() -> Self {
        let runtime = runtime();
        let (app, handle) = {
            let _here = runtime.enter();
            application::app().expect("a thread")
        };
        let bind = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(bind).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let served = runtime.spawn(async { axum::serve(listener, app).await });
        Self { address, handle, served: Some(served), runtime }
    }
}

impl Drop for NestedApp {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(served) = self.served.take() {
            served.abort();
            let ended = async { tokio::time::timeout(PATIENCE, served).await };
            let ended = self.runtime.block_on(ended);
            assert!(thread::panicking() || ended.is_ok(), "the application ends");
        }
    }
}

fn finish(test: impl Future<Output = ()>) {
    // The client waits between its attempts to connect, and all tests run in parallel, so the limit
    // is large.
    let test = async { tokio::time::timeout(8 * PATIENCE, test).await };
    runtime().block_on(test).expect("the test ends");
}

type Running = RunningService<RoleClient, RecordingClient>;

/// A client that keeps log messages.
struct RecordingClient(mpsc::UnboundedSender<Value>);

impl ClientHandler for RecordingClient {
    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let _ = self.0.send(params.data);
    }
}

async fn connect(address: SocketAddr, path: &str) -> (Running, mpsc::UnboundedReceiver<Value>) {
    let url = format!("http://{address}{path}");
    let transport = SseClientTransport::start(url).await.expect("a stream");
    let (sender, log_messages) = mpsc::unbounded_channel();
    (RecordingClient(sender).serve(transport).await.expect("a handshake"), log_messages)
}

async fn call(client: &Running, tool: &str, arguments: Value) -> Result<String, ServiceError> {
    let name = tool.to_owned().into();
    let arguments = arguments.as_object().cloned();
    let result = client.call_tool(CallToolRequestParam { name, arguments }).await?;
    let text = result.content.first().and_then(|content| content.as_text());
    Ok(text.expect("a text").text.clone())
}

async fn add(client: &Running, a: i32, b: i32) -> Result<String, ServiceError> {
    call(client, "add", json!({ "a": a, "b": b })).await
}

async fn client_initializes_lists_and_calls(address: SocketAddr, path: &str) {
    let (client, _log_messages) = connect(address, path).await;
    let server = client.peer_info().expect("a handshake has been");
    assert!(!server.server_info.name.is_empty(), "{server:?}");
    let tools = client.list_all_tools().await.expect("a list");
    assert!(tools.iter().any(|tool| tool.name == "add"), "{tools:?}");
    assert_eq!(add(&client, 2, 3).await.expect("a sum"), "5");
    call(&client, "nope", json!({})).await.expect_err("no such tool");
    assert_eq!(add(&client, 2, 4).await.expect("a sum"), "6");
    client.cancel().await.expect("it ends");
}

async fn notifications_reach_the_client(address: SocketAddr, path: &str) {
    let (client, mut log_messages) = connect(address, path).await;
    let tools = client.list_all_tools().await.expect("a list");
    let demo = tools.iter().any(|tool| tool.name == "broadcast");
    let (tool, parameter) = if demo { ("broadcast", "message") } else { ("log", "text") };
    for line in ["one", "two \u{2028} \u{1f980}", "three"] {
        call(&client, tool, json!({ parameter: line })).await.expect("it is said");
        assert_eq!(log_messages.recv().await, Some(line.into()));
    }
    client.cancel().await.expect("it ends");
}

async fn sequential_clients_are_served(address: SocketAddr, path: &str) {
    for n in 0..5 {
        let (client, _log_messages) = connect(address, path).await;
        assert_eq!(add(&client, n, 1).await.expect("a sum"), (n + 1).to_string());
        client.cancel().await.expect("it ends");
    }
}

async fn concurrent_clients_are_served(address: SocketAddr, path: &str) {
    let (one, _log_messages) = connect(address, path).await;
    let (two, _log_messages) = connect(address, path).await;
    for n in 0..20 {
        let (of_one, of_two) = tokio::join!(add(&one, n, 100), add(&two, n, 200));
        assert_eq!(of_one.expect("a sum"), (n + 100).to_string());
        assert_eq!(of_two.expect("a sum"), (n + 200).to_string());
    }
    one.cancel().await.expect("it ends");
    assert_eq!(add(&two, 1, 1).await.expect("a sum"), "2");
    two.cancel().await.expect("it ends");
}

/// The client opens another stream after a cut, and goes on there without a handshake.
async fn client_reconnects_after_a_cut_stream(address: SocketAddr, path: &str) {
    let proxy = CutProxy::to(address);
    let (client, _log_messages) = connect(proxy.address, path).await;
    assert_eq!(add(&client, 2, 3).await.expect("a sum"), "5");
    for n in 1..=3 {
        proxy.cut();
        // Until it has the new endpoint, it posts to the old one and gets a 404.
        let sum = loop {
            match tokio::time::timeout(Duration::from_millis(500), add(&client, n, 1)).await {
                Ok(Ok(sum)) => break sum,
                Ok(Err(_)) | Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(sum, (n + 1).to_string());
    }
    client.cancel().await.expect("it ends");
}

/// A TCP proxy that can cut all of its connections.
struct CutProxy {
    address: SocketAddr,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl CutProxy {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let ends = Arc::new(Mutex::new(Vec::new()));
        let kept = ends.clone();
        // The thread ends with the process.
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.expect("a connection"), TcpStream::connect(server));
                let Ok(far) = far else { return };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) =
                        (from.try_clone().expect("a clone"), to.try_clone().expect("a clone"));
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                kept.lock().expect("no panic").extend([near, far]);
            }
        });
        Self { address, ends }
    }

    fn cut(&self) {
        for end in self.ends.lock().expect("no panic").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}
