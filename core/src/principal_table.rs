//! Rates and session counts of principals, and rates of addresses.
//!
//! Knows: ordered maps, so that no choice of keys makes them slow, and which entries are removed
//! when a map is full. Does not know: what a rate applies to.
//!
//! A principal with sessions always has an entry, so its limits always apply. A principal without
//! sessions, or an address, has an entry until its rate has fully recovered. There are at most
//! `rate_entries_max` entries of each kind. When a map is full, recovered entries are removed
//! first. If there are none, the rate is *not enforced* for new principals and addresses. Refusing
//! them was rejected: an attacker with that many addresses is not stopped by a limit per address,
//! and could lock out all other clients.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::limits::within;
use crate::policy::rate::{Bucket, Rate};
use crate::principal::Principal;
use crate::time::Time;

/// The minimal time between two searches of a full map for entries that can be removed.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct PrincipalEntry {
    sessions: u32,
    bucket: Option<Bucket>,
}

/// The entries of all principals that have sessions, or whose rate has not recovered.
#[derive(Debug)]
pub(crate) struct PrincipalTable {
    rate: Option<Rate>,
    entries_max: Option<u32>,
    known: BTreeMap<Principal, PrincipalEntry>,
    /// The number of entries without a session.
    without_session: u32,
    searched: Option<Time>,
}

impl PrincipalTable {
    pub(crate) const fn new(rate: Option<Rate>, entries_max: Option<u32>) -> Self {
        Self { rate, entries_max, known: BTreeMap::new(), without_session: 0, searched: None }
    }

    pub(crate) fn sessions(&self, principal: &Principal) -> u32 {
        self.known.get(principal).map_or(0, |entry| entry.sessions)
    }

    /// The principals that have sessions, and how many each has.
    pub(crate) fn with_sessions(&self) -> impl Iterator<Item = (&Principal, u32)> {
        let all = self.known.iter().map(|(principal, entry)| (principal, entry.sessions));
        all.filter(|(_, sessions)| *sessions > 0)
    }

    pub(crate) fn opened(&mut self, principal: &Principal, now: Time) {
        if let Some(entry) = self.known.get_mut(principal) {
            self.without_session -= u32::from(entry.sessions == 0);
            entry.sessions += 1;
        } else {
            let entry = PrincipalEntry { sessions: 1, ..self.new_entry(now) };
            self.known.insert(principal.clone(), entry);
        }
    }

    fn new_entry(&self, now: Time) -> PrincipalEntry {
        let bucket = self.rate.map(|rate| Bucket::full(rate, now));
        PrincipalEntry { sessions: 0, bucket }
    }

    pub(crate) fn closed(&mut self, principal: &Principal, now: Time) {
        let entry = self.known.get_mut(principal);
        let entry = entry.expect("invariant: a principal with a session has an entry");
        entry.sessions -= 1;
        if entry.sessions > 0 {
            return;
        }
        let recovered = has_recovered(self.rate, entry.bucket, now);
        self.without_session += 1;
        if recovered || !self.has_room_for(0, now) {
            // A search may have removed the entry already.
            self.without_session -= u32::from(self.known.remove(principal).is_some());
        }
    }

    /// Whether there is room for `more` entries without sessions, after a search for entries to
    /// remove if necessary.
    fn has_room_for(&mut self, more: u32, now: Time) -> bool {
        let room = |without_session: u32, max| within(max, without_session.saturating_add(more));
        if !room(self.without_session, self.entries_max) && may_search(&mut self.searched, now) {
            let rate = self.rate;
            self.known
                .retain(|_, entry| entry.sessions > 0 || !has_recovered(rate, entry.bucket, now));
            let without_session = self.known.values().filter(|entry| entry.sessions == 0).count();
            self.without_session = without_session as u32; // Not more than before, which was a `u32`.
        }
        room(self.without_session, self.entries_max)
    }

    /// Counts a post. If the principal's rate is exceeded, returns the time until the next post is
    /// allowed.
    pub(crate) fn post(&mut self, principal: &Principal, now: Time) -> Result<(), Duration> {
        if !self.known.contains_key(principal) {
            // A post of a principal without a session fails anyway. Only its rate is a reason for
            // an entry.
            if self.rate.is_none() || !self.has_room_for(1, now) {
                return Ok(());
            }
            let entry = self.new_entry(now);
            self.known.insert(principal.clone(), entry);
            self.without_session += 1;
        }
        let Some(entry) = self.known.get_mut(principal) else { return Ok(()) };
        match (self.rate, &mut entry.bucket) {
            (Some(rate), Some(bucket)) => bucket.take(rate, now),
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// Asserts that the counts are consistent. Returns the number of sessions.
    pub(crate) fn check(&self) -> u64 {
        let without_session = self.known.values().filter(|entry| entry.sessions == 0).count();
        assert_eq!(without_session as u32, self.without_session, "principals without a session");
        assert!(within(self.entries_max, self.without_session));
        self.known.values().map(|entry| u64::from(entry.sessions)).sum()
    }
}

fn has_recovered(rate: Option<Rate>, bucket: Option<Bucket>, now: Time) -> bool {
    match (rate, bucket) {
        (Some(rate), Some(bucket)) => bucket.is_full(rate, now),
        (None, _) | (_, None) => true,
    }
}

fn may_search(searched: &mut Option<Time>, now: Time) -> bool {
    let due = searched.is_none_or(|last| now.saturating_since(last) >= SEARCH_INTERVAL);
    if due {
        *searched = Some(now);
    }
    due
}

/// Token buckets by key.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    rate: Option<Rate>,
    entries_max: Option<u32>,
    buckets: BTreeMap<K, Bucket>,
    searched: Option<Time>,
}

impl<K: Ord> Rates<K> {
    pub(crate) const fn new(rate: Option<Rate>, entries_max: Option<u32>) -> Self {
        Self { rate, entries_max, buckets: BTreeMap::new(), searched: None }
    }

