//! What can go wrong, sorted by whose fault it is.
//!
//! Knows: every mistake a peer can make ([`Fault`]) and the one table that says how each is
//! answered; the small errors that verbs return to their caller; what a configuration can get wrong.
//! Does not know: how an answer is rendered (`answer`) or who is told (`conn`).
//!
//! A peer's mistake is never the caller's error, and our own mistakes are assertions.

use alloc::string::String;
use core::fmt;

use crate::http1;
use crate::policy::cidr::CidrError;
use crate::route::PATH_BYTES_MAX;

/// What happens to the connection after a fault has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The request was understood; once its body is out of the way the connection may go on.
    Keep,
    /// Where the next request starts is unknown or not worth knowing: answer, linger, close.
    Close,
}

macro_rules! faults {
    ($( $(#[doc = $doc:literal])+ $name:ident = $status:literal $disposition:ident $text:expr; )+) => {
        /// A mistake or a misfortune of a peer, and how it is answered.
        ///
        /// One flat list: what a fault means on the wire stands in one table, and tests walk it.
        /// Programs match on the variants; the texts are for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Fault {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Fault {
            /// Every fault there is, in the order of the table.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The status it is answered with; `None` where the connection just ends.
            #[must_use]
            pub const fn status(self) -> Option<u16> {
                let status: u16 = match self { $( Self::$name => $status, )+ };
                if status == 0 { None } else { Some(status) }
            }

            /// What becomes of the connection afterwards.
            #[must_use]
            pub const fn disposition(self) -> Disposition {
                match self { $( Self::$name => Disposition::$disposition, )+ }
            }

            /// The sentence a peer reads, unless the place that found the fault knows a better one.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }

            /// The variant's name, for logs and for labels of counters.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )+ }
            }
        }
    };
}

