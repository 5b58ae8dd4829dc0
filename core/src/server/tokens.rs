//! Replacing the static tokens: sessions whose token was removed end.
//!
//! Knows: which token each session was opened with, by a serial number. Does not know: the tokens themselves (see
//! `policy/bearer.rs`), or how a session ends.
//!
//! Decision: each session stores the serial number of its token, and not only its principal. So if one of a
//! principal's two tokens is removed, the sessions of the other token stay. A token keeps its number while it stays
//! with the same principal. A number is never used for another token, so the number of a session stays correct even
//! if the tokens are replaced again before the session was checked.
//!
//! Decision: sessions are checked in batches, one for each call of `handle_timeout`, because there may be thousands,
//! and other clients should not wait for all of them. Until the session of a removed token is checked, its client can
//! receive but not post: from the replacement on, the credentials of every request are compared with the new tokens.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use super::Server;
use crate::config::Authorization;
use crate::error::NoStaticTokens;
use crate::event::{CloseReason, Deadline};
use crate::policy::bearer::StaticTokens;
use crate::timers::TimerKind;

/// How many slots of sessions are looked at in one call.
const SLOTS_BATCH: u32 = 256;

/// The serial number of a token.
pub(crate) type TokenSerial = NonZeroU64;

/// The serial numbers of the tokens that are valid, and how far sessions have been compared with them.
#[derive(Debug)]
pub(super) struct TokenSerials {
    /// In the order of the tokens.
    numbers: Box<[TokenSerial]>,
    next: TokenSerial,
    /// The first slot of a session that was not looked at since the last replacement; `None` once all were.
    unchecked: Option<u32>,
}

impl TokenSerials {
    /// Numbers the tokens of a new server, if it has any.
    pub(super) fn new(authorization: &Authorization) -> Self {
        let mut serials = Self { numbers: Box::default(), next: TokenSerial::MIN, unchecked: None };
        if let Authorization::Static(tokens) = authorization {
            serials.numbers = (0..tokens.len()).map(|_| serials.draw()).collect();
        }
        serials
    }

    /// The number of the token at this position.
    pub(super) fn of(&self, position: usize) -> Option<TokenSerial> {
        self.numbers.get(position).copied()
    }

    /// Whether the token with this number was removed.
    fn is_removed(&self, serial: TokenSerial) -> bool {
        !self.numbers.contains(&serial)
    }

    fn draw(&mut self) -> TokenSerial {
        let serial = self.next;
        // 2⁶⁴ tokens are never reached.
        self.next = serial.saturating_add(1);
        serial
    }

    /// Numbers tokens that replace others. `before` has, for each new token, the position that it had.
    fn replace(&mut self, before: &[Option<usize>]) {
        let kept: Vec<_> =
            before.iter().map(|position| position.and_then(|at| self.of(at))).collect();
        self.numbers = kept.into_iter().map(|kept| kept.unwrap_or_else(|| self.draw())).collect();
        self.unchecked = Some(0);
    }
}

impl Server {
    /// Replaces the static tokens, and begins to end the sessions whose token was removed.
    pub(super) fn take_tokens(&mut self, tokens: StaticTokens) -> Result<(), NoStaticTokens> {
        let Authorization::Static(current) = &mut self.config.authorization else {
            return Err(NoStaticTokens);
        };
        let before = tokens.positions_in(current);
        let kept = before.iter().flatten().count();
        let (added, removed) = (tokens.len() - kept, current.len() - kept);
        *current = tokens;
        self.token_serials.replace(&before);
        log::info!(
            event = "tokens_replaced",
            shard = self.config.shard,
            added = added,
            removed = removed,
            kept = kept;
            "the tokens were replaced: {added} are new, {removed} were removed, {kept} stay"
        );
        self.end_sessions_without_token();
        Ok(())
    }

    /// Looks at the next sessions after a replacement of tokens, and ends those whose token was removed.
    pub(super) fn end_sessions_without_token(&mut self) {
        let Some(first) = self.token_serials.unchecked else { return };
        let end = self.sessions.slots().min(first.saturating_add(SLOTS_BATCH));
        for index in first..end {
            let Some((key, session)) = self.sessions.at(index) else { continue };
            if session.token.is_some_and(|token| self.token_serials.is_removed(token)) {
                self.begin_end(key, CloseReason::TokenRemoved);
            }
        }
        self.token_serials.unchecked = Some(end).filter(|end| *end < self.sessions.slots());
    }

    /// Due at once while there are sessions to look at.
    pub(super) fn tokens_deadline(&self) -> Option<Deadline> {
        let deadline = Deadline { at: self.now, cause: TimerKind::TokenRemoval };
        self.token_serials.unchecked.map(|_| deadline)
    }
}
