//! Requests whose HTTP is spoken elsewhere, as by hyper or by the server of a platform.
//!
//! Knows: how such a request becomes the head that it would have been on an HTTP/1.1 connection of its
//! own, by the same rules and limits; and what of a response is its head.
//! Does not know: how a request is answered.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::http1::{
    Error, FieldStorage, Head, HeadLimits, HeadScanner, HttpDate, Response, is_token,
};
use crate::route::is_clean_path;

/// A request that another HTTP server has read, for [`Server::exchange`](crate::Server::exchange), where
/// there is an example.
///
/// The rules and limits are those of a request on an HTTP/1.1 connection: a request that would be refused
/// there is refused here, with the same status. Field values and targets are octets as they were sent.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// The method, such as `POST`; methods are case-sensitive.
    pub method: &'a str,
    /// Path and query, without the [`mount`](Self::mount).
    pub target: &'a str,
    /// The fields, in order, as name and value. `Host` must be among them; HTTP/2 has it in `:authority`.
    /// Fields about the connection (RFC 9110 section 7.6.1) and `Expect` are ignored: the other server has
    /// acted on them.
    pub fields: &'a [(&'a str, &'a [u8])],
    /// The front of the path that a router cut off, such as `/api`; clients are told to post to a path that
    /// begins with it. Empty if nothing was cut off.
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
        // A scanner would take these octets for the end of a part.
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

/// The head of the answer to an [`Exchange`]; [`Server::response`](crate::Server::response) has it once the
/// request is answered.
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

    /// The fields, in order, as name and value, without `Connection` and `Transfer-Encoding`.
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
