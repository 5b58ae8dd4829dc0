//! One session as a transport of the SDK.
//!
//! Knows: how messages are converted between the SDK's types and frames, and how a message is answered that cannot be
//! converted. Does not know: handshakes, servers, or how sessions are opened.
//!
//! Decision: messages carry the head of the session's GET, and not of each POST. A post's head
//! is gone before its message reaches the application, and credentials are checked when a stream
//! opens. What a post has of its own is the position in a distributed trace, `TraceParent`.

use core::fmt;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request};
use mcp_sse_core::http1::Version;
use mcp_sse_core::jsonrpc::{Kind, Message, code, error_body};
use mcp_sse_core::sse::FrameError;
use mcp_sse_core::{Frame, SendError};
use mcp_sse_driver::{LogThrottle, Session, SessionSender};
use rmcp::RoleServer;
use rmcp::model::{
    ClientJsonRpcMessage, ErrorData, JsonRpcMessage, RequestId, ServerJsonRpcMessage,
};
use rmcp::transport::{IntoTransport, Transport};

/// One session as the SDK's [`Transport`].
///
/// Receiving is cancel-safe. Closing or dropping the transport ends the session: messages that were sent are still
/// written, and then the stream ends.
///
/// ```no_run
/// use mcp_sse_tokio::Session;
/// use mcp_sse_tokio::rmcp::SessionTransport;
/// use rmcp::ServiceExt;
/// # struct Counter;
/// # impl rmcp::ServerHandler for Counter {}
///
/// async fn serve(session: Session) {
///     let transport = SessionTransport::new(session);
///     println!("{}", transport.session().id());
///     if let Ok(running) = Counter.serve(transport).await {
///         let _ = running.waiting().await;
///     }
/// }
/// ```
pub struct SessionTransport {
    session: Session,
    /// The parts of the GET request. Every message gets a copy.
    parts: Parts,
    /// A message that was received and put back.
    next: Option<ClientJsonRpcMessage>,
    /// The error response to a message that could not be read. It is stored here while it is being
    /// sent, so that dropping the future of `receive` does not lose it.
    refusal: Option<Frame>,
}

/// The error of [`SessionTransport`]'s `send`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// The session did not accept the message.
    Send(SendError),
    /// The message cannot be encoded as JSON.
    Encode(FrameError),
}

/// A type without values that distinguishes this implementation of [`IntoTransport`], which requires such a type.
#[derive(Debug)]
pub enum SessionAdapter {}

impl IntoTransport<RoleServer, TransportError, SessionAdapter> for Session {
    fn into_transport(self) -> impl Transport<RoleServer, Error = TransportError> + 'static {
        SessionTransport::new(self)
    }
}

impl SessionTransport {
    /// Creates the transport of a session.
    #[must_use]
    pub fn new(session: Session) -> Self {
        let parts = parts(&session);
        Self { session, parts, next: None, refusal: None }
    }

    /// The session, for its id, its principal, the head of its GET request, and the reason of its end.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Makes `message` the next message that `receive` returns.
    pub(super) fn put_back(&mut self, message: ClientJsonRpcMessage) {
        debug_assert!(self.next.is_none(), "a message would be lost");
        self.next = Some(message);
    }

