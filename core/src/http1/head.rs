//! Parses one complete request head into a value without ambiguity.
//!
//! Knows: the fields that decide framing, host and persistence, and what RFC 9112 §3.2 and §6
//! refuse.
//! Does not know: how the end of the head was found (see `scan`, which has validated every octet),
//! routes, or any other field: other fields are looked up by name.

use super::authority;
use super::error::Error;
use super::framing::{Framing, framing, trim};
use super::scan::FIELDS_CAP;
use super::start_line::{Method, Version};
use super::target::Target;
use core::fmt;
use core::mem::MaybeUninit;
use core::str;

/// Memory for the fields of one [`Head`], about 4 KiB. The caller usually puts it on the stack.
///
/// ```
/// # use mcp_sse_core::http1::{FieldStorage, Head};
/// let mut storage = FieldStorage::new();
/// let head = Head::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut storage)?;
/// assert_eq!(head.host(), Some("a"));
/// # Ok::<(), mcp_sse_core::http1::Error>(())
/// ```
pub struct FieldStorage<'a>(Slots<'a>);

enum Slots<'a> {
    /// Memory that httparse initializes as far as it needs. Used for HTTP/1.0 and HTTP/1.1.
    Uninit([MaybeUninit<httparse::Header<'a>>; FIELDS_CAP]),
    /// Initialized memory, which httparse requires if it parses fields only. Used for HTTP/1.2 and
    /// above, whose request line httparse refuses, and for fields that were parsed elsewhere.
    Initialized([httparse::Header<'a>; FIELDS_CAP]),
}

impl FieldStorage<'_> {
    /// Makes empty storage. It costs nothing: no memory is initialized.
    #[must_use]
    pub const fn new() -> Self {
        Self(Slots::Uninit([const { MaybeUninit::uninit() }; FIELDS_CAP]))
    }
}

impl Default for FieldStorage<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FieldStorage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FieldStorage(..)")
    }
}

impl<'a> FieldStorage<'a> {
    /// Stores fields that were parsed elsewhere; those beyond [`FIELDS_CAP`] are left out.
    fn store(
        &'a mut self,
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> &'a [httparse::Header<'a>] {
        self.0 = Slots::Initialized([httparse::EMPTY_HEADER; FIELDS_CAP]);
        let Slots::Initialized(slots) = &mut self.0 else { return &[] };
        let mut count = 0;
        for (slot, (name, value)) in slots.iter_mut().zip(fields) {
            *slot = httparse::Header { name, value };
            count += 1;
        }
        slots.get(..count).unwrap_or_default()
    }

    fn fill(
        &'a mut self,
        bytes: &'a [u8],
        line: &RequestLine<'a>,
    ) -> Option<&'a [httparse::Header<'a>]> {
        if line.minor > b'1' {
            // The scanner accepts `HTTP/1.2`, but httparse does not, so httparse parses only the
            // fields.
            self.0 = Slots::Initialized([httparse::EMPTY_HEADER; FIELDS_CAP]);
        }
        match &mut self.0 {
            Slots::Uninit(slots) => {
                let mut request = httparse::Request::new(&mut []);
                let status = request.parse_with_uninit_headers(bytes, slots).ok()?;
                status.is_complete().then_some(request.headers)
            }
            Slots::Initialized(slots) => match httparse::parse_headers(line.fields, slots).ok()? {
                httparse::Status::Complete((_, fields)) => Some(fields),
                httparse::Status::Partial => None,
            },
        }
    }
}

/// The parts of a request line, whose octets the scanner has validated.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    /// The digit after `HTTP/1.`.
    minor: u8,
    /// The bytes after the request line.
    fields: &'a [u8],
}

