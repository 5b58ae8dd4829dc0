//! TLS: that it is HTTP as ever behind the handshake, and everything that can go wrong before.

use core::time::Duration;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use mcp_sse_core::{CloseReason, Config};
use mcp_sse_driver::Tls;
use mcp_sse_tests::adapter::{Adapter, Place, Server};
use mcp_sse_tests::certificate::Certificate;
use mcp_sse_tests::client::{Client, Stream, Way, answer, call, health};
use mcp_sse_tests::conformance::fairness::Busy;
use mcp_sse_tests::scratch::Scratch;
use mcp_sse_tests::{PATIENCE, for_each_adapter, handlers, wait_until};
use rustls::{ClientConfig, ClientConnection, ServerConfig, StreamOwned, version};

use crate::{limits, timeouts};

for_each_adapter!(
    sessions,
    large_messages_both_ways,
    protocols,
    a_handshake_in_crumbs,
    who_speaks_http_is_told,
    the_silent_are_dropped,
    the_slow_are_dropped,
    who_leaves_in_the_middle,
    nonsense,
    handshakes_count_as_connections,
    many_handshakes,
    ends_of_input,
    a_reader_that_stalls,
    shutdown,
    the_scheme_of_a_target,
    posts_are_read_while_handlers_are_always_ready,
);

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A TLS server, and how to get to it.
struct House {
    server: Server,
    certificate: Certificate,
    way: Way,
}

impl House {
    fn new(on: &Adapter, config: Config) -> Self {
        Self::at(on, Place::Local, config, handlers::echo())
    }

    fn at(
        on: &Adapter,
        place: Place,
        config: Config,
        handler: mcp_sse_tests::adapter::Handler,
    ) -> Self {
        let certificate = Certificate::new();
        let server = Server::start_tls(on, certificate.tls(), place, config, handler);
        let way = Way::Tls(server.address(), certificate.client(&[]));
        Self { server, certificate, way }
    }

    /// A connection on which nothing was said, not even a TLS hello.
    #[track_caller]
    fn raw(&self) -> Client {
        Client::connect(self.server.address())
    }

    #[track_caller]
    fn check_alive(&self, case: &str) {
        let mut client = Client::connect(&self.way);
        assert_eq!(client.ask(READY).status, 200, "{case}");
    }

    #[track_caller]
    fn wait_for_connections(&self, count: u64) {
        let what = format!("{count} connections");
        wait_until(&what, || self.server.metrics().connections_open() == count);
    }
}

