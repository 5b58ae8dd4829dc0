//! What is printed on start: what is served where, three commands that talk to it, and what is not
//! protected.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::path::Path;

use mcp_sse_core::Config;

use crate::listen_address::{Named, Place};

/// Displays as what is printed on start.
#[derive(Debug)]
pub struct Greeting<'a> {
    config: &'a Config,
    place: Place<'a>,
    unix_mode: u32,
    tls: bool,
    asks_for_tokens: bool,
    prefix_len: usize,
    workers: usize,
    whats: Vec<What>,
}

#[derive(Debug)]
struct What {
    name: String,
    path: String,
    is: String,
}

impl<'a> Greeting<'a> {
    /// Of a server with this configuration that listens here; with the port that it has got.
    #[must_use]
    pub const fn new(config: &'a Config, place: Place<'a>) -> Self {
        Self {
            config,
            place,
            unix_mode: 0o600,
            tls: false,
            asks_for_tokens: false,
            prefix_len: 0,
            workers: 1,
            whats: Vec::new(),
        }
    }

    /// Of one that serves something else than the demo: what a client should call it, what stands
    /// before its paths, and what it is. May be said of several.
    #[must_use]
    pub fn of(
        mut self,
        name: impl Into<String>,
        path: impl Into<String>,
        is: impl Into<String>,
    ) -> Self {
        self.whats.push(What { name: name.into(), path: path.into(), is: is.into() });
        self
    }

    /// Of one before which a proxy cuts this off from paths; nobody cuts it off for curl.
    #[must_use]
    pub fn public_path_prefix(self, prefix: &str) -> Self {
        Self { prefix_len: prefix.len(), ..self }
    }

    /// Of one whose Unix socket's file has this mode, if it listens on one.
    #[must_use]
    pub fn unix_mode(self, unix_mode: u32) -> Self {
        Self { unix_mode, ..self }
    }

    /// Of one that speaks TLS there, or not.
    #[must_use]
    pub fn tls(self, tls: bool) -> Self {
        Self { tls, ..self }
    }

    /// Of one that asks clients for a token, or not.
    #[must_use]
    pub fn asks_for_tokens(self, asks_for_tokens: bool) -> Self {
        Self { asks_for_tokens, ..self }
    }

    /// Of one with so many workers.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }
}

impl Greeting<'_> {
    /// What nothing stands in front of.
    fn unprotected(&self) -> String {
        if let Place::Unix(_) = self.place {
            let who = match self.unix_mode {
                mode if mode & 0o002 != 0 => "every program on this machine, whoever runs it,",
                mode if mode & 0o020 != 0 => "programs of this user and of the socket's group",
                _ => "programs of this user",
            };
            return format!("Not protected: {who} may use it.");
        }
        let exposed = self.place.exposed().is_some();
        let who = if exposed {
            "everybody who can reach this machine"
        } else {
            "every program on this machine, whoever runs it,"
        };
        let wire = if self.tls || !exposed {
            ""
        } else {
            " Nothing is encrypted: messages and header fields can be read on their way."
        };
        if self.asks_for_tokens {
            return format!("Who has a token may use it.{wire}");
        }
        format!("Not protected: {who} may use it. Nobody is asked who they are.{wire}")
    }
}

/// The host and port as a client on this machine would say them: by a name only where the server allows
/// it at each of its addresses, which it does for its own name on loopback, and for any elsewhere.
fn authority(named: &Named<'_>) -> String {
    let Named { name, ips, port } = *named;
    let loopback = ips.iter().filter(|ip| ip.is_loopback()).count();
    match ips.first() {
        Some(&ip) if loopback > 0 && loopback < ips.len() => SocketAddr::new(ip, port).to_string(),
        _ => format!("{name}:{port}"),
    }
}

