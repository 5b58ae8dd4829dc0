//! The flags of access control: tokens, hosts, origins, proxies and rates.
//!
//! Knows: the flags, and the format of token files. Does not know: how a request is checked, which the core does.

use core::fmt;
use core::net::SocketAddr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use mcp_sse_core::{
    Authorization, ConfigBuilder, Limits, Rate, StaticTokens, StaticTokensBuilder,
    StaticTokensError,
};

use super::values::{CountFlag, SizeFlag, parse_count, parse_size};

/// The largest token file, in bytes: the most tokens, each of the greatest length, and room for comments.
const TOKEN_FILE_BYTES_MAX: u64 = 1 << 20;

/// The principal of a token that is given without one.
const NAMELESS: &str = "default";

/// The flags of access control.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access control")]
pub(super) struct Access {
    /// Require a bearer token, and accept those in this file: one "principal:token" on each line; empty
    /// lines and lines that begin with # are ignored. A session belongs to the principal that opened it.
    #[arg(long, value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
    /// Require a bearer token, and accept the one in this environment variable: "token" or
    /// "principal:token". May be repeated. (Never give a token itself as an argument: every user of the
    /// machine can read arguments.)
    #[arg(long, value_name = "NAME")]
    auth_token_env: Vec<String>,
    /// Listen at an address that other machines can reach without requiring a token.
    #[arg(long, conflicts_with_all = ["auth_token_file", "auth_token_env"])]
    insecure_no_auth: bool,
    /// Allow requests with this Host, at this port or at any port. At a loopback address, loopback names
    /// are always allowed; at other addresses every name is allowed until one is listed. May be repeated.
    #[arg(long, value_name = "HOST[:PORT]")]
    allow_host: Vec<String>,
    // This help is not a doc comment, because rustdoc would see links in it.
    #[arg(
        long,
        value_name = "ORIGIN",
        help = "Allow requests with this Origin, as in https://app.example.com or http://localhost:*. May be \
                repeated"
    )]
    allow_origin: Vec<String>,
    #[arg(
        long,
        value_name = "ORIGIN",
        help = "Let pages of this origin use the server from a browser (CORS). The value is that of \
                --allow-origin, which this implies, or * for any origin. May be repeated"
    )]
    cors_origin: Vec<String>,
    /// Let such pages also send this header field. Authorization, Content-Type, Last-Event-ID,
    /// Mcp-Protocol-Version, Mcp-Session-Id and the fields of --header-to-env are always allowed. May be
    /// repeated.
    #[arg(long, value_name = "NAME", requires = "cors_origin")]
    cors_header: Vec<String>,
    /// Trust proxies at these addresses to name the client and its scheme (Forwarded, X-Forwarded-*):
    /// a range as in 10.0.0.0/8, or "unix" for proxies on the Unix socket. May be repeated.
    #[arg(long, value_name = "RANGE")]
    trusted_proxy: Vec<String>,
    /// Refuse requests that did not arrive by https, on TLS here or at a trusted proxy.
    #[arg(long)]
    require_https: bool,
    /// The most posts of one session in a time, as in 10/second or 100/minute,burst=20. With
    /// "principal=" in front, the most posts of one principal; with "new-sessions=" in front, the most
    /// sessions that one address opens. May be repeated.
    #[arg(long, value_name = "[WHAT=]RATE", value_parser = parse_rate_limit)]
    rate_limit: Vec<RateFlag>,
    /// The most sessions of one address at once, or "unlimited". Loopback addresses and trusted proxies
    /// have no such limit, because many clients may connect through them.
    #[arg(long, value_name = "N", default_value = "128", value_parser = parse_count)]
    max_sessions_per_peer: CountFlag,
    /// The most bytes of request bodies of one address in memory at once, as in 16MiB, or "unlimited".
    /// By default 16MiB, or twice --max-body if that is more; one message of --max-body is always
    /// allowed. Loopback addresses and trusted proxies have no such limit.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_bodies_per_peer: Option<SizeFlag>,
}