    /// Takes one action from the bucket of `key`. If the rate is exceeded, returns the time until
    /// the next action is allowed.
    pub(crate) fn take(&mut self, key: K, now: Time) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        if let Some(bucket) = self.buckets.get_mut(&key) {
            return bucket.take(rate, now);
        }
        let max = self.entries_max;
        let room = |buckets: &BTreeMap<K, Bucket>| {
            within(max.map(u64::from), (buckets.len() as u64).saturating_add(1))
        };
        if !room(&self.buckets) && may_search(&mut self.searched, now) {
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
    fn full_table_removes_recovered_entries_and_does_not_limit_new_keys() {
        let mut rates = Rates::new(rate(), Some(2));
        for key in ["a", "b"] {
            assert_eq!([0; 3].map(|_| rates.take(key, secs(0)).is_ok()), [true, true, false]);
        }
        assert_eq!([0; 3].map(|_| rates.take("c", secs(0)).is_ok()), [true; 3], "no room");
        assert_eq!(rates.buckets.len(), 2);
        assert!(rates.take("a", secs(0)).is_err(), "an entry that has not recovered is kept");
        // After two seconds both have recovered, and `c` gets an entry.
        assert_eq!([0; 3].map(|_| rates.take("c", secs(2)).is_ok()), [true, true, false]);
        assert_eq!(rates.buckets.len(), 1);
    }

    #[test]
    fn full_table_is_searched_at_most_once_per_interval() {
        let mut rates = Rates::new(rate(), Some(1));
        rates.take(1, secs(0)).unwrap();
        rates.take(2, secs(0)).unwrap();
        assert_eq!(rates.searched, Some(secs(0)));
        rates.take(2, Time::from_micros(999_999)).unwrap();
        assert_eq!(rates.searched, Some(secs(0)));
        rates.take(2, secs(1)).unwrap();
        assert_eq!((rates.searched, rates.buckets.len()), (Some(secs(1)), 1));
    }

    #[test]
    fn principal_has_an_entry_while_it_has_sessions_or_its_rate_has_not_recovered() {
        let mut principals = PrincipalTable::new(rate(), Some(1));
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(Principal::new);
        principals.opened(&alice, secs(0));
        principals.opened(&alice, secs(0));
        principals.closed(&alice, secs(0));
        assert_eq!((principals.sessions(&alice), principals.check()), (1, 1));
        let posts: Vec<_> = (0..4).map(|_| principals.post(&alice, secs(0)).is_ok()).collect();
        assert_eq!(posts, [true, true, false, false]);

        // Closing the last session does not reset the rate.
        principals.closed(&alice, secs(0));
        assert_eq!(principals.check(), 0);
        assert!(principals.post(&alice, secs(0)).is_err());
        // There is no room for another principal without a session, so its rate is not enforced.
        assert_eq!((0..9).filter(|_| principals.post(&bob, secs(0)).is_ok()).count(), 9);
        assert_eq!(principals.known.len(), 1);
        // A principal with a session always has an entry.
        principals.opened(&carol, secs(0));
        assert_eq!((0..9).filter(|_| principals.post(&carol, secs(0)).is_ok()).count(), 2);
        principals.check();
        principals.closed(&carol, secs(2));
        assert_eq!(principals.known.len(), 1, "recovered, so it is forgotten at once");
        // Bob gets the entry of Alice, whose rate has recovered.
        assert!(principals.post(&bob, secs(3)).is_ok());
        assert_eq!(principals.sessions(&bob) + principals.sessions(&alice), 0);
        assert!(!principals.known.contains_key(&alice) && principals.known.contains_key(&bob));
        principals.check();
    }

    #[test]
    fn without_a_rate_only_principals_with_sessions_have_entries() {
        let mut principals = PrincipalTable::new(None, Some(0));
        let alice = Principal::new("alice");
        principals.post(&alice, secs(0)).unwrap();
        assert_eq!(principals.known.len(), 0);
        principals.opened(&alice, secs(0));
        principals.post(&alice, secs(0)).unwrap();
        assert_eq!(principals.known.len(), 1);
        principals.closed(&alice, secs(0));
        assert_eq!(principals.known.len(), 0);
    }
}
