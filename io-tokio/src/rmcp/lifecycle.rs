//! Decides by the first messages of a session whether it is served with the SDK's handshake.
//!
//! Knows: the first messages that the SDK's handshake accepts. Does not know: the steps of a handshake.
//!
//! Theory of operation: pings are answered here, and responses to requests of an earlier session are dropped. The
//! first other message decides, and is put back, so that the service receives it as the first. `initialize`,
//! `server/discover` and requests that name their revision get the SDK's handshake. With any other message the session
//! is served directly, and the client's capabilities are unknown.
//!
//! Decision: a session without `initialize` is served. A client whose stream broke opens another by
//! itself (`EventSource` does, and rmcp 0.10's client) and goes on calling; the SDK's handshake would
//! refuse it, or answer each call with an error. A setting was considered:
//! users of 0.10 would have to choose, for all their clients, between two behaviours that each break
//! some of them.

use mcp_sse_core::SessionId;
use mcp_sse_driver::LogThrottle;
use rmcp::model::{
    ClientRequest, EmptyResult, GetMeta, JsonRpcMessage, ServerJsonRpcMessage, ServerResult,
};
use rmcp::service::serve_directly_with_ct;
use rmcp::transport::Transport;
use rmcp::{RoleServer, Service, ServiceExt};

use super::{CancellationToken, SessionTransport};

enum Opening {
    /// The session begins with a message that the SDK's handshake accepts.
    Handshake,
    /// The session begins with another message.
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
                    event = "handshake_skipped",
                    session = id,
                    suppressed = unsaid;
                    "session {id} is served without `initialize`, which its client did not send{unsaid}"
                );
            }
            serve_directly_with_ct(service, transport, None, ct)
        }
        Some(Opening::Handshake) => match service.serve_with_ct(transport, ct).await {
            Ok(running) => running,
            // The error is not logged, because it may quote the message.
            Err(_) => {
                static UNFINISHED: LogThrottle = LogThrottle::new();
                if let Some(unsaid) = UNFINISHED.tell() {
                    log::info!(
                        event = "handshake_unfinished",
                        session = id,
                        suppressed = unsaid;
                        "session {id} ended during the handshake{unsaid}"
                    );
                }
                return;
            }
        },
    };
    if let Err(error) = running.waiting().await {
        log_failed_service(id, &error);
    }
}

/// Logs that the service of a session has failed, at a limited rate.
pub(super) fn log_failed_service(id: SessionId, error: &dyn core::error::Error) {
    static FAILED: LogThrottle = LogThrottle::new();
    if let Some(unsaid) = FAILED.tell() {
        log::error!(
            event = "session_service_failed",
            session = id,
            error:% = error,
            suppressed = unsaid;
            "the service of session {id} failed: {error}{unsaid}"
        );
    }
}

/// How the session begins; `None` if it ends before that is known.
async fn opening(transport: &mut SessionTransport) -> Option<Opening> {
    loop {
        let message = transport.receive().await?;
        let opening = match &message {
            // A ping is allowed before the handshake and in a session without one, so it does not decide.
            JsonRpcMessage::Request(ping)
                if matches!(ping.request, ClientRequest::PingRequest(_)) =>
            {
                let pong = ServerResult::EmptyResult(EmptyResult {});
                let pong = ServerJsonRpcMessage::response(pong, ping.id.clone());
                transport.send(pong).await.ok()?;
                continue;
            }
            // A response at the beginning of a session belongs to an earlier session of the client.
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => continue,
            JsonRpcMessage::Request(request) if begins_handshake(&request.request) => {
                Opening::Handshake
            }
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => Opening::Directly,
        };
        transport.put_back(message);
        return Some(opening);
    }
}

/// Whether the SDK's handshake accepts this request. Revisions after 2025-11-25 have no `initialize`: each request
/// names its version instead.
fn begins_handshake(request: &ClientRequest) -> bool {
    let names_version = request.get_meta().protocol_version().is_some();
    names_version
        || matches!(
            request,
            ClientRequest::InitializeRequest(_) | ClientRequest::DiscoverRequest(_)
        )
}
