//! How a session begins, as its first messages tell.
//!
//! Knows: which openings the SDK's handshake understands. Does not know: what a handshake is made of.
//!
//! Theory of operation: messages that leave it open are dealt with here; the first that does not is
//! put back, and whoever serves the session receives it as its first.
//!
//! Decision: a session without `initialize` is served. A client whose stream broke opens another by
//! itself (`EventSource` does, and rmcp 0.10's client) and goes on calling; the SDK's handshake would
//! refuse it, or answer each call with an error. So messages are read up to the first that decides.
//! `initialize`, `server/discover` and requests that name their revision get the SDK's handshake;
//! pings are answered; responses to requests of an earlier session are dropped; with anything else
//! the session is served directly, with the client's capabilities unknown. A setting was considered:
//! users of 0.10 would have to choose, for all their clients, between two behaviours that each break
//! some of them.

use mcp_sse_driver::LogThrottle;
use rmcp::model::{
    ClientRequest, EmptyResult, GetMeta, JsonRpcMessage, ServerJsonRpcMessage, ServerResult,
};
use rmcp::service::serve_directly_with_ct;
use rmcp::transport::Transport;
use rmcp::{RoleServer, Service, ServiceExt};

use super::{CancellationToken, SessionTransport};

enum Opening {
    /// With a greeting that the SDK answers.
    Handshake,
    /// In the midst of things.
    Directly,
}

/// Serves a session to its end, with the SDK's handshake or without it.
pub(super) async fn serve<S: Service<RoleServer>>(
    service: S,
    mut transport: SessionTransport,
    ct: CancellationToken,
) {
    let id = transport.session().id();
    let running = match ct.run_until_cancelled(opening(&mut transport)).await.flatten() {
        None => return,
        Some(Opening::Directly) => {
            static DIRECT: LogThrottle = LogThrottle::new();
            if let Some(unsaid) = DIRECT.tell() {
                log::info!(
                    "{id}: served without `initialize`, which the client did not send{unsaid}"
                );
            }
            serve_directly_with_ct(service, transport, None, ct)
        }
        Some(Opening::Handshake) => match service.serve_with_ct(transport, ct).await {
            Ok(running) => running,
            // Without the error: it may quote the message.
            Err(_) => {
                static UNFINISHED: LogThrottle = LogThrottle::new();
                if let Some(unsaid) = UNFINISHED.tell() {
                    log::info!("{id}: ended during the handshake{unsaid}");
                }
                return;
            }
        },
    };
    static FAILED: LogThrottle = LogThrottle::new();
    if let Err(error) = running.waiting().await
        && let Some(unsaid) = FAILED.tell()
    {
        log::error!("{id}: {error}{unsaid}");
    }
}

/// `None` if the session ends first.
async fn opening(transport: &mut SessionTransport) -> Option<Opening> {
    loop {
        let message = transport.receive().await?;
        let opening = match &message {
            // A ping is allowed before the handshake, and as good without one.
            JsonRpcMessage::Request(ping)
                if matches!(ping.request, ClientRequest::PingRequest(_)) =>
            {
                let pong = ServerResult::EmptyResult(EmptyResult {});
                let pong = ServerJsonRpcMessage::response(pong, ping.id.clone());
                transport.send(pong).await.ok()?;
                continue;
            }
            // They answer what another session asked, if anything.
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => continue,
            JsonRpcMessage::Request(request) if greets(&request.request) => Opening::Handshake,
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => Opening::Directly,
        };
        transport.put_back(message);
        return Some(opening);
    }
}

/// Revisions after 2025-11-25 have no `initialize`: each request names its version instead.
fn greets(request: &ClientRequest) -> bool {
    let names_version = request.get_meta().protocol_version().is_some();
    names_version
        || matches!(
            request,
            ClientRequest::InitializeRequest(_) | ClientRequest::DiscoverRequest(_)
        )
}
