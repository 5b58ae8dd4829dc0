//! The request target, taken apart.
//!
//! Knows: the four forms of RFC 9112 §3.2 and which of them this server takes.
//! Does not know: routes. Paths and queries stay the octets that were sent: nothing is decoded and
//! nothing normalised, so that no two readers of a path can disagree.

use super::authority;
use super::error::Error;
use super::start_line::Method;

/// The scheme that a target in absolute form names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`: only for a connection that is TLS (RFC 9110 §7.4).
    Https,
}

/// A request target in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path: it starts with `/`, or is `*` for the asterisk form, or empty for the authority
    /// form. An absolute target without a path has the path `/` (RFC 9110 §4.2.3).
    pub path: &'a str,
    /// What follows the first `?`, without it.
    pub query: Option<&'a str>,
    /// The scheme, where the target names one. Whether it fits the connection is for its server to
    /// say.
    pub scheme: Option<Scheme>,
    /// The authority, where the target names one. It replaces `Host` (RFC 9112 §3.2.2).
    pub authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Takes `text`, whose octets a scanner has checked, apart. `method` is `None` where it is unknown.
    pub(super) fn parse(text: &'a str, method: Option<Method>) -> Result<Self, Error> {
        if text.starts_with('/') {
            return Ok(Self::split(None, None, text));
        }
        if text == "*" && method == Some(Method::Options) {
            return Ok(Self { path: text, query: None, scheme: None, authority: None });
        }
        // Only CONNECT may use the authority form. (It may use the others as well: the answer is a
        // refusal either way, and there is no tunnel whose end could be misread.)
        if method == Some(Method::Connect) && authority::has_port(text) {
            return Ok(Self { path: "", query: None, scheme: None, authority: Some(text) });
        }
        let (scheme, rest) = text.split_once("://").ok_or(Error::MalformedTarget)?;
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) =
            rest.split_at_checked(authority_end).ok_or(Error::MalformedTarget)?;
        // The check knows no `@`: user information in a target is for phishing (RFC 9110 §4.2.4).
        if !authority::is_valid(authority) {
            return Err(Error::MalformedTarget);
        }
        // Schemes are compared without case (RFC 3986 §3.1).
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

    /// Whether this is `*`, the server as a whole, which only `OPTIONS` can ask about.
    #[must_use]
    pub fn is_asterisk(&self) -> bool {
        self.path == "*"
    }

    /// The value of the query parameter `name`, in the octets that were sent: nothing is
    /// percent-decoded, in names or in values.
    ///
    /// `None` where it is missing, and also where it is there more than once: two readers may
    /// choose differently between the two, so neither is the one. A name without `=` has the value
    /// `""`.
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<&'a str> {
        let mut values = self.query_parameters(name);
        let value = values.next()?;
        if values.next().is_some() { None } else { Some(value) }
    }

    /// Every value of the query parameter `name`, in order.
    pub(crate) fn query_parameters(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.query.into_iter().flat_map(|query| query.split('&')).filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

#[cfg(test)]
mod tests;