/// A client's first flight.
fn hello(config: Arc<ClientConfig>) -> (ClientConnection, Vec<u8>) {
    let name = "localhost".try_into().expect("a name");
    let mut connection = ClientConnection::new(config, name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a hello");
    (connection, bytes)
}

fn sessions(on: &Adapter) {
    for place in Place::ALL {
        let house = House::at(on, place, Config::default(), handlers::echo());
        for version in [&version::TLS12, &version::TLS13] {
            let client = house.certificate.client_of(&[version], &[]);
            let mut stream = Stream::open(Way::Tls(house.server.address(), client));
            assert_eq!(stream.client.tls().protocol_version(), Some(version.version));
            for _ in 0..10 {
                stream.check_alive("over TLS");
            }
            let mut beside = Stream::open(&house.way);
            beside.check_alive("beside another");
            drop(beside);
            wait_until("one is left", || health(&house.way).sessions == 1);
            stream.check_alive("when another has left");
            drop(stream);
            wait_until("all have left", || health(&house.way).sessions == 0);
        }
    }
}

fn large_messages_both_ways(on: &Adapter) {
    let house = House::new(on, Config::default());
    let mut stream = Stream::open(&house.way);
    let params = format!("\"{}\"", "0123456789abcdef".repeat(200_000));
    for n in 0..4 {
        assert_eq!(stream.post(&call(n, &params)).status, 202);
    }
    // Written before it is read: the sockets are full in between.
    for n in 0..4 {
        assert_eq!(stream.message(), answer(n, &params));
    }
    stream.check_alive("afterwards");
}

fn protocols(on: &Adapter) {
    let house = House::new(on, Config::default());
    let check = |house: &House, offered: &[&str], chosen: Option<&str>| {
        let client = house.certificate.client(offered);
        let mut client = Client::connect(Way::Tls(house.server.address(), client));
        assert_eq!(client.ask(READY).status, 200, "{offered:?}");
        assert_eq!(client.tls().alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
    };
    check(&house, &[], None);
    check(&house, &["http/1.1"], Some("http/1.1"));
    check(&house, &["h2", "http/1.1"], Some("http/1.1"));
    // Who can do nothing else is told so.
    let client = house.certificate.client(&["h2"]);
    let mut client = Client::connect(Way::Tls(house.server.address(), client));
    let error = client.try_send(READY).expect_err("no protocol in common");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");

    // A configuration made elsewhere, with a protocol that is not spoken here.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(house.certificate.key_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![house.certificate.der()], key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = Tls::from_config(Arc::new(config));
    let server = Server::start_tls(on, tls, Place::Local, Config::default(), handlers::echo());
    check(&House { server, ..house }, &["h2", "http/1.1"], Some("http/1.1"));
}

fn a_handshake_in_crumbs(on: &Adapter) {
    let house = House::new(on, Config::default());
    let (connection, bytes) = hello(house.certificate.client(&[]));
    let mut socket = TcpStream::connect(house.server.address()).expect("a connection");
    socket.set_nodelay(true).expect("no delay");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for byte in bytes {
        socket.write_all(&[byte]).expect("the server reads");
    }
    let mut client = Client::from(StreamOwned::new(connection, socket));
    assert_eq!(client.ask(READY).status, 200);
}

fn who_speaks_http_is_told(on: &Adapter) {
    let house = House::new(on, Config::default());
    let mut stream = Stream::open(&house.way);
    let post = stream.post_request(&call(1, &format!("\"{}\"", "x".repeat(40_000))));
    for request in [READY.as_bytes(), &post, b"\r\n", b"G", b"\x80\x2e\x01\x00\x02"] {
        let case = request[..request.len().min(20)].escape_ascii();
        let mut client = house.raw();
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
    house.wait_for_connections(2);
}

fn the_silent_are_dropped(on: &Adapter) {
    let deadline = Duration::from_secs(1);
    let house = House::new(on, timeouts(|t| t.head = Some(deadline)).build().expect("good"));
    let mut stream = Stream::open(&house.way);
    let start = Instant::now();
    let mut silent: Vec<_> = (0..20).map(|_| house.raw()).collect();
    for client in &mut silent {
        client.expect_end();
    }
    assert!(start.elapsed() >= deadline, "{:?}", start.elapsed());
    stream.check_alive("afterwards");
    // And who speaks no TLS, was told, and stays.
    let mut plain = house.raw();
    plain.send(READY);
    assert_eq!(plain.response().status, 400);
    wait_until("it is gone", || plain.try_send("x").is_err());
}

fn the_slow_are_dropped(on: &Adapter) {
    let deadline = Duration::from_secs(1);
    let house = House::new(on, timeouts(|t| t.head = Some(deadline)).build().expect("good"));
    let (_, bytes) = hello(house.certificate.client(&[]));
    let start = Instant::now();
    for length in [1, 5, 6, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
        let mut client = house.raw();
        client.send(&bytes[..length]);
        client.wait_for_end();
    }
    assert!(start.elapsed() >= 6 * deadline, "{:?}", start.elapsed());
    // A handshake that is complete, and no request behind it: the same deadline.
    let (connection, bytes) = hello(house.certificate.client(&[]));
    let mut socket = TcpStream::connect(house.server.address()).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(&bytes).expect("the server reads");
    let mut client = Client::from(StreamOwned::new(connection, socket));
    client.expect_end();
    house.wait_for_connections(0);
}

fn who_leaves_in_the_middle(on: &Adapter) {
    let house = House::new(on, Config::default());
    let mut stream = Stream::open(&house.way);
    let (_, bytes) = hello(house.certificate.client(&[]));
    for length in [0, 1, 5, bytes.len() / 2, bytes.len()] {
        let mut ends = house.raw();
        ends.send(&bytes[..length]);
        ends.end();
        ends.wait_for_end();
        let mut leaves = house.raw();
        leaves.send(&bytes[..length]);
        drop(leaves);
    }
    // The client that opened the stream does not trust another's certificate, and says so.
    let stranger = Certificate::new().client(&[]);
    let mut client = Client::connect(Way::Tls(house.server.address(), stranger));
    client.try_send(READY).expect_err("a certificate that nobody knows");
    drop(client);
    house.wait_for_connections(1);
    stream.check_alive("afterwards");
}

fn nonsense(on: &Adapter) {
    let house = House::new(on, Config::default());
    let (_, mut bytes) = hello(house.certificate.client(&[]));
    bytes[9] ^= 0xff;
    for nonsense in [&[0x16; 100][..], b"\x16GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\0", &bytes] {
        let mut client = house.raw();
        client.send(nonsense);
        client.end();
        client.wait_for_end();
    }
    house.wait_for_connections(0);
    house.check_alive("afterwards");
}

fn handshakes_count_as_connections(on: &Adapter) {
    let config = limits(|l| l.connections_max = Some(4)).build().expect("good");
    let house = House::new(on, config);
    let mut stream = Stream::open(&house.way);
    stream.check_alive("the connection for posts");
    let (_, bytes) = hello(house.certificate.client(&[]));
    let silent = house.raw();
    let mut half = house.raw();
    half.send(&bytes[..20]);
    house.wait_for_connections(4);
    let (connection, bytes) = hello(house.certificate.client(&[]));
    let mut socket = TcpStream::connect(house.server.address()).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(&bytes).expect("the backlog");
    // It waits, and holds up nobody.
    for _ in 0..50 {
        stream.check_alive("beside handshakes that hang");
    }
    assert_eq!(house.server.metrics().connections_accepted, 4);
    drop(silent);
    let mut waiting = Client::from(StreamOwned::new(connection, socket));
    assert_eq!(waiting.ask(READY).status, 200);
}

fn many_handshakes(on: &Adapter) {
    let house = House::new(on, Config::default());
    let mut stream = Stream::open(&house.way);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let way = &house.way;
            scope.spawn(move || {
                for _ in 0..20 {
                    assert_eq!(Client::connect(way).ask(READY).status, 200, "among many");
                }
            });
        }
        for _ in 0..50 {
            stream.check_alive("beside many handshakes");
        }
    });
    house.wait_for_connections(2);
}

