//! The cache of verdicts: what an authorizer has allowed, for a time.
//!
//! Knows: for which requests a verdict holds, for how long, and which entry is removed first. Does
//! not know: who decides, or how a request is refused. Time is an argument.
//!
//! Decision: refusals are not cached. A client that tries out credentials tries each once, so
//! cached refusals would fill the memory and answer no request. The cost of such a client is
//! bounded by [`DECISIONS_PER_ADDRESS_MAX`](crate::DECISIONS_PER_ADDRESS_MAX).
//!
//! An entry is found by a keyed hash of its key, which clients cannot predict. The whole key is
//! then compared in a time that depends only on the lengths: the key contains a secret, and the
//! steps of a search must not reveal how much of a guess was right.

use core::fmt;
use core::hash::BuildHasher;
use core::hint::black_box;
use core::time::Duration;
use std::collections::BTreeMap;
use std::hash::RandomState;
use std::sync::Arc;

use mcp_sse_core::{Principal, RequestHead, Time, Verdict};

/// The decision of an authorizer: a verdict, and for how long it may be cached if it allows.
///
/// An authorizer may return a [`Verdict`] instead, which becomes a decision with the lifetime of
/// the [`VerdictCache`].
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
    /// Makes a decision that is cached for the lifetime of the [`VerdictCache`].
    #[must_use]
    pub const fn new(verdict: Verdict) -> Self {
        Self { verdict, lifetime: None }
    }

    /// Limits how long the verdict is cached to `lifetime`, as for a token that expires then. Zero
    /// disables caching of this verdict. The lifetime of the [`VerdictCache`] holds if it is
    /// shorter.
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

/// The settings of the verdict cache: for how many credentials, and how long, an allowed verdict is
/// reused without calling the authorizer.
///
/// ```
/// use core::time::Duration;
/// use mcp_sse_driver::VerdictCache;
///
/// // Verdicts depend on the client's certificate, which a proxy puts into a field.
/// let cache = VerdictCache::new()
///     .entries_max(100)
///     .lifetime(Some(Duration::from_secs(10)))
///     .key(|head| Some(head.field("x-client-cert")?.to_vec()));
/// # drop(cache);
/// ```
///
/// # What a verdict holds for
///
/// By default, a verdict holds for every request with the same `Authorization` field, octet for
/// octet, below the same [service path](RequestHead::service_path), with any method and from any
/// address. So an authorizer that considers anything else, such as another field, the client's
/// address or the method, must set [`key`](Self::key), or disable the cache by a
/// [`lifetime`](Self::lifetime) of `None`. The authorizer is called for each request without that
/// field, or with several.
///
/// A revoked credential works until its verdict expires. A refusal is never cached: the next
/// request with the same credential calls the authorizer again.
///
/// # Memory
///
/// The whole key is stored, with the credential in it: at most [`entries_max`](Self::entries_max)
/// times the largest request head. When all entries are in use, the least recently used one is
/// removed. Each worker has its own cache, with its share of the entries.
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
    /// Makes the default settings: 1,024 entries, for 60 s.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries_max: 1_024,
            lifetime: Some(Duration::from_secs(60)),
            key: Arc::new(credential_and_service),
        }
    }

    /// Sets how many verdicts are cached; zero disables the cache. Default: 1,024.
    #[must_use]
    pub const fn entries_max(mut self, entries: usize) -> Self {
        self.entries_max = entries;
        self
    }

    /// Sets for how long a verdict is cached; `None` disables the cache. Default: 60 s.
    #[must_use]
    pub const fn lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the function that makes the cache key of a request: requests with equal keys get the
    /// same verdict, and a request without a key (`None`) is not cached.
    ///
    /// The function is called on the thread of the sockets for each request, so it must not block.
    /// If it panics, the request is answered 503.
    #[must_use]
    pub fn key(
        mut self,
        key: impl Fn(&RequestHead) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.key = Arc::new(key);
        self
    }

    /// The settings of one of `shards` shards: its share of the entries.
    pub(super) fn share_of(mut self, shards: usize) -> Self {
        self.entries_max = self.entries_max.div_ceil(shards.max(1));
        self
    }

    /// For how long a decision is cached; `None` if it is not.
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
    // A path contains no zero, so the zero marks its end.
    let mut key = head.service_path().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(credential);
    Some(key)
}

/// The key of a cached verdict, which contains a secret.
#[derive(Clone)]
pub(super) struct CredentialKey {
    octets: Arc<[u8]>,
    hash: u64,
}

impl CredentialKey {
    /// Compares two keys in a time that depends only on their lengths.
    pub(super) fn same(&self, other: &Self) -> bool {
        // The hash is keyed, so a different hash does not reveal how much of a guess was right.
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
    /// Its position in the order of use.
    used: u64,
}

/// The cached verdicts of one shard.
pub(super) struct Verdicts {
    settings: VerdictCache,
    hasher: RandomState,
    /// By the hash of the key. A second key with the same hash replaces the first, whose next
    /// request calls the authorizer again.
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

    /// The cache key of a request; `None` if its verdict is not cached.
    pub(super) fn key(&self, head: &RequestHead) -> Option<CredentialKey> {
        self.settings.lifetime.filter(|_| self.settings.entries_max > 0)?;
        let octets: Arc<[u8]> = (self.settings.key)(head)?.into();
        let hash = self.hasher.hash_one(&*octets);
        Some(CredentialKey { octets, hash })
    }

    /// The principal of a cached verdict that has not expired.
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

