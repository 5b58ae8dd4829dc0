//! The application's hold on one session, and the shard's.
//!
//! Messages and frames cross between threads in two small channels. What a slow application does not
//! take waits on the shard's side, where it counts against the session's limits; what a slow client
//! does not take fills the channel of frames, so that `send` waits.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use async_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use super::attention::Attention;
use crate::error::SendError;
use crate::event::{CloseReason, Principal, RequestHead, SessionId};
use crate::jsonrpc::Message;
use crate::limits::Limits;
use crate::server::Server;
use crate::sse::Frame;
use crate::time::Time;

/// Frames between a sender and the shard. Few, because their bytes are nobody's budget.
const FRAMES_MAX: usize = 4;
/// Messages between the shard and a receiver; part of `inbound_messages_max`.
const MESSAGES_MAX: u32 = 4;

/// How many of a session's `inbound_messages_max` are in its channel; the rest is the core's.
pub(super) fn channel_messages(limits: &Limits) -> u32 {
    (limits.inbound_messages_max.unwrap_or(u32::MAX) / 2).clamp(1, MESSAGES_MAX)
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub reason: CloseReason,
    /// Frames that were sent and did not leave whole.
    pub frames_undelivered: u32,
}

struct Shared {
    id: SessionId,
    principal: Option<Principal>,
    head: Arc<RequestHead>,
    frame_bytes_max: u64,
    ended: OnceLock<Ended>,
    attention: Arc<Attention>,
    /// Listed for the shard's attention.
    listed: AtomicBool,
    /// Messages wait on the shard's side for room in the channel.
    starved: AtomicBool,
}

/// What is left when a session has ended.
struct Ended {
    closed: Closed,
    /// Messages that were accepted and had no room in the channel.
    messages: Mutex<VecDeque<Message>>,
}

impl Shared {
    fn notify(&self) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.attention.session(self.id);
        }
    }
}

/// One session, in the hands of the application: receive its client's messages, send it frames.
///
/// The session ends in order (what was sent still leaves) when this value and every
/// [`SessionSender`] made of it are dropped. It belongs to no runtime and may be moved to any thread.
pub struct Session {
    messages: Receiver<Message>,
    sender: SessionSender,
}

/// The sending half of a [`Session`], to be cloned into whatever answers.
#[derive(Clone)]
pub struct SessionSender(Arc<Sending>);

struct Sending {
    frames: Sender<Frame>,
    shared: Arc<Shared>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.frames.close();
        self.shared.notify();
    }
}

impl Session {
    /// The client's next message; `None` once the session has ended and everything was received.
    ///
    /// Cancel-safe: a dropped future has taken nothing.
    pub async fn recv(&self) -> Option<Message> {
        let Ok(message) = self.messages.recv().await else {
            let ended = self.sender.0.shared.ended.get()?;
            return ended.messages.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        };
        // Pairs with `Slot::refill`: either it sees the room, or we see that it wants to know.
        if self.sender.0.shared.starved.load(Ordering::SeqCst) {
            self.sender.0.shared.notify();
        }
        Some(message)
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
        self.sender.0.shared.principal.as_ref()
    }

    /// The GET that opened it.
    #[must_use]
    pub fn head(&self) -> &Arc<RequestHead> {
        &self.sender.0.shared.head
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
    /// of one sender arrive in the order of their sending.
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] once the session has ended or was closed; [`SendError::TooLarge`] for a
    /// frame that no queue will ever hold.
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        self.fits(&frame)?;
        self.0.frames.send(frame).await.map_err(|_| SendError::Gone)?;
        self.0.shared.notify();
        Ok(())
    }

    /// Sends a frame if there is room for it now.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`SendError::Full`].
    pub fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        self.fits(&frame)?;
        self.0.frames.try_send(frame).map_err(|error| match error {
            TrySendError::Full(_) => SendError::Full,
            TrySendError::Closed(_) => SendError::Gone,
        })?;
        self.0.shared.notify();
        Ok(())
    }

    fn fits(&self, frame: &Frame) -> Result<(), SendError> {
        let cost = frame.wire_len() as u64 + Limits::SEGMENT_COST;
        if cost > self.0.shared.frame_bytes_max { Err(SendError::TooLarge) } else { Ok(()) }
    }

    /// Ends the session in order: what was sent still leaves, then the stream ends.
    pub fn close(&self) {
        self.0.frames.close();
        self.0.shared.notify();
    }

    /// The session's name in logs.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.0.shared.id
    }

    /// How the session ended, once it has.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.0.shared.ended.get().map(|ended| ended.closed)
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
pub(super) struct Slot {
    id: SessionId,
    messages: Sender<Message>,
    /// Messages for which the channel has no room.
    waiting: VecDeque<Message>,
    waiting_bytes: u64,
    frames: Receiver<Frame>,
    /// A frame for which the session's queue has no room.
    refused: Option<Frame>,
    shared: Arc<Shared>,
}