impl Access {
    /// Sets the limits that the flags name.
    pub(super) fn limit(&self, limits: &mut Limits) {
        limits.sessions_per_address_max = self.max_sessions_per_peer.0;
        if let Some(bytes) = &self.max_bodies_per_peer {
            limits.bodies_bytes_per_address_max = bytes.0;
        }
        for RateFlag { scope, rate } in &self.rate_limit {
            let rate_limit = match scope {
                RateScope::Session => &mut limits.posts_rate_per_session,
                RateScope::Principal => &mut limits.posts_rate_per_principal,
                RateScope::NewSessions => &mut limits.sessions_rate_per_address,
            };
            *rate_limit = Some(*rate);
        }
    }

    /// Sets the hosts, origins, proxies and tokens that the flags name.
    pub(super) fn apply(&self, mut builder: ConfigBuilder) -> Result<ConfigBuilder, TokensError> {
        for host in &self.allow_host {
            builder = builder.allow_host(host);
        }
        for origin in &self.allow_origin {
            builder = builder.allow_origin(origin);
        }
        for origin in &self.cors_origin {
            builder = builder.cors_origin(origin);
        }
        for name in &self.cors_header {
            builder = builder.cors_header(name);
        }
        for range in &self.trusted_proxy {
            builder = match &**range {
                "unix" => builder.trust_local_peers(true),
                range => builder.trusted_proxy(range),
            };
        }
        builder = builder.require_https(self.require_https);
        Ok(match self.tokens()? {
            Some(tokens) => builder.authorization(Authorization::Static(tokens)),
            None => builder,
        })
    }

    /// Whether clients need a token.
    pub(super) fn asks(&self) -> bool {
        self.auth_token_file.is_some() || !self.auth_token_env.is_empty()
    }

    /// The names of the environment variables that contain tokens.
    pub(super) fn token_variables(&self) -> &[String] {
        &self.auth_token_env
    }

    /// Whether a server may listen at `address`: other machines cannot reach it, or clients need a token, or the
    /// operator has given `--insecure-no-auth`.
    pub(super) fn admits(&self, address: SocketAddr) -> bool {
        address.ip().is_loopback() || self.asks() || self.insecure_no_auth
    }

    /// Whether a request to a server without TLS can satisfy `--require-https`: a trusted proxy can connect, by TCP
    /// or on the Unix socket.
    pub(super) fn can_meet_https(&self, on_unix_socket: bool) -> bool {
        let connects = |range: &String| (range == "unix") == on_unix_socket;
        !self.require_https || self.trusted_proxy.iter().any(connects)
    }

    /// The file with tokens.
    pub(super) fn token_file(&self) -> Option<&Path> {
        self.auth_token_file.as_deref()
    }

    /// The tokens of the flags; `None` if there is no such flag. The file is read.
    pub(super) fn tokens(&self) -> Result<Option<StaticTokens>, TokensError> {
        if !self.asks() {
            return Ok(None);
        }
        let mut tokens = StaticTokens::builder();
        if let Some(path) = &self.auth_token_file {
            tokens = read_file(path, tokens)?;
        }
        for name in &self.auth_token_env {
            let wrong = |problem| TokensError { source: TokenSource::Env(name.clone()), problem };
            let value = std::env::var(name).map_err(|error| {
                wrong(match error {
                    std::env::VarError::NotPresent => TokenProblem::Unset,
                    std::env::VarError::NotUnicode(_) => TokenProblem::NotText,
                })
            })?;
            let (principal, token) = value.rsplit_once(':').unwrap_or((NAMELESS, &value));
            tokens = add(tokens, principal, token.trim()).map_err(wrong)?;
        }
        let everywhere =
            |error| TokensError { source: TokenSource::All, problem: TokenProblem::Token(error) };
        tokens.build().map(Some).map_err(everywhere)
    }
}

/// Adds a token if it is valid.
fn add(
    tokens: StaticTokensBuilder,
    principal: &str,
    token: &str,
) -> Result<StaticTokensBuilder, TokenProblem> {
    let tokens = tokens.token(principal, token);
    match tokens.clone().build() {
        Ok(_) => Ok(tokens),
        Err(error) => Err(TokenProblem::Token(error)),
    }
}

