//! The command line flags of a server, and the configuration that they set.
//!
//! Knows: flags, their units, and how a mistake in one is reported.
//! Does not know: what is served.

mod access;
mod restarts;
pub mod values;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::fmt;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use clap::Args;
use log::LevelFilter;
use mcp_sse_core::{Config, ConfigBuilder, ConfigError, Limits, StaticTokens, Timeouts};
use mcp_sse_driver::WORKERS_MAX;
#[cfg(feature = "tls")]
use mcp_sse_driver::{Tls, TlsError};

use crate::banner::Banner;
use crate::logging::Format;
use access::Access;
pub use access::TokensError;
use restarts::Restarts;
use values::{CountFlag, SizeFlag, TimeFlag, parse_count, parse_size, parse_time};

pub use crate::listen_address::{ListenAddress, NamedAddress, PassedAddresses};

/// The flags that every serving program has: where to listen, and how.
#[derive(Args, Clone, Debug)]
pub struct ServeFlags {
    /// The address to listen on: an IP address, or a name for all of its addresses; "localhost" is
    /// 127.0.0.1 and ::1. Addresses that other machines can reach need a token, see --auth-token-file.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = parse_host)]
    host: Host,
    /// The port to listen on; 0 picks a free one and prints it.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Listen on a Unix socket at this path instead. Only this user can connect, see --unix-mode.
    #[cfg(unix)]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix: Option<PathBuf>,
    /// The mode of the Unix socket's file, in octal; 0600 by default. With 0660 its group can connect
    /// too, for example the workers of a proxy.
    #[cfg(unix)]
    #[arg(long, value_name = "MODE", requires = "unix", value_parser = parse_mode)]
    unix_mode: Option<u32>,
    /// Speak TLS, with the certificate chain in this PEM file.
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    #[cfg_attr(unix, arg(conflicts_with = "unix"))]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The path of the event stream.
    #[arg(long, value_name = "PATH", default_value = "/sse")]
    sse_path: String,
    /// The path that messages are posted to.
    #[arg(long, value_name = "PATH", default_value = "/messages")]
    message_path: String,
    /// The prefix that a proxy in front removes from paths. It is added to the path that clients post
    /// to.
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    public_path_prefix: String,
    /// A name of this process among several behind one load balancer: 1 to 16 characters of a-z, 0-9 and
    /// "-". Session ids start with it and a dot, so that the load balancer can send posts to the process that
    /// has the session.
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,
    /// Send a heartbeat when nothing was sent on a stream for this time, or "off".
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_time)]
    heartbeat: TimeFlag,
    /// The most connections at once, or "unlimited".
    #[arg(long, value_name = "N", default_value = "10240", value_parser = parse_count)]
    max_connections: CountFlag,
    /// The most sessions at once, or "unlimited".
    #[arg(long, value_name = "N", default_value = "8192", value_parser = parse_count)]
    max_sessions: CountFlag,
    /// The largest body of a post, in bytes or as in 500KiB or 4MiB, or "unlimited". Limits of memory
    /// and queues are raised with it, so that such a body and an answer of that size fit.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse_size)]
    max_body: SizeFlag,
    /// Serve with this many threads, each with sockets and sessions of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_workers)]
    workers: usize,
    /// How much to log to stderr: off, error, warn, info, debug or trace. Only trace logs messages.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = parse_level)]
    log_level: LevelFilter,
    /// The format of the log.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: Format,
    /// How often to look whether the files of --tls-cert, --tls-key and --auth-token-file have changed, or
    /// "off". Files that have changed are read again, as they are after SIGHUP.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    reload_interval: TimeFlag,
    #[command(flatten)]
    restarts: Restarts,
    #[command(flatten)]
    access: Access,
    /// The sockets that the service manager has passed, which are used instead of an address.
    #[arg(skip)]
    passed: Option<PassedAddresses>,
}

/// The value of `--host`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    /// The name, if a name was given.
    name: Option<String>,
    ips: Vec<IpAddr>,
}

