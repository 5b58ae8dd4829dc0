//! Who asks: the peer of a connection, or whom a trusted proxy says that it speaks for.
//!
//! Knows: which peers are believed. Does not know: what they may do.

use core::net::IpAddr;
use core::sync::atomic::Ordering::Relaxed;

use crate::config::Config;
use crate::error::Fault;
use crate::http1::Head;
use crate::peer::{AddressKey, Peer};
use crate::policy::forwarded::{self, Client};

/// What is known of who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientInfo<'a> {
    pub(crate) client: Option<IpAddr>,
    /// Whether the client's own connection is TLS.
    pub(crate) secure: bool,
    /// The host that it asked for, if a proxy says that.
    pub(crate) host: Option<&'a str>,
    /// What a proxy has cut off the front of the path; empty if it says that this is nothing.
    pub(crate) prefix: Option<&'a str>,
}

impl<'a> ClientInfo<'a> {
    /// # Errors
    ///
    /// [`Fault::MalformedForwarded`] if a trusted proxy says what cannot be understood. From anybody
    /// else such fields are as good as not there.
    pub(crate) fn of(head: &Head<'a>, peer: &Peer, config: &Config) -> Result<Self, Fault> {
        let plain = Self { client: peer.ip(), secure: peer.is_secure(), host: None, prefix: None };
        if !config.trusts(peer) {
            return Ok(plain);
        }
        let said = forwarded::read(head, &config.trusted_proxies)?;
        let client = match said.client {
            Client::Proxy => plain.client,
            Client::Hidden => None,
            Client::At(ip) => Some(ip),
        };
        let secure = said.secure.unwrap_or(plain.secure);
        Ok(Self { client, secure, host: said.host, prefix: said.prefix })
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

    /// Warns of fields that would count if the peer were a trusted proxy: once, whoever sends them, since
    /// what a stranger can repeat must not fill the log.
    pub(crate) fn warn_of_ignored_fields(&self, head: &Head<'_>, peer: &Peer) {
        if self.ignored_fields_said.load(Relaxed) || self.trusts(peer) {
            return;
        }
        let named =
            |name: &&'static str| head.fields().any(|(field, _)| name.eq_ignore_ascii_case(field));
        let Some(name) = forwarded::FIELDS.into_iter().find(named) else { return };
        // Another shard may have been quicker.
        if self.ignored_fields_said.swap(true, Relaxed) {
            return;
        }
        let why = "is ignored, and so is every such field of a peer that is no trusted proxy; \
                   if this is your proxy, set";
        match peer.ip() {
            Some(ip) => log::warn!(
                "{name} from {peer} {why} trusted_proxy(\"{ip}\"), or on the command line \
                 --trusted-proxy {ip}"
            ),
            None => log::warn!(
                "{name} from a local peer {why} trust_local_peers(true), or on the command line \
                 --trusted-proxy unix"
            ),
        }
    }

    /// Whether a request can meet [`require_https`](crate::ConfigBuilder::require_https) at all: on a
    /// server that speaks TLS itself, or that trusts proxies, by address where it listens on TCP and
    /// as local peers where it listens on a Unix socket. Always if nothing is required.
    #[must_use]
    pub fn https_can_arrive(&self, tls: bool, on_unix_socket: bool) -> bool {
        let proxies =
            if on_unix_socket { self.trust_local_peers } else { !self.trusted_proxies.is_empty() };
        !self.require_https || tls || proxies
    }

    /// What limits per address count by; `None` for who speaks for others, and where nobody knows.
    pub(crate) fn address_key(&self, client: Option<IpAddr>) -> Option<AddressKey> {
        client.filter(|&ip| !self.trusts_ip(ip)).and_then(AddressKey::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigBuilder;

    #[test]
    fn https_arrives_by_tls_or_by_proxies_of_the_kind_that_can_connect() {
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
