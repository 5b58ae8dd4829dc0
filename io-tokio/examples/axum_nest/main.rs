//! The demo's MCP server inside an axum application, with another route and middleware.
//!
//! `cargo run --release -p mcp-sse-tokio --features tower --example axum_nest -- --port 8003`
//! Clients connect to `/api/sse`.

mod app;

use core::error::Error;
use core::net::SocketAddr;
use std::io::{self, Write};

use clap::Parser;
use mcp_sse_demo::signals;
use tokio::net::TcpListener;

/// Serve the demo of mcp-sse at /api of an axum application.
#[derive(Debug, Parser)]
struct Options {
    /// The port to listen on; 0 picks a free one and prints it.
    #[arg(long, default_value_t = 8003)]
    port: u16,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let Options { port } = Options::parse();
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).init();

    let (app, handle) = app::app()?;
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    // The server also serves if stdout is closed.
    let _ = writeln!(io::stdout(), "MCP over HTTP+SSE: http://{}/api/sse", listener.local_addr()?);

    // axum's graceful shutdown waits for all requests, and streams end only when the transport is shut down.
    let (stopped, stop) = tokio::sync::watch::channel(false);
    let aborting = handle.clone();
    let shutdown = move || {
        handle.shutdown();
        let _ = stopped.send(true);
    };
    signals::on_termination(shutdown, move || aborting.abort())?;
    let stopping = async move {
        let mut stop = stop;
        let _ = stop.wait_for(|stop| *stop).await;
    };
    // Passes the clients' addresses to the transport, which needs them for limits per address.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).with_graceful_shutdown(stopping).await?;
    Ok(())
}