impl ServeFlags {
    /// The address to listen on.
    #[must_use]
    pub fn address(&self) -> ListenAddress<'_> {
        match &self.passed {
            Some(PassedAddresses::Tcp(addresses)) => return ListenAddress::Passed(addresses),
            Some(PassedAddresses::Unix { path, .. }) => return ListenAddress::Unix(path),
            None => {}
        }
        #[cfg(unix)]
        if let Some(path) = &self.unix {
            return ListenAddress::Unix(path);
        }
        match &self.host {
            Host { name: Some(name), ips } => {
                ListenAddress::Named(NamedAddress { name, ips, port: self.port })
            }
            Host { name: None, ips } => {
                let ip = ips.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
                ListenAddress::Tcp(SocketAddr::new(ip, self.port))
            }
        }
    }

    /// The mode of the Unix socket's file.
    #[cfg(unix)]
    #[must_use]
    pub fn unix_mode(&self) -> u32 {
        match self.passed {
            Some(PassedAddresses::Unix { mode, .. }) => mode,
            Some(PassedAddresses::Tcp(_)) | None => self.unix_mode.unwrap_or(0o600),
        }
    }

    /// Sets that the server will listen on sockets that the service manager has bound, instead of at the address that
    /// the flags name.
    pub fn listen_on_passed(&mut self, passed: PassedAddresses) {
        self.passed = Some(passed);
    }

    /// The files of the certificate and of its key.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_files(&self) -> Option<[&Path; 2]> {
        Some([self.tls_cert.as_deref()?, self.tls_key.as_deref()?])
    }

    /// The file with tokens.
    #[must_use]
    pub fn token_file(&self) -> Option<&Path> {
        self.access.token_file()
    }

    /// The tokens that clients may present; `None` if they need none. The file with tokens is read.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or if a token is invalid.
    pub fn tokens(&self) -> Result<Option<StaticTokens>, TokensError> {
        self.access.tokens()
    }

    /// How often to look whether files have changed; `None` for never.
    #[must_use]
    pub const fn reload_interval(&self) -> Option<Duration> {
        self.reload_interval.0
    }

    /// The TLS configuration, if the flags name a certificate.
    ///
    /// # Errors
    ///
    /// Returns an error if the files cannot be read, or do not contain a certificate and its key.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Result<Option<Tls>, TlsError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Tls::from_pem_files(cert, key).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether connections use TLS.
    #[must_use]
    pub fn speaks_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls_cert.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// The number of worker threads.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// Whether clients need a token.
    #[must_use]
    pub fn asks_for_tokens(&self) -> bool {
        self.access.asks()
    }

    /// The names of the environment variables that contain tokens (`--auth-token-env`).
    #[must_use]
    pub fn token_variables(&self) -> &[String] {
        self.access.token_variables()
    }

    /// The level of the log.
    #[must_use]
    pub const fn log_level(&self) -> LevelFilter {
        self.log_level
    }

    /// The format of the log.
    #[must_use]
    pub const fn log_format(&self) -> Format {
        self.log_format
    }

    /// The largest body of a post, in bytes; `None` if it is unlimited.
    #[must_use]
    pub const fn body_bytes_max(&self) -> Option<u64> {
        self.max_body.0
    }

    /// The banner of a server with these flags and the configuration `config` that listens at `address`.
    #[must_use]
    pub fn banner<'a>(&self, config: &'a Config, address: ListenAddress<'a>) -> Banner<'a> {
        let banner = Banner::new(config, address)
            .workers(self.workers)
            .public_path_prefix(&self.public_path_prefix)
            .asks_for_tokens(self.asks_for_tokens())
            .tls(self.speaks_tls())
            .passed(self.passed.is_some());
        #[cfg(unix)]
        let banner = banner.unix_mode(self.unix_mode());
        banner
    }

    /// The configuration that the flags set.
    ///
    /// # Errors
    ///
    /// Returns the first invalid flag, or an error if other machines could connect without a token.
    pub fn config(&self) -> Result<Config, FlagError> {
        self.builder()?.build().map_err(FlagError::Setting)
    }

    /// The path of the event stream.
    #[must_use]
    pub fn stream_path(&self) -> &str {
        &self.sse_path
    }

    /// The configuration that the flags set, as a builder for further settings.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`config`](Self::config), except for those that [`ConfigBuilder::build`] returns.
    pub fn builder(&self) -> Result<ConfigBuilder, FlagError> {
        let address = self.address();
        if let Some(address) = address.exposed()
            && !self.access.admits(address)
        {
            return Err(FlagError::Exposed(address));
        }
        let on_unix_socket = matches!(address, ListenAddress::Unix(_));
        if !self.speaks_tls() && !self.access.can_meet_https(on_unix_socket) {
            return Err(FlagError::NoHttps { on_unix_socket });
        }
        let mut limits = Limits {
            connections_max: self.max_connections.0,
            sessions_max: self.max_sessions.0,
            ..Limits::default().with_body_bytes_max(self.max_body.0)
        };
        self.access.limit(&mut limits);
        let mut timeouts = Timeouts { heartbeat: self.heartbeat.0, ..Timeouts::default() };
        self.restarts.time(&mut timeouts);
        let mut builder = Config::builder()
            .stream_path(&self.sse_path)
            .message_path(&self.message_path)
            .public_path_prefix(&self.public_path_prefix)
            .limits(limits)
            .timeouts(timeouts);
        if let Some(id) = &self.instance_id {
            builder = builder.instance_id(id);
        }
        // The operator has named this host on the command line, so it is allowed. If the address is not loopback,
        // every host is allowed until one is listed.
        if let ListenAddress::Named(NamedAddress { name, .. }) = address
            && name != LOCALHOST
            && address.exposed().is_none()
        {
            builder = builder.allow_host(name);
        }
        self.access.apply(self.restarts.apply(builder)).map_err(FlagError::Tokens)
    }
}

