//! What a termination signal begins: the delay, the shutdown, and the abort at the second one.

use mcp_sse_tests::client::{Client, Stream};
use rustix::process::Signal;

use crate::support::{Program, eventually};

fn status(client: &mut Client, path: &str) -> u16 {
    client.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).status
}

#[track_caller]
fn check_answered(stream: &mut Stream) {
    assert_eq!(stream.post(r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#).status, 202);
    assert!(stream.message().contains(r#""id":7,"result""#));
}

#[test]
fn first_signal_delays_the_shutdown_and_the_second_one_aborts() {
    for (first, second, code) in
        [(Signal::TERM, Signal::INT, 130), (Signal::INT, Signal::TERM, 143)]
    {
        let mut server = Program::start(&["--drain-delay", "1h", "--workers", "2"]);
        let mut client = Client::connect(server.address());
        let mut stream = Stream::open(server.address());
        assert_eq!(status(&mut client, "/ready"), 200);
        server.signal(first);
        let not_ready = || (status(&mut client, "/ready") == 503).then_some(());
        assert!(eventually(not_ready).is_some(), "{}", server.log());
        server.wait_for_log("drain_delay");
        assert_eq!(status(&mut client, "/health"), 200);
        // The old stream goes on, and new ones are opened.
        check_answered(&mut stream);
        check_answered(&mut Stream::open(server.address()));
        server.signal(second);
        assert_eq!(server.wait().code(), Some(code), "{}", server.log());
        stream.client.wait_for_end();
    }
}

#[test]
fn shutdown_follows_the_delay_without_a_second_signal() {
    let args = ["--drain-delay", "200ms", "--drain-spread", "200ms", "--instance-id", "a1"];
    let mut server = Program::start(&args);
    assert!(server.banner.contains("(instance a1)"), "{}", server.banner);
    let mut streams: Vec<_> = (0..3).map(|_| Stream::open(server.address())).collect();
    assert!(streams.iter().all(|stream| stream.token().starts_with("a1.")));
    server.signal(Signal::TERM);
    streams.iter_mut().for_each(Stream::expect_end);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}
