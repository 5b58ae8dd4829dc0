//! Unix sockets: the same HTTP, and the socket's file.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{Adapter, HandlerThread, Listen, RunningServer};
use mcp_sse_tests::certificate::Certificate;
use mcp_sse_tests::client::{Client, ServerAddress, Stream};
use mcp_sse_tests::scratch::Scratch;
use mcp_sse_tests::{for_each_adapter, handlers, wait_until};

for_each_adapter!(
    unix_socket_serves_sessions,
    socket_file_has_the_configured_mode,
    stale_socket_file_is_replaced,
    socket_in_use_is_an_error,
    path_that_is_no_socket_is_an_error,
    dropped_server_removes_its_socket_file,
    replaced_socket_file_is_not_removed,
    invalid_socket_paths_are_errors,
    tls_on_unix_socket_is_unsupported,
);

fn start(on: &Adapter, path: &Path) -> std::io::Result<RunningServer> {
    start_at(on, path, None, HandlerThread::Local)
}

fn start_at(
    on: &Adapter,
    path: &Path,
    mode: Option<u32>,
    handler_thread: HandlerThread,
) -> std::io::Result<RunningServer> {
    let listen = Listen::Unix(path.into(), mode);
    RunningServer::try_start(on, listen, handler_thread, Config::default(), handlers::echo())
}

fn address(path: &Path) -> ServerAddress {
    ServerAddress::Unix(path.into())
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn unix_socket_serves_sessions(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        let mut server = start_at(on, &path, None, handler_thread).expect("a server");
        let mut streams: Vec<_> = (0..10).map(|_| Stream::open(address(&path))).collect();
        for stream in &mut streams {
            stream.check_alive("over a Unix socket");
        }
        streams.truncate(5);
        wait_until("half have left", || server.metrics().sessions_open() == 5);
        // The guard is that of loopback, so a web page cannot use the server through a relay.
        let mut client = Client::connect(address(&path));
        let evil = "GET /sse HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        assert_eq!(client.ask(evil).status, 403);
        let secure = "GET https://localhost/ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(client.ask(secure).status, 421);
        server.shutdown();
        for stream in &mut streams {
            stream.expect_end();
        }
        server.wait_for_end();
        assert!(!exists(&path));
    }
}

fn socket_file_has_the_configured_mode(on: &Adapter) {
    let scratch = Scratch::new();
    for (mode, expected) in [(None, 0o600), (Some(0o660), 0o660), (Some(0o777), 0o777)] {
        let path = scratch.path("s");
        let _server = start_at(on, &path, mode, HandlerThread::Local).expect("a server");
        let data = fs::symlink_metadata(&path).expect("a file");
        assert!(data.file_type().is_socket());
        assert_eq!(data.permissions().mode() & 0o7777, expected);
        // The directory has no other file.
        assert_eq!(fs::read_dir(scratch.as_path()).expect("a directory").count(), 1);
    }
}

fn stale_socket_file_is_replaced(on: &Adapter) {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(UnixStream::connect(&path).is_err(), "nobody listens");
    let _server = start(on, &path).expect("a server");
    Stream::open(address(&path)).check_alive("in the place of another");
    assert_eq!(fs::read_dir(scratch.as_path()).expect("a directory").count(), 1);
}

fn socket_in_use_is_an_error(on: &Adapter) {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let server = start(on, &path).expect("a server");
    let mut stream = Stream::open(address(&path));
    for _ in 0..3 {
        let error = start(on, &path).expect_err("it is in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        let told = error.to_string();
        assert!(told.contains("is listening on") && told.contains(&*path.to_string_lossy()));
    }
    stream.check_alive("beside those that failed");
    Stream::open(address(&path)).check_alive("still found");
    drop(server);

    // A server that hangs and accepts no connection: its backlog is full.
    let hangs = UnixListener::bind(&path).expect("a socket");
    let mut waiting = Vec::new();
    loop {
        let connect = async_io::Async::<UnixStream>::connect(&path);
        let mut connect = Box::pin(connect);
        let connected = futures_lite::future::poll_once(&mut connect);
        match futures_lite::future::block_on(connected) {
            Some(Ok(stream)) => waiting.push(stream),
            Some(Err(_)) | None => break,
        }
        assert!(waiting.len() < 10_000, "a backlog without an end");
    }
    let error = start(on, &path).expect_err("it is in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    drop((hangs, waiting));
}

fn path_that_is_no_socket_is_an_error(on: &Adapter) {
    let scratch = Scratch::new();
    let check = |path: &Path| {
        let error = start(on, path).expect_err("something is there");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(error.to_string().contains("is not a socket"), "{error}");
        assert!(exists(path));
    };
    let file = scratch.file("file", "precious");
    check(&file);
    assert_eq!(fs::read(&file).expect("a file"), b"precious");
    let directory = scratch.path("directory");
    fs::create_dir(&directory).expect("a directory");
    check(&directory);
    // A symbolic link is not followed, whatever its target is.
    let stale = scratch.path("stale");
    drop(UnixListener::bind(&stale).expect("a socket"));
    let link = scratch.path("link");
    symlink(&stale, &link).expect("a link");
    check(&link);
    assert!(exists(&stale));
    let dangling = scratch.path("dangling");
    symlink(scratch.path("nothing"), &dangling).expect("a link");
    check(&dangling);
    // A datagram socket cannot be probed for a listener.
    let datagram = scratch.path("datagram");
    drop(UnixDatagram::bind(&datagram).expect("a socket"));
    start(on, &datagram).err();
}

fn dropped_server_removes_its_socket_file(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        for _ in 0..2 {
            let mut server = start_at(on, &path, None, handler_thread).expect("a server");
            let mut stream = Stream::open(address(&path));
            server.drop_future();
            server.wait_for_end();
            stream.client.wait_for_end();
            wait_until("the file is gone", || !exists(&path));
        }
    }
}

fn replaced_socket_file_is_not_removed(on: &Adapter) {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let mut server = start(on, &path).expect("a server");
    // The file is removed while the server runs.
    fs::remove_file(&path).expect("a file");
    let successor = start(on, &path).expect("a server");
    server.shutdown();
    server.wait_for_end();
    Stream::open(address(&path)).check_alive("the successor");
    drop(successor);
    assert!(!exists(&path));
}

fn invalid_socket_paths_are_errors(on: &Adapter) {
    let scratch = Scratch::new();
    let error = start(on, &scratch.path("no/s")).expect_err("no directory");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("/no"), "{error}");
    let long = scratch.path(&"s".repeat(120));
    let error = start(on, &long).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_eq!(fs::read_dir(scratch.as_path()).expect("a directory").count(), 0);
}

fn tls_on_unix_socket_is_unsupported(on: &Adapter) {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    for handler_thread in HandlerThread::ALL {
        let listen = Listen::UnixTls(path.clone(), Certificate::new().tls());
        let server = RunningServer::try_start(
            on,
            listen,
            handler_thread,
            Config::default(),
            handlers::echo(),
        );
        let error = server.expect("it binds").expect_failure();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        wait_until("the file is gone", || !exists(&path));
    }
}
