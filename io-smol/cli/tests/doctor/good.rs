//! Good servers. The doctor finds nothing, and leaves nothing behind.

use core::time::Duration;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use crate::scripted::{Script, Scripted};
use crate::support::{PATIENCE, PATIENT, Server, examine};

/// Finds nothing at this URL.
#[track_caller]
fn check(flags: &[&str], url: &str, variables: &[(&str, &str)]) {
    let (codes, report) = examine(&[flags, &[url]].concat(), variables);
    assert!(codes.is_empty(), "{report:#}");
    assert_eq!(report["measurements"]["protocol_version"], "2024-11-05");
}

#[test]
fn demo_is_good_and_keeps_no_session() {
    let server = Server::start(&["--port=0", "--workers=2"], &[]);
    check(&PATIENT, &format!("http://127.0.0.1:{}/sse", server.port()), &[]);
    check(&PATIENT, &format!("http://localhost:{}/sse", server.port()), &[]);
    let until = Instant::now() + PATIENCE;
    while !health(server.port()).contains("\"active_sessions\":0,") {
        assert!(Instant::now() < until, "a session is left: {}", health(server.port()));
        thread::sleep(Duration::from_millis(10));
    }
}

fn health(port: u16) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("a server");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(socket, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("it is taken");
    io::read_to_string(socket).expect("an answer")
}

#[test]
fn heartbeats_keep_an_idle_stream() {
    let server = Server::start(&["--port=0", "--heartbeat=500ms"], &[]);
    let url = format!("http://127.0.0.1:{}/sse", server.port());
    let flags = ["--timeout=60s", "--late=30s", "--heartbeat=60s"];
    check(&flags, &url, &[]);
    check(&[&flags[..], &["--soak=3s"]].concat(), &url, &[]);
}

#[test]
fn guarded_demo_is_good_with_its_token() {
    let token = "0123456789abcdef0123456789abcdef";
    let secret = format!("alice:{token}");
    let server = Server::start(&["--port=0", "--auth-token-env=T"], &[("T", &secret)]);
    let url = format!("http://127.0.0.1:{}/sse", server.port());
    check(&[&PATIENT[..], &["--bearer-env=MINE"]].concat(), &url, &[("MINE", token)]);
}

#[test]
fn pages_of_an_allowed_origin_can_use_the_demo() {
    let args = [
        "--port=0",
        "--cors-origin=https://app.example",
        "--cors-header=x-key",
        "--allow-origin=https://app.example",
    ];
    let server = Server::start(&args, &[]);
    let url = format!("http://127.0.0.1:{}/sse", server.port());
    let flags = ["--origin=https://app.example", "--header=X-Key: s3cr3t"];
    check(&[&PATIENT[..], &flags].concat(), &url, &[]);
}

#[test]
fn bridged_server_is_good() {
    const PROGRAM: &str = r#"
while IFS= read -r line; do
    case $line in *'"id":'*) ;; *) continue ;; esac
    id=${line#*\"id\":} id=${id%%,*}
    case $line in
        *'"initialize"'*) result='{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{"name":"sh","version":"1"}}' ;;
        *) result='{}' ;;
    esac
    printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$result"
done
"#;
    let server = Server::start(&["bridge", "--port=0", "--", "sh", "-c", PROGRAM], &[]);
    check(&PATIENT, &format!("http://127.0.0.1:{}/sse", server.port()), &[]);
}

#[test]
fn demo_behind_a_stripping_proxy_is_good() {
    let server = Server::start(&["--port=0", "--public-path-prefix=/mcp"], &[]);
    let proxy = Stripping::start(server.port());
    check(&PATIENT, &format!("http://127.0.0.1:{}/mcp/sse", proxy.port), &[]);
}

/// A proxy that removes `/mcp` from the path of each request, one request a connection.
pub(crate) struct Stripping {
    port: u16,
}

impl Stripping {
    pub(crate) fn start(server: u16) -> Self {
        let route = move |line: &str| {
            // What is outside of the prefix would be another server.
            let inside = line.contains(" /mcp/");
            let line = line.replacen(if inside { " /mcp/" } else { " /" }, " /", 1);
            (if inside { line } else { line.replacen(" /", " /outside/", 1) }, server)
        };
        let port = proxy(route, |text| text);
        Self { port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// A proxy in front of a good scripted server, which replaces text in responses. `HOST` in the new text is the
/// proxy's own host and port.
pub(crate) struct Rewriting {
    port: u16,
    _server: Scripted,
}

impl Rewriting {
    pub(crate) fn start(from: &'static str, to: &'static str) -> Self {
        let server = Scripted::start(Script::GOOD);
        let behind = server.port();
        let own = std::sync::Arc::new(std::sync::OnceLock::<u16>::new());
        let known = own.clone();
        let rewrite = move |text: String| {
            let host = format!("127.0.0.1:{}", known.wait());
            text.replace(from, &to.replace("HOST", &host))
        };
        let port = proxy(move |line| (line.to_owned(), behind), rewrite);
        own.set(port).expect("it is set once");
        Self { port, _server: server }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Starts a proxy, which runs until the test program ends. `route` gets the request line, and returns the one to send
/// and the server's port. `rewrite` changes what the server sends, line by line.
fn proxy(
    route: impl Fn(&str) -> (String, u16) + Clone + Send + 'static,
    rewrite: impl Fn(String) -> String + Clone + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (route, rewrite) = (route.clone(), rewrite.clone());
            // A side that leaves is an error here, and ends the connection.
            thread::spawn(move || relay(client, &route, &rewrite));
        }
    });
    port
}

fn relay(
    client: TcpStream,
    route: &impl Fn(&str) -> (String, u16),
    rewrite: &impl Fn(String) -> String,
) -> io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    from_client.read_line(&mut line)?;
    let (line, port) = route(&line);
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.write_all(line.as_bytes())?;
    let (to_server, both) = (server.try_clone()?, (client.try_clone()?, server.try_clone()?));
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut &to_server);
        // The client has left, so its session has ended.
        let _ = both.1.shutdown(Shutdown::Both);
        let _ = both.0.shutdown(Shutdown::Both);
    });
    let mut from_server = BufReader::new(server);
    let mut bytes = Vec::new();
    while from_server.read_until(b'\n', &mut bytes)? > 0 {
        let text = rewrite(String::from_utf8_lossy(&bytes).into_owned());
        (&client).write_all(text.as_bytes())?;
        bytes.clear();
        // What is left without a line end, as the text of a response, is sent on too.
        if from_server.buffer().is_empty() {
            (&client).flush()?;
        } else if !from_server.buffer().contains(&b'\n') {
            let rest = from_server.buffer().to_vec();
            from_server.consume(rest.len());
            (&client).write_all(&rest)?;
        }
    }
    let mut rest = Vec::new();
    from_server.read_to_end(&mut rest)?;
    (&client).write_all(&rest)?;
    client.shutdown(Shutdown::Both)
}
