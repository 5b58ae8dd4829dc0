//! Checks that each refusal has a cause.
//!
//! Knows: which limit or deadline each fault names, and what the client, the application and the
//! memory meter tell about it. Does not know: how the core decided.

use core::time::Duration;
use std::collections::BTreeMap;

use mcp_sse_core::{Fault, Refusal, Server};

use super::connection::{ConnectionKey, SimConnection};
use super::meter;
use super::request::{Credentials, Expected, RequestSize, SimRequest};
use super::world::{BACKLOG_BYTES_MAX, World};

/// Faults that are checked when they are counted, because only then their cause is visible.
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

/// A server's fault counters and open sessions and connections, before or after a call.
#[derive(Debug)]
pub struct FaultSnapshot {
    counts: [u64; COUNTED.len()],
    sessions: u32,
    connections: u32,
}

impl FaultSnapshot {
    /// Reads the counters of `server`.
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
    /// Checks that each fault counted during a call has a limit that was reached.
    pub fn check_faults(&self, shard: usize, before: &FaultSnapshot) {
        let server = &self.shards[shard].server;
        let after = FaultSnapshot::of(server);
        for (at, fault) in COUNTED.into_iter().enumerate() {
            if after.counts[at] > before.counts[at] {
                let reached = self.is_reached(shard, fault, before, &after);
                assert!(reached, "{fault:?}, and it is not so: {before:?}, {after:?}");
            }
        }
    }

