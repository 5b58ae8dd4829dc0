//! Signals and exit statuses.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use mcp_sse_tests::client::Stream;
use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{Program, command, failure};

/// A request that this server never answers.
const UNANSWERED: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;

/// A bridge whose server answers nothing.
fn start_deaf() -> (Program, Stream) {
    let server = Program::launch(&mut command(&["bridge", "--port=0", "sleep", "1000"]));
    let mut stream = Stream::open(server.address());
    assert_eq!(stream.post(UNANSWERED).status, 202);
    (server, stream)
}

#[test]
fn signal_stops_the_server_with_status_0() {
    for signal in [Signal::TERM, Signal::INT] {
        for args in [&[][..], &["--workers=2"]] {
            let mut server = Program::start(args);
            let mut stream = Stream::open(server.address());
            server.signal(signal);
            stream.expect_end();
            assert_eq!(server.wait().code(), Some(0), "{args:?}");
        }
    }
}

/// The grace is the operator's, so connections that are cut at its end are no failure.
#[test]
fn end_of_the_grace_is_status_0() {
    let args = ["bridge", "--port=0", "--shutdown-grace=50ms", "sleep", "1000"];
    let mut server = Program::launch(&mut command(&args));
    let mut stream = Stream::open(server.address());
    assert_eq!(stream.post(UNANSWERED).status, 202);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn second_signal_aborts_with_its_status() {
    for (second, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (mut server, _stream) = start_deaf();
        server.signal(Signal::TERM);
        // Two pending signals of one kind may count as one.
        server.wait_for_log("a second signal aborts");
        server.signal(second);
        assert_eq!(server.wait().code(), Some(status));
    }
}

#[test]
fn failures_have_their_status() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    assert_eq!(failure(&mut command(&["--port", &port])).0, Some(1));
    assert_eq!(failure(&mut command(&["--port", "x"])).0, Some(2));
    assert_eq!(failure(&mut command(&["--auth-token-file", "/nothing"])).0, Some(2));
    assert_eq!(failure(&mut command(&["bridge", "--check", "cat", "/nothing"])).0, Some(1));
    let help = command(&["--help"]).output().expect("it runs");
    assert_eq!(help.status.code(), Some(0));
    for args in [&["--help"][..], &["demo", "--help"], &["bridge", "-h"]] {
        let help = command(args).output().expect("it runs").stdout;
        let help = String::from_utf8(help).expect("text");
        for said in ["Exit status:", "  0  ", "  1  ", "  2  ", "  130, 143  "] {
            assert!(help.contains(said), "{args:?}: {said}");
        }
    }
}

#[test]
fn hangup_without_files_is_logged_and_the_server_goes_on() {
    let mut server = Program::start(&[]);
    server.signal(Signal::HUP);
    server.wait_for_log("there is nothing to read again");
    drop(Stream::open(server.address()));
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

/// A new terminal: its other end, and its path.
fn terminal() -> (OwnedFd, PathBuf) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    // If the server inherited this end, its terminal would stay open.
    fcntl_setfd(&controller, FdFlags::CLOEXEC).expect("it is open");
    grantpt(&controller).expect("it is ours");
    unlockpt(&controller).expect("it is ours");
    let name = ptsname(&controller, Vec::new()).expect("a name");
    (controller, name.into_string().expect("text").into())
}

/// Somebody who sends SIGHUP while the terminal is open wants files to be read. If the terminal was closed, every
/// program of that terminal ends.
#[test]
fn hangup_of_the_terminal_stops_the_server() {
    let (controller, path) = terminal();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let stdin = File::from(rustix::fs::open(&path, flags, Mode::empty()).expect("a terminal"));
    let mut server = Program::launch(command(&["--port=0"]).stdin(stdin));
    server.signal(Signal::HUP);
    server.wait_for_log("there is nothing to read again");
    drop(controller);
    server.signal(Signal::HUP);
    server.wait_for_log("the terminal was closed");
    assert_eq!(server.wait().code(), Some(0));
}
