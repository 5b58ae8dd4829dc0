//! How handles on any thread get a shard's attention.

use alloc::vec::Vec;
use core::mem;
use core::task::{Context, Waker};
use std::sync::{Mutex, PoisonError};

use crate::event::SessionId;
use crate::report::Report;

/// The sessions whose handles want something, and whom to wake about it.
///
/// Not a queue that can grow: each handle lists its session at most once until the shard has looked.
#[derive(Debug, Default)]
pub(super) struct Attention {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: Vec<SessionId>,
    shutdowns: u32,
    report: Option<Report>,
    waker: Option<Waker>,
}

/// What was wanted since the last look.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) sessions: Vec<SessionId>,
    pub(super) shutdowns: u32,
    pub(super) report: Option<Report>,
}

impl Attention {
    pub(super) fn session(&self, session: SessionId) {
        self.change(|state| state.sessions.push(session));
    }

    pub(super) fn shutdown(&self) {
        self.change(|state| state.shutdowns = state.shutdowns.saturating_add(1));
    }

    /// A later report replaces one that nobody has looked at.
    pub(super) fn report(&self, report: Report) {
        self.change(|state| state.report = Some(report));
    }

    /// Something else wants a look: a control was sent.
    pub(super) fn wake(&self) {
        self.change(|_| {});
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what is wanted, and sees to being woken about what comes.
    pub(super) fn take(&self, cx: &Context<'_>) -> Wanted {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Wanted {
            sessions: mem::take(&mut state.sessions),
            shutdowns: mem::take(&mut state.shutdowns),
            report: state.report.take(),
        }
    }
}