    /// Converts a message to the SDK's type. If that is not possible and it is a request, the next `receive` sends an
    /// error response.
    fn read(&mut self, message: &Message) -> Option<ClientJsonRpcMessage> {
        let error = match serde_json::from_str::<ClientJsonRpcMessage>(message.text()) {
            Ok(mut sdk_message) => {
                sdk_message.insert_extension(self.parts.clone());
                if let Some(traceparent) = message.traceparent() {
                    sdk_message.insert_extension(traceparent);
                }
                return Some(sdk_message);
            }
            Err(error) => error,
        };
        // The error is not logged, because it may quote the message.
        static UNREADABLE: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = UNREADABLE.tell() {
            log::warn!(
                event = "message_unreadable",
                session = self.session.id(),
                bytes = message.body().len(),
                traceparent = message.traceparent(),
                suppressed = unsaid;
                "the SDK cannot read a message of session {}: {message:?}{unsaid}",
                self.session.id()
            );
        }
        let id = message.id().and_then(|id| serde_json::from_str::<RequestId>(id).ok());
        match message.kind() {
            Kind::Request => {
                // The SDK does not accept every id of JSON-RPC. If it accepts the id, the params are invalid.
                let code = if id.is_none() { code::INVALID_REQUEST } else { code::INVALID_PARAMS };
                let answer = error_body(message.id(), code, &error.to_string());
                self.refusal = Frame::message(&answer).ok();
                None
            }
            // The service waits for this response, so it gets an error.
            Kind::Response => id.map(|id| {
                let error = ErrorData::internal_error("the client's response is unreadable", None);
                ClientJsonRpcMessage::error(error, Some(id))
            }),
            Kind::Notification => None,
        }
    }
}

impl From<Session> for SessionTransport {
    fn from(session: Session) -> Self {
        Self::new(session)
    }
}

impl Transport<RoleServer> for SessionTransport {
    type Error = TransportError;

    fn send(
        &mut self,
        item: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let sender = self.session.sender();
        async move { send(&sender, item).await }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            if let Some(refusal) = &self.refusal {
                // If the session has ended, `recv` returns `None` below.
                let _ = self.session.send(refusal.clone()).await;
                self.refusal = None;
            }
            if let Some(message) = self.next.take() {
                return Some(message);
            }
            let message = self.session.recv().await?;
            if let Some(message) = self.read(&message) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.session.close();
        Ok(())
    }
}

async fn send(sender: &SessionSender, item: ServerJsonRpcMessage) -> Result<(), TransportError> {
    let error = match Frame::from_json(&item) {
        Ok(frame) => match sender.send(frame).await {
            Ok(()) => return Ok(()),
            Err(error) => TransportError::Send(error),
        },
        Err(error) => TransportError::Encode(error),
    };
    // If this was a response, the client waits for it, so it gets an error instead.
    let answered = match item {
        JsonRpcMessage::Response(response) => Some(response.id),
        JsonRpcMessage::Error(error) => error.id,
        JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
    };
    if let Some(id) = answered.filter(|_| error != TransportError::Send(SendError::Gone)) {
        static REPLACED: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = REPLACED.tell() {
            log::warn!(
                event = "answer_replaced",
                session = sender.id(),
                error:% = error,
                suppressed = unsaid;
                "an answer of session {} was replaced by an error: {error}{unsaid}",
                sender.id()
            );
        }
        let error_data = ErrorData::internal_error("the result could not be sent", None);
        let response = ServerJsonRpcMessage::error(error_data, Some(id));
        sender.send(Frame::from_json(&response)?).await?;
    }
    Err(error)
}

/// Converts the head of the session's GET request to the type that the SDK's handlers use.
fn parts(session: &Session) -> Parts {
    let head = session.head();
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(head.method().as_str().as_bytes()).unwrap_or_default();
    *request.uri_mut() = head.path().parse().unwrap_or_default();
    *request.version_mut() = match head.version() {
        Version::Http10 => http::Version::HTTP_10,
        Version::Http11 => http::Version::HTTP_11,
    };
    for (name, value) in head.fields() {
        if let (Ok(name), Ok(mut value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            value.set_sensitive(true);
            request.headers_mut().append(name, value);
        }
    }
    request.extensions_mut().insert(session.id());
    if let Some(principal) = session.principal() {
        request.extensions_mut().insert(principal.clone());
    }
    request.into_parts().0
}

impl fmt::Debug for SessionTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTransport").field("session", &self.session).finish_non_exhaustive()
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(error) => error.fmt(f),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for TransportError {}

impl From<SendError> for TransportError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<FrameError> for TransportError {
    fn from(error: FrameError) -> Self {
        Self::Encode(error)
    }
}
