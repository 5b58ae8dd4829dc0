//! The threads on which handlers run, for each form of `Listener::serve`; a handler that blocks its
//! thread must not stop the server.

use core::net::SocketAddr;
use std::io;
use std::sync::mpsc;
use std::thread;

use mcp_sse_driver::{Handle, Session};
use mcp_sse_tests::client::{Stream, call};
use mcp_sse_tests::{PATIENCE, finish, handlers, timeouts, within};
use mcp_sse_tokio::Config;
use tokio::runtime::{Builder, Runtime};

/// A handler that can block its thread until the test resumes it.
struct BlockingHandler {
    blocked: mpsc::Sender<()>,
    go_on: std::sync::Mutex<mpsc::Receiver<()>>,
}

/// The test's side of a [`BlockingHandler`].
struct BlockControl {
    blocked: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

fn handler() -> (std::sync::Arc<BlockingHandler>, BlockControl) {
    let (blocks, blocked) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let handler = BlockingHandler { blocked: blocks, go_on: std::sync::Mutex::new(goes_on) };
    (std::sync::Arc::new(handler), BlockControl { blocked, go_on })
}

impl BlockingHandler {
    /// Serves a session. The message `block` blocks the thread until the test resumes it.
    async fn serve(&self, mut session: Session) {
        while let Some(message) = session.recv().await {
            if message.method() == Some("block") {
                self.blocked.send(()).expect("the test goes on");
                // Longer than any wait of the test.
                let _ = self.go_on.lock().expect("one").recv_timeout(4 * PATIENCE);
            }
        }
    }
}

/// Checks that another session opens and its posts are answered while one session's handler blocks
/// its thread.
#[track_caller]
fn check(address: SocketAddr, control: &BlockControl) {
    let mut blocking = Stream::open(address);
    assert_eq!(blocking.post(r#"{"jsonrpc":"2.0","method":"block"}"#).status, 202);
    control.blocked.recv_timeout(PATIENCE).expect("a handler that blocks");
    let mut other = Stream::open(address);
    for n in 0..3 {
        assert_eq!(other.post(&call(n, "[]")).status, 202);
        assert_eq!(blocking.post(&call(n, "[]")).status, 202, "its own posts as well");
    }
    control.go_on.send(()).expect("it waits");
}

fn many_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Joins a thread that is about to end.
#[track_caller]
fn join<T: Send + 'static>(thread: thread::JoinHandle<T>) -> T {
    within(PATIENCE, "the end of a thread", || thread.join()).expect("no panic")
}

fn on_tokio() -> (mcp_sse_tokio::Listener, SocketAddr, Handle) {
    let listener = mcp_sse_tokio::Listener::bind("127.0.0.1:0", Config::default());
    let listener = listener.expect("a free port");
    let (address, handle) = (listener.local_addr().expect("an address"), listener.handle());
    (listener, address, handle)
}

/// Checks a server of the tokio adapter, and stops it.
#[track_caller]
fn check_on_tokio(
    serve: impl FnOnce(
        mcp_sse_tokio::Listener,
        std::sync::Arc<BlockingHandler>,
    ) -> tokio::task::JoinHandle<io::Result<()>>,
) {
    let (listener, address, handle) = on_tokio();
    let (handler, control) = handler();
    let served = serve(listener, handler);
    check(address, &control);
    handle.abort();
    finish("the end of the server", served).expect("no panic").expect("the server ends well");
}

#[test]
fn blocking_spawned_handler_does_not_stop_the_server() {
    let runtime = many_threads();
    check_on_tokio(|listener, handler| {
        runtime.spawn(listener.serve(move |session| {
            let handler = handler.clone();
            tokio::spawn(async move { handler.serve(session).await });
        }))
    });
    // The same with a callback that returns the join handle.
    check_on_tokio(|listener, handler| {
        runtime.spawn(listener.serve(move |session| {
            let handler = handler.clone();
            tokio::spawn(async move { handler.serve(session).await })
        }))
    });
}

#[test]
fn blocking_async_handler_does_not_stop_the_server_on_tokio() {
    let runtime = many_threads();
    check_on_tokio(|listener, handler| {
        runtime.spawn(listener.serve(move |session| {
            let handler = handler.clone();
            async move { handler.serve(session).await }
        }))
    });
}

#[test]
fn blocking_async_handler_does_not_stop_the_server_on_smol() {
    for workers in [1, 3] {
        let listener = mcp_sse_smol::Listener::bind("127.0.0.1:0", Config::default());
        let listener =
            listener.and_then(|listener| listener.workers(workers)).expect("a free port");
        let (address, handle) = (listener.local_addr().expect("an address"), listener.handle());
        let (handler, control) = handler();
        let served = thread::spawn(move || {
            async_io::block_on(listener.serve(move |session| {
                let handler = handler.clone();
                async move { handler.serve(session).await }
            }))
        });
        check(address, &control);
        handle.abort();
        join(served).expect("the server ends well");
    }
}

/// Compares the runtime on which a handler runs, or the name of its thread if there is none.
#[test]
fn handlers_run_on_the_runtime_that_awaits_serve_and_without_one_on_the_socket_thread() {
    let runtime = many_threads();
    let here = runtime.handle().id();
    for spawns in [true, false] {
        let (listener, address, handle) = on_tokio();
        let (sender, told) = mpsc::channel();
        let tell = move |session: Session| {
            let sender = sender.clone();
            async move {
                let thread = thread::current().name().map(str::to_owned);
                sender.send((tokio::runtime::Handle::current().id(), thread)).expect("a test");
                drop(session);
            }
        };
        // The future is created outside the runtime that runs it.
        let served = if spawns {
            runtime.spawn(listener.serve(move |session| tokio::spawn(tell(session))))
        } else {
            runtime.spawn(listener.serve(tell))
        };
        let _stream = Stream::open(address);
        let (found, _) = told.recv_timeout(PATIENCE).expect("a handler");
        assert_eq!(found, here, "spawns: {spawns}");
        handle.shutdown();
        finish("the end of the server", served).expect("no panic").expect("the server ends well");
    }
    for spawns in [true, false] {
        let (listener, address, handle) = on_tokio();
        let (sender, told) = mpsc::channel();
        let tell = move |session: Session| {
            let sender = sender.clone();
            async move {
                let thread = thread::current().name().map(str::to_owned);
                sender.send(thread).expect("a test");
                drop(session);
            }
        };
        let served = thread::spawn(move || {
            if spawns {
                async_io::block_on(listener.serve(move |session| drop(tokio::spawn(tell(session)))))
            } else {
                async_io::block_on(listener.serve(tell))
            }
        });
        let _stream = Stream::open(address);
        let thread = told.recv_timeout(PATIENCE).expect("a handler").expect("a name");
        assert!(thread.starts_with("mcp-sse "), "{thread}, spawns: {spawns}");
        handle.shutdown();
        join(served).expect("the server ends well");
    }
}

/// smol has no current runtime, so handlers are part of the serve future.
#[test]
fn async_handlers_on_smol_run_where_serve_is_awaited_and_go_with_it() {
    // With this grace, a shutdown would wait for the request in flight for ever.
    let config = timeouts(|t| t.shutdown_grace = None).build().expect("good");
    let listener = mcp_sse_smol::Listener::bind("127.0.0.1:0", config).expect("a free port");
    let (address, handle) = (listener.local_addr().expect("an address"), listener.handle());
    let (sender, told) = mpsc::channel();
    let (give_up, given_up) = async_channel::bounded::<()>(1);
    let serving = thread::Builder::new().name("here".into());
    let serving = serving.spawn(move || {
        let served = listener.serve(move |mut session: Session| {
            // The sender is dropped with the handler.
            let sender = sender.clone();
            async move {
                sender.send(thread::current().name().map(str::to_owned)).expect("a test");
                while session.recv().await.is_some() {}
            }
        });
        let dropped = async move {
            let _ = given_up.recv().await;
            Ok(())
        };
        async_io::block_on(futures_lite::future::or(served, dropped))
    });
    let serving = serving.expect("a thread");
    let mut stream = Stream::open(address);
    assert_eq!(stream.post(&call(1, "[]")).status, 202);
    let thread = told.recv_timeout(PATIENCE).expect("a handler");
    assert_eq!(thread.as_deref(), Some("here"));
    give_up.try_send(()).expect("it waits");
    join(serving).expect("it was given up");
    let gone = told.recv_timeout(PATIENCE);
    assert_eq!(gone, Err(mpsc::RecvTimeoutError::Disconnected), "the handler went with the future");
    stream.client.wait_for_end();
    let stopped = || finish("an answer", handle.metrics()).is_err();
    mcp_sse_tests::wait_until("the server has stopped", stopped);
}

#[test]
fn async_handler_panic_ends_only_its_session() {
    async fn handle(mut session: Session) {
        while let Some(message) = session.recv().await {
            assert_ne!(message.method(), Some("panic"), "as the test wants it");
            if let Some(frame) = handlers::echoed(&message) {
                let _gone = session.send(frame).await;
            }
        }
    }
    let check = |address: SocketAddr| {
        let mut other = Stream::open(address);
        let mut panics = Stream::open(address);
        assert_eq!(panics.post(r#"{"jsonrpc":"2.0","method":"panic"}"#).status, 202);
        panics.client.wait_for_end();
        other.check_alive("beside a panic");
        Stream::open(address).check_alive("after a panic");
    };
    let (listener, address, server) = on_tokio();
    let runtime = many_threads();
    let served = runtime.spawn(listener.serve(handle));
    check(address);
    server.abort();
    finish("the end of the server", served).expect("no panic").expect("the server ends well");
    let listener = mcp_sse_smol::Listener::bind("127.0.0.1:0", Config::default());
    let listener = listener.expect("a free port");
    let (address, server) = (listener.local_addr().expect("an address"), listener.handle());
    let served = thread::spawn(move || async_io::block_on(listener.serve(handle)));
    check(address);
    server.abort();
    join(served).expect("the server ends well");
}

/// A function, a closure that returns a future, an async closure, a closure that spawns, and
/// `drop`, on both adapters.
#[test]
fn serve_accepts_every_handler_form() {
    async fn handle(mut session: Session) {
        while session.recv().await.is_some() {}
    }
    let runtime = many_threads();
    let _inside = runtime.enter();
    macro_rules! check {
        ($adapter:ident, $($handler:expr),+) => {
            $({
                let listener = $adapter::Listener::bind("127.0.0.1:0", Config::default());
                let listener = listener.expect("a free port");
                listener.handle().shutdown();
                let served = finish("the end of the server", listener.serve($handler));
                served.expect("the server ends well");
            })+
        };
    }
    check!(
        mcp_sse_smol,
        handle,
        |mut session: Session| async move { while session.recv().await.is_some() {} },
        async |session| handle(session).await,
        |session: Session| {
            thread::spawn(move || futures_lite::future::block_on(handle(session)));
        },
        drop
    );
    check!(
        mcp_sse_tokio,
        handle,
        |mut session: Session| async move { while session.recv().await.is_some() {} },
        async |session| handle(session).await,
        |session| {
            tokio::spawn(handle(session));
        },
        |session| tokio::spawn(handle(session)),
        drop
    );
}