/// A mistake in the flags. It displays as a message for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlagError {
    /// A value is invalid.
    Setting(ConfigError),
    /// The tokens cannot be used.
    Tokens(TokensError),
    /// Other machines could connect to this address without a token.
    Exposed(SocketAddr),
    /// HTTPS is required, but no request can arrive by HTTPS.
    NoHttps {
        /// Whether the server would listen on a Unix socket.
        on_unix_socket: bool,
    },
}

impl fmt::Display for FlagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(error) => {
                error.fmt(f)?;
                flag_for(error).map_or(Ok(()), |flag| write!(f, "; see {flag}"))
            }
            Self::Tokens(error) => error.fmt(f),
            Self::Exposed(address) => write!(
                f,
                "{address} can be reached from other machines, which could use everything that is \
                 served: require a token with --auth-token-file FILE or --auth-token-env NAME, or \
                 serve without one with --insecure-no-auth"
            ),
            Self::NoHttps { on_unix_socket: false } => f.write_str(
                "--require-https would refuse every request, because no request can arrive by https: \
                 add --tls-cert FILE --tls-key FILE, or --trusted-proxy ADDRESS with the address of a \
                 proxy in front that speaks https and sends Forwarded or X-Forwarded-Proto",
            ),
            Self::NoHttps { on_unix_socket: true } => f.write_str(
                "--require-https would refuse every request, because no request can arrive by https: \
                 add --trusted-proxy unix, if a proxy in front speaks https and sends Forwarded or \
                 X-Forwarded-Proto",
            ),
        }
    }
}

impl core::error::Error for FlagError {}

