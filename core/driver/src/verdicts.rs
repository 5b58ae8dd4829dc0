//! What authorizers have allowed, remembered for a while.
//!
//! Knows: for which requests a verdict holds, for how long, and which is forgotten first.
//! Does not know: who decides, or how a request is refused. Time is an argument.
//!
//! Refusals are not remembered: whoever tries credentials out tries each once, so that remembering them
//! would fill the memory and answer nobody. What such a client costs is bounded by
//! [`DECISIONS_PER_ADDRESS_MAX`](crate::DECISIONS_PER_ADDRESS_MAX).
//!
//! An entry is found by a keyed hash of its key, which nobody outside can aim at, and then compared
//! in whole, in a time that depends on the lengths alone: what was presented is a secret, and the
//! steps that a search takes must not tell how much of it was right.

use core::fmt;
use core::hash::BuildHasher;
use core::hint::black_box;
use core::time::Duration;
use std::collections::BTreeMap;
use std::hash::RandomState;
use std::sync::Arc;

use mcp_sse_core::{Principal, RequestHead, Time, Verdict};

/// What an authorizer says: a verdict, and for how long it may be remembered if it allows.
///
/// A [`Verdict`] becomes one that may be remembered for as long as the [`VerdictCache`] has it; the
/// closure given to `authorize` may return either.
///
/// ```
/// use core::time::Duration;
/// use mcp_sse_core::{Principal, Verdict};
/// use mcp_sse_driver::Decision;
///
/// // The token expires in ten seconds.
/// let verdict = Verdict::Allow(Principal::new("alice"));
/// let decision = Decision::new(verdict).valid_for(Duration::from_secs(10));
/// # drop(decision);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub(super) verdict: Verdict,
    pub(super) lifetime: Option<Duration>,
}

impl Decision {
    /// The verdict, remembered for as long as the [`VerdictCache`] has it.
    #[must_use]
    pub const fn new(verdict: Verdict) -> Self {
        Self { verdict, lifetime: None }
    }

    /// The same, remembered for no longer than `lifetime`: for a token that expires then. Zero: not at
    /// all. The lifetime of the [`VerdictCache`] holds if that is shorter.
    #[must_use]
    pub fn valid_for(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self::new(verdict)
    }
}

type KeyOf = dyn Fn(&RequestHead) -> Option<Vec<u8>> + Send + Sync;

/// For how many credentials, and for how long, what an authorizer allows holds without asking again.
///
/// # What a verdict holds for
///
/// Unless [`key`](Self::key) says otherwise: for every request with the same `Authorization` field,
/// octet for octet, below the same [service path](RequestHead::service_path), be it a GET or a POST,
/// from whatever address. So an authorizer that looks at anything else, such as another field, the
/// client's address or the method, must say so with [`key`](Self::key), or switch this off by a
/// [`lifetime`](Self::lifetime) of `None`. A request without that field, or with several, is asked
/// about each time.
///
/// A credential that is withdrawn goes on working until its verdict is forgotten. A refusal is never
/// remembered: the next request with the same credential is asked about again.
///
/// # Memory
///
/// The whole key is kept, with the credential in it, and compared in constant time: at most
/// [`entries_max`](Self::entries_max) times the largest request head. When all entries are in use the
/// one that was used least recently goes first. Of several workers each remembers for itself, and has
/// its share of the entries.
#[derive(Clone)]
pub struct VerdictCache {
    entries_max: usize,
    lifetime: Option<Duration>,
    key: Arc<KeyOf>,
}

impl Default for VerdictCache {
    fn default() -> Self {
        Self::new()
    }
}

