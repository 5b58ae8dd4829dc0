//! The URL of a request.
//!
//! Knows: `http` and `https` URLs, and what of them may be printed. Does not know: connections.

use core::fmt;

use http::Uri;
use http::uri::Scheme;

/// The longest accepted URL, in bytes.
pub(crate) const URL_BYTES_MAX: usize = 8 << 10;
/// What is printed in place of the value of a query parameter, which may be a secret.
const MASK: &str = "…";

/// An absolute URL without user information and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    https: bool,
    /// The name or address, an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// The path and the query, which begin with `/`.
    path: String,
}

impl Target {
    /// Parses a URL. The error says what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a URL as in http://127.0.0.1:8000/sse";
        if text.len() > URL_BYTES_MAX {
            return Err(format!("the URL is longer than {URL_BYTES_MAX} bytes"));
        }
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri = text.parse().map_err(|_| EXPECTED.to_owned())?;
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) | None => return Err(EXPECTED.into()),
        };
        let authority = uri.authority().ok_or(EXPECTED)?;
        if authority.as_str().contains('@') {
            return Err("a URL with a user's name or password is not supported: use --header or \
                 --bearer-env"
                .into());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().ends_with(':') => return Err(EXPECTED.into()),
            None => Self::default_port(https),
        };
        if host.is_empty() || port == 0 {
            return Err(EXPECTED.into());
        }
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { https, host: host.to_ascii_lowercase(), port, path })
    }

    const fn default_port(https: bool) -> u16 {
        if https { 443 } else { 80 }
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The path and the query.
    pub(crate) fn path_and_query(&self) -> &str {
        &self.path
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// The values of the query's parameters.
    pub(crate) fn query_values(&self) -> impl Iterator<Item = &str> {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value))
    }

    /// The path up to its last slash, without that slash: `/mcp` of `/mcp/sse`, and nothing of `/sse`.
    pub(crate) fn folder(&self) -> &str {
        self.path().trim_end_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The URL with another path and query, which begin with `/`.
    pub(crate) fn with_path(&self, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..self.clone() }
    }

    /// The value of the field `Host`: the port is left out if it is the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == Self::default_port(self.https) { host } else { format!("{host}:{port}") }
    }

    /// Scheme, name and port, as in the field `Origin`.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

/// Shows the URL without the values of its query.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), masked(&self.path))
    }
}

/// The text of a URL or path, without the values in its query.
pub(crate) fn masked(text: &str) -> String {
    let Some((path, query)) = text.split_once('?') else { return text.to_owned() };
    let parameters = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) => format!("{name}={MASK}"),
        None if pair.is_empty() => String::new(),
        None => MASK.to_owned(),
    });
    format!("{path}?{}", parameters.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str, authority: &str, folder: &str) {
        let target = Target::parse(text).expect(text);
        assert_eq!(target.to_string(), shown);
        assert_eq!((&*target.authority(), target.folder()), (authority, folder));
    }

    #[test]
    fn urls_are_parsed_and_shown_without_values() {
        check("http://127.0.0.1:8000/sse", "http://127.0.0.1:8000/sse", "127.0.0.1:8000", "");
        check("https://A.example", "https://a.example/", "a.example", "");
        check("HTTPS://a.example:443/x/sse/", "https://a.example/x/sse/", "a.example", "/x");
        check("http://[::1]:9/a/b?k=v&w#f", "http://[::1]:9/a/b?k=…&…", "[::1]:9", "/a");
        check("http://a.example?k=v", "http://a.example/?k=…", "a.example", "");
        let values = Target::parse("http://a/s?k=v&w").expect("a URL");
        assert_eq!(values.query_values().collect::<Vec<_>>(), ["v", "w"]);
    }

    #[test]
    fn other_urls_are_refused() {
        let long = format!("http://a/{}", "x".repeat(URL_BYTES_MAX));
        for text in
            ["", "a.example", "/sse", "ftp://a/", "http://", "http://a:0/", "http://a:/", &long]
        {
            assert!(Target::parse(text).is_err(), "{text}");
        }
        let error = Target::parse("http://me:secret@a/").expect_err("a password");
        assert!(error.contains("--header") && !error.contains("secret"), "{error}");
    }
}
