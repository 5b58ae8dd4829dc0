//! Which session has subscribed to which resource, as the server knows one client only.
//!
//! Knows: which sessions an update goes to, and when the server can be told that it goes to none any more.
//! Does not know: what a URI names.
//!
//! Theory of operation. Each `resources/subscribe` is passed on, as the server says whether there is
//! such a resource, and a second one for the same URI changes nothing for it. From then on the session
//! counts as a subscriber, until the server refuses or the session unsubscribes or ends. An
//! `unsubscribe` is passed on for the last subscriber of a URI, and answered by the bridge for others. A
//! server that is started anew is asked for all that is subscribed to; its answers to that are dropped.
//!
//! To count what the server has granted only was the alternative: then an `unsubscribe` that crosses
//! the answer to another session's `subscribe` would end that subscription.
//!
//! Decision: an update goes to the sessions that subscribed to that URI or to one above it, and to all
//! sessions if none did, because servers spell URIs in ways of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Mux, MuxLimits, MuxPhase, SessionKey};

/// Updates of longer URIs go to subscribers of exactly that URI, and not to those of what it is a part of.
const PARENTS_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    uris: BTreeMap<Arc<str>, SubscribedResource>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct SubscribedResource {
    /// The server has granted a subscription, and was not sent an `unsubscribe` since.
    granted: bool,
    subscribers: BTreeMap<SessionKey, Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    /// The numbers of its first and its last request for this resource.
    first: u64,
    last: u64,
    granted: bool,
}

impl Subscriptions {
    /// Whether others than `key` have subscribed to this.
    pub(super) fn is_of_others(&self, key: SessionKey, uri: &str) -> bool {
        let resource = self.uris.get(uri);
        resource.is_some_and(|resource| resource.subscribers.keys().any(|other| *other != key))
    }

    /// The sessions that an update of `uri` goes to: those that subscribed to it, or to what it is a part of. (MCP: an
    /// update may name a sub-resource of the one that was subscribed to.)
    pub(super) fn subscribers(&self, uri: &str) -> BTreeSet<SessionKey> {
        let mut subscribers = BTreeSet::new();
        let mut add = |uri: &str| {
            subscribers
                .extend(self.uris.get(uri).into_iter().flat_map(|known| known.subscribers.keys()));
        };
        add(uri);
        if self.uris.is_empty() || uri.len() > PARENTS_BYTES_MAX {
            return subscribers;
        }
        for (at, delimiter) in uri.match_indices(['/', '#', '?']) {
            let (before, behind) = (uri.get(..at), uri.get(..at + delimiter.len()));
            before.into_iter().chain(behind).filter(|parent| *parent != uri).for_each(&mut add);
        }
        subscribers
    }

    /// The server that has granted the subscriptions has ended.
    pub(super) fn handle_exit(&mut self) {
        self.uris.values_mut().for_each(|resource| resource.granted = false);
    }
}

fn bytes_of(uri: &str) -> usize {
    uri.len() + MuxLimits::SUBSCRIPTION_BYTES
}

