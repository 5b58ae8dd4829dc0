//! One session: the application's handle of it ([`Session`]) and the shard's side ([`SessionSlot`]).
//!
//! Knows: the messages and frames between the two, and which task waits for which.
//! Does not know: sockets, or how the core queues a frame.
//!
//! Decision: both sides share one [`SessionMailbox`] behind a mutex that is held only to move an
//! item. Two bounded channels were considered: they take 2 kB for each idle session, and most
//! sessions are idle. An empty mailbox owns no heap memory.
//!
//! Decision: a [`Session`] does not implement `Stream` of the futures crates, which would be a
//! dependency. [`Session::poll_recv`] is all that an implementation needs.

use core::fmt;
use core::future::poll_fn;
use core::mem;
use core::task::{Context, Poll, Waker};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard};

use mcp_sse_core::{
    CloseReason, Limits, Principal, RequestHead, SendError, Server, SessionId, Time,
    jsonrpc::Message, sse::Frame,
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

/// How a session ended; see [`Session::closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why it ended.
    pub reason: CloseReason,
    /// How many frames were accepted for this session, by `send`, `try_send` or a broadcast, and were not written to
    /// the socket in full.
    pub frames_undelivered: u32,
}

#[derive(Default)]
struct SessionMailbox {
    messages: VecDeque<Message>,
    messages_bytes: u64,
    /// How many waiting messages were last reported to the core.
    reported: usize,
    receiver: Option<Waker>,
    frames: VecDeque<Frame>,
    frames_bytes: usize,
    /// The wakers of senders that wait for room, by a number that identifies the future.
    senders: BTreeMap<u64, Waker>,
    senders_numbered: u64,
    /// No frame is accepted any more: the application closed the session, or the session has ended.
    finished: bool,
    /// The session is listed in the shard's mailbox and the shard has not served it yet.
    listed: bool,
    closed: Option<Closed>,
}

struct SessionShared {
    id: SessionId,
    principal: Option<Principal>,
    head: Arc<RequestHead>,
    limits: MailboxLimits,
    server: Handle,
    shard: Arc<ShardHandle>,
    mailbox: Shared<SessionMailbox>,
}

/// The limits of a session's mailbox, derived from the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct MailboxLimits {
    /// The most that a frame may cost in a queue, [`Limits::SEGMENT_COST`] included.
    frame_bytes_max: u64,
    /// [`MESSAGES_UNREPORTED`], or fewer if `inbound_messages_max` is small, so that the core still
    /// enforces that number exactly.
    unreported: usize,
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
    fn notify(&self, mut mailbox: MutexGuard<'_, SessionMailbox>) {
        let listed = mem::replace(&mut mailbox.listed, true);
        drop(mailbox);
        if !listed {
            self.shard.mailbox.session(self.id);
        }
    }

    fn finish(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.finished = true;
        let waiting = mem::take(&mut mailbox.senders);
        self.notify(mailbox);
        wake(waiting);
    }
}

/// Registers the task that waits for a message or the end, and unlocks the mailbox.
fn set_receiver(mut mailbox: MutexGuard<'_, SessionMailbox>, cx: &Context<'_>) {
    if mailbox.receiver.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
        let old = mailbox.receiver.replace(cx.waker().clone());
        // Dropping a waker can run foreign code, so the lock is released first.
        drop(mailbox);
        drop(old);
    }
}

fn wake(senders: BTreeMap<u64, Waker>) {
    senders.into_values().for_each(Waker::wake);
}

impl SessionMailbox {
    fn take_message(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.messages_bytes -= message.body().len() as u64;
        if self.messages.is_empty() && self.messages.capacity() > CAPACITY_KEPT {
            self.messages = VecDeque::new();
        }
        Some(message)
    }

