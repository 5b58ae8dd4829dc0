//! Parses the request target into its parts.
//!
//! Knows: the four forms of RFC 9112 §3.2, and which of them this server accepts.
//! Does not know: routes. Paths and queries stay the octets that were sent: nothing is decoded and
//! nothing is normalised, so a proxy and this server cannot read the same path differently.

use super::authority;
use super::error::Error;
use super::start_line::Method;

/// The scheme that a target in absolute form names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`. A server should accept it only on a TLS connection (RFC 9110 §7.4).
    Https,
}

/// A request target in its parts (RFC 9112 §3.2).
///
/// [`Head::target`](super::Head::target) returns it. No part is percent-decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path. It starts with `/`, except that it is `*` for the asterisk form and empty for the
    /// authority form. An absolute form without a path has the path `/` (RFC 9110 §4.2.3).
    pub path: &'a str,
    /// The part after the first `?`, without the `?`; `None` if there is no `?`.
    pub query: Option<&'a str>,
    /// The scheme, if the target is in absolute form. Whether it fits the connection is not checked
    /// here.
    pub scheme: Option<Scheme>,
    /// The authority, if the target names one. It takes precedence over the `Host` field (RFC 9112
    /// §3.2.2).
    pub authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Parses `text`, whose octets the scanner has checked. `method` is `None` if the method is
    /// unknown.
    pub(super) fn parse(text: &'a str, method: Option<Method>) -> Result<Self, Error> {
        if text.starts_with('/') {
            return Ok(Self::split(None, None, text));
        }
        if text == "*" && method == Some(Method::Options) {
            return Ok(Self { path: text, query: None, scheme: None, authority: None });
        }
        // Only CONNECT may use the authority form (RFC 9112 §3.2.3). CONNECT with another form is
        // not refused here: the server answers CONNECT with a refusal in any case.
        if method == Some(Method::Connect) && authority::has_port(text) {
            return Ok(Self { path: "", query: None, scheme: None, authority: Some(text) });
        }
        let (scheme, rest) = text.split_once("://").ok_or(Error::MalformedTarget)?;
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) =
            rest.split_at_checked(authority_end).ok_or(Error::MalformedTarget)?;
        // `is_valid` refuses `@`: user information in a target is mostly used for phishing (RFC
        // 9110 §4.2.4).
        if !authority::is_valid(authority) {
            return Err(Error::MalformedTarget);
        }
        // Schemes are case-insensitive (RFC 3986 §3.1).
        let scheme = if scheme.eq_ignore_ascii_case("http") {
            Scheme::Http
        } else if scheme.eq_ignore_ascii_case("https") {
            Scheme::Https
        } else {
            return Err(Error::MalformedTarget);
        };
        Ok(Self::split(Some(scheme), Some(authority), rest))
    }

    fn split(scheme: Option<Scheme>, authority: Option<&'a str>, path_and_query: &'a str) -> Self {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        Self { path: if path.is_empty() { "/" } else { path }, query, scheme, authority }
    }

    /// Whether this is the asterisk form, `*`, which means the server as a whole and is valid only
    /// with `OPTIONS` (RFC 9112 §3.2.4).
    #[must_use]
    pub fn is_asterisk(&self) -> bool {
        self.path == "*"
    }

    /// The value of the query parameter `name`. Neither names nor values are percent-decoded: both
    /// are compared and returned as they were sent.
    ///
    /// Returns `None` if the parameter is missing, and also if it occurs more than once, because
    /// another reader of the same URI might choose another of the values. A parameter without `=`
    /// has the value `""`.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_core::http1::{FieldStorage, Head};
    ///
    /// let head = b"GET /messages?id=1&x=2&x=3 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    /// let mut storage = FieldStorage::new();
    /// let target = Head::parse(head, &mut storage)?.target();
    /// assert_eq!(target.path, "/messages");
    /// assert_eq!(target.query_parameter("id"), Some("1"));
    /// assert_eq!(target.query_parameter("x"), None); // occurs twice
    /// # Ok::<(), mcp_sse_core::http1::Error>(())
    /// ```
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<&'a str> {
        let mut values = self.query_parameters(name);
        let value = values.next()?;
        if values.next().is_some() { None } else { Some(value) }
    }

    /// All values of the query parameter `name`, in order.
    pub(crate) fn query_parameters(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.query.into_iter().flat_map(|query| query.split('&')).filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

#[cfg(test)]
mod tests;
