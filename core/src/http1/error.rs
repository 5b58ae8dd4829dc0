//! What can be wrong with a request as HTTP/1.1.
//!
//! Knows: each mistake, and a sentence about it. Does not know: how it is answered.

use core::fmt;

macro_rules! errors {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal; )+) => {
        /// A mistake of a peer in the framing, the addressing or the fields of a request.
        ///
        /// Each has a sentence for people, its [`text`](Self::text), which is what it displays.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Error {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Error {
            /// Every error there is.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )+ ];

            /// The sentence about it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }
        }
    };
}

errors! {
    /// A line that ends in anything but CRLF: a bare LF, a bare CR, CR CR LF.
    BadLineEnd = "a line must end in CRLF and nothing else";
    /// More empty lines before a request line than anyone sends by accident.
    TooManyEmptyLines = "too many empty lines before the request line";
    /// A request line that is not `method SP request-target SP HTTP-version`.
    MalformedRequestLine = "malformed request line";
    /// A request target of a form or with octets that RFC 9112 does not allow here.
    MalformedTarget = "malformed request target";
    /// A header or trailer field with a bad name, bad octets, folding or space before the colon.
    MalformedField = "malformed header field";
    /// An HTTP major version other than 1.
    UnsupportedVersion = "only HTTP/1.0 and HTTP/1.1 are spoken here";
    /// A method that this server does not know at all.
    UnknownMethod = "unknown method";
    /// An HTTP/1.1 request without a `Host` field.
    MissingHost = "missing Host field";
    /// More than one `Host` field.
    DuplicateHost = "more than one Host field";
    /// A `Host` that is not `host [ ":" port ]`.
    InvalidHost = "malformed Host field";
    /// A `Content-Length` that is not exactly one run of 1 to 19 digits without leading zeros.
    InvalidContentLength = "Content-Length must be one field of decimal digits without leading zeros";
    /// `Content-Length` and `Transfer-Encoding` together.
    ConflictingFraming = "Content-Length and Transfer-Encoding together";
    /// A `Transfer-Encoding` that is repeated, combined, empty, or sent with HTTP/1.0.
    InvalidTransferEncoding = "Transfer-Encoding must be exactly: chunked";
    /// A transfer coding other than chunked.
    UnsupportedTransferCoding = "the only transfer coding known here is chunked";
    /// A chunk whose size, extension, data end or last chunk breaks RFC 9112 section 7.1.
    MalformedChunk = "malformed chunk";
    /// Chunk extensions longer in all than the limit.
    ChunkExtensionsTooLarge = "chunk extensions too long";
    /// A trailer section longer than the limit.
    TrailersTooLarge = "trailer section too long";
    /// A request head longer than the limit.
    HeadTooLarge = "request head too long";
    /// More header fields than the limit.
    TooManyFields = "too many header fields";
    /// A request target longer than the limit.
    TargetTooLong = "request target too long";
    /// An `Expect` other than `100-continue`.
    UnsupportedExpectation = "the only expectation known here is 100-continue";
    /// A request body under a content coding.
    UnsupportedContentEncoding = "Content-Encoding is not supported on requests";
    /// A body over the limit.
    BodyTooLarge = "request body too large";
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Error {}
