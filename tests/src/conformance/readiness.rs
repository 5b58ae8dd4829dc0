//! Wake-ups for nothing: a task that is told to go on, and finds that there is nothing to do.

use std::net::TcpListener;
use std::thread;

use mcp_sse_core::Config;

use crate::adapter::{Adapter, Listen, Place, Room, Server};
use crate::client::{Client, Stream};
use crate::{finish, handlers, wait_until};

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A byte of urgent data reports a socket as ready that gives nothing to a read.
pub fn urgent_data_is_no_input(on: &Adapter) {
    let mut room = Room::new(on, Config::default());
    let before = room.server.metrics().bytes_received;
    let mut client = Client::connect(room.server.address());
    for (n, piece) in READY.as_bytes().chunks(7).enumerate() {
        client.send(piece);
        // So that it is not in front of what is unread: a read that ends there looks like a short one.
        let read = before + READY.len().min(7 * (n + 1)) as u64;
        wait_until("it was read", || room.server.metrics().bytes_received == read);
        if read < before + READY.len() as u64 {
            client.send_urgent();
            assert_eq!(room.server.metrics().bytes_received, read);
        }
    }
    assert_eq!(client.response().status, 200);
    client.send_urgent();
    room.bystander.check_alive("beside urgent data");
    let received = room.server.metrics().bytes_received;
    for _ in 0..20 {
        room.bystander.client.send_urgent();
        assert_eq!(room.server.metrics().bytes_received, received);
    }
    room.bystander.check_alive("with urgent data on its stream");
    assert_eq!(client.ask(READY).status, 200, "the next request");
}

/// Two servers wait for connections at one socket: both are woken by each, and one has it.
pub fn two_servers_on_one_socket(on: &Adapter) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let start = || {
        let socket = Listen::Tcp(socket.try_clone().expect("a descriptor"));
        Server::try_start(on, socket, Place::Local, Config::default(), handlers::echo())
            .expect("a server")
    };
    let servers = [start(), start()];
    let address = servers[0].address();
    let accepted = || servers.iter().map(|s| s.metrics().connections_accepted).collect::<Vec<_>>();
    let mut connections = 0;
    // One after the other, with both of them waiting; and many at once.
    for at_once in [1; 100].into_iter().chain([50; 4]) {
        connections += at_once;
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| assert_eq!(Client::connect(address).ask(READY).status, 200));
            }
        });
    }
    assert_eq!(accepted().iter().sum::<u64>(), connections, "{:?}", accepted());
    // Neither has been put off by what it did not get: the other one goes, and it serves alone.
    let [one, two] = servers;
    drop(one);
    for _ in 0..5 {
        let mut client = Client::connect(address);
        assert_eq!(client.ask(READY).status, 200);
    }
    assert!(two.metrics().connections_accepted >= 5);
    drop(two);
}

/// Turns that find nothing to do change nothing, and say nothing to anybody.
pub fn turns_for_nothing(on: &Adapter) {
    for place in Place::ALL {
        let server =
            Server::start_at(on, "127.0.0.1:0", place, Config::default(), handlers::echo());
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
        assert!(!half.hears_something() && !silent.hears_something());
        assert!(!stream.client.hears_something());
        half.send(&READY[9..]);
        assert_eq!(half.response().status, 200);
        stream.check_alive("afterwards");
    }
}
