//! Requests whose HTTP is spoken elsewhere: by hyper, by a platform's own server.
//!
//! Knows: how such a request is put to the same machine, as the head it would have been on an
//! HTTP/1.1 connection of its own, and how the answer's head is taken off again.
//! Does not know: what becomes of either.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::error::Fault;
use crate::route::is_clean_path;

/// A request that another HTTP server has read, for [`Server::exchange`](crate::Server::exchange).
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query, without what [`mount`](Self::mount) says.
    pub target: &'a str,
    /// The fields, in order. `Host` must be among them; HTTP/2 has it in `:authority`. Fields about
    /// the connection are ignored, and so is `Expect`: they are that server's affair.
    pub fields: &'a [(&'a str, &'a [u8])],
    /// What was cut off the front of the path by whatever routes requests here, as in `/api`; clients
    /// are told to post behind it. Empty where nothing was.
    pub mount: &'a str,
}

impl fmt::Debug for Exchange<'_> {
    /// Names, not values, of fields, and no query: both hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{} {}{path} [", self.method, self.mount)?;
        for (at, (name, _)) in self.fields.iter().enumerate() {
            write!(f, "{}{name}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

/// Fields that concern the connection and not the request (RFC 9110 section 7.6.1), and `Expect`.
const CONNECTION_FIELDS: [&str; 8] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Exchange<'_> {
    /// The head that this request would have had on a connection of its own.
    pub(crate) fn head(&self) -> Result<Vec<u8>, Fault> {
        let breaks_out =
            |octets: &[u8]| octets.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0));
        if breaks_out(self.method.as_bytes()) {
            return Err(Fault::MalformedRequestLine);
        }
        let mounted = self.mount.is_empty() || is_clean_path(self.mount);
        if breaks_out(self.target.as_bytes()) || !mounted {
            return Err(Fault::MalformedTarget);
        }
        let mut head = Vec::new();
        for piece in [self.method, " ", self.target, " HTTP/1.1\r\n"] {
            head.extend_from_slice(piece.as_bytes());
        }
        for (name, value) in self.fields {
            if CONNECTION_FIELDS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                continue;
            }
            if breaks_out(name.as_bytes()) || breaks_out(value) {
                return Err(Fault::MalformedField);
            }
            for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(piece);
            }
        }
        head.extend_from_slice(b"\r\n");
        Ok(head)
    }
}

/// The head of an answer to an [`Exchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    status: u16,
    fields: Vec<(String, String)>,
}

impl ResponseHead {
    /// The status code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The fields, without those about a connection.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Takes the head off an answer that this crate has rendered. Returns where its body starts.
    pub(crate) fn split(answer: &[u8]) -> (Self, usize) {
        const RENDERED: &str = "invariant: our own answers have a head";
        let end = memchr::memmem::find(answer, b"\r\n\r\n").expect(RENDERED);
        let text = answer.get(..end).and_then(|head| core::str::from_utf8(head).ok());
        let mut lines = text.expect(RENDERED).split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let fields = lines
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| {
                !CONNECTION_FIELDS.iter().any(|known| name.eq_ignore_ascii_case(known))
            })
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        (Self { status: status.expect(RENDERED), fields }, end + 4)
    }
}
