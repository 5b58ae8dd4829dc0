//! The addresses at which the command listens.
#![cfg(unix)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use mcp_sse_tests::PATIENCE;
use mcp_sse_tests::scratch::Scratch;

/// A server that runs until this is dropped, and its banner.
struct Program {
    process: Child,
    banner: String,
}

impl Program {
    #[track_caller]
    fn start(args: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-sse"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let stdout = BufReader::new(process.stdout.take().expect("piped"));
        let mut server = Self { process, banner: String::new() };
        let (sender, lines) = mpsc::channel();
        // This thread ends with the process at the latest.
        thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.ok()).ok()));
        while !server.banner.contains("Ctrl-C stops it") {
            let Ok(Some(line)) = lines.recv_timeout(PATIENCE) else {
                let _ = server.process.kill();
                let mut said = String::new();
                let _ = server.process.stderr.take().expect("piped").read_to_string(&mut said);
                panic!("{args:?} does not serve: {said}");
            };
            server.banner += &line;
            server.banner.push('\n');
        }
        server
    }

    /// The port in the first printed URL.
    #[track_caller]
    fn port(&self) -> u16 {
        let url = self.banner.split_once("://").expect("a URL").1;
        let authority = url.split_once('/').expect("a path").0;
        authority.rsplit_once(':').expect("a port").1.parse().expect("a port")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The head of the response to a GET of the stream.
#[track_caller]
fn opened(ip: impl Into<IpAddr>, port: u16, host: &str) -> String {
    let mut socket = TcpStream::connect((ip.into(), port)).expect("somebody listens there");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(socket, "GET /sse HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("it is taken");
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).expect("an answer");
    line
}

#[test]
fn localhost_is_both_loopback_families_at_one_port() {
    let ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let bridge = ["bridge", "--port=0", "--host=localhost", "cat"];
    for args in [
        &["--port=0", "--host=localhost"][..],
        &["--port=0", "--host", "localhost", "--workers=3"],
        &bridge,
    ] {
        let server = Program::start(args);
        let port = server.port();
        let host = format!("localhost:{port}");
        assert_eq!(opened(Ipv4Addr::LOCALHOST, port, &host), "HTTP/1.1 200 OK\r\n", "{args:?}");
        let said = format!("MCP over HTTP+SSE: http://{host}/sse on 127.0.0.1");
        assert!(server.banner.starts_with(&said), "{}", server.banner);
        if !ipv6 {
            println!("not tried with ::1, which this machine has not");
            continue;
        }
        assert!(server.banner.starts_with(&format!("{said} and ::1")), "{}", server.banner);
        for name in [&*host, &format!("[::1]:{port}")] {
            let status = opened(Ipv6Addr::LOCALHOST, port, name);
            assert_eq!(status, "HTTP/1.1 200 OK\r\n", "{args:?}, {name}");
        }
    }
}

#[test]
fn unix_mode_is_set_on_the_socket_file() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let path = path.to_str().expect("a path");
    for (mode, expected) in [(None, 0o600), (Some("0660"), 0o660)] {
        let mut args = vec!["--unix", path];
        args.extend(mode.map(|mode| ["--unix-mode", mode]).into_iter().flatten());
        let server = Program::start(&args);
        let found = fs::metadata(path).expect("a file").permissions().mode();
        assert_eq!(found & 0o777, expected);
        drop(server);
    }
}

/// Forwarded fields of an untrusted peer are ignored. The log has one warning, which names the flag.
#[test]
fn fields_of_an_untrusted_proxy_are_logged_once() {
    let mut server = Program::start(&["--port=0", "--workers=3"]);
    let port = server.port();
    for _ in 0..20 {
        let host = "localhost\r\nX-Forwarded-For: 192.0.2.7";
        assert_eq!(opened(Ipv4Addr::LOCALHOST, port, host), "HTTP/1.1 200 OK\r\n");
    }
    let stderr = server.process.stderr.take().expect("piped");
    let reader = thread::spawn(move || std::io::read_to_string(stderr).expect("text"));
    drop(server);
    let log = reader.join().expect("no panic");
    assert_eq!(log.matches("--trusted-proxy 127.0.0.1").count(), 1, "{log}");
}
