//! The counters of a server.
//!
//! Knows: which counters, gauges and histograms there are, and which sums must be equal. Does not
//! know: any exposition format.
//!
//! Decision: every number is a field or an element of an array whose length the program fixes. A post
//! is counted without an allocation, a map or a lock, and the numbers of several shards are added one
//! by one. A gauge is a number of things that exist now; the sum of the gauges of all shards is the
//! gauge of the server. Each gauge is kept where the things change, and `Server::check` compares it
//! with them.
//!
//! Decision: faults, and the limits behind them, are counted separately. [`Fault::Busy`] and
//! [`Fault::RateLimited`] have several limits, and a forwarded post is refused by the shard that has
//! received it because of a limit of the shard that has its session. Neither of the two knows both.

mod histogram;
mod method;
mod reached_limit;

use alloc::vec::Vec;
use core::ops::AddAssign;
use core::time::Duration;

pub use histogram::{DurationHistogram, SizeHistogram};
pub(crate) use method::McpMethod;
pub(crate) use reached_limit::ReachedLimit;
use reached_limit::limit_of;

use crate::error::Fault;
use crate::event::CloseReason;

/// Why sessions end, as [`Metrics::sessions_ended`] names it.
const REASONS: [&str; 8] = [
    CloseReason::Peer.label(),
    CloseReason::Application.label(),
    CloseReason::Stalled.label(),
    CloseReason::Idle.label(),
    CloseReason::Expired.label(),
    CloseReason::TokenRemoved.label(),
    CloseReason::Shutdown.label(),
    "fault",
];

