//! Who uses how much, where a rate has to be remembered: principals and addresses.
//!
//! Knows: ordered maps, so that no choice of keys makes them slow, and what is forgotten when they
//! have no room. Does not know: what a rate is for.
//!
//! A principal with sessions always has its place, so its limits always hold. One without sessions is
//! remembered as long as its rate is not wholly restored, and so is an address; there are at most
//! `rate_entries_max` of each kind. When that many are remembered, those that are restored are
//! forgotten first. If there are none, newcomers are *not limited by the rate*, rather than refused:
//! whoever commands so many addresses is stopped by no limit per address, and refusing would let him
//! lock out everybody else.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::limits::within;
use crate::policy::rate::{Bucket, Rate};
use crate::principal::Principal;
use crate::time::Time;

/// A full table is searched for what can be forgotten no more often than this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a principal, lent by [`Server::principals`](crate::Server::principals).
#[derive(Clone, Copy, Debug)]
pub struct PrincipalView<'a> {
    principal: &'a Principal,
    entry: &'a PrincipalEntry,
}

impl<'a> PrincipalView<'a> {
    /// Who it is.
    #[must_use]
    pub const fn principal(&self) -> &'a Principal {
        self.principal
    }

    /// Sessions open now.
    #[must_use]
    pub const fn sessions_open(&self) -> u32 {
        self.entry.sessions
    }

    /// Posts, refused ones among them, since the principal is known: from its first session until it
    /// has none and its rate is restored.
    #[must_use]
    pub const fn posts(&self) -> u64 {
        self.entry.posts
    }

    /// Posts that were answered 429, in that time.
    #[must_use]
    pub const fn posts_limited(&self) -> u64 {
        self.entry.limited
    }
}

#[derive(Clone, Copy, Debug)]
struct PrincipalEntry {
    sessions: u32,
    posts: u64,
    limited: u64,
    bucket: Option<Bucket>,
}

#[derive(Debug)]
pub(crate) struct PrincipalTable {
    rate: Option<Rate>,
    entries_max: Option<u32>,
    known: BTreeMap<Principal, PrincipalEntry>,
    /// Those of them that have no session.
    without_session: u32,
    swept: Option<Time>,
}

impl PrincipalTable {
    pub(crate) const fn new(rate: Option<Rate>, entries_max: Option<u32>) -> Self {
        Self { rate, entries_max, known: BTreeMap::new(), without_session: 0, swept: None }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PrincipalView<'_>> {
        self.known.iter().map(|(principal, entry)| PrincipalView { principal, entry })
    }

    pub(crate) fn sessions(&self, principal: &Principal) -> u32 {
        self.known.get(principal).map_or(0, |entry| entry.sessions)
    }

    pub(crate) fn opened(&mut self, principal: &Principal, now: Time) {
        if let Some(entry) = self.known.get_mut(principal) {
            self.without_session -= u32::from(entry.sessions == 0);
            entry.sessions += 1;
        } else {
            let entry = PrincipalEntry { sessions: 1, ..self.newcomer(now) };
            self.known.insert(principal.clone(), entry);
        }
    }

    fn newcomer(&self, now: Time) -> PrincipalEntry {
        let bucket = self.rate.map(|rate| Bucket::full(rate, now));
        PrincipalEntry { sessions: 0, posts: 0, limited: 0, bucket }
    }

    pub(crate) fn closed(&mut self, principal: &Principal, now: Time) {
        let entry = self.known.get_mut(principal);
        let entry = entry.expect("invariant: whoever has a session is known");
        entry.sessions -= 1;
        if entry.sessions > 0 {
            return;
        }
        let restored = is_restored(self.rate, entry.bucket, now);
        self.without_session += 1;
        if restored || !self.has_room_for(0, now) {
            // A sweep may have forgotten it already.
            self.without_session -= u32::from(self.known.remove(principal).is_some());
        }
    }

