//! The principal of a session.
//!
//! Knows: a name, and how to compare names in constant time. Does not know: how a principal was
//! authenticated.

use alloc::sync::Arc;

/// The identity on whose behalf a session was opened: a user or a client, by a name of the
/// application's choice. A clone costs one reference count.
///
/// ```
/// use mcp_sse_core::Principal;
///
/// let alice = Principal::new("alice");
/// assert_eq!(alice.name(), "alice");
/// assert_eq!(alice, Principal::new("alice"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// Makes a principal with this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Whether the two are equal. The number of steps depends only on the length of `claimed`: each
    /// of its octets is compared, whatever `known` is.
    pub(crate) fn same(known: Option<&Self>, claimed: Option<&Self>) -> bool {
        const NOBODY: &[u8] = &[0];
        let octets = |principal: Option<&'_ Self>| principal.map_or(0, |p| p.0.len() + 1);
        let stored = known.map(|p| p.0.as_bytes()).filter(|name| !name.is_empty());
        let stored = stored.unwrap_or(NOBODY);
        let mut differs = octets(known) ^ octets(claimed);
        for (at, octet) in claimed.map_or("", Self::name).bytes().enumerate() {
            #[cfg(test)]
            crate::testing::step();
            let other = stored.get(at.min(stored.len() - 1)).copied().unwrap_or_default();
            differs |= usize::from(octet ^ other);
        }
        core::hint::black_box(differs) == 0
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}