impl VerdictCache {
    /// 1,024 entries, 60 s.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries_max: 1_024,
            lifetime: Some(Duration::from_secs(60)),
            key: Arc::new(credential_and_service),
        }
    }

    /// How many verdicts are remembered at once; zero is none.
    #[must_use]
    pub const fn entries_max(mut self, entries: usize) -> Self {
        self.entries_max = entries;
        self
    }

    /// For how long a verdict is remembered; `None` switches remembering off.
    #[must_use]
    pub const fn lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// What a request's verdict depends on. Requests of which this makes the same octets get the same
    /// verdict; one of which it makes `None` is asked about each time.
    ///
    /// It is called on the thread of the sockets, for each request. One at which it panics is answered
    /// 503.
    #[must_use]
    pub fn key(
        mut self,
        key: impl Fn(&RequestHead) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.key = Arc::new(key);
        self
    }

    /// That of one among so many shards.
    pub(super) fn share_of(mut self, shards: usize) -> Self {
        self.entries_max = self.entries_max.div_ceil(shards.max(1));
        self
    }

    /// For how long a decision is remembered, if at all.
    fn lifetime_of(&self, decision: &Decision) -> Option<Duration> {
        let own = self.lifetime?;
        let lifetime = decision.lifetime.map_or(own, |lifetime| lifetime.min(own));
        Some(lifetime).filter(|lifetime| !lifetime.is_zero())
    }
}

impl fmt::Debug for VerdictCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerdictCache")
            .field("entries_max", &self.entries_max)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

fn credential_and_service(head: &RequestHead) -> Option<Vec<u8>> {
    let mut credentials =
        head.fields().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let (Some((_, credential)), None) = (credentials.next(), credentials.next()) else {
        return None;
    };
    // A path has no zero in it, so where it ends is clear.
    let mut key = head.service_path().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(credential);
    Some(key)
}

/// The name under which a verdict is remembered: a secret.
#[derive(Clone)]
pub(super) struct CredentialKey {
    octets: Arc<[u8]>,
    hash: u64,
}

impl CredentialKey {
    /// Whether two are the same, in a time that depends on their lengths alone.
    pub(super) fn same(&self, other: &Self) -> bool {
        // The hash is keyed, so that it differs tells nothing of how much of a secret was right.
        if self.hash != other.hash || self.octets.len() != other.octets.len() {
            return false;
        }
        let pairs = self.octets.iter().zip(&*other.octets);
        let differs = pairs.fold(0, |sum, (a, b)| sum | (a ^ b));
        black_box(differs) == 0
    }
}

struct CachedVerdict {
    key: CredentialKey,
    principal: Principal,
    until: Time,
    /// Its number in the order of use.
    used: u64,
}

/// The verdicts that one shard remembers.
pub(super) struct Verdicts {
    settings: VerdictCache,
    hasher: RandomState,
    /// By the hash of the key. A second key of one hash displaces the first, which is asked about
    /// again; that is all that a collision does.
    entries: BTreeMap<u64, CachedVerdict>,
    /// Hashes in the order of their last use.
    order: BTreeMap<u64, u64>,
    uses: u64,
}

