//! The error type of the HTTP/1.1 codec.
//!
//! Knows: each mistake of a peer and a text that describes it. Does not know: the status code with
//! which it is answered.

use core::fmt;

macro_rules! errors {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal; )+) => {
        /// What is wrong with a request that this codec refuses: its framing, its addressing or its
        /// fields.
        ///
        /// [`text`](Self::text) describes each variant in one sentence; `Display` writes the same
        /// text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Error {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Error {
            /// All variants, in the order of declaration.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The description of this error, in English.
            ///
            /// ```
            /// # use mcp_sse_core::http1::Error;
            /// assert_eq!(Error::MissingHost.text(), "missing Host field");
            /// ```
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }
        }
    };
}

errors! {
    /// A line does not end in CRLF: it ends in a bare LF, a bare CR, or CR CR LF.
    BadLineEnd = "a line must end in CRLF and nothing else";
    /// There are more than four empty lines before a request line (RFC 9112 §2.2).
    TooManyEmptyLines = "too many empty lines before the request line";
    /// The request line is not `method SP request-target SP HTTP-version` (RFC 9112 §3).
    MalformedRequestLine = "malformed request line";
    /// The request target has a form or an octet that is not allowed (RFC 9112 §3.2, RFC 3986 §2).
    MalformedTarget = "malformed request target";
    /// A header or trailer field has an invalid name, an invalid octet in its value, white space
    /// before the colon, or obsolete line folding (RFC 9112 §5).
    MalformedField = "malformed header field";
    /// The HTTP major version is not 1.
    UnsupportedVersion = "only HTTP/1.0 and HTTP/1.1 are supported";
    /// The method is none of [`Method`](super::Method).
    UnknownMethod = "unknown method";
    /// An HTTP/1.1 request has no `Host` field (RFC 9112 §3.2).
    MissingHost = "missing Host field";
    /// There is more than one `Host` field (RFC 9112 §3.2).
    DuplicateHost = "more than one Host field";
    /// The `Host` field is not `host [ ":" port ]`.
    InvalidHost = "malformed Host field";
    /// There is more than one `Content-Length`, or it is not 1 to 19 decimal digits without leading
    /// zeros.
    InvalidContentLength = "Content-Length must be one field of decimal digits without leading zeros";
    /// `Content-Length` and `Transfer-Encoding` were sent together (RFC 9112 §6.1).
    ConflictingFraming = "Content-Length and Transfer-Encoding together";
    /// `Transfer-Encoding` is repeated, a list, empty, not a token, or was sent with HTTP/1.0.
    InvalidTransferEncoding = "Transfer-Encoding must be exactly: chunked";
    /// The transfer coding is not `chunked`.
    UnsupportedTransferCoding = "the only supported transfer coding is chunked";
    /// The size, an extension, the end of the data or the last chunk violates RFC 9112 §7.1.
    MalformedChunk = "malformed chunk";
    /// The chunk extensions of one body are together longer than
    /// [`BodyLimits::extension_bytes_max`](super::BodyLimits::extension_bytes_max).
    ChunkExtensionsTooLarge = "chunk extensions too long";
    /// The trailer section is longer than
    /// [`BodyLimits::trailer_bytes_max`](super::BodyLimits::trailer_bytes_max).
    TrailersTooLarge = "trailer section too long";
    /// The head is longer than [`HeadLimits::head_bytes_max`](super::HeadLimits::head_bytes_max).
    HeadTooLarge = "request head too long";
    /// There are more header fields than [`HeadLimits::fields_max`](super::HeadLimits::fields_max).
    TooManyFields = "too many header fields";
    /// The target is longer than
    /// [`HeadLimits::target_bytes_max`](super::HeadLimits::target_bytes_max).
    TargetTooLong = "request target too long";
    /// There is an expectation other than `100-continue` (RFC 9110 §10.1.1).
    UnsupportedExpectation = "the only supported expectation is 100-continue";
    /// The request body has a content coding, such as gzip.
    UnsupportedContentEncoding = "Content-Encoding is not supported on requests";
    /// The body is longer than [`BodyLimits::body_bytes_max`](super::BodyLimits::body_bytes_max).
    BodyTooLarge = "request body too large";
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Error {}
