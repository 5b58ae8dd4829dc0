//! Parses the fields in which proxies describe the original request: `Forwarded` (RFC 7239) and
//! `X-Forwarded-*`.
//!
//! Knows: the grammar of both, and which entries can be trusted. A field lists the chain of
//! proxies; the entries are examined from the nearest proxy outwards, and the first address that is
//! not a trusted proxy is the client. Entries further out were written by the client or by
//! untrusted proxies and are ignored, and so are entries beyond a proxy that hides the address of
//! its client.
//! Does not know: whether the connection itself comes from a trusted proxy. Call it single for such
//! connections.

use core::net::{IpAddr, Ipv6Addr};

use super::cidr::Cidr;
use crate::error::Fault;
use crate::http1::{Head, is_token, split_authority};
use crate::route::is_clean_path;

/// All fields that are parsed here.
pub(crate) const FIELDS: [&str; 5] =
    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix"];

/// What trusted proxies state about a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwarded<'a> {
    pub(crate) client: ForwardedClient,
    /// Whether the client's own connection is TLS; `None` if no proxy states it.
    pub(crate) secure: Option<bool>,
    /// The host that the client sent.
    pub(crate) host: Option<&'a str>,
    /// The path prefix that the proxy removed.
    pub(crate) prefix: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ForwardedClient {
    /// No client is named: the proxy itself is the client.
    #[default]
    Proxy,
    /// A client whose address a proxy hides: `unknown`, or an obfuscated identifier (RFC 7239 §6).
    Hidden,
    /// The address of the client.
    At(IpAddr),
}

/// Parses the fields of a request that came from a trusted proxy.
///
/// # Errors
///
/// [`Fault::MalformedForwarded`] if a trusted entry is malformed, or if the request has both
/// `Forwarded` and one of `X-Forwarded-For`, `-Proto` and `-Host`. The latter occurs when a proxy
/// writes one of them and passes on the other, and then either may come from an untrusted client.
pub(crate) fn read<'a>(head: &Head<'a>, trusted: &[Cidr]) -> Result<Forwarded<'a>, Fault> {
    let malformed = Fault::MalformedForwarded;
    let chain = head.fields_named("forwarded");
    let x = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    let mut forwarded = if head.field("forwarded").is_none() {
        Forwarded {
            client: x_client(head.fields_named("x-forwarded-for"), trusted)?,
            secure: x_secure(head.fields_named("x-forwarded-proto"))?,
            host: single(head.fields_named("x-forwarded-host"))?
                .map(|host| valid_host(host).ok_or(malformed))
                .transpose()?,
            prefix: None,
        }
    } else if x.iter().any(|name| head.field(name).is_some()) {
        return Err(malformed);
    } else {
        standard(chain, trusted)?
    };
    if let Some(prefix) = single(head.fields_named("x-forwarded-prefix"))? {
        // Some proxies write `/mcp/` for `/mcp`, and `/` for an empty prefix.
        let bare = prefix.strip_suffix('/').unwrap_or(prefix);
        if !bare.is_empty() && !is_clean_path(bare) {
            return Err(malformed);
        }
        forwarded.prefix = Some(bare);
    }
    Ok(forwarded)
}

/// The evaluation of a chain of proxies, which is given from its far end.
struct ProxyChain<'t> {
    trusted: &'t [Cidr],
    client: ForwardedClient,
    /// Whether a trusted entry is malformed.
    malformed: bool,
}

impl<'t> ProxyChain<'t> {
    const fn new(trusted: &'t [Cidr]) -> Self {
        Self { trusted, client: ForwardedClient::Proxy, malformed: false }
    }

    /// Adds the next entry. Returns whether the entries before it are untrusted; `None` is a
    /// malformed entry.
    fn add(&mut self, entry: Option<ForwardedClient>) -> bool {
        let Some(entry) = entry else {
            self.malformed = true;
            return false;
        };
        let untrusted = match entry {
            ForwardedClient::At(address) => {
                !self.trusted.iter().any(|range| range.contains(address))
            }
            // The client that this proxy hides may have written the entries before this one.
            ForwardedClient::Hidden | ForwardedClient::Proxy => true,
        };
        if untrusted {
            self.malformed = false;
        }
        // If all proxies of the chain are trusted, the farthest one is the client.
        if untrusted || self.client == ForwardedClient::Proxy {
            self.client = entry;
        }
        untrusted
    }

