//! Who asks: the peer of a connection, or whom a trusted proxy says that it speaks for.
//!
//! Knows: which peers are believed. Does not know: what they may do.

use core::net::IpAddr;

use crate::config::Config;
use crate::error::Fault;
use crate::http1::Head;
use crate::peer::{AddressKey, Peer};
use crate::policy::forwarded::{self, Client};

/// What is known of who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asker<'a> {
    pub(crate) client: Option<IpAddr>,
    /// Whether the client's own connection is TLS.
    pub(crate) secure: bool,
    /// The host that it asked for, if a proxy says that.
    pub(crate) host: Option<&'a str>,
    /// What a proxy has cut off the front of the path; empty if it says that this is nothing.
    pub(crate) prefix: Option<&'a str>,
}

impl<'a> Asker<'a> {
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

    /// What limits per address count by; `None` for who speaks for others, and where nobody knows.
    pub(crate) fn address_key(&self, client: Option<IpAddr>) -> Option<AddressKey> {
        client.filter(|&ip| !self.trusts_ip(ip)).and_then(AddressKey::of)
    }
}
