//! TLS: the same HTTP after the handshake, and everything that can go wrong before.

use core::time::Duration;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use mcp_sse_core::{CloseReason, Config};
use mcp_sse_driver::Tls;
use mcp_sse_tests::adapter::{Adapter, HandlerThread, Listen, RunningServer};
use mcp_sse_tests::certificate::Certificate;
use mcp_sse_tests::client::{Client, ServerAddress, Stream, answer, call, health};
use mcp_sse_tests::conformance::fairness::BusyHandlers;
use mcp_sse_tests::scratch::Scratch;
use mcp_sse_tests::{PATIENCE, for_each_adapter, handlers, wait_until};
use rustls::{ClientConfig, ClientConnection, ServerConfig, StreamOwned, version};

use crate::{limits, timeouts};

for_each_adapter!(
    tls_serves_sessions,
    large_messages_pass_tls_both_ways,
    alpn_selects_http_1_1,
    handshake_byte_by_byte_succeeds,
    plain_http_on_a_tls_port_is_400,
    silent_connections_are_closed_at_the_deadline,
    slow_handshakes_are_closed_at_the_deadline,
    disconnect_during_handshake_frees_the_connection,
    malformed_handshakes_are_closed,
    handshakes_count_as_connections,
    concurrent_handshakes_do_not_block_a_session,
    end_of_input_with_or_without_close_notify_is_handled,
    stalled_tls_reader_is_closed,
    shutdown_closes_tls_connections_in_order,
    target_scheme_must_match_tls,
    posts_are_read_while_handlers_are_always_ready,
    replaced_certificate_is_that_of_every_later_handshake,
);

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A TLS server with its certificate and address.
struct TlsFixture {
    server: RunningServer,
    certificate: Certificate,
    address: ServerAddress,
}

impl TlsFixture {
    fn new(on: &Adapter, config: Config) -> Self {
        Self::at(on, HandlerThread::Local, config, handlers::echo())
    }

    fn at(
        on: &Adapter,
        handler_thread: HandlerThread,
        config: Config,
        handler: mcp_sse_tests::adapter::Handler,
    ) -> Self {
        let certificate = Certificate::new();
        let server =
            RunningServer::start_tls(on, certificate.tls(), handler_thread, config, handler);
        let address = ServerAddress::Tls(server.address(), certificate.client(&[]));
        Self { server, certificate, address }
    }

    /// Opens a TCP connection without TLS.
    #[track_caller]
    fn raw(&self) -> Client {
        Client::connect(self.server.address())
    }

    #[track_caller]
    fn check_alive(&self, case: &str) {
        let mut client = Client::connect(&self.address);
        assert_eq!(client.ask(READY).status, 200, "{case}");
    }

    #[track_caller]
    fn wait_for_connections(&self, count: u64) {
        let what = format!("{count} connections");
        wait_until(&what, || self.server.metrics().connections_open() == count);
    }
}

/// The first bytes of a client's handshake.
fn hello(config: Arc<ClientConfig>) -> (ClientConnection, Vec<u8>) {
    let name = "localhost".try_into().expect("a name");
    let mut connection = ClientConnection::new(config, name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a hello");
    (connection, bytes)
}

fn tls_serves_sessions(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let fixture = TlsFixture::at(on, handler_thread, Config::default(), handlers::echo());
        for version in [&version::TLS12, &version::TLS13] {
            let client = fixture.certificate.client_of(&[version], &[]);
            let mut stream = Stream::open(ServerAddress::Tls(fixture.server.address(), client));
            assert_eq!(stream.client.tls().protocol_version(), Some(version.version));
            for _ in 0..10 {
                stream.check_alive("over TLS");
            }
            let mut beside = Stream::open(&fixture.address);
            beside.check_alive("beside another");
            drop(beside);
            wait_until("one is left", || health(&fixture.address).sessions == 1);
            stream.check_alive("when another has left");
            drop(stream);
            wait_until("all have left", || health(&fixture.address).sessions == 0);
        }
    }
}

