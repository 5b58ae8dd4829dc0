//! A value that tasks on several threads change and wait for.
//!
//! Knows: the lock, and that a task is woken after it is released. Does not know: what a task waits for.

use core::task::Waker;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A value behind a lock, with the wakers of the tasks that wait for it to change.
#[derive(Debug, Default)]
pub(super) struct Shared<T>(Mutex<T>);

impl<T> Shared<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        // Nothing panics while it holds the lock with a change half done, so the value behind a poisoned
        // lock is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value. The waker that `change` returns beside its result is woken after the lock has
    /// been released.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> (R, Option<Waker>)) -> R {
        let (result, waker) = change(&mut self.lock());
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}
