//! An arena: slots that are addressed by keys which never match a later value in the same slot.
//!
//! Knows: a slab, and a serial number for each value that was ever inserted.
//! Does not know: what the values are.

use core::fmt;
use core::num::NonZeroU32;
use core::ops::{Index, IndexMut};

use slab::Slab;

use crate::token::ShardId;

/// Identifies one value: the index of its slot and the serial number of the insertion.
///
/// The key of a removed value matches no other value. Serial numbers wrap after 2³² - 1 insertions
/// into one arena, so a key could match another value only after that many.
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

const PRESENT: &str = "invariant: the key of a value that is there";

/// Values in slots, addressed by [`Key`].
#[derive(Debug)]
pub(crate) struct Arena<T> {
    slots: Slab<(NonZeroU32, T)>,
    serial: NonZeroU32,
}

impl<T> Arena<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Slab::new(), serial: NonZeroU32::MIN }
    }

    /// An arena whose keys differ from those of the arenas of other shards, so that they can be
    /// told apart in one process. Two arenas can have equal keys only with more than 2⁸ shards or
    /// after 2²⁴ insertions.
    pub(crate) const fn of_shard(shard: ShardId) -> Self {
        Self { slots: Slab::new(), serial: NonZeroU32::MIN.saturating_add((shard.0 as u32) << 24) }
    }

    pub(crate) fn len(&self) -> u32 {
        // The arena returns `u32` indices, so it never holds more values (see `insert`).
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

    /// Removes a value.
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[track_caller]
    pub(crate) fn remove(&mut self, key: Key) -> T {
        assert!(self.find(key).is_some(), "{PRESENT}");
        self.slots.remove(key.index as usize).1
    }

    pub(crate) fn find(&self, key: Key) -> Option<&T> {
        let (serial, value) = self.slots.get(key.index as usize)?;
        (*serial == key.serial).then_some(value)
    }

    pub(crate) fn find_mut(&mut self, key: Key) -> Option<&mut T> {
        let (serial, value) = self.slots.get_mut(key.index as usize)?;
        (*serial == key.serial).then_some(value)
    }

    /// The number of slots, used or not: every value is in a slot with a smaller index.
    pub(crate) fn slots(&self) -> u32 {
        u32::try_from(self.slots.capacity()).unwrap_or(u32::MAX)
    }

    /// The value in slot `index` and its key.
    pub(crate) fn at(&self, index: u32) -> Option<(Key, &T)> {
        let (serial, value) = self.slots.get(index as usize)?;
        Some((Key { index, serial: *serial }, value))
    }

    /// The key of the value in slot `index`.
    ///
    /// # Panics
    ///
    /// If the slot is empty.
    #[track_caller]
    pub(crate) fn key_at(&self, index: u32) -> Key {
        self.at(index).expect(PRESENT).0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots
            .iter()
            .map(|(index, (serial, value))| (Key { index: index as u32, serial: *serial }, value))
    }
}

/// `arena[key]` is for a key whose value must be there, and panics if it is not. For a handle that may be
/// stale there is [`Arena::find`].
impl<T> Index<Key> for Arena<T> {
    type Output = T;

    #[track_caller]
    fn index(&self, key: Key) -> &T {
        self.find(key).expect(PRESENT)
    }
}

impl<T> IndexMut<Key> for Arena<T> {
    #[track_caller]
    fn index_mut(&mut self, key: Key) -> &mut T {
        self.find_mut(key).expect(PRESENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_a_removed_value_does_not_match_the_next_value() {
        let mut arena = Arena::new();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), "first");
        let second = arena.insert("second");
        assert_eq!(first.index(), second.index(), "the slot is used again");
        assert_eq!(arena.find(first), None);
        assert_eq!(arena.find_mut(first), None);
        assert_eq!((arena.find(second), arena[second]), (Some(&"second"), "second"));
        assert_eq!(arena.len(), 1);
    }

    #[test]
    fn serial_number_after_the_largest_is_one() {
        let mut arena = Arena::new();
        arena.serial = NonZeroU32::MAX;
        let last = arena.insert(());
        let first = arena.insert(());
        assert_eq!((last.serial, first.serial), (NonZeroU32::MAX, NonZeroU32::MIN));
    }

    #[test]
    fn key_and_optional_key_are_eight_bytes() {
        assert_eq!(size_of::<Option<Key>>(), 8);
    }
}
