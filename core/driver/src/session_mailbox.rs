//! What the application's side of a session ([`Session`](crate::Session)) and the shard's side share: the
//! messages and frames on their way, and the tasks that wait.
//!
//! Knows: how much may wait, and how the shard learns that there is something to do.
//! Does not know: sockets, or what either side does with an item.
//!
//! Decision: both sides share one [`SessionMailbox`] behind a mutex that is held only to move an
//! item. Two bounded channels were considered: they take 2 kB for each idle session, and most
//! sessions are idle. An empty mailbox owns no heap memory.

use core::mem;
use core::task::{Context, Waker};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard};

use mcp_sse_core::{
    CloseReason, Limits, Principal, RequestHead, SessionId, jsonrpc::Message, sse::Frame,
};

use super::handle::Handle;
use super::shard_set::ShardHandle;
use super::shared::Shared;

/// A sender waits while this many frames, or this many bytes of them, are in the session's mailbox.
/// The limits are small because no budget of the core counts these frames yet.
const FRAMES_MAX: usize = 16;
const FRAMES_BYTES_MAX: usize = 256 << 10;
/// Up to this many waiting messages are not reported to the core; otherwise each `recv` would wake the
/// shard's thread to report that one message fewer waits. Their bytes are not in the core's budgets.
const MESSAGES_UNREPORTED: u32 = 3;
/// An empty queue keeps its memory if it has room for no more items than this.
const CAPACITY_KEPT: usize = 8;

/// How a session ended; see [`Session::closed`](crate::Session::closed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why it ended.
    pub reason: CloseReason,
    /// How many frames were accepted for this session, by `send`, `try_send` or a broadcast, and were not written to
    /// the socket in full.
    pub frames_undelivered: u32,
}

#[derive(Default)]
pub(super) struct SessionMailbox {
    pub(super) messages: VecDeque<Message>,
    pub(super) messages_bytes: u64,
    /// How many waiting messages were last reported to the core.
    pub(super) reported: usize,
    pub(super) receiver: Option<Waker>,
    pub(super) frames: VecDeque<Frame>,
    pub(super) frames_bytes: usize,
    /// The wakers of senders that wait for room, by a number that identifies the future.
    pub(super) senders: BTreeMap<u64, Waker>,
    pub(super) senders_numbered: u64,
    /// No frame is accepted any more: the application closed the session, or the session has ended.
    pub(super) finished: bool,
    /// The session is listed in the shard's mailbox and the shard has not served it yet.
    pub(super) listed: bool,
    pub(super) closed: Option<Closed>,
}

pub(super) struct SessionShared {
    pub(super) id: SessionId,
    pub(super) principal: Option<Principal>,
    pub(super) head: Arc<RequestHead>,
    pub(super) limits: MailboxLimits,
    pub(super) server: Handle,
    pub(super) shard: Arc<ShardHandle>,
    pub(super) mailbox: Shared<SessionMailbox>,
}

/// The limits of a session's mailbox, derived from the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct MailboxLimits {
    /// The most that a frame may cost in a queue, [`Limits::SEGMENT_COST`] included.
    pub(super) frame_bytes_max: u64,
    /// [`MESSAGES_UNREPORTED`], or fewer if `inbound_messages_max` is small, so that the core still
    /// enforces that number exactly.
    pub(super) unreported: usize,
}

impl MailboxLimits {
    pub(super) fn new(limits: &Limits) -> Self {
        let half = limits.inbound_messages_max.map_or(u32::MAX, |max| max / 2);
        Self {
            frame_bytes_max: limits
                .queues_bytes_max
                .map_or(u64::MAX, |max| max.saturating_add(limits.queue_reserve_bytes)),
            unreported: half.min(MESSAGES_UNREPORTED) as usize,
        }
    }
}

impl SessionShared {
    /// Unlocks the mailbox and lists the session in the shard's mailbox, unless it is listed already.
    pub(super) fn notify(&self, mut mailbox: MutexGuard<'_, SessionMailbox>) {
        let listed = mem::replace(&mut mailbox.listed, true);
        drop(mailbox);
        if !listed {
            self.shard.mailbox.session(self.id);
        }
    }

    pub(super) fn finish(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.finished = true;
        let waiting = mem::take(&mut mailbox.senders);
        self.notify(mailbox);
        wake(waiting);
    }
}

/// Registers the task that waits for a message or the end, and unlocks the mailbox.
pub(super) fn set_receiver(mut mailbox: MutexGuard<'_, SessionMailbox>, cx: &Context<'_>) {
    if mailbox.receiver.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
        let old = mailbox.receiver.replace(cx.waker().clone());
        // Dropping a waker can run foreign code, so the lock is released first.
        drop(mailbox);
        drop(old);
    }
}

pub(super) fn wake(senders: BTreeMap<u64, Waker>) {
    senders.into_values().for_each(Waker::wake);
}

impl SessionMailbox {
    pub(super) fn take_message(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.messages_bytes -= message.body().len() as u64;
        if self.messages.is_empty() && self.messages.capacity() > CAPACITY_KEPT {
            self.messages = VecDeque::new();
        }
        Some(message)
    }

    /// Whether fewer messages are waiting than the core was last told.
    pub(super) fn report_is_stale(&self) -> bool {
        self.reported > self.messages.len()
    }

    pub(super) fn takes_frames(&self) -> bool {
        self.frames.len() < FRAMES_MAX && self.frames_bytes < FRAMES_BYTES_MAX
    }

    pub(super) fn put_frame(&mut self, frame: Frame) {
        self.frames_bytes += frame.wire_len();
        self.frames.push_back(frame);
    }

    pub(super) fn take_frame(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.frames_bytes -= frame.wire_len();
        if self.frames.is_empty() && self.frames.capacity() > CAPACITY_KEPT {
            self.frames = VecDeque::new();
        }
        Some(frame)
    }
}