fn large_messages_pass_tls_both_ways(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    let mut stream = Stream::open(&fixture.address);
    let params = format!("\"{}\"", "0123456789abcdef".repeat(200_000));
    for n in 0..4 {
        assert_eq!(stream.post(&call(n, &params)).status, 202);
    }
    // The frames are written before they are read, so the sockets' buffers are full in between.
    for n in 0..4 {
        assert_eq!(stream.message(), answer(n, &params));
    }
    stream.check_alive("afterwards");
}

fn alpn_selects_http_1_1(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    let check = |fixture: &TlsFixture, offered: &[&str], chosen: Option<&str>| {
        let client = fixture.certificate.client(offered);
        let mut client = Client::connect(ServerAddress::Tls(fixture.server.address(), client));
        assert_eq!(client.ask(READY).status, 200, "{offered:?}");
        assert_eq!(client.tls().alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
    };
    check(&fixture, &[], None);
    check(&fixture, &["http/1.1"], Some("http/1.1"));
    check(&fixture, &["h2", "http/1.1"], Some("http/1.1"));
    // A client that offers only HTTP/2 gets an alert.
    let client = fixture.certificate.client(&["h2"]);
    let mut client = Client::connect(ServerAddress::Tls(fixture.server.address(), client));
    let error = client.try_send(READY).expect_err("no protocol in common");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");

    // A configuration of the application, with a protocol that the server does not implement.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(fixture.certificate.key_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![fixture.certificate.der()], key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = Tls::from_config(Arc::new(config));
    let server = RunningServer::start_tls(
        on,
        tls,
        HandlerThread::Local,
        Config::default(),
        handlers::echo(),
    );
    check(&TlsFixture { server, ..fixture }, &["h2", "http/1.1"], Some("http/1.1"));
}

fn handshake_byte_by_byte_succeeds(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    let (connection, bytes) = hello(fixture.certificate.client(&[]));
    let mut socket = TcpStream::connect(fixture.server.address()).expect("a connection");
    socket.set_nodelay(true).expect("no delay");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for byte in bytes {
        socket.write_all(&[byte]).expect("the server reads");
    }
    let mut client = Client::from(StreamOwned::new(connection, socket));
    assert_eq!(client.ask(READY).status, 200);
}

fn plain_http_on_a_tls_port_is_400(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    let mut stream = Stream::open(&fixture.address);
    let post = stream.post_request(&call(1, &format!("\"{}\"", "x".repeat(40_000))));
    for request in [READY.as_bytes(), &post, b"\r\n", b"G", b"\x80\x2e\x01\x00\x02"] {
        let case = request[..request.len().min(20)].escape_ascii();
        let mut client = fixture.raw();
        client.send(request);
        let response = client.response();
        assert_eq!(response.status, 400, "{case}");
        assert!(response.text().contains("this port speaks TLS"), "{response:?}");
        assert_eq!(response.field("Connection"), Some("close"), "{response:?}");
        assert_eq!(response.field("Content-Type"), Some("text/plain"), "{response:?}");
        assert!(response.field("Date").is_some(), "{response:?}");
        client.expect_end();
    }
    stream.check_alive("afterwards");
    fixture.wait_for_connections(2);
}

fn silent_connections_are_closed_at_the_deadline(on: &Adapter) {
    let deadline = Duration::from_secs(1);
    let fixture = TlsFixture::new(on, timeouts(|t| t.head = Some(deadline)).build().expect("good"));
    let mut stream = Stream::open(&fixture.address);
    let start = Instant::now();
    let mut silent: Vec<_> = (0..20).map(|_| fixture.raw()).collect();
    for client in &mut silent {
        client.expect_end();
    }
    assert!(start.elapsed() >= deadline, "{:?}", start.elapsed());
    stream.check_alive("afterwards");
    // A client without TLS that got its refusal and does not close.
    let mut plain = fixture.raw();
    plain.send(READY);
    assert_eq!(plain.response().status, 400);
    wait_until("it is gone", || plain.try_send("x").is_err());
}

fn slow_handshakes_are_closed_at_the_deadline(on: &Adapter) {
    let deadline = Duration::from_secs(1);
    let fixture = TlsFixture::new(on, timeouts(|t| t.head = Some(deadline)).build().expect("good"));
    let (_, bytes) = hello(fixture.certificate.client(&[]));
    let start = Instant::now();
    for length in [1, 5, 6, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
        let mut client = fixture.raw();
        client.send(&bytes[..length]);
        client.wait_for_end();
    }
    assert!(start.elapsed() >= 6 * deadline, "{:?}", start.elapsed());
    // A complete handshake without a request has the same deadline.
    let (connection, bytes) = hello(fixture.certificate.client(&[]));
    let mut socket = TcpStream::connect(fixture.server.address()).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(&bytes).expect("the server reads");
    let mut client = Client::from(StreamOwned::new(connection, socket));
    client.expect_end();
    fixture.wait_for_connections(0);
}

fn disconnect_during_handshake_frees_the_connection(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    let mut stream = Stream::open(&fixture.address);
    let (_, bytes) = hello(fixture.certificate.client(&[]));
    for length in [0, 1, 5, bytes.len() / 2, bytes.len()] {
        let mut ends = fixture.raw();
        ends.send(&bytes[..length]);
        ends.end();
        ends.wait_for_end();
        let mut leaves = fixture.raw();
        leaves.send(&bytes[..length]);
        drop(leaves);
    }
    // A client that does not trust the certificate sends an alert.
    let stranger = Certificate::new().client(&[]);
    let mut client = Client::connect(ServerAddress::Tls(fixture.server.address(), stranger));
    client.try_send(READY).expect_err("a certificate that nobody knows");
    drop(client);
    fixture.wait_for_connections(1);
    stream.check_alive("afterwards");
}

fn malformed_handshakes_are_closed(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    let (_, mut bytes) = hello(fixture.certificate.client(&[]));
    bytes[9] ^= 0xff;
    for nonsense in [&[0x16; 100][..], b"\x16GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\0", &bytes] {
        let mut client = fixture.raw();
        client.send(nonsense);
        client.end();
        client.wait_for_end();
    }
    fixture.wait_for_connections(0);
    fixture.check_alive("afterwards");
}

fn handshakes_count_as_connections(on: &Adapter) {
    let config = limits(|l| l.connections_max = Some(4)).build().expect("good");
    let fixture = TlsFixture::new(on, config);
    let mut stream = Stream::open(&fixture.address);
    stream.check_alive("the connection for posts");
    let (_, bytes) = hello(fixture.certificate.client(&[]));
    let silent = fixture.raw();
    let mut half = fixture.raw();
    half.send(&bytes[..20]);
    fixture.wait_for_connections(4);
    let (connection, bytes) = hello(fixture.certificate.client(&[]));
    let mut socket = TcpStream::connect(fixture.server.address()).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(&bytes).expect("the backlog");
    // The waiting connection blocks no other.
    for _ in 0..50 {
        stream.check_alive("beside handshakes that hang");
    }
    assert_eq!(fixture.server.metrics().connections_accepted, 4);
    drop(silent);
    let mut waiting = Client::from(StreamOwned::new(connection, socket));
    assert_eq!(waiting.ask(READY).status, 200);
}

fn concurrent_handshakes_do_not_block_a_session(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    let mut stream = Stream::open(&fixture.address);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let address = &fixture.address;
            scope.spawn(move || {
                for _ in 0..20 {
                    assert_eq!(Client::connect(address).ask(READY).status, 200, "among many");
                }
            });
        }
        for _ in 0..50 {
            stream.check_alive("beside many handshakes");
        }
    });
    fixture.wait_for_connections(2);
}

