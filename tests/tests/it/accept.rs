//! The listening socket: what waits in its backlog, and what a lack of descriptors does to it.

use std::fs::File;

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{Adapter, Place, Server};
use mcp_sse_tests::child::{self, Child, Descriptors};
use mcp_sse_tests::client::{Client, Stream};
use mcp_sse_tests::{for_each_adapter, handlers, wait_until};

use crate::limits;

for_each_adapter!(connections_over_the_limit_wait, no_descriptors_left, a_herd_of_connections);

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn connections_over_the_limit_wait(on: &Adapter) {
    for place in Place::ALL {
        let config = limits(|l| l.connections_max = Some(4)).build().expect("good");
        let server = Server::start_at(on, "127.0.0.1:0", place, config, handlers::echo());
        let mut stream = Stream::open(server.address());
        stream.check_alive("the connection for posts");
        let mut third = Client::connect(server.address());
        assert_eq!(third.ask(READY).status, 200);
        let mut fourth = Client::connect(server.address());
        assert_eq!(fourth.ask(READY).status, 200);
        let mut waiting: Vec<_> = (0..3)
            .map(|_| {
                let mut client = Client::connect(server.address());
                client.send(READY);
                client
            })
            .collect();
        // The server has many turns, and those in the backlog have none.
        for _ in 0..50 {
            assert_eq!(third.ask(READY).status, 200);
            stream.check_alive("while the server is full");
        }
        assert!(!waiting.iter().any(Client::hears_something));
        let metrics = server.metrics();
        assert_eq!((metrics.connections_accepted, metrics.connections_refused), (4, 0));
        // One place, and one after the other takes it.
        drop(fourth);
        for client in &mut waiting {
            assert_eq!(client.response().status, 200);
            client.end();
            client.expect_end();
        }
        stream.check_alive("afterwards");
    }
}

const DESCRIPTORS: u32 = 64;

/// The server runs in a process of its own that may have few descriptors: this very test once more.
fn no_descriptors_left(on: &Adapter) {
    if child::role().is_some() {
        return serve_with_few_descriptors(on);
    }
    let test = format!("accept::{}::no_descriptors_left", on.name);
    let arguments = [&*test, "--exact", "--nocapture"];
    let child = Child::start("few descriptors", &arguments, Descriptors::Few(DESCRIPTORS));
    let address: core::net::SocketAddr = child.line().parse().expect("an address");
    let mut stream = Stream::open(address);
    stream.check_alive("before");
    let mut first: Vec<_> = (0..DESCRIPTORS).map(|_| Client::connect(address)).collect();
    let mut last = Client::connect(address);
    last.send(READY);
    assert_eq!(child.line(), "none left");
    stream.check_alive("without descriptors");
    assert!(!last.hears_something());
    stream.check_alive("without descriptors, again");
    first.truncate(first.len() / 2);
    assert_eq!(last.response().status, 200);
    // Not once by chance: the others, too, and new ones.
    for client in &mut first {
        assert_eq!(client.ask(READY).status, 200);
    }
    stream.check_alive("with descriptors again");
    Stream::open(address).check_alive("a new session");
}

fn serve_with_few_descriptors(on: &Adapter) {
    let server = Server::start(on, Config::default(), handlers::echo());
    child::tell_parent(server.address());
    wait_until("no descriptor is left", || File::open("/dev/null").is_err());
    child::tell_parent("none left");
    child::wait_for_parent();
}

fn a_herd_of_connections(on: &Adapter) {
    let server = Server::start(on, Config::default(), handlers::echo());
    let mut stream = Stream::open(server.address());
    for _ in 0..10 {
        let mut herd: Vec<_> = (0..100).map(|_| Client::connect(server.address())).collect();
        // A third says nothing, a third asks, a third asks and leaves.
        for (n, client) in herd.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            client.send(READY);
            if n % 3 == 2 {
                client.end();
            }
        }
        for (n, client) in herd.iter_mut().enumerate().filter(|(n, _)| n % 3 > 0) {
            assert_eq!(client.response().status, 200, "{n}");
        }
        stream.check_alive("beside a herd");
    }
    wait_until("all are gone", || server.metrics().connections_open() == 2);
}