impl<'a> RequestLine<'a> {
    fn split(mut bytes: &'a [u8]) -> Option<Self> {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let (method, bytes) = bytes.split_at_checked(memchr::memchr(b' ', bytes)?)?;
        let bytes = bytes.strip_prefix(b" ")?;
        let (target, bytes) = bytes.split_at_checked(memchr::memchr(b' ', bytes)?)?;
        let (&minor, bytes) = bytes.strip_prefix(b" HTTP/1.")?.split_first()?;
        Some(Self { method, target, minor, fields: bytes.strip_prefix(b"\r\n")? })
    }
}

/// One parsed request head.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::http1::{FieldStorage, Framing, Head, Method, Version};
///
/// let bytes = b"POST /messages HTTP/1.1\r\nHost: a:80\r\nContent-Length: 2\r\nX: y\r\n\r\n";
/// let mut storage = FieldStorage::new();
/// let head = Head::parse(bytes, &mut storage)?;
/// assert_eq!((head.method(), head.version()), (Method::Post, Version::Http11));
/// assert_eq!(head.host(), Some("a:80"));
/// assert_eq!(head.framing(), Framing::Length(2));
/// assert_eq!(head.field("x"), Some(&b"y"[..]));
/// assert!(head.keep_alive());
/// # Ok::<(), mcp_sse_core::http1::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Head<'a> {
    method: Method,
    version: Version,
    target: Target<'a>,
    framing: Framing,
    keep_alive: bool,
    host: Option<&'a str>,
    fields: &'a [httparse::Header<'a>],
}

impl<'a> Head<'a> {
    /// Parses one complete head.
    ///
    /// - `bytes`: everything that a [`HeadScanner`](super::HeadScanner) accepted, from the first
    ///   byte it was given to the last it consumed. Bytes that were not scanned are parsed more
    ///   leniently than they should be.
    /// - `storage`: memory for the fields. It can be used once; make new storage for each head.
    ///
    /// # Errors
    ///
    /// The first error in this order: framing, `Host`, target, method. Framing comes first, because
    /// no other error may hide that the end of the request is unknown. `Expect` and
    /// `Content-Encoding` are checked separately, by [`check_expectation`](Self::check_expectation)
    /// and [`check_content_encoding`](Self::check_content_encoding), because whether they matter
    /// depends on the route.
    pub fn parse(bytes: &'a [u8], storage: &'a mut FieldStorage<'a>) -> Result<Self, Error> {
        let line = RequestLine::split(bytes).ok_or(Error::MalformedRequestLine)?;
        let fields = storage.fill(bytes, &line).ok_or(Error::MalformedField)?;
        let version = if line.minor == b'0' { Version::Http10 } else { Version::Http11 };
        Self::of_parts(version, line.method, line.target, fields)
    }

