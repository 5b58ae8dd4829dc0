//! The client of a request: the peer of the connection, or the client that a trusted proxy states.
//!
//! Knows: which peers are trusted proxies. Does not know: what a client may do.

use core::net::IpAddr;
use core::sync::atomic::Ordering::Relaxed;

use crate::config::Config;
use crate::error::Fault;
use crate::http1::Head;
use crate::peer::{AddressKey, Peer};
use crate::policy::forwarded::{self, ForwardedClient};

/// What is known about the client of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientInfo<'a> {
    pub(crate) client: Option<IpAddr>,
    /// Whether the client's own connection is TLS.
    pub(crate) secure: bool,
    /// The host that the client requested, if a proxy states it.
    pub(crate) host: Option<&'a str>,
    /// The path prefix that a proxy removed; empty if it states that it removed nothing.
    pub(crate) prefix: Option<&'a str>,
}

impl<'a> ClientInfo<'a> {
    /// Determines the client of a request.
    ///
    /// # Errors
    ///
    /// [`Fault::MalformedForwarded`] if a trusted proxy sent malformed fields. Such fields of other
    /// peers are ignored.
    pub(crate) fn of(head: &Head<'a>, peer: &Peer, config: &Config) -> Result<Self, Fault> {
        let direct = Self { client: peer.ip(), secure: peer.is_secure(), host: None, prefix: None };
        if !config.trusts(peer) {
            return Ok(direct);
        }
        let stated = forwarded::read(head, &config.trusted_proxies)?;
        let client = match stated.client {
            ForwardedClient::Proxy => direct.client,
            ForwardedClient::Hidden => None,
            ForwardedClient::At(ip) => Some(ip),
        };
        let secure = stated.secure.unwrap_or(direct.secure);
        Ok(Self { client, secure, host: stated.host, prefix: stated.prefix })
    }
}

impl Config {
    /// Whether a peer is a trusted proxy.
    pub(crate) fn trusts(&self, peer: &Peer) -> bool {
        match peer.ip() {
            Some(ip) => self.trusts_ip(ip),
            None => self.trust_local_peers,
        }
    }

    fn trusts_ip(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|range| range.contains(ip))
    }

    /// Logs a warning if an untrusted peer sent forwarding fields. It is logged once, whichever
    /// peer sends them, so that peers cannot fill the log.
    pub(crate) fn warn_of_ignored_fields(&self, head: &Head<'_>, peer: &Peer) {
        if self.ignored_fields_said.load(Relaxed) || self.trusts(peer) {
            return;
        }
        // Most requests have no field whose name begins like one of these, and are not searched for each.
        let candidate = |field: &str| matches!(field.as_bytes(), [b'f' | b'F' | b'x' | b'X', ..]);
        debug_assert!(forwarded::FIELDS.into_iter().all(candidate), "no field is passed over");
        if !head.fields().any(|(field, _)| candidate(field)) {
            return;
        }
        let named =
            |name: &&'static str| head.fields().any(|(field, _)| name.eq_ignore_ascii_case(field));
        let Some(name) = forwarded::FIELDS.into_iter().find(named) else { return };
        // Another shard may have logged it meanwhile.
        if self.ignored_fields_said.swap(true, Relaxed) {
            return;
        }
        let why = "is ignored, and so is every such field of a peer that is no trusted proxy; \
                   if this is your proxy, set";
        match peer.ip() {
            Some(ip) => log::warn!(
                event = "forwarded_fields_ignored",
                field = name,
                peer = *peer;
                "{name} from {peer} {why} trusted_proxy(\"{ip}\"), or on the command line \
                 --trusted-proxy {ip}"
            ),
            None => log::warn!(
                event = "forwarded_fields_ignored",
                field = name,
                peer = *peer;
                "{name} from a local peer {why} trust_local_peers(true), or on the command line \
                 --trusted-proxy unix"
            ),
        }
    }

    /// Whether a request can satisfy [`require_https`](crate::ConfigBuilder::require_https) at all:
    /// on a server with TLS of its own (`tls`), or one that trusts proxies, by address if it
    /// listens on TCP and as local peers if it listens on a Unix socket (`on_unix_socket`). Always
    /// true if https is not required.
    ///
    /// ```
    /// # use mcp_sse_core::Config;
    /// let config = Config::builder().require_https(true).build()?;
    /// assert!(config.https_can_arrive(true, false));
    /// assert!(!config.https_can_arrive(false, false)); // without TLS and without trusted proxies
    /// # Ok::<(), mcp_sse_core::ConfigError>(())
    /// ```
    #[must_use]
    pub fn https_can_arrive(&self, tls: bool, on_unix_socket: bool) -> bool {
        let proxies =
            if on_unix_socket { self.trust_local_peers } else { !self.trusted_proxies.is_empty() };
        !self.require_https || tls || proxies
    }

    /// The key by which limits per address count a client; `None` for trusted proxies and loopback
    /// addresses, which connect for other clients, and if the address is unknown.
    pub(crate) fn address_key(&self, client: Option<IpAddr>) -> Option<AddressKey> {
        client.filter(|&ip| !self.trusts_ip(ip)).and_then(AddressKey::of)
    }

    /// What limits per address count a [client](crate::RequestHead::client) as: its IPv4 address, or the
    /// network of its IPv6 address (/64). `None` for loopback addresses and trusted proxies, which speak
    /// for others, and where there is no address. For a driver with such a limit of its own.
    #[must_use]
    pub fn limited_address(&self, client: Option<IpAddr>) -> Option<IpAddr> {
        self.address_key(client).map(AddressKey::network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigBuilder;

    #[test]
    fn https_can_arrive_by_tls_or_by_a_trusted_proxy_of_the_listener() {
        let check = |config: ConfigBuilder, by_tls, by_tcp, by_unix| {
            let config = config.build().unwrap();
            let found = [(true, false), (false, false), (false, true)]
                .map(|(tls, unix)| config.https_can_arrive(tls, unix));
            assert_eq!(found, [by_tls, by_tcp, by_unix]);
        };
        let required = || Config::builder().require_https(true);
        check(Config::builder(), true, true, true);
        check(required(), true, false, false);
        check(required().trusted_proxy("10.0.0.0/8"), true, true, false);
        check(required().trust_local_peers(true), true, false, true);
    }
}
