//! The checks that every request passes before it is routed: pure functions of a request head, the
//! connection's addresses and the configuration.
//!
//! Knows: which hosts, origins, credentials and media types are allowed, which proxies are trusted,
//! and how rates are measured. Does not know: connections, sessions, or how a refusal is answered.

pub(crate) mod authority;
pub(crate) mod bearer;
pub(crate) mod cidr;
pub(crate) mod cors;
pub(crate) mod forwarded;
pub(crate) mod host;
pub(crate) mod media;
pub(crate) mod origin;
pub(crate) mod rate;
pub(crate) mod resource;
