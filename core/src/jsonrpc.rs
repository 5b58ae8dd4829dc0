//! Reads the envelope of one JSON-RPC 2.0 message, and nothing inside it.
//!
//! Knows: what makes a JSON object a request, a notification or a response; which texts are ids; how
//! an error answer is written; the one notification that takes a request back.
//! Does not know: any other method, what `params`, `result` and `error` hold, who sent the message, or
//! how an answer travels.
//!
//! Theory of operation: one walk over the text (`grammar`) bounds the nesting and notes the members of
//! the outermost object (`outline`); then the members are judged. As judging comes last, a syntax error
//! anywhere is found before any complaint about meaning, so one text has one verdict.

mod grammar;
mod outline;
mod string;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

pub(crate) use outline::{JSON_SPACE, NoOutline, Outline};
use outline::{Key, member};
pub(crate) use string::fingerprint;
pub use string::same_id;
use string::{decode, is_id};

/// The error codes of JSON-RPC 2.0 that a transport has a use for.
pub mod code {
    /// What arrived is not one JSON text in UTF-8.
    pub const PARSE_ERROR: i32 = -32700;
    /// What arrived is JSON and not one JSON-RPC 2.0 message.
    pub const INVALID_REQUEST: i32 = -32600;
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The method does not take these params.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The method failed for reasons of its own.
    pub const INTERNAL_ERROR: i32 = -32603;
    /// The server has no room for the request now.
    pub const SERVER_BUSY: i32 = -32000;
}

/// How deep arrays and objects may nest where nobody says otherwise.
pub const NESTING_MAX: usize = 128;

/// The notification by which a peer takes a request of its own back (MCP, "Cancellation").
const CANCELLED: &str = "notifications/cancelled";

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It has a method and an id, and expects a response.
    Request,
    /// It has a method and no id, and expects nothing.
    Notification,
    /// It has an id and either a result or an error.
    Response,
}

/// Why a text is not one JSON-RPC 2.0 message. The reason is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Not one JSON text in UTF-8, or nested too deep to look.
    Parse(Cow<'static, str>),
    /// JSON, but not one request, notification or response.
    Request(Cow<'static, str>),
}

impl Invalid {
    const fn parse(reason: &'static str) -> Self {
        Self::Parse(Cow::Borrowed(reason))
    }

    const fn request(reason: &'static str) -> Self {
        Self::Request(Cow::Borrowed(reason))
    }

    /// The JSON-RPC error code that says this.
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self {
            Self::Parse(_) => code::PARSE_ERROR,
            Self::Request(_) => code::INVALID_REQUEST,
        }
    }

    /// What exactly is wrong. Never holds a part of the text.
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

/// The envelope of one message, borrowed from its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What the message is.
    pub kind: Kind,
    /// The raw JSON text of the id, quotes included. `None` in a notification, and only there.
    ///
    /// Raw, because an id must come back exactly and no number type holds them all.
    pub id: Option<&'a str>,
    /// The method, decoded. `None` in a response, and only there.
    pub method: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of `body`, which must be one JSON-RPC 2.0 message and nothing else.
    ///
    /// `nesting_max` bounds how deep arrays and objects may nest, the outermost object being the first
    /// level; `None` is unlimited, which costs memory in proportion to the body and no stack.
    ///
    /// Copies nothing unless a key or the method is written with escapes.
    ///
    /// # Errors
    ///
    /// [`Invalid::Parse`] if the body is not one JSON text, [`Invalid::Request`] if it is one and not a
    /// message.
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
        match Outline::read(text, nesting_max) {
            Ok(outline) => outline.classify(),
            Err(NoOutline::Syntax(flaw)) => Err(Invalid::Parse(flaw.to_string().into())),
            Err(NoOutline::Array) => Err(Invalid::request("batches are not supported")),
            Err(NoOutline::Scalar) => Err(Invalid::request("a message is an object")),
        }
    }
}

const NOT_UTF8: Invalid = Invalid::parse("the text is not valid UTF-8");

impl<'a> Outline<'a> {
    /// Says what message the members make, or the first thing wrong with them, always in this order.
    fn classify(self) -> Result<Envelope<'a>, Invalid> {
        match self.duplicate {
            Some(Key::Version) => return Err(Invalid::request("more than one jsonrpc member")),
            Some(Key::Id) => return Err(Invalid::request("more than one id")),
            Some(Key::Method) => return Err(Invalid::request("more than one method")),
            None => {}
        }
        if self.version.and_then(decode).as_deref() != Some("2.0") {
            return Err(Invalid::request("jsonrpc must be the string \"2.0\""));
        }
        if !self.id.is_none_or(is_id) {
            return Err(Invalid::request("an id is a string or an integer"));
        }
        let method = match self.method.map(decode) {
            Some(None) => return Err(Invalid::request("the method must be a string of Unicode")),
            Some(method) => method,
            None => None,
        };
        let outcomes = (self.result.is_some(), self.error.is_some());
        let kind = match (&method, self.id, outcomes) {
            (Some(_), Some(_), (false, false)) => Kind::Request,
            (Some(_), None, (false, false)) => Kind::Notification,
            (Some(_), ..) => {
                return Err(Invalid::request("a method together with a result or an error"));
            }
            (None, _, (true, true)) => {
                return Err(Invalid::request("a result together with an error"));
            }
            (None, _, (false, false)) => {
                return Err(Invalid::request("neither a method nor a result nor an error"));
            }
            (None, Some(_), _) => Kind::Response,
            (None, None, _) => return Err(Invalid::request("a response without an id")),
        };
        Ok(Envelope { kind, id: self.id, method })
    }
}