    /// Whether fewer messages are waiting than the core was last told.
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

/// The application's handle of one session: it receives the client's messages and sends frames to it.
///
/// A session begins with a client's `GET` of the stream; the server hands this value to the
/// application's handler. When this value and every [`SessionSender`] made from it are dropped, the
/// session ends in order: frames that were sent are still written, then the stream ends.
///
/// It is `Send`, belongs to no runtime and may be moved to any thread or executor.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
/// use mcp_sse_core::{SendError, jsonrpc::Kind, sse::Frame};
/// use mcp_sse_driver::Session;
///
/// /// Answers each request with the same result.
/// async fn answer_all(mut session: Session) -> Result<(), SendError> {
///     while let Some(message) = session.recv().await {
///         if let (Kind::Request, Some(id)) = (message.kind(), message.id()) {
///             session.send(Frame::result(id, "done").expect("valid JSON")).await?;
///         }
///     }
///     Ok(())
/// }
/// # fn main() -> std::io::Result<()> {
/// # let received = serve_client(&[PING], async |session| {
/// #     let _gone = answer_all(session).await;
/// # })?;
/// # assert!(received.contains("\"done\""));
/// # Ok(())
/// # }
/// ```
pub struct Session {
    sender: SessionSender,
}

/// The sending half of a [`Session`], for tasks that only send.
///
/// It is made by [`Session::sender`] and is cheap to clone. The session stays open while the `Session`
/// or any of its senders exists.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
/// use mcp_sse_core::{SendError, sse::Frame};
/// use mcp_sse_driver::SessionSender;
///
/// async fn notify(sender: SessionSender) -> Result<(), SendError> {
///     let json = br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
///     sender.send(Frame::message(json).expect("valid JSON")).await
/// }
/// # fn main() -> std::io::Result<()> {
/// # let received = serve_client(&[], async |session| {
/// #     notify(session.sender()).await.expect("the client is there");
/// # })?;
/// # assert!(received.contains("list_changed"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SessionSender {
    guard: Arc<SenderGuard>,
}

/// Shared by all senders of a session: the last one that is dropped closes the session.
struct SenderGuard {
    shared: Arc<SessionShared>,
}

impl Drop for SenderGuard {
    fn drop(&mut self) {
        self.shared.finish();
    }
}