/// The flag that sets the setting in a configuration error.
fn flag_for(error: &ConfigError) -> Option<&'static str> {
    if matches!(error, ConfigError::PathsCollide { .. }) {
        return Some("--sse-path or --message-path");
    }
    // There is no flag for this setting.
    let name = error.setting().filter(|_| *error != ConfigError::AnyOriginWithCredentials)?;
    let known = [
        ("trusted_proxy", "--trusted-proxy"),
        ("body_bytes_max", "--max-body"),
        ("stream_path", "--sse-path"),
        ("message_path", "--message-path"),
        ("public_path_prefix", "--public-path-prefix"),
        ("allow_host", "--allow-host"),
        ("allow_origin", "--allow-origin"),
        ("cors_origin", "--cors-origin"),
        ("cors_header", "--cors-header"),
        ("heartbeat", "--heartbeat"),
        ("instance_id", "--instance-id"),
        ("drain_spread", "--drain-spread"),
        ("retry_after", "--retry-after"),
        ("retry", "--retry"),
    ];
    known.into_iter().find(|(setting, _)| name.starts_with(setting)).map(|(_, flag)| flag)
}

fn parse_workers(text: &str) -> Result<usize, String> {
    let known = text.parse().ok().filter(|workers| (1..=WORKERS_MAX).contains(workers));
    known.ok_or_else(|| format!("expected a whole number from 1 to {WORKERS_MAX}"))
}

/// The name that stands for both loopback addresses. It is not resolved.
const LOCALHOST: &str = "localhost";

fn parse_host(text: &str) -> Result<Host, String> {
    if text.eq_ignore_ascii_case(LOCALHOST) {
        let ips = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(Host { name: Some(LOCALHOST.into()), ips });
    }
    if let Ok(ip) = text.parse() {
        return Ok(Host { name: None, ips: vec![ip] });
    }
    let found = (text, 0).to_socket_addrs().map_err(|error| {
        format!(
            "expected an IP address, as in 127.0.0.1, 0.0.0.0 or ::1, or the name of this machine: \
             {error}"
        )
    })?;
    let mut ips: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    ips.sort_unstable();
    ips.dedup();
    if ips.is_empty() {
        Err("the name has no address".into())
    } else {
        Ok(Host { name: Some(text.into()), ips })
    }
}

