//! The demo's MCP server for clients with a JSON Web Token.
//!
//! ```sh
//! export SECRET=$(openssl rand -hex 32)
//! cargo run --release -p mcp-sse-tokio --example jwt -- --hs256-secret-env SECRET \
//!     --issuer https://login.example.com --audience mcp
//! ```
//!
//! For tokens that are signed with RS256, use `--rs256-public-key key.pem`. Tokens need the claims `iss`, `aud`,
//! `exp` and `sub`; `sub` is the principal. The metadata that tells clients where to get a token is at
//! `/.well-known/oauth-protected-resource/sse`.
//!
//! With `--metrics-port 9465`, Prometheus can scrape `/metrics` there. The metrics have an address of their own, because
//! Prometheus has no token, and clients should not read them.
//!
//! Decision: the cryptography is Rust Crypto, which the token library offers beside AWS-LC. It needs
//! no C build, verifying an RSA signature involves no secret that timing could reveal, and only this
//! example and its tests depend on it.

mod tokens;

use core::error::Error;
use core::net::Ipv4Addr;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use mcp_sse_demo::signals;
use mcp_sse_tokio::prometheus::prometheus_client::registry::Registry;
use mcp_sse_tokio::prometheus::{MetricsCollector, metrics_page};
use mcp_sse_tokio::{Config, Handle, Listener, ProtectedResource};

use tokens::Tokens;

/// Serve the demo of mcp-sse to clients with a JSON Web Token.
#[derive(Debug, Parser)]
struct Options {
    /// The environment variable that contains the secret of tokens signed with HS256.
    #[arg(long, value_name = "NAME", conflicts_with = "rs256_public_key")]
    hs256_secret_env: Option<String>,

    /// The file with the public key of tokens signed with RS256, as PEM.
    #[arg(long, value_name = "FILE", required_unless_present = "hs256_secret_env")]
    rs256_public_key: Option<PathBuf>,

    /// The URL of the issuer of tokens.
    #[arg(long)]
    issuer: String,

    /// The audience that tokens must have.
    #[arg(long)]
    audience: String,

    /// The port to listen on, at 127.0.0.1; 0 picks a free one and prints it.
    #[arg(long, default_value_t = 8004)]
    port: u16,

    /// The port of `/metrics`, at 127.0.0.1; 0 picks a free one and prints it.
    #[arg(long)]
    metrics_port: Option<u16>,
}

impl Options {
    fn tokens(&self) -> Result<Tokens, Box<dyn Error>> {
        if let Some(name) = &self.hs256_secret_env {
            let secret = env::var(name).map_err(|error| format!("{name}: {error}"))?;
            return Ok(Tokens::hs256(secret.as_bytes(), &self.issuer, &self.audience)?);
        }
        let path = self.rs256_public_key.as_deref().ok_or("there is no key")?;
        let pem = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Tokens::rs256(&pem, &self.issuer, &self.audience)?)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jwt: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let tokens = options.tokens()?;
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
    let url = format!("http://{}/sse", socket.local_addr()?);
    let resource = ProtectedResource::new(&url).authorization_server(&options.issuer);
    let config = Config::builder().protected_resource(resource).build()?;

    let listener =
        Listener::from_std(socket, config).authorize(async move |head| tokens.decide(&head))?;
    let metrics =
        options.metrics_port.map(|port| metrics_of(&listener.handle(), port)).transpose()?;
    // The server also serves if stdout is closed.
    let _ = writeln!(io::stdout(), "MCP over HTTP+SSE, with a token: {url}\n");
    if let Some(metrics) = &metrics {
        let _ = writeln!(io::stdout(), "metrics: http://{}/metrics", metrics.local_addr()?);
    }
    let _ = writeln!(io::stdout(), "Ctrl-C stops it.");

    let (stopping, aborting) = (listener.handle(), listener.handle());
    signals::on_termination(move || stopping.shutdown(), move || aborting.abort())?;
    let handle = listener.handle();
    let serve = listener.serve_local(move |session| mcp_sse_demo::serve(session, handle.clone()));
    match metrics {
        None => serve.await?,
        Some(metrics) => {
            let scraped = metrics.handle();
            // The metrics can be scraped until the last session has ended.
            let serve = async { serve.await.inspect(|()| scraped.shutdown()) };
            tokio::try_join!(serve, metrics.serve_local(|_| async {}))?;
        }
    }
    Ok(())
}

/// A listener that serves the metrics of `server` and nothing else. A program with metrics of its own registers them
/// in the same registry.
fn metrics_of(server: &Handle, port: u16) -> Result<Listener, Box<dyn Error>> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(MetricsCollector::new(server)));
    let config = Config::builder().without_sessions().build()?;
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, port), config)?;
    Ok(listener.serve_metrics(metrics_page(registry))?)
}
