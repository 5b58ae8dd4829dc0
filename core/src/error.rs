//! The error types of the core, sorted by who caused the error.
//!
//! Knows: every mistake of a peer ([`Fault`]) and the table of how each is answered; the errors
//! that methods return to their caller; what can be invalid in a configuration.
//! Does not know: how an answer is rendered (see `answer`) or how it is sent (see `conn`).
//!
//! A mistake of a peer is never an error of the caller, and a mistake of this crate is a failed
//! assertion.

use alloc::string::String;
use core::fmt;

use crate::error_text::error_text;
use crate::http1;
use crate::policy::cidr::CidrError;
use crate::route::PATH_BYTES_MAX;

/// What happens to the connection after a fault was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The connection stays open, after the rest of the request's body has been read.
    Keep,
    /// The connection is closed after the answer, because the start of the next request is unknown
    /// or not worth finding. The rest of the input is read and discarded first.
    Close,
}

// A row ends with its text, or with the error of the codec that becomes the fault and has its text.
macro_rules! faults {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $status:literal $disposition:ident
            $($text:literal)? $(http1::Error::$error:ident)?;
    )+) => {
        /// Why a request is refused or a connection is closed.
        ///
        /// One table defines how each fault is answered. Programs should match on the variants; the
        /// texts are for people and may change.
        ///
        /// ```
        /// use mcp_sse_core::{Disposition, Fault};
        ///
        /// assert_eq!(Fault::BodyTooLarge.status(), Some(413));
        /// assert_eq!(Fault::BodyTooLarge.disposition(), Disposition::Close);
        /// assert_eq!(Fault::Stalled.status(), None); // the connection is closed without an answer
        /// assert_eq!(Fault::NotFound.name(), "NotFound");
        /// assert_eq!(Fault::NotFound.label(), "not_found");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Fault {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Fault {
            /// All faults, in the order of declaration.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The status code of the answer; `None` if the connection is closed without an answer.
            #[must_use]
            pub const fn status(self) -> Option<u16> {
                let status: u16 = match self { $( Self::$name => $status, )+ };
                if status == 0 { None } else { Some(status) }
            }

            /// What happens to the connection afterwards.
            #[must_use]
            pub const fn disposition(self) -> Disposition {
                match self { $( Self::$name => Disposition::$disposition, )+ }
            }

            /// The text of the answer. Some answers contain a more specific text.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $( Self::$name => $($text)? $(http1::Error::$error.text())?, )+ }
            }

            /// The name of the variant.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )+ }
            }

            /// The name of the variant in `snake_case`, for log records and for labels of metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $( Self::$name => const { &SnakeCase::of(stringify!($name)) }.as_str(), )+ }
            }
        }

        impl From<http1::Error> for Fault {
            fn from(error: http1::Error) -> Self {
                match error { $( $( http1::Error::$error => Self::$name, )? )+ }
            }
        }
    };
}

/// The name of a variant in `snake_case`, made while the crate is compiled.
struct SnakeCase {
    octets: [u8; 48],
    len: usize,
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where a panic is an error")]
impl SnakeCase {
    const fn of(name: &str) -> Self {
        let name = name.as_bytes();
        let mut snake = Self { octets: [0; 48], len: 0 };
        let mut at = 0;
        while at < name.len() {
            if name[at].is_ascii_uppercase() && at > 0 {
                snake.octets[snake.len] = b'_';
                snake.len += 1;
            }
            snake.octets[snake.len] = name[at].to_ascii_lowercase();
            snake.len += 1;
            at += 1;
        }
        snake
    }

