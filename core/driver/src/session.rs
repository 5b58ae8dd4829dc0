//! The application's side of one session: [`Session`] and [`SessionSender`].
//!
//! Knows: how messages are received and frames are sent, and which task waits for which.
//! Does not know: sockets, or what the shard does with its side (see `session_slot`).
//!
//! Decision: a [`Session`] does not implement `Stream` of the futures crates, which would be a
//! dependency. [`Session::poll_recv`] is all that an implementation needs.

use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::sync::Arc;

use mcp_sse_core::{
    Limits, Principal, RequestHead, SendError, SessionId, jsonrpc::Message, sse::Frame,
};

use super::handle::Handle;
use super::session_mailbox::{Closed, SessionMailbox, SessionShared, set_receiver};

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
    pub(super) fn new(shared: Arc<SessionShared>) -> Self {
        Self { sender: SessionSender { guard: Arc::new(SenderGuard { shared }) } }
    }

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