#[cfg(unix)]
fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| (0..=0o777).contains(mode));
    match mode {
        // Connecting to a Unix socket requires the permission to write.
        Some(mode) if mode & 0o222 == 0 => {
            Err("no user could connect, which requires the permission to write, as in 0660".into())
        }
        Some(mode) => Ok(mode),
        None => {
            Err("expected the permissions of a file in octal, from 0200 to 0777, as in 0660".into())
        }
    }
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "expected off, error, warn, info, debug or trace".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use mcp_sse_core::InstanceId;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        serve: ServeFlags,
    }

    pub(super) fn serve(args: &[&str]) -> Result<ServeFlags, clap::Error> {
        Program::try_parse_from([&["program"], args].concat()).map(|program| program.serve)
    }

    #[test]
    fn flags_reach_the_configuration() {
        let config = serve(&[
            "--sse-path=/s",
            "--message-path=/m",
            "--heartbeat=off",
            "--shutdown-grace=250ms",
            "--max-connections=7",
            "--max-sessions=unlimited",
            "--max-body=100MiB",
            "--public-path-prefix=/mcp",
            "--instance-id=eu-1",
            "--allow-host=mcp.example:443",
            "--allow-origin=http://localhost:*",
        ])
        .unwrap()
        .config()
        .unwrap();
        assert_eq!((config.stream_path(), config.message_path()), ("/s", "/m"));
        assert_eq!(config.instance_id(), InstanceId::parse(b"eu-1"));
        assert_eq!(serve(&[]).unwrap().workers(), 1);
        assert_eq!(serve(&["--workers=4"]).unwrap().workers(), 4);
        assert_eq!(config.timeouts().heartbeat, None);
        assert_eq!(config.timeouts().shutdown_grace, Some(Duration::from_millis(250)));
        assert_eq!(config.limits().connections_max, Some(7));
        assert_eq!(config.limits().sessions_max, None);
        assert_eq!(config.limits().body_bytes_max, Some(100 << 20));
        // The other limits are raised with it.
        let raised = Limits::default().with_body_bytes_max(Some(100 << 20));
        assert_eq!(config.limits().bodies_bytes_max, raised.bodies_bytes_max);
        assert_eq!(config.limits().queues_bytes_max, raised.queues_bytes_max);
        assert_eq!(config.limits().inbound_bytes_max, raised.inbound_bytes_max);
    }

    #[test]
    fn unlimited_body_makes_the_limits_of_its_memory_unlimited() {
        let config = serve(&["--max-body=unlimited"]).unwrap().config().unwrap();
        let Limits { body_bytes_max, bodies_bytes_max, queues_bytes_max, .. } = config.limits();
        assert_eq!([body_bytes_max, bodies_bytes_max, queues_bytes_max], [&None; 3]);
        assert_eq!(config.limits().inbound_bytes_max, None);
    }

    #[test]
    fn flag_defaults_equal_the_library_defaults() {
        let (said, own) = (serve(&[]).unwrap().config().unwrap(), Config::default());
        assert_eq!((said.limits(), said.timeouts()), (own.limits(), own.timeouts()));
        assert_eq!(said.stream_path(), own.stream_path());
        assert_eq!(said.message_path(), own.message_path());
        assert_eq!(said.instance_id(), own.instance_id());
        assert_eq!((said.retry(), said.retry_after()), (own.retry(), own.retry_after()));
    }

    #[track_caller]
    fn check_mistake(arg: &str, flag: &str) {
        match serve(&[arg]) {
            Err(error) => assert!(error.to_string().contains(flag), "{error}"),
            Ok(serve) => {
                let error = serve.config().expect_err(arg).to_string();
                assert!(error.contains(flag), "{error}");
            }
        }
    }

    #[test]
    fn flag_error_names_the_flag() {
        check_mistake("--sse-path=sse", "--sse-path");
        check_mistake("--message-path=/a//b", "--message-path");
        check_mistake("--sse-path=/messages", "--sse-path");
        check_mistake("--allow-host=http://x", "--allow-host");
        check_mistake("--allow-origin=x", "--allow-origin");
        check_mistake("--cors-origin=x", "--cors-origin");
        let args = ["--cors-origin=https://app.example", "--cors-header=a b"];
        let error = serve(&args).unwrap().config().unwrap_err().to_string();
        assert!(error.contains("see --cors-header"), "{error}");
        check_mistake("--trusted-proxy=10.0.0.1/8", "--trusted-proxy");
        check_mistake("--rate-limit=10", "--rate-limit");
        check_mistake("--rate-limit=host=10/second", "--rate-limit");
        check_mistake("--max-sessions-per-peer=0", "--max-sessions-per-peer");
        check_mistake("--heartbeat=0", "--heartbeat");
        check_mistake("--heartbeat=soon", "--heartbeat");
        check_mistake("--max-sessions=-1", "--max-sessions");
        check_mistake("--max-connections=0", "--max-connections");
        check_mistake("--max-body=4MB", "--max-body");
        check_mistake("--public-path-prefix=mcp", "--public-path-prefix");
        check_mistake("--instance-id=", "--instance-id");
        check_mistake("--instance-id=EU_1", "--instance-id");
        check_mistake("--instance-id=seventeen-letters", "--instance-id");
        check_mistake("--log-format=xml", "--log-format");
        check_mistake("--port=65536", "--port");
        check_mistake("--workers=0", "--workers");
        check_mistake("--workers=257", "--workers");
        check_mistake("--host=nowhere.invalid", "--host");
        check_mistake("--reload-interval=often", "--reload-interval");
        check_mistake("--log-level=loud", "--log-level");
    }

    #[test]
    fn host_flag_takes_an_address_or_a_name() {
        let args = ["--host=LocalHost", "--port=7"];
        let named = serve(&args).unwrap();
        let addresses = named.address().addresses();
        let expected = ["127.0.0.1:7", "[::1]:7"].map(|text| text.parse().unwrap());
        assert_eq!((&addresses[..], named.address().exposed()), (&expected[..], None));
        assert_eq!(named.address().to_string(), "localhost:7");
        assert!(named.config().is_ok());
        // Each address of a name is checked, and the given name is allowed as a `Host`.
        let of = |ips: &[&str]| {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            let host = Host { name: Some("box".into()), ips };
            ServeFlags { host, ..serve(&[]).unwrap() }.config()
        };
        assert!(format!("{:?}", of(&["127.0.1.1"]).unwrap()).contains("box"));
        let exposed = of(&["127.0.1.1", "192.0.2.1"]).unwrap_err();
        assert_eq!(exposed, FlagError::Exposed("192.0.2.1:8000".parse().unwrap()));
    }

    #[cfg(unix)]
    #[test]
    fn unix_mode_is_octal() {
        let mode = |text: &str| serve(&["--unix=/s", text]).map(|serve| serve.unix_mode());
        assert_eq!(serve(&["--unix=/s"]).unwrap().unix_mode(), 0o600);
        assert_eq!(mode("--unix-mode=0660").unwrap(), 0o660);
        assert_eq!(mode("--unix-mode=666").unwrap(), 0o666);
        for wrong in ["0680", "rw", "-1", "", "1660", "0o660"] {
            let error = mode(&format!("--unix-mode={wrong}")).unwrap_err().to_string();
            assert!(error.contains("octal") && error.contains("--unix-mode"), "{error}");
        }
        let error = mode("--unix-mode=0440").unwrap_err().to_string();
        assert!(error.contains("no user could connect"), "{error}");
        let error = serve(&["--unix-mode=0660"]).unwrap_err().to_string();
        assert!(error.contains("--unix <PATH>"), "{error}");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn require_https_without_tls_or_proxy_is_a_flag_error() {
        let said = |args: &[&str]| {
            let args = [&["--require-https"], args].concat();
            serve(&args).unwrap().config().map_err(|error| error.to_string()).err()
        };
        assert!(said(&[]).unwrap().contains("--tls-cert FILE --tls-key FILE, or --trusted-proxy"));
        assert!(said(&["--trusted-proxy=unix"]).unwrap().contains("--trusted-proxy ADDRESS"));
        assert_eq!(said(&["--trusted-proxy=127.0.0.1"]), None);
        assert_eq!(said(&["--tls-cert=c", "--tls-key=k"]), None);
        assert!(
            said(&["--unix=/s", "--trusted-proxy=::1"]).unwrap().contains("--trusted-proxy unix")
        );
        assert_eq!(said(&["--unix=/s", "--trusted-proxy=unix"]), None);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn flags_needing_or_excluding_each_other_are_refused() {
        let check = |args: &[&str], flags: &[&str]| {
            let error = serve(args).expect_err("flags that do not go together").to_string();
            assert!(flags.iter().all(|flag| error.contains(flag)), "{error}");
        };
        check(&["--unix=/s", "--port=1"], &["--unix", "--port"]);
        check(&["--host=::1", "--unix=/s"], &["--unix", "--host"]);
        check(&["--tls-cert=c"], &["--tls-key"]);
        check(&["--tls-key=k"], &["--tls-cert"]);
        check(&["--unix=/s", "--tls-cert=c", "--tls-key=k"], &["--unix", "--tls-cert"]);
        assert_eq!(serve(&["--unix=/s"]).unwrap().address(), ListenAddress::Unix(Path::new("/s")));
        let tcp = serve(&["--tls-cert=c", "--tls-key=k", "--host=::1"]).unwrap();
        assert_eq!(tcp.address(), ListenAddress::Tcp("[::1]:8000".parse().unwrap()));
        assert!(tcp.tls().unwrap_err().to_string().contains("certificate file c"));
    }
}