    /// Caches a decision, if it allows and may be cached.
    pub(super) fn put(&mut self, key: CredentialKey, decision: Decision, now: Time) {
        let Some(lifetime) = self.settings.lifetime_of(&decision) else { return };
        let Verdict::Allow(principal) = decision.verdict else { return };
        self.remove(key.hash);
        self.remove_expired(now);
        if self.entries.len() >= self.settings.entries_max {
            let Some(&oldest) = self.order.values().next() else { return };
            self.remove(oldest);
        }
        self.uses += 1;
        let (hash, until) = (key.hash, now.saturating_add(lifetime));
        self.order.insert(self.uses, hash);
        self.entries.insert(hash, CachedVerdict { key, principal, until, used: self.uses });
    }

    /// Removes expired entries, from the least recently used one up to the first that has not
    /// expired. It removes all expired entries if none was used since.
    fn remove_expired(&mut self, now: Time) {
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

    /// The head of a request, as an authorizer gets it.
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
        let Some(Event::Asked { head, .. }) = server.poll_event() else {
            panic!("no request for a verdict")
        };
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

    struct TestCache(Verdicts);

    impl TestCache {
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
    fn verdicts_are_cached_for_their_lifetime() {
        let mut cache = TestCache::new(VerdictCache::new());
        cache.put("a", allow("alice"), 0);
        cache.put("d", Decision::new(allow("dora")).valid_for(Duration::from_secs(7)), 0);
        cache.put("e", Decision::new(allow("emil")).valid_for(Duration::from_secs(3_600)), 0);
        for (token, lifetime, verdict) in
            [("d", 7, allow("dora")), ("a", 60, allow("alice")), ("e", 60, allow("emil"))]
        {
            // A use does not extend the lifetime.
            for seconds in 0..lifetime {
                assert_eq!(cache.get(token, seconds).as_ref(), Some(&verdict), "{token}");
            }
            assert_eq!(cache.get(token, lifetime), None, "{token}");
        }
        assert!(cache.0.entries.is_empty());
    }

    #[test]
    fn refusals_and_zero_lifetimes_are_not_cached() {
        let mut cache = TestCache::new(VerdictCache::new());
        for refusal in [
            Refusal::InvalidToken,
            Refusal::Forbidden,
            Refusal::Unavailable,
            Refusal::Unauthenticated,
        ] {
            cache.put("a", Verdict::Refuse(refusal), 0);
        }
        cache.put("a", Decision::new(allow("alice")).valid_for(Duration::ZERO), 0);
        assert_eq!(cache.get("a", 0), None);
        for off in [VerdictCache::new().lifetime(None), VerdictCache::new().entries_max(0)] {
            assert!(Verdicts::new(off).key(&bearer("a")).is_none());
        }
    }

    #[test]
    fn key_is_credential_and_service_unless_set() {
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
    fn bearer_token_is_read_from_one_field() {
        let token = |fields: &str| head("/a/sse", fields).bearer_token().map(String::from);
        assert_eq!(token("Authorization: bEARER t.k=\r\n").as_deref(), Some("t.k="));
        assert_eq!(token("Authorization: Bearer\r\n").as_deref(), Some(""));
        assert_eq!(token(""), None);
        assert_eq!(token("Authorization: Basic YTpi\r\n"), None);
        assert_eq!(token("Authorization: Bearer \u{e4}\r\n").as_deref(), Some("\u{e4}"));
        assert_eq!(token("Authorization: Bearer t\r\nauthorization: Bearer t\r\n"), None);
    }

    #[test]
    fn hash_collision_replaces_the_first_entry() {
        let mut cache = TestCache::new(VerdictCache::new());
        cache.put("alice", allow("alice"), 0);
        let mut key = cache.0.key(&bearer("carol")).unwrap();
        key.hash = cache.0.key(&bearer("alice")).unwrap().hash;
        assert_eq!(cache.0.get(&key, at(0)), None);
        cache.0.put(key.clone(), allow("carol").into(), at(0));
        cache.check();
        assert_eq!(cache.0.get(&key, at(0)), Some(Principal::new("carol")));
        assert_eq!(cache.get("alice", 0), None);
    }

    #[test]
    fn least_recently_used_entry_is_removed_first() {
        let mut cache = TestCache::new(VerdictCache::new().entries_max(3));
        cache.put("a", allow("a"), 0);
        cache.put("b", allow("b"), 0);
        cache.put("c", allow("c"), 0);
        assert_eq!(cache.get("a", 0), Some(allow("a")));
        // A refusal removes nothing.
        cache.put("bad", Verdict::Refuse(Refusal::InvalidToken), 0);
        assert_eq!(cache.0.entries.len(), 3);
        // The least recently used entry is that of b.
        cache.put("d", allow("d"), 0);
        let found = ["a", "b", "c", "d"].map(|token| cache.get(token, 0).is_some());
        assert_eq!(found, [true, false, true, true]);
        // A second verdict about a credential replaces the first.
        cache.put("d", allow("d"), 0);
        assert_eq!(cache.0.entries.len(), 3);
        // Expired entries are removed to make room.
        cache.put("e", allow("e"), 60);
        assert_eq!(cache.0.entries.len(), 1);
    }

    #[test]
    fn entries_are_shared_among_shards() {
        let entries =
            |max, shards| VerdictCache::new().entries_max(max).share_of(shards).entries_max;
        assert_eq!((entries(1_024, 1), entries(1_024, 3), entries(0, 2)), (1_024, 342, 0));
    }

    #[test]
    fn debug_output_has_no_credential() {
        let decision = Decision::from(allow("alice"));
        let text = format!("{:?} {decision:?}", VerdictCache::new());
        assert!(text.contains("entries_max: 1024") && text.contains("alice"), "{text}");
    }
}