    const fn as_str(&self) -> &str {
        match core::str::from_utf8(self.octets.split_at(self.len).0) {
            Ok(name) => name,
            Err(_) => "",
        }
    }
}

faults! {
    // ── Framing: RFC 9112. An ambiguous request is refused, and no later byte is interpreted. ───
    /// A line does not end in CRLF: it ends in a bare LF, a bare CR, or CR CR LF.
    BadLineEnd = 400 Close http1::Error::BadLineEnd;
    /// There are more than four empty lines before a request line.
    TooManyEmptyLines = 400 Close http1::Error::TooManyEmptyLines;
    /// The request line is not `method SP request-target SP HTTP-version`.
    MalformedRequestLine = 400 Close http1::Error::MalformedRequestLine;
    /// The request target has a form or an octet that is not allowed.
    MalformedTarget = 400 Close http1::Error::MalformedTarget;
    /// A header or trailer field has an invalid name, an invalid octet in its value, white space
    /// before the colon, or obsolete line folding.
    MalformedField = 400 Close http1::Error::MalformedField;
    /// The HTTP major version is not 1.
    UnsupportedVersion = 505 Close http1::Error::UnsupportedVersion;
    /// The method is unknown to this server.
    UnknownMethod = 501 Close http1::Error::UnknownMethod;
    /// The target has the scheme `https` on a connection without TLS, or `http` on a TLS
    /// connection.
    SchemeMismatch = 421 Close "the scheme of the request target is not that of this connection";
    /// An HTTP/1.1 request has no `Host` field.
    MissingHost = 400 Close http1::Error::MissingHost;
    /// There is more than one `Host` field.
    DuplicateHost = 400 Close http1::Error::DuplicateHost;
    /// The `Host` field is not `host [ ":" port ]`.
    InvalidHost = 400 Close http1::Error::InvalidHost;
    /// There is more than one `Content-Length`, or it is not 1 to 19 decimal digits without leading
    /// zeros.
    InvalidContentLength = 400 Close http1::Error::InvalidContentLength;
    /// `Content-Length` and `Transfer-Encoding` were sent together.
    ConflictingFraming = 400 Close http1::Error::ConflictingFraming;
    /// `Transfer-Encoding` is repeated, a list, empty, not a token, or was sent with HTTP/1.0.
    InvalidTransferEncoding = 400 Close http1::Error::InvalidTransferEncoding;
    /// The transfer coding is not `chunked`.
    UnsupportedTransferCoding = 501 Close http1::Error::UnsupportedTransferCoding;
    /// The size, an extension, the end of the data or the last chunk violates RFC 9112 §7.1.
    MalformedChunk = 400 Close http1::Error::MalformedChunk;
    /// The chunk extensions exceed
    /// [`Limits::extension_bytes_max`](crate::Limits::extension_bytes_max).
    ChunkExtensionsTooLarge = 413 Close http1::Error::ChunkExtensionsTooLarge;
    /// The trailer section exceeds [`Limits::trailer_bytes_max`](crate::Limits::trailer_bytes_max).
    TrailersTooLarge = 431 Close http1::Error::TrailersTooLarge;
    /// The request head exceeds [`Limits::head_bytes_max`](crate::Limits::head_bytes_max).
    HeadTooLarge = 431 Close http1::Error::HeadTooLarge;
    /// The request has more fields than [`Limits::fields_max`](crate::Limits::fields_max).
    TooManyFields = 431 Close http1::Error::TooManyFields;
    /// The request target exceeds [`Limits::target_bytes_max`](crate::Limits::target_bytes_max).
    TargetTooLong = 414 Close http1::Error::TargetTooLong;
    /// There is an expectation other than `100-continue`.
    UnsupportedExpectation = 417 Keep http1::Error::UnsupportedExpectation;

    // ── Checks that do not depend on the route. ─────────────────────────────────────────────────
    /// The `Host` is not allowed. DNS rebinding attacks are refused by this.
    HostNotAllowed = 403 Keep "this Host is not allowed";
    /// The `Origin` is not allowed.
    OriginNotAllowed = 403 Keep "this Origin is not allowed";
    /// The request did not use https, which `require_https` demands.
    HttpsRequired = 403 Keep "https is required here (setting require_https)";
    /// `Forwarded` or `X-Forwarded-*` from a trusted proxy is malformed, or both were sent.
    MalformedForwarded = 400 Keep "malformed Forwarded or X-Forwarded field from the proxy";
    /// There is more than one `Authorization` field.
    DuplicateCredentials = 400 Keep "more than one Authorization field";
    /// The request has no credentials, or invalid ones.
    Unauthorized = 401 Keep "authentication is required";
    /// The credentials are valid, but do not permit the request.
    Forbidden = 403 Keep "not allowed";

    // ── Routes and representations. ─────────────────────────────────────────────────────────────
    /// The path does not exist.
    NotFound = 404 Keep "not found";
    /// The path exists, but does not support the method.
    MethodNotAllowed = 405 Keep "method not allowed";
    /// `Accept` excludes `text/event-stream`.
    NotAcceptable = 406 Keep "this path serves text/event-stream, which Accept excludes";
    /// The `Content-Type` is not JSON, or names a charset other than UTF-8.
    UnsupportedMediaType = 415 Keep "Content-Type must be application/json, in UTF-8 if it names a charset";
    /// The request body has a content coding, such as gzip.
    UnsupportedContentEncoding = 415 Keep http1::Error::UnsupportedContentEncoding;
    /// A post has neither `Content-Length` nor chunked framing.
    LengthRequired = 411 Keep "a body with Content-Length or chunked framing is required";
    /// A post does not have the query parameter that identifies its session, or has it more than
    /// once.
    MissingSessionId = 400 Keep "missing session id";
    /// The session token is malformed or unknown, or the session has ended or belongs to another
    /// principal.
    UnknownSession = 404 Keep "unknown session";
    /// The session token names another shard or instance, and posts to it are not forwarded. The
    /// answer is identical to that of [`Fault::UnknownSession`]; only the counter differs.
    Misrouted = 404 Keep "unknown session";

    // ── Bodies. ─────────────────────────────────────────────────────────────────────────────────
    /// The body exceeds [`Limits::body_bytes_max`](crate::Limits::body_bytes_max).
    BodyTooLarge = 413 Close http1::Error::BodyTooLarge;
    /// The body is not one JSON value in UTF-8 (JSON-RPC error -32700).
    NotJson = 400 Keep "Parse error";
    /// The body is JSON, but not one JSON-RPC 2.0 message (JSON-RPC error -32600).
    NotJsonRpc = 400 Keep "Invalid Request";

    // ── Time. ───────────────────────────────────────────────────────────────────────────────────
    /// The request head did not arrive within [`Timeouts::head`](crate::Timeouts::head).
    HeadTimeout = 408 Close "the request head took too long";
    /// The request body did not arrive within [`Timeouts::body`](crate::Timeouts::body).
    BodyTimeout = 408 Close "the request body took too long";
    /// The application did not decide within [`Timeouts::decision`](crate::Timeouts::decision).
    DecisionTimeout = 503 Keep "the server did not decide in time";
    /// The authorizer answered [`Refusal::Unavailable`](crate::Refusal::Unavailable).
    Undecided = 503 Keep "the server cannot decide now";
    /// The session had no room for the message within [`Timeouts::hold`](crate::Timeouts::hold).
    Busy = 503 Keep "server busy";
    /// The connection had no request for [`Timeouts::idle`](crate::Timeouts::idle).
    ConnectionIdle = 0 Close "connection idle";
    /// Bytes were queued and the peer took none of them, or too few, for
    /// [`Timeouts::stall`](crate::Timeouts::stall).
    Stalled = 0 Close "the peer takes no bytes";
    /// The connection ended within a request. No part of the request was processed.
    Truncated = 0 Close "the request ended early";
    /// The peer sent too many bytes on a connection whose response is an event stream.
    StreamInput = 0 Close "bytes after the request on an event stream";

    // ── Capacity. ───────────────────────────────────────────────────────────────────────────────
    /// The rate of posts to the session or of its principal was exceeded.
    RateLimited = 429 Keep "too many posts in this time";
    /// The rate of new sessions from one address was exceeded.
    SessionRateLimited = 503 Keep "too many new sessions from this address (limit sessions_rate_per_address)";
    /// The limit of open connections was reached. The connection was not accepted.
    ConnectionsFull = 0 Close "too many connections (limit connections_max)";
    /// The limit of connections from one address was reached. The connection was not accepted.
    ConnectionsPerAddressFull = 0 Close "too many connections from this address (limit connections_per_address_max)";
    /// The connection had no request in progress and was closed to make room for others.
    ConnectionEvicted = 0 Close "closed to make room for others (limit connections_max)";
    /// Streams have all connections except the reserved ones.
    StreamsFull = 503 Keep "too many streams (limit connections_reserve)";
    /// The limit of open sessions was reached.
    SessionsFull = 503 Keep "too many sessions (limit sessions_max)";
    /// The limit of sessions from one address was reached.
    SessionsPerAddressFull = 503 Keep "too many sessions from this address (limit sessions_per_address_max)";
    /// The limit of sessions of one principal was reached.
    SessionsPerPrincipalFull = 503 Keep "too many sessions of this principal (limit sessions_per_principal_max)";
    /// The limit of request bytes in memory was reached.
    BodiesFull = 503 Close "too many request bytes in memory (limit bodies_bytes_max)";
    /// The limit of request bytes in memory from one address was reached.
    BodiesPerAddressFull = 503 Close "too many request bytes in memory from this address (limit bodies_bytes_per_address_max)";
    /// The limit of response bytes in memory was reached.
    QueuesFull = 503 Keep "too many response bytes in memory (limit queues_bytes_max)";
    /// The limit of events that the application has not polled was reached.
    EventsFull = 503 Keep "the application is behind with its events (limit events_max)";
    /// The entropy source failed, so no session token could be made.
    EntropyUnavailable = 503 Keep "no entropy for a session id";
    /// The server is shutting down.
    ShuttingDown = 503 Close "the server is shutting down";
}

error_text!(Fault, |fault| fault.text());

/// Why [`Server::accept`](crate::Server::accept) refused a connection. The driver has to close the
/// socket; the server has not stored anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcceptError {
    /// [`Limits::connections_max`](crate::Limits::connections_max) connections are open.
    AtCapacity,
    /// [`Limits::connections_per_address_max`](crate::Limits::connections_per_address_max)
    /// connections from the peer's address are open.
    AddressAtCapacity,
    /// The server is shutting down.
    ShuttingDown,
}

