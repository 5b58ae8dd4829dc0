//! The application: the transport at `/api`, another route, and middleware for both.

use std::io;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::{Router, routing::get};
use mcp_sse_tokio::{Config, Handle, SseService};

/// Creates the application. Returns it with the handle of the transport.
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
    // Only the path is logged, because the query contains the session id.
    let what = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    log::info!("{what}: {}", response.status());
    response
}
