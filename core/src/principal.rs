//! On whose behalf a session was opened.
//!
//! Knows: a name, and how two are compared without telling by the time how much of them is alike. Does
//! not know: who vouched for it.

use alloc::sync::Arc;

/// On whose behalf a session was opened, in the application's own words. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// A principal by name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Whether two are the same, in steps that depend on the second alone: its octets are compared
    /// with something, whatever there is.
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
