//! Checks the `Host` of a request, which protects a local server against DNS rebinding: a web page
//! that reaches the server under a host name of its own.
//!
//! Knows: which hosts are allowed on which connections. Does not know: the syntax of a host (see
//! `authority`).
//!
//! Decision: an HTTP/1.0 request without `Host` is allowed unless hosts are listed. No browser
//! sends such a request.

use alloc::string::String;

use super::authority::Authority;
use crate::error::Fault;

/// A host that the configuration allows, on one port or on any port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPattern {
    host: String,
    port: Option<u16>,
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Authority { host, port } = Authority::parse(text)?;
        Some(Self { host: host.into(), port })
    }

    fn matches(&self, authority: &Authority<'_>) -> bool {
        authority.same_host(&self.host) && (self.port.is_none() || self.port == authority.port)
    }
}

/// Checks whether a request for this `authority` is allowed on its connection.
///
/// On a connection to a loopback address, loopback names are allowed. Hosts in `allowed` are
/// allowed on every connection, and if `allowed` is not empty, no other host is allowed on a
/// network address. A request without an authority is HTTP/1.0; browsers do not send such requests,
/// so it is refused only if `allowed` is not empty.
pub(crate) fn check(
    authority: Option<&str>,
    arrived_on_loopback: bool,
    allowed: &[HostPattern],
) -> Result<(), Fault> {
    if !arrived_on_loopback && allowed.is_empty() {
        return Ok(());
    }
    let Some(authority) = authority else {
        return if allowed.is_empty() { Ok(()) } else { Err(Fault::HostNotAllowed) };
    };
    let authority = Authority::parse(authority).ok_or(Fault::InvalidHost)?;
    let loopback = arrived_on_loopback && authority.is_loopback();
    if loopback || allowed.iter().any(|pattern| pattern.matches(&authority)) {
        Ok(())
    } else {
        Err(Fault::HostNotAllowed)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const LOOPBACK: bool = true;
    const NETWORK: bool = false;

    #[track_caller]
    fn check(
        host: Option<&str>,
        arrived_on_loopback: bool,
        allowed: &[&str],
        expected: Result<(), Fault>,
    ) {
        let allowed: Vec<_> = allowed.iter().map(|a| HostPattern::parse(a).unwrap()).collect();
        assert_eq!(super::check(host, arrived_on_loopback, &allowed), expected, "{host:?}");
    }

    #[test]
    fn host_is_allowed_if_loopback_or_listed() {
        let no = Err(Fault::HostNotAllowed);
        check(Some("localhost"), LOOPBACK, &[], Ok(()));
        check(Some("LOCALHOST.:9"), LOOPBACK, &[], Ok(()));
        check(Some("127.0.0.1:8000"), LOOPBACK, &[], Ok(()));
        check(Some("[::1]:8000"), LOOPBACK, &[], Ok(()));
        check(Some("evil.example"), LOOPBACK, &[], no);
        check(Some("localhost.evil.example"), LOOPBACK, &[], no);
        check(Some("0.0.0.0"), LOOPBACK, &[], no);
        check(None, LOOPBACK, &[], Ok(()));

        check(Some("evil.example"), NETWORK, &[], Ok(()));
        check(Some("mcp.example"), NETWORK, &["mcp.example"], Ok(()));
        check(Some("MCP.example.:443"), NETWORK, &["mcp.example"], Ok(()));
        check(Some("mcp.example:443"), NETWORK, &["mcp.example:443"], Ok(()));
        check(Some("mcp.example:80"), NETWORK, &["mcp.example:443"], no);
        check(Some("mcp.example"), NETWORK, &["mcp.example:443"], no);
        check(Some("localhost"), NETWORK, &["mcp.example"], no);
        check(None, NETWORK, &["mcp.example"], no);
        check(Some("mcp.example"), LOOPBACK, &["mcp.example"], Ok(()));
        check(Some("localhost"), LOOPBACK, &["mcp.example"], Ok(()));
        check(Some("evil.example"), LOOPBACK, &["mcp.example"], no);
    }
}