error_text!(AcceptError, |error| error.fault().text());

impl AcceptError {
    /// The fault as which it is counted.
    pub(crate) const fn fault(self) -> Fault {
        match self {
            Self::AtCapacity => Fault::ConnectionsFull,
            Self::AddressAtCapacity => Fault::ConnectionsPerAddressFull,
            Self::ShuttingDown => Fault::ShuttingDown,
        }
    }
}

/// Why [`Server::send`](crate::Server::send) did not queue a frame. No part of it was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The session's queue, or all queues together, are full.
    /// [`Event::Unblocked`](crate::Event::Unblocked) follows when there is room.
    Full,
    /// The frame is larger than a queue can ever be
    /// ([`Limits::queues_bytes_max`](crate::Limits::queues_bytes_max) and
    /// [`Limits::queue_reserve_bytes`](crate::Limits::queue_reserve_bytes)).
    TooLarge,
    /// The session has ended or is ending.
    Gone,
}

error_text!(SendError, |error| match error {
    SendError::Full => "the session's outbound queue is full",
    SendError::TooLarge => "the frame is larger than the limit queues_bytes_max",
    SendError::Gone => "the session has ended",
});

/// A ticket was answered after its deadline, or after its connection had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

error_text!(Expired, |_| "the ticket has expired");