    /// Whether so many more without sessions can be remembered.
    fn has_room_for(&mut self, more: u32, now: Time) -> bool {
        let room = |without_session: u32, max| within(max, without_session.saturating_add(more));
        if !room(self.without_session, self.entries_max) && may_sweep(&mut self.swept, now) {
            let rate = self.rate;
            self.known
                .retain(|_, entry| entry.sessions > 0 || !is_restored(rate, entry.bucket, now));
            let without_session = self.known.values().filter(|entry| entry.sessions == 0).count();
            self.without_session = without_session as u32; // Fewer than there were.
        }
        room(self.without_session, self.entries_max)
    }

    /// Counts a post, or says for how long the principal may not.
    pub(crate) fn post(&mut self, principal: &Principal, now: Time) -> Result<(), Duration> {
        if !self.known.contains_key(principal) {
            // Without a session it can reach nothing; only a rate is a reason to remember it.
            if self.rate.is_none() || !self.has_room_for(1, now) {
                return Ok(());
            }
            let entry = self.newcomer(now);
            self.known.insert(principal.clone(), entry);
            self.without_session += 1;
        }
        let Some(entry) = self.known.get_mut(principal) else { return Ok(()) };
        entry.posts += 1;
        let taken = match (self.rate, &mut entry.bucket) {
            (Some(rate), Some(bucket)) => bucket.take(rate, now),
            (None, _) | (_, None) => Ok(()),
        };
        entry.limited += u64::from(taken.is_err());
        taken
    }

    /// A post was refused because of its session's own rate.
    pub(crate) fn limited(&mut self, principal: &Principal) {
        if let Some(entry) = self.known.get_mut(principal) {
            entry.limited += 1;
        }
    }

    /// Asserts that the books are right. Returns the number of sessions in them.
    pub(crate) fn check(&self) -> u64 {
        let without_session = self.known.values().filter(|entry| entry.sessions == 0).count();
        assert_eq!(without_session as u32, self.without_session, "principals without a session");
        assert!(within(self.entries_max, self.without_session));
        self.known.values().map(|entry| u64::from(entry.sessions)).sum()
    }
}

fn is_restored(rate: Option<Rate>, bucket: Option<Bucket>, now: Time) -> bool {
    match (rate, bucket) {
        (Some(rate), Some(bucket)) => bucket.is_full(rate, now),
        (None, _) | (_, None) => true,
    }
}

fn may_sweep(swept: &mut Option<Time>, now: Time) -> bool {
    let due = swept.is_none_or(|last| now.saturating_since(last) >= SWEEP_INTERVAL);
    if due {
        *swept = Some(now);
    }
    due
}

/// Rates by key.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    rate: Option<Rate>,
    entries_max: Option<u32>,
    buckets: BTreeMap<K, Bucket>,
    swept: Option<Time>,
}

impl<K: Ord> Rates<K> {
    pub(crate) const fn new(rate: Option<Rate>, entries_max: Option<u32>) -> Self {
        Self { rate, entries_max, buckets: BTreeMap::new(), swept: None }
    }