faults! {
    // ── Framing: RFC 9112. Ambiguity is refused, and no later byte is interpreted. ──────────────
    /// A line that ends in anything but CRLF: a bare LF, a bare CR, CR CR LF.
    BadLineEnd = 400 Close http1::Error::BadLineEnd.text();
    /// More empty lines before a request line than anyone sends by accident.
    TooManyEmptyLines = 400 Close http1::Error::TooManyEmptyLines.text();
    /// A request line that is not `method SP request-target SP HTTP-version`.
    MalformedRequestLine = 400 Close http1::Error::MalformedRequestLine.text();
    /// A request target of a form or with octets that RFC 9112 does not allow here.
    MalformedTarget = 400 Close http1::Error::MalformedTarget.text();
    /// A header or trailer field with a bad name, bad octets, folding or space before the colon.
    MalformedField = 400 Close http1::Error::MalformedField.text();
    /// An HTTP major version other than 1.
    UnsupportedVersion = 505 Close http1::Error::UnsupportedVersion.text();
    /// A method that this server does not know at all.
    UnknownMethod = 501 Close http1::Error::UnknownMethod.text();
    /// An `https` target on a connection that is not TLS, or an `http` target on one that is.
    SchemeMismatch = 421 Close "the scheme of the request target is not that of this connection";
    /// An HTTP/1.1 request without a `Host` field.
    MissingHost = 400 Close http1::Error::MissingHost.text();
    /// More than one `Host` field.
    DuplicateHost = 400 Close http1::Error::DuplicateHost.text();
    /// A `Host` that is not `host [ ":" port ]`.
    InvalidHost = 400 Close http1::Error::InvalidHost.text();
    /// A `Content-Length` that is not exactly one run of 1 to 19 digits without leading zeros.
    InvalidContentLength = 400 Close http1::Error::InvalidContentLength.text();
    /// `Content-Length` and `Transfer-Encoding` together.
    ConflictingFraming = 400 Close http1::Error::ConflictingFraming.text();
    /// A `Transfer-Encoding` that is repeated, combined, empty, or sent with HTTP/1.0.
    InvalidTransferEncoding = 400 Close http1::Error::InvalidTransferEncoding.text();
    /// A transfer coding other than chunked.
    UnsupportedTransferCoding = 501 Close http1::Error::UnsupportedTransferCoding.text();
    /// A chunk whose size, extension, data end or last chunk breaks RFC 9112 section 7.1.
    MalformedChunk = 400 Close http1::Error::MalformedChunk.text();
    /// Chunk extensions longer in all than the limit.
    ChunkExtensionsTooLarge = 413 Close http1::Error::ChunkExtensionsTooLarge.text();
    /// A trailer section longer than the limit.
    TrailersTooLarge = 431 Close http1::Error::TrailersTooLarge.text();
    /// A request head longer than the limit.
    HeadTooLarge = 431 Close http1::Error::HeadTooLarge.text();
    /// More header fields than the limit.
    TooManyFields = 431 Close http1::Error::TooManyFields.text();
    /// A request target longer than the limit.
    TargetTooLong = 414 Close http1::Error::TargetTooLong.text();
    /// An `Expect` other than `100-continue`.
    UnsupportedExpectation = 417 Keep http1::Error::UnsupportedExpectation.text();

    // ── The guard: who may ask at all. ──────────────────────────────────────────────────────────
    /// A `Host` that the guard does not allow: DNS rebinding looks like this.
    HostNotAllowed = 403 Keep "this Host is not allowed";
    /// An `Origin` that the guard does not allow.
    OriginNotAllowed = 403 Keep "this Origin is not allowed";
    /// A request that came by plain http where `require_https` is set.
    HttpsRequired = 403 Keep "https is required here (setting require_https)";
    /// A trusted proxy's `Forwarded` or `X-Forwarded-*` that cannot be understood, or both of them.
    MalformedForwarded = 400 Keep "the Forwarded or X-Forwarded fields of the proxy cannot be understood";
    /// More than one `Authorization` field.
    DuplicateCredentials = 400 Keep "more than one Authorization field";
    /// No credentials, or bad ones.
    Unauthorized = 401 Keep "authentication is required";
    /// Good credentials that may not do this.
    Forbidden = 403 Keep "not allowed";

    // ── Routes and representations. ─────────────────────────────────────────────────────────────
    /// No such path.
    NotFound = 404 Keep "not found";
    /// The path exists, the method does not apply to it.
    MethodNotAllowed = 405 Keep "method not allowed";
    /// An `Accept` that excludes what the route has to offer.
    NotAcceptable = 406 Keep "this path serves text/event-stream, which Accept excludes";
    /// A body that is not JSON in UTF-8, by its own account.
    UnsupportedMediaType = 415 Keep "Content-Type must be application/json, in UTF-8 if it names a charset";
    /// A request body under a content coding.
    UnsupportedContentEncoding = 415 Keep http1::Error::UnsupportedContentEncoding.text();
    /// A post with neither `Content-Length` nor chunked framing.
    LengthRequired = 411 Keep "a body with Content-Length or chunked framing is required";
    /// A post without the query parameter that names its session, or with more than one.
    MissingSessionId = 400 Keep "missing session id";
    /// A session id that is malformed, unknown, ended, or another principal's.
    UnknownSession = 404 Keep "unknown session";
    /// A session id of another shard or instance that nothing forwards to. Answered with the very
    /// bytes of [`Fault::UnknownSession`]; counted apart.
    Misrouted = 404 Keep "unknown session";

    // ── Bodies. ─────────────────────────────────────────────────────────────────────────────────
    /// A body over the limit.
    BodyTooLarge = 413 Close http1::Error::BodyTooLarge.text();
    /// A body that is not one JSON text in UTF-8 (JSON-RPC -32700).
    NotJson = 400 Keep "Parse error";
    /// A body that is JSON and not one JSON-RPC 2.0 message (JSON-RPC -32600).
    NotJsonRpc = 400 Keep "Invalid Request";

    // ── Time. ───────────────────────────────────────────────────────────────────────────────────
    /// The request head did not arrive in time.
    HeadTimeout = 408 Close "the request head took too long";
    /// The request body did not arrive in time.
    BodyTimeout = 408 Close "the request body took too long";
    /// The application did not decide in time.
    DecisionTimeout = 503 Keep "the server did not decide in time";
    /// The application could not decide.
    Undecided = 503 Keep "the server cannot decide now";
    /// The session had no room for this message for as long as a post may be held.
    Busy = 503 Keep "server busy";
    /// Nothing was asked for on a connection for too long.
    ConnectionIdle = 0 Close "connection idle";
    /// Bytes were ready for the peer and it took none, or next to none, for too long.
    Stalled = 0 Close "the peer takes no bytes";
    /// The peer ended the connection in the middle of a request; nothing of it was executed.
    Truncated = 0 Close "the request ended early";
    /// The peer kept sending on a connection whose response is an event stream.
    StreamInput = 0 Close "bytes after the request on an event stream";

    // ── Capacity. ───────────────────────────────────────────────────────────────────────────────
    /// A post that comes too soon after others of its session or its principal.
    RateLimited = 429 Keep "too many posts in this time";
    /// A session that comes too soon after others of its address.
    SessionRateLimited = 503 Keep "too many new sessions from this address (limit sessions_rate_per_address)";
    /// The table of connections is full: not accepted.
    ConnectionsFull = 0 Close "too many connections (limit connections_max)";
    /// One address has as many connections as it may: not accepted.
    ConnectionsPerAddressFull = 0 Close "too many connections from this address (limit connections_per_address_max)";
    /// A connection on which no request was under way was closed to make room for others.
    ConnectionEvicted = 0 Close "closed to make room for others (limit connections_reserve)";
    /// Event streams have all the connections that they may have.
    StreamsFull = 503 Keep "too many streams for the connections there may be (limit connections_reserve)";
    /// The table of sessions is full.
    SessionsFull = 503 Keep "too many sessions (limit sessions_max)";
    /// One address has as many sessions as it may.
    SessionsPerAddressFull = 503 Keep "too many sessions from this address (limit sessions_per_address_max)";
    /// One principal has as many sessions as it may.
    SessionsPerPrincipalFull = 503 Keep "too many sessions of this principal (limit sessions_per_principal_max)";
    /// Request bodies in memory have reached their limit.
    BodiesFull = 503 Close "too many request bytes in memory (limit bodies_bytes_max)";
    /// Request bodies from one address have reached their limit.
    BodiesPerAddressFull = 503 Close "too many request bytes in memory from this address (limit bodies_bytes_per_address_max)";
    /// Outbound queues have reached their limit.
    QueuesFull = 503 Keep "too many response bytes in memory (limit queues_bytes_max)";
    /// The application has not taken the events it was told of.
    EventsFull = 503 Keep "the application is behind with its events (limit events_max)";
    /// The entropy source failed, so no session id could be made.
    EntropyUnavailable = 503 Keep "no entropy for a session id";
    /// The server is draining.
    ShuttingDown = 503 Close "the server is shutting down";
}

