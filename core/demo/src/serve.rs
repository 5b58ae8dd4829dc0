//! The demo as a handler of sessions, for whatever serves by [`mcp_sse_driver`].

use mcp_sse_core::SendError;
use mcp_sse_core::jsonrpc::Message;
use mcp_sse_driver::{Handle, Session};

use crate::protocol::{Reply, answer};

/// Serves one session until its client leaves.
///
/// Messages are answered one after the other: while the client does not take a burst, nothing else is
/// read from it, and it notices.
pub async fn serve(mut session: Session, handle: Handle) {
    while let Some(message) = session.recv().await {
        if respond(&session, &handle, &message).await.is_err() {
            return;
        }
    }
}

async fn respond(session: &Session, handle: &Handle, message: &Message) -> Result<(), SendError> {
    match answer(message) {
        Reply::None => Ok(()),
        Reply::Frame(frame) => session.send(frame).await,
        Reply::Burst(burst) => {
            for frame in burst {
                session.send(frame).await?;
            }
            Ok(())
        }
        Reply::Broadcast { notice, then } => {
            let frame = match handle.broadcast(notice).await {
                Ok(reach) => then.reached(reach.queued),
                Err(stopped) => then.failed(&stopped.to_string()),
            };
            session.send(frame).await
        }
    }
}