    /// Acts once for a key, or says for how long it may not.
    pub(crate) fn take(&mut self, key: K, now: Time) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        if let Some(bucket) = self.buckets.get_mut(&key) {
            return bucket.take(rate, now);
        }
        let max = self.entries_max;
        let room = |buckets: &BTreeMap<K, Bucket>| {
            within(max.map(u64::from), (buckets.len() as u64).saturating_add(1))
        };
        if !room(&self.buckets) && may_sweep(&mut self.swept, now) {
            self.buckets.retain(|_, bucket| !bucket.is_full(rate, now));
        }
        let mut bucket = Bucket::full(rate, now);
        let taken = bucket.take(rate, now);
        if room(&self.buckets) {
            self.buckets.insert(key, bucket);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const fn secs(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    fn rate() -> Option<Rate> {
        Some("1/second,burst=2".parse().unwrap())
    }

    #[test]
    fn a_full_table_forgets_who_is_restored_and_limits_no_newcomer() {
        let mut rates = Rates::new(rate(), Some(2));
        for key in ["a", "b"] {
            assert_eq!([0; 3].map(|_| rates.take(key, secs(0)).is_ok()), [true, true, false]);
        }
        assert_eq!([0; 3].map(|_| rates.take("c", secs(0)).is_ok()), [true; 3], "no room");
        assert_eq!(rates.buckets.len(), 2);
        assert!(rates.take("a", secs(0)).is_err(), "who is remembered is not forgotten");
        // At two seconds both are restored, and `c` takes a place.
        assert_eq!([0; 3].map(|_| rates.take("c", secs(2)).is_ok()), [true, true, false]);
        assert_eq!(rates.buckets.len(), 1);
    }

    #[test]
    fn a_full_table_is_not_searched_again_at_once() {
        let mut rates = Rates::new(rate(), Some(1));
        rates.take(1, secs(0)).unwrap();
        rates.take(2, secs(0)).unwrap();
        assert_eq!(rates.swept, Some(secs(0)));
        rates.take(2, Time::from_micros(999_999)).unwrap();
        assert_eq!(rates.swept, Some(secs(0)));
        rates.take(2, secs(1)).unwrap();
        assert_eq!((rates.swept, rates.buckets.len()), (Some(secs(1)), 1));
    }

    #[test]
    fn a_principal_is_known_while_it_has_sessions_or_owes_something() {
        let mut principals = PrincipalTable::new(rate(), Some(1));
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(Principal::new);
        principals.opened(&alice, secs(0));
        principals.opened(&alice, secs(0));
        principals.closed(&alice, secs(0));
        assert_eq!((principals.sessions(&alice), principals.check()), (1, 1));
        let posts: Vec<_> = (0..4).map(|_| principals.post(&alice, secs(0)).is_ok()).collect();
        assert_eq!(posts, [true, true, false, false]);
        let [view] = principals.iter().collect::<Vec<_>>()[..] else { panic!("one is known") };
        assert_eq!((view.posts(), view.posts_limited(), view.sessions_open()), (4, 2, 1));

        // Closing the session does not give it a new start.
        principals.closed(&alice, secs(0));
        assert_eq!(principals.check(), 0);
        assert!(principals.post(&alice, secs(0)).is_err());
        // There is no room for another without a session, nor need there be.
        assert_eq!((0..9).filter(|_| principals.post(&bob, secs(0)).is_ok()).count(), 9);
        assert_eq!(principals.known.len(), 1);
        // One with a session always has room.
        principals.opened(&carol, secs(0));
        assert_eq!((0..9).filter(|_| principals.post(&carol, secs(0)).is_ok()).count(), 2);
        principals.check();
        principals.closed(&carol, secs(2));
        assert_eq!(principals.known.len(), 1, "restored, so it is forgotten at once");
        // Bob takes the place of Alice, who is restored.
        assert!(principals.post(&bob, secs(3)).is_ok());
        assert_eq!(principals.sessions(&bob) + principals.sessions(&alice), 0);
        assert!(!principals.known.contains_key(&alice) && principals.known.contains_key(&bob));
        principals.check();
    }

    #[test]
    fn without_a_rate_only_sessions_are_remembered() {
        let mut principals = PrincipalTable::new(None, Some(0));
        let alice = Principal::new("alice");
        principals.post(&alice, secs(0)).unwrap();
        assert_eq!(principals.known.len(), 0);
        principals.opened(&alice, secs(0));
        principals.post(&alice, secs(0)).unwrap();
        assert_eq!(principals.iter().map(|view| view.posts()).sum::<u64>(), 1);
        principals.closed(&alice, secs(0));
        assert_eq!(principals.known.len(), 0);
    }
}
