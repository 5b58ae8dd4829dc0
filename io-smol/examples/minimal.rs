//! The smallest server: it answers `initialize` and `ping`.
//!
//! `cargo run -p mcp-sse-smol --example minimal -- 127.0.0.1:8000`
//!
//! Without an address it listens on a free port of 127.0.0.1. It prints the URL for clients.

use std::{env, io};

use mcp_sse_smol::jsonrpc::{Kind, code};
use mcp_sse_smol::{Config, Frame, Listener, Session};
use serde_json::json;

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let config = Config::default();
    let path = config.stream_path().to_owned();
    let listener = Listener::bind(&*address, config)?;
    println!("http://{}{path}", listener.local_addr()?);
    smol::block_on(listener.serve_local(serve))
}

/// Answers the requests of one client until it leaves.
async fn serve(mut session: Session) {
    while let Some(message) = session.recv().await {
        let (Kind::Request, Some(id)) = (message.kind(), message.id()) else { continue };
        let answer = match message.method() {
            Some("initialize") => Frame::result(
                id,
                &json!({
                    "protocolVersion": "2024-11-05",
                    "capabilities": {},
                    "serverInfo": {"name": "minimal", "version": "1.0.0"},
                }),
            ),
            Some("ping") => Frame::result(id, &json!({})),
            _ => Frame::error(id, code::METHOD_NOT_FOUND, "there is no such method"),
        };
        // This fails if the client has left. Then `recv` returns `None`.
        let _ = session.send(answer.expect("the id is JSON")).await;
    }
}
