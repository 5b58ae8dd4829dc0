//! Refusals, held against what could have caused them.
//!
//! Knows: which limit or deadline each fault names, and what a peer, the application and the meter can tell
//! of it. Does not know: how the core came to it.

use core::time::Duration;
use std::collections::BTreeMap;

use mcp_sse_core::{Fault, Refusal, Server};

use super::ask::{Ask, Credentials, Size, Wanted};
use super::link::{Link, LinkKey};
use super::meter;
use super::world::{BACKLOG_BYTES_MAX, World};

/// Faults that are judged when they are counted, because only then can one see what they name.
const COUNTED: [Fault; 12] = [
    Fault::SessionsFull,
    Fault::StreamsFull,
    Fault::SessionsPerAddressFull,
    Fault::SessionsPerPrincipalFull,
    Fault::BodiesFull,
    Fault::BodiesPerAddressFull,
    Fault::QueuesFull,
    Fault::EventsFull,
    Fault::EntropyUnavailable,
    Fault::ShuttingDown,
    Fault::ConnectionEvicted,
    Fault::SessionRateLimited,
];

/// What a server had counted before a call, and what it held.
#[derive(Debug)]
pub struct Tally {
    counts: [u64; COUNTED.len()],
    sessions: u32,
    connections: u32,
}

impl Tally {
    /// Looks at it.
    #[must_use]
    pub fn of(server: &Server) -> Self {
        Self {
            counts: COUNTED.map(|fault| server.metrics().fault(fault)),
            sessions: server.sessions_open(),
            connections: server.connections_open(),
        }
    }
}

impl World {
    /// Whatever was refused in a call, a limit that it names was reached.
    pub fn judge_faults(&self, shard: usize, before: &Tally) {
        let server = &self.shards[shard].server;
        let after = Tally::of(server);
        for (at, fault) in COUNTED.into_iter().enumerate() {
            if after.counts[at] > before.counts[at] {
                let reached = self.is_reached(shard, fault, before, &after);
                assert!(reached, "{fault:?}, and it is not so: {before:?}, {after:?}");
            }
        }
    }

    fn is_reached(&self, shard: usize, fault: Fault, before: &Tally, after: &Tally) -> bool {
        let limits = self.setup.configs[shard].limits();
        let sessions = before.sessions.max(after.sessions);
        let connections = before.connections.max(after.connections);
        let reserve =
            limits.connections_max.map_or(0, |max| limits.connections_reserve.min(max / 8));
        let reached = |limit: Option<u32>, count: u32| limit.is_some_and(|limit| count >= limit);
        // Where nothing is metered, no figure says no.
        let held = if meter::allocations() == 0 { i64::MAX } else { meter::peak() };
        // What applications say that they hold counts, and is nowhere.
        let held = held.saturating_add(BACKLOG_BYTES_MAX * i64::from(sessions));
        let bytes = |limit: Option<u64>| limit.is_some_and(|limit| held as u64 >= limit);
        #[expect(clippy::wildcard_enum_match_arm, reason = "only those that are counted come here")]
        match fault {
            Fault::SessionsFull => reached(limits.sessions_max, sessions),
            Fault::StreamsFull => {
                reached(limits.connections_max.map(|max| max - reserve), sessions)
            }
            Fault::SessionsPerAddressFull => {
                let streams = self.streams_of_one_address(shard);
                reached(limits.sessions_per_address_max, streams)
            }
            Fault::SessionsPerPrincipalFull => {
                let known = self.setup.asked || self.setup.tokens;
                known && reached(limits.sessions_per_principal_max, sessions)
            }
            Fault::BodiesFull => bytes(limits.bodies_bytes_max),
            Fault::BodiesPerAddressFull => {
                let limit = limits.bodies_bytes_per_address_max;
                bytes(limit.map(|limit| limit.max(limits.body_bytes_max.unwrap_or(u64::MAX))))
            }
            Fault::QueuesFull => {
                let small = !self.setup.generous && limits.queues_bytes_max.is_some();
                small && limits.queue_reserve_bytes == 0
            }
            // What waits is known to nobody else; but not that much does.
            Fault::EventsFull => limits.events_max.is_some_and(|most| most <= 16),
            Fault::EntropyUnavailable => self.setup.entropy_fails,
            Fault::SessionRateLimited => limits.sessions_rate_per_address.is_some(),
            Fault::ShuttingDown => self.ending,
            Fault::ConnectionEvicted => reserve > 0 && reached(limits.connections_max, connections),
            _ => false,
        }
    }

