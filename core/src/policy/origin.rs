//! Checks the `Origin` of a request: which web pages may use the server from a browser.
//!
//! Knows: how origins and patterns of them are written and compared. Does not know: CORS (see
//! `cors`).

use alloc::string::String;

use super::authority::Authority;
use crate::error::Fault;

/// An origin that the configuration allows, such as `https://app.example.com` or
/// `http://localhost:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginPattern {
    scheme: String,
    host: String,
    /// `None` is the default port of the scheme.
    port: Option<u16>,
    /// Whether any port is allowed.
    any_port: bool,
}

impl OriginPattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (text, any_port) = match text.strip_suffix(":*") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let Origin { scheme, authority } = Origin::parse(text)?;
        if any_port && authority.port.is_some() {
            return None;
        }
        let Authority { host, port } = authority;
        Some(Self { scheme: scheme.into(), host: host.into(), port, any_port })
    }

    pub(super) fn matches(&self, origin: &Origin<'_>) -> bool {
        let standard = |port: Option<u16>| port.or_else(|| default_port(&self.scheme));
        self.scheme.eq_ignore_ascii_case(origin.scheme)
            && origin.authority.same_host(&self.host)
            && (self.any_port || standard(self.port) == standard(origin.authority.port))
    }
}

pub(crate) struct Origin<'a> {
    scheme: &'a str,
    authority: Authority<'a>,
}

impl<'a> Origin<'a> {
    /// The longest origin in octets: a scheme, a DNS name of the maximal length (253), and a port.
    pub(crate) const BYTES_MAX: usize = 320;

    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > Self::BYTES_MAX {
            return None;
        }
        let (scheme, authority) = text.split_once("://")?;
        let mut letters = scheme.bytes();
        let fine = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            && letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        fine.then_some(Self { scheme, authority: Authority::parse(authority)? })
    }

    fn is_loopback(&self) -> bool {
        // Only `http` and `https` have a default port here, so this tests for these schemes.
        default_port(self.scheme).is_some() && self.authority.is_loopback()
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("http") {
        Some(80)
    } else if scheme.eq_ignore_ascii_case("https") {
        Some(443)
    } else {
        None
    }
}

/// Checks whether a request with these `Origin` fields is allowed on its connection.
///
/// A request without the field is allowed. It does not come from a browser, or its origin is the
/// server's own, or it is a cross-origin GET whose answer the page cannot read: browsers send no
/// `Origin` with a GET in the mode `no-cors` and with a navigation. A single origin is allowed if it
/// is a loopback origin on a connection to a loopback address, if it is in `allowed`, or if
/// `cors_allows` is true for it. `null`, several origins, and text that is not an origin are refused.
pub(crate) fn check<'a>(
    mut origins: impl Iterator<Item = &'a [u8]>,
    arrived_on_loopback: bool,
    allowed: &[OriginPattern],
    cors_allows: impl Fn(&Origin<'_>) -> bool,
) -> Result<(), Fault> {
    let Some(origin) = origins.next() else { return Ok(()) };
    let single = origins.next().is_none();
    let origin = core::str::from_utf8(origin).ok().and_then(Origin::parse);
    let passes = |origin: Origin<'_>| {
        (arrived_on_loopback && origin.is_loopback())
            || allowed.iter().any(|pattern| pattern.matches(&origin))
            || cors_allows(&origin)
    };
    if single && origin.is_some_and(passes) { Ok(()) } else { Err(Fault::OriginNotAllowed) }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const LOOPBACK: bool = true;
    const NETWORK: bool = false;

    #[track_caller]
    fn check(origins: &[&str], arrived_on_loopback: bool, allowed: &[&str], passes: bool) {
        let allowed: Vec<_> = allowed.iter().map(|a| OriginPattern::parse(a).unwrap()).collect();
        let origins_sent = origins.iter().map(|o| o.as_bytes());
        let result = super::check(origins_sent, arrived_on_loopback, &allowed, |_| false);
        let expected = if passes { Ok(()) } else { Err(Fault::OriginNotAllowed) };
        assert_eq!(result, expected, "{origins:?}");
    }

    #[test]
    fn origin_is_allowed_if_loopback_or_listed() {
        check(&[], LOOPBACK, &[], true);
        check(&[], NETWORK, &[], true);
        check(&["http://localhost:3000"], LOOPBACK, &[], true);
        check(&["https://127.0.0.1"], LOOPBACK, &[], true);
        check(&["http://[::1]:5173"], LOOPBACK, &[], true);
        check(&["http://LOCALHOST"], LOOPBACK, &[], true);
        check(&["http://evil.example"], LOOPBACK, &[], false);
        check(&["http://localhost.evil.example"], LOOPBACK, &[], false);
        check(&["null"], LOOPBACK, &[], false);
        check(&[""], LOOPBACK, &[], false);
        check(&["http://localhost", "http://localhost"], LOOPBACK, &[], false);
        check(&["http://localhost/path"], LOOPBACK, &[], false);
        check(&["http://localhost http://localhost"], LOOPBACK, &[], false);
        check(&["http://user@localhost"], LOOPBACK, &[], false);
        check(&["localhost"], LOOPBACK, &[], false);
        check(&["chrome-extension://localhost"], LOOPBACK, &[], false);
        check(&["http://localhost"], NETWORK, &[], false);

        let app = &["https://app.example.com"];
        check(&["https://app.example.com"], NETWORK, app, true);
        check(&["HTTPS://APP.example.com:443"], NETWORK, app, true);
        check(&["https://app.example.com:444"], NETWORK, app, false);
        check(&["http://app.example.com"], NETWORK, app, false);
        check(&["https://app.example.com.evil.example"], NETWORK, app, false);
        check(&["http://localhost:9999"], NETWORK, &["http://localhost:*"], true);
        check(&["https://localhost:9999"], NETWORK, &["http://localhost:*"], false);
        check(&["vscode-webview://panel"], LOOPBACK, &["vscode-webview://panel"], true);
    }

    #[test]
    fn invalid_origin_pattern_is_refused() {
        for text in ["", "*", "example.com", "http://", "http://a:1:*", "http://a/", "://a"] {
            assert_eq!(OriginPattern::parse(text), None, "{text}");
        }
    }
}
