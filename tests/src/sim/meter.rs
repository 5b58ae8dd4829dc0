//! Measures how much memory the core holds, and how often it allocates.
//!
//! Knows: an allocator that marks each block with whether the core allocated it. A core block
//! counts until it is freed, whoever frees it.
//! Does not know: what the memory is for. It counts nothing unless a program installs
//! [`CountingAllocator`].

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::alloc::System;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Runs code of the core: memory that it allocates counts as the core's.
pub fn inside<T>(run: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }
    let _restore = Restore(INSIDE.replace(true));
    run()
}

/// Runs code that the core calls back: memory that it allocates does not count.
pub fn outside<T>(run: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }
    let _restore = Restore(INSIDE.replace(false));
    run()
}

/// Bytes that the core holds, as allocated on this thread.
#[must_use]
pub fn live() -> i64 {
    LIVE.get()
}

/// The maximum of [`live`] since the last call of this function.
pub fn take_peak() -> i64 {
    PEAK.replace(LIVE.get())
}

/// The maximum of [`live`] since the last call of [`take_peak`].
#[must_use]
pub fn peak() -> i64 {
    PEAK.get()
}

/// How many allocations the core has made on this thread.
#[must_use]
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// The system's allocator with counters. Nothing is counted unless it is the global allocator.
#[derive(Debug)]
pub struct CountingAllocator;

/// The layout of a block with room for a mark in front of it, which keeps the alignment.
fn with_mark(layout: Layout) -> Option<(Layout, usize)> {
    let room = layout.align().max(16);
    let size = layout.size().checked_add(room)?;
    Layout::from_size_align(size, room).ok().map(|layout| (layout, room))
}

fn count(bytes: i64) {
    // The allocator outlives thread-local storage.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
    if bytes > 0 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: everything comes from and goes back to the system's allocator, larger by a mark whose size
// follows from the layout; the mark lies in front of what the caller sees. Counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, room)) = with_mark(layout) else { return core::ptr::null_mut() };
        // SAFETY: `whole` is not of size zero.
        let start = unsafe { System.alloc(whole) };
        if start.is_null() {
            return start;
        }
        let ours = INSIDE.try_with(Cell::get).unwrap_or(false);
        if ours {
            count(layout.size() as i64);
        }
        // SAFETY: `room` is at least 16 and a multiple of 8, within what was allocated.
        unsafe {
            start.add(room - 8).cast::<u64>().write(u64::from(ours));
            start.add(room)
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some((whole, room)) = with_mark(layout) else { return };
        // SAFETY: `memory` came from `alloc` with this layout, so the mark is in front of it.
        unsafe {
            if memory.sub(8).cast::<u64>().read() == 1 {
                count(-(layout.size() as i64));
            }
            System.dealloc(memory.sub(room), whole);
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some((whole, room)) = with_mark(layout) else { return core::ptr::null_mut() };
        let Some(new_size) = size.checked_add(room) else { return core::ptr::null_mut() };
        // SAFETY: as in `dealloc`; the mark moves with the rest.
        unsafe {
            let start = System.realloc(memory.sub(room), whole, new_size);
            if start.is_null() {
                return start;
            }
            if start.add(room - 8).cast::<u64>().read() == 1 {
                // Both blocks may have existed at once, while one was copied to the other, so the
                // peak counts both.
                count(size as i64);
                count(-(layout.size() as i64));
            }
            start.add(room)
        }
    }
}