    const fn finish(self) -> Result<ForwardedClient, Fault> {
        if self.malformed { Err(Fault::MalformedForwarded) } else { Ok(self.client) }
    }
}

fn x_client<'a>(
    fields: impl Iterator<Item = &'a [u8]>,
    trusted: &[Cidr],
) -> Result<ForwardedClient, Fault> {
    let mut chain = ProxyChain::new(trusted);
    for member in fields.flat_map(|value| value.split(|&octet| octet == b',')) {
        let member = core::str::from_utf8(member.trim_ascii()).ok();
        if member != Some("") {
            chain.add(member.and_then(|text| node(text, true)));
        }
    }
    chain.finish()
}

/// Whether all entries say https; `None` without entries.
fn x_secure<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Result<Option<bool>, Fault> {
    let mut secure = None;
    for member in fields.flat_map(|value| value.split(|&octet| octet == b',')) {
        let https = is_https(member.trim_ascii()).ok_or(Fault::MalformedForwarded)?;
        secure = Some(secure.unwrap_or(true) && https);
    }
    Ok(secure)
}

fn is_https(scheme: &[u8]) -> Option<bool> {
    let is = |name: &[u8]| scheme.eq_ignore_ascii_case(name);
    let https = is(b"https") || is(b"wss");
    (https || is(b"http") || is(b"ws")).then_some(https)
}

/// The value of a field that must occur at most once.
fn single<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a str>, Fault> {
    let Some(value) = fields.next() else { return Ok(None) };
    let text = core::str::from_utf8(value).ok().filter(|_| fields.next().is_none());
    text.map(Some).ok_or(Fault::MalformedForwarded)
}

fn valid_host(text: &str) -> Option<&str> {
    split_authority(text).map(|_| text)
}

/// Parses an address with an optional port, or an identifier that hides the address (RFC 7239 §6).
/// `bare` is whether an IPv6 address may be written without brackets, as it is in
/// `X-Forwarded-For`.
fn node(text: &str, bare: bool) -> Option<ForwardedClient> {
    if bare && let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(ForwardedClient::At(address.to_canonical()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| !obfuscated(port) && !is_port(port)) {
        return None;
    }
    if host.eq_ignore_ascii_case("unknown") || obfuscated(host) {
        return Some(ForwardedClient::Hidden);
    }
    let address = match host.strip_prefix('[') {
        Some(inner) => IpAddr::V6(inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => IpAddr::V4(host.parse().ok()?),
    };
    Some(ForwardedClient::At(address.to_canonical()))
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit())
}

fn obfuscated(text: &str) -> bool {
    text.strip_prefix('_').is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    })
}

/// Parses `Forwarded`. Each of its elements states what one proxy observed.
fn standard<'a>(
    fields: impl Iterator<Item = &'a [u8]>,
    trusted: &[Cidr],
) -> Result<Forwarded<'a>, Fault> {
    let malformed = Fault::MalformedForwarded;
    let mut chain = ProxyChain::new(trusted);
    let (mut secure, mut host) = (None, None);
    for value in fields {
        let mut rest = core::str::from_utf8(value).map_err(|_| malformed)?;
        while !rest.is_empty() {
            let (element, behind) = Element::read(rest).ok_or(malformed)?;
            rest = behind;
            if element.pairs == 0 {
                continue;
            }
            // If the proxy that wrote this element observed an untrusted address, or names none,
            // the elements before it are untrusted.
            let unnamed = Some(ForwardedClient::Proxy);
            if chain.add(element.node.map_or(unnamed, |text| node(text, false))) {
                (secure, host) = (None, None);
            }
            if let Some(scheme) = element.scheme {
                match is_https(scheme.as_bytes()) {
                    Some(https) => secure = Some(secure.unwrap_or(true) && https),
                    None => chain.malformed = true,
                }
            }
            if let (Some(text), None) = (element.host, host) {
                match valid_host(text) {
                    Some(text) => host = Some(text),
                    None => chain.malformed = true,
                }
            }
        }
    }
    Ok(Forwarded { client: chain.finish()?, secure, host, prefix: None })
}

/// One `forwarded-element` (RFC 7239 §4).
#[derive(Debug, Default, PartialEq, Eq)]
struct Element<'a> {
    node: Option<&'a str>,
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    pairs: u32,
}