impl From<http1::Error> for Fault {
    fn from(error: http1::Error) -> Self {
        match error {
            http1::Error::BadLineEnd => Self::BadLineEnd,
            http1::Error::TooManyEmptyLines => Self::TooManyEmptyLines,
            http1::Error::MalformedRequestLine => Self::MalformedRequestLine,
            http1::Error::MalformedTarget => Self::MalformedTarget,
            http1::Error::MalformedField => Self::MalformedField,
            http1::Error::UnsupportedVersion => Self::UnsupportedVersion,
            http1::Error::UnknownMethod => Self::UnknownMethod,
            http1::Error::MissingHost => Self::MissingHost,
            http1::Error::DuplicateHost => Self::DuplicateHost,
            http1::Error::InvalidHost => Self::InvalidHost,
            http1::Error::InvalidContentLength => Self::InvalidContentLength,
            http1::Error::ConflictingFraming => Self::ConflictingFraming,
            http1::Error::InvalidTransferEncoding => Self::InvalidTransferEncoding,
            http1::Error::UnsupportedTransferCoding => Self::UnsupportedTransferCoding,
            http1::Error::MalformedChunk => Self::MalformedChunk,
            http1::Error::ChunkExtensionsTooLarge => Self::ChunkExtensionsTooLarge,
            http1::Error::TrailersTooLarge => Self::TrailersTooLarge,
            http1::Error::HeadTooLarge => Self::HeadTooLarge,
            http1::Error::TooManyFields => Self::TooManyFields,
            http1::Error::TargetTooLong => Self::TargetTooLong,
            http1::Error::UnsupportedExpectation => Self::UnsupportedExpectation,
            http1::Error::UnsupportedContentEncoding => Self::UnsupportedContentEncoding,
            http1::Error::BodyTooLarge => Self::BodyTooLarge,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Fault {}

/// Why a connection was not accepted. The driver closes the socket; nothing was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcceptError {
    /// `connections_max` connections are open.
    AtCapacity,
    /// `connections_per_address_max` connections of this peer address are open.
    AddressAtCapacity,
    /// The server is draining and takes no new connections.
    ShuttingDown,
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtCapacity => "too many connections (limit connections_max)",
            Self::AddressAtCapacity => {
                "too many connections from this address (limit connections_per_address_max)"
            }
            Self::ShuttingDown => "the server is shutting down",
        })
    }
}

