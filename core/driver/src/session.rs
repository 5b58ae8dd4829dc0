//! The application's hold on one session, and the shard's.
//!
//! Between them is one [`Mailbox`] behind a lock that is held for moments: messages for the
//! application, frames for the client, and who waits for which. It is empty most of the time and costs
//! an idle session next to nothing, which is why it is not made of channels.

use core::fmt;
use core::future::poll_fn;
use core::mem;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mcp_sse_core::{
    CloseReason, Limits, Principal, RequestHead, SendError, Server, SessionId, Time,
    jsonrpc::Message, sse::Frame,
};

use super::handle::Handle;
use super::shard_set::ShardHandle;

/// With this many frames on their way to the shard, or this many bytes of them, a sender waits. Few,
/// because they are in nobody's budget.
const FRAMES_MAX: usize = 16;
const FRAMES_BYTES_MAX: usize = 256 << 10;
/// As long as no more messages than this wait for the application, the core need not know: to tell it
/// of each would be a wake-up of the shard's thread for each.
const MESSAGES_UNREPORTED: u32 = 3;
/// An empty queue keeps this much room for the next time.
const CAPACITY_KEPT: usize = 8;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub reason: CloseReason,
    /// Frames that were sent and did not leave whole.
    pub frames_undelivered: u32,
}

#[derive(Default)]
struct Mailbox {
    messages: VecDeque<Message>,
    messages_bytes: u64,
    /// How many messages the core was told of.
    reported: usize,
    receiver: Option<Waker>,
    frames: VecDeque<Frame>,
    frames_bytes: usize,
    /// Senders that wait for room, each by a number of its own.
    senders: Vec<(u64, Waker)>,
    senders_numbered: u64,
    /// No frame is taken any more: the application is done with the session, or it has ended.
    finished: bool,
    /// Listed for the shard's attention.
    listed: bool,
    closed: Option<Closed>,
}

struct SessionShared {
    id: SessionId,
    principal: Option<Principal>,
    head: Arc<RequestHead>,
    mail: MailLimits,
    server: Handle,
    shard: Arc<ShardHandle>,
    mailbox: Mutex<Mailbox>,
}

/// What the configuration's limits mean for a mailbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct MailLimits {
    /// The largest frame that any queue can hold.
    frame_bytes_max: u64,
    /// See [`MESSAGES_UNREPORTED`]: fewer where few are allowed, so that the limit stays exact.
    unreported: usize,
}

impl MailLimits {
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
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // A panic elsewhere cannot leave it half-changed: nothing in here panics.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the mailbox and sees to it that the shard looks into it.
    fn notify(&self, mut mailbox: MutexGuard<'_, Mailbox>) {
        let listed = mem::replace(&mut mailbox.listed, true);
        drop(mailbox);
        if !listed {
            self.shard.mailbox.session(self.id);
        }
    }

    fn finish(&self) {
        let mut mailbox = self.mailbox();
        mailbox.finished = true;
        let waiting = mem::take(&mut mailbox.senders);
        self.notify(mailbox);
        wake(waiting);
    }
}

fn wake(senders: Vec<(u64, Waker)>) {
    senders.into_iter().for_each(|(_, waker)| waker.wake());
}

impl Mailbox {
    fn take_message(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.messages_bytes -= message.body().len() as u64;
        if self.messages.is_empty() && self.messages.capacity() > CAPACITY_KEPT {
            self.messages = VecDeque::new();
        }
        Some(message)
    }

    /// Whether the core thinks that more messages are waiting than are.
    fn report_is_stale(&self) -> bool {
        self.reported > self.messages.len()
    }

    fn takes_frames(&self) -> bool {
        self.frames.len() < FRAMES_MAX && self.frames_bytes < FRAMES_BYTES_MAX
    }

    fn put_frame(&mut self, frame: Frame) {
        self.frames_bytes += frame.wire_len();
        self.frames.push_back(frame);
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.frames_bytes -= frame.wire_len();
        if self.frames.is_empty() && self.frames.capacity() > CAPACITY_KEPT {
            self.frames = VecDeque::new();
        }
        Some(frame)
    }
}

/// One session, in the hands of the application: receive its client's messages, send it frames.
///
/// The session ends in order (what was sent still leaves) when this value and every
/// [`SessionSender`] made of it are dropped. It belongs to no runtime and may be moved to any thread.
pub struct Session {
    sender: SessionSender,
}

/// The sending half of a [`Session`], to be cloned into whatever answers.
#[derive(Clone)]
pub struct SessionSender {
    sending: Arc<SenderGuard>,
}

struct SenderGuard {
    shared: Arc<SessionShared>,
}

