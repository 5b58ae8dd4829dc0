//! The banner, which a program prints on start: the URLs, three `curl` commands for a first session, the lines for a
//! client's configuration, and warnings about missing protection.
//!
//! Knows: how a client on this machine reaches the server, and the flags of `curl` for that.
//! Does not know: whether the server listens.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::path::Path;

use mcp_sse_core::Config;

use crate::listen_address::{ListenAddress, NamedAddress};

/// The banner of a server. It is printed with [`Display`](fmt::Display).
///
/// ```
/// use mcp_sse_core::Config;
/// use mcp_sse_demo::banner::Banner;
/// use mcp_sse_demo::listen_address::ListenAddress;
///
/// let config = Config::default();
/// let address = ListenAddress::Tcp("127.0.0.1:8000".parse()?);
/// let banner = Banner::new(&config, address).to_string();
/// assert!(banner.starts_with("MCP over HTTP+SSE: http://127.0.0.1:8000/sse\n"));
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct Banner<'a> {
    config: &'a Config,
    address: ListenAddress<'a>,
    unix_mode: u32,
    tls: bool,
    asks_for_tokens: bool,
    prefix_len: usize,
    workers: usize,
    passed: bool,
    /// The services of the server; none if it serves the demo.
    services: Vec<BannerService>,
    metrics: Option<String>,
}

#[derive(Debug)]
struct BannerService {
    name: String,
    path: String,
    description: String,
}

impl<'a> Banner<'a> {
    /// Creates the banner of a server that has the configuration `config` and listens at `address`. The port of
    /// `address` must be the port that was bound.
    #[must_use]
    pub const fn new(config: &'a Config, address: ListenAddress<'a>) -> Self {
        Self {
            config,
            address,
            unix_mode: 0o600,
            tls: false,
            asks_for_tokens: false,
            prefix_len: 0,
            workers: 1,
            passed: false,
            services: Vec::new(),
            metrics: None,
        }
    }

    /// Adds a service: its name in a client's configuration, the path in front of its stream path, and a description
    /// of what is served. Without services, the banner is that of the demo.
    #[must_use]
    pub fn service(
        mut self,
        name: impl Into<String>,
        path: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let (name, path) = (name.into(), path.into());
        self.services.push(BannerService { name, path, description: description.into() });
        self
    }

    /// Sets the prefix that a proxy in front of the server removes from paths; none by default. The `curl` commands
    /// bypass the proxy, so they remove the prefix themselves.
    #[must_use]
    pub fn public_path_prefix(self, prefix: &str) -> Self {
        Self { prefix_len: prefix.len(), ..self }
    }

    /// Sets the mode of the Unix socket's file; 0600 by default. Without a Unix socket it has no effect.
    #[must_use]
    pub fn unix_mode(self, unix_mode: u32) -> Self {
        Self { unix_mode, ..self }
    }

    /// Sets whether the server speaks TLS; false by default.
    #[must_use]
    pub fn tls(self, tls: bool) -> Self {
        Self { tls, ..self }
    }

    /// Sets whether clients need a token; false by default.
    #[must_use]
    pub fn asks_for_tokens(self, asks_for_tokens: bool) -> Self {
        Self { asks_for_tokens, ..self }
    }

    /// Sets the number of worker threads; 1 by default.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Sets whether the service manager has bound the sockets; false by default.
    #[must_use]
    pub fn passed(self, passed: bool) -> Self {
        Self { passed, ..self }
    }

    /// Sets the URL of the server's metrics; none by default.
    #[must_use]
    pub fn metrics(self, metrics: Option<String>) -> Self {
        Self { metrics, ..self }
    }