    /// The most streams that clients at one address, which counts, have asked for.
    fn streams_of_one_address(&self, shard: usize) -> u32 {
        let theirs = self.links.iter().filter(|(key, link)| {
            key.0 == shard && link.stream_ask.is_some() && !link.stream_refused
        });
        let mut counts = BTreeMap::new();
        for address in theirs.filter_map(|(_, link)| link.address) {
            *counts.entry(address).or_insert(0) += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// A peer hears a refusal that its request does not explain by itself. Whether it has a cause.
    pub fn has_cause(&mut self, key: LinkKey, ask: &Ask, status: u16, body: &str) -> bool {
        // Not ready, or the answer to a HEAD, which has no words.
        if ask.wanted == Wanted::Health && status == 503 && !body.starts_with("too many") {
            return !self.setup.generous || self.ending;
        }
        if body.is_empty() {
            let Some(link) = self.links.get(&key) else { return false };
            let mut faults = Fault::ALL.iter().filter(|fault| fault.status() == Some(status));
            return faults.any(|&fault| self.may_happen(key, link, ask, fault));
        }
        let named = |fault: &&Fault| fault.status() == Some(status) && says(**fault, body);
        let Some(&fault) = Fault::ALL.iter().find(named) else {
            panic!("{status} for no reason that is known: {body}");
        };
        let shard = &mut self.shards[key.0];
        let heard = shard.heard.entry(fault).or_default();
        *heard += 1;
        let counted = shard.server.metrics().fault(fault);
        // A guest's refusal is its shard's to count.
        assert!(*heard <= counted, "11: {heard} were told {fault:?}, {counted} counted");
        self.links.get(&key).is_some_and(|link| self.may_happen(key, link, ask, fault))
    }

    fn may_happen(&self, key: LinkKey, link: &Link, ask: &Ask, fault: Fault) -> bool {
        let config = &self.setup.configs[key.0];
        let (limits, timeouts) = (config.limits(), config.timeouts());
        let begun = ask.begun.unwrap_or(self.now);
        let passed = |timeout: Option<Duration>| {
            timeout.is_some_and(|timeout| self.now.saturating_since(begun) >= timeout)
        };
        let over =
            |limit: Option<u32>, size: usize| limit.is_some_and(|limit| size > limit as usize);
        let Size { head, fields, target, extensions, trailers, .. } = ask.size;
        let post = ask.post().and_then(|number| self.model.posts.get(&number));
        let foreign =
            self.setup.forwarding && post.is_none_or(|post| post.foreign || post.forbidden);
        let streams = ask.wanted == Wanted::Stream;
        #[expect(clippy::wildcard_enum_match_arm, reason = "what is not here happens to nobody")]
        match fault {
            Fault::HeadTimeout => {
                // The first head has its time from the connection's beginning.
                let since = if link.answered == 1 { link.opened } else { begun };
                let waited = self.now.saturating_since(since);
                timeouts.head.is_some_and(|timeout| waited >= timeout)
            }
            Fault::BodyTimeout => passed(timeouts.body),
            Fault::DecisionTimeout => passed(timeouts.decision) && (self.setup.asked || foreign),
            Fault::Undecided => ask.refusal == Some(Refusal::Unavailable),
            Fault::Forbidden => ask.refusal == Some(Refusal::Forbidden),
            Fault::Unauthorized => {
                matches!(ask.refusal, Some(Refusal::Unauthenticated | Refusal::InvalidToken))
                    || ask.credentials == Credentials::Wrong
            }
            Fault::DuplicateCredentials => ask.credentials == Credentials::Twice,
            Fault::Busy => foreign || (post.is_some() && passed(timeouts.hold)),
            Fault::BodyTooLarge => {
                limits.body_bytes_max.is_some_and(|limit| self.content(ask) > limit)
            }
            Fault::ChunkExtensionsTooLarge => over(limits.extension_bytes_max, extensions),
            Fault::TrailersTooLarge => over(limits.trailer_bytes_max, trailers),
            Fault::HeadTooLarge => over(limits.head_bytes_max, head),
            Fault::TooManyFields => fields > limits.fields_max as usize,
            Fault::TargetTooLong => over(limits.target_bytes_max, target),
            // These have been judged when they were counted.
            Fault::BodiesFull | Fault::BodiesPerAddressFull | Fault::ShuttingDown => true,
            Fault::EventsFull => streams || self.setup.asked || foreign,
            Fault::SessionsFull
            | Fault::StreamsFull
            | Fault::SessionsPerAddressFull
            | Fault::SessionsPerPrincipalFull
            | Fault::QueuesFull
            | Fault::SessionRateLimited
            | Fault::EntropyUnavailable => streams,
            Fault::RateLimited => {
                let known = self.setup.asked || self.setup.tokens;
                let principal = known && limits.posts_rate_per_principal.is_some();
                !streams && (principal || limits.posts_rate_per_session.is_some())
            }
            _ => false,
        }
    }

    /// What was taken in is within all limits on what may be.
    pub fn is_within_limits(&self, key: LinkKey, ask: &Ask) -> bool {
        let limits = self.setup.configs[key.0].limits();
        let within =
            |limit: Option<u32>, size: usize| limit.is_none_or(|most| size <= most as usize);
        let Size { head, fields, target, extensions, trailers, .. } = ask.size;
        within(limits.head_bytes_max, head)
            && fields <= limits.fields_max as usize
            && within(limits.target_bytes_max, target)
            && limits.body_bytes_max.is_none_or(|most| self.content(ask) <= most)
            && within(limits.extension_bytes_max, extensions)
            && within(limits.trailer_bytes_max, trailers)
    }

    /// How long a request's content is, without framing where that is known.
    fn content(&self, ask: &Ask) -> u64 {
        let post = ask.post().and_then(|number| self.model.posts.get(&number));
        post.map_or(ask.size.body, |post| post.text.len() as u64)
    }
}

/// Whether these are the words for that fault.
fn says(fault: Fault, body: &str) -> bool {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others say it in their own words")]
    let hint = match fault {
        Fault::BodyTooLarge => "(limit body_bytes_max)",
        Fault::RateLimited => "(limit posts_rate_per_",
        Fault::Unauthorized if body.contains("invalid_token") => "invalid_token",
        Fault::Unauthorized => "\"unauthorized\"",
        Fault::Forbidden => "\"forbidden\"",
        _ => fault.text(),
    };
    body.contains(hint)
}