impl Drop for SenderGuard {
    fn drop(&mut self) {
        self.shared.finish();
    }
}

impl Session {
    /// The client's next message; `None` once the session has ended and everything was received.
    ///
    /// Cancel-safe: a dropped future has taken nothing.
    pub async fn recv(&mut self) -> Option<Message> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), for futures and streams written by hand.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let shared = &self.sender.sending.shared;
        let mut mailbox = shared.mailbox();
        let Some(message) = mailbox.take_message() else {
            if mailbox.closed.is_some() {
                return Poll::Ready(None);
            }
            let same = mailbox.receiver.as_ref().is_some_and(|known| known.will_wake(cx.waker()));
            let old = if same { None } else { mailbox.receiver.replace(cx.waker().clone()) };
            // A waker is somebody else's code, even when it is dropped: not under our lock.
            drop(mailbox);
            drop(old);
            return Poll::Pending;
        };
        if mailbox.report_is_stale() {
            shared.notify(mailbox);
        }
        Poll::Ready(Some(message))
    }

    /// How it ended, once it has, for whoever has no room for another message and must not miss the
    /// end. Wakes the task that receives, and no other.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        let mut mailbox = self.sender.sending.shared.mailbox();
        if let Some(closed) = mailbox.closed {
            return Poll::Ready(closed);
        }
        let old = mailbox.receiver.replace(cx.waker().clone());
        drop(mailbox);
        drop(old);
        Poll::Pending
    }

    /// A sending half of its own, for other tasks.
    #[must_use]
    pub fn sender(&self) -> SessionSender {
        self.sender.clone()
    }

    /// See [`SessionSender::send`].
    ///
    /// # Errors
    ///
    /// See there.
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        self.sender.send(frame).await
    }

    /// See [`SessionSender::try_send`].
    ///
    /// # Errors
    ///
    /// See there.
    pub fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        self.sender.try_send(frame)
    }

    /// See [`SessionSender::close`].
    pub fn close(&self) {
        self.sender.close();
    }

    /// Its name in logs.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.sender.id()
    }

    /// On whose behalf it was opened, if anybody was asked.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.sender.sending.shared.principal.as_ref()
    }

    /// The GET that opened it.
    #[must_use]
    pub fn head(&self) -> &Arc<RequestHead> {
        &self.sender.sending.shared.head
    }

    /// The server that it is a session of: to reach the other sessions.
    #[must_use]
    pub fn server(&self) -> &Handle {
        &self.sender.sending.shared.server
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.sender.closed()
    }
}

impl SessionSender {
    /// Sends a frame, waiting while the client is behind.
    ///
    /// `Ok` means that the frame has its place in line; whether it arrived, HTTP does not say. Frames
    /// of one sender arrive in the order of their sending. Cancel-safe: a dropped future has sent
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] once the session has ended or was closed; [`SendError::TooLarge`] for a
    /// frame that no queue will ever hold.
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        let mut place = WaitingSend { shared: &self.sending.shared, number: None };
        let mut frame = Some(frame);
        poll_fn(|cx| {
            let Some(ready) = frame.take() else { return Poll::Ready(Ok(())) };
            match self.put(ready, Some((&mut place, cx))) {
                Ok(()) => Poll::Ready(Ok(())),
                Err((SendError::Full, back)) => {
                    frame = Some(back);
                    Poll::Pending
                }
                Err((error, _)) => Poll::Ready(Err(error)),
            }
        })
        .await
    }

    /// Sends a frame if there is room for it now.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`SendError::Full`].
    pub fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        self.put(frame, None).map_err(|(error, _)| error)
    }

    /// Puts a frame into the mailbox, or its sender among those that wait.
    fn put(
        &self,
        frame: Frame,
        waiting: Option<(&mut WaitingSend<'_>, &Context<'_>)>,
    ) -> Result<(), (SendError, Frame)> {
        let shared = &self.sending.shared;
        if frame.wire_len() as u64 + Limits::SEGMENT_COST > shared.mail.frame_bytes_max {
            return Err((SendError::TooLarge, frame));
        }
        let mut mailbox = shared.mailbox();
        if mailbox.finished {
            return Err((SendError::Gone, frame));
        }
        if !mailbox.takes_frames() {
            let old = waiting.and_then(|(place, cx)| place.wait(&mut mailbox, cx));
            drop(mailbox);
            drop(old);
            return Err((SendError::Full, frame));
        }
        mailbox.put_frame(frame);
        shared.notify(mailbox);
        Ok(())
    }

    /// Ends the session in order: what was sent still leaves, then the stream ends.
    pub fn close(&self) {
        self.sending.shared.finish();
    }

    /// The session's name in logs.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.sending.shared.id
    }

    /// How the session ended, once it has.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.sending.shared.mailbox().closed
    }
}

