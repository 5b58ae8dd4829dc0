//! Which session has subscribed to which resource, as the server knows one client only.
//!
//! Knows: who is to be told of updates, and when the server can be told that nobody is any more.
//! Does not know: what a URI names.
//!
//! Theory of operation. Each `resources/subscribe` is passed on, as the server says whether there is
//! such a resource, and a second one for the same URI changes nothing for it. From then on the session
//! counts as a subscriber, until the server refuses or the session unsubscribes or ends. An
//! `unsubscribe` is passed on for the last subscriber of a URI, and answered by the bridge for others. A
//! server that is started anew is asked for all that is subscribed to; what it answers to that nobody
//! hears, as nobody has asked.
//!
//! To count what the server has granted only was the alternative: then an `unsubscribe` that crosses
//! the answer to somebody else's `subscribe` would silence that one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Member, Mux, MuxLimits, Phase};

/// Updates of URIs that are longer than this find subscribers to them alone, and not to what they are
/// parts of.
const PARENTS_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    uris: BTreeMap<Arc<str>, Resource>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Resource {
    /// The server has granted a subscription, and has not been told otherwise.
    granted: bool,
    members: BTreeMap<Member, Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    /// Numbers of its first and its last request for this.
    first: u64,
    last: u64,
    granted: bool,
}

impl Subscriptions {
    /// Whether others than `member` have subscribed to this.
    pub(super) fn is_of_others(&self, member: Member, uri: &str) -> bool {
        let resource = self.uris.get(uri);
        resource.is_some_and(|resource| resource.members.keys().any(|other| *other != member))
    }

    /// Who is told of an update of `uri`: who subscribed to it, or to what it is a part of. (MCP: an
    /// update may name a sub-resource of the one that was subscribed to.)
    pub(super) fn subscribers(&self, uri: &str) -> BTreeSet<Member> {
        let mut members = BTreeSet::new();
        let mut add = |uri: &str| {
            members.extend(self.uris.get(uri).into_iter().flat_map(|known| known.members.keys()));
        };
        add(uri);
        if self.uris.is_empty() || uri.len() > PARENTS_BYTES_MAX {
            return members;
        }
        for (at, delimiter) in uri.match_indices(['/', '#', '?']) {
            let (before, behind) = (uri.get(..at), uri.get(..at + delimiter.len()));
            before.into_iter().chain(behind).filter(|parent| *parent != uri).for_each(&mut add);
        }
        members
    }

    /// The server that has granted them is gone.
    pub(super) fn handle_exit(&mut self) {
        self.uris.values_mut().for_each(|resource| resource.granted = false);
    }
}

fn bytes_of(uri: &str) -> usize {
    uri.len() + MuxLimits::SUBSCRIPTION_BYTES
}

impl Mux {
    /// A session subscribes, by the request of this number. If there is no room for that, says why.
    pub(super) fn subscribe(
        &mut self,
        member: Member,
        uri: &Arc<str>,
        number: u64,
    ) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&member) else { return Ok(()) };
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
        resource.members.entry(member).or_insert(new).last = number;
        Ok(())
    }

    /// The server has granted what was asked by the request of this number.
    pub(super) fn subscribe_succeeded(&mut self, member: Member, uri: &str, number: u64) {
        if let Some(resource) = self.subscriptions.uris.get_mut(uri)
            && let Some(subscriber) = resource.members.get_mut(&member)
            && number >= subscriber.first
        {
            resource.granted = true;
            subscriber.granted = true;
        }
    }

    /// The server has refused it, or will never answer.
    pub(super) fn subscribe_failed(&mut self, member: Member, uri: &str, number: u64) {
        let resource = self.subscriptions.uris.get(uri);
        let subscriber = resource.and_then(|resource| resource.members.get(&member));
        if subscriber.is_some_and(|known| !known.granted && known.last == number) {
            let granted = resource.is_some_and(|resource| resource.granted);
            self.drop_subscription(member, uri, granted);
        }
    }

    /// A session has ended that had subscribed to this.
    pub(super) fn unsubscribe_departed(&mut self, member: Member, uri: &str) {
        let granted = self.subscriptions.uris.get(uri).is_some_and(|resource| {
            // What has been asked for may still be granted.
            resource.granted || resource.members.values().any(|known| !known.granted)
        });
        self.drop_subscription(member, uri, granted);
    }

    /// Forgets a subscription. If it was the last, and the server has granted one, that is undone.
    fn drop_subscription(&mut self, member: Member, uri: &str, granted: bool) {
        self.forget_subscription(member, uri);
        let wanted = self.subscriptions.uris.contains_key(uri);
        if granted && !wanted && matches!(self.phase, Phase::Ready) {
            self.ask_server("resources/unsubscribe", uri);
        }
    }

    /// A session does not want to be told any more, and the server is told by somebody else if need be.
    pub(super) fn forget_subscription(&mut self, member: Member, uri: &str) {
        let Some(resource) = self.subscriptions.uris.get_mut(uri) else { return };
        if resource.members.remove(&member).is_none() {
            return;
        }
        if resource.members.is_empty() {
            self.subscriptions.uris.remove(uri);
        }
        let bytes = bytes_of(uri);
        self.subscriptions.bytes -= bytes;
        // A session that is leaving is not among them any more.
        if let Some(session) = self.sessions.get_mut(&member) {
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
        let pairs: BTreeSet<(Member, &str)> = self
            .subscriptions
            .uris
            .iter()
            .flat_map(|(uri, known)| known.members.keys().map(|member| (*member, &**uri)))
            .collect();
        let listed: BTreeSet<(Member, &str)> = self
            .sessions
            .iter()
            .flat_map(|(member, known)| known.subscribed.iter().map(|uri| (*member, &**uri)))
            .collect();
        assert_eq!(pairs, listed);
        assert!(self.subscriptions.uris.values().all(|known| !known.members.is_empty()));
        let sum = |uris: &mut dyn Iterator<Item = &str>| uris.map(bytes_of).sum::<usize>();
        assert_eq!(self.subscriptions.bytes, sum(&mut pairs.iter().map(|(_, uri)| *uri)));
        for session in self.sessions.values() {
            assert_eq!(session.subscribed_bytes, sum(&mut session.subscribed.iter().map(|u| &**u)));
        }
    }
}