fn end_of_input_with_or_without_close_notify_is_handled(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    // A client that ends its side after a request gets its response, whether it ends TLS or only
    // TCP.
    let mut ends = Client::connect(&fixture.address);
    ends.send(READY);
    ends.end();
    assert_eq!(ends.response().status, 200);
    ends.expect_end();
    let mut stops = Client::connect(&fixture.address);
    stops.send(READY);
    stops.end_tcp();
    assert_eq!(stops.response().status, 200);
    stops.expect_end();
    // An incomplete body is no message, either way.
    let stream = Stream::open(&fixture.address);
    let post = stream.post_request(&call(1, "[]"));
    for end in [Client::end, Client::end_tcp] {
        let mut client = Client::connect(&fixture.address);
        client.send(&post[..post.len() - 1]);
        end(&mut client);
        client.wait_for_end();
    }
    assert_eq!(fixture.server.metrics().messages_received, 0);
    // A stream ends if its client ends either way.
    for end in [Client::end, Client::end_tcp] {
        let mut stream = Stream::open(&fixture.address);
        end(&mut stream.client);
        stream.client.wait_for_end();
    }
    wait_until("one is left", || fixture.server.metrics().sessions_open() == 1);
}

/// Encrypted bytes that are not sent do not count as written; otherwise no client would ever stall.
fn stalled_tls_reader_is_closed(on: &Adapter) {
    let config = timeouts(|t| t.stall = Some(Duration::from_millis(300))).build().expect("good");
    for handler_thread in HandlerThread::ALL {
        let (sender, sessions) = mpsc::channel();
        let fixture = TlsFixture::at(on, handler_thread, config.clone(), handlers::give(sender));
        let mut other = Stream::open(&fixture.address);
        let other_session = sessions.recv_timeout(PATIENCE).expect("a session");
        let stream = Stream::open(&fixture.address);
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        // More than the sockets' buffers hold.
        let text = format!("\"{}\"", "x".repeat(30 << 20));
        mcp_sse_tests::finish("room", session.send(handlers::response("1", &text))).expect("open");
        wait_until("it has stalled", || session.closed().is_some());
        let closed = session.closed().expect("closed");
        assert_eq!((closed.reason, closed.frames_undelivered), (CloseReason::Stalled, 1));
        mcp_sse_tests::finish("room", other_session.send(handlers::response("1", "2")))
            .expect("open");
        assert_eq!(other.message(), answer("1", "2"));
        drop(stream);
    }
}