/// Tokens were replaced in a server that has no static tokens.
/// [`Server::replace_tokens`](crate::Server::replace_tokens) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoStaticTokens;

error_text!(NoStaticTokens, |_| "the server does not authorize requests by static tokens");

/// What is invalid in a configuration. [`ConfigBuilder::build`](crate::ConfigBuilder::build)
/// returns it.
///
/// In all variants `setting` is the name of a method of [`ConfigBuilder`](crate::ConfigBuilder), or
/// of a field of [`Limits`](crate::Limits) or [`Timeouts`](crate::Timeouts), and `unit` is the unit
/// of the numbers: `"bytes"`, `"ms"`, `"s"`, `"fields"` or `"paths"`.
///
/// ```
/// use std::time::Duration;
/// use mcp_sse_core::{Config, ConfigError, Timeouts};
///
/// let timeouts = Timeouts { idle: Some(Duration::ZERO), ..Timeouts::default() };
/// let error = Config::builder().timeouts(timeouts).build().unwrap_err();
/// assert_eq!(error, ConfigError::BelowMinimum { setting: "idle", minimum: 1, unit: "ms" });
/// assert_eq!(error.to_string(), "idle must be at least 1 ms");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A path is not a clean absolute path.
    InvalidPath {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// Two routes have the same path.
    PathsCollide {
        /// The path.
        value: String,
    },
    /// The value of a setting has an invalid form.
    Invalid {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// A description of valid values.
        expected: &'static str,
    },
    /// A value of the setting `trusted_proxy` is not an address range.
    InvalidRange {
        /// The value.
        value: String,
        /// Why it is not an address range.
        error: CidrError,
    },
    /// CORS credentials are on for any origin (`*`), which browsers refuse.
    AnyOriginWithCredentials,
    /// An authorizer was given in addition to
    /// [`Authorization::Static`](crate::Authorization::Static).
    TwoAuthorizers,
    /// [`Authorization::Deferred`](crate::Authorization::Deferred) was set in an adapter without an
    /// authorizer: every request would be answered 503.
    NoAuthorizer,
    /// A number is too small.
    BelowMinimum {
        /// The setting.
        setting: &'static str,
        /// The smallest valid value.
        minimum: u64,
        /// The unit of the number.
        unit: &'static str,
    },
    /// A number is too large.
    AboveMaximum {
        /// The setting.
        setting: &'static str,
        /// The largest valid value.
        maximum: u64,
        /// The unit of the number.
        unit: &'static str,
    },
    /// The first bound of a range is above the second.
    EmptyRange {
        /// The setting.
        setting: &'static str,
        /// The first bound.
        low: u64,
        /// The second bound.
        high: u64,
        /// The unit of both.
        unit: &'static str,
    },
    /// A number is larger than that of another setting, so that it could never be reached.
    AboveOther {
        /// The setting.
        setting: &'static str,
        /// Its value; `None` is unlimited.
        value: Option<u64>,
        /// The setting that is lower.
        other: &'static str,
        /// Its value.
        maximum: u64,
        /// The unit of both.
        unit: &'static str,
    },
}

