//! One whole request head, as a value that cannot be ambiguous.
//!
//! Knows: the fields that frame, address and hold a connection, and what RFC 9112 §3.2 and §6 refuse.
//! Does not know: how the head was found (see `scan`, which has checked every octet), routes, or any
//! other field: those are looked up by name.

use super::authority;
use super::error::Error;
use super::framing::{Framing, framing, trim};
use super::scan::FIELDS_CAP;
use super::start_line::{Method, Version};
use super::target::Target;
use core::fmt;
use core::mem::MaybeUninit;
use core::str;

/// Room for the fields of one [`Head`], 4 KiB on its caller's stack.
pub struct FieldStorage<'a>(Slots<'a>);

enum Slots<'a> {
    /// What nearly every head uses: nothing is written before it is known.
    Fresh([MaybeUninit<httparse::Header<'a>>; FIELDS_CAP]),
    /// For a version that httparse refuses to read.
    Blank([httparse::Header<'a>; FIELDS_CAP]),
}

impl FieldStorage<'_> {
    /// Empty storage.
    #[must_use]
    pub const fn new() -> Self {
        Self(Slots::Fresh([const { MaybeUninit::uninit() }; FIELDS_CAP]))
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
    /// Keeps fields that were not read here; those beyond [`FIELDS_CAP`] are left out.
    fn store(
        &'a mut self,
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> &'a [httparse::Header<'a>] {
        self.0 = Slots::Blank([httparse::EMPTY_HEADER; FIELDS_CAP]);
        let Slots::Blank(slots) = &mut self.0 else { return &[] };
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
            // Our own scanner took `HTTP/1.2`; httparse does not, so it is shown the fields alone.
            self.0 = Slots::Blank([httparse::EMPTY_HEADER; FIELDS_CAP]);
        }
        match &mut self.0 {
            Slots::Fresh(slots) => {
                let mut request = httparse::Request::new(&mut []);
                let status = request.parse_with_uninit_headers(bytes, slots).ok()?;
                status.is_complete().then_some(request.headers)
            }
            Slots::Blank(slots) => match httparse::parse_headers(line.behind, slots).ok()? {
                httparse::Status::Complete((_, fields)) => Some(fields),
                httparse::Status::Partial => None,
            },
        }
    }
}

/// The words of a request line, whose octets a scanner has checked.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    minor: u8,
    behind: &'a [u8],
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
        Some(Self { method, target, minor, behind: bytes.strip_prefix(b"\r\n")? })
    }
}

/// One request head.
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
    /// Reads one whole head.
    ///
    /// `bytes` are what a [`HeadScanner`](super::HeadScanner) accepted, from the first byte it was
    /// given to the last it consumed: bytes that no scanner saw are read more leniently than they
    /// should be. `storage` is used up; make a new one for each head, it costs nothing.
    ///
    /// # Errors
    ///
    /// Framing first, since nothing may hide that the end of the request is in doubt; then `Host`,
    /// then the target, then the method. What depends on who answers is left to
    /// [`check_expectation`](Self::check_expectation) and
    /// [`check_content_encoding`](Self::check_content_encoding).
    pub fn parse(bytes: &'a [u8], storage: &'a mut FieldStorage<'a>) -> Result<Self, Error> {
        let line = RequestLine::split(bytes).ok_or(Error::MalformedRequestLine)?;
        let fields = storage.fill(bytes, &line).ok_or(Error::MalformedField)?;
        let version = if line.minor == b'0' { Version::Http10 } else { Version::Http11 };
        Self::of_parts(version, line.method, line.target, fields)
    }

    /// Makes a head of the parts of an HTTP/1.1 request that was not read here. A scanner has checked
    /// every octet of them, and that there are no more fields than [`FIELDS_CAP`].
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
        // `close` wins over everything (RFC 9112 §9.3).
        let keep_alive = !connection("close")
            && match version {
                Version::Http10 => connection("keep-alive"),
                Version::Http11 => true,
            };
        let host = target.authority.or(host);
        Ok(Self { method, version, target, framing, keep_alive, host, fields })
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The version.
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

    /// Whether the client is ready for another request on this connection.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The `host [ ":" port ]` that was asked: the target's own authority, else the `Host` field,
    /// which only an HTTP/1.0 request can be without.
    #[must_use]
    pub fn host(&self) -> Option<&'a str> {
        self.host
    }

    /// The value of the first field of that name, without white space around it.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields_named(name).next()
    }

    /// The values of all fields of that name, in order. Names have no case.
    pub fn fields_named(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        named(self.fields, name)
    }

    /// All fields, in order, named as they were sent.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter().map(|field| (field.name, trim(field.value)))
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    ///
    /// Never on HTTP/1.0 (RFC 9110 §10.1.1), and never without a body to wait for.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.version == Version::Http11
            && self.has_body()
            && self.fields_named("expect").next().is_some()
            && self.check_expectation().is_ok()
    }

    /// Whether every expectation is one that this server can meet.
    ///
    /// Call it once nothing more important is wrong. On HTTP/1.0 the field is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedExpectation`] for anything but `100-continue`, in any case.
    pub fn check_expectation(&self) -> Result<(), Error> {
        let known = self.version == Version::Http10
            || members(self.fields_named("expect"))
                .all(|member| member.eq_ignore_ascii_case(b"100-continue"));
        if known { Ok(()) } else { Err(Error::UnsupportedExpectation) }
    }

    /// Whether the body is in no content coding.
    ///
    /// Call it once nothing more important is wrong. Without a body the field means nothing, and is
    /// not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedContentEncoding`] for anything but `identity`, in any case.
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
    /// Names, not values, of fields: a value may be a credential. The same goes for the query.
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

/// The members of a comma-separated list over all its fields (RFC 9110 §5.6.1). Empty ones are
/// members too: who compares them with what is known will refuse or overlook them.
fn members<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.flat_map(|value| value.split(|&octet| octet == b',')).map(trim)
}

/// Exactly one valid `Host`; none at all is right only before HTTP/1.1 (RFC 9112 §3.2).
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
