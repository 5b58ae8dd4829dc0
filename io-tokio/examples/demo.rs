//! The command `mcp-sse demo` on tokio, with the same tools and flags.
//!
//! `cargo run --release -p mcp-sse-tokio --example demo -- --port 8001`

use core::error::Error;
use core::net::{IpAddr, SocketAddr};
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use mcp_sse_demo::options::{ListenAddress, ServeFlags};
use mcp_sse_demo::signals;
use mcp_sse_tokio::Listener;

/// Serve a small MCP server for trying out clients, with the tools add, echo, burst and broadcast.
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    serve: ServeFlags,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Options { serve } = Options::parse();
    env_logger::Builder::new().filter_level(serve.log_level()).init();
    match run(&serve).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(serve: &ServeFlags) -> Result<(), Box<dyn Error>> {
    let (config, tls) = (serve.config()?, serve.tls()?);
    let mut listener = match serve.address() {
        address @ (ListenAddress::Tcp(_) | ListenAddress::Named(_) | ListenAddress::Passed(_)) => {
            Listener::bind(&address.addresses()[..], config.clone())?
        }
        #[cfg(unix)]
        ListenAddress::Unix(path) => {
            Listener::bind_unix_with_mode(path, serve.unix_mode(), config.clone())?
        }
        #[cfg(not(unix))]
        ListenAddress::Unix(_) => return Err("this system has no Unix sockets".into()),
    };
    let addresses = listener.local_addrs().unwrap_or_default();
    let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    let address = serve.address().bound(&ips, addresses.first().map_or(0, SocketAddr::port));
    // The server also serves if stdout is closed.
    let _ = write!(io::stdout(), "{}", serve.banner(&config, address));
    if let Some(tls) = tls {
        listener = listener.tls(tls);
    }

    let (stopping, aborting) = (listener.handle(), listener.handle());
    signals::on_termination(move || stopping.shutdown(), move || aborting.abort())?;
    let handle = listener.handle();
    let handler = move |session| mcp_sse_demo::serve(session, handle.clone());
    match serve.workers() {
        1 => listener.serve_local(handler).await?,
        workers => listener.workers(workers)?.serve_on_workers(handler).await?,
    }
    Ok(())
}
