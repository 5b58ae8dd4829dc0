//! Parses the envelope of one JSON-RPC 2.0 message.
//!
//! Knows: what makes a JSON object a request, a notification or a response; which JSON values are
//! valid ids; how an error response is written; the notification that cancels a request.
//! Does not know: any other method, the contents of `params`, `result` and `error`, who sent the
//! message, or how an answer is sent.
//!
//! One pass over the text (`grammar`) limits the nesting and collects the members of the outermost
//! object (`outline`). After it, the members are checked. A syntax error anywhere is therefore
//! reported before an invalid member, and one text always gives the same result.
//!
//! ```
//! use mcp_sse_core::jsonrpc::{Envelope, Kind};
//!
//! let envelope = Envelope::read(br#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, None)?;
//! assert_eq!(envelope.kind, Kind::Request);
//! assert_eq!(envelope.id, Some("\"a\""));
//! assert_eq!(envelope.method.as_deref(), Some("ping"));
//! # Ok::<(), mcp_sse_core::jsonrpc::Invalid>(())
//! ```
//!
//! Decision: `notifications/cancelled` is read, although a transport should know no methods. MCP
//! sends no response to a cancelled request, so without this the requests that clients cancel
//! would stay in flight for ever and use up `in_flight_max`.

mod grammar;
mod outline;
mod string;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

pub(crate) use grammar::Shape;
use outline::member;
pub(crate) use outline::{JSON_SPACE, Outline};
pub(crate) use string::fingerprint;
pub use string::same_id;
use string::{decode, is_id};

use crate::trace_context::TraceParent;

/// The error codes of JSON-RPC 2.0 (section 5.1) that a transport or a server uses.
pub mod code {
    /// The text is not exactly one JSON value in UTF-8.
    pub const PARSE_ERROR: i32 = -32700;
    /// The text is JSON but not one JSON-RPC 2.0 message.
    pub const INVALID_REQUEST: i32 = -32600;
    /// The server has no method of that name.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The params are not valid for the method.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The server failed while it executed the method.
    pub const INTERNAL_ERROR: i32 = -32603;
    /// The server has no capacity for the request at present. This code is in the range that
    /// JSON-RPC leaves to servers.
    pub const SERVER_BUSY: i32 = -32000;
}

/// The default nesting limit of arrays and objects. See
/// [`Limits::nesting_max`](crate::Limits::nesting_max).
pub const NESTING_MAX: usize = 128;

/// The notification with which a peer cancels a request it sent (MCP, "Cancellation").
const CANCELLED: &str = "notifications/cancelled";

/// The kind of a JSON-RPC message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A request: it has a method and an id, and expects a response.
    Request,
    /// A notification: it has a method and no id, and expects no response.
    Notification,
    /// A response: it has an id, and either a result or an error.
    Response,
}

/// Why a text is not one JSON-RPC 2.0 message. The text in each variant describes the mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The text is not one JSON value in UTF-8, or it is nested deeper than the limit.
    Parse(Cow<'static, str>),
    /// The text is JSON but not one request, notification or response.
    Request(Cow<'static, str>),
}

impl Invalid {
    const fn parse(reason: &'static str) -> Self {
        Self::Parse(Cow::Borrowed(reason))
    }

    /// The JSON-RPC error code for this mistake: [`code::PARSE_ERROR`] or
    /// [`code::INVALID_REQUEST`].
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self {
            Self::Parse(_) => code::PARSE_ERROR,
            Self::Request(_) => code::INVALID_REQUEST,
        }
    }

    /// Whether the text is nested deeper than the limit.
    pub(crate) fn is_too_deep(&self) -> bool {
        self.reason().ends_with("(limit nesting_max)")
    }

    /// A description of the mistake. It never contains a part of the message.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Parse(reason) | Self::Request(reason) => reason,
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = match self {
            Self::Parse(_) => "Parse error",
            Self::Request(_) => "Invalid Request",
        };
        write!(f, "{title}: {}", self.reason())
    }
}

impl core::error::Error for Invalid {}

/// The envelope of one message, borrowed from the message's text: its kind, id and method.
///
/// [`Message`] is the owned counterpart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The kind of the message.
    pub kind: Kind,
    /// The raw JSON text of the id, including the quotes of a string. `None` exactly if the message
    /// is a notification.
    ///
    /// It is raw, because a response must repeat the id exactly and no number type can represent
    /// all ids.
    pub id: Option<&'a str>,
    /// The method, decoded. `None` exactly if the message is a response.
    pub method: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Parses the envelope of `body`, which must be exactly one JSON-RPC 2.0 message.
    ///
    /// `nesting_max` limits the nesting of arrays and objects; the outermost object is level 1.
    /// `None` means no limit: parsing then takes memory in proportion to the nesting, and never
    /// recurses.
    ///
    /// Nothing is copied unless the method is written with escapes.
    ///
    /// # Errors
    ///
    /// [`Invalid::Parse`] if the body is not one JSON value, [`Invalid::Request`] if it is not a
    /// JSON-RPC message.
    pub fn read(body: &'a [u8], nesting_max: Option<usize>) -> Result<Self, Invalid> {
        match core::str::from_utf8(body) {
            Ok(text) => Self::read_text(text, nesting_max),
            Err(_) => Err(NOT_UTF8),
        }
    }

    fn read_text(text: &'a str, nesting_max: Option<usize>) -> Result<Self, Invalid> {
        if text.starts_with('\u{feff}') {
            return Err(Invalid::parse("the text starts with a byte order mark"));
        }
        let envelope = match Outline::read(text, nesting_max) {
            Ok((outline, Shape::Object)) => outline.classify(),
            Ok((_, Shape::Array)) => Err("batches are not supported"),
            Ok((_, Shape::Scalar)) => Err("a message is an object"),
            Err(error) => return Err(Invalid::Parse(error.to_string().into())),
        };
        envelope.map_err(|reason| Invalid::Request(reason.into()))
    }
}

