//! Validates `host [ ":" port ]`: the value of a `Host` field and the authority of a target.
//!
//! Knows: the syntax of RFC 3986 §3.2.2 and where it is narrowed. Does not know: which hosts are
//! allowed.
//!
//! RFC 3986 allows almost any character in a registered name (`!$&'()*+,;=`), because other schemes
//! may need them. Names in `http` URIs come from the DNS, so this module accepts only unreserved
//! characters and percent escapes. A comma, for example, appears when a proxy merges two `Host`
//! fields; quotes and semicolons occur in no host name.

use super::octets::{self, UNRESERVED};
use core::net::Ipv6Addr;
use core::str;

/// Whether `authority` is a valid host with an optional valid port: the host is not empty, an IPv6
/// address is valid and in brackets, and a port has 1 to 5 digits and is at most 65535.
pub(super) fn is_valid(authority: &str) -> bool {
    split_authority(authority).is_some()
}

/// Whether `authority` is valid and names a port, as the authority form of a target must (RFC 9112
/// §3.2.3).
pub(super) fn has_port(authority: &str) -> bool {
    split_authority(authority).is_some_and(|(_, port)| port.is_some())
}

/// The host and the port of `authority`, or `None` if it is not valid.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = split(authority).filter(|(host, _)| host_is_valid(host))?;
    match port {
        None => Some((host, None)),
        Some(digits) => Some((host, Some(parse_port(digits)?))),
    }
}

fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    let host_end = match authority.strip_prefix('[') {
        Some(inner) => inner.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at_checked(host_end)?;
    match rest {
        "" => Some((host, None)),
        _ => Some((host, Some(rest.strip_prefix(':')?))),
    }
}

fn host_is_valid(host: &str) -> bool {
    match host.strip_prefix('[') {
        // Zone identifiers are refused: they have a meaning only on the sender's machine (RFC 6874
        // §1).
        Some(inner) => inner.strip_suffix(']').is_some_and(|text| text.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && name_is_valid(host.as_bytes()),
    }
}

fn name_is_valid(mut name: &[u8]) -> bool {
    loop {
        name = name.get(octets::run(name, UNRESERVED)..).unwrap_or_default();
        match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                name = rest;
            }
            _ => return false,
        }
    }
}

fn parse_port(digits: &str) -> Option<u16> {
    // `u16::from_str` accepts a sign and any number of leading zeros, so the text is checked first.
    if digits.len() > 5 || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The value of a `Host` field as text, or `None` if it is not a valid authority.
pub(super) fn from_field(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|text| is_valid(text))
}

#[cfg(test)]
mod tests;