const fn reason_number(reason: CloseReason) -> usize {
    match reason {
        CloseReason::Peer => 0,
        CloseReason::Application => 1,
        CloseReason::Stalled => 2,
        CloseReason::Idle => 3,
        CloseReason::Expired => 4,
        CloseReason::TokenRemoved => 5,
        CloseReason::Shutdown => 6,
        CloseReason::Fault(_) => 7,
    }
}

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident; )+) => {
        /// What has happened since a server was made, and what there is now.
        /// [`Server::metrics`](crate::Server::metrics) returns it; add those of several shards with `+=`.
        ///
        /// Numbers of things that have happened only grow. Numbers of things that there are now say so in
        /// their first line.
        ///
        /// ```
        /// use mcp_sse_core::{Config, Fault, Peer, Server, Time};
        ///
        /// # let entropy = Box::new(|dest: &mut [u8]| { dest.fill(1); Ok(()) });
        /// let mut server = Server::new(Config::default(), entropy, Time::ZERO);
        /// let conn = server.accept(Peer::local(), Time::ZERO)?;
        /// server.handle_input(conn, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", Time::ZERO);
        /// let mut sum = server.metrics().clone();
        /// assert_eq!((sum.connections_open(), sum.fault(Fault::NotFound)), (1, 1));
        /// sum += server.metrics(); // of another shard
        /// assert_eq!(sum.connections_accepted, 2);
        /// # Ok::<(), mcp_sse_core::AcceptError>(())
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Metrics {
            $( $(#[doc = $doc])+ pub $name: u64, )+
            /// The time from a request's question to the application until it was decided, however that
            /// came about: by a verdict, by a remembered verdict, by the end of
            /// [`Timeouts::decision`](crate::Timeouts::decision) or of the connection.
            pub decision_times: DurationHistogram,
            /// The sizes of messages that were queued for the application, as they were received.
            pub received_sizes: SizeHistogram,
            /// The sizes of frames that were queued for a stream, with the event and its chunk around them.
            pub sent_sizes: SizeHistogram,
            faults: [u64; Fault::ALL.len()],
            post_faults: [u64; Fault::ALL.len()],
            reached_limits: [u64; ReachedLimit::ALL.len()],
            ended: [u64; REASONS.len()],
            request_times: [DurationHistogram; McpMethod::ALL.len()],
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self {
                    $( $name: 0, )+
                    decision_times: DurationHistogram::new(),
                    received_sizes: SizeHistogram::new(),
                    sent_sizes: SizeHistogram::new(),
                    faults: [0; Fault::ALL.len()],
                    post_faults: [0; Fault::ALL.len()],
                    reached_limits: [0; ReachedLimit::ALL.len()],
                    ended: [0; REASONS.len()],
                    request_times: [const { DurationHistogram::new() }; McpMethod::ALL.len()],
                }
            }
        }

        impl AddAssign<&Self> for Metrics {
            /// Adds the counters, gauges and histograms of another server.
            fn add_assign(&mut self, other: &Self) {
                $( self.$name += other.$name; )+
                self.decision_times += &other.decision_times;
                self.received_sizes += &other.received_sizes;
                self.sent_sizes += &other.sent_sizes;
                add(&mut self.faults, &other.faults);
                add(&mut self.post_faults, &other.post_faults);
                add(&mut self.reached_limits, &other.reached_limits);
                add(&mut self.ended, &other.ended);
                for (sum, times) in self.request_times.iter_mut().zip(&other.request_times) {
                    *sum += times;
                }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted;
    /// Accepted connections that have ended.
    connections_ended;
    /// Connections that were not accepted, because of a limit or because the server is shutting
    /// down.
    connections_refused;
    /// Sessions opened.
    sessions_opened;
    /// Opened sessions that have ended.
    sessions_closed;
    /// Messages that were queued for the application.
    messages_received;
    /// Authorization questions ([`Event::Asked`](crate::Event::Asked)).
    questions_asked;
    /// Authorization questions that a driver answered from a cache.
    verdicts_remembered;
    /// Answers to authorization questions that came too late: the request had been refused, or its
    /// connection had ended.
    verdicts_late;
    /// Posts that were accepted: answered 202.
    posts_accepted;
    /// Posts whose connection ended before they were answered, whoever ended it.
    posts_unanswered;
    /// Posts that were held because their session had no room.
    posts_held;
    /// Posts that are held now, those that another shard has forwarded included.
    posts_waiting;
    /// Posts that were passed to another shard, which has their session.
    posts_forwarded;
    /// Requests of open sessions that have not been answered now.
    requests_in_flight;
    /// Requests that the client cancelled while their post was held. The application never receives
    /// them.
    requests_withdrawn;
    /// Frames that were queued for a stream.
    frames_queued;
    /// Frames that were written completely.
    frames_sent;
    /// Frames that were still queued when their stream ended.
    frames_undelivered;
    /// Bytes that are queued for peers now, with [`Limits::SEGMENT_COST`](crate::Limits::SEGMENT_COST)
    /// for each piece.
    queue_bytes;
    /// The largest value that `queue_bytes` has had. The sum of several shards can be larger than the
    /// largest sum was, because they need not have had theirs at the same time.
    queue_bytes_high;
    /// Heartbeats that were queued.
    heartbeats;
    /// Bytes received.
    bytes_received;
    /// Bytes written.
    bytes_sent;
    /// How many times the driver passed a time earlier than the previous one.
    clock_backsteps;
}

impl Metrics {
    /// How many times `fault` has occurred.
    #[must_use]
    pub fn fault(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).copied().unwrap_or(0)
    }

    /// How many posts were refused with `fault`. Those whose fault has no answer are among
    /// `posts_unanswered` as well.
    #[must_use]
    pub fn posts_refused(&self, fault: Fault) -> u64 {
        self.post_faults.get(fault as usize).copied().unwrap_or(0)
    }

    /// How many sessions have ended, by the [label](CloseReason::label) of the reason. Those that have
    /// ended because of any [`CloseReason::Fault`] are together, as "fault".
    pub fn sessions_ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.ended)
    }

    /// How many requests and connections were refused because of a limit, by the name of the field of
    /// [`Limits`](crate::Limits).
    ///
    /// A forwarded post that is refused because of a limit of its session is counted by the shard that
    /// has the session. The fault is counted by the shard that has received the post.
    #[must_use]
    pub fn limit_refusals(&self) -> Vec<(&'static str, u64)> {
        let of_faults = Fault::ALL.iter().zip(self.faults);
        let of_faults = of_faults.filter_map(|(&fault, count)| Some((limit_of(fault)?, count)));
        let others = ReachedLimit::ALL.iter().map(|limit| limit.name()).zip(self.reached_limits);
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for (name, count) in of_faults.chain(others) {
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => sums.push((name, count)),
            }
        }
        sums
    }

    /// How long requests took, from the 202 until their answer was queued, by method. The methods are
    /// those that MCP defines for clients, and "other". Requests that were cancelled, or whose session
    /// has ended before, are not counted.
    pub fn request_times(&self) -> impl Iterator<Item = (&'static str, &DurationHistogram)> {
        McpMethod::ALL.iter().map(|method| method.name()).zip(&self.request_times)
    }

    /// The number of open connections.
    #[must_use]
    pub const fn connections_open(&self) -> u64 {
        self.connections_accepted - self.connections_ended
    }

    /// The number of open sessions.
    #[must_use]
    pub const fn sessions_open(&self) -> u64 {
        self.sessions_opened - self.sessions_closed
    }

    pub(crate) fn count_fault(&mut self, fault: Fault) {
        if let Some(count) = self.faults.get_mut(fault as usize) {
            *count += 1;
        }
    }

    pub(crate) fn count_post_fault(&mut self, fault: Fault) {
        if let Some(count) = self.post_faults.get_mut(fault as usize) {
            *count += 1;
        }
    }

    pub(crate) fn count_limit(&mut self, limit: ReachedLimit) {
        if let Some(count) = self.reached_limits.get_mut(limit as usize) {
            *count += 1;
        }
    }

    pub(crate) fn count_end(&mut self, reason: CloseReason) {
        self.sessions_closed += 1;
        if let Some(count) = self.ended.get_mut(reason_number(reason)) {
            *count += 1;
        }
    }

    /// Counts a request that was answered after `took`.
    pub(crate) fn count_answer(&mut self, method: McpMethod, took: Duration) {
        if let Some(times) = self.request_times.get_mut(method as usize) {
            times.observe(took);
        }
    }

    /// Counts bytes that were queued for a peer.
    pub(crate) fn count_queued(&mut self, cost: u64) {
        self.queue_bytes += cost;
        self.queue_bytes_high = self.queue_bytes_high.max(self.queue_bytes);
    }

    /// Asserts that the counters balance with what is open and waiting now.
    pub(crate) fn check(&self, connections: u32, sessions: u32, frames_waiting: u64) {
        assert_eq!(self.connections_open(), u64::from(connections));
        assert_eq!(self.sessions_open(), u64::from(sessions));
        assert_eq!(self.frames_queued, self.frames_sent + self.frames_undelivered + frames_waiting);
        assert_eq!(self.ended.iter().sum::<u64>(), self.sessions_closed);
        assert_eq!(self.received_sizes.count(), self.messages_received);
        assert_eq!(self.sent_sizes.count(), self.frames_queued);
        assert!(self.queue_bytes <= self.queue_bytes_high);
        for (&fault, posts) in Fault::ALL.iter().zip(self.post_faults) {
            assert!(posts <= self.fault(fault), "more posts than requests: {fault:?}");
        }
    }
}

