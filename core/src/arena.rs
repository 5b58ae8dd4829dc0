//! Slots with handles that cannot be stale by accident.
//!
//! Knows: a slab, and a serial number for each tenant it ever had.
//! Does not know: what lives in the slots.

use core::fmt;
use core::num::NonZeroU32;

use slab::Slab;

use crate::token::ShardId;

/// Names one tenant of one slot: the slot's index and the tenant's serial number.
///
/// A handle of a former tenant misses. Serials wrap after 2³² - 1 tenancies of one arena; a handle
/// would have to be kept for all of them to be mistaken for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    index: u32,
    serial: NonZeroU32,
}

impl Key {
    pub(crate) const fn index(self) -> u32 {
        self.index
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.index, self.serial)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Slab<(NonZeroU32, T)>,
    serial: NonZeroU32,
}

impl<T> Arena<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Slab::new(), serial: NonZeroU32::MIN }
    }

    /// One whose keys differ from those of other shards, so that they can be told apart in one process.
    /// Only with more than 2⁸ shards, or 2²⁴ tenancies later, may two of them have one key at once.
    pub(crate) const fn of_shard(shard: ShardId) -> Self {
        Self { slots: Slab::new(), serial: NonZeroU32::MIN.saturating_add((shard.0 as u32) << 24) }
    }

    pub(crate) fn len(&self) -> u32 {
        // The arena hands out `u32` indices, so it never holds more (see `insert`).
        self.slots.len() as u32
    }

    /// The slot that the next [`insert`](Self::insert) will use.
    pub(crate) fn vacant_index(&self) -> u32 {
        u32::try_from(self.slots.vacant_key()).expect("invariant: fewer than 2^32 slots")
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        let serial = self.serial;
        self.serial = serial.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let index = self.slots.insert((serial, value));
        Key { index: u32::try_from(index).expect("invariant: fewer than 2^32 slots"), serial }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slots.remove(key.index as usize).1)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (serial, value) = self.slots.get(key.index as usize)?;
        (*serial == key.serial).then_some(value)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (serial, value) = self.slots.get_mut(key.index as usize)?;
        (*serial == key.serial).then_some(value)
    }

    /// Whoever is the tenant of slot `index` now.
    pub(crate) fn at(&self, index: u32) -> Option<(Key, &T)> {
        let (serial, value) = self.slots.get(index as usize)?;
        Some((Key { index, serial: *serial }, value))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots
            .iter()
            .map(|(index, (serial, value))| (Key { index: index as u32, serial: *serial }, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_never_finds_the_next_tenant() {
        let mut arena = Arena::new();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(first.index(), second.index(), "the slot is used again");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.get_mut(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
        assert_eq!(arena.len(), 1);
    }

    #[test]
    fn serials_wrap_past_zero() {
        let mut arena = Arena::new();
        arena.serial = NonZeroU32::MAX;
        let last = arena.insert(());
        let first = arena.insert(());
        assert_eq!((last.serial, first.serial), (NonZeroU32::MAX, NonZeroU32::MIN));
    }

    #[test]
    fn a_key_is_eight_bytes_and_so_is_its_option() {
        assert_eq!(size_of::<Option<Key>>(), 8);
    }
}