/// The address as a client on this machine would say it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// A path as one word of a shell's.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl fmt::Display for Greeting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = self.config.stream_path();
        let first = self.whats.first().map_or("", |what| &*what.path);
        // Where it is, how curl is told, and where what comes on the stream is kept.
        let tcp = |authority: String, port: u16| {
            let (scheme, flags) = if self.tls { ("https", "k") } else { ("http", "") };
            let events = format!("/tmp/mcp-sse-{port}.events");
            (format!("{scheme}://{authority}"), flags.to_owned(), events)
        };
        let (base, flags, events) = match self.place {
            Place::Tcp(address) => tcp(reachable(address).to_string(), address.port()),
            Place::Named(named) => tcp(authority(&named), named.port),
            Place::Unix(path) => {
                let name = path.file_name().map(Path::new).unwrap_or(path);
                let events = quoted(Path::new(&format!("/tmp/mcp-sse-{}.events", name.display())));
                let flags = format!(" --unix-socket {}", quoted(path));
                ("http://localhost".to_owned(), flags, events)
            }
        };
        let flags = if self.asks_for_tokens {
            flags + " -H \"Authorization: Bearer $TOKEN\""
        } else {
            flags
        };
        let mut places = match self.place {
            Place::Tcp(_) => String::new(),
            Place::Named(Named { ips, .. }) => {
                let ips: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
                format!(" on {}", ips.join(" and "))
            }
            Place::Unix(path) => format!(" on the Unix socket {}", path.display()),
        };
        if self.workers > 1 {
            places.push_str(&format!(" ({} workers)", self.workers));
        }
        // What a person clicks, unless there is no address.
        let on_unix_socket = matches!(self.place, Place::Unix(_));
        let shown = if on_unix_socket { "" } else { &*base };
        match &*self.whats {
            [] => writeln!(f, "MCP over HTTP+SSE: {shown}{stream}{places}\n")?,
            [What { path, is, .. }] => {
                writeln!(f, "MCP over HTTP+SSE: {shown}{path}{stream}{places}\n\nServes: {is}\n")?;
            }
            whats => {
                writeln!(f, "MCP over HTTP+SSE{places}:\n")?;
                for What { path, is, .. } in whats {
                    writeln!(f, "  {shown}{path}{stream}\n    serves {is}\n")?;
                }
            }
        }
        let prefix = match self.prefix_len {
            0 => String::new(),
            len => format!(r".\{{{len}\}}"),
        };
        let post = format!(
            "curl -s{flags} \"{base}$(sed -n '2s/data: {prefix}//p' {events})\" -H 'Content-Type: application/json'"
        );
        let (does, then) = match self.whats.first() {
            None => {
                ("call a tool", r#""tools/call","params":{"name":"add","arguments":{"a":2,"b":3}}"#)
            }
            Some(_) => ("list its tools", r#""tools/list""#),
        };
        write!(
            f,
            r#"Try it: listen to a session, then initialize it and {does}; the answers are events on the stream.

  curl -sN{flags} {base}{first}{stream} | tee {events} &
  {post} -d '{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2024-11-05","capabilities":{{}},"clientInfo":{{"name":"curl","version":"0"}}}}}}'
  {post} -d '{{"jsonrpc":"2.0","id":2,"method":{then}}}'
"#
        )?;
        if self.asks_for_tokens {
            f.write_str("\nTOKEN is one that the server knows.\n")?;
        }
        if self.tls {
            f.write_str("\n-k takes any certificate; --cacert FILE instead takes those that FILE vouches for.\n")?;
        }
        // No client takes a Unix socket in its configuration.
        if !on_unix_socket {
            let entry = |name: &str, path: &str| {
                let name = serde_json::Value::from(name);
                let headers = if self.asks_for_tokens {
                    r#", "headers": {"Authorization": "Bearer ..."}"#
                } else {
                    ""
                };
                format!(r#"{name}: {{"type": "sse", "url": "{base}{path}{stream}"{headers}}}"#)
            };
            let entries: Vec<String> = match &*self.whats {
                [] => vec![entry("demo", "")],
                whats => whats.iter().map(|what| entry(&what.name, &what.path)).collect(),
            };
            let entries = entries.join(", ");
            write!(f, "\nOr tell a client about it:\n\n  {{\"mcpServers\": {{{entries}}}}}\n")?;
        }
        if !self.whats.is_empty() {
            writeln!(f, "\n{}", self.unprotected())?;
        }
        f.write_str("\nCtrl-C stops it.\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(place: Place<'_>, tls: bool, said: &str) {
        let config = Config::default();
        let greeting = Greeting::new(&config, place).tls(tls).to_string();
        assert!(greeting.contains(said), "{greeting}");
        assert_eq!(greeting.matches("curl -s").count(), 3);
    }

    #[test]
    fn urls_can_be_reached() {
        let tcp = |address: &str| Place::Tcp(address.parse().expect("an address"));
        check(tcp("127.0.0.1:8000"), false, "http://127.0.0.1:8000/sse\n");
        check(tcp("0.0.0.0:9"), false, "http://127.0.0.1:9/sse\n");
        check(tcp("[::]:9"), false, "http://[::1]:9/sse\n");
        check(tcp("[::1]:9"), false, "\"url\": \"http://[::1]:9/sse\"");
        check(tcp("127.0.0.1:8443"), true, "MCP over HTTP+SSE: https://127.0.0.1:8443/sse\n");
        check(tcp("127.0.0.1:8443"), true, "  curl -sNk https://127.0.0.1:8443/sse |");
        check(tcp("127.0.0.1:8443"), true, "  curl -sk \"https://127.0.0.1:8443$(");
    }

    #[test]
    fn url_of_a_name_works_at_each_of_its_addresses() {
        let says = |name: &str, ips: &[&str], url: &str, on: &str| {
            let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
            let place = Place::Named(Named { name, ips: &ips, port: 8000 });
            let first = format!("MCP over HTTP+SSE: {url}/sse on {on}\n");
            check(place, false, &first);
            check(place, false, &format!("\"url\": \"{url}/sse\""));
        };
        says("localhost", &["127.0.0.1", "::1"], "http://localhost:8000", "127.0.0.1 and ::1");
        says("localhost", &["127.0.0.1"], "http://localhost:8000", "127.0.0.1");
        says("box", &["192.0.2.1"], "http://box:8000", "192.0.2.1");
        // On loopback a name that other machines know is nobody's to say.
        let both = ["192.0.2.1", "127.0.1.1"];
        says("box", &both, "http://192.0.2.1:8000", "192.0.2.1 and 127.0.1.1");
    }

    #[test]
    fn mode_of_a_unix_socket_says_who_may_use_it() {
        let config = Config::default();
        let said = |mode| {
            let greeting = Greeting::new(&config, Place::Unix(Path::new("/s"))).unix_mode(mode);
            greeting.of("time", "", "x").to_string()
        };
        assert!(said(0o600).contains("Not protected: programs of this user may"));
        assert!(said(0o660).contains("this user and of the socket's group may"));
        assert!(said(0o666).contains("every program on this machine"));
    }

    #[test]
    fn curl_posts_past_the_proxy() {
        let place = Place::Tcp("127.0.0.1:8000".parse().expect("an address"));
        let config = Config::default();
        let said = Greeting::new(&config, place).public_path_prefix("/mcp").to_string();
        assert!(said.contains(r"$(sed -n '2s/data: .\{4\}//p' /tmp/"), "{said}");
    }

    #[test]
    fn tokens_are_asked_for() {
        let config = Config::default();
        let place = Place::Tcp("192.0.2.1:8000".parse().expect("an address"));
        let said =
            Greeting::new(&config, place).asks_for_tokens(true).of("time", "", "x").to_string();
        let curl = r#"curl -sN -H "Authorization: Bearer $TOKEN" http://192.0.2.1:8000/sse |"#;
        for part in [curl, r#""headers": {"Authorization": "Bearer ..."}}"#, "Who has a token"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(
            !said.contains("Nobody is asked") && said.contains("Nothing is encrypted"),
            "{said}"
        );
    }

    #[test]
    fn what_is_served_and_what_is_not_protected() {
        let config = Config::default();
        let said = |address: &str| {
            let place = Place::Tcp(address.parse().expect("an address"));
            Greeting::new(&config, place)
                .of("time", "", "mcp-server-time, a process a session")
                .to_string()
        };
        let here = said("127.0.0.1:8000");
        assert!(here.contains("Serves: mcp-server-time, a process a session\n"), "{here}");
        assert!(here.contains(r#""mcpServers": {"time": {"type""#), "{here}");
        assert!(here.contains("every program on this machine") && !here.contains("encrypted"));
        assert!(here.contains(r#""method":"tools/list"}'"#), "{here}");
        let open = said("0.0.0.0:8000");
        assert!(open.contains("everybody who can reach") && open.contains("Nothing is encrypted"));
    }

    #[test]
    fn each_of_several_is_told() {
        let config = Config::default();
        let place = Place::Tcp("127.0.0.1:8000".parse().expect("an address"));
        let said =
            Greeting::new(&config, place).of("a", "/a", "one").of("b", "/b", "another").to_string();
        assert!(said.contains("\n  http://127.0.0.1:8000/a/sse\n    serves one\n"), "{said}");
        assert!(said.contains("\n  http://127.0.0.1:8000/b/sse\n    serves another\n"), "{said}");
        assert!(said.contains("curl -sN http://127.0.0.1:8000/a/sse |"), "{said}");
        assert!(said.contains(r#""b": {"type": "sse", "url": "http://127.0.0.1:8000/b/sse"}}}"#));
    }

    #[test]
    fn sockets_can_be_reached() {
        let unix = |path| Place::Unix(Path::new(path));
        let first = "  curl -sN --unix-socket /run/mcp.sock http://localhost/sse | tee /tmp/mcp-sse-mcp.sock.events &";
        check(unix("/run/mcp.sock"), false, first);
        check(
            unix("/run/mcp.sock"),
            false,
            "  curl -s --unix-socket /run/mcp.sock \"http://localhost$(",
        );
        check(unix("/a b/it's"), false, r"--unix-socket '/a b/it'\''s' http");
    }
}
