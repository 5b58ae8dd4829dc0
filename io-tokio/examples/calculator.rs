//! A server that is written with the official SDK, over HTTP+SSE. It has one tool, `add`.
//!
//! `cargo run --release -p mcp-sse-tokio --features rmcp --example calculator -- --port 8002`

use core::net::Ipv4Addr;
use std::io;

use clap::Parser;
use mcp_sse_tokio::rmcp::SseServer;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::{schemars, tool, tool_router};

/// Serve a calculator over MCP.
#[derive(Debug, Parser)]
struct Options {
    /// The port to listen on, at 127.0.0.1; 0 picks a free one and prints it.
    #[arg(long, default_value_t = 8000)]
    port: u16,
}

#[derive(Clone, Debug)]
struct Calculator;

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Operands {
    /// The first number.
    a: f64,
    /// The second number.
    b: f64,
}

#[tool_router(server_handler)]
impl Calculator {
    /// Adds two numbers.
    #[tool]
    fn add(&self, Parameters(Operands { a, b }): Parameters<Operands>) -> String {
        (a + b).to_string()
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let Options { port } = Options::parse();
    env_logger::Builder::from_default_env().init();

    let server = SseServer::serve((Ipv4Addr::LOCALHOST, port).into()).await?;
    if let Some(address) = server.local_addr() {
        println!("MCP over HTTP+SSE: http://{address}/sse\n\nCtrl-C stops it.");
    }
    let stopped = server.stopped();
    let ct = server.with_service(|| Calculator);

    tokio::signal::ctrl_c().await?;
    ct.cancel();
    stopped.await;
    Ok(())
}