    /// The scheme and the authority of the URLs by which a client on this machine reaches the server. On a Unix
    /// socket, the authority is `localhost`.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.client_access().base
    }

    const fn is_on_unix_socket(&self) -> bool {
        matches!(self.address, ListenAddress::Unix(_))
    }

    /// How a client on this machine reaches the server.
    fn client_access(&self) -> ClientAccess {
        let tcp = |authority: String, port: u16| {
            let (scheme, curl_flags) = if self.tls { ("https", "k") } else { ("http", "") };
            ClientAccess {
                base: format!("{scheme}://{authority}"),
                curl_flags: curl_flags.to_owned(),
                events_file: format!("/tmp/mcp-sse-{port}.events"),
            }
        };
        let mut access = match self.address {
            ListenAddress::Tcp(address) => tcp(reachable(address).to_string(), address.port()),
            ListenAddress::Named(named) => tcp(authority(&named), named.port),
            ListenAddress::Passed(addresses) => {
                let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
                let address = reachable(addresses.first().copied().unwrap_or(any));
                tcp(address.to_string(), address.port())
            }
            ListenAddress::Unix(path) => {
                let name = path.file_name().map(Path::new).unwrap_or(path);
                let events_file = format!("/tmp/mcp-sse-{}.events", name.display());
                ClientAccess {
                    base: "http://localhost".to_owned(),
                    curl_flags: format!(" --unix-socket {}", quoted(path)),
                    events_file: quoted(Path::new(&events_file)),
                }
            }
        };
        if self.asks_for_tokens {
            access.curl_flags.push_str(" -H \"Authorization: Bearer $TOKEN\"");
        }
        access
    }

    /// Writes the URLs of all services.
    fn write_services(&self, f: &mut fmt::Formatter<'_>, access: &ClientAccess) -> fmt::Result {
        let stream = self.config.stream_path();
        let mut places = match self.address {
            ListenAddress::Tcp(_) => String::new(),
            ListenAddress::Named(NamedAddress { ips, .. }) => {
                let ips: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
                format!(" on {}", ips.join(" and "))
            }
            ListenAddress::Passed(_) => format!(" on {}", self.address),
            ListenAddress::Unix(path) => format!(" on the Unix socket {}", path.display()),
        };
        if self.passed {
            places.push_str(", bound by the service manager");
        }
        let instance = self.config.instance_id().map(|id| format!("instance {id}"));
        let workers = (self.workers > 1).then(|| format!("{} workers", self.workers));
        let notes: Vec<String> = instance.into_iter().chain(workers).collect();
        if !notes.is_empty() {
            places.push_str(&format!(" ({})", notes.join(", ")));
        }
        // A Unix socket has no URL, so only the path is printed.
        let base = if self.is_on_unix_socket() { "" } else { &*access.base };
        match &*self.services {
            [] => writeln!(f, "MCP over HTTP+SSE: {base}{stream}{places}\n"),
            [BannerService { path, description, .. }] => writeln!(
                f,
                "MCP over HTTP+SSE: {base}{path}{stream}{places}\n\nServes: {description}\n"
            ),
            services => {
                writeln!(f, "MCP over HTTP+SSE{places}:\n")?;
                services.iter().try_for_each(|BannerService { path, description, .. }| {
                    writeln!(f, "  {base}{path}{stream}\n    serves {description}\n")
                })
            }
        }
    }

    /// Writes three commands for a first session with the first service.
    fn write_commands(&self, f: &mut fmt::Formatter<'_>, access: &ClientAccess) -> fmt::Result {
        let ClientAccess { base, curl_flags, events_file } = access;
        let stream = self.config.stream_path();
        let path = self.services.first().map_or("", |service| &*service.path);
        let prefix = match self.prefix_len {
            0 => String::new(),
            len => format!(r".\{{{len}\}}"),
        };
        let post = format!(
            "curl -s{curl_flags} \"{base}$(sed -n '2s/data: {prefix}//p' {events_file})\" -H 'Content-Type: application/json'"
        );
        let (does, then) = if self.services.is_empty() {
            ("call a tool", r#""tools/call","params":{"name":"add","arguments":{"a":2,"b":3}}"#)
        } else {
            ("list its tools", r#""tools/list""#)
        };
        write!(
            f,
            r#"Try it: listen to a session, then initialize it and {does}; the answers are events on the stream.

  curl -sN{curl_flags} {base}{path}{stream} | tee {events_file} &
  {post} -d '{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2024-11-05","capabilities":{{}},"clientInfo":{{"name":"curl","version":"0"}}}}}}'
  {post} -d '{{"jsonrpc":"2.0","id":2,"method":{then}}}'
"#
        )?;
        if self.asks_for_tokens {
            f.write_str("\nThe variable TOKEN must contain a token that the server accepts.\n")?;
        }
        if self.tls {
            f.write_str("\n-k accepts any certificate; with --cacert FILE instead, curl verifies the certificate.\n")?;
        }
        Ok(())
    }

    /// Writes the lines for a client's configuration, with an entry for each service.
    fn write_client_configuration(
        &self,
        f: &mut fmt::Formatter<'_>,
        access: &ClientAccess,
    ) -> fmt::Result {
        let (base, stream) = (&access.base, self.config.stream_path());
        let headers = if self.asks_for_tokens {
            r#", "headers": {"Authorization": "Bearer ..."}"#
        } else {
            ""
        };
        let entry = |name: &str, path: &str| {
            let name = serde_json::Value::from(name);
            format!(r#"{name}: {{"type": "sse", "url": "{base}{path}{stream}"{headers}}}"#)
        };
        let entries: Vec<String> = match &*self.services {
            [] => vec![entry("demo", "")],
            services => {
                services.iter().map(|service| entry(&service.name, &service.path)).collect()
            }
        };
        let entries = entries.join(", ");
        write!(
            f,
            "\nOr add it to a client's configuration:\n\n  {{\"mcpServers\": {{{entries}}}}}\n"
        )
    }

    /// Which programs can use the server, and whether messages are encrypted.
    fn protection(&self) -> String {
        if self.is_on_unix_socket() {
            let who = match self.unix_mode {
                mode if mode & 0o002 != 0 => "every program of every user on this machine",
                mode if mode & 0o020 != 0 => "programs of this user and of the socket's group",
                _ => "programs of this user",
            };
            return format!("Not protected: {who} can use it.");
        }
        let exposed = self.address.exposed().is_some();
        let who = if exposed {
            "every program that can connect to this machine"
        } else {
            "every program of every user on this machine"
        };
        let wire = if self.tls || !exposed {
            ""
        } else {
            " Nothing is encrypted: messages and header fields can be read on the network."
        };
        if self.asks_for_tokens {
            return format!("Clients need a token.{wire}");
        }
        format!("Not protected: {who} can use it, without a token.{wire}")
    }
}

/// How a client on this machine reaches the server.
struct ClientAccess {
    /// The scheme, host and port of URLs, such as `http://127.0.0.1:8000`.
    base: String,
    /// The text after `curl -s` on the command line: a further short flag, or flags with a space in front.
    curl_flags: String,
    /// The file in which the printed commands store the stream's events.
    events_file: String,
}

/// The host and port for a client on this machine. It is the name, except if some of its addresses are loopback
/// addresses and others are not: then the server does not allow the name as a `Host` on loopback.
fn authority(named: &NamedAddress<'_>) -> String {
    let NamedAddress { name, ips, port } = *named;
    let loopback = ips.iter().filter(|ip| ip.is_loopback()).count();
    match ips.first() {
        Some(&ip) if loopback > 0 && loopback < ips.len() => SocketAddr::new(ip, port).to_string(),
        _ => format!("{name}:{port}"),
    }
}

/// The address to which a client on this machine connects. For an unspecified address it is the loopback address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// Formats a path as one word of a shell command.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = self.client_access();
        self.write_services(f, &access)?;
        self.write_commands(f, &access)?;
        // Clients cannot have a Unix socket in their configuration.
        if !self.is_on_unix_socket() {
            self.write_client_configuration(f, &access)?;
        }
        if !self.services.is_empty() {
            writeln!(f, "\n{}", self.protection())?;
        }
        if let Some(url) = &self.metrics {
            writeln!(f, "\nMetrics for Prometheus: {url}")?;
        }
        f.write_str("\nCtrl-C stops it.\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: ListenAddress<'_>, tls: bool, said: &str) {
        let config = Config::default();
        let banner = Banner::new(&config, address).tls(tls).to_string();
        assert!(banner.contains(said), "{banner}");
        assert_eq!(banner.matches("curl -s").count(), 3);
    }

    #[test]
    fn banner_urls_can_be_reached() {
        let tcp = |address: &str| ListenAddress::Tcp(address.parse().expect("an address"));
        check(tcp("127.0.0.1:8000"), false, "http://127.0.0.1:8000/sse\n");
        check(tcp("0.0.0.0:9"), false, "http://127.0.0.1:9/sse\n");
        check(tcp("[::]:9"), false, "http://[::1]:9/sse\n");
        check(tcp("[::1]:9"), false, "\"url\": \"http://[::1]:9/sse\"");
        check(tcp("127.0.0.1:8443"), true, "MCP over HTTP+SSE: https://127.0.0.1:8443/sse\n");
        check(tcp("127.0.0.1:8443"), true, "  curl -sNk https://127.0.0.1:8443/sse |");
        check(tcp("127.0.0.1:8443"), true, "  curl -sk \"https://127.0.0.1:8443$(");
    }

    #[test]
    fn banner_url_of_a_name_works_at_all_its_addresses() {
        let says = |name: &str, ips: &[&str], url: &str, on: &str| {
            let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
            let address = ListenAddress::Named(NamedAddress { name, ips: &ips, port: 8000 });
            let first = format!("MCP over HTTP+SSE: {url}/sse on {on}\n");
            check(address, false, &first);
            check(address, false, &format!("\"url\": \"{url}/sse\""));
        };
        says("localhost", &["127.0.0.1", "::1"], "http://localhost:8000", "127.0.0.1 and ::1");
        says("localhost", &["127.0.0.1"], "http://localhost:8000", "127.0.0.1");
        says("box", &["192.0.2.1"], "http://box:8000", "192.0.2.1");
        // On loopback, a name that also has other addresses is not allowed as a `Host`.
        let both = ["192.0.2.1", "127.0.1.1"];
        says("box", &both, "http://192.0.2.1:8000", "192.0.2.1 and 127.0.1.1");
    }

    #[test]
    fn banner_names_all_sockets_of_the_service_manager() {
        let addresses = ["0.0.0.0:80", "[::1]:81"].map(|text| text.parse().expect("an address"));
        let config = Config::default();
        let said = |address| Banner::new(&config, address).passed(true).to_string();
        let tcp = said(ListenAddress::Passed(&addresses));
        let first = "MCP over HTTP+SSE: http://127.0.0.1:80/sse on 0.0.0.0:80 and [::1]:81, bound by the service";
        assert!(tcp.starts_with(first), "{tcp}");
        let unix = said(ListenAddress::Unix(Path::new("/s")));
        assert!(unix.contains("/sse on the Unix socket /s, bound by the service manager\n"));
    }

    #[test]
    fn banner_names_the_users_of_a_unix_socket() {
        let config = Config::default();
        let said = |mode| {
            let banner = Banner::new(&config, ListenAddress::Unix(Path::new("/s"))).unix_mode(mode);
            banner.service("time", "", "x").to_string()
        };
        assert!(said(0o600).contains("Not protected: programs of this user can"));
        assert!(said(0o660).contains("this user and of the socket's group can"));
        assert!(said(0o666).contains("every user on this machine"));
    }

    #[test]
    fn banner_with_public_path_prefix_cuts_it_off_for_curl() {
        let address = ListenAddress::Tcp("127.0.0.1:8000".parse().expect("an address"));
        let config = Config::default();
        let said = Banner::new(&config, address).public_path_prefix("/mcp").to_string();
        assert!(said.contains(r"$(sed -n '2s/data: .\{4\}//p' /tmp/"), "{said}");
    }

    #[test]
    fn banner_names_the_instance() {
        let address = ListenAddress::Tcp("127.0.0.1:8000".parse().expect("an address"));
        let config = Config::builder().instance_id("a1").build().expect("a configuration");
        let said = Banner::new(&config, address).workers(2).to_string();
        assert!(said.contains("/sse (instance a1, 2 workers)\n"), "{said}");
    }

    #[test]
    fn banner_with_tokens_has_the_header_field() {
        let config = Config::default();
        let address = ListenAddress::Tcp("192.0.2.1:8000".parse().expect("an address"));
        let said = Banner::new(&config, address)
            .asks_for_tokens(true)
            .service("time", "", "x")
            .to_string();
        let curl = r#"curl -sN -H "Authorization: Bearer $TOKEN" http://192.0.2.1:8000/sse |"#;
        let headers = r#""headers": {"Authorization": "Bearer ..."}}"#;
        for part in [curl, headers, "Clients need a token"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(
            !said.contains("without a token") && said.contains("Nothing is encrypted"),
            "{said}"
        );
    }

    #[test]
    fn banner_names_the_service_and_its_protection() {
        let config = Config::default();
        let said = |address: &str| {
            let address = ListenAddress::Tcp(address.parse().expect("an address"));
            Banner::new(&config, address)
                .service("time", "", "mcp-server-time, a process a session")
                .to_string()
        };
        let here = said("127.0.0.1:8000");
        assert!(here.contains("Serves: mcp-server-time, a process a session\n"), "{here}");
        assert!(here.contains(r#""mcpServers": {"time": {"type""#), "{here}");
        assert!(here.contains("every user on this machine") && !here.contains("encrypted"));
        assert!(here.contains(r#""method":"tools/list"}'"#), "{here}");
        let open = said("0.0.0.0:8000");
        assert!(open.contains("program that can connect to this machine"));
        assert!(open.contains("Nothing is encrypted"));
    }

    #[test]
    fn banner_lists_every_service() {
        let config = Config::default();
        let address = ListenAddress::Tcp("127.0.0.1:8000".parse().expect("an address"));
        let said = Banner::new(&config, address)
            .service("a", "/a", "one")
            .service("b", "/b", "another")
            .to_string();
        assert!(said.contains("\n  http://127.0.0.1:8000/a/sse\n    serves one\n"), "{said}");
        assert!(said.contains("\n  http://127.0.0.1:8000/b/sse\n    serves another\n"), "{said}");
        assert!(said.contains("curl -sN http://127.0.0.1:8000/a/sse |"), "{said}");
        assert!(said.contains(r#""b": {"type": "sse", "url": "http://127.0.0.1:8000/b/sse"}}}"#));
    }

    #[test]
    fn banner_commands_reach_a_unix_socket() {
        let unix = |path| ListenAddress::Unix(Path::new(path));
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
