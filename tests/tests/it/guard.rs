//! The `Host` and `Origin` guard: sections 4.1 and 4.2 of the wire contract.

use mcp_sse_core::{Config, ConfigBuilder};
use mcp_sse_tests::adapter::{Adapter, HandlerThread, RunningServer};
use mcp_sse_tests::client::{Client, Stream};
use mcp_sse_tests::{for_each_adapter, handlers};

for_each_adapter!(
    hosts_and_origins_beyond_loopback_are_403,
    allowed_hosts_and_origins_are_served,
    wildcard_address_reached_by_loopback_is_guarded
);

/// Checks which requests pass the guard: every guarded route must answer alike.
struct GuardFixture {
    server: RunningServer,
    other_session: Stream,
}

impl GuardFixture {
    fn new(on: &Adapter, bind: &str, config: ConfigBuilder) -> Self {
        let config = config.build().expect("good");
        let server =
            RunningServer::start_at(on, bind, HandlerThread::Local, config, handlers::echo());
        let other_session = Stream::open(server.address());
        Self { server, other_session }
    }

    /// Sends requests with `fields`. `refused` is the expected status and texts of the refusal;
    /// `None` if they pass.
    #[track_caller]
    fn check(&mut self, fields: &str, refused: Option<(u16, &[&str])>) {
        for (line, passes) in
            [("GET /sse", 200), ("HEAD /sse", 200), ("POST /messages", 415), ("GET /x", 404)]
        {
            let mut client = Client::connect(self.server.address());
            client.send(format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n"));
            let response = if passes == 200 { client.head() } else { client.response() };
            let Some((status, names)) = refused else {
                assert_eq!(response.status, passes, "{line}, {fields}: {response:?}");
                continue;
            };
            assert_eq!(response.status, status, "{line}, {fields}: {response:?}");
            let response = if line == "GET /sse" {
                // The body was not read above.
                Client::connect(self.server.address())
                    .ask(format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n"))
            } else if line == "HEAD /sse" {
                continue;
            } else {
                response
            };
            for name in names {
                assert!(response.text().contains(name), "{line}, {fields}: {response:?}");
            }
        }
        self.other_session.check_alive(fields);
    }
}

const HOST: Option<(u16, &[&str])> = Some((403, &["allow_host"]));
const ORIGIN: Option<(u16, &[&str])> = Some((403, &["allow_origin"]));
const BAD: Option<(u16, &[&str])> = Some((400, &[]));

fn hosts_and_origins_beyond_loopback_are_403(on: &Adapter) {
    let mut fixture = GuardFixture::new(on, "127.0.0.1:0", Config::builder());
    for host in [
        "localhost",
        "localhost:8000",
        "LocalHost",
        "localhost.",
        "localhost.:80",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.255.0.9:8000",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]",
    ] {
        fixture.check(&format!("Host: {host}"), None);
    }
    for host in [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil-localhost",
        "128.0.0.1",
        "0.0.0.0",
        "10.0.0.1:8000",
        "[::2]",
        "127.0.0.1.evil.example",
    ] {
        fixture.check(&format!("Host: {host}"), Some((403, &["allow_host", host])));
    }
    fixture.check("Host: ", BAD);
    fixture.check("Accept: */*", BAD);
    fixture.check("Host: localhost\r\nHost: localhost", BAD);
    fixture.check("Host: localhost\r\nHost: evil.example", BAD);

    let host = "Host: localhost\r\n";
    for origin in [
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:3000",
        "http://127.0.0.1:6274",
        "http://[::1]:6274",
    ] {
        fixture.check(&format!("{host}Origin: {origin}"), None);
    }
    for origin in [
        "http://evil.example",
        "https://localhost.evil.example",
        "null",
        "localhost",
        "",
        "http://",
        "http://localhost/path",
        "http://localhost:x",
        "http://user@localhost",
        "file://",
        "http://localhost http://localhost",
        "http://localhost, http://localhost",
    ] {
        fixture.check(&format!("{host}Origin: {origin}"), ORIGIN);
    }
    fixture.check(&format!("{host}Origin: http://localhost\r\nOrigin: http://localhost"), ORIGIN);
    fixture.check(
        &format!("{host}Origin: http://evil.example"),
        Some((403, &["allow_origin", "http://evil.example"])),
    );
}

fn allowed_hosts_and_origins_are_served(on: &Adapter) {
    let config = Config::builder()
        .allow_host("mcp.example")
        .allow_host("ported.example:8443")
        .allow_origin("https://app.example")
        .allow_origin("http://dev.example:*");
    let mut fixture = GuardFixture::new(on, "127.0.0.1:0", config);
    fixture.check("Host: mcp.example", None);
    fixture.check("Host: MCP.Example:1", None);
    fixture.check("Host: ported.example:8443", None);
    fixture.check("Host: ported.example", HOST);
    fixture.check("Host: localhost", None);
    fixture.check("Host: other.example", HOST);
    fixture.check("Host: localhost\r\nOrigin: https://app.example", None);
    fixture.check("Host: localhost\r\nOrigin: https://app.example:443", None);
    fixture.check("Host: localhost\r\nOrigin: http://app.example", ORIGIN);
    fixture.check("Host: localhost\r\nOrigin: https://app.example:8443", ORIGIN);
    fixture.check("Host: localhost\r\nOrigin: http://dev.example:5173", None);
    fixture.check("Host: localhost\r\nOrigin: http://localhost:5173", None);
}

/// The guard applies to the local address of the connection, not to the address that was bound.
fn wildcard_address_reached_by_loopback_is_guarded(on: &Adapter) {
    let mut fixture = GuardFixture::new(on, "0.0.0.0:0", Config::builder());
    fixture.check("Host: localhost", None);
    fixture.check("Host: 127.0.0.1", None);
    fixture.check("Host: evil.example", HOST);
    fixture.check("Host: 0.0.0.0", HOST);
    fixture.check("Host: localhost\r\nOrigin: http://evil.example", ORIGIN);
    fixture.check("Host: localhost\r\nOrigin: http://localhost", None);
    // The authority of an absolute target replaces `Host`.
    let ask = |target: &str, host: &str| {
        let mut client = Client::connect(fixture.server.address());
        client.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status
    };
    assert_eq!(ask("http://localhost/x", "evil.example"), 404);
    assert_eq!(ask("http://evil.example/x", "localhost"), 403);
    assert_eq!(ask("HTTP://LOCALHOST:80/x", "evil.example"), 404);
}
