//! Sockets that another program has bound, as a service manager does.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{Adapter, HandlerThread, Listen, RunningServer};
use mcp_sse_tests::client::{ServerAddress, Stream};
use mcp_sse_tests::scratch::Scratch;
use mcp_sse_tests::{for_each_adapter, handlers};

for_each_adapter!(
    passed_tcp_sockets_are_all_served,
    passed_unix_sockets_are_all_served_and_their_files_stay,
    number_of_passed_sockets_is_checked,
);

fn start(on: &Adapter, listen: Listen, workers: usize) -> std::io::Result<RunningServer> {
    let (config, handler) = (Config::default(), handlers::echo());
    RunningServer::try_start_workers(on, listen, workers, HandlerThread::Local, config, handler)
}

/// Opens sessions at each address, more than there are workers, and uses them.
fn check(addresses: &[ServerAddress]) {
    let all = addresses.iter().cycle().take(4 * addresses.len());
    let mut streams: Vec<Stream> = all.map(Stream::open).collect();
    for stream in &mut streams {
        stream.check_alive("at a passed socket");
    }
}

fn passed_tcp_sockets_are_all_served(on: &Adapter) {
    for workers in [1, 3] {
        let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a free port");
        let sockets: Vec<TcpListener> = (0..3).map(bind).collect();
        let addresses = sockets.iter().map(|socket| socket.local_addr().expect("bound").into());
        let addresses: Vec<ServerAddress> = addresses.collect();
        let _server = start(on, Listen::Passed(sockets), workers).expect("a server");
        check(&addresses);
    }
}

fn passed_unix_sockets_are_all_served_and_their_files_stay(on: &Adapter) {
    for workers in [1, 3] {
        let scratch = Scratch::new();
        let paths = [scratch.path("a"), scratch.path("b")];
        let sockets = paths.iter().map(|path| UnixListener::bind(path).expect("a socket"));
        let listen = Listen::PassedUnix(sockets.collect());
        let mut server = start(on, listen, workers).expect("a server");
        check(&paths.clone().map(ServerAddress::Unix));
        server.shutdown();
        server.wait_for_end();
        // The program that has bound them may still listen there.
        assert!(paths.iter().all(|path| path.exists()));
    }
}

fn number_of_passed_sockets_is_checked(on: &Adapter) {
    let many = mcp_sse_driver::ADDRESSES_MAX + 1;
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a free port");
    for listen in [
        Listen::Passed(Vec::new()),
        Listen::PassedUnix(Vec::new()),
        Listen::Passed((0..many).map(bind).collect()),
    ] {
        let error = start(on, listen, 1).expect_err("a number out of range");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("expected 1 to 16 sockets"), "{error}");
    }
}