impl Mux {
    /// Subscribes a session by the request of this number. Fails with a reason if there is no room.
    pub(super) fn subscribe(
        &mut self,
        key: SessionKey,
        uri: &Arc<str>,
        number: u64,
    ) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&key) else { return Ok(()) };
        if !session.subscribed.contains(uri) {
            let bytes = bytes_of(uri);
            let own = self.limits.session_subscriptions_bytes_max;
            if session.subscribed_bytes + bytes > own {
                return Err(format!("the subscriptions of one session have {own} bytes at most"));
            }
            let all = self.limits.subscriptions_bytes_max;
            if self.subscriptions.bytes + bytes > all {
                return Err(format!("the subscriptions of all sessions have {all} bytes at most"));
            }
            session.subscribed.insert(uri.clone());
            session.subscribed_bytes += bytes;
            self.subscriptions.bytes += bytes;
        }
        let resource = self.subscriptions.uris.entry(uri.clone()).or_default();
        let new = Subscriber { first: number, last: number, granted: false };
        resource.subscribers.entry(key).or_insert(new).last = number;
        Ok(())
    }

    /// The server has granted the subscription by the request of this number.
    pub(super) fn subscribe_succeeded(&mut self, key: SessionKey, uri: &str, number: u64) {
        if let Some(resource) = self.subscriptions.uris.get_mut(uri)
            && let Some(subscriber) = resource.subscribers.get_mut(&key)
            && number >= subscriber.first
        {
            resource.granted = true;
            subscriber.granted = true;
        }
    }

    /// The server has refused the subscription, or will never answer.
    pub(super) fn subscribe_failed(&mut self, key: SessionKey, uri: &str, number: u64) {
        let resource = self.subscriptions.uris.get(uri);
        let subscriber = resource.and_then(|resource| resource.subscribers.get(&key));
        if subscriber.is_some_and(|known| !known.granted && known.last == number) {
            let granted = resource.is_some_and(|resource| resource.granted);
            self.drop_subscription(key, uri, granted);
        }
    }

    /// A session has ended that had subscribed to this.
    pub(super) fn unsubscribe_departed(&mut self, key: SessionKey, uri: &str) {
        let granted = self.subscriptions.uris.get(uri).is_some_and(|resource| {
            // A subscription under way may still be granted.
            resource.granted || resource.subscribers.values().any(|known| !known.granted)
        });
        self.drop_subscription(key, uri, granted);
    }

    /// Forgets a subscription. If it was the last, and the server has granted one, that is undone.
    fn drop_subscription(&mut self, key: SessionKey, uri: &str, granted: bool) {
        self.forget_subscription(key, uri);
        let wanted = self.subscriptions.uris.contains_key(uri);
        if granted && !wanted && matches!(self.phase, MuxPhase::Ready) {
            self.ask_server("resources/unsubscribe", uri);
        }
    }

    /// Forgets a subscription of one session. The caller tells the server, if it has to be told.
    pub(super) fn forget_subscription(&mut self, key: SessionKey, uri: &str) {
        let Some(resource) = self.subscriptions.uris.get_mut(uri) else { return };
        if resource.subscribers.remove(&key).is_none() {
            return;
        }
        if resource.subscribers.is_empty() {
            self.subscriptions.uris.remove(uri);
        }
        let bytes = bytes_of(uri);
        self.subscriptions.bytes -= bytes;
        // A session that is leaving was removed before.
        if let Some(session) = self.sessions.get_mut(&key) {
            session.subscribed.remove(uri);
            session.subscribed_bytes -= bytes;
        }
    }

    /// Asks a new server for all that sessions have subscribed to.
    pub(super) fn resubscribe(&mut self) {
        let uris: Vec<Arc<str>> = self.subscriptions.uris.keys().cloned().collect();
        for uri in uris {
            self.ask_server("resources/subscribe", &uri);
            if let Some(resource) = self.subscriptions.uris.get_mut(&*uri) {
                resource.granted = true;
            }
        }
    }

    /// Asserts that both sides of the table agree, and the sums with them.
    #[cfg(test)]
    pub(super) fn check_subscriptions(&self) {
        let pairs: BTreeSet<(SessionKey, &str)> = self
            .subscriptions
            .uris
            .iter()
            .flat_map(|(uri, known)| known.subscribers.keys().map(|key| (*key, &**uri)))
            .collect();
        let listed: BTreeSet<(SessionKey, &str)> = self
            .sessions
            .iter()
            .flat_map(|(key, known)| known.subscribed.iter().map(|uri| (*key, &**uri)))
            .collect();
        assert_eq!(pairs, listed);
        assert!(self.subscriptions.uris.values().all(|known| !known.subscribers.is_empty()));
        let sum = |uris: &mut dyn Iterator<Item = &str>| uris.map(bytes_of).sum::<usize>();
        assert_eq!(self.subscriptions.bytes, sum(&mut pairs.iter().map(|(_, uri)| *uri)));
        for session in self.sessions.values() {
            assert_eq!(session.subscribed_bytes, sum(&mut session.subscribed.iter().map(|u| &**u)));
        }
    }
}
