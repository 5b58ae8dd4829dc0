//! What is printed on start: where the server is, and three commands that talk to it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;

use mcp_sse_smol::Config;

pub(crate) struct Greeting<'a> {
    config: &'a Config,
    address: SocketAddr,
}

impl<'a> Greeting<'a> {
    pub(crate) const fn new(config: &'a Config, address: SocketAddr) -> Self {
        Self { config, address }
    }

    /// The address as a client on this machine would say it.
    fn reachable(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(ip, self.address.port())
    }
}

impl fmt::Display for Greeting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = format!("http://{}", self.reachable());
        let stream = self.config.stream_path();
        let events = format!("/tmp/mcp-sse-{}.events", self.address.port());
        let post = format!(
            "curl -s \"{base}$(sed -n '2s/data: //p' {events})\" -H 'Content-Type: application/json'"
        );
        write!(
            f,
            r#"MCP over HTTP+SSE: {base}{stream}

Try it: listen to a session, then initialize it and call a tool; the answers are events on the stream.

  curl -sN {base}{stream} | tee {events} &
  {post} -d '{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2024-11-05","capabilities":{{}},"clientInfo":{{"name":"curl","version":"0"}}}}}}'
  {post} -d '{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"add","arguments":{{"a":2,"b":3}}}}}}'

Or tell a client about it:

  {{"mcpServers": {{"demo": {{"type": "sse", "url": "{base}{stream}"}}}}}}

Ctrl-C stops it.
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, said: &str) {
        let config = Config::default();
        let greeting = Greeting::new(&config, address.parse().expect("an address")).to_string();
        assert!(greeting.contains(said), "{greeting}");
        assert_eq!(greeting.matches("curl -s").count(), 3);
    }

    #[test]
    fn urls_can_be_reached() {
        check("127.0.0.1:8000", "http://127.0.0.1:8000/sse\n");
        check("0.0.0.0:9", "http://127.0.0.1:9/sse\n");
        check("[::]:9", "http://[::1]:9/sse\n");
        check("[::1]:9", "\"url\": \"http://[::1]:9/sse\"");
    }
}