fn shutdown_closes_tls_connections_in_order(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let mut fixture = TlsFixture::at(on, handler_thread, Config::default(), handlers::echo());
        let mut streams: Vec<_> = (0..10).map(|_| Stream::open(&fixture.address)).collect();
        let mut keep_alive = Client::connect(&fixture.address);
        assert_eq!(keep_alive.ask(READY).status, 200);
        let mut silent = fixture.raw();
        let (_, bytes) = hello(fixture.certificate.client(&[]));
        let mut half = fixture.raw();
        half.send(&bytes[..bytes.len() / 2]);
        fixture.wait_for_connections(13);
        fixture.server.shutdown();
        for stream in &mut streams {
            // The terminating chunk, `close_notify` and the end of TCP come in this order.
            stream.expect_end();
        }
        keep_alive.expect_end();
        silent.wait_for_end();
        half.wait_for_end();
        fixture.server.wait_for_end();
    }
}

fn target_scheme_must_match_tls(on: &Adapter) {
    let fixture = TlsFixture::new(on, Config::default());
    for (target, status) in [
        ("https://localhost/ready", 200),
        ("HTTPS://127.0.0.1:1/ready", 200),
        ("http://localhost/ready", 421),
        ("https://evil.example/messages", 403),
    ] {
        let mut client = Client::connect(&fixture.address);
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.ask(request).status, status, "{target}");
    }
}

