//! One session as a transport of the SDK.
//!
//! Knows: how the SDK's messages become frames and the client's messages the SDK's; what is said
//! about those that do not. Does not know: handshakes, servers, where sessions come from.
//!
//! Decision: messages carry the head of the session's GET, and not of each POST. A post's head
//! is gone before its message reaches the application, and credentials are checked when a stream
//! opens.

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
/// Receiving is cancel-safe. Closing ends the session in order: what was sent still leaves, then the
/// stream ends; dropping it does the same.
pub struct SessionTransport {
    session: Session,
    /// Of the GET; every message gets a copy.
    parts: Parts,
    /// Received already, and put back.
    next: Option<ClientJsonRpcMessage>,
    /// Answers a message that was taken and could not be read. It is kept here while it is being
    /// sent, so that a dropped `receive` loses nothing.
    refusal: Option<Frame>,
}

/// Why a message did not go out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// The session did not take it.
    Send(SendError),
    /// It cannot be written as JSON.
    Encode(FrameError),
}

/// Names the way from a [`Session`] to a transport, as [`IntoTransport`] demands. Has no values.
#[derive(Debug)]
pub enum SessionAdapter {}

impl IntoTransport<RoleServer, TransportError, SessionAdapter> for Session {
    fn into_transport(self) -> impl Transport<RoleServer, Error = TransportError> + 'static {
        SessionTransport::new(self)
    }
}

impl SessionTransport {
    /// Takes a session over.
    #[must_use]
    pub fn new(session: Session) -> Self {
        let parts = parts(&session);
        Self { session, parts, next: None, refusal: None }
    }

    /// The session: its id, its principal, the head of its GET, how it ended.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Makes `message` the next that is received.
    pub(super) fn put_back(&mut self, message: ClientJsonRpcMessage) {
        debug_assert!(self.next.is_none(), "a message would be lost");
        self.next = Some(message);
    }

    /// What the SDK makes of a message; what is refused is answered by the next `receive`.
    fn read(&mut self, message: &Message) -> Option<ClientJsonRpcMessage> {
        let error = match serde_json::from_str::<ClientJsonRpcMessage>(message.text()) {
            Ok(mut message) => {
                message.insert_extension(self.parts.clone());
                return Some(message);
            }
            Err(error) => error,
        };
        // Not what is wrong with it: that may quote the message.
        static UNREADABLE: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = UNREADABLE.tell() {
            log::warn!("{}: the SDK cannot read {message:?}{unsaid}", self.session.id());
        }
        let id = message.id().and_then(|id| serde_json::from_str::<RequestId>(id).ok());
        match message.kind() {
            Kind::Request => {
                // The SDK's ids are narrower than JSON-RPC's; all else that can be wrong is below.
                let code = if id.is_none() { code::INVALID_REQUEST } else { code::INVALID_PARAMS };
                let answer = error_body(message.id(), code, &error.to_string());
                self.refusal = Frame::message(&answer).ok();
                None
            }
            // Whoever asked must not wait for ever.
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
                // A session that is gone says so below.
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
    // The client waits for an answer, if this was one, so it gets another.
    let answered = match item {
        JsonRpcMessage::Response(response) => Some(response.id),
        JsonRpcMessage::Error(error) => error.id,
        JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
    };
    if let Some(id) = answered.filter(|_| error != TransportError::Send(SendError::Gone)) {
        static REPLACED: LogThrottle = LogThrottle::new();
        if let Some(unsaid) = REPLACED.tell() {
            log::warn!("{}: an answer was replaced by an error: {error}{unsaid}", sender.id());
        }
        let apology = ErrorData::internal_error("the result could not be sent", None);
        let apology = ServerJsonRpcMessage::error(apology, Some(id));
        sender.send(Frame::from_json(&apology)?).await?;
    }
    Err(error)
}

/// The GET's head in the types that handlers know.
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
