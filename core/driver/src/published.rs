//! The copies of the counters that each shard publishes for other threads.
//!
//! Knows: when a shard has to publish, and what was published last. Does not know: who reads it, or in which format.
//!
//! Decision: a reader of counters, such as a collector of Prometheus, is synchronous and may run on the thread of a
//! shard, so it must not wait for a shard. Therefore each shard copies its counters behind a lock of its own, at the
//! end of a turn, at most once in [`PUBLISH_INTERVAL`]. If counters change within the interval, the shard sets a
//! deadline and publishes them when the interval is over; an idle shard is not woken. Shards publish nothing until
//! the first [`MetricsWatch`](crate::MetricsWatch) is made. Asking the shard with a
//! [`Control`](super::control::Control) was considered, but the reader would have to wait for the reply. Atomic
//! counters were considered too, but every post would have to change a dozen of them.

use core::time::Duration;

use mcp_sse_core::{Metrics, Principal, Server, Time};

use super::shared::Shared;

/// A shard publishes its counters at most this often.
pub(super) const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

/// What readers want to know of each shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Wanted {
    Nothing,
    Metrics,
    /// The principals with open sessions as well.
    Principals,
}

impl Wanted {
    pub(super) const fn numbered(number: u8) -> Self {
        match number {
            0 => Self::Nothing,
            1 => Self::Metrics,
            _ => Self::Principals,
        }
    }
}

/// What a shard has published.
#[derive(Debug)]
pub(super) struct Snapshot {
    wanted: Wanted,
    pub(super) metrics: Metrics,
    /// The principals with open sessions, and how many each has.
    pub(super) principals: Vec<(Principal, u32)>,
}

/// The last snapshot of a shard; `None` until it has published one.
pub(super) type Published = Shared<Option<Box<Snapshot>>>;

/// When a shard publishes.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    last: Option<Time>,
    /// When something that has changed since then is to be published.
    due: Option<Time>,
}

impl Publisher {
    /// When [`publish`](Self::publish) has to be called, if nothing else happens.
    pub(super) const fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// Publishes what is wanted, unless something was published a short while ago.
    pub(super) fn publish(
        &mut self,
        wanted: Wanted,
        published: &Published,
        server: &Server,
        now: Time,
    ) {
        if self.due.is_some_and(|due| now < due) {
            return;
        }
        let next = self.last.map(|last| last.saturating_add(PUBLISH_INTERVAL));
        let changed = || match &*published.lock() {
            // A principal has come or gone only if a session has.
            Some(snapshot) => snapshot.wanted != wanted || snapshot.metrics != *server.metrics(),
            None => true,
        };
        if !changed() {
            self.due = None;
        } else if next.is_none_or(|next| now >= next) {
            *published.lock() = Some(Box::new(snapshot(wanted, server)));
            (self.last, self.due) = (Some(now), None);
        } else {
            self.due = next;
        }
    }
}

fn snapshot(wanted: Wanted, server: &Server) -> Snapshot {
    let principals = match wanted {
        Wanted::Nothing | Wanted::Metrics => Vec::new(),
        Wanted::Principals => {
            let open = server.principals();
            open.map(|(principal, sessions)| (principal.clone(), sessions)).collect()
        }
    };
    Snapshot { wanted, metrics: server.metrics().clone(), principals }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;
    use mcp_sse_core::{Config, Peer};

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn shard_publishes_at_once_then_after_the_interval_and_never_without_a_change() {
        let mut server = Server::new(Config::default(), Box::new(Random::seeded(1)), Time::ZERO);
        let (mut publisher, published) = (Publisher::default(), Published::default());
        let accepted = || {
            let snapshot = published.lock();
            snapshot.as_ref().map(|snapshot| snapshot.metrics.connections_accepted)
        };
        let mut at = Time::ZERO;
        publisher.publish(Wanted::Metrics, &published, &server, at);
        assert_eq!((accepted(), publisher.deadline()), (Some(0), None));
        let due = at.saturating_add(PUBLISH_INTERVAL);
        for _ in 0..3 {
            server.accept(Peer::local(), at).unwrap();
            at = at.saturating_add(MOMENT);
            publisher.publish(Wanted::Metrics, &published, &server, at);
            assert_eq!((accepted(), publisher.deadline()), (Some(0), Some(due)), "it is too early");
        }
        publisher.publish(Wanted::Metrics, &published, &server, due);
        assert_eq!((accepted(), publisher.deadline()), (Some(3), None));
        for _ in 0..3 {
            at = at.saturating_add(PUBLISH_INTERVAL);
            publisher.publish(Wanted::Metrics, &published, &server, at);
            assert_eq!(publisher.deadline(), None, "an idle shard is not woken");
        }
        server.accept(Peer::local(), at).unwrap();
        publisher.publish(Wanted::Metrics, &published, &server, at);
        assert_eq!((accepted(), publisher.deadline()), (Some(4), None));
    }
}
