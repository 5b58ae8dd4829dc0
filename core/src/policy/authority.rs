//! A host with an optional port, and comparison of hosts: case-insensitive, without a trailing dot.
//!
//! Knows: which hosts are loopback hosts. Does not know: the syntax (see `http1::split_authority`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::http1::split_authority;

/// A host with an optional port, without user information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses an authority; `None` if it is not a host with an optional port.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = split_authority(text)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        (!host.is_empty()).then_some(Self { host, port })
    }

    /// Whether the host is a loopback host: `localhost`, an address in 127.0.0.0/8, or `[::1]`.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || address(self.host).is_some_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Whether two hosts are equal. IP addresses are compared by value, names case-insensitively.
    pub(crate) fn same_host(&self, other: &str) -> bool {
        match (address(self.host), address(other)) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.host.eq_ignore_ascii_case(other),
            _ => false,
        }
    }
}

fn address(host: &str) -> Option<IpAddr> {
    let literal = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    match literal {
        Some(literal) => literal.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, Option<u16>, bool)>) {
        let read = Authority::parse(text);
        assert_eq!(read.map(|a| (a.host, a.port, a.is_loopback())), expected, "{text}");
    }

    #[test]
    fn authority_is_split_and_loopback_is_recognised() {
        check("localhost", Some(("localhost", None, true)));
        check("LocalHost.:8000", Some(("LocalHost", Some(8000), true)));
        check("127.0.0.1:80", Some(("127.0.0.1", Some(80), true)));
        check("127.9.9.9", Some(("127.9.9.9", None, true)));
        check("128.0.0.1", Some(("128.0.0.1", None, false)));
        check("127.1", Some(("127.1", None, false)));
        check("[::1]:80", Some(("[::1]", Some(80), true)));
        check("[0:0::1]", Some(("[0:0::1]", None, true)));
        check("[::ffff:127.0.0.1]", Some(("[::ffff:127.0.0.1]", None, true)));
        check("[::2]", Some(("[::2]", None, false)));
        check("localhost.evil.example", Some(("localhost.evil.example", None, false)));
        check("evil.example", Some(("evil.example", None, false)));
        check("", None);
        check(".", None);
        check(":80", None);
        check("a:65536", None);
        check("a:8x", None);
        check("[::1", None);
        check("[zz]", None);
        check("::1", None);
        check("user@localhost", None);
    }

    #[test]
    fn same_host_compares_addresses_by_value_and_names_by_case() {
        let same = |a, b| Authority::parse(a).unwrap().same_host(b);
        assert!(same("EXAMPLE.com.", "example.COM"));
        assert!(same("[0::1]", "[::1]"));
        assert!(!same("example.com", "example.org"));
        assert!(!same("127.0.0.1", "[::1]"));
        assert!(!same("127.0.0.1", "localhost"));
    }
}