impl Verdicts {
    pub(super) fn new(settings: VerdictCache) -> Self {
        Self {
            settings,
            hasher: RandomState::new(),
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Under what name a verdict about this request is remembered.
    pub(super) fn key(&self, head: &RequestHead) -> Option<CredentialKey> {
        self.settings.lifetime.filter(|_| self.settings.entries_max > 0)?;
        let octets: Arc<[u8]> = (self.settings.key)(head)?.into();
        let hash = self.hasher.hash_one(&*octets);
        Some(CredentialKey { octets, hash })
    }

    /// On whose behalf this was allowed, if that still holds.
    pub(super) fn get(&mut self, key: &CredentialKey, now: Time) -> Option<Principal> {
        let entry = self.entries.get_mut(&key.hash).filter(|entry| entry.key.same(key))?;
        if entry.until <= now {
            self.remove(key.hash);
            return None;
        }
        self.order.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.order.insert(self.uses, key.hash);
        Some(entry.principal.clone())
    }

    /// Remembers what was said, if it is to be remembered.
    pub(super) fn put(&mut self, key: CredentialKey, decision: Decision, now: Time) {
        let Some(lifetime) = self.settings.lifetime_of(&decision) else { return };
        let Verdict::Allow(principal) = decision.verdict else { return };
        self.remove(key.hash);
        self.forget_expired(now);
        if self.entries.len() >= self.settings.entries_max {
            let Some(&oldest) = self.order.values().next() else { return };
            self.remove(oldest);
        }
        self.uses += 1;
        let (hash, until) = (key.hash, now.saturating_add(lifetime));
        self.order.insert(self.uses, hash);
        self.entries.insert(hash, CachedVerdict { key, principal, until, used: self.uses });
    }

    /// Forgets what has expired, from the least recently used up to the first that has not. All of
    /// it, when nothing is used.
    fn forget_expired(&mut self, now: Time) {
        while let Some(&hash) = self.order.values().next()
            && self.entries.get(&hash).is_none_or(|entry| entry.until <= now)
        {
            self.remove(hash);
        }
    }

    fn remove(&mut self, hash: u64) {
        if let Some(entry) = self.entries.remove(&hash) {
            self.order.remove(&entry.used);
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::testing::Random;
    use mcp_sse_core::{Authorization, Config, Event, Peer, Refusal, Server};

    /// The head of a request, as an authorizer is shown it.
    fn head(path: &str, fields: &str) -> Arc<RequestHead> {
        let config = Config::builder()
            .service_path("/a")
            .service_path("/b")
            .authorization(Authorization::Deferred);
        let entropy = Box::new(Random::seeded(1));
        let mut server = Server::new(config.build().unwrap(), entropy, Time::ZERO);
        let conn = server.accept(Peer::local(), Time::ZERO).unwrap();
        let input = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        server.handle_input(conn, input.as_bytes(), Time::ZERO);
        let Some(Event::Asked { head, .. }) = server.poll_event() else { panic!("no question") };
        head
    }

    fn bearer(token: &str) -> Arc<RequestHead> {
        head("/a/sse", &format!("Authorization: Bearer {token}\r\n"))
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.saturating_add(Duration::from_secs(seconds))
    }

    fn allow(name: &str) -> Verdict {
        Verdict::Allow(Principal::new(name))
    }

    struct Memory(Verdicts);

    impl Memory {
        fn new(settings: VerdictCache) -> Self {
            Self(Verdicts::new(settings))
        }

        fn put(&mut self, token: &str, decision: impl Into<Decision>, seconds: u64) {
            let key = self.0.key(&bearer(token)).unwrap();
            self.0.put(key, decision.into(), at(seconds));
            self.check();
        }

        fn get(&mut self, token: &str, seconds: u64) -> Option<Verdict> {
            let key = self.0.key(&bearer(token)).unwrap();
            let found = self.0.get(&key, at(seconds));
            self.check();
            found.map(Verdict::Allow)
        }

        fn check(&self) {
            let Verdicts { entries, order, settings, .. } = &self.0;
            assert!(entries.len() <= settings.entries_max);
            assert_eq!(entries.len(), order.len());
            for (used, hash) in order {
                assert_eq!(entries[hash].used, *used);
            }
        }
    }

    #[test]
    fn lifetimes() {
        let mut memory = Memory::new(VerdictCache::new());
        memory.put("a", allow("alice"), 0);
        memory.put("d", Decision::new(allow("dora")).valid_for(Duration::from_secs(7)), 0);
        memory.put("e", Decision::new(allow("emil")).valid_for(Duration::from_secs(3_600)), 0);
        for (token, lifetime, verdict) in
            [("d", 7, allow("dora")), ("a", 60, allow("alice")), ("e", 60, allow("emil"))]
        {
            // Looking does not make it last longer.
            for seconds in 0..lifetime {
                assert_eq!(memory.get(token, seconds).as_ref(), Some(&verdict), "{token}");
            }
            assert_eq!(memory.get(token, lifetime), None, "{token}");
        }
        assert!(memory.0.entries.is_empty());
    }

    #[test]
    fn what_is_never_remembered() {
        let mut memory = Memory::new(VerdictCache::new());
        for refusal in [
            Refusal::InvalidToken,
            Refusal::Forbidden,
            Refusal::Unavailable,
            Refusal::Unauthenticated,
        ] {
            memory.put("a", Verdict::Refuse(refusal), 0);
        }
        memory.put("a", Decision::new(allow("alice")).valid_for(Duration::ZERO), 0);
        assert_eq!(memory.get("a", 0), None);
        for off in [VerdictCache::new().lifetime(None), VerdictCache::new().entries_max(0)] {
            assert!(Verdicts::new(off).key(&bearer("a")).is_none());
        }
    }

    #[test]
    fn what_a_verdict_holds_for() {
        let verdicts = Verdicts::new(VerdictCache::new());
        let key = |path: &str, fields: &str| verdicts.key(&head(path, fields));
        let known = key("/a/sse", "Authorization: Bearer t\r\n").unwrap();
        let same = |path: &str, fields: &str| key(path, fields).unwrap().same(&known);
        assert!(same("/a/sse", "X-Other: 1\r\nauthorization: Bearer t\r\n"));
        assert!(!same("/b/sse", "Authorization: Bearer t\r\n"));
        for value in ["Bearer T", "bearer t", "Bearer  t", "Bearer tt", "Bearer", "t"] {
            assert!(!same("/a/sse", &format!("Authorization: {value}\r\n")), "{value}");
        }
        assert!(key("/a/sse", "").is_none());
        let twice = "Authorization: Bearer t\r\nAuthorization: Bearer t\r\n";
        assert!(key("/a/sse", twice).is_none());

        let by_name = VerdictCache::new().key(|head| Some(head.field("x-name")?.to_vec()));
        let verdicts = Verdicts::new(by_name);
        let key = |fields: &str| verdicts.key(&head("/a/sse", fields));
        assert!(key("Authorization: Bearer t\r\n").is_none());
        assert!(key("X-Name: n\r\n").unwrap().same(&key("X-Name: n\r\nX-Other: 1\r\n").unwrap()));
    }

    #[test]
    fn bearer_tokens() {
        let token = |fields: &str| head("/a/sse", fields).bearer_token().map(String::from);
        assert_eq!(token("Authorization: bEARER t.k=\r\n").as_deref(), Some("t.k="));
        assert_eq!(token("Authorization: Bearer\r\n").as_deref(), Some(""));
        assert_eq!(token(""), None);
        assert_eq!(token("Authorization: Basic YTpi\r\n"), None);
        assert_eq!(token("Authorization: Bearer \u{e4}\r\n").as_deref(), Some("\u{e4}"));
        assert_eq!(token("Authorization: Bearer t\r\nauthorization: Bearer t\r\n"), None);
    }

    #[test]
    fn a_hash_that_two_have_gives_nobody_the_others_verdict() {
        let mut memory = Memory::new(VerdictCache::new());
        memory.put("alice", allow("alice"), 0);
        let mut key = memory.0.key(&bearer("carol")).unwrap();
        key.hash = memory.0.key(&bearer("alice")).unwrap().hash;
        assert_eq!(memory.0.get(&key, at(0)), None);
        memory.0.put(key.clone(), allow("carol").into(), at(0));
        memory.check();
        assert_eq!(memory.0.get(&key, at(0)), Some(Principal::new("carol")));
        assert_eq!(memory.get("alice", 0), None);
    }

    #[test]
    fn who_is_forgotten_first() {
        let mut memory = Memory::new(VerdictCache::new().entries_max(3));
        memory.put("a", allow("a"), 0);
        memory.put("b", allow("b"), 0);
        memory.put("c", allow("c"), 0);
        assert_eq!(memory.get("a", 0), Some(allow("a")));
        // A refusal displaces nothing.
        memory.put("bad", Verdict::Refuse(Refusal::InvalidToken), 0);
        assert_eq!(memory.0.entries.len(), 3);
        // The one used least recently: b.
        memory.put("d", allow("d"), 0);
        let found = ["a", "b", "c", "d"].map(|token| memory.get(token, 0).is_some());
        assert_eq!(found, [true, false, true, true]);
        // One that is asked about again has one entry.
        memory.put("d", allow("d"), 0);
        assert_eq!(memory.0.entries.len(), 3);
        // What has expired makes room by itself.
        memory.put("e", allow("e"), 60);
        assert_eq!(memory.0.entries.len(), 1);
    }

    #[test]
    fn shares() {
        let entries =
            |max, shards| VerdictCache::new().entries_max(max).share_of(shards).entries_max;
        assert_eq!((entries(1_024, 1), entries(1_024, 3), entries(0, 2)), (1_024, 342, 0));
    }

    #[test]
    fn prints_no_credential() {
        let decision = Decision::from(allow("alice"));
        let text = format!("{:?} {decision:?}", VerdictCache::new());
        assert!(text.contains("entries_max: 1024") && text.contains("alice"), "{text}");
    }
}