impl Session {
    /// Waits for the client's next message. Returns `None` once the session has ended and every
    /// accepted message was received.
    ///
    /// Cancel-safe: a future that is dropped has taken no message.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::Session;
    /// async fn log_all(mut session: Session) {
    ///     while let Some(message) = session.recv().await {
    ///         println!("{}: {}", session.id(), message.method().unwrap_or("a response"));
    ///     }
    ///     println!("{}: {:?}", session.id(), session.closed());
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[CANCELLED], log_all)?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Option<Message> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Polls for the client's next message, as [`recv`](Self::recv) does, for futures and streams that
    /// are written by hand.
    ///
    /// The task of the last call of this method or of [`poll_closed`](Self::poll_closed) is woken.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use core::{pin::Pin, task::{Context, Poll}};
    /// # use mcp_sse_core::jsonrpc::Message;
    /// # use mcp_sse_driver::Session;
    /// struct NextMessage<'s>(&'s mut Session);
    ///
    /// impl Future for NextMessage<'_> {
    ///     type Output = Option<Message>;
    ///
    ///     fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
    ///         self.0.poll_recv(cx)
    ///     }
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[CANCELLED], async |mut session| {
    /// #     let message = NextMessage(&mut session).await.expect("a message");
    /// #     assert_eq!(message.method(), Some("notifications/cancelled"));
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let shared = &self.sender.guard.shared;
        let mut mailbox = shared.mailbox.lock();
        let Some(message) = mailbox.take_message() else {
            if mailbox.closed.is_some() {
                return Poll::Ready(None);
            }
            set_receiver(mailbox, cx);
            return Poll::Pending;
        };
        if mailbox.report_is_stale() {
            shared.notify(mailbox);
        }
        Poll::Ready(Some(message))
    }

    /// Polls for the end of the session without taking a message: for a task that cannot take another
    /// message at the moment and still has to notice the end.
    ///
    /// One task is woken: that of the last call of this method or of [`poll_recv`](Self::poll_recv).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use core::future::poll_fn;
    /// # use mcp_sse_driver::{Closed, Session};
    /// async fn closed(session: &mut Session) -> Closed {
    ///     poll_fn(|cx| session.poll_closed(cx)).await
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[CANCELLED], async |mut session| {
    /// #     let closed = closed(&mut session).await;
    /// #     assert_eq!(closed.reason, mcp_sse_core::CloseReason::Peer);
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        let mailbox = self.sender.guard.shared.mailbox.lock();
        if let Some(closed) = mailbox.closed {
            return Poll::Ready(closed);
        }
        set_receiver(mailbox, cx);
        Poll::Pending
    }

    /// Returns a sending half of this session, for another task.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::sse::Frame;
    /// # use mcp_sse_driver::Session;
    /// fn answer_elsewhere(session: &Session, json: Vec<u8>) {
    ///     let sender = session.sender();
    ///     std::thread::spawn(move || sender.try_send(Frame::message(&json).expect("valid JSON")));
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # let received = serve_client(&[PING], async |mut session| {
    /// #     let id = session.recv().await.expect("a request").id().expect("an id").to_owned();
    /// #     let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
    /// #     answer_elsewhere(&session, body.into_bytes());
    /// #     session.recv().await; // Until the client leaves.
    /// # })?;
    /// # assert!(received.contains("result"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn sender(&self) -> SessionSender {
        self.sender.clone()
    }

    /// Sends a frame and waits while the session's mailbox is full, as [`SessionSender::send`] does.
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] once the session has ended or was closed; [`SendError::TooLarge`] if no
    /// queue can ever hold the frame.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::{SendError, sse::Frame};
    /// # use mcp_sse_driver::Session;
    /// async fn ping(session: &Session) -> Result<(), SendError> {
    ///     let json = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    ///     session.send(Frame::message(json).expect("valid JSON")).await
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # let received = serve_client(&[], async |session| {
    /// #     ping(&session).await.expect("the client is there");
    /// # })?;
    /// # assert!(received.contains("ping"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        self.sender.send(frame).await
    }

    /// Sends a frame if the session's mailbox has room for it now, as [`SessionSender::try_send`] does.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is no room now, and the errors of [`send`](Self::send).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::{SendError, sse::Frame};
    /// # use mcp_sse_driver::Session;
    /// /// Returns whether the log line was sent: it is dropped for a client that is behind.
    /// fn send_log_line(session: &Session, frame: Frame) -> Result<bool, SendError> {
    ///     match session.try_send(frame) {
    ///         Ok(()) => Ok(true),
    ///         Err(SendError::Full) => Ok(false),
    ///         Err(error) => Err(error),
    ///     }
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # let received = serve_client(&[], async |session| {
    /// #     assert_eq!(send_log_line(&session, Frame::message(b"{}").expect("JSON")), Ok(true));
    /// # })?;
    /// # assert!(received.contains("data: {}"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        self.sender.try_send(frame)
    }

    /// Ends the session in order: frames that were sent are still written, then the stream ends.
    ///
    /// Returns immediately. Later sends fail with [`SendError::Gone`]; messages that were accepted can
    /// still be received. Calling it again changes nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::{SendError, sse::Frame};
    /// # use mcp_sse_driver::Session;
    /// async fn send_last(session: &Session, frame: Frame) -> Result<(), SendError> {
    ///     session.send(frame).await?;
    ///     session.close();
    ///     Ok(())
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     let frame = || Frame::message(b"{}").expect("JSON");
    /// #     assert_eq!(send_last(&session, frame()).await, Ok(()));
    /// #     assert_eq!(session.try_send(frame()), Err(SendError::Gone));
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) {
        self.sender.close();
    }

    /// The session's name in logs: `s12v7`. It is no secret and differs from the id in the endpoint
    /// that the client posts to.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::Session;
    /// fn log_begin(session: &Session) {
    ///     println!("{} began", session.id());
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| log_begin(&session))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.sender.id()
    }

    /// The principal whose credentials opened the session; `None` if the server authenticates nobody.
    ///
    /// Only posts of the same principal reach the session.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::Session;
    /// fn may_delete(session: &Session) -> bool {
    ///     session.principal().is_some_and(|principal| principal.name() == "admin")
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| assert!(may_delete(&session)))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.sender.guard.shared.principal.as_ref()
    }

    /// The head of the `GET` request that opened the session.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::Session;
    /// fn accepts_german(session: &Session) -> bool {
    ///     session.head().field("accept-language").is_some_and(|value| value.starts_with(b"de"))
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| assert!(accepts_german(&session)))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn head(&self) -> &Arc<RequestHead> {
        &self.sender.guard.shared.head
    }

    /// The handle of the server that the session belongs to, which reaches the other sessions.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::sse::Frame;
    /// # use mcp_sse_driver::{Session, Stopped};
    /// async fn tell_all(session: &Session, frame: Frame) -> Result<(), Stopped> {
    ///     session.server().broadcast(frame).await?;
    ///     Ok(())
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # let received = serve_client(&[], async |session| {
    /// #     tell_all(&session, Frame::message(b"{}").expect("JSON")).await.expect("it runs");
    /// # })?;
    /// # assert!(received.contains("data: {}"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn server(&self) -> &Handle {
        &self.sender.guard.shared.server
    }

    /// How the session ended; `None` while it is open.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::CloseReason;
    /// # use mcp_sse_driver::Session;
    /// fn was_too_slow(session: &Session) -> bool {
    ///     session.closed().is_some_and(|closed| closed.reason == CloseReason::Stalled)
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| assert!(!was_too_slow(&session)))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.sender.closed()
    }
}

