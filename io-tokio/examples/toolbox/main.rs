//! Serves [`Toolbox`](service::Toolbox) at the given port of 127.0.0.1, or at a free port. The service sends every
//! kind of message that a server can send to a client. The tests use it as well.

mod service;

use core::net::Ipv4Addr;
use std::io;

use mcp_sse_tokio::rmcp::SseServer;

use service::Toolbox;

#[tokio::main]
async fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0);
    let server = SseServer::serve((Ipv4Addr::LOCALHOST, port).into()).await?;
    if let Some(address) = server.local_addr() {
        println!("http://{address}/sse");
    }
    let stopped = server.stopped();
    let toolbox = Toolbox::default();
    let ct = server.with_service(move || toolbox.clone());
    tokio::signal::ctrl_c().await?;
    ct.cancel();
    stopped.await;
    Ok(())
}