fn read_file(
    path: &Path,
    mut tokens: StaticTokensBuilder,
) -> Result<StaticTokensBuilder, TokensError> {
    let at = |line| TokenSource::File { path: path.to_owned(), line };
    let wrong = |problem| TokensError { source: at(None), problem };
    let unreadable = |error: io::Error| wrong(TokenProblem::Unreadable(error.to_string()));
    let file = File::open(path).map_err(unreadable)?;
    warn_if_public(path, &file);
    let mut text = String::new();
    let size = file.take(TOKEN_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if size as u64 > TOKEN_FILE_BYTES_MAX {
        return Err(wrong(TokenProblem::TooLarge));
    }
    let mut any = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem| TokensError { source: at(Some(number)), problem };
        let (principal, token) =
            line.rsplit_once(':').ok_or_else(|| wrong(TokenProblem::NoColon))?;
        tokens = add(tokens, principal.trim(), token.trim()).map_err(wrong)?;
        any = true;
    }
    if any { Ok(tokens) } else { Err(wrong(TokenProblem::Empty)) }
}

#[cfg(unix)]
fn warn_if_public(path: &Path, file: &File) {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(metadata) = file.metadata()
        && metadata.is_file()
        && metadata.permissions().mode() & 0o004 != 0
    {
        let path = path.display();
        log::warn!(
            event = "tokens_readable",
            path:% = path;
            "every user of this machine can read the tokens in {path}; chmod 600 {path}"
        );
    }
}

#[cfg(not(unix))]
fn warn_if_public(_: &Path, _: &File) {}

/// A mistake in the tokens, and the file or variable that has it. It never contains a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokensError {
    source: TokenSource,
    problem: TokenProblem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TokenSource {
    File { path: PathBuf, line: Option<u32> },
    Env(String),
    All,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TokenProblem {
    Unreadable(String),
    TooLarge,
    Empty,
    NoColon,
    Unset,
    NotText,
    Token(StaticTokensError),
}

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            TokenSource::File { path, line: None } => {
                write!(f, "the tokens in {}: ", path.display())?
            }
            TokenSource::File { path, line: Some(line) } => {
                write!(f, "line {line} of the tokens in {}: ", path.display())?;
            }
            TokenSource::Env(name) => write!(f, "the token in the environment variable {name}: ")?,
            TokenSource::All => {}
        }
        match &self.problem {
            TokenProblem::Unreadable(why) => write!(f, "cannot be read: {why}")?,
            TokenProblem::TooLarge => write!(f, "larger than {TOKEN_FILE_BYTES_MAX} bytes")?,
            TokenProblem::Empty => {
                f.write_str("there are none; write one \"principal:token\" on each line")?
            }
            TokenProblem::NoColon => f.write_str("expected \"principal:token\"")?,
            TokenProblem::Unset => f.write_str("it is not set")?,
            TokenProblem::NotText => f.write_str("it is not UTF-8")?,
            TokenProblem::Token(error) => error.fmt(f)?,
        }
        f.write_str(match self.source {
            TokenSource::File { .. } => "; see --auth-token-file",
            TokenSource::Env(_) => "; see --auth-token-env",
            TokenSource::All => "; see --auth-token-file and --auth-token-env",
        })
    }
}

impl core::error::Error for TokensError {}

/// The value of `--rate-limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RateFlag {
    scope: RateScope,
    rate: Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RateScope {
    Session,
    Principal,
    NewSessions,
}

fn parse_rate_limit(text: &str) -> Result<RateFlag, String> {
    const WHAT: [(&str, RateScope); 3] = [
        ("session=", RateScope::Session),
        ("principal=", RateScope::Principal),
        ("new-sessions=", RateScope::NewSessions),
    ];
    let (scope, rate) = WHAT
        .into_iter()
        .find_map(|(name, scope)| text.strip_prefix(name).map(|rate| (scope, rate)))
        .unwrap_or((RateScope::Session, text));
    rate.parse()
        .map(|rate| RateFlag { scope, rate })
        .map_err(|error| format!("{error}; \"principal=\" or \"new-sessions=\" may be in front"))
}

#[cfg(test)]
mod tests;
