//! The command `mcp-sse demo`, on tokio: the same tools, the same flags.
//!
//! `cargo run --release -p mcp-sse-tokio --example demo -- --port 8001`

use core::error::Error;

use clap::Parser;
use mcp_sse::demo;
use mcp_sse::greeting::Greeting;
use mcp_sse::options::Serve;
use mcp_sse_tokio::{Handle, Listener};

/// Serve a small MCP server with the tools add, echo, burst and broadcast, to try clients with.
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    serve: Serve,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Options { serve } = Options::parse();
    env_logger::Builder::new().filter_level(serve.log_level()).init();
    let config = serve.config()?;
    let listener = Listener::bind(serve.address(), config.clone())?;
    print!("{}", Greeting::new(&config, listener.local_addr()?));

    tokio::spawn(stop_on_ctrl_c(listener.handle()));
    let handle = listener.handle();
    listener.serve_local(move |session| demo::serve(session, handle.clone())).await?;
    Ok(())
}

/// The first Ctrl-C stops the server in order, the second at once.
async fn stop_on_ctrl_c(handle: Handle) {
    while tokio::signal::ctrl_c().await.is_ok() {
        handle.shutdown();
    }
}
