//! Tables whose slots the core numbers: by session, connection or held post.

/// Puts something into the slot of a table that grows as slots are used.
pub(super) fn put<T>(table: &mut Vec<Option<T>>, slot: usize, value: T) {
    if table.len() <= slot {
        table.resize_with(slot + 1, || None);
    }
    if let Some(place) = table.get_mut(slot) {
        *place = Some(value);
    }
}