/// Why the params of a message are not what its method takes; for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidParams(String);

impl fmt::Display for InvalidParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid params: {}", self.0)
    }
}

impl core::error::Error for InvalidParams {}

/// One message that owns its body; what the application gets.
///
/// Prints its envelope and its length, never its body.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    // A `String` rather than bytes: UTF-8 has been checked, and the type remembers it.
    text: String,
    kind: Kind,
    id: Option<Range<u32>>,
    method: Method,
}

#[derive(Clone, PartialEq, Eq)]
enum Method {
    None,
    At(Range<u32>),
    // Written with escapes, so it stands nowhere in the body.
    Decoded(Box<str>),
}

impl Message {
    /// Bytes that it holds, a method decoded from escapes included: what it counts for in budgets.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let decoded = if let Method::Decoded(method) = &self.method { method.len() } else { 0 };
        (self.text.capacity() + decoded) as u64
    }

    /// Takes a body that is one JSON-RPC 2.0 message, without copying it; otherwise as
    /// [`Envelope::read`].
    ///
    /// # Errors
    ///
    /// As [`Envelope::read`], with the body given back. A body of 4 GiB or more is refused.
    pub fn read(body: Vec<u8>, nesting_max: Option<usize>) -> Result<Self, (Invalid, Vec<u8>)> {
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
            None => Method::None,
            Some(Cow::Borrowed(method)) => Method::At(range_in(&text, method)),
            Some(Cow::Owned(method)) => Method::Decoded(method.into()),
        };
        Ok(Self { text, kind, id, method })
    }

    /// What the message is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The raw JSON text of the id, quotes included; `None` in a notification, and only there.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.at(self.id.as_ref()?)
    }

    /// The method, decoded; `None` in a response, and only there.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match &self.method {
            Method::None => None,
            Method::At(range) => self.at(range),
            Method::Decoded(method) => Some(method),
        }
    }

    /// Reads the params into a type of the application's. Params that are absent are read as `{}`,
    /// since a client may leave them out where every member is optional.
    ///
    /// What `T` borrows, it borrows from this message; strings that are written with escapes cannot
    /// be borrowed, so `String` and `Cow<str>` are safer than `&str`. If `params` is given more than
    /// once, the last counts.
    ///
    /// # Errors
    ///
    /// [`InvalidParams`] if they are not what `T` takes. Its text can be shown to the client, in an
    /// error response with [`code::INVALID_PARAMS`].
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

    /// The raw id of the request that this message takes back, if it is that kind of notification.
    ///
    /// MCP sends no response to a request that its sender has cancelled, so whoever counts requests in
    /// flight must let go of it here. Reads the body once more, and only for that method; if `params`
    /// or `requestId` is given more than once, the last counts, as for most parsers.
    #[must_use]
    pub fn cancelled_id(&self) -> Option<&str> {
        if self.kind != Kind::Notification || self.method() != Some(CANCELLED) {
            return None;
        }
        let params = member(&self.text, "params")?;
        member(params, "requestId").filter(|id| is_id(id))
    }

    /// The message as it arrived.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The message as it arrived, as text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The message as it arrived, without copying it.
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

/// Where `part`, a slice of `whole`, is in it. `whole` must be shorter than 4 GiB.
pub(crate) fn range_in(whole: &str, part: &str) -> Range<u32> {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    debug_assert!(
        whole.get(start..).is_some_and(|tail| tail.starts_with(part)),
        "not a slice of the text"
    );
    let short = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    short(start)..short(start + part.len())
}

/// Writes a JSON-RPC 2.0 error answer.
///
/// `id` is the raw JSON text of the request's id, as [`Envelope::id`] and [`Message::id`] give it;
/// `None` where it could not be told, which is written as `null`. The message may be any text.
#[must_use]
pub fn error_body(id: Option<&str>, code: i32, message: &str) -> Vec<u8> {
    let message = serde_json::to_string(message).expect("invariant: any text is a JSON string");
    let id = id.unwrap_or("null");
    alloc::format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}}}}}"#)
        .into_bytes()
}

#[cfg(test)]
mod tests;
