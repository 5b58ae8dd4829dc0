//! Counts by key, for limits per address and per principal.
//!
//! It is an ordered map, so that no choice of keys makes it slow. A key with a count of zero is
//! removed, so the map is never larger than the number of things counted.

use alloc::collections::BTreeMap;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counter<K> {
    counts: BTreeMap<K, u64>,
}

impl<K: Ord> Counter<K> {
    pub(crate) const fn new() -> Self {
        Self { counts: BTreeMap::new() }
    }

    pub(crate) fn count(&self, key: &K) -> u64 {
        self.counts.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, key: K) {
        self.add_some(key, 1);
    }

    /// Adds `more`, which must not be zero.
    pub(crate) fn add_some(&mut self, key: K, more: u64) {
        *self.counts.entry(key).or_default() += more;
    }

    #[cfg(test)]
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(crate) fn subtract(&mut self, key: &K) {
        self.subtract_some(key, 1);
    }

    pub(crate) fn subtract_some(&mut self, key: &K, less: u64) {
        let count = self.counts.get_mut(key).expect("invariant: only what was added is subtracted");
        *count -= less;
        if *count == 0 {
            self.counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_with_count_zero_is_removed() {
        let mut counter = Counter::new();
        counter.add("a");
        counter.add("a");
        counter.add("b");
        assert_eq!((counter.count(&"a"), counter.count(&"c"), counter.total()), (2, 0, 3));
        counter.subtract(&"a");
        counter.subtract(&"a");
        assert_eq!((counter.count(&"a"), counter.counts.len()), (0, 1));
    }
}