impl Slot {
    pub(super) fn new(
        id: SessionId,
        principal: Option<Principal>,
        head: Arc<RequestHead>,
        attention: Arc<Attention>,
        limits: &Limits,
        channel_messages: u32,
    ) -> (Self, Session) {
        let (message_sender, message_receiver) = bounded(channel_messages as usize);
        let (frame_sender, frame_receiver) = bounded(FRAMES_MAX);
        let shared = Arc::new(Shared {
            id,
            principal,
            head,
            frame_bytes_max: limits.queues_bytes_max.unwrap_or(u64::MAX),
            ended: OnceLock::new(),
            attention,
            listed: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        });
        let slot = Self {
            id,
            messages: message_sender,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            frames: frame_receiver,
            refused: None,
            shared: shared.clone(),
        };
        let sender = SessionSender(Arc::new(Sending { frames: frame_sender, shared }));
        (slot, Session { messages: message_receiver, sender })
    }

    pub(super) const fn id(&self) -> SessionId {
        self.id
    }

    /// A message for the application.
    pub(super) fn message(&mut self, message: Message, server: &mut Server, now: Time) {
        if self.waiting.is_empty() {
            match self.messages.try_send(message) {
                Ok(()) => return,
                // Nobody receives any more, and nobody will.
                Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(message)) => self.wait(message),
            }
        } else {
            self.wait(message);
        }
        self.refill(server, now);
    }

    fn wait(&mut self, message: Message) {
        self.waiting_bytes += message.body().len() as u64;
        self.waiting.push_back(message);
    }

    /// Moves waiting messages into the channel, and tells the core how many still wait.
    fn refill(&mut self, server: &mut Server, now: Time) {
        // First the flag, then the look: a receiver that made room before it saw the flag has made
        // room that we see.
        self.shared.starved.store(true, Ordering::SeqCst);
        while let Some(message) = self.waiting.pop_front() {
            let len = message.body().len() as u64;
            match self.messages.try_send(message) {
                Ok(()) | Err(TrySendError::Closed(_)) => self.waiting_bytes -= len,
                Err(TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    break;
                }
            }
        }
        if self.waiting.is_empty() {
            self.shared.starved.store(false, Ordering::SeqCst);
        }
        let messages = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        server.set_backlog(self.id, messages, self.waiting_bytes, now);
    }

    /// The handle asked for attention: it has frames, or room, or is gone.
    pub(super) fn attend(&mut self, server: &mut Server, now: Time) {
        self.shared.listed.store(false, Ordering::Release);
        if !self.waiting.is_empty() {
            self.refill(server, now);
        }
        self.pump(server, now);
    }

    /// Moves frames from the handle to the session's queue, until there are none or it is full.
    pub(super) fn pump(&mut self, server: &mut Server, now: Time) {
        loop {
            let frame = match self.refused.take() {
                Some(frame) => frame,
                None => match self.frames.try_recv() {
                    Ok(frame) => frame,
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Closed) => return server.close(self.id, now),
                },
            };
            match server.send(self.id, &frame, now) {
                Ok(()) => {}
                Err(SendError::Full) => {
                    self.refused = Some(frame);
                    return;
                }
                // Ending: `Closed` follows, and counts what is left.
                Err(SendError::Gone) => {
                    self.refused = Some(frame);
                    self.frames.close();
                    return;
                }
                Err(SendError::TooLarge) => {
                    log::error!("{}: a frame of {} bytes was dropped", self.id, frame.wire_len());
                }
            }
        }
    }

    /// The session has ended.
    pub(super) fn close(self, reason: CloseReason, frames_undelivered: u32) {
        self.frames.close();
        let unsent = self.frames.len() + usize::from(self.refused.is_some());
        let frames_undelivered =
            frames_undelivered.saturating_add(u32::try_from(unsent).unwrap_or(u32::MAX));
        let closed = Closed { reason, frames_undelivered };
        // Messages that were accepted are delivered, even now; whoever receives them finds out by
        // sending that nobody listens.
        let ended = Ended { closed, messages: Mutex::new(self.waiting) };
        assert!(self.shared.ended.set(ended).is_ok(), "a session ends once");
        self.messages.close();
    }
}
