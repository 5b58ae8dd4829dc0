//! Requests whose HTTP is spoken elsewhere: by hyper, by a platform's own server.
//!
//! Knows: how such a request becomes the head that it would have been on an HTTP/1.1 connection of its
//! own, by the same rules and limits; and what of a response is its head.
//! Does not know: what becomes of either.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::http1::{
    Error, FieldStorage, Head, HeadLimits, HeadScanner, HttpDate, Response, is_token,
};
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

impl<'a> Exchange<'a> {
    /// The head that this request would have had on a connection of its own.
    ///
    /// Its parts are shown to a scanner one after the other, each with what would have stood behind it
    /// on the wire; so a mistake is the same [`Error`], and a limit is the same limit.
    pub(crate) fn head(
        self,
        limits: &HeadLimits,
        storage: &'a mut FieldStorage<'a>,
    ) -> Result<Head<'a>, Error> {
        // What a scanner would take for the end of the part in which it stands.
        let breaks_out =
            |octets: &[u8]| octets.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0));
        if !is_token(self.method.as_bytes()) {
            return Err(Error::MalformedRequestLine);
        }
        let mounted = self.mount.is_empty() || is_clean_path(self.mount);
        if breaks_out(self.target.as_bytes()) || !mounted {
            return Err(Error::MalformedTarget);
        }
        let mut scanner = HeadScanner::new();
        let mut scan = |part: &[u8]| scanner.scan(part, limits).map(drop);
        for part in [self.method, " ", self.target, " HTTP/1.1\r\n"] {
            scan(part.as_bytes())?;
        }
        let fields = self.fields.iter().copied().filter(|(name, _)| {
            !CONNECTION_FIELDS.iter().any(|known| name.eq_ignore_ascii_case(known))
        });
        for (name, value) in fields.clone() {
            if !is_token(name.as_bytes()) || breaks_out(value) {
                return Err(Error::MalformedField);
            }
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                scan(part)?;
            }
        }
        scan(b"\r\n")?;
        Head::assemble(self.method, self.target, fields, storage)
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

    /// The head of `response`, without the fields that an HTTP/1.1 connection would add.
    pub(crate) fn of(response: &Response<'_>, date: Option<&HttpDate>) -> Self {
        let mut fields = Vec::new();
        response.each_field(date, |name, value| {
            fields.push((name.into(), String::from_utf8_lossy(value).into_owned()));
        });
        Self { status: response.status, fields }
    }
}