    /// Makes a head of the parts of an HTTP/1.1 request that was parsed elsewhere. A scanner must have
    /// accepted them, as bytes of one head.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub(crate) fn assemble(
        method: &'a str,
        target: &'a str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
        storage: &'a mut FieldStorage<'a>,
    ) -> Result<Self, Error> {
        let fields = storage.store(fields);
        Self::of_parts(Version::Http11, method.as_bytes(), target.as_bytes(), fields)
    }

    fn of_parts(
        version: Version,
        method: &'a [u8],
        target: &'a [u8],
        fields: &'a [httparse::Header<'a>],
    ) -> Result<Self, Error> {
        let framing =
            framing(version, named(fields, "transfer-encoding"), named(fields, "content-length"))?;
        let host = host(version, named(fields, "host"))?;
        let method = Method::from_bytes(method);
        let target = str::from_utf8(target).map_err(|_| Error::MalformedTarget)?;
        let target = Target::parse(target, method)?;
        let method = method.ok_or(Error::UnknownMethod)?;

        let connection = |option: &str| {
            members(named(fields, "connection"))
                .any(|member| member.eq_ignore_ascii_case(option.as_bytes()))
        };
        // `close` takes precedence over everything else (RFC 9112 §9.3).
        let keep_alive = !connection("close")
            && match version {
                Version::Http10 => connection("keep-alive"),
                Version::Http11 => true,
            };
        let host = target.authority.or(host);
        Ok(Self { method, version, target, framing, keep_alive, host, fields })
    }

    /// The request method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The HTTP version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The request target.
    #[must_use]
    pub fn target(&self) -> Target<'a> {
        self.target
    }

    /// How the body is delimited.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client permits another request on this connection (RFC 9112 §9.3).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The host with its optional port that the request is for: the authority of the target if it
    /// has one, otherwise the value of `Host`. `None` only for an HTTP/1.0 request without either.
    #[must_use]
    pub fn host(&self) -> Option<&'a str> {
        self.host
    }

    /// The value of the first field called `name`, without white space around it, or `None` if
    /// there is none. Names are compared case-insensitively.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields_named(name).next()
    }

    /// The values of all fields called `name`, in order. Names are compared case-insensitively.
    pub fn fields_named(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        named(self.fields, name)
    }

    /// Names and values of all fields, in order. Names are spelled as they were sent.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter().map(|field| (field.name, trim(field.value)))
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    ///
    /// False for HTTP/1.0, which has no interim responses (RFC 9110 §10.1.1), and for a request
    /// without a body.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.version == Version::Http11
            && self.has_body()
            && self.fields_named("expect").next().is_some()
            && self.check_expectation().is_ok()
    }

    /// Checks that the request has no expectation other than `100-continue`.
    ///
    /// Call it after all checks whose errors should take precedence. An `Expect` field of an
    /// HTTP/1.0 request is ignored (RFC 9110 §10.1.1).
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedExpectation`] if there is another expectation. Case is ignored.
    pub fn check_expectation(&self) -> Result<(), Error> {
        let known = self.version == Version::Http10
            || members(self.fields_named("expect"))
                .all(|member| member.eq_ignore_ascii_case(b"100-continue"));
        if known { Ok(()) } else { Err(Error::UnsupportedExpectation) }
    }

    /// Checks that the body has no content coding (RFC 9110 §8.4).
    ///
    /// Call it after all checks whose errors should take precedence. `Content-Encoding` is ignored
    /// on a request without a body.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedContentEncoding`] if there is a coding other than `identity`. Case is
    /// ignored.
    pub fn check_content_encoding(&self) -> Result<(), Error> {
        let known = !self.has_body()
            || members(self.fields_named("content-encoding"))
                .all(|member| member.eq_ignore_ascii_case(b"identity"));
        if known { Ok(()) } else { Err(Error::UnsupportedContentEncoding) }
    }

    fn has_body(&self) -> bool {
        match self.framing {
            Framing::Empty | Framing::Length(0) => false,
            Framing::Length(_) | Framing::Chunked => true,
        }
    }
}

impl fmt::Debug for Head<'_> {
    /// Prints neither the values of fields nor the query, because they may contain credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("version", &self.version)
            .field("path", &self.target.path)
            .field("framing", &self.framing)
            .field("keep_alive", &self.keep_alive)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

fn named<'a>(fields: &'a [httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| trim(field.value))
}

/// The members of a comma-separated list that may be spread over several fields (RFC 9110 §5.6.1).
/// Empty members are included.
fn members<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.flat_map(|value| value.split(|&octet| octet == b',')).map(trim)
}

/// The value of the `Host` field. It must occur exactly once and be valid; only an HTTP/1.0 request
/// may omit it (RFC 9112 §3.2).
fn host<'a>(
    version: Version,
    mut values: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<&'a str>, Error> {
    match (values.next(), values.next(), version) {
        (Some(_), Some(_), _) => Err(Error::DuplicateHost),
        (Some(value), None, _) => authority::from_field(value).map(Some).ok_or(Error::InvalidHost),
        (None, _, Version::Http10) => Ok(None),
        (None, _, Version::Http11) => Err(Error::MissingHost),
    }
}

#[cfg(test)]
mod tests;