    fn is_reached(
        &self,
        shard: usize,
        fault: Fault,
        before: &FaultSnapshot,
        after: &FaultSnapshot,
    ) -> bool {
        let limits = self.setup.configs[shard].limits();
        let sessions = before.sessions.max(after.sessions);
        let connections = before.connections.max(after.connections);
        let reserve =
            limits.connections_max.map_or(0, |max| limits.connections_reserve.min(max / 8));
        let reached = |limit: Option<u32>, count: u32| limit.is_some_and(|limit| count >= limit);
        // Without the counting allocator the memory is unknown, and so never too small.
        let held = if meter::allocations() == 0 { i64::MAX } else { meter::peak() };
        // A reported backlog counts as memory, although no memory holds it.
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
                let known = self.setup.authorizes || self.setup.tokens;
                known && reached(limits.sessions_per_principal_max, sessions)
            }
            Fault::BodiesFull => bytes(limits.bodies_bytes_max),
            Fault::BodiesPerAddressFull => {
                let limit = limits.bodies_bytes_per_address_max;
                bytes(limit.map(|limit| limit.max(limits.body_bytes_max.unwrap_or(u64::MAX))))
            }
            Fault::QueuesFull => {
                let small = !self.setup.default_limits && limits.queues_bytes_max.is_some();
                small && limits.queue_reserve_bytes == 0
            }
            // The number of waiting events is not visible; only a small limit can be reached.
            Fault::EventsFull => limits.events_max.is_some_and(|most| most <= 16),
            Fault::EntropyUnavailable => self.setup.entropy_fails,
            Fault::SessionRateLimited => limits.sessions_rate_per_address.is_some(),
            Fault::ShuttingDown => self.ending,
            Fault::ConnectionEvicted => reserve > 0 && reached(limits.connections_max, connections),
            _ => false,
        }
    }

    /// The largest number of streams that clients of one address have requested.
    fn streams_of_one_address(&self, shard: usize) -> u32 {
        let theirs = self.connections.iter().filter(|(key, connection)| {
            key.0 == shard && connection.stream_request.is_some() && !connection.stream_refused
        });
        let mut counts = BTreeMap::new();
        for address in theirs.filter_map(|(_, connection)| connection.address) {
            *counts.entry(address).or_insert(0) += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// Whether a refusal has a cause that the request itself does not show.
    pub fn has_cause(
        &mut self,
        key: ConnectionKey,
        request: &SimRequest,
        status: u16,
        body: &str,
    ) -> bool {
        // Not ready; or the response to a `HEAD`, which has no body.
        if request.expected == Expected::Health && status == 503 && !body.starts_with("too many") {
            return !self.setup.default_limits || self.ending;
        }
        if body.is_empty() {
            let Some(connection) = self.connections.get(&key) else { return false };
            let mut faults = Fault::ALL.iter().filter(|fault| fault.status() == Some(status));
            return faults.any(|&fault| self.is_possible(key, connection, request, fault));
        }
        let named = |fault: &&Fault| fault.status() == Some(status) && says(**fault, body);
        let Some(&fault) = Fault::ALL.iter().find(named) else {
            panic!("{status} for no reason that is known: {body}");
        };
        let shard = &mut self.shards[key.0];
        let received = shard.refusals_received.entry(fault).or_default();
        *received += 1;
        let counted = shard.server.metrics().fault(fault);
        // The refusal of a forwarded post is counted by the shard of its session.
        assert!(*received <= counted, "11: {received} were told {fault:?}, {counted} counted");
        self.connections
            .get(&key)
            .is_some_and(|connection| self.is_possible(key, connection, request, fault))
    }

    fn is_possible(
        &self,
        key: ConnectionKey,
        connection: &SimConnection,
        request: &SimRequest,
        fault: Fault,
    ) -> bool {
        let config = &self.setup.configs[key.0];
        let (limits, timeouts) = (config.limits(), config.timeouts());
        let begun = request.begun.unwrap_or(self.now);
        let passed = |timeout: Option<Duration>| {
            timeout.is_some_and(|timeout| self.now.saturating_since(begun) >= timeout)
        };
        let over =
            |limit: Option<u32>, size: usize| limit.is_some_and(|limit| size > limit as usize);
        let RequestSize { head, fields, target, extensions, trailers, .. } = request.size;
        let post = request.post().and_then(|number| self.model.posts.get(&number));
        let foreign =
            self.setup.forwarding && post.is_none_or(|post| post.foreign || post.forbidden);
        let streams = request.expected == Expected::Stream;
        #[expect(clippy::wildcard_enum_match_arm, reason = "what is not here happens to nobody")]
        match fault {
            Fault::HeadTimeout => {
                // The deadline of the first head counts from the accept.
                let since = if connection.answered == 1 { connection.opened } else { begun };
                let waited = self.now.saturating_since(since);
                timeouts.head.is_some_and(|timeout| waited >= timeout)
            }
            Fault::BodyTimeout => passed(timeouts.body),
            Fault::DecisionTimeout => {
                passed(timeouts.decision) && (self.setup.authorizes || foreign)
            }
            Fault::Undecided => request.refusal == Some(Refusal::Unavailable),
            Fault::Forbidden => request.refusal == Some(Refusal::Forbidden),
            Fault::Unauthorized => {
                matches!(request.refusal, Some(Refusal::Unauthenticated | Refusal::InvalidToken))
                    || request.credentials == Credentials::Wrong
            }
            Fault::DuplicateCredentials => request.credentials == Credentials::Twice,
            Fault::Busy => foreign || (post.is_some() && passed(timeouts.hold)),
            Fault::BodyTooLarge => {
                limits.body_bytes_max.is_some_and(|limit| self.content(request) > limit)
            }
            Fault::ChunkExtensionsTooLarge => over(limits.extension_bytes_max, extensions),
            Fault::TrailersTooLarge => over(limits.trailer_bytes_max, trailers),
            Fault::HeadTooLarge => over(limits.head_bytes_max, head),
            Fault::TooManyFields => fields > limits.fields_max as usize,
            Fault::TargetTooLong => over(limits.target_bytes_max, target),
            // These were checked when they were counted.
            Fault::BodiesFull | Fault::BodiesPerAddressFull | Fault::ShuttingDown => true,
            Fault::EventsFull => streams || self.setup.authorizes || foreign,
            Fault::SessionsFull
            | Fault::StreamsFull
            | Fault::SessionsPerAddressFull
            | Fault::SessionsPerPrincipalFull
            | Fault::QueuesFull
            | Fault::SessionRateLimited
            | Fault::EntropyUnavailable => streams,
            Fault::RateLimited => {
                let known = self.setup.authorizes || self.setup.tokens;
                let principal = known && limits.posts_rate_per_principal.is_some();
                !streams && (principal || limits.posts_rate_per_session.is_some())
            }
            _ => false,
        }
    }

    /// Whether the request is within all limits of its size.
    pub fn is_within_limits(&self, key: ConnectionKey, request: &SimRequest) -> bool {
        let limits = self.setup.configs[key.0].limits();
        let within =
            |limit: Option<u32>, size: usize| limit.is_none_or(|most| size <= most as usize);
        let RequestSize { head, fields, target, extensions, trailers, .. } = request.size;
        within(limits.head_bytes_max, head)
            && fields <= limits.fields_max as usize
            && within(limits.target_bytes_max, target)
            && limits.body_bytes_max.is_none_or(|most| self.content(request) <= most)
            && within(limits.extension_bytes_max, extensions)
            && within(limits.trailer_bytes_max, trailers)
    }

    /// The length of a request's content, without framing if that is known.
    fn content(&self, request: &SimRequest) -> u64 {
        let post = request.post().and_then(|number| self.model.posts.get(&number));
        post.map_or(request.size.body, |post| post.text.len() as u64)
    }
}

/// Whether `body` is the text of that fault.
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
