//! The demo as a handler of sessions, for every adapter of [`mcp_sse_driver`].

use mcp_sse_core::SendError;
use mcp_sse_core::jsonrpc::Message;
use mcp_sse_driver::{Handle, Session};

use crate::protocol::{DemoReply, answer};

/// Serves one session until its client leaves.
///
/// Messages are answered one after the other. While the client does not read a burst, its next messages are not
/// received.
pub async fn serve(mut session: Session, handle: Handle) {
    while let Some(message) = session.recv().await {
        if respond(&session, &handle, &message).await.is_err() {
            return;
        }
    }
}

async fn respond(session: &Session, handle: &Handle, message: &Message) -> Result<(), SendError> {
    match answer(message) {
        DemoReply::None => Ok(()),
        DemoReply::Frame(frame) => session.send(frame).await,
        DemoReply::Burst(burst) => {
            for frame in burst {
                session.send(frame).await?;
            }
            Ok(())
        }
        DemoReply::Broadcast { notice, then } => {
            let frame = match handle.broadcast(notice).await {
                Ok(reach) => then.reached(reach.queued),
                Err(stopped) => then.failed(&stopped.to_string()),
            };
            session.send(frame).await
        }
    }
}
