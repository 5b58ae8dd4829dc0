//! Tables indexed by the slot numbers of the core: of sessions, connections and queued posts.

/// Puts `value` into a slot of a table, which grows if it is too short.
pub(super) fn put<T>(table: &mut Vec<Option<T>>, slot: usize, value: T) {
    if table.len() <= slot {
        table.resize_with(slot + 1, || None);
    }
    if let Some(entry) = table.get_mut(slot) {
        *entry = Some(value);
    }
}