fn add<const N: usize>(sums: &mut [u64; N], counts: &[u64; N]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_assign_adds_every_counter() {
        let mut one =
            Metrics { sessions_opened: 3, sessions_closed: 2, bytes_sent: 5, ..Metrics::default() };
        one.count_fault(Fault::Busy);
        let mut two = Metrics { sessions_opened: 4, sessions_closed: 1, ..Metrics::default() };
        two.count_fault(Fault::Busy);
        two.count_fault(Fault::NotFound);
        one.count_post_fault(Fault::Busy);
        one.count_limit(ReachedLimit::InFlight);
        one.count_end(CloseReason::Idle);
        one.count_answer(McpMethod::Ping, Duration::from_millis(2));
        one.decision_times.observe(Duration::from_millis(2));
        one.received_sizes.observe(7);
        one.sent_sizes.observe(8);
        one.count_queued(9);
        let before = two.clone();
        two += &one;
        assert_eq!((two.sessions_opened, two.sessions_closed, two.bytes_sent), (7, 4, 5));
        assert_eq!((two.fault(Fault::Busy), two.fault(Fault::NotFound)), (2, 1));
        assert_eq!(two.posts_refused(Fault::Busy), 1);
        assert_eq!(two.sessions_ended().find(|(_, count)| *count > 0), Some(("idle", 1)));
        let limits = two.limit_refusals();
        assert_eq!(limits.iter().find(|(_, count)| *count > 0), Some(&("in_flight_max", 1)));
        let (method, times) = two.request_times().find(|(_, it)| it.count() > 0).unwrap();
        assert_eq!((method, times.sum()), ("ping", 2_000));
        assert_eq!((two.decision_times.sum(), two.received_sizes.sum()), (2_000, 7));
        assert_eq!((two.sent_sizes.sum(), two.queue_bytes, two.queue_bytes_high), (8, 9, 9));
        two += &before;
        assert_eq!(two.queue_bytes, 9);
    }

    #[test]
    fn every_limit_has_one_name_and_is_counted_once() {
        let mut metrics = Metrics::default();
        let names: Vec<_> = metrics.limit_refusals().into_iter().map(|(name, _)| name).collect();
        let mut distinct = names.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len());
        metrics.count_fault(Fault::BodiesFull);
        metrics.count_limit(ReachedLimit::ForwardedBodies);
        metrics.count_fault(Fault::Busy); // It does not tell which limit.
        let counted: Vec<_> =
            metrics.limit_refusals().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("bodies_bytes_max", 2)]);
    }

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let mut metrics = Metrics::default();
        for reason in [
            CloseReason::Peer,
            CloseReason::Application,
            CloseReason::Stalled,
            CloseReason::Idle,
            CloseReason::Expired,
            CloseReason::TokenRemoved,
            CloseReason::Shutdown,
            CloseReason::Fault(Fault::StreamInput),
        ] {
            metrics.count_end(reason);
        }
        assert!(metrics.sessions_ended().all(|(_, count)| count == 1));
        assert_eq!(metrics.sessions_closed, 8);
    }

    #[test]
    fn every_fault_has_a_counter_of_its_own() {
        let mut metrics = Metrics::default();
        for (at, &fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(fault as usize, at);
            metrics.count_fault(fault);
            assert_eq!(metrics.fault(fault), 1);
        }
        assert!(metrics.faults.iter().all(|&count| count == 1));
    }
}