/// The place of one `send` among those that wait; given up when the future is dropped.
struct WaitingSend<'s> {
    shared: &'s SessionShared,
    number: Option<u64>,
}

impl WaitingSend<'_> {
    /// Sees to being woken. Returns the waker that this replaces.
    fn wait(&mut self, mailbox: &mut Mailbox, cx: &Context<'_>) -> Option<Waker> {
        let number = *self.number.get_or_insert_with(|| {
            mailbox.senders_numbered += 1;
            mailbox.senders_numbered
        });
        match mailbox.senders.iter_mut().find(|(known, _)| *known == number) {
            Some((_, waker)) if waker.will_wake(cx.waker()) => None,
            Some((_, waker)) => Some(mem::replace(waker, cx.waker().clone())),
            None => {
                mailbox.senders.push((number, cx.waker().clone()));
                None
            }
        }
    }
}

impl Drop for WaitingSend<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut mailbox = self.shared.mailbox();
        let at = mailbox.senders.iter().position(|(known, _)| *known == number);
        let waiting = at.map(|at| mailbox.senders.swap_remove(at));
        drop(mailbox);
        drop(waiting);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .field("principal", &self.principal())
            .field("closed", &self.closed())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSender")
            .field("id", &self.id())
            .field("closed", &self.closed())
            .finish_non_exhaustive()
    }
}

/// The shard's side of a session.
pub(super) struct SessionSlot {
    /// A frame for which the session's queue has no room.
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
        mail: MailLimits,
    ) -> (Self, Session) {
        let mailbox = Mutex::default();
        let shared = Arc::new(SessionShared { id, principal, head, mail, server, shard, mailbox });
        let sending = Arc::new(SenderGuard { shared: shared.clone() });
        (Self { refused: None, shared }, Session { sender: SessionSender { sending } })
    }

    pub(super) fn id(&self) -> SessionId {
        self.shared.id
    }

    /// A message for the application.
    pub(super) fn message(&self, message: Message, server: &mut Server, now: Time) {
        let mut mailbox = self.shared.mailbox();
        mailbox.messages_bytes += message.body().len() as u64;
        mailbox.messages.push_back(message);
        let receiver = mailbox.receiver.take();
        if mailbox.messages.len() > self.shared.mail.unreported {
            self.set_health_extras(&mut mailbox, server, now);
        }
        drop(mailbox);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// Tells the core how many messages wait for the application.
    fn set_health_extras(&self, mailbox: &mut Mailbox, server: &mut Server, now: Time) {
        let waiting = mailbox.messages.len();
        mailbox.reported = if waiting > self.shared.mail.unreported { waiting } else { 0 };
        let bytes = if mailbox.reported > 0 { mailbox.messages_bytes } else { 0 };
        let messages = u32::try_from(mailbox.reported).unwrap_or(u32::MAX);
        server.set_backlog(self.shared.id, messages, bytes, now);
    }

    /// The handle asked for attention: it has frames, or has taken messages, or is gone.
    pub(super) fn attend(&mut self, server: &mut Server, now: Time) {
        let mut mailbox = self.shared.mailbox();
        mailbox.listed = false;
        if mailbox.report_is_stale() {
            self.set_health_extras(&mut mailbox, server, now);
        }
        drop(mailbox);
        self.pump(server, now);
    }

    /// Moves frames from the handle to the session's queue, until there are none or it is full.
    pub(super) fn pump(&mut self, server: &mut Server, now: Time) {
        let shared = &*self.shared;
        let mut mailbox = shared.mailbox();
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
                // Ending: `Closed` follows, and counts what is left.
                Err(SendError::Gone) => {
                    self.refused = Some(frame);
                    mailbox.finished = true;
                    break;
                }
                // Too large for any queue; or an error that a later version of the core has.
                Err(error) => {
                    let bytes = frame.wire_len();
                    log::error!("{}: a frame of {bytes} bytes was dropped: {error}", shared.id);
                    moved = true;
                }
            }
        }
        let waiting = if moved { mem::take(&mut mailbox.senders) } else { Vec::new() };
        drop(mailbox);
        wake(waiting);
    }

    /// The session has ended. Messages that were accepted are still received; whoever receives them
    /// finds out by sending that nobody listens.
    pub(super) fn close(&self, reason: CloseReason, frames_undelivered: u32) {
        let mut mailbox = self.shared.mailbox();
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
    /// The whole shard is dropped, with its sessions: nobody is left waiting.
    fn drop(&mut self) {
        self.close(CloseReason::Shutdown, 0);
    }
}