impl SessionSender {
    /// Sends a frame: puts it into the session's mailbox, and waits while the mailbox is full, which it is with 16
    /// frames or 256 KiB.
    ///
    /// The server moves frames from the mailbox to the queue of the session. It leaves them in the mailbox while the
    /// queue has no room ([`Limits::queue_bytes_max`](mcp_sse_core::Limits::queue_bytes_max)), or all queues together
    /// have none ([`Limits::queues_bytes_max`](mcp_sse_core::Limits::queues_bytes_max)).
    ///
    /// `Ok` means that the frame is in the mailbox; HTTP has no acknowledgement of its arrival. Frames of one
    /// sender are written in the order in which they were sent. Cancel-safe: a future that is dropped
    /// before it is ready has sent nothing.
    ///
    /// # Errors
    ///
    /// [`SendError::Gone`] once the session has ended or was closed; [`SendError::TooLarge`] if no
    /// queue can ever hold the frame
    /// ([`Limits::queues_bytes_max`](mcp_sse_core::Limits::queues_bytes_max)).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::{SendError, sse::Frame};
    /// # use mcp_sse_driver::SessionSender;
    /// async fn send_in_order(sender: &SessionSender, frames: Vec<Frame>) -> Result<(), SendError> {
    ///     for frame in frames {
    ///         sender.send(frame).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # let received = serve_client(&[], async |session| {
    /// #     let frames = [br#"{"n":1}"#, br#"{"n":2}"#].map(|json| Frame::message(json).expect("JSON"));
    /// #     send_in_order(&session.sender(), frames.into()).await.expect("the client is there");
    /// # })?;
    /// # let at = |text| received.find(text).expect("it was sent");
    /// # assert!(at(r#"{"n":1}"#) < at(r#"{"n":2}"#));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        let mut waiting = WaitingSend { shared: &self.guard.shared, number: None };
        let mut frame = Some(frame);
        poll_fn(|cx| {
            let Some(ready) = frame.take() else { return Poll::Ready(Ok(())) };
            match self.put(ready, Some((&mut waiting, cx))) {
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

    /// Sends a frame if the session's mailbox has room for it now. `Ok` means the same as for [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is no room now, and the errors of [`send`](Self::send).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_core::sse::Frame;
    /// # use mcp_sse_driver::SessionSender;
    /// /// Sends to each session that has room, and drops the sessions that have ended.
    /// fn publish(subscribers: &mut Vec<SessionSender>, frame: &Frame) {
    ///     subscribers.retain(|sender| sender.closed().is_none());
    ///     for sender in subscribers {
    ///         let _ = sender.try_send(frame.clone());
    ///     }
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # let received = serve_client(&[], async |session| {
    /// #     publish(&mut vec![session.sender()], &Frame::message(b"{}").expect("JSON"));
    /// # })?;
    /// # assert!(received.contains("data: {}"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        self.put(frame, None).map_err(|(error, _)| error)
    }

    /// Puts a frame into the mailbox. If there is no room, `waiting` is registered to be woken.
    fn put(
        &self,
        frame: Frame,
        waiting: Option<(&mut WaitingSend<'_>, &Context<'_>)>,
    ) -> Result<(), (SendError, Frame)> {
        let shared = &self.guard.shared;
        if frame.wire_len() as u64 + Limits::SEGMENT_COST > shared.limits.frame_bytes_max {
            return Err((SendError::TooLarge, frame));
        }
        let mut mailbox = shared.mailbox.lock();
        if mailbox.finished {
            return Err((SendError::Gone, frame));
        }
        if !mailbox.takes_frames() {
            let old = waiting.and_then(|(waiting, cx)| waiting.wait(&mut mailbox, cx));
            drop(mailbox);
            drop(old);
            return Err((SendError::Full, frame));
        }
        mailbox.put_frame(frame);
        shared.notify(mailbox);
        Ok(())
    }

    /// Ends the session in order: frames that were sent are still written, then the stream ends.
    ///
    /// Returns immediately. Sends of every sender then fail with [`SendError::Gone`]. Calling it again
    /// changes nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::SessionSender;
    /// fn end_all(senders: &[SessionSender]) {
    ///     senders.iter().for_each(SessionSender::close);
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     end_all(&[session.sender()]);
    /// #     let frame = mcp_sse_core::Frame::message(b"{}").expect("JSON");
    /// #     assert_eq!(session.try_send(frame), Err(mcp_sse_core::SendError::Gone));
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) {
        self.guard.shared.finish();
    }

    /// The session's name in logs; see [`Session::id`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::SessionSender;
    /// fn find(senders: &[SessionSender], id: mcp_sse_core::SessionId) -> Option<&SessionSender> {
    ///     senders.iter().find(|sender| sender.id() == id)
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| {
    /// #     assert!(find(&[session.sender()], session.id()).is_some());
    /// # })?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.guard.shared.id
    }

    /// How the session ended; `None` while it is open.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/doc_setup.rs"));
    /// # use mcp_sse_driver::SessionSender;
    /// fn frames_lost(sender: &SessionSender) -> u32 {
    ///     sender.closed().map_or(0, |closed| closed.frames_undelivered)
    /// }
    /// # fn main() -> std::io::Result<()> {
    /// # serve_client(&[], async |session| assert_eq!(frames_lost(&session.sender()), 0))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.guard.shared.mailbox.lock().closed
    }
}

/// One `send` future in the mailbox's list of waiting senders; dropping it takes it off the list.
struct WaitingSend<'s> {
    shared: &'s SessionShared,
    number: Option<u64>,
}

impl WaitingSend<'_> {
    /// Registers the task of `cx` to be woken. Returns the waker that it replaces.
    fn wait(&mut self, mailbox: &mut SessionMailbox, cx: &Context<'_>) -> Option<Waker> {
        let number = *self.number.get_or_insert_with(|| {
            mailbox.senders_numbered += 1;
            mailbox.senders_numbered
        });
        mailbox.senders.insert(number, cx.waker().clone())
    }
}

impl Drop for WaitingSend<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        // The lock is released before the waker is dropped.
        let waiting = self.shared.mailbox.lock().senders.remove(&number);
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
        let guard = Arc::new(SenderGuard { shared: shared.clone() });
        (Self { refused: None, shared }, Session { sender: SessionSender { guard } })
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