impl core::error::Error for AcceptError {}

impl AcceptError {
    /// What it is counted as.
    pub(crate) const fn fault(self) -> Fault {
        match self {
            Self::AtCapacity => Fault::ConnectionsFull,
            Self::AddressAtCapacity => Fault::ConnectionsPerAddressFull,
            Self::ShuttingDown => Fault::ShuttingDown,
        }
    }
}

/// Why a frame was not queued. Nothing was queued, not even a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The session's queue, or all queues together, are full. One `Event::Unblocked` will follow.
    Full,
    /// The frame is larger than all queues together may ever be (limit `queues_bytes_max`).
    TooLarge,
    /// The session has ended or is ending.
    Gone,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the session's outbound queue is full",
            Self::TooLarge => "the frame is larger than the limit queues_bytes_max",
            Self::Gone => "the session has ended",
        })
    }
}

impl core::error::Error for SendError {}

/// A ticket was answered after its deadline, or after its connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ticket has expired")
    }
}

impl core::error::Error for Expired {}

/// What is wrong with a configuration; [`ConfigBuilder::build`](crate::ConfigBuilder::build) says it
/// once, at start.
///
/// `setting` is the name of a method of [`ConfigBuilder`](crate::ConfigBuilder), or of a field of
/// [`Limits`](crate::Limits) or [`Timeouts`](crate::Timeouts); `unit` is what its numbers count, as one
/// writes it behind a number: `"bytes"`, `"ms"`, `"fields"`, `"paths"`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A path setting that is not a clean absolute path.
    InvalidPath {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
    /// Two routes with the same path.
    PathsCollide {
        /// The path.
        value: String,
    },
    /// A setting whose value is not of the form it must have.
    Invalid {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it must look like.
        expected: &'static str,
    },
    /// A range of addresses that is none, in the setting `trusted_proxy`.
    InvalidRange {
        /// Its text.
        value: String,
        /// What is wrong with it.
        error: CidrError,
    },
    /// CORS with credentials for any origin, which browsers refuse and nobody should want.
    AnyOriginWithCredentials,
    /// [`Authorization::Static`](crate::Authorization::Static), and somebody else who is to decide as
    /// well.
    TwoAuthorizers,
    /// [`Authorization::Deferred`](crate::Authorization::Deferred) in an adapter that was given nobody
    /// who decides: every request would be answered 503.
    NoAuthorizer,
    /// A number below the least that makes sense.
    BelowMinimum {
        /// The setting.
        setting: &'static str,
        /// The least allowed.
        minimum: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// A number above the most that can be served.
    AboveMaximum {
        /// The setting.
        setting: &'static str,
        /// The most allowed.
        maximum: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// A number above that of another setting, which makes it one that can never be reached.
    AboveOther {
        /// The setting.
        setting: &'static str,
        /// Its value; `None` is unlimited.
        value: Option<u64>,
        /// The setting that is lower.
        other: &'static str,
        /// Its value.
        maximum: u64,
        /// What both count.
        unit: &'static str,
    },
}

impl ConfigError {
    /// The setting that has to change, if it is one: of two that contradict each other, the first.
    #[must_use]
    pub const fn setting(&self) -> Option<&'static str> {
        match self {
            Self::InvalidPath { setting, .. }
            | Self::Invalid { setting, .. }
            | Self::BelowMinimum { setting, .. }
            | Self::AboveMaximum { setting, .. }
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
    fn the_table_holds_together() {
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
    fn a_misrouted_post_reads_like_an_unknown_session() {
        let (a, b) = (Fault::UnknownSession, Fault::Misrouted);
        assert_eq!(
            (a.status(), a.disposition(), a.text()),
            (b.status(), b.disposition(), b.text())
        );
    }
}