fn ends_of_input(on: &Adapter) {
    let house = House::new(on, Config::default());
    // A client that ends its side behind a request gets its answer, whether it ends TLS or only TCP.
    let mut ends = Client::connect(&house.way);
    ends.send(READY);
    ends.end();
    assert_eq!(ends.response().status, 200);
    ends.expect_end();
    let mut stops = Client::connect(&house.way);
    stops.send(READY);
    stops.end_tcp();
    assert_eq!(stops.response().status, 200);
    stops.expect_end();
    // A body that is cut short is not one, either way.
    let stream = Stream::open(&house.way);
    let post = stream.post_request(&call(1, "[]"));
    for end in [Client::end, Client::end_tcp] {
        let mut client = Client::connect(&house.way);
        client.send(&post[..post.len() - 1]);
        end(&mut client);
        client.wait_for_end();
    }
    assert_eq!(house.server.metrics().messages_received, 0);
    // And a stream whose client ends either way is over.
    for end in [Client::end, Client::end_tcp] {
        let mut stream = Stream::open(&house.way);
        end(&mut stream.client);
        stream.client.wait_for_end();
    }
    wait_until("one is left", || house.server.metrics().sessions_open() == 1);
}

/// Bytes that are encrypted and cannot be sent are not written: otherwise nobody would stall.
fn a_reader_that_stalls(on: &Adapter) {
    let config = timeouts(|t| t.stall = Some(Duration::from_millis(300))).build().expect("good");
    for place in Place::ALL {
        let (sender, sessions) = mpsc::channel();
        let house = House::at(on, place, config.clone(), handlers::give(sender));
        let mut other = Stream::open(&house.way);
        let other_session = sessions.recv_timeout(PATIENCE).expect("a session");
        let stream = Stream::open(&house.way);
        let session = sessions.recv_timeout(PATIENCE).expect("a session");
        // More than the sockets take.
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

fn shutdown(on: &Adapter) {
    for place in Place::ALL {
        let mut house = House::at(on, place, Config::default(), handlers::echo());
        let mut streams: Vec<_> = (0..10).map(|_| Stream::open(&house.way)).collect();
        let mut keep_alive = Client::connect(&house.way);
        assert_eq!(keep_alive.ask(READY).status, 200);
        let mut silent = house.raw();
        let (_, bytes) = hello(house.certificate.client(&[]));
        let mut half = house.raw();
        half.send(&bytes[..bytes.len() / 2]);
        house.wait_for_connections(13);
        house.server.shutdown();
        for stream in &mut streams {
            // The terminating chunk, `close_notify`, and the end of TCP, in this order.
            stream.expect_end();
        }
        keep_alive.expect_end();
        silent.wait_for_end();
        half.wait_for_end();
        house.server.wait_for_end();
    }
}

fn the_scheme_of_a_target(on: &Adapter) {
    let house = House::new(on, Config::default());
    for (target, status) in [
        ("https://localhost/ready", 200),
        ("HTTPS://127.0.0.1:1/ready", 200),
        ("http://localhost/ready", 421),
        ("https://evil.example/messages", 403),
    ] {
        let mut client = Client::connect(&house.way);
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.ask(request).status, status, "{target}");
    }
}

#[test]
fn files_that_cannot_be_used() {
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
        // Nothing of a key is ever told.
        let secret = key_lines.lines().nth(1).expect("a line");
        assert!(!told.contains(&secret[..8]) && !format!("{error:?}").contains(&secret[..8]));
    }
    let source = Tls::from_pem_files(&missing, &key).expect_err("nothing is there");
    let source =
        core::error::Error::source(&source).and_then(|e| e.downcast_ref::<std::io::Error>());
    assert_eq!(source.map(std::io::Error::kind), Some(ErrorKind::NotFound));
}

/// The first byte, which says whether it is TLS, and all that comes behind it.
fn posts_are_read_while_handlers_are_always_ready(on: &Adapter) {
    let (busy, handler) = Busy::new();
    let house = House::at(on, Place::Local, Config::default(), handler);
    let idle = House::new(on, Config::default());
    busy.check_posts(&house.way);
    idle.check_alive("beside a busy thread");
}
