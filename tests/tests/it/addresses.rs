//! Servers that listen on several addresses: clients see one server at each address.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

use mcp_sse_core::{Config, Frame};
use mcp_sse_driver::Tls;
use mcp_sse_tests::adapter::{Adapter, HandlerThread, Listen, RunningServer};
use mcp_sse_tests::certificate::Certificate;
use mcp_sse_tests::client::{Client, ServerAddress, Stream, answer, call};
use mcp_sse_tests::{finish, for_each_adapter, handlers, limits, timeouts, wait_until};

for_each_adapter!(
    server_at_two_addresses_is_one_server,
    connection_limit_counts_all_addresses,
    tls_is_spoken_at_every_address,
    address_in_use_among_several_is_an_error,
);

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Loopback addresses of IPv4 and IPv6, or two of IPv4 if the machine has no IPv6.
fn addresses() -> [IpAddr; 2] {
    let v4 = Ipv4Addr::LOCALHOST.into();
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => [v4, Ipv6Addr::LOCALHOST.into()],
        Err(error) => {
            println!("127.0.0.2 instead of ::1: {error}");
            [v4, Ipv4Addr::new(127, 0, 0, 2).into()]
        }
    }
}

fn at(port: u16) -> Vec<SocketAddr> {
    addresses().into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

fn start(
    on: &Adapter,
    workers: usize,
    handler_thread: HandlerThread,
    config: Config,
    tls: Option<Tls>,
) -> (RunningServer, Vec<SocketAddr>) {
    let listen = Listen::BindAll(at(0), tls);
    let what = handlers::echo();
    let server =
        RunningServer::try_start_workers(on, listen, workers, handler_thread, config, what);
    let server = server.expect("a server");
    let all = at(server.address().port());
    (server, all)
}

/// Numbers of workers and threads of handlers: one worker with each thread, and several workers
/// with a socket for each worker and address.
const KINDS: [(usize, HandlerThread); 3] =
    [(1, HandlerThread::Local), (1, HandlerThread::Own), (3, HandlerThread::Local)];

fn server_at_two_addresses_is_one_server(on: &Adapter) {
    for (workers, handler_thread) in KINDS {
        let config = timeouts(|t| t.shutdown_grace = Some(Duration::from_millis(200)));
        let (mut server, all) =
            start(on, workers, handler_thread, config.build().expect("good"), None);
        let mut streams: Vec<Stream> = all.iter().map(|&address| Stream::open(address)).collect();
        // Posts reach a session by each address.
        for (n, &address) in all.iter().enumerate() {
            for stream in &mut streams {
                let mut poster = Client::connect(address);
                assert_eq!(poster.ask(stream.post_request(&call(n, "[]"))).status, 202);
                assert_eq!(stream.message(), answer(n, "[]"));
            }
        }
        let note = Frame::message(br#"{"jsonrpc":"2.0","method":"n"}"#).expect("JSON");
        let reach = finish("a broadcast", server.handle().broadcast(note)).expect("it runs");
        assert_eq!(reach.queued, 2, "{workers} workers");
        streams.iter_mut().for_each(|stream| assert!(stream.message().contains("\"n\"")));
        server.shutdown();
        streams.iter_mut().for_each(|stream| stream.client.wait_for_end());
        server.wait_for_end();
        for address in all {
            let error = TcpStream::connect(address).expect_err("nobody listens any more");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    }
}

fn connection_limit_counts_all_addresses(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let config = limits(|l| l.connections_max = Some(2)).build().expect("good");
        let (server, all) = start(on, 1, handler_thread, config, None);
        let mut clients: Vec<Client> =
            all.iter().map(|&address| Client::connect(address)).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.ask(READY).status, 200));
        let mut waiting: Vec<Client> =
            all.iter().map(|&address| Client::connect(address)).collect();
        waiting.iter_mut().for_each(|client| client.send(READY));
        // The server takes many turns, and accepts none of the waiting connections.
        for _ in 0..50 {
            assert_eq!(clients[0].ask(READY).status, 200);
        }
        assert!(!waiting.iter().any(Client::has_input));
        assert_eq!(server.metrics().connections_accepted, 2);
        // Both waiting connections are accepted.
        drop(clients);
        waiting.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
        wait_until("the others have left", || server.metrics().connections_open() == 2);
    }
}

fn tls_is_spoken_at_every_address(on: &Adapter) {
    let certificate = Certificate::new();
    for (workers, handler_thread) in KINDS {
        let tls = certificate.tls();
        let (_server, all) = start(on, workers, handler_thread, Config::default(), Some(tls));
        for address in all {
            Stream::open(ServerAddress::Tls(address, certificate.client(&[])))
                .check_alive("over TLS");
        }
    }
}

fn address_in_use_among_several_is_an_error(on: &Adapter) {
    let [_, second] = addresses();
    let other = TcpListener::bind((second, 0)).expect("a free port");
    let port = other.local_addr().expect("its address").port();
    let listen = Listen::BindAll(at(port), None);
    let (config, what) = (Config::default(), handlers::echo());
    let error = RunningServer::try_start(on, listen, HandlerThread::Local, config, what)
        .expect_err("in use");
    // The same port of the first address may be in use too, by another program.
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    assert!(error.to_string().contains(&format!(":{port}: ")), "{error}");
}