const NOT_UTF8: Invalid = Invalid::parse("the text is not valid UTF-8");

impl<'a> Outline<'a> {
    /// Determines the message that the members make, or the first mistake in a fixed order.
    fn classify(self) -> Result<Envelope<'a>, &'static str> {
        if let Some(mistake) = self.duplicate {
            return Err(mistake);
        }
        if self.version.and_then(decode).as_deref() != Some("2.0") {
            return Err("jsonrpc must be the string \"2.0\"");
        }
        if !self.id.is_none_or(is_id) {
            return Err("an id is a string or an integer");
        }
        let decoded = |method| decode(method).ok_or("the method must be a string of Unicode");
        let method = self.method.map(decoded).transpose()?;
        let outcomes = (self.result.is_some(), self.error.is_some());
        let kind = match (&method, self.id, outcomes) {
            (Some(_), Some(_), (false, false)) => Kind::Request,
            (Some(_), None, (false, false)) => Kind::Notification,
            (Some(_), ..) => return Err("a method together with a result or an error"),
            (None, _, (true, true)) => return Err("a result together with an error"),
            (None, _, (false, false)) => return Err("neither a method nor a result nor an error"),
            (None, Some(_), _) => Kind::Response,
            (None, None, _) => return Err("a response without an id"),
        };
        Ok(Envelope { kind, id: self.id, method })
    }
}

/// The error of [`Message::params`]. Its text can be shown to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidParams(String);

impl fmt::Display for InvalidParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid params: {}", self.0)
    }
}

impl core::error::Error for InvalidParams {}

/// One JSON-RPC message, which owns its text. The application receives it in
/// [`Event::Message`](crate::Event::Message).
///
/// `Debug` prints the envelope and the length of the message, but not its contents.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::jsonrpc::{Kind, Message};
///
/// let body = br#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
/// let message = Message::read(body.to_vec(), None).expect("this is a request");
/// assert_eq!(message.kind(), Kind::Request);
/// assert_eq!(message.id(), Some("7"));
/// assert_eq!(message.method(), Some("tools/list"));
/// assert_eq!(message.body(), body);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    // A `String` rather than bytes, so that UTF-8 is validated once only.
    text: String,
    kind: Kind,
    id: Option<Range<u32>>,
    method: MethodText,
    traceparent: Option<TraceParent>,
}

#[derive(Clone, PartialEq, Eq)]
enum MethodText {
    None,
    InBody(Range<u32>),
    // The decoded form of a method that is written with escapes.
    Decoded(Box<str>),
}