impl<'a> Element<'a> {
    /// The first element, and the text after its comma; `None` if the element is malformed.
    fn read(text: &'a str) -> Option<(Self, &'a str)> {
        let mut element = Self::default();
        let mut rest = text;
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if let Some(behind) = rest.strip_prefix(',') {
                return Some((element, behind));
            }
            if rest.is_empty() {
                return Some((element, rest));
            }
            if let Some(behind) = rest.strip_prefix(';') {
                rest = behind;
                continue;
            }
            let (name, behind) = rest.split_once('=')?;
            if !is_token(name.as_bytes()) {
                return None;
            }
            let (value, behind) = read_value(behind)?;
            let known = [
                ("for", &mut element.node),
                ("proto", &mut element.scheme),
                ("host", &mut element.host),
            ];
            let place = known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
            if place.is_some_and(|(_, place)| place.replace(value).is_some()) {
                return None;
            }
            element.pairs += 1;
            rest = behind.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with([',', ';']) {
                return None;
            }
        }
    }
}

/// A token, or the content of a quoted string. Escapes are not decoded: no valid value contains
/// any.
fn read_value(text: &str) -> Option<(&str, &str)> {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',', ';']).unwrap_or(text.len());
        return text.split_at_checked(end).filter(|(token, _)| is_token(token.as_bytes()));
    };
    let mut escaped = false;
    let end = inner.bytes().position(|octet| {
        let ends = octet == b'"' && !escaped;
        escaped = octet == b'\\' && !escaped;
        ends
    })?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::*;
    use crate::http1::FieldStorage;

    /// The parsed client, scheme, host and prefix of these fields, as text.
    fn parsed(fields: &[&str]) -> String {
        let trusted: Vec<Cidr> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|range| range.parse().unwrap()).collect();
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut storage = FieldStorage::new();
        let head = Head::parse(bytes.as_bytes(), &mut storage).unwrap();
        let Ok(Forwarded { client, secure, host, prefix }) = read(&head, &trusted) else {
            return "malformed".into();
        };
        let client = match client {
            ForwardedClient::Proxy => "proxy".into(),
            ForwardedClient::Hidden => "hidden".into(),
            ForwardedClient::At(address) => format!("{address}"),
        };
        let scheme = secure.map_or("-", |secure| if secure { "https" } else { "http" });
        format!("{client} {scheme} {} {}", host.unwrap_or("-"), prefix.unwrap_or("-"))
    }

    #[track_caller]
    fn check(fields: &[&str], expected: &str) {
        assert_eq!(parsed(fields), expected, "{fields:?}");
    }

    #[test]
    fn rightmost_untrusted_address_is_the_client() {
        check(&[], "proxy - - -");
        check(&["X-Forwarded-For: 192.0.2.1"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: 192.0.2.66, 192.0.2.1"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: 192.0.2.1, 10.0.0.1, 10.0.0.2"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: 192.0.2.66", "x-forwarded-for: 192.0.2.1"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: 10.0.0.3, 10.0.0.1"], "10.0.0.3 - - -");
        check(&["X-Forwarded-For: 192.0.2.1:4711"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: 2001:db8::1"], "2001:db8::1 - - -");
        check(&["X-Forwarded-For: [2001:db8::1], fd00::1"], "2001:db8::1 - - -");
        check(&["X-Forwarded-For: [2001:db8::1]:80"], "2001:db8::1 - - -");
        check(&["X-Forwarded-For: ::ffff:192.0.2.1"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: 192.0.2.1, unknown, 10.0.0.1"], "hidden - - -");
        check(&["X-Forwarded-For: ,192.0.2.1,"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For:"], "proxy - - -");
    }

    #[test]
    fn malformed_entry_is_an_error_only_if_trusted() {
        check(&["X-Forwarded-For: <script>, 192.0.2.1"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: <script>, 192.0.2.1, 10.0.0.1"], "192.0.2.1 - - -");
        check(&["X-Forwarded-For: <script>"], "malformed");
        check(&["X-Forwarded-For: <script>, 10.0.0.1"], "malformed");
        check(&["X-Forwarded-For: 192.0.2.1, <script>"], "malformed");
        for bad in ["192.0.2", "192.0.2.1:x", "192.0.2.1:123456", "[::1", "::1]", "a.example", "_"]
        {
            check(&[&format!("X-Forwarded-For: {bad}")], "malformed");
        }
        check(&["Forwarded: for=bad, for=192.0.2.1"], "192.0.2.1 - - -");
        check(&["Forwarded: for=192.0.2.66;proto=https;host=a, for=192.0.2.1"], "192.0.2.1 - - -");
        check(&["Forwarded: for=bad"], "malformed");
        check(&["Forwarded: for=\"", "Forwarded: for=192.0.2.1"], "malformed");
    }

    #[test]
    fn x_forwarded_proto_host_and_prefix_must_be_valid() {
        check(&["X-Forwarded-Proto: https"], "proxy https - -");
        check(&["X-Forwarded-Proto: HTTP"], "proxy http - -");
        check(&["X-Forwarded-Proto: https, http"], "proxy http - -");
        check(&["X-Forwarded-Proto: https,https"], "proxy https - -");
        check(&["X-Forwarded-Proto: gopher"], "malformed");
        check(&["X-Forwarded-Proto:"], "malformed");
        check(&["X-Forwarded-Host: mcp.example:8443"], "proxy - mcp.example:8443 -");
        for bad in ["", "a b", "a, b", "a/b", "user@a", "a:99999"] {
            check(&[&format!("X-Forwarded-Host: {bad}")], "malformed");
        }
        check(&["X-Forwarded-Host: a", "X-Forwarded-Host: a"], "malformed");
        check(&["X-Forwarded-Prefix: /mcp"], "proxy - - /mcp");
        check(&["X-Forwarded-Prefix: /a/b/"], "proxy - - /a/b");
        check(&["X-Forwarded-Prefix: /"], "proxy - - ");
        for bad in ["mcp", "//a", "/a/../b", "/a?b", "/a, /b", "/%2e", "https://a/b"] {
            check(&[&format!("X-Forwarded-Prefix: {bad}")], "malformed");
        }
        check(&["X-Forwarded-Prefix: /a", "X-Forwarded-Prefix: /a"], "malformed");
    }

    #[test]
    fn forwarded_field_is_parsed_per_element() {
        check(&["Forwarded: for=192.0.2.1"], "192.0.2.1 - - -");
        check(
            &["Forwarded: For=192.0.2.1;PROTO=https;by=10.0.0.1;Host=mcp.example"],
            "192.0.2.1 https mcp.example -",
        );
        check(&[r#"Forwarded: for="[2001:db8::1]:4711""#], "2001:db8::1 - - -");
        check(&[r#"Forwarded: for="192.0.2.1:_port""#], "192.0.2.1 - - -");
        check(&["Forwarded: for=unknown;proto=http"], "hidden http - -");
        check(&["Forwarded: for=_hidden"], "hidden - - -");
        check(
            &["Forwarded: for=192.0.2.1;proto=https;host=a, for=10.0.0.1;proto=http;host=b"],
            "192.0.2.1 http a -",
        );
        check(&["Forwarded: for=192.0.2.66", "Forwarded: for=192.0.2.1"], "192.0.2.1 - - -");
        check(&["Forwarded: proto=https;host=\"a:80\""], "proxy https a:80 -");
        check(&[r#"Forwarded: secret="a\", b;=";for=192.0.2.1"#], "192.0.2.1 - - -");
        check(&["Forwarded: , for=192.0.2.1 , ;"], "192.0.2.1 - - -");
        // A client that the nearest proxy does not name may have written the elements before.
        check(&["Forwarded: for=192.0.2.66;proto=https;host=a, by=10.0.0.1"], "proxy - - -");
        check(&["Forwarded: for=192.0.2.66;proto=https, proto=http;host=b"], "proxy http b -");
        check(&["Forwarded: for=bad;proto=gopher, proto=https"], "proxy https - -");
        check(&["Forwarded: host=a, for=10.0.0.3;proto=https"], "10.0.0.3 https a -");
        check(&["Forwarded: for=192.0.2.1", "X-Forwarded-Prefix: /p"], "192.0.2.1 - - /p");
        for bad in [
            "for=2001:db8::1",
            "for=\"2001:db8::1\"",
            "for",
            "for=",
            "=a",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=192.0.2.1 proto=http",
            "for=192.0.2.1;for=192.0.2.1",
            "for=\"192.0.2.1",
            "for=192.0.2.1;proto=gopher",
            "for=192.0.2.1;host=\"a b\"",
            r#"for="192\.0.2.1""#,
        ] {
            check(&[&format!("Forwarded: {bad}")], "malformed");
        }
    }

    #[test]
    fn forwarded_together_with_x_forwarded_is_malformed() {
        for name in ["For: 192.0.2.1", "Proto: https", "Host: a"] {
            check(&["Forwarded: for=192.0.2.1", &format!("X-Forwarded-{name}")], "malformed");
        }
    }
}
