//! The application: the transport under `/api`, another route, and middleware over both.

use std::io;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::{Router, routing::get};
use mcp_sse_tokio::{Config, Handle, SseService};

/// The application, and the hold on the transport in it.
pub(crate) fn app() -> io::Result<(Router, Handle)> {
    let mcp = SseService::new(Config::default(), async |session| {
        let server = session.server().clone();
        mcp_sse_demo::serve(session, server).await;
    })?;
    let handle = mcp.handle();
    let app = Router::new()
        .route("/", get(async || "The MCP server is at /api/sse.\n"))
        .nest_service("/api", mcp)
        .layer(from_fn(log_request));
    Ok((app, handle))
}

async fn log_request(request: Request, next: Next) -> Response {
    // The path alone: the query names the session.
    let what = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    log::info!("{what}: {}", response.status());
    response
}
