//! The shard's side of a session: between its mailbox and the core.
//!
//! Knows: which messages the core is told about, and when frames move to the core's queue.
//! Does not know: sockets, or which task of the application sends or receives.

use core::mem;
use core::task::Waker;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mcp_sse_core::{
    CloseReason, Principal, RequestHead, SendError, Server, SessionId, Time, jsonrpc::Message,
    sse::Frame,
};

use super::handle::Handle;
use super::session::Session;
use super::session_mailbox::{Closed, MailboxLimits, SessionMailbox, SessionShared, wake};
use super::shard_set::ShardHandle;
use super::shared::Shared;

/// The shard's side of a session.
pub(super) struct SessionSlot {
    /// A frame that the core did not take, because the queue is full or the session is ending. It is
    /// offered again first.
    refused: Option<Frame>,
    shared: Arc<SessionShared>,
}

impl SessionSlot {
    pub(super) fn new(
        id: SessionId,
        principal: Option<Principal>,
        head: Arc<RequestHead>,
        server: Handle,
        shard: Arc<ShardHandle>,
        limits: MailboxLimits,
    ) -> (Self, Session) {
        let mailbox = Shared::default();
        let shared =
            Arc::new(SessionShared { id, principal, head, limits, server, shard, mailbox });
        (Self { refused: None, shared: shared.clone() }, Session::new(shared))
    }

    pub(super) fn id(&self) -> SessionId {
        self.shared.id
    }

    /// Puts a message into the mailbox for the application.
    pub(super) fn message(&self, message: Message, server: &mut Server, now: Time) {
        let mut mailbox = self.shared.mailbox.lock();
        mailbox.messages_bytes += message.body().len() as u64;
        mailbox.messages.push_back(message);
        let receiver = mailbox.receiver.take();
        if mailbox.messages.len() > self.shared.limits.unreported {
            self.report_backlog(&mut mailbox, server, now);
        }
        drop(mailbox);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// Reports to the core how many messages wait for the application, and their bytes.
    fn report_backlog(&self, mailbox: &mut SessionMailbox, server: &mut Server, now: Time) {
        let waiting = mailbox.messages.len();
        mailbox.reported = if waiting > self.shared.limits.unreported { waiting } else { 0 };
        let bytes = if mailbox.reported > 0 { mailbox.messages_bytes } else { 0 };
        let messages = u32::try_from(mailbox.reported).unwrap_or(u32::MAX);
        server.set_backlog(self.shared.id, messages, bytes, now);
    }

    /// Serves the mailbox after a notification: the application has sent frames, received messages or
    /// closed the session.
    pub(super) fn serve_mailbox(&mut self, server: &mut Server, now: Time) {
        let mut mailbox = self.shared.mailbox.lock();
        mailbox.listed = false;
        if mailbox.report_is_stale() {
            self.report_backlog(&mut mailbox, server, now);
        }
        drop(mailbox);
        self.queue_frames(server, now);
    }

    /// Moves frames from the mailbox to the core's queue of the session, until none is left, the
    /// queue is full, or the session is ending.
    pub(super) fn queue_frames(&mut self, server: &mut Server, now: Time) {
        let shared = &*self.shared;
        let mut mailbox = shared.mailbox.lock();
        let mut moved = false;
        loop {
            let Some(frame) = self.refused.take().or_else(|| mailbox.take_frame()) else {
                if mailbox.finished && mailbox.closed.is_none() {
                    server.close(shared.id, now);
                }
                break;
            };
            match server.send(shared.id, &frame, now) {
                Ok(()) => moved = true,
                Err(SendError::Full) => {
                    self.refused = Some(frame);
                    break;
                }
                // The session is ending: `Closed` follows, and `close` counts the frames that are left.
                Err(SendError::Gone) => {
                    self.refused = Some(frame);
                    mailbox.finished = true;
                    break;
                }
                // Too large for any queue, or an error of a later version of the core.
                Err(error) => {
                    let bytes = frame.wire_len();
                    log::error!(
                        event = "frame_dropped",
                        session = shared.id,
                        bytes = bytes,
                        error:% = error;
                        "a frame of {bytes} bytes for session {} was dropped: {error}",
                        shared.id
                    );
                    moved = true;
                }
            }
        }
        let waiting = if moved { mem::take(&mut mailbox.senders) } else { BTreeMap::new() };
        drop(mailbox);
        wake(waiting);
    }

    /// Records the end of the session and wakes every waiting task. Accepted messages can still be
    /// received; sends fail with [`SendError::Gone`].
    pub(super) fn close(&self, reason: CloseReason, frames_undelivered: u32) {
        let mut mailbox = self.shared.mailbox.lock();
        if mailbox.closed.is_some() {
            return;
        }
        let unsent = mailbox.frames.len() + usize::from(self.refused.is_some());
        let unsent = u32::try_from(unsent).unwrap_or(u32::MAX);
        mailbox.closed =
            Some(Closed { reason, frames_undelivered: frames_undelivered.saturating_add(unsent) });
        mailbox.finished = true;
        mailbox.frames = VecDeque::new();
        let receiver = mailbox.receiver.take();
        let senders = mem::take(&mut mailbox.senders);
        drop(mailbox);
        receiver.into_iter().for_each(Waker::wake);
        wake(senders);
    }
}

impl Drop for SessionSlot {
    /// A slot that is dropped with its whole shard ends the session, so that no task waits for ever.
    fn drop(&mut self) {
        self.close(CloseReason::Shutdown, 0);
    }
}