impl ConfigError {
    /// The setting that has to be changed. `None` if the error does not belong to one setting.
    #[must_use]
    pub const fn setting(&self) -> Option<&'static str> {
        match self {
            Self::InvalidPath { setting, .. }
            | Self::Invalid { setting, .. }
            | Self::BelowMinimum { setting, .. }
            | Self::AboveMaximum { setting, .. }
            | Self::EmptyRange { setting, .. }
            | Self::AboveOther { setting, .. } => Some(*setting),
            Self::InvalidRange { .. } => Some("trusted_proxy"),
            Self::AnyOriginWithCredentials => Some("cors_origin"),
            Self::PathsCollide { .. } | Self::TwoAuthorizers | Self::NoAuthorizer => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidPath { setting, value } => write!(
                f,
                "{setting} {value:?} must start with '/', have no empty, '.' or '..' segment, \
                 hold only octets of a URI path, and no more than {PATH_BYTES_MAX} of them"
            ),
            Self::PathsCollide { value } => write!(f, "the path {value:?} is used by two routes"),
            Self::Invalid { setting, value, expected } => {
                write!(f, "{setting} {value:?} must be {expected}")
            }
            Self::InvalidRange { value, error } => write!(f, "trusted_proxy {value:?}: {error}"),
            Self::AnyOriginWithCredentials => {
                f.write_str("cors_origin * must never go with credentials: list the origins")
            }
            Self::TwoAuthorizers => {
                f.write_str("there are static tokens and an authorizer: only one can decide")
            }
            Self::NoAuthorizer => {
                f.write_str("authorization is deferred, and there is no authorizer to decide")
            }
            Self::BelowMinimum { setting, minimum, unit } => {
                write!(f, "{setting} must be at least {minimum} {unit}")
            }
            Self::AboveMaximum { setting, maximum, unit } => {
                write!(f, "{setting} must be at most {maximum} {unit}")
            }
            Self::EmptyRange { setting, low, high, unit } => write!(
                f,
                "{setting} must not begin with {low} {unit} and end with {high} {unit}: the smaller comes first"
            ),
            Self::AboveOther { setting, value, other, maximum, unit } => {
                match value {
                    Some(value) => write!(f, "{setting} ({value} {unit})")?,
                    None => write!(f, "{setting} (unlimited)")?,
                }
                write!(f, " must not be above {other} ({maximum} {unit})")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_valid_status_or_closes_the_connection() {
        for &fault in Fault::ALL {
            if let Some(status) = fault.status() {
                assert!((400..=599).contains(&status), "{fault:?}");
            } else {
                assert_eq!(fault.disposition(), Disposition::Close, "{fault:?} has no answer");
            }
            assert!(!fault.text().is_empty() && fault.text().is_ascii(), "{fault:?}");
        }
    }

    #[test]
    fn labels_are_distinct_and_in_snake_case() {
        assert_eq!(Fault::NotJsonRpc.label(), "not_json_rpc");
        assert_eq!(Fault::BodiesPerAddressFull.label(), "bodies_per_address_full");
        let labels: alloc::collections::BTreeSet<_> =
            Fault::ALL.iter().map(|fault| fault.label()).collect();
        assert_eq!(labels.len(), Fault::ALL.len());
        for label in labels {
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{label}");
        }
    }

    #[test]
    fn misrouted_post_is_answered_like_an_unknown_session() {
        let (a, b) = (Fault::UnknownSession, Fault::Misrouted);
        assert_eq!(
            (a.status(), a.disposition(), a.text()),
            (b.status(), b.disposition(), b.text())
        );
    }
}