#[test]
fn unusable_pem_files_are_errors() {
    let scratch = Scratch::new();
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let cert = scratch.file("cert.pem", certificate.pem());
    let key = scratch.file("key.pem", certificate.key_pem());
    let both = scratch.file("both.pem", certificate.pem() + &certificate.key_pem());
    let other_key = scratch.file("other-key.pem", other.key_pem());
    let chain = scratch.file("chain.pem", certificate.pem() + &other.pem());
    let empty = scratch.file("empty.pem", "");
    let text = scratch.file("text.pem", "This is not PEM.\n");
    let missing = scratch.path("missing.pem");
    let directory = scratch.as_path().to_path_buf();
    let half = &certificate.pem()[..100];
    let half_cert = scratch.file("half.pem", half);
    let key_lines = certificate.key_pem();
    let half_key = scratch.file("half-key.pem", &key_lines[..80]);
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let not_der = scratch.file("not-der.pem", not_der);
    let not_a_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let not_a_key = scratch.file("not-a-key.pem", not_a_key);
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = scratch.file("locked.pem", locked);

    for (cert, key) in [(&cert, &key), (&both, &both), (&chain, &key)] {
        Tls::from_pem_files(cert, key).expect("good files");
    }
    for (cert, key, blamed, said) in [
        (&missing, &key, &missing, "cannot be read: No such file"),
        (&cert, &missing, &missing, "cannot be read: No such file"),
        (&directory, &key, &directory, "cannot be read"),
        (&empty, &key, &empty, "has no certificate in it"),
        (&text, &key, &text, "has no certificate in it"),
        (&key, &cert, &key, "has no certificate in it"),
        (&cert, &empty, &empty, "has no private key in it"),
        (&cert, &cert, &cert, "has no private key in it"),
        (&half_cert, &key, &half_cert, "is not sound PEM: a section does not end"),
        (&cert, &half_key, &half_key, "is not sound PEM: a section does not end"),
        (&not_der, &key, &not_der, "cannot be used"),
        (&cert, &not_a_key, &not_a_key, "cannot be used"),
        (&cert, &locked, &locked, "is encrypted"),
        (&cert, &other_key, &other_key, "does not belong to the certificate in"),
    ] {
        let error = Tls::from_pem_files(cert, key).expect_err(said);
        let told = error.to_string();
        assert!(told.contains(said), "{said}: {told}");
        assert!(told.contains(&*blamed.to_string_lossy()), "{said}: {told}");
        assert_eq!(error.path(), blamed, "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        // No part of a key is printed.
        let secret = key_lines.lines().nth(1).expect("a line");
        assert!(!told.contains(&secret[..8]) && !format!("{error:?}").contains(&secret[..8]));
    }
    let source = Tls::from_pem_files(&missing, &key).expect_err("nothing is there");
    let source =
        core::error::Error::source(&source).and_then(|e| e.downcast_ref::<std::io::Error>());
    assert_eq!(source.map(std::io::Error::kind), Some(ErrorKind::NotFound));
}

/// Fairness holds for the first byte, by which the server recognises TLS, and for everything after
/// it.
fn posts_are_read_while_handlers_are_always_ready(on: &Adapter) {
    let (busy, handler) = BusyHandlers::new();
    let fixture = TlsFixture::at(on, HandlerThread::Local, Config::default(), handler);
    let idle = TlsFixture::new(on, Config::default());
    busy.check_posts(&fixture.address);
    idle.check_alive("beside a busy thread");
}

/// A TLS connection from before goes on. A client that trusts the old certificate alone is not let through by a
/// resumed session.
fn replaced_certificate_is_that_of_every_later_handshake(on: &Adapter) {
    for workers in [1, 3] {
        let (first, second) = (Certificate::new(), Certificate::new());
        let tls = first.tls();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = RunningServer::try_start_workers(
            on,
            Listen::Tls(socket, tls.clone()),
            workers,
            HandlerThread::Local,
            Config::default(),
            handlers::echo(),
        );
        let server = server.expect("a server");
        let trusting =
            |config: &Arc<ClientConfig>| ServerAddress::Tls(server.address(), config.clone());
        let (of_first, of_second) = (first.client(&[]), second.client(&[]));
        let mut stream = Stream::open(trusting(&of_first));
        // The client gets tickets with the first answer.
        stream.check_alive("before");
        tls.replace(&second.tls());
        for _ in 0..2 * workers {
            let mut client = Client::connect(trusting(&of_second));
            assert_eq!(client.ask(READY).status, 200);
            let name = "localhost".try_into().expect("a name");
            let connection = ClientConnection::new(of_first.clone(), name).expect("a connection");
            let tcp = TcpStream::connect(server.address()).expect("the server listens");
            tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut late = StreamOwned::new(connection, tcp);
            let refused = late.write_all(READY.as_bytes()).expect_err("another certificate");
            assert!(refused.to_string().contains("certificate"), "{refused}");
        }
        // Its posts need new connections, whose certificate it does not trust, so only the stream is used.
        server.shutdown();
        stream.expect_end();
    }
}
