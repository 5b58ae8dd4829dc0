//! Spurious wake-ups: a task is woken and finds nothing to do.

use std::net::TcpListener;
use std::thread;

use mcp_sse_core::Config;

use crate::adapter::{Adapter, Fixture, HandlerThread, Listen, RunningServer};
use crate::client::{Client, Stream};
use crate::{finish, handlers, wait_until};

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Urgent data makes a socket ready without anything to read.
pub fn urgent_data_is_not_input(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let before = fixture.server.metrics().bytes_received;
    let mut client = Client::connect(fixture.server.address());
    for (n, piece) in READY.as_bytes().chunks(7).enumerate() {
        client.send(piece);
        // The piece is read before urgent data follows, because a read stops at urgent data and
        // would look like a short one.
        let read = before + READY.len().min(7 * (n + 1)) as u64;
        wait_until("it was read", || fixture.server.metrics().bytes_received == read);
        if read < before + READY.len() as u64 {
            client.send_urgent();
            assert_eq!(fixture.server.metrics().bytes_received, read);
        }
    }
    assert_eq!(client.response().status, 200);
    client.send_urgent();
    fixture.other_session.check_alive("beside urgent data");
    let received = fixture.server.metrics().bytes_received;
    for _ in 0..20 {
        fixture.other_session.client.send_urgent();
        assert_eq!(fixture.server.metrics().bytes_received, received);
    }
    fixture.other_session.check_alive("with urgent data on its stream");
    assert_eq!(client.ask(READY).status, 200, "the next request");
}

/// Two servers accept on one socket: each connection wakes both, and one gets it.
pub fn two_servers_on_one_socket_share_its_connections(on: &Adapter) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let start = || {
        let socket = Listen::Tcp(socket.try_clone().expect("a descriptor"));
        RunningServer::try_start(
            on,
            socket,
            HandlerThread::Local,
            Config::default(),
            handlers::echo(),
        )
        .expect("a server")
    };
    let servers = [start(), start()];
    let address = servers[0].address();
    let accepted = || servers.iter().map(|s| s.metrics().connections_accepted).collect::<Vec<_>>();
    let mut connections = 0;
    // First one connection at a time, with both servers waiting, and then many at once.
    for at_once in [1; 100].into_iter().chain([50; 4]) {
        connections += at_once;
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| assert_eq!(Client::connect(address).ask(READY).status, 200));
            }
        });
    }
    assert_eq!(accepted().iter().sum::<u64>(), connections, "{:?}", accepted());
    // After one server has ended, the other accepts every connection.
    let [one, two] = servers;
    drop(one);
    for _ in 0..5 {
        let mut client = Client::connect(address);
        assert_eq!(client.ask(READY).status, 200);
    }
    assert!(two.metrics().connections_accepted >= 5);
    drop(two);
}

/// Turns that find nothing to do change nothing, and write nothing.
pub fn spurious_turns_change_nothing(on: &Adapter) {
    for handler_thread in HandlerThread::ALL {
        let server = RunningServer::start_at(
            on,
            "127.0.0.1:0",
            handler_thread,
            Config::default(),
            handlers::echo(),
        );
        let mut stream = Stream::open(server.address());
        stream.check_alive("before");
        let mut half = Client::connect(server.address());
        half.send(&READY[..9]);
        let silent = Client::connect(server.address());
        wait_until("they are there", || server.metrics().connections_open() == 4);
        let before = server.metrics();
        thread::scope(|scope| {
            for _ in 0..4 {
                let handle = server.handle();
                scope.spawn(move || {
                    for _ in 0..250 {
                        finish("counters", handle.metrics()).expect("the server runs");
                    }
                });
            }
        });
        assert_eq!(server.metrics().bytes_sent, before.bytes_sent);
        assert_eq!(server.metrics().connections_open(), 4);
        assert!(!half.has_input() && !silent.has_input());
        assert!(!stream.client.has_input());
        half.send(&READY[9..]);
        assert_eq!(half.response().status, 200);
        stream.check_alive("afterwards");
    }
}
