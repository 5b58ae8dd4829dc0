//! The command `mcp-sse demo`, on tokio: the same tools, the same flags.
//!
//! `cargo run --release -p mcp-sse-tokio --example demo -- --port 8001`

use core::error::Error;
use std::io::{self, Write};

use clap::Parser;
use mcp_sse::demo;
use mcp_sse::greeting::Greeting;
use mcp_sse::options::Serve;
use mcp_sse::stop;
use mcp_sse_tokio::Listener;

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
    // A closed stdout is no reason not to serve.
    let _ = write!(io::stdout(), "{}", Greeting::new(&config, listener.local_addr()?));

    // The first signal stops the server in order, the second at once.
    let stopping = listener.handle();
    stop::on_signals(move || stopping.shutdown())?;
    let handle = listener.handle();
    listener.serve_local(move |session| demo::serve(session, handle.clone())).await?;
    Ok(())
}
