//! The subscriptions of each session. For the server, all sessions are one client with one set of subscriptions.
//!
//! Knows: which sessions receive an update, and when the server has to be sent `resources/unsubscribe`.
//! Does not know: what a URI names.
//!
//! Theory of operation. Each `resources/subscribe` is passed on, because only the server knows whether the resource
//! exists; subscribing twice to the same URI has no effect on the server. From the moment of its request a session
//! counts as a subscriber, until the server refuses the request, or the session unsubscribes or ends. A
//! `resources/unsubscribe` is passed on for the last subscriber of a URI; for other subscribers the bridge answers
//! it. A restarted server is sent `resources/subscribe` for each URI that has subscribers, and its answers are
//! dropped.
//!
//! Decision: the session's request counts, and not the server's answer. Otherwise an `unsubscribe` that crosses the
//! answer to another session's `subscribe` would end that subscription.
//!
//! Decision: an update goes to the sessions that subscribed to that URI or to one above it, and to all
//! sessions if none did, because servers spell URIs in ways of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Mux, MuxLimits, MuxPhase, SessionKey};

/// An update of a longer URI goes only to subscribers of exactly that URI, and not to subscribers of its parents.
const PARENTS_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    uris: BTreeMap<Arc<str>, SubscribedResource>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct SubscribedResource {
    /// The server has accepted a subscription, and was not sent `unsubscribe` since.
    granted: bool,
    subscribers: BTreeMap<SessionKey, Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    /// The numbers of the session's first and last `resources/subscribe` for this resource.
    first: u64,
    last: u64,
    granted: bool,
}

impl Subscriptions {
    /// Whether sessions other than `key` are subscribed to `uri`.
    pub(super) fn is_of_others(&self, key: SessionKey, uri: &str) -> bool {
        let resource = self.uris.get(uri);
        resource.is_some_and(|resource| resource.subscribers.keys().any(|other| *other != key))
    }

    /// The sessions that receive an update of `uri`: those that are subscribed to it or to a parent of it. (MCP: an
    /// update may name a sub-resource of the subscribed resource.)
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

    /// Call this when the server that has accepted the subscriptions has ended.
    pub(super) fn handle_exit(&mut self) {
        self.uris.values_mut().for_each(|resource| resource.granted = false);
    }
}

fn bytes_of(uri: &str) -> usize {
    uri.len() + MuxLimits::SUBSCRIPTION_BYTES
}

impl Mux {
    /// Adds a subscription for the request with this number. Returns a reason if there is no room.
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

    /// Call this when the server has accepted the `subscribe` request with this number.
    pub(super) fn subscribe_succeeded(&mut self, key: SessionKey, uri: &str, number: u64) {
        if let Some(resource) = self.subscriptions.uris.get_mut(uri)
            && let Some(subscriber) = resource.subscribers.get_mut(&key)
            && number >= subscriber.first
        {
            resource.granted = true;
            subscriber.granted = true;
        }
    }

    /// Call this when the server has refused the `subscribe` request with this number, or has ended without an
    /// answer.
    pub(super) fn subscribe_failed(&mut self, key: SessionKey, uri: &str, number: u64) {
        let resource = self.subscriptions.uris.get(uri);
        let subscriber = resource.and_then(|resource| resource.subscribers.get(&key));
        if subscriber.is_some_and(|known| !known.granted && known.last == number) {
            let granted = resource.is_some_and(|resource| resource.granted);
            self.drop_subscription(key, uri, granted);
        }
    }

    /// Removes a subscription of a session that has ended.
    pub(super) fn unsubscribe_departed(&mut self, key: SessionKey, uri: &str) {
        let granted = self.subscriptions.uris.get(uri).is_some_and(|resource| {
            // The server may still accept a subscription that it has not answered.
            resource.granted || resource.subscribers.values().any(|known| !known.granted)
        });
        self.drop_subscription(key, uri, granted);
    }

    /// Removes a subscription. If it was the last one of `uri`, and the server has accepted one (`granted`), the
    /// server is sent `resources/unsubscribe`.
    fn drop_subscription(&mut self, key: SessionKey, uri: &str, granted: bool) {
        self.forget_subscription(key, uri);
        let has_subscribers = self.subscriptions.uris.contains_key(uri);
        if granted && !has_subscribers && matches!(self.phase, MuxPhase::Ready) {
            self.ask_server("resources/unsubscribe", uri);
        }
    }

    /// Removes a subscription of one session. The caller sends `resources/unsubscribe` if that is necessary.
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
        // A session that has ended is not in the table any more.
        if let Some(session) = self.sessions.get_mut(&key) {
            session.subscribed.remove(uri);
            session.subscribed_bytes -= bytes;
        }
    }

    /// Sends a restarted server `resources/subscribe` for each URI that has subscribers.
    pub(super) fn resubscribe(&mut self) {
        let uris: Vec<Arc<str>> = self.subscriptions.uris.keys().cloned().collect();
        for uri in uris {
            self.ask_server("resources/subscribe", &uri);
            if let Some(resource) = self.subscriptions.uris.get_mut(&*uri) {
                resource.granted = true;
            }
        }
    }

    /// Asserts that the tables of URIs and of sessions agree, and that the sums are right.
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