impl Message {
    /// The bytes of memory that the message takes, which count towards the limits of queued
    /// messages.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let decoded = if let MethodText::Decoded(method) = &self.method { method.len() } else { 0 };
        (self.text.capacity() + decoded) as u64
    }

    /// Parses `body`, which must be exactly one JSON-RPC 2.0 message, without copying it.
    /// `nesting_max` is as for [`Envelope::read`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::read`], together with the body. A body of 4 GiB or more is
    /// [`Invalid::Parse`].
    pub fn read(body: Vec<u8>, nesting_max: Option<usize>) -> Result<Self, (Invalid, Vec<u8>)> {
        Self::read_traced(body, nesting_max, None)
    }

    /// Like [`read`](Self::read), with a position in a distributed trace.
    pub(crate) fn read_traced(
        body: Vec<u8>,
        nesting_max: Option<usize>,
        traceparent: Option<TraceParent>,
    ) -> Result<Self, (Invalid, Vec<u8>)> {
        if u32::try_from(body.len()).is_err() {
            return Err((Invalid::parse("a text of 4 GiB or more"), body));
        }
        let text = match String::from_utf8(body) {
            Ok(text) => text,
            Err(error) => return Err((NOT_UTF8, error.into_bytes())),
        };
        let envelope = match Envelope::read_text(&text, nesting_max) {
            Ok(envelope) => envelope,
            Err(invalid) => return Err((invalid, text.into_bytes())),
        };
        let kind = envelope.kind;
        let id = envelope.id.map(|id| range_in(&text, id));
        let method = match envelope.method {
            None => MethodText::None,
            Some(Cow::Borrowed(method)) => MethodText::InBody(range_in(&text, method)),
            Some(Cow::Owned(method)) => MethodText::Decoded(method.into()),
        };
        Ok(Self { text, kind, id, method, traceparent })
    }

    /// The kind of the message.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The raw JSON text of the id, including the quotes of a string; `None` exactly if the message
    /// is a notification. Pass it to [`Frame::result`](crate::Frame::result) or
    /// [`Frame::error`](crate::Frame::error).
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.at(self.id.as_ref()?)
    }

    /// The method, decoded; `None` exactly if the message is a response.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match &self.method {
            MethodText::None => None,
            MethodText::InBody(range) => self.at(range),
            MethodText::Decoded(method) => Some(method),
        }
    }

    /// Deserializes the params. Absent params are read as `{}`, because a client may omit them if
    /// every member is optional.
    ///
    /// `T` may borrow from this message, but a string that is written with escapes cannot be
    /// borrowed, so `String` and `Cow<str>` are safer than `&str`. If the message has more than one
    /// member `params`, the last is used.
    ///
    /// # Errors
    ///
    /// [`InvalidParams`] if the params cannot be deserialized as `T`. Its text can be sent to the
    /// client in an error response with [`code::INVALID_PARAMS`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use mcp_sse_core::jsonrpc::Message;
    /// let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}"#;
    /// let message = Message::read(body.to_vec(), None).expect("this is a request");
    /// let params: std::collections::HashMap<String, String> = message.params()?;
    /// assert_eq!(params["name"], "add");
    /// # Ok::<(), mcp_sse_core::jsonrpc::InvalidParams>(())
    /// ```
    pub fn params<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, InvalidParams> {
        let params = member(&self.text, "params").unwrap_or("{}");
        serde_json::from_str(params).map_err(|error| InvalidParams(error.to_string()))
    }

    /// The raw id of the request that this message cancels; `None` if the message is not the
    /// notification `notifications/cancelled` or has no valid `requestId`.
    ///
    /// MCP sends no response to a cancelled request, so code that counts requests in progress must
    /// stop counting it. The method parses the body again, but only if the notification has that
    /// name. If the message has more than one `params` or `requestId`, the last is used, as most
    /// parsers do.
    ///
    /// ```
    /// # use mcp_sse_core::jsonrpc::Message;
    /// let body =
    /// br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    /// let message = Message::read(body.to_vec(), None).expect("this is a notification");
    /// assert_eq!(message.cancelled_id(), Some("7"));
    /// ```
    #[must_use]
    pub fn cancelled_id(&self) -> Option<&str> {
        if self.kind != Kind::Notification || self.method() != Some(CANCELLED) {
            return None;
        }
        let params = member(&self.text, "params")?;
        member(params, "requestId").filter(|id| is_id(id))
    }

    /// The position of the message's post in a distributed trace, as the client stated it in the field
    /// `traceparent` of the request. `None` if the request had no such field, more than one, or an
    /// invalid one. It is not read from the message: `_meta` is MCP's own.
    #[must_use]
    pub const fn traceparent(&self) -> Option<TraceParent> {
        self.traceparent
    }

    /// The message with this position in a distributed trace, for messages that the application has
    /// parsed itself.
    #[must_use]
    pub fn with_traceparent(self, traceparent: Option<TraceParent>) -> Self {
        Self { traceparent, ..self }
    }

    /// The bytes of the message as they were received.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The text of the message as it was received.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the bytes of the message as they were received, without copying them.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.text.into_bytes()
    }

    fn at(&self, range: &Range<u32>) -> Option<&str> {
        self.text.get(range.start as usize..range.end as usize)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("id", &self.id())
            .field("method", &self.method())
            .field("body_bytes", &self.text.len())
            .finish()
    }
}

/// The range of `part`, a slice of `whole`, in `whole`, which must be shorter than 4 GiB.
pub(crate) fn range_in(whole: &str, part: &str) -> Range<u32> {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    debug_assert!(
        whole.get(start..).is_some_and(|tail| tail.starts_with(part)),
        "not a slice of the text"
    );
    let short = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    short(start)..short(start + part.len())
}

/// Writes a JSON-RPC 2.0 error response.
///
/// - `id`: the raw JSON text of the request's id, as [`Envelope::id`] and [`Message::id`] give it.
///   `None` is written as `null`, for a request whose id could not be determined.
/// - `code`: one of [`code`], or a code of the application.
/// - `message`: any text.
///
/// ```
/// # use mcp_sse_core::jsonrpc::{code, error_body};
/// let body = error_body(Some("1"), code::METHOD_NOT_FOUND, "no such method");
/// let text = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}"#;
/// assert_eq!(body, text.as_bytes());
/// ```
#[must_use]
pub fn error_body(id: Option<&str>, code: i32, message: &str) -> Vec<u8> {
    let message = serde_json::to_string(message).expect("invariant: any text is a JSON string");
    let id = id.unwrap_or("null");
    alloc::format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}}}}}"#)
        .into_bytes()
}

#[cfg(test)]
mod tests;
